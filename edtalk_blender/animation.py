"""Curves in and out of a character's animation, in bulk, and what keeps a written curve from being seen.

Everything goes through the F-curves of the object's action (or of an NLA strip), so that afterwards there is nothing
of ours between the artist and the Graph Editor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import bpy
import numpy as np

from . import character, compat
from .core.mix import bank_strengths

_INTERPOLATION = {"CONSTANT": 0, "LINEAR": 1, "BEZIER": 2, "SINE": 12}
_EASING = {"AUTO": 0, "EASE_IN": 1, "EASE_OUT": 2, "EASE_IN_OUT": 3}
_AUTO_CLAMPED = 4
_KEY_FIELDS = {  # of a keyframe point: name, numbers a key, kind
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
_is_sampling = False


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
    nla: bool = False,
    strip_name: str = "",
) -> None:
    """Write keys for many sliders at once.

    curves: by slider name, (T,) values; frames: (T,) increasing, fractions allowed.
    replace: first and last frame between which old keys of these sliders go; all others stay as they are, with their
    handles. A new key also takes the place of an old one at the same frame.
    group: the F-curves' group in the Graph Editor; by default the slider's bank.
    interpolation: "CONSTANT", "LINEAR", "BEZIER" or "SINE"; easing: "AUTO", "EASE_IN", "EASE_OUT", "EASE_IN_OUT".
    nla: write into the NLA strip `strip_name` instead of the action, in place of what that strip held.
    """
    frames = np.asarray(frames, np.float32)
    if nla:
        strip_name = _short(strip_name or f"{obj.name} dialogue")
        bag = _strip_channelbag(obj, strip_name)
    else:
        bag = own_channelbag(obj)
        obj.edtalk.action = obj.animation_data.action
    for name, values in curves.items():
        write_curve(
            bag,
            character.data_path(name),
            frames,
            values,
            replace=replace,
            group=group or group_of(obj, name),
            interpolation=interpolation,
            easing=easing,
        )
    if nla:
        _place_strip(obj, strip_name, frames)
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
) -> None:
    """Write keys of one property, by its path from whatever the channelbag moves; see `write_curves`."""
    frames = np.asarray(frames, np.float32)
    curve = bag.fcurves.find(path) or bag.fcurves.new(path)
    if curve.group is None and group:
        curve.group = bag.groups.get(group) or bag.groups.new(group)
    old = _read_keys(curve)
    at = old["co"][:, 0]
    gone = np.isin(at, frames)
    if replace is not None:
        gone |= (at >= replace[0]) & (at <= replace[1])
    new = _new_keys(frames, np.asarray(values, np.float32), _INTERPOLATION[interpolation], _EASING[easing])
    _write_keys(curve, {field: np.concatenate([old[field][~gone], new[field]]) for field in _KEY_FIELDS})


def insert_keys(
    obj: bpy.types.Object,
    values: Mapping[str, float],
    frame: float,
    *,
    interpolation: str = "BEZIER",
    easing: str = "AUTO",
) -> None:
    """One key for each named slider, in place of what is at this frame."""
    curves = {name: np.array([value]) for name, value in values.items()}
    write_curves(obj, curves, np.array([frame]), interpolation=interpolation, easing=easing)


@dataclass(frozen=True)
class Move:
    """Keys from `start` to `end`, both included, go to `start + delta + (frame - start) * scale`."""

    start: float
    end: float
    delta: float
    scale: float = 1.0


def shift_keys(
    obj: bpy.types.Object, names: Sequence[str], start: float, end: float, delta: float, scale: float = 1.0
) -> None:
    """Move the keys of these sliders that lie between two frames, handles included; see `move_keys`."""
    move_keys(obj, names, [Move(start, end, delta, scale)])


def move_keys(obj: bpy.types.Object, names: Sequence[str], moves: Sequence[Move]) -> None:
    """Move several ranges of keys at once, each from where it is now, so that one may land where another one leaves.

    A key that lands on one that stays takes its place. Only the object's action is touched.
    """
    paths = {character.data_path(name) for name in names}
    if not any(curve.data_path in paths for curve in compat.fcurves(obj)):
        return
    for curve in own_channelbag(obj).fcurves:
        if curve.data_path not in paths:
            continue
        keys = _read_keys(curve)
        at = keys["co"][:, 0].astype(np.float64)
        moved = np.zeros(len(at), bool)
        for move in moves:
            chosen = (at >= move.start) & (at <= move.end) & ~moved
            moved |= chosen
            for field in ("co", "handle_left", "handle_right"):
                x = keys[field][chosen, 0].astype(np.float64)
                keys[field][chosen, 0] = move.start + move.delta + (x - move.start) * move.scale
        if not moved.any():
            continue
        keep = moved | ~np.isin(keys["co"][:, 0], keys["co"][moved, 0])
        _write_keys(curve, {field: values[keep] for field, values in keys.items()})
    obj.update_tag()


def remove_keys(obj: bpy.types.Object, names: Sequence[str], start: float, end: float) -> None:
    """Remove the keys of these sliders between two frames, both included; F-curves without keys go too."""
    remove_key_ranges(obj, names, [(start, end)])


def remove_key_ranges(obj: bpy.types.Object, names: Sequence[str], ranges: Sequence[tuple[float, float]]) -> None:
    """Remove the keys of these sliders within several ranges of frames at once, as `remove_keys` does within one."""
    paths = {character.data_path(name) for name in names}
    if not ranges or not any(curve.data_path in paths for curve in compat.fcurves(obj)):
        return
    bag = own_channelbag(obj)
    for curve in [curve for curve in bag.fcurves if curve.data_path in paths]:
        keys = _read_keys(curve)
        at = keys["co"][:, 0]
        keep = np.all([(at < start) | (at > end) for start, end in ranges], axis=0)
        if not keep.any():
            bag.fcurves.remove(curve)
        elif not keep.all():
            _write_keys(curve, {field: values[keep] for field, values in keys.items()})
    obj.update_tag()


def own_channelbag(obj: bpy.types.ID) -> bpy.types.ActionChannelbag:
    """F-curves that are this object's alone: an action that is linked, or that another object uses, is copied first."""
    animation = obj.animation_data or obj.animation_data_create()
    if animation.use_tweak_mode:
        animation.use_tweak_mode = False
    slot = animation.action_slot
    shared = slot is not None and any(user != obj for user in slot.users() if user.library is None)
    make_action_local(obj, even_if_local=shared)
    return compat.channelbag(obj)


