"""Operators for lip sync: writing mouth keys, assigning speakers, and revealing animation that is overridden."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, StringProperty

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..animation import hidden
from ..character import character, files
from ..engine import session
from ..engine.operator_base import BaseOperator
from ..engine.session import Task
from ..timeline import sequencer
from ..workspace import operators as workspace
from .lipsync import clear_lips, lip_sync
from .on_strips import OnStrips, one_undo_step


class EDTALK_OT_lip_sync(OnStrips, bpy.types.Operator):
    """Write mouth keyframes to the characters of the selected sound strips"""

    bl_idname = "edtalk.lip_sync"
    bl_label = "Lip Sync"  # without "UNDO": one step is pushed when the last strip is done

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        is_first = not sequencer.settings(scene).lines

        def start(scene: bpy.types.Scene, strip: bpy.types.SoundStrip, obj: bpy.types.Object) -> list[Task]:
            task = lip_sync(scene, strip, obj)
            if note := sequencer.retiming_note(scene, strip):
                self.report({"WARNING"}, note)
            return [task] if task else []

        tasks, failed = self.for_each(context, start, "could not be lip-synced")
        if is_first and not failed and sync_playback(scene, context.scene):
            self.report({"INFO"}, "Lip Sync started. Playback is set to Sync to Audio, with Audio Scrubbing")
        if is_first:  # later the artist's own view is kept
            for task in tasks:
                task.then(lambda _task: workspace.zoom_to_curves())
        one_undo_step(tasks, "Lip Sync")
        self.finish(*tasks)
        return None


def sync_playback(*scenes: bpy.types.Scene) -> bool:
    """Make playback keep up with the sound, and let scrubbing play it. Returns whether a setting was changed."""
    changed = [scene for scene in set(scenes) if scene.sync_mode == "NONE" or not scene.use_audio_scrub]
    for scene in changed:
        if scene.sync_mode == "NONE":
            scene.sync_mode = "AUDIO_SYNC"
        scene.use_audio_scrub = True
    return bool(changed)


class EDTALK_OT_assign_strip(BaseOperator, bpy.types.Operator):
    """Assign a character as the speaker of the selected sound strips"""

    bl_idname = "edtalk.assign_strip"
    bl_label = "Assign Speaker"
    bl_options = {"REGISTER", "UNDO"}

    uid: StringProperty(name="Character", description="Identifier of the character. Empty: the active character")
    clear: BoolProperty(name="None", description="Not dialogue: remove the speaker")

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if sequencer.selected_sounds(context) else "Select sound strips in the sequencer first"

    @classmethod
    def description(cls, _context: bpy.types.Context, properties: bpy.types.OperatorProperties) -> str:
        return "Remove the speaker of the selected sound strips" if properties.clear else cls.__doc__ or ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        obj = character.find(self.uid) if self.uid else sequencer.default_speaker(context, scene)
        if obj is None and not self.clear:
            raise EDTalkError("No character is selected.", "Select one in the viewport, or add one.")
        sequencer.ensure_unique_ids(scene)
        for strip in sequencer.selected_sounds(context):
            before = sequencer.speaker(strip)
            if before is not None and (self.clear or before != obj) and not character.editable_reason(before):
                others = [sequencer.time_map(scene, one) for one in sequencer.dialogue(scene, before) if one != strip]
                clear_lips(before, strip, files.bank_of(before).names_of("lip"), keep=others)
            sequencer.assign(strip, None if self.clear else obj)
        return None


class EDTALK_OT_reveal_animation(BaseOperator, bpy.types.Operator):
    """Show the written animation by disabling solo and muted tracks or another action that override it"""

    bl_idname = "edtalk.reveal_animation"
    bl_label = "Show Written Animation"
    bl_options = {"REGISTER", "UNDO"}

    uid: StringProperty(name="Character", description="Identifier of the character. Empty: the active character")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        obj = character.find(self.uid) if self.uid else sequencer.default_speaker(context, scene)
        if obj is None:
            raise EDTalkError("No character is selected.", "Select one in the viewport.")
        remaining = hidden.reveal(obj)
        session.dismiss()
        if remaining:
            raise EDTalkError(remaining, "Mute or remove one of the two.", "hidden")
        return None


CLASSES = (EDTALK_OT_lip_sync, EDTALK_OT_assign_strip, EDTALK_OT_reveal_animation)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
