"""Write clips with sound, and folders of numbered pictures."""

from __future__ import annotations

import contextlib
import itertools
import os
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

from ..contract.errors import EDTalkError, disk_error
from ..contract.files import atomic_write, partial_path, rename
from .picture import clear_leftovers, save_picture
from .sound import Block, SoundFile, read_sound, resampled
from .video import parse_fps

CONTAINERS = (".mp4", ".mov", ".mkv")
SOUND_RATE = 48000  # Hz of written clips: an AAC frame is then shorter than a video frame up to 46 fps

# Encoder, pixel format, options and containers of each codec. ProRes is 422 HQ; FFV1 is lossless RGB.
CODECS: dict[str, tuple[str, str, dict[str, str], tuple[str, ...]]] = {
    "h264": ("libx264", "yuv420p", {"preset": "medium"}, CONTAINERS),
    "prores": ("prores_ks", "yuv422p10le", {"profile": "3"}, (".mov", ".mkv")),
    "ffv1": ("ffv1", "bgr0", {}, (".mkv",)),
}

# A file, or samples float32 (n,) or (n, 2) in [-1, 1] and their rate in Hz.
Sound = tuple[np.ndarray, int] | str | os.PathLike[str] | SoundFile


class VideoWriter:
    """Writes video (BT.709, square pixels) and AAC into .mp4, .mov or .mkv. Used in a `with` block.

    The clip is written to a partial file, which is renamed when the block ends without an error. After an error, or
    without a frame, the partial file is removed and an existing clip is kept.
    Sound is cut to the length of the video, or padded with silence. H.264 needs even sizes: the last column or row of
    an odd size is repeated.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float | str | Fraction,
        size: tuple[int, int],
        *,
        sound: Sound | None = None,
        crf: int = 16,
        codec: str = "h264",
    ) -> None:
        """size: (width, height) in pixels. crf: of H.264, 0 (lossless) to 51; 16 has no visible loss. codec: of
        `CODECS`.

        Raises EDTalkError for a wrong suffix, codec or sound, kind "disk" if the file cannot be created.
        """
        self.path, self.fps, self.size, self.frames = Path(path), parse_fps(fps), size, 0
        encoder, self._format, options, containers = CODECS[codec]
        if self.path.suffix.lower() not in containers:
            names = ", ".join(containers)
            raise EDTalkError(f"Clips must end in {names}, found the suffix '{self.path.suffix}' in {self.path}.")
        self._sound = None if sound is None else _SoundTrack(sound)
        self._partial = partial_path(self.path)
        self._written = 0  # samples of sound
        self._failed = False
        moov_first = {"movflags": "+faststart"} if self.path.suffix.lower() != ".mkv" else {}
        try:
            clear_leftovers(self.path.parent)
            self._partial.touch(exist_ok=False)  # FFmpeg would create it only at the first frame
            self._file = av.open(str(self._partial), "w", options=moov_first)
        except (av.FFmpegError, OSError) as error:
            _remove(self._partial)
            raise disk_error(self.path, error) from error
        options = options | ({"crf": str(crf)} if codec == "h264" else {})
        self._video = cast(av.VideoStream, self._file.add_stream(encoder, rate=self.fps, options=options))
        self._video.width, self._video.height = (side + side % 2 for side in size)
        self._video.pix_fmt = self._format
        context = self._video.codec_context
        context.time_base = 1 / self.fps
        is_rgb = self._format == "bgr0"
        context.color_primaries = context.color_trc = 1  # BT.709; without tags, players may guess another
        context.colorspace, context.color_range = (0, 2) if is_rgb else (1, 1)  # full range, or BT.709 with 16..235
        context.sample_aspect_ratio = Fraction(1)
        if self._sound:
            self._audio = self._file.add_stream("aac", rate=SOUND_RATE, layout=self._sound.layout)
            self._audio.bit_rate = 192000

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, rgb: np.ndarray) -> None:
        """Write the next frame, uint8 (height, width, 3). Raises EDTalkError(kind="disk") if the disk is full."""
        width, height = self.size
        if rgb.shape != (height, width, 3) or rgb.dtype != np.uint8:
            raise EDTalkError(
                f"This clip needs uint8 frames of shape {(height, width, 3)}, found {rgb.dtype} {rgb.shape}."
            )
        if width % 2 or height % 2:
            rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        if self._format == "bgr0":
            frame = frame.reformat(format=self._format)
        else:
            frame = frame.reformat(format=self._format, dst_colorspace="ITU709", dst_color_range="MPEG")
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
                    rename(self._partial, self.path)
        except EDTalkError:
            if kind is None:  # otherwise the first error is the one to report
                raise
        finally:
            _remove(self._partial)
        if kind is None and not self.frames:
            raise EDTalkError(f"{self.path} was not written: it has no frames.")

    def _write_sound(self) -> None:
        """Write the sound up to the end of the last frame, so that video and sound are interleaved and end together."""
        if self._sound:
            due = round(self.frames / self.fps * SOUND_RATE)
            frame = self._sound.pull(due - self._written)
            frame.pts, frame.time_base = self._written, Fraction(1, SOUND_RATE)
            self._written = due
            self._file.mux(self._audio.encode(frame))

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            self._failed = True
            raise disk_error(self.path, error) from error


class FrameFolder:
    """Writes frame_0001.png (or .exr) and so on, and sound.wav, into a folder. Used in a `with` block.

    Every file is written completely or not at all, so finished files stay usable after an error.
    """

    def __init__(
        self, path: str | os.PathLike[str], ext: str = "png", *, sound: Sound | None = None, start: int = 1
    ) -> None:
        """ext: "png" or "exr". sound: written as 16-bit PCM at its own rate. start: number of the first frame.

        Raises EDTalkError for another ext or a wrong sound, kind "disk" if the folder cannot be written.
        """
        self.path, self.ext, self.start, self.frames = Path(path), ext.lstrip("."), start, 0
        if self.ext not in ("png", "exr"):
            raise EDTalkError(f"Frames must be png or exr, found '{ext}'.")
        blocks = None if sound is None else _blocks_of(sound)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if blocks is not None:
                _write_wav(self.path / "sound.wav", blocks)
        except OSError as error:
            raise disk_error(self.path, error) from error

    def __enter__(self) -> FrameFolder:
        return self

    def write(self, pixels: np.ndarray) -> Path:
        """Write the next frame, uint8 sRGB (H, W, 3 or 4), and return its path. Raises EDTalkError(kind="disk")."""
        path = self.path / f"frame_{self.start + self.frames:04d}.{self.ext}"
        save_picture(path, pixels)
        self.frames += 1
        return path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Do nothing: no file is open between frames."""


