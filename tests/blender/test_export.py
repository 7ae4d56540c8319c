"""Export Movie: which frames it takes, in which size and range, and that the scene's settings stay."""

import json
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest

from tests.panel_layout import Layout, draw
from tests.pumping import pump_until
from tests.strip_material import noise, write_sound

FRAMES = 12


@pytest.fixture
def rendered(package, scene, obj, fake_engine, tmp_path):
    """A saved file with a rendered character that turns its head and speaks, in a wide scene of 250 frames."""
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    package.animation.keys.write_curves(obj, {"headYaw": np.linspace(0.0, 1.0, FRAMES)}, np.arange(1, FRAMES + 1))
    sound = package.compat.new_sound(scene, "line", write_sound(tmp_path / "line.wav", noise(0.5)), 1, 1)
    package.compat.set_strip_value(sound, "right_handle", FRAMES + 1)
    package.timeline.sequencer.assign(sound, obj)
    scene.render.resolution_x, scene.render.resolution_y = 32, 16
    fake_engine()
    bpy.ops.edtalk.render_face(frames="DIALOGUE")
    return obj


def strip_of(package, obj):
    (strip,) = package.timeline.sequencer.faces(bpy.context.scene, obj)
    return strip


def export(tmp_path, name="out.mp4", **options):
    """Export with the tests' engine, which writes what it was asked for as JSON."""
    assert bpy.ops.edtalk.export_movie(filepath=str(tmp_path / name), **options) == {"FINISHED"}
    return json.loads((tmp_path / name).read_bytes())


def test_a_face_alone_is_encoded_from_its_frames(package, rendered, tmp_path):
    movie = export(tmp_path)
    assert movie["pictures"] == [element.filename for element in strip_of(package, rendered).elements]
    assert movie["fps"] == 24
    assert movie["width"] == 0, "the frames' own size"
    assert movie["sound"] > 1000
    assert "Exported 12 frames" in package.engine.session.notices[-1]
    assert not list(tmp_path.glob("edtalk_*.wav"))


def test_format_and_width_are_passed_on(package, rendered, tmp_path):
    movie = export(tmp_path, "out.mov", format="PRORES", width=640)
    assert (movie["codec"], movie["width"]) == ("prores", 640)
    assert export(tmp_path, "out.mkv", format="FFV1")["codec"] == "ffv1"


def test_a_trimmed_strip_and_other_ranges(package, rendered, tmp_path):
    scene, strip = bpy.context.scene, strip_of(package, rendered)
    names = [element.filename for element in strip.elements]
    package.compat.set_strip_value(strip, "left_handle", 4)
    assert export(tmp_path)["pictures"] == names[3:]
    scene.use_preview_range, scene.frame_preview_start, scene.frame_preview_end = True, 5, 7
    assert export(tmp_path, frames="PREVIEW")["pictures"] == names[4:7]
    assert (scene.frame_start, scene.frame_end, scene.use_preview_range) == (1, 250, True), "restored after the mixdown"
    with pytest.raises(RuntimeError, match="241 of 250 frames have no rendered face, the first is 1"):
        export(tmp_path, frames="SCENE")
    scene.use_preview_range = False
    with pytest.raises(RuntimeError, match="no preview range"):
        export(tmp_path, frames="PREVIEW")


def test_missing_frames_are_named_and_nothing_is_written(package, rendered, tmp_path):
    strip = strip_of(package, rendered)
    (package.render.face_strip.folder_of(strip) / strip.elements[2].filename).unlink()
    with pytest.raises(RuntimeError, match="1 of 12 frames have no rendered face, the first is 3"):
        export(tmp_path)
    assert not (tmp_path / "out.mp4").exists()


def test_a_covering_strip_wins(package, rendered, tmp_path):
    scene, strip = bpy.context.scene, strip_of(package, rendered)
    names = [element.filename for element in strip.elements]
    copy = package.compat.new_image(scene, "other", package.render.face_strip.folder_of(strip) / names[0], 9, 5)
    for key in (package.timeline.sequencer.CHARACTER, package.timeline.sequencer.LAYER):
        copy[key] = strip[key]
    assert export(tmp_path)["pictures"] == [*names[:4], names[0], *names[5:]]
    copy.mute = True
    assert export(tmp_path)["pictures"] == names