def make_action_local(obj: bpy.types.ID, *, even_if_local: bool = False) -> None:
    """Copy an action that cannot be changed here, because it is linked from another file."""
    animation = obj.animation_data
    if animation is None or animation.action is None or not (animation.action.library or even_if_local):
        return
    identifier = animation.last_slot_identifier
    animation.action = animation.action.copy()
    if identifier in animation.action.slots:
        animation.action_slot = animation.action.slots[identifier]


def group_of(obj: bpy.types.Object, name: str) -> str:
    """The group that a slider's F-curve belongs to in the Graph Editor: its bank, or the emotions."""
    for entry in character.bank_of(obj).coefficients:
        if entry.name == name:
            return character.BANK_TITLES.get(entry.bank, character.title(entry.bank))
    return character.EMOTION_GROUP


def _read_keys(curve: bpy.types.FCurve) -> dict[str, np.ndarray]:
    """Every field of all keys: (K,) or (K, 2)."""
    points = curve.keyframe_points
    keys = {}
    for field, (size, kind) in _KEY_FIELDS.items():
        flat = np.empty(size * len(points), kind)
        if len(points):
            points.foreach_get(field, flat)
        keys[field] = flat.reshape(-1, size) if size > 1 else flat
    return keys


def _new_keys(frames: np.ndarray, values: np.ndarray, interpolation: int, easing: int) -> dict[str, np.ndarray]:
    """Keys with handles that Blender places by itself, should somebody make them Bezier later."""
    count = len(frames)
    co = np.stack([frames, values], axis=1)
    keys = {field: np.zeros((count, size) if size > 1 else count, kind) for field, (size, kind) in _KEY_FIELDS.items()}
    keys |= {"co": co, "handle_left": co.copy(), "handle_right": co.copy()}
    keys["interpolation"][:], keys["easing"][:] = interpolation, easing
    keys["handle_left_type"][:] = keys["handle_right_type"][:] = _AUTO_CLAMPED
    keys["amplitude"][:], keys["back"][:], keys["period"][:] = 0.8, 1.70158, 4.1  # Blender's own for a new key
    return keys


def _write_keys(curve: bpy.types.FCurve, keys: Mapping[str, np.ndarray]) -> None:
    order = np.argsort(keys["co"][:, 0], kind="stable")
    points = curve.keyframe_points
    points.clear()
    points.add(len(order))
    for field, values in keys.items():
        points.foreach_set(field, np.ascontiguousarray(values[order]).ravel())
    curve.update()


# --- Keying what the sliders say


