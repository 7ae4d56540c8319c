"""A new character stands free of other objects, in the active collection, and the 3D View shows it."""

from __future__ import annotations

from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from mathutils import Matrix, Vector

from tests.strip_material import noise, write_sound


@pytest.fixture
def startup(addon):
    """Blender's startup scene, with cube, camera and light."""
    bpy.ops.wm.read_homefile(use_factory_startup=True)
    return bpy.context.scene


@pytest.fixture
def placement(package):
    return package.character.placement


def bounds(obj):
    bpy.context.view_layer.update()
    corners = obj.bound_box if obj.type == "MESH" else [(x, y, 0) for x in (-0.5, 0.5) for y in (-0.5, 0.5)]
    moved = np.array([obj.matrix_world @ Vector(corner) for corner in corners])
    return moved.min(axis=0), moved.max(axis=0)


def apart(one, other):
    (low, high), (other_low, other_high) = bounds(one), bounds(other)
    return bool((low >= other_high).any() or (other_low >= high).any())


def box(scene, name, scale, location=(0, 0, 0)):
    mesh = bpy.data.meshes.new(name)
    corners = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    mesh.from_pydata(corners, [], [(0, 1, 3, 2), (4, 5, 7, 6)])
    made = bpy.data.objects.new(name, mesh)
    made.scale, made.location = scale, location
    scene.collection.objects.link(made)
    return made


def test_a_new_face_stands_upright_beside_the_default_cube(startup, demo):
    assert bpy.ops.edtalk.add_character(filepath=str(demo / "portrait_1.png")) == {"FINISHED"}
    obj = bpy.context.object
    assert apart(obj, bpy.data.objects["Cube"])
    bpy.context.view_layer.update()
    np.testing.assert_allclose(obj.matrix_world.to_3x3() @ Vector((0, 0, 1)), (0, -1, 0), atol=1e-6)
    np.testing.assert_allclose(obj.matrix_world.to_3x3() @ Vector((0, 1, 0)), (0, 0, 1), atol=1e-6)


def test_many_faces_do_not_overlap(startup, demo):
    made = []
    for name in ("portrait_1.png", "portrait_2.png", "portrait_1.png"):
        bpy.ops.edtalk.add_character(filepath=str(demo / name))
        made.append(bpy.context.object)
    everything = [*made, bpy.data.objects["Cube"]]
    assert all(apart(one, other) for one in made for other in everything if one != other)


def test_a_face_on_a_large_ground_stands_on_it(package, scene, demo):
    ground = box(scene, "ground", (500, 500, 0.01))
    obj = package.character.character.create(scene, str(demo / "portrait_1.png"))
    assert apart(obj, ground)
    assert obj.location.x == 0
    assert obj.location.z < 1.5


def test_a_free_cursor_is_the_place(package, scene, demo):
    box(scene, "far", (1, 1, 1), (0, 20, 0))
    scene.cursor.location = 3, 4, 5
    obj = package.character.character.create(scene, str(demo / "portrait_1.png"))
    assert tuple(obj.location) == (3, 4, 5)


def test_lights_cameras_and_hidden_objects_are_no_obstacles(package, scene, demo):
    for data in (bpy.data.lights.new("light", "POINT"), bpy.data.cameras.new("camera")):
        scene.collection.objects.link(bpy.data.objects.new(data.name, data))
    box(scene, "hidden", (1, 1, 1)).hide_viewport = True
    obj = package.character.character.create(scene, str(demo / "portrait_1.png"))
    assert tuple(obj.location) == (0, 0, 0)


@pytest.mark.parametrize("state", ["usable", "excluded", "hidden"])
def test_a_new_character_goes_to_the_active_collection_if_it_is_visible_there(scene, demo, state):
    actors = bpy.data.collections.new("Actors")
    scene.collection.children.link(actors)
    layer = bpy.context.view_layer.layer_collection.children["Actors"]
    bpy.context.view_layer.active_layer_collection = layer
    layer.exclude = state == "excluded"
    actors.hide_viewport = state == "hidden"
    bpy.ops.edtalk.add_character(filepath=str(demo / "portrait_1.png"))
    expected = actors if state == "usable" else scene.collection
    assert bpy.context.object.users_collection == (expected,)


