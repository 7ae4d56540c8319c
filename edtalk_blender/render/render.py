"""Rendering a character: write its shot, fill its face strip and have the worker render what is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import bpy

from ...inference.contract import answers, requests
from ...inference.contract.shot import Shot
from .. import compat
from ..character import character, snapshot, viewport
from ..character.snapshot import CharacterSnapshot
from ..engine import session
from ..engine.session import Task
from ..folders import is_temporary
from ..plate import compositing, dubbing
from ..timeline import footage, sequencer, timemap
from . import arrangement, cache_limit, face_shot, face_strip, relocation
from .face_shot import Plan

_FLUSH = 0.25  # seconds between two updates of a strip


def steps(
    scene: bpy.types.Scene, obj: bpy.types.Object, which: str, on_plan: Callable[[str, Plan], object] = lambda *_: None
) -> Iterator[list[Task]]:
    """Steps of a `session.Chain` that render a character, after measuring its rest pose and tracking its movies.

    on_plan: called with the character's name and each plan whose render begins.
    """
    scene_name, uid, waited = scene.name, obj.edtalk.uid, False
    for tasks in dubbing.preparation(scene_name, uid):
        yield tasks
        waited = True
    scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
    if scene is None or obj is None:
        return
    tasks = []
    for span, plate in face_shot.render_ranges(scene, obj, which):
        task, plan = render_face(scene, obj, span, plate, keep=which in ("PREVIEW", face_shot.FRAME))
        on_plan(obj.name, plan)
        tasks += [task] if task else []
    if waited:
        session.edited("Render Face")
    if tasks:
        yield tasks


@contextmanager
def reported_plans(operator: bpy.types.Operator) -> Iterator[Callable[[str, Plan], None]]:
    """`on_plan` for `steps`: an operator reports the plans of the renders that begin within this block.

    Renders that begin later, after something was measured, are not reported, because the operator has already ended.
    """
    messages, is_running = [], True

    def on_plan(name: str, plan: Plan) -> None:
        if is_running:
            messages.append(f"{name}: {plan.missing} frames to render, {plan.reused} already rendered")

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
    face = snapshot.read(obj, with_portrait=plate is None)
    strips = face_strip.find(scene, obj, plate)
    strip_id = sequencer.identity(strips[0]) if strips else character.new_uid()[:12]

    shown = _whole_range(scene, strips, span, plate) if keep else span
    plan = face_shot.write(scene, obj, face, shown, strip_id, plate)
    rows = range(span[0] - shown[0], span[1] - shown[0])
    if strips:
        _bring_pictures(plan.shot, strips[0])
    plan = Plan.of(plan.shot, plan.folder, rows)

    dialogue = sequencer.dialogue(scene, obj)
    content = face_strip.Content(
        shot=plan.shot,
        shot_folder=plan.folder,
        placeholder=face_strip.placeholder(face, plan.shot.frames_folder, viewport.face_image(obj)).name,
        size=_picture_size(scene, face, plate),
        rows=rows,
        sounds=() if plate else tuple(sequencer.identity(one) for one in dialogue if sequencer.overlaps(one, shown)),
        plate=sequencer.identity(plate) if plate else "",
        plate_differs=plate is not None and not dubbing.is_frame_by_frame(scene, plate),
    )
    is_new = not strips
    if is_new:
        below = [*dialogue, plate] if plate else dialogue
        strips = [face_strip.add(scene, face, content, strip_id, below, plate)]
    for strip in strips:
        face_strip.fill(scene, strip, content)
    if is_new and (faces := arrangement.hiding_each_other(scene, strips[0])):
        arrangement.arrange(scene, faces)
    if plate is not None:
        sequencer.remember_time(plate, sequencer.time_map(scene, plate))
    elif face.editable:
        obj.edtalk.face_strip = strip_id

    subject = (face.uid, content.plate)
    for older in session.unfinished(subject):
        older.cancel()
    if not plan.missing:
        compositing.update(scene)
        return None, plan
    return _submit(scene, face, plan, [sequencer.identity(strip) for strip in strips], subject), plan


def _whole_range(
    scene: bpy.types.Scene,
    strips: list[bpy.types.ImageStrip],
    span: tuple[int, int],
    plate: bpy.types.MovieStrip | None,
) -> tuple[int, int]:
    """The range of a face strip extended to `span`; over a plate as far as the plate's visible frames are known."""
    ranges = [sequencer.picture_range(strip) for strip in strips[:1]]
    if plate is not None:
        clock = footage.time_map(scene, plate)
        ranges = [(max(start, clock.start), min(end, clock.end)) for start, end in ranges]
    return timemap.union([span, *(one for one in ranges if one[0] < one[1])]) or span


def _bring_pictures(shot: Shot, strip: bpy.types.ImageStrip) -> None:
    """Link pictures from the folder that the strip used before the .blend was saved, renamed or moved."""
    old_folder = face_strip.folder_of(strip)
    if old_folder != shot.frames_folder and old_folder.is_dir():
        names = {element.filename for element in strip.elements} | set(shot.file_names())
        wanted = {name for name in names if face_strip.PICTURE.fullmatch(name)}
        relocation.bring(old_folder, shot.frames_folder, wanted)


def _picture_size(
    scene: bpy.types.Scene, face: CharacterSnapshot, plate: bpy.types.MovieStrip | None
) -> tuple[int, int]:
    """Width and height of the rendered pictures."""
    if not face.is_full_frame:
        return face.square, face.square
    size = face.portrait_size if plate is None else dubbing.tracked(scene, face, plate).size
    assert size is not None, "the shot has been written, so the portrait can be read"
    return size


def _submit(
    scene: bpy.types.Scene, face: CharacterSnapshot, plan: Plan, strip_ids: list[str], subject: tuple[str, str]
) -> Task:
    scene_name, version = scene.name, face_strip.version(plan.shot)
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
            folder = face_strip.folder_of(strip)
            if os.path.abspath(folder) != os.path.abspath(plan.shot.frames_folder):  # saved during the render
                relocation.bring(plan.shot.frames_folder, folder, arrived.values())
            for index, name in arrived.items():
                if strip.elements[index].filename != name:
                    strip.elements[index].filename = name
            compat.refresh(strip)
        arrived.clear()
        if not strips:
            task.cancel()

    def end(_task: Task) -> None:
        if scene := bpy.data.scenes.get(scene_name):
            compositing.update(scene)
        cache_limit.enforce()

    name = face.name

    def finished(answer: answers.RenderResult) -> str:
        return f"Rendered {answer.rendered} frames of {name} in {session.duration(answer.seconds)}"

    request = requests.Render(plan.folder, (plan.rows.start, plan.rows.stop))
    task = session.submit(request, label=f"Render '{name}'", subject=subject, on_event=receive, finished=finished)
    task.then(end)
    return task


def rendering(obj: bpy.types.Object) -> Task | None:
    """The latest unfinished render of a character."""
    return next((task for task in reversed(session.tasks) if task.subject and task.subject[0] == obj.edtalk.uid), None)


def is_rendering() -> bool:
    return any(task.subject for task in session.tasks)
