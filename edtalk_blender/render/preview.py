"""Live preview: only the latest pose is rendered; superseded requests are dropped.

One preview is rendered at a time; meanwhile only the latest pose of each character waits. A slow device shows fewer
frames per second, but nothing else slows down.
"""

from __future__ import annotations

import time

import bpy

from ...inference.contract import answers, requests
from ...inference.contract.errors import EDTalkError
from ..character import character, portrait
from ..engine import session
from ..engine.client import State
from ..engine.session import Task
from ..timeline import sequencer

_LOOK_AGAIN = 2.0  # seconds between two looks at who is in the scene

_shown: dict[str, bytes] = {}  # by character: what its picture was last asked from
_waiting: dict[str, None] = {}  # characters that changed while another picture was being drawn, the oldest first
_drawing: Task | None = None
_known: tuple[float, str, list[str]] = 0.0, "", []  # when looked up, the scene, names of its characters


def is_on(scene: bpy.types.Scene) -> bool:
    """Whether faces are drawn live: a window, wanted, an engine there, and Blender not about something else."""
    if session.blocking() or not sequencer.settings(scene).preview or not session.may_apply():
        return False
    client = session.current_client()
    return client.state is not State.FAILED if client else session.find_engine().usable


def show(scene: bpy.types.Scene, obj: bpy.types.Object, depsgraph: bpy.types.Depsgraph) -> None:
    """Draw a character as it is evaluated now, if it differs from what is shown."""
    uid = obj.edtalk.uid
    try:
        pose = character.row(obj.evaluated_get(depsgraph))
        face = character.bank_path(obj), character.portrait_path(obj), character.crop_of(obj)
        request = requests.Preview(*face, pose)
        if not portrait.is_known(obj):
            if not portrait.has_failed(obj):
                portrait.measure(obj)
            return
    except EDTalkError:
        return  # the character's panel says what is missing
    state = repr(face).encode() + pose.tobytes()
    if _shown.get(uid) == state:
        return
    if _drawing and not _drawing.finished:
        _waiting[uid] = None
        return
    _ask(scene, uid, request, state)


def _ask(scene: bpy.types.Scene, uid: str, request: requests.Preview, state: bytes) -> None:
    global _drawing
    scene_name = scene.name

    def apply(answer: answers.PreviewResult) -> None:
        obj = character.find(uid)
        if obj is not None:
            character.show_pixels(obj, portrait.picture(answer.pixels))
            session.redraw(("VIEW_3D", "IMAGE_EDITOR"))

    def go_on(_task: Task) -> None:
        scene = bpy.data.scenes.get(scene_name)
        if _waiting and scene is not None:
            newest = next(iter(_waiting))
            del _waiting[newest]
            obj = character.find(newest)
            if obj is not None and obj.name in scene.objects:
                show(scene, obj, scene.view_layers[0].depsgraph)

    _waiting.pop(uid, None)
    _shown[uid] = state
    _drawing = session.submit(request, on_done=apply)
    _drawing.then(go_on)


def scene_changed(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    """After an update: draw the characters that it concerned."""
    touched = [update.id.original for update in depsgraph.updates if isinstance(update.id, bpy.types.Object)]
    touched = [obj for obj in touched if character.is_character(obj)]
    if touched and is_on(scene):
        for obj in touched:
            show(scene, obj, depsgraph)


def frame_changed(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    """At another frame: draw whoever looks different there."""
    known = _cast(scene)
    if known and is_on(scene):
        for obj in (scene.objects.get(name) for name in known):
            if character.is_character(obj):
                show(scene, obj, depsgraph)


def _cast(scene: bpy.types.Scene) -> list[str]:
    """Names of the scene's characters, looked up every few seconds: thousands of objects would slow playback down."""
    global _known
    when, name, names = _known
    if name != scene.name or time.monotonic() - when > _LOOK_AGAIN:
        names = [obj.name for obj in character.characters(scene)]
        _known = time.monotonic(), scene.name, names
    return names


def forget() -> None:
    """Another file was loaded, or the engine restarted: nothing is shown or waited for."""
    global _drawing, _known
    _shown.clear()
    _waiting.clear()
    _drawing, _known = None, (0.0, "", [])


def unregister() -> None:
    forget()
