"""When the words of a text are spoken, found from the mouth curves of its lip sync. Pure numpy, works without Blender.

The letters of each word give the mouth shapes to expect. Dynamic programming chooses the beginning and end of every
word so that the mouth shows these shapes, words last about as long as their letters suggest, and the mouth rests in
pauses. No dictionary is needed, so any language with Latin letters works; precision is about two frames.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from .mouth_shapes import MOUTH_SHAPES, distances

# Letters -> mouth shape and duration in seconds; the longest match counts.
_VOWEL, _CONSONANT = 0.1, 0.06
_SPELLINGS = {
    **dict.fromkeys(("a", "ä", "ai", "ei", "i'"), ("A", _VOWEL)),
    **dict.fromkeys(("e", "ea", "ay"), ("E", _VOWEL)),
    **dict.fromkeys(("i", "y", "ee", "ie"), ("I", _VOWEL)),
    **dict.fromkeys(("o", "au", "aw"), ("O", _VOWEL)),
    **dict.fromkeys(("u", "ü", "ö", "oo", "ou", "ew"), ("U", _VOWEL)),
    **dict.fromkeys(("m", "b", "p"), ("MBP", _CONSONANT)),
    **dict.fromkeys(("mm", "bb", "pp"), ("MBP", _CONSONANT)),
    **dict.fromkeys(("f", "v", "ph", "ff"), ("FV", _CONSONANT)),
    **dict.fromkeys(("w", "qu", "wh"), ("U", _CONSONANT)),
    **dict.fromkeys(("s", "z", "c", "x", "ß", "ss", "ce"), ("S", _CONSONANT)),
    **dict.fromkeys(("ch", "sh", "sch", "j", "tch"), ("CH", _CONSONANT)),
    **dict.fromkeys(("th", "ck", "ll", "tt", "nn", "rr", "dd", "ng"), ("L", _CONSONANT)),
    **dict.fromkeys("dghklnqrt", ("L", 0.8 * _CONSONANT)),
}
_LONGEST = max(map(len, _SPELLINGS))
_BAND = 12.0  # seconds of speech that a word may be from its expected place; limits the work for long texts
_PAUSE_COST = 1.0  # of a pause that no punctuation announces
_DURATION_COST = 0.6  # of a word that takes e times as long, or as short, as expected
_REST_LIMIT = 0.05  # slider units from rest below which the mouth is silent

Spans = list[tuple[int, int]]  # first frame of each word, and the one after its last


@dataclass(frozen=True)
class Word:
    """A word as written, with its expected mouth shapes, its usual duration in seconds and whether a pause follows."""

    text: str
    shapes: tuple[str, ...]
    duration: float
    before_pause: bool


def words_of(text: str) -> list[Word]:
    """The words of a text. Punctuation stays with its word; parts without letters or digits are left out."""
    found = []
    for part in text.split():
        letters = re.sub(r"[^\w']", "", part.lower())
        if not letters.replace("'", ""):
            continue
        spelled = _spelled(letters)
        shapes = tuple(shape for shape, _seconds in spelled)
        ends = part[-1] in ',.;:!?-)"\u2026\u2013\u2014'
        found.append(Word(part, shapes, max(sum(seconds for _shape, seconds in spelled), 0.08), ends))
    return found


def _spelled(letters: str) -> list[tuple[str, float]]:
    """Mouth shapes and durations of a word. A final silent e of English is left out."""
    if len(letters) > 3 and letters.endswith("e"):
        letters = letters[:-1]
    result, at = [], 0
    while at < len(letters):
        for length in range(min(_LONGEST, len(letters) - at), 0, -1):
            found = _SPELLINGS.get(letters[at : at + length]) or _SPELLINGS.get(_plain(letters[at : at + length]))
            if found:
                result.append(found)
                break
        else:
            length = 1
            if letters[at].isalnum():
                result.append(("E", _VOWEL))  # digits and other scripts
        at += length
    return result or [("E", _VOWEL)]


def _plain(letters: str) -> str:
    """Letters without accents."""
    return "".join(letter for letter in unicodedata.normalize("NFD", letters) if not unicodedata.combining(letter))


def align(words: Sequence[Word], names: Sequence[str], rows: np.ndarray, fps: float) -> Spans:
    """First frame of each word and the one after its last, as indices of `rows`; empty if there is nothing to align.

    names: of the columns; rows: (T, n) mouth sliders as offsets from rest, one per frame; fps: frames per second.
    """
    steps = align_in_steps(words, names, rows, fps)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def align_in_steps(
    words: Sequence[Word], names: Sequence[str], rows: np.ndarray, fps: float
) -> Generator[None, None, Spans]:
    """The same as `align` in steps of a millisecond, one for each word, so that the work can be spread over time."""
    total = len(rows)
    if not words or total < len(words):
        return []
    away = distances(names, rows)
    shapes = list(MOUTH_SHAPES)
    closeness = away / np.maximum(away.mean(1, keepdims=True), 0.05)  # 1 is an average match
    is_silent = np.abs(rows).max(1) < _REST_LIMIT
    sums = {
        name: np.r_[0.0, np.cumsum(np.where(is_silent & (name != "MBP"), 2.0, closeness[:, shapes.index(name)]))]
        for name in shapes
    }
    rest_sums = np.r_[0.0, np.cumsum(np.where(is_silent, 0.0, 1.0))]
    said = np.r_[0.0, np.cumsum(~is_silent)]  # frames of speech before each frame
    stretch = max(said[-1], len(words) * 2.0) / sum(word.duration for word in words)  # frames per usual second
    expected = stretch * np.cumsum([word.duration for word in words])  # frames of speech before the end of each word
    first = np.searchsorted(said, expected - _BAND * fps, "left")
    last = np.searchsorted(said, expected + _BAND * fps, "right")
    bands = [(int(low), int(high)) for low, high in zip(first, np.minimum(last, total + 1), strict=True)]
    return (yield from _best_spans(words, sums, rest_sums, stretch, bands))


def _best_spans(
    words: Sequence[Word],
    sums: dict[str, np.ndarray],
    rest_sums: np.ndarray,
    stretch: float,
    bands: Sequence[tuple[int, int]],
) -> Generator[None, None, Spans]:
    """The cheapest placement of the words.

    sums: cumulative cost (T + 1,) of showing a shape; rest_sums: of a pause. stretch: frames per second of a word's
    usual duration. bands: frames at which each word may end.
    """
    total = len(rest_sums) - 1
    every = np.arange(total + 1)
    paused = rest_sums.copy()  # lowest cost of the words so far and a pause until each frame
    paused_from = np.zeros(total + 1, int)  # where that pause begins
    begins, waits = [], []
    for word, band in zip(words, bands, strict=True):
        ends = every[slice(*band)]
        usual = word.duration * stretch
        lengths = np.arange(1, max(int(3 * usual), 4) + 1)
        starts = ends[:, None] - lengths
        valid = starts >= 0
        first = np.maximum(starts, 0)
        cost = paused[first] + _DURATION_COST * np.log(lengths / usual) ** 2 * min(usual, 6.0)
        edges = [first + np.rint(lengths * step / len(word.shapes)).astype(int) for step in range(len(word.shapes) + 1)]
        for shape, left, right in zip(word.shapes, edges, edges[1:], strict=False):
            cost = cost + sums[shape][right * valid] - sums[shape][left * valid]
        cost = np.where(valid, cost, np.inf)
        best = cost.argmin(1)
        said, begin = np.full(total + 1, np.inf), np.zeros(total + 1, int)
        said[ends], begin[ends] = cost[np.arange(len(ends)), best], ends - lengths[best]
        begins.append(begin)
        waits.append(paused_from)
        # A pause after the word: it costs what the mouth moves in it, and more where no punctuation announces it.
        entry = said - rest_sums + (0.0 if word.before_pause else _PAUSE_COST)
        lowest = np.minimum.accumulate(entry)
        from_frame = np.maximum.accumulate(np.where(entry <= lowest, every, 0))
        after_pause = lowest + rest_sums
        paused = np.minimum(said, after_pause)
        paused_from = np.where(said <= after_pause, every, from_frame)
        yield
    spans, end = [], total
    for index in reversed(range(len(words))):
        end = int(paused_from[end])
        start = int(begins[index][end])
        spans.append((start, end))
        end, paused_from = start, waits[index]
    return spans[::-1]
