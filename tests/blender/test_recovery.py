"""After an undo and on opening a file, face strips show the pictures that exist. That is done in steps."""

import bpy
import pytest

FRAMES = 12  # of the fixture `rendered`


@pytest.fixture
def strip(package, rendered):
    (found,) = package.timeline.sequencer.faces(bpy.context.scene, rendered)
    return found


@pytest.fixture
def few_at_once(package, monkeypatch):
    monkeypatch.setattr(package.render.face_strip, "_READ", 5)
    monkeypatch.setattr(package.render.recovery, "_WRITE", 5)


def names_of(strip):
    return [element.filename for element in strip.elements]


def hide_pictures(strip, package, uid):
    """Like an undo to the step before the pictures arrived. Returns the names that the strip showed."""
    names = names_of(strip)
    package.compat.set_files(strip, [f"waiting_{uid[:8]}_512.png"] * FRAMES)
    return names


def steps_until(package, running, done):
    """Run the steps until `done()` is true. Fails if they end before."""
    for progress in running:
        if progress is not None and done():
            return
    assert not done(), "it ended before"


def test_pictures_appear_in_short_steps(package, rendered, strip, few_at_once):
    names = hide_pictures(strip, package, rendered.edtalk.uid)
    shown = []
    for _ in package.render.recovery.steps():
        shown.append(package.render.face_strip.waiting_frames(strip))
    assert names_of(strip) == names
    assert {FRAMES, FRAMES - 5, FRAMES - 10, 0} <= set(shown)


def test_missing_files_stay_waiting(package, rendered, strip):
    names = hide_pictures(strip, package, rendered.edtalk.uid)
    (package.render.face_strip.folder_of(strip) / names[3]).unlink()
    package.render.recovery.schedule()  # at once in background mode
    assert package.render.face_strip.waiting_frames(strip) == names.count(names[3])
    assert names_of(strip)[4] == names[4]


def test_a_picture_that_a_render_shows_meanwhile_is_kept(package, rendered, strip, few_at_once):
    names = hide_pictures(strip, package, rendered.edtalk.uid)
    other = "0123456789abcdef0123.png"
    running = package.render.recovery.steps()
    steps_until(package, running, lambda: package.render.face_strip.waiting_frames(strip) < FRAMES)
    strip.elements[11].filename = other
    package.engine.work.complete(running)
    assert names_of(strip) == [*names[:11], other]


@pytest.mark.parametrize("when", range(8))
def test_a_strip_may_be_removed_between_two_steps(package, rendered, strip, few_at_once, when):
    hide_pictures(strip, package, rendered.edtalk.uid)
    running = package.render.recovery.steps()
    for _ in range(when):
        next(running, None)
    bpy.context.scene.sequence_editor.strips.remove(strip)
    package.engine.work.complete(running)
    assert not package.timeline.sequencer.faces(bpy.context.scene, rendered)


def test_a_damaged_strip_does_not_keep_others_from_being_updated(package, rendered, strip, monkeypatch, caplog):
    names = hide_pictures(strip, package, rendered.edtalk.uid)
    copy = package.compat.new_image(bpy.context.scene, "damaged", "none.png", 20, 1)
    copy[package.timeline.sequencer.ID] = "damaged"
    copy[package.timeline.sequencer.CHARACTER] = rendered.edtalk.uid
    copy[package.render.face_strip.SIZE] = "not a size"
    package.render.recovery.schedule()
    assert names_of(strip) == names
    assert "could not be updated" in caplog.text


def test_the_sizes_of_pictures_are_looked_at_in_short_steps(package, strip, few_at_once, monkeypatch):
    """Storing them at once took 20 ms for a long strip, each time that a file was opened."""
    compat, face_strip = package.compat, package.render.face_strip
    written, real = [], compat.set_picture_size
    monkeypatch.setattr(compat, "set_picture_size", lambda *given: written.append(given) or real(*given))
    face_strip.protect(bpy.context.scene)
    assert len(list(face_strip.protect_strip(lambda: strip))) == 3
    assert written == []

    def sizes():
        return {(one.orig_width, one.orig_height) for one in strip.elements}

    size = face_strip.size_of(strip)
    for change in (len(strip.elements) - 1, 7):  # a file of an earlier version; a picture that was added by a script
        compat._table(strip)["size"][change] = 1 << 20
        assert sizes() != {size}
        face_strip.protect(bpy.context.scene)
        assert (sizes() == {size}) == (change != 7)
        assert len(list(face_strip.protect_strip(lambda: strip))) < 4
        assert sizes() == {size}
