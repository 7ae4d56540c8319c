"""Motion between two frames of a take without labels: from the points, refined by optical flow.

The points give a similarity transform of the head and thin-plate splines around it. Optical flow between the driving
frame and the source warped by this field refines it where forward and backward flow agree.

An *exchange* takes a base frame with one code (of lips, or of brows and lids) of a donor frame.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from inference.thin_plate import thin_plate_spline

from ..heads.data import Tracks
from ..learning.losses import MOST, OWN_MOTION
from .takes import EYES, LIPS, MOUTH, NOSE, UPPER, Footage, eye_frame

POOL_SOURCES, POOL_DRIVINGS = 2500, 2  # sources with known motion, and driving frames of each
LEAST_SOURCES = 200  # whatever the time
CELL = 2  # pixels: side of the cells in which the splines are evaluated
SMOOTHING = 0.05  # of the splines, which need not pass exactly through the points: a detector errs
TRUSTED = 0.6  # share of the optical flow that is taken where it is consistent
CONSISTENT = 1.5  # pixels: difference of forward and backward flow at which trust falls to 1 / e
# Points that speech does not move, in the frame of the eyes in eye distances: temples, forehead and beside the nose.
STILL = ((-1.0, 0.6), (1.0, 0.6), (0.0, -0.6), (-0.25, 0.5), (0.25, 0.5))
# The same for brows and lids: nose, cheeks, temples, top of the forehead, and a ring around the head.
UPPER_STILL = (
    (-0.25, 0.5), (0.25, 0.5), (0.0, 0.8), (-0.6, 1.2), (0.6, 1.2), (-1.0, 0.6), (1.0, 0.6),
    (-0.5, -0.9), (0.0, -1.0), (0.5, -0.9), (-0.8, -1.3), (0.0, -1.6), (0.8, -1.3), (-1.1, -0.6), (1.1, -0.6),
    (-1.2, 0.0), (1.2, 0.0), (-0.9, 1.8), (0.9, 1.8), (0.0, 2.2),
)  # fmt: skip
CANDIDATES = 3  # donors that an exchange of brows and lids chooses from: most frames hardly differ in them
PART_SMOOTHING = 0.1  # of the splines of a motion of the lips, or of brows and lids, alone
# Points of a driving frame where the motion is compared, as grids in the frame of the eyes, in eye distances.
MOUTH_GRID, FACE_GRID = (16, 12), (14, 14)
MOUTH_EXTENT, FACE_EXTENT = (1.5, 1.3), (2.4, 2.9)
FACE_CENTRE = 0.55  # eye distances below the eyes
# The same where an exchange of brows and lids is compared: the whole head, since most of it must stay where it is.
HEAD_GRID, HEAD_EXTENT, HEAD_CENTRE = (20, 26), (3.0, 3.9), 0.25


@dataclass(frozen=True)
class MotionPool:
    """P points in each of N = S * K pairs of frames, K driving frames a source; positions in picture coordinates."""

    source_rows: np.ndarray  # (S,)
    driving_rows: np.ndarray  # (S, K)
    source: torch.Tensor  # (N, P, 2) float16
    driving: torch.Tensor  # (N, P, 2) float16
    inside: torch.Tensor  # (N, P) bool, both positions are in the picture

    def tracks(self, chosen: np.ndarray) -> Tracks:
        """Tracks of the pairs of the chosen sources (s,)."""
        drivings = self.driving_rows.shape[1]
        pairs = torch.from_numpy((chosen[:, None] * drivings + np.arange(drivings)).ravel())
        return Tracks(self.source[pairs].float(), self.driving[pairs].float(), self.inside[pairs].float())


@dataclass(frozen=True)
class BaseFrames:
    """E frames in which one code is exchanged, with P positions in each, in picture coordinates."""

    rows: np.ndarray  # (E,) frame numbers
    positions: torch.Tensor  # (E, P, 2)
    source: torch.Tensor  # (E, P, 2) the same positions in the source


@dataclass(frozen=True)
class LipExchanges:
    """E base frames with the lip codes of donor frames, and the motion that this must cause."""

    base: BaseFrames
    donor: np.ndarray  # (E,) frame numbers
    tracks: Tracks


@dataclass(frozen=True)
class UpperExchanges:
    """E base frames with the expression codes of donor frames, and the motion that this must cause."""

    base: np.ndarray  # (E,) frame numbers
    donor: np.ndarray  # (E,) frame numbers
    before: torch.Tensor  # (E, P, 2) positions all over the head of the base frame
    after: torch.Tensor  # (E, P, 2) the same positions after the exchange

    @property
    def weight(self) -> torch.Tensor:
        """(E, P) 1 for positions that stay where they are, up to MOST for those that move, 0 outside the picture."""
        inside = (self.before.abs().amax(-1) < 1.0) & (self.after.abs().amax(-1) < 1.0)
        return inside * (1.0 + (self.after - self.before).norm(dim=-1) / OWN_MOTION).clamp(max=MOST)


def sample_base_frames(
    footage: Footage, pool: MotionPool, chosen: np.ndarray, rng: np.random.Generator, portraits: float = 0.3
) -> BaseFrames:
    """One driving frame of each chosen source (s,), or with probability `portraits` the source itself."""
    rows = np.empty_like(chosen)
    source, positions = np.empty((2, len(chosen), POOLED, 2), np.float32)
    drivings = pool.driving_rows.shape[1]
    for index, number in enumerate(chosen):
        driving = int(rng.integers(drivings))
        if rng.random() < portraits:
            rows[index] = pool.source_rows[number]
            jitter = rng.random((POOLED, 2)) - 0.5
            positions[index] = source[index] = sample_positions(footage.points[rows[index]], jitter)
        else:
            rows[index], pair = pool.driving_rows[number, driving], number * drivings + driving
            positions[index], source[index] = pool.driving[pair].numpy(), pool.source[pair].numpy()
    return BaseFrames(rows, torch.from_numpy(positions), torch.from_numpy(source))


def sample_lip_exchanges(
    footage: Footage, lip_motion: np.ndarray, base: BaseFrames, rng: np.random.Generator, *, foreign: float = 0.5
) -> LipExchanges:
    """A random donor for each base frame.

    No picture of such a frame exists, but its motion follows from points: the head's from the base frame, and that of
    the lips from the difference of `lip_motion` (N, 28, 2), see `stages.mouth.MotionCodes.lip_motion`.

    foreign: share of donors that may come from other takes.
    """
    donor = np.empty_like(base.rows)
    after = np.empty(base.positions.shape, np.float32)
    for index, row in enumerate(base.rows):
        take = np.flatnonzero(footage.take_ids == footage.take_ids[row])
        donor[index] = rng.integers(len(footage)) if rng.random() < foreign else rng.choice(take)
        positions, points = base.positions[index].numpy().astype(np.float64), footage.points[row].astype(np.float64)
        after[index] = displaced_positions(points, lip_motion[donor[index]] - lip_motion[row], positions)
    driving = torch.from_numpy(after)
    inside = (base.source.abs().amax(-1) < 1.0) & (driving.abs().amax(-1) < 1.0)
    return LipExchanges(base, donor, Tracks(base.source, driving, inside.float()))


def sample_upper_exchanges(
    footage: Footage, upper_motion: np.ndarray, base: np.ndarray, rng: np.random.Generator, *, foreign: float = 0.5
) -> UpperExchanges:
    """A donor of brows and lids for each base frame (E,): the one of CANDIDATES random frames that moves them most.

    upper_motion: (N, 26, 2), see `stages.upper_face.UpperFace.motion`. foreign: share of donors from any take.
    """
    count = HEAD_GRID[0] * HEAD_GRID[1]
    donor = np.empty_like(base)
    before, after = np.empty((2, len(base), count, 2), np.float32)
    for index, row in enumerate(base):
        take = np.flatnonzero(footage.take_ids == footage.take_ids[row])
        anywhere = rng.random() < foreign
        candidates = rng.integers(len(footage), size=CANDIDATES) if anywhere else rng.choice(take, CANDIDATES)
        distance = np.square(upper_motion[candidates] - upper_motion[row]).sum((1, 2))
        donor[index] = candidates[np.argmax(distance)]
        points = footage.points[row].astype(np.float64)
        centre = _below_eyes(points, HEAD_CENTRE)
        before[index] = _grid(points, centre, HEAD_GRID, HEAD_EXTENT, rng.random((count, 2)) - 0.5)
        after[index] = displaced_positions(
            points, upper_motion[donor[index]] - upper_motion[row], before[index].astype(np.float64), upper=True
        )
    return UpperExchanges(base, donor, torch.from_numpy(before), torch.from_numpy(after))


def fit_similarity(source: np.ndarray, target: np.ndarray) -> tuple[complex, complex]:
    """Least-squares similarity transform from source to target points, (n, 2) each.

    Returns factor (scale and rotation) and offset, for points as complex numbers x + iy: target = factor * source +
    offset.
    """
    z, w = source @ np.array([1, 1j]), target @ np.array([1, 1j])
    spread = z - z.mean()
    factor = (spread.conj() * (w - w.mean())).sum() / max((np.abs(spread) ** 2).sum(), 1e-12)
    return factor, w.mean() - factor * z.mean()


def warped_positions(
    driving: np.ndarray, source: np.ndarray, positions: np.ndarray, smoothing: float = SMOOTHING
) -> np.ndarray:
    """Positions in the source (n, 2) of positions (n, 2) in the driving frame.

    The warp is a similarity transform of the eyes and the nose plus thin-plate splines of the rest.

    driving, source: (P, 2) matching points, in the order of `takes.NINE`; more may follow them.
    """
    rigid = [*EYES, NOSE]  # the first three points
    factor, offset = fit_similarity(driving[rigid], source[rigid])

    def similarity(points: np.ndarray) -> np.ndarray:
        z = (points @ np.array([1, 1j])) * factor + offset
        return np.stack([z.real, z.imag], -1)

    distance = max(float(np.linalg.norm(driving[1] - driving[0])), 1e-3)
    residual = thin_plate_spline(
        driving / distance, source - similarity(driving), positions / distance, smoothing, precision=np.float32
    )
    return similarity(positions) + residual


def displaced_positions(
    points: np.ndarray, motion: np.ndarray, positions: np.ndarray, *, upper: bool = False
) -> np.ndarray:
    """Positions (n, 2) of a frame after its lips have moved, with the head where it is.

    points: (COUNT, 2) of the frame. motion: (28, 2) of the points LIPS, in eye distances in the frame of the eyes; with
    `upper` (26, 2), of brows and lids (the points UPPER) instead.
    """
    middle, axis, distance = (value[0] for value in eye_frame(points[None]))
    to_picture = np.array([[axis[0], axis[1]], [-axis[1], axis[0]]]) * distance
    still = middle + np.array(UPPER_STILL if upper else STILL) @ to_picture
    fixed = np.concatenate([points[[*EYES, NOSE]], still])
    before = points[UPPER if upper else LIPS]
    after = before + motion @ to_picture
    return warped_positions(np.concatenate([fixed, before]), np.concatenate([fixed, after]), positions, PART_SMOOTHING)


def _pixels(positions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel columns and rows of positions (..., 2), as cv2.remap takes them."""
    pixels = ((positions + 1.0) * (size / 2.0) - 0.5).astype(np.float32)
    return np.ascontiguousarray(pixels[..., 0]), np.ascontiguousarray(pixels[..., 1])


