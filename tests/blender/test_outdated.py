"""Frames that no longer show the animation are found and marked, and a part of a strip can be rendered again."""

import bpy
import numpy as np
import pytest

from tests.panel_layout import draw

FRAMES = 12  # of the fixture `rendered`


def strip_of(package, obj):
    (strip,) = package.timeline.sequencer.faces(bpy.context.scene, obj)
    return strip


def outdated(package, obj) -> int:
    for _ in package.render.outdated.check():
        pass
    return strip_of(package, obj).get(package.render.face_strip.OUTDATED, 0)


def shown(package, obj) -> list[str]:
    return [element.filename for element in strip_of(package, obj).elements]


def open_jaw(package, obj, frame: int) -> None:
    """Change one frame."""
    for at, value in ((frame - 1, 0.0), (frame, 0.6), (frame + 1, 0.0)):
        package.animation.keys.insert_keys(obj, {"jawOpen": value}, at)


# --- What is marked


def test_a_new_render_is_not_out_of_date(package, rendered):
    assert outdated(package, rendered) == 0
    assert strip_of(package, rendered).color_tag == "NONE"


def test_an_edit_marks_the_frames_that_it_changed_until_they_are_rendered(package, rendered):
    open_jaw(package, rendered, 5)
    assert outdated(package, rendered) == 1
    strip = strip_of(package, rendered)
    assert strip.color_tag == "COLOR_01"
    layout = draw(package.panels.sequencer.EDTALK_PT_face)
    assert f"1 of {FRAMES} frames" in " ".join(layout.texts("label"))
    bpy.ops.edtalk.render_face(frames="STRIP", uid=rendered.edtalk.uid)
    assert outdated(package, rendered) == 0
    assert strip_of(package, rendered).color_tag == "NONE"


def test_an_undone_edit_is_not_out_of_date(package, rendered):
    open_jaw(package, rendered, 5)
    assert outdated(package, rendered) == 1
    package.animation.keys.insert_keys(rendered, {"jawOpen": 0.0}, 5)
    assert outdated(package, rendered) == 0


