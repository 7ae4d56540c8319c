"""What happens to a curve between the network and the keyframes: smoothing, thinning, holding. Pure numpy.

A curve is `frames` (T,), increasing, and `values` (T,) or, where stated, (T, n).
"""

from __future__ import annotations

import numpy as np


def smooth(values: np.ndarray, width: float) -> np.ndarray:
    """Gaussian average over time with a standard deviation of `width` frames; 0 changes nothing.

    values: (T,) or (T, n) -> the same shape, float64. The ends are padded with the edge value, so a curve that holds
    still at its ends keeps them, and a constant stays what it is.
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
    """Indices (K,) of the samples to keep so that straight lines between them stay within `error` of every sample.

    The first and the last sample are always kept. From each kept sample the farthest one is taken that a single line
    can reach: the slopes that pass all samples between form a cone, which only narrows. An `error` below 0 keeps all.
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
            reach *= 2  # the cone has not closed yet; look farther
            continue
        reached = is_open & (slope >= lowest) & (slope <= highest)
        kept.append(start + 1 + int(np.flatnonzero(reached)[-1]))
        reach = 64
    return np.array(kept)


def on_steps(frames: np.ndarray, values: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Every `step`-th sample, to be held until the next: 2 animates on twos. Step 1 changes nothing.

    values: (T,) or (T, n). The last sample is not kept unless its turn comes, because it would show for one frame only.
    """
    if step < 1:
        raise ValueError(f"A step is at least 1 frame, found {step}.")
    return frames[::step], values[::step]
