"""Words and mouth shapes as markers: finding them, following strips, and one undo step."""

import bpy
import numpy as np
import pytest

from tests.strip_material import noise, write_sound

FPS, FRAMES = 24, 72
# What the mouth shows, each for six frames.
SPOKEN = ("MBP", "A", "L", "O", "Rest", "Rest", "FV", "I", "MBP", "U", "Rest", "Rest")
TEXT = "Balo, fi mu."  # ba-lo, pause, fi, mu


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_sound(tmp_path_factory.mktemp("sounds") / "line.wav", noise(FRAMES / FPS))


@pytest.fixture
def line(package, scene, sound, obj):
    """A lip-synced strip at frames 10 to 81 whose mouth shows SPOKEN."""
    strip = package.compat.new_sound(scene, "line", sound, 1, 10)
    package.compat.set_strip_value(strip, "right_handle", 10 + FRAMES)
    package.timeline.sequencer.assign(strip, obj)
    write(package, scene, strip, obj)
    return strip


def write(package, scene, strip, obj):
    names = package.character.files.bank_of(obj).names_of("lip")
    shapes = package.lipsync.mouth_shapes.MOUTH_SHAPES
    rest = package.character.sliders.rest_values(obj)
    table = [[rest[name] + shapes[shape].get(name, 0.0) for name in names] for shape in SPOKEN]
    clock = package.timeline.sequencer.time_map(scene, strip)
    package.lipsync.lipsync.write_lips(scene, strip, obj, clock, names, np.repeat(table, 6, axis=0))


def shown(scene):
    return sorted((marker.frame, marker.name) for marker in scene.timeline_markers)


def move(package, scene, strip, delta):
    package.compat.set_strip_value(strip, "content_start", package.compat.content_start(strip) + delta)
    package.follow.follow(scene)


def test_mouth_shapes_are_marked_where_they_begin(scene, line):
    assert shown(scene) == []
    scene.edtalk_markers.show = "SHAPES"
    begin = [(10 + 6 * index, name) for index, name in enumerate(SPOKEN) if index == 0 or SPOKEN[index - 1] != name]
    found = shown(scene)
    assert [name for _frame, name in found] == [name for _frame, name in begin]
    assert max(abs(one - other) for (one, _), (other, _) in zip(found, begin, strict=True)) <= 1
    scene.edtalk_markers.show = "NONE"
    assert shown(scene) == []


def test_words_are_marked_where_they_begin(scene, line):
    line.edtalk_text = TEXT
    scene.edtalk_markers.show = "WORDS"
    found = shown(scene)
    assert [name for _frame, name in found] == ["Balo,", "fi", "mu."]
    for (frame, _name), expected in zip(found, (10, 46, 58), strict=True):
        assert abs(frame - expected) <= 2
    line.edtalk_text = "Balo"
    assert [name for _frame, name in shown(scene)] == ["Balo"]


def test_markers_follow_their_strip_and_disappear_with_it(package, scene, line):
    scene.timeline_markers.new("cut", frame=5)
    line.edtalk_text = TEXT
    scene.edtalk_markers.show = "WORDS"
    before = [(frame, name) for frame, name in shown(scene) if name != "cut"]
    move(package, scene, line, 100)
    assert [one for one in shown(scene) if one[1] != "cut"] == [(frame + 100, name) for frame, name in before]
    package.compat.set_strip_value(line, "right_handle", 150)
    package.follow.follow(scene)
    assert [name for _frame, name in shown(scene)] == ["cut", "Balo,", "fi"], "the last word is cut off"
    scene.sequence_editor.strips.remove(line)
    package.follow.follow(scene)
    assert shown(scene) == [(5, "cut")]


def test_the_artists_markers_are_kept(package, scene, line):
    scene.edtalk_markers.show = "SHAPES"
    (first, *_) = sorted(scene.timeline_markers, key=lambda marker: marker.frame)
    first.name = "my cue"
    move(package, scene, line, 30)
    assert (10, "my cue") in shown(scene)
    assert package.animation.emotion_operators.cuts(scene) == [10], "only the artist's markers are cuts"


def test_lip_sync_again_finds_the_shapes_again(package, scene, line, obj):
    scene.edtalk_markers.show = "SHAPES"
    before = shown(scene)
    path = package.character.sliders.data_path("jawOpen")
    (curve,) = [curve for curve in package.compat.fcurves(obj) if curve.data_path == path]
    for point in curve.keyframe_points:
        point.co[1] = 0.0
    move(package, scene, line, 0)
    assert shown(scene) == before
    write(package, scene, line, obj)
    assert shown(scene) == before


def test_the_same_shapes_are_found_in_an_nla_strip(package, scene, line, obj):
    scene.edtalk_markers.show = "SHAPES"
    before = shown(scene)
    obj.edtalk.lip_nla = True
    write(package, scene, line, obj)
    assert shown(scene) == before


def test_a_bank_without_named_sliders_has_no_markers(package, scene, line, obj, write_bank):
    package.character.character.set_bank(obj, str(write_bank("plain")))
    scene.edtalk_markers.show = "SHAPES"
    assert shown(scene) == []


def test_markers_are_undone_with_the_setting(scene, line):
    bpy.ops.ed.undo_push(message="before")
    scene.edtalk_markers.show = "SHAPES"
    bpy.ops.ed.undo_push(message="Markers")
    assert shown(bpy.context.scene)
    bpy.ops.ed.undo()
    assert shown(bpy.context.scene) == []
    assert bpy.context.scene.edtalk_markers.show == "NONE"
    bpy.ops.ed.redo()
    assert shown(bpy.context.scene)


def test_damaged_markers_of_a_file_are_ignored(package, scene, line):
    line["edtalk_shapes"] = "{]"
    scene.edtalk_markers.placed = "nonsense"
    scene.edtalk_markers.show = "SHAPES"
    assert shown(scene) == []


def test_the_words_of_a_long_text_are_found_in_small_steps(package, scene, line, monkeypatch):
    markers, session = package.lipsync.markers, package.engine.session
    scene.edtalk_markers.show = "WORDS"
    line.edtalk_text = TEXT
    expected = shown(scene)
    steps = []
    monkeypatch.setattr(session, "blocking", lambda: False)
    monkeypatch.setattr(session, "edited", steps.append)
    monkeypatch.setattr(markers, "_LONG", 1)
    monkeypatch.setattr(markers, "_SLICE", 0.0)
    line.edtalk_text = "nothing of this"
    line.edtalk_text = TEXT  # takes the place of the first search
    assert shown(scene) == [], "found later"
    calls = 1
    while markers.continue_searches() is not None:
        calls += 1
    assert calls > 3, "one word each"
    assert shown(scene) == expected
    assert steps == ["Word Markers"]
    line.edtalk_text = TEXT + " fi"
    scene.sequence_editor.strips.remove(line)
    while markers.continue_searches() is not None:
        pass
    package.follow.follow(scene)
    assert shown(scene) == []
