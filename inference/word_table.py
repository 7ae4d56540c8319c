"""Scores of emotions of English text from a table that is learned from lines of dialogue (`lexicon/words.npz`).

A linear model of the words, of pairs of neighbouring words, of parts of words, and of the features of the word lists.
Each word or pair selects a row of the table by a checksum. Numpy and the standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np

FILE = Path(__file__).with_name("lexicon") / "words.npz"
ROWS = 1 << 17
WORD, PAIR, APART, PART = 1.0, 0.7, 0.4, 0.3  # weights of words, pairs, pairs with one word between, parts of words
SIZES = (3, 4, 5)  # letters of the parts of words
LONGEST_WORD, MOST_WORDS = 40, 400  # the rest of a longer word or text is not read
HIDDEN = "*"  # stands for words about groups of people, see `grams`
_ENDINGS = ("ingly", "edly", "ings", "ing", "ied", "ies", "ed", "es", "ly", "s", "er", "e", "y")


@dataclass(frozen=True, eq=False)
class WordTable:
    """rows: (ROWS, 8) int8. unit: (8,) value of 1 in a column. listed: (n, 8) weights of the features of the word
    lists. bias: (8,). The columns are the seven emotions and neutral."""

    rows: np.ndarray
    unit: np.ndarray
    listed: np.ndarray
    bias: np.ndarray

    def logits(self, words: Sequence[str], listed: np.ndarray, silent: frozenset[str]) -> np.ndarray:
        """(8,) logits of a text with these words (lower case) and features (n,) of the word lists.

        silent: words that have no effect.
        """
        found = grams(words, silent)
        weights = np.array(list(found.values()))
        summed = weights @ self.rows[list(found)].astype(np.float64) if found else np.zeros(len(self.bias))
        return summed * self.unit + listed @ self.listed + self.bias

    def save(self, path: Path) -> None:
        """Write the table as .npz."""
        np.savez_compressed(path, rows=self.rows, unit=self.unit, listed=self.listed, bias=self.bias)


def load_table(path: Path = FILE) -> WordTable:
    """Read a table that `WordTable.save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return WordTable(file["rows"], file["unit"], file["listed"], file["bias"])


@cache
def shipped_table() -> WordTable:
    """The table of the extension."""
    return load_table()


def grams(words: Sequence[str], silent: frozenset[str]) -> dict[int, float]:
    """The rows of a text and their weights. Silent words are hidden: only their place counts."""
    shown = [HIDDEN if word in silent else word[:LONGEST_WORD] for word in words[:MOST_WORDS]]
    ends = ["^", *shown, "$"]
    names = {f"w:{stem(word)}": WORD for word in shown}
    names |= {f"b:{first} {second}": PAIR for first, second in pairwise(ends)}
    names |= {f"k:{first} {second}": APART for first, second in zip(ends, ends[2:], strict=False)}
    for word in shown:
        whole = f"<{word}>"
        names |= {f"c:{whole[at : at + size]}": PART for size in SIZES for at in range(len(whole) - size + 1)}
    found: dict[int, float] = {}
    for name, weight in names.items():
        row = crc32(name.encode("utf-8", "replace")) % ROWS
        found[row] = found.get(row, 0.0) + weight
    return found


def stem(word: str) -> str:
    """A word without its ending, about as in a dictionary: "crying" and "cries" have one stem."""
    ending = next((one for one in _ENDINGS if word.endswith(one) and len(word) - len(one) >= 3), "")
    stemmed = word[: len(word) - len(ending)]
    return re.sub(r"(.)\1$", r"\1", stemmed) if len(stemmed) > 3 else stemmed
