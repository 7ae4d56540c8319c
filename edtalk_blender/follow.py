"""Keys and face strips follow their sound: what moved is found by comparing each strip with its remembered time.

A strip remembers the time for which its keys are in place. `follow` finds the strips that differ, moves the keys and
the face strips after them - or, when it was the face strip that was moved, the sound - and remembers anew. A face strip
over a plate follows that alone: its pictures are the plate's. `follow` pushes no undo step: what follows belongs to the
step of the move that it follows, and is found again after an undo or redo.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import bpy
import numpy as np

from . import compat
from .animation import keys
from .character import character
from .engine.asking import Explained
from .plate import compositing
from .timeline import sequencer, timemap
from .timeline.sequencer import NLA
from .timeline.timemap import TimeMap


@dataclass(frozen=True)
class Change:
    """A strip, its time when its keys were last in place, and its time now."""

    strip: bpy.types.Strip
    then: TimeMap
    now: TimeMap

    @property
    def moved(self) -> int | None:
        """Frames by which it was moved; None where it was trimmed, slipped or retimed."""
        return self.then.move_to(self.now)


def changes(scene: bpy.types.Scene) -> list[Change]:
    """The strips that are not where their keys are."""
    found = []
    for strip in compat.strips(scene):
        then = sequencer.remembered_time(strip) if strip.get(sequencer.CHARACTER) else None
        if then is not None:
            now = sequencer.time_map(scene, strip)
            if not then.same_as(now):
                found.append(Change(strip, then, now))
    return found


def follow(scene: bpy.types.Scene) -> int:
    """Bring everything that is linked to where its strip is now; returns how many strips had changed."""
    sequencer.ensure_unique_ids(scene)
    found = changes(scene)
    sounds = [change for change in found if change.strip.type == "SOUND"]
    faces = [change for change in found if change.strip.type == "IMAGE"]
    plates = [change for change in found if change.strip.type == "MOVIE"]
    if sequencer.settings(scene).follow_face:
        sounds += _pull_sounds(scene, faces, {change.strip.get(sequencer.ID) for change in sounds})
    for uid in {change.strip[sequencer.CHARACTER] for change in sounds}:
        obj = character.find(uid)
        own = [change for change in sounds if change.strip[sequencer.CHARACTER] == uid]
        if obj is not None and not character.editable_reason(obj):
            _move_keys(scene, obj, own)
        _push_faces(scene, own)
    _push_dubbed(scene, plates)
    for change in (*sounds, *faces, *plates):
        sequencer.remember_time(change.strip, sequencer.time_map(scene, change.strip))
    if found:
        compositing.renew(scene)
    return len(found)


# --- Strips after strips


def _pull_sounds(scene: bpy.types.Scene, faces: Iterable[Change], already: set[str]) -> list[Change]:
    """Move the sounds whose face strips were moved, all by the same, unless they moved too."""
    moved = {change.strip[sequencer.ID]: change.moved for change in faces}
    deltas: dict[str, set[int | None]] = {}
    for face in [strip for strip in compat.strips(scene) if sequencer.is_face(strip)]:
        for sound in _sounds(face) if sequencer.remembered_time(face) else ():
            deltas.setdefault(sound, set()).add(moved.get(face.get(sequencer.ID), 0))
    pulled = []
    for sound, (delta, *others) in deltas.items():
        strip = sequencer.find(scene, sound)
        if strip is None or sound in already or others or not delta:
            continue
        then = sequencer.remembered_time(strip) or sequencer.time_map(scene, strip)
        _shift(strip, delta)
        pulled.append(Change(strip, then, sequencer.time_map(scene, strip)))
    return pulled


def _push_faces(scene: bpy.types.Scene, sounds: list[Change]) -> None:
    """Move and trim the face strips whose sounds all changed alike."""
    by_id = {change.strip[sequencer.ID]: change for change in sounds}
    for face in [strip for strip in compat.strips(scene) if sequencer.is_face(strip)]:
        spoken = _sounds(face)
        changed = [by_id[one] for one in spoken if one in by_id]
        then = sequencer.remembered_time(face)
        if then is None or not changed or len(changed) < len(spoken):
            continue
        deltas = {change.moved for change in changed}
        if len(deltas) == 1 and None not in deltas:
            _shift(face, then.moved(deltas.pop()).start - compat.left_handle(face))
        elif len(changed) == 1:
            _trim_alike(face, then, changed[0])
        sequencer.remember_time(face, sequencer.time_map(scene, face))


def _push_dubbed(scene: bpy.types.Scene, plates: list[Change]) -> None:
    """Move and trim the face strips that lie over plates like these; what shows another moment of the film is stale."""
    for face in [strip for strip in compat.strips(scene) if sequencer.is_face(strip)]:
        change = next((one for one in plates if one.strip[sequencer.ID] == face.get(sequencer.PLATE)), None)
        then = sequencer.remembered_time(face)
        if change is None or then is None:
            continue
        if change.moved is not None:
            _shift(face, then.moved(change.moved).start - compat.left_handle(face))
        elif then.end <= change.now.start or then.start >= change.now.end:
            continue  # a piece that lies over another one that was cut off
        elif not _trim_alike(face, then, change) or _plays_more(change):
            face[sequencer.STALE] = True
        sequencer.remember_time(face, sequencer.time_map(scene, face))


def _trim_alike(face: bpy.types.Strip, then: TimeMap, sound: Change) -> bool:
    """Where a sound's or plate's handles were trimmed over content that stayed, those of its face are too.

    False where it was slipped or retimed: its pictures have to be rendered anew.
    """
    if not np.allclose(sound.then.seconds(sound.then.frames), sound.now.seconds(sound.then.frames), atol=1e-6):
        return False
    first = compat.content_start(face)
    if then.start == sound.then.start:
        compat.set_strip_value(face, "left_handle", max(sound.now.start, int(first)))
    if then.end == sound.then.end:
        compat.set_strip_value(face, "right_handle", min(sound.now.end, int(first) + len(face.elements)))
    return True


def _sounds(face: bpy.types.Strip) -> list[str]:
    """Identities of the dialogue strips that a face strip was rendered for."""
    return str(face.get(sequencer.SOUNDS) or "").split()


def _shift(strip: bpy.types.Strip, delta: int) -> None:
    if delta:
        compat.set_strip_value(strip, "content_start", compat.content_start(strip) + delta)


# --- Keys after strips


def _move_keys(scene: bpy.types.Scene, obj: bpy.types.Object, changed: list[Change]) -> None:
    """Move the keys of one character's changed strips, all at once, for one may go where another was."""
    lips = character.bank_of(obj).names_of("lip")
    everything = sequencer.settings(scene).follow_keys == "ALL"
    dialogue = [strip for strip in sequencer.dialogue(scene, obj) if strip.get(sequencer.TIME)]
    then = {strip[sequencer.ID]: sequencer.remembered_time(strip) for strip in dialogue}
    then |= {change.strip[sequencer.ID]: change.then for change in changed}
    now = {strip[sequencer.ID]: sequencer.time_map(scene, strip) for strip in dialogue}
    keyed = [change for change in changed if not change.strip.get(NLA)]

    rests_then, rests_now = _rest_frames(then), _rest_frames(now)
    edges = {change.strip[sequencer.ID]: _edge_values(obj, lips, change) for change in keyed if change.moved is None}
    gone = rests_then - rests_now | _within(rests_then, [change.now for change in keyed])
    keys.remove_key_ranges(obj, lips, [(frame, frame) for frame in gone])
    moves = [keys.Move(*piece) for change in keyed for piece in change.then.moves_to(change.now)]
    if moves:
        keys.move_keys(obj, character.channel_names(obj) if everything else lips, moves)
    kept = [(one.start, one.end) for one in now.values()]
    for change in keyed:
        if change.moved is None:
            _trim_keys(obj, lips, change, edges[change.strip[sequencer.ID]], kept)
    _rest(obj, lips, rests_now)
    for change in changed:
        if change.strip.get(NLA):
            _move_nla(obj, change)
        if _plays_more(change):
            change.strip[sequencer.STALE] = True


