"""Sound strips to mouth curves: whose strip it is, Lip Sync itself, and what is offered when its result is hidden."""

from __future__ import annotations

from contextlib import suppress

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, StringProperty

from ...inference.errors import EDTalkError
from ...inference.protocol import Message
from .. import animation, character, compat, portrait, sequencer, session
from ..core import curves, timemap
from ..core.timemap import TimeMap
from ..session import Task
from .base import Asking, Explained

NLA = "edtalk_nla"  # of a dialogue strip: name of the NLA strip that holds its keys


# --- Asking for a strip


def lip_sync(scene: bpy.types.Scene, strip: bpy.types.SoundStrip, obj: bpy.types.Object) -> Task | None:
    """Begin the lip sync of one strip to one character; None when it was done at once, because nothing is heard.

    Raises EDTalkError when it cannot begin. The keys are written when the answer comes, where the strip is by then.
    """
    if reason := character.editable_reason(obj):
        raise EDTalkError(f"{reason}.")
    bank = character.bank_of(obj)
    if not bank.has_audio:
        message = f"The bank '{bank.name}' of {obj.name} has no network that listens, so it cannot lip-sync."
        raise EDTalkError(message, "Choose a bank with lip-sync.", "bank")
    if problem := sequencer.sound_problem(strip):
        raise EDTalkError(f"{problem}.", "Find it with File > External Data > Find Missing Files.", "media")
    sequencer.assign(strip, obj)
    if sequencer.is_silent(scene, strip):
        write_lips(scene, strip, obj, sequencer.time_map(scene, strip), bank.names_of("lip"), None)
        return None

    with suppress(EDTalkError):  # a voice can be listened to before there is a face
        if not portrait.is_known(obj):
            portrait.measure(obj)  # is answered first, so that the mouth comes to rest where this face's does
    where = scene.name, sequencer.identity(strip)
    asked: list[TimeMap] = []

    def prepare() -> tuple[dict, bytes] | None:
        scene, strip, obj = _targets(*where)
        if obj is None:
            return None
        clock = sequencer.time_map(scene, strip)
        sound = sequencer.listen(scene, strip, clock)
        times = clock.seconds(clock.frames) - sound.start
        asked.append(clock)
        fields = {"bank": str(character.bank_path(obj)), "rate": sound.rate, "samples": len(sound.samples)}
        payload = sound.samples.astype("<f4").tobytes() + times.astype("<f8").tobytes()
        return fields | {"times": len(times)}, payload

    def apply(answer: Message) -> None:
        scene, strip, obj = _targets(*where)
        if obj is None:
            return  # deleted meanwhile
        names, clock, now = answer["names"], asked[-1], sequencer.time_map(scene, strip)
        rows = np.frombuffer(answer.payload, "<f4").reshape(answer["frames"], len(names))
        if clock.move_to(now) is not None:
            clock = now
        write_lips(scene, strip, obj, clock, names, rows)
        warn_if_hidden(obj)

    return session.submit("lip_sync", label=f"Lip Sync '{strip.name}'", prepare=prepare, on_done=apply)


def _targets(
    scene_name: str, strip_id: str
) -> tuple[bpy.types.Scene | None, bpy.types.Strip | None, bpy.types.Object | None]:
    """Scene, strip and character, all None when one of them has gone."""
    scene = bpy.data.scenes.get(scene_name)
    strip = sequencer.find(scene, strip_id) if scene else None
    obj = sequencer.speaker(strip) if strip else None
    return (scene, strip, obj) if obj else (None, None, None)


# --- Writing the answer


