"""Blender's application handlers: load, save, render, undo, frame changes and depsgraph updates.

Handlers return quickly and, except after loading, do not change the scene: changes of strips are debounced by the timer
`settle`. The session applies no results while Blender renders, saves or undoes.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import bpy
from bpy.app.handlers import persistent

from . import follow
from .animation import edits
from .engine import session
from .render import face_strip, outdated, preview, recovery, survey
from .timeline import sequencer

logger = logging.getLogger(__name__)

_DELAY = 0.3  # seconds without a change before keys and faces follow their strips


# --- Strips that moved


@dataclass
class Pending:
    """Changes to strips that their keys and faces have not followed yet.

    changed_at: time of the last change (`time.monotonic`), 0 if there is none. step: "undo" or "redo" if that was the
    last change, otherwise empty.
    """

    changed_at: float = 0.0
    step: str = ""


pending = Pending()


def settle() -> float | None:
    """Timer: make keys and faces follow once the strips stop changing. Returns the seconds until the next call."""
    if not pending.changed_at:
        return None
    if time.monotonic() - pending.changed_at < _DELAY or not session.may_apply() or _is_dragging():
        return _DELAY
    step, pending.changed_at, pending.step = pending.step, 0.0, ""
    for name in bpy.data.scenes.keys():  # noqa: SIM118  undo replaces all scenes, so look each one up by name
        if settle_scene(bpy.data.scenes[name], step):
            break
    return None


def settle_scene(scene: bpy.types.Scene, step: str = "") -> bool:
    """Move a scene's keys and faces to match their strips, and push an undo step for it.

    step: "undo" or "redo" if that moved the strips. Moving a strip and the keys that followed it are two undo steps.
    An undo or redo that stops between them is repeated; then all data is new, and True is returned.
    """
    if step:
        recovery.schedule()
    if not sequencer.settings(scene).follow:
        return False
    if not follow.is_due(scene):
        return False
    if step and _repeat(step):
        return True
    follow.follow(scene)
    session.edited("Follow Sound")
    session.push_undo()
    return False


def _repeat(step: str) -> bool:
    """Undo or redo one more step. Returns whether that was possible."""
    operator = getattr(bpy.ops.ed, step)
    windows = bpy.context.window_manager.windows
    if not windows or session.blocking():
        return False
    with bpy.context.temp_override(window=windows[0]):
        repeated = operator.poll() and operator() == {"FINISHED"}
    pending.step = ""  # set by this step's own handler: repeat once only
    return repeated


def _is_dragging() -> bool:
    """Whether a transform or sequencer operator is running."""
    running = (operator for window in bpy.context.window_manager.windows for operator in window.modal_operators)
    return any(operator.bl_idname.startswith(("TRANSFORM_OT", "SEQUENCER_OT")) for operator in running)


def _schedule() -> None:
    pending.changed_at = time.monotonic()
    if not session.blocking() and not bpy.app.timers.is_registered(settle):
        bpy.app.timers.register(settle, first_interval=_DELAY, persistent=True)


# --- Blender's events


@persistent
def _depsgraph_update_post(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    if session.is_sampling():
        return
    edits.note_updates(depsgraph)
    if not session.may_apply():
        return
    if scene.sequence_editor and any(isinstance(update.id, bpy.types.Scene) for update in depsgraph.updates):
        _schedule()
        survey.schedule()
    if any(
        isinstance(update.id, (bpy.types.Scene, bpy.types.Object, bpy.types.Action)) for update in depsgraph.updates
    ):
        outdated.schedule()
    preview.scene_changed(scene, depsgraph)


@persistent
def _frame_change_post(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    if session.may_apply():
        preview.frame_changed(scene, depsgraph)


@persistent
def _animation_playback_post(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    if session.may_apply():
        preview.playback_ended(scene, depsgraph)


@persistent
def _load_pre(*_: object) -> None:
    session.cancel_all()
    preview.forget()
    edits.note()


@persistent
def _load_post(*_: object) -> None:
    session.release_all()
    for scene in bpy.data.scenes:
        for update in (face_strip.protect, sequencer.ensure_unique_ids):
            try:
                update(scene)
            except Exception:  # a file with damaged data must still open
                logger.exception("The scene '%s' could not be updated.", scene.name)
    recovery.schedule()
    outdated.schedule()
    survey.forget()
    survey.schedule()


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
    session.forget_undo()
    edits.note()


@persistent
def _undo_post(*_: object) -> None:
    _after_step("undo")


@persistent
def _redo_post(*_: object) -> None:
    _after_step("redo")


def _after_step(step: str) -> None:
    session.release("undo")
    outdated.schedule()
    survey.schedule()
    pending.step = step
    _schedule()


_HANDLERS = {
    "depsgraph_update_post": _depsgraph_update_post,
    "frame_change_post": _frame_change_post,
    "animation_playback_post": _animation_playback_post,
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
