"""Keep keyframes and face strips in sync with their sound strips.

Each strip stores the timing for which its keyframes were written. `follow` finds strips whose timing has changed, moves
their keyframes and face strips (or the sound, if a face strip was moved), and stores the new timing. A face strip over
a plate follows only the plate, because its images come from there. If a strip was deleted, the keyframes that Lip Sync
wrote for it are removed, and keyframes that the artist inserted are kept. `follow` itself pushes no undo step: see
`handlers.settle_scene`, which pushes one and repeats an undo that stops between it and the edit of the strip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import bpy
import numpy as np

from . import compat
from .animation import keys
from .character import character, files, sliders
from .engine.operator_base import BaseOperator
from .lipsync import markers
from .plate import compositing
from .timeline import lines, sequencer, timemap
from .timeline.lines import Line
from .timeline.sequencer import NLA
from .timeline.timemap import TimeMap


@dataclass(frozen=True)
class Change:
    """A strip with its stored timing (`then`) and its current timing (`now`)."""

    strip: bpy.types.Strip
    then: TimeMap
    now: TimeMap

    @property
    def moved(self) -> int | None:
        """Frames by which the strip was moved; None if it was trimmed, slipped or retimed."""
        return self.then.move_to(self.now)


def changes(scene: bpy.types.Scene) -> list[Change]:
    """Strips whose timing differs from the stored timing."""
    result = []
    for strip in compat.strips(scene):
        then = sequencer.remembered_time(strip) if strip.get(sequencer.CHARACTER) else None
        if then is not None:
            current = sequencer.time_map(scene, strip)
            if not then.same_as(current):
                result.append(Change(strip, then, current))
    return result


def is_due(scene: bpy.types.Scene) -> bool:
    """Whether `follow` has anything to do."""
    return bool(changes(scene) or lines.deleted(scene) or lines.restored(scene))


def follow(scene: bpy.types.Scene) -> int:
    """Move keyframes and linked strips to match changed strips, and remove the keyframes of deleted ones.

    Returns the number of changed strips.
    """
    for strip in lines.restored(scene):
        strip[sequencer.STALE] = True
        if sequencer.TIME in strip:
            del strip[sequencer.TIME]
    sequencer.ensure_unique_ids(scene)
    changed, deleted = changes(scene), lines.deleted(scene)
    _remove_lines(scene, deleted)
    lines.forget(scene, list(deleted))
    sounds = [change for change in changed if change.strip.type == "SOUND"]
    faces = [change for change in changed if change.strip.type == "IMAGE"]
    plates = [change for change in changed if change.strip.type == "MOVIE"]
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
    lines.remember(scene)
    markers.place(scene)
    if changed:
        compositing.update(scene)
    return len(changed) + len(deleted)


# --- Moving strips


def _pull_sounds(scene: bpy.types.Scene, faces: Iterable[Change], already: set[str]) -> list[Change]:
    """Move the sounds whose face strips all moved by the same number of frames, unless the sounds moved too."""
    offsets = {change.strip[sequencer.ID]: change.moved for change in faces}
    deltas: dict[str, set[int | None]] = {}
    for face in [strip for strip in compat.strips(scene) if sequencer.is_face(strip)]:
        for sound in _sounds(face) if sequencer.remembered_time(face) else ():
            deltas.setdefault(sound, set()).add(offsets.get(face.get(sequencer.ID), 0))
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
    """Move and trim the face strips whose sounds all changed in the same way."""
    by_id = {change.strip[sequencer.ID]: change for change in sounds}
    for face in [strip for strip in compat.strips(scene) if sequencer.is_face(strip)]:
        spoken = _sounds(face)
        changed = [by_id[one] for one in spoken if one in by_id]
        then = sequencer.remembered_time(face)
        if then is None or not changed or len(changed) < len(spoken):
            continue
        deltas = {change.moved for change in changed}
        if len(deltas) == 1 and (delta := deltas.pop()) is not None:
            _shift(face, then.moved(delta).start - compat.left_handle(face))
        elif len(changed) == 1:
            _trim_like(face, then, changed[0])
        sequencer.remember_time(face, sequencer.time_map(scene, face))


def _push_dubbed(scene: bpy.types.Scene, plates: list[Change]) -> None:
    """Move and trim the face strips over changed plates. Mark faces stale that now lie over other movie frames."""
    for face in [strip for strip in compat.strips(scene) if sequencer.is_face(strip)]:
        change = next((one for one in plates if one.strip[sequencer.ID] == face.get(sequencer.PLATE)), None)
        then = sequencer.remembered_time(face)
        if change is None or then is None:
            continue
        if change.moved is not None:
            _shift(face, then.moved(change.moved).start - compat.left_handle(face))
        elif then.end <= change.now.start or then.start >= change.now.end:
            continue  # part of a split strip, over another part of the plate
        elif not _trim_like(face, then, change) or _plays_more(change):
            face[sequencer.STALE] = True
        sequencer.remember_time(face, sequencer.time_map(scene, face))


def _trim_like(face: bpy.types.Strip, then: TimeMap, source: Change) -> bool:
    """Trim a face strip like its sound or plate. Returns False if the source was slipped or retimed instead.

    Then the images of the face have to be rendered again.
    """
    if not np.allclose(source.then.seconds(source.then.frames), source.now.seconds(source.then.frames), atol=1e-6):
        return False
    first = compat.content_start(face)
    if then.start == source.then.start:
        compat.set_strip_value(face, "left_handle", max(source.now.start, int(first)))
    if then.end == source.then.end:
        compat.set_strip_value(face, "right_handle", min(source.now.end, int(first) + len(face.elements)))
    return True


def _sounds(face: bpy.types.Strip) -> list[str]:
    """Ids of the dialogue strips that a face strip was rendered for."""
    return str(face.get(sequencer.SOUNDS) or "").split()


def _shift(strip: bpy.types.Strip, delta: int) -> None:
    if delta:
        compat.set_strip_value(strip, "content_start", compat.content_start(strip) + delta)


# --- Moving keyframes


def _move_keys(scene: bpy.types.Scene, obj: bpy.types.Object, changed: list[Change]) -> None:
    """Move the keyframes of one character's changed strips, all at once because strips can swap places."""
    lips = files.bank_of(obj).names_of("lip")
    all_sliders = sequencer.settings(scene).follow_keys == "ALL"
    dialogue = [strip for strip in sequencer.dialogue(scene, obj) if strip.get(sequencer.TIME)]
    then = {strip[sequencer.ID]: time for strip in dialogue if (time := sequencer.remembered_time(strip))}
    then |= {change.strip[sequencer.ID]: change.then for change in changed}
    current = {strip[sequencer.ID]: sequencer.time_map(scene, strip) for strip in dialogue}
    keyed = [change for change in changed if not change.strip.get(NLA)]

    rests_then, rests_now = _rest_frames(then), _rest_frames(current)
    edges = {change.strip[sequencer.ID]: _edge_values(obj, lips, change) for change in keyed}
    removed = rests_then - rests_now | _within(rests_then, [change.now for change in keyed])
    keys.remove_key_ranges(obj, lips, [(frame, frame) for frame in removed])
    keyed.sort(key=lambda change: change.then.end - change.then.start)  # a cut-off piece before the rest of its strip
    moves = [keys.Move(*piece) for change in keyed for piece in change.then.moves_to(change.now)]
    if moves:
        keys.move_keys(obj, lips, moves)
    if moves and all_sliders:
        others = [name for name in sliders.channel_names(obj) if name not in lips]
        keys.move_keys(obj, others, moves, replace_generated=True)  # idle motion of the two places would alternate
    kept = [(one.start, one.end) for one in current.values()]
    for change in keyed:
        if change.moved is None:
            _trim_keys(obj, lips, change, edges[change.strip[sequencer.ID]], kept)
        else:
            _key_ends(obj, lips, edges[change.strip[sequencer.ID]])
    _rest(obj, lips, rests_now)
    for change in changed:
        if change.strip.get(NLA):
            _move_nla(obj, change, change.strip[NLA])
        for name in sequencer.all_motion_strips(change.strip):
            _move_nla(obj, change, name)
        if _plays_more(change):
            change.strip[sequencer.STALE] = True


