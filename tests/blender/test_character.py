"""Characters: sliders, coefficients, saving, copying, linking and undo."""

import json

import bpy
import numpy as np
import pytest


@pytest.fixture
def character(addon):
    return addon.edtalk_blender.character


@pytest.fixture
def errors(addon):
    return addon.inference.contract.errors


def evaluated(obj):
    return obj.evaluated_get(bpy.context.evaluated_depsgraph_get())


# --- Creating


def test_a_new_character_is_an_empty_that_shows_its_portrait(character, scene, demo):
    obj = character.character.create(scene, str(demo / "portrait_1.png"))
    assert (obj.type, obj.empty_display_type, obj.name) == ("EMPTY", "IMAGE", "portrait_1")
    assert obj.data == obj.edtalk.portrait_image
    assert obj.rotation_euler.x == pytest.approx(np.pi / 2)
    assert character.files.portrait_path(obj) == demo / "portrait_1.png"
    assert character.character.characters(scene) == [obj]
    assert [state.name for state in obj.edtalk.banks] == ["lip", "pose", "exp", "eye"]


def test_sliders_have_the_names_ranges_and_defaults_of_the_bank(character, obj):
    bank = character.files.bank_of(obj)
    assert character.sliders.channel_names(obj) == (*bank.names, *character.sliders.emotions(obj))
    assert list(character.sliders.emotions(obj)) == [name for name in bank.presets if name != "neutral"]
    for entry in bank.coefficients:
        shown = obj.edtalk.id_properties_ui(entry.name).as_dict()
        assert (shown["soft_min"], shown["soft_max"]) == (entry.soft_min, entry.soft_max)
        assert shown["default"] == entry.rest == obj.edtalk[entry.name]
        assert entry.unit in shown["description"]
        assert shown["description"]
    happy = obj.edtalk.id_properties_ui("happy").as_dict()
    assert (happy["min"], happy["soft_max"], happy["max"]) == (0.0, 1.0, 1.5)


def test_any_object_can_be_a_character(character, scene):
    mesh = bpy.data.objects.new("Head", bpy.data.meshes.new("Head"))
    scene.collection.objects.link(mesh)
    character.character.adopt(mesh)
    assert character.sliders.row(mesh).shape == (38,)
    character.viewport.show_pixels(mesh, np.zeros((4, 4, 4), np.float32))
    assert mesh.data.name == "Head"


def test_a_file_from_before_the_bank_of_gaze(character, addon, scene, obj):
    """A saved character lacks the sliders and the state of a bank that its file's bank did not have."""
    for name in character.files.bank_of(obj).names_of("eye"):
        del obj.edtalk[name]
    obj.edtalk.banks.remove(obj.edtalk.banks.find("eye"))
    rest = json.loads(obj.edtalk.rest)
    obj.edtalk.rest = json.dumps({name: value for name, value in rest.items() if not name.startswith("eyeYaw")})
    obj.edtalk["jawOpen"] = 0.4
    assert character.sliders.row(obj).shape == (38,)
    sampled = addon.edtalk_blender.animation.sampling.sample(scene, obj, [1.0])
    assert sampled.shape == (1, 38)
    character.character._restore_sliders()
    assert {"eyeYaw", "eyePitch"} <= set(obj.edtalk.keys())
    assert character.sliders.bank_state(obj, "eye").strength == 1.0
    assert obj.edtalk["jawOpen"] == 0.4


def test_characters_have_unique_identities(character, scene, demo):
    made = [character.character.create(scene, str(demo / "portrait_1.png"), name="Anna") for _ in range(5)]
    assert len({obj.edtalk.uid for obj in made}) == 5
    assert len({tuple(obj.location) for obj in made}) == 5
    for obj in made:
        assert character.character.find(obj.edtalk.uid) == obj
    assert character.character.find("nobody") is None


def test_a_copy_gets_its_own_identity(character, scene, obj):
    uid = obj.edtalk.uid
    copy = obj.copy()
    copy.name = "AAA before the original by name"
    scene.collection.objects.link(copy)
    assert copy.edtalk.uid == uid
    assert character.character.find(uid) == obj
    assert copy.edtalk.uid != uid
    assert character.character.find(copy.edtalk.uid) == copy
    copy.edtalk["jawOpen"] = 0.5
    assert obj.edtalk["jawOpen"] == 0.0


