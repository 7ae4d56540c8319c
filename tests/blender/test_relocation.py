"""Rendered frames follow their .blend when it is saved, and nothing is lost if that is interrupted."""

import errno
import os
import shutil
from pathlib import Path

import bpy
import numpy as np
import pytest

from tests.panel_layout import draw

FRAMES = 8


@pytest.fixture
def turning(package, scene, obj):
    """A character in an unsaved file that turns its head, so that all frames differ."""
    shutil.rmtree(Path(bpy.app.tempdir) / "edtalk", ignore_errors=True)  # left by other tests in this Blender
    scene.frame_start, scene.frame_end = 1, FRAMES
    package.animation.keys.write_curves(obj, {"headYaw": np.linspace(0.0, 1.0, FRAMES)}, np.arange(1, FRAMES + 1))
    return obj


@pytest.fixture
def rendered(package, turning, fake_engine):
    fake_engine()
    bpy.ops.edtalk.render_face(frames="SCENE")
    return turning


def strip_of(package):
    (strip,) = (one for one in package.compat.strips(bpy.context.scene) if package.timeline.sequencer.is_face(one))
    return strip


def folder_of(package) -> Path:
    return Path(os.path.abspath(package.render.face_strip.folder_of(strip_of(package))))


def missing(package) -> int:
    strip = strip_of(package)
    names = [element.filename for element in strip.elements]
    assert len(set(names)) == FRAMES
    gone = sum(not (folder_of(package) / name).is_file() for name in names)
    assert package.render.face_strip.missing_frames(strip) == gone
    return gone


def save(path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(path), **options)


def reopen(path: Path, temporary: Path | None = None) -> None:
    """Open a file as after Blender has quit, which deletes its temporary folder."""
    if temporary is not None:
        shutil.rmtree(temporary)
    bpy.ops.wm.open_mainfile(filepath=str(path))


def shot_of(addon, package):
    folder = Path(bpy.path.abspath(strip_of(package)[package.timeline.sequencer.SHOT]))
    return folder, addon.inference.contract.shot.Shot.read(folder)


# --- Save, Save As, Save Copy


def test_frames_of_an_unsaved_file_are_there_after_save_and_quit(addon, package, rendered, tmp_path):
    temporary = folder_of(package)
    assert package.folders.is_in_temporary_folder(temporary)
    save(tmp_path / "late.blend")
    reopen(tmp_path / "late.blend", temporary.parent)
    assert missing(package) == 0
    assert strip_of(package).directory == "//late_edtalk/Anna/frames/"
    folder, shot = shot_of(addon, package)
    assert folder == tmp_path / "late_edtalk" / "Anna" / "shots" / folder.name
    assert shot.frames_folder == folder_of(package)
    bpy.ops.edtalk.render_face(frames="SCENE")
    assert len(list(folder_of(package).glob("[0-9a-f]*.png"))) == FRAMES, "nothing was rendered again"


def test_earlier_frames_of_an_unsaved_file_are_kept_for_undo(package, rendered, tmp_path):
    before = {element.filename for element in strip_of(package).elements}
    package.animation.keys.insert_keys(rendered, {"jawOpen": 0.7}, 1)
    bpy.ops.edtalk.render_face(frames="SCENE")
    save(tmp_path / "late.blend")
    assert before <= {path.name for path in folder_of(package).iterdir()}


def test_a_moved_pair_of_file_and_folder_shows_its_frames(package, rendered, tmp_path):
    temporary = folder_of(package)
    save(tmp_path / "late.blend")
    (tmp_path / "new").mkdir()
    for name in ("late.blend", "late_edtalk"):
        shutil.move(tmp_path / name, tmp_path / "new" / name)
    reopen(tmp_path / "new" / "late.blend", temporary.parent)
    assert missing(package) == 0


@pytest.mark.parametrize("remap", [True, False], ids=["remapped", "as it is"])
@pytest.mark.parametrize("where", ["shot_v2.blend", "other/deep/shot.blend"])
def test_save_as_gives_each_file_its_own_frames(addon, package, rendered, tmp_path, where, remap):
    first, second = tmp_path / "shot.blend", tmp_path / where
    save(first)
    save(second, relative_remap=remap)
    assert missing(package) == 0
    assert folder_of(package) == second.parent / f"{second.stem}_edtalk" / "Anna" / "frames"
    assert shot_of(addon, package)[0].is_relative_to(second.parent)
    shutil.rmtree(tmp_path / "shot_edtalk")
    reopen(second)
    assert missing(package) == 0
    reopen(first)
    assert missing(package) == FRAMES, "its folder was deleted"


def test_save_copy_keeps_the_paths_of_the_open_file(addon, package, rendered, tmp_path):
    save(tmp_path / "shot.blend")
    before = strip_of(package).directory, strip_of(package)[package.timeline.sequencer.SHOT]
    save(tmp_path / "copies" / "copy.blend", copy=True)
    assert (strip_of(package).directory, strip_of(package)[package.timeline.sequencer.SHOT]) == before
    assert missing(package) == 0
    reopen(tmp_path / "copies" / "copy.blend")
    assert missing(package) == 0
    assert folder_of(package) == tmp_path / "copies" / "copy_edtalk" / "Anna" / "frames"
    assert shot_of(addon, package)[0].is_relative_to(tmp_path / "copies")