def test_the_demo_goes_to_the_active_collection(scene):
    actors = bpy.data.collections.new("Actors")
    scene.collection.children.link(actors)
    bpy.context.view_layer.active_layer_collection = bpy.context.view_layer.layer_collection.children["Actors"]
    bpy.ops.edtalk.demo()
    assert bpy.context.object.users_collection == (actors,)


# --- The view


def views():
    return [area for area in bpy.context.window.screen.areas if area.type == "VIEW_3D"]


def test_adding_a_face_turns_the_view_to_its_front(startup, placement, demo):
    bpy.ops.edtalk.add_character(filepath=str(demo / "portrait_1.png"))
    obj, (area,) = bpy.context.object, views()
    view, region = area.spaces.active.region_3d, next(one for one in area.regions if one.type == "WINDOW")
    np.testing.assert_allclose(view.view_rotation.to_matrix() @ Vector((0, 0, -1)), (0, 1, 0), atol=1e-6)
    np.testing.assert_allclose(view.view_rotation.to_matrix() @ Vector((0, 1, 0)), (0, 0, 1), atol=1e-6)
    width, height = max(region.width, 1), max(region.height, 1)
    shown = view.view_distance * 72 / area.spaces.active.lens * min(width, height) / max(width, height)
    assert 0.4 < obj.empty_display_size / shown < 0.9, "the face fills most of the view"
    covering = [one for one in area.regions if placement._is_open(area.spaces.active, one)]
    left, right = placement._free(region, covering)
    aside = (left + right - region.width) / 2 * shown / min(width, height)
    np.testing.assert_allclose(view.view_location, obj.location - Vector((aside, 0, 0)), atol=1e-5)


@pytest.mark.parametrize(("covering", "free"), [
    ([], (0, 1000)),
    ([(0, 50)], (50, 1000)),
    ([(0, 50), (700, 300)], (50, 700)),
    ([(0, 300), (950, 50)], (300, 950)),
    ([(1000, 300)], (0, 1000)),  # beside the view, without region overlap
])  # fmt: skip
def test_a_face_is_framed_between_the_regions_that_cover_a_view(placement, covering, free):
    left = 200  # of the view in the window
    window = SimpleNamespace(x=left, width=1000)
    regions = [SimpleNamespace(x=left + start, width=width) for start, width in covering]
    assert placement._free(window, regions) == free


@pytest.mark.parametrize("turn", [0, 90, 180, -60])
def test_frame_face_looks_at_a_turned_face_from_its_front(startup, demo, turn):
    bpy.ops.edtalk.add_character(filepath=str(demo / "portrait_1.png"))
    obj, (area,) = bpy.context.object, views()
    obj.matrix_world = Matrix.Rotation(np.radians(turn), 4, "Z") @ obj.matrix_basis
    bpy.context.view_layer.update()
    assert bpy.ops.edtalk.frame_character() == {"FINISHED"}
    forward = area.spaces.active.region_3d.view_rotation.to_matrix() @ Vector((0, 0, -1))
    np.testing.assert_allclose(forward, -(obj.matrix_world.to_3x3() @ Vector((0, 0, 1))), atol=1e-5)


def test_a_new_face_is_shown_in_local_view(startup, demo):
    (area,) = views()
    cube = bpy.data.objects["Cube"]
    region = next(one for one in area.regions if one.type == "WINDOW")
    bpy.context.view_layer.objects.active = cube
    cube.select_set(True)
    with bpy.context.temp_override(area=area, region=region):
        bpy.ops.view3d.localview()
        if not cube.local_view_get(area.spaces.active):
            pytest.skip("Blender 4.5 has no local view without a window")
        bpy.ops.edtalk.add_character(filepath=str(demo / "portrait_1.png"))
    assert bpy.context.object.local_view_get(area.spaces.active)


# --- The next step


def test_the_panel_names_the_next_step_until_the_face_is_rendered(package, scene, obj, fake_engine, tmp_path):
    fake_engine()
    step = package.panels.next_step.next_step
    seen = [step(obj)]
    path = write_sound(tmp_path / "line.wav", noise(0.5))
    strip = package.compat.new_sound(scene, "line", path, 1, 1)
    package.timeline.sequencer.assign(strip, obj)
    seen.append(step(obj))
    package.engine.session.wait(package.lipsync.lipsync.lip_sync(scene, strip, obj))
    seen.append(step(obj))
    package.cli.render_faces(scene, [obj])
    assert ["sound strip" in seen[0], "Lip Sync" in seen[1], "Render Face" in seen[2], step(obj)] == [True] * 3 + [""]
