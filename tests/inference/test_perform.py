"""The command `perform`, `render --head-motion` and the function `head_motion`, with the starter bank's network."""

import json

import numpy as np
import pytest

from inference import Coefficients, EDTalkError, head_motion, load_bank
from inference.contract.bank import STARTER
from inference.contract.demo import LINE, PORTRAIT
from inference.media.sound import RATE, load_speech
from inference.prosody import prosody
from tests.cli_material import run, write_wav
from tests.inference.test_cli_failures import refusal

ANGLES = slice(0, 3)
DEGREES = np.array([30, 20, 20])


@pytest.fixture(scope="module")
def bank():
    return load_bank()


@pytest.fixture(scope="module")
def line():
    return load_speech(LINE)[0]


def test_a_seed_moves_the_same_alone_among_others_and_in_parts(bank, line):
    times = np.arange(0, 6, 1 / 24)
    several = head_motion(bank, line, times, [3, 4, 5])
    alone = head_motion(bank, line, times, [4])
    np.testing.assert_array_equal(several.rows[1], alone.rows[0])
    part = head_motion(bank, line, times[50:90], [4])
    np.testing.assert_array_equal(alone.rows[0, 50:90], part.rows[0])
    assert np.abs(several.rows[0] - several.rows[1]).max() > 0.05


def test_amounts_are_gains(bank, line):
    times = np.arange(0, 6, 1 / 24)
    one = head_motion(bank, line, times, [1]).rows
    np.testing.assert_allclose(head_motion(bank, line, times, [1], sway=0.5, nods=0.5).rows, one / 2, atol=1e-5)
    assert not head_motion(bank, line, times, [1], sway=0, nods=0).rows.any()


def test_heads_move_more_in_speech_than_in_pauses(bank, line):
    silence = np.zeros(3 * RATE, np.float32)
    sound = np.concatenate([line, silence, line, silence, line])
    times = np.arange(0, len(sound) / RATE, 1 / 25)
    rows = head_motion(bank, sound, times, range(8)).rows[..., ANGLES] * DEGREES
    speed = 25 * np.linalg.norm(np.diff(rows, axis=1), axis=2).mean(axis=0)
    voice = prosody(sound)
    spoken = voice.speech[np.minimum((times[:-1] * 100).astype(int), len(voice) - 1)]
    assert speed[spoken].mean() > 1.2 * speed[~spoken].mean()
    assert 2 < np.median(speed) < 20
    assert np.abs(rows).max() < 40


def test_motion_does_not_drift(bank, line):
    sound = np.tile(line, 30)  # over three minutes
    times = np.arange(0, len(sound) / RATE, 0.1)
    rows = head_motion(bank, sound, times, range(12)).rows[..., ANGLES] * DEGREES
    first, last = rows[:, :400].mean(axis=(0, 1)), rows[:, -400:].mean(axis=(0, 1))
    assert np.abs(first - last).max() < 1.5


def test_sound_without_speech_gives_slow_motion_and_a_note(bank):
    noise = np.random.default_rng(0).normal(0, 0.05, 4 * RATE).astype(np.float32)
    found = head_motion(bank, noise, np.arange(0, 4, 0.04), [1])
    assert "No speech" in found.note
    rows = found.rows[0, :, ANGLES] * DEGREES
    assert np.abs(np.diff(rows, n=2, axis=0)).max() < 0.5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [-1]}, "found -1"),
        ({"seeds": [2**32]}, "4294967295"),
        ({"sway": float("nan")}, "'sway'"),
        ({"nods": 3.0}, "'nods'"),
        ({"samples": np.zeros(4000, np.float32)}, "at least 0.5 s, found 0.25 s"),
        ({"samples": np.zeros(0, np.float32)}, "at least 0.5 s"),
        ({"times": [float("nan")]}, "finite"),
    ],
)
def test_bad_input_is_refused(bank, line, change, expected):
    given = {"samples": line, "times": [0.0], "seeds": [0]} | change
    with pytest.raises(EDTalkError, match=expected):
        head_motion(bank, **given)


