"""Thin-plate splines: smooth interpolation of scattered values in the plane."""

from __future__ import annotations

import numpy as np


def thin_plate_spline(
    points: np.ndarray,
    values: np.ndarray,
    positions: np.ndarray,
    smoothing: float,
    *,
    precision: type[np.float32] | type[np.float64] = np.float64,
) -> np.ndarray:
    """Evaluate the spline through values (n, m) at points (n, 2). Returns its values (P, m) at positions (P, 2).

    smoothing: weight of the bending energy against the squared errors at the points; at 0 the spline passes through
    them. It is relative to the unit of length. precision: of the kernel; float32 takes half the time.
    """
    count = len(points)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _kernel(points, points) + smoothing * np.eye(count)
    system[:count, count:] = _affine(points)
    system[count:, :count] = system[:count, count:].T
    weights = np.linalg.solve(system, np.concatenate([values, np.zeros((3, values.shape[1]))]))
    kernel = _kernel(positions.astype(precision), points.astype(precision))
    return kernel @ weights[:count] + _affine(positions) @ weights[count:]


def _kernel(positions: np.ndarray, points: np.ndarray) -> np.ndarray:
    """r^2 log r^2 of the distances (P, n), in the precision of the arguments."""
    squared = np.square(positions).sum(1)[:, None] + np.square(points).sum(1) - 2.0 * positions @ points.T
    squared = squared.clip(0.0)
    return squared * np.log(squared + positions.dtype.type(1e-9))


def _affine(positions: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(positions)), positions])
