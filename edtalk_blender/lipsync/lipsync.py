"""Lip sync: from a sound strip's audio to mouth keyframes of its character."""

from __future__ import annotations

from contextlib import suppress

import bpy
import numpy as np

from ...inference.contract import answers, requests
from ...inference.contract.errors import EDTalkError
from .. import compat
from ..animation import curves, hidden, keys
from ..character import files, rest_pose, sliders
from ..engine import session
from ..engine.session import Task
from ..timeline import audio, lines, sequencer, timemap
from ..timeline.sequencer import NLA
from ..timeline.timemap import TimeMap
from . import markers
from .on_strips import check_usable

# --- Requesting lip sync


def lip_sync(scene: bpy.types.Scene, strip: bpy.types.SoundStrip, obj: bpy.types.Object) -> Task | None:
    """Begin to lip-sync a strip to a character. Returns None if the strip is silent; its keys are written at once.

    Otherwise the keys are written when the result arrives. If the strip was moved meanwhile, they follow it.
    Raises EDTalkError if the character is read-only, its bank has no lip-sync network, the sound is missing or the
    strip is in a retimed meta strip.
    """
    check_usable(strip, obj)
    bank = files.bank_of(obj)
    if not bank.has_audio:
        message = f"The bank '{bank.name}' of {obj.name} has no lip-sync network."
        raise EDTalkError(message, "Choose a bank with lip sync.", "bank")
    sequencer.assign(strip, obj)
    if audio.is_silent(scene, strip, sequencer.time_map(scene, strip)):
        write_lips(scene, strip, obj, sequencer.time_map(scene, strip), bank.names_of("lip"), None)
        return None

    with suppress(EDTalkError):  # lip sync needs no portrait
        if not rest_pose.is_known(obj):
            rest_pose.measure(obj)  # finishes first, so that the mouth returns to this face's rest pose
    where = scene.name, sequencer.identity(strip)
    requested: list[TimeMap] = []

    def prepare() -> requests.LipSync | None:
        scene, strip, obj = sequencer.speaking(*where)
        if obj is None:
            return None
        clock = sequencer.time_map(scene, strip)
        sound = audio.read(scene, strip, clock)
        seconds = len(sound.samples) / sound.rate
        if seconds < requests.SHORTEST_SOUND:
            found = f"'{strip.name}' plays {seconds * 1000:.0f} ms of {audio.file_path(strip)}"
            message = f"{found}; lip-sync needs at least {requests.SHORTEST_SOUND * 1000:.0f} ms."
            raise EDTalkError(message, "Choose a longer sound, or move the strip's handles.", "media")
        times = clock.seconds(clock.frames) - sound.start
        requested.append(clock)
        return requests.LipSync(files.bank_path(obj), sound.rate, sound.samples, times)

    def apply(answer: answers.LipSyncResult) -> None:
        scene, strip, obj = sequencer.speaking(*where)
        if obj is None:
            return  # deleted meanwhile
        clock, now = requested[-1], sequencer.time_map(scene, strip)
        if clock.move_to(now) is not None:
            clock = now
        write_lips(scene, strip, obj, clock, answer.names, answer.rows)
        warn_if_hidden(obj)

    name, finished = strip.name, f"Lip Sync: wrote the mouth keys of '{strip.name}'"
    return session.submit(prepare, label=f"Lip Sync '{name}'", on_done=apply, finished=lambda _answer: finished)


# --- Writing keys


def write_lips(
    scene: bpy.types.Scene,
    strip: bpy.types.SoundStrip,
    obj: bpy.types.Object,
    clock: TimeMap,
    names: tuple[str, ...],
    rows: np.ndarray | None,
) -> None:
    """Write mouth keys for one strip, replacing those that it wrote before.

    names: of the sliders. rows: (T, len(names)) values at the frames of `clock`, or None for a closed mouth. The mouth
    is keyed at rest one frame before and after the strip, unless another dialogue strip plays there.
    """
    others = [sequencer.time_map(scene, other) for other in sequencer.dialogue(scene, obj) if other != strip]
    clear_lips(obj, strip, names, keep=[*others, clock])
    rest_values = sliders.rest_values(obj)
    rest = np.array([[rest_values[name] for name in names]])
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
    strip[sequencer.GENERATED] = True
    lines.remember(scene)
    if sequencer.STALE in strip:
        del strip[sequencer.STALE]
    markers.forget(strip)
    markers.place(scene)


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
    if interpolation == "CONSTANT":
        kept = [curves.decimate_held(column, error) for column in values.T]
    else:
        kept = [curves.decimate(frames, column, error) for column in values.T]
    if group.lip_nla:
        strip[NLA] = strip.get(NLA) or f"{obj.name}: {strip.name}"
        rows = np.unique(np.concatenate(kept))  # write_curves writes all curves of an NLA strip at the same frames
        table = dict(zip(names, values[rows].T, strict=True))
        keys.write_curves(
            obj, table, frames[rows], interpolation=interpolation, generated=True, nla=True, strip_name=strip[NLA]
        )
        return
    for name, column, rows in zip(names, values.T, kept, strict=True):
        keys.write_curves(
            obj, {name: column[rows]}, frames[rows], replace=ends, interpolation=interpolation, generated=True
        )


def has_mouth_keys(strip: bpy.types.SoundStrip, obj: bpy.types.Object) -> bool:
    """Whether a character has mouth keys for a dialogue strip, and it plays nothing that they were not written for."""
    clock = sequencer.remembered_time(strip)
    if clock is None or strip.get(sequencer.STALE) or sequencer.speaker(strip) != obj:
        return False
    if strip.get(NLA):
        return keys.find_strip(obj, strip[NLA]) is not None
    paths = {sliders.data_path(name) for name in files.bank_of(obj).names_of("lip")}
    return any(
        clock.start <= point.co.x < clock.end
        for curve in compat.fcurves(obj)
        if curve.data_path in paths
        for point in curve.keyframe_points
    )


def clear_lips(obj: bpy.types.Object, strip: bpy.types.SoundStrip, names: tuple[str, ...], keep: list[TimeMap]) -> None:
    """Remove the mouth keys that a strip wrote, except within the time maps in `keep`."""
    then = sequencer.remembered_time(strip)
    if then is None:
        return
    lost = timemap.uncovered((then.start - 1, then.end + 1), [(one.start, one.end) for one in keep])
    keys.remove_key_ranges(obj, names, [(start, end - 1) for start, end in lost])
    del strip[sequencer.TIME]


def warn_if_hidden(obj: bpy.types.Object) -> None:
    """Report where other animation overrides the written keys, with a button that reveals them."""
    if reason := hidden.hidden_by(obj):
        error = EDTalkError(reason, "Lip-sync keys were written but are overridden.", "hidden")
        session.report(error, fix="edtalk.reveal_animation", label="Show Animation", options={"uid": obj.edtalk.uid})
