"""Measures how each coefficient of a bank moves a face, and proposes a name and a range for it.

Each coefficient is changed alone, in both directions from rest. The motion of the pixels is measured by optical flow
and split into the motion of the whole head and the residual in mouth, jaw, eyes and brows. The region with the largest
motion and its direction determine the name. Lengths are in eye distances, so that they are comparable between pictures.
"Left" and "right" in names are the person's, as in ARKit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property

import cv2
import numpy as np

from .contract import arkit
from .contract.answers import Motion
from .contract.bank import Coefficient
from .face.crop import EYES, TEMPLATE

SIZE = 256  # pixels; smaller pictures are enlarged, so that small motion is measurable
REGIONS = ("head", "jaw", "mouth", "eyes", "brows")
UNMOVED = "none"

_AIM = 0.08  # displacement to measure at; the flow becomes unreliable for larger ones
_LEAST = 0.01  # smaller displacements are noise
_NOISE = _LEAST / _AIM
_FIRST, _GROWTH, _FARTHEST = 1 / 256, 8.0, 4.0  # steps in soft ranges: first, growth factor, last
_TOO_FAR = 2.5  # times _AIM
_MORE = 1.3  # a larger step is used if its displacement grows by this factor
_FULL = {
    "head": 0.5,
    "jaw": 0.35,
    "mouth": 0.2,
    "eyes": 0.12,
    "brows": 0.15,
}  # displacement of a strong motion of each region
_ONE_SIDED = 0.4  # below this ratio of both sides a motion is one-sided
_TURNS = 0.85  # ratio of the displacements at the head's rim and middle; a rotation is below, a shift above
_CLEAR = 0.3  # smallest share of a region that gives a name; an even split over five regions is 0.2
_RADIUS = 1.5  # distance from a head's axis of rotation to the middle of the face

Draw = Callable[[np.ndarray], Iterable[np.ndarray]]


def explore(
    draw: Draw,
    rest: np.ndarray,
    coefficients: Sequence[Coefficient],
    eyes: np.ndarray | None = None,
    step: Callable[[int, int], object] = lambda _done, _total: None,
) -> list[Motion]:
    """Measure the motion that each coefficient causes.

    draw: renders rows of coefficients (k, n) to k pictures uint8 (S, S, 3). rest: (n,), coefficients of the face at
    rest. eyes: (2, 2), pixel positions of the right and the left eye at rest; default: those of the standard crop.
    step: called before each coefficient, and at the end, with the number done and the total; may raise to stop.
    """
    (picture,) = draw(rest[None])
    face = _Face(picture, eyes)
    motions = []
    for index, entry in enumerate(coefficients):
        step(index, len(coefficients))
        motions.append(_measure(draw, face, rest, index, entry))
    step(len(coefficients), len(coefficients))
    return _named_once(motions)


def _measure(draw: Draw, face: _Face, rest: np.ndarray, index: int, entry: Coefficient) -> Motion:
    usual = max(abs(entry.soft_min - entry.rest), abs(entry.soft_max - entry.rest)) or 1.0
    size, farthest = usual * _FIRST, usual * _FARTHEST
    best, result = 0.0, None
    while True:
        rows = np.repeat(rest[None], 2, axis=0)
        rows[:, index] += (size, -size)
        forth, back = (face.flow(picture) for picture in draw(rows))
        reached = max(face.reached(forth), face.reached(back))
        if result is None and reached > _TOO_FAR and size > usual * _FIRST**2:
            size /= reached
            continue
        if result is None or best < _NOISE or reached > _MORE * best:
            best, result = reached, (size, forth, back)
        else:
            break  # larger steps do not increase the motion, or they damage the picture
        if reached >= 0.5 or size >= farthest:
            break
        size = min(size * min(1 / max(reached, 1e-6), _GROWTH), farthest)
    size, forth, back = result
    amounts = face.fastest(forth), face.fastest(back)
    return _described(face, entry, forth if amounts[0] >= _ONE_SIDED * amounts[1] else -back, size, *amounts)


def _described(face: _Face, entry: Coefficient, flow: np.ndarray, step: float, forth: float, back: float) -> Motion:
    """flow: of one step in positive direction. forth, back: largest displacement for each direction."""
    amount = max(forth, back)
    if amount < _LEAST:
        unmoved = dict.fromkeys(REGIONS, 0.0)
        return Motion(entry.name, UNMOVED, unmoved, step, amount, (0.0, 0.0), 0.0, entry.name, entry.soft_min,
                      entry.soft_max, {})  # fmt: skip
    head, own = face.split(flow)
    strengths = {"head": float(np.linalg.norm(head[face.oval], axis=1).mean())}
    strengths |= {name: float(np.linalg.norm(own[mask], axis=1).mean()) for name, mask in face.parts.items()}
    total = sum(strengths.values())
    shares = {name: round(strengths[name] / total, 4) for name in REGIONS}
    region = max(REGIONS, key=strengths.__getitem__)
    motion, mask = (flow, face.oval) if region == "head" else (own, face.parts[region])
    name, degrees = entry.name, 0.0
    if shares[region] >= _CLEAR:
        name, degrees = face.head_motion_name(flow) if region == "head" else (_NAMING[region](face, own), 0.0)

    peak = float(np.percentile(np.linalg.norm(motion[mask], axis=1), 95))
    full = _round(min(step * _FULL[region] / max(peak, 1e-6), 2 * _FARTHEST * step))
    soft_min = entry.rest - (full if back >= _ONE_SIDED * forth else 0.0)
    soft_max = entry.rest + (full if forth >= _ONE_SIDED * back else 0.0)
    if name == entry.name:
        soft_min, soft_max = entry.soft_min, entry.soft_max
    units = {name: step / degrees} if degrees else {unit: share * full for unit, share in arkit.derived(name).items()}
    moves = face.head_moves(flow, step) if region == "head" and shares[region] >= _CLEAR else {}
    if soft_max == entry.rest:
        units = {}  # ARKit's units act in the other direction only
    return Motion(
        entry.name, region, shares, step, round(amount, 4), _mean(motion, mask), face.asymmetry(motion, mask), name,
        round(soft_min, 6), round(soft_max, 6), {unit: round(share, 6) for unit, share in units.items()}, moves,
    )  # fmt: skip


def _named_once(motions: list[Motion]) -> list[Motion]:
    """Make suggestions unique.

    The coefficient with the largest share keeps the plain name and the ARKit units; the others are numbered.
    """
    purest = {motion.suggestion: motion for motion in sorted(motions, key=lambda m: m.shares.get(m.region, 0.0))}
    counts: Counter[str] = Counter()
    names = {motion.suggestion for motion in motions}
    result = []
    for motion in motions:
        if purest[motion.suggestion] is not motion:
            while (name := f"{motion.suggestion}{counts[motion.suggestion] + 2}") in names:
                counts[motion.suggestion] += 1
            counts[motion.suggestion] += 1
            motion = replace(motion, suggestion=name, arkit={})
        result.append(motion)
    return result


def _round(value: float) -> float:
    """Rounded to two significant digits."""
    digits = 1 - math.floor(math.log10(max(value, 1e-9)))
    return round(value, digits)


def _mean(flow: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    x, y = flow[mask].mean(0)
    return round(float(x), 4), round(float(y), 4)


# ------------------------------------------------------------------------------------------------ the face


class _Face:
    """The regions of a face at rest, and their motion in other pictures of it.

    Flows are (SIZE, SIZE, 2) in eye distances, x to the picture's right and y down.
    """

    def __init__(self, picture: np.ndarray, eyes: np.ndarray | None) -> None:
        self._grey = _grey(picture)
        self._matcher = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        scale = SIZE / len(picture)
        right, left = EYES * SIZE / TEMPLATE if eyes is None else (np.asarray(eyes, np.float64) + 0.5) * scale - 0.5
        self.distance, self.size = float(np.hypot(*(left - right))), SIZE
        across = (left - right) / self.distance
        y, x = np.mgrid[:SIZE, :SIZE]
        offset = (np.stack([x, y], axis=-1) - (left + right) / 2) / self.distance
        self.x, self.y = offset @ across, offset @ (-across[1], across[0])
        """Position of every pixel relative to the point between the eyes: towards the person's left eye, and down."""

    def flow(self, picture: np.ndarray) -> np.ndarray:
        return self._matcher.calc(self._grey, _grey(picture), None) / self.distance

    def box(self, left: float, right: float, top: float, bottom: float) -> np.ndarray:
        return (self.x >= left) & (self.x <= right) & (self.y >= top) & (self.y <= bottom)

    @cached_property
    def oval(self) -> np.ndarray:
        return (self.x / 1.25) ** 2 + ((self.y - 0.55) / 1.75) ** 2 <= 1

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        beside = abs(abs(self.x) - 0.5)  # distance from the nearer eye
        return {
            "jaw": self.box(-0.65, 0.65, 1.5, 2.05),
            "mouth": self.box(-0.6, 0.6, 0.8, 1.5),
            "eyes": (beside <= 0.36) & (abs(self.y) <= 0.24),
            "brows": (abs(self.x) <= 1.0) & (self.y < -0.24) & (self.y >= -0.7),
        }

    @cached_property
    def skull(self) -> np.ndarray:
        """Pixels that move with the head only: the oval without the parts and the lower cheeks."""
        moving = np.any(list(self.parts.values()), axis=0) | self.box(-1.0, 1.0, 0.7, 2.3)
        return self.oval & ~moving

    def fastest(self, flow: np.ndarray) -> float:
        """Largest displacement of any part of the face, as the 90th percentile, because single pixels may be wrong."""
        return max(self._fastest(flow).values())

    def reached(self, flow: np.ndarray) -> float:
        """Largest displacement relative to the one to measure at: _AIM, or half of _FULL for small parts."""
        return max(length / min(_AIM, _FULL[name] / 2) for name, length in self._fastest(flow).items())

    def _fastest(self, flow: np.ndarray) -> dict[str, float]:
        lengths = np.linalg.norm(flow, axis=2)
        masks = {"head": self.oval} | self.parts
        return {
            name: max(float(np.percentile(lengths[mask & side], 90)) for side in (self.x < 0, self.x >= 0))
            for name, mask in masks.items()
        }

    def split(self, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split a flow into the head's motion, an affine fit to the skull, and the residual."""
        terms = np.stack([np.ones_like(self.x), self.x, self.y], axis=-1)
        weight = np.ones(int(self.skull.sum()))
        for _ in range(4):  # robust to pixels mismatched on plain skin
            shares = terms[self.skull] * weight[:, None]
            fit = np.linalg.lstsq(shares, flow[self.skull] * weight[:, None], rcond=None)[0]
            error = np.linalg.norm(flow[self.skull] - terms[self.skull] @ fit, axis=1)
            weight = np.sqrt(1 / (1 + (error / max(np.median(error), 1e-6)) ** 2))
        head = terms @ fit
        return head, flow - head

    def head_motion_name(self, flow: np.ndarray) -> tuple[str, float]:
        """Name of a motion of the whole head, and its angle in degrees for rotations, with ARKit's sign."""
        x, y = self.x[self.oval], self.y[self.oval] - 0.55
        terms = (
            np.stack([np.ones_like(x), np.zeros_like(x), -y, x], axis=1),
            np.stack([np.zeros_like(x), np.ones_like(x), x, y], axis=1),
        )
        fit = np.linalg.lstsq(np.concatenate(terms), flow[self.oval].T.ravel(), rcond=None)[0]
        radius = float(np.hypot(x, y).mean())
        kinds = dict(zip(("x", "y", "roll", "scale"), fit * (1, 1, radius, radius), strict=True))
        kind = max(kinds, key=lambda name: abs(kinds[name]))
        if kind == "roll":
            return "headRoll", math.degrees(math.atan(fit[2]))
        if kind == "scale":
            return "headScale", 0.0
        axis = 0 if kind == "x" else 1
        middle = float(flow[self.box(-0.4, 0.4, 0.2, 0.9)][:, axis].mean())
        rims = (self.box(-1.0, -0.85, 0, 1), self.box(0.85, 1.0, 0, 1)) if kind == "x" else (
            self.box(-0.5, 0.5, -1.15, -0.9), self.box(-0.4, 0.4, 2.0, 2.25),
        )  # fmt: skip
        rim = float(np.mean([flow[mask][:, axis].mean() for mask in rims]))
        if rim / middle > _TURNS:
            return ("headShiftX" if kind == "x" else "headShiftY"), 0.0
        angle = math.degrees(math.asin(max(-1.0, min(1.0, middle / _RADIUS))))
        return ("headYaw" if kind == "x" else "headPitch"), angle

    def head_moves(self, flow: np.ndarray, step: float) -> dict[str, float]:
        """Motion of the head by axis of `arkit.HEAD_AXES`, for a coefficient of 1. flow: of one `step`.

        Least squares over the oval: the middle of a turning head moves more than its rim, and all of a shifted one.
        """
        x, y = self.x[self.oval], self.y[self.oval] - 0.55
        across, down = (_RADIUS * np.sqrt(np.clip(1 - ratio**2, 0, 1)) for ratio in (x / 1.3, y / 1.8))
        none, turn, width = np.zeros_like(x), math.radians(1), self.size / self.distance
        terms = [
            (turn * across, none),
            (none, turn * down),
            (-turn * y, turn * x),
            (np.full_like(x, width), none),
            (none, np.full_like(x, width)),
            (x, y),
        ]
        table = np.array([np.concatenate(term) for term in terms]).T
        target = flow[self.oval].T.ravel()
        weight = np.ones(len(target))
        for _ in range(4):  # robust, as in `split`
            fit = np.linalg.lstsq(table * weight[:, None], target * weight, rcond=None)[0]
            error = np.abs(target - table @ fit)
            weight = np.sqrt(1 / (1 + (error / max(float(np.median(error)), 1e-6)) ** 2))
        return {axis: round(float(value) / step, 6) for axis, value in zip(arkit.HEAD_AXES, fit, strict=True)}

    def asymmetry(self, flow: np.ndarray, mask: np.ndarray) -> float:
        """-1 if only the left half of the picture moves inside the mask, 1 if only the right half moves."""
        left, right = (np.linalg.norm(flow[mask & side], axis=1).sum() for side in (self.x < 0, self.x >= 0))
        return round(float((right - left) / max(right + left, 1e-9)), 4)


def _grey(picture: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    method = cv2.INTER_CUBIC if len(grey) < SIZE else cv2.INTER_AREA
    return grey if len(grey) == SIZE else cv2.resize(grey, (SIZE, SIZE), interpolation=method)


# ------------------------------------------------------------------------------------------------ names


def _strongest(choices: dict[tuple[str, str], float]) -> str:
    """Name of the largest of several motions; each has one name per direction."""
    pair = max(choices, key=lambda words: abs(choices[words]))
    forwards, backwards = pair
    return forwards if choices[pair] > 0 else backwards


def _jaw(face: _Face, own: np.ndarray) -> str:
    x, y = own[face.parts["jaw"]].mean(0)
    return _strongest({("jawOpen", "jawClose"): y, ("jawLeft", "jawRight"): x})


def _mouth(face: _Face, own: np.ndarray) -> str:
    left, right = (own[face.box(*sides, 0.95, 1.3)].mean(0) for sides in ((-0.55, -0.3), (0.3, 0.55)))
    upper, lower = (own[face.box(-0.2, 0.2, *rows)].mean(0) for rows in ((0.9, 1.1), (1.15, 1.4)))
    middle = (upper + lower) / 2
    x, y = own[face.parts["mouth"]].mean(0)
    return _strongest({
        ("mouthLeft", "mouthRight"): x,
        ("mouthDown", "mouthUp"): y,
        ("mouthStretch", "mouthPucker"): (right[0] - left[0]) / 2,
        ("mouthFrown", "mouthSmile"): (left[1] + right[1]) / 2 - middle[1],
        ("mouthOpen", "mouthPress"): (lower[1] - upper[1]) / 2,
    })  # fmt: skip


def _eyes(face: _Face, own: np.ndarray) -> str:
    mask = face.parts["eyes"]
    upper, lower = own[mask & (face.y < 0)].mean(0), own[mask & (face.y > 0.06)].mean(0)
    name = _strongest({
        ("eyeBlink", "eyeWide"): upper[1] - max(lower[1], 0.0),
        ("eyesDown", "eyeSquint"): lower[1],
        ("eyesLeft", "eyesRight"): own[mask][:, 0].mean(),
    })  # fmt: skip
    return name + _side(face.asymmetry(own, mask)) if name in arkit.PAIRED else name


def _brows(face: _Face, own: np.ndarray) -> str:
    mask = face.parts["brows"]
    side = _side(face.asymmetry(own, mask))
    inner, outer = (-own[mask & part][:, 1].mean() for part in (abs(face.x) < 0.45, abs(face.x) > 0.6))  # upwards
    if inner + outer < 0:
        return f"browDown{side}"
    if min(inner, outer) > 0.6 * max(inner, outer):
        return "browUp"
    return "browInnerUp" if inner > outer else f"browOuterUp{side}"


def _side(asymmetry: float) -> str:
    """The person's side if nearly all of a motion is on it, else an empty string."""
    return "" if abs(asymmetry) < 0.5 else "Left" if asymmetry > 0 else "Right"


_NAMING = {"jaw": _jaw, "mouth": _mouth, "eyes": _eyes, "brows": _brows}
