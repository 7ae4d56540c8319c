"""Accuracy of point motion, and disentanglement of the coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.units import BANKS, NAMES

from . import people
from .people import EYE_DISTANCE, GROUPS, space_points
from .puppet import Puppet

OWN, REST = 0.25, 0.05  # of the largest true movement: at least, in a unit's own region; at most, in the rest
LEAST = 0.02  # of the eye distance: units that move all points less than this are left out
BANK_OF = dict(zip(NAMES, (bank for bank, count in BANKS for _ in range(count)), strict=True))


def point_errors(prediction: np.ndarray, truth: np.ndarray, visible: np.ndarray) -> dict[str, np.ndarray]:
    """Mean distance in eye distances, (T,) each, for the mouth, the eyes and the whole face.

    prediction, truth: (T, F, 2). visible: (T, F), points that are visible in both portrait and frame; others do not
    count.
    """
    distance = np.linalg.norm(prediction - truth, axis=-1) / EYE_DISTANCE
    parts = {"mouth": GROUPS["mouth"], "eyes": GROUPS["eyes"], "face": people.FACE}
    return {
        name: (distance[:, part] * visible[:, part]).sum(1) / np.maximum(visible[:, part].sum(1), 1)
        for name, part in parts.items()
    }


def similarity_part(start: np.ndarray, shift: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The part of movements `shift` (P, 2) from `start` (P, 2) that a similarity transform explains.

    It is fitted to the points `by` (P,) bool by least squares.
    """
    place, move = start @ (1, 1j), shift @ (1, 1j)
    middle = place[by].mean()
    spread = place[by] - middle
    turn = (spread.conj() * (move[by] - move[by].mean())).sum() / max((abs(spread) ** 2).sum(), 1e-12)
    rigid = turn * (place - middle) + move[by].mean()
    return np.stack([rigid.real, rigid.imag], -1)


def camera_part(space: np.ndarray, shift: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The part of movements `shift` (P, 2) that a rigid head, points `space` (P, 3), and an affine camera explain.

    It is fitted to the points `by` (P,) bool by least squares.
    """
    solid = np.column_stack([space, np.ones(len(space))])
    return solid @ np.linalg.lstsq(solid[by], shift[by], rcond=None)[0]


@dataclass(frozen=True)
class UnitMotion:
    """Movement by a single coefficient in one person, in eye distances."""

    name: str
    own: float  # mean movement in its own region; for the pose, what a rigid head explains
    rest: float  # mean movement in the rest; for the pose, what a rigid head does not explain
    share: float  # movement along the true one, relative to it; 1 is ideal
    head: float  # mean movement of the whole head; 0 for the pose

    @property
    def bank(self) -> str:
        return BANK_OF[self.name]


def single_unit_motions(puppet: Puppet, persons: Sequence[int], size: int) -> tuple[list[UnitMotion], list[UnitMotion]]:
    """Movement by each single coefficient in every person at rest: of the puppet, and the true one.

    Except for the pose, the movement of the whole head is subtracted first. A face unit's own region are the points
    whose true movement is at least OWN of the largest one; the rest are those with at most REST. Points in between, and
    those hidden at rest, do not count. Units that move no point by LEAST (a tongue, a chin towards the camera) are left
    out.
    """
    rows, names = people.single_unit_rows()
    rows = np.concatenate([np.zeros_like(rows[:1]), rows])
    measured, true = [], []
    for person in persons:
        portrait = people.render_person(person, rows[:1], size)
        truth = people.render_person(person, rows, 64)
        visible, space = portrait.visible[0], space_points(person)
        puppet.show(portrait.images[0])
        start = truth.points[0]
        positions = puppet.moved(rows, start)
        for name, to, target in zip(names, positions[1:], truth.points[1:], strict=True):
            shift, goal = (to - positions[0])[visible], (target - start)[visible]
            if BANK_OF[name] == "pose":
                measured.append(_pose_motion(name, space[visible], shift, goal))
                true.append(_pose_motion(name, space[visible], goal, goal))
                continue
            far = np.linalg.norm(goal, axis=1)
            if far.max() < LEAST * EYE_DISTANCE:
                continue
            own, rest = far >= OWN * far.max(), far <= REST * far.max()
            if rest.sum() < 20:
                continue
            measured.append(_face_unit_motion(name, start[visible], shift, goal, own, rest))
            true.append(_face_unit_motion(name, start[visible], goal, goal, own, rest))
    return measured, true


def _face_unit_motion(
    name: str, start: np.ndarray, shift: np.ndarray, goal: np.ndarray, own: np.ndarray, rest: np.ndarray
) -> UnitMotion:
    head, true_head = (similarity_part(start, move, rest) for move in (shift, goal))
    motion, target = shift - head, goal - true_head
    distance = np.linalg.norm(motion, axis=1) / EYE_DISTANCE
    share = (motion[own] * target[own]).sum() / np.square(target[own]).sum()
    along = np.linalg.norm(head, axis=1).mean() / EYE_DISTANCE
    return UnitMotion(name, distance[own].mean(), distance[rest].mean(), float(share), float(along))


def _pose_motion(name: str, space: np.ndarray, shift: np.ndarray, goal: np.ndarray) -> UnitMotion:
    everywhere = np.ones(len(space), bool)
    solid = camera_part(space, shift, everywhere)
    own, rest = (np.linalg.norm(part, axis=1).mean() / EYE_DISTANCE for part in (solid, shift - solid))
    return UnitMotion(name, float(own), float(rest), float((shift * goal).sum() / np.square(goal).sum()), 0.0)


def disentanglement(units: Sequence[UnitMotion], bank: str) -> float:
    """Movement in the own regions of a bank's units over movement of the rest; NaN if nothing moves."""
    of_bank = [unit for unit in units if unit.bank == bank]
    own, rest = (float(np.sum([getattr(unit, part) for unit in of_bank])) for part in ("own", "rest"))
    return own / rest if rest > 0 else (np.inf if own > 0 else np.nan)
