"""Write, move and remove keyframes of a character in bulk.

Keyframes are ordinary F-curve keyframes of the object's action or of an NLA strip, editable in the Graph Editor.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import bpy
import numpy as np

from .. import compat
from ..character import files, sliders

_INTERPOLATION = {"CONSTANT": 0, "LINEAR": 1, "BEZIER": 2, "SINE": 12}
_EASING = {"AUTO": 0, "EASE_IN": 1, "EASE_OUT": 2, "EASE_IN_OUT": 3}
_AUTO_CLAMPED = 4
_KEYFRAME, _GENERATED = 0, 5  # types of keyframes
_IDENTIFIERS = {  # of the values that a new keyframe can have
    "interpolation": {value: name for name, value in _INTERPOLATION.items()},
    "easing": {value: name for name, value in _EASING.items()},
    "handle_left_type": {_AUTO_CLAMPED: "AUTO_CLAMPED"},
    "handle_right_type": {_AUTO_CLAMPED: "AUTO_CLAMPED"},
    "type": {_KEYFRAME: "KEYFRAME", _GENERATED: "GENERATED"},
}
_FEW_KEYS = 8  # that are inserted into a curve one by one
_SAME_FRAME = 0.02  # frames; Blender takes keyframes within 0.01 for the same
_KEY_FIELDS = {  # properties of a keyframe point: name, numbers per key, dtype
    "co": (2, np.float32),
    "handle_left": (2, np.float32),
    "handle_right": (2, np.float32),
    "interpolation": (1, np.int32),
    "easing": (1, np.int32),
    "handle_left_type": (1, np.int32),
    "handle_right_type": (1, np.int32),
    "type": (1, np.int32),
    "amplitude": (1, np.float32),
    "back": (1, np.float32),
    "period": (1, np.float32),
    "select_control_point": (1, bool),
    "select_left_handle": (1, bool),
    "select_right_handle": (1, bool),
}
# Generated keyframes carry a checksum of what the artist can edit, in the last bits of their overshoot, which they do
# not use. So an edited one is recognised, which Blender's type of a keyframe does not tell.
_EDITABLE = ("co", "interpolation", "easing", "handle_left_type", "handle_right_type")
_OVERSHOOT = np.float32(1.70158)  # Blender's default


# --- Writing


def write_curves(
    obj: bpy.types.Object,
    curves: Mapping[str, np.ndarray],
    frames: np.ndarray,
    *,
    replace: tuple[float, float] | None = None,
    group: str = "",
    interpolation: str = "LINEAR",
    easing: str = "AUTO",
    generated: bool = False,
    nla: bool = False,
    strip_name: str = "",
) -> None:
    """Write keyframes for many sliders at once.

    curves: values (T,) by slider name. frames: (T,), increasing, may be fractional.
    replace: first and last frame of a range in which existing keyframes of these sliders are removed. All others keep
    their values and handles, unless a new keyframe is at the same frame.
    group: F-curve group in the Graph Editor; by default the slider's bank.
    interpolation: "CONSTANT", "LINEAR", "BEZIER" or "SINE". easing: "AUTO", "EASE_IN", "EASE_OUT" or "EASE_IN_OUT".
    generated: give the keyframes the type Generated, which tells them from the artist's.
    nla: write into the NLA strip `strip_name` instead of the action, and replace the strip's keyframes.
    """
    frames = np.asarray(frames, np.float32)
    if nla:
        table = {name: (frames, values) for name, values in curves.items()}
        write_strip(
            obj,
            strip_name or f"{obj.name} dialogue",
            table,
            group=group,
            interpolation=interpolation,
            easing=easing,
            generated=generated,
        )
        return
    bag = own_channelbag(obj)
    obj.edtalk.action = obj.animation_data.action
    for name, values in curves.items():
        write_curve(
            bag,
            sliders.data_path(name),
            frames,
            values,
            replace=replace,
            group=group or group_of(obj, name),
            interpolation=interpolation,
            easing=easing,
            generated=generated,
        )
    obj.update_tag()


def write_curve(
    bag: bpy.types.ActionChannelbag,
    path: str,
    frames: np.ndarray,
    values: np.ndarray,
    *,
    replace: tuple[float, float] | None = None,
    group: str = "",
    interpolation: str = "LINEAR",
    easing: str = "AUTO",
    generated: bool = False,
) -> None:
    """Write keyframes of one property. path: its data path from the channelbag's owner. See `write_curves`."""
    frames = np.asarray(frames, np.float32)
    curve = bag.fcurves.find(path) or bag.fcurves.new(path)
    if curve.group is None and group:
        curve.group = bag.groups.get(group) or bag.groups.new(group)
    new = _new_keys(frames, np.asarray(values, np.float32), _INTERPOLATION[interpolation], _EASING[easing])
    if generated:
        _mark(new, np.full(len(frames), True))
    if replace is None and len(frames) <= _FEW_KEYS and _insert(curve, new):
        return
    old = _read_keys(curve)
    at = old["co"][:, 0]
    removed = np.isin(at, frames)
    if replace is not None:
        removed |= (at >= replace[0]) & (at <= replace[1])
    _write_keys(curve, {field: np.concatenate([old[field][~removed], new[field]]) for field in _KEY_FIELDS})


