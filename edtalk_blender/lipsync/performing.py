"""Head motion, emotion, and motion of eyes and brows from the speech of a dialogue strip."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import bpy
import numpy as np

from ...inference.contract import answers, requests
from ...inference.contract.bank import Bank
from ...inference.contract.errors import EDTalkError
from ...inference.contract.eyes import closed_eyes, eyes_reason, gaze_names, gaze_offsets
from ...inference.contract.head import head_matrix, head_reason
from ..character import files, sliders
from ..engine import session
from ..engine.session import Task
from ..timeline import audio, lines, sequencer
from ..timeline.timemap import TimeMap
from . import emotion_keys, head_motion, markers, motion_keys
from .on_strips import check_usable
from .spoken_text import texts_of

BROW_GROUP = "Brow Accents"  # F-curve group, which can be muted


@dataclass(frozen=True)
class Kind:
    """What can be written from speech. want: its names in the request. label: for messages and undo steps."""

    label: str
    want: tuple[str, ...]


KINDS = {
    "HEAD": Kind("Head Motion", ("head",)),
    "EMOTION": Kind("Detect Emotion", ("emotion", "brows")),
    "EYES": Kind("Eyes", ("blinks", "gaze")),
}


def perform(
    scene: bpy.types.Scene,
    strip: bpy.types.SoundStrip,
    obj: bpy.types.Object,
    kinds: Collection[str],
    *,
    existing: str = "LAYER",
) -> Task:
    """Begin to write motion from speech for a strip, with the settings of its character.

    kinds: keys of `KINDS`; those that the character's bank has no sliders for are left out. existing: an item of
    `motion_keys.EXISTING`. The keyframes are written when the result arrives, at the strip's place then.
    Raises EDTalkError if the character is read-only, its bank has no sliders for any kind, the sound is missing or
    muted, or the strip is in a retimed meta strip.
    """
    check_usable(strip, obj)
    kinds = _possible_kinds(obj, kinds)
    if audio.is_silent(scene, strip, sequencer.time_map(scene, strip)):
        raise EDTalkError(f"'{strip.name}' is muted.", "Unmute the strip, or raise its volume.")
    sequencer.assign(strip, obj)
    where = scene.name, sequencer.identity(strip)
    requested: list[TimeMap] = []
    written: list[str] = []

    def prepare() -> requests.Perform | None:
        scene, strip, obj = sequencer.speaking(*where)
        if scene is None or strip is None or obj is None:
            return None
        clock, group = sequencer.time_map(scene, strip), obj.edtalk
        requested.append(clock)
        wanted = [part for kind in kinds for part in KINDS[kind].want]
        return requests.Perform(
            files.bank_path(obj),
            audio.file_path(strip),
            clock.seconds(clock.frames),
            head_motion.seeds_of(strip, obj),
            group.head_sway,
            group.head_nods,
            want=tuple(part for part in wanted if part != "brows" or group.brow_accents),
            text=texts_of(scene, strip, clock),
            emotion_from=group.emotion_from.lower(),
        )

    def apply(answer: answers.PerformResult) -> None:
        scene, strip, obj = sequencer.speaking(*where)
        if scene is None or strip is None or obj is None:
            return  # deleted meanwhile
        clock, now = requested[-1], sequencer.time_map(scene, strip)
        if clock.move_to(now) is not None:
            clock = now
        written.extend(_write_kinds(kinds, scene, strip, obj, clock, answer, existing))
        strip[sequencer.GENERATED] = True
        lines.remember(scene)
        if answer.note:
            session.report(EDTalkError(f"'{strip.name}': {answer.note}", kind="media"))

    def finished(answer: answers.PerformResult) -> str:
        note = f". {answer.emotion_note}" if answer.emotion_note and not answer.note else ""
        return f"{title}: wrote {', '.join(written)} of '{name}'{note}".removesuffix(".")

    name = strip.name
    title = KINDS[kinds[0]].label if len(kinds) == 1 else "Animate from Speech"
    return session.submit(prepare, label=f"{title} '{name}'", on_done=apply, finished=finished)


def _possible_kinds(obj: bpy.types.Object, kinds: Collection[str]) -> tuple[str, ...]:
    """The kinds that the character's bank has sliders for. Raises EDTalkError if there is none."""
    reasons = {kind: reason(files.bank_of(obj), kind) for kind in kinds}
    if possible := tuple(kind for kind in kinds if not reasons[kind]):
        return possible
    message = next(iter(reasons.values()))
    raise EDTalkError(f"{message}.", "Use Name Sliders, or choose the starter bank.", "bank")


