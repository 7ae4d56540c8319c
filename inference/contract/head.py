"""The head coefficients of a bank in physical units. Numpy only: the add-on uses this module, too."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .arkit import HEAD, HEAD_AXES
from .bank import Bank
from .errors import EDTalkError

# Size of a coefficient of 1, by name: picture widths to the right, picture heights down, share of the head's size.
_SHIFTS = {"headShiftX": 0.08, "headShiftY": 0.08, "headScale": 0.12}
# Usual deviations of head motion along the axes, and the largest condition number of a usable map.
_USUAL = np.array([4.0, 2.5, 2.5, 0.02, 0.02, 0.02])
LARGEST_CONDITION = 20.0
_LEAST_SHARE = 0.5  # of a rotation that a map must reproduce
LARGEST_AMOUNT = 2.0  # of sway and of nods
LARGEST_SEED = 2**32 - 1


def head_matrix(bank: Bank) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the coefficients that move the head, and the matrix (n, 6) from physical units to them.

    Physical units: yaw, pitch and roll in degrees, positive towards the picture's right, down and clockwise; shift
    right and down in picture widths and heights; scale as a share of the head's size. The matrix comes from how the
    coefficients were measured to move the head, `Coefficient.moves`, if that turns it in all directions. Otherwise the
    `arkit` weights give the rotations, and names the shifts and scale. ((), (0, 6)) for a bank without known rotations.

    For a bank whose own network makes head motion in the units of its pose coefficients (see docs/training.md), these
    are its first six, and the matrix is the identity.
    """
    if has_own_motion(bank):
        first = bank.config.bank_slices["pose"].start
        return bank.names[first : first + len(HEAD_AXES)], np.eye(len(HEAD_AXES))
    measured = tuple(entry.name for entry in bank.coefficients if entry.moves)
    if measured and not _map_reason(bank):
        return measured, _measured_map(bank)[0]
    names, rows = [], []
    for entry in bank.coefficients:
        row = [entry.arkit.get(axis, 0.0) for axis in HEAD]
        row += [1 / size if entry.name == name else 0.0 for name, size in _SHIFTS.items()]
        if any(row):
            names.append(entry.name)
            rows.append(row)
    matrix = np.array(rows, np.float64).reshape(-1, len(HEAD_AXES))
    if not matrix[:, : len(HEAD)].any():
        return (), np.zeros((0, len(HEAD_AXES)))
    return tuple(names), matrix


def has_own_motion(bank: Bank) -> bool:
    """Whether the bank has head motion in the units of its pose coefficients, not in physical ones."""
    network = (bank.networks or {}).get("audio2pose")
    return isinstance(network, Mapping) and network.get("own") == 1


def head_reason(bank: Bank) -> str:
    """Why the head of a bank cannot be moved by speech, without a full stop; "" if it can."""
    if head_matrix(bank)[0]:
        return ""
    return _map_reason(bank) or f"The bank '{bank.name}' does not say which of its sliders turn the head"


def _map_reason(bank: Bank) -> str:
    """Why the measured motion of a bank's coefficients cannot be used; "" if it can, or if none was measured."""
    if not any(entry.moves for entry in bank.coefficients):
        return ""
    _matrix, condition, shares = _measured_map(bank)
    if condition > LARGEST_CONDITION:
        return (
            f"The head sliders of the bank '{bank.name}' move the head too similarly: their condition number is "
            f"{condition:.0f}, above {LARGEST_CONDITION:.0f}"
        )
    lacking = [axis for axis, share in zip(HEAD, shares, strict=False) if share < _LEAST_SHARE]
    if lacking:
        return f"The head sliders of the bank '{bank.name}' do not turn the head in {', '.join(lacking)}"
    return ""


def _measured_map(bank: Bank) -> tuple[np.ndarray, float, np.ndarray]:
    """The map (n, 6) by least squares, its condition number, and the share (6,) of each axis that it reproduces.

    Axes count by their usual deviation, coefficients by their range.
    """
    entries = [entry for entry in bank.coefficients if entry.moves]
    moves = np.array([[entry.moves.get(axis, 0.0) for axis in HEAD_AXES] for entry in entries])
    ranges = np.array([max(abs(entry.soft_max - entry.rest), abs(entry.soft_min - entry.rest)) for entry in entries])
    scaled = (moves * ranges[:, None] / _USUAL).T
    sizes = np.linalg.svd(scaled, compute_uv=False)
    condition = float(sizes[0] / sizes[-1]) if sizes[-1] > 0 else np.inf
    inverse = np.linalg.pinv(scaled)
    return ranges[:, None] * inverse / _USUAL, condition, np.diag(scaled @ inverse)


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