def test_an_object_duplicated_by_operator_gets_its_own_identity(character, obj):
    uid = obj.edtalk.uid
    obj.select_set(True)
    bpy.ops.object.duplicate()
    character.character.ensure_unique_ids()
    both = character.character.characters(bpy.context.scene)
    assert sorted(other.edtalk.uid == uid for other in both) == [False, True]
    assert character.character.find(uid) == obj


# --- Coefficients


def test_sliders_at_rest_give_the_rest_coefficients(character, obj):
    bank = character.files.bank_of(obj)
    np.testing.assert_array_equal(character.sliders.row(obj), bank.rest)
    rest = {name: index / 7 for index, name in enumerate(bank.names)}
    character.sliders.setup_channels(obj, rest)
    np.testing.assert_array_equal(character.sliders.row(obj), np.array(list(rest.values()), np.float32))
    for state in obj.edtalk.banks:
        state.strength = 1.7
    np.testing.assert_array_equal(character.sliders.row(obj), np.array(list(rest.values()), np.float32))


def test_a_new_rest_pose_moves_only_sliders_that_were_at_rest(character, obj):
    obj.edtalk["jawOpen"] = 0.4
    character.sliders.setup_channels(obj, {"jawOpen": 0.1, "headYaw": 0.25, "unheard of": 9.0})
    assert obj.edtalk["jawOpen"] == 0.4
    assert obj.edtalk["headYaw"] == 0.25
    assert obj.edtalk.id_properties_ui("jawOpen").as_dict()["default"] == pytest.approx(0.1)
    assert "unheard of" not in character.sliders.rest_values(obj)
    character.sliders.setup_channels(obj)
    assert character.sliders.rest_values(obj)["headYaw"] == 0.25, "the rest pose is kept until another one is measured"


def test_measured_noise_around_the_banks_rest_is_removed(character, obj):
    """A measured face is never exactly at rest; an offset of -0.000007 is noise."""
    entry, other = character.files.bank_of(obj).coefficients[:2]
    character.sliders.setup_channels(obj, {entry.name: entry.rest - 7e-6, other.name: other.rest + 2e-4})
    assert obj.edtalk[entry.name] == character.sliders.rest_values(obj)[entry.name] == entry.rest
    assert obj.edtalk[other.name] == character.sliders.rest_values(obj)[other.name] == np.float32(other.rest + 2e-4)


def test_strengths_scale_offsets_from_rest(character, obj):
    names = character.files.bank_of(obj).names
    character.sliders.setup_channels(obj, dict.fromkeys(names, 0.5))
    obj.edtalk["jawOpen"], obj.edtalk["headYaw"], obj.edtalk["browInnerUp"] = 1.0, 0.0, 0.75
    for bank, name, strength, expected in (
        ("lip", "jawOpen", 0.5, 0.75),
        ("pose", "headYaw", 2.0, -0.5),
        ("exp", "browInnerUp", 0.0, 0.5),
    ):
        obj.edtalk.banks[bank].strength = strength
        assert character.sliders.row(obj)[names.index(name)] == np.float32(expected)


def test_muted_and_not_solo_banks_stay_at_rest(character, obj):
    names = character.files.bank_of(obj).names
    keys = ("jawOpen", "headYaw", "browInnerUp")

    def row():
        return [float(character.sliders.row(obj)[names.index(name)]) for name in keys]

    for name in keys:
        obj.edtalk[name] = 1.0
    assert row() == [1, 1, 1]
    obj.edtalk.banks["lip"].mute = True
    assert row() == [0, 1, 1]
    obj.edtalk.banks["pose"].solo = True
    assert row() == [0, 1, 0]
    obj.edtalk.banks["lip"].solo = True
    assert row() == [0, 1, 0], "a solo bank can be muted"
    obj.edtalk.banks["lip"].mute = False
    assert row() == [1, 1, 0]


