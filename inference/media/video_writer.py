"""Writing clips with sound, and folders of numbered pictures."""

from __future__ import annotations

import contextlib
import itertools
import os
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ..contract.errors import EDTalkError, disk_error
from ..contract.files import appearing
from .picture import save_picture
from .sound import convert_sound, decode_sound
from .video import parse_fps

CONTAINERS = (".mp4", ".mov", ".mkv")
SOUND_RATE = 48000  # Hz in written clips: an AAC frame is then shorter than a picture up to 46 fps

Sound = tuple[np.ndarray, int] | str | os.PathLike[str]  # (float32 (n,) or (n, channels) in [-1, 1], rate) or a file


# ------------------------------------------------------------------------------------------------ clips out


class VideoWriter:
    """Writes H.264 (yuv420p, BT.709) and AAC into .mp4, .mov or .mkv, in a `with` block.

    The clip is written beside its target and takes its name when the block ends without an error.  Otherwise, and with
    no frame, nothing is left behind and a clip that was there before stays.  For a shorter clip, end the block early.
    Sound is cut, or padded with silence, to the length of the picture.  H.264 wants even sizes: an odd width or
    height gets its last column or row twice.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float | str | Fraction,
        size: tuple[int, int],
        *,
        sound: Sound | None = None,
        crf: int = 16,
    ) -> None:
        """size: (width, height).  crf: 0 lossless .. 51; 16 shows no loss.  Raises EDTalkError before any work."""
        self.path, self.fps, self.size, self.frames = Path(path), parse_fps(fps), size, 0
        if self.path.suffix.lower() not in CONTAINERS:
            names = ", ".join(CONTAINERS)
            raise EDTalkError(f"Clips are written as {names}, found the suffix '{self.path.suffix}' in {self.path}.")
        self._sound = None if sound is None else _SoundTrack(sound)
        self._partial = self.path.with_name(f".{self.path.name}.partial{self.path.suffix}")
        self._heard = 0  # samples of sound written
        self._failed = False
        moov_first = {"movflags": "+faststart"} if self.path.suffix.lower() != ".mkv" else {}
        try:
            self._partial.touch()  # FFmpeg would open it at the first frame only
            self._file = av.open(str(self._partial), "w", options=moov_first)
        except (av.FFmpegError, OSError) as error:
            _remove(self._partial)
            raise disk_error(self.path, error) from error
        self._video = self._file.add_stream("libx264", rate=self.fps, options={"crf": str(crf), "preset": "medium"})
        self._video.width, self._video.height = (side + side % 2 for side in size)
        self._video.pix_fmt = "yuv420p"
        codec = self._video.codec_context
        codec.time_base = 1 / self.fps
        codec.color_primaries = codec.color_trc = codec.colorspace = 1  # BT.709, which untagged players may not guess
        codec.color_range = 1  # 16..235
        if self._sound:
            self._audio = self._file.add_stream("aac", rate=SOUND_RATE, layout=self._sound.layout)
            self._audio.bit_rate = 192000

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, rgb: np.ndarray) -> None:
        """The next frame, uint8 (height, width, 3); raises EDTalkError(kind="disk") when the disk is full."""
        width, height = self.size
        if rgb.shape != (height, width, 3) or rgb.dtype != np.uint8:
            raise EDTalkError(f"This clip takes uint8 frames of {(height, width, 3)}, found {rgb.dtype} {rgb.shape}.")
        if width % 2 or height % 2:
            rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = self.frames, 1 / self.fps
        with self._disk_errors():
            self._file.mux(self._video.encode(frame))
            self.frames += 1
            self._write_sound()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        whole = kind is None and self.frames > 0 and not self._failed
        try:
            with self._disk_errors():
                if whole:
                    self._file.mux(self._video.encode(None))
                    if self._sound:
                        self._file.mux(self._audio.encode(None))
                self._file.close()
                if whole:
                    self._partial.replace(self.path)
        except EDTalkError:
            if kind is None:  # else the first error is the one to tell
                raise
        finally:
            _remove(self._partial)
        if kind is None and not self.frames:
            raise EDTalkError(f"{self.path} was not written: there was no frame to write.")

    def _write_sound(self) -> None:
        """Sound up to the end of the last frame, so that both arrive in step and end together."""
        if self._sound:
            due = round(self.frames / self.fps * SOUND_RATE)
            frame = self._sound.pull(due - self._heard)
            frame.pts, frame.time_base = self._heard, Fraction(1, SOUND_RATE)
            self._heard = due
            self._file.mux(self._audio.encode(frame))

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            self._failed = True
            raise disk_error(self.path, error) from error


class FrameFolder:
    """Writes frame_0001.png (or .exr), frame_0002.png ... and sound.wav into a folder, in a `with` block.

    Every file appears whole or not at all, so what is done when something fails can be used.
    """

    def __init__(
        self, path: str | os.PathLike[str], ext: str = "png", *, sound: Sound | None = None, start: int = 1
    ) -> None:
        """sound: written whole as 16-bit PCM at its own rate.  start: number of the first frame."""
        self.path, self.ext, self.start, self.frames = Path(path), ext.lstrip("."), start, 0
        if self.ext not in ("png", "exr"):
            raise EDTalkError(f"Frames are written as png or exr, found '{ext}'.")
        sound_frames = None if sound is None else _sound_frames(sound, "s16", None)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if sound_frames is not None:
                _write_wav(self.path / "sound.wav", sound_frames)
        except OSError as error:
            raise disk_error(self.path, error) from error

    def __enter__(self) -> FrameFolder:
        return self

    def write(self, pixels: np.ndarray) -> Path:
        """The next frame, uint8 sRGB (H, W, 3) or (H, W, 4); returns its file.  Raises EDTalkError(kind="disk")."""
        path = self.path / f"frame_{self.start + self.frames:04d}.{self.ext}"
        save_picture(path, pixels)
        self.frames += 1
        return path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Nothing is left open between frames."""


