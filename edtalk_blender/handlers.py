"""What Blender tells us: a file is loaded or saved, something was rendered or undone, strips, sliders or frames moved.

Nothing is done here that takes long or changes the scene; changes wait for the timer `settle`, once the artist has let
go. While Blender renders, saves or undoes the session holds back everything.
"""

from __future__ import annotations

import logging
import time

import bpy
from bpy.app.handlers import persistent

from . import follow
from .engine import session
from .plate import compositing
from .render import face_strip, preview
from .timeline import sequencer

logger = logging.getLogger(__name__)

_PATIENCE = 0.3  # seconds without change after which strips are taken to be where they are meant to be

_changed = 0.0  # when strips last changed, 0 when all has been seen to
_stepped = ""  # "undo" or "redo", when that was the last change


# --- Strips that moved


def settle() -> float | None:
    """The timer: once nothing moves any more, have keys and faces follow. Returns seconds until it looks again."""
    global _changed, _stepped
    if not _changed:
        return None
    if time.monotonic() - _changed < _PATIENCE or not session.may_apply() or _is_dragging():
        return _PATIENCE
    step, _changed, _stepped = _stepped, 0.0, ""
    for name in bpy.data.scenes.keys():  # noqa: SIM118 - by name, for an undo makes all scenes anew
        if see_to(bpy.data.scenes[name], step):
            break
    return None


def see_to(scene: bpy.types.Scene, step: str = "") -> bool:
    """Bring a scene's keys and faces to where their strips are, as part of the step that moved the strips.

    step: "undo" or "redo" if that was what moved them. Between a move and what followed it there is a step more;
    an undo or redo that ends there goes on, and True is returned: all data are new then.
    """
    if step:
        face_strip.refill(scene)
        compositing.renew(scene)
    if not sequencer.settings(scene).follow:
        return False
    if not follow.changes(scene):
        return False
    if step and _step_on(step):
        return True
    follow.follow(scene)
    session.edited("Follow Sound")
    session.push_undo()
    return False


def _step_on(step: str) -> bool:
    """Undo or redo once more, but not for ever."""
    global _stepped
    operator = getattr(bpy.ops.ed, step)
    windows = bpy.context.window_manager.windows
    if not windows or session.blocking():
        return False
    with bpy.context.temp_override(window=windows[0]):
        stepped = operator.poll() and operator() == {"FINISHED"}
    _stepped = ""
    return stepped


def _is_dragging() -> bool:
    """Whether the artist is moving something right now."""
    running = (operator for window in bpy.context.window_manager.windows for operator in window.modal_operators)
    return any(operator.bl_idname.startswith(("TRANSFORM_OT", "SEQUENCER_OT")) for operator in running)


def _look_soon() -> None:
    global _changed
    _changed = time.monotonic()
    if not session.blocking() and not bpy.app.timers.is_registered(settle):
        bpy.app.timers.register(settle, first_interval=_PATIENCE, persistent=True)


# --- Blender's events


@persistent
def _depsgraph_update_post(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    if not session.may_apply():
        return
    if scene.sequence_editor and any(isinstance(update.id, bpy.types.Scene) for update in depsgraph.updates):
        _look_soon()
    preview.scene_changed(scene, depsgraph)


@persistent
def _frame_change_post(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    if session.may_apply():
        preview.frame_changed(scene, depsgraph)


@persistent
def _load_pre(*_: object) -> None:
    session.cancel_all()
    preview.forget()


@persistent
def _load_post(*_: object) -> None:
    session.release_all()
    for scene in bpy.data.scenes:
        for bring_up_to_date in (sequencer.tell_apart, face_strip.refill, compositing.renew):
            try:
                bring_up_to_date(scene)
            except Exception:  # a file may hold anything, and must open all the same
                logger.exception("The scene '%s' could not be brought up to date.", scene.name)


@persistent
def _save_pre(*_: object) -> None:
    session.hold("save")


@persistent
def _save_post(*_: object) -> None:
    session.release("save")


@persistent
def _render_init(*_: object) -> None:
    session.hold("render")
    if session.preferred().yields:
        session.free_memory()


@persistent
def _render_end(*_: object) -> None:
    session.release("render")


@persistent
def _undo_pre(*_: object) -> None:
    session.hold("undo")


@persistent
def _undo_post(*_: object) -> None:
    _stepped_to("undo")


@persistent
def _redo_post(*_: object) -> None:
    _stepped_to("redo")


def _stepped_to(step: str) -> None:
    global _stepped
    session.release("undo")
    _stepped = step
    _look_soon()


_HANDLERS = {
    "depsgraph_update_post": _depsgraph_update_post,
    "frame_change_post": _frame_change_post,
    "load_pre": _load_pre,
    "load_post": _load_post,
    "load_post_fail": _load_post,
    "save_pre": _save_pre,
    "save_post": _save_post,
    "save_post_fail": _save_post,
    "render_init": _render_init,
    "render_complete": _render_end,
    "render_cancel": _render_end,
    "undo_pre": _undo_pre,
    "undo_post": _undo_post,
    "redo_pre": _undo_pre,
    "redo_post": _redo_post,
}


def register() -> None:
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).append(handler)


def unregister() -> None:
    if bpy.app.timers.is_registered(settle):
        bpy.app.timers.unregister(settle)
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).remove(handler)
