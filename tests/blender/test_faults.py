"""A .blend that is saved, undone or reloaded during a job loses no frame, and the next render completes it."""

import random
import time
from pathlib import Path

import bpy
import numpy as np
import pytest

from tests.pumping import PATIENCE

FRAMES = 12


@pytest.fixture
def package(addon):
    return addon.edtalk_blender


@pytest.fixture
def turning(package, scene, obj, tmp_path):
    """A saved .blend with a character that turns its head, so that all frames differ."""
    scene.frame_start, scene.frame_end = 1, FRAMES
    package.animation.keys.write_curves(obj, {"headYaw": np.linspace(0.0, 1.0, FRAMES)}, np.arange(1, FRAMES + 1))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    return obj


def character(package):
    (found,) = (obj for obj in bpy.data.objects if package.character.character.is_character(obj))
    return found


def frames(package) -> dict[str, bytes]:
    folder = package.folders.character_folder(character(package)) / "frames"
    return {path.name: path.read_bytes() for path in folder.glob("[0-9a-f]*.png")}


def begin(package):
    scene, obj = bpy.context.scene, character(package)
    if not package.character.rest_pose.is_known(obj):
        package.engine.session.wait(package.character.rest_pose.measure(obj))
    return package.render.render.render_face(scene, obj, (1, FRAMES + 1))


def pump_until(package, condition) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        package.engine.session.pump(0.01)
        time.sleep(0.002)


def waiting(package) -> int:
    scene = bpy.context.scene
    (strip,) = package.timeline.sequencer.faces(scene, character(package))
    return package.render.face_strip.waiting_frames(strip)


def save() -> None:
    bpy.ops.wm.save_mainfile()


def reload() -> None:
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)


def undo() -> None:
    bpy.ops.ed.undo()


def undo_and_redo() -> None:
    bpy.ops.ed.undo()
    bpy.ops.ed.redo()


@pytest.mark.parametrize("disturb", [save, reload, undo, undo_and_redo], ids=lambda one: one.__name__)
@pytest.mark.parametrize("seed", range(2))
def test_a_disturbed_job_loses_no_frame(package, turning, fake_engine, disturb, seed):
    fake_engine("--slow", 0.02)
    moment = random.Random(seed).randrange(1, FRAMES)
    task, _plan = begin(package)
    bpy.ops.wm.save_mainfile()  # with the strip, which is then complete after a reload
    for step in ("before", "after"):
        bpy.context.scene["step"] = step
        bpy.ops.ed.undo_push(message=step)
    pump_until(package, lambda: len(frames(package)) >= moment)
    before = frames(package)
    disturb()
    if disturb is reload:
        assert not package.engine.session.tasks, "the jobs of the closed file are cancelled"
    else:
        pump_until(package, lambda: task.finished)
        package.handlers.settle_scene(bpy.context.scene, "undo")  # as the timer does
        assert task.error is None
    assert before.items() <= frames(package).items()
    task, plan = begin(package)
    assert plan.reused >= len(before)
    if task:
        package.engine.session.wait(task)
    assert len(frames(package)) == FRAMES
    assert waiting(package) == 0
    assert before.items() <= frames(package).items()
    folder = package.folders.character_folder(character(package)) / "frames"
    assert [path for path in folder.iterdir() if path.name.startswith(".")] == []
    assert not package.engine.session.tasks
    assert not package.engine.session.problems


def test_results_wait_while_blender_saves_or_undoes(package, turning, fake_engine):
    fake_engine()
    session = package.engine.session
    task, _plan = begin(package)
    session.hold("save")
    until = time.monotonic() + PATIENCE
    while len(frames(package)) < FRAMES:
        assert time.monotonic() < until
        session.pump(0.01)
        time.sleep(0.01)
    assert (task.finished, waiting(package)) == (False, FRAMES), "the strip is not changed during the save"
    session.release("save")
    session.wait(task)
    assert waiting(package) == 0


def test_a_file_that_is_closed_during_a_job_leaves_no_process(package, turning, fake_engine):
    client = fake_engine("--slow", 0.2)
    begin(package)
    pump_until(package, lambda: frames(package))
    pid = client.hello.pid
    reload()
    package.engine.session.restart()  # as when the extension is disabled and when Blender quits
    until = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}/stat").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
