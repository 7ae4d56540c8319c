"""A bank's coefficients in ARKit's names and units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ...inference.contract import arkit
from ...inference.contract.bank import Coefficient

# --- A bank's sliders


def to_bank(coefficients: Iterable[Coefficient], names: Sequence[str], values: np.ndarray) -> dict[str, np.ndarray]:
    """What face units make of a bank's coefficients: (T,) for each that they have to do with, 0 where all are off.

    values: (T, n) of the units `names`. A unit that is missing leaves its share to those made of the same coefficient.
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
    """The way back: for each face unit, how much of each coefficient, measured from rest, it is.

    The smallest units that make the coefficients what they are; both sides move alike where one coefficient has both.
    """
    entries = [entry for entry in coefficients if any(entry.arkit.values())]
    names = [name for name in arkit.NAMES if any(entry.arkit.get(name) for entry in entries)]
    shares = np.array([[entry.arkit.get(name, 0.0) for name in names] for entry in entries])
    back = np.linalg.pinv(shares) if shares.size else shares.T
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for name, row in zip(names, back, strict=True):
        found[name] = {entry.name: float(gain) for entry, gain in zip(entries, row, strict=True) if abs(gain) > 1e-9}
    return found
