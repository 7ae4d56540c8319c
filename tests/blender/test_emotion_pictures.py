"""Emotion pictures, the emotion used last, tooltips of sliders, and shortcuts."""

import sys
from pathlib import Path

import bpy
import pytest


@pytest.fixture
def pictures(package):
    return package.animation.emotion_pictures


def test_every_emotion_and_mouth_shape_of_the_starter_bank_has_a_picture(package, obj, pictures):
    shown = {path.stem for path in pictures.FOLDER.glob("*.png")}
    emotions = {"neutral", *package.character.sliders.emotions(obj)}
    assert shown == emotions | {f"mouth_{name}" for name in package.lipsync.mouth_shapes.MOUTH_SHAPES}
    for name in shown:
        picture = bpy.data.images.load(str(pictures.FOLDER / f"{name}.png"))
        assert tuple(picture.size) == (128, 128)
        bpy.data.images.remove(picture)
    assert pictures.icon("an emotion of the artist") == 0


def test_key_and_change_emotion_default_to_the_emotion_used_last(package, obj, scene, pictures):
    assert pictures.chosen(obj) == "happy"
    obj.edtalk["sad"] = 0.4
    assert pictures.chosen(obj) == "sad", "the strongest one"
    bpy.ops.edtalk.emotion_change(emotion="angry")
    obj.edtalk["sad"] = 1.0
    assert pictures.chosen(obj) == "angry"
    assert bpy.ops.edtalk.emotion_key("INVOKE_DEFAULT") == {"FINISHED"}
    assert obj.edtalk["angry"] == 1.0
    bpy.ops.edtalk.emotion_key("INVOKE_DEFAULT", emotion="neutral")
    assert obj.edtalk["angry"] == 0.0
    assert pictures.chosen(obj) == "neutral"


def test_an_emotion_is_chosen_by_its_picture(obj, pictures):
    manager = bpy.context.window_manager
    manager.edtalk_emotion = "fear"
    assert obj.edtalk.last_emotion == "fear"
    assert pictures.chosen(obj) == "fear"
    bpy.ops.edtalk.emotion_key("INVOKE_DEFAULT")
    assert obj.edtalk["fear"] == 1.0


def test_the_strings_of_the_choice_stay_where_blender_points_to(package, scene, obj, pictures):
    before = pictures.items(obj)
    other = package.character.character.create(scene, name="Ben")
    package.character.sliders.set_own_presets(other, {"smug": {"mouthSmile": 0.4}})
    assert len(pictures.items(other)) == len(before) + 1
    assert pictures.items(obj) is before, "a list that Blender has seen is neither changed nor freed"


def test_the_choice_of_an_emotion_that_is_gone_is_not_kept(package, obj, pictures):
    package.character.sliders.set_own_presets(obj, {"smug": {"mouthSmile": 0.4}})
    bpy.context.window_manager.edtalk_emotion = "smug"
    assert pictures.chosen(obj) == "smug"
    bpy.ops.edtalk.remove_emotion(emotion="smug")
    assert pictures.chosen(obj) == "happy"


def test_slider_tooltips_say_effect_unit_and_range(package, obj):
    bank = package.character.files.bank_of(obj)
    tips = {name: obj.edtalk.id_properties_ui(name).as_dict()["description"] for name in bank.names}
    assert len({tip.split(".")[0] for tip in tips.values()}) == len(tips), "each has an effect of its own"
    for entry in bank.coefficients:
        assert f"usual range {entry.soft_min:g} to {entry.soft_max:g}" in tips[entry.name]
        assert not tips[entry.name].startswith(package.character.sliders.title(entry.name) + ".")
    assert "30 degrees" in tips["headYaw"]
    for name in package.character.sliders.emotions(obj):
        assert "1.5" in obj.edtalk.id_properties_ui(name).as_dict()["description"]


def test_shortcuts_are_registered_and_free_in_blenders_keymaps(package):
    shortcuts = package.shortcuts
    addon = bpy.context.window_manager.keyconfigs.addon
    for name, space in shortcuts.KEYMAPS:
        own = {item.idname for item in addon.keymaps.find(name, space_type=space).keymap_items}
        assert {shortcut.operator for shortcut in shortcuts.SHORTCUTS} <= own
    taken = blenders_keys()
    assert len(taken) > 100
    names = {keymap for keymap, _key, _modifiers in taken}
    assert {name for name, _space in shortcuts.KEYMAPS} <= names
    used = {(key, modifiers) for _keymap, key, modifiers in taken}
    for shortcut in shortcuts.SHORTCUTS:
        assert (shortcut.key, frozenset(shortcut.modifiers)) not in used


def blenders_keys() -> set[tuple[str, str, frozenset[str]]]:
    """Keymap, key and modifiers of all items of Blender's default and industry-compatible configurations."""
    folder = Path(bpy.utils.resource_path("LOCAL")) / "scripts" / "presets" / "keyconfig" / "keymap_data"
    sys.path.insert(0, str(folder))
    try:
        import blender_default
        import industry_compatible_data
    finally:
        sys.path.remove(str(folder))
    data = [
        *blender_default.generate_keymaps(blender_default.Params()),
        *industry_compatible_data.generate_keymaps(industry_compatible_data.Params()),
    ]
    found = set()
    for name, _options, content in data:
        for _operator, event, *_properties in content["items"]:
            pressed = frozenset(key for key in ("shift", "ctrl", "alt", "oskey") if event.get(key))
            found.add((name, event["type"], pressed))
    return found
