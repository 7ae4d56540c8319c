"""The One-Euro filter (Casiez, Roussel and Vogel 2012): jitter goes where a curve is slow, quick motion stays.

Run forwards and then backwards over the finished curve, so that nothing comes later than it was. Pure numpy.
"""

from __future__ import annotations

import numpy as np

_SPEED_CUTOFF = 2.0  # Hz, of the curve's speed
_QUICKER = 2.0  # by how much, of itself, the cutoff rises for every range a second that the curve moves


def smooth(values: np.ndarray, fps: float, strength: float, ranges: np.ndarray | float = 1.0) -> np.ndarray:
    """Smooth curves of (T,) or (T, n), evenly spaced at `fps`; returns the same shape, float64.

    strength: 0 changes nothing, 0.5 halves the jitter of a recorded face, 1 leaves a quarter of it. What holds still is
    smoothed with a cutoff of 1 / strength Hz. ranges: by which each curve usually moves, (n,) or one for all.
    """
    values = np.asarray(values, np.float64)
    if strength <= 0 or len(values) < 2:
        return values.copy()
    forwards = _one_way(values, fps, strength, ranges)
    return _one_way(forwards[::-1], fps, strength, ranges)[::-1].copy()


def _one_way(values: np.ndarray, fps: float, strength: float, ranges: np.ndarray | float) -> np.ndarray:
    result = np.empty_like(values)
    result[0] = values[0]
    speeds = np.diff(values, axis=0) * fps / ranges
    speed, slow = np.zeros_like(values[0]), _share(_SPEED_CUTOFF, fps)
    for index in range(1, len(values)):
        speed += slow * (speeds[index - 1] - speed)
        cutoff = (1 + _QUICKER * np.abs(speed)) / strength
        result[index] = result[index - 1] + _share(cutoff, fps) * (values[index] - result[index - 1])
    return result


def _share(cutoff: np.ndarray | float, fps: float) -> np.ndarray | float:
    """Which part of the way to the next sample a low pass with this cutoff in Hz goes."""
    return 1 - np.exp(-2 * np.pi * cutoff / fps)
