"""What operators on dialogue strips share: the strips and speakers to work on, their tasks, and one undo step."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import bpy
from bpy.props import EnumProperty

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..character import character
from ..engine import session
from ..engine.operator_base import EngineOperator
from ..engine.session import Task
from ..timeline import audio, sequencer

WHICH = (
    ("SELECTED", "Selected", "The selected sound strips"),
    ("LINKED", "All Dialogue", "All sound strips that are assigned to a character"),
)
Start = Callable[[bpy.types.Scene, bpy.types.SoundStrip, bpy.types.Object], Iterable[Task]]


class OnStrips(EngineOperator):
    """Mixin for operators that start tasks for sound strips. One undo step is pushed when the last task is done."""

    which: EnumProperty(name="Strips", description="Sound strips to use", items=WHICH, default="SELECTED")

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        scene = compat.sequencer_scene(context)
        if not sequencer.characters(context, scene):
            return "Add a character first"
        if not any(strip.type == "SOUND" for strip in compat.strips(scene)):
            return "Add a sound strip to the sequencer first"
        return ""

    def for_each(self, context: bpy.types.Context, start: Start, failure: str) -> tuple[list[Task], list[EDTalkError]]:
        """Call `start` for each strip and its speaker. Returns the tasks that it started, and the errors.

        failure: what strips with an error are reported to be or have: "could not be lip-synced". Raises the first
        EDTalkError if all strips have one.
        """
        scene = compat.sequencer_scene(context)
        sequencer.ensure_unique_ids(scene)
        strips, tasks, failed = chosen_strips(context, scene, self.which), list[Task](), list[EDTalkError]()
        for strip in strips:
            try:
                tasks.extend(start(scene, strip, speaker_of(context, scene, strip)))
            except EDTalkError as error:
                session.report(error)
                failed.append(error)
        if len(failed) == len(strips):
            raise failed[0]
        if failed:
            self.report({"WARNING"}, f"{len(failed)} of {len(strips)} strips {failure}: {failed[0]}")
        return tasks, failed


def chosen_strips(context: bpy.types.Context, scene: bpy.types.Scene, which: str) -> list[bpy.types.SoundStrip]:
    """The sound strips to work on. which: an item of `WHICH`. Raises EDTalkError if there are none."""
    if which == "LINKED":
        strips = [strip for strip in compat.strips(scene) if sequencer.is_dialogue(strip)]
        if not strips:
            raise EDTalkError("No sound strip is assigned to a character.", "Select sound strips and run Lip Sync.")
        return strips
    strips = sequencer.selected_sounds(context)
    if not strips:
        raise EDTalkError("No sound strip is selected.", "Select the dialogue in the sequencer.")
    return strips


def speaker_of(context: bpy.types.Context, scene: bpy.types.Scene, strip: bpy.types.SoundStrip) -> bpy.types.Object:
    """The speaker of a strip, or the character that it would be assigned to. Raises EDTalkError if there is none."""
    obj = sequencer.speaker(strip) or sequencer.default_speaker(context, scene)
    if obj is None:
        raise EDTalkError(f"'{strip.name}' has no speaker.", "Select the character too, or choose a Speaker.")
    return obj


def speaker_of_selection(context: bpy.types.Context) -> bpy.types.Object | None:
    """Speaker of the first selected sound strip, or the character that it would be assigned to."""
    scene = compat.sequencer_scene(context)
    sounds = sequencer.selected_sounds(context)
    return (sequencer.speaker(sounds[0]) if sounds else None) or sequencer.default_speaker(context, scene)


def check_usable(strip: bpy.types.SoundStrip, obj: bpy.types.Object) -> None:
    """Raise EDTalkError if a character is read-only, its sound is missing, or the strip is in a retimed meta strip."""
    if reason := character.editable_reason(obj):
        raise EDTalkError(f"{reason}.")
    if problem := audio.problem(strip):
        raise EDTalkError(f"{problem}.", audio.FIND_MISSING, "media")
    if meta := sequencer.retimed_meta(strip):
        message = sequencer.retimed_meta_note(strip, meta)
        raise EDTalkError(message, "Reset the retiming of the meta strip, and retime the sound in it instead.", "media")


def one_undo_step(tasks: list[Task], name: str) -> None:
    """Push one undo step of this name when all tasks have finished."""

    def push(_task: Task | None = None) -> None:
        if all(task.finished for task in tasks):
            session.edited(name)

    for task in tasks:
        task.then(push)
    push()
