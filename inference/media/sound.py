"""Reading sound files."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import soxr

from ..contract.errors import EDTalkError
from .container import open_media

RATE = 16_000
UPSTREAM_FPS = 25
SMOOTH_SPACING = 1 / UPSTREAM_FPS  # seconds between the taps that smooth lip sync


def load_sound(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """The first audio stream of a sound or video file: mono samples (n,) float32 in [-1, 1] and their rate in Hz.

    Channels are averaged; the rate is the file's own. Raises EDTalkError("media") naming the file when it is missing,
    empty, not a media file, without sound, unreadable or shorter than one 25 fps frame (40 ms).
    """
    path = Path(path)
    if not path.is_file():
        raise EDTalkError(f"The sound file {path} does not exist.", "Choose the file again.", "media")
    if path.stat().st_size == 0:
        raise EDTalkError(f"The sound file {path} is empty.", "Export the sound again.", "media")
    try:
        samples, rate = _decode(path)
    except av.error.FFmpegError as error:
        raise EDTalkError(
            f"{path} is not a sound or video file that can be read ({error.strerror}).",
            "Use WAV, MP3, FLAC, OGG, MP4 or MOV.",
            "media",
        ) from error
    except OSError as error:
        raise EDTalkError(f"{path} could not be opened: {error.strerror}.", kind="media") from error
    seconds = len(samples) / rate
    if seconds < SMOOTH_SPACING:
        raise EDTalkError(
            f"The sound in {path} lasts {seconds * 1000:.0f} ms; lip-sync needs at least 40 ms.",
            "Choose a longer sound.",
            "media",
        )
    return samples, rate


def _decode(path: Path) -> tuple[np.ndarray, int]:
    with open_media(path, metadata_errors="replace") as container:
        if not container.streams.audio:
            raise EDTalkError(f"{path} has no sound.", "Choose a file with an audio stream.", "media")
        stream = container.streams.audio[0]
        rate = stream.codec_context.sample_rate
        to_float = av.AudioResampler(format="fltp", rate=rate)  # PCM16 becomes exactly k / 32768
        frames = [frame for decoded in container.decode(stream) for frame in to_float.resample(decoded)]
        frames += to_float.resample(None)
    # fltp is one row per channel; a mean of rows is the plain average, where FFmpeg's own downmix has weights.
    chunks = [frame.to_ndarray().mean(axis=0, dtype=np.float32) for frame in frames]
    if not chunks:
        raise EDTalkError(f"The sound stream of {path} holds no samples.", "Export the sound again.", "media")
    return np.nan_to_num(np.concatenate(chunks), posinf=1.0, neginf=-1.0), rate


def to_16k(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mono samples (n,) at `rate` Hz to float32 at 16 kHz; what is 16 kHz already comes through untouched."""
    samples = np.asarray(samples, np.float32)
    return samples if rate == RATE else soxr.resample(samples, rate, RATE, quality="HQ")
