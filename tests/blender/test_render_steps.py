"""Render Face from a button: it samples in steps, and the artist may edit, undo or delete between them."""

import bpy
import numpy as np
import pytest

from tests.pumping import pump_until

FRAMES = 24


@pytest.fixture
def turning(package, scene, obj, fake_engine, tmp_path, monkeypatch):
    """A saved scene whose character turns its head, so that all frames differ. Slices have five frames."""
    scene.frame_start, scene.frame_end = 1, FRAMES
    turn(package, obj, 1.0)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    fake_engine()
    package.engine.session.wait(package.character.rest_pose.measure(obj))
    monkeypatch.setattr(package.render.draft, "_SLICE", 5)
    return obj


def turn(package, obj, end: float) -> None:
    frames = np.arange(1, FRAMES + 1)
    package.animation.keys.write_curves(obj, {"headYaw": np.linspace(0.0, end, FRAMES)}, frames, replace=(1, FRAMES))
    bpy.context.view_layer.update()


def press(package, obj):
    """What the button does. Returns the chain."""
    steps = package.render.render.steps(bpy.context.scene, obj, "SCENE")
    return package.engine.session.Chain(steps)


def prepare(package) -> list:
    """The tasks that prepare a render."""
    return [task for task in package.engine.session.tasks if task.in_steps and not task.finished]


def sample_some(package) -> None:
    """The timer runs until at least one slice is sampled, and not all are."""
    pump = package.engine.session.pump
    while prepare(package)[0].progress.done == 0:
        pump(0.0)
    assert 0 < prepare(package)[0].progress.done < FRAMES


def faces(package) -> list:
    return [one for one in package.compat.strips(bpy.context.scene) if package.timeline.sequencer.is_face(one)]


def shown(package) -> list[str]:
    (strip,) = faces(package)
    return [element.filename for element in strip.elements]


def expected(package, obj) -> list[str]:
    """The pictures of the present animation, sampled at once."""
    face = package.character.snapshot.read(obj)
    return list(package.render.face_shot.shot_of(bpy.context.scene, obj, face, (1, FRAMES + 1)).file_names())


def rows_of_the_shot(addon, package) -> np.ndarray:
    (strip,) = faces(package)
    folder = bpy.path.abspath(strip[package.timeline.sequencer.SHOT])
    return addon.inference.contract.shot.Shot.read(folder).coefficients.values


def test_the_result_equals_that_of_a_script(addon, package, turning):
    task, _plan = package.render.render.render_face(bpy.context.scene, turning, (1, FRAMES + 1))
    package.engine.session.wait(task)
    (strip,) = faces(package)
    names, rows = shown(package), rows_of_the_shot(addon, package)
    place = strip.channel, package.compat.left_handle(strip), package.compat.right_handle(strip)
    bpy.context.scene.sequence_editor.strips.remove(strip)
    chain = press(package, turning)
    sample_some(package)
    assert faces(package) == [], "nothing is shown before the whole shot is sampled"
    pump_until(package, lambda: chain.finished)
    (strip,) = faces(package)
    assert shown(package) == names == expected(package, turning)
    np.testing.assert_array_equal(rows_of_the_shot(addon, package), rows)
    assert (strip.channel, package.compat.left_handle(strip), package.compat.right_handle(strip)) == place


@pytest.mark.parametrize("is_rendered", [False, True], ids=["new", "rendered before"])
def test_cancelling_keeps_everything(package, turning, is_rendered):
    if is_rendered:
        bpy.ops.edtalk.render_face(frames="SCENE")
        turn(package, turning, 0.5)
    before = [(one.name, [element.filename for element in one.elements]) for one in faces(package)]
    chain = press(package, turning)
    sample_some(package)
    bpy.ops.edtalk.cancel(number=prepare(package)[0].number)
    assert chain.finished
    assert not chain.error
    assert [(one.name, [element.filename for element in one.elements]) for one in faces(package)] == before
    pump_until(package, lambda: not package.engine.session.tasks)
    assert package.engine.session._state.undo_name == ""
    assert bpy.ops.edtalk.render_face(frames="SCENE") == {"FINISHED"}
    assert shown(package) == expected(package, turning)


def test_an_edit_while_it_samples_begins_again_so_that_all_frames_are_of_one_animation(package, turning):
    chain = press(package, turning)
    sample_some(package)
    turn(package, turning, 0.3)
    pump_until(package, lambda: chain.finished)
    assert shown(package) == expected(package, turning)


def test_other_objects_do_not_disturb(package, turning, monkeypatch):
    other = bpy.data.objects.new("other", None)
    bpy.context.scene.collection.objects.link(other)
    bpy.context.view_layer.update()
    before = package.animation.edits.number()
    other.location.x = 1.0
    bpy.context.view_layer.update()
    assert package.animation.edits.number() == before
    turning.edtalk["headYaw"] = 0.1
    turning.update_tag()
    bpy.context.view_layer.update()
    assert package.animation.edits.number() > before


@pytest.mark.parametrize("what", ["character", "scene", "strip", "file"])
def test_what_is_deleted_while_it_samples_does_no_harm(package, turning, tmp_path, what):
    if what == "strip":
        bpy.ops.edtalk.render_face(frames="SCENE")
        turn(package, turning, 0.5)
    chain = press(package, turning)
    sample_some(package)
    if what == "character":
        bpy.data.objects.remove(turning)
    elif what == "scene":
        bpy.data.scenes.new("other")
        bpy.data.scenes.remove(bpy.context.scene)
    elif what == "strip":
        bpy.context.scene.sequence_editor.strips.remove(faces(package)[0])
    else:
        bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    pump_until(package, lambda: not package.engine.session.tasks)
    assert not package.engine.session.problems
    if what == "strip":
        pump_until(package, lambda: chain.finished)
        assert shown(package) == expected(package, turning), "a new strip is made"
    else:
        assert faces(package) == []


