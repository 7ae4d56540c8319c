"""The head coefficients of a bank in physical units. Numpy only: the add-on uses this module, too."""

from __future__ import annotations

import numpy as np

from .arkit import HEAD
from .bank import Bank
from .errors import EDTalkError

# Size of a coefficient of 1, by name: picture widths to the right, picture heights down, share of the head's size.
_SHIFTS = {"headShiftX": 0.08, "headShiftY": 0.08, "headScale": 0.12}
AXES = (*HEAD, *_SHIFTS)
LARGEST_AMOUNT = 2.0  # of sway and of nods
LARGEST_SEED = 2**32 - 1


def head_matrix(bank: Bank) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the coefficients that move the head, and the matrix (n, 6) from physical units to them.

    Physical units: yaw, pitch and roll in degrees, positive towards the picture's right, down and clockwise; shift
    right and down in picture widths and heights; scale as a share of the head's size. The bank's `arkit` weights hold
    the rotations; shifts and scale are known by name. ([], (0, 6)) for a bank without known rotations.
    """
    names, rows = [], []
    for entry in bank.coefficients:
        row = [entry.arkit.get(axis, 0.0) for axis in HEAD]
        row += [1 / size if entry.name == name else 0.0 for name, size in _SHIFTS.items()]
        if any(row):
            names.append(entry.name)
            rows.append(row)
    matrix = np.array(rows, np.float64).reshape(-1, len(AXES))
    if not matrix[:, : len(HEAD)].any():
        return (), np.zeros((0, len(AXES)))
    return tuple(names), matrix


def head_reason(bank: Bank) -> str:
    """Why the head of a bank cannot be moved by speech, without a full stop; "" if it can."""
    if head_matrix(bank)[0]:
        return ""
    return f"The bank '{bank.name}' does not say which of its sliders turn the head"


def check_head_motion(sway: float, nods: float, seeds: list[int] | tuple[int, ...]) -> None:
    """Raise EDTalkError for an amount or a seed out of range, or without any seed."""
    for name, value in (("sway", sway), ("nods", nods)):
        if not 0 <= value <= LARGEST_AMOUNT:
            raise EDTalkError(f"'{name}' must be a number from 0 to {LARGEST_AMOUNT:g}, found {value}.")
    if not seeds:
        raise EDTalkError("Head motion needs at least one seed.")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
            raise EDTalkError(f"A seed must be a whole number from 0 to {LARGEST_SEED}, found {seed}.")
