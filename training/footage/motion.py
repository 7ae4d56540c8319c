"""Motion between two frames of a take without labels: from the points, refined by optical flow.

The points give the head's similarity transform and thin-plate splines around it; optical flow between the driven frame
and the source warped by that field adds what the points cannot tell, where it is consistent in both directions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ..heads.data import Tracks
from ..learning.losses import MOST, OWN_MOTION
from .takes import EYES, LIPS, MOUTH, NOSE, UPPER, Footage, head_frame

POOL_SOURCES, POOL_DRIVINGS = 2500, 2  # sources with known motion, and driven frames of each
LEAST_SOURCES = 200  # whatever the time
COARSE = 2  # pixels: side of the cells in which the thin plates are evaluated
LOOSE = 0.05  # of the thin plates, which need not pass exactly through the points: a detector errs
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
TRIED = 3  # frames that an exchange of brows and lids chooses from: most frames hardly differ in them
LOOSE_PART = 0.1  # of the thin plates of a motion of the lips, or of brows and lids, alone
# Points of a driven frame where the motion is compared, as grids in the frame of the eyes, in eye distances.
MOUTH_GRID, FACE_GRID = (16, 12), (14, 14)
MOUTH_EXTENT, FACE_EXTENT = (1.5, 1.3), (2.4, 2.9)
FACE_CENTRE = 0.55  # eye distances below the eyes
# The same where an exchange of brows and lids is compared: the whole head, since most of it must stay where it is.
HEAD_GRID, HEAD_EXTENT, HEAD_CENTRE = (20, 26), (3.0, 3.9), 0.25


@dataclass(frozen=True)
class MotionPool:
    """P points in each of N = S * K pairs of frames, K driven frames a source; positions in picture coordinates."""

    source_rows: np.ndarray  # (S,)
    driven_rows: np.ndarray  # (S, K)
    source: torch.Tensor  # (N, P, 2) float16
    driven: torch.Tensor  # (N, P, 2) float16
    inside: torch.Tensor  # (N, P) bool, both positions are in the picture

    def tracks(self, chosen: np.ndarray) -> Tracks:
        """Tracks of the pairs of the chosen sources (s,)."""
        drivings = self.driven_rows.shape[1]
        pairs = torch.from_numpy((chosen[:, None] * drivings + np.arange(drivings)).ravel())
        return Tracks(self.source[pairs].float(), self.driven[pairs].float(), self.inside[pairs].float())


@dataclass(frozen=True)
class Kept:
    """E frames that keep their head when a code is exchanged, with P positions in each; in picture coordinates."""

    frames: np.ndarray  # (E,)
    at: torch.Tensor  # (E, P, 2)
    source: torch.Tensor  # (E, P, 2) the same positions in the source


@dataclass(frozen=True)
class Exchanges:
    """E pairs of frames whose mouths are exchanged in thought, and the motion that this must give."""

    kept: Kept
    other: np.ndarray  # (E,) frames that give the mouth
    tracks: Tracks


def kept_frames(
    footage: Footage, pool: MotionPool, chosen: np.ndarray, rng: np.random.Generator, portraits: float = 0.3
) -> Kept:
    """One driven frame of each chosen source (s,), or by the share `portraits` the source itself."""
    frames = np.empty_like(chosen)
    source, at = np.empty((2, len(chosen), POOLED, 2), np.float32)
    drivings = pool.driven_rows.shape[1]
    for row, number in enumerate(chosen):
        which = int(rng.integers(drivings))
        if rng.random() < portraits:
            frames[row] = pool.source_rows[number]
            at[row] = source[row] = sample_points(footage.points[frames[row]], rng.random((POOLED, 2)) - 0.5)
        else:
            frames[row], pair = pool.driven_rows[number, which], number * drivings + which
            at[row], source[row] = pool.driven[pair].numpy(), pool.source[pair].numpy()
    return Kept(frames, torch.from_numpy(at), torch.from_numpy(source))


def exchanges(
    footage: Footage, moved: np.ndarray, kept: Kept, rng: np.random.Generator, *, foreign: float = 0.5
) -> Exchanges:
    """One exchange for each kept frame: its motion with the mouth of another frame.

    No picture of such a frame exists, but its motion follows from points: the head's from the kept frame, and that of
    the lips from the difference of `moved` (N, 28, 2), see `stages.mouth.Codes.lips_moved`.

    foreign: share of mouths of other takes.
    """
    other = np.empty_like(kept.frames)
    after = np.empty(kept.at.shape, np.float32)
    for row, frame in enumerate(kept.frames):
        take = np.flatnonzero(footage.clip == footage.clip[frame])
        other[row] = rng.integers(len(footage)) if rng.random() < foreign else rng.choice(take)
        at, points = kept.at[row].numpy().astype(np.float64), footage.points[frame].astype(np.float64)
        after[row] = with_part_moved(points, moved[other[row]] - moved[frame], at)
    end = torch.from_numpy(after)
    inside = (kept.source.abs().amax(-1) < 1.0) & (end.abs().amax(-1) < 1.0)
    return Exchanges(kept, other, Tracks(kept.source, end, inside.float()))


@dataclass(frozen=True)
class UpperExchanges:
    """E pairs of frames whose brows and lids are exchanged in thought, and how that moves the first one's picture."""

    kept: np.ndarray  # (E,) frames that keep everything else
    other: np.ndarray  # (E,) frames that give brows and lids
    at: torch.Tensor  # (E, P, 2) positions all over the head of the kept frame
    after: torch.Tensor  # (E, P, 2) where they are after the exchange

    @property
    def weight(self) -> torch.Tensor:
        """(E, P) 1 for positions that stay where they are, up to MOST for those that move, 0 outside the picture."""
        inside = (self.at.abs().amax(-1) < 1.0) & (self.after.abs().amax(-1) < 1.0)
        return inside * (1.0 + (self.after - self.at).norm(dim=-1) / OWN_MOTION).clamp(max=MOST)


