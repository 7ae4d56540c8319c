"""Write motion from speech as keyframes of one dialogue strip: into the action, or into NLA strips.

Each kind of motion (head, eyes, brows, emotion) replaces the keyframes that it wrote before in the strip's frames. What
happens to keyframes that the artist inserted there is an item of `EXISTING`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import bpy
import numpy as np

from .. import compat
from ..animation import curves, keys
from ..character import sliders
from ..timeline import sequencer
from ..timeline.timemap import TimeMap

EXISTING = (
    ("LAYER", "NLA Layer", "Keep them, and add the motion to them as a separate strip in the NLA Editor"),
    ("REPLACE", "Replace", "Remove them in the frames of the strip"),
    ("EMPTY", "Where Empty", "Keep them, and write the motion only where they leave 0.4 seconds or more"),
)
EASE = 0.4  # seconds in which motion begins and ends
LETTERS = "ABCDEF"  # of the variations
_NEAR = 1.0  # seconds; keyframes of the artist that are closer form one stretch
_ERRORS = {"head": 0.002}  # largest error of the simplified curves by kind, in slider units
_ERROR = 0.01  # of the other kinds
Keyframes = Mapping[str, tuple[np.ndarray, np.ndarray]]  # frames (K,) and values (K,) by slider


# --- Dense motion


def write_motion(
    scene: bpy.types.Scene,
    strip: bpy.types.SoundStrip,
    obj: bpy.types.Object,
    clock: TimeMap,
    kind: str,
    names: Sequence[str],
    offsets: np.ndarray,
    existing: str = "LAYER",
    group: str = "",
) -> None:
    """Write keyframes of these sliders in the frames of a strip.

    kind: "head", "eyes" or "brows". offsets: (S, T, len(names)) motion at the frames of `clock`, to be added to rest.
    Several variations are written to NLA strips, of which all but the first are muted. existing: an item of `EXISTING`.
    group: F-curve group in the Graph Editor; by default the slider's bank.
    """
    clear(scene, strip, obj, clock, kind, names, existing)
    moving = [column for column in range(len(names)) if np.any(offsets[:, :, column])]
    if clock.end <= clock.start or not moving:
        return
    names, offsets = [names[column] for column in moving], offsets[:, :, moving]
    frames, by_hand = clock.frames, hand_keyed(obj, names, clock)
    layered = existing == "LAYER" and bool(by_hand)
    fades = _fades(scene, strip, obj, clock)
    if layered:
        values = offsets * (fades[0] * fades[1])[:, None]
    else:
        rest = sliders.rest_values(obj)
        values = offsets + np.array([rest[name] for name in names])
        for pose, share in zip(surrounding_poses(obj, names, clock), fades, strict=True):
            values = pose + share[:, None] * (values - pose)
    parts = {}  # the rows that are keyed, by slider; all of the others
    if existing == "EMPTY":
        for name, at in by_hand.items():
            column, own = names.index(name), evaluated(obj, name, frames)
            share = _emptiness(frames, at, clock.fps)
            values[:, :, column] = own + share * (values[:, :, column] - own)
            parts[name] = share > 0
    error = _ERRORS.get(kind, _ERROR)
    variations = [
        {name: _simplified(frames, column, error, parts.get(name)) for name, column in zip(names, rows.T, strict=True)}
        for rows in values
    ]
    place(scene, strip, obj, clock, kind, variations, layered=layered, group=group)


def _simplified(
    frames: np.ndarray, values: np.ndarray, error: float, part: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Frames and values of a curve (T,) without those that a line replaces. part: (T,) bool, the rows to key."""
    if part is None:
        kept = curves.decimate(frames, values, error)
        return frames[kept], values[kept]
    edges = np.flatnonzero(np.diff(np.r_[False, part, False].astype(np.int8)))
    stretches = [np.arange(first, last) for first, last in edges.reshape(-1, 2)]
    rows = [stretch[curves.decimate(frames[stretch], values[stretch], error)] for stretch in stretches]
    kept = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return frames[kept], values[kept]


def _emptiness(frames: np.ndarray, by_hand: np.ndarray, fps: float) -> np.ndarray:
    """(T,) share of the motion: 0 within each stretch of the artist's keyframes, 1 at 0.4 s and more from it."""
    firsts = by_hand[np.diff(by_hand, prepend=-np.inf) > _NEAR * fps]
    lasts = by_hand[np.diff(by_hand, append=np.inf) > _NEAR * fps]
    away = np.maximum(firsts - frames[:, None], frames[:, None] - lasts).min(axis=1) / (EASE * fps)
    return _eased(np.clip(away, 0, 1))


# --- Placing keyframes


def place(
    scene: bpy.types.Scene,
    strip: bpy.types.SoundStrip,
    obj: bpy.types.Object,
    clock: TimeMap,
    kind: str,
    variations: Sequence[Keyframes],
    *,
    layered: bool = False,
    interpolation: str = "LINEAR",
    group: str = "",
) -> None:
    """Write the keyframes of one or several variations. layered: add them to what the sliders show otherwise.

    They go into the action if there is one variation and no NLA strip animates the sliders: the action overrides NLA
    strips.
    """
    names = list(variations[0])
    if len(variations) > 1 or layered or keys.is_in_nla(obj, names):
        keys.push_down(obj, names)
        title = f"{obj.name}: {strip.name} {kind}"
        titles = [f"{title} {letter}" for letter in LETTERS[: len(variations)]] if len(variations) > 1 else [title]
        for name, table in reversed(list(zip(titles, variations, strict=True))):
            filled = {slider: columns for slider, columns in table.items() if len(columns[0])}
            blend = "ADD" if layered else "REPLACE"
            keys.write_strip(obj, name, filled, interpolation=interpolation, generated=True, blend=blend, group=group)
        use_variation(obj, titles, titles[0])
        sequencer.remember_motion_strips(strip, kind, titles)
    else:
        for name, (frames, values) in variations[0].items():
            if len(frames):
                keys.write_curves(obj, {name: values}, frames, interpolation=interpolation, generated=True, group=group)
    if sequencer.remembered_time(strip) is None:
        sequencer.remember_time(strip, clock)


