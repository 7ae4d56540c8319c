"""Conversion between a bank's coefficients and ARKit blend shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ...inference.contract import arkit
from ...inference.contract.bank import Coefficient


def to_bank(coefficients: Iterable[Coefficient], names: Sequence[str], values: np.ndarray) -> dict[str, np.ndarray]:
    """Curves (T,) by coefficient, as offsets from rest, from ARKit blend shapes.

    values: (T, n) of the blend shapes `names`. The weight of a missing blend shape is distributed over the others of
    the same coefficient; coefficients without any are left out.
    """
    column = {name: index for index, name in enumerate(names)}
    curves: dict[str, np.ndarray] = {}
    for entry in coefficients:
        known = {name: share for name, share in entry.arkit.items() if name in column}
        there, whole = sum(map(abs, known.values())), sum(map(abs, entry.arkit.values()))
        if there > 0:
            total = np.sum([share * values[:, column[name]] for name, share in known.items()], axis=0)
            curves[entry.name] = total * (whole / there)
    return curves


def from_bank(coefficients: Iterable[Coefficient]) -> dict[str, dict[str, float]]:
    """For each ARKit blend shape, its weights on the coefficients, as offsets from rest: the inverse of `to_bank`.

    The pseudo-inverse gives the smallest weights; left and right move alike where one coefficient drives both.
    """
    entries = [entry for entry in coefficients if any(entry.arkit.values())]
    names = [name for name in arkit.NAMES if any(entry.arkit.get(name) for entry in entries)]
    shares = np.array([[entry.arkit.get(name, 0.0) for name in names] for entry in entries])
    back = np.linalg.pinv(shares) if shares.size else shares.T
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for name, row in zip(names, back, strict=True):
        found[name] = {entry.name: float(gain) for entry, gain in zip(entries, row, strict=True) if abs(gain) > 1e-9}
    return found