def insert_keys(
    obj: bpy.types.Object,
    values: Mapping[str, float],
    frame: float,
    *,
    interpolation: str = "BEZIER",
    easing: str = "AUTO",
    generated: bool = False,
) -> None:
    """Insert one keyframe for each slider at a frame, or replace the one there."""
    curves = {name: np.array([value]) for name, value in values.items()}
    write_curves(obj, curves, np.array([frame]), interpolation=interpolation, easing=easing, generated=generated)


@dataclass(frozen=True)
class Move:
    """Moves keyframes from `start` to `end`, inclusive, to `start + delta + (frame - start) * scale`."""

    start: float
    end: float
    delta: float
    scale: float = 1.0

    @property
    def new_start(self) -> float:
        return self.start + self.delta

    @property
    def new_end(self) -> float:
        return self.new_start + (self.end - self.start) * self.scale


def move_keys(
    obj: bpy.types.Object, names: Sequence[str], moves: Sequence[Move], *, replace_generated: bool = False
) -> None:
    """Move several ranges of keyframes at once, so that ranges can swap places.

    A moved keyframe replaces an unmoved one at the same frame. replace_generated: the ranges also replace the unmoved
    generated keyframes at their new place. Only the object's action is changed.
    """
    paths = {sliders.data_path(name) for name in names}
    if not any(curve.data_path in paths for curve in compat.fcurves(obj)):
        return
    for curve in own_channelbag(obj).fcurves:
        if curve.data_path not in paths:
            continue
        keys = _read_keys(curve)
        generated = _are_generated(keys)
        at = keys["co"][:, 0].astype(np.float64)
        is_moved = np.zeros(len(at), bool)
        for move in moves:
            chosen = (at >= move.start) & (at <= move.end) & ~is_moved
            is_moved |= chosen
            for field in ("co", "handle_left", "handle_right"):
                x = keys[field][chosen, 0].astype(np.float64)
                keys[field][chosen, 0] = move.start + move.delta + (x - move.start) * move.scale
        if not is_moved.any():
            continue
        _mark(keys, is_moved & generated)
        keep = is_moved | ~np.isin(keys["co"][:, 0], keys["co"][is_moved, 0])
        if replace_generated:
            covered = np.any([(at >= move.new_start) & (at <= move.new_end) for move in moves], axis=0)
            keep &= is_moved | ~covered | ~generated
        _write_keys(curve, {field: values[keep] for field, values in keys.items()})
    obj.update_tag()


def remove_keys(obj: bpy.types.Object, names: Sequence[str], start: float, end: float) -> None:
    """Remove the keyframes of these sliders between two frames, inclusive, and F-curves that are then empty."""
    remove_key_ranges(obj, names, [(start, end)])


def remove_key_ranges(
    obj: bpy.types.Object,
    names: Sequence[str],
    ranges: Sequence[tuple[float, float]],
    *,
    only_generated: bool = False,
) -> None:
    """Remove the keyframes of these sliders in several ranges at once; see `remove_keys`.

    only_generated: keep keyframes that are the artist's: those without the type Generated, and edited ones.
    """
    paths = {sliders.data_path(name) for name in names}
    if not ranges or not any(curve.data_path in paths for curve in compat.fcurves(obj)):
        return
    bag = own_channelbag(obj)
    for curve in [curve for curve in bag.fcurves if curve.data_path in paths]:
        keys = _read_keys(curve)
        at = keys["co"][:, 0]
        keep = np.all([(at < start) | (at > end) for start, end in ranges], axis=0)
        if only_generated:
            keep |= ~_are_generated(keys)
        if not keep.any():
            bag.fcurves.remove(curve)
        elif not keep.all():
            _write_keys(curve, {field: values[keep] for field, values in keys.items()})
    obj.update_tag()


