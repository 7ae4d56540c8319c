"""Idle motion: slow head motion and blinks, added to coefficients with known names.

Pure numpy. The motion is a function of time and a seed, so it is the same at any frame rate and for any part of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import EDTalkError

# Amplitude by coefficient at amount 1, in the bank's units (a head turn of 1.0 is 20 to 30 degrees), and the
# period of its slowest wave in seconds.
SWAY = {
    "headYaw": (0.16, 5.3),
    "headPitch": (0.12, 4.1),
    "headRoll": (0.10, 6.7),
    "headShiftX": (0.06, 7.9),
    "headShiftY": (0.06, 4.6),
}
BLINK = "eyeBlink"
GLANCES = {"eyeYaw": 0.2, "eyePitch": 0.1}  # deviation of the eyes' direction at amount 1, in the bank's units
_FIXED = (0.6, 2.6)  # seconds for which the eyes look in one direction
_JUMP = 0.05  # seconds of the eyes' movement to the next one
_CLOSING, _SHUT, _OPENING = 0.08, 0.04, 0.16  # seconds of one blink
_PAUSE = (2.2, 4.8)  # seconds between blinks


def add_idle_motion(
    values: np.ndarray, names: Sequence[str], times: np.ndarray, amount: float, seed: int = 0, *, head: bool = True
) -> np.ndarray:
    """Add head motion, glances and blinks to coefficients (T, n) at `times` (T,) in seconds.

    names: of the n coefficients. amount: scales head motion and glances, 1 is natural, 0 adds nothing; blinks always
    close the eyes fully. head: False adds blinks and glances only. Raises EDTalkError if none of the coefficients has a
    known name.
    """
    if not amount:
        return values
    if not {BLINK, *SWAY} & set(names):
        raise EDTalkError(
            "Idle motion needs a bank that names its head and eye coefficients (headYaw, eyeBlink, ...); this one "
            "does not.",
            "Use the starter bank.",
            code="idle_unsupported",
        )
    result = np.array(values, np.float32)
    times = np.asarray(times, np.float64)
    for row, (name, (amplitude, period)) in enumerate(SWAY.items()):
        if head and name in names:
            result[:, names.index(name)] += amount * amplitude * _sway(times, period, (seed, row))
    for name, looks in zip(GLANCES, glances(times, seed).T, strict=True):
        if name in names:
            result[:, names.index(name)] += amount * GLANCES[name] * looks
    if BLINK in names:
        column = result[:, names.index(BLINK)]
        column += np.maximum(1.0 - column, 0.0) * blinks(times, seed)  # closes an eye only as far as it is open
    return result


def blinks(times: np.ndarray, seed: int = 0) -> np.ndarray:
    """(T,) how far the eyes are closed, 0 to 1: a fast closing and a slower opening every few seconds."""
    times = np.asarray(times, np.float64)
    shut = np.zeros(len(times))
    rng = np.random.Generator(np.random.PCG64((seed, 97)))
    start = rng.uniform(0.8, 1.8)
    end = times.max(initial=0.0)
    while start <= end:
        since = times - start
        falling = np.clip(since / _CLOSING, 0.0, 1.0)
        rising = np.clip((since - _CLOSING - _SHUT) / _OPENING, 0.0, 1.0)
        shut = np.maximum(shut, _ease(falling) - _ease(rising))
        start += rng.uniform(*_PAUSE)
    return shut


def glances(times: np.ndarray, seed: int = 0) -> np.ndarray:
    """(T, 2) direction of the eyes to the right and down, of deviation 1: fixed for a while, then a jump to another.

    About every second fixation is at 0, as at time 0.
    """
    times = np.asarray(times, np.float64)
    rng = np.random.Generator(np.random.PCG64((seed, 131)))
    result, start, before = np.zeros((len(times), 2)), rng.uniform(*_FIXED), np.zeros(2)
    end = times.max(initial=0.0)
    while start <= end:
        after = np.clip(rng.normal(0.0, 1.0, 2), -2.0, 2.0) * (rng.random() < 0.5)
        result += _ease(np.clip((times - start) / _JUMP, 0.0, 1.0))[:, None] * (after - before)
        start, before = start + rng.uniform(*_FIXED), after
    return result


def _sway(times: np.ndarray, period: float, seed: tuple[int, int]) -> np.ndarray:
    """(T,) smooth motion in about -1 to 1, 0 at time 0: the sum of three waves with incommensurable periods."""
    rng = np.random.Generator(np.random.PCG64(seed))
    total = np.zeros(len(times))
    for share, faster in ((0.6, 1.0), (0.28, 1.83), (0.12, 3.41)):
        phase = rng.uniform(0.0, 2.0 * np.pi)
        total += share * np.sin(2.0 * np.pi * times * faster / period + phase)
    return total * _ease(np.clip(times / 0.8, 0.0, 1.0))  # start from the portrait's own pose


def _ease(part: np.ndarray) -> np.ndarray:
    return part * part * (3.0 - 2.0 * part)
