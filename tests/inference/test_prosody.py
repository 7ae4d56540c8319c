"""Tests of the prosody of speech: pitch, pauses and accents of sounds whose pitch, pauses and accents are known."""

import numpy as np
import pytest
from scipy.signal import lfilter

from inference.media.sound import RATE, load_speech
from inference.prosody import FEATURES, FPS, HIGHEST, LOWEST, cached_prosody, prosody


def voice(f0, gain=1.0, seed=0):
    """A synthetic vowel (n,) with the pitch f0 (n,) in Hz and the gain (n,) per sample, and a little noise."""
    sound = np.diff(np.floor(np.cumsum(f0) / RATE), prepend=0)
    for centre, width in ((600, 80), (1400, 120), (2600, 160)):
        radius = np.exp(-np.pi * width / RATE)
        sound = lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius * radius], sound)
    noise = np.random.default_rng(seed).normal(0, 5e-4, len(sound))
    return (0.4 * gain * sound / np.abs(sound).max() + noise).astype(np.float32)


def syllables(seconds=8.0, strong=(1.2, 3.4, 5.6)):
    """Speech-like sound: four syllables per second, those at `strong` longer, louder and higher; a pause at 4 s."""
    time = np.arange(round(seconds * RATE)) / RATE
    gain = np.zeros_like(time)
    f0 = np.full_like(time, 140.0)
    for centre in np.arange(0.3, seconds, 0.25):
        if 3.9 < centre < 4.9:
            continue
        near = min(abs(centre - one) for one in strong)
        if near < 0.13:
            continue
        gain += 0.25 * np.exp(-0.5 * ((time - centre) / 0.035) ** 2)
    for centre in strong:
        gain += np.exp(-0.5 * ((time - centre) / 0.06) ** 2)
        f0 *= 2 ** (3 / 12 * np.exp(-0.5 * ((time - centre) / 0.08) ** 2))
    return voice(f0, gain)


@pytest.mark.parametrize("hertz", [70, 110, 233, 440])
def test_pitch_of_a_tone(hertz):
    sound = 0.3 * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)
    f0 = prosody(sound).f0[5:-5]
    assert (f0 > 0).all()
    assert np.abs(12 * np.log2(f0 / hertz)).max() < 0.3


@pytest.mark.parametrize("glides", [0.5, 2.0])
def test_pitch_of_a_gliding_voice(glides):
    time = np.arange(4 * RATE) / RATE
    truth = 150 * 2 ** (4 / 12 * np.sin(2 * np.pi * glides * time))
    f0 = prosody(voice(truth)).f0
    voiced = f0 > 0
    error = np.abs(12 * np.log2(f0[voiced] / truth[:: RATE // FPS][voiced]))
    assert voiced.mean() > 0.75
    assert np.percentile(error, 95) < 0.3
    assert np.all((f0[voiced] > 0.9 * LOWEST) & (f0[voiced] < 1.1 * HIGHEST))


@pytest.mark.parametrize("sound", ["silence", "offset", "noise", "faint"])
def test_no_pitch_without_a_voice(sound):
    noise = np.random.default_rng(0).normal(0, 1, 3 * RATE)
    samples = {"silence": 0 * noise, "offset": 0 * noise + 0.3, "noise": 0.1 * noise, "faint": 1e-4 * noise}[sound]
    found = prosody(samples)
    assert found.voiced_share == 0
    assert len(found.accents) == 0
    assert np.isfinite(found.features).all()


def test_features_do_not_depend_on_the_level():
    sound = syllables()
    loud, quiet = prosody(sound), prosody(sound * np.float32(0.3))
    spoken = loud.speech
    np.testing.assert_allclose(loud.features[spoken], quiet.features[spoken], atol=0.1)
    np.testing.assert_array_equal(loud.speech, quiet.speech)


def test_part_equals_the_whole_away_from_the_cuts():
    sound = syllables()
    whole = prosody(sound)
    part = prosody(sound[2 * RATE : 7 * RATE], whole.speaker)
    same = whole.features[2 * FPS : 7 * FPS]
    distances = [FEATURES.index("sincePause"), FEATURES.index("untilPause")]
    inner, core = slice(FPS, -FPS), slice(2 * FPS, -2 * FPS)
    others = np.delete(np.arange(len(FEATURES)), distances)
    np.testing.assert_allclose(part.features[inner][:, others], same[inner][:, others], atol=1e-4)
    np.testing.assert_allclose(part.features[core][:, distances], same[core][:, distances], atol=1e-4)


def test_accents_are_the_strong_syllables():
    strong = (1.2, 3.4, 5.6)
    found = prosody(syllables(strong=strong)).accents
    best = found[np.argsort(-found[:, 1])[: len(strong)]]
    np.testing.assert_allclose(np.sort(best[:, 0]), strong, atol=0.05)
    assert best[:, 1].min() > np.delete(found[:, 1], np.argsort(-found[:, 1])[: len(strong)]).max(initial=0)
    assert np.diff(found[:, 0]).min() >= 0.25 - 1e-9


def test_pauses_and_their_distances():
    found = prosody(syllables())
    assert not found.speech[430:460].any()
    assert found.speech[200:360].all()
    since = found.column("sincePause")
    assert since[445] == 0
    assert (np.diff(since[500:560]) >= 0).all()
    assert since.max() <= 1
    assert found.column("untilPause")[360] < found.column("untilPause")[250]


def test_nan_is_silence_and_short_sounds_have_rows():
    sound = syllables()
    sound[3 * RATE] = np.nan
    assert np.isfinite(prosody(sound).features).all()
    assert prosody(np.zeros(0)).features.shape == (0, len(FEATURES))
    assert prosody(np.full(200, 0.1)).features.shape == (1, len(FEATURES))


def test_cache_knows_a_sound_by_its_samples():
    sound = syllables()
    first = cached_prosody(sound)
    assert cached_prosody(sound.copy()) is first
    assert cached_prosody(sound * np.float32(0.5)) is not first


@pytest.mark.slow
def test_pitch_agrees_with_pyin(media):
    """Row by row within a semitone of librosa's pyin where both are voiced."""
    import librosa

    errors = []
    for path in sorted((media / "voices").glob("*.wav"))[:3]:
        samples = load_speech(path)[0]
        ours = prosody(samples).f0
        other = librosa.pyin(samples, fmin=LOWEST, fmax=HIGHEST, sr=RATE, frame_length=1024, hop_length=RATE // FPS)[0]
        other = np.nan_to_num(other[: len(ours)])
        both = (ours > 0) & (other > 0)
        errors.append(12 * np.abs(np.log2(ours[both] / other[both])))
    assert np.mean(np.concatenate(errors) < 1) >= 0.985