def _rest_frames(clocks: dict[str, TimeMap]) -> set[int]:
    """The frames at which the mouth is at rest because the strip before or after has ended or not begun."""
    every = list(clocks.values())
    return {frame for one in every for frame in timemap.rest_frames(every, one) if frame is not None}


def _within(frames: set[int], clocks: list[TimeMap]) -> set[int]:
    return {frame for frame in frames if any(one.start <= frame < one.end for one in clocks)}


def _edge_values(obj: bpy.types.Object, lips: tuple[str, ...], change: Change) -> dict[int, dict[str, float]]:
    """What the mouth did at the moments that a trimmed strip now begins and ends with, where it had keys for them."""
    paths = {character.data_path(name): name for name in lips}
    curves = {paths[curve.data_path]: curve for curve in compat.fcurves(obj) if curve.data_path in paths}
    found = {}
    for frame in (change.now.start, change.now.end - 1):
        (was,) = change.now.follow([frame], change.then)
        if change.then.start <= was <= change.then.end - 1:
            found[frame] = {name: curve.evaluate(was) for name, curve in curves.items()}
    return found


def _trim_keys(
    obj: bpy.types.Object,
    lips: tuple[str, ...],
    change: Change,
    edges: dict[int, dict[str, float]],
    kept: list[tuple[int, int]],
) -> None:
    """Remove keys that a strip no longer plays, and key its new ends as the curve passed through them."""
    reach = timemap.union([(change.then.start, change.then.end), *_ends(change)])
    lost = [(start, end - 1) for start, end in timemap.uncovered(reach, kept)]
    keys.remove_key_ranges(obj, lips, lost)
    for frame, values in edges.items():
        keys.insert_keys(obj, values, frame, interpolation="LINEAR")


