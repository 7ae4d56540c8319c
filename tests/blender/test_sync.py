"""Keeping sound, keyframes and face strips in sync: moving, trimming, slipping, retiming, splitting and undo."""

import bpy
import numpy as np
import pytest

from tests.strip_material import noise, sequencer_context, set_speed, write_sound

FRAMES = 48  # length of the line: 2 s at 24 fps


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_sound(tmp_path_factory.mktemp("sounds") / "line.wav", noise(2.0))


@pytest.fixture
def obj(obj):
    """The character, with mouth keys on every frame."""
    obj.edtalk.lip_decimate = 0.0
    return obj


@pytest.fixture
def line(package, scene, sound, obj):
    """A lip-synced strip from frame 10 to 57. jawOpen rises from 0 at the first frame to 1 at the last."""
    return speak(package, scene, sound, obj, 10)


def speak(package, scene, sound, obj, frame, channel=1):
    strip = package.compat.new_sound(scene, "line", sound, channel, frame)
    package.compat.set_strip_value(strip, "right_handle", frame + FRAMES)
    package.timeline.sequencer.assign(strip, obj)
    names = package.character.files.bank_of(obj).names_of("lip")
    rows = np.zeros((FRAMES, len(names)), np.float32)
    rows[:, names.index("jawOpen")] = np.linspace(0, 1, FRAMES)
    clock = package.timeline.sequencer.time_map(scene, strip)
    package.lipsync.lipsync.write_lips(scene, strip, obj, clock, names, rows)
    return strip


@pytest.fixture
def face(package, scene, obj, line, fake_engine):
    """The rendered face strip of the line."""
    fake_engine()
    bpy.ops.edtalk.render_face(frames="DIALOGUE")
    (strip,) = package.timeline.sequencer.faces(scene, obj)
    return strip


def curve(package, obj, name="jawOpen"):
    path = package.character.sliders.data_path(name)
    return next((curve for curve in package.compat.fcurves(obj) if curve.data_path == path), None)


def keys(package, obj, name="jawOpen"):
    return [point.co[0] for point in curve(package, obj, name).keyframe_points]


def opening(package, obj, frame):
    return curve(package, obj).evaluate(frame)


def follow(package, scene):
    return package.follow.follow(scene)


def move(package, strip, delta):
    package.compat.set_strip_value(strip, "content_start", package.compat.content_start(strip) + delta)


def select_only(package, scene, strip):
    scene.sequence_editor.active_strip = strip
    for other in package.compat.strips(scene):
        other.select = other == strip


def span(package, strip):
    return package.compat.left_handle(strip), package.compat.right_handle(strip)


# --- Moving the sound


def test_unmoved_strips_change_nothing(package, scene, line, obj):
    before = keys(package, obj)
    assert package.follow.changes(scene) == []
    assert follow(package, scene) == 0
    assert keys(package, obj) == before == list(range(9, 10 + FRAMES + 1))


@pytest.mark.parametrize("delta", [100, 7, -5])
def test_keys_move_with_their_strip(package, scene, line, obj, delta):
    package.animation.keys.insert_keys(obj, {"happy": 1.0, "jawOpen": 0.3}, 300)
    move(package, line, delta)
    assert follow(package, scene) == 1
    assert keys(package, obj) == [*range(9 + delta, 10 + delta + FRAMES + 1), 300]
    assert opening(package, obj, 10 + delta + FRAMES - 1) == pytest.approx(1.0)
    assert opening(package, obj, 10 + delta + FRAMES) == 0.0
    assert keys(package, obj, "happy") == [300], "not keyed by lip sync"
    assert follow(package, scene) == 0


def test_emotions_head_and_idle_motion_move_too(package, scene, line, obj):
    package.animation.keys.insert_keys(obj, {"happy": 1.0, "headRoll": 0.2}, 20)
    package.idle.write_idle_motion(scene, obj, (10, 10 + FRAMES), 1.0, blinks=True, seed=0)
    before = keys(package, obj, "headYaw")
    move(package, line, 50)
    follow(package, scene)
    assert keys(package, obj, "happy") == [70]
    assert keys(package, obj, "headYaw") == [frame + 50 for frame in before]


def test_only_the_mouth_moves_if_chosen(package, scene, line, obj):
    package.timeline.sequencer.settings(scene).follow_keys = "LIPS"
    package.animation.keys.insert_keys(obj, {"happy": 1.0}, 20)
    move(package, line, 50)
    follow(package, scene)
    assert keys(package, obj, "happy") == [20]


