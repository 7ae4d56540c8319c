"""Naming sliders: proposals from the engine, the new bank, and updated references."""

from __future__ import annotations

from dataclasses import replace

import bpy
import numpy as np
import pytest

from tests.panel_layout import draw

BANKS = {"lip": ("lip_01", "lip_02"), "pose": ("pose_01",), "exp": ("exp_01", "exp_02")}
NAMES = {"lip_01": "jawOpen", "lip_02": "lip_02", "pose_01": "headYaw", "exp_01": "exp_01", "exp_02": "exp_02"}


@pytest.fixture
def bank(write_bank):
    return write_bank("official", banks=BANKS)


@pytest.fixture
def face(package, obj, bank):
    """A character whose bank only numbers its sliders."""
    package.character.character.set_bank(obj, str(bank))
    return obj


@pytest.fixture
def proposed(face, fake_engine):
    """The same character with proposals."""
    fake_engine()
    assert bpy.ops.edtalk.name_sliders() == {"FINISHED"}
    return face


@pytest.fixture
def named(tmp_path) -> str:
    return str(tmp_path / "named.safetensors")


def proposals(obj) -> dict[str, str]:
    return {item.name: item.new_name for item in obj.edtalk_naming.sliders}


def curve_paths(package, owner) -> list[str]:
    return sorted(curve.data_path for curve in package.compat.fcurves(owner))


# --- Proposals


def test_the_engine_proposes_names_and_ranges(package, proposed):
    assert proposals(proposed) == NAMES
    item = proposed.edtalk_naming.sliders["lip_01"]
    assert (item.soft_min, item.soft_max, item.region) == (-1.0, 4.0, "jaw")
    assert proposed.edtalk_naming.sliders["pose_01"].turn == pytest.approx(0.05)
    assert set(NAMES) <= set(package.character.sliders.channel_names(proposed)), "sliders are not renamed yet"


def test_named_sliders_get_proposals_only_on_request(package, obj, fake_engine, write_bank):
    package.character.character.set_bank(obj, str(write_bank(banks=BANKS | {"lip": ("smirk", "lip_02")})))
    fake_engine()
    bpy.ops.edtalk.name_sliders()
    assert set(proposals(obj)) == {"lip_02", "pose_01", "exp_01", "exp_02"}
    bpy.ops.edtalk.name_sliders(everything=True)
    assert proposals(obj)["smirk"] == "jawOpen"


def test_a_bank_with_names_only_is_an_error(obj):
    with pytest.raises(RuntimeError, match="All sliders of the bank 'starter' have names"):
        bpy.ops.edtalk.name_sliders()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"new_name": "headYaw"}, "'headYaw' is already in use"),
        ({"new_name": "happy"}, "'happy' is already in use"),
        ({"new_name": "portrait"}, "'portrait' is already in use"),
        ({"new_name": "lip_02"}, "'lip_02' is already in use"),
        ({"new_name": " "}, "1 to 60 characters"),
        ({"new_name": "x" * 61}, "1 to 60 characters"),
        ({"soft_min": 4.0}, "must be above its minimum"),
    ],
)
def test_invalid_proposals_are_errors(package, proposed, bank, named, change, reason):
    item = proposed.edtalk_naming.sliders["lip_01"]
    for name, value in change.items():
        setattr(item, name, value)
    assert reason in package.naming.naming.fault(proposed, item)
    with pytest.raises(RuntimeError, match=reason):
        bpy.ops.edtalk.apply_names(filepath=named)
    assert proposed.edtalk.bank == str(bank)
    assert proposals(proposed)


