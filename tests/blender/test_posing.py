"""Operators of characters and poses: add, choose, reset, mirror, copy, paste, key, and why they are disabled."""

import json

import bpy
import numpy as np
import pytest


@pytest.fixture
def character(package):
    return package.character


@pytest.fixture(autouse=True)
def auto_key():
    """Disable auto keying. Returns the tool settings, to enable it."""
    settings = bpy.context.scene.tool_settings
    settings.use_keyframe_insert_auto = False
    return settings


def keyed(package, obj) -> dict[str, list[float]]:
    """Frames of keys by slider name."""
    return {
        curve.data_path[len('edtalk["') : -2]: [point.co.x for point in curve.keyframe_points]
        for curve in package.compat.fcurves(obj)
    }


def changed(character, obj) -> dict[str, float]:
    rest = character.sliders.rest_values(obj)
    return {
        name: obj.edtalk[name]
        for name in character.sliders.channel_names(obj)
        if obj.edtalk[name] != rest.get(name, 0.0)
    }


# --- Adding and choosing


def test_an_added_character_is_selected(character, scene, demo):
    bpy.ops.edtalk.add_character(filepath=str(demo / "portrait_2.png"))
    (obj,) = character.character.characters(scene)
    assert bpy.context.view_layer.objects.active == obj
    assert obj.select_get()
    assert character.character.active(bpy.context) == obj
    bpy.ops.edtalk.add_character(filepath=str(demo / "portrait_1.png"), title="Ben")
    assert [other.name for other in character.character.characters(scene)] == ["Ben", "portrait_2"]
    assert [other.name for other in bpy.context.selected_objects] == ["Ben"]


def test_an_image_empty_becomes_a_character(package, character, scene, demo):
    assert not bpy.ops.edtalk.make_character.poll()
    empty = bpy.data.objects.new("Reference", None)
    empty.empty_display_type = "IMAGE"
    empty.data = bpy.data.images.load(str(demo / "portrait_2.png"))
    scene.collection.objects.link(empty)
    bpy.context.view_layer.objects.active = empty
    bpy.ops.edtalk.make_character()
    assert character.files.portrait_path(empty) == demo / "portrait_2.png"
    assert character.sliders.row(empty).shape == (38,)
    assert "already" in package.character.operators.EDTALK_OT_make_character.disabled_reason(bpy.context)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "face.png does not exist; expected an image of a face"),
        (b"", r"face.png is empty"),
        (b"no picture at all", "face.png is not a readable image: expected .*, found a text file that begins 'no pic"),
    ],
)
def test_an_unreadable_portrait_is_an_error_and_adds_nothing(character, scene, tmp_path, content, words):
    path = tmp_path / "face.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RuntimeError, match=words):
        bpy.ops.edtalk.add_character(filepath=str(path))
    with pytest.raises(RuntimeError, match=f"{tmp_path.name} is a folder; expected an image of a face"):
        bpy.ops.edtalk.add_character(filepath=str(tmp_path))
    assert not character.character.characters(scene)
    assert not bpy.data.images
    assert not bpy.data.objects


def test_the_active_character_is_the_active_object_or_the_only_one(character, scene, demo):
    assert character.character.active(bpy.context) is None
    anna, ben = (character.character.create(scene, str(demo / "portrait_1.png"), name=name) for name in ("Anna", "Ben"))
    assert character.character.active(bpy.context) is None, "neither of the two is selected"
    bpy.ops.edtalk.select_character(uid=ben.edtalk.uid)
    assert character.character.active(bpy.context) == ben
    scene.collection.objects.unlink(ben)
    assert character.character.active(bpy.context) == anna
    with pytest.raises(RuntimeError, match="no longer in this scene"):
        bpy.ops.edtalk.select_character(uid=ben.edtalk.uid)


def test_another_portrait_keeps_the_animation(package, character, obj, demo):
    package.animation.keys.insert_keys(obj, {"jawOpen": 0.5}, 1)
    bpy.ops.edtalk.set_portrait(filepath=str(demo / "portrait_2.png"))
    assert character.files.portrait_path(obj).name == "portrait_2.png"
    assert obj.data == obj.edtalk.portrait_image
    assert keyed(package, obj) == {"jawOpen": [1]}
    with pytest.raises(RuntimeError, match="does not exist"):
        bpy.ops.edtalk.set_portrait(filepath=str(demo / "none.png"))
    assert character.files.portrait_path(obj).name == "portrait_2.png"


def test_set_bank_reports_dropped_sliders(character, obj, write_bank, capfd):
    bpy.ops.edtalk.set_bank(filepath=str(write_bank()))
    assert character.files.bank_of(obj).name == "other"
    assert "has no sliders mouthClose, mouthFunnel" in capfd.readouterr().out
    bpy.ops.edtalk.set_bank(starter=True)
    assert obj.edtalk.bank == ""
    with pytest.raises(RuntimeError, match="does not exist"):
        bpy.ops.edtalk.set_bank(filepath=str(write_bank().with_name("none.safetensors")))
    assert obj.edtalk.bank == ""


# --- Posing


