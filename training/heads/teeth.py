"""Teeth as two strips of texture: coordinates on the rows of teeth of rendered heads, and the strips themselves.

A row of teeth is unrolled around a vertical axis behind the front teeth. u is the angle, -1 in the picture's left half
to 1; v runs across the row, 0 in the gums to 1 beyond the edges of the teeth, and follows the curve of these edges.
"""

from __future__ import annotations

import cv2
import numpy as np

from training.heads import mesh as heads
from training.heads.assets import SIDE, Assets, Bound
from training.units import NAMES

AXIS, WIDEST = 1.0, 1.45  # of the unrolled rows: depth in decimetres, and angle at u = 1 in radians
# Upper and lower row: height of the teeth's edges on the average head in decimetres, at u = 0, and by u^2 and u^4.
EDGE = (6.604, 0.255, -0.157), (6.632, 0.261, -0.193)
# v: height of the strip in decimetres, and the share of it that lies beyond the edges.
HEIGHT, BEYOND = 0.2, 0.15
STRIP = 48, 256  # pixels
TOOTH = 0.145  # width of a front tooth in u
DENSITY = 40  # points on the side of a triangle
RELIEF, GAP = 0.5, 9.0  # strength of the shading, and of the shadow between teeth per decimetre of depth
DARKEST = 0.05
FADE = 8.0  # lines of the enlarged strip over which its lower end fades out


def is_lower(bound: Bound, mesh: heads.Mesh) -> np.ndarray:
    """(m,) bool: corners of the lower row, which follow the jaw."""
    opening = mesh.units[NAMES.index("jawOpen")].reshape(-1, 3)
    return (bound.follow @ opening)[bound.corner, 1] < -0.05


def coordinates(template: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """(n, 2) u and v of points on the average head (n, 3), in decimetres. lower: (n,) bool."""
    u = np.arctan2(template[:, 0], template[:, 2] - AXIS) / WIDEST
    level, square, fourth = np.where(lower, *(np.array(curve)[:, None] for curve in EDGE[::-1]))
    below = level + square * u**2 + fourth * u**4 - template[:, 1]  # beyond the edge of an upper tooth
    below = np.where(lower, -below, below)
    return np.stack([u, 1 - BEYOND + below / HEIGHT], 1).astype(np.float32)


def strips(assets: Assets) -> np.ndarray:
    """(2, 4, *STRIP) float32, upper and lower row: logarithms of colours relative to the front teeth's, and opacity."""
    teeth = assets.teeth[0]
    lower = is_lower(teeth, heads.load())
    return np.stack([_strip(teeth, assets.textures[teeth.layer], row, lower) for row in (False, True)])


def _strip(teeth: Bound, texture: np.ndarray, row: bool, lower: np.ndarray) -> np.ndarray:
    """One row of `strips`: points on its triangles, of which the outermost ones are seen."""
    height, width = (2 * side for side in STRIP)
    triangles = teeth.triangles[(lower[teeth.triangles] == row).all(1)]
    share = np.array([(i, j, DENSITY - i - j) for i in range(DENSITY + 1) for j in range(DENSITY + 1 - i)]) / DENSITY
    at, uv = (
        np.einsum("bk,fkc->fbc", share, corners[triangles]).reshape(-1, corners.shape[1])
        for corners in (teeth.template, teeth.uv)
    )
    place = coordinates(at, np.full(len(at), row))
    column, line = ((place[:, 0] + 1) / 2 * width).astype(int), (place[:, 1] * height).astype(int)
    radius = np.hypot(at[:, 0], at[:, 2] - AXIS)
    inside = np.flatnonzero((column >= 0) & (column < width) & (line >= 0) & (line < height))
    inside = inside[np.argsort(radius[inside], kind="stable")]
    surface = np.full((height, width), -1)
    surface[line[inside], column[inside]] = inside
    covered = surface >= 0
    level = texture[..., :3].astype(np.float32) / 255
    x, y = np.clip((uv[surface[covered]] * SIDE).astype(int), 0, SIDE - 1).T
    colour = np.zeros((height, width, 3), np.float32)
    colour[covered] = np.log(level[y, x] + DARKEST)
    depth = np.zeros((height, width), np.float32)
    depth[covered] = radius[surface[covered]]
    colour, depth = (_filled(plane, covered) for plane in (colour, depth))
    colour += _shading(depth)[..., None]
    enamel = covered & (colour[..., 1] > colour[..., 0] - 0.15)
    enamel[:, : width * 2 // 5] = enamel[:, -(width * 2 // 5) :] = False
    colour -= np.median(colour[enamel].mean(1))
    closed = cv2.morphologyEx(covered.astype(np.float32), cv2.MORPH_CLOSE, np.ones((5, 5)))
    opacity = cv2.GaussianBlur(closed, (0, 0), 0.8)
    opacity *= np.clip((height - 1 - np.arange(height)) / FADE, 0, 1)[:, None]  # what lies beyond v = 1 is not teeth
    planes = np.dstack([colour, opacity])
    return cv2.resize(planes, STRIP[::-1], interpolation=cv2.INTER_AREA).transpose(2, 0, 1)


def _filled(planes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Planes (h, w, ...) whose pixels that are not `drawn` (h, w) have the mean of those around them."""
    result, known = planes.copy(), drawn.astype(np.float32)
    for sigma in (1.5, 4.0, 12.0, 40.0):
        weight = cv2.GaussianBlur(known, (0, 0), sigma)
        mean = cv2.GaussianBlur(planes * (known[..., None] if planes.ndim == 3 else known), (0, 0), sigma)
        near = (weight > 0.05) & (known == 0)
        interpolated = mean / np.maximum(weight[..., None] if planes.ndim == 3 else weight, 1e-6)
        planes, known = (
            np.where(near[..., None] if planes.ndim == 3 else near, interpolated, planes),
            np.maximum(known, near),
        )
        result = planes
    return result.astype(np.float32)


def _shading(depth: np.ndarray) -> np.ndarray:
    """Logarithm of the light on a surface of that radius (h, w), in decimetres: relief, and shadow between teeth."""
    height, width = depth.shape
    smooth = cv2.GaussianBlur(depth, (0, 0), 1.0)
    across = np.gradient(smooth, axis=1) / (2 * WIDEST * 0.45 / width)
    down = np.gradient(smooth, axis=0) / (HEIGHT / height)
    facing = 1 / np.sqrt(1 + across**2 + (down - 0.2) ** 2)
    hollow = np.maximum(cv2.GaussianBlur(depth, (0, 0), 6) - smooth, 0)
    return RELIEF * np.log(facing) - GAP * hollow
