"""Rendering a character: plan the shot, place the strip, submit the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bpy

from ...inference.contract.errors import disk_error
from ...inference.contract.files import link_or_copy
from ...inference.contract.protocol import Message
from ...inference.contract.shot import Shot
from .. import compat
from ..character import character
from ..engine import session
from ..engine.session import Task
from ..plate import compositing, dubbing
from ..timeline import sequencer
from .face_shot import Plan, counted, stretches, write_shot
from .face_strip import (
    RENDERED,
    _face_strips,
    _fill,
    _new_strip,
    _picture_size,
    _resize,
    _version,
    _waiting_picture,
    strip_folder,
)

_FLUSH = 0.25  # seconds between two updates of a strip

_renders: dict[tuple[str, str], Task] = {}  # by character and plate: the render that face strips are waiting for


def steps(
    scene: bpy.types.Scene, obj: bpy.types.Object, which: str, tell: Callable[[str, Plan], object] = lambda *_: None
) -> Iterator[list[Task]]:
    """Steps of a `session.Chain` that find out what has to be known of a character, and render it.

    tell: is told its name and each plan that is begun.
    """
    scene_name, uid, later = scene.name, obj.edtalk.uid, False
    for tasks in dubbing.getting_ready(scene_name, uid):
        yield tasks
        later = True
    scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
    if scene is None or obj is None:
        return
    begun = []
    for span, plate in stretches(scene, obj, which):
        task, plan = render_face(scene, obj, span, plate)
        tell(obj.name, plan)
        begun.append(task)
    if later:
        session.edited("Render Face")
    if tasks := [task for task in begun if task]:
        yield tasks


def render_face(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    span: tuple[int, int],
    plate: bpy.types.MovieStrip | None = None,
) -> tuple[Task | None, Plan]:
    """Place or renew a character's face strip over some frames and begin to render what is missing.

    plate: the movie strip that it is laid over. The task is None where every picture is there already. Raises
    EDTalkError before anything is changed when portrait, film or bank are missing or the folder cannot be written to.
    """
    own = _face_strips(scene, obj, plate)
    strip_id = sequencer.identity(own[0]) if own else character.new_uid()[:12]
    plan = write_shot(scene, obj, span, strip_id, plate)
    if own:
        _adopt(plan.shot, strip_folder(own[0]))
        plan = counted(plan.shot, plan.folder)
    waiting = _waiting_picture(obj, plan.shot)
    size = _picture_size(scene, obj, plan.shot, plate)
    strips = own or [_new_strip(scene, obj, span, waiting, strip_id, plate, size)]
    for strip in strips:
        _fill(scene, strip, obj, plan, span, waiting.name, plate)
        _resize(scene, strip, size)
    if plate is not None:
        sequencer.remember_time(plate, sequencer.time_map(scene, plate))
    elif not character.editable_reason(obj):
        obj.edtalk.face_strip = strip_id
    if older := _renders.pop(_key(obj, plate), None):
        older.cancel()
    if not plan.missing:
        compositing.renew(scene)
        return None, plan
    return _submit(scene, obj, plan, [sequencer.identity(strip) for strip in strips], plate), plan


def _adopt(shot: Shot, old_folder: Path) -> None:
    """Take over pictures from where the strip's were before the .blend was saved, renamed or moved."""
    if old_folder == shot.frames_folder or not old_folder.is_dir():
        return
    names = shot.file_names()
    try:
        shot.frames_folder.mkdir(parents=True, exist_ok=True)
        for name in (names[row] for row in shot.missing()):
            if (old_folder / name).is_file():
                link_or_copy(old_folder / name, shot.frames_folder / name)
    except OSError as error:
        raise disk_error(shot.frames_folder, error) from error


def _key(obj: bpy.types.Object, plate: bpy.types.MovieStrip | None) -> tuple[str, str]:
    return obj.edtalk.uid, sequencer.identity(plate) if plate else ""


def _submit(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    plan: Plan,
    strip_ids: list[str],
    plate: bpy.types.MovieStrip | None,
) -> Task:
    scene_name, key, version = scene.name, _key(obj, plate), _version(plan.shot)
    arrived: dict[int, str] = {}
    flushed = time.monotonic()

    def strips() -> list[bpy.types.ImageStrip]:
        """Those that still wait for these pictures: an undo, a later render or the artist may have taken them away."""
        scene = bpy.data.scenes.get(scene_name)
        found = [sequencer.find(scene, one) for one in strip_ids] if scene else []
        return [strip for strip in found if strip and strip.get(RENDERED) == version]

    def receive(message: Message) -> None:
        nonlocal flushed
        if message.kind == "frame_file":
            arrived[message["index"]] = message["file"]
        if not arrived or (message.kind not in ("done", "error") and time.monotonic() - flushed < _FLUSH):
            return
        flushed = time.monotonic()
        waiting = strips()
        for strip in waiting:
            for index, name in arrived.items():
                if strip.elements[index].filename != name:
                    strip.elements[index].filename = name
            compat.refresh(strip)
        arrived.clear()
        if not waiting and key in _renders:
            _renders.pop(key).cancel()  # nobody wants the rest

    def end(task: Task) -> None:
        if _renders.get(key) is task:
            del _renders[key]
        if scene := bpy.data.scenes.get(scene_name):
            compositing.renew(scene)

    task = session.submit("render", {"shot": str(plan.folder)}, label=f"Render '{obj.name}'", on_event=receive)
    _renders[key] = task
    task.then(end)
    return task


def rendering(obj: bpy.types.Object) -> Task | None:
    """The render of this character that is going on."""
    own = (task for (uid, _plate), task in _renders.items() if uid == obj.edtalk.uid)
    return next((task for task in own if task in session.tasks), None)


def is_rendering() -> bool:
    return any(task in session.tasks for task in _renders.values())


def forget_renders() -> None:
    """Forget all renders, when the extension is disabled."""
    _renders.clear()
