"""The sound of a long file is decoded in parts, with the same results as from memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from inference.contract.demo import LINE
from inference.contract.errors import EDTalkError
from inference.media import speech as speech_module
from inference.media.sound import RATE, load_speech
from inference.media.speech import Speech
from inference.prosody import cached_prosody, prosody
from tests.cli_material import write_wav

SOUNDS = ["line", "stereo at 44.1 kHz", "inverted channels", "mp3"]


@pytest.fixture(params=SOUNDS)
def sound(request, tmp_path) -> Path:
    samples, _ = load_speech(LINE)
    rng = np.random.default_rng(0)
    if request.param == "line":
        return LINE
    if request.param == "mp3":
        return write_wav(tmp_path / "line.mp3", samples)
    other = -samples if "inverted" in request.param else rng.normal(0, 0.1, len(samples)).astype(np.float32)
    rate = 44_100 if "44" in request.param else RATE
    return write_wav(tmp_path / "two.wav", np.stack([samples, other], 1), rate)


@pytest.fixture(params=["short", "long"])
def kept(request, monkeypatch) -> None:
    """Whether the sound stays in memory."""
    if request.param == "long":
        monkeypatch.setattr(speech_module, "_KEPT", 1000)
        monkeypatch.setattr(speech_module, "_BEHIND", 2000)


def test_parts_equal_those_of_the_whole(sound, kept):
    whole, seconds = load_speech(sound)
    speech = Speech(sound)
    assert (len(speech), speech.seconds) == (len(whole), seconds)
    for first, last in [(0, 10), (5, 30_000), (28_500, 40_000), (0, 100), (45_000, 45_000), (47_000, 10**9), (3, 9)]:
        assert np.array_equal(speech[first:last], whole[first:last]), (first, last)
    assert np.array_equal(speech[:], whole)
    speech[:10][:] = 7
    assert np.array_equal(speech[:10], whole[:10]), "a part is a copy"


def test_the_prosody_is_the_same(sound, kept):
    found, expected = prosody(Speech(sound)), prosody(load_speech(sound)[0])
    for name in ("features", "f0", "speech", "accents"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert found.speaker == expected.speaker
    assert cached_prosody(Speech(sound)) is cached_prosody(load_speech(sound)[0])


def test_memory_does_not_grow_with_the_length(tmp_path, monkeypatch):
    monkeypatch.setattr(speech_module, "_KEPT", 10 * RATE)
    whole = np.random.default_rng(0).uniform(-0.5, 0.5, 300 * RATE).astype(np.float32)
    path = write_wav(tmp_path / "long.wav", whole)
    size = whole.nbytes
    del whole
    tracemalloc.start()
    speech = Speech(path)
    for first in range(0, len(speech), RATE):
        speech[first : first + 2 * RATE]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 4


def test_errors_are_those_of_a_sound_in_memory(tmp_path):
    path = write_wav(tmp_path / "short.wav", np.zeros(1600, np.float32))
    with pytest.raises(EDTalkError, match=r"expected at least 0\.5 s of sound"):
        Speech(path, shortest=0.5)
    with pytest.raises(EDTalkError, match="does not exist"):
        Speech(tmp_path / "nowhere.wav")