def test_reset_all_a_bank_or_a_slider(character, obj):
    character.sliders.setup_channels(obj, {"jawOpen": 0.25})

    def pose():
        for name in ("jawOpen", "mouthPucker", "headYaw", "happy"):
            obj.edtalk[name] = 0.9

    pose()
    bpy.ops.edtalk.reset(slider="jawOpen")
    assert set(changed(character, obj)) == {"mouthPucker", "headYaw", "happy"}
    assert obj.edtalk["jawOpen"] == 0.25
    bpy.ops.edtalk.reset(bank="lip")
    assert set(changed(character, obj)) == {"headYaw", "happy"}
    bpy.ops.edtalk.reset(bank="emotion")
    assert set(changed(character, obj)) == {"headYaw"}
    pose()
    bpy.ops.edtalk.reset()
    assert changed(character, obj) == {}


def test_mirror_swaps_offsets_from_rest(character, obj):
    character.sliders.setup_channels(obj, {"mouthLeft": 0.125, "headYaw": 0.5})
    obj.edtalk["mouthLeft"], obj.edtalk["headYaw"], obj.edtalk["headPitch"] = 0.625, 0.75, 0.25
    bpy.ops.edtalk.mirror()
    assert changed(character, obj) == {"mouthRight": 0.5, "headYaw": 0.25, "headPitch": 0.25}
    assert obj.edtalk["mouthLeft"] == 0.125
    bpy.ops.edtalk.mirror(bank="lip")
    assert (obj.edtalk["mouthLeft"], obj.edtalk["headYaw"]) == (0.625, 0.25)
    with pytest.raises(RuntimeError, match="no sliders to mirror"):
        bpy.ops.edtalk.mirror(bank="exp")


def test_a_pose_can_be_pasted_on_another_bank(package, character, scene, obj, write_bank):
    posing = package.animation.pose_operators
    character.sliders.setup_channels(obj, {"jawOpen": 0.25})
    obj.edtalk["jawOpen"], obj.edtalk["headYaw"], obj.edtalk["happy"], obj.edtalk["browDown"] = 0.75, 0.5, 0.625, 1.0
    text = package.animation.pose.to_text(posing.pose_of(obj))
    other = character.character.create(scene, bank=str(write_bank(rest=0.125)), name="Other")
    bpy.context.view_layer.objects.active = other
    bpy.ops.edtalk.paste_pose(text=text)
    assert (other.edtalk["jawOpen"], other.edtalk["headYaw"], other.edtalk["happy"]) == (0.625, 0.625, 0.625)
    bpy.ops.edtalk.reset()
    bpy.ops.edtalk.paste_pose(text=text, bank="pose")
    assert (other.edtalk["jawOpen"], other.edtalk["headYaw"]) == (0.125, 0.625)
    with pytest.raises(RuntimeError, match="does not contain a pose"):
        bpy.ops.edtalk.paste_pose(text="something else")
    with pytest.raises(RuntimeError, match="none of the 1 copied sliders"):
        bpy.ops.edtalk.paste_pose(text=json.dumps({"edtalk_pose": 1, "sliders": {"mouthDimple": 1.0}}))


def test_key_all_or_one_bank(package, character, obj, scene):
    scene.frame_set(7)
    bpy.ops.edtalk.key_pose(bank="pose")
    assert keyed(package, obj) == {name: [7] for name in character.files.bank_of(obj).names_of("pose")}
    groups = {curve.group.name for curve in package.compat.fcurves(obj)}
    assert groups == {"Head"}
    bpy.ops.edtalk.key_pose()
    assert set(keyed(package, obj)) == set(character.sliders.channel_names(obj))


def test_auto_keying_keys_changed_sliders(package, obj, scene, auto_key):
    obj.edtalk["jawOpen"] = obj.edtalk["headYaw"] = 0.5
    bpy.ops.edtalk.reset(slider="headYaw")
    assert keyed(package, obj) == {}
    auto_key.use_keyframe_insert_auto = True
    scene.frame_set(5)
    bpy.ops.edtalk.reset()
    assert keyed(package, obj) == {"jawOpen": [5]}
    assert package.animation.sampling.sliders_at(obj, ["jawOpen"], 5) == {"jawOpen": 0.0}


# --- Disabled operators


@pytest.mark.parametrize("name", ["reset", "mirror", "paste_pose", "key_pose", "set_bank", "set_portrait", "copy_pose"])
def test_without_a_character_operators_give_a_reason(package, character, scene, demo, name):
    operator = getattr(bpy.ops.edtalk, name)
    cls = next(c for c in bpy.types.Operator.__subclasses__() if c.__name__ == f"EDTALK_OT_{name}")
    assert not operator.poll()
    assert "character" in cls.disabled_reason(bpy.context)
    character.character.create(scene, str(demo / "portrait_1.png"))
    assert operator.poll()
    assert cls.disabled_reason(bpy.context) == ""


def test_override_is_only_enabled_for_linked_characters(obj):
    assert not bpy.ops.edtalk.make_override.poll()


# --- Values are plain floats


def test_sliders_stay_floats_with_their_range(character, obj):
    for value in (1, True, np.float32(0.5), 0.25):
        obj.edtalk["jawOpen"] = float(value)
        shown = obj.edtalk.id_properties_ui("jawOpen").as_dict()
        assert (shown["soft_min"], shown["soft_max"]) == (0.0, 1.0)
    assert isinstance(obj.edtalk["jawOpen"], float)
