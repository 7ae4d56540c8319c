"""Process curves before they are written as keyframes: smooth, decimate, hold on steps. Pure numpy.

A curve is `frames` (T,), strictly increasing, and `values` (T,) or, where stated, (T, n).
"""

from __future__ import annotations

import numpy as np


def smooth(values: np.ndarray, width: float) -> np.ndarray:
    """Gaussian filter over time with a standard deviation of `width` frames. A width of 0 returns an unchanged copy.

    values: (T,) or (T, n). Returns the same shape, float64. The ends are padded with the edge value, so constant
    curves and constant ends are preserved.
    """
    values = np.asarray(values, np.float64)
    if width <= 0 or len(values) < 2:
        return values.copy()
    reach = int(np.ceil(3 * width))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    weights /= weights.sum()
    padded = np.pad(values, [(reach, reach)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis=0)
    return windows @ weights


def decimate(frames: np.ndarray, values: np.ndarray, error: float) -> np.ndarray:
    """Indices (K,) of the samples to keep so that linear interpolation stays within `error` of every sample.

    The first and the last sample are always kept. An `error` below 0 keeps all samples. Greedy: from each kept sample,
    keep next the farthest sample that one line can reach. The slopes that pass all samples in between form a cone that
    narrows with every sample.
    """
    frames, values = np.asarray(frames, np.float64), np.asarray(values, np.float64)
    count = len(frames)
    if count < 3 or error < 0:
        return np.arange(count)
    kept = [0]
    reach = 64
    while kept[-1] < count - 1:
        start = kept[-1]
        run = frames[start + 1 : start + 1 + reach] - frames[start]
        rise = values[start + 1 : start + 1 + reach] - values[start]
        slope = rise / run
        lowest = np.maximum.accumulate((rise - error) / run)
        highest = np.minimum.accumulate((rise + error) / run)
        is_open = lowest <= highest
        if is_open.all() and start + len(run) < count - 1:
            reach *= 2  # the cone has not closed yet: include more samples
            continue
        reached = is_open & (slope >= lowest) & (slope <= highest)
        kept.append(start + 1 + int(np.flatnonzero(reached)[-1]))
        reach = 64
    return np.array(kept)


def decimate_held(values: np.ndarray, error: float) -> np.ndarray:
    """Indices (K,) of the samples (T,) to keep so that constant interpolation stays within `error` of every sample.

    The first and the last sample are always kept. An `error` below 0 keeps all samples.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 3 or error < 0:
        return np.arange(len(values))
    kept = [0]
    for index, value in enumerate(values[:-1]):
        if abs(value - values[kept[-1]]) > error:
            kept.append(index)
    return np.array([*kept, len(values) - 1])


def on_steps(frames: np.ndarray, values: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Every `step`-th sample, for constant interpolation: a step of 2 animates on twos. A step of 1 changes nothing.

    values: (T,) or (T, n). The last sample is only kept if it falls on a step. Raises ValueError for a step below 1.
    """
    if step < 1:
        raise ValueError(f"The step must be at least 1 frame, found {step}.")
    return frames[::step], values[::step]
