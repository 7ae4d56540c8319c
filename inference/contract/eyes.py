"""The coefficients of a bank that close and turn the eyes. Numpy only: the add-on uses this module, too.

They are found by their weights of ARKit units, which the bank gives or their names tell.
"""

from __future__ import annotations

import numpy as np

from .bank import Bank

FULL = 30.0  # degrees that an eye turns for an ARKit unit of 1
_BLINK = ("eyeBlinkLeft", "eyeBlinkRight")
# Units that act when the eyes turn to the picture's right, left, down and up. Left and right in their names are the
# person's.
_LOOK = (
    ("eyeLookOutLeft", "eyeLookInRight"),
    ("eyeLookInLeft", "eyeLookOutRight"),
    ("eyeLookDownLeft", "eyeLookDownRight"),
    ("eyeLookUpLeft", "eyeLookUpRight"),
)


def closed_eyes(bank: Bank) -> dict[str, float]:
    """The value at which the eyes are closed, for each coefficient that closes them."""
    values = {entry.name: sum(entry.arkit.get(unit, 0.0) for unit in _BLINK) for entry in bank.coefficients}
    return {name: value for name, value in values.items() if value > 0}


def gaze_names(bank: Bank) -> tuple[str, ...]:
    """Names of the coefficients that turn the eyes."""
    wanted = {unit for units in _LOOK for unit in units}
    return tuple(entry.name for entry in bank.coefficients if wanted & entry.arkit.keys())


def gaze_offsets(bank: Bank, degrees: np.ndarray) -> np.ndarray:
    """Offsets (T, n) of `gaze_names` from rest. degrees: (T, 2), to the picture's right and down."""
    right, down = np.asarray(degrees, np.float64).T / FULL
    sides = np.maximum([right, -right, down, -down], 0.0)
    weights = {entry.name: entry.arkit for entry in bank.coefficients}
    found = [[sum(weights[name].get(unit, 0.0) for unit in units) for units in _LOOK] for name in gaze_names(bank)]
    return (np.array(found).reshape(-1, len(_LOOK)) @ sides).T


def eyes_reason(bank: Bank) -> str:
    """Why the eyes of a bank cannot be moved, without a full stop; "" if they can."""
    if closed_eyes(bank) or gaze_names(bank):
        return ""
    return f"The bank '{bank.name}' does not say which of its sliders close or turn the eyes"