def test_what_else_is_visible_is_rendered_by_blender(addon, package, rendered, tmp_path, demo):
    export_module, scene = package.render.export, bpy.context.scene
    assert export_module.is_face_alone(scene)
    strip = strip_of(package, rendered)
    strip[package.timeline.sequencer.LAYER] = "matte"
    assert not export_module.is_face_alone(scene), "transparent"
    strip[package.timeline.sequencer.LAYER] = "square"
    package.compat.new_image(scene, "background", demo / "portrait_2.png", 5, 1)
    assert not export_module.is_face_alone(scene)
    before = (scene.render.filepath, scene.render.image_settings.file_format, scene.render.use_file_extension)
    assert bpy.ops.edtalk.export_movie(filepath=str(tmp_path / "out.mp4")) == {"FINISHED"}
    movie = package.compat.strip_collection(scene).new_movie(
        name="out", filepath=str(tmp_path / "out.mp4"), channel=8, frame_start=1
    )
    assert package.compat.strip_value(movie, "duration") == FRAMES, "the range of the face strip"
    assert (movie.elements[0].orig_width, movie.elements[0].orig_height) == (32, 16)
    assert before == (scene.render.filepath, scene.render.image_settings.file_format, scene.render.use_file_extension)
    assert (scene.frame_start, scene.frame_end) == (1, 250)
    assert package.engine.session.may_apply(), "results are applied again"
    assert not list(tmp_path.glob(".out*"))


def test_a_missing_folder_is_an_error(rendered, tmp_path):
    with pytest.raises(RuntimeError, match="does not exist"):
        export(tmp_path / "none")


def test_a_failed_render_keeps_the_previous_movie(package, rendered, tmp_path, monkeypatch):
    (tmp_path / "out.mp4").write_bytes(b"the movie before")
    module, scene = package.render.export, bpy.context.scene
    monkeypatch.setattr(module.compat, "set_video_output", lambda *_: None)  # no file is written at the expected path
    scene.render.filepath = str(tmp_path / "elsewhere_")
    with pytest.raises(RuntimeError, match="was not written"):
        bpy.ops.edtalk.export_movie(filepath=str(tmp_path / "out.mp4"), content="SCENE")
    assert (tmp_path / "out.mp4").read_bytes() == b"the movie before"
    assert not list(tmp_path.glob(".out*"))


def test_a_failed_encoding_is_reported_and_leaves_no_sound(package, rendered, fake_engine, tmp_path):
    fake_engine("--die-after", 3)
    temporary = Path(bpy.app.tempdir)
    before = set(temporary.glob("*.wav"))  # copies of packed sounds are kept
    with pytest.raises(RuntimeError, match="engine"):
        export(tmp_path)
    assert set(temporary.glob("*.wav")) == before


# --- Notices


def test_finished_tasks_leave_notices_until_they_are_dismissed(package, rendered, scene):
    session = package.engine.session
    session.notices.clear()
    for strip in package.compat.strips(scene):
        strip.select = strip.type == "SOUND"
    bpy.ops.edtalk.lip_sync()
    package.animation.keys.insert_keys(rendered, {"headYaw": 3.0}, 1)
    bpy.ops.edtalk.render_face(frames="DIALOGUE")
    assert [text.split()[0] for text in session.notices] == ["Lip", "Rendered"]
    layout = draw(package.panels.status.EDTALK_PT_status_sequencer)
    drawn = " ".join(layout.texts("label"))  # in lines
    assert all(text in drawn for text in session.notices)
    assert session.status_bar_notice() == session.notices[-1]
    assert bpy.ops.edtalk.dismiss() == {"FINISHED"}
    assert not session.notices
    assert session.status_bar_notice() == ""


def test_notices_leave_room_for_the_panels(package):
    """After a morning of work the sidebar still shows its buttons: the latest three, each once."""
    session = package.engine.session
    for text in ("one", "two", "three", "four", "two"):
        session.notify(text)
    assert list(session.notices) == ["three", "four", "two"]
    session.notices.clear()


def test_the_status_bar_shows_the_running_task(addon, package, rendered, fake_engine):
    client = fake_engine("--slow", 0.2)
    status, header = package.panels.status, SimpleNamespace(layout=Layout())
    package.animation.keys.insert_keys(rendered, {"headYaw": 4.0}, 1)
    task, _plan = package.render.render.render_face(bpy.context.scene, rendered, (1, 4))
    status.draw_in_status_bar(header, bpy.context)
    (text,) = header.layout.texts("progress")
    assert text.startswith("Render 'Anna'")
    pump_until(package, lambda: client.hello)
    progress = addon.inference.contract.answers.Progress
    task.job.progress = progress("rendering", 2, 3, 216.0)
    assert task.texts == ("Render 'Anna': rendering 2 of 3, 3 min 36 s left", "Render 'Anna': 2 of 3")
    shown = draw(status.EDTALK_PT_status_sequencer)
    assert shown.texts("progress") == ["Render 'Anna': 2 of 3"], "the longer text does not fit into the sidebar"
    task.job.progress = progress("loading")
    assert task.texts == ("Render 'Anna': loading", "Render 'Anna': loading")
    task.cancel()
    package.engine.session.wait(task)
    assert "Rendered" not in str(list(package.engine.session.notices)[-1:]), "it was cancelled"