def write_lips(
    scene: bpy.types.Scene,
    strip: bpy.types.SoundStrip,
    obj: bpy.types.Object,
    clock: TimeMap,
    names: tuple[str, ...],
    rows: np.ndarray | None,
) -> None:
    """Write the mouth of one strip as keys of `names`, in place of what this strip had written before.

    rows: (T, len(names)) values at the frames of `clock`, None for a closed mouth. A frame before and after the strip
    the mouth is at rest, unless somebody speaks there.
    """
    others = [sequencer.time_map(scene, other) for other in sequencer.dialogue(scene, obj) if other != strip]
    clear_lips(obj, strip, names, keep=[*others, clock])
    known = character.rest_values(obj)
    rest = np.array([[known[name] for name in names]])
    group = obj.edtalk
    if rows is None:
        frames, values, step = clock.frames[[0, -1]], np.repeat(rest, 2, axis=0), 1
    else:
        step = group.lip_step
        frames, values = curves.on_steps(clock.frames, curves.smooth(rows, group.lip_smooth), step)
    before, after = timemap.rest_frames(others, clock)
    if before is not None:
        frames, values = np.append(before, frames), np.concatenate([rest, values])
    if after is not None:
        frames, values = np.append(frames, after), np.concatenate([values, rest])
    _write(obj, strip, names, frames, values, "CONSTANT" if step > 1 else "LINEAR")
    sequencer.remember_time(strip, clock)
    if sequencer.STALE in strip:
        del strip[sequencer.STALE]


def _write(
    obj: bpy.types.Object,
    strip: bpy.types.SoundStrip,
    names: tuple[str, ...],
    frames: np.ndarray,
    values: np.ndarray,
    interpolation: str,
) -> None:
    ends, group = (frames[0], frames[-1]), obj.edtalk
    error = group.lip_decimate if group.lip_decimate > 0 else -1.0
    kept = [np.unique(curves.decimate(frames, column, error)) for column in values.T]
    if group.lip_nla:
        strip[NLA] = strip.get(NLA) or f"{obj.name}: {strip.name}"
        rows = np.unique(np.concatenate(kept))  # all curves of an NLA strip are written together
        table = dict(zip(names, values[rows].T, strict=True))
        animation.write_curves(obj, table, frames[rows], interpolation=interpolation, nla=True, strip_name=strip[NLA])
        return
    for name, column, rows in zip(names, values.T, kept, strict=True):
        animation.write_curves(obj, {name: column[rows]}, frames[rows], replace=ends, interpolation=interpolation)


def clear_lips(obj: bpy.types.Object, strip: bpy.types.SoundStrip, names: tuple[str, ...], keep: list[TimeMap]) -> None:
    """Remove the keys that a strip had written, but not where the strips in `keep` speak."""
    then = sequencer.remembered_time(strip)
    if then is None:
        return
    lost = timemap.uncovered((then.start - 1, then.end + 1), [(one.start, one.end) for one in keep])
    animation.remove_key_ranges(obj, names, [(start, end - 1) for start, end in lost])
    del strip[sequencer.TIME]


def warn_if_hidden(obj: bpy.types.Object) -> None:
    """Say so when something keeps the written keys from being seen, with the button that shows them."""
    if reason := animation.hidden_by(obj):
        error = EDTalkError(reason, "Lip sync was written, but it does not show.", "hidden")
        session.report(error, fix="edtalk.reveal_animation", label="Show It", options={"uid": obj.edtalk.uid})


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
        sequencer.tell_apart(scene)
        tasks, failed = [], []
        strips = self._strips(context, scene)
        for strip in strips:
            try:
                obj = sequencer.speaker(strip) or sequencer.default_speaker(context, scene)
                if obj is None:
                    message = f"'{strip.name}' belongs to no character yet."
                    raise EDTalkError(message, "Select the character too, or choose one under Speaker.")
                if note := sequencer.notes(scene, strip):
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
        sequencer.tell_apart(scene)
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
        remaining = animation.reveal(obj)
        session.dismiss()
        if remaining:
            raise EDTalkError(remaining, "Decide yourself which of the two is to play.", "hidden")
        return None


CLASSES = (EDTALK_OT_lip_sync, EDTALK_OT_assign_strip, EDTALK_OT_reveal_animation)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
