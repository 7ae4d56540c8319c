"""Chooses the neutral frame of a clip, with which capture compares the others.

The coefficients of single frames are read with errors, above all of real faces: those of a turned head with an open
mouth may be smaller than those of the face at rest. So only frames are considered whose landmarks show a face that is
frontal, with the mouth closed and the eyes open, and of these the one with the smallest coefficients is chosen.
"""

from __future__ import annotations

import numpy as np

from .contract.coefficients import Coefficients
from .face.crop import EYES, TEMPLATE
from .face.landmarks import (
    INNER_LIPS,
    LEFT_LIDS,
    NAMES,
    RIGHT_LIDS,
    find_each,
    landmark_indices,
    square_at,
)

MOST = 100  # pictures that are looked at, at most
SHARE = 0.2  # of them that are considered
AT_ONCE = 8  # pictures of a batch of the landmark network
# Differences that count alike, in eye distances: the gap of the lips, a turn of the nose to the side and up or down,
# the opening of the eyes below and above the usual one, the width of the mouth, the height of the brows, and the
# difference in height of the mouth's corners.
GAP, YAW, PITCH, SHUT, WIDE, WIDTH, BROWS, SKEW = 0.06, 0.12, 0.08, 0.03, 0.05, 0.08, 0.06, 0.06

_NOSE, _CORNERS, _BROWS = (
    NAMES.index("noseTip"),
    landmark_indices("mouthRight", "mouthLeft"),
    landmark_indices("browRight", "browLeft"),
)


class NeutralFrame:
    """Collects evenly spaced pictures of a clip of any length: at most `MOST` are kept.

    kept: their numbers and pictures.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[int, np.ndarray]] = []
        self._every = 1

    def add(self, number: int, picture: np.ndarray) -> None:
        """Add the face crop of frame `number`, uint8 (S, S, 3). Frames are added in order."""
        if not self.keeps(number):
            return
        self.kept.append((number, picture))
        if len(self.kept) > MOST:
            self._every *= 2
            self.kept = [one for one in self.kept if one[0] % self._every == 0]

    def keeps(self, number: int) -> bool:
        """Whether `add` keeps frame `number` if it is the next one."""
        return number % self._every == 0

    def choose(self, rows: Coefficients, seen: np.ndarray) -> int:
        """The number of the neutral frame.

        rows: (T, n) coefficients of all frames. seen: (T,) bool, frames in which the face is visible; others are
        considered only if there are none of these. If the landmarks find no face, `nearest_to_rest` of all frames.
        """
        near = [number for number, _ in self.near(seen)]
        return near[int(np.square(rows.values[near]).sum(1).argmin())] if near else nearest_to_rest(rows, seen)

    def near(self, seen: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Those of `kept` whose landmarks are nearest to a face at rest; [] if no face is found. seen: see `choose`."""
        kept = [(number, picture) for number, picture in self.kept if seen[number]]
        if not kept:
            return []
        pictures = [picture for _, picture in kept]
        squares = [square_at((EYES + 0.5) * len(picture) / TEMPLATE - 0.5) for picture in pictures]
        parts = [slice(at, at + AT_ONCE) for at in range(0, len(kept), AT_ONCE)]
        found = [find_each(pictures[part], squares[part], passes=3, lips=False) for part in parts]
        present = np.flatnonzero(np.concatenate([one.present for one in found]) > 0.5)
        if not len(present):
            return []
        away = distance_from_rest(np.concatenate([one.points for one in found])[present])
        return [kept[place] for place in present[away <= np.quantile(away, SHARE)]]


def nearest_to_rest(rows: Coefficients, seen: np.ndarray) -> int:
    """Index of the frame with the smallest coefficients.

    seen: (T,) bool, frames in which the face is visible. Other frames are considered only if there are none of these.
    """
    energy = np.square(rows.values).sum(axis=1)
    return int(np.argmin(np.where(seen, energy, np.inf))) if seen.any() else int(np.argmin(energy))


def distance_from_rest(points: np.ndarray) -> np.ndarray:
    """(N,) how far faces of one person are from a frontal one at rest; the usual face in these pictures is about 1.

    points: (N, COUNT, 2) landmarks. What differs between people is compared with the usual value in these pictures.
    """
    at = np.asarray(points, np.float64) @ (1, 1j)
    right, left = at[:, RIGHT_LIDS].mean(1), at[:, LEFT_LIDS].mean(1)
    at = (at - (right + left)[:, None] / 2) / (left - right)[:, None]  # the eye line is the real axis
    upper, lower = np.split(at[:, INNER_LIPS].imag, 2, axis=1)
    gap = (lower - upper).max(1)
    openings = [(at[:, lids[5:]] - at[:, lids[1:4]]).imag.mean(1) for lids in (RIGHT_LIDS, LEFT_LIDS)]
    opening = np.mean(openings, 0)
    corners, nose = at[:, _CORNERS[1]] - at[:, _CORNERS[0]], at[:, _NOSE]
    brows = at[:, _BROWS].imag.mean(1)
    differences = [
        np.maximum(gap - np.quantile(gap, 0.1), 0) / GAP,
        nose.real / YAW,
        (nose.imag - np.median(nose.imag)) / PITCH,
        np.maximum(np.median(opening) - opening, 0) / SHUT,
        np.maximum(opening - np.quantile(opening, 0.9), 0) / WIDE,
        (abs(corners) - np.median(abs(corners))) / WIDTH,
        (brows - np.median(brows)) / BROWS,
        corners.imag / SKEW,
    ]
    return np.square(differences).sum(0)
