"""Operators for head motion from speech: writing it, and choosing a variation."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, StringProperty

from ...inference.contract.errors import EDTalkError
from ...inference.contract.head import head_reason
from .. import compat, follow
from ..character import files
from ..engine.operator_base import BaseOperator
from ..timeline import sequencer
from .head_motion import head_motion, use_variation, variations
from .on_strips import OnStrips, one_undo_step


class EDTALK_OT_head_motion(OnStrips, bpy.types.Operator):
    """Write head keyframes that follow the speech of the selected sound strips: nods at stressed syllables and slow changes of posture"""  # noqa: E501

    bl_idname = "edtalk.head_motion"
    bl_label = "Head Motion"  # without "UNDO": one step is pushed when the last strip is done

    replace: BoolProperty(
        name="Replace Keyframes", description="Also replace head keyframes that you inserted in the frames of the strip"
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return super().disabled_reason(context) or unsupported(context)

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        if sequencer.settings(scene).follow:
            sequencer.ensure_unique_ids(scene)
            follow.follow(scene)  # keyframes of a strip that has just moved go first
        replace = self.replace
        tasks, _failed = self.for_each(
            context, lambda scene, strip, obj: [head_motion(scene, strip, obj, replace=replace)], "have no head motion"
        )
        one_undo_step(tasks, "Head Motion")
        self.finish(*tasks)
        return None


class EDTALK_OT_next_seed(BaseOperator, bpy.types.Operator):
    """Choose the next seed, and write the head motion of the selected strips again"""

    bl_idname = "edtalk.next_head_seed"
    bl_label = "Next Seed"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if speaker_of_selection(context) else "Select sound strips in the sequencer first"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = speaker_of_selection(context)
        assert obj is not None, "checked before"
        obj.edtalk.head_seed += 1
        if sequencer.selected_sounds(context):
            bpy.ops.edtalk.head_motion("INVOKE_DEFAULT")
        return None


class EDTALK_OT_use_variation(BaseOperator, bpy.types.Operator):
    """Show this variation of the head motion, and mute the others"""

    bl_idname = "edtalk.use_variation"
    bl_label = "Use Variation"
    bl_options = {"REGISTER", "UNDO"}

    name: StringProperty(name="Variation", description="Name of the NLA strip with the variation")

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        if any(variations(strip) for strip in sequencer.selected_sounds(context)):
            return ""
        return "Select a strip with several variations of head motion first"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        for strip in sequencer.selected_sounds(context):
            obj, known = sequencer.speaker(strip), variations(strip)
            if obj is not None and self.name in known:
                use_variation(obj, known, self.name)
                return None
        raise EDTalkError(f"The selected strips have no variation '{self.name}'.", "Choose another variation.")


def speaker_of_selection(context: bpy.types.Context) -> bpy.types.Object | None:
    """Speaker of the first selected sound strip, or the character that it would be assigned to."""
    scene = compat.sequencer_scene(context)
    sounds = sequencer.selected_sounds(context)
    return (sequencer.speaker(sounds[0]) if sounds else None) or sequencer.default_speaker(context, scene)


def unsupported(context: bpy.types.Context) -> str:
    """Why the head of the selected strip's speaker cannot be moved by speech, without a full stop; "" if it can."""
    obj = speaker_of_selection(context)
    try:
        reason = head_reason(files.bank_of(obj)) if obj is not None else ""
    except EDTalkError as error:
        return error.message.rstrip(".")
    return f"{reason}. Use Name Sliders, or choose the starter bank" if reason else ""


CLASSES = (EDTALK_OT_head_motion, EDTALK_OT_next_seed, EDTALK_OT_use_variation)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
