"""Speech and singing are told from music without a voice."""

import numpy as np
import pytest

from inference.contract.bank import STARTER, load_bank
from inference.expression import emotions
from inference.media.sound import RATE, load_speech
from inference.motion import head_motion
from inference.prosody import prosody
from inference.speech_detection import NUMBERS, chance_of_speech, has_speech, numbers

LINE = STARTER.parents[1] / "demo" / "line.wav"


def melody(seconds: float = 8.0) -> np.ndarray:
    """(n,) a tune of held notes with harmonics, as an organ plays it."""
    rng, parts = np.random.default_rng(3), []
    while sum(map(len, parts)) < seconds * RATE:
        time = np.arange(round(RATE * rng.choice([0.3, 0.6]))) / RATE
        pitch = 220 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 12]) / 12)
        note = sum(np.sin(2 * np.pi * k * pitch * time) / k for k in range(1, 7))
        parts.append(0.1 * note * np.minimum(time / 0.03, 1) * np.minimum((time[-1] - time) / 0.03, 1))
    return np.concatenate(parts).astype(np.float32)


def test_a_melody_is_voiced_but_no_speech():
    heard = prosody(melody())
    assert heard.voiced_share > 0.5
    assert not has_speech(heard)


def test_a_voice_is_speech_alone_and_in_the_middle_of_music():
    voice = load_speech(LINE)[0]
    assert chance_of_speech(prosody(voice)) > 0.5
    tune = melody() * voice.std() / melody().std()
    assert has_speech(prosody(np.concatenate([tune, voice, tune])))


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(RATE), np.full(RATE, 0.5), np.ones(800)])
def test_sounds_without_pitch_are_no_speech(samples):
    heard = prosody(samples.astype(np.float32))
    assert numbers(heard).shape == (0, len(NUMBERS))
    assert chance_of_speech(heard) == 0
    assert not has_speech(heard)


def test_music_gives_slow_motion_and_no_emotion_and_says_so():
    bank, times = load_bank(STARTER), np.arange(0, 8, 0.04)
    moved = head_motion(bank, melody(), times, [1])
    assert "No speech" in moved.note
    np.testing.assert_array_equal(moved.rows, head_motion(bank, melody(), times, [1], nods=0.0).rows)
    felt = emotions(bank, melody(), times)
    assert "No speech" in felt.note
    assert not felt.rows.any()


def test_every_recorded_voice_is_speech_also_singing(media):
    voices = [*(media / "voices").glob("*.wav"), media / "mouth_source.wav", media / "clips" / "lp_d11.mp4"]
    chances = {path.name: chance_of_speech(prosody(load_speech(path)[0][: 20 * RATE])) for path in voices}
    assert min(chances.values()) >= 0.25, chances
    music = prosody(load_speech(media / "clips" / "lp_s18.mp4")[0])
    assert music.voiced_share > 0.5
    assert not has_speech(music)