def test_idle_motion_that_moves_replaces_the_idle_motion_there(package, scene, line, obj):
    package.idle.write_idle_motion(scene, obj, (1, 251), 1.0, blinks=True, seed=0)
    package.animation.keys.insert_keys(obj, {"headYaw": 0.9}, 80.5)  # by the artist
    curve(package, obj, "headYaw").keyframe_points[0].type = "KEYFRAME"
    moved = [frame + 50 for frame in keys(package, obj, "headYaw") if 10 <= frame < 10 + FRAMES]
    move(package, line, 50)
    follow(package, scene)
    there = [frame for frame in keys(package, obj, "headYaw") if 60 <= frame < 60 + FRAMES]
    assert sorted([*moved, 80.5]) == there


def test_a_piece_cut_between_sparse_keys_keeps_its_motion(package, scene, sound, obj):
    obj.edtalk.lip_decimate = 0.02
    line = speak(package, scene, sound, obj, 10)  # a straight line needs keys at its ends only
    assert len(keys(package, obj)) < 6
    at_30, at_29 = opening(package, obj, 30), opening(package, obj, 29)
    piece = line.split(frame=30, split_method="SOFT")
    follow(package, scene)
    move(package, piece, 100)
    follow(package, scene)
    assert opening(package, obj, 130) == pytest.approx(at_30, abs=1e-6)
    assert opening(package, obj, 29) == pytest.approx(at_29, abs=1e-6)
    assert opening(package, obj, 129) == opening(package, obj, 30) == 0.0


def test_moved_keys_keep_their_handles(package, scene, line, obj):
    point = curve(package, obj).keyframe_points[20]
    point.interpolation, point.handle_left_type, point.handle_right_type = "BEZIER", "FREE", "FREE"
    point.handle_right = (point.co[0] + 0.4, 0.9)
    move(package, line, 30)
    follow(package, scene)
    point = curve(package, obj).keyframe_points[20]
    assert (point.interpolation, point.handle_left_type) == ("BEZIER", "FREE")
    assert point.handle_right[0] == pytest.approx(point.co[0] + 0.4, abs=1e-4)


def test_a_strip_can_move_to_the_place_of_another(package, scene, sound, line, obj):
    other = speak(package, scene, sound, obj, 10 + FRAMES, channel=2)
    for strip in (line, other):
        move(package, strip, FRAMES)
    assert follow(package, scene) == 2
    assert opening(package, obj, 10 + FRAMES) == pytest.approx(0.0)
    assert opening(package, obj, 10 + 2 * FRAMES - 1) == pytest.approx(1.0)
    assert opening(package, obj, 10 + 3 * FRAMES - 1) == pytest.approx(1.0)
    assert opening(package, obj, 10 + 3 * FRAMES) == 0.0


def test_the_mouth_rests_in_a_new_gap_between_lines(package, scene, sound, line, obj):
    other = speak(package, scene, sound, obj, 10 + FRAMES, channel=2)  # adjacent: no rest between
    move(package, other, 100)
    follow(package, scene)
    assert opening(package, obj, 10 + FRAMES) == 0.0
    assert opening(package, obj, 10 + FRAMES + 50) == 0.0
    assert opening(package, obj, 10 + FRAMES + 99) == 0.0


def test_a_trim_removes_only_keys_outside_the_strip(package, scene, line, obj):
    at_20, at_40 = opening(package, obj, 20), opening(package, obj, 40)
    package.compat.set_strip_value(line, "left_handle", 20)
    package.compat.set_strip_value(line, "right_handle", 41)
    follow(package, scene)
    assert keys(package, obj) == list(range(19, 42))
    assert opening(package, obj, 20) == pytest.approx(at_20)
    assert opening(package, obj, 40) == pytest.approx(at_40)
    assert opening(package, obj, 19) == opening(package, obj, 41) == 0.0


def test_a_trim_of_simplified_keys_ends_on_the_curve(package, scene, line, obj):
    package.animation.keys.remove_keys(obj, ("jawOpen",), 11, 56)  # leaves a straight line from 10 to 57
    package.compat.set_strip_value(line, "left_handle", 20)
    follow(package, scene)
    assert opening(package, obj, 20) == pytest.approx(10 / (FRAMES - 1), abs=1e-3)
    assert opening(package, obj, 30) == pytest.approx(20 / (FRAMES - 1), abs=1e-3)


