"""Emotions over time, and custom emotions in the .blend, in the library and in files."""

import json

import bpy
import numpy as np
import pytest


@pytest.fixture
def character(package):
    return package.character


@pytest.fixture
def emotion(package):
    return package.animation.emotion_operators


@pytest.fixture(autouse=True)
def library(emotion, tmp_path, monkeypatch):
    """An empty emotion library for each test."""
    path = tmp_path / "library" / "emotions.json"
    monkeypatch.setattr(emotion, "library_path", lambda: path)
    return path


def at(package, obj, name, frames):
    """Values of an emotion's F-curve at some frames."""
    path = package.character.sliders.data_path(name)
    (curve,) = (curve for curve in package.compat.fcurves(obj) if curve.data_path == path)
    return [curve.evaluate(frame) for frame in frames]


# --- Emotions over time


def test_keys_blend_from_one_emotion_to_the_next(package, obj, scene):
    for frame, name in ((1, "neutral"), (11, "happy"), (21, "sad")):
        scene.frame_set(frame)
        bpy.ops.edtalk.emotion_key(emotion=name, strength=0.8)
    assert at(package, obj, "happy", (1, 11, 21)) == pytest.approx([0, 0.8, 0])
    assert at(package, obj, "sad", (1, 11, 21)) == pytest.approx([0, 0, 0.8])
    assert 0.2 < at(package, obj, "happy", (6,))[0] < 0.6
    assert {curve.group.name for curve in package.compat.fcurves(obj)} == {"Emotion"}
    assert obj.edtalk["sad"] == pytest.approx(0.8), "the slider has the keyed value"


@pytest.mark.parametrize(("place", "start"), [("START", 50), ("CENTRE", 44), ("END", 38)])
def test_a_change_eases_from_the_current_emotion(package, obj, scene, place, start):
    obj.edtalk["sad"] = 0.6
    scene.frame_set(50)
    bpy.ops.edtalk.emotion_change(emotion="happy", frames=12, place=place)
    middle, end = start + 6, start + 12
    assert at(package, obj, "happy", (1, start, middle, end, 200)) == pytest.approx([0, 0, 0.5, 1, 1])
    assert at(package, obj, "sad", (1, start, middle, end, 200)) == pytest.approx([0.6, 0.6, 0.3, 0, 0])
    samples = at(package, obj, "happy", (start + 1, middle, middle + 1))
    assert samples[0] < 1 / 12 < samples[2] - samples[1], "slow at the ends, fast in the middle"


def test_a_second_change_starts_from_the_first(package, obj, scene):
    for frame, name in ((10, "happy"), (40, "sad")):
        scene.frame_set(frame)
        bpy.ops.edtalk.emotion_change(emotion=name, frames=10)
    assert at(package, obj, "happy", (10, 20, 30, 40, 45, 50)) == pytest.approx([0, 1, 1, 1, 0.5, 0])
    assert at(package, obj, "sad", (30, 40, 50)) == pytest.approx([0, 0, 1])


def test_a_change_during_another_replaces_it(package, obj, scene):
    scene.frame_set(10)
    bpy.ops.edtalk.emotion_change(emotion="happy", frames=10, easing="LINEAR")
    scene.frame_set(15)
    bpy.ops.edtalk.emotion_change(emotion="neutral", frames=10, easing="LINEAR")
    assert at(package, obj, "happy", (10, 15, 20, 25, 30)) == pytest.approx([0, 0.5, 0.25, 0, 0])


def test_a_hard_cut_changes_between_two_frames(package, obj, scene):
    obj.edtalk["sad"] = 0.5
    scene.frame_set(30)
    bpy.ops.edtalk.emotion_change(emotion="angry", hold=True)
    assert at(package, obj, "angry", (1, 28, 29, 29.9, 30, 31)) == pytest.approx([0, 0, 0, 0, 1, 1])
    assert at(package, obj, "sad", (28, 29, 30)) == pytest.approx([0.5, 0.5, 0])
    assert (obj.edtalk["angry"], obj.edtalk["sad"]) == (1, 0)