def test_nan_in_the_sound_counts_as_silence(bank, line):
    broken = line.copy()
    broken[1000:1100] = np.nan
    assert np.isfinite(head_motion(bank, broken, [0.5, 1.0], [0]).rows).all()


def test_perform_writes_the_head_and_the_lips(tmp_path, capsys):
    words = ["--audio", LINE, "--seed", 7, "--fps", 24, "--json"]
    assert run("perform", *words, "--out", tmp_path / "head.csv") == 0
    report = json.loads(capsys.readouterr().out)
    head = Coefficients.load(tmp_path / "head.csv")
    assert head.names == tuple(report["names"])
    assert set(head.names) > {"headYaw", "headPitch", "headRoll"}
    assert not head.values[0].any()
    assert np.ptp(head.column("headPitch")) > 0.05
    assert run("perform", *words, "--lips", "--out", tmp_path / "both.npz") == 0
    both = Coefficients.load(tmp_path / "both.npz")
    np.testing.assert_allclose(both.select(head.names).values, head.values, atol=1e-6)
    assert np.ptp(both.column("jawOpen")) > 0.2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seed", "-1"], "whole number from 0"),
        (["--seed", "4294967296"], "4294967295"),
        (["--seed", "nan"], "whole number"),
        (["--sway", "2.1"], "from 0 to 2"),
        (["--nods", "nan"], "expected a number"),
    ],
)
def test_perform_refuses_numbers_out_of_range(tmp_path, capsys, words, expected):
    assert expected in refusal(capsys, "perform", "--audio", LINE, "--out", tmp_path / "a.csv", *words)
    assert not list(tmp_path.iterdir())


def test_perform_names_a_sound_that_is_too_short(tmp_path, capsys):
    for samples, seconds in ((4000, "0.25"), (480, "0.03")):  # the second is too short for lip-sync as well
        short = write_wav(tmp_path / "short.wav", np.zeros(samples))
        said = refusal(capsys, "perform", "--audio", short, "--lips", "--out", tmp_path / "a.csv")
        assert f"short.wav lasts {seconds} s; expected at least 0.5 s of sound" in said


def test_perform_says_that_a_sound_is_clipped(tmp_path, capsys, line):
    loud = write_wav(tmp_path / "loud.wav", np.clip(20 * line, -1, 1))
    assert run("perform", "--audio", loud, "--out", tmp_path / "a.csv") == 0
    assert "loud.wav: " in (said := capsys.readouterr().err)
    assert "% of the samples are clipped" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seconds", "1", "--head-motion", "1"], "--head-motion requires --audio"),
        (["--audio", LINE, "--seed", "3"], "--seed requires --head-motion"),
        (["--audio", LINE, "--head-motion", "3"], "from 0 to 2"),
    ],
)
def test_render_refuses_options_without_sense(tmp_path, capsys, words, expected):
    assert expected in refusal(capsys, "render", "--source", PORTRAIT, "--out", tmp_path / "a.mp4", *words)


@pytest.mark.slow
def test_render_moves_the_head_with_the_sound(tmp_path):
    from inference import cli
    from inference.cli import rendering

    def rows(*words):
        words = ["render", "--source", PORTRAIT, "--audio", LINE, "--seconds", "1-1.2", "--threads", 1, *words]
        return rendering.make(cli.build_parser().parse_args([str(word) for word in words])).coefficients

    still = rows("--out", tmp_path / "still")
    moved = rows("--head-motion", 1, "--seed", 7, "--out", tmp_path / "moved")
    names = load_bank(STARTER).names
    changed = {name for name, column in zip(names, np.ptp(moved - still, axis=0), strict=True) if column > 1e-6}
    assert changed == {"headYaw", "headPitch", "headRoll", "headShiftX", "headShiftY", "headScale", "eyeBlink"}
    assert np.abs((moved - still)[0]).max() < 1e-6
