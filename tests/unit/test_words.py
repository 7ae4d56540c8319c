"""Aligning words with mouth curves."""

from itertools import pairwise

import numpy as np
import pytest
from edtalk.edtalk_blender.lipsync import mouth_shapes, words

NAMES = sorted({slider for shape in mouth_shapes.MOUTH_SHAPES.values() for slider in shape})
FPS = 24


def spoken(text: str, pauses: dict[int, float], stretch: float = 1.0) -> tuple[np.ndarray, list[int]]:
    """(T, n) rows of a mouth that says a text, and the first frame of each word. pauses: seconds before a word."""
    rows, starts = [], []
    for index, word in enumerate(words.words_of(text)):
        rows += ["Rest"] * round(pauses.get(index, 0.0) * FPS)
        starts.append(len(rows))
        count = max(round(word.duration * stretch * FPS), len(word.shapes))
        rows += [word.shapes[int(place * len(word.shapes) / count)] for place in range(count)]
    table = [[mouth_shapes.MOUTH_SHAPES[name].get(slider, 0.0) for slider in NAMES] for name in rows]
    return np.array(table), starts


@pytest.mark.parametrize("stretch", [0.8, 1.0, 1.7])
@pytest.mark.parametrize(
    ("text", "pauses"),
    [
        ("Promise to remember me, when I must stop.", {0: 0.3, 4: 0.5}),
        ("Wir sprechen heute über das Wetter", {3: 0.4}),
        ("one", {0: 1.0}),
    ],
)
def test_words_begin_where_the_mouth_says_them(text, pauses, stretch):
    rows, starts = spoken(text, pauses, stretch)
    noisy = rows + np.random.default_rng(2).normal(0, 0.01, rows.shape)
    spans = words.align(words.words_of(text), NAMES, noisy, FPS)
    assert np.abs(np.array(spans)[:, 0] - starts).max() <= 2
    assert all(start < end for start, end in spans)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))


def test_more_words_than_frames_give_nothing():
    rows, _starts = spoken("a", {})
    assert words.align(words.words_of("a " * 100), NAMES, rows, FPS) == []
    assert words.align([], NAMES, rows, FPS) == []


def test_any_text_is_split_into_words_with_shapes():
    found = words.words_of("  Hello, -- 42 \u4f60\u597d  d'accord!  \u2026 ")
    assert [word.text for word in found] == ["Hello,", "42", "\u4f60\u597d", "d'accord!"]
    assert all(word.shapes and word.duration > 0 for word in found)
    assert [word.before_pause for word in found] == [True, False, False, True]


def test_runs_name_each_shape_once():
    rows, _starts = spoken("mama", {0: 0.5})
    found = mouth_shapes.runs(NAMES, rows)
    assert [name for _row, name in found] == ["Rest", "MBP", "A", "MBP", "A"]
    assert mouth_shapes.runs(NAMES, rows[:0]) == []
    assert mouth_shapes.is_known(NAMES)
    assert not mouth_shapes.is_known(["lip_01", "lip_02"])
