"""Head motion from speech: keyframes of the head sliders for the frames of a dialogue strip, in several variations.

Motion depends on the sound file, the place in it, the character and the seed only, so trimmed, split and retimed strips
keep theirs. It begins and ends in the pose of the surrounding keyframes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable

import bpy
import numpy as np

from ...inference.contract import answers, requests
from ...inference.contract.errors import EDTalkError
from ...inference.contract.head import LARGEST_SEED, head_matrix, head_reason
from .. import compat
from ..animation import curves, keys
from ..character import files, sliders
from ..engine import session
from ..engine.session import Task
from ..timeline import audio, sequencer
from ..timeline.timemap import TimeMap
from .on_strips import check_usable

HEAD_NLA = "edtalk_head_nla"  # of a dialogue strip: names of the NLA strips with its variations (JSON list)
EASE = 0.4  # seconds in which the motion begins and ends
ERROR = 0.002  # largest error of the simplified curves, in slider units
LETTERS = "ABCDEF"  # of the variations


def head_motion(
    scene: bpy.types.Scene, strip: bpy.types.SoundStrip, obj: bpy.types.Object, *, replace: bool = False
) -> Task:
    """Begin to write head motion for a strip, with the settings of its character.

    replace: whether keyframes that the artist inserted in the strip's frames are replaced, too. The keyframes are
    written when the result arrives, at the strip's place then.
    Raises EDTalkError if the character is read-only, its bank does not say which sliders turn the head, the sound is
    missing or muted, the strip is in a retimed meta strip, or there are keyframes by hand and `replace` is False.
    """
    check_usable(strip, obj)
    bank = files.bank_of(obj)
    if reason := head_reason(bank):
        raise EDTalkError(f"{reason}.", "Use Name Sliders, or choose the starter bank.", "bank")
    if audio.is_silent(scene, strip, sequencer.time_map(scene, strip)):
        raise EDTalkError(f"'{strip.name}' is muted.", "Unmute the strip, or raise its volume.")
    names = head_matrix(bank)[0]
    if not replace and (frames := keyed_by_hand(obj, names, sequencer.time_map(scene, strip))):
        where = f"frame {frames[0]:g}" if len(frames) == 1 else f"frames {frames[0]:g} to {frames[-1]:g}"
        message = f"'{strip.name}' has head keyframes that you inserted, at {where}."
        raise EDTalkError(message, "Delete them, or run Head Motion with Replace Keyframes.")
    sequencer.assign(strip, obj)
    where_ = scene.name, sequencer.identity(strip)
    requested: list[TimeMap] = []

    def prepare() -> requests.Perform | None:
        scene, strip, obj = sequencer.speaking(*where_)
        if scene is None or strip is None or obj is None:
            return None
        clock, group = sequencer.time_map(scene, strip), obj.edtalk
        requested.append(clock)
        first = seed_of(strip, obj)
        seeds = tuple((first + number) % (LARGEST_SEED + 1) for number in range(group.head_variations))
        times = clock.seconds(clock.frames)
        path = audio.file_path(strip)
        return requests.Perform(files.bank_path(obj), path, times, seeds, group.head_sway, group.head_nods)

    def apply(answer: answers.PerformResult) -> None:
        scene, strip, obj = sequencer.speaking(*where_)
        if scene is None or strip is None or obj is None:
            return  # deleted meanwhile
        clock, now = requested[-1], sequencer.time_map(scene, strip)
        if clock.move_to(now) is not None:
            clock = now
        write_head(scene, strip, obj, clock, answer.names, answer.rows)
        if answer.note:
            session.report(EDTalkError(f"'{strip.name}': {answer.note}", kind="media"))

    return session.submit(prepare, label=f"Head Motion '{strip.name}'", on_done=apply)


def seed_of(strip: bpy.types.SoundStrip, obj: bpy.types.Object) -> int:
    """The seed of a character's first variation for the sound of a strip: other sounds and characters get others."""
    name = f"{audio.file_path(strip).name}/{obj.name}"
    if strip.sound.packed_file is not None:
        name = f"{strip.sound.name}/{obj.name}"
    return (zlib.crc32(name.encode("utf-8", "surrogatepass")) + obj.edtalk.head_seed) % (LARGEST_SEED + 1)


# --- Writing keyframes


def write_head(
    scene: bpy.types.Scene,
    strip: bpy.types.SoundStrip,
    obj: bpy.types.Object,
    clock: TimeMap,
    names: tuple[str, ...],
    rows: np.ndarray,
) -> None:
    """Write the head keyframes of one strip, replacing all in its frames and those that it wrote before.

    rows: (S, T, len(names)) motion at the frames of `clock`, which is added to the rest pose. One variation is written
    to the action, several to NLA strips, of which only the first is not muted.
    """
    clear_head(scene, strip, obj, clock, names)
    if clock.end <= clock.start:
        return
    frames, rest = clock.frames, sliders.rest_values(obj)
    values = rows + np.array([rest[name] for name in names])
    fades = _fades(scene, strip, obj, clock)
    for pose, share in zip(_surrounding_poses(obj, names, clock), fades, strict=True):
        values = pose + share[:, None] * (values - pose)
    if not (obj.edtalk.head_sway or obj.edtalk.head_nods):
        return
    if len(values) == 1:
        for name, column in zip(names, values[0].T, strict=True):
            kept = curves.decimate(frames, column, ERROR)
            keys.write_curves(obj, {name: column[kept]}, frames[kept], generated=True)
    else:
        strip[HEAD_NLA] = json.dumps(_write_variations(strip, obj, frames, names, values))
    if sequencer.remembered_time(strip) is None:
        sequencer.remember_time(strip, clock)


