"""Voices built from recordings: the mouth agrees with their phones, and their licences permit their use."""

import numpy as np
import pytest

from training.units import LIP
from training.voices import recorded
from training.voices.recorded import HELD_OUT, TRAINING, Manner, RecordedVoice, installed, speak, take
from training.voices.speech import CURVE_FPS, RATE, VISEMES, sentences

COLUMN = {unit.name: index for index, unit in enumerate(LIP)}
ALL = (*TRAINING, *HELD_OUT)
TEXTS = {"en-us": "My papa bought a map. Maybe Bob can beat them.", "it": "La mamma prepara la zuppa per il babbo.",
         "fi": "Mummo pakkasi pullat ja meni bussilla maalle.", "cs": "Maminka koupila mapu a papuci."}  # fmt: skip


def available(voice: RecordedVoice) -> RecordedVoice:
    if not installed((voice,)):
        pytest.skip(f"the package {voice.package} is not installed")
    return voice


def test_only_permissive_voices_are_trained_on() -> None:
    assert all(voice.licence.startswith("permissive") for voice in TRAINING)
    assert not {(voice.program, voice.name) for voice in TRAINING} & {(voice.program, voice.name) for voice in HELD_OUT}
    assert not {voice.speaker for voice in HELD_OUT} & {voice.speaker for voice in TRAINING}


def test_every_voice_has_sentences() -> None:
    spoken = {language[:2] for language, _ in sentences()}
    assert {voice.language[:2] for voice in ALL} <= spoken


@pytest.mark.parametrize("voice", ALL, ids=lambda voice: voice.name)
def test_the_mouth_closes_on_bilabials_and_opens_on_vowels(voice: RecordedVoice) -> None:
    spoken = speak(TEXTS[voice.language], available(voice))
    assert spoken.curves.shape == (len(spoken.samples) * CURVE_FPS // RATE, len(LIP))
    assert np.abs(spoken.samples).max() > 0.05
    assert spoken.phones[0].start == 0
    assert all(one.end == other.start for one, other in zip(spoken.phones, spoken.phones[1:], strict=False))
    assert all(phone.symbol[:1] in VISEMES or not phone.symbol for phone in spoken.phones)
    jaw = spoken.curves[:, COLUMN["jawOpen"]]
    closures = [phone for phone in spoken.phones if phone.symbol in ("p", "b", "m")]
    assert len(closures) >= 5
    for phone in closures:
        assert jaw[round(phone.start * CURVE_FPS) : round(phone.end * CURVE_FPS) + 1].min() < 0.1
    assert jaw.max() > 0.4


@pytest.mark.parametrize("voice", ALL, ids=lambda voice: voice.name)
def test_phones_coincide_with_the_sound(voice: RecordedVoice) -> None:
    """Vowels are louder than the closures of voiceless stops, in every voice."""
    spoken = speak(TEXTS[voice.language], available(voice))
    level = np.sqrt((spoken.samples.reshape(-1, RATE // CURVE_FPS) ** 2).mean(1))

    def median(symbols: str) -> float:
        rows = [
            level[round(phone.start * CURVE_FPS) : round(phone.end * CURVE_FPS)]
            for phone in spoken.phones
            if phone.symbol and phone.symbol[0] in symbols
        ]
        return float(np.median(np.concatenate(rows)))

    assert median("aæɑɛo") > 5 * median("p")


def test_manner_changes_the_length() -> None:
    voice = available(TRAINING[0])
    slow, fast = (speak("Papa bought a map.", voice, Manner(stretch=stretch)) for stretch in (1.6, 0.8))
    assert len(slow.samples) > 1.5 * len(fast.samples)


def test_takes_of_one_seed_have_the_same_phones() -> None:
    voices = installed(TRAINING)
    if not voices:
        pytest.skip("no recorded voice is installed")
    one, other = (take(np.random.default_rng(5), voices, 2.0) for _ in range(2))
    assert [phone.symbol for phone in one.phones] == [phone.symbol for phone in other.phones]
    assert not one.curves[0].any()


def test_programs_that_are_missing_have_no_voices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    recorded._flite_voices.cache_clear()
    recorded._festival_voices.cache_clear()
    try:
        assert installed(ALL) == ()
    finally:
        recorded._flite_voices.cache_clear()
        recorded._festival_voices.cache_clear()
