"""Read sound files, and convert sample formats and rates."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import soxr

from ..contract.errors import EDTalkError
from ..contract.files import check_file
from .container import open_media

RATE = 16_000  # Hz, of all sound that a network receives
UPSTREAM_FPS = 25  # frame rate for which upstream's lip-sync network was made
SMOOTH_SPACING = 1 / UPSTREAM_FPS  # seconds between the taps of the smoothing filter of lip-sync

_EXPECTED = "expected sound such as WAV, FLAC or MP3, or a video with sound"


def load_sound(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """The first audio stream of a sound or video file: mono samples (n,) float32 in [-1, 1] and their rate in Hz.

    Channels are averaged; the rate is the file's own. Raises EDTalkError(kind="media") naming the file if it is
    missing, empty, not a media file, without sound, unreadable or shorter than 40 ms.
    """
    path = Path(path)
    frames = decode_sound(path)
    first = next(frames, None)
    if first is None:
        raise EDTalkError(f"The audio stream of {path} has no samples.", "Export the sound again.", "media")
    rate = first.sample_rate
    # "fltp" has one row per channel. Their mean is a plain average; FFmpeg's own downmix has weights.
    converted = convert_sound(itertools.chain([first], frames), "fltp", rate=rate)  # 16-bit PCM becomes k / 32768
    samples = np.concatenate([frame.to_ndarray().mean(axis=0, dtype=np.float32) for frame in converted])
    seconds = len(samples) / rate
    if seconds < SMOOTH_SPACING:
        raise EDTalkError(
            f"The sound in {path} lasts {seconds * 1000:.0f} ms; lip-sync needs at least 40 ms.",
            "Choose a longer sound.",
            "media",
        )
    return np.nan_to_num(samples, copy=False, posinf=1.0, neginf=-1.0), rate


def decode_sound(path: Path) -> Iterator[av.AudioFrame]:
    """The frames of a file's first audio stream as they are stored; opened when the first one is taken.

    Raises EDTalkError(kind="media") naming the file if it cannot be opened or decoded, or has no audio stream.
    """
    check_file(path, _EXPECTED)
    try:
        with open_media(path) as container:
            if not container.streams.audio:
                raise EDTalkError(f"{path} has no sound: {_EXPECTED}.", "Choose another file.", "media")
            yield from container.decode(audio=0)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise EDTalkError(f"{path} cannot be read: {_EXPECTED}.", "Choose another file.", "media") from error


def convert_sound(
    frames: Iterable[av.AudioFrame], sample_format: str, *, layout: str | None = None, rate: int | None = None
) -> Iterator[av.AudioFrame]:
    """Frames in another sample format, channel layout and rate in Hz; None keeps a frame's own.

    The input format may change between frames, as in a recorded broadcast. Timestamps are dropped, which closes gaps.
    """
    resampler: av.AudioResampler | None = None
    known: tuple[str, str, int] | None = None
    for frame in frames:
        frame.pts = None
        form = frame.format.name, frame.layout.name, frame.sample_rate
        if resampler is None or form != known:
            if resampler:
                yield from resampler.resample(None)
            resampler = av.AudioResampler(sample_format, layout, rate)
            known = form
        yield from resampler.resample(frame)
    if resampler:
        yield from resampler.resample(None)  # the samples that it still holds


def to_16k(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mono samples (n,) at `rate` Hz to float32 at 16 kHz; 16 kHz input is returned unchanged."""
    samples = np.asarray(samples, np.float32)
    return samples if rate == RATE else soxr.resample(samples, rate, RATE, quality="HQ")