def _remove_lines(scene: bpy.types.Scene, deleted: Mapping[str, Line]) -> None:
    """Remove the generated keyframes of deleted strips, except where other strips have theirs."""
    all_sliders = sequencer.settings(scene).follow_keys == "ALL"
    for uid in {line.character for line in deleted.values()}:
        obj = character.find(uid)
        if obj is None or character.editable_reason(obj):
            continue
        own = [line for line in deleted.values() if line.character == uid]
        dialogue = sequencer.dialogue(scene, obj)
        in_nla = {name for line in own for name in (line.nla, *line.motion)}
        for strip in dialogue:
            in_nla -= {strip.get(NLA), *sequencer.all_motion_strips(strip)}
        for name in in_nla - {""}:
            keys.remove_strip(obj, name)
        then = {strip[sequencer.ID]: time for strip in dialogue if (time := sequencer.remembered_time(strip))}
        rests = _rest_frames(then)
        spoken = {frame for line in own for frame in range(line.start, line.end)}
        kept = [(one.start, one.end) for one in then.values()] + [(frame, frame + 1) for frame in rests - spoken]
        ranges = [(line.start - 1, line.end + 1) for line in own if not line.nla]
        lost = [(start, end - 1) for whole in ranges for start, end in timemap.uncovered(whole, kept)]
        lips = files.bank_of(obj).names_of("lip")
        motion = [name for name in sliders.channel_names(obj) if name not in lips] if all_sliders else []
        before = _keyed(obj, (*lips, *motion))
        keys.remove_key_ranges(obj, lips, lost, only_generated=True)
        spans = [part for line in own for part in timemap.uncovered((line.start, line.end), kept)]
        keys.remove_key_ranges(obj, motion, [(start, end - 1) for start, end in spans], only_generated=True)
        _rest(obj, lips, {frame for frame in rests if any(start <= frame < end for start, end in ranges)})
        rest = sliders.rest_values(obj)
        for name in before - _keyed(obj, before):
            obj.edtalk[name] = rest.get(name, 0.0)  # else the slider would keep the value of the current frame
        obj.update_tag()


