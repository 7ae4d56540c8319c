"""Rendering a character: write its shot, fill its face strip and have the worker render what is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import bpy

from ...inference.contract import answers, requests
from .. import compat
from ..character import character
from ..character.snapshot import CharacterSnapshot
from ..engine import session, work
from ..engine.session import Task
from ..folders import is_temporary
from ..plate import compositing, dubbing
from ..timeline import sequencer
from . import arrangement, cache_limit, face_shot, face_strip, relocation
from .draft import Draft
from .face_shot import Plan

_FLUSH = 0.25  # seconds between two updates of a strip


def steps(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    which: str,
    on_plan: Callable[[str, Plan], object] = lambda *_: None,
    undo: str = "Render Face",
) -> Iterator[list[Task]]:
    """Steps of a `session.Chain` that render a character, after measuring its rest pose and tracking its movies.

    on_plan: called with the character's name and each plan whose render begins. undo: name of the undo step.
    """
    scene_name, uid = scene.name, obj.edtalk.uid
    yield from dubbing.preparation(scene_name, uid)
    scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
    if scene is None or obj is None:
        return
    drafts = [
        Draft(scene, obj, span, plate, keep=which in ("PREVIEW", face_shot.FRAME))
        for span, plate in face_shot.render_ranges(scene, obj, which)
    ]
    for draft in drafts:
        draft.check()
    for older in [task for draft in drafts for task in session.unfinished(draft.subject)]:
        older.cancel()
    while late := [draft for draft in drafts if not draft.is_ready()]:
        label = f"Prepare '{obj.name}'"
        yield [work.begin(draft.steps(), label=label, subject=draft.subject, undo=undo) for draft in late]
        scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
        if scene is None or obj is None or not all(draft.ready for draft in drafts):
            return
    tasks = []
    for draft in drafts:
        task, plan = commit(scene, obj, draft)
        on_plan(obj.name, plan)
        tasks += [task] if task else []
    session.edited(undo)
    if tasks:
        yield tasks


@contextmanager
def reported_plans(operator: bpy.types.Operator) -> Iterator[Callable[[str, Plan], None]]:
    """`on_plan` for `steps`: an operator reports the plans of the renders that begin within this block.

    If a button was pressed, renders begin later, and those without a missing frame are shown in the status bar; of the
    others, the progress is shown.
    """
    messages, is_running = [], True

    def on_plan(name: str, plan: Plan) -> None:
        message = f"{name}: {_frames(plan.missing)} to render, {plan.reused} already rendered"
        if is_running:
            messages.append(message)
        elif not plan.missing:
            session.notify(message)

    try:
        yield on_plan
    finally:
        is_running = False
        if is_temporary():
            messages.append("Save the .blend file to keep the frames when Blender closes")
        if messages:  # in one report, because Blender shows only the last
            operator.report({"INFO"}, ". ".join(messages))


def render_face(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    span: tuple[int, int],
    plate: bpy.types.MovieStrip | None = None,
    *,
    keep: bool = False,
) -> tuple[Task | None, Plan]:
    """Add or update a character's face strip from frame span[0] to the one before span[1], and begin to render.

    plate: the movie strip that the face is rendered over. keep: keep the strip's other frames as they are, instead of
    setting its range to `span`. The task is None if all pictures exist already. Raises
    EDTalkError before anything is changed where portrait, movie or bank are missing or the folder cannot be written to.
    """
    draft = Draft(scene, obj, span, plate, keep=keep)
    work.complete(draft.steps())
    return commit(scene, obj, draft)


def commit(scene: bpy.types.Scene, obj: bpy.types.Object, draft: Draft) -> tuple[Task | None, Plan]:
    """Show a prepared render in the character's face strip, and begin to render. Returns as `render_face`."""
    ready = draft.ready
    assert ready is not None, "it has been prepared"
    face, plan, content = ready.face, ready.plan, ready.content
    plate = sequencer.find(scene, content.plate) if content.plate else None
    strips = face_strip.find(scene, obj, plate)
    is_new = not strips
    if is_new:
        dialogue = sequencer.dialogue(scene, obj)
        below = [*dialogue, plate] if plate else dialogue
        strips = [face_strip.add(scene, face, content, ready.strip_id, below, plate)]
    for strip in strips:
        face_strip.fill(scene, strip, content)
    if is_new and (faces := arrangement.hiding_each_other(scene, strips[0])):
        arrangement.arrange(scene, faces)
    if plate is not None:
        sequencer.remember_time(plate, sequencer.time_map(scene, plate))
    elif face.editable:
        obj.edtalk.face_strip = ready.strip_id

    for older in session.unfinished(draft.subject):
        older.cancel()
    if not plan.missing:
        compositing.update(scene)
        return None, plan
    strip_ids = [sequencer.identity(strip) for strip in strips]
    return _submit(scene, face, plan, strip_ids, draft.subject, content.version), plan


def _submit(
    scene: bpy.types.Scene,
    face: CharacterSnapshot,
    plan: Plan,
    strip_ids: list[str],
    subject: tuple[str, str],
    version: str,
) -> Task:
    scene_name = scene.name
    arrived: dict[int, str] = {}
    flushed = time.monotonic()

    def waiting_strips() -> list[bpy.types.ImageStrip]:
        """The strips that still show this shot: an undo, a later render or the artist may have removed them."""
        scene = bpy.data.scenes.get(scene_name)
        found = [sequencer.find(scene, one) for one in strip_ids] if scene else []
        return [strip for strip in found if strip and strip.get(face_strip.RENDERED) == version]

    def receive(answer: answers.Answer) -> None:
        nonlocal flushed
        if isinstance(answer, answers.FrameFile):
            arrived[answer.index] = answer.file
        if not arrived or (answer.kind not in ("done", "error") and time.monotonic() - flushed < _FLUSH):
            return
        flushed = time.monotonic()
        strips = waiting_strips()
        for strip in strips:
            _show(strip, arrived, plan.shot.frames_folder)
        arrived.clear()
        if not strips:
            task.cancel()

    def end(_task: Task) -> None:
        if scene := bpy.data.scenes.get(scene_name):
            compositing.update(scene)
        cache_limit.enforce()

    name = face.name

    def finished(answer: answers.RenderResult) -> str:
        return f"Rendered {_frames(answer.rendered)} of {name} in {session.duration(answer.seconds)}"

    request = requests.Render(plan.folder, (plan.rows.start, plan.rows.stop))
    task = session.submit(request, label=f"Render '{name}'", subject=subject, on_event=receive, finished=finished)
    task.then(end)
    return task


def _show(strip: bpy.types.ImageStrip, pictures: Mapping[int, str], rendered: Path) -> None:
    """Show pictures, by index, in a face strip. rendered: the folder that they are in."""
    folder = face_strip.folder_of(strip)
    if os.path.abspath(folder) != os.path.abspath(rendered):  # saved during the render
        relocation.bring(rendered, folder, pictures.values())
    for index, name in pictures.items():
        if strip.elements[index].filename != name:
            strip.elements[index].filename = name
    compat.refresh(strip)


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def rendering(obj: bpy.types.Object) -> Task | None:
    """The latest unfinished render of a character."""
    return next((task for task in reversed(session.tasks) if task.subject and task.subject[0] == obj.edtalk.uid), None)


def is_rendering() -> bool:
    """Whether the frames of any character are being rendered or wait for it."""
    return any(task.subject for task in session.tasks)
