"""One face's motion on another: between frame rates, and from one rest to the other. Pure numpy.

Rows are (T, n) coefficients, rests (n,) of the same columns.
"""

from __future__ import annotations

import numpy as np


def at_times(rows: np.ndarray, fps: float, start: float, seconds: np.ndarray) -> np.ndarray:
    """Rows at `seconds` (K,), from rows of which the first is at `start` and `fps` follow a second.

    Between two rows they run straight; before the first and after the last these hold. Returns (K, n) float64.
    """
    at = (np.asarray(seconds, np.float64) - start) * fps
    return np.stack([np.interp(at, np.arange(len(rows)), column) for column in np.asarray(rows, np.float64).T], axis=1)


def retargeted(
    rows: np.ndarray, rest: np.ndarray, *, gain: float = 1.0, driver_rest: np.ndarray | None = None
) -> np.ndarray:
    """What a face whose rest is `rest` does when it does as in `rows`.

    With the driver's rest, relative: `rest + gain * (row - driver_rest)`; without it, absolute: the rows themselves,
    their distance from `rest` scaled by `gain`. Returns (T, n) float64, exactly `rows` for absolute with a gain of 1.
    """
    base = np.asarray(rest if driver_rest is None else driver_rest, np.float64)
    return gain * np.asarray(rows, np.float64) + (np.asarray(rest, np.float64) - gain * base)


def blended(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """`first` at a share of 0, `second` at 1, exactly, and what lies between."""
    return (1 - share) * np.asarray(first, np.float64) + share * np.asarray(second, np.float64)