def _keyed(obj: bpy.types.Object, names: Iterable[str]) -> set[str]:
    paths = {curve.data_path for curve in compat.fcurves(obj)}
    return {name for name in names if sliders.data_path(name) in paths}


def _rest_frames(clocks: dict[str, TimeMap]) -> set[int]:
    """Frames next to strips at which the mouth is keyed at rest."""
    all_clocks = list(clocks.values())
    return {frame for one in all_clocks for frame in timemap.rest_frames(all_clocks, one) if frame is not None}


def _within(frames: set[int], clocks: list[TimeMap]) -> set[int]:
    return {frame for frame in frames if any(one.start <= frame < one.end for one in clocks)}


def _lip_curves(obj: bpy.types.Object, lips: tuple[str, ...]) -> dict[str, bpy.types.FCurve]:
    """The F-curves of the mouth by slider."""
    paths = {sliders.data_path(name): name for name in lips}
    return {paths[curve.data_path]: curve for curve in compat.fcurves(obj) if curve.data_path in paths}


def _edge_values(obj: bpy.types.Object, lips: tuple[str, ...], change: Change) -> dict[int, dict[str, float]]:
    """Mouth values at the new first and last frame of a changed strip, if they were in its old range."""
    curves = _lip_curves(obj, lips)
    values = {}
    for frame in (change.now.start, change.now.end - 1):
        (old_frame,) = change.now.follow([frame], change.then)
        if change.then.start <= old_frame <= change.then.end - 1:
            values[frame] = {name: curve.evaluate(old_frame) for name, curve in curves.items()}
    return values


