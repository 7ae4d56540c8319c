"""Synthetic speech: the mouth opens on vowels, closes on p/b/m, rounds, and rests in pauses."""

import ctypes.util

import numpy as np
import pytest

from training.units import LIP
from training.voices.speech import (
    CURVE_FPS,
    HELD_OUT_VARIANTS,
    RATE,
    VARIANTS,
    VISEMES,
    Voice,
    lip_curves,
    microphone,
    recorded_with_microphone,
    sentences,
    speak,
    take,
    with_noise,
)

pytestmark = pytest.mark.skipif(not ctypes.util.find_library("espeak-ng"), reason="espeak-ng is not installed")

COLUMN = {unit.name: index for index, unit in enumerate(LIP)}


def during(spoken, letters, name):
    """The curve of one unit during each phone whose symbol is one of `letters`."""
    rows = [
        slice(round(phone.start * CURVE_FPS), max(round(phone.start * CURVE_FPS) + 1, round(phone.end * CURVE_FPS)))
        for phone in spoken.phones
        if phone.symbol[:1] and phone.symbol[:1] in letters
    ]
    assert rows, f"no phone starts with {letters}"
    return [spoken.curves[row, COLUMN[name]] for row in rows]


def test_visemes_name_units_of_the_starter_bank():
    for letter, viseme in VISEMES.items():
        assert set(viseme.shape) <= set(COLUMN), letter
        assert all(0 <= value <= 1 for value in viseme.shape.values()), letter


@pytest.mark.parametrize("voice", [Voice(), Voice("en", "f2", 140), Voice("en-us", "m3", 210, 20)])
def test_mouth_opens_on_vowels_and_closes_on_bilabials(voice):
    spoken = speak("My papa bought a map. Maybe Bob can beat them.", voice)
    assert spoken.curves.shape == (len(spoken.samples) * CURVE_FPS // RATE, len(LIP))
    assert spoken.curves.dtype == np.float32
    assert spoken.curves.min() >= 0
    assert spoken.curves.max() <= 1
    assert all(curve.min() < 0.06 for curve in during(spoken, "pbm", "jawOpen"))
    assert all(curve.max() > 0.2 for curve in during(spoken, "pbm", "mouthPress"))
    assert max(curve.max() for curve in during(spoken, "aɑæ", "jawOpen")) > 0.45


def test_lips_round_spread_and_meet_the_teeth():
    spoken = speak("Who knew you two? We see three green leaves. Five very fine wolves.")
    assert max(curve.max() for curve in during(spoken, "u", "mouthPucker")) > 0.4
    assert max(curve.max() for curve in during(spoken, "i", "mouthStretch")) > 0.3
    assert min(curve.max() for curve in during(spoken, "fv", "mouthRollLower")) > 0.35
    assert max(curve.max() for curve in during(spoken, "w", "mouthPucker")) > 0.5


def test_mouth_rests_exactly_in_pauses():
    made = take(np.random.default_rng(3))
    level = np.abs(made.samples.reshape(-1, RATE // CURVE_FPS)).max(axis=1)
    quiet = np.convolve(level < 1e-3, np.ones(81), "same") == 81  # 0.2 s of silence on either side
    assert quiet.any()
    assert (made.curves[quiet] == 0).all()
    assert made.curves[:10].max() == 0


def test_closures_coincide_with_quiet():
    """espeak-ng reports a stop at its burst; the lips must close earlier, where the sound ends."""
    spoken = speak("A pad, a pat, a pub, a pot.")
    level = np.sqrt((spoken.samples.reshape(-1, RATE // CURVE_FPS) ** 2).mean(axis=1))
    for phone in spoken.phones:
        if phone.symbol == "p":
            inside = level[round(phone.start * CURVE_FPS) : round(phone.end * CURVE_FPS)]
            assert len(inside) >= 0.03 * CURVE_FPS
            assert np.median(inside) < 0.2 * level.max()


def test_recordings_keep_length_and_stay_in_range():
    made = take(np.random.default_rng(0), seconds=2.0)
    heard = [recorded_with_microphone(made, np.random.default_rng(seed)) for seed in range(6)]
    for one in heard:
        assert one.samples.shape == made.samples.shape
        assert one.curves.shape == made.curves.shape
        assert one.samples.dtype == np.float32
        assert np.abs(one.samples).max() <= 1
        assert one.phones == made.phones
    again = recorded_with_microphone(made, np.random.default_rng(0))
    np.testing.assert_array_equal(heard[0].samples, again.samples)
    loudness = [np.sqrt(np.mean(one.samples**2)) for one in heard]
    assert max(loudness) > 2 * min(loudness)


def test_noise_does_not_move_the_mouth_but_the_microphone_may():
    """The mouth follows the level of the voice as it is recorded, not that of the noise."""
    made = take(np.random.default_rng(1), seconds=2.0)
    rng = np.random.default_rng(2)
    heard = microphone(made.samples, rng)
    assert np.abs(with_noise(heard, rng) - heard).max() > 0
    np.testing.assert_array_equal(
        recorded_with_microphone(made, np.random.default_rng(2)).curves, lip_curves(made.phones, heard)
    )


def test_louder_syllables_open_the_jaw_wider():
    spoken = speak("Papa, papa, papa.")
    rising = spoken.samples * np.linspace(0.3, 1.5, len(spoken.samples), dtype=np.float32)
    jaw = [lip_curves(spoken.phones, sound)[:, COLUMN["jawOpen"]] for sound in (spoken.samples, rising)]
    half = len(jaw[0]) // 2
    assert jaw[1][:half].max() < jaw[0][:half].max()
    assert jaw[1][half:].max() >= jaw[0][half:].max()


def test_every_language_and_variant_speaks():
    assert not set(VARIANTS) & set(HELD_OUT_VARIANTS)
    for language in sorted({language for language, _ in sentences()}):
        assert speak("Papa", Voice(language)).curves[:, COLUMN["jawOpen"]].max() > 0.2
    for variant in (*VARIANTS, *HELD_OUT_VARIANTS):
        assert len(speak("ba", Voice("en-us", variant)).samples) > 0.1 * RATE