@pytest.mark.parametrize("edit", ["move", "rate", "size", "portrait"])
def test_moves_rates_and_settings_are_noticed(package, rendered, demo, edit):
    scene, strip = bpy.context.scene, strip_of(package, rendered)
    if edit == "move":
        package.compat.set_strip_value(strip, "content_start", 3.0)
    elif edit == "rate":  # as `follow` does for dialogue: the keys keep their seconds
        package.animation.keys.write_curves(rendered, {"headYaw": np.linspace(0.0, 1.0, FRAMES // 2)}, np.arange(1, 7))
        scene.render.fps = 12
    elif edit == "size":
        rendered.edtalk.size = "1024"
    else:
        rendered.edtalk.portrait = str(demo / "portrait_2.png")
    assert outdated(package, rendered) >= 5


def test_only_visible_frames_count(package, rendered):
    package.compat.set_strip_value(strip_of(package, rendered), "left_handle", 6)
    open_jaw(package, rendered, 3)
    assert outdated(package, rendered) == 0


def test_the_artists_own_colour_is_kept(package, rendered):
    strip_of(package, rendered).color_tag = "COLOR_05"
    open_jaw(package, rendered, 5)
    assert outdated(package, rendered) == 1
    assert strip_of(package, rendered).color_tag == "COLOR_05"
    bpy.ops.edtalk.render_face(frames="STRIP")
    assert outdated(package, rendered) == 0
    assert strip_of(package, rendered).color_tag == "COLOR_05"


def test_a_deleted_strip_or_character_ends_the_check(package, rendered, monkeypatch):
    monkeypatch.setattr(package.render.outdated, "_SLICE", 2)
    open_jaw(package, rendered, 5)
    check = package.render.outdated.check()
    next(check)
    bpy.context.scene.sequence_editor.strips.remove(strip_of(package, rendered))
    assert list(check) == []


@pytest.fixture
def rig(package, rendered):
    """An object whose keyed location opens the jaw of the rendered character."""
    rig = bpy.data.objects.new("Rig", None)
    bpy.context.scene.collection.objects.link(rig)
    for frame, place in ((1, 0.0), (6, 0.0), (9, 0.6), (12, 0.0)):
        rig.location.x = place
        rig.keyframe_insert("location", index=0, frame=frame)
    driver = rendered.driver_add(package.character.sliders.data_path("jawOpen")).driver
    variable = driver.variables.new()
    variable.type, variable.targets[0].id, driver.expression = "TRANSFORMS", rig, "var"
    return rig


@pytest.fixture
def layer(package, rendered):
    """An NLA strip that opens the jaw of the rendered character from frame 4 to 9."""
    values, frames = np.array([0.0, 0.5, 0.1]), np.array([4, 6, 9])
    package.animation.keys.write_curves(rendered, {"jawOpen": values}, frames, nla=True, strip_name="Line")
    _track, strip = package.animation.keys.find_strip(rendered, "Line")
    return strip


def render_again(package, obj) -> int:
    """Render Face. Returns the number of frames that show another picture than before."""
    before = shown(package, obj)
    bpy.ops.edtalk.render_face(frames="STRIP", uid=obj.edtalk.uid)
    return sum(one != other for one, other in zip(before, shown(package, obj), strict=True))


def test_edits_of_a_driver_and_of_what_it_reads_are_found(package, rendered, rig, monkeypatch):
    monkeypatch.setattr(package.render.outdated, "_SLICE", 5)
    assert outdated(package, rendered) == 5 == render_again(package, rendered)
    assert outdated(package, rendered) == 0
    rig.location.x = 0.9
    rig.keyframe_insert("location", index=0, frame=9)
    marked = outdated(package, rendered)
    assert 3 <= marked == render_again(package, rendered)
    rendered.animation_data.drivers[0].driver.expression = "var / 2"
    marked = outdated(package, rendered)
    assert 3 <= marked == render_again(package, rendered)
    assert outdated(package, rendered) == 0


@pytest.mark.parametrize("edit", ["influence", "blend", "mute", "move", "key"])
def test_edits_of_nla_strips_are_found(package, rendered, layer, edit):
    assert 0 < outdated(package, rendered) == render_again(package, rendered)
    if edit == "influence":
        layer.use_animated_influence, layer.influence = True, 0.5
    elif edit == "blend":
        layer.blend_type = "SUBTRACT"
    elif edit == "mute":
        layer.mute = True
    elif edit == "move":
        layer.frame_start, layer.frame_end = 5, 10
    else:
        (curve,) = package.compat.slot_fcurves(layer.action, layer.action_slot)
        curve.keyframe_points[1].co.y = 0.3
        curve.update()
    marked = outdated(package, rendered)
    assert 0 < marked == render_again(package, rendered)
    assert outdated(package, rendered) == 0


def test_the_check_changes_nothing(package, rendered, rig):
    """Neither values without keys, nor the frame, nor the file; and it is no edit that would begin it again."""
    scene = bpy.context.scene
    scene.frame_set(3)
    rig.location.x, rig.location.y = 0.25, 4.0
    bpy.context.view_layer.update()
    known = package.animation.edits.number()
    before = [len(getattr(bpy.data, name)) for name in ("scenes", "objects", "collections", "actions")]
    assert outdated(package, rendered) > 0
    bpy.context.view_layer.update()
    assert package.animation.edits.number() == known
    assert [len(getattr(bpy.data, name)) for name in ("scenes", "objects", "collections", "actions")] == before
    assert tuple(rig.location)[:2] == (0.25, 4.0)
    assert scene.frame_current == 3


@pytest.mark.parametrize("reads", ["scene", "context", "expression", "through the rig"])
def test_characters_whose_drivers_read_a_scene_are_not_checked(package, rendered, rig, reads):
    """Its frame would have to change. Render Face steps through the frames."""
    driver = rendered.animation_data.drivers[0].driver
    if reads == "through the rig":
        driver = rig.driver_add("location", 1).driver
        driver.variables.new()
    variable = driver.variables[0]
    if reads == "context":
        variable.type, variable.targets[0].data_path = "CONTEXT_PROP", "frame_current"
    elif reads == "expression":
        driver.expression = "bpy.context.scene.frame_current / 12"
    else:
        variable.type, variable.targets[0].id_type, variable.targets[0].id = "SINGLE_PROP", "SCENE", bpy.context.scene
        variable.targets[0].data_path = "frame_current"
    assert package.animation.sampling.reads_scene(rendered)
    assert outdated(package, rendered) == 0
    assert bpy.context.scene.frame_current == 1


@pytest.mark.parametrize("delta", [12, 999])
def test_keys_that_move_in_time_name_the_same_frames(package, scene, obj, delta):
    """Else Render Face would render frames again after their sound was moved."""
    frames, random = np.arange(1.0, 400.0, 3.0), np.random.default_rng(0)
    names = list(package.character.files.bank_of(obj).names)[:10]
    package.animation.keys.write_curves(obj, {name: random.uniform(-1, 1, len(frames)) for name in names}, frames)
    obj.edtalk.banks[0].strength = 0.7
    face = package.character.snapshot.read(obj)

    def names_from(first: int) -> tuple[str, ...]:
        return package.render.face_shot.shot_of(scene, obj, face, (first, first + 397)).file_names()

    before = names_from(1)
    package.animation.keys.move_keys(obj, names, [package.animation.keys.Move(1, 400, delta)])
    assert names_from(1 + delta) == before


# --- A part of a strip


@pytest.fixture
def preview_range(rendered):
    scene = bpy.context.scene
    scene.use_preview_range, scene.frame_preview_start, scene.frame_preview_end = True, 4, 6
    return scene


def test_the_preview_range_is_rendered_into_the_strip(package, rendered, preview_range):
    before = shown(package, rendered)
    open_jaw(package, rendered, 5)
    open_jaw(package, rendered, 9)
    bpy.ops.edtalk.render_face(frames="PREVIEW")
    after = shown(package, rendered)
    strip = strip_of(package, rendered)
    assert package.timeline.sequencer.picture_range(strip) == (1, FRAMES + 1)
    assert [index for index in range(FRAMES) if before[index] != after[index]] == [4]
    folder = package.render.face_strip.folder_of(strip)
    assert all((folder / name).is_file() for name in after)
    assert outdated(package, rendered) == 1, "frame 9 has not been rendered again"


def test_a_preview_range_beyond_the_strip_extends_it(package, rendered, preview_range):
    preview_range.frame_preview_start, preview_range.frame_preview_end = 15, 16
    before = shown(package, rendered)
    bpy.ops.edtalk.render_face(frames="PREVIEW")
    strip = strip_of(package, rendered)
    assert package.timeline.sequencer.picture_range(strip) == (1, 17)
    assert shown(package, rendered)[:FRAMES] == before
    assert package.render.face_strip.waiting_frames(strip) == 0, "frames 13 and 14 equal the last, which is rendered"


def test_a_preview_range_without_a_strip_makes_one(package, rendered, preview_range):
    preview_range.sequence_editor.strips.remove(strip_of(package, rendered))
    bpy.ops.edtalk.render_face(frames="PREVIEW")
    assert package.timeline.sequencer.picture_range(strip_of(package, rendered)) == (4, 7)
