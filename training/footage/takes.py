"""Frames of people with COUNT points each: the only input of the stages of `python -m training footage`.

Points are in picture coordinates [-1, 1], x right and y down: the NINE, then MARKS of lips, brows, lids and ears.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.face.landmarks import MIRROR, landmark_indices

NINE = (
    "left_eye",
    "right_eye",
    "nose_tip",
    "left_corner",
    "right_corner",
    "upper_lip",
    "lower_lip",
    "mouth",
    "chin",
)  # left and right in the picture; an eye is the middle of its corners, `mouth` the inner mouth's centre
LEFT_EYE, RIGHT_EYE, NOSE, LEFT_CORNER, RIGHT_CORNER, UPPER_LIP, LOWER_LIP, MOUTH, CHIN = range(len(NINE))
# Landmarks of the landmark network after the nine: outlines and inner edges of the lips, brows and lids, and both
# points in front of each ear.
_OF_LIPS = landmark_indices(
    "upperLipRight", "upperLipLeft", "lowerLipRight", "lowerLipLeft", "innerUpper", "innerLower"
)
_OF_UPPER = landmark_indices("lidRight", "lidLeft", "browRight", "browLeft")
_OF_EARS = landmark_indices("jawRight1", "jawRight2", "jawLeft1", "jawLeft2")
MARKS = [*_OF_LIPS, *_OF_UPPER, *_OF_EARS]
COUNT = len(NINE) + len(MARKS)
EYES = [LEFT_EYE, RIGHT_EYE]
LIPS = [*range(LEFT_CORNER, len(NINE) + len(_OF_LIPS))]
UPPER = [*range(LIPS[-1] + 1, COUNT - len(_OF_EARS))]
EARS = [*range(COUNT - len(_OF_EARS), COUNT)]
RIGID = [*EYES, NOSE, *EARS]  # points that neither speech nor expression moves
# The point on the other side of the face, for every point, and for the points UPPER alone.
_NINE_MIRROR = [RIGHT_EYE, LEFT_EYE, NOSE, RIGHT_CORNER, LEFT_CORNER, UPPER_LIP, LOWER_LIP, MOUTH, CHIN]
POINTS_MIRROR = [*_NINE_MIRROR, *(len(NINE) + MARKS.index(MIRROR[mark]) for mark in MARKS)]
UPPER_MIRROR = [POINTS_MIRROR[point] - UPPER[0] for point in UPPER]
NEUTRAL_SHARE = 0.25  # of a clip's frames, at least one: those that are nearest to a closed mouth and a frontal head
HELD_OUT = 0.15  # share of each take's time that is not trained on


@dataclass(frozen=True)
class Footage:
    """N frames of one or more people.

    frames: (N, S, S, 3) uint8. points: (N, COUNT, 2) float32 in [-1, 1]. take_ids: (N,) int64; frames of a take are
    consecutive. person: (N,) int64. seconds: (N,) float64 time in the clip.
    """

    frames: np.ndarray
    points: np.ndarray
    take_ids: np.ndarray
    person: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def subset(self, rows: np.ndarray) -> Footage:
        """The frames with the given numbers (n,)."""
        return Footage(self.frames[rows], self.points[rows], self.take_ids[rows], self.person[rows], self.seconds[rows])

    def pictures(self, rows: np.ndarray | Sequence[int], size: int | None = None) -> Tensor:
        """(n, 3, size, size) in [-1, 1]. size: default the frames' own, of which it must be a divisor."""
        pictures = torch.from_numpy(self.frames[np.asarray(rows)]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return pictures if size in (None, pictures.shape[-1]) else F.avg_pool2d(pictures, pictures.shape[-1] // size)

    @cached_property
    def takes(self) -> list[np.ndarray]:
        """Frame numbers of every take with two frames or more."""
        starts = np.flatnonzero(np.diff(self.take_ids, prepend=self.take_ids[:1] - 1))
        return [rows for rows in np.split(np.arange(len(self)), starts[1:]) if len(rows) > 1]

    @cached_property
    def neutral(self) -> list[np.ndarray]:
        """Frame numbers of every take that suit as a source: mouth nearly closed, head near its usual pose."""
        opening = mouth_opening(self.points)
        pose = pose_from_points(self.points)
        pose = pose / np.maximum(pose.std(0), 1e-6)
        chosen = []
        for rows in self.takes:
            turned = np.linalg.norm(pose[rows] - np.median(pose[rows], 0), axis=1)
            distance = turned / 2.0 + opening[rows] / max(opening.std(), 1e-6)
            chosen.append(rows[np.argsort(distance)[: max(1, round(NEUTRAL_SHARE * len(rows)))]])
        return chosen

    def sample_pairs(
        self, rng: np.random.Generator, sources: int, drivings: int = 1, neutral: float = 0.7
    ) -> tuple[np.ndarray, np.ndarray]:
        """Random frame numbers of sources (S,) and of driving frames of the same take (S, drivings).

        neutral: share of sources that are drawn from the neutral frames.
        """
        source, driving = np.empty(sources, np.int64), np.empty((sources, drivings), np.int64)
        for row, take in enumerate(rng.integers(0, len(self.takes), sources)):
            source[row] = rng.choice(self.neutral[take] if rng.random() < neutral else self.takes[take])
            driving[row] = rng.choice(self.takes[take], drivings)
        return source, driving


class Split(NamedTuple):
    """Footage to learn from and footage to measure on."""

    trained: Footage
    heldout: Footage


def split_in_time(footage: Footage, share: float = HELD_OUT) -> Split:
    """Hold out the end of every take: neighbouring frames are nearly copies, so random ones would not do."""
    late = np.zeros(len(footage), bool)
    for rows in footage.takes:
        late[rows[len(rows) - max(2, round(share * len(rows))) :]] = True
    return Split(footage.subset(np.flatnonzero(~late)), footage.subset(np.flatnonzero(late)))


def eye_frame(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle of the eyes (N, 2), unit vector along the eyes (N, 2) and eye distance (N,) of points (N, P >= 2, 2)."""
    across = points[:, RIGHT_EYE] - points[:, LEFT_EYE]
    distance = np.maximum(np.linalg.norm(across, axis=1), 1e-6)
    return points[:, EYES].mean(1), across / distance[:, None], distance


def to_eye_frame(points: np.ndarray) -> np.ndarray:
    """(N, P, 2) points with the eyes' middle as origin, x along the eyes, in eye distances."""
    middle, axis, distance = eye_frame(points)
    z = (points - middle[:, None]) @ np.array([1, 1j]) / ((axis @ np.array([1, 1j])) * distance)[:, None]
    return np.stack([z.real, z.imag], -1).astype(np.float32)


def mirrored(points: np.ndarray) -> np.ndarray:
    """(N, COUNT, 2) points of the pictures that are mirrored from left to right."""
    return points[:, POINTS_MIRROR] * np.array([-1.0, 1.0], points.dtype)


def mouth_opening(points: np.ndarray) -> np.ndarray:
    """(N,) distance of upper and lower lip in eye distances."""
    local = to_eye_frame(points)
    return local[:, LOWER_LIP, 1] - local[:, UPPER_LIP, 1]


def pose_from_points(points: np.ndarray) -> np.ndarray:
    """(N, 6) from points that speech does not move: eyes' middle x and y, log eye distance, roll, nose x and y."""
    middle, axis, distance = eye_frame(points)
    local = to_eye_frame(points)
    roll = np.arctan2(axis[:, 1], axis[:, 0])
    columns = [middle, np.log(distance)[:, None], roll[:, None], local[:, NOSE]]
    return np.concatenate(columns, 1).astype(np.float32)


def subtract_take_mean(values: np.ndarray, take_ids: np.ndarray) -> np.ndarray:
    """(N, ...) float32: values minus the mean of their take. take_ids: (N,)."""
    _, inverse, counts = np.unique(take_ids, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), *values.shape[1:]), np.float64)
    np.add.at(sums, inverse, values)
    means = sums / counts.reshape(-1, *[1] * (values.ndim - 1))
    return (values - means[inverse]).astype(np.float32)


def mouth_window_grid(points: np.ndarray, wide: float, high: float, columns: int, rows: int) -> Tensor:
    """(N, rows, columns, 2) sampling positions of a window around the mouth, x along the eyes.

    wide, high: its extent in eye distances.
    """
    _, axis, distance = eye_frame(points)
    x = (np.arange(columns) + 0.5) / columns - 0.5
    y = (np.arange(rows) + 0.5) / rows - 0.5
    right = axis * distance[:, None] * wide
    down = np.stack([-axis[:, 1], axis[:, 0]], 1) * distance[:, None] * high
    grid = (
        points[:, MOUTH][:, None, None]
        + x[None, None, :, None] * right[:, None, None]
        + y[None, :, None, None] * down[:, None, None]
    )
    return torch.from_numpy(grid.astype(np.float32))


def mouth_windows(pictures: Tensor, points: np.ndarray, wide: float, high: float, columns: int, rows: int) -> Tensor:
    """(N, 3, rows, columns) aligned mouth windows of pictures (N, 3, S, S), see `mouth_window_grid`."""
    grid = mouth_window_grid(points, wide, high, columns, rows)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