def hand_keyed(curve: bpy.types.FCurve, start: float, end: float) -> np.ndarray:
    """(K,) frames from `start` to `end`, inclusive, at which a curve has keyframes that are the artist's.

    These are keyframes without the type Generated, and edited ones.
    """
    keys = _read_keys(curve)
    at = keys["co"][:, 0].astype(np.float64)
    return np.sort(at[~_are_generated(keys) & (at >= start) & (at <= end)])


def evaluate(curve: bpy.types.FCurve, frames: np.ndarray) -> np.ndarray:
    """(T,) values of a curve at frames (T,). Linear curves without modifiers are evaluated all at once."""
    keys = _read_keys(curve)
    is_linear = np.all(keys["interpolation"] == _INTERPOLATION["LINEAR"]) and curve.extrapolation == "CONSTANT"
    if len(keys["co"]) and is_linear and not curve.modifiers:
        return np.interp(frames, *keys["co"].T.astype(np.float64))
    return np.array([curve.evaluate(frame) for frame in frames])


def own_channelbag(obj: bpy.types.ID) -> bpy.types.ActionChannelbag:
    """The object's F-curves. An action that is linked, or whose slot other objects use too, is copied first."""
    animation = obj.animation_data or obj.animation_data_create()
    if animation.use_tweak_mode:
        animation.use_tweak_mode = False
    slot = animation.action_slot
    make_action_local(obj, even_if_local=slot is not None and compat.is_shared(slot, obj))
    return compat.channelbag(obj)


def make_action_local(obj: bpy.types.ID, *, even_if_local: bool = False) -> None:
    """Replace an action that is linked from another file by a local copy. even_if_local: copy any action."""
    animation = obj.animation_data
    if animation is None or animation.action is None or not (animation.action.library or even_if_local):
        return
    identifier = animation.last_slot_identifier
    animation.action = animation.action.copy()
    if identifier in animation.action.slots:
        animation.action_slot = animation.action.slots[identifier]


def group_of(obj: bpy.types.Object, name: str) -> str:
    """F-curve group of a slider in the Graph Editor: the title of its bank, or the emotions."""
    for entry in files.bank_of(obj).coefficients:
        if entry.name == name:
            return sliders.BANK_TITLES.get(entry.bank, sliders.title(entry.bank))
    return sliders.EMOTION_GROUP


def _read_keys(curve: bpy.types.FCurve) -> dict[str, np.ndarray]:
    """All `_KEY_FIELDS` of all keyframes: (K,) or (K, 2) each."""
    points = curve.keyframe_points
    keys = {}
    for field, (size, kind) in _KEY_FIELDS.items():
        flat = np.empty(size * len(points), kind)
        if len(points):
            points.foreach_get(field, flat)
        keys[field] = flat.reshape(-1, size) if size > 1 else flat
    return keys


def _new_keys(frames: np.ndarray, values: np.ndarray, interpolation: int, easing: int) -> dict[str, np.ndarray]:
    """Keyframes with automatic handles, in case the interpolation is changed to Bezier later."""
    count = len(frames)
    co = np.stack([frames, values], axis=1)
    keys = {field: np.zeros((count, size) if size > 1 else count, kind) for field, (size, kind) in _KEY_FIELDS.items()}
    keys |= {"co": co, "handle_left": co.copy(), "handle_right": co.copy()}
    keys["interpolation"][:], keys["easing"][:] = interpolation, easing
    keys["handle_left_type"][:] = keys["handle_right_type"][:] = _AUTO_CLAMPED
    keys["amplitude"][:], keys["back"][:], keys["period"][:] = 0.8, _OVERSHOOT, 4.1  # Blender's defaults
    return keys


def _mark(keys: Mapping[str, np.ndarray], chosen: np.ndarray) -> None:
    """Mark the `chosen` (K,) of some keyframes as generated and not edited."""
    keys["type"][chosen] = _GENERATED
    overshoot = keys["back"].view(np.int32)
    overshoot[chosen] = _OVERSHOOT.view(np.int32) + _checksums(keys)[chosen]


