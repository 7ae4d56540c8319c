"""The One-Euro filter (Casiez, Roussel and Vogel 2012): strong smoothing of slow motion, little of fast motion.

It is run forwards and then backwards over the curve, so that it adds no delay. Pure numpy.
"""

from __future__ import annotations

import numpy as np

_SPEED_CUTOFF = 2.0  # Hz, cutoff of the low pass on the speed
_BETA = 2.0  # relative increase of the cutoff for a speed of one range per second


def smooth(values: np.ndarray, fps: float, strength: float, ranges: np.ndarray | float = 1.0) -> np.ndarray:
    """Smooth curves (T,) or (T, n) sampled at `fps`. Returns the same shape, float64.

    strength: 0 returns an unchanged copy, 0.5 halves the jitter of a captured face, 1 leaves a quarter of it. The
    cutoff of a constant curve is 1 / strength Hz. ranges: usual range of each curve, (n,), or one for all.
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
    speed, speed_alpha = np.zeros_like(values[0]), _alpha(_SPEED_CUTOFF, fps)
    for index in range(1, len(values)):
        speed += speed_alpha * (speeds[index - 1] - speed)
        cutoff = (1 + _BETA * np.abs(speed)) / strength
        result[index] = result[index - 1] + _alpha(cutoff, fps) * (values[index] - result[index - 1])
    return result


def _alpha(cutoff: np.ndarray | float, fps: float) -> np.ndarray | float:
    """Weight of the new sample in a first-order low pass with this cutoff in Hz, 0..1."""
    return 1 - np.exp(-2 * np.pi * cutoff / fps)