class _SoundTrack:
    """Sound at 48 kHz that is read in pieces, followed by silence."""

    def __init__(self, sound: Sound) -> None:
        self._blocks = resampled(_blocks_of(sound), SOUND_RATE)
        self._waiting: np.ndarray = next(self._blocks, (np.zeros((0, 1), np.float32), SOUND_RATE))[0]
        self.layout = "mono" if self._waiting.shape[1] == 1 else "stereo"

    def pull(self, count: int) -> av.AudioFrame:
        """The next `count` samples."""
        parts, found = [self._waiting], len(self._waiting)
        while found < count and (block := next(self._blocks, None)) is not None:
            parts.append(block[0])
            found += len(block[0])
        if found < count:
            parts.append(np.zeros((count - found, self._waiting.shape[1]), np.float32))
        samples = np.concatenate(parts)
        self._waiting = samples[count:]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:count].T), format="fltp", layout=self.layout)
        frame.sample_rate = SOUND_RATE
        return frame


def _blocks_of(sound: Sound) -> Iterator[Block]:
    """Blocks (n, 1) or (n, 2) of a sound. Raises EDTalkError at the call if the sound cannot be read."""
    if isinstance(sound, tuple):
        return _split(*sound)
    blocks = read_sound(sound if isinstance(sound, SoundFile) else SoundFile(Path(sound)), for_clip=True)
    first = next(blocks, None)
    return itertools.chain([] if first is None else [first], blocks)


def _split(samples: np.ndarray, rate: int) -> Iterator[Block]:
    """Blocks of one second each of samples (n,) or (n, 2)."""
    samples = np.asarray(samples, np.float32)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] not in (1, 2)) or rate <= 0:
        raise EDTalkError(f"Sound must be float32 (n,) or (n, 2) with a rate, found {samples.shape} at {rate} Hz.")
    samples = samples.reshape(len(samples), -1)
    return ((samples[start : start + rate], rate) for start in range(0, len(samples), rate))


def _write_wav(path: Path, blocks: Iterator[Block]) -> None:
    """Write blocks as 16-bit PCM at the rate of the first."""
    blocks = resampled(blocks, None)
    first = next(blocks, (np.zeros((0, 1), np.float32), SOUND_RATE))
    with atomic_write(path) as partial, wave.open(str(partial), "wb") as file:
        file.setnchannels(first[0].shape[1])
        file.setsampwidth(2)
        file.setframerate(first[1])
        for samples, _ in itertools.chain([first], blocks):
            file.writeframes(np.rint(np.nan_to_num(samples) * 32768).clip(-32768, 32767).astype("<i2").tobytes())


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the folder is gone or read-only; the first error is the one to report
        path.unlink(missing_ok=True)
