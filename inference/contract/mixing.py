"""Arithmetic on rows of coefficients: emotions, bank strengths, retargeting and sampling. Pure numpy.

The only implementation of these formulas: the add-on evaluates sliders with it, the command line its options.
Rows are (T, n), one row per frame, one column per coefficient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EXPRESSION = "exp"  # the bank that emotions change


def add_emotions(
    expression: np.ndarray, strengths: np.ndarray, offsets: np.ndarray | Sequence[np.ndarray]
) -> np.ndarray:
    """`expression + sum_k strength_k * offset_k`.

    expression: (T, m) coefficients of the expression bank. strengths: (T, k), usually 0 to 1. offsets: (k, m), each
    preset minus `neutral`, because presets are not zero-centred. Returns (T, m) float64. A row does not depend on the
    other rows, and strengths of 0 leave it unchanged.
    """
    result = np.array(expression, np.float64)
    for strength, offset in zip(np.asarray(strengths, np.float64).T, offsets, strict=True):
        result += strength[:, None] * offset  # no matrix product: its rounding may depend on the number of rows
    return result


def final_rows(
    banks: Sequence[tuple[str, int]],
    rest: np.ndarray,
    values: np.ndarray,
    strengths: np.ndarray,
    emotions: np.ndarray,
    offsets: np.ndarray | Sequence[np.ndarray],
) -> np.ndarray:
    """Rows to render from slider values: `rest + strength * (value - rest + sum_k emotion_k * offset_k)`.

    Emotions change the expression bank only.
    banks: names and sizes in column order, n columns in total. rest: (n,). values: (T, n), absolute.
    strengths: (T, number of banks), 0 for a muted bank. emotions: (T, k), usually 0 to 1. offsets: see `add_emotions`.
    Returns (T, n) float32. A row whose values are at rest and whose emotions are 0 is exactly `rest`.
    """
    moved = np.asarray(values, np.float64) - rest
    column = 0
    for index, (name, count) in enumerate(banks):
        columns = slice(column, column + count)
        if name == EXPRESSION:
            moved[:, columns] = add_emotions(moved[:, columns], emotions, offsets)
        moved[:, columns] *= strengths[:, index, None]
        column += count
    return (rest + moved).astype(np.float32)


def bank_strengths(strength: np.ndarray, mute: np.ndarray, solo: np.ndarray) -> np.ndarray:
    """The effective strength of each bank: 0 if it is muted, or if other banks are solo and it is not.

    All arguments are (T, number of banks), the last two bool. Returns the same shape, float64.
    """
    active = ~mute & (solo | ~solo.any(axis=1, keepdims=True))
    return np.where(active, strength, 0.0)


def retargeted(
    rows: np.ndarray, rest: np.ndarray, *, gain: float = 1.0, driver_rest: np.ndarray | None = None
) -> np.ndarray:
    """The motion of a driver applied to another face.

    rows: (T, n) of the driver. rest: (n,) or (T, n) of the face. driver_rest: (n,) for relative motion,
    `rest + gain * (row - driver_rest)`; None for absolute motion, `rest + gain * (row - rest)`.
    Returns (T, n) float64, exactly `rows` for absolute motion with a gain of 1.
    """
    base = np.asarray(rest if driver_rest is None else driver_rest, np.float64)
    return gain * np.asarray(rows, np.float64) + (np.asarray(rest, np.float64) - gain * base)


def blended(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Linear blend: exactly `first` at a share of 0 and exactly `second` at 1. Returns float64."""
    return (1 - share) * np.asarray(first, np.float64) + share * np.asarray(second, np.float64)


def at_times(rows: np.ndarray, fps: float, start: float, seconds: np.ndarray) -> np.ndarray:
    """Rows sampled at `seconds` (K,) by linear interpolation. The first and last row are held outside their range.

    rows: (T, n) at `fps` rows per second; `start`: time of the first row in seconds. Returns (K, n) float64.
    """
    at = (np.asarray(seconds, np.float64) - start) * fps
    return np.stack([np.interp(at, np.arange(len(rows)), column) for column in np.asarray(rows, np.float64).T], axis=1)
