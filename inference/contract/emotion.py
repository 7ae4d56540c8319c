"""Emotions over time, written as text: "happy", "happy:0.7", "0=neutral 1.5=happy:0.8 3.2=sad".

Standard library and numpy only: the add-on uses this module, too.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from .errors import EDTalkError

NEUTRAL = "neutral"
_HINT = (
    "Write one emotion ('happy' or 'happy:0.7'), a mix ('happy:0.5+surprised:0.3') or keys at seconds or percent "
    "('0=neutral 1.5=happy:0.8 100%=sad')."
)
_LONGEST = 100_000  # characters
_NUMBER = r"[+-]?(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})"
_TERM = re.compile(rf"([A-Za-z_][\w-]*)(?::({_NUMBER}))?", re.ASCII)
_TIME = re.compile(rf"({_NUMBER})(s|%)?")


@dataclass(frozen=True)
class Key:
    """Emotion strengths at one time. time: in seconds, or if `relative` a fraction of the duration (0 to 1)."""

    time: float
    strengths: Mapping[str, float]
    relative: bool = False

    def seconds(self, duration: float) -> float:
        return self.time * duration if self.relative else self.time


@dataclass(frozen=True)
class EmotionCurve:
    """A curve through keys. Strengths ease in and out between two keys and are constant outside."""

    keys: tuple[Key, ...]

    @staticmethod
    def parse(text: str, known: Collection[str] | None = None) -> EmotionCurve:
        """Parse a curve. Keys are separated by spaces, commas or semicolons; a strength defaults to 1.

        known: names of the available emotions; default: not checked. Raises EDTalkError for invalid text or an unknown
        emotion.
        """
        if len(text) > _LONGEST:
            raise EDTalkError(f"The emotion has {len(text)} characters, expected at most {_LONGEST}.", _HINT)
        words = re.sub(r"\s*([=:+])\s*", r"\1", " ".join(text.split())).replace(",", " ").replace(";", " ").split()
        if not words:
            raise EDTalkError("The emotion is empty.", _HINT)
        if len(words) == 1 and "=" not in words[0]:
            words = [f"0={words[0]}"]
        keys = [_key(word) for word in words]
        for (time, relative), count in Counter((key.time, key.relative) for key in keys).items():
            if count > 1:
                unit = f"{time:.4%}".rstrip("0") if relative else f"{time:g} s"
                raise EDTalkError(f"The emotion curve {_quoted(text)} has two keys at {unit}.", _HINT)
        curve = EmotionCurve(tuple(keys))
        if known is not None:
            curve.check(known)
        return curve

    @property
    def names(self) -> tuple[str, ...]:
        """The emotions used, in order of appearance, without `neutral`."""
        return tuple(dict.fromkeys(name for key in self.keys for name in key.strengths if name != NEUTRAL))

    def check(self, known: Collection[str]) -> None:
        """Raise EDTalkError naming the first emotion that is not in `known`."""
        for name in (name for key in self.keys for name in key.strengths):
            if name not in known and name != NEUTRAL:
                raise EDTalkError(f"There is no emotion '{name}'; this bank has: {', '.join(sorted(known)) or 'none'}.")

    def strengths(self, times: np.ndarray, duration: float | None = None) -> dict[str, np.ndarray]:
        """The strength of each emotion by name, (T,) float32, at `times` (T,) in seconds.

        duration: in seconds, for keys given in percent; default: the last of `times`.
        """
        times = np.asarray(times, np.float64)
        whole = float(times[-1] if duration is None and len(times) else duration or 0.0)
        keys = sorted(self.keys, key=lambda key: key.seconds(whole))
        at = np.array([key.seconds(whole) for key in keys])
        # Position among the keys (0 at the first, 1 at the second, ...), eased within each stretch.
        position = np.interp(times, at, np.arange(len(at))) if len(at) > 1 else np.zeros(len(times))
        lower = np.minimum(position.astype(int), max(len(at) - 2, 0))
        part = position - lower
        eased = lower + part * part * (3.0 - 2.0 * part)
        strengths = {}
        for name in self.names:
            values = [key.strengths.get(name, 0.0) for key in keys]
            strengths[name] = np.interp(eased, np.arange(len(at)), values).astype(np.float32)
        return strengths

    def __str__(self) -> str:
        return " ".join(
            f"{100 * key.time:g}%=" * key.relative
            + f"{key.time:g}=" * (not key.relative)
            + "+".join(name if strength == 1.0 else f"{name}:{strength:g}" for name, strength in key.strengths.items())
            for key in self.keys
        )


def _quoted(text: str) -> str:
    return f"'{text}'" if len(text) <= 80 else f"'{text[:80]}...'"


def _key(word: str) -> Key:
    time_text, divider, value = word.partition("=")
    time = _TIME.fullmatch(time_text)
    found = [_TERM.fullmatch(term) for term in value.split("+")]
    terms = [term for term in found if term is not None]
    if not divider or time is None or len(terms) < len(found):
        raise EDTalkError(f"{_quoted(word)} is not a valid key of an emotion curve.", _HINT)
    seconds = float(time[1]) * (0.01 if time[2] == "%" else 1.0)
    if seconds < 0 or not math.isfinite(seconds):
        raise EDTalkError(f"The time of the emotion key {_quoted(word)} must not be negative.", _HINT)
    strengths: dict[str, float] = {}
    for term in terms:
        name = term[1].lower()
        if name in strengths:
            raise EDTalkError(f"The emotion key {_quoted(word)} names '{name}' twice.", _HINT)
        strengths[name] = float(term[2] or 1.0)
    return Key(seconds, strengths, time[2] == "%")