def _are_generated(keys: Mapping[str, np.ndarray]) -> np.ndarray:
    """(K,) bool: keyframes that were generated and not edited since.

    Those of an earlier version have no checksum; all with the type Generated count.
    """
    marks = keys["back"].view(np.int32) - _OVERSHOOT.view(np.int32)
    return (keys["type"] == _GENERATED) & ((marks == 0) | (marks == _checksums(keys)))


def _checksums(keys: Mapping[str, np.ndarray]) -> np.ndarray:
    """(K,) int32, 1 to 65535, of the `_EDITABLE` fields."""
    total = np.zeros(len(keys["co"]), np.uint64)
    for field in _EDITABLE:
        for column in np.atleast_2d(keys[field].T):
            total = (total ^ np.ascontiguousarray(column).view(np.uint32)) * np.uint64(0x9E3779B1) % np.uint64(2**32)
    return (total % np.uint64(65535) + np.uint64(1)).astype(np.int32)


def _insert(curve: bpy.types.FCurve, new: Mapping[str, np.ndarray]) -> bool:
    """Insert a few keyframes, in place of those at the same frames, without reading and writing all others.

    Returns False, with nothing changed, if one is close to another keyframe: Blender would take both for the same.
    """
    points, frames = curve.keyframe_points, new["co"][:, 0].tolist()
    places = [bisect_left(points, frame, key=_frame_of) for frame in frames]
    for frame, place in zip(frames, places, strict=True):
        near = [_frame_of(points[index]) for index in (place - 1, place) if 0 <= index < len(points)]
        if any(0 < abs(other - frame) < _SAME_FRAME for other in near):
            return False
    if np.diff(frames).min(initial=1.0) < _SAME_FRAME:
        return False
    for index, frame in enumerate(frames):
        point = points.insert(frame, new["co"][index, 1], options={"FAST"})
        for field in _KEY_FIELDS:
            value = new[field][index].tolist()
            setattr(point, field, _IDENTIFIERS[field][value] if field in _IDENTIFIERS else value)
    curve.update()
    return True


def _frame_of(point: bpy.types.Keyframe) -> float:
    return float(point.co[0])


def _write_keys(curve: bpy.types.FCurve, keys: Mapping[str, np.ndarray]) -> None:
    order = np.argsort(keys["co"][:, 0], kind="stable")
    points = curve.keyframe_points
    points.clear()
    points.add(len(order))
    for field, values in keys.items():
        points.foreach_set(field, np.ascontiguousarray(values[order]).ravel())
    curve.update()


# --- Keying the current values


def key_sliders(
    context: bpy.types.Context, obj: bpy.types.Object, names: Iterable[str], *, automatic: bool = False
) -> int:
    """Insert keyframes for the current slider values at the current frame, with Blender's keying settings.

    automatic: only if auto keying is enabled, with its settings. Returns the number of inserted keyframes.
    """
    settings, preferences = context.scene.tool_settings, context.preferences.edit
    if automatic and not settings.use_keyframe_insert_auto:
        return 0
    needed = preferences.use_auto_keyframe_insert_needed if automatic else preferences.use_keyframe_insert_needed
    options = {"INSERTKEY_NEEDED"} if needed else set()
    if automatic and settings.auto_keying_mode == "REPLACE_KEYS":
        options.add("INSERTKEY_REPLACE")
    make_action_local(obj)
    return sum(
        obj.keyframe_insert(
            sliders.data_path(name),
            frame=context.scene.frame_current_final,
            group=group_of(obj, name),
            options=options,
            keytype=settings.keyframe_type,
        )
        for name in names
    )


# --- NLA strips


