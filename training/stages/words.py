"""Fit what scores the emotions of English text: a table of words and a network over word vectors.

    python -m training words --glove glove.6B.50d.txt --out inference/lexicon

The table (OUT/words.npz) is a regularised logistic regression; for the network (OUT/vectors.npz) see `word_network`.
Both are fitted to all lines but the held-out ones. Groups of files are held back in turn, to measure: these figures are
printed first, unless --quick is given. The vectors to begin with are Stanford's GloVe, trained on Wikipedia 2014 and
Gigaword 5, in the public domain (PDDL 1.0).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression

from inference.contract.emotion import NEUTRAL
from inference.sentiment import LISTED, Learned, listed_features, people, words_of
from inference.word_table import ROWS, WordTable, grams

from ..voices.emotional import KINDS, TRAINING_FILES, Line, lines
from .word_network import fit_network, glove

FREEDOM = 4.0  # inverse of the strength of the regularisation
LEAST = 2  # lines in which a word or pair must occur
GROUPS = 5  # of files that are held back together


def fit(known: Sequence[Line]) -> WordTable:
    """The table that fits these lines, which are of three kinds at least."""
    listed = np.stack([listed_features(line.text) for line in known])
    counts = _counts(known)
    used = np.flatnonzero(np.asarray((counts > 0).sum(axis=0)).ravel() >= LEAST)
    model = LogisticRegression(C=FREEDOM, max_iter=200)
    model.fit(hstack([counts[:, used], csr_matrix(listed)]).tocsr(), [KINDS.index(line.kind) for line in known])
    weights = np.zeros((len(used) + len(LISTED), len(KINDS)))
    bias = np.full(len(KINDS), -10.0)  # of a kind without lines
    weights[:, model.classes_], bias[model.classes_] = model.coef_.T, model.intercept_
    unit = np.maximum(np.abs(weights[: len(used)]).max(axis=0, initial=0.0), 1e-6) / 127
    rows = np.zeros((ROWS, len(KINDS)), np.int8)
    rows[used] = np.rint(weights[: len(used)] / unit)
    return WordTable(rows, unit.astype(np.float32), weights[len(used) :].astype(np.float32), bias.astype(np.float32))


def _counts(known: Sequence[Line]) -> csr_matrix:
    """(lines, ROWS) weights of the rows of the table in each line."""
    found = [grams(words_of(line.text), people()) for line in known]
    ends = np.cumsum([0, *(len(one) for one in found)])
    columns = np.array([row for one in found for row in one], np.int64)
    values = np.array([weight for one in found for weight in one.values()], np.float32)
    return csr_matrix((values, columns, ends), shape=(len(known), ROWS))


def group_of(path: Path) -> int:
    """The group of a file of lines, all files of which are held back together."""
    return TRAINING_FILES.index(path) % GROUPS


@cache
def learned_without(group: int, vectors: Path) -> Learned:
    """What the lines of the other groups teach, for unbiased scores of this one's lines. vectors: see `glove`."""
    return fit_both([line for path in TRAINING_FILES if group_of(path) != group for line in lines(path)], vectors)


def fit_both(known: Sequence[Line], vectors: Path) -> Learned:
    """The table and the network that fit these lines. vectors: see `glove`."""
    return Learned(fit(known), fit_network(known, glove(vectors)))


def right(learned: Learned, known: Sequence[Line]) -> tuple[float, float]:
    """Shares of emotional lines whose kind is right, of eight, and of neutral lines that are recognised."""
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for line in known:
        scores = learned.scores(line.text, listed_features(line.text))
        hits[line.kind == NEUTRAL].append(KINDS[int(scores.argmax())] == line.kind)
    return float(np.mean(hits[False])), float(np.mean(hits[True]))


def run(args: argparse.Namespace) -> None:
    """Fit and write both with the options of `add_options`."""
    for path in () if args.quick else TRAINING_FILES:
        emotional, neutral = right(learned_without(group_of(path), args.glove), lines(path))
        print(f"{path.name} held back: right in {100 * emotional:.1f} % with emotion, {100 * neutral:.1f} % neutral")
    learned = fit_both([line for path in TRAINING_FILES for line in lines(path)], args.glove)
    learned.table.save(args.out / "words.npz")
    learned.network.save(args.out / "vectors.npz")
    for name in ("words.npz", "vectors.npz"):
        print(f"{args.out / name}: {(args.out / name).stat().st_size / 1000:.0f} kB")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("--glove", type=Path, required=True, help="word vectors to begin with: glove.6B.50d.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="leave out the measurement on held-back files")
