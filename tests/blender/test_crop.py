"""Cropping by hand: it starts from the detected square, is measured late, and is one undo step."""

from __future__ import annotations

import math
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from mathutils import Matrix, Vector

from tests.panel_layout import draw
from tests.pumping import pump_until


@pytest.fixture
def windowed(package, obj, fake_engine, monkeypatch):
    """A character whose portrait is measured as if Blender had a window."""
    fake_engine()
    package.engine.session.wait(package.character.rest_pose.measure(obj))
    monkeypatch.setattr(package.engine.session, "blocking", lambda: False)
    yield obj
    package.character.rest_pose._changed.clear()


@pytest.fixture
def requested(package, monkeypatch):
    """The requests to the engine and the labels of their tasks."""
    sent, submit = [], package.engine.session.submit

    def record(request, **options):
        sent.append((request, options.get("label", "")))
        return submit(request, **options)

    monkeypatch.setattr(package.engine.session, "submit", record)
    return sent


def square(obj):
    return *obj.edtalk.crop, math.degrees(obj.edtalk.crop_angle)


# --- The first square


def test_manual_cropping_starts_from_the_detected_square(windowed):
    windowed.edtalk.found_crop = 10, 20, 100, 5
    windowed.edtalk.crop_mode = "box"
    assert square(windowed) == pytest.approx((10, 20, 100, 5))


def test_the_detected_square_is_remembered_until_the_portrait_changes(windowed, demo):
    """The fake engine detects the square of its size at the top left."""
    assert tuple(windowed.edtalk.found_crop)[:2] == (0, 0)
    assert windowed.edtalk.found_crop[2] > 0
    windowed.edtalk.portrait = str(demo / "portrait_2.png")
    assert tuple(windowed.edtalk.found_crop) == (0, 0, 0, 0)


def test_without_a_detected_square_it_starts_in_the_middle(obj):
    obj.edtalk.crop_mode = "box"
    width, height = obj.edtalk.portrait_image.size
    x, y, side, angle = square(obj)
    assert (side, angle) == (min(width, height), 0)
    assert (x + side / 2, y + side / 2) == (width / 2, height / 2)


def test_an_own_square_is_kept(obj):
    obj.edtalk.crop = 1, 2, 64
    for mode in ("box", "auto", "box"):
        obj.edtalk.crop_mode = mode
    assert square(obj) == (1, 2, 64, 0)


def test_a_real_portrait_is_cropped_by_hand_as_it_was_detected(package, obj, engine):
    """The same square by hand gives the same rest pose."""
    session, rest_pose = package.engine.session, package.character.rest_pose
    session.wait(rest_pose.measure(obj))
    detected = package.character.sliders.rest_row(obj)
    obj.edtalk.crop_mode = "box"
    session.wait(rest_pose.measure(obj))
    np.testing.assert_allclose(package.character.sliders.rest_row(obj), detected, atol=0.02)


# --- Changing values


def test_values_are_measured_once_they_stop_changing(package, windowed, requested, monkeypatch):
    rest_pose = package.character.rest_pose
    windowed.edtalk.crop_mode = "box"
    pump_until(package, lambda: not package.engine.session.tasks)
    requested.clear()
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(rest_pose, "time", SimpleNamespace(monotonic=lambda: clock.now))
    for side in range(100, 130):
        windowed.edtalk.crop[2] = side
        bpy.context.view_layer.update()
        clock.now += 0.05
        rest_pose.measure_settled()
    assert requested == [], "also not for the preview"
    clock.now += 1.0
    assert rest_pose.measure_settled() is None
    ((request, label),) = requested
    assert request.crop[2] == 129
    assert label == "", "a line in the Status panel would move the fields"


@pytest.mark.parametrize("values", [(0, 0, 0), (10, 10, -5), (5000, 0, 100), (-500, 0, 100)])
def test_values_that_cannot_be_used_are_explained_below_them(package, windowed, requested, monkeypatch, values):
    windowed.edtalk.crop_mode = "box"
    pump_until(package, lambda: not package.engine.session.tasks)
    package.engine.session.dismiss()
    requested.clear()
    windowed.edtalk.crop = values
    monkeypatch.setattr(package.character.rest_pose, "_DELAY", 0.0)
    package.character.rest_pose.measure_settled()
    assert requested == []
    assert not package.engine.session.problems
    drawn = draw(package.panels.character.EDTALK_PT_character).drawn
    places = [
        index for index, (kind, text) in enumerate(drawn) if (kind == "label" and "quare" in text) or "Size" in text
    ]
    assert places
    assert places[0] > drawn.index(("prop", "crop_angle"))