@pytest.mark.parametrize("easing", ["EASE_IN", "EASE_OUT"])
def test_easing_on_one_side_only(package, obj, scene, easing):
    scene.frame_set(1)
    bpy.ops.edtalk.emotion_change(emotion="happy", frames=10, easing=easing)
    first, last = at(package, obj, "happy", (2,))[0], 1 - at(package, obj, "happy", (10,))[0]
    assert (first < 0.05 < last) if easing == "EASE_IN" else (last < 0.05 < first)


def test_a_change_at_the_nearest_cut(package, obj, scene, demo):
    scene.frame_set(70)
    with pytest.raises(RuntimeError, match="No cut found"):
        bpy.ops.edtalk.emotion_change(emotion="happy", at="CUT", hold=True)
    scene.timeline_markers.new("Shot 2", frame=100)
    strip = package.compat.new_image(scene, "plate", demo / "portrait_1.png", 1, 20)
    package.compat.set_strip_value(strip, "right_handle", 60)
    package.compat.new_sound(scene, "line", demo / "line.wav", 2, 71)
    assert package.animation.emotion_operators.cuts(scene) == [20, 60, 100]
    bpy.ops.edtalk.emotion_change(emotion="happy", at="CUT", hold=True)
    assert at(package, obj, "happy", (59, 60)) == pytest.approx([0, 1])


def test_emotions_are_added_to_rest_in_the_sampled_rows(package, character, obj, scene):
    scene.frame_set(1)
    bpy.ops.edtalk.emotion_change(emotion="happy", frames=10)
    bank = character.files.bank_of(obj)
    rows = package.animation.sampling.sample(scene, obj, [1, 11])
    np.testing.assert_allclose(rows[0], bank.rest, atol=1e-6)
    np.testing.assert_allclose(rows[1, 26:36], bank.presets["happy"], atol=1e-6)
    np.testing.assert_allclose(rows[1, :26], bank.rest[:26], atol=1e-6)


def test_without_emotions_the_operators_give_a_reason(package, character, obj, write_bank):
    character.character.set_bank(obj, str(write_bank(presets={})))
    assert not bpy.ops.edtalk.emotion_key.poll()
    assert "no emotions" in package.animation.emotion_operators.EDTALK_OT_emotion_key.disabled_reason(bpy.context)


# --- Custom emotions


def test_a_pose_becomes_an_emotion(character, obj, library):
    obj.edtalk["mouthSmile"], obj.edtalk["browDown"] = 0.5, 0.25
    before = character.sliders.row(obj)
    bpy.ops.edtalk.save_emotion(emotion="smug")
    assert "smug" in character.sliders.emotions(obj)
    assert obj.edtalk["smug"] == 1.0
    assert obj.edtalk["mouthSmile"] == 0.0
    np.testing.assert_allclose(character.sliders.row(obj), before, atol=1e-6)
    obj.edtalk["smug"] = 0.5
    np.testing.assert_allclose(character.sliders.row(obj), before / 2, atol=1e-6)
    assert json.loads(library.read_text())["emotions"] == {"smug": {"mouthSmile": 0.5, "browDown": 0.25}}


def test_a_saved_emotion_is_relative_to_rest_and_includes_others(character, obj):
    character.sliders.setup_channels(obj, {"mouthSmile": 0.25})
    obj.edtalk["mouthSmile"], obj.edtalk["happy"] = 0.5, 0.5
    offsets = character.sliders.emotions(obj)["happy"]
    bpy.ops.edtalk.save_emotion(emotion="glee", reset=False, to_library=False)
    names = character.files.bank_of(obj).names_of("exp")
    expected = 0.5 * offsets + np.array([0.25 if name == "mouthSmile" else 0.0 for name in names])
    np.testing.assert_allclose(character.sliders.emotions(obj)["glee"], expected, atol=1e-5)
    assert obj.edtalk["glee"] == 0.0


def test_custom_emotions_are_saved_in_the_blend(package, character, obj, scene, library, tmp_path):
    obj.edtalk["mouthSmile"] = 0.5
    bpy.ops.edtalk.save_emotion(emotion="smug")
    library.unlink()
    scene.frame_set(1)
    bpy.ops.edtalk.emotion_change(emotion="smug", frames=10, strength=0.5)
    uid = obj.edtalk.uid
    rows = package.animation.sampling.sample(scene, obj, [1, 6, 11])
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "scene.blend"))
    loaded = character.character.find(uid)
    np.testing.assert_array_equal(package.animation.sampling.sample(bpy.context.scene, loaded, [1, 6, 11]), rows)


