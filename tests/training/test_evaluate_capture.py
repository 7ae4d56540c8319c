"""Measures of small motions: what they see, and what they leave out."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("moderngl", reason="moderngl draws the heads")

from inference.face.landmarks import COUNT, NAMES, landmark_indices
from inference.model.readers.relative import CELL, EXTENTS, FLOW_UNIT, SIZES
from training.evaluate import capture
from training.units import NAMES as UNITS

ROWS, COLUMNS = SIZES[1][0] // CELL, SIZES[1][1] // CELL
PIXEL = 2 * EXTENTS[1][0] / SIZES[1][1]  # eye distances


def test_brows_are_measured_over_the_bridge_of_the_nose() -> None:
    flow = np.zeros((3, 2, ROWS, COLUMNS), np.float32)
    flow[0, 1] = 1.0  # everything moves down
    flow[1, 1, 1] = -3.0 / FLOW_UNIT  # the row of the brows moves up by three pixels
    flow[2, 1, 1, COLUMNS // 2 - 1 : COLUMNS // 2 + 1] = -4.0 / FLOW_UNIT  # its two innermost cells
    np.testing.assert_allclose(capture.brows(flow), [[0, 0], [3 * PIXEL] * 2, [2 * PIXEL, 0]], atol=1e-6)


def test_lids_smile_and_jaw_do_not_depend_on_place_size_and_roll() -> None:
    at_rest = np.random.default_rng(0).uniform(0, 30, (COUNT, 2))
    for side, x in (("Right", 20.0), ("Left", 90.0)):
        at_rest[landmark_indices(f"lid{side}")] = (x, 50.0)
        at_rest[[NAMES.index(f"lid{side}1"), NAMES.index(f"lid{side}5")], 0] = x - 10, x + 10
    moved = at_rest.copy()
    for names, down in (
        (("lidRight6", "lidRight7", "lidRight8", "lidLeft6", "lidLeft7", "lidLeft8"), 7.0),
        (("mouthRight", "mouthLeft"), -14.0),
        (("chin", "lowerLipBottom"), 21.0),
    ):
        moved[landmark_indices(*names), 1] += down
    turned = 2.5 * moved @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + (40.0, -3.0)
    before, after, elsewhere = capture.lower_face_and_lids(np.stack([at_rest, moved, turned]))
    np.testing.assert_allclose(after - before, [0.1, 0.2, 0.3], atol=1e-6)  # of an eye distance of 70
    np.testing.assert_allclose(elsewhere, after, atol=1e-6)


def test_what_the_pose_explains_is_left_out() -> None:
    rng = np.random.default_rng(1)
    pose, own = rng.normal(0, 0.3, (200, 6)), rng.normal(0, 1.0, (200, 2))
    seen = own + pose[:, :2] * (2.0, -3.0) + 4.0 * pose[:, 2:3] ** 2
    left = capture.without_pose(seen, pose)
    assert capture.slopes(left, own) == pytest.approx(np.ones(2), abs=0.1)
    assert np.corrcoef(left[:, 0], own[:, 0])[0, 1] > 0.97
    assert np.abs(capture.without_pose(pose[:, :1] * 5.0, pose)).max() < 1e-6


def test_a_film_begins_and_ends_at_rest() -> None:
    rows = capture.film(capture.FIRST)
    assert rows.shape == (1 + capture.ACTED + capture.STILL, len(UNITS))
    assert not rows[0].any()
    assert not rows[-capture.STILL :].any()
    measured = rows[:, [UNITS.index(name) for name in capture.UNITS_MEASURED]]
    assert 0 <= measured.min() < 0.3 < measured.max() <= capture.LARGEST
    assert np.abs(np.diff(rows, axis=0)).max() < 0.5


def test_the_table_gives_medians_over_clips_that_move() -> None:
    rng = np.random.default_rng(2)
    real = rng.normal(0, 0.1, (50, len(capture.MEASURES)))
    still = real * 0.01
    table = capture.clips_table({"one": (real, 0.5 * real), "two": (real, 0.7 * real), "still": (still, 9 * still)})
    assert "| median where it moves | 2 clips: 0.60, 1.00 |" in table
