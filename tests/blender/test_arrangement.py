"""The faces of several characters are side by side in the sequencer's frame."""

from __future__ import annotations

import bpy
import pytest


@pytest.fixture
def cast(package, scene, demo, fake_engine):
    """Adds a character and renders its face over frames 1 to 3; returns its strip."""
    fake_engine()
    scene.frame_end = 3

    def add(name, layer="square"):
        obj = package.character.character.create(scene, str(demo / "portrait_1.png"), name=name)
        obj.edtalk.layer = layer
        bpy.context.view_layer.update()
        package.cli.render_faces(scene, [obj], "SCENE")
        (strip,) = package.timeline.sequencer.faces(scene, obj)
        return strip

    return add


def box(scene, strip):
    """Left, right, bottom and top of a strip in pixels of the frame, from its centre."""
    width, height = (side * strip.transform.scale_x for side in strip["edtalk_size"])
    x, y = strip.transform.offset_x, strip.transform.offset_y
    return x - width / 2, x + width / 2, y - height / 2, y + height / 2


def overlap(one, other):
    return min(one[1], other[1]) - max(one[0], other[0]) > 1 and min(one[3], other[3]) - max(one[2], other[2]) > 1


def check_apart_and_in_frame(scene, strips):
    boxes = [box(scene, strip) for strip in strips]
    half = scene.render.resolution_x / 2, scene.render.resolution_y / 2
    assert not any(overlap(one, other) for one in boxes for other in boxes if one is not other)
    for left, right, bottom, top in boxes:
        assert max(-left, right) <= half[0] + 1
        assert max(-bottom, top) <= half[1] + 1


def test_one_face_fills_the_frame(scene, cast):
    left, right, bottom, top = box(scene, cast("Anna"))
    assert top - bottom == pytest.approx(scene.render.resolution_y)
    assert left + right == 0


@pytest.mark.parametrize("resolution", [(1920, 1080), (1080, 1920), (512, 512)])
def test_further_faces_are_put_beside_the_others(scene, cast, resolution):
    scene.render.resolution_x, scene.render.resolution_y = resolution
    strips = []
    for name in ("Anna", "Ben", "Carl", "Dora", "Emil"):
        strips.append(cast(name))
        check_apart_and_in_frame(scene, strips)


def test_the_order_is_that_of_the_viewport(package, scene, cast):
    anna, ben = cast("Anna"), cast("Ben")
    assert box(scene, anna)[0] < box(scene, ben)[0]
    bpy.data.objects["Anna"].location.x = 50
    bpy.context.view_layer.update()
    assert bpy.ops.edtalk.arrange_faces() == {"FINISHED"}
    assert box(scene, anna)[0] > box(scene, ben)[0]


def test_a_face_that_the_artist_moved_stays(scene, cast):
    anna = cast("Anna")
    anna.transform.offset_x, anna.transform.scale_x = -300, 0.5
    before = anna.transform.offset_x, anna.transform.scale_x
    ben = cast("Ben")
    assert (anna.transform.offset_x, anna.transform.scale_x) == before
    assert ben.transform.offset_x == 0


def test_faces_at_other_times_fill_the_frame(package, scene, cast):
    anna = cast("Anna")
    scene.frame_start, scene.frame_end = 10, 12
    ben = cast("Ben")
    for strip in (anna, ben):
        assert box(scene, strip)[3] == pytest.approx(scene.render.resolution_y / 2)


def test_rendering_again_keeps_the_arrangement(package, scene, cast):
    strips = [cast("Anna"), cast("Ben")]
    strips[0].transform.offset_y = 33
    before = [box(scene, strip) for strip in strips]
    bpy.data.objects["Anna"].edtalk.size = "1024"
    package.cli.render_faces(scene, [bpy.data.objects[name] for name in ("Anna", "Ben")], "SCENE")
    after = [box(scene, strip) for strip in strips]
    for one, other in zip(before, after, strict=True):
        assert one == pytest.approx(other, abs=0.5)


def test_full_frame_layers_are_not_arranged(scene, cast):
    cast("Anna", "pasted")
    cast("Ben", "pasted")
    assert not bpy.ops.edtalk.arrange_faces.poll()


def test_selected_faces_are_arranged_alone(scene, cast):
    anna, ben, carl = (cast(name) for name in ("Anna", "Ben", "Carl"))
    for strip in (anna, ben, carl):
        strip.select = strip != carl
    before = box(scene, carl)
    assert bpy.ops.edtalk.arrange_faces() == {"FINISHED"}
    assert box(scene, carl) == before
    assert box(scene, anna)[0] == pytest.approx(-scene.render.resolution_x / 2)