def reason(bank: Bank, kind: str) -> str:
    """Why a kind of motion cannot be written for a bank, without a full stop; "" if it can."""
    if kind == "HEAD":
        return head_reason(bank)
    if kind == "EYES":
        return eyes_reason(bank)
    if any(name in bank.presets for name in emotion_keys.EMOTIONS):
        return ""
    return f"The bank '{bank.name}' has none of the emotions {', '.join(emotion_keys.EMOTIONS)}"


def names_of(obj: bpy.types.Object, kinds: Collection[str]) -> list[str]:
    """The sliders that kinds of motion are written to."""
    bank, names = files.bank_of(obj), list[str]()
    if "HEAD" in kinds:
        names += head_matrix(bank)[0]
    if "EMOTION" in kinds:
        names += emotion_keys.emotion_names(obj)
    if "EYES" in kinds:
        names += [*closed_eyes(bank), *gaze_names(bank)]
    return names


def _write_kinds(
    kinds: Collection[str],
    scene: bpy.types.Scene,
    strip: bpy.types.SoundStrip,
    obj: bpy.types.Object,
    clock: TimeMap,
    answer: answers.PerformResult,
    existing: str,
) -> list[str]:
    """Write the keyframes of each kind. Returns what was written, for a notice."""
    written = []
    if "HEAD" in kinds:
        motion_keys.write_motion(scene, strip, obj, clock, "head", answer.names, answer.rows, existing)
        written.append("head motion")
    if "EMOTION" in kinds:
        written.append(_write_emotion(scene, strip, obj, clock, answer, existing))
    if "EYES" in kinds:
        _write_eyes(scene, strip, obj, clock, answer, existing)
        written.append("blinks")
    return written


def _write_emotion(
    scene: bpy.types.Scene,
    strip: bpy.types.SoundStrip,
    obj: bpy.types.Object,
    clock: TimeMap,
    answer: answers.PerformResult,
    existing: str,
) -> str:
    """Write keyframes or markers of detected emotions, and brow accents. Returns what was found, for a notice."""
    group, found = obj.edtalk, answer.suggestions
    if group.emotion_as == "MARKERS":
        markers.suggest(scene, strip, [(one.start, f"{one.kind} {one.strength:.1f}") for one in found])
        kinds = tuple(dict.fromkeys(one.kind for one in found))
    else:
        markers.suggest(scene, strip, [])
        kinds = emotion_keys.write_emotions(scene, strip, obj, clock, found, group.emotion_amount, existing)
    if group.brow_accents:
        offsets = answer.brows[None] * (group.emotion_amount > 0)
        motion_keys.write_motion(
            scene, strip, obj, clock, "brows", answer.brow_names, offsets, existing, group=BROW_GROUP
        )
    return ", ".join(kinds) or "no emotions"


def _write_eyes(
    scene: bpy.types.Scene,
    strip: bpy.types.SoundStrip,
    obj: bpy.types.Object,
    clock: TimeMap,
    answer: answers.PerformResult,
    existing: str,
) -> None:
    """Write the keyframes of blinks and gaze."""
    bank, rest = files.bank_of(obj), sliders.rest_values(obj)
    closed = closed_eyes(bank)
    sizes = np.array([max(value - rest[name], 0.0) for name, value in closed.items()])
    offsets = np.concatenate([answer.blinks * sizes, gaze_offsets(bank, answer.gaze)], axis=1)
    names = (*closed, *gaze_names(bank))
    motion_keys.write_motion(scene, strip, obj, clock, "eyes", names, offsets[None], existing)
