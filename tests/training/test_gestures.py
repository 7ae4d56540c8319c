"""Tests of the stochastic gesture model: heads nod at accents, rest in pauses and never drift."""

import numpy as np
import pytest

from inference.model.audio2pose import POSE_FPS
from inference.prosody import prosody
from tests.inference.test_prosody import syllables
from training.voices.gestures import RULES, known_speech, performance

STRONG = tuple(np.arange(1.2, 39.0, 2.1))


@pytest.fixture(scope="module")
def speech():
    return known_speech(prosody(syllables(40.96, STRONG)))


@pytest.fixture(scope="module")
def performances(speech):
    return np.stack([performance(speech, np.random.default_rng(seed)) for seed in range(60)])


def test_every_rule_has_a_source():
    assert all(len(rule.source) > 5 for rule in RULES.values())


def test_heads_nod_at_strong_syllables(speech, performances):
    strong = speech.accents[speech.accents[:, 1] > 0.7, 0]
    assert len(strong) >= len(STRONG) - 2
    rows = np.round(strong * POSE_FPS).astype(int)
    rows = rows[(rows > 6) & (rows < len(performances[0]) - 6)]
    pitch = performances[..., 1]
    around = np.stack([pitch[:, rows + step] for step in range(-6, 7)])
    answer = around.mean(axis=(1, 2)) - around.mean()
    assert answer.max() > 0.4
    assert abs(int(answer.argmax()) - 6) <= 1


def test_heads_move_less_in_pauses(speech, performances):
    speed = np.linalg.norm(np.diff(performances[..., :3], axis=1), axis=2).mean(axis=0)
    speaking = np.interp(np.arange(len(speed)) * 2 + 1, np.arange(len(speech.speaking)), speech.speaking)
    assert speed[speaking > 0.9].mean() > 1.3 * speed[speaking < 0.1].mean()


def test_motion_has_the_measured_size_and_speed(performances):
    deviation = performances.std(axis=(0, 1))
    assert (deviation[:3] > [1.7, 1.2, 1.2]).all()
    assert (deviation[:3] < [4.5, 4.5, 3.4]).all()
    speed = np.linalg.norm(np.diff(performances[..., :3], axis=1), axis=2).ravel() * POSE_FPS
    median, fast = np.percentile(speed, [50, 99])
    assert 4 < median < 14
    assert 20 < fast < 60


def test_performances_do_not_drift_and_differ(performances):
    np.testing.assert_allclose(np.median(performances, axis=1), 0, atol=1e-5)
    first, last = performances[:, :128, :3].mean(axis=(0, 1)), performances[:, -128:, :3].mean(axis=(0, 1))
    assert np.abs(first - last).max() < 2.0
    assert np.abs(performances[0] - performances[1])[:, :3].mean() > 1.0


def test_a_performance_depends_on_its_generator_only(speech, performances):
    np.testing.assert_array_equal(performance(speech, np.random.default_rng(5)), performances[5])
