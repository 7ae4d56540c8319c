"""Put one picture's mouth into another: the pictures from which stage 1 learns what is mouth and what is pose.

Lengths are in eye distances of the picture that keeps its head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import cv2
import numpy as np

from .motion import fit_similarity
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

SwapRegion = Literal["chin", "lips"]
SIDE, BELOW = 0.12, 0.12  # by which the patch is larger than both mouths together
NOSE_GAP, CHIN_GAP = 0.06, 0.05  # the patch ends so far below the nose's tip, and so far below the chin
FEATHER = 0.06
RING = 1.25  # the light is compared between the patch's outline and this many times its size
POWER = 4  # of the superellipse
SHIFT, SCALE, TURN = 0.02, 0.03, np.radians(2.0)  # limits of the jitter
SIZES, PROFILES = 1.6, 0.25  # partners differ by no more in eye distance (factor) and in the nose's place
CANDIDATES, SAME_PERSON = 20, 0.5  # frames among which a partner is looked for; share of partners of the same person
GAMMA = 2.2
FLAT, GAINS = 0.04, (0.7, 1.4)  # a flat ring tells little about contrast, so the lips must not fade for it


def can_swap(base: np.ndarray, donor: np.ndarray) -> np.ndarray:
    """(N,) bool: whether mouths of faces with points (N, 9, 2) may be exchanged.

    A profile's mouth on a frontal face, or one of another size, would teach nonsense.
    """

    def size_and_profile(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across = points[:, RIGHT_EYE] - points[:, LEFT_EYE]
        size = np.maximum(np.linalg.norm(across, axis=1), 1e-6)
        offset = points[:, NOSE] - points[:, EYES].mean(1)
        return size, (offset * across).sum(1) / size**2

    (size, profile), (donor_size, donor_profile) = size_and_profile(base), size_and_profile(donor)
    ratio = size / donor_size
    return (np.maximum(ratio, 1.0 / ratio) <= SIZES) & (np.abs(profile - donor_profile) <= PROFILES)


def patch_mask(points: np.ndarray, donor: np.ndarray, size: int, region: SwapRegion) -> tuple[np.ndarray, np.ndarray]:
    """Mask (S, S) in 0..1 of the patch, and its ring (S, S) bool, where the light is compared.

    The ring's lower half is left out: under the chin there is a neck or a background.

    points: (9, 2) of the picture that keeps its head; donor: (9, 2) of the partner after it was moved there.
    """
    eyes = points[EYES]
    axis = eyes[1] - eyes[0]
    distance = max(float(np.linalg.norm(axis)), 1e-6)
    turn = np.array([[axis[0], axis[1]], [-axis[1], axis[0]]]) / distance**2  # to the frame of the eyes

    both = np.concatenate([(mine - eyes.mean(0)) @ turn.T for mine in (points, donor)])
    of = [[index, index + len(points)] for index in range(len(points))]
    mouths = both[[row for name in (LEFT_CORNER, RIGHT_CORNER, UPPER_LIP, LOWER_LIP, MOUTH) for row in of[name]]]
    low, high = mouths.min(0) - SIDE, mouths.max(0) + np.array([SIDE, BELOW])
    low[1] = max(low[1], both[NOSE, 1] + NOSE_GAP)
    if region == "chin":
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
    base: np.ndarray,
    donor: np.ndarray,
    base_points: np.ndarray,
    donor_points: np.ndarray,
    rng: np.random.Generator | None = None,
    *,
    region: SwapRegion = "chin",
) -> np.ndarray:
    """`base` with the mouth of `donor`; both (S, S, 3) uint8 with points (9, 2). Outside the patch nothing changes.

    rng: moves the patch by a random small amount, so that its seam does not tell where the mouth came from; None for
    an exact fit. region: "chin" includes the chin, because a jaw that drops moves it; "lips" is the published patch.
    """
    size = len(base)
    fixed = [*EYES, MOUTH]
    factor, _ = fit_similarity(donor_points[fixed], base_points[fixed])
    distance = float(np.linalg.norm(base_points[RIGHT_EYE] - base_points[LEFT_EYE]))
    shift = np.zeros(2)
    if rng is not None:
        factor *= (1.0 + rng.uniform(-SCALE, SCALE)) * np.exp(1j * rng.uniform(-TURN, TURN))
        shift = rng.uniform(-SHIFT, SHIFT, 2) * distance
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    offset = base_points[MOUTH] + shift - linear @ donor_points[MOUTH]
    moved_points = donor_points @ linear.T + offset
    pixels = _to_pixels(size)
    matrix = pixels @ np.vstack([np.column_stack([linear, offset]), [0, 0, 1]]) @ np.linalg.inv(pixels)
    moved = cv2.warpAffine(donor, matrix[:2], (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    mask, ring = patch_mask(base_points, moved_points, size, region)
    patch = (moved / 255.0) ** GAMMA
    if ring.any():
        base_light, donor_light = (base[ring] / 255.0) ** GAMMA, patch[ring]
        gain = np.clip((base_light.std(0) + FLAT) / (donor_light.std(0) + FLAT), *GAINS)
        patch = (patch - donor_light.mean(0)) * gain + base_light.mean(0)
    patch = 255.0 * np.clip(patch, 0.0, 1.0) ** (1.0 / GAMMA)
    blended = base + mask[..., None] * (patch - base)
    return np.where(mask[..., None] > 0.0, np.rint(blended), base).astype(np.uint8)


def random_partner(footage: Footage, frame: int, usable: np.ndarray, rng: np.random.Generator) -> int:
    """Number of a random frame of `usable` (n,) whose mouth suits the frame; the frame itself if none is found."""
    same = footage.person[usable] == footage.person[frame]
    pool = usable[same] if rng.random() < SAME_PERSON else usable
    candidates = rng.choice(pool, min(CANDIDATES, len(pool)), replace=False)
    suitable = can_swap(footage.points[[frame] * len(candidates)], footage.points[candidates]) & (candidates != frame)
    return int(candidates[suitable][0]) if suitable.any() else frame


def swapped_points(base: np.ndarray, donor: np.ndarray) -> np.ndarray:
    """(N, 61, 2) points of `base` (N, 61, 2) with the mouth of `donor` (N, 61, 2), where `swap` puts it."""
    result = base.copy()
    fixed = [*EYES, MOUTH]
    for row in range(len(base)):
        factor, _ = fit_similarity(donor[row][fixed], base[row][fixed])
        z = (donor[row] - donor[row][MOUTH]) @ np.array([1, 1j]) * factor
        moved = np.stack([z.real, z.imag], -1) + base[row][MOUTH]
        result[row, LIPS] = moved[LIPS]
    return result


def swap_mouths(
    footage: Footage, base: np.ndarray, donor: np.ndarray, rng: np.random.Generator, *, region: SwapRegion = "chin"
) -> Footage:
    """Frames `base` (N,) with the mouths of the frames `donor` (N,), as frames of the takes of the kept ones."""
    frames, points = footage.frames, footage.points
    swapped = [
        swap(frames[row], frames[donor_row], points[row], points[donor_row], rng, region=region)
        for row, donor_row in zip(base, donor, strict=True)
    ]
    return replace(footage.subset(base), frames=np.stack(swapped), points=swapped_points(points[base], points[donor]))
