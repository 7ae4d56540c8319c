"""3D heads: links, drivers and baked keyframes, on local heads and on overrides of linked rigs."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from tests.panel_layout import draw

ARKIT = ("jawOpen", "mouthSmileLeft", "mouthSmileRight", "eyeBlinkLeft", "browInnerUp", "noseSneerRight")
FRAMES = np.arange(1, 25)


@pytest.fixture
def rig(package):
    return package.rig.rig


def make_head(names=ARKIT, name: str = "Head") -> bpy.types.Object:
    """A triangle with shape keys that each move its second vertex by 1."""
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata([(0, 0, 0), (1, 0, 0), (0, 1, 0)], [], [(0, 1, 2)])
    head = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(head)
    head.shape_key_add(name="Basis")
    for key in names:
        block = head.shape_key_add(name=key)
        block.data[1].co.x += 1
        block.value = 0.0
        block.slider_min, block.slider_max = -1.0, 2.0
    bpy.context.view_layer.objects.active = head
    return head


@pytest.fixture
def head(obj):
    return make_head()


@pytest.fixture
def act(package, obj):
    """Animates the character: mouth, expression, an emotion, bank strength."""
    names = package.character.files.bank_of(obj).names
    random = np.random.default_rng(4)
    for name in (*names, "happy", "sad"):
        package.animation.keys.write_curves(obj, {name: random.uniform(0, 0.4, len(FRAMES))}, FRAMES)
    for frame, strength in ((1, 0.5), (24, 1.5)):
        obj.edtalk.banks["exp"].strength = strength
        obj.edtalk.banks["exp"].keyframe_insert("strength", frame=frame)
    return obj


def shown(head, frames=FRAMES) -> np.ndarray:
    """Values of the evaluated shape keys, (T, keys)."""
    rows = []
    for frame in frames:
        bpy.context.scene.frame_set(int(frame))
        key = head.evaluated_get(bpy.context.evaluated_depsgraph_get()).data.shape_keys
        rows.append([block.value for block in key.key_blocks if block != key.reference_key])
    return np.array(rows)


def links(head) -> set[tuple[str, str, float]]:
    return {(link.shape_key, link.slider, round(link.gain, 3)) for link in head.edtalk_rig.links}


def expected(package, obj, head, frames=FRAMES) -> np.ndarray:
    """The coefficients of the rendered face, as values of shape keys with one link of gain 1 each, (T, keys)."""
    bank = package.character.files.bank_of(obj)
    moved = package.animation.sampling.sample(bpy.context.scene, obj, frames) - package.character.sliders.rest_row(obj)
    slider = {link.shape_key: link.slider for link in head.edtalk_rig.links}
    return np.stack([moved[:, bank.names.index(slider[name])] for name in package.rig.rig.shape_keys(head)], axis=1)


# --- Links


def test_names_are_matched(head, obj):
    assert bpy.ops.edtalk.match_shapes() == {"FINISHED"}
    assert head.edtalk_rig.character == obj
    assert links(head) == {
        ("jawOpen", "jawOpen", 1.0),
        ("mouthSmileLeft", "mouthSmile", 1.0),
        ("mouthSmileRight", "mouthSmile", 1.0),
        ("eyeBlinkLeft", "eyeBlink", 1.0),
        ("browInnerUp", "browInnerUp", 1.0),
        ("noseSneerRight", "noseSneer", 1.0),
    }


def test_match_names_keeps_existing_links_unless_asked(head):
    bpy.ops.edtalk.match_shapes()
    head.edtalk_rig.links[0].gain = 0.25
    head.shape_key_add(name="mouthPucker")
    bpy.ops.edtalk.match_shapes()
    assert ("jawOpen", "jawOpen", 0.25) in links(head)
    assert ("mouthPucker", "mouthPucker", 1.0) in links(head)
    bpy.ops.edtalk.match_shapes(replace=True)
    assert ("jawOpen", "jawOpen", 1.0) in links(head)
    assert len(head.edtalk_rig.links) == 7


def test_links_can_be_added_and_removed(head, obj):
    head.active_shape_key_index = 2
    bpy.ops.edtalk.add_link()
    (link,) = head.edtalk_rig.links
    assert (link.shape_key, link.slider, head.edtalk_rig.character) == ("mouthSmileLeft", "", obj)
    bpy.ops.edtalk.add_link()
    assert [link.name for link in head.edtalk_rig.links] == ["1", "2"]
    bpy.ops.edtalk.remove_link()
    bpy.ops.edtalk.remove_link()
    assert len(head.edtalk_rig.links) == 0
    with pytest.raises(RuntimeError, match="no links"):
        bpy.ops.edtalk.remove_link()


# --- Drivers


def test_the_head_moves_like_the_rendered_face(package, rig, obj, head, act):
    package.character.sliders.setup_channels(obj, {"jawOpen": 0.2, "mouthSmile": 0.1, "browInnerUp": -0.1})
    bpy.ops.edtalk.match_shapes()
    assert bpy.ops.edtalk.drive_shapes() == {"FINISHED"}
    np.testing.assert_allclose(shown(head), expected(package, obj, head), atol=1e-4)


def test_the_rest_pose_of_the_portrait_is_rest_of_the_head(package, obj, head):
    package.character.sliders.setup_channels(obj, dict.fromkeys(package.character.files.bank_of(obj).names, 0.3))
    bpy.ops.edtalk.match_shapes()
    bpy.ops.edtalk.drive_shapes()
    np.testing.assert_allclose(shown(head, [1]), 0, atol=1e-6)


@pytest.mark.parametrize("switch", ["mute", "solo"])
def test_mute_and_solo_apply_to_the_head(package, rig, obj, head, act, switch):
    bpy.ops.edtalk.match_shapes()
    bpy.ops.edtalk.drive_shapes()
    setattr(obj.edtalk.banks["lip"], switch, True)
    obj.edtalk.banks["pose"].solo = switch == "solo"
    found = shown(head, [7])
    np.testing.assert_allclose(found, expected(package, obj, head, [7]), atol=1e-4)
    assert (found[0, 0] == 0) == (switch == "mute")
    assert (found[0, 1] == 0) == (switch == "solo")


def test_gain_offset_and_sums(package, rig, obj, head):
    head.edtalk_rig.character = obj
    rig.add_link(head, "jawOpen", "jawOpen", 0.5).offset = 0.1
    rig.add_link(head, "jawOpen", "mouthFunnel", -0.25)
    rig.add_link(head, "browInnerUp", "happy", 2.0)
    rig.add_link(head, "browInnerUp", "nothing of that name", 2.0)
    rig.add_link(head, "gone", "jawOpen", 2.0)
    assert rig.drive(head) == 2
    obj.edtalk["jawOpen"], obj.edtalk["mouthFunnel"], obj.edtalk["happy"] = 1.0, 0.4, 0.3
    obj.update_tag()
    found = dict(zip(rig.shape_keys(head), shown(head, [1])[0], strict=True))
    assert found["jawOpen"] == pytest.approx(0.1 + 0.5 - 0.1)
    assert found["browInnerUp"] == pytest.approx(0.6)
    obj.edtalk.banks["exp"].strength = 0.5
    assert shown(head, [1])[0][rig.shape_keys(head).index("browInnerUp")] == pytest.approx(0.3)


def test_drivers_work_without_permission_to_run_scripts(package, rig, obj, head, act, tmp_path):
    bpy.ops.edtalk.match_shapes()
    bpy.ops.edtalk.drive_shapes()
    drivers = head.data.shape_keys.animation_data.drivers
    assert len(drivers) == len(ARKIT)
    assert all(curve.driver.is_simple_expression and curve.driver.is_valid for curve in drivers)
    before = shown(head)
    assert not bpy.context.preferences.filepaths.use_scripts_auto_execute
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"), use_scripts=False)
    np.testing.assert_allclose(shown(bpy.data.objects["Head"]), before, atol=1e-6)
    assert not bpy.app.autoexec_fail


def test_the_character_can_be_the_head_or_its_parent(package, rig, scene, capfd):
    """Sliders and shape keys of one object are no dependency cycle."""
    head = make_head(("jawOpen", "happy"))
    package.character.character.adopt(head)
    child = package.character.character.create(scene, "", name="Child")
    child.parent = head
    for face, mesh in ((head, head), (child, make_head(("jawOpen", "happy"), "Other"))):
        package.animation.keys.write_curves(face, {"jawOpen": FRAMES / 24}, FRAMES)
        mesh.parent = face if mesh != face else None
        bpy.context.view_layer.objects.active = mesh
        mesh.edtalk_rig.character = face
        bpy.ops.edtalk.match_shapes()
        bpy.ops.edtalk.drive_shapes()
        np.testing.assert_allclose(shown(mesh, [24, 1, 12, 3])[:, 0], [1, 1 / 24, 0.5, 3 / 24], atol=1e-5)
    assert "cycle" not in "".join(capfd.readouterr()).lower()


def test_changed_links_update_the_drivers(package, rig, obj, head):
    bpy.ops.edtalk.match_shapes()
    bpy.ops.edtalk.drive_shapes()
    obj.edtalk["jawOpen"] = 0.5
    obj.update_tag()
    head.edtalk_rig.links[0].gain = 0.4
    assert shown(head, [1])[0][0] == pytest.approx(0.2)
    head.edtalk_rig.links[0].slider = "mouthPucker"
    assert shown(head, [1])[0][0] == 0
    assert len(head.data.shape_keys.animation_data.drivers) == len(ARKIT)
    head.edtalk_rig.active = 0
    bpy.ops.edtalk.remove_link()
    assert len(head.data.shape_keys.animation_data.drivers) == len(ARKIT) - 1


def test_a_new_rest_pose_makes_drivers_outdated(package, rig, obj, head):
    bpy.ops.edtalk.match_shapes()
    assert not rig.is_stale(head)
    bpy.ops.edtalk.drive_shapes()
    assert not rig.is_stale(head)
    package.character.sliders.setup_channels(obj, {"jawOpen": 0.3})
    assert rig.is_stale(head)
    bpy.ops.edtalk.drive_shapes()
    assert not rig.is_stale(head)
    assert shown(head, [1])[0][0] == pytest.approx(0, abs=1e-6)


def test_other_drivers_are_not_replaced(rig, obj, head):
    add_own_driver(head, "eyeBlinkLeft")
    bpy.ops.edtalk.match_shapes()
    for button in (bpy.ops.edtalk.drive_shapes, bpy.ops.edtalk.bake_shapes):
        with pytest.raises(RuntimeError, match="Other drivers already control 'eyeBlinkLeft' of Head"):
            button()
    assert len(head.data.shape_keys.animation_data.drivers) == 1


def test_stop_driving_keeps_other_drivers(rig, obj, head):
    head.data.shape_keys.driver_add('key_blocks["eyeBlinkLeft"].value').driver.expression = "0.75"
    bpy.ops.edtalk.match_shapes()
    index = next(i for i, link in enumerate(head.edtalk_rig.links) if link.shape_key == "eyeBlinkLeft")
    head.edtalk_rig.links.remove(index)
    bpy.ops.edtalk.drive_shapes()
    bpy.ops.edtalk.undrive_shapes()
    assert [curve.data_path for curve in head.data.shape_keys.animation_data.drivers] == [
        rig.value_path("eyeBlinkLeft")
    ]
    assert not rig.is_driven(head)


def test_too_many_links_for_one_driver(rig, obj, head, package):
    head.edtalk_rig.character = obj
    for name in package.character.files.bank_of(obj).names:
        rig.add_link(head, "jawOpen", name, 0.12345)
    with pytest.raises(RuntimeError, match="'jawOpen' has too many links for one driver"):
        bpy.ops.edtalk.drive_shapes()
    assert head.data.shape_keys.animation_data is None
    assert bpy.ops.edtalk.bake_shapes(which="CUSTOM", start=1, end=2) == {"FINISHED"}


# --- Baked keyframes


def keyed(package, head, name: str) -> bpy.types.FCurve:
    path = package.rig.rig.value_path(name)
    return next(curve for curve in package.compat.fcurves(head.data.shape_keys) if curve.data_path == path)


def test_baked_keys_equal_the_drivers(package, rig, obj, head, act):
    bpy.ops.edtalk.match_shapes()
    head.edtalk_rig.links[1].offset = 0.3
    bpy.ops.edtalk.drive_shapes()
    live = shown(head)
    assert bpy.ops.edtalk.bake_shapes(which="CUSTOM", start=1, end=24) == {"FINISHED"}
    assert not rig.is_driven(head)
    assert list(head.data.shape_keys.animation_data.drivers) == []
    np.testing.assert_allclose(shown(head), live, atol=1e-4)
    assert keyed(package, head, "jawOpen").group.name == "Face"
    assert head.data.shape_keys.animation_data.action_slot.target_id_type == "KEY"


def test_baking_only_replaces_keys_in_its_range(package, head, act):
    bpy.ops.edtalk.match_shapes()
    bpy.ops.edtalk.bake_shapes(which="CUSTOM", start=1, end=100)
    before = [point.co.y for point in keyed(package, head, "jawOpen").keyframe_points]
    bpy.ops.edtalk.bake_shapes(which="CUSTOM", start=11, end=20, step=4)
    at = [point.co.x for point in keyed(package, head, "jawOpen").keyframe_points]
    assert at == [*range(1, 11), 11, 15, 19, 20, *range(21, 101)]
    assert len(before) == 100


def test_baking_evaluates_drivers_of_the_sliders(package, obj, head):
    driver = obj.edtalk.driver_add('["jawOpen"]').driver
    driver.expression = "frame / 100"
    bpy.ops.edtalk.match_shapes()
    bpy.ops.edtalk.bake_shapes(which="CUSTOM", start=1, end=50)
    curve = keyed(package, head, "jawOpen")
    np.testing.assert_allclose([point.co.y for point in curve.keyframe_points], np.arange(1, 51) / 100, atol=1e-6)


def test_baked_keys_stay_within_the_shape_keys_range(package, head, act, obj):
    head.data.shape_keys.key_blocks["jawOpen"].slider_max = 0.2
    bpy.ops.edtalk.match_shapes()
    bpy.ops.edtalk.bake_shapes(which="CUSTOM", start=1, end=24, simplify=0.01)
    values = [point.co.y for point in keyed(package, head, "jawOpen").keyframe_points]
    assert max(values) == pytest.approx(0.2)


# --- Linked rigs


def add_own_driver(head, name: str) -> None:
    """A driver like those of a rig."""
    head["control"] = 0.25
    driver = head.data.shape_keys.driver_add(f'key_blocks["{name}"].value').driver
    variable = driver.variables.new()
    variable.name, driver.expression = "control", "control"
    variable.targets[0].id, variable.targets[0].data_path = head, '["control"]'


@pytest.fixture(params=["hierarchy", "object"])
def linked(request, obj, scene, tmp_path):
    """A library override of a linked head; the character is local."""
    library = tmp_path / "rig.blend"
    made = make_head(name="Hero")
    if getattr(request.function, "own_driver", False):
        add_own_driver(made, "jawOpen")
    bpy.data.libraries.write(str(library), {bpy.data.objects["Hero"]}, fake_user=True)
    bpy.data.objects.remove(bpy.data.objects["Hero"])
    bpy.data.batch_remove([*bpy.data.meshes])
    with bpy.data.libraries.load(str(library), link=True) as (_there, here):
        here.objects = ["Hero"]
    (head,) = here.objects
    scene.collection.objects.link(head)
    bpy.context.view_layer.objects.active = head
    if request.param == "object":
        head = head.override_create(remap_local_usages=True)
    else:
        head = head.override_hierarchy_create(scene, bpy.context.view_layer, do_fully_editable=True)
    bpy.context.view_layer.objects.active = head
    return head


def test_a_linked_head_needs_an_override(rig, obj, scene, tmp_path):
    make_head(name="Hero")
    bpy.data.libraries.write(str(tmp_path / "rig.blend"), {bpy.data.objects["Hero"]}, fake_user=True)
    bpy.data.objects.remove(bpy.data.objects["Hero"])
    with bpy.data.libraries.load(str(tmp_path / "rig.blend"), link=True) as (_there, here):
        here.objects = ["Hero"]
    scene.collection.objects.link(here.objects[0])
    bpy.context.view_layer.objects.active = here.objects[0]
    with pytest.raises(RuntimeError, match="Make a library override"):
        bpy.ops.edtalk.match_shapes()


@pytest.mark.parametrize("baked", [False, True], ids=["drivers", "keys"])
def test_animation_of_an_override_is_saved(package, rig, linked, act, tmp_path, baked):
    assert linked.data.library is not None, "its mesh is still linked"
    bpy.ops.edtalk.match_shapes()
    linked.edtalk_rig.links[0].gain = 0.5
    bpy.ops.edtalk.drive_shapes()
    assert linked.data.library is None
    assert linked.data.override_library is not None
    if baked:
        bpy.ops.edtalk.bake_shapes(which="CUSTOM", start=1, end=24)
    before, map_before = shown(linked), links(linked)
    assert np.ptp(before, axis=0).min() > 0.05
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    head = next(obj for obj in bpy.data.objects if obj.type == "MESH" and obj.library is None)
    assert links(head) == map_before
    assert head.edtalk_rig.character == bpy.data.objects["Anna"]
    assert rig.is_driven(head) is not baked
    np.testing.assert_allclose(shown(head), before, atol=1e-5)


def own_driver(test):
    """Mark a test whose linked rig has a driver on its jaw."""
    test.own_driver = True
    return test


@own_driver
def test_an_override_of_a_rig_with_drivers_can_only_be_baked(package, rig, linked, act, tmp_path):
    """On reload, Blender keeps the action of an override, but not its drivers next to those of the library."""
    bpy.ops.edtalk.match_shapes()
    with pytest.raises(RuntimeError, match="Other drivers already control 'jawOpen' of Hero"):
        bpy.ops.edtalk.drive_shapes()
    linked.edtalk_rig.links.remove(0)
    with pytest.raises(RuntimeError, match=r"animated in rig\.blend, so Blender would lose new drivers"):
        bpy.ops.edtalk.drive_shapes()
    bpy.ops.edtalk.bake_shapes(which="CUSTOM", start=1, end=24)
    before = shown(linked)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    head = next(obj for obj in bpy.data.objects if obj.type == "MESH" and obj.library is None)
    np.testing.assert_allclose(shown(head), before, atol=1e-5)
    np.testing.assert_allclose(before[:, 0], 0.25, atol=1e-6)
    assert np.ptp(before[:, 1:], axis=0).min() > 0.05


# --- Disabled operators, errors and the panel


@pytest.mark.parametrize(
    ("prepare", "operator", "message"),
    [
        (lambda head: None, "drive_shapes", "Use Match Names or add a link first"),
        (lambda head: setattr(head.edtalk_rig, "character", None), "drive_shapes", "Choose the character"),
        (lambda head: setattr(bpy.context.view_layer.objects, "active", None), "match_shapes", "Select a 3D head"),
        (lambda head: None, "undrive_shapes", "There are no drivers"),
    ],
)
def test_disabled_operators_give_a_reason(obj, head, prepare, operator, message):
    head.edtalk_rig.character = obj
    prepare(head)
    with pytest.raises(RuntimeError, match=message):
        getattr(bpy.ops.edtalk, operator)()


def test_unknown_names_are_an_error(obj, scene):
    make_head(("hat", "beard"))
    with pytest.raises(RuntimeError, match="None of the 2 shape keys of Head has a known name"):
        bpy.ops.edtalk.match_shapes()


def test_with_two_characters_one_must_be_chosen(package, obj, scene):
    package.character.character.create(scene, "", name="Bert")
    head = make_head()
    with pytest.raises(RuntimeError, match="Choose the character"):
        bpy.ops.edtalk.match_shapes()
    obj.select_set(True)
    bpy.ops.edtalk.match_shapes()
    assert head.edtalk_rig.character == obj


def test_undo_removes_the_drivers(package, obj, head):
    bpy.ops.edtalk.match_shapes()
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.edtalk.drive_shapes("EXEC_DEFAULT", True)
    bpy.ops.ed.undo()
    head = bpy.data.objects["Head"]
    assert len(head.edtalk_rig.links) == len(ARKIT)
    assert not package.rig.rig.is_driven(head)
    assert not head.data.shape_keys.animation_data or not list(head.data.shape_keys.animation_data.drivers)


def test_the_panel_offers_to_drive_or_to_stop_driving(package, obj, head):
    panel = package.panels.rig.EDTALK_PT_rig
    assert "edtalk.drive_shapes" in draw(panel).texts("operator")
    bpy.ops.edtalk.match_shapes()
    bpy.ops.edtalk.drive_shapes()
    operators = draw(panel).texts("operator")
    assert "edtalk.undrive_shapes" in operators
    assert "edtalk.drive_shapes" not in operators
    package.character.sliders.setup_channels(obj, {"jawOpen": 0.3})
    assert "edtalk.drive_shapes" in draw(panel).texts("operator"), "the drivers are out of date"
