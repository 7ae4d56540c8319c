"""What a request for emotion, brows, blinks and gaze consists of. Standard library only: the add-on uses it, too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .checks import as_number
from .errors import EDTalkError

EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "sad", "surprised")  # columns of emotion strengths
PARTS = ("head", "emotion", "brows", "blinks", "gaze")  # what can be drawn from speech
SOURCES = ("both", "voice", "words")  # what emotion is detected from
LEAST_STRENGTH = 0.15  # of an emotion; weaker ones are left out
RISE, EASE = 0.25, 0.5  # seconds in which an emotion appears before a phrase, and disappears after it
LONGEST_TEXT = 20_000  # bytes of UTF-8 that are read of each text
_MOST_CHARACTERS = 200_000  # of all texts of a request


@dataclass(frozen=True)
class SpokenText:
    """What is said in a part of a sound. start, end: seconds of the sound; end None: to its end."""

    text: str
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class Suggestion:
    """An emotion of one or several phrases. start, end: of the speech, in seconds. kind: one of EMOTIONS. strength: 0
    to 1."""

    start: float
    end: float
    kind: str
    strength: float


def as_parts(value: Any) -> tuple[str, ...]:
    """Names out of PARTS. Raises EDTalkError for others, or for none."""
    parts = tuple(value) if not isinstance(value, str) else (value,)
    if not parts or any(part not in PARTS for part in parts):
        raise EDTalkError(f"'want' must name some of {', '.join(PARTS)}, found {value!r:.80}.")
    return parts


def as_source(value: Any) -> str:
    """One of SOURCES. Raises EDTalkError for another value."""
    if value not in SOURCES:
        raise EDTalkError(f"'emotion_from' must be {', '.join(SOURCES)}, found {value!r:.40}.")
    return str(value)


def as_texts(value: Any) -> tuple[SpokenText, ...]:
    """Texts, of which one may be given as a str. Raises EDTalkError for other values and for impossible times."""
    given = (value,) if isinstance(value, (str, SpokenText)) else tuple(value)
    texts = tuple(SpokenText(one) if isinstance(one, str) else one for one in given)
    for one in texts:
        if not isinstance(one, SpokenText) or not isinstance(one.text, str):
            raise EDTalkError(f"'text' must be text, found {one!r:.80}.")
        start = as_number(one.start, "start")
        if one.end is not None and as_number(one.end, "end") <= start:
            raise EDTalkError(f"The end of a text must lie after its start, found {start:g} s to {one.end:g} s.")
    if sum(len(one.text) for one in texts) > _MOST_CHARACTERS:
        raise EDTalkError(f"The texts must have at most {_MOST_CHARACTERS} characters in total.")
    return texts


def texts_field(texts: Iterable[SpokenText]) -> list[dict[str, Any]]:
    """Texts as messages hold them. Characters that cannot be encoded are replaced."""
    return [{"text": one.text.encode("utf-8", "replace").decode(), "start": one.start, "end": one.end} for one in texts]


def read_texts(value: Any) -> tuple[SpokenText, ...]:
    """The texts of a message."""
    return as_texts(SpokenText(one["text"], one["start"], one["end"]) for one in value)
