"""Fit the network over word vectors (`inference/lexicon/vectors.npz`) that scores the emotions of English text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inference.sentiment import LISTED, listed_features, people
from inference.word_network import GROUP, LONGEST, SIZE, SPANS, WordNetwork, tokens

from ..voices.emotional import KINDS, Line

FREQUENT, SEARCHED = 12_000, 60_000  # words of GloVe that are kept in any case, and among which others are looked up
CHANNELS = 64  # of the filters of each span
ROUNDS, BATCH = 10, 64
RATES = 1e-3, 1.5e-3  # of the vectors, and of the rest
HIDDEN, DROPPED, SMOOTHING = 0.1, 0.5, 0.1  # shares of hidden words and of dropped answers; smoothing of the targets
NEW = 0.1  # deviation of the vectors of words that GloVe lacks
EMPTY = -1  # row of a place without a word


@cache
def glove(path: Path) -> dict[str, np.ndarray]:
    """Words and their vectors (50,) from a file such as glove.6B.50d.txt, the most frequent first.

    Raises SystemExit for a file with another number of columns.
    """
    vectors: dict[str, np.ndarray] = {}
    with path.open(encoding="utf-8") as file:
        for line, _ in zip(file, range(SEARCHED), strict=False):
            word, *numbers = line.rstrip().split(" ")
            if len(numbers) != SIZE:
                raise SystemExit(f"{path}: expected a word and {SIZE} numbers a line, found {len(numbers)} numbers.")
            vectors[word] = np.array(numbers, np.float32)
    return vectors


class Network(nn.Module):
    """The network of `WordNetwork`, to be fitted. vectors: (V, 50), the first of unknown words."""

    def __init__(self, vectors: np.ndarray) -> None:
        super().__init__()
        self.vectors = nn.Embedding.from_pretrained(torch.from_numpy(vectors), freeze=False)
        self.filters = nn.ModuleList(nn.Linear(SIZE * span, CHANNELS) for span in SPANS)
        self.pooled = nn.Linear(2 * CHANNELS * len(SPANS), len(KINDS))
        self.listed = nn.Linear(len(LISTED), len(KINDS), bias=False)

    def forward(self, rows: Tensor, listed: Tensor) -> Tensor:
        """(B, 8) logits. rows: (B, LONGEST) rows of words, EMPTY beyond the end. listed: (B, 24)."""
        present = (rows != EMPTY).float()[..., None]
        if self.training:
            rows = rows * (torch.rand(rows.shape) >= HIDDEN)
        vectors = self.vectors(rows.clamp(min=0)) * present
        pooled: list[Tensor] = []
        for span, weights in zip(SPANS, self.filters, strict=True):
            padded = F.pad(vectors, (0, 0, 0, span - 1))
            windows = torch.cat([padded[:, start : start + LONGEST] for start in range(span)], dim=2)
            answers = F.relu(weights(windows)) * present
            pooled += [answers.amax(dim=1), answers.sum(dim=1) / present.sum(dim=1).clamp(min=1)]
        return self.pooled(F.dropout(torch.cat(pooled, dim=1), DROPPED, self.training)) + self.listed(listed)


def fit_network(training: Sequence[Line], vectors_of: dict[str, np.ndarray], seed: int = 0) -> WordNetwork:
    """The network that fits these lines. vectors_of: vectors to begin with, see `glove`."""
    torch.manual_seed(seed)
    split = [tokens(line.text, people(), vectors_of.__contains__)[:LONGEST] for line in training]
    frequent = [word for word, _ in zip(vectors_of, range(FREQUENT), strict=False)]
    words = list(dict.fromkeys(["", GROUP, *(token for one in split for token in one), *frequent]))
    places = {word: row for row, word in enumerate(words)}
    usual = 2 * np.std([vectors_of[word] for word in frequent]) if frequent else 1.0
    noise = np.random.default_rng(seed).normal(0, NEW, (len(words), SIZE)).astype(np.float32)
    start = np.stack([vectors_of[word] / usual if word in vectors_of else noise[row] for word, row in places.items()])
    model = Network(start.astype(np.float32)).train()
    rows = torch.full((len(training), LONGEST), EMPTY)
    for number, one in enumerate(split):
        rows[number, : len(one)] = torch.tensor([places[token] for token in one], dtype=torch.int64)
    listed = torch.from_numpy(np.stack([listed_features(line.text) for line in training]))
    kinds = torch.tensor([KINDS.index(line.kind) for line in training])
    rest = [part for name, part in model.named_parameters() if name != "vectors.weight"]
    groups = [{"params": [model.vectors.weight]}, {"params": rest}]
    optimiser = torch.optim.Adam(groups, RATES[1])
    total = ROUNDS * -(-len(training) // BATCH)
    for step in range(total):
        if step * BATCH % len(training) < BATCH:
            order = torch.randperm(len(training))
        for group, rate in zip(optimiser.param_groups, RATES, strict=True):
            group["lr"] = rate * min(1.0, 1.3 * (1 - step / total) + 0.05)
        batch_rows = order[torch.arange(step * BATCH, step * BATCH + BATCH) % len(training)]
        loss = F.cross_entropy(
            model(rows[batch_rows], listed[batch_rows]), kinds[batch_rows], label_smoothing=SMOOTHING
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return _exported(model, places)


@torch.no_grad()
def _exported(model: Network, places: dict[str, int]) -> WordNetwork:
    vectors = model.vectors.weight.numpy()
    unit = np.maximum(np.abs(vectors).max(axis=0), 1e-6) / 127
    layers = [layer for layer in model.filters if isinstance(layer, nn.Linear)]
    return WordNetwork(
        places, np.rint(vectors / unit).astype(np.int8), unit.astype(np.float32),
        tuple(layer.weight.T.numpy().copy() for layer in layers), tuple(layer.bias.numpy().copy() for layer in layers),
        model.pooled.weight.T.numpy().copy(), model.listed.weight.T.numpy().copy(), model.pooled.bias.numpy().copy(),
    )  # fmt: skip