def test_emotions_are_measured_from_neutral(character, scene, write_bank):
    obj = character.character.create(scene, bank=str(write_bank(rest=0.0)))
    obj.edtalk["happy"] = 0.5
    np.testing.assert_allclose(character.sliders.row(obj), [0, 0, 0, 1.5, 0.5])
    obj.edtalk["exp_01"] = 1.0
    obj.edtalk.banks["exp"].strength = 2.0
    np.testing.assert_allclose(character.sliders.row(obj), [0, 0, 0, 5.0, 1.0])
    obj.edtalk.banks["exp"].mute = True
    np.testing.assert_allclose(character.sliders.row(obj), [0, 0, 0, 0, 0])


def test_two_emotions_add_up(character, obj):
    bank = character.files.bank_of(obj)
    obj.edtalk["happy"], obj.edtalk["sad"] = 0.25, 0.5
    expected = bank.with_emotion(bank.rest[None, 26:36], {"happy": 0.25, "sad": 0.5})[0]
    np.testing.assert_allclose(character.sliders.row(obj)[26:36], expected, atol=1e-6)


def test_a_bank_without_emotions_has_no_emotion_sliders(character, scene, write_bank):
    obj = character.character.create(scene, bank=str(write_bank(presets={})))
    assert character.sliders.emotions(obj) == {}
    assert character.sliders.row(obj).shape == (5,)


# --- Files


def test_a_saved_character_is_the_same_after_loading(character, obj, tmp_path):
    obj.edtalk["jawOpen"] = 0.3
    obj.edtalk["happy"] = 0.7
    obj.edtalk.banks["pose"].strength = 0.5
    obj.keyframe_insert(character.sliders.data_path("headYaw"), frame=1)
    uid, before = obj.edtalk.uid, character.sliders.row(obj)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "scene.blend"))
    loaded = character.character.find(uid)
    assert loaded.name == "Anna"
    np.testing.assert_array_equal(character.sliders.row(loaded), before)
    assert loaded.edtalk.id_properties_ui("jawOpen").as_dict()["soft_max"] == 1.0
    assert character.files.portrait_path(loaded).is_file()
    assert loaded.data == loaded.edtalk.portrait_image


def test_a_relative_portrait_path_is_updated_when_the_file_is_saved_elsewhere(character, scene, demo, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "deep" / "there").mkdir(parents=True)
    portrait = tmp_path / "here" / "face.png"
    portrait.write_bytes((demo / "portrait_1.png").read_bytes())
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "here" / "scene.blend"))
    obj = character.character.create(scene, "//face.png")
    assert character.files.portrait_path(obj) == portrait
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "deep" / "there" / "scene.blend"))
    assert character.files.portrait_path(character.character.characters(bpy.context.scene)[0]).samefile(portrait)


def test_a_packed_portrait_needs_no_file(character, scene, demo, tmp_path):
    portrait = tmp_path / "face.png"
    portrait.write_bytes((demo / "portrait_1.png").read_bytes())
    obj = character.character.create(scene, str(portrait))
    obj.edtalk.portrait_image.pack()
    portrait.unlink()
    path = character.files.portrait_path(obj)
    assert path.read_bytes() == (demo / "portrait_1.png").read_bytes()
    assert character.files.portrait_path(obj) == path


