"""Poses as text, mirrored poses, and emotion files."""

import json

import pytest
from edtalk.edtalk_blender.animation import pose, presets
from edtalk.inference.contract.errors import EDTalkError


def test_a_pose_survives_a_round_trip():
    sliders = {"jawOpen": 0.25, 'quoted "name"': -1.5, "Grüße": 1e-3}
    assert pose.from_text(pose.to_text(sliders)) == sliders


@pytest.mark.parametrize(
    "text",
    ["", "hello", "{}", "[]", "3", '{"edtalk_pose": 1}', '{"edtalk_pose": 1, "sliders": {}}',
     '{"edtalk_pose": 1, "sliders": {"a": "b"}}', '{"sliders": {"a": 1}}', '{"edtalk_pose": 1, "sliders": {"a": NaN}}'],
)  # fmt: skip
def test_other_text_is_an_error(text):
    with pytest.raises(EDTalkError, match="does not contain a pose"):
        pose.from_text(text)


def test_mirroring_swaps_sides_and_flips_the_head():
    seen = {
        "mouthLeft": 0.25, "mouthRight": 0.0, "headYaw": 0.5, "headRoll": -0.25, "headShiftX": 0.125,
        "headPitch": 0.75, "mouthRollLower": 1.0, "jawOpen": 0.5, "headShiftY": 0.5,
    }  # fmt: skip
    mirrored = pose.mirrored(seen)
    assert mirrored == {
        "mouthLeft": 0.0, "mouthRight": 0.25, "headYaw": -0.5, "headRoll": 0.25, "headShiftX": -0.125,
    }  # fmt: skip
    assert pose.mirrored(mirrored) == {name: seen[name] for name in mirrored}


def test_names_without_sides_are_not_mirrored():
    assert pose.mirrored({"lip_01": 1.0, "leftover": 2.0, "brightness": 3.0}) == {}
    assert pose.mirrored({"eye_left": 1.0, "eye_right": 0.5}) == {"eye_left": 0.5, "eye_right": 1.0}
    assert pose.mirrored({"mouthLeft": 1.0}) == {}, "the other side is missing"


def test_emotions_survive_a_round_trip(tmp_path):
    path = tmp_path / "deep" / "emotions.json"
    emotions = {"smug": {"mouthSmile": 0.5, "browDown": 0.25}, "Überrascht": {"eyeWide": 1.0}}
    presets.write(path, emotions)
    assert presets.read(path) == emotions
    assert [file.name for file in path.parent.iterdir()] == ["emotions.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not an emotion file: expected a .json file of emotions, found an empty file"),
        (b"\xff\xfe\x00", "is not an emotion file"),
        (b"[1, 2]", "is not an emotion file"),
        (b'{"emotions": {}}', "is not an emotion file"),
        (b'{"edtalk_emotions": 1, "emotions": {"a": 3}}', "is not an emotion file"),
        (b'{"edtalk_emotions": 1, "emotions": {"a": {"b": "c"}}}', "is not an emotion file"),
        (b'{"edtalk_emotions": 1, "emotions": {"a": {"b": 1e999}}}', "infinite or undefined"),
        (b'{"edtalk_emotions": 1, "emotions": {"a": {"b": Infinity}}}', "is not an emotion file"),
        (b'{"edtalk_emotions": 1, "emotions": {"a": {"b": 1%s}}}' % (b"0" * 400), "is not an emotion file"),
        (b'{"edtalk_emotions": 1, "emotions": {"\\ud800": {"b": 1}}}', "is not an emotion file"),
        (b"[" * 10**6, "is not an emotion file"),
        (b'{"edtalk_emotions": 2, "emotions": {}}', "newer version"),
    ],
)
def test_other_files_are_errors_with_the_files_name(tmp_path, content, words):
    path = tmp_path / "emotions.json"
    path.write_bytes(content)
    with pytest.raises(EDTalkError, match=words) as caught:
        presets.read(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_missing_and_unwritable_files_are_errors(tmp_path):
    with pytest.raises(EDTalkError, match="does not exist"):
        presets.read(tmp_path / "none.json")
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(EDTalkError, match="could not be written"):
        presets.write(tmp_path / "folder" / "emotions.json", {})


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "emotions.json"
    presets.write(path, {"a": {"b": 1.0}})
    with pytest.raises(TypeError):
        presets.write(path, {"a": {"b": object()}})
    assert json.loads(path.read_text())["emotions"] == {"a": {"b": 1.0}}
