"""Frame indices of driving clips: upstream's recorded indices and our own rules."""

import json
import re
from pathlib import Path

import pytest

from inference.cli.performance import Rules, hold, loop, mirror, rules, upstream_rules, without_tail
from inference.contract.errors import EDTalkError

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