def test_a_copy_of_an_unsaved_file_has_its_own_frames(package, rendered, tmp_path):
    temporary = folder_of(package)
    save(tmp_path / "copy.blend", copy=True)
    assert folder_of(package) == temporary
    reopen(tmp_path / "copy.blend", temporary.parent)
    assert missing(package) == 0


def test_undo_after_save_as_finds_the_frames(package, rendered, tmp_path):
    save(tmp_path / "shot.blend")
    directory = strip_of(package).directory
    save(tmp_path / "other" / "shot_v2.blend")
    strip_of(package).directory = directory  # what an undo restores
    assert package.render.face_strip.missing_frames(strip_of(package)) == FRAMES
    package.handlers.settle_scene(bpy.context.scene, "undo")
    assert missing(package) == 0


def test_a_frame_that_is_rendered_during_a_save_arrives_in_the_new_folder(package, turning, fake_engine, tmp_path):
    fake_engine("--slow", 0.05)
    package.engine.session.wait(package.character.rest_pose.measure(turning))
    task, _plan = package.render.render.render_face(bpy.context.scene, turning, (1, FRAMES + 1))
    temporary = folder_of(package)
    save(tmp_path / "late.blend")
    package.engine.session.wait(task)
    assert folder_of(package) != temporary
    assert missing(package) == 0


# --- Interrupted moves


def fail_after(count: int, error: int):
    """`link_or_copy` that raises an OSError after some files, as on a full disk."""
    done = []

    def link(source, target):
        if len(done) >= count:
            raise OSError(error, os.strerror(error), str(target))
        done.append(target)
        shutil.copyfile(source, target)

    return link


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES], ids=["disk full", "no permission"])
def test_a_failed_move_keeps_the_frames_and_is_repeated(package, rendered, tmp_path, monkeypatch, count, error):
    temporary = folder_of(package)
    real = package.render.relocation.link_or_copy
    disk_error = package.render.relocation.disk_error

    link = fail_after(count, error)

    def failing(source, target):
        try:
            link(source, target)
        except OSError as reason:
            raise disk_error(target, reason) from reason

    monkeypatch.setattr(package.render.relocation, "link_or_copy", failing)
    save(tmp_path / "late.blend")
    assert (tmp_path / "late.blend").is_file(), "the save itself succeeds"
    assert folder_of(package) == temporary
    assert missing(package) == 0
    (problem,) = package.engine.session.problems
    assert str(temporary) in problem.message
    assert "save again" in problem.hint
    monkeypatch.setattr(package.render.relocation, "link_or_copy", real)
    bpy.ops.wm.save_mainfile()
    reopen(tmp_path / "late.blend", temporary.parent)
    assert missing(package) == 0


def test_a_frame_that_was_cut_off_by_a_crash_is_brought_again(package, rendered, tmp_path):
    name = strip_of(package).elements[0].filename
    target = tmp_path / "late_edtalk" / "Anna" / "frames" / name
    target.parent.mkdir(parents=True)
    whole = (folder_of(package) / name).read_bytes()
    target.write_bytes(whole[: len(whole) // 2])
    save(tmp_path / "late.blend")
    assert target.read_bytes() == whole


def test_a_folder_without_permission_leaves_everything_in_place(package, rendered, tmp_path):
    (tmp_path / "late_edtalk").write_text("a file where the folder would be")
    temporary = folder_of(package)
    save(tmp_path / "late.blend")
    assert folder_of(package) == temporary
    assert missing(package) == 0
    assert "late_edtalk" in package.engine.session.problems[-1].message


# --- Missing frames


def test_missing_frames_are_counted_and_rendered_with_one_button(package, rendered, tmp_path):
    save(tmp_path / "shot.blend")
    lost = [element.filename for element in strip_of(package).elements][2:5]
    for name in lost:
        (folder_of(package) / name).unlink()
    reopen(tmp_path / "shot.blend")
    assert missing(package) == 3
    layout = draw(package.panels.sequencer.EDTALK_PT_face)
    assert f"3 of {FRAMES} frames" in " ".join(layout.texts("label"))
    bpy.context.scene.frame_end = 3  # the strip's own range is rendered
    obj = bpy.data.objects["Anna"]
    assert bpy.ops.edtalk.render_face(frames="STRIP", uid=obj.edtalk.uid) == {"FINISHED"}
    assert missing(package) == 0
    assert "missing" not in " ".join(draw(package.panels.sequencer.EDTALK_PT_face).texts("label"))


def test_blender_knows_the_size_of_every_picture(package, rendered, tmp_path):
    """Otherwise it hangs or runs out of memory where a picture is missing, because it draws one of a random size."""
    save(tmp_path / "shot.blend")

    def sizes():
        return {(element.orig_width, element.orig_height) for element in strip_of(package).elements}

    size = tuple(strip_of(package)[package.render.face_strip.SIZE])
    assert sizes() == {size}
    strip_of(package).elements.append("waiting_0_8.png")
    package.render.face_strip.protect(bpy.context.scene)
    assert sizes() == {size}
    strip_of(package).elements.pop(FRAMES)
    bpy.ops.wm.save_mainfile()
    shutil.rmtree(tmp_path / "shot_edtalk")
    reopen(tmp_path / "shot.blend")
    assert sizes() == {size}
    assert missing(package) == FRAMES