def _trim_keys(
    obj: bpy.types.Object,
    lips: tuple[str, ...],
    change: Change,
    edges: dict[int, dict[str, float]],
    kept: list[tuple[int, int]],
) -> None:
    """Remove the keyframes outside a trimmed strip, and key its new ends with the values of the curve there."""
    reach = timemap.union([(change.then.start, change.then.end), *_ends(change)])
    assert reach is not None, "the old range is a part of it"
    lost = [(start, end - 1) for start, end in timemap.uncovered(reach, kept)]
    keys.remove_key_ranges(obj, lips, lost, only_generated=bool(change.strip.get(sequencer.GENERATED)))
    for frame, values in edges.items():
        keys.insert_keys(obj, values, frame, interpolation="LINEAR", generated=True)


def _key_ends(obj: bpy.types.Object, lips: tuple[str, ...], edges: dict[int, dict[str, float]]) -> None:
    """Key the ends of a moved strip where they have no keyframe: it may have been cut between sparse keyframes."""
    for name, curve in _lip_curves(obj, lips).items():
        keyed = {point.co[0] for point in curve.keyframe_points}
        lacking = {frame: values[name] for frame, values in edges.items() if frame not in keyed and name in values}
        for frame, value in lacking.items():
            keys.insert_keys(obj, {name: value}, frame, interpolation="LINEAR", generated=True)


def _ends(change: Change) -> list[tuple[int, int]]:
    """Range of a strip's moved keyframes, which may extend beyond its new handles."""
    first, last = change.then.follow([change.then.start, change.then.end - 1], change.now)
    return [(int(np.floor(first)), int(np.ceil(last)) + 1)]


def _rest(obj: bpy.types.Object, lips: tuple[str, ...], frames: set[int]) -> None:
    """Key the mouth at rest at these frames, unless it has a keyframe there."""
    paths = {sliders.data_path(name): name for name in lips}
    rest = sliders.rest_values(obj)
    for curve in [curve for curve in compat.fcurves(obj) if curve.data_path in paths]:
        at = np.empty(2 * len(curve.keyframe_points), np.float32)
        curve.keyframe_points.foreach_get("co", at)
        lacking = np.array(sorted(frames - set(at[::2].tolist())), np.float64)
        name = paths[curve.data_path]
        if len(lacking):
            keys.write_curves(obj, {name: np.full(len(lacking), rest[name])}, lacking, generated=True)


def _move_nla(obj: bpy.types.Object, change: Change, name: str) -> None:
    strip_and_track = keys.find_strip(obj, name)
    if strip_and_track is None:
        return
    if change.moved is None:
        change.strip[sequencer.STALE] = True
        return
    _track, strip = strip_and_track
    start, end = strip.frame_start + change.moved, strip.frame_end + change.moved
    if change.moved > 0:
        strip.frame_end, strip.frame_start = end, start
    else:
        strip.frame_start, strip.frame_end = start, end


def _plays_more(change: Change) -> bool:
    """Whether a strip now includes content without keyframes."""
    first, last = change.now.follow([change.now.start, change.now.end - 1], change.then)
    return first < change.then.start - 0.5 or last > change.then.end - 0.5


# --- Operator


class EDTALK_OT_resync(BaseOperator, bpy.types.Operator):
    """Move keys and face strips to match their sound strips, and remove mouth keys of deleted strips"""

    bl_idname = "edtalk.resync"
    bl_label = "Sync Now"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        strips = compat.strips(compat.sequencer_scene(context))
        return "" if any(strip.get(sequencer.TIME) for strip in strips) else "No strip has been lip-synced yet"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        count = follow(compat.sequencer_scene(context))
        self.report({"INFO"}, f"Synced {count} changed strips" if count else "Everything is in sync")
        return None


CLASSES = (EDTALK_OT_resync,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
