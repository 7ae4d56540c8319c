"""Figures of lip-sync on recordings: agreement with the loudness, its lag, and the baselines."""

import sys
import wave
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from inference.contract.bank import STARTER
from training.__main__ import main
from training.units import LIP

pytest.importorskip("moderngl", reason="the mesh belongs to the rendered heads")

from training.evaluate import lips, voices

RATE = voices.RATE


@pytest.fixture(scope="module")
def heads() -> None:
    """Skips the test where the mesh of the heads is missing."""
    try:
        voices.mouth(np.zeros((1, len(LIP)), np.float32))
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def heard() -> voices.VoiceClip:
    """Syllables of noise, three a second, and a pause."""
    rng = np.random.default_rng(0)
    swell = np.sin(np.pi * 3 * np.arange(6 * RATE) / RATE) ** 2
    samples = (0.2 * swell * rng.standard_normal(len(swell))).astype(np.float32)
    samples[2 * RATE : 3 * RATE] = 0
    return voices.VoiceClip("syllables", samples, [(4.3, 4.4)], [(2.0, 3.0)])


def test_the_envelope_follower_agrees_with_the_loudness_and_rests_in_silence(heads, heard: voices.VoiceClip) -> None:
    rows = lips.follower(heard)
    assert rows.shape == (len(heard.times), len(LIP))
    found = lips.followed(heard, lips.FOLLOWER, rows)
    assert found.r > 0.9
    assert found.r_whole > 0.95
    assert found.lag == 0
    assert found.rest == 1
    assert found.spoken == pytest.approx(5 / 6)
    assert found.counts


def test_a_mouth_that_follows_the_voice_does_not_follow_loud_bass(heads, heard: voices.VoiceClip) -> None:
    time = np.arange(len(heard.samples)) / RATE
    bass = 0.5 * np.sin(2 * np.pi * 80 * time) * np.sin(np.pi * 1.3 * time) ** 2
    under_bass = replace(heard, samples=heard.samples + bass.astype(np.float32))
    mouth = lips.followed(under_bass, "mouth", lips.follower(heard))
    assert mouth.r > 0.9
    assert mouth.r_whole < 0.5
    baseline = lips.followed(under_bass, lips.FOLLOWER, lips.follower(under_bass))
    assert baseline.r < 0.5
    assert baseline.r_bass > 0.9


@pytest.mark.parametrize("late", [-2, 1, 3])
def test_a_late_jaw_has_a_lag(heads, heard: voices.VoiceClip, late: int) -> None:
    found = lips.followed(heard, "late", np.roll(lips.follower(heard), late, axis=0))
    assert found.lag == late


def test_figures_have_the_least_voice_and_the_largest_lag() -> None:
    def voice(r: float, lag: int, closures: int = 0, closed: float = np.nan) -> lips.Followed:
        return lips.Followed("v", "bank", 1.0, r, lag, r, r, closed, closures, 1.0)

    figures = {
        figure.key: figure for figure in lips.figures_of([voice(0.7, 0, 3, 1.0), voice(0.5, -2), voice(0.4, 1, 1, 0.0)])
    }
    assert figures["lips_median"].value == 0.5
    assert figures["lips_least"].value == 0.4
    assert figures["lips_lag"].value == 2
    assert not figures["lips_lag"].met
    assert figures["lips_closed"].value == 0.75


def test_the_command_writes_the_tables_and_skips_files_without_sound(heads, heard, tmp_path: Path, capsys) -> None:
    with wave.open(str(tmp_path / "voice.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((heard.samples * 32767).astype("<i2").tobytes())
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    out = tmp_path / "out"
    main(["evaluate-lips", str(STARTER), "--voices", str(tmp_path), "--before", str(STARTER), "--out", str(out)])
    text = (out / "lips.md").read_text()
    assert "broken.wav was skipped" in capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("| voice.wav")]
    assert [row.split(" | ")[2] for row in rows] == [lips.FOLLOWER, "before", "bank"]
    assert rows[1].replace("before", "bank") == rows[2]


def test_words_that_cannot_be_aligned_have_no_closures(monkeypatch: pytest.MonkeyPatch) -> None:
    class Decoder:
        """Recognises a word and fails to align it, as pocketsphinx does with singing."""

        def __init__(self, **_: object) -> None:
            self.aligns = False

        def start_utt(self) -> None: ...

        def process_raw(self, sound: bytes, full_utt: bool) -> None: ...

        def end_utt(self) -> None:
            if self.aligns:
                raise RuntimeError("Failed to stop utterance processing")

        def hyp(self) -> SimpleNamespace:
            return SimpleNamespace(hypstr="map")

        def set_align_text(self, text: str) -> None:
            self.aligns = True

    monkeypatch.setitem(sys.modules, "pocketsphinx", SimpleNamespace(Decoder=Decoder))
    assert voices.sphinx_closures(np.zeros(16000, np.float32)) == []
