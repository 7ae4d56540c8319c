"""Put one picture's mouth into another: the pictures from which stage 1 learns what is mouth and what is pose.

Lengths are in eye distances of the picture that keeps its head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import cv2
import numpy as np

from .motion import similarity
from .takes import (
    CHIN,
    EYES,
    LEFT_CORNER,
    LEFT_EYE,
    LIPS,
    LOWER_LIP,
    MOUTH,
    NOSE,
    RIGHT_CORNER,
    RIGHT_EYE,
    UPPER_LIP,
    Footage,
)

Reach = Literal["chin", "lips"]
SIDE, BELOW = 0.12, 0.12  # by which the patch is larger than both mouths together
NOSE_GAP, CHIN_GAP = 0.06, 0.05  # the patch ends so far below the nose's tip, and so far below the chin
FEATHER = 0.06
RING = 1.25  # the light is compared between the patch's outline and this many times its size
POWER = 4  # of the superellipse
SHIFT, SCALE, TURN = 0.02, 0.03, np.radians(2.0)  # limits of the jitter
SIZES, PROFILES = 1.6, 0.25  # partners differ by no more in eye distance (factor) and in the nose's place
TRIED, SAME_PERSON = 20, 0.5  # frames among which a partner is looked for; share of partners of the same person
GAMMA = 2.2
FLAT, GAINS = 0.04, (0.7, 1.4)  # a flat ring tells little about contrast, so the lips must not fade for it


def partners(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) bool: whether mouths of faces with points (N, 9, 2) may be exchanged.

    A profile's mouth on a frontal face, or one of another size, would teach nonsense.
    """

    def size_and_profile(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across = points[:, RIGHT_EYE] - points[:, LEFT_EYE]
        size = np.maximum(np.linalg.norm(across, axis=1), 1e-6)
        offset = points[:, NOSE] - points[:, EYES].mean(1)
        return size, (offset * across).sum(1) / size**2

    (size, profile), (other_size, other_profile) = size_and_profile(one), size_and_profile(other)
    ratio = size / other_size
    return (np.maximum(ratio, 1.0 / ratio) <= SIZES) & (np.abs(profile - other_profile) <= PROFILES)


def patch_mask(points: np.ndarray, other: np.ndarray, size: int, reach: Reach) -> tuple[np.ndarray, np.ndarray]:
    """Mask (S, S) in 0..1 of the patch, and its ring (S, S) bool, where the light is compared.

    The ring's lower half is left out: under the chin there is a neck or a background.

    points: (9, 2) of the picture that keeps its head; other: (9, 2) of the partner after it was moved there.
    """
    eyes = points[EYES]
    axis = eyes[1] - eyes[0]
    distance = max(float(np.linalg.norm(axis)), 1e-6)
    turn = np.array([[axis[0], axis[1]], [-axis[1], axis[0]]]) / distance**2  # to the frame of the eyes

    both = np.concatenate([(mine - eyes.mean(0)) @ turn.T for mine in (points, other)])
    of = [[index, index + len(points)] for index in range(len(points))]
    mouths = both[[row for name in (LEFT_CORNER, RIGHT_CORNER, UPPER_LIP, LOWER_LIP, MOUTH) for row in of[name]]]
    low, high = mouths.min(0) - SIDE, mouths.max(0) + np.array([SIDE, BELOW])
    low[1] = max(low[1], both[NOSE, 1] + NOSE_GAP)
    if reach == "chin":
        high[1] = max(high[1], both[of[CHIN], 1].max() + CHIN_GAP)
    centre, radius = (low + high) / 2.0, np.maximum((high - low) / 2.0, 1e-3)
    line = (np.arange(size) * 2 + 1) / size - 1.0
    local = (np.stack(np.meshgrid(line, line), -1) - eyes.mean(0)) @ turn.T
    away = (np.abs((local - centre) / radius) ** POWER).sum(-1) ** (1.0 / POWER)
    inside = (1.0 - away) * radius.min()  # about the distance from the outline
    return np.clip(inside / FEATHER, 0.0, 1.0), (away > 1.0) & (away < RING) & (local[..., 1] < centre[1])


def _to_pixels(size: int) -> np.ndarray:
    return np.array([[size / 2.0, 0, size / 2.0 - 0.5], [0, size / 2.0, size / 2.0 - 0.5], [0, 0, 1]])


def swap(
    kept: np.ndarray,
    mouth: np.ndarray,
    kept_points: np.ndarray,
    mouth_points: np.ndarray,
    rng: np.random.Generator | None = None,
    *,
    reach: Reach = "chin",
) -> np.ndarray:
    """`kept` with the mouth of `mouth`; both (S, S, 3) uint8 with points (9, 2). Outside the patch nothing changes.

    rng: moves the patch by a random small amount, so that its seam does not tell where the mouth came from; None for
    an exact fit. reach: "chin" includes the chin, because a jaw that drops moves it; "lips" is the published patch.
    """
    size = len(kept)
    fixed = [*EYES, MOUTH]
    factor, _ = similarity(mouth_points[fixed], kept_points[fixed])
    distance = float(np.linalg.norm(kept_points[RIGHT_EYE] - kept_points[LEFT_EYE]))
    shift = np.zeros(2)
    if rng is not None:
        factor *= (1.0 + rng.uniform(-SCALE, SCALE)) * np.exp(1j * rng.uniform(-TURN, TURN))
        shift = rng.uniform(-SHIFT, SHIFT, 2) * distance
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    offset = kept_points[MOUTH] + shift - linear @ mouth_points[MOUTH]
    moved_points = mouth_points @ linear.T + offset
    pixels = _to_pixels(size)
    matrix = pixels @ np.vstack([np.column_stack([linear, offset]), [0, 0, 1]]) @ np.linalg.inv(pixels)
    moved = cv2.warpAffine(mouth, matrix[:2], (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    mask, ring = patch_mask(kept_points, moved_points, size, reach)
    patch = (moved / 255.0) ** GAMMA
    if ring.any():
        own, foreign = (kept[ring] / 255.0) ** GAMMA, patch[ring]
        gain = np.clip((own.std(0) + FLAT) / (foreign.std(0) + FLAT), *GAINS)
        patch = (patch - foreign.mean(0)) * gain + own.mean(0)
    patch = 255.0 * np.clip(patch, 0.0, 1.0) ** (1.0 / GAMMA)
    blended = kept + mask[..., None] * (patch - kept)
    return np.where(mask[..., None] > 0.0, np.rint(blended), kept).astype(np.uint8)


def partner(footage: Footage, frame: int, usable: np.ndarray, rng: np.random.Generator) -> int:
    """Number of a random frame of `usable` (n,) whose mouth suits the frame; the frame itself if none is found."""
    same = footage.person[usable] == footage.person[frame]
    pool = usable[same] if rng.random() < SAME_PERSON else usable
    others = rng.choice(pool, min(TRIED, len(pool)), replace=False)
    fitting = partners(footage.points[[frame] * len(others)], footage.points[others]) & (others != frame)
    return int(others[fitting][0]) if fitting.any() else frame


def swapped_points(kept: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """(N, 61, 2) points of `kept` (N, 61, 2) with the mouth of `mouth` (N, 61, 2), where `swap` puts it."""
    result = kept.copy()
    fixed = [*EYES, MOUTH]
    for row in range(len(kept)):
        factor, _ = similarity(mouth[row][fixed], kept[row][fixed])
        z = (mouth[row] - mouth[row][MOUTH]) @ np.array([1, 1j]) * factor
        moved = np.stack([z.real, z.imag], -1) + kept[row][MOUTH]
        result[row, LIPS] = moved[LIPS]
    return result


def with_mouths_of(
    footage: Footage, kept: np.ndarray, mouth: np.ndarray, rng: np.random.Generator, *, reach: Reach = "chin"
) -> Footage:
    """Frames `kept` (N,) with the mouths of the frames `mouth` (N,), as frames of the takes of the kept ones."""
    frames, points = footage.frames, footage.points
    made = [
        swap(frames[one], frames[other], points[one], points[other], rng, reach=reach)
        for one, other in zip(kept, mouth, strict=True)
    ]
    return replace(footage.part(kept), frames=np.stack(made), points=swapped_points(points[kept], points[mouth]))
