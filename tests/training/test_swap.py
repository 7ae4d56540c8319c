"""Swapped mouths: what stays, what moves where, and that the mouth's opening follows its owner."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

pytest.importorskip("torch")

from training.footage.swap import FEATHER, can_swap, patch_mask, swap
from training.footage.takes import LOWER_LIP, MOUTH, UPPER_LIP

from .footage_material import face

SKIN = np.array([200, 150, 120])


def test_a_face_keeps_its_own_mouth() -> None:
    picture, points = face(SKIN, np.array([0.05, -0.3]), 1.0, 0.3, 96)
    swapped = swap(picture, picture, points, points)
    assert np.abs(swapped.astype(int) - picture).max() <= 2


@pytest.mark.parametrize("region", ["chin", "lips"])
def test_nothing_changes_outside_the_patch(region: Literal["chin", "lips"]) -> None:
    kept, points = face(SKIN, np.array([0.0, -0.3]), 1.0, 0.0, 96)
    other, other_points = face(SKIN // 2, np.array([0.1, -0.25]), 0.9, 0.5, 96)
    swapped = swap(kept, other, points, other_points, region=region)
    changed = (swapped != kept).any(-1)
    assert changed.any()
    rows = np.flatnonzero(changed.any(1))
    nose = (points[2, 1] + 1) * 48 - 0.5
    assert rows.min() > nose, "the patch begins below the nose"
    eyes = swapped[: int(nose)]
    assert (eyes == kept[: int(nose)]).all()


def test_the_chin_belongs_to_the_patch_and_is_left_out_of_the_published_one() -> None:
    _, points = face(SKIN, np.array([0.0, -0.3]), 1.0, 0.2, 96)
    chin = tuple(np.rint((points[8] + 1) * 48 - 0.5).astype(int)[::-1])
    masks = {region: patch_mask(points, points, 96, region)[0] for region in ("chin", "lips")}
    assert masks["chin"][chin] > 0
    assert masks["lips"][chin] == 0
    assert masks["chin"].max() == 1.0
    assert 0 < FEATHER < 0.2


def test_a_mark_on_the_mouth_lands_on_the_other_mouth() -> None:
    size = 128
    kept, points = face(SKIN, np.array([-0.05, -0.3]), 1.0, 0.2, size)
    other, other_points = face(SKIN, np.array([0.12, -0.22]), 0.85, 0.2, size)
    line = np.arange(size)
    x, y = (other_points[MOUTH] + 1) * (size / 2) - 0.5
    dot = np.exp(-((line[None] - x) ** 2 + (line[:, None] - y) ** 2) / 8)
    marked = np.clip(other * (1 - dot[..., None]) + 255 * dot[..., None] * np.array([0, 1, 0]), 0, 255).astype(np.uint8)
    difference = swap(kept, marked, points, other_points).astype(float) - swap(kept, other, points, other_points)
    weight = np.clip(difference[..., 1], 0, None)
    found = np.array([(weight * line[None]).sum(), (weight * line[:, None]).sum()]) / weight.sum()
    assert np.linalg.norm(found - ((points[MOUTH] + 1) * (size / 2) - 0.5)) < 0.5


def test_the_opening_follows_the_mouth_and_not_the_head() -> None:
    rng, openings, dark = np.random.default_rng(0), [], []
    for _ in range(40):
        own, foreign = rng.uniform(0, 0.5, 2)
        kept, points = face(SKIN, rng.uniform(-0.1, 0.1, 2) - (0, 0.3), 1.0, own, 160)
        place = rng.uniform(-0.1, 0.1, 2) - (0, 0.3)
        other, other_points = face(SKIN + rng.integers(-15, 15, 3), place, 0.9, foreign, 160)
        swapped = swap(kept, other, points, other_points, rng)
        x, y = np.rint((points[MOUTH] + 1) * 80 - 0.5).astype(int)
        column = swapped[y - 26 : y + 27, x].astype(int).sum(-1)
        dark.append((column < 0.5 * SKIN.sum()).sum())  # rows of the open mouth
        openings.append(foreign)
    assert np.corrcoef(openings, dark)[0, 1] >= 0.9


def test_only_similar_faces_exchange_mouths() -> None:
    _, frontal = face(SKIN, np.array([0.0, -0.3]), 1.0, 0.1)
    _, small = face(SKIN, np.array([0.0, -0.3]), 0.5, 0.1)
    profile = frontal.copy()
    profile[2, 0] += 0.2
    assert can_swap(frontal[None], frontal[None])[0]
    assert not can_swap(frontal[None], small[None])[0]
    assert not can_swap(frontal[None], profile[None])[0]
    assert frontal[LOWER_LIP, 1] > frontal[UPPER_LIP, 1]
