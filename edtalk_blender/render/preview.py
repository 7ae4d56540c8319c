"""Live preview: only the latest pose is rendered; superseded requests are dropped.

One preview is rendered at a time; meanwhile only the latest pose of each character waits. A slow device shows fewer
frames per second, but nothing else slows down.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import bpy

from ...inference.contract import answers, requests
from ...inference.contract.errors import EDTalkError
from ..character import character, files, rest_pose, sliders, viewport
from ..engine import session
from ..engine.client import State
from ..engine.session import Task
from ..timeline import sequencer

_SEARCH_AGAIN = 2.0  # seconds between two searches for the scene's characters


@dataclass
class _State:
    """The requested and the waiting previews.

    requested: by character, the pose and files of its last preview. waiting: characters that changed during another
    one's preview, the oldest first. task: the last preview. found: scene, names of its characters, time of the search.
    """

    requested: dict[str, bytes] = field(default_factory=dict)
    waiting: dict[str, None] = field(default_factory=dict)
    task: Task | None = None
    found: tuple[str, list[str], float] = ("", [], 0.0)


_state = _State()


def is_on(scene: bpy.types.Scene) -> bool:
    """Whether previews are rendered: enabled, in a window, with a working engine, and Blender not busy."""
    if session.blocking() or not sequencer.settings(scene).preview or not session.may_apply():
        return False
    client = session.current_client()
    return client.state is not State.FAILED if client else session.find_engine().usable


def show(scene: bpy.types.Scene, obj: bpy.types.Object, depsgraph: bpy.types.Depsgraph) -> None:
    """Render a character as it is evaluated now, unless its preview shows that already."""
    uid = obj.edtalk.uid
    try:
        pose = sliders.row(obj.evaluated_get(depsgraph))
        face = files.bank_path(obj), files.portrait_path(obj), files.crop_of(obj)
        request = requests.Preview(*face, pose)
        if not rest_pose.is_known(obj):
            if not rest_pose.has_failed(obj) and not rest_pose.is_waiting(obj):
                rest_pose.measure(obj)
            return
    except EDTalkError:
        return  # the character's panel reports what is missing
    source = repr(face).encode() + pose.tobytes()
    if _state.requested.get(uid) == source:
        return
    if _state.task and not _state.task.finished:
        _state.waiting[uid] = None
        return
    _submit(scene, uid, request, source)


def _submit(scene: bpy.types.Scene, uid: str, request: requests.Preview, source: bytes) -> None:
    scene_name = scene.name

    def apply(answer: answers.PreviewResult) -> None:
        obj = character.find(uid)
        if obj is not None:
            viewport.show_pixels(obj, viewport.to_rgba(answer.pixels))
            session.redraw(("VIEW_3D", "IMAGE_EDITOR"))

    def show_next(_task: Task) -> None:
        scene = bpy.data.scenes.get(scene_name)
        if _state.waiting and scene is not None:
            oldest = next(iter(_state.waiting))
            del _state.waiting[oldest]
            obj = character.find(oldest)
            if obj is not None and obj.name in scene.objects:
                show(scene, obj, scene.view_layers[0].depsgraph)

    _state.waiting.pop(uid, None)
    _state.requested[uid] = source
    _state.task = session.submit(request, on_done=apply)
    _state.task.then(show_next)


def scene_changed(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    """Handle a depsgraph update: render the characters that it changed."""
    changed = [update.id.original for update in depsgraph.updates if isinstance(update.id, bpy.types.Object)]
    changed = [obj for obj in changed if character.is_character(obj)]
    if changed and is_on(scene):
        for obj in changed:
            show(scene, obj, depsgraph)


def frame_changed(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    """Handle a frame change: render the characters that look different at the new frame."""
    names = _character_names(scene)
    if names and is_on(scene):
        for obj in (scene.objects.get(name) for name in names):
            if character.is_character(obj):
                show(scene, obj, depsgraph)


def _character_names(scene: bpy.types.Scene) -> list[str]:
    """Names of the scene's characters, cached, because a search of thousands of objects slows down playback."""
    scene_name, names, when = _state.found
    if scene_name != scene.name or time.monotonic() - when > _SEARCH_AGAIN:
        names = [obj.name for obj in character.characters(scene)]
        _state.found = scene.name, names, time.monotonic()
    return names


def forget() -> None:
    """Forget all requests; called when another file was loaded or the engine restarted."""
    global _state
    _state = _State()


def unregister() -> None:
    forget()
