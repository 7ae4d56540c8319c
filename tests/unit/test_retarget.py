"""One face's motion on another: exact where it has to be, and straight in between."""

import numpy as np
import pytest
from edtalk.edtalk_blender.capture.retarget import at_times, blended, retargeted

RANDOM = np.random.default_rng(4)
ROWS = RANDOM.standard_normal((30, 5)).astype(np.float32)
REST, DRIVER = RANDOM.standard_normal((2, 5)).astype(np.float32)


@pytest.mark.parametrize("fps", [24, 24000 / 1001, 25, 60])
def test_at_their_own_times_rows_are_themselves(fps):
    np.testing.assert_allclose(at_times(ROWS, fps, 2.0, 2.0 + np.arange(30) / fps), ROWS, atol=1e-12)


def test_between_two_rows_it_runs_straight_and_outside_it_holds():
    found = at_times(ROWS, 10, 1.0, [0.0, 1.05, 1.275, 99.0])
    expected = [ROWS[0], ROWS[:2].mean(0), 0.25 * ROWS[2] + 0.75 * ROWS[3], ROWS[-1]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_straight_motion_is_the_same_at_every_rate():
    ramp = np.arange(50)[:, None] / 25 * [1.0, -2.0]
    for fps in (24, 30, 120):
        seconds = np.arange(int(1.9 * fps)) / fps
        np.testing.assert_allclose(at_times(ramp, 25, 0.0, seconds), seconds[:, None] * [1.0, -2.0], atol=1e-12)


def test_one_row_holds_for_all_times():
    assert np.array_equal(at_times(ROWS[:1], 25, 3.0, np.arange(4.0)), np.repeat(ROWS[:1], 4, axis=0))


def test_absolute_is_the_driver_itself():
    assert np.array_equal(retargeted(ROWS, REST), ROWS)
    np.testing.assert_allclose(retargeted(ROWS, REST, gain=0.0), np.tile(REST, (30, 1)), atol=1e-12)
    np.testing.assert_allclose(retargeted(ROWS, REST, gain=1.5), REST + 1.5 * (ROWS - REST), atol=1e-6)


@pytest.mark.parametrize("gain", [0.0, 0.5, 1.0, 2.0])
def test_relative_rests_where_the_driver_does(gain):
    np.testing.assert_allclose(retargeted(DRIVER[None], REST, gain=gain, driver_rest=DRIVER)[0], REST, atol=1e-12)
    found = retargeted(ROWS, REST, gain=gain, driver_rest=DRIVER)
    np.testing.assert_allclose(np.diff(found, axis=0), gain * np.diff(ROWS.astype(float), axis=0), atol=1e-12)


def test_the_ends_of_a_blend_are_exact():
    other = ROWS[::-1]
    assert np.array_equal(blended(ROWS, other, 0.0), ROWS)
    assert np.array_equal(blended(ROWS, other, 1.0), other)
    np.testing.assert_allclose(blended(ROWS, other, 0.25), 0.75 * ROWS + 0.25 * other, atol=1e-6)
