"""Fit the table of words (`inference/lexicon/words.npz`) that scores the emotions of English text.

    python -m training words --out inference/lexicon/words.npz

Regularised logistic regression on all lines but the held-out ones. The strength of the regularisation was chosen with
the lines of each of three writers held back in turn; these figures are printed first, unless --quick is given.
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
from inference.sentiment import LISTED, listed_features, people, words_of
from inference.word_table import ROWS, WordTable, grams

from ..voices.emotional import KINDS, LINES, WRITERS, Line, lines

FREEDOM = 4.0  # inverse of the strength of the regularisation
LEAST = 2  # lines in which a word or pair must occur


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


@cache
def table_without(writer: Path) -> WordTable:
    """The table that is fitted to the lines of the other writers, for honest scores of this one's lines."""
    return fit([line for path in (LINES, *WRITERS) if path != writer for line in lines(path)])


def right(table: WordTable, known: Sequence[Line]) -> tuple[float, float]:
    """Shares of emotional lines whose kind is right, of eight, and of neutral lines that are recognised."""
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for line in known:
        scores = table.scores(words_of(line.text), listed_features(line.text), people())
        hits[line.kind == NEUTRAL].append(KINDS[int(scores.argmax())] == line.kind)
    return float(np.mean(hits[False])), float(np.mean(hits[True]))


def run(args: argparse.Namespace) -> None:
    """Fit and write the table with the options of `add_options`."""
    for path in () if args.quick else WRITERS:
        emotional, neutral = right(table_without(path), lines(path))
        print(f"{path.name} held back: right in {100 * emotional:.1f} % with emotion, {100 * neutral:.1f} % neutral")
    table = fit([line for path in (LINES, *WRITERS) for line in lines(path)])
    table.save(args.out)
    used = np.count_nonzero(table.rows.any(axis=1))
    print(f"{args.out}: {args.out.stat().st_size / 1000:.0f} kB, {used} rows in use")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("--out", type=Path, required=True, help="file to write (.npz)")
    parser.add_argument("--quick", action="store_true", help="leave out the measurement on held-back writers")
