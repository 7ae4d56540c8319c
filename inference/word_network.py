"""Scores of emotions of English text by a small network over word vectors (`lexicon/vectors.npz`). Numpy only.

The vectors began as GloVe's and were trained further with the network. Its filters cover words, pairs and triples of
neighbours, and the marks between them. Words that no line of the training has get scores by their GloVe vectors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("lexicon") / "vectors.npz"
SIZE = 50  # numbers of a vector
SPANS = (1, 2, 3)  # neighbouring words that a filter covers
LONGEST = 24  # words and marks of a text that are read
UNKNOWN = 0  # row of words that are not known
GROUP = "person"  # stands for words about groups of people

_TOKEN = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|\.\.\.|…|[.!?,;:]")


@dataclass(frozen=True, eq=False)
class WordNetwork:
    """places: row of each word. vectors: (V, 50) int8. unit: (50,) value of 1 in a column.

    filters, offsets: for each of SPANS, weights (50 span, C) and offsets (C,). pooled: (6 C, 8) weights of the largest
    and mean answers of the filters. listed: (24, 8) weights of the features of the word lists. bias: (8,).
    """

    places: dict[str, int]
    vectors: np.ndarray
    unit: np.ndarray
    filters: tuple[np.ndarray, ...]
    offsets: tuple[np.ndarray, ...]
    pooled: np.ndarray
    listed: np.ndarray
    bias: np.ndarray

    def logits(self, text: str, listed: np.ndarray, silent: frozenset[str]) -> np.ndarray:
        """(8,) logits of a text with these features (24,) of the word lists. silent: words that have no effect."""
        rows = [self.places.get(token, UNKNOWN) for token in tokens(text, silent, self.places.__contains__)[:LONGEST]]
        vectors = self.vectors[rows] * self.unit
        pooled_features: list[np.ndarray] = []
        for span, weights, offset in zip(SPANS, self.filters, self.offsets, strict=True):
            padded = np.concatenate([vectors, np.zeros((span - 1, SIZE), np.float32)])
            windows = np.concatenate([padded[start : start + len(rows)] for start in range(span)], axis=1)
            answers = np.maximum(windows @ weights + offset, 0)
            pooled_features += [answers.max(axis=0), answers.mean(axis=0)]
        return np.concatenate(pooled_features) @ self.pooled + listed @ self.listed + self.bias

    def save(self, path: Path) -> None:
        """Write the network as .npz. Weights are kept as float16."""
        weights = {f"filter{span}": part for span, part in zip(SPANS, self.filters, strict=True)}
        weights |= {f"offset{span}": part for span, part in zip(SPANS, self.offsets, strict=True)}
        weights |= {"unit": self.unit, "pooled": self.pooled, "listed": self.listed, "bias": self.bias}
        halves: dict[str, Any] = {name: part.astype(np.float16) for name, part in weights.items()}
        words = np.frombuffer("\n".join(self.places).encode(), np.uint8)
        np.savez_compressed(path, words=words, vectors=self.vectors, **halves)


def load_network(path: Path = FILE) -> WordNetwork:
    """Read a network that `WordNetwork.save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        words = file["words"].tobytes().decode().split("\n")
        part = {name: file[name].astype(np.float32) for name in file.files if name not in ("words", "vectors")}
        filters, offsets = (tuple(part[f"{name}{span}"] for span in SPANS) for name in ("filter", "offset"))
        return WordNetwork(
            {word: row for row, word in enumerate(words)}, file["vectors"], part["unit"], filters, offsets,
            part["pooled"], part["listed"], part["bias"],
        )  # fmt: skip


@cache
def shipped_network() -> WordNetwork:
    """The network of the extension."""
    return load_network()


def tokens(text: str, silent: frozenset[str], known: Callable[[str], bool]) -> Sequence[str]:
    """The words and marks of a text in lower case. Unknown words are divided, "didn't" into "did" and "n't"."""
    result: list[str] = []
    for match in _TOKEN.findall(text.replace("’", "'").replace("…", "...")):
        token = match.lower()
        if known(token) or token in silent:
            result.append(token)
        elif token.endswith("n't"):
            result += [token[:-3], "n't"]
        elif "'" in token:
            first, _, last = token.partition("'")
            result += [first, "'" + last]
        else:
            result += token.split("-")
    return [GROUP if token in silent else token for token in result]
