"""Emotion from speech: strengths of seven emotions over time, from the voice and from the words that are said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .contract.expression import EMOTIONS, SpokenText, Suggestion
from .model.load import NetworkBank


@dataclass(frozen=True, eq=False)
class Emotions:
    """Emotions of a sound.

    rows: (T, 7) float32, strength from 0 to 1 of each of `contract.expression.EMOTIONS`. suggestions: the same as
    stretches of speech. note: a sentence about what could not be used, else "".
    """

    rows: np.ndarray
    suggestions: tuple[Suggestion, ...] = ()
    note: str = ""


def emotions(
    bank: NetworkBank, samples: np.ndarray, times: np.ndarray, texts: Sequence[SpokenText] = (), *, source: str = "both"
) -> Emotions:
    """Emotions at `times` (T,) in seconds of a sound. samples: the whole sound (n,), 16 kHz mono."""
    note = f"The bank '{bank.name}' has no network for emotion (Audio2Expression)."
    return Emotions(np.zeros((len(times), len(EMOTIONS)), np.float32), (), note)
