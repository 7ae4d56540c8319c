"""The closed-form code of brows and lids: on drawn eyes whose brows move and whose lids close, with moving heads."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.footage.takes import UPPER, UPPER_MIRROR, Footage, subtract_take_mean
from training.stages.upper_face import fit_upper_face

from .footage_material import with_marks

SIZE, PEOPLE, FRAMES = 96, 10, 8


def drawn(place: np.ndarray, scale: float, raised: float, closed: float, skin: np.ndarray) -> np.ndarray:
    """(96, 96, 3) face with two brows and two eyes. raised, closed: 0 to 1."""
    picture = np.full((SIZE, SIZE, 3), 60, np.uint8)

    def oval(x: float, y: float, wide: float, high: float, colour: np.ndarray) -> None:
        at = (np.array([x, y]) * scale * 0.6 + place + 1.0) * SIZE / 2.0 - 0.5
        axes = np.maximum(np.array([wide, high]) * scale * 0.3 * SIZE, 0.3)
        where = [tuple(np.round(16 * part).astype(int).tolist()) for part in (at, axes)]
        cv2.ellipse(picture, where[0], where[1], 0, 0, 360, colour.tolist(), -1, cv2.LINE_AA, 4)

    oval(0.0, 0.4, 0.9, 1.3, skin)
    for side in (-0.5, 0.5):
        oval(side, -0.35 - 0.15 * raised, 0.26, 0.06, 0.3 * skin)
        oval(side, 0.0, 0.18, 0.02 + 0.1 * (1.0 - closed), np.array([30, 30, 30]))
    return picture


@pytest.fixture(scope="module")
def scene() -> tuple[Footage, np.ndarray]:
    """Footage, and the truth (N, 2): how far brows are raised and eyes closed."""
    rng = np.random.default_rng(0)
    frames, points, truth = [], [], rng.random((PEOPLE * FRAMES, 2))
    local = np.array([
        [-0.5, 0.0], [0.5, 0.0], [0.0, 0.55], [-0.3, 1.0], [0.3, 1.0], [0.0, 0.92], [0.0, 1.08], [0.0, 1.0], [0.0, 1.5]
    ])  # fmt: skip
    for number, (raised, closed) in enumerate(truth):
        if number % FRAMES == 0:
            skin = rng.integers(120, 240, 3).astype(float)
        place, scale = np.array([0.0, -0.2]) + rng.uniform(-0.1, 0.1, 2), rng.uniform(0.9, 1.1)
        frames.append(drawn(place, scale, raised, closed, skin))
        points.append(with_marks(local, raised, closed) * scale * 0.6 + place)
    clip = np.repeat(np.arange(PEOPLE), FRAMES)
    seconds = np.tile(np.arange(FRAMES, dtype=float), PEOPLE)
    return Footage(np.array(frames), np.array(points, np.float32), clip, clip, seconds), truth


def test_brows_and_lids_are_in_the_code_and_the_pose_is_not(scene: tuple[Footage, np.ndarray]) -> None:
    footage, truth = scene
    codes = fit_upper_face(footage).codes(footage)
    assert codes.shape == (len(footage), 10)
    wanted = subtract_take_mean(np.concatenate([truth, footage.points[:, 0]], 1), footage.take_ids)
    halves = np.arange(len(footage)) < len(footage) // 2
    solution = np.linalg.lstsq(codes[halves], wanted[halves], rcond=None)[0]
    left = np.square(codes[~halves] @ solution - wanted[~halves]).sum(0)
    explained = 1.0 - left / np.square(wanted[~halves]).sum(0)
    assert (explained[:2] > 0.6).all(), explained
    assert (explained[2:] < 0.3).all(), explained


def test_a_code_moves_brows_and_lids_up_and_down(scene: tuple[Footage, np.ndarray]) -> None:
    """The motion that belongs to the codes points up at raised brows and down at the upper lids of closed eyes."""
    footage, truth = scene
    upper = fit_upper_face(footage)
    moved = upper.motion(upper.codes(footage))
    assert moved.shape == (len(footage), len(UPPER), 2)
    raised, closed = subtract_take_mean(truth, footage.take_ids).T
    for brow in range(16, 26):
        assert np.corrcoef(moved[:, brow, 1], raised)[0, 1] < -0.8
    for lid in (2, 10):
        assert np.corrcoef(moved[:, lid, 1], closed)[0, 1] > 0.8
    np.testing.assert_allclose(moved, moved[:, UPPER_MIRROR] * [-1.0, 1.0], atol=1e-6)