def clear(
    scene: bpy.types.Scene,
    strip: bpy.types.SoundStrip,
    obj: bpy.types.Object,
    clock: TimeMap,
    kind: str,
    names: Iterable[str],
    existing: str,
) -> None:
    """Remove the keyframes of a kind that a strip wrote before. existing "REPLACE": also others in its frames."""
    shared = {title for other in compat.strips(scene) if other != strip for title in sequencer.all_motion_strips(other)}
    for title in sequencer.motion_strips(strip, kind):
        if title not in shared:  # part of a strip that was split
            keys.remove_strip(obj, title)
    sequencer.remember_motion_strips(strip, kind, [])
    span = clock.start, clock.end - 1
    keys.remove_key_ranges(obj, list(names), [span], only_generated=existing != "REPLACE")


def use_variation(obj: bpy.types.Object, titles: Sequence[str], used: str) -> None:
    """Unmute one NLA strip of `titles`, and mute the others."""
    for title in titles:
        strip_and_track = keys.find_strip(obj, title)
        if strip_and_track:
            strip_and_track[1].mute = title != used
    obj.update_tag()


# --- What surrounds a strip


def surrounding_poses(obj: bpy.types.Object, names: Sequence[str], clock: TimeMap) -> tuple[np.ndarray, np.ndarray]:
    """The values (n,) before a strip and those after it, as they are without its keyframes."""
    rest, curves = sliders.rest_values(obj), _curves(obj, names)
    poses = []
    for frame, before in ((clock.start - 1, True), (clock.end, False)):
        values = [_beside(curves.get(name), frame, before=before) for name in names]
        pairs = zip(names, values, strict=True)
        poses.append(np.array([rest.get(name, 0.0) if value is None else value for name, value in pairs]))
    return poses[0], poses[1]


def _beside(curves: tuple[bpy.types.FCurve, float] | None, frame: int, *, before: bool) -> float | None:
    """Value of a curve at the frame before or after a strip; None if only generated keyframes on its other side are."""
    if curves is None:
        return None
    curve, shift = curves
    at, points = frame + shift, curve.keyframe_points
    near = any(point.co[0] <= at if before else point.co[0] >= at for point in points)
    return curve.evaluate(at) if near or any(point.type != "GENERATED" for point in points) else None


def _curves(obj: bpy.types.Object, names: Iterable[str]) -> dict[str, tuple[bpy.types.FCurve, float]]:
    """The F-curve of each slider in the action or else the base strip, and what to add to a frame to evaluate it."""
    base = keys.base_strip(obj)
    shift = base.action_frame_start - base.frame_start if base else 0.0
    curves = {curve.data_path: (curve, shift) for curve in keys.base_curves(obj)}
    curves |= {curve.data_path: (curve, 0.0) for curve in compat.fcurves(obj)}
    paths = {name: sliders.data_path(name) for name in names}
    return {name: curves[path] for name, path in paths.items() if path in curves}


def evaluated(obj: bpy.types.Object, name: str, frames: np.ndarray) -> np.ndarray:
    """(T,) values of a keyed slider at frames (T,), in the action or else the base strip."""
    curve, shift = _curves(obj, (name,))[name]
    return keys.evaluate(curve, frames + shift)


def hand_keyed(obj: bpy.types.Object, names: Iterable[str], clock: TimeMap) -> dict[str, np.ndarray]:
    """Frames (K,) of a strip at which the artist inserted keyframes, by slider, for those that have any."""
    frames_by_slider = {
        name: keys.hand_keyed(curve, clock.start + shift, clock.end - 1 + shift) - shift
        for name, (curve, shift) in _curves(obj, names).items()
    }
    return {name: frames for name, frames in frames_by_slider.items() if len(frames)}


def goes_on(scene: bpy.types.Scene, strip: bpy.types.SoundStrip, obj: bpy.types.Object) -> tuple[bool, bool]:
    """Whether another strip of the character plays the sound until a strip begins, and on where it ends."""
    others = [other for other in sequencer.dialogue(scene, obj) if other != strip and other.sound == strip.sound]
    clock, clocks = sequencer.time_map(scene, strip), [sequencer.time_map(scene, other) for other in others]
    return any(_continues(other, clock) for other in clocks), any(_continues(clock, other) for other in clocks)


def _continues(one: TimeMap, other: TimeMap) -> bool:
    jump = float(one.seconds(one.end) - other.seconds(one.end))
    return one.end == other.start and abs(jump) * one.fps < 0.5


def _fades(
    scene: bpy.types.Scene, strip: bpy.types.SoundStrip, obj: bpy.types.Object, clock: TimeMap
) -> tuple[np.ndarray, np.ndarray]:
    """(T,) shares of the motion as it begins, 0 to 1 in 0.4 s, and as it ends; 1 where the strip was only split."""
    near = _eased(np.minimum((clock.frames - clock.start + 1) / (EASE * clock.fps), 1.0))
    continues_before, continues_after = goes_on(scene, strip, obj)
    return np.ones_like(near) if continues_before else near, np.ones_like(near) if continues_after else near[::-1]


def _eased(part: np.ndarray) -> np.ndarray:
    return part * part * (3 - 2 * part)
