"""The audio of a sound strip: its file, its length, and the samples between the strip's handles."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import aud
import bpy
import numpy as np

from ...inference.contract.content import unreadable_media
from ...inference.contract.downmix import to_mono
from ...inference.contract.errors import EDTalkError
from ...inference.contract.protocol import MAX_PAYLOAD
from .. import compat
from .timemap import TimeMap

FIND_MISSING = "Use File > External Data > Find Missing Files."

_SEEKS_EXACTLY = {".wav", ".aif", ".aiff", ".flac", ".mp3"}  # other formats start up to 1024 samples off


@dataclass(frozen=True)
class Sound:
    """Mono samples (n,) float32 at `rate` Hz; the first one is `start` seconds into the source."""

    samples: np.ndarray
    rate: int
    start: float


def problem(strip: bpy.types.Strip) -> str:
    """Why the audio of a strip cannot be read, without a period; empty if it can."""
    if strip.type != "SOUND":
        return f"'{strip.name}' is not a sound strip"
    if strip.sound is None:
        return f"'{strip.name}' has no sound"
    if strip.sound.packed_file is None and not file_path(strip).is_file():
        return f"The sound file of '{strip.name}' is missing: {file_path(strip)}"
    return ""


def file_path(strip: bpy.types.SoundStrip) -> Path:
    """The strip's sound file, absolute. Packed sound is written to a temporary file."""
    path = Path(bpy.path.abspath(strip.sound.filepath, library=strip.sound.library))
    if strip.sound.packed_file is None:
        return path
    data = strip.sound.packed_file.data
    unpacked = Path(bpy.app.tempdir) / f"edtalk_{hashlib.sha256(data).hexdigest()[:20]}{path.suffix}"
    if not unpacked.is_file():
        unpacked.write_bytes(data)
    return unpacked


def seconds(strip: bpy.types.SoundStrip) -> float:
    """Length of the whole sound file of a strip; 0 when it cannot be read."""
    if problem(strip):
        return 0.0
    path = file_path(strip)
    state = path.stat()
    return _seconds(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _seconds(path: Path, _changed: int, _size: int) -> float:
    try:
        source = aud.Sound(str(path))
        return max(source.length, 0) / source.specs[0]
    except (aud.error, ZeroDivisionError):
        return 0.0


def read(scene: bpy.types.Scene, strip: bpy.types.SoundStrip, clock: TimeMap) -> Sound:
    """The part of its sound that a strip plays, at original speed, mixed to mono, with volume keys applied.

    Raises EDTalkError naming the file when it is missing, unreadable or has no audio between the strip's handles.
    """
    if reason := problem(strip):
        raise EDTalkError(f"{reason}.", FIND_MISSING, "media")
    path = file_path(strip)
    first, last = clock.cut(math.inf)
    exact = path.suffix.lower() in _SEEKS_EXACTLY
    try:
        source = aud.Sound(str(path))
        rate = round(source.specs[0])
        samples = source.limit(first if exact else 0.0, last).data() if last > first else np.empty((0, 1), np.float32)
    except aud.error as error:
        expected = "expected sound such as WAV, MP3, FLAC or OGG, or a movie with sound"
        raise unreadable_media(path, expected, f"The sound {path} of '{strip.name}'") from error
    samples = to_mono(samples)  # aud's own downmix adds the channels
    samples = samples if exact else samples[round(first * rate) :]
    if not len(samples):
        message = f"The trimmed range of '{strip.name}' contains no audio from {path.name}."
        raise EDTalkError(message, "Move the strip's handles, or slip its content.", "media")
    if samples.nbytes > MAX_PAYLOAD // 2:
        samples = aud.Sound.buffer(samples[:, None], rate).resample(16_000, 1).data()[:, 0]
        rate = 16_000
    fade = loudness(scene, strip, clock.frames)
    if fade is not None:
        samples = samples * np.interp(first + np.arange(len(samples)) / rate, clock.seconds(clock.frames), fade)
    return Sound(np.ascontiguousarray(samples, np.float32), rate, first)


def loudness(scene: bpy.types.Scene, strip: bpy.types.SoundStrip, frames: np.ndarray) -> np.ndarray | None:
    """(T,) keyed volume at `frames`, divided by its maximum; None if the volume is not keyed.

    The values are relative, so that a constant volume does not change the mouth motion and a fade reduces it.
    """
    path = strip.path_from_id("volume")
    curve = next((curve for curve in compat.fcurves(scene) if curve.data_path == path), None)
    if curve is None or not len(frames):
        return None
    volumes = np.array([max(curve.evaluate(frame), 0.0) for frame in frames])
    return volumes / volumes.max() if volumes.max() > 0 else volumes


def is_silent(scene: bpy.types.Scene, strip: bpy.types.SoundStrip, clock: TimeMap) -> bool:
    """Whether a strip is inaudible over the frames of `clock`: muted, or its volume is 0 throughout."""
    fade = loudness(scene, strip, clock.frames)
    return is_muted(scene, strip) or (strip.volume <= 0 if fade is None else not fade.any())


def is_muted(scene: bpy.types.Scene, strip: bpy.types.Strip) -> bool:
    """Whether a strip, its channel, or a meta strip that contains it is muted."""
    meta = strip.parent_meta()
    channels = meta.channels if meta else scene.sequence_editor.channels
    if strip.mute or channels[strip.channel].mute:
        return True
    return meta is not None and is_muted(scene, meta)


def unregister() -> None:
    _seconds.cache_clear()
