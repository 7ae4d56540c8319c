"""Mouth shapes (visemes) as slider values, and which of them a curve shows. Pure numpy, works without Blender.

The values are those that the starter bank's lip sync was trained on (`training/voices/speech.py`), for one sound each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

REST = "Rest"
# Animators' usual names -> slider values; sliders that are not listed are at rest.
MOUTH_SHAPES: dict[str, dict[str, float]] = {
    REST: {},
    "MBP": {"jawOpen": 0.03, "mouthPress": 0.3, "mouthRollLower": 0.14, "mouthRollUpper": 0.1},
    "FV": {"jawOpen": 0.09, "mouthRollLower": 0.55, "mouthUpperUp": 0.25, "mouthShrugUpper": 0.08},
    "A": {"jawOpen": 0.68, "mouthLowerDown": 0.35, "mouthUpperUp": 0.2},
    "E": {"jawOpen": 0.4, "mouthLowerDown": 0.32, "mouthUpperUp": 0.18, "mouthStretch": 0.26, "mouthDimple": 0.12},
    "I": {"jawOpen": 0.2, "mouthLowerDown": 0.28, "mouthUpperUp": 0.14, "mouthStretch": 0.42, "mouthDimple": 0.22},
    "O": {"jawOpen": 0.5, "mouthFunnel": 0.45, "mouthPucker": 0.25, "mouthLowerDown": 0.05},
    "U": {"jawOpen": 0.18, "mouthFunnel": 0.3, "mouthPucker": 0.72},
    "CH": {"jawOpen": 0.13, "mouthFunnel": 0.5, "mouthPucker": 0.22, "mouthLowerDown": 0.18, "mouthUpperUp": 0.16},
    "S": {"jawOpen": 0.08, "mouthLowerDown": 0.24, "mouthUpperUp": 0.1, "mouthStretch": 0.22, "mouthDimple": 0.08},
    "L": {"jawOpen": 0.2, "mouthLowerDown": 0.14, "mouthUpperUp": 0.05},
}
# Lips that touch decide whether a mouth looks closed, so their sliders count more than the jaw's.
_WEIGHTS = {"mouthPress": 2.0, "mouthRollLower": 1.5, "mouthPucker": 1.3, "mouthFunnel": 1.3, "mouthStretch": 1.3}
_SHORTEST = 2  # frames


def distances(names: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """(T, K) distance of each row from each of `MOUTH_SHAPES`, in slider units.

    names: of the columns. rows: (T, n) slider values as offsets from rest.
    """
    shapes = np.array([[shape.get(name, 0.0) for name in names] for shape in MOUTH_SHAPES.values()])
    weights = np.array([_WEIGHTS.get(name, 1.0) for name in names])
    rows, shapes = np.asarray(rows, np.float64) * weights, shapes * weights
    squares = (rows**2).sum(axis=1)[:, None] + (shapes**2).sum(axis=1) - 2 * rows @ shapes.T
    return np.sqrt(np.maximum(squares, 0.0))


def is_known(names: Sequence[str]) -> bool:
    """Whether a bank has the sliders that tell mouth shapes apart."""
    return {"jawOpen", "mouthPucker", "mouthStretch", "mouthPress"} <= set(names)


def runs(names: Sequence[str], rows: np.ndarray) -> list[tuple[int, str]]:
    """The mouth shapes that rows show, as (row, name of the shape that begins there), without repetitions.

    A shape that lasts only one row takes its neighbour's name, except closed lips, which are short in speech.
    rows: as in `distances`.
    """
    if not len(rows):
        return []
    labels = list(MOUTH_SHAPES)
    found = [labels[index] for index in distances(names, rows).argmin(1)]
    result: list[tuple[int, str]] = []
    starts = [0, *(row for row in range(1, len(found)) if found[row] != found[row - 1])]
    for start, end in zip(starts, [*starts[1:], len(found)], strict=True):
        name = found[start]
        is_short = end - start < _SHORTEST and name not in ("MBP", "FV")
        if (is_short and result) or (result and result[-1][1] == name):
            continue
        result.append((start, name))
    return result


def offsets(name: str, rest: Mapping[str, float]) -> dict[str, float]:
    """Values of all mouth sliders for a shape. rest: values of the mouth sliders at rest, by name."""
    shape = MOUTH_SHAPES[name]
    return {slider: value + shape.get(slider, 0.0) for slider, value in rest.items()}
