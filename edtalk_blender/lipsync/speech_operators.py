"""Operators for motion from speech: head motion and its variations, emotion, and everything in one press."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bpy
from bpy.props import BoolProperty, EnumProperty, StringProperty

from ...inference.contract.errors import EDTalkError
from .. import compat, follow
from ..character import files
from ..engine import session
from ..engine.operator_base import BaseOperator
from ..engine.session import Task
from ..timeline import sequencer
from . import motion_keys
from .head_motion import variations
from .lipsync import lip_sync
from .on_strips import OnStrips, chosen_strips, one_undo_step, speaker_of, speaker_of_selection
from .performing import names_of, perform, reason


class FromSpeech(OnStrips):
    """Mixin for operators that write motion from speech. A button asks what to do if the artist has inserted keys."""

    existing: EnumProperty(
        name="Existing Keys",
        description="What happens to keyframes that you inserted in the frames of the strips",
        items=motion_keys.EXISTING,
        default="LAYER",
    )

    if TYPE_CHECKING:
        layout: bpy.types.UILayout
        bl_label: str

    @classmethod
    def kinds(cls, obj: bpy.types.Object) -> frozenset[str]:
        """What is written for a character: keys of `performing.KINDS`, and "LIPS"."""
        raise NotImplementedError

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return super().disabled_reason(context) or cls.unsupported(context)

    @classmethod
    def unsupported(cls, context: bpy.types.Context) -> str:
        """Why nothing can be written for the speaker of the selected strips, without a full stop; "" if it can."""
        obj = speaker_of_selection(context)
        if obj is None:
            return ""
        try:
            kinds, bank = cls.kinds(obj), files.bank_of(obj)
        except EDTalkError as error:
            return error.message.rstrip(".")
        if not kinds:
            return "Choose what to animate"
        reasons = [reason(bank, kind) for kind in sorted(kinds - {"LIPS"})]
        if not reasons or "LIPS" in kinds or "" in reasons:
            return ""
        return f"{reasons[0]}. Use Name Sliders, or choose the starter bank"

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self._from_button = True
        if not self._hand_keyed(context):
            return super().invoke(context, event)
        return context.window_manager.invoke_props_dialog(self, width=360)

    def draw(self, _context: bpy.types.Context) -> None:
        column = self.layout.column()
        column.label(text="You inserted keyframes in the frames of these strips.", icon="INFO")
        column.prop(self, "existing", expand=True)

    def _hand_keyed(self, context: bpy.types.Context) -> bool:
        """Whether the artist has inserted keyframes, in the action, where they will be written."""
        scene = compat.sequencer_scene(context)
        try:
            for strip in chosen_strips(context, scene, self.which):
                obj = speaker_of(context, scene, strip)
                if motion_keys.hand_keyed(obj, names_of(obj, self.kinds(obj)), sequencer.time_map(scene, strip)):
                    return True
        except EDTalkError:  # reported when it runs
            return False
        return False

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        if sequencer.settings(scene).follow:
            sequencer.ensure_unique_ids(scene)
            follow.follow(scene)  # keyframes of a strip that has just moved go first
        tasks, _failed = self.for_each(context, self.start, "could not be animated")
        one_undo_step(tasks, self.bl_label)
        self.finish(*tasks)
        return None

    def start(self, scene: bpy.types.Scene, strip: bpy.types.SoundStrip, obj: bpy.types.Object) -> list[Task]:
        """Start the tasks of a strip. Raises EDTalkError."""
        return [perform(scene, strip, obj, sorted(self.kinds(obj)), existing=self.existing)]


class EDTALK_OT_head_motion(FromSpeech, bpy.types.Operator):
    """Write head keyframes that follow the speech of the selected sound strips: nods at stressed syllables and slow changes of posture"""  # noqa: E501

    bl_idname = "edtalk.head_motion"
    bl_label = "Head Motion"  # without "UNDO": one step is pushed when the last strip is done

    replace: BoolProperty(
        name="Replace Keyframes",
        description="Also replace head keyframes that you inserted in the frames of the strip, as Replace does",
        options={"HIDDEN", "SKIP_SAVE"},
    )

    @classmethod
    def kinds(cls, _obj: bpy.types.Object) -> frozenset[str]:
        return frozenset({"HEAD"})

    def run(self, context: bpy.types.Context) -> set[str] | None:
        if self.replace:
            self.existing = "REPLACE"
        return super().run(context)


class EDTALK_OT_detect_emotion(FromSpeech, bpy.types.Operator):
    """Suggest emotions from the voice and words of the selected sound strips, as keyframes or markers to edit"""

    bl_idname = "edtalk.detect_emotion"
    bl_label = "Detect Emotion"  # without "UNDO", as Head Motion

    @classmethod
    def kinds(cls, _obj: bpy.types.Object) -> frozenset[str]:
        return frozenset({"EMOTION"})


class EDTALK_OT_animate_from_speech(FromSpeech, bpy.types.Operator):
    """Write mouth, head, emotion and eye keyframes for the speech of the selected sound strips, as one undo step"""

    bl_idname = "edtalk.animate_from_speech"
    bl_label = "Animate from Speech"  # without "UNDO", as Head Motion

    @classmethod
    def kinds(cls, obj: bpy.types.Object) -> frozenset[str]:
        return frozenset(obj.edtalk.speech_kinds)

    def start(self, scene: bpy.types.Scene, strip: bpy.types.SoundStrip, obj: bpy.types.Object) -> list[Task]:
        kinds = self.kinds(obj)
        if not kinds:
            raise EDTalkError(f"Nothing is chosen to animate {obj.name}.", "Enable Lips, Head, Emotion or Eyes.")
        reasons = {kind: reason(files.bank_of(obj), kind) for kind in sorted(kinds - {"LIPS"})}
        for message in filter(None, reasons.values()):
            session.report(EDTalkError(f"{message}.", "Use Name Sliders, or choose the starter bank.", "bank"))
        others = [kind for kind, message in reasons.items() if not message]
        tasks = [perform(scene, strip, obj, others, existing=self.existing)] if others else []
        lips = lip_sync(scene, strip, obj) if "LIPS" in kinds else None
        return [lips, *tasks] if lips else tasks


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
                motion_keys.use_variation(obj, known, self.name)
                return None
        raise EDTalkError(f"The selected strips have no variation '{self.name}'.", "Choose another variation.")


CLASSES = (
    EDTALK_OT_head_motion,
    EDTALK_OT_detect_emotion,
    EDTALK_OT_animate_from_speech,
    EDTALK_OT_next_seed,
    EDTALK_OT_use_variation,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