def key_sliders(
    context: bpy.types.Context, obj: bpy.types.Object, names: Iterable[str], *, automatic: bool = False
) -> int:
    """Key sliders as they are at the current frame, as Blender's own keying does; returns how many keys were set.

    automatic: do so only while auto keying is on, by its preferences.
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
            character.data_path(name),
            frame=context.scene.frame_current_final,
            group=group_of(obj, name),
            options=options,
            keytype=settings.keyframe_type,
        )
        for name in names
    )


# --- NLA strips


def find_strip(obj: bpy.types.Object, name: str) -> tuple[bpy.types.NlaTrack, bpy.types.NlaStrip] | None:
    """The character's NLA strip of this name and the track it lies on."""
    animation = obj.animation_data
    for track in animation.nla_tracks if animation else ():
        for strip in track.strips:
            if strip.name == _short(name):
                return track, strip
    return None


def _short(name: str) -> str:
    """A name as long as an NLA strip's may be."""
    return name.encode()[:63].decode(errors="ignore")


def _strip_channelbag(obj: bpy.types.Object, name: str) -> bpy.types.ActionChannelbag:
    """F-curves of the strip's action, emptied; the strip itself lies where it belongs after `_place_strip`."""
    action = bpy.data.actions.get(name)
    found = find_strip(obj, name)
    if found is not None:
        track, strip = found
        action = strip.action if strip.action.library is None else None
        track.strips.remove(strip)
        if not track.strips:
            obj.animation_data.nla_tracks.remove(track)
    elif action is not None and action.users:
        action = None  # somebody else's of the same name
    action = action or bpy.data.actions.new(name)
    bag = compat.action_channelbag(action, compat.fitting_slot(action, obj))
    bag.fcurves.clear()
    obj.edtalk.action = action
    return bag


def _place_strip(obj: bpy.types.Object, name: str, frames: np.ndarray) -> None:
    animation = obj.animation_data or obj.animation_data_create()
    action = obj.edtalk.action
    first, last = float(frames[0]), float(max(frames[-1], frames[0] + 1))
    for track in animation.nla_tracks:
        free = all(strip.frame_end <= first or strip.frame_start >= last for strip in track.strips)
        if free and track.name.startswith("Dialogue"):
            break
    else:
        track = animation.nla_tracks.new()
        track.name = "Dialogue"
    strip = track.strips.new(name, int(first), action)
    strip.name = name
    strip.action_slot = compat.fitting_slot(action, obj)
    strip.action_frame_start, strip.action_frame_end = first, last
    strip.frame_start, strip.frame_end = first, last
    strip.extrapolation = "NOTHING"  # outside its line the mouth is at rest, or as the action has it


# --- Sampling


def sliders_at(obj: bpy.types.Object, names: Iterable[str], frame: float) -> dict[str, float]:
    """What sliders are at a frame by their F-curves; those without one are what they are now."""
    curves = {curve.data_path: curve for curve in compat.fcurves(obj) if not _is_silent(curve)}
    found = {}
    for name in names:
        curve = curves.get(character.data_path(name))
        found[name] = curve.evaluate(frame) if curve else float(obj.edtalk.get(name, 0.0))
    return found


def sample(scene: bpy.types.Scene, obj: bpy.types.Object, frames: Sequence[float]) -> np.ndarray:
    """(T, n) float32 rows to render at `frames`, as Blender evaluates them: drivers and NLA count.

    Reads the F-curves alone where nothing else moves the character, else steps through the frames and returns to the
    current one. Sliders changed by hand and not keyed keep their value.
    Raises EDTalkError where the character's bank is missing.
    """
    return character.rows(obj, *sample_sliders(scene, obj, frames))


