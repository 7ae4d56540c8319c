"""Where points went, and what moved that should not have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.units import BANKS, NAMES

from . import people
from .people import EYE_DISTANCE, GROUPS, space_points
from .puppet import Puppet

OWN, REST = 0.25, 0.05  # of the most that any point moves in truth: a unit's own region, and what it leaves alone
LEAST = 0.02  # of the eye distance: units that move less than this in the picture cannot be judged by points
BANK_OF = dict(zip(NAMES, (bank for bank, count in BANKS for _ in range(count)), strict=True))


def point_errors(found: np.ndarray, truth: np.ndarray, visible: np.ndarray) -> dict[str, np.ndarray]:
    """Mean distance as a share of the eye distance, (T,) each, for the mouth, the eyes and the whole face.

    found, truth (T, F, 2); visible (T, F) in portrait and frame alike, other points do not count.
    """
    distance = np.linalg.norm(found - truth, axis=-1) / EYE_DISTANCE
    parts = {"mouth": GROUPS["mouth"], "eyes": GROUPS["eyes"], "face": people.FACE}
    return {
        name: (distance[:, part] * visible[:, part]).sum(1) / np.maximum(visible[:, part].sum(1), 1)
        for name, part in parts.items()
    }


def similarity_part(start: np.ndarray, shift: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The part of movements (P, 2) from `start` (P, 2) that turning, scaling and shifting the head explains.

    Fitted to the points `by` (P,) bool alone, by least squares.
    """
    place, move = start @ (1, 1j), shift @ (1, 1j)
    middle = place[by].mean()
    spread = place[by] - middle
    turn = (spread.conj() * (move[by] - move[by].mean())).sum() / max((abs(spread) ** 2).sum(), 1e-12)
    rigid = turn * (place - middle) + move[by].mean()
    return np.stack([rigid.real, rigid.imag], -1)


def camera_part(space: np.ndarray, shift: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The part of movements (P, 2) that turning a solid head with points `space` (P, 3) explains, seen from afar.

    An affine camera, fitted to the points `by` (P,) bool alone, by least squares.
    """
    solid = np.column_stack([space, np.ones(len(space))])
    return solid @ np.linalg.lstsq(solid[by], shift[by], rcond=None)[0]


@dataclass(frozen=True)
class Alone:
    """What one coefficient alone moved in one person, as shares of the eye distance."""

    name: str
    own: float  # mean movement where the truth moves; of the pose, what a solid head explains
    rest: float  # mean movement where the truth does not; of the pose, what a solid head does not explain
    share: float  # of the true movement that was made: 1 is all of it in the right direction
    head: float  # mean movement of the whole head along with it; 0 for the pose

    @property
    def bank(self) -> str:
        return BANK_OF[self.name]


def units_apart(puppet: Puppet, persons: Sequence[int], size: int) -> tuple[list[Alone], list[Alone]]:
    """Every coefficient alone in every person at rest: as the puppet moves, and as the truth does.

    The movement of the whole head is taken out first, but for the pose. What a face unit owns is decided by the truth
    about that person: points that move at least a quarter as far as the one that moves most. The rest of the face are
    points that move at most a twentieth as far; those in between, and those hidden at rest, do not count. Units that
    move hardly anything in the picture (a tongue, a chin towards the camera) are left out.
    """
    rows, names = people.units_alone()
    rows = np.concatenate([np.zeros_like(rows[:1]), rows])
    made, true = [], []
    for person in persons:
        portrait = people.shoot(person, rows[:1], size)
        truth = people.shoot(person, rows, 64)
        seen, space = portrait.visible[0], space_points(person)
        puppet.show(portrait.images[0])
        start = truth.points[0]
        moved = puppet.moved(rows, start)
        for name, to, wanted in zip(names, moved[1:], truth.points[1:], strict=True):
            shift, goal = (to - moved[0])[seen], (wanted - start)[seen]
            if BANK_OF[name] == "pose":
                made.append(_pose_alone(name, space[seen], shift, goal))
                true.append(_pose_alone(name, space[seen], goal, goal))
                continue
            far = np.linalg.norm(goal, axis=1)
            if far.max() < LEAST * EYE_DISTANCE:
                continue
            own, rest = far >= OWN * far.max(), far <= REST * far.max()
            if rest.sum() < 20:
                continue
            made.append(_unit_alone(name, start[seen], shift, goal, own, rest))
            true.append(_unit_alone(name, start[seen], goal, goal, own, rest))
    return made, true


def _unit_alone(
    name: str, start: np.ndarray, shift: np.ndarray, goal: np.ndarray, own: np.ndarray, rest: np.ndarray
) -> Alone:
    head, true_head = (similarity_part(start, move, rest) for move in (shift, goal))
    made, wanted = shift - head, goal - true_head
    distance = np.linalg.norm(made, axis=1) / EYE_DISTANCE
    share = (made[own] * wanted[own]).sum() / np.square(wanted[own]).sum()
    along = np.linalg.norm(head, axis=1).mean() / EYE_DISTANCE
    return Alone(name, distance[own].mean(), distance[rest].mean(), float(share), float(along))


def _pose_alone(name: str, space: np.ndarray, shift: np.ndarray, goal: np.ndarray) -> Alone:
    everywhere = np.ones(len(space), bool)
    solid = camera_part(space, shift, everywhere)
    own, rest = (np.linalg.norm(part, axis=1).mean() / EYE_DISTANCE for part in (solid, shift - solid))
    return Alone(name, float(own), float(rest), float((shift * goal).sum() / np.square(goal).sum()), 0.0)


def apart(units: Sequence[Alone], bank: str) -> float:
    """Movement in the bank's own regions over movement of the rest; NaN when nothing moves."""
    of_bank = [unit for unit in units if unit.bank == bank]
    own, rest = (float(np.sum([getattr(unit, part) for unit in of_bank])) for part in ("own", "rest"))
    return own / rest if rest > 0 else (np.inf if own > 0 else np.nan)
