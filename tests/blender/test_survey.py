"""What panels say about rendered frames is counted in steps of a timer, and drawn from the latest count."""

import os
from types import SimpleNamespace

import bpy
import pytest

from tests.panel_layout import draw

FRAMES = 12  # of the fixture `rendered`


@pytest.fixture
def in_window(package, monkeypatch):
    """As with a window, whose timers the test calls: what is registered, by function."""
    registered = {}
    timers = SimpleNamespace(
        register=lambda call, **_: registered.setdefault(call, 0),
        unregister=registered.pop,
        is_registered=lambda call: call in registered,
    )
    app = SimpleNamespace(timers=timers, background=False)
    monkeypatch.setattr(package.engine.session, "blocking", lambda: False)
    monkeypatch.setattr(package.engine.session, "redraw", lambda *_: None)
    monkeypatch.setattr(package.engine.work, "bpy", SimpleNamespace(app=app))
    monkeypatch.setattr(package.render.survey, "_state", package.render.survey._State())
    return registered


def strip_of(package, obj):
    (strip,) = package.timeline.sequencer.faces(bpy.context.scene, obj)
    return strip


def frames_of(package, obj):
    return package.render.survey.latest().strips[package.timeline.sequencer.identity(strip_of(package, obj))]


def run(package, registered) -> None:
    """The timer until the survey is made."""
    timer = package.render.survey._timer
    timer._changed = 0.0  # long ago
    while timer.is_waiting:
        if timer._tick() is None:
            registered.pop(timer._timer)


def test_the_numbers_are_those_of_the_strip_and_the_folder(package, rendered):
    strip, folder = strip_of(package, rendered), package.render.survey.folder(rendered)
    names = [element.filename for element in strip.elements]
    for name in names[:3]:
        os.unlink(folder / name)
    strip.elements[5].filename = f"waiting_{rendered.edtalk.uid[:8]}_512.png"
    os.utime(folder, ns=(0, 10**9))
    found = frames_of(package, rendered)
    assert (found.total, found.waiting, found.missing) == (FRAMES, 1, 3)
    assert found.waiting == package.render.face_strip.waiting_frames(strip)
    assert found.missing == package.render.face_strip.missing_frames(strip)
    use = package.render.survey.latest().uses[folder]
    assert use.frames == FRAMES - 3
    assert use.size == sum(path.stat().st_size for path in folder.glob("[0-9a-f]*.png"))
    assert use.unused == (folder / names[5]).stat().st_size


def test_a_panel_draws_the_latest_numbers_and_never_counts(package, rendered, in_window, monkeypatch):
    survey, panel = package.render.survey, package.panels.sequencer.EDTALK_PT_face
    monkeypatch.setattr(survey, "_READ", 5)
    texts = " ".join(draw(panel).texts("label"))
    assert "counting frames..." in texts
    assert "Calculating the size" in texts
    assert list(in_window) == [survey._timer._timer], "drawing begins the count"
    run(package, in_window)
    monkeypatch.setattr(survey, "steps", None)  # drawing does not count
    texts = " ".join(draw(panel).texts("label"))
    assert f"MB in {FRAMES} frames" in texts
    assert "counting" not in texts
    assert not in_window


def test_changes_are_counted_again(package, rendered, in_window):
    survey, folder = package.render.survey, package.render.survey.folder(rendered)
    survey.schedule()
    run(package, in_window)
    assert frames_of(package, rendered).missing == 0
    os.unlink(folder / strip_of(package, rendered).elements[0].filename)
    os.utime(folder, ns=(0, 10**9))
    survey._state.looked = 0.0
    assert frames_of(package, rendered).missing == 0, "the latest numbers are drawn until the new ones are there"
    run(package, in_window)
    assert frames_of(package, rendered).missing == 1
    strip_of(package, rendered).elements[1].filename = "waiting.png"
    bpy.context.view_layer.update()
    assert survey._timer.is_waiting, "an edit of the strip begins the count"
    run(package, in_window)
    assert frames_of(package, rendered).waiting == 1


def test_what_is_deleted_while_it_counts_does_no_harm(package, rendered, monkeypatch):
    survey = package.render.survey
    monkeypatch.setattr(survey, "_READ", 5)
    steps = survey.steps()
    for progress in steps:
        if progress and progress.done:
            break
    bpy.context.scene.sequence_editor.strips.remove(strip_of(package, rendered))
    assert package.engine.work.complete(steps).strips == {}


@pytest.mark.parametrize("readable", [True, False], ids=["table", "one by one"])
def test_files_of_a_strip_are_found_among_names(package, scene, tmp_path, monkeypatch, readable):
    compat = package.compat
    strip = compat.new_image(scene, "face", tmp_path / "first.png", 1, 1)
    names = [f"{7919 * number:020x}.png" for number in range(300)]
    compat.set_files(strip, names)
    if not readable:
        monkeypatch.setattr(compat, "_table", lambda _strip: None)
    other = [f"{7919 * number:020x}.exr" for number in range(300)]
    assert compat.files_among(strip, {*names[10:40], *other}) == set(names[10:40])
    assert compat.files_among(strip, set()) == set()
