"""The red of the lips: where its border is, and people whose lips are thinner or fuller.

Lengths are decimetres on the average head, see `training.heads.mesh`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache

import numpy as np
from scipy.interpolate import LinearNDInterpolator

from training.heads import mesh as heads
from training.heads.identity import Identity

MIDDLE, CORNER = 6.61, 0.25  # height at which the lips meet, and distance of the mouth's corners from the middle
LENGTH, SAMPLES = 0.22, 160  # of the lines along which the border is searched
BORDER = 0.45  # of the paint: shaders mix half of the lips' colour here
REACH = 2.0  # in heights of the lip: as far the skin around lips that are thinner or fuller is stretched


@cache
def _front() -> np.ndarray:
    """Vertices of the skin around the mouth that are seen from the front when the lips are closed."""
    mesh = heads.load()
    x, y, z = mesh.template.T
    normals = heads.vertex_normals(mesh.template, mesh.triangles, mesh.normal_sum)
    near = (mesh.part == heads.SKIN) & (np.abs(x) < 0.42) & (y > 6.25) & (y < 6.86) & (z > 1.25)
    return np.flatnonzero(near & (mesh.paint[:, 1] < 0.3) & (normals[:, 2] > 0.0))


@lru_cache(maxsize=8)
def _lines(places: tuple[tuple[float, float], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Points of the skin on vertical lines from where the lips meet: vertices and weights, (L, SAMPLES, 3) each.

    places: of each line its distance from the middle, and 1 if it goes up or -1 if it goes down.
    """
    sideways, upwards = np.array(places).T
    mesh = heads.load()
    triangles = mesh.triangles[np.isin(mesh.triangles, _front()).all(1)]
    a, b, c = (mesh.template[triangles[:, k]] for k in range(3))
    at = np.stack(
        [
            np.repeat(sideways[:, None], SAMPLES, 1),
            MIDDLE + upwards[:, None] * np.linspace(0.0, LENGTH, SAMPLES),
        ],
        -1,
    ).reshape(-1, 1, 2)
    (ux, uy), (vx, vy) = (b - a)[:, :2].T, (c - a)[:, :2].T
    px, py = (at - a[:, :2]).transpose(2, 0, 1)
    area = ux * vy - uy * vx
    area = np.where(np.abs(area) < 1e-9, np.nan, area)
    v, w = (px * vy - py * vx) / area, (ux * py - uy * px) / area
    weights = np.stack([1 - v - w, v, w], -1)
    inside = np.nan_to_num(weights.min(-1), nan=-9.0)
    height = (weights * np.stack([a[:, 2], b[:, 2], c[:, 2]], -1)).sum(-1)
    # the foremost triangle that holds the point, else the nearest one
    best = np.where(inside >= -1e-6, np.nan_to_num(height), np.minimum(inside, 0.0) - 10.0).argmax(1)
    chosen = weights[np.arange(len(best)), best]
    return triangles[best].reshape(-1, SAMPLES, 3), chosen.reshape(-1, SAMPLES, 3)


def border(paint: np.ndarray, places: tuple[tuple[float, float], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where the paint (V,) of the lips ends on vertical lines from where they meet: vertices and weights, (L, 3) each.

    places: of each of L lines its distance from the middle, and 1 if it goes up or -1 if it goes down.
    """
    vertices, weights = _lines(places)
    red = (paint[vertices] * weights).sum(-1) >= BORDER
    last = SAMPLES - 1 - red[:, ::-1].argmax(1)
    rows = np.arange(len(last))
    return vertices[rows, last], weights[rows, last]


@cache
def _heights() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions across the mouth, and there the heights of the upper and of the lower lip."""
    mesh, across = heads.load(), np.linspace(-0.22, 0.22, 45)
    found = []
    for side in (1.0, -1.0):
        vertices, weights = border(mesh.paint[:, 0], tuple((x, side) for x in across))
        found.append(np.abs((mesh.template[vertices, 1] * weights).sum(-1) - MIDDLE))
    return across, found[0], found[1]


def _sources(upper: float, lower: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices, and the place (n, 2) of the average head, seen from the front, of which each gets the colour."""
    at = heads.load().template[_front(), :2].astype(np.float64)
    across, *heights = _heights()
    up = at[:, 1] > MIDDLE
    height = np.where(up, *(np.interp(at[:, 0], across, one) for one in heights))
    share = heads.smoothstep(0.0, 0.07, CORNER - np.abs(at[:, 0]))
    fullness = 1 + (np.where(up, upper, lower) - 1) * share
    away = np.abs(at[:, 1] - MIDDLE) / height
    within = away / fullness
    beyond = 1 + (away - fullness) / (REACH - fullness) * (REACH - 1)
    moved = np.where(away < fullness, within, np.where(away < REACH, beyond, away))
    changed = (share > 0) & (away < REACH)
    at[:, 1] = MIDDLE + np.where(up, 1, -1) * moved * height
    return _front()[changed], at[changed]


def repainted(values: np.ndarray, vertices: np.ndarray, lips: tuple[float, float]) -> np.ndarray:
    """Colours or texture coordinates (n, k) of vertices (n,), with the lips of a person, see `Identity.lips`."""
    if lips == (1.0, 1.0):
        return values
    row = np.full(len(heads.load().template), -1)
    row[vertices] = np.arange(len(vertices))
    known = _front()[row[_front()] >= 0]
    look_up = LinearNDInterpolator(heads.load().template[known, :2], values[row[known]])
    targets, places = _sources(*lips)
    present = row[targets] >= 0
    found = look_up(places[present])
    valid = np.isfinite(found).all(-1)
    result = values.copy()
    result[row[targets[present][valid]]] = found[valid]
    return result


def with_lips(person: Identity, upper: float, lower: float) -> Identity:
    """The person with lips of other heights. upper, lower: factors from 0.3 to 1.4."""
    paint = person.paint.copy()
    everywhere = np.arange(len(paint))
    paint[:, 2:3] = repainted(heads.load().paint[:, :1], everywhere, (upper, lower))
    return replace(person, paint=paint, lips=(upper, lower))
