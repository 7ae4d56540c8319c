"""The One-Euro filter: jitter, fast motion, delay and frame rates."""

from itertools import pairwise

import numpy as np
import pytest
from edtalk.edtalk_blender.capture import one_euro

STRENGTHS = [0.1, 0.5, 1.0, 3.0]


def jitter(count: int = 500, size: float = 0.01, seed: int = 0) -> np.ndarray:
    return size * np.random.default_rng(seed).standard_normal(count)


def swing(hertz: float, fps: float = 25, seconds: float = 20) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * fps)) / fps)


@pytest.mark.parametrize("shape", [(0,), (1,), (60,), (60, 3), (0, 3)])
def test_a_strength_of_0_changes_nothing(shape):
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    found = one_euro.smooth(values, 25, 0.0)
    assert np.array_equal(found, values)
    assert found.shape == shape
    assert not np.shares_memory(found, values)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_constant_curves_are_unchanged(strength):
    values = np.tile([0.3, -2.0], (50, 1))
    assert np.array_equal(one_euro.smooth(values, 24, strength), values)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_step_has_no_overshoot_and_no_delay(strength):
    values = np.repeat([0.0, 1.0], 200)
    found = one_euro.smooth(values, 25, strength)
    assert found[0] == pytest.approx(0, abs=0.01)
    assert found[-1] == pytest.approx(1, abs=0.01)
    assert (np.diff(found) >= -1e-12).all()
    assert found[199] < 0.5 < found[200] + 0.2, "neither early nor late"


def test_more_strength_removes_more_jitter():
    noise = jitter()
    left = [one_euro.smooth(noise, 25, strength).std() / noise.std() for strength in (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)]
    assert all(more > less for more, less in pairwise(left))
    assert left[3] < 0.55
    assert left[4] < 0.35


@pytest.mark.parametrize("hertz", [0.5, 2.0, 4.0])
def test_motion_is_kept_while_jitter_is_removed(hertz):
    true = swing(hertz)
    found = one_euro.smooth(true + jitter(), 25, 0.5)
    assert found.std() == pytest.approx(true.std(), rel=0.1)
    assert np.abs(found - true).mean() < 0.03


@pytest.mark.parametrize("hertz", [0.5, 1.5, 3.0])
def test_there_is_no_delay(hertz):
    true = swing(hertz, fps=100)
    found = one_euro.smooth(true, 100, 1.0)
    lags = {lag: float(found[200:1800] @ true[200 - lag : 1800 - lag]) for lag in range(-15, 16)}
    assert abs(max(lags, key=lags.get)) <= 1


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_the_result_is_similar_at_every_frame_rate(strength):
    def at(fps: float) -> np.ndarray:
        time = np.arange(round(4 * fps)) / fps
        curve = np.interp(time, [0, 1, 1.2, 2.5, 4], [0, 0, 1, 0.3, 0.3])
        found = one_euro.smooth(curve, fps, strength)
        return np.interp(np.arange(80) / 20, time, found)

    for fps in (24, 50, 120):
        assert np.abs(at(fps) - at(60)).max() < 0.08


def test_speed_is_relative_to_each_curves_range():
    one = np.stack([swing(2.0), jitter()], axis=1)
    ranges = np.array([10.0, 0.5])
    expected = one_euro.smooth(one, 25, 0.7)
    np.testing.assert_allclose(one_euro.smooth(one * ranges, 25, 0.7, ranges), expected * ranges, atol=1e-12)


def test_curves_are_smoothed_independently():
    values = np.stack([swing(1.0), jitter(), np.zeros(500)], axis=1)
    alone = [one_euro.smooth(column, 25, 0.5) for column in values.T]
    assert np.array_equal(one_euro.smooth(values, 25, 0.5), np.stack(alone, axis=1))


def test_reversed_curves_give_a_similar_result():
    values = swing(1.0) + jitter()
    there, back = one_euro.smooth(values, 25, 0.5), one_euro.smooth(values[::-1], 25, 0.5)[::-1]
    assert np.abs(there - back)[25:-25].max() < 0.03
