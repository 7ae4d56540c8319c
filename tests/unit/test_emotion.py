"""Emotion curves and idle motion."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inference.contract.emotion import EmotionCurve
from inference.contract.errors import EDTalkError
from inference.contract.idle import add_idle_motion, blinks

KNOWN = ("angry", "happy", "neutral", "sad")
TIMES = np.arange(101) / 25


def test_one_emotion_is_constant():
    assert {name: set(row.tolist()) for name, row in EmotionCurve.parse("happy").strengths(TIMES).items()} == {
        "happy": {1.0}
    }
    strength = EmotionCurve.parse(" Happy : 0.7 ").strengths(TIMES)["happy"]
    assert strength.dtype == np.float32
    np.testing.assert_allclose(strength, 0.7, rtol=1e-6)
    assert EmotionCurve.parse("neutral").strengths(TIMES) == {}


def test_curves_pass_through_keys_and_are_constant_outside():
    curve = EmotionCurve.parse("0.4=neutral 1.6=happy:0.8, 3.2=sad")
    happy, sad = (curve.strengths(TIMES)[name] for name in ("happy", "sad"))
    assert happy[TIMES <= 0.4].max() == 0.0
    assert happy[40] == pytest.approx(0.8)
    assert sad[40] == pytest.approx(0.0)
    assert happy[25] == pytest.approx(0.4)  # half-way
    assert (sad[TIMES >= 3.2] == 1.0).all()
    assert (happy[TIMES >= 3.2] == 0.0).all()
    assert (np.diff(happy[10:41]) >= 0).all()
    # Ease in and out: no jump in speed at the keys, fastest half-way.
    speed = np.diff(happy[10:41])
    assert speed[0] < 0.01
    assert speed[-1] < 0.01
    assert speed.argmax() in (14, 15)


def test_mixes_percentages_and_order():
    curve = EmotionCurve.parse("100%=sad 0%=happy:0.5+angry 1s=neutral")
    strengths = curve.strengths(TIMES, duration=4.0)
    assert strengths["happy"][0] == 0.5
    assert strengths["angry"][0] == 1.0
    assert strengths["sad"][25] == 0.0
    assert strengths["happy"][25] == 0.0
    assert strengths["sad"][100] == 1.0
    assert curve.names == ("sad", "happy", "angry")


def test_negative_and_large_strengths_are_kept():
    assert EmotionCurve.parse("happy:-0.5").strengths(TIMES)["happy"][0] == -0.5
    assert EmotionCurve.parse("happy:1.5").strengths(TIMES)["happy"][0] == 1.5


def test_frames_are_independent():
    curve = EmotionCurve.parse("0=neutral 1.5=happy:0.8 3.2=sad")
    whole, part = curve.strengths(TIMES, 4.0), curve.strengths(TIMES[30:60], 4.0)
    np.testing.assert_array_equal(whole["happy"][30:60], part["happy"])


def test_text_round_trip():
    text = "0=neutral 1.5=happy:0.8+sad 50%=sad:-0.25"
    assert EmotionCurve.parse(str(EmotionCurve.parse(text))) == EmotionCurve.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "0=",
        "=happy",
        "1.5",
        "happy sad",
        "0=happy:x",
        "0=happy:",
        "x=happy",
        "0=happy+",
        "-1=happy",
        "1=happy 1=sad",
        "0=happy+happy",
        "happy;0.7:1",
        "0=happy=1",
        "nan=happy",
        "0=happy:nan",
        "1e400=happy",
    ],
)
def test_invalid_text(text):
    with pytest.raises(EDTalkError) as caught:
        EmotionCurve.parse(text, KNOWN)
    assert caught.value.kind == "input"
    assert "happy:0.7" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_unknown_emotion_lists_the_known_ones():
    with pytest.raises(EDTalkError, match=r"no emotion 'hapy'; this bank has: angry, happy, neutral, sad"):
        EmotionCurve.parse("0=neutral 1=hapy", KNOWN)


def test_empty_timeline():
    assert EmotionCurve.parse("0=happy 1=sad").strengths(np.zeros(0))["happy"].shape == (0,)


NAMES = ("jawOpen", "headYaw", "eyeBlink")


def test_idle_motion_is_small_and_independent_of_the_frame_rate():
    times = np.arange(1500) / 50
    still = np.zeros((1500, 3), np.float32)
    moved = add_idle_motion(still, NAMES, times, 1.0)
    np.testing.assert_array_equal(moved[0], 0)
    np.testing.assert_array_equal(moved[:, 0], 0)
    assert 0.05 < np.abs(moved[:, 1]).max() < 0.2
    assert np.abs(np.diff(moved[:, 1])).max() < 0.015
    assert moved[:, 2].min() >= 0.0
    assert 0.9 < moved[:, 2].max() <= 1.0
    np.testing.assert_allclose(moved[::2], add_idle_motion(still[::2], NAMES, times[::2], 1.0))
    np.testing.assert_array_equal(moved[700:800], add_idle_motion(still[700:800], NAMES, times[700:800], 1.0))
    assert not np.array_equal(moved, add_idle_motion(still, NAMES, times, 1.0, seed=1))


def test_length_and_frequency_of_blinks():
    shut = blinks(np.arange(6000) / 100) > 0.5
    starts = np.flatnonzero(np.diff(shut.astype(int)) == 1)
    assert 60 / 5 - 1 <= len(starts) <= 60 / 2
    assert 0.1 < shut.sum() / 100 / len(starts) < 0.25


@pytest.mark.parametrize("text", ["9" * 20_000, "9" * 20_000 + "=happy", "0=happy:" + "1" * 20_000, " " * 200_000])
def test_overlong_numbers_and_text_are_refused_briefly(text):
    with pytest.raises(EDTalkError) as caught:
        EmotionCurve.parse(text)
    assert len(caught.value.message) < 300


def test_many_keys_are_parsed():
    curve = EmotionCurve.parse(" ".join(f"{second}=happy" for second in range(8000)))
    assert len(curve.keys) == 8000


def test_a_half_closed_eye_closes_fully_not_further():
    times = np.arange(500) / 25
    moved = add_idle_motion(np.full((500, 1), 0.25, np.float32), ("eyeBlink",), times, 1.0)
    assert moved.max() <= 1.0
    assert moved.min() == 0.25


def test_idle_motion_needs_named_coefficients():
    values = np.zeros((3, 1), np.float32)
    assert add_idle_motion(values, ("lip_01",), np.arange(3.0), 0.0) is values
    with pytest.raises(EDTalkError, match="names its head and eye"):
        add_idle_motion(values, ("lip_01",), np.arange(3.0), 0.5)


def test_no_torch_is_imported():
    modules = "inference.contract.emotion, inference.contract.idle"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