def _ends(change: Change) -> list[tuple[int, int]]:
    """Where the first and last key of a strip went, which may be beyond its new handles."""
    first, last = change.then.follow([change.then.start, change.then.end - 1], change.now)
    return [(int(np.floor(first)), int(np.ceil(last)) + 1)]


def _rest(obj: bpy.types.Object, lips: tuple[str, ...], frames: set[int]) -> None:
    """Key the mouth at rest at these frames, where it has no key."""
    paths = {character.data_path(name): name for name in lips}
    rest = character.rest_values(obj)
    for curve in [curve for curve in compat.fcurves(obj) if curve.data_path in paths]:
        at = np.empty(2 * len(curve.keyframe_points), np.float32)
        curve.keyframe_points.foreach_get("co", at)
        lacking = np.array(sorted(frames - set(at[::2].tolist())), np.float64)
        name = paths[curve.data_path]
        if len(lacking):
            keys.write_curves(obj, {name: np.full(len(lacking), rest[name])}, lacking)


def _move_nla(obj: bpy.types.Object, change: Change) -> None:
    found = keys.find_strip(obj, change.strip[NLA])
    if found is None:
        return
    if change.moved is None:
        change.strip[sequencer.STALE] = True
        return
    _track, strip = found
    start, end = strip.frame_start + change.moved, strip.frame_end + change.moved
    if change.moved > 0:
        strip.frame_end, strip.frame_start = end, start
    else:
        strip.frame_start, strip.frame_end = start, end


def _plays_more(change: Change) -> bool:
    """Whether a strip now plays moments that it did not, for which there are no keys."""
    first, last = change.now.follow([change.now.start, change.now.end - 1], change.then)
    return first < change.then.start - 0.5 or last > change.then.end - 0.5


# --- Operators


class EDTALK_OT_resync(Explained, bpy.types.Operator):
    """Bring keys and face strips to where their sound strips are now"""

    bl_idname = "edtalk.resync"
    bl_label = "Re-sync"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        strips = compat.strips(compat.sequencer_scene(context))
        return "" if any(strip.get(sequencer.TIME) for strip in strips) else "No strip has been lip-synced yet"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        count = follow(compat.sequencer_scene(context))
        self.report({"INFO"}, f"{count} strips had moved or changed" if count else "Everything was in place")
        return None


CLASSES = (EDTALK_OT_resync,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