def test_a_linked_character_is_animated_through_an_override(character, addon, obj, tmp_path):
    obj.keyframe_insert(character.sliders.data_path("headYaw"), frame=1)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "library.blend"))
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    with bpy.data.libraries.load(str(tmp_path / "library.blend"), link=True) as (_there, here):
        here.objects = ["Anna"]
    linked = here.objects[0]
    scene = bpy.context.scene
    scene.collection.objects.link(linked)
    assert "library.blend" in character.character.editable_reason(linked)
    bpy.context.view_layer.objects.active = linked
    with pytest.raises(RuntimeError, match="library override"):
        bpy.ops.edtalk.reset()
    bpy.ops.edtalk.make_override()
    override = bpy.context.view_layer.objects.active
    assert override.override_library is not None
    assert character.character.editable_reason(override) == ""
    assert character.character.find(override.edtalk.uid) == override, "the override is preferred to the linked original"

    override.edtalk["jawOpen"] = 0.6
    override.edtalk["mouthSmile"] = 0.2
    override.edtalk.banks["pose"].strength = 0.5
    character.sliders.setup_channels(override, {"mouthPucker": 0.125})
    animation = addon.edtalk_blender.animation.keys
    animation.write_curves(override, {"headYaw": np.array([0.0, 0.8])}, np.array([1, 11]), replace=(1, 11))
    override.keyframe_insert(character.sliders.data_path("happy"), frame=5)
    before = character.sliders.row(override)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))

    (override,) = (obj for obj in bpy.data.objects if obj.override_library)
    np.testing.assert_array_equal(character.sliders.row(override), before)
    assert override.edtalk["jawOpen"] == pytest.approx(0.6)
    assert override.edtalk["mouthSmile"] == pytest.approx(0.2)
    assert character.sliders.rest_values(override)["mouthPucker"] == 0.125
    assert override.edtalk.id_properties_ui("mouthPucker").as_dict()["default"] == 0.125
    assert override.animation_data.action.library is None, "keys go to a local action"
    paths = {curve.data_path for curve in addon.edtalk_blender.compat.fcurves(override)}
    assert {character.sliders.data_path("headYaw"), character.sliders.data_path("happy")} <= paths
    rows = addon.edtalk_blender.animation.sampling.sample(bpy.context.scene, override, [1, 6, 11])
    assert rows[:, 20] == pytest.approx([0.0, 0.2, 0.4])


def test_a_slider_change_can_be_undone(character, obj):
    name = obj.name
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.edtalk.paste_pose(text=json.dumps({"edtalk_pose": 1, "sliders": {"jawOpen": 0.5}}))
    bpy.ops.ed.undo_push(message="after")
    assert bpy.data.objects[name].edtalk["jawOpen"] == 0.5
    bpy.ops.ed.undo()
    assert bpy.data.objects[name].edtalk["jawOpen"] == 0.0
    bpy.ops.ed.redo()
    assert bpy.data.objects[name].edtalk["jawOpen"] == 0.5


# --- Problems


def test_a_missing_portrait_is_reported(character, errors, scene, tmp_path):
    obj = character.character.create(scene, str(tmp_path / "gone.png"), name="Anna")
    assert obj.edtalk.portrait == str(tmp_path / "gone.png")
    with pytest.raises(errors.EDTalkError, match=r"does not exist: .*gone\.png") as caught:
        character.files.portrait_path(obj)
    assert "Anna" in caught.value.message
    assert caught.value.hint
    obj.edtalk.portrait = ""
    with pytest.raises(errors.EDTalkError, match="Anna has no portrait yet"):
        character.files.portrait_path(obj)


def test_a_missing_bank_is_reported_and_changes_nothing(character, errors, scene, obj, write_bank, tmp_path):
    with pytest.raises(errors.EDTalkError, match=r"gone\.safetensors does not exist"):
        character.character.create(scene, bank=str(tmp_path / "gone.safetensors"))
    assert character.character.characters(scene) == [obj]
    with pytest.raises(errors.EDTalkError, match=r"gone\.safetensors does not exist"):
        character.character.set_bank(obj, str(tmp_path / "gone.safetensors"))
    assert obj.edtalk.bank == ""
    path = write_bank()
    character.character.set_bank(obj, str(path))
    path.unlink()
    with pytest.raises(errors.EDTalkError, match=r"other\.safetensors does not exist"):
        character.sliders.row(obj)


def test_setting_a_bank_keeps_shared_sliders_and_all_keys(character, addon, obj, write_bank):
    obj.edtalk["jawOpen"], obj.edtalk["headYaw"], obj.edtalk["happy"] = 0.5, 0.25, 0.75
    addon.edtalk_blender.animation.keys.insert_keys(obj, {"browDown": 1.0, "jawOpen": 0.5}, 1)
    dropped = character.character.set_bank(obj, str(write_bank()))
    assert {"browDown", "mouthPucker", "sad"} <= set(dropped)
    assert not {"jawOpen", "headYaw", "happy"} & set(dropped)
    assert (obj.edtalk["jawOpen"], obj.edtalk["headYaw"], obj.edtalk["happy"]) == (0.5, 0.25, 0.75)
    assert obj.edtalk.id_properties_ui("jawOpen").as_dict()["soft_max"] == 2.0
    assert character.sliders.row(obj).shape == (5,)
    character.character.set_bank(obj, "")
    curves = {curve.data_path for curve in addon.edtalk_blender.compat.fcurves(obj)}
    assert character.sliders.data_path("browDown") in curves, "keys of removed sliders are kept"
    assert character.sliders.row(obj).shape == (38,)


