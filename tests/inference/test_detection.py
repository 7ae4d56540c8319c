"""Emotion, brows and blinks of the command `perform`, and `render --emotion auto`."""

import json

import numpy as np
import pytest

from inference import Coefficients, load_bank
from inference.contract.bank import STARTER, read_bank
from inference.contract.demo import LINE, PORTRAIT
from inference.contract.eyes import gaze_names
from tests.cli_material import run, write_wav
from tests.inference.test_cli_failures import refusal

GLAD = "I am so happy, this is the most wonderful day of my life!"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "line.txt"
    path.write_text(GLAD, encoding="utf-8")
    return path


def test_perform_writes_the_emotion_of_the_text(tmp_path, capsys, text):
    words = ["--audio", LINE, "--text", text, "--emotion", "auto", "--json", "--fps", 24]
    assert run("perform", *words, "--brows", "--blinks", "--out", tmp_path / "a.csv") == 0
    report = json.loads(capsys.readouterr().out)
    assert {one["kind"] for one in report["emotions"]} == {"happy"}
    found = Coefficients.load(tmp_path / "a.csv")
    bank = read_bank(STARTER)
    assert {"headYaw", *bank.names_of("exp")} <= set(found.names)
    assert found.column("mouthSmile").max() > 0.4
    assert np.ptp(found.column("browInnerUp")) > 0
    assert found.column("eyeBlink").max() > 0.9
    assert run("perform", *words, "--intensity", 0, "--out", tmp_path / "b.csv") == 0
    assert not Coefficients.load(tmp_path / "b.csv").column("mouthSmile").any()
    assert run("perform", "--audio", LINE, "--emotion", "none", "--out", tmp_path / "c.csv") == 0
    assert "mouthSmile" not in Coefficients.load(tmp_path / "c.csv").names


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--text", "line.txt"], "--text requires --emotion auto"),
        (["--emotion-from", "voice"], "--emotion-from requires --emotion auto"),
        (["--emotion", "auto", "--emotion-from", "words"], "requires --text"),
        (["--emotion", "auto", "--emotion-from", "face"], "invalid choice"),
        (["--emotion", "auto", "--text", "no.txt"], "no.txt does not exist; expected a text file"),
        (["--emotion", "auto", "--text", "."], "could not be read"),
        (["--emotion", "auto", "--text", "latin.txt"], "not text in UTF-8, found byte 0xfc at 1"),
        (["--emotion", "auto", "--text", "long.txt"], "at most 1024 KiB"),
        (["--emotion", "auto", "--features", "f.npy"], "must be a .npz file"),
        (["--emotion", "auto", "--features", "no.npz"], "no.npz does not exist"),
        (["--emotion", "auto", "--features", "pickled.npz"], "Python objects"),
        (["--emotion", "auto", "--features", "other.npz"], "no features that can be used"),
        (["--emotion", "auto", "--features", "short.npz"], "the sound lasts"),
        (["--emotion", "auto", "--features", "good.npz"], "found features of 8 numbers"),
    ],
)
def test_perform_refuses_what_it_cannot_use(tmp_path, capsys, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes("für".encode("latin-1"))
    (tmp_path / "long.txt").write_text("a" * 2**21)
    times = np.arange(0, 30, 0.02)
    np.savez("pickled.npz", times=times, rows=np.array([{}] * 3, object))
    np.savez("other.npz", values=times)
    np.savez("short.npz", times=times[:20], rows=np.zeros((20, 8)))
    np.savez("good.npz", times=times, rows=np.zeros((len(times), 8)))
    assert expected in refusal(capsys, "perform", "--audio", LINE, "--out", "a.csv", *words)
    assert not (tmp_path / "a.csv").exists()


def test_perform_says_that_the_starter_bank_cannot_turn_its_eyes(tmp_path, capsys):
    assert run("perform", "--audio", LINE, "--gaze", "--out", tmp_path / "a.csv") == 0
    said = capsys.readouterr().err
    names = Coefficients.load(tmp_path / "a.csv").names
    looking = gaze_names(read_bank(STARTER))
    assert ("does not name the sliders that turn the eyes" in said) == (not looking)
    assert set(looking) <= set(names)


def test_perform_says_that_it_heard_no_speech_or_does_not_know_the_words(tmp_path, capsys, text):
    noise = write_wav(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.05, 32_000))
    assert run("perform", "--audio", noise, "--text", text, "--emotion", "auto", "--out", tmp_path / "a.csv") == 0
    assert "No speech was heard in the sound, so no emotion was detected." in capsys.readouterr().err
    text.write_text("Ich weiß nicht, wovon du redest.", encoding="utf-8")
    assert run("perform", "--audio", LINE, "--text", text, "--emotion", "auto", "--out", tmp_path / "b.csv") == 0
    assert "not known" in capsys.readouterr().err
    text.write_text(" \n")
    assert run("perform", "--audio", LINE, "--text", text, "--emotion", "auto", "--out", tmp_path / "c.csv") == 0
    assert f"{text} has no words, so emotion was detected from the voice alone." in capsys.readouterr().err
    assert (tmp_path / "c.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seconds", "1", "--emotion", "auto"], "--emotion auto requires --audio"),
        (["--audio", LINE, "--text", LINE, "--emotion", "happy"], "--text requires --emotion auto"),
        (["--audio", LINE, "--emotion", "none", "--intensity", "0.5"], "require --emotion"),
    ],
)
def test_render_refuses_options_without_sense(tmp_path, capsys, words, expected):
    assert expected in refusal(capsys, "render", "--source", PORTRAIT, "--out", tmp_path / "a.mp4", *words)


def test_render_uses_the_detected_emotion(tmp_path, text):
    from inference.cli import build_parser
    from inference.cli.rendering import Inputs

    out = ["--out", str(tmp_path / "a"), "--text", str(text), "--threads", "1"]
    words = ["render", "--source", str(PORTRAIT), "--audio", str(LINE), "--emotion", "auto", *out]
    inputs = Inputs(build_parser().parse_args(words))
    found = inputs._detected(load_bank())
    assert found["happy"].shape == (inputs.length,)
    assert found["happy"].max() > 0.4
    assert not found["sad"].any()


@pytest.mark.parametrize("words", [["--head-motion", "1"], ["--emotion", "auto"]])
def test_render_names_a_sound_that_is_too_short(tmp_path, capsys, words):
    short = write_wav(tmp_path / "short.wav", np.zeros(3200))
    assert run("render", "--source", PORTRAIT, "--audio", short, "--out", tmp_path / "a.mp4", *words) != 0
    assert "short.wav lasts 0.20 s; expected at least 0.5 s of sound." in capsys.readouterr().err
    assert not (tmp_path / "a.mp4").exists()