def test_named_head_sliders_move_with_speech(package, addon, obj, write_bank, fake_engine, named):
    """The map that Name Sliders measures is in the new bank, whatever the sliders are called."""
    head = addon.inference.contract.head
    poses = tuple(f"pose_{number:02d}" for number in range(1, 7))
    package.character.character.set_bank(obj, str(write_bank("official", banks=BANKS | {"pose": poses})))
    assert "which of its sliders turn the head" in head.head_reason(package.character.files.bank_of(obj))
    fake_engine()
    bpy.ops.edtalk.name_sliders()
    bpy.ops.edtalk.apply_names(filepath=named)
    bank = package.character.files.bank_of(obj)
    names, matrix = head.head_matrix(bank)
    assert names == ("headYaw", *poses[1:])
    np.testing.assert_allclose(matrix @ np.diag([20, 10, 10, 0.1, 0.1, 0.1]), np.eye(6), atol=1e-6)
    assert head.head_reason(bank) == ""


def test_proposals_can_be_edited_and_discarded(package, proposed):
    proposed.edtalk_naming.sliders["lip_01"].new_name = "Gob"
    assert package.naming.naming.fault(proposed, proposed.edtalk_naming.sliders["lip_01"]) == ""
    assert bpy.ops.edtalk.discard_names() == {"FINISHED"}
    assert proposals(proposed) == {}
    with pytest.raises(RuntimeError, match="Use Name Sliders first"):
        bpy.ops.edtalk.apply_names(filepath="nowhere")


# --- The new bank


def test_the_new_bank_has_names_ranges_and_arkit_mapping(package, addon, proposed, bank, named):
    proposed.edtalk_naming.sliders["lip_02"].new_name = "mouthSmile"
    before, content = package.character.files.bank_of(proposed), bank.read_bytes()
    assert bpy.ops.edtalk.apply_names(filepath=named) == {"FINISHED"}
    after = addon.inference.contract.bank.read_bank(named)
    assert after.names == ("jawOpen", "mouthSmile", "headYaw", "exp_01", "exp_02")
    assert after.sha256 == before.sha256
    assert bank.read_bytes() == content
    jaw, smile, yaw, other, _ = after.coefficients
    assert (jaw.soft_min, jaw.soft_max, jaw.rest) == (-1.0, 4.0, before.coefficients[0].rest)
    assert jaw.arkit == {"jawOpen": 4.0}
    assert smile.arkit == {"mouthSmileLeft": 2.0, "mouthSmileRight": 2.0}
    assert yaw.arkit == {"headYaw": pytest.approx(0.05)}
    assert other.arkit == {}
    assert proposed.edtalk.bank == named
    ui = proposed.edtalk.id_properties_ui("jawOpen").as_dict()
    assert (ui["soft_min"], ui["soft_max"]) == (-1.0, 4.0)
    assert proposals(proposed) == {}


def test_values_rest_and_custom_emotions_are_renamed(package, proposed, named):
    character = package.character
    character.sliders.setup_channels(proposed, {"lip_01": 0.25, "pose_01": -0.5})
    character.sliders.set_own_presets(proposed, {"smug": {"exp_01": 0.5, "exp_02": -1.0}})
    proposed.edtalk_naming.sliders["exp_01"].new_name = "browUp"
    proposed.edtalk["lip_01"], proposed.edtalk["smug"] = 1.5, 0.5
    proposed.edtalk.banks["lip"].strength = 0.5
    before = character.sliders.row(proposed)
    bpy.ops.edtalk.apply_names(filepath=named)
    np.testing.assert_array_equal(character.sliders.row(proposed), before)
    assert proposed.edtalk["jawOpen"] == 1.5
    assert "lip_01" not in proposed.edtalk
    assert character.sliders.rest_values(proposed)["headYaw"] == -0.5
    assert character.sliders.own_presets(proposed) == {"smug": {"browUp": 0.5, "exp_02": -1.0}}


def test_names_can_be_swapped(package, proposed, named):
    sliders = proposed.edtalk_naming.sliders
    sliders["lip_01"].new_name, sliders["lip_02"].new_name = "lip_02", "lip_01"
    package.animation.keys.write_curves(
        proposed, {"lip_01": np.array([1.0]), "lip_02": np.array([2.0])}, np.array([1.0])
    )
    proposed.edtalk["lip_01"], proposed.edtalk["lip_02"] = 1.0, 2.0
    bpy.ops.edtalk.apply_names(filepath=named)
    assert (proposed.edtalk["lip_01"], proposed.edtalk["lip_02"]) == (2.0, 1.0)
    values = {curve.data_path: curve.keyframe_points[0].co.y for curve in package.compat.fcurves(proposed)}
    assert values == {'edtalk["lip_01"]': 2.0, 'edtalk["lip_02"]': 1.0}


