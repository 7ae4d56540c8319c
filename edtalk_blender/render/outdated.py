"""Finds frames of face strips that no longer show the character as it is animated, and marks the strips.

A frame is out of date if Render Face would now give it another name: after an edit of keys, sliders or settings, a move
of the strip or its keys, or a change of the frame rate. The check runs in a timer, in short steps.
Characters with drivers or NLA strips are not checked, because the scene would have to be stepped through the frames.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import bpy

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..animation import sampling
from ..character import snapshot
from ..engine import session
from ..timeline import sequencer
from . import face_shot, face_strip, render

_DELAY = 0.7  # seconds without a change before the check begins
_SLICE = 100  # frames that are sampled at once


@dataclass
class _State:
    """changed_at: time of the last change (`time.monotonic`). check: the running check, None before it begins."""

    changed_at: float = 0.0
    check: Iterator[None] | None = None


_state = _State()


def schedule() -> None:
    """Check all face strips soon. Does nothing in background mode."""
    _state.changed_at, _state.check = time.monotonic(), None
    if not session.blocking() and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=_DELAY, persistent=True)


def _tick() -> float | None:
    """Timer: do a part of the check. Returns the seconds until the next call."""
    is_busy = not session.may_apply() or render.is_rendering() or session.is_playing()
    if is_busy or time.monotonic() - _state.changed_at < _DELAY:
        return _DELAY
    if _state.check is None:
        _state.check = check()
    until = time.monotonic() + session.STEP
    for _ in _state.check:
        if time.monotonic() > until:
            return session.STEP
    return None


def check() -> Iterator[None]:
    """Mark the face strips of all scenes. Yields between short steps; the strips may change in between."""
    strips = [
        (scene.name, strip.get(sequencer.ID, ""))
        for scene in bpy.data.scenes
        if scene.library is None
        for strip in compat.strips(scene)
        if sequencer.is_face(strip)
    ]
    for scene_name, strip_id in strips:
        count = yield from _outdated(scene_name, strip_id)
        scene = bpy.data.scenes.get(scene_name)
        strip = sequencer.find(scene, strip_id) if scene else None
        if strip is not None and count is not None and count != strip.get(face_strip.OUTDATED, 0):
            face_strip.mark_outdated(strip, count)
            session.redraw(("SEQUENCE_EDITOR",))


def _outdated(scene_name: str, strip_id: str) -> Generator[None, None, int | None]:
    """Number of visible frames that are out of date; None if unknown."""
    count, at = 0, None
    while True:
        scene = bpy.data.scenes.get(scene_name)
        strip = sequencer.find(scene, strip_id) if scene else None
        obj = sequencer.speaker(strip) if strip else None
        if scene is None or strip is None or obj is None:
            return None
        if not sampling.has_only_fcurves(obj):
            return None
        first, end = sequencer.picture_range(strip)
        at = max(first, compat.left_handle(strip)) if at is None else at
        span = at, min(at + _SLICE, end, compat.right_handle(strip))
        if span[0] >= span[1]:
            return count
        plate = sequencer.find(scene, str(strip.get(sequencer.PLATE, "")))
        try:
            face = snapshot.read(obj, with_portrait=plate is None)
            wanted = face_shot.shot_of(scene, obj, face, span, plate).file_names()
        except EDTalkError:
            return None  # the character's panel reports what is missing
        shown = [strip.elements[frame - first].filename for frame in range(*span)]
        count += sum(
            face_strip.PICTURE.fullmatch(name) is not None and name != now
            for name, now in zip(shown, wanted, strict=True)
        )
        at = span[1]
        yield


def unregister() -> None:
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
