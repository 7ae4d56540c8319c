"""Performances: frame indices of driving clips (upstream's recorded ones and our own rules), and combining motion."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from inference.cli.performance import Performance, Rules, hold, loop, mirror, rules, upstream_rules, without_tail
from inference.contract.bank import Bank, numbered_coefficients
from inference.contract.config import GeneratorConfig
from inference.contract.emotion import EmotionCurve
from inference.contract.errors import EDTalkError
from inference.contract.mixing import final_rows, retargeted

GOLDENS = json.loads((Path(__file__).parent / "data" / "timelines.json").read_text())


def rules_of(name):
    """Upstream's rules and clip lengths for a recorded title such as "EDTalk_A pose5 exp23 T12"."""
    counts = {word: int(count) for word, count in re.findall(r"(pose|exp|video)(\d+)", name)}
    audio = name.startswith(("EDTalk_A", "change_lip")) or (name.startswith("lip_pose ") and "_V" not in name)
    found = upstream_rules(audio=audio, has_expression=name.startswith("EDTalk"), dubbing=name.startswith("change"))
    return found, counts


@pytest.mark.parametrize("name", [name for name, golden in GOLDENS.items() if golden != "never ends"])
def test_upstream_indices(name):
    golden, (found, counts) = GOLDENS[name], rules_of(name)
    frames = golden["frames"]
    if "pose" in counts:
        assert found.pose_indices(frames, counts["pose"]).tolist() == golden["pose"]
    if "video" in counts:
        assert found.pose_indices(frames, counts["video"]).tolist() == golden["source"] == golden["pose"]
    if "exp" in counts:
        assert found.expression_indices(frames, counts["exp"]).tolist() == golden["exp"]


@pytest.mark.parametrize("name", [name for name, golden in GOLDENS.items() if golden == "never ends"])
def test_short_expression_clips_use_all_frames(name):
    found, counts = rules_of(name)
    indices = found.expression_indices(50, counts["exp"])
    assert set(indices.tolist()) == set(range(counts["exp"]))


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (19, 19), (20, 20), (21, 1), (23, 3), (250, 230)])
def test_tail_of_an_expression_clip(count, kept):
    assert without_tail(count) == kept


def test_hold_mirror_and_loop():
    assert hold(5, 3).tolist() == [0, 1, 2, 2, 2]
    assert mirror(8, 3).tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert loop(5, 3).tolist() == [0, 1, 2, 0, 1]
    for end in (hold, mirror, loop):
        assert end(2, 3).tolist() == [0, 1]
        assert end(0, 3).tolist() == []
        assert end(3, 1).tolist() == [0, 0, 0]
        with pytest.raises(EDTalkError, match="at least one frame"):
            end(3, 0)


def test_rules_of_each_option():
    assert rules("loop", audio=True, has_expression=True) == Rules("loop", "loop")
    assert rules(None, audio=True, has_expression=True) == Rules("hold", "mirror")
    assert rules(None, audio=True, has_expression=False) == Rules("mirror", "mirror")
    assert rules(None, audio=False, has_expression=False) == Rules("hold", "mirror")
    assert rules("upstream", audio=True, has_expression=True) == Rules("hold", "mirror", drop_tail=True)
    assert rules(None, audio=True, has_expression=True, dubbing=True).pose == "mirror"
    with pytest.raises(EDTalkError, match="'stop'"):
        rules("stop", audio=True, has_expression=True)


# --------------------------------------------------------------------------------------- the same formulas everywhere

BANKS = (("lip", 3), ("pose", 2), ("exp", 2))
RANDOM = np.random.default_rng(8)


@pytest.fixture
def bank() -> Bank:
    presets = {name: RANDOM.normal(size=2).astype(np.float32) for name in ("happy", "neutral", "sad")}
    return Bank("test", GeneratorConfig(8, 8, {4: 4, 8: 4}, BANKS), numbered_coefficients(BANKS), presets)


def test_emotions_of_the_command_line_and_of_sliders_are_equal(bank):
    own, times = RANDOM.normal(size=(1, 7)).astype(np.float32), np.arange(5) / 25
    curve = EmotionCurve.parse("0=happy:0.3 0.1=sad+happy:0.5")
    rows = Performance(emotion=curve).coefficients(bank, own, times, 0.2)
    strengths, offsets = curve.strengths(times, 0.2), bank.emotion_offsets()
    emotions = np.stack([strengths[name] for name in offsets], axis=1)
    sliders = final_rows(BANKS, own[0], np.repeat(own, 5, 0), np.ones((5, 3)), emotions, np.stack([*offsets.values()]))
    np.testing.assert_array_equal(rows, sliders)


@pytest.mark.parametrize("frames", [1, 5])
def test_relative_motion_of_the_command_line_and_of_captures_are_equal(bank, frames):
    own, clip = RANDOM.normal(size=(frames, 7)).astype(np.float32), RANDOM.normal(size=(5, 7)).astype(np.float32)
    driven = Performance(clips={"pose": clip}, relative=True)
    rows = driven.coefficients(bank, own, np.arange(5) / 25, 0.2)
    expected = retargeted(clip, own, driver_rest=clip[0]).astype(np.float32)
    np.testing.assert_array_equal(rows[:, 3:5], expected[:, 3:5])
    assert not driven.replaced(bank).any()
    assert Performance(clips={"pose": clip}).replaced(bank).tolist() == [False] * 3 + [True] * 2 + [False] * 2


def test_presets_are_compared_with_neutral_in_one_place():
    root = Path(__file__).parents[2]
    found = {
        path.relative_to(root).as_posix()
        for folder in ("inference", "edtalk_blender")
        for path in (root / folder).rglob("*.py")
        if re.search(r"-\s*[\w.]*presets\[", path.read_text(encoding="utf-8"))
    }
    assert found == {"inference/contract/bank.py"}