# --- References to sliders


def test_animation_is_unchanged(package, scene, proposed, named):
    """Action, NLA strips and drivers give the same coefficients before and after."""
    animation = package.animation.keys
    frames = np.arange(1, 25)
    animation.write_curves(proposed, {"lip_02": frames / 24}, frames)
    animation.write_curves(proposed, {"lip_01": frames / 12, "happy": frames / 48}, frames, nla=True, strip_name="line")
    proposed.edtalk.driver_add('["pose_01"]').driver.expression = "frame / 100"
    before = package.animation.sampling.sample(scene, proposed, frames)
    assert np.ptp(before, axis=0).min() > 0
    bpy.ops.edtalk.apply_names(filepath=named)
    np.testing.assert_allclose(package.animation.sampling.sample(scene, proposed, frames), before, atol=1e-6)
    _track, strip = animation.find_strip(proposed, "line")
    assert {curve.data_path for curve in package.compat.slot_fcurves(strip.action, strip.action_slot)} == {
        'edtalk["jawOpen"]', 'edtalk["happy"]',
    }  # fmt: skip
    assert [curve.data_path for curve in proposed.animation_data.drivers] == ['edtalk["headYaw"]']


def test_drivers_that_read_sliders_are_updated(package, scene, proposed, named):
    light = bpy.data.lights.new("Lamp", "POINT")
    lamp = bpy.data.objects.new("Lamp", light)
    scene.collection.objects.link(lamp)
    driver = light.driver_add("energy").driver
    variable = driver.variables.new()
    variable.name, driver.expression = "jaw", "jaw"
    variable.targets[0].id, variable.targets[0].data_path = proposed, 'edtalk["lip_01"]'
    mesh = bpy.data.meshes.new("Head")
    mesh.from_pydata([(0, 0, 0)], [], [])
    head = bpy.data.objects.new("Head", mesh)
    scene.collection.objects.link(head)
    head.shape_key_add(name="Basis")
    head.shape_key_add(name="open")
    head.edtalk_rig.character = proposed
    package.rig.rig.add_link(head, "open", "lip_01", 0.5)
    package.rig.rig.drive(head)
    bpy.ops.edtalk.apply_names(filepath=named)
    proposed.edtalk["jawOpen"] = 0.5
    proposed.update_tag()
    scene.frame_set(2)
    graph = bpy.context.evaluated_depsgraph_get()
    assert light.evaluated_get(graph).energy == pytest.approx(0.5)
    assert mesh.shape_keys.evaluated_get(graph).key_blocks["open"].value == pytest.approx(0.25)
    assert head.edtalk_rig.links[0].slider == "jawOpen"
    assert not package.rig.rig.is_stale(head)


def test_all_characters_of_the_bank_are_switched(package, scene, demo, proposed, bank, write_bank, named):
    character, animation = package.character, package.animation.keys
    twin = character.character.create(scene, "", str(bank), "Bert")
    other = character.character.create(scene, "", str(write_bank("other", banks=BANKS)), "Carl")
    for face in (proposed, twin, other):
        animation.write_curves(face, {"lip_01": np.array([1.0])}, np.array([1.0]))
    bpy.context.view_layer.objects.active = proposed
    bpy.ops.edtalk.apply_names(filepath=named)
    assert curve_paths(package, proposed) == curve_paths(package, twin) == ['edtalk["jawOpen"]']
    assert twin.edtalk.bank == named
    assert curve_paths(package, other) == ['edtalk["lip_01"]']