def sample_sliders(
    scene: bpy.types.Scene, obj: bpy.types.Object, frames: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `sample` makes its rows of: (T, n) coefficient sliders, (T, banks) strengths, (T, k) emotion sliders."""
    frames = np.asarray(frames, np.float64)
    if moved_by_curves_alone(obj):
        return _sample_curves(obj, frames)
    return _sample_frames(scene, obj, frames)


def moved_by_curves_alone(obj: bpy.types.Object) -> bool:
    """Whether F-curves tell everything: no driver on the sliders, no NLA strip in play."""
    animation = obj.animation_data
    if animation is None:
        return True
    has_drivers = any(driver.data_path.startswith("edtalk") for driver in animation.drivers)
    return not has_drivers and not animation.nla_tracks and not animation.use_tweak_mode


def is_sampling() -> bool:
    """Whether frames are being stepped through for `sample`: no time for a preview."""
    return _is_sampling


def _sample_curves(obj: bpy.types.Object, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    curves = {curve.data_path: curve for curve in compat.fcurves(obj) if not _is_silent(curve)}

    def column(path: str, still: float, lowest: float, highest: float) -> np.ndarray:
        """(T,) one property over time, clamped as Blender does when it evaluates."""
        curve = curves.get(path)
        if curve is None:
            return np.full(len(frames), still)
        return np.clip([curve.evaluate(frame) for frame in frames.tolist()], lowest, highest)

    def table(columns: list[np.ndarray]) -> np.ndarray:
        return np.stack(columns, axis=1) if columns else np.empty((len(frames), 0))

    bank, still = character.bank_of(obj), character.values(obj)
    values = [
        column(character.data_path(name), still[index], *character.COEFFICIENT_LIMITS)
        for index, name in enumerate(bank.names)
    ]
    emotions_still = character.emotion_values(obj)
    emotions = [
        column(character.data_path(name), emotions_still[index], *character.EMOTION_LIMITS)
        for index, name in enumerate(character.emotions(obj))
    ]
    states = [character.bank_state(obj, name) for name, _count in bank.config.banks]
    strengths = bank_strengths(
        table([column(state.path_from_id("strength"), state.strength, *character.STRENGTH_LIMITS) for state in states]),
        *(
            table([column(state.path_from_id(switch), getattr(state, switch), 0, 1) for state in states]) >= 1
            for switch in ("mute", "solo")
        ),
    )
    return table(values), strengths, table(emotions)


def _is_silent(curve: bpy.types.FCurve) -> bool:
    return curve.mute or curve.is_empty or (curve.group is not None and curve.group.mute)


def _sample_frames(
    scene: bpy.types.Scene, obj: bpy.types.Object, frames: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, strengths, emotions = [], [], []
    with _stepping(scene, obj) as depsgraph:
        for frame in frames.tolist():
            whole = int(np.floor(frame))
            scene.frame_set(whole, subframe=frame - whole)
            evaluated = obj.evaluated_get(depsgraph)
            values.append(character.values(evaluated))
            strengths.append(character.strengths(evaluated))
            emotions.append(character.emotion_values(evaluated))
    return np.array(values), np.array(strengths), np.array(emotions)


@contextmanager
def _stepping(scene: bpy.types.Scene, obj: bpy.types.Object) -> Iterator[bpy.types.Depsgraph]:
    """Have the object evaluated even where it is hidden, and leave frame, sliders and visibility as they were."""
    global _is_sampling
    frame, subframe = scene.frame_current, scene.frame_subframe
    names = character.channel_names(obj)
    before = {name: obj.edtalk[name] for name in names}
    hidden = obj.hide_viewport
    shelter = bpy.data.collections.new("EDTalk sampling")
    shelter.objects.link(obj)
    scene.collection.children.link(shelter)
    _is_sampling = True
    try:
        if hidden:
            obj.hide_viewport = False
        view_layer = scene.view_layers[0]
        view_layer.update()
        yield view_layer.depsgraph
    finally:
        if hidden:
            obj.hide_viewport = True
        bpy.data.collections.remove(shelter)
        scene.frame_set(frame, subframe=subframe)
        for name, value in before.items():
            obj.edtalk[name] = value
        _is_sampling = False


# --- What hides a written curve


def hidden_by(obj: bpy.types.Object) -> str | None:
    """One sentence on why lip sync or emotions that were written do not show, or None when they do."""
    return next((reason for reason, _mend in _obstacles(obj)), None)


def reveal(obj: bpy.types.Object) -> str | None:
    """Take away what hides written curves; returns what an artist has to decide (a driver), as `hidden_by` says it."""
    for _reason, mend in list(_obstacles(obj)):
        if mend is not None:
            mend()
    obj.update_tag()
    return hidden_by(obj)


def _obstacles(obj: bpy.types.Object) -> Iterator[tuple[str, Callable[[], None] | None]]:
    """Reasons, each with what mends it, the outermost first."""
    animation, action = obj.animation_data, obj.edtalk.action
    if animation is None or action is None:
        return
    if animation.use_tweak_mode:
        yield (
            f"{obj.name} is tweaking an NLA strip, so its own action does not play.",
            lambda: setattr(animation, "use_tweak_mode", False),
        )
    strips = [(track, strip) for track in animation.nla_tracks for strip in track.strips if strip.action == action]
    if strips:
        yield from _strip_obstacles(obj, *strips[-1])
    else:
        yield from _action_obstacles(obj, action)

    slot = strips[-1][1].action_slot if strips else compat.find_slot(action, obj)
    curves = [curve for curve in compat.slot_fcurves(action, slot) if curve.data_path.startswith("edtalk")]
    silent = [curve for curve in curves if curve.mute or (curve.group and curve.group.mute)]
    if silent:
        yield f"{_names(silent)} muted in the Graph Editor.", lambda: _unmute(silent)
    written = {curve.data_path for curve in curves}
    driven = [driver for driver in animation.drivers if driver.data_path in written and not driver.mute]
    if driven:
        yield f"{_names(driven)} moved by a driver, which overrules keys.", None
    yield from _bank_obstacles(obj, written)


def _action_obstacles(
    obj: bpy.types.Object, action: bpy.types.Action
) -> Iterator[tuple[str, Callable[[], None] | None]]:
    animation = obj.animation_data
    if animation.action != action:
        current = f"the action '{animation.action.name}' is" if animation.action else "no action is"
        yield (
            f"The keys of {obj.name} are in the action '{action.name}', but {current} assigned to it.",
            lambda: compat.assign_action(obj, action),
        )
    for track in animation.nla_tracks:
        if track.is_solo:
            yield f"The NLA track '{track.name}' plays solo.", lambda track=track: setattr(track, "is_solo", False)
    if animation.nla_tracks and animation.action_influence == 0:
        yield (
            f"The action '{action.name}' has no influence over the NLA tracks.",
            lambda: setattr(animation, "action_influence", 1.0),
        )


def _strip_obstacles(
    obj: bpy.types.Object, track: bpy.types.NlaTrack, strip: bpy.types.NlaStrip
) -> Iterator[tuple[str, Callable[[], None] | None]]:
    animation = obj.animation_data
    if not animation.use_nla:
        yield f"The NLA of {obj.name} is switched off.", lambda: setattr(animation, "use_nla", True)
    for other in animation.nla_tracks:
        if other.is_solo and other != track:
            yield f"The NLA track '{other.name}' plays solo.", lambda other=other: setattr(other, "is_solo", False)
    for part, kind in ((track, "track"), (strip, "strip")):
        if part.mute:
            yield f"The NLA {kind} '{part.name}' is muted.", lambda part=part: setattr(part, "mute", False)
    if strip.use_animated_influence and strip.influence == 0:
        yield (
            f"The NLA strip '{strip.name}' has no influence.",
            lambda: setattr(strip, "use_animated_influence", False),
        )

    written = {curve.data_path for curve in compat.slot_fcurves(strip.action, strip.action_slot)}
    above = list(animation.nla_tracks)[list(animation.nla_tracks).index(track) + 1 :]
    for other in (other for upper in above if not upper.mute for other in upper.strips):
        overlaps = other.frame_start < strip.frame_end and other.frame_end > strip.frame_start
        covered = written & {curve.data_path for curve in compat.slot_fcurves(other.action, other.action_slot)}
        if overlaps and covered and not other.mute and other.blend_type == "REPLACE":
            yield (
                f"The NLA strip '{other.name}' lies over '{strip.name}' and moves the same sliders.",
                lambda other=other: setattr(other, "mute", True),
            )
    if animation.action_blend_type == "REPLACE" and animation.action_influence > 0:
        over = [curve for curve in compat.fcurves(obj) if curve.data_path in written and not _is_silent(curve)]
        if over:
            yield (
                f"The action '{animation.action.name}' moves the same sliders as the NLA strip '{strip.name}'.",
                lambda: [setattr(curve, "mute", True) for curve in over],
            )


def _bank_obstacles(obj: bpy.types.Object, written: set[str]) -> Iterator[tuple[str, Callable[[], None] | None]]:
    bank = character.bank_of(obj)
    heard = dict(zip((name for name, _count in bank.config.banks), character.strengths(obj), strict=True))
    for name, strength in heard.items():
        if strength == 0 and any(character.data_path(entry) in written for entry in bank.names_of(name)):
            title = character.BANK_TITLES.get(name, character.title(name))
            yield f"The bank {title} of {obj.name} is muted.", lambda name=name: _let_be_heard(obj, name)


def _let_be_heard(obj: bpy.types.Object, name: str) -> None:
    for state in obj.edtalk.banks:
        state.solo = False
    state = character.bank_state(obj, name)
    state.mute = False
    if state.strength == 0:
        state.strength = 1.0


def _unmute(curves: Sequence[bpy.types.FCurve]) -> None:
    for curve in curves:
        curve.mute = False
        if curve.group is not None:
            curve.group.mute = False


def _names(curves: Sequence[bpy.types.FCurve]) -> str:
    """For example "jawOpen is" or "jawOpen and 4 more are"."""
    first = curves[0].data_path.removeprefix('edtalk["').removesuffix('"]')
    return f"{first} is" if len(curves) == 1 else f"{first} and {len(curves) - 1} more are"
