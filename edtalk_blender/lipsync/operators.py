"""Sound strips to mouth curves: whose strip it is, Lip Sync itself, and what is offered when its result is hidden."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, StringProperty

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..animation import hidden
from ..character import character
from ..engine import session
from ..engine.asking import Asking, Explained
from ..engine.session import Task
from ..timeline import sequencer
from .lipsync import clear_lips, lip_sync

# --- Operators


class EDTALK_OT_lip_sync(Asking, bpy.types.Operator):
    """Turn the selected sound strips into mouth animation of their characters"""

    bl_idname = "edtalk.lip_sync"
    bl_label = "Lip Sync"  # without "UNDO": there is one step for all strips, when the last one is done

    which: EnumProperty(
        name="Strips",
        items=(
            ("SELECTED", "Selected", "The selected sound strips"),
            ("LINKED", "All Dialogue", "Every sound strip that belongs to a character"),
        ),
        default="SELECTED",
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        scene = compat.sequencer_scene(context)
        if not sequencer.characters(context, scene):
            return "There is no character yet: add one first"
        if not any(strip.type == "SOUND" for strip in compat.strips(scene)):
            return "There is no sound in the sequencer: add a sound strip first"
        return ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        sequencer.ensure_unique_ids(scene)
        tasks, failed = [], []
        strips = self._strips(context, scene)
        for strip in strips:
            try:
                obj = sequencer.speaker(strip) or sequencer.default_speaker(context, scene)
                if obj is None:
                    message = f"'{strip.name}' belongs to no character yet."
                    raise EDTalkError(message, "Select the character too, or choose one under Speaker.")
                if note := sequencer.retiming_note(scene, strip):
                    self.report({"WARNING"}, note)
                tasks.append(lip_sync(scene, strip, obj))
            except EDTalkError as error:
                session.report(error)
                failed.append(error)
        if len(failed) == len(strips):
            raise failed[0]
        if failed:
            self.report({"WARNING"}, f"{len(failed)} of {len(strips)} strips cannot be lip-synced: {failed[0]}")
        _one_undo_step([task for task in tasks if task])
        self.finish(*(task for task in tasks if task))
        return None

    def _strips(self, context: bpy.types.Context, scene: bpy.types.Scene) -> list[bpy.types.SoundStrip]:
        if self.which == "LINKED":
            strips = [strip for strip in compat.strips(scene) if sequencer.is_dialogue(strip)]
            if not strips:
                raise EDTalkError("No sound strip belongs to a character yet.", "Select some and use Lip Sync.")
            return strips
        strips = sequencer.selected_sounds(context)
        if not strips:
            raise EDTalkError("No sound strip is selected.", "Select the dialogue in the sequencer.")
        return strips


def _one_undo_step(tasks: list[Task]) -> None:
    """Push one undo step once all have ended."""

    def push(_task: Task | None = None) -> None:
        if all(task.finished for task in tasks):
            session.edited("Lip Sync")

    for task in tasks:
        task.then(push)
    push()


class EDTALK_OT_assign_strip(Explained, bpy.types.Operator):
    """Say which character speaks in the selected sound strips"""

    bl_idname = "edtalk.assign_strip"
    bl_label = "Assign Speaker"
    bl_options = {"REGISTER", "UNDO"}

    uid: StringProperty(name="Character", description="Identity of the character; empty for the active one")
    clear: BoolProperty(name="Nobody", description="The strips are no dialogue")

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if sequencer.selected_sounds(context) else "Select sound strips in the sequencer first"

    @classmethod
    def description(cls, _context: bpy.types.Context, properties: bpy.types.OperatorProperties) -> str:
        return "The selected sound strips are no dialogue" if properties.clear else cls.__doc__

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        obj = character.find(self.uid) if self.uid else sequencer.default_speaker(context, scene)
        if obj is None and not self.clear:
            raise EDTalkError("There is no character to assign.", "Add one, or select it in the viewport.")
        sequencer.ensure_unique_ids(scene)
        for strip in sequencer.selected_sounds(context):
            before = sequencer.speaker(strip)
            if before is not None and (self.clear or before != obj) and not character.editable_reason(before):
                others = [sequencer.time_map(scene, one) for one in sequencer.dialogue(scene, before) if one != strip]
                clear_lips(before, strip, character.bank_of(before).names_of("lip"), keep=others)
            sequencer.assign(strip, None if self.clear else obj)
        return None


class EDTALK_OT_reveal_animation(Explained, bpy.types.Operator):
    """Take away whatever keeps the written animation from being seen: solo tracks, mutes, another action"""

    bl_idname = "edtalk.reveal_animation"
    bl_label = "Show Written Animation"
    bl_options = {"REGISTER", "UNDO"}

    uid: StringProperty(name="Character", description="Identity of the character; empty for the active one")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        obj = character.find(self.uid) if self.uid else sequencer.default_speaker(context, scene)
        if obj is None:
            raise EDTalkError("There is no character whose animation could be shown.", "Select one.")
        remaining = hidden.reveal(obj)
        session.dismiss()
        if remaining:
            raise EDTalkError(remaining, "Decide yourself which of the two is to play.", "hidden")
        return None


CLASSES = (EDTALK_OT_lip_sync, EDTALK_OT_assign_strip, EDTALK_OT_reveal_animation)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