def test_an_extended_strip_is_stale(package, scene, line, obj):
    package.compat.set_strip_value(line, "right_handle", 40)
    follow(package, scene)
    assert "edtalk_stale" not in line
    package.compat.set_strip_value(line, "right_handle", 50)
    follow(package, scene)
    assert line["edtalk_stale"]
    assert opening(package, obj, 39) == pytest.approx(29 / (FRAMES - 1), abs=1e-3)


def test_slipping_moves_keys_between_the_handles(package, scene, line, obj):
    before = opening(package, obj, 30)
    move(package, line, 5)
    package.compat.set_strip_value(line, "left_handle", 10)
    package.compat.set_strip_value(line, "right_handle", 10 + FRAMES)
    follow(package, scene)
    assert opening(package, obj, 35) == pytest.approx(before, abs=1e-3)
    assert max(keys(package, obj)) == 10 + FRAMES
    assert line["edtalk_stale"], "it starts with new content"


def test_retiming_scales_the_keys(package, scene, line, obj):
    set_speed(package, scene, line, 50)
    follow(package, scene)
    assert opening(package, obj, 10 + 24) == pytest.approx(12 / (FRAMES - 1), abs=0.02)
    assert opening(package, obj, 10 + 70) == pytest.approx(35 / (FRAMES - 1), abs=0.02)
    assert keys(package, obj)[0] == 9


def test_keys_keep_their_time_at_another_frame_rate(package, scene, line, obj):
    second = opening(package, obj, 10 + 24)
    scene.render.fps = 48
    follow(package, scene)
    clock = package.timeline.sequencer.time_map(scene, line)
    (frame,) = clock.frame_of([1.0])
    assert opening(package, obj, frame) == pytest.approx(second, abs=0.02)


def test_a_split_changes_no_keys_and_both_parts_move_separately(package, scene, line, obj):
    before = keys(package, obj)
    piece = line.split(frame=30, split_method="SOFT")
    follow(package, scene)
    assert keys(package, obj) == before
    assert piece["edtalk_id"] != line["edtalk_id"]
    move(package, piece, 100)
    follow(package, scene)
    assert opening(package, obj, 130) == pytest.approx(20 / (FRAMES - 1), abs=1e-3)
    assert opening(package, obj, 29) == pytest.approx(19 / (FRAMES - 1), abs=1e-3)
    assert opening(package, obj, 30) == opening(package, obj, 129) == 0.0


def test_a_piece_that_is_moved_before_the_split_is_followed_takes_its_keys(package, scene, line, obj):
    piece = line.split(frame=30, split_method="SOFT")
    move(package, piece, 100)
    follow(package, scene)
    assert keys(package, obj) == [*range(9, 31), *range(129, 159)]
    assert opening(package, obj, 130) == pytest.approx(20 / (FRAMES - 1), abs=1e-3)
    assert opening(package, obj, 157) == pytest.approx(1.0)
    assert opening(package, obj, 29) == pytest.approx(19 / (FRAMES - 1), abs=1e-3)
    assert opening(package, obj, 30) == opening(package, obj, 129) == opening(package, obj, 158) == 0.0
    assert follow(package, scene) == 0


def test_all_pieces_can_move_before_the_splits_are_followed(package, scene, line, obj):
    middle = line.split(frame=25, split_method="SOFT")
    last = middle.split(frame=40, split_method="SOFT")
    for strip, delta in ((line, 300), (middle, 100), (last, 205)):
        move(package, strip, delta)
    follow(package, scene)
    for start, frame in ((10, 310), (24, 324), (25, 125), (39, 139), (40, 245), (57, 262)):
        assert opening(package, obj, frame) == pytest.approx((start - 10) / (FRAMES - 1), abs=1e-3)
    assert opening(package, obj, 50) == opening(package, obj, 200) == opening(package, obj, 280) == 0.0


def test_the_keys_of_a_piece_that_was_cut_out_are_removed(package, scene, line, obj):
    middle = line.split(frame=25, split_method="SOFT")
    last = middle.split(frame=40, split_method="SOFT")
    scene.sequence_editor.strips.remove(middle)
    move(package, last, 100)
    follow(package, scene)
    assert keys(package, obj) == [*range(9, 26), *range(139, 159)]
    assert opening(package, obj, 140) == pytest.approx(30 / (FRAMES - 1), abs=1e-3)