def test_a_shared_action_is_copied_first(package, scene, proposed, write_bank, named):
    character, animation = package.character, package.animation.keys
    other = character.character.create(scene, "", str(write_bank("other", banks=BANKS)), "Carl")
    animation.write_curves(proposed, {"lip_01": np.array([1.0])}, np.array([1.0]))
    action = proposed.animation_data.action
    other.animation_data_create().action = action
    other.animation_data.action_slot = proposed.animation_data.action_slot
    bpy.context.view_layer.objects.active = proposed
    bpy.ops.edtalk.apply_names(filepath=named)
    assert curve_paths(package, proposed) == ['edtalk["jawOpen"]']
    assert curve_paths(package, other) == ['edtalk["lip_01"]']
    assert other.animation_data.action == action


def test_the_portraits_rest_pose_stays_known(package, proposed, named):
    """It is stored by the hash of the weights, which are the same."""
    package.engine.session.wait(package.character.rest_pose.measure(proposed))
    assert package.character.rest_pose.is_known(proposed)
    bpy.ops.edtalk.apply_names(filepath=named)
    assert package.character.rest_pose.is_known(proposed)


def test_undo_restores_the_old_bank_and_names(package, proposed, bank, named):
    package.animation.keys.write_curves(proposed, {"lip_01": np.array([1.0])}, np.array([1.0]))
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.edtalk.apply_names("EXEC_DEFAULT", True, filepath=named)
    assert curve_paths(package, bpy.data.objects["Anna"]) == ['edtalk["jawOpen"]']
    bpy.ops.ed.undo()
    face = bpy.data.objects["Anna"]
    assert face.edtalk.bank == str(bank)
    assert curve_paths(package, face) == ['edtalk["lip_01"]']
    assert {"lip_01", "pose_01"} <= set(package.character.sliders.channel_names(face))
    assert proposals(face) == NAMES


# --- File name, panel, real engine


def test_the_default_path_is_next_to_the_bank(package, addon, proposed, bank, tmp_path):
    assert package.naming.operators.proposed_path(proposed) == bank.with_name("official_named.safetensors")
    package.character.character.set_bank(proposed, "")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    assert package.naming.operators.proposed_path(proposed) == tmp_path / "starter_named.safetensors"


def test_the_panel_is_only_shown_for_banks_without_names(package, obj, bank):
    panel = package.panels.naming.EDTALK_PT_naming
    assert draw(panel) is None
    package.character.character.set_bank(obj, str(bank))
    assert "edtalk.name_sliders" in draw(panel).texts("operator")


def test_the_panel_shows_all_proposals_and_the_fault_of_the_active_one(package, proposed):
    panel = package.panels.naming.EDTALK_PT_naming
    assert draw(panel).texts("prop").count("new_name") == len(NAMES)
    assert {"edtalk.apply_names", "edtalk.discard_names"} <= set(draw(panel).texts("operator"))
    proposed.edtalk_naming.sliders[0].new_name = ""
    assert package.naming.naming.fault(proposed, proposed.edtalk_naming.sliders[0]) in draw(panel).texts("label")


@pytest.mark.slow
def test_with_the_real_engine_on_a_bank_without_names(package, addon, engine, obj, tmp_path):
    """The starter bank without names gets 38 different names."""
    bank = addon.inference.contract.bank
    starter = bank.read_bank(bank.STARTER)
    entries = tuple(
        replace(entry, soft_min=-5.0, soft_max=5.0, unit="", arkit={})
        for entry in bank.numbered_coefficients(starter.config.banks)
    )
    plain = bank.copy_bank(replace(starter, coefficients=entries), tmp_path / "plain.safetensors").path
    package.character.character.set_bank(obj, str(plain))
    assert bpy.ops.edtalk.name_sliders() == {"FINISHED"}
    regions = {item.name: item.region for item in obj.edtalk_naming.sliders}
    assert len(regions) == 38
    assert set(regions.values()) <= {"head", "jaw", "mouth", "eyes", "brows", "none"}
    assert bpy.ops.edtalk.apply_names(filepath=str(tmp_path / "named.safetensors")) == {"FINISHED"}
    assert len(set(package.character.files.bank_of(obj).names)) == 38
