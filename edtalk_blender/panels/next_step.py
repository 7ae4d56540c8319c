"""The next step for a character, from its first portrait to rendered frames."""

from __future__ import annotations

import bpy

from .. import compat
from ..timeline import sequencer


def next_step(obj: bpy.types.Object) -> str:
    """What to do next with a character, as a sentence; empty once its face is rendered or it is animated by hand.

    Read-only, so panels may call it.
    """
    edited = [scene for scene in bpy.data.scenes if scene.sequence_editor]
    if any(sequencer.faces(scene, obj) or sequencer.plates(scene, obj) for scene in edited):
        return ""
    lines = [strip for scene in edited for strip in sequencer.dialogue(scene, obj)]
    if any(sequencer.remembered_time(strip) for strip in lines):
        return "Next: press Render Face in the Video Sequencer's EDTalk tab."
    if lines:
        return "Next: select the sound strip in the Video Sequencer and press Lip Sync."
    if compat.fcurves(obj):
        return ""
    return "Next: add a sound strip in the Video Sequencer, select it and press Lip Sync."