def test_a_copy_that_is_trimmed_before_it_is_followed_has_no_keys(package, scene, line, obj):
    before = keys(package, obj)
    select_only(package, scene, line)
    with sequencer_context(bpy.context, scene):
        bpy.ops.sequencer.duplicate()
    (copy,) = [strip for strip in package.compat.strips(scene) if strip != line]
    move(package, copy, 200)
    package.compat.set_strip_value(copy, "left_handle", 220)
    follow(package, scene)
    assert keys(package, obj) == before
    assert package.timeline.sequencer.remembered_time(copy) is None


def test_a_piece_of_a_line_in_the_nla_is_stale_if_it_moves(package, scene, sound, obj):
    obj.edtalk.lip_nla = True
    line = speak(package, scene, sound, obj, 10)
    piece = line.split(frame=30, split_method="SOFT")
    move(package, piece, 100)
    follow(package, scene)
    _track, strip = package.animation.keys.find_strip(obj, line["edtalk_nla"])
    assert strip.frame_start == 9
    assert piece["edtalk_stale"]


def test_an_nla_strip_moves_with_its_line(package, scene, sound, obj):
    obj.edtalk.lip_nla = True
    line = speak(package, scene, sound, obj, 10)
    move(package, line, 40)
    follow(package, scene)
    _track, strip = package.animation.keys.find_strip(obj, line["edtalk_nla"])
    assert (strip.frame_start, strip.frame_end) == (49, 10 + FRAMES + 40)


# --- Deleting the sound


def delete(scene, *strips):
    for strip in strips:
        scene.sequence_editor.strips.remove(strip)


def test_the_keys_of_a_deleted_strip_are_removed(package, scene, sound, line, obj):
    other = speak(package, scene, sound, obj, 100)
    scene.frame_set(57)
    delete(scene, line)
    assert follow(package, scene) == 1
    assert keys(package, obj) == list(range(99, 100 + FRAMES + 1))
    delete(scene, other)
    follow(package, scene)
    assert curve(package, obj) is None
    assert obj.edtalk["jawOpen"] == 0.0, "at rest, not at the value of the current frame"
    assert follow(package, scene) == 0


def test_a_shorter_take_replaces_the_keys_of_a_deleted_one(package, scene, sound, line, obj):
    delete(scene, line)
    take = speak(package, scene, sound, obj, 10)
    package.compat.set_strip_value(take, "right_handle", 30)
    follow(package, scene)
    assert keys(package, obj) == list(range(9, 31))
    assert opening(package, obj, 30) == 0.0
    assert opening(package, obj, 29) == pytest.approx(19 / (FRAMES - 1), abs=1e-3)


def test_keys_of_the_artist_stay_when_a_strip_is_deleted_or_trimmed(package, scene, line, obj):
    package.animation.keys.remove_keys(obj, ("jawOpen",), 11, 56)  # leaves a straight line from 10 to 57
    package.animation.keys.insert_keys(obj, {"jawOpen": 0.3, "happy": 1.0}, 20)
    package.animation.keys.insert_keys(obj, {"jawOpen": 0.4}, 50)
    package.compat.set_strip_value(line, "right_handle", 40)
    follow(package, scene)
    assert keys(package, obj) == [9, 10, 20, 39, 40, 50]
    delete(scene, line)
    follow(package, scene)
    assert keys(package, obj) == [20, 50]
    assert keys(package, obj, "happy") == [20]


def test_a_generated_key_that_the_artist_edits_becomes_his(package, scene, line, obj):
    points = {round(point.co.x): point for point in curve(package, obj).keyframe_points}
    points[20].co.y += 0.125  # dragged in the Graph Editor
    points[31].co.x, points[31].co.y = 30.5, 0.25
    points[40].interpolation = "CONSTANT"
    curve(package, obj).update()
    for start in (15, 12):  # the strip's keys follow it, and the artist's with them
        package.compat.set_strip_value(line, "content_start", start)
        follow(package, scene)
    assert keys(package, obj)[:2] == [11, 12]
    delete(scene, line)
    follow(package, scene)
    assert [point.co.x for point in curve(package, obj).keyframe_points] == [22, 32.5, 42]
    assert curve(package, obj).keyframe_points[2].interpolation == "CONSTANT"


