"""Head motion from speech: draws it with Audio2Pose, and converts it to the head coefficients of a bank.

The motion is a function of the sound file, the seed and the time in the file only. A trimmed or split strip therefore
keeps its motion, and a seed gives the same motion alone and among others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .contract.bank import Bank
from .contract.errors import EDTalkError
from .contract.head import check_head_motion, head_matrix, head_reason
from .media.sound import RATE
from .media.speech import Speech
from .model.audio2pose import BLOCK, FREEDOM, LEVELS, POSE, POSE_FPS, Audio2Pose, from_bands
from .model.load import AUDIO2POSE, NetworkBank, own_or_starter_network
from .prosody import FPS as PROSODY_FPS
from .prosody import Prosody, cached_prosody
from .speech_detection import has_speech

SWAY_BANDS = 3  # the slow bands, below 0.8 Hz; the others are nods
EASE = 0.4  # seconds in which the motion begins and ends
SHORTEST = 0.5  # seconds of sound
_ROOM = 6.0  # deviations of a band up to which motion is not limited; strong nods have five


@dataclass(frozen=True, eq=False)
class HeadMotion:
    """Head motion to add to a pose.

    names: of the n head coefficients. rows: (S, T, n) float32, for each seed and time what is added. note: a sentence
    if the sound has no speech, else "".
    """

    names: tuple[str, ...]
    rows: np.ndarray
    note: str = ""


def head_motion(
    bank: Bank,
    samples: np.ndarray | Speech,
    times: np.ndarray,
    seeds: Sequence[int],
    *,
    sway: float = 1.0,
    nods: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> HeadMotion:
    """Head motion for a sound, at `times` (T,) in seconds of the sound.

    samples: (n,) the whole sound, 16 kHz mono. seeds: 0 to 2**32 - 1; each draws another motion. sway, nods: 0 to 2,
    gains of the motion below and above 0.8 Hz; a natural amount is 1. progress: called with the number of seeds done
    and their number before each of them; may raise to stop.

    The motion is not faded at the ends, see `eased`. Beyond the sound it keeps the pose of its ends.
    Raises EDTalkError for amounts or seeds out of range, for a sound below 0.5 s (kind "media"), and for a bank that
    does not say which coefficients turn the head (kind "bank").
    """
    check_head_motion(sway, nods, tuple(seeds))
    names, matrix = head_matrix(bank)
    if not names:
        raise EDTalkError(f"{head_reason(bank)}.", "Use the starter bank.", "bank", "head_unknown")
    if len(samples) < SHORTEST * RATE:
        found = f"{len(samples) / RATE:.2f} s"
        raise EDTalkError(f"Head motion needs a sound of at least {SHORTEST} s, found {found}.", kind="media")
    times = np.asarray(times, np.float64).reshape(-1)
    if not np.isfinite(times).all():
        raise EDTalkError("Frame times must be finite numbers of seconds, found NaN or infinity.")
    voice, note = cached_prosody(samples), ""
    if not has_speech(voice):
        nods, note = 0.0, "No speech was heard in the sound; only slow motion was made."
    model = flow_of(bank)
    rows = np.zeros((len(seeds), len(times), len(names)), np.float32)
    for number, seed in enumerate(seeds):
        if progress:
            progress(number, len(seeds))
        if sway or nods:
            rows[number] = at_times(pose(model, voice, seed, sway, nods), times) @ matrix.T
    if progress:
        progress(len(seeds), len(seeds))
    return HeadMotion(names, rows, note)


def flow_of(bank: NetworkBank) -> Audio2Pose:
    """The flow of a bank, or that of the starter bank: its motion is in physical units, which fit any bank.

    Raises EDTalkError (kind "bank") if neither has one.
    """
    model = own_or_starter_network(bank, AUDIO2POSE, "head motion (Audio2Pose)")
    assert isinstance(model, Audio2Pose)
    return model


def pose(model: Audio2Pose, voice: Prosody, seed: int, sway: float = 1.0, nods: float = 1.0) -> np.ndarray:
    """Head motion (T, 6) of a whole sound, 12.5 rows per second from its start, in the units of `contract.head`."""
    rows = BLOCK * max(1, int(np.ceil(len(voice) / PROSODY_FPS * POSE_FPS / BLOCK)))
    bands = draw_bands(model, pose_features(voice, rows), seed)
    gains = [sway if number < SWAY_BANDS else nods for number in range(len(bands))]
    scaled = [torch.from_numpy(gain * band)[None] for gain, band in zip(gains, bands, strict=True)]
    return from_bands(scaled)[0].numpy().T


@torch.inference_mode()
def draw_bands(model: Audio2Pose, features: np.ndarray, seed: int) -> list[np.ndarray]:
    """The six bands of head motion, (6, n) each, from slow to fast. features: (17, rows), see `pose_features`.

    Each number is softly limited to seven deviations of the band, which bounds the head's speed.
    """
    noise = [torch.from_numpy(band)[None] for band in noise_of(seed, features.shape[1])]
    bands, deviation = [], model.get_buffer("deviation")
    for number, band in enumerate(model.sample(noise, torch.from_numpy(features)[None])):
        size = (band / deviation[number]).abs()
        limited = _ROOM + torch.tanh(size - _ROOM)
        bands.append(torch.where(size > _ROOM, band * limited / size, band)[0].numpy())
    return bands


def pose_features(voice: Prosody, rows: int) -> np.ndarray:
    """Prosody (17, rows) float32, 12.5 rows per second: means around i / 12.5 s. Beyond the sound its ends are kept."""
    each = round(PROSODY_FPS / POSE_FPS)
    index = np.arange(rows * each) - each // 2
    table = voice.features[np.clip(index, 0, len(voice) - 1)]
    return np.ascontiguousarray(table.reshape(rows, each, -1).mean(axis=1).T, np.float32)


def noise_of(seed: int, rows: int) -> list[np.ndarray]:
    """Noise of each band, (6, n) float32: numbers of Student's t distribution by seed, band and place.

    A place has the same numbers whatever `rows` is.
    """
    noise = []
    for number, level in enumerate((LEVELS, *range(LEVELS, 0, -1))):
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))
        u, v = np.moveaxis(generator.random((rows >> level, POSE, 2)), -1, 0)
        # Bailey (1994): exact, and always two uniform numbers for one.
        drawn = np.sqrt(FREEDOM * ((1 - u) ** (-2 / FREEDOM) - 1)) * np.cos(2 * np.pi * v)
        noise.append(np.ascontiguousarray(drawn.T, np.float32))
    return noise


def at_times(motion: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(T, 6) motion at `times` (T,) in seconds, by cubic interpolation between its rows at 12.5 per second."""
    position = np.clip(np.asarray(times) * POSE_FPS, 0, len(motion) - 1)
    row = np.minimum(position.astype(np.int64), max(len(motion) - 2, 0))
    part = (position - row)[:, None]
    before, here, there, after = (motion[np.clip(row + step, 0, len(motion) - 1)] for step in (-1, 0, 1, 2))
    slope, slope_there = (there - before) / 2, (after - here) / 2
    bend = 3 * (there - here) - 2 * slope - slope_there
    return here + part * (slope + part * (bend + part * (slope + slope_there - 2 * (there - here))))


def eased(rows: np.ndarray, times: np.ndarray, duration: float) -> np.ndarray:
    """Rows (..., T, n) that begin and end at 0, within 0.4 s of the ends of a sound of `duration` seconds."""
    near = np.clip(np.minimum(times, duration - np.asarray(times)) / EASE, 0, 1)
    return (rows * (near * near * (3 - 2 * near))[:, None]).astype(np.float32)
