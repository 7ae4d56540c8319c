"""Footage: its points, windows and pairs; the motion between two frames; and that labels cannot be reached."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.footage.heads import HeadsAsFootage
from training.footage.motion import (
    displaced_positions,
    measure_motion_pool,
    sample_base_frames,
    sample_lip_exchanges,
    warped_positions,
)
from training.footage.takes import (
    COUNT,
    EYES,
    LIPS,
    MOUTH,
    NOSE,
    UPPER,
    Footage,
    mouth_opening,
    mouth_windows,
    pose_from_points,
    subtract_take_mean,
    to_eye_frame,
)

from .footage_material import FRAMES, write_faces


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 8)


@pytest.fixture(scope="module")
def footage(faces: Path) -> Footage:
    return HeadsAsFootage(faces)


def test_heads_as_footage_knows_pictures_and_points_only(faces: Path, footage: Footage) -> None:
    assert sorted(path.name for path in faces.iterdir()) == ["frames.npy", "meta.json", "points.npy"]
    assert set(vars(footage)) <= {"frames", "points", "take_ids", "person", "seconds", "takes", "neutral"}
    assert footage.points.shape == (8 * FRAMES, COUNT, 2)


def test_too_few_people_are_said(faces: Path) -> None:
    with pytest.raises(SystemExit, match="has 8 people"):
        HeadsAsFootage(faces, 0, 20)


def test_pairs_are_of_one_take_and_sources_are_neutral(footage: Footage) -> None:
    source, driving = footage.sample_pairs(np.random.default_rng(0), 60, 2, neutral=1.0)
    assert (footage.take_ids[source][:, None] == footage.take_ids[driving]).all()
    assert mouth_opening(footage.points[source]).mean() < mouth_opening(footage.points).mean()


def test_points_in_the_heads_frame_do_not_depend_on_its_place(footage: Footage) -> None:
    turn = np.exp(0.3j) * 1.3
    z = (footage.points @ np.array([1, 1j])) * turn + (0.1 - 0.2j)
    moved = np.stack([z.real, z.imag], -1)
    np.testing.assert_allclose(to_eye_frame(moved), to_eye_frame(footage.points), atol=1e-4)
    assert np.allclose(pose_from_points(moved)[:, 3] - pose_from_points(footage.points)[:, 3], 0.3, atol=1e-4)


def test_a_window_shows_the_mouth_in_its_middle(footage: Footage) -> None:
    rows = np.arange(6)
    seen = mouth_windows(footage.pictures(rows), footage.points[rows], 1.6, 1.2, 33, 25)
    centre = seen[:, :, 12, 16]
    x, y = ((footage.points[rows, MOUTH] + 1) * 32 - 0.5).round().astype(int).T
    wanted = footage.pictures(rows)[np.arange(6), :, y, x]
    assert (centre - wanted).abs().max() < 0.5


def test_means_of_clips_are_removed() -> None:
    values = np.array([[1.0], [3.0], [10.0], [20.0]])
    assert subtract_take_mean(values, np.array([4, 4, 7, 7])).ravel().tolist() == [-1.0, 1.0, -5.0, 5.0]


def test_a_moved_head_has_the_motion_of_a_similarity(footage: Footage) -> None:
    driving = footage.points[0].astype(float)
    z = (driving @ np.array([1, 1j])) * np.exp(0.1j) + 0.05
    source = np.stack([z.real, z.imag], -1)
    at = np.array([[0.0, 0.0], [0.3, -0.2]])
    moved = (at @ np.array([1, 1j])) * np.exp(0.1j) + 0.05
    np.testing.assert_allclose(warped_positions(driving, source, at), np.stack([moved.real, moved.imag], -1), atol=1e-6)


def test_pooled_motion_follows_the_lips(footage: Footage) -> None:
    """An open mouth's lower lip is traced back to the closed one."""
    pool = measure_motion_pool(footage, 40, 2, np.random.default_rng(0))
    pairs = np.repeat(pool.source_rows, 2), pool.driving_rows.ravel()
    found, true = [], []
    for row, (source, driving) in enumerate(zip(*pairs, strict=True)):
        lip = footage.points[driving, 6]
        nearest = int(np.argmin(np.linalg.norm(pool.driving[row].float().numpy() - lip, axis=1)))
        moved = pool.source[row, nearest].float().numpy() - pool.driving[row, nearest].float().numpy()
        found.append(moved)
        true.append(footage.points[source, 6] - lip)
    assert np.corrcoef(np.ravel(found), np.ravel(true))[0, 1] > 0.9