def test_keys_of_earlier_versions_are_removed_with_their_strip(package, scene, line, obj):
    """They have the type Generated and no checksum."""
    for point in curve(package, obj).keyframe_points:
        point.back = 1.70158
    delete(scene, line)
    follow(package, scene)
    assert curve(package, obj) is None


def test_generated_keys_survive_saving_and_undo(package, scene, line, obj, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "keys.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "keys.blend"))
    scene = bpy.context.scene
    delete(scene, package.compat.strips(scene)[0])
    follow(package, scene)
    assert curve(package, bpy.data.objects["Anna"]) is None


def test_deleting_a_piece_removes_its_keys_only(package, scene, line, obj):
    piece = line.split(frame=30, split_method="SOFT")
    follow(package, scene)
    delete(scene, line)
    follow(package, scene)
    assert keys(package, obj) == list(range(29, 59))
    assert opening(package, obj, 29) == 0.0
    assert opening(package, obj, 30) == pytest.approx(20 / (FRAMES - 1), abs=1e-3)
    delete(scene, piece)
    follow(package, scene)
    assert curve(package, obj) is None


def test_the_nla_strip_of_a_deleted_line_is_removed(package, scene, sound, obj):
    obj.edtalk.lip_nla = True
    line, other = speak(package, scene, sound, obj, 10), speak(package, scene, sound, obj, 100)
    names = line["edtalk_nla"], other["edtalk_nla"]
    delete(scene, line)
    follow(package, scene)
    assert package.animation.keys.find_strip(obj, names[0]) is None
    assert package.animation.keys.find_strip(obj, names[1]) is not None


def test_a_strip_that_was_cut_and_pasted_is_stale(package, scene, sound, line, obj):
    select_only(package, scene, line)
    with sequencer_context(bpy.context, scene):
        bpy.ops.sequencer.copy()
    delete(scene, line)
    follow(package, scene)
    speak(package, scene, sound, obj, 10, channel=3)
    before = keys(package, obj)
    with sequencer_context(bpy.context, scene):
        bpy.ops.sequencer.paste()
    (pasted,) = package.timeline.lines.restored(scene)
    move(package, pasted, 200)
    assert package.follow.is_due(scene)
    follow(package, scene)
    assert pasted["edtalk_stale"]
    assert keys(package, obj) == before
    assert not package.follow.is_due(scene)


def test_keys_stay_while_another_scene_has_the_strip(package, scene, line, obj):
    with bpy.context.temp_override(scene=scene):
        bpy.ops.scene.new(type="LINK_COPY")
    (copied,) = [one for one in bpy.data.scenes if one != scene]
    before = keys(package, obj)
    delete(copied, *package.compat.strips(copied))
    assert not package.follow.is_due(copied)
    assert keys(package, obj) == before


def test_strips_of_files_from_before_keep_their_keys(package, scene, line, obj):
    """Their keys do not have the type Generated, and their strips are not stored in the scene."""
    for point in curve(package, obj).keyframe_points:
        point.type = "KEYFRAME"
    del line["edtalk_generated"]
    package.timeline.sequencer.settings(scene).lines = ""
    package.compat.set_strip_value(line, "right_handle", 40)
    follow(package, scene)
    assert keys(package, obj) == list(range(9, 41))
    delete(scene, line)
    assert follow(package, scene) == 0
    assert keys(package, obj) == list(range(9, 41))


def test_deleting_a_strip_and_its_keys_are_one_undo_step(package, scene, line, obj, monkeypatch):
    monkeypatch.setattr(package.engine.session, "blocking", lambda: False)
    monkeypatch.setattr(package.handlers, "_schedule", lambda: None)  # the test calls the timer itself

    def state():
        monkeypatch.setattr(package.handlers.pending, "changed_at", 1.0)
        assert package.handlers.settle() is None
        found = curve(package, bpy.data.objects["Anna"])  # undo replaces all data
        return len(package.compat.strips(bpy.context.scene)), len(found.keyframe_points) if found else 0

    monkeypatch.setattr(package.handlers.pending, "step", "")  # an undo of an earlier test, which no timer followed
    bpy.ops.ed.undo_push(message="before")
    delete(scene, line)
    bpy.ops.ed.undo_push(message="delete")
    assert state() == (0, 0)
    bpy.ops.ed.undo()
    assert state() == (1, FRAMES + 2)
    bpy.ops.ed.redo()
    assert state() == (0, 0)


# --- Faces


def test_the_face_strip_follows_its_sound(package, scene, obj, line, face):
    move(package, line, 33)
    follow(package, scene)
    assert span(package, face) == span(package, line) == (43, 43 + FRAMES)


def test_the_face_strip_is_trimmed_like_its_sound(package, scene, obj, line, face):
    package.compat.set_strip_value(line, "left_handle", 20)
    package.compat.set_strip_value(line, "right_handle", 50)
    follow(package, scene)
    assert span(package, face) == (20, 50)
    assert len(face.elements) == FRAMES, "trimmed frames are kept"
    package.compat.set_strip_value(line, "right_handle", 55)
    follow(package, scene)
    assert span(package, face) == (20, 55)


def test_the_sound_follows_its_face_strip(package, scene, obj, line, face):
    move(package, face, -4)
    follow(package, scene)
    assert span(package, line) == (6, 6 + FRAMES)
    assert keys(package, obj)[0] == 5
    package.timeline.sequencer.settings(scene).follow_face = False
    move(package, face, 50)
    follow(package, scene)
    assert span(package, line) == (6, 6 + FRAMES)


def test_parts_of_a_split_face_move_the_sound_only_together(package, scene, obj, line, face):
    piece = face.split(frame=30, split_method="SOFT")
    follow(package, scene)
    move(package, piece, 5)
    follow(package, scene)
    assert span(package, line) == (10, 10 + FRAMES)
    for strip in (face, piece):
        move(package, strip, 20)
    follow(package, scene)
    assert span(package, line) == (30, 30 + FRAMES)


def test_a_copy_of_a_face_strip_is_independent(package, scene, obj, line, face):
    select_only(package, scene, face)
    with sequencer_context(bpy.context, scene):
        bpy.ops.sequencer.duplicate()
    (copy,) = [strip for strip in package.timeline.sequencer.faces(scene, obj) if strip != face]
    move(package, copy, 200)
    follow(package, scene)
    assert span(package, line) == span(package, face) == (10, 10 + FRAMES)
    move(package, line, 5)
    follow(package, scene)
    assert span(package, face) == (15, 15 + FRAMES)
    assert span(package, copy) == (210, 210 + FRAMES)
    move(package, face, 5)
    follow(package, scene)
    assert span(package, line) == (20, 20 + FRAMES)


def test_sound_and_face_moved_together_are_moved_once(package, scene, obj, line, face):
    move(package, line, 12)
    move(package, face, 12)
    follow(package, scene)
    assert span(package, line) == span(package, face) == (22, 22 + FRAMES)
    assert keys(package, obj)[0] == 21


def test_a_face_over_several_lines_moves_when_all_do(package, scene, sound, obj, line, fake_engine):
    fake_engine()
    other = speak(package, scene, sound, obj, 100, channel=2)
    bpy.ops.edtalk.render_face(frames="DIALOGUE")
    (face,) = package.timeline.sequencer.faces(scene, obj)
    start = span(package, face)
    move(package, other, 10)
    follow(package, scene)
    assert span(package, face) == start, "only one line moved: its frames must be rendered again"
    for strip in (line, other):
        move(package, strip, 20)
    follow(package, scene)
    assert span(package, face)[0] == start[0] + 20


# --- When strips are followed


def test_sync_now_moves_the_keys(package, scene, line, obj):
    assert bpy.ops.edtalk.resync.poll()
    move(package, line, 15)
    assert bpy.ops.edtalk.resync() == {"FINISHED"}
    assert keys(package, obj)[0] == 24


def test_sync_now_gives_a_reason_if_disabled(package, scene):
    assert "lip-synced" in package.follow.EDTALK_OT_resync.disabled_reason(bpy.context)


def test_moves_are_followed_unless_disabled(package, scene, line, obj):
    move(package, line, 15)
    package.handlers.settle_scene(scene)
    assert keys(package, obj)[0] == 24
    package.timeline.sequencer.settings(scene).follow = False
    move(package, line, 15)
    package.handlers.settle_scene(scene)
    assert keys(package, obj)[0] == 24


def test_nothing_is_followed_during_undo(package, scene, line, obj, monkeypatch):
    move(package, line, 15)
    monkeypatch.setattr(package.handlers.pending, "changed_at", 1.0)
    package.engine.session.hold("undo")
    assert package.handlers.settle() is not None
    assert keys(package, obj)[0] == 9
    package.engine.session.release("undo")
    assert package.handlers.settle() is None
    assert keys(package, obj)[0] == 24


def test_a_changed_strip_is_pending(package, scene, line, obj, monkeypatch):
    monkeypatch.setattr(package.handlers.pending, "changed_at", 0.0)
    move(package, line, 15)
    bpy.context.view_layer.update()
    assert package.handlers.pending.changed_at > 0


def test_rendering_follows_moved_strips_first(package, scene, line, obj, fake_engine):
    fake_engine()
    move(package, line, 15)
    bpy.ops.edtalk.render_face(frames="DIALOGUE")
    assert keys(package, obj)[0] == 24


def test_forty_strips_of_three_characters_are_followed(package, scene, sound, obj):
    cast = [
        obj,
        package.character.character.create(scene, name="Ben"),
        package.character.character.create(scene, name="Cleo"),
    ]
    strips = [speak(package, scene, sound, cast[n % 3], 10 + 60 * n, 1 + n % 3) for n in range(40)]
    assert package.follow.changes(scene) == []
    for strip in strips:
        move(package, strip, 6)
    assert follow(package, scene) == 40
    assert opening(package, cast[0], 16 + FRAMES - 1) == pytest.approx(1.0)
    assert keys(package, cast[2])[-1] == 10 + 60 * 38 + 6 + FRAMES


def test_a_deleted_character_or_damaged_timing_does_not_stop_others(package, scene, sound, line, obj):
    ben = package.character.character.create(scene, name="Ben")
    other = speak(package, scene, sound, ben, 200, channel=2)
    bpy.data.objects.remove(obj)
    line["edtalk_time"] = "nonsense"
    for strip in (line, other):
        move(package, strip, 10)
    assert follow(package, scene) == 1
    assert keys(package, ben)[0] == 209


def test_a_move_and_its_follow_are_one_undo_step(package, scene, line, obj, monkeypatch):
    """Blender pushes a step for each; an undo or redo that stops between them is repeated."""
    monkeypatch.setattr(package.engine.session, "blocking", lambda: False)
    monkeypatch.setattr(package.handlers, "_schedule", lambda: None)  # the test calls the timer itself

    def state():
        monkeypatch.setattr(package.handlers.pending, "changed_at", 1.0)
        assert package.handlers.settle() is None
        scene = bpy.context.scene  # undo replaces all data
        (strip,) = scene.sequence_editor.strips
        return package.compat.left_handle(strip), keys(package, bpy.data.objects["Anna"])[0]

    bpy.ops.ed.undo_push(message="before")
    move(package, line, 15)
    bpy.ops.ed.undo_push(message="move")
    assert state() == (25, 24)
    bpy.ops.ed.undo()
    assert state() == (10, 9)
    bpy.ops.ed.redo()
    assert state() == (25, 24)
    bpy.ops.ed.undo()
    assert state() == (10, 9)


def test_undoing_lip_sync_removes_its_keys(package, scene, sound, obj, fake_engine):
    fake_engine()
    strip = package.compat.new_sound(scene, "line", sound, 1, 10)
    strip.select = True
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.edtalk.lip_sync()
    bpy.ops.ed.undo_push(message="Lip Sync")
    bpy.ops.ed.undo()
    assert curve(package, bpy.data.objects["Anna"]) is None
    (strip,) = bpy.context.scene.sequence_editor.strips
    assert package.timeline.sequencer.remembered_time(strip) is None
    bpy.ops.ed.redo()
    assert keys(package, bpy.data.objects["Anna"])[0] == 9


def test_undo_after_a_render_reuses_the_old_images(package, scene, obj, line, face):
    old = [element.filename for element in face.elements]
    bpy.ops.ed.undo_push(message="before")
    package.animation.keys.insert_keys(obj, {"headYaw": 0.7}, 20)
    bpy.ops.edtalk.render_face(frames="DIALOGUE")
    bpy.ops.ed.undo_push(message="Render Face")
    bpy.ops.ed.undo()
    scene, obj = bpy.context.scene, bpy.data.objects["Anna"]
    (face,) = package.timeline.sequencer.faces(scene, obj)
    assert [element.filename for element in face.elements] == old
    folder = package.render.face_strip.folder_of(face)
    assert all((folder / name).is_file() for name in old)
    span = package.timeline.sequencer.render_range(scene, obj, "DIALOGUE")
    task, _plan = package.render.render.render_face(scene, obj, span)
    assert task is None, "nothing is left to render"
