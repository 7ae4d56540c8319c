"""Live preview: only the latest pose is rendered; superseded requests are dropped.

One preview is rendered at a time; meanwhile only the latest pose of each character waits. A slow device shows fewer
frames per second, but nothing else slows down. While poses change, previews have the bank's own size; once they rest,
they are rendered again at the size in the settings.

During playback, previews are left out where a rendered face strip covers the frame, and become less frequent while
Blender is late with its frames.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import bpy

from ...inference.contract import answers, requests
from ...inference.contract.errors import EDTalkError
from ..character import character, files, rest_pose, sliders, viewport
from ..engine import session
from ..engine.client import State
from ..engine.session import Task
from ..timeline import sequencer
from . import face_strip

_SEARCH_AGAIN = 2.0  # seconds between two searches for the scene's characters
_REST = 0.3  # seconds without a change before a pose is rendered at full size


@dataclass
class Pace:
    """Limits previews during playback, so that they delay Blender's frames by no more than about a tenth.

    before: time of the previous frame. drawn: time of the last preview. delay: seconds by which frames have been late
    since then. interval: least seconds between two previews.
    """

    before: float = 0.0
    drawn: float = 0.0
    delay: float = 0.0
    interval: float = 0.0

    def allows(self, now: float, rate: float) -> bool:
        """Whether a preview may be rendered for the frame that is shown now; to be called for every frame.

        now: in seconds. rate: frames per second that the scene should play at.
        """
        took, frame = now - self.before, 1 / rate
        self.before = now
        if 1.25 * frame < took < 1.0:  # after a longer time, playback has just begun
            self.delay += took - frame
        needed = max(self.interval, min(10 * self.delay, 2.0))
        if now - self.drawn < needed:
            return False
        self.interval = needed if self.delay else 0.5 * needed
        self.drawn, self.delay = now, 0.0
        return True


@dataclass
class _State:
    """The requested and the waiting previews.

    requested: by character, the pose and files of its last preview. waiting: characters that changed during another
    one's preview, the oldest first. task: the last preview. found: scene, names of its characters, time of the search.
    latest: by character, its scene and last request, until that was rendered at full size. changed: time of the last
    request.
    """

    requested: dict[str, bytes] = field(default_factory=dict)
    waiting: dict[str, None] = field(default_factory=dict)
    task: Task | None = None
    found: tuple[str, list[str], float] = ("", [], 0.0)
    latest: dict[str, tuple[str, requests.Preview]] = field(default_factory=dict)
    changed: float = 0.0
    pace: Pace = field(default_factory=Pace)


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
    _state.requested[uid] = source
    _state.latest[uid], _state.changed = (scene.name, request), time.monotonic()
    _submit(scene.name, uid, request)


def _submit(scene_name: str, uid: str, request: requests.Preview) -> None:

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
        if _state.latest and not bpy.app.timers.is_registered(sharpen):
            bpy.app.timers.register(sharpen, first_interval=_REST)

    _state.waiting.pop(uid, None)
    _state.task = session.submit(request, on_done=apply)
    _state.task.then(show_next)


def sharpen() -> float | None:
    """Timer: once the poses rest, render them at full size. Returns the seconds until the next call."""
    if not _state.latest:
        return None
    is_busy = _state.task is not None and not _state.task.finished
    if is_busy or _is_playing() or time.monotonic() - _state.changed < _REST:
        return _REST / 2
    uid, (scene_name, request) = next(iter(_state.latest.items()))
    del _state.latest[uid]
    scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
    if scene is not None and obj is not None and is_on(scene):
        size = int(sequencer.settings(scene).preview_size)
        if size > files.bank_of(obj).config.size:
            _submit(scene_name, uid, replace(request, size=size))
    return 0.01 if _state.latest else None


def scene_changed(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    """Handle a depsgraph update: render the characters that it changed."""
    changed = [update.id.original for update in depsgraph.updates if isinstance(update.id, bpy.types.Object)]
    changed = [obj for obj in changed if character.is_character(obj)]
    if changed and not _is_playing() and is_on(scene):
        for obj in changed:
            show(scene, obj, depsgraph)


def frame_changed(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    """Handle a frame change: render the characters that look different at the new frame."""
    names = _character_names(scene)
    if not names or not is_on(scene):
        return
    if _is_playing():
        if not _state.pace.allows(time.monotonic(), sequencer.fps(scene)) or not _is_seen():
            return
        names = [name for name in names if not _is_rendered(scene, scene.objects.get(name))]
    _show_all(scene, names, depsgraph)


def playback_ended(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    """Handle the end of playback: render the frame that is shown now."""
    _state.pace = Pace()
    if is_on(scene):
        _show_all(scene, _character_names(scene), depsgraph)


def _show_all(scene: bpy.types.Scene, names: list[str], depsgraph: bpy.types.Depsgraph) -> None:
    for obj in (scene.objects.get(name) for name in names):
        if character.is_character(obj):
            show(scene, obj, depsgraph)


def _is_playing() -> bool:
    windows = bpy.context.window_manager.windows
    return any(window.screen.is_animation_playing for window in windows)


def _is_seen() -> bool:
    """Whether an editor is open that can show the preview."""
    areas = (area for window in bpy.context.window_manager.windows for area in window.screen.areas)
    return any(area.type in ("VIEW_3D", "IMAGE_EDITOR") for area in areas)


def _is_rendered(scene: bpy.types.Scene, obj: bpy.types.Object | None) -> bool:
    """Whether a face strip of the character shows a rendered picture at the current frame."""
    frame = scene.frame_current
    return obj is not None and any(
        not strip.mute and sequencer.overlaps(strip, (frame, frame + 1)) and face_strip.is_rendered_at(strip, frame)
        for strip in sequencer.faces(scene, obj)
    )


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
    if bpy.app.timers.is_registered(sharpen):
        bpy.app.timers.unregister(sharpen)
    forget()
