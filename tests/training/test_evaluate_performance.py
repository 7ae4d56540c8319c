"""The measures of head motion, on motion whose properties are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.demo import LINE
from inference.media.sound import RATE, load_speech
from inference.model.audio2pose import POSE_FPS, Audio2Pose, Audio2PoseConfig
from inference.motion import pose_features
from inference.prosody import prosody
from tests.inference.test_prosody import syllables
from training.evaluate import performance as measures
from training.evaluate import seeds
from training.evaluate.clip_motion import clip_rows
from training.evaluate.head_motion import DRAWS, speeds
from training.evaluate.performance import ROWS, activity, answer, apart, autoregressive, power, sound_rows
from training.stages.person_motion import STRONG, take_of

ACCENTS = np.arange(2.0, 38.0, 1.7)


@pytest.fixture(scope="module")
def nodding():
    """Motion with a nod of 2 degrees at every accent, and the speech with these accents."""
    accents = np.stack([ACCENTS, np.full(len(ACCENTS), 0.9)], axis=1)
    speech = SimpleNamespace(speech=SimpleNamespace(accents=accents))
    time = np.arange(ROWS) / POSE_FPS
    motion = np.random.default_rng(0).normal(0, 0.02, (DRAWS, ROWS, 6))
    motion[..., 1] += 2 * np.exp(-0.5 * ((time - ACCENTS[:, None]) / 0.1) ** 2).sum(axis=0)
    return list(motion), [speech]


def test_the_answer_is_the_nod_at_an_accent(nodding):
    motions, speeches = nodding
    curve = answer(motions, speeches)
    assert abs(measures.LAGS[curve.argmax()]) < 0.05
    assert 1.0 < curve.max() < 2.0
    shifted = [np.roll(one, round(0.16 * POSE_FPS), axis=0) for one in motions]
    assert measures.LAGS[answer(shifted, speeches).argmax()] == pytest.approx(0.16, abs=0.05)


def test_a_process_of_second_order_keeps_size_and_speed():
    rng = np.random.default_rng(1)
    slow = rng.standard_normal((8, ROWS + 20, 3))
    slow = np.stack(
        [np.stack([np.convolve(one[:, k], np.hanning(22)[1:-1], "valid") for k in range(3)], 1) for one in slow]
    )
    motions = [np.concatenate([one[:ROWS], np.zeros((ROWS, 3))], axis=1) for one in slow]
    draw = autoregressive(motions)
    made = [draw(None, seed) for seed in range(8)]
    assert np.concatenate(made)[:, :3].std() == pytest.approx(np.concatenate(motions)[:, :3].std(), rel=0.25)
    assert speeds(made).mean() == pytest.approx(speeds(motions).mean(), rel=0.25)
    assert apart(motions) > 0
    assert power([2 * one for one in motions]) == pytest.approx(power(motions) + 6.02, abs=0.01)


def test_activity_tells_speech_from_pauses():
    voice = prosody(syllables())
    rows = round(len(voice) / 100 * POSE_FPS)
    speaking = voice.speech[np.minimum((np.arange(rows) * 100 / POSE_FPS).astype(int), len(voice) - 1)]
    step = np.where(speaking, 1.0, 0.25)[:, None] * np.ones(6)
    inside, outside = activity(np.cumsum(step, axis=0), voice)
    assert inside > 3 * outside


def test_an_untrained_flow_does_not_drift_and_hears_locally(monkeypatch):
    monkeypatch.setattr(measures, "MINUTES", 2.5)
    torch.manual_seed(0)
    model = Audio2Pose(Audio2PoseConfig(17, 8, 4, (1, 1, 1, 1, 1, 1))).eval().requires_grad_(False)
    local, drift, _time = sound_rows(model, syllables(30.0))
    assert local.met
    assert drift.met is not None


def test_people_in_clips_are_measured_like_the_flow():
    voice = prosody(syllables(30.0, (0.5, *np.arange(2.0, 28.0, 1.5))))
    rows = 384
    strong = voice.accents[voice.accents[:, 1] > STRONG, 0]
    strong = strong[(strong > 1) & (strong < 27)]
    motion = np.zeros((rows, 6))
    time = np.arange(rows) / POSE_FPS
    motion[:, 1] = 2 * np.exp(-0.5 * ((time - 0.16 - strong[:, None]) / 0.1) ** 2).sum(axis=0)
    takes = [take_of(motion[:350], pose_features(voice, rows)[:, :350], strong)] * 2
    torch.manual_seed(0)
    model = Audio2Pose(Audio2PoseConfig(17, 8, 4, (1, 1, 1, 1, 1, 1))).eval().requires_grad_(False)
    found = {row.what.split(",")[0]: dict(row.others)["people"] for row in clip_rows(model, takes)}
    assert found["its lag"] == "160"
    assert found["deviation of yaw"].split(", ")[::2] == ["0.0", "0.0"]
    assert all(row.value and row.met is None for row in clip_rows(model, takes))


def test_shuffled_audio_has_the_same_parts_in_another_order():
    samples = load_speech(LINE)[0]
    other = seeds.shuffled(samples)
    assert len(other) == len(samples)
    size = round(seeds.PART * RATE)
    whole = len(samples) // size * size
    parts = [sorted(part.tobytes() for part in one[:whole].reshape(-1, size)) for one in (samples, other)]
    assert parts[0] == parts[1]
    assert not np.array_equal(samples, other)


def test_frames_of_a_sheet_are_at_accents_and_in_pauses():
    samples, seconds = load_speech(LINE)
    voice = prosody(samples)
    found = seeds.moments(voice, seconds)
    assert len(found) == seeds.FRAMES
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] < seconds
    assert any(not voice.speech[int(at * 100)] for at in found[:-1])
    rows = np.zeros((128, 6))
    one = seeds.Performance("still", rows, {round(at * 25): np.zeros((8, 8, 3), np.uint8) for at in found})
    assert "nod at" in seeds.figures(rows, voice)
    assert seeds.sheet([one], voice, seconds, "line").shape[2] == 3
