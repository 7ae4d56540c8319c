"""From sliders to the numbers that are rendered: bank strengths around rest, emotions on top of the expression.

Pure numpy, so that one frame, ten thousand frames and the tests use the same lines.
"""

from __future__ import annotations

import numpy as np

EXPRESSION = "exp"


def final_rows(
    banks: tuple[tuple[str, int], ...],
    rest: np.ndarray,
    values: np.ndarray,
    strengths: np.ndarray,
    emotions: np.ndarray,
    offsets: np.ndarray,
) -> np.ndarray:
    """`rest + strength * (value - rest + sum_k emotion_k offset_k)`, emotions within the expression bank only.

    banks: names and counts in column order, n in all; rest: (n,); values: (T, n) absolute;
    strengths: (T, number of banks), 0 for a muted bank; emotions: (T, k), usually 0..1;
    offsets: (k, size of the expression bank), each emotion measured from neutral.
    Returns (T, n) float32; a row whose values are at rest and whose emotions are 0 is exactly `rest`.
    """
    moved = np.asarray(values, np.float64) - rest
    column = 0
    for index, (name, count) in enumerate(banks):
        columns = slice(column, column + count)
        if name == EXPRESSION and len(offsets):
            moved[:, columns] += np.asarray(emotions, np.float64) @ offsets
        moved[:, columns] *= strengths[:, index, None]
        column += count
    return (rest + moved).astype(np.float32)


def bank_strengths(strength: np.ndarray, mute: np.ndarray, solo: np.ndarray) -> np.ndarray:
    """What is left of each bank: its strength, 0 where it is muted or where only other banks are solo.

    All (T, number of banks), the last two bool; so is the result, float64.
    """
    heard = ~mute & (solo | ~solo.any(axis=1, keepdims=True))
    return np.where(heard, strength, 0.0)
