"""Emotions, bank strengths, retargeting and sampling of coefficient rows."""

import numpy as np
import pytest
from edtalk.inference.contract.mixing import at_times, bank_strengths, blended, final_rows, retargeted

BANKS = (("lip", 3), ("pose", 2), ("exp", 2))
RANDOM = np.random.default_rng(4)
ROWS = RANDOM.standard_normal((30, 5)).astype(np.float32)
REST, DRIVER = RANDOM.standard_normal((2, 5)).astype(np.float32)


@pytest.mark.parametrize("fps", [24, 24000 / 1001, 25, 60])
def test_sampling_at_the_rows_own_times(fps):
    np.testing.assert_allclose(at_times(ROWS, fps, 2.0, 2.0 + np.arange(30) / fps), ROWS, atol=1e-12)


def test_sampling_is_linear_and_holds_the_ends():
    found = at_times(ROWS, 10, 1.0, [0.0, 1.05, 1.275, 99.0])
    expected = [ROWS[0], ROWS[:2].mean(0), 0.25 * ROWS[2] + 0.75 * ROWS[3], ROWS[-1]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_linear_motion_is_the_same_at_every_rate():
    ramp = np.arange(50)[:, None] / 25 * [1.0, -2.0]
    for fps in (24, 30, 120):
        seconds = np.arange(int(1.9 * fps)) / fps
        np.testing.assert_allclose(at_times(ramp, 25, 0.0, seconds), seconds[:, None] * [1.0, -2.0], atol=1e-12)


def test_sampling_a_single_row():
    assert np.array_equal(at_times(ROWS[:1], 25, 3.0, np.arange(4.0)), np.repeat(ROWS[:1], 4, axis=0))


def test_absolute_retargeting():
    assert np.array_equal(retargeted(ROWS, REST), ROWS)
    np.testing.assert_allclose(retargeted(ROWS, REST, gain=0.0), np.tile(REST, (30, 1)), atol=1e-12)
    np.testing.assert_allclose(retargeted(ROWS, REST, gain=1.5), REST + 1.5 * (ROWS - REST), atol=1e-6)


@pytest.mark.parametrize("gain", [0.0, 0.5, 1.0, 2.0])
def test_relative_retargeting(gain):
    np.testing.assert_allclose(retargeted(DRIVER[None], REST, gain=gain, driver_rest=DRIVER)[0], REST, atol=1e-12)
    found = retargeted(ROWS, REST, gain=gain, driver_rest=DRIVER)
    np.testing.assert_allclose(np.diff(found, axis=0), gain * np.diff(ROWS.astype(float), axis=0), atol=1e-12)


def test_blending_is_exact_at_both_ends():
    other = ROWS[::-1]
    assert np.array_equal(blended(ROWS, other, 0.0), ROWS)
    assert np.array_equal(blended(ROWS, other, 1.0), other)
    np.testing.assert_allclose(blended(ROWS, other, 0.25), 0.75 * ROWS + 0.25 * other, atol=1e-6)


# ---- sliders


def test_values_at_rest_give_exactly_rest():
    rest = RANDOM.normal(size=7).astype(np.float32).astype(np.float64)
    strengths = RANDOM.uniform(0, 3, (5, 3))
    rows = final_rows(BANKS, rest, np.tile(rest, (5, 1)), strengths, np.zeros((5, 2)), RANDOM.normal(size=(2, 2)))
    np.testing.assert_array_equal(rows, np.tile(rest.astype(np.float32), (5, 1)))


def test_bank_strengths_and_emotion_offsets():
    rest, values = np.full(7, 0.5), np.full((1, 7), 1.5)
    offsets = np.array([[1.0, 0.0], [0.0, 2.0]])
    rows = final_rows(BANKS, rest, values, np.array([[0.5, 2.0, 1.0]]), np.array([[0.25, 0.5]]), offsets)
    np.testing.assert_allclose(rows, [[1.0, 1.0, 1.0, 2.5, 2.5, 1.75, 2.5]])


def test_full_strength_returns_the_values():
    values = RANDOM.normal(size=(20, 7)).astype(np.float32)
    rows = final_rows(BANKS, RANDOM.normal(size=7), values, np.ones((20, 3)), np.zeros((20, 0)), np.zeros((0, 2)))
    np.testing.assert_array_equal(rows, values)


@pytest.mark.parametrize(
    ("mute", "solo", "expected"),
    [
        ((0, 0, 0), (0, 0, 0), (0.5, 1.0, 2.0)),
        ((1, 0, 0), (0, 0, 0), (0.0, 1.0, 2.0)),
        ((0, 0, 0), (0, 1, 0), (0.0, 1.0, 0.0)),
        ((0, 1, 0), (0, 1, 0), (0.0, 0.0, 0.0)),
        ((0, 0, 1), (1, 0, 1), (0.5, 0.0, 0.0)),
    ],
)
def test_mute_and_solo(mute, solo, expected):
    result = bank_strengths(np.array([[0.5, 1.0, 2.0]]), np.array([mute]) > 0, np.array([solo]) > 0)
    np.testing.assert_array_equal(result, [expected])
