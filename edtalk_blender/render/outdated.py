"""Finds frames of face strips that no longer show the character as it is animated, and marks the strips.

A frame is out of date if Render Face would now give it another name: after an edit of keys, sliders or settings, a move
of the strip or its keys, or a change of the frame rate. The check runs in a timer, in short steps.
Characters are not checked if they have drivers that read a scene, or drivers or NLA strips in a scene of very many
objects, see `sampling.can_slice`.
"""

from __future__ import annotations

import bpy

from ...inference.contract.answers import Progress
from ...inference.contract.errors import EDTalkError
from .. import compat
from ..animation import sampling
from ..character import snapshot
from ..engine import session, work
from ..engine.work import Steps
from ..timeline import sequencer
from . import face_shot, face_strip, render

_DELAY = 0.7  # seconds without a change before the check begins
_SLICE = 100  # frames that are sampled at once; half as many with drivers or NLA strips


def schedule() -> None:
    """Check all face strips soon. Does nothing in background mode."""
    _timer.schedule()


def check() -> Steps[None]:
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


def _outdated(scene_name: str, strip_id: str) -> Steps[int | None]:
    """Number of visible frames that are out of date; None if unknown."""
    count, at = 0, None
    while True:
        scene = bpy.data.scenes.get(scene_name)
        strip = sequencer.find(scene, strip_id) if scene else None
        obj = sequencer.speaker(strip) if strip else None
        if scene is None or strip is None or obj is None:
            return None
        if not sampling.can_slice(obj):
            return None
        first, end = sequencer.picture_range(strip)
        at = max(first, compat.left_handle(strip)) if at is None else at
        count_at_once = _SLICE if sampling.has_only_fcurves(obj) else _SLICE // 2
        span = at, min(at + count_at_once, end, compat.right_handle(strip))
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
        yield Progress("checking", at - first, end - first)


_timer = work.Idle(check, _DELAY, lambda: render.is_rendering())


def unregister() -> None:
    _timer.stop()