def write_strip(
    obj: bpy.types.Object,
    name: str,
    table: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    group: str = "",
    interpolation: str = "LINEAR",
    easing: str = "AUTO",
    generated: bool = False,
    blend: str = "REPLACE",
) -> None:
    """Write keyframes to the NLA strip `name`, which is made or whose keyframes are replaced.

    table: frames (K,) and values (K,) by slider name. blend: "REPLACE", or "ADD" to add the values to what is below.
    See `write_curves`.
    """
    name = _short(name)
    bag = _strip_channelbag(obj, name)
    for slider, (frames, values) in table.items():
        write_curve(
            bag,
            sliders.data_path(slider),
            frames,
            values,
            group=group or group_of(obj, slider),
            interpolation=interpolation,
            easing=easing,
            generated=generated,
        )
    every = np.concatenate([np.asarray(frames, np.float32) for frames, _values in table.values()])
    strip = _place_strip(obj, name, obj.edtalk.action, bag.slot, (float(every.min()), float(every.max())))
    strip.blend_type = blend
    obj.update_tag()


def find_strip(obj: bpy.types.Object, name: str) -> tuple[bpy.types.NlaTrack, bpy.types.NlaStrip] | None:
    """The character's NLA strip of this name, with its track, or None."""
    return next(((track, strip) for track, strip in _nla_strips(obj) if strip.name == _short(name)), None)


def remove_strip(obj: bpy.types.Object, name: str) -> None:
    """Remove the character's NLA strip of this name, and its track if that is then empty. The action is kept."""
    strip_and_track = find_strip(obj, name)
    if strip_and_track is not None:
        track, strip = strip_and_track
        track.strips.remove(strip)
        if not track.strips:
            obj.animation_data.nla_tracks.remove(track)


def is_in_nla(obj: bpy.types.Object, names: Iterable[str]) -> bool:
    """Whether an NLA strip of the character animates any of these sliders."""
    paths = {sliders.data_path(name) for name in names}
    return any(paths & _paths(strip) for _track, strip in _nla_strips(obj))


def push_down(obj: bpy.types.Object, names: Iterable[str]) -> None:
    """Move the F-curves of these sliders from the action to an NLA strip below all that animate them.

    The action overrides NLA strips for every slider that it animates, at all frames. Curves with modifiers stay in it.
    """
    paths = {sliders.data_path(name) for name in names}
    if not any(curve.data_path in paths for curve in compat.fcurves(obj)):
        return
    bag = own_channelbag(obj)
    curves_to_move = [curve for curve in bag.fcurves if curve.data_path in paths and not curve.modifiers]
    if not curves_to_move:
        return
    written, kept = obj.edtalk.action, _with_base_keys(obj, curves_to_move)
    obj.edtalk.base_strip = obj.edtalk.base_strip or f"{obj.name} keys"
    base = _strip_channelbag(obj, _short(obj.edtalk.base_strip))
    groups = {curve.data_path: curve.group.name for curve in curves_to_move if curve.group}
    for curve in curves_to_move:
        bag.fcurves.remove(curve)
    for path, keys in kept.items():
        curve = base.fcurves.new(path)
        if title := groups.get(path):
            curve.group = base.groups.get(title) or base.groups.new(title)
        _write_keys(curve, keys)
    every = np.concatenate([keys["co"][:, 0] for keys in kept.values()])
    action, obj.edtalk.action = obj.edtalk.action, written
    track = obj.animation_data.nla_tracks.new()
    track.name = "Keys"
    strip = _new_strip(track, obj.edtalk.base_strip, action, base.slot, (float(every.min()), float(every.max())))
    strip.extrapolation = "HOLD"
    for below, other in list(_nla_strips(obj)):
        if below != track and _paths(other) & kept.keys():
            _lift(obj, other.name)
    obj.update_tag()


def _with_base_keys(obj: bpy.types.Object, curves: Iterable[bpy.types.FCurve]) -> dict[str, dict[str, np.ndarray]]:
    """The keyframes of `base_strip` at their scene frames and those of `curves`, which win, by data path."""
    base = base_strip(obj)
    kept = {curve.data_path: _read_keys(curve) for curve in base_curves(obj)}
    if base is not None:
        shift = base.frame_start - base.action_frame_start
        for keys in kept.values():
            for field in ("co", "handle_left", "handle_right"):
                keys[field][:, 0] += shift
    for curve in curves:
        keys, path = _read_keys(curve), curve.data_path
        if path in kept:
            older = ~np.isin(kept[path]["co"][:, 0], keys["co"][:, 0])
            keys = {field: np.concatenate([values, kept[path][field][older]]) for field, values in keys.items()}
        kept[path] = keys
    return kept