def _write_variations(
    strip: bpy.types.SoundStrip, obj: bpy.types.Object, frames: np.ndarray, names: tuple[str, ...], values: np.ndarray
) -> list[str]:
    """Write each variation (T, n) of `values` to an NLA strip. Returns their names."""
    titles = [f"{obj.name}: {strip.name} head {letter}" for letter in LETTERS[: len(values)]]
    for title, rows in reversed(list(zip(titles, values, strict=True))):
        kept = np.unique(np.concatenate([curves.decimate(frames, column, ERROR) for column in rows.T]))
        table = dict(zip(names, rows[kept].T, strict=True))
        keys.write_curves(obj, table, frames[kept], generated=True, nla=True, strip_name=title)
    use_variation(obj, titles, titles[0])
    return titles


def clear_head(
    scene: bpy.types.Scene,
    strip: bpy.types.SoundStrip,
    obj: bpy.types.Object,
    clock: TimeMap,
    names: tuple[str, ...],
) -> None:
    """Remove the head keyframes in the strip's frames, the generated ones where it was, and its variations."""
    for title in variations(strip):
        keys.remove_strip(obj, title)
    if HEAD_NLA in strip:
        del strip[HEAD_NLA]
    keys.remove_keys(obj, names, clock.start, clock.end - 1)


def _surrounding_poses(obj: bpy.types.Object, names: tuple[str, ...], clock: TimeMap) -> tuple[np.ndarray, np.ndarray]:
    """The values (n,) before a strip and those after it, as they are without its keyframes."""
    rest, paths = sliders.rest_values(obj), {curve.data_path: curve for curve in compat.fcurves(obj)}
    poses = []
    for frame, before in ((clock.start - 1, True), (clock.end, False)):
        found = {name: _beside(paths.get(sliders.data_path(name)), frame, before=before) for name in names}
        poses.append(np.array([rest[name] if value is None else value for name, value in found.items()]))
    return poses[0], poses[1]


def _beside(curve: bpy.types.FCurve | None, frame: int, *, before: bool) -> float | None:
    """Value of a curve at the frame before or after a strip; None if only generated keyframes on its other side are."""
    points = curve.keyframe_points if curve else []
    if any(point.co[0] <= frame if before else point.co[0] >= frame for point in points):
        return curve.evaluate(frame)
    return curve.evaluate(frame) if any(point.type != "GENERATED" for point in points) else None


def _fades(
    scene: bpy.types.Scene, strip: bpy.types.SoundStrip, obj: bpy.types.Object, clock: TimeMap
) -> tuple[np.ndarray, np.ndarray]:
    """(T,) shares of the motion as it begins, 0 to 1 in 0.4 s, and as it ends; 1 where the strip was only split."""
    others = [other for other in sequencer.dialogue(scene, obj) if other != strip and other.sound == strip.sound]
    clocks = [sequencer.time_map(scene, other) for other in others]
    near = np.minimum((clock.frames - clock.start + 1) / (EASE * clock.fps), 1.0)
    near = near * near * (3 - 2 * near)
    begins = not any(_goes_on(other, clock) for other in clocks)
    ends = not any(_goes_on(clock, other) for other in clocks)
    return near if begins else np.ones_like(near), near[::-1] if ends else np.ones_like(near)


def _goes_on(one: TimeMap, other: TimeMap) -> bool:
    """Whether a strip with the time map `other` plays on where `one` ends."""
    jump = float(one.seconds(one.end) - other.seconds(one.end))
    return one.end == other.start and abs(jump) * one.fps < 0.5


def keyed_by_hand(obj: bpy.types.Object, names: Iterable[str], clock: TimeMap) -> list[float]:
    """The frames of a strip at which head sliders have keyframes that are not generated, in order."""
    paths = {sliders.data_path(name) for name in names}
    found = {
        float(point.co[0])
        for curve in compat.fcurves(obj)
        if curve.data_path in paths
        for point in curve.keyframe_points
        if point.type != "GENERATED" and clock.start <= point.co[0] < clock.end
    }
    return sorted(found)


# --- Variations


def variations(strip: bpy.types.Strip) -> list[str]:
    """Names of the NLA strips with a dialogue strip's variations; [] if there are none or they are unreadable."""
    try:
        return [str(name) for name in json.loads(strip.get(HEAD_NLA, "[]"))]
    except (ValueError, TypeError):
        return []


def used_variation(obj: bpy.types.Object, strip: bpy.types.Strip) -> str:
    """Name of the variation that is not muted, or ""."""
    for title in variations(strip):
        found = keys.find_strip(obj, title)
        if found and not found[1].mute:
            return title
    return ""


def use_variation(obj: bpy.types.Object, titles: list[str], used: str) -> None:
    """Unmute one NLA strip of `titles`, and mute the others."""
    for title in titles:
        found = keys.find_strip(obj, title)
        if found:
            found[1].mute = title != used
    obj.update_tag()