def upper_exchanges(
    footage: Footage, moved: np.ndarray, kept: np.ndarray, rng: np.random.Generator, *, foreign: float = 0.5
) -> UpperExchanges:
    """One exchange for each frame of `kept` (E,), with the brows and lids of another frame.

    moved: (N, 26, 2), see `stages.upper_face.UpperFace.moved`. Of TRIED frames the one is taken that moves them most.
    foreign: share of frames of other takes.
    """
    count = HEAD_GRID[0] * HEAD_GRID[1]
    other = np.empty_like(kept)
    at, after = np.empty((2, len(kept), count, 2), np.float32)
    for row, frame in enumerate(kept):
        take = np.flatnonzero(footage.clip == footage.clip[frame])
        anywhere = rng.random() < foreign
        tried = rng.integers(len(footage), size=TRIED) if anywhere else rng.choice(take, TRIED)
        other[row] = tried[np.argmax(np.square(moved[tried] - moved[frame]).sum((1, 2)))]
        points = footage.points[frame].astype(np.float64)
        centre = _below_eyes(points, HEAD_CENTRE)
        at[row] = _grid(points, centre, HEAD_GRID, HEAD_EXTENT, rng.random((count, 2)) - 0.5)
        after[row] = with_part_moved(points, moved[other[row]] - moved[frame], at[row].astype(np.float64), upper=True)
    return UpperExchanges(kept, other, torch.from_numpy(at), torch.from_numpy(after))


def similarity(start: np.ndarray, to: np.ndarray) -> tuple[complex, complex]:
    """Factor and offset (turn and scale, shift) that map points (n, 2) best, with points as complex numbers."""
    z, w = start @ np.array([1, 1j]), to @ np.array([1, 1j])
    spread = z - z.mean()
    factor = (spread.conj() * (w - w.mean())).sum() / max((np.abs(spread) ** 2).sum(), 1e-12)
    return factor, w.mean() - factor * z.mean()


def field(driven: np.ndarray, source: np.ndarray, at: np.ndarray, loose: float = LOOSE) -> np.ndarray:
    """Positions in the source (n, 2) of positions `at` (n, 2) in the driven frame.

    From matching points (P, 2) of both, in the order of `takes.NINE`; more may follow them.
    """
    rigid = [*EYES, NOSE]  # the first three points
    factor, offset = similarity(driven[rigid], source[rigid])

    def moved(points: np.ndarray) -> np.ndarray:
        z = (points @ np.array([1, 1j])) * factor + offset
        return np.stack([z.real, z.imag], -1)

    distance = max(float(np.linalg.norm(driven[1] - driven[0])), 1e-3)

    def bending(points: np.ndarray) -> np.ndarray:  # thin plates, in the precision of `points`
        near, own = points / points.dtype.type(distance), (driven / distance).astype(points.dtype)
        squared = np.square(near).sum(1)[:, None] + np.square(own).sum(1) - 2.0 * near @ own.T
        return squared.clip(0.0) * np.log(squared.clip(0.0) + points.dtype.type(1e-9))

    def plane(points: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(points)), points / distance])

    count = len(driven)
    square = np.zeros((count + 3, count + 3))
    square[:count, :count] = bending(driven.astype(np.float64)) + loose * np.eye(count)
    square[:count, count:], square[count:, :count] = plane(driven), plane(driven).T
    rest = np.concatenate([source - moved(driven), np.zeros((3, 2))])
    weights = np.linalg.solve(square, rest)
    return moved(at) + bending(at.astype(np.float32)) @ weights[:count] + plane(at) @ weights[count:]