def base_strip(obj: bpy.types.Object) -> bpy.types.NlaStrip | None:
    """The NLA strip with the keyframes that `push_down` moved, or None."""
    found = find_strip(obj, obj.edtalk.base_strip) if obj.edtalk.base_strip else None
    return found[1] if found else None


def base_curves(obj: bpy.types.Object) -> list[bpy.types.FCurve]:
    """The F-curves of `base_strip`."""
    strip = base_strip(obj)
    return compat.slot_fcurves(strip.action, strip.action_slot) if strip else []


def _nla_strips(obj: bpy.types.Object) -> Iterator[tuple[bpy.types.NlaTrack, bpy.types.NlaStrip]]:
    animation = obj.animation_data
    for track in animation.nla_tracks if animation else ():
        for strip in track.strips:
            yield track, strip


def _paths(strip: bpy.types.NlaStrip) -> set[str]:
    return {curve.data_path for curve in compat.slot_fcurves(strip.action, strip.action_slot)}


def _short(name: str) -> str:
    """The name cut to the 63 bytes that an NLA strip's name can have."""
    return name.encode()[:63].decode(errors="ignore")


def _strip_channelbag(obj: bpy.types.Object, name: str) -> bpy.types.ActionChannelbag:
    """Empty F-curves of the strip's action. Removes the strip; `_place_strip` adds it again."""
    action, slot = bpy.data.actions.get(name), None
    strip_and_track = find_strip(obj, name)
    if strip_and_track is not None:
        _track, strip = strip_and_track
        action, slot = strip.action, strip.action_slot
        if action is None or action.library is not None or (slot is not None and compat.is_shared(slot, obj)):
            action, slot = None, None
        remove_strip(obj, name)
    elif action is not None and action.users:
        action = None  # used elsewhere
    action = action or bpy.data.actions.new(name)
    bag = compat.action_channelbag(action, slot or compat.fitting_slot(action, obj))
    bag.fcurves.clear()
    obj.edtalk.action = action
    return bag


def _place_strip(
    obj: bpy.types.Object,
    name: str,
    action: bpy.types.Action,
    slot: bpy.types.ActionSlot,
    span: tuple[float, float],
) -> bpy.types.NlaStrip:
    """Add an NLA strip on the lowest free track for dialogue above the base strip. span: first and last frame."""
    animation = obj.animation_data or obj.animation_data_create()
    first, last = span[0], max(span[1], span[0] + 1)
    tracks = list(animation.nla_tracks)
    base = base_strip(obj)
    if base is not None:
        lowest = next(index for index, track in enumerate(tracks) if base in track.strips.values())
        tracks = tracks[lowest + 1 :]
    for track in tracks:
        free = all(strip.frame_end <= first or strip.frame_start >= last for strip in track.strips)
        if free and track.name.startswith("Dialogue"):
            break
    else:
        track = animation.nla_tracks.new()
        track.name = "Dialogue"
    strip = _new_strip(track, name, action, slot, span)
    strip.extrapolation = "NOTHING"  # no effect outside the line of dialogue
    return strip


def _new_strip(
    track: bpy.types.NlaTrack,
    name: str,
    action: bpy.types.Action,
    slot: bpy.types.ActionSlot,
    span: tuple[float, float],
) -> bpy.types.NlaStrip:
    """An NLA strip that plays the action's frames `span` at the same frames."""
    first, last = span[0], max(span[1], span[0] + 1)
    strip = track.strips.new(_short(name), int(first), action)
    strip.name = _short(name)
    strip.action_slot = slot
    strip.action_frame_start, strip.action_frame_end = first, last
    strip.frame_start, strip.frame_end = first, last
    return strip


def _lift(obj: bpy.types.Object, name: str) -> None:
    """Move an NLA strip to a track above the base strip."""
    strip_and_track = find_strip(obj, name)
    assert strip_and_track is not None, "it was listed"
    _track, old = strip_and_track
    kept = {field: getattr(old, field) for field in ("mute", "blend_type", "extrapolation")}
    action, slot, span = old.action, old.action_slot, (old.action_frame_start, old.action_frame_end)
    start, end = old.frame_start, old.frame_end
    remove_strip(obj, name)
    strip = _place_strip(obj, name, action, slot, (start, end))
    strip.action_frame_start, strip.action_frame_end = span
    strip.frame_start, strip.frame_end = start, end
    for field, value in kept.items():
        setattr(strip, field, value)
