"""The landmarks of rendered heads, and the training of the landmark network, on few people and with few steps."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

pytest.importorskip("moderngl", reason="moderngl draws the heads")

from safetensors.torch import load_file

from inference.face import lips
from inference.face.landmarks import (
    ANCHORS,
    COUNT,
    GAZE,
    INNER_LIPS,
    LEFT_LIDS,
    NAMES,
    OUTER_LIPS,
    RIGHT_LIDS,
    SIDE,
    LandmarkNet,
)
from training.heads import render
from training.heads.lips import BORDER, with_lips
from training.heads.marks import lip_outline
from training.learning.lip_snapshots import lip_snapshot
from training.learning.snapshots import negative, snapshot
from training.stages import landmarks as stage
from training.stages import lips as lip_stage
from training.units import NAMES as UNITS

from .conftest import DRAWN

PERSON = 3


@pytest.fixture(scope="module")
def shown(drawer: render.Renderer):
    """Landmarks of the test person in pixels, by named coefficients and gaze."""

    def with_units(gaze: tuple[float, float] = (0.0, 0.0), **values: float) -> np.ndarray:
        row = np.zeros(len(UNITS), np.float32)
        for name, value in values.items():
            row[UNITS.index(name)] = value
        with drawer.context:
            drawer.show(render.person(PERSON))
            return (drawer.render(row, gaze).landmarks + 1) * (DRAWN / 2) - 0.5

    return with_units


def place(points: np.ndarray, name: str) -> np.ndarray:
    return points[NAMES.index(name)]


def lip_gap(points: np.ndarray) -> float:
    upper, lower = np.split(points[INNER_LIPS, 1], 2)
    return float((lower - upper).max())


def test_landmarks_follow_the_face(shown):
    rest = shown(gaze=(0.0, 0.0))
    assert lip_gap(shown(jawOpen=0.8)) > lip_gap(rest) + 3
    assert place(shown(jawOpen=0.8), "chin")[1] > place(rest, "chin")[1] + 1.5
    shut, upper = shown(eyeBlink=1.0), RIGHT_LIDS[1:4]
    assert (shut[upper, 1] > rest[upper, 1] + 0.5).all()
    np.testing.assert_allclose(shut[RIGHT_LIDS[5:], 1], rest[RIGHT_LIDS[5:], 1], atol=0.7)
    assert place(shown(headYaw=0.8), "noseTip")[0] > place(rest, "noseTip")[0] + 2


def outline_of(heights: tuple[float, float], drawer: render.Renderer) -> tuple[np.ndarray, np.ndarray]:
    """The picture of the test person with lips of other heights, and its landmarks in pixels."""
    with drawer.context:
        drawer.show(with_lips(render.person(PERSON), *heights))
        picture = drawer.render(np.zeros(len(UNITS), np.float32))
    return picture.image, (picture.landmarks + 1) * (DRAWN / 2) - 0.5


def test_the_outline_lies_where_the_red_of_the_lips_ends(drawer):
    _, usual = outline_of((1.0, 1.0), drawer)
    _, thin = outline_of((0.5, 0.5), drawer)
    _, full = outline_of((1.0, 1.3), drawer)
    for name in ("upperLipTop", "upperLipRight3", "upperLipLeft2"):
        assert place(thin, name)[1] > place(usual, name)[1]
    for name in ("lowerLipBottom", "lowerLipRight3", "lowerLipLeft2"):
        assert place(thin, name)[1] < place(usual, name)[1] < place(full, name)[1]
    np.testing.assert_allclose(place(full, "upperLipTop"), place(usual, "upperLipTop"), atol=1e-3)
    heads = render.person(PERSON), with_lips(render.person(PERSON), 0.5, 0.5)
    for head in heads:
        vertices, weights = lip_outline(head.paint[:, 2])
        red = (head.paint[vertices, 2] * weights).sum(1)
        assert BORDER <= red.min() <= red.max() < BORDER + 0.15


def test_lip_snapshots(drawer):
    rng = np.random.default_rng(0)
    with drawer.context:
        drawer.show(render.person(PERSON))
        picture = drawer.render(np.zeros(len(UNITS), np.float32))
    points = (picture.landmarks + 1) * (DRAWN / 2) - 0.5
    for _ in range(12):
        shown, at = lip_snapshot(picture.image, picture.mask, points, rng)
        assert (shown.shape, shown.dtype) == ((lips.HEIGHT, lips.WIDTH, 3), np.uint8)
        assert at.shape == (lips.COUNT, 2)
        assert (at.mean(0) > 0).all()
        assert (at.mean(0) < (lips.WIDTH, lips.HEIGHT)).all()
        right, left = at[OUTER_LIPS.index(NAMES.index("mouthRight"))], at[OUTER_LIPS.index(NAMES.index("mouthLeft"))]
        assert right[0] < left[0], "a mirrored picture has its landmarks renamed"


def test_training_of_lips_resumes_and_writes_a_network(drawer, tmp_path, monkeypatch):
    monkeypatch.setattr(lip_stage, "BATCH", 4)
    monkeypatch.setattr(lip_stage, "measure", lambda net, pool: {})
    args = argparse.Namespace(
        pool=tmp_path / "pool", people=2, out=tmp_path / "L.pt", minutes=10, steps=2, rate=2e-3, threads=1, seed=0,
        write=tmp_path / "written.safetensors", assets=None,
    )  # fmt: skip
    lip_stage.train(args)
    before = load_file(args.write)
    args.steps = 4
    lip_stage.train(args)
    after = load_file(args.write)
    assert (before["heat.weight"] != after["heat.weight"]).any()
    lips.LipNet().load_state_dict({name: part.float() for name, part in after.items()})


def test_gaze_turns_the_irises_and_lowers_the_lids(shown):
    rest, right, down = shown(gaze=(0.0, 0.0)), shown(gaze=(0.4, 0.0)), shown(gaze=(0.0, -0.35))
    for iris in ("irisRight", "irisLeft"):
        assert place(right, iris)[0] > place(rest, iris)[0] + 0.8
        assert place(down, iris)[1] > place(rest, iris)[1] + 0.5
    upper = [*RIGHT_LIDS[1:4], *LEFT_LIDS[1:4]]
    assert (down[upper, 1] > rest[upper, 1]).all()
    others = [k for k, name in enumerate(NAMES) if name.startswith(("jaw", "nose", "innerUpper"))]
    np.testing.assert_allclose(right[others], rest[others], atol=1e-3)


def test_snapshots_keep_landmarks_on_the_face(drawer: render.Renderer):
    rng = np.random.default_rng(0)
    with drawer.context:
        drawer.show(render.person(PERSON))
        picture = drawer.render(np.zeros(len(UNITS), np.float32))
    points = (picture.landmarks + 1) * (DRAWN / 2) - 0.5
    for _ in range(12):
        one = snapshot(picture.image, picture.mask, points, picture.image[::-1], rng)
        assert (one.picture.shape, one.picture.dtype, one.present) == ((SIDE, SIDE, 3), np.uint8, 1.0)
        right, left = one.points[:2]
        assert right[0] < left[0], "a mirrored picture has its landmarks renamed"
        assert 0 < one.points[2].mean() < SIDE
        assert set(np.unique(one.shown)) <= {0.0, 1.0}
    for _ in range(20):
        one = negative(picture.image, points, picture.image[::-1], rng)
        assert (one.picture.shape, one.present, one.shown.sum()) == ((SIDE, SIDE, 3), 0.0, 0.0)


def test_training_resumes_and_writes_a_network(drawer, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "BATCH", 8)
    monkeypatch.setattr(stage, "NEGATIVES", 2)
    monkeypatch.setattr(stage, "ANCHOR_PEOPLE", 2)
    monkeypatch.setattr(stage, "measure", lambda net, pool: {})
    args = argparse.Namespace(
        pool=tmp_path / "pool", people=2, out=tmp_path / "L.pt", minutes=10, steps=2, rate=2e-3, threads=1, seed=0,
        write=tmp_path / "written.safetensors", assets=None,
    )  # fmt: skip
    stage.train(args)
    before = load_file(args.write)
    args.steps, args.people = 4, 3
    stage.train(args)
    assert stage.Pool(args.pool, 1).done == 3, "a pool is continued, and never cut"
    after = load_file(args.write)
    assert (before["heat.weight"] != after["heat.weight"]).any()
    assert all(after.pop(name).isfinite().all() for name in (GAZE, ANCHORS))
    LandmarkNet().load_state_dict({name: part.float() for name, part in after.items()})
    pool = stage.Pool(args.pool, 3)
    assert pool.points.shape[1:] == (COUNT, 2)
    assert len(pool.training) + len(pool.held_out) == 3 * stage.FRAMES


def test_loss_ignores_what_no_picture_shows(drawer):
    """Landmarks of negatives and outside the picture do not count."""
    import torch

    net = LandmarkNet().eval()
    points = torch.full((2, COUNT, 2), 50.0)
    points[0, 3:] = -60.0
    batch = (torch.zeros(2, 3, SIDE, SIDE), points, torch.ones(2, COUNT), torch.tensor([1.0, 0.0]))
    changed = points.clone()
    changed[0, 3:], changed[1] = 900.0, 20.0
    one = stage.landmark_loss(net, batch)
    other = stage.landmark_loss(net, (batch[0], changed, *batch[2:]))
    assert one["error"].item() == pytest.approx(other["error"].item())
    assert one["heat"].item() == pytest.approx(other["heat"].item())


def test_anchors_are_found_on_unseen_people():
    """The mean error of the shipped network is below 5 % of the eye distance."""
    from inference.face.landmarks import eyes_and_mouth, find_landmarks, square_at
    from training.evaluate import people

    eyes, mouth = people.GROUPS["eyes"], people.GROUPS["mouth"]
    errors = []
    for person in range(people.FIRST, people.FIRST + 3):
        shots = people.render_person(person, people.evaluation_rows(person), 128)
        left = people.space_points(person)[eyes, 0] < 0
        for picture, points in zip(shots.images, shots.points, strict=True):
            parts = points[eyes][left], points[eyes][~left], points[mouth]
            truth = (np.stack([part.mean(0) for part in parts]) + 1) * 64 - 0.5
            found = eyes_and_mouth(find_landmarks(picture, [square_at(truth[:2])], passes=3, lips=False).points)[0]
            errors.append(np.linalg.norm(found - truth, axis=1) / np.linalg.norm(truth[1] - truth[0]))
    assert np.mean(errors) < 0.05