def with_part_moved(points: np.ndarray, moved: np.ndarray, at: np.ndarray, *, upper: bool = False) -> np.ndarray:
    """Where positions `at` (n, 2) of a frame are after its lips have moved, with the head where it is.

    points: (COUNT, 2) of the frame. moved: (28, 2) motion of the points LIPS, in eye distances in the frame of the
    eyes. upper: brows and lids have moved in the place of the lips; then `moved` (26, 2) is that of the points UPPER.
    """
    middle, axis, distance = (value[0] for value in head_frame(points[None]))
    turn = np.array([[axis[0], axis[1]], [-axis[1], axis[0]]]) * distance  # from the frame of the eyes
    still = middle + np.array(UPPER_STILL if upper else STILL) @ turn
    fixed = np.concatenate([points[[*EYES, NOSE]], still])
    own = points[UPPER if upper else LIPS]
    return field(np.concatenate([fixed, own]), np.concatenate([fixed, own + moved @ turn]), at, LOOSE_PART)


def _pixels(positions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    at = ((positions + 1.0) * (size / 2.0) - 0.5).astype(np.float32)
    return np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1])


def refined(flow: cv2.DISOpticalFlow, source: np.ndarray, driven: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Source positions (S, S, 2) of every pixel of the driven frame.

    source, driven: (S, S) uint8 grey. coarse: (S, S, 2) positions of `field`.
    """
    size = len(source)
    warped = cv2.remap(source, *_pixels(coarse, size), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    forward, backward = flow.calc(driven, warped, None), flow.calc(warped, driven, None)
    x, y = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    there_x, there_y = x + forward[..., 0], y + forward[..., 1]
    back = cv2.remap(backward, there_x, there_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    trust = TRUSTED * np.exp(-np.square(forward + back).sum(-1) / CONSISTENT**2)
    found = cv2.remap(coarse.astype(np.float32), there_x, there_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return coarse + (found - coarse) * trust[..., None]


def sample_points(points: np.ndarray, jitter: np.ndarray) -> np.ndarray:
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
    middle, axis, distance = (value[0] for value in head_frame(points[None]))
    return middle + distances * distance * np.array([-axis[1], axis[0]])


def _grid(
    points: np.ndarray, centre: np.ndarray, counts: tuple[int, int], extent: tuple[float, float], jitter: np.ndarray
) -> np.ndarray:
    """(columns * rows, 2) positions of a grid along the eyes. counts: columns and rows; extent: in eye distances."""
    _, axis, distance = (value[0] for value in head_frame(points[None]))
    x, y = (((np.arange(count) + 0.5) / count - 0.5) for count in counts)
    cells = (np.stack(np.meshgrid(x, y), -1).reshape(-1, 2) + jitter / counts) * extent
    right = axis * distance
    return centre + cells[:, :1] * right + cells[:, 1:] * np.array([-right[1], right[0]])


POOLED = MOUTH_GRID[0] * MOUTH_GRID[1] + FACE_GRID[0] * FACE_GRID[1]  # points of a pair


def motion_pool(
    footage: Footage,
    sources: int,
    drivings: int,
    rng: np.random.Generator,
    *,
    minutes: float = math.inf,
    at: Callable[[float, int], object] = lambda share, step: None,
) -> MotionPool:
    """Motion of random pairs of frames; takes about 10 ms a pair at 128 px.

    minutes: after which it ends with fewer sources, but at least LEAST_SOURCES. at: called with the share that is done
    and the number of pairs before each source; may raise to stop.
    """
    size = footage.frames.shape[1]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    cells = -(-size // COARSE)
    line = (np.arange(cells) * 2 + 1) / cells - 1.0
    everywhere = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    source_rows, driven_rows = footage.pairs(rng, sources, drivings)
    source, driven = np.empty((2, sources * drivings, POOLED, 2), np.float16)
    began, done = time.monotonic(), sources
    for row, (a, b) in enumerate(zip(np.repeat(source_rows, drivings), driven_rows.ravel(), strict=True)):
        if row % drivings == 0:
            spent = (time.monotonic() - began) / (60.0 * minutes)
            if spent >= 1.0 and row >= LEAST_SOURCES * drivings:
                done = row // drivings
                break
            at(max(row / len(source), min(spent, 1.0)), row)
        places = sample_points(footage.points[b], rng.random((POOLED, 2)) - 0.5)
        coarse = field(footage.points[b], footage.points[a], everywhere).reshape(cells, cells, 2)
        coarse = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)
        grey = [cv2.cvtColor(footage.frames[which], cv2.COLOR_RGB2GRAY) for which in (a, b)]
        dense = refined(flow, grey[0], grey[1], coarse).astype(np.float32)
        found = cv2.remap(dense, *_pixels(places[None], size), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
        source[row], driven[row] = found, places
    before, after = torch.from_numpy(source[: done * drivings]), torch.from_numpy(driven[: done * drivings])
    inside = (before.abs().amax(-1) < 1.0) & (after.abs().amax(-1) < 1.0)
    return MotionPool(source_rows[:done], driven_rows[:done], before, after, inside)
