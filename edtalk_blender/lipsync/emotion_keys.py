"""Write detected emotions as keyframes of the emotion sliders: few and eased, as an artist would key them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import bpy
import numpy as np

from ...inference.contract.expression import EASE, EMOTIONS, LEAST_STRENGTH, RISE, Suggestion
from ..character import sliders
from ..timeline.timemap import TimeMap
from . import motion_keys

KIND = "emotion"
Stretch = tuple[float, float, float]  # first and last frame of an emotion, and its strength


def emotion_names(obj: bpy.types.Object) -> tuple[str, ...]:
    """The emotions that can be detected and that the character has."""
    available = sliders.emotions(obj)
    return tuple(name for name in EMOTIONS if name in available)


def write_emotions(
    scene: bpy.types.Scene,
    strip: bpy.types.SoundStrip,
    obj: bpy.types.Object,
    clock: TimeMap,
    suggestions: Iterable[Suggestion],
    amount: float,
    existing: str = "LAYER",
) -> tuple[str, ...]:
    """Write keyframes for emotions in the frames of a strip. Returns the emotions that were written.

    suggestions: in seconds of the sound. amount: factor of their strength. existing: an item of `EXISTING`.
    """
    names = emotion_names(obj)
    motion_keys.clear(scene, strip, obj, clock, KIND, names, existing)
    if clock.end - clock.start < 2 or not amount:
        return ()
    opens, closes = motion_keys.goes_on(scene, strip, obj)
    first, last = float(clock.start), float(clock.end - 1)
    stretches: dict[str, list[Stretch]] = {}
    for one in suggestions:
        strength = min(one.strength * amount, sliders.EMOTION_LIMITS[1])
        if one.kind not in names or strength < LEAST_STRENGTH * min(amount, 1.0):
            continue
        begin, end = clock.frame_of([one.start, one.end]).tolist()
        begin = max(begin, first if opens else first + RISE * clock.fps)
        end = min(end, last if closes else last - EASE * clock.fps)
        if end > begin:
            stretches.setdefault(one.kind, []).append((begin, end, strength))
    by_hand = motion_keys.hand_keyed(obj, names, clock)
    layered = existing == "LAYER" and bool(by_hand)
    if by_hand and existing == "EMPTY":
        occupied = np.unique(np.concatenate(list(by_hand.values())))
        stretches = {name: _outside(kept_stretches, occupied, clock.fps) for name, kept_stretches in stretches.items()}
    stretches = {name: kept_stretches for name, kept_stretches in stretches.items() if kept_stretches}
    if not stretches:
        return ()
    table = {}
    for name, kept_stretches in stretches.items():
        frames, values = envelope(kept_stretches, clock.fps, (first, last))
        if not layered:
            ends = [pose[0] for pose in motion_keys.surrounding_poses(obj, (name,), clock)]
            own = np.interp(frames, [first, last], ends)
            if name in by_hand:
                own = motion_keys.evaluated(obj, name, frames)
            values = np.minimum(values + own, sliders.EMOTION_LIMITS[1])
        table[name] = frames, values
    motion_keys.place(scene, strip, obj, clock, KIND, [table], layered=layered, interpolation="BEZIER")
    return tuple(table)


def envelope(stretches: Sequence[Stretch], fps: float, span: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Whole frames (K,) and strengths (K,) of an emotion: it rises before each stretch, holds and falls after it.

    stretches: in order. span: the first and last frame to key; the strength is 0 there unless a stretch reaches them.
    Two stretches that are close are joined by one transition.
    """
    points: list[tuple[float, float]] = []
    for index, (first, last, strength) in enumerate(stretches):
        begin = first - RISE * fps
        if not index:
            points += [(span[0], 0.0)] * (begin > span[0]) + [(begin, 0.0)]
        elif begin >= stretches[index - 1][1] + EASE * fps:
            points += [(stretches[index - 1][1] + EASE * fps, 0.0), (begin, 0.0)]
        points += [(first, strength), (last, strength)]
    end = stretches[-1][1] + EASE * fps
    points += [(end, 0.0)] + [(span[1], 0.0)] * (end < span[1])
    strengths: dict[int, float] = {}
    for frame, strength in points:
        if span[0] <= frame <= span[1]:
            at = round(frame)
            strengths[at] = max(strength, strengths.get(at, 0.0))
    frames = sorted(strengths)
    return np.array(frames, np.float64), np.array([strengths[frame] for frame in frames])


def _outside(stretches: Sequence[Stretch], occupied: np.ndarray, fps: float) -> list[Stretch]:
    """The stretches that, with their transitions, have none of the frames `occupied`."""
    return [one for one in stretches if not np.any((occupied > one[0] - RISE * fps) & (occupied < one[1] + EASE * fps))]