class _SoundTrack:
    """Sound at 48 kHz, pulled piece by piece; silence after its end."""

    def __init__(self, sound: Sound) -> None:
        self._frames = _sound_frames(sound, "fltp", SOUND_RATE)
        first = next(self._frames, None)
        self.layout = first.layout.name if first else "mono"
        self._frames = itertools.chain([first] if first else [], self._frames)
        self._waiting = av.AudioFifo()

    def pull(self, count: int) -> av.AudioFrame:
        while self._waiting.samples < count and (frame := next(self._frames, None)) is not None:
            self._waiting.write(frame)
        piece = self._waiting.read(min(count, self._waiting.samples)) if self._waiting.samples else None
        samples = np.zeros((1 if self.layout == "mono" else 2, count), np.float32)
        if piece is not None:
            samples[:, : piece.samples] = piece.to_ndarray()
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self.layout)
        frame.sample_rate = SOUND_RATE
        return frame


def _sound_frames(sound: Sound, form: str, rate: int | None) -> Iterator[av.AudioFrame]:
    """Mono or stereo frames of sample format `form` at `rate`, or at the sound's own; problems are told at once."""
    source = _sample_frames(*sound) if isinstance(sound, tuple) else decode_sound(Path(sound))
    first = next(source, None)
    if first is None:
        return iter(())
    layout = "mono" if len(first.layout.channels) == 1 else "stereo"
    frames = itertools.chain([first], source)
    return convert_sound(frames, form, layout=layout, rate=rate or first.sample_rate)


def _sample_frames(samples: np.ndarray, rate: int) -> Iterator[av.AudioFrame]:
    samples = np.asarray(samples, np.float32)
    planes = samples[None] if samples.ndim == 1 else samples.T
    if planes.ndim != 2 or len(planes) not in (1, 2) or rate <= 0:
        raise EDTalkError(f"Sound is float32 (n,) or (n, 2) and a rate, found {samples.shape} at {rate} Hz.")
    layout = "mono" if len(planes) == 1 else "stereo"
    for start in range(0, planes.shape[1], rate):
        block = np.ascontiguousarray(planes[:, start : start + rate])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate = rate
        yield frame


def _write_wav(path: Path, frames: Iterator[av.AudioFrame]) -> None:
    first = next(frames, None)
    with appearing(path) as partial, wave.open(str(partial), "wb") as file:
        file.setnchannels(len(first.layout.channels) if first else 1)
        file.setsampwidth(2)
        file.setframerate(first.sample_rate if first else SOUND_RATE)
        for frame in itertools.chain([first] if first else [], frames):
            file.writeframes(frame.to_ndarray().astype("<i2").tobytes())


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the folder is gone or read-only; the first error is the one to report
        path.unlink(missing_ok=True)
