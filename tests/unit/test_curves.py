"""Smoothing and decimating curves."""

import numpy as np
import pytest
from edtalk.edtalk_blender.animation import curves


def test_held_samples_stay_within_the_error():
    values = np.array([0.0, 0.01, 0.015, 0.03, 0.03, 0.5, 0.49, 0.0])
    kept = curves.decimate_held(values, 0.02)
    assert kept[[0, -1]].tolist() == [0, len(values) - 1]
    held = values[kept][np.searchsorted(kept, np.arange(len(values)), side="right") - 1]
    assert np.abs(held - values).max() <= 0.02
    assert len(kept) < len(values)
    assert len(curves.decimate_held(values, -1.0)) == len(values)


RNG = np.random.default_rng(3)


def signals() -> list[tuple[str, np.ndarray]]:
    t = np.arange(300) / 24
    return [
        ("still", np.full(300, 0.3)),
        ("line", 0.1 * t),
        ("sine", np.sin(2 * np.pi * t)),
        ("noise", RNG.normal(size=300)),
        ("step", (t > 5).astype(float)),
        ("speech", np.abs(np.convolve(RNG.normal(size=300), np.ones(5) / 5, "same"))),
        ("two", np.array([0.0, 1.0])),
        ("one", np.array([0.5])),
    ]


@pytest.mark.parametrize(("name", "values"), signals(), ids=[name for name, _values in signals()])
@pytest.mark.parametrize("error", [0.0, 0.01, 0.2])
def test_decimation_stays_within_the_error(name, values, error):
    frames = np.arange(len(values)) + 17.0
    kept = curves.decimate(frames, values, error)
    assert kept[0] == 0
    assert kept[-1] == len(values) - 1
    assert (np.diff(kept) > 0).all()
    lines = np.interp(frames, frames[kept], values[kept])
    assert np.abs(lines - values).max() <= error + 1e-9


def test_decimation_keeps_few_samples_of_simple_curves():
    frames = np.arange(1000.0)
    assert list(curves.decimate(frames, np.full(1000, 0.5), 0.0)) == [0, 999]
    assert list(curves.decimate(frames, 0.25 * frames, 1e-6)) == [0, 999]
    assert len(curves.decimate(frames, np.sin(frames / 10), 0.05)) < 150
    assert len(curves.decimate(frames, np.sin(frames / 10), -1.0)) == 1000


def test_decimation_of_uneven_frames():
    frames = np.cumsum(RNG.uniform(0.2, 3.0, 200))
    values = np.sin(frames / 5)
    kept = curves.decimate(frames, values, 0.02)
    assert len(kept) < 200
    assert np.abs(np.interp(frames, frames[kept], values[kept]) - values).max() <= 0.02 + 1e-9


def test_smoothing_keeps_ends_and_constants():
    constant = np.full((50, 3), 0.7)
    np.testing.assert_allclose(curves.smooth(constant, 2.5), constant)
    held = np.concatenate([np.full(20, 1.0), RNG.normal(size=20), np.full(20, -1.0)])
    smoothed = curves.smooth(held, 2.0)
    assert smoothed[0] == pytest.approx(1.0)
    assert smoothed[-1] == pytest.approx(-1.0)
    assert smoothed.std() < held.std()


def test_smoothing_is_per_column_and_a_width_of_0_changes_nothing():
    values = RNG.normal(size=(40, 2))
    columns = [curves.smooth(column, 1.5) for column in values.T]
    np.testing.assert_allclose(curves.smooth(values, 1.5), np.stack(columns, axis=1))
    np.testing.assert_array_equal(curves.smooth(values, 0.0), values)
    assert curves.smooth(np.empty((0, 2)), 2.0).shape == (0, 2)
    assert curves.smooth(np.array([0.5]), 2.0) == [0.5]


def test_a_step_of_2_keeps_every_second_frame():
    frames, values = np.arange(7) + 1.0, np.arange(14.0).reshape(7, 2)
    held_frames, held = curves.on_steps(frames, values, 2)
    assert list(held_frames) == [1, 3, 5, 7]
    np.testing.assert_array_equal(held, values[::2])
    np.testing.assert_array_equal(curves.on_steps(frames, values, 1)[1], values)
    with pytest.raises(ValueError, match="at least 1"):
        curves.on_steps(frames, values, 0)