def test_the_library_can_be_used_by_other_characters(character, obj, scene, emotion):
    assert not bpy.ops.edtalk.add_emotion.poll()
    obj.edtalk["mouthSmile"] = 0.5
    bpy.ops.edtalk.save_emotion(emotion="smug")
    other = character.character.create(scene, name="Ben")
    bpy.context.view_layer.objects.active = other
    bpy.ops.edtalk.add_emotion(emotion="smug")
    assert character.sliders.own_presets(other) == character.sliders.own_presets(obj)
    with pytest.raises(RuntimeError, match=r"has no emotion 'none'\. Choose one of: smug"):
        bpy.ops.edtalk.add_emotion(emotion="none")
    bpy.ops.edtalk.remove_emotion(emotion="smug", from_library=True)
    assert emotion.library() == {}
    assert "smug" in character.sliders.emotions(obj), "other characters keep it"


def test_removing_an_emotion_removes_slider_and_keys(package, character, obj, scene):
    obj.edtalk["mouthSmile"] = 0.5
    bpy.ops.edtalk.save_emotion(emotion="smug")
    bpy.ops.edtalk.emotion_key(emotion="smug")
    bpy.ops.edtalk.remove_emotion(emotion="smug")
    assert "smug" not in character.sliders.channel_names(obj)
    assert character.sliders.data_path("smug") not in {curve.data_path for curve in package.compat.fcurves(obj)}
    assert character.sliders.own_presets(obj) == {}
    with pytest.raises(RuntimeError, match="no custom emotion 'smug'"):
        bpy.ops.edtalk.remove_emotion(emotion="smug")


def test_emotions_are_exported_and_imported(character, obj, scene, tmp_path, write_bank):
    assert not bpy.ops.edtalk.export_emotions.poll()
    obj.edtalk["mouthSmile"] = 0.5
    bpy.ops.edtalk.save_emotion(emotion="smug", to_library=False)
    path = tmp_path / "shared.json"
    bpy.ops.edtalk.export_emotions(filepath=str(path))
    other = character.character.create(scene, name="Ben")
    bpy.context.view_layer.objects.active = other
    bpy.ops.edtalk.import_emotions(filepath=str(path))
    assert character.sliders.own_presets(other) == {"smug": {"mouthSmile": 0.5}}
    character.character.set_bank(other, str(write_bank()))
    with pytest.raises(RuntimeError, match="made with another bank"):
        bpy.ops.edtalk.import_emotions(filepath=str(path))
    path.write_text("nothing")
    with pytest.raises(RuntimeError, match="is not an emotion file"):
        bpy.ops.edtalk.import_emotions(filepath=str(path))


@pytest.mark.parametrize("name", ["happy", "jawOpen", "portrait", "uid", "", "  ", "x" * 80])
def test_used_and_empty_names_are_errors(character, obj, name):
    obj.edtalk["mouthSmile"] = 0.5
    with pytest.raises(RuntimeError, match="cannot be used as the name"):
        bpy.ops.edtalk.save_emotion(emotion=name)
    assert character.sliders.own_presets(obj) == {}
    assert obj.edtalk["mouthSmile"] == 0.5


def test_a_face_at_rest_cannot_be_saved(obj):
    with pytest.raises(RuntimeError, match="no expression to save"):
        bpy.ops.edtalk.save_emotion(emotion="nothing")


def test_a_damaged_library_is_an_error(obj, library):
    library.parent.mkdir()
    library.write_text("nothing")
    with pytest.raises(RuntimeError, match=r"emotions\.json is not an emotion file"):
        bpy.ops.edtalk.add_emotion(emotion="smug")


def test_the_library_is_in_the_configuration_folder(addon, monkeypatch):
    monkeypatch.undo()
    path = addon.edtalk_blender.animation.emotion_operators.library_path()
    assert path.name == "emotions.json"
    assert path.parent.name == "edtalk"
    assert str(path).startswith(bpy.utils.resource_path("USER"))