def test_an_undo_while_it_samples_is_noticed(package, turning):
    uid = turning.edtalk.uid
    bpy.ops.ed.undo_push(message="before")
    turn(package, turning, 0.4)
    bpy.ops.ed.undo_push(message="turned less")
    chain = press(package, turning)
    sample_some(package)
    bpy.ops.ed.undo()
    pump_until(package, lambda: chain.finished)
    assert shown(package) == expected(package, package.character.character.find(uid))


def test_several_characters_have_one_undo_step(package, scene, turning, demo, monkeypatch):
    session = package.engine.session
    other = package.character.character.create(scene, str(demo / "portrait_2.png"), name="Ben")
    turn(package, other, 0.7)
    session.wait(package.character.rest_pose.measure(other))
    pushed = []
    monkeypatch.setattr(session, "blocking", lambda: False)
    monkeypatch.setattr(session, "redraw", lambda *_: None)
    monkeypatch.setattr(session, "keep_ticking", lambda: None)
    monkeypatch.setattr(session, "notify", lambda _text: None)
    bpy.ops.ed.undo_push(message="before")
    chains = [press(package, obj) for obj in (turning, other)]
    while prepare(package):
        pushed.append(session._state.undo_name)
        session.pump(0.0)
    assert len(faces(package)) == 2
    assert session._state.undo_name == "Render Face", "Blender stores the strips in a call of its own"
    session.pump(0.0)
    assert session._state.undo_name == ""
    assert "Render Face" in pushed, "the first strip waited for the second"
    bpy.ops.ed.undo()
    assert faces(package) == []
    bpy.ops.ed.redo()
    assert len(faces(package)) == 2
    pump_until(package, lambda: all(chain.finished for chain in chains))


def test_pressing_again_replaces_the_preparation(package, turning):
    first = press(package, turning)
    sample_some(package)
    turn(package, turning, 0.6)
    second = press(package, turning)
    assert first.finished
    assert len(prepare(package)) == 1
    pump_until(package, lambda: second.finished)
    assert shown(package) == expected(package, turning)


def test_a_failure_of_the_thread_is_reported(package, turning, monkeypatch):
    def fail(*_args, **_options):
        raise package.engine.session.EDTalkError("The disk is full.", "Free space.", "disk")

    monkeypatch.setattr(package.render.draft, "_written", fail)
    chain = press(package, turning)
    pump_until(package, lambda: chain.finished)
    assert chain.error.message == "The disk is full."
    assert [problem.message for problem in package.engine.session.problems] == ["The disk is full."]
    assert faces(package) == []


@pytest.mark.parametrize(("drawn", "size"), [(16, 16), (16, 64), (64, 16)])
def test_the_placeholder_shows_the_face_half_transparent(package, obj, tmp_path, drawn, size):
    rising = np.ones((drawn, drawn, 4), np.float32)
    rising[..., :3] = np.linspace(0.0, 1.0, drawn)[:, None, None]  # brighter to the top
    image = package.character.viewport.show_pixels(obj, rising)
    face = package.character.snapshot.read(obj)
    placeholder = package.render.placeholder
    placeholder.write(tmp_path / "new" / "waiting.png", placeholder.pixels(face, image), size)
    loaded = bpy.data.images.load(str(tmp_path / "new" / "waiting.png"))
    pixels = np.empty((size, size, 4), np.float32)
    loaded.pixels.foreach_get(pixels.ravel())
    np.testing.assert_allclose(pixels[..., 3], 0.4, atol=0.01)
    np.testing.assert_allclose(pixels[..., 0], np.repeat(np.linspace(0, 1, size)[:, None], size, 1), atol=0.1)


# --- Strips with many files


@pytest.mark.parametrize(("before", "after"), [(1, 3000), (3000, 40), (40, 41), (41, 3), (3, 1)])
def test_the_files_of_a_strip_are_set_whatever_their_number(package, scene, tmp_path, before, after):
    compat = package.compat
    strip = compat.new_image(scene, "face", tmp_path / "a.png", 1, 7)
    for count in (before, after):
        names = [f"{number:020x}é.png" for number in range(count)]
        compat.set_files(strip, compat.file_names(names))
        compat.set_picture_size(strip, (320, 200))
        assert [one.filename for one in strip.elements] == names
        assert {(one.orig_width, one.orig_height) for one in strip.elements} == {(320, 200)}
    assert compat.content_start(strip) == 7


def test_the_memory_of_a_strip_is_left_alone_where_it_differs_from_the_interface(package, scene, tmp_path, monkeypatch):
    """As in a version of Blender with another layout: the files are then set one by one."""
    compat = package.compat
    strip = compat.new_image(scene, "face", tmp_path / "a.png", 1, 1)
    monkeypatch.setattr(compat, "_table", lambda _strip: None)
    names = [f"{number}.png" for number in range(60)]
    compat.set_files(strip, compat.file_names(names))
    compat.set_picture_size(strip, (320, 200))
    assert [one.filename for one in strip.elements] == names
