"""The synthetic heads: same seed, same pictures; coefficients have the meaning given in `training.units`."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("moderngl", reason="moderngl draws the heads")

from training.heads import dataset, mesh, render, sampling
from training.units import LIP, NAMES, POSE

from .conftest import DRAWN as SIZE

PERSON = 3


@pytest.fixture
def shoot(drawer: render.Renderer):
    """Render the test person with named coefficients; the others are 0."""

    def with_units(**values: float) -> render.Frame:
        row = np.zeros(len(NAMES), np.float32)
        for name, value in values.items():
            row[NAMES.index(name)] = value
        return render.frame(PERSON, row, SIZE)

    return with_units


def group(name: str) -> slice:
    start = 0
    for other, count in mesh.POINT_GROUPS:
        if other == name:
            return slice(start, start + count)
        start += count
    raise KeyError(name)


def points(frame: render.Frame) -> np.ndarray:
    return frame.points.astype(np.float64)


def nose(drawer: render.Renderer) -> np.ndarray:
    at = drawer.mesh.template[drawer.mesh.points]
    return (np.abs(at[:, 0]) < 0.1) & (at[:, 1] > 6.85) & (at[:, 1] < 7.1) & (at[:, 2] > 1.5)


def test_shapes_and_types(shoot) -> None:
    frame = shoot()
    assert frame.image.shape == (SIZE, SIZE, 3)
    assert frame.image.dtype == np.uint8
    assert frame.mask.shape == (SIZE, SIZE)
    assert frame.mask.dtype == np.uint8
    assert frame.points.shape == (1024, 2)
    assert frame.points.dtype == np.float16
    assert frame.visible.shape == (1024,)
    assert frame.visible.dtype == np.bool_
    assert render.portrait(PERSON, SIZE).tolist() == frame.image.tolist()


def test_rest_is_framed_as_a_face_crop(shoot, drawer) -> None:
    frame = shoot()
    eyes = points(frame)[group("eyes")]
    assert abs(eyes[:, 0].mean()) < 0.12
    assert abs(eyes[:, 1].mean() - (2 * 0.44 - 1)) < 0.12
    assert frame.visible[group("mouth")].mean() > 0.7
    assert frame.mask[SIZE // 2, SIZE // 2] == 255
    assert frame.mask[SIZE // 2, 0] == 0


def test_same_seed_same_picture(shoot) -> None:
    before = shoot(jawOpen=0.6, headYaw=0.4)
    render.person.cache_clear()
    after = shoot(jawOpen=0.6, headYaw=0.4)
    for one, two in zip(vars(before).values(), vars(after).values(), strict=True):
        assert np.array_equal(one, two)
    assert not np.array_equal(render.portrait(PERSON + 1, SIZE), render.portrait(PERSON, SIZE))


def test_renderers_of_two_sizes_do_not_interfere(shoot) -> None:
    before = shoot(jawOpen=0.5)
    larger = render.portrait(PERSON, 2 * SIZE)
    assert larger.shape == (2 * SIZE, 2 * SIZE, 3)
    assert larger[::2, ::2].astype(int).mean() == pytest.approx(render.portrait(PERSON, SIZE).mean(), abs=2)
    assert np.array_equal(shoot(jawOpen=0.5).image, before.image)


def test_head_moves_as_the_units_say(shoot, drawer) -> None:
    rest, tip = points(shoot()), nose(drawer)
    assert tip.sum() > 3
    chin = drawer.mesh.template[drawer.mesh.points][:, 1] < 6.3
    chin[group("mouth").stop :] = False

    def move(**values: float) -> np.ndarray:
        return points(shoot(**values)) - rest

    assert move(headYaw=0.7)[tip, 0].mean() > 0.05
    assert move(headPitch=0.7)[tip, 1].mean() > 0.05
    rolled = move(headRoll=0.7)[group("face")]
    assert np.corrcoef(rolled[:, 0], rest[group("face"), 1])[0, 1] < -0.9  # higher points move right
    assert move(headShiftX=1.0)[tip, 0].mean() == pytest.approx(0.16, abs=0.03)
    assert move(headShiftY=1.0)[tip, 1].mean() == pytest.approx(0.16, abs=0.03)
    assert move(headScale=1.0)[chin, 1].mean() > 0.05
    assert move(jawOpen=1.0)[chin, 1].mean() > 0.05


def test_smile_is_symmetrical(drawer) -> None:
    row = drawer.mesh.units[NAMES.index("mouthSmile") - len(POSE)].reshape(-1, 3)
    left, right = drawer.mesh.template[:, 0] > 0.05, drawer.mesh.template[:, 0] < -0.05
    assert row[left, 1].sum() == pytest.approx(row[right, 1].sum(), rel=0.02)
    assert row[left, 0].sum() == pytest.approx(-row[right, 0].sum(), rel=0.02)
    assert row[left, 1].max() > 0.05


def test_gaze_turns_the_eyes_only_and_lids_follow(drawer) -> None:
    rest = render.frame(PERSON, np.zeros(36, np.float32), 2 * SIZE)
    aside = render.frame(PERSON, np.zeros(36, np.float32), 2 * SIZE, gaze=(0.4, 0.0))
    assert np.array_equal(aside.points, rest.points)
    changed = np.argwhere(np.abs(aside.image.astype(int) - rest.image).max(-1) > 8)
    assert len(changed) > 8
    eyes = (points(rest)[group("eyes")] + 1) * SIZE
    assert (changed[:, ::-1] > eyes.min(0) - 2).all()
    assert (changed[:, ::-1] < eyes.max(0) + 2).all()
    down = render.frame(PERSON, np.zeros(36, np.float32), 2 * SIZE, gaze=(0.0, -0.4))
    lowered = points(down)[:, 1] - points(rest)[:, 1]
    assert lowered[group("eyes")].max() > 0.01
    assert np.abs(lowered[group("mouth")]).max() < 0.002


def test_gazes_of_a_data_set_are_written(drawer, tmp_path) -> None:
    dataset.render_dataset(tmp_path, identities=2, frames=4, size=SIZE, gaze=15.0)
    gaze = np.load(tmp_path / "gaze.npy")
    assert gaze.shape == (8, 2)
    assert not gaze[::4].any()
    assert gaze.any()
    assert np.array_equal(gaze, np.concatenate([sampling.gazes(person, 4, 0, 15.0) for person in range(2)]))


def test_background_and_shoulders_stay(shoot, drawer) -> None:
    rest, turned = shoot(), shoot(headYaw=0.8, headRoll=-0.5, jawOpen=1.0)
    both = (rest.mask == 0) & (turned.mask == 0)
    assert both.sum() > 200
    assert np.array_equal(rest.image[both], turned.image[both])
    still = drawer.mesh.head_weight[drawer.mesh.points, 0] < 1e-3
    assert still.sum() > 15
    assert np.abs(points(turned) - points(rest))[still].max() < 2e-3


def test_sampled_frames_avoid_invalid_combinations() -> None:
    rows = np.concatenate([sampling.coefficients(person, 10) for person in range(300)])
    at = {name: rows[:, k] for k, name in enumerate(NAMES)}
    assert not rows[::10].any()
    assert (at["mouthClose"] <= at["jawOpen"] + 1e-6)[np.count_nonzero(rows, axis=1) > 1].all()
    assert (np.minimum(at["jawLeft"], at["jawRight"]) == 0).all()
    assert (np.minimum(at["mouthLeft"], at["mouthRight"]) == 0).all()
    pose = slice(len(LIP), len(LIP) + len(POSE))
    assert np.abs(rows[:, pose]).max() <= 1
    assert rows.min() >= -1
    assert np.delete(rows, np.arange(pose.start, pose.stop), axis=1).min() >= 0
    assert rows.max() <= 1.2 + 1e-6
    alone = rows[np.count_nonzero(rows, axis=1) == 1]
    assert (alone.any(axis=0)).mean() > 0.9


def test_resumed_data_set_has_the_same_bytes(drawer, tmp_path, monkeypatch) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    dataset.render_dataset(whole, identities=3, frames=4, size=SIZE, seed=5, first=7)
    monkeypatch.setattr(dataset, "SAVE_EVERY", 1)
    calls = []

    def interrupted(index: int, seed: int) -> object:
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(index, seed)

    original = dataset.identity
    monkeypatch.setattr(dataset, "identity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dataset.render_dataset(broken, identities=3, frames=4, size=SIZE, seed=5, first=7)
    assert json.loads((broken / "meta.json").read_text())["done"] == 2
    dataset.render_dataset(broken, identities=3, frames=4, size=SIZE, seed=5, first=7)
    assert calls == [7, 8, 9, 9]
    for file in sorted(whole.iterdir()):
        assert file.read_bytes() == (broken / file.name).read_bytes(), file.name
    coefficients = np.load(whole / "coefficients.npy")
    assert coefficients.shape == (12, 36)
    assert not coefficients[::4].any()


def test_long_hair_is_closed_at_the_crown(drawer) -> None:
    start, row = drawer.mesh.shell_start, mesh.SHELL_COLUMNS
    people = [someone for someone in map(render.person, range(30)) if someone.shell]
    assert people
    for someone in people:
        crown, brim = someone.rest[start : start + row], someone.rest[-row:]
        assert np.ptp(crown[:, [0, 2]], axis=0).max() < 1e-3
        assert np.ptp(brim[:, [0, 2]], axis=0).max() > 0.2