def test_moved_lips_take_the_mouth_along_and_leave_the_eyes(footage: Footage) -> None:
    points = footage.points[3].astype(np.float64)
    distance = np.linalg.norm(points[1] - points[0])
    down = np.tile([0.0, 0.2], (len(LIPS), 1))
    after = displaced_positions(points, down, points)
    moved = np.linalg.norm(after - points, axis=1) / distance
    assert (moved[LIPS] > 0.1).all()
    assert moved[[*EYES, NOSE]].max() < 0.06
    np.testing.assert_allclose(displaced_positions(points, 0 * down, points), points, atol=1e-9)


def test_moved_brows_and_lids_leave_the_mouth(footage: Footage) -> None:
    points = footage.points[3].astype(np.float64)
    distance = np.linalg.norm(points[1] - points[0])
    up = np.tile([0.0, -0.1], (len(UPPER), 1))
    for matrix in (np.eye(2), np.array([[0.0, -1.0], [1.0, 0.0]])):  # the latter is a quarter turn
        at = points @ matrix.T
        moved = (displaced_positions(at, up, at, upper=True) - at) @ matrix / distance
        assert (moved[UPPER[16:], 1] < -0.06).all(), "brows"
        assert np.abs(moved[LIPS]).max() < 0.03


def test_exchanging_equal_mouths_leaves_the_known_motion(footage: Footage) -> None:
    """Frames of one take, and a portrait whose head stays where it is."""
    rng, lips = np.random.default_rng(0), np.zeros((len(footage), len(LIPS), 2), np.float32)
    pool, chosen = measure_motion_pool(footage, 4, 2, rng), np.array([0, 2, 3])
    known = sample_lip_exchanges(footage, lips, sample_base_frames(footage, pool, chosen, rng, 0.0), rng, foreign=0.0)
    assert (footage.take_ids[known.donor] == footage.take_ids[pool.source_rows[chosen]]).all()
    for row, number in enumerate(chosen):
        which = list(pool.driving_rows[number]).index(known.base.rows[row])
        torch.testing.assert_close(known.tracks.driving[row], pool.driving[2 * number + which].float())
        torch.testing.assert_close(known.tracks.source[row], pool.source[2 * number + which].float())
    portrait = sample_lip_exchanges(footage, lips, sample_base_frames(footage, pool, chosen, rng, 1.0), rng)
    assert (portrait.base.rows == pool.source_rows[chosen]).all()
    torch.testing.assert_close(portrait.tracks.driving, portrait.tracks.source)


def test_an_exchanged_mouth_opens_as_the_other_frame(footage: Footage) -> None:
    rng = np.random.default_rng(0)
    local = to_eye_frame(footage.points)[:, LIPS]
    pool = measure_motion_pool(footage, 40, 2, rng)
    found = sample_lip_exchanges(
        footage, local, sample_base_frames(footage, pool, np.arange(40), rng, 1.0), rng, foreign=0.0
    )
    opened = mouth_opening(footage.points[found.donor]) - mouth_opening(footage.points[found.base.rows])
    moved = found.tracks.driving - found.tracks.source
    lip = torch.from_numpy(footage.points[found.base.rows, 6])
    nearest = (found.tracks.source - lip[:, None]).norm(dim=-1).argmin(1)
    assert np.corrcoef(moved[torch.arange(40), nearest, 1].numpy(), opened)[0, 1] > 0.8