def test_a_bank_that_changed_on_disk_is_read_again(character, obj, write_bank):
    character.character.set_bank(obj, str(write_bank()))
    assert len(character.files.bank_of(obj).names) == 5
    write_bank(banks={"lip": ("jawOpen",), "pose": (), "exp": ("exp_01", "exp_02")})
    assert len(character.files.bank_of(obj).names) == 3


def test_a_bank_with_reserved_slider_names_is_refused(character, errors, obj, write_bank):
    path = write_bank(banks={"lip": ("jawOpen", "portrait"), "pose": ("headYaw",), "exp": ("exp_01", "exp_02")})
    with pytest.raises(errors.EDTalkError, match="'portrait'"):
        character.character.set_bank(obj, str(path))
    assert obj.edtalk.bank == ""
    assert character.sliders.row(obj).shape == (38,)


def test_slider_names_with_quotes_can_be_keyed(character, scene, write_bank):
    names = ('say "a"', "back\\slash")
    obj = character.character.create(scene, bank=str(write_bank(banks={"lip": names, "pose": (), "exp": ("e1", "e2")})))
    for name in names:
        assert obj.path_resolve(character.sliders.data_path(name)) == 0.0
        assert obj.keyframe_insert(character.sliders.data_path(name), frame=1)


# --- The face in the viewport


def test_the_empty_shows_the_rendered_face(character, obj):
    pixels = np.zeros((8, 6, 4), np.float32)
    pixels[0, 0] = 1.0, 0.5, 0.0, 1.0
    image = character.viewport.show_pixels(obj, pixels)
    assert image.name == "Anna face"
    assert obj.data == image
    assert tuple(image.size) == (6, 8)
    np.testing.assert_allclose(image.pixels[:4], [1.0, 0.5, 0.0, 1.0], atol=1 / 255)
    assert character.viewport.show_pixels(obj, np.ones((16, 16, 4), np.float32)) == image
    assert tuple(image.size) == (16, 16)
    assert image.pixels[-1] == 1.0
    character.viewport.show_portrait(obj)
    assert obj.data == obj.edtalk.portrait_image


def test_a_copy_gets_its_own_face_image(character, scene, obj):
    image = character.viewport.show_pixels(obj, np.ones((4, 4, 4), np.float32))
    copy = obj.copy()
    scene.collection.objects.link(copy)
    character.character.ensure_unique_ids()
    other = character.viewport.show_pixels(copy, np.zeros((4, 4, 4), np.float32))
    assert other != image
    assert image.pixels[0] == 1.0


def test_the_face_image_is_saved_with_the_file(character, obj, tmp_path):
    image = character.viewport.show_pixels(obj, np.full((600, 600, 4), 1.0, np.float32))
    assert image.is_dirty
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    assert not image.is_dirty, "otherwise Blender asks to save it on quit"
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "scene.blend"))
    (loaded,) = character.character.characters(bpy.context.scene)
    assert loaded.data == character.viewport.face_image(loaded)
    assert loaded.data.pixels[0] == 1.0


@pytest.mark.parametrize(
    "text", ["{", "[1]", "3", "NaN", '{"jawOpen": NaN}', '{"jawOpen": "a"}', '{"a": {"b": 1e999}}', "[" * 10_000]
)
def test_stored_values_of_another_form_count_as_none(obj, character, text):
    """A .blend from elsewhere may hold any text; drawing the panels must not fail."""
    rest = character.sliders.rest_row(obj)
    obj.edtalk.rest = text
    obj.edtalk.presets = text
    assert character.sliders.rest_values(obj) == {}
    assert character.sliders.own_presets(obj) == {}
    assert character.sliders.rest_row(obj).shape == rest.shape
    assert np.isfinite(character.sliders.values(obj)).all()