def refined_by_flow(
    flow: cv2.DISOpticalFlow, source: np.ndarray, driving: np.ndarray, coarse: np.ndarray
) -> np.ndarray:
    """Source positions (S, S, 2) of every pixel of the driving frame.

    source, driving: (S, S) uint8 grey. coarse: (S, S, 2) positions of `warped_positions`.
    """
    size = len(source)
    warped = cv2.remap(source, *_pixels(coarse, size), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    forward, backward = flow.calc(driving, warped, None), flow.calc(warped, driving, None)
    x, y = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    there_x, there_y = x + forward[..., 0], y + forward[..., 1]
    back = cv2.remap(backward, there_x, there_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    trust = TRUSTED * np.exp(-np.square(forward + back).sum(-1) / CONSISTENT**2)
    moved = cv2.remap(coarse.astype(np.float32), there_x, there_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return coarse + (moved - coarse) * trust[..., None]


def sample_positions(points: np.ndarray, jitter: np.ndarray) -> np.ndarray:
    """(P, 2) positions in a frame where motion is compared: a grid at the mouth and one over the face.

    points: (9, 2). jitter: (P, 2) in [-0.5, 0.5] cells.
    """
    mouth = MOUTH_GRID[0] * MOUTH_GRID[1]
    return np.concatenate([
        _grid(points, points[MOUTH], MOUTH_GRID, MOUTH_EXTENT, jitter[:mouth]),
        _grid(points, _below_eyes(points, FACE_CENTRE), FACE_GRID, FACE_EXTENT, jitter[mouth:]),
    ])  # fmt: skip


def _below_eyes(points: np.ndarray, distances: float) -> np.ndarray:
    """(2,) position some eye distances below the eyes' middle."""
    middle, axis, distance = (value[0] for value in eye_frame(points[None]))
    return middle + distances * distance * np.array([-axis[1], axis[0]])


def _grid(
    points: np.ndarray, centre: np.ndarray, counts: tuple[int, int], extent: tuple[float, float], jitter: np.ndarray
) -> np.ndarray:
    """(columns * rows, 2) positions of a grid along the eyes. counts: columns and rows; extent: in eye distances."""
    _, axis, distance = (value[0] for value in eye_frame(points[None]))
    x, y = (((np.arange(count) + 0.5) / count - 0.5) for count in counts)
    cells = (np.stack(np.meshgrid(x, y), -1).reshape(-1, 2) + jitter / counts) * extent
    right = axis * distance
    return centre + cells[:, :1] * right + cells[:, 1:] * np.array([-right[1], right[0]])


POOLED = MOUTH_GRID[0] * MOUTH_GRID[1] + FACE_GRID[0] * FACE_GRID[1]  # points of a pair


def measure_motion_pool(
    footage: Footage,
    sources: int,
    drivings: int,
    rng: np.random.Generator,
    *,
    minutes: float = math.inf,
    on_progress: Callable[[float, int], object] = lambda share, step: None,
) -> MotionPool:
    """Motion of random pairs of frames; takes about 10 ms a pair at 128 px.

    minutes: after which it ends with fewer sources, but at least LEAST_SOURCES. on_progress: called with the share
    that is done and the number of pairs before each source; may raise to stop.
    """
    size = footage.frames.shape[1]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    cells = -(-size // CELL)
    line = (np.arange(cells) * 2 + 1) / cells - 1.0
    everywhere = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    source_rows, driving_rows = footage.sample_pairs(rng, sources, drivings)
    source, driving = np.empty((2, sources * drivings, POOLED, 2), np.float16)
    began, done = time.monotonic(), sources
    for row, (a, b) in enumerate(zip(np.repeat(source_rows, drivings), driving_rows.ravel(), strict=True)):
        if row % drivings == 0:
            spent = (time.monotonic() - began) / (60.0 * minutes)
            if spent >= 1.0 and row >= LEAST_SOURCES * drivings:
                done = row // drivings
                break
            on_progress(max(row / len(source), min(spent, 1.0)), row)
        positions = sample_positions(footage.points[b], rng.random((POOLED, 2)) - 0.5)
        coarse = warped_positions(footage.points[b], footage.points[a], everywhere).reshape(cells, cells, 2)
        coarse = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)
        grey = [cv2.cvtColor(footage.frames[which], cv2.COLOR_RGB2GRAY) for which in (a, b)]
        dense = refined_by_flow(flow, grey[0], grey[1], coarse).astype(np.float32)
        maps = _pixels(positions[None], size)
        source[row] = cv2.remap(dense, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
        driving[row] = positions
    measured = torch.from_numpy(source[: done * drivings]), torch.from_numpy(driving[: done * drivings])
    inside = (measured[0].abs().amax(-1) < 1.0) & (measured[1].abs().amax(-1) < 1.0)
    return MotionPool(source_rows[:done], driving_rows[:done], *measured, inside)
