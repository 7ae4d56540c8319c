"""Rendered heads in the form of footage: a person is a take of a few frames, and nothing else is known of them.

Only the pictures and the tracked points are read. The files with coefficients, masks and places are never opened, so
that no stage that trains on `HeadsAsFootage` can learn from labels; a test removes these files.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .takes import Footage

# Tracked points of `heads.mesh` whose mean stands in for each point that a detector would find, in the order of
# `takes.NINE` and `takes.MARKS`. An eye is the middle of its corners; for a mark the nearest tracked point is taken.
STANDING_IN = (
    (496, 466), (310, 288), (567,), (258, 200), (6, 152), (241,), (144,), (241, 168), (181,),
    *((mark,) for mark in (
        223, 228, 116, 202, 128, 115, 227, 83, 12, 170, 79, 57,  # outline of the lips
        96, 70, 54, 243, 196, 209, 117, 54, 243, 127,  # inner edges of the lips
        496, 260, 260, 451, 466, 308, 382, 336, 310, 406, 378, 378, 288, 427, 411, 445,  # lids
        296, 343, 284, 385, 357, 414, 407, 352, 298, 351,  # brows
        575, 768, 690, 582,  # in front of the ears
    )),
)  # fmt: skip


class HeadsAsFootage(Footage):
    """People `first` to `last` of a data set of `python -m training heads`, each as one take.

    noise: standard deviation of an error that is added to every point, in eye distances, as a detector makes one.
    Raises FileNotFoundError if the data set is missing, SystemExit if it has too few people.
    """

    def __init__(
        self, folder: Path, first: int = 0, last: int | None = None, *, noise: float = 0.0, seed: int = 0
    ) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        count, done = int(meta["frames"]), int(meta["done"])
        last = done if last is None else last
        if not first < last <= done:
            raise SystemExit(f"{folder} has {done} people, but people {first} to {last} are needed. Render more.")
        rows = slice(first * count, last * count)
        tracked = np.load(folder / "points.npy", mmap_mode="r")[rows]
        points = np.stack([tracked[:, list(group)].astype(np.float32).mean(1) for group in STANDING_IN], 1)
        if noise:
            distance = np.linalg.norm(points[:, 1] - points[:, 0], axis=1)[:, None, None]
            error = np.random.default_rng(seed).standard_normal(points.shape)
            points = (points + noise * distance * error).astype(np.float32)
        people = np.repeat(np.arange(first, last), count)
        super().__init__(
            np.array(np.load(folder / "frames.npy", mmap_mode="r")[rows]),
            points, people, people.copy(), np.tile(np.arange(count, dtype=float), last - first),
        )  # fmt: skip