def test_a_square_without_a_size_is_not_rendered(package, addon, obj, scene):
    obj.edtalk.crop_mode, obj.edtalk.crop = "box", (0, 0, 0)
    with pytest.raises(addon.inference.contract.errors.EDTalkError, match="no size"):
        package.cli.render_faces(scene, [obj], "SCENE")


def test_an_angle_reaches_the_engine(package, obj):
    obj.edtalk.crop_mode, obj.edtalk.crop = "box", (1, 2, 64)
    assert package.character.files.crop_of(obj) == (1, 2, 64)
    obj.edtalk.crop_angle = math.radians(12.5)
    assert package.character.files.crop_of(obj) == pytest.approx((1, 2, 64, 12.5))


# --- Edit Crop


def test_edit_crop_sets_the_square(obj):
    assert bpy.ops.edtalk.edit_crop(x=12, y=34, size=200, angle=math.radians(-8)) == {"FINISHED"}
    assert obj.edtalk.crop_mode == "box"
    assert square(obj) == pytest.approx((12, 34, 200, -8), abs=1e-3)


def test_edit_crop_keeps_the_square_over_the_portrait(package, obj):
    bpy.ops.edtalk.edit_crop(x=9000, y=-9000, size=1e6)
    assert package.character.files.crop_problem(obj) == ""


def test_edit_crop_is_undone_in_one_step(obj):
    obj.edtalk.crop_mode = "auto"
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.edtalk.edit_crop("EXEC_DEFAULT", True, x=12, y=34, size=200)
    assert bpy.context.object.edtalk.crop_mode == "box"
    bpy.ops.ed.undo()
    assert bpy.context.object.edtalk.crop_mode == "auto"
    assert bpy.context.object.edtalk.crop[2] == 0


# --- The place of the portrait on the screen


@pytest.fixture(params=[1, 3, 6, 8])
def photograph(package, obj, monkeypatch, request):
    """A character with a portrait of 512 x 640 upright pixels, with an EXIF orientation."""
    image = bpy.data.images.new("photograph", *((640, 512) if request.param >= 5 else (512, 640)))
    obj.data = image
    obj.edtalk.portrait_image = image
    package_files, exif = package.character.files, package.character.exif
    monkeypatch.setattr(package_files, "portrait_path", lambda obj: None)
    monkeypatch.setattr(exif, "orientation", lambda path: request.param)
    return obj


def perspective(distance):
    """A view from the front, at a distance in metres, of a region of 800 x 600 pixels."""
    view = Matrix.Translation((0, 0, -distance)) @ Matrix.Rotation(-math.pi / 2, 4, "X")
    projection = Matrix(((2, 0, 0, 0), (0, 2 * 800 / 600, 0, 0), (0, 0, -1.002, -0.2), (0, 0, -1, 0)))
    return SimpleNamespace(
        view_matrix=view, perspective_matrix=projection @ view, is_perspective=True, view_location=Vector()
    )


def canvases(package, obj):
    region = SimpleNamespace(width=800, height=600)
    yield package.character.crop_canvas.ViewCanvas(region, perspective(3.0), obj)
    region.view2d = SimpleNamespace(
        view_to_region=lambda u, v, clip: (30 + 400 * u, 20 + 500 * v),
        region_to_view=lambda x, y: ((x - 30) / 400, (y - 20) / 500),
    )
    yield package.character.crop_canvas.ImageCanvas(region, obj)


def test_points_of_the_portrait_are_drawn_where_they_are_clicked(package, photograph):
    bpy.context.view_layer.update()
    points = np.array([(0, 0), (512, 0), (512, 640), (0, 640), (100, 333.3)], float)
    for canvas in canvases(package, photograph):
        places = canvas.to_region(points)
        for point, place in zip(points, places, strict=True):
            np.testing.assert_allclose(canvas.to_picture(*place), point, atol=0.05)


def test_an_upright_portrait_is_drawn_upright(package, obj):
    bpy.context.view_layer.update()
    for canvas in canvases(package, obj):
        left_top, right_bottom = canvas.to_region(np.array([(0.0, 0.0), (100.0, 100.0)]))
        assert right_bottom[0] > left_top[0]
        assert right_bottom[1] < left_top[1], "y points up in a region"
