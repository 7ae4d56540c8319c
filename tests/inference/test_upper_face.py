"""Brow accents, blinks and gaze that go with speech."""

import numpy as np
import pytest

from inference.contract.bank import STARTER, read_bank
from inference.contract.demo import LINE
from inference.media.sound import RATE, load_speech
from inference.prosody import prosody
from inference.upper_face import RULES, blink_times, brow_accents, phrase_envelope, speech_blinks, speech_gaze


@pytest.fixture(scope="module")
def voice():
    """Fifty seconds: a spoken line, again and again, with pauses of one second."""
    line = load_speech(LINE)[0]
    return prosody(np.concatenate([line, np.zeros(RATE, np.float32)] * 8))


def curves(voice, times, seed):
    brows = brow_accents(read_bank(STARTER), voice, times, seed)[1]
    return np.concatenate([brows, speech_blinks(voice, times, seed)[:, None], speech_gaze(voice, times, seed)], axis=1)


def test_a_seed_gives_the_same_motion_whole_and_in_parts(voice):
    times = np.arange(0, 40, 1 / 24)
    whole = curves(voice, times, 7)
    np.testing.assert_array_equal(whole, curves(voice, times, 7))
    np.testing.assert_array_equal(whole[300:500], curves(voice, times[300:500], 7))
    assert np.abs(whole - curves(voice, times, 8)).max(axis=0).min() > 0.1


def test_people_blink_more_in_conversation_than_at_rest(voice):
    talking = [len(blink_times(voice, seed)) for seed in range(12)]
    assert np.mean(talking) / (len(voice) / 6000) == pytest.approx(RULES["talking_rate"].value, rel=0.15)
    silence = prosody(np.zeros(120 * RATE, np.float32))
    resting = [len(blink_times(silence, seed)) / 2 for seed in range(6)]
    assert np.mean(resting) == pytest.approx(RULES["resting_rate"].value, rel=0.15)


def test_blinks_are_drawn_to_pauses(voice):
    begun = np.concatenate([blink_times(voice, seed) for seed in range(12)])
    rows = np.minimum((begun * 100).astype(int), len(voice) - 1)
    assert (~voice.speech[rows]).mean() > 1.3 * (~voice.speech).mean()


def test_blinks_close_the_eyes_fully_and_never_overlap(voice):
    closed = speech_blinks(voice, np.arange(0, 50, 0.01), 3)
    assert closed.max() == 1
    assert closed.min() == 0
    assert np.diff(blink_times(voice, 3)).min() > 0.4


def test_brows_rise_at_accents_only_and_only_where_the_bank_names_them(voice):
    bank = read_bank(STARTER)
    times = np.arange(0, 50, 0.01)
    names, rows = brow_accents(bank, voice, times, 2)
    assert names == ("browInnerUp", "browOuterUp")
    assert 0.2 < rows.max() <= 0.5
    raised = times[rows[:, 0] > 0.01]
    nearest = np.abs(raised[:, None] - voice.accents[:, 0]).min(axis=1)
    assert nearest.max() <= 0.26
    share = np.mean([brow_accents(bank, voice, voice.accents[:, 0], seed)[1][:, 0] > 0.15 for seed in range(20)])
    assert 0.1 < share < 0.3
    anonymous = type(bank)("anonymous", bank.config, ())
    assert brow_accents(anonymous, voice, times, 2)[1].shape == (len(times), 0)


def test_eyes_jump_and_return(voice):
    times = np.arange(0, 50, 0.01)
    gaze = speech_gaze(voice, times, 5)
    assert 3 < np.abs(gaze).max() < 25
    assert (np.abs(np.diff(gaze, axis=0)).max(axis=1) < 0.01).mean() > 0.85  # still, except for short jumps
    assert np.abs(np.median(gaze, axis=0)).max() < 1.5


def test_a_later_change_of_the_sound_leaves_earlier_motion(voice):
    cut = 20 * RATE
    line = load_speech(LINE)[0]
    sound = np.concatenate([line, np.zeros(RATE, np.float32)] * 8)
    changed = sound.copy()
    changed[cut:] = changed[cut:][::-1]
    other = prosody(changed, voice.speaker)
    times = np.arange(0, 17, 0.04)
    np.testing.assert_allclose(curves(voice, times, 1), curves(other, times, 1), atol=1e-6)


def test_an_envelope_rises_before_and_falls_after_a_phrase():
    found = phrase_envelope(np.array([0.74, 0.875, 1.0, 1.5, 2.0, 2.25, 2.5]), 1.0, 2.0)
    np.testing.assert_allclose(found, [0, 0.5, 1, 1, 1, 0.5, 0], atol=1e-6)


def test_no_sound_has_no_motion():
    empty = prosody(np.zeros(0, np.float32))
    assert not curves(empty, np.arange(0, 1, 0.1), 0).any()
