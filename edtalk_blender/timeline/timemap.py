"""Strip time: which second of its source a strip plays at a scene frame. All time arithmetic is here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ...inference.contract.errors import EDTalkError
from ...inference.contract.parsing import MALFORMED

_FARTHEST = 2**22  # frames; Blender's scenes end at a quarter of it
_SAME = 1e-6  # frames; two moments closer than this are the same


def scene_fps(fps: int, fps_base: float) -> float:
    """Frames per second of a scene. Blender stores fps_base as float32; rounding restores rates such as 24 / 1.001."""
    if fps <= 0 or not 0 < fps_base < math.inf:
        raise EDTalkError(f"A scene needs a frame rate above 0, found {fps} / {fps_base}.")
    return fps / round(fps_base, 6)


@dataclass(frozen=True)
class TimeMap:
    """Maps scene frames to seconds of a strip's source.

    fps: scene frames per second.
    start, end: the strip's first frame and the frame after its last.
    knots: two or more pairs (frame, second), frames strictly increasing, seconds non-decreasing. The map is linear
    between knots and continues outside them at the scene's rate.
    """

    fps: float
    start: int
    end: int
    knots: tuple[tuple[float, float], ...]

    @staticmethod
    def of_strip(
        fps: float,
        start: int,
        end: int,
        content_start: float,
        *,
        trimmed: float = 0.0,
        delay: float = 0.0,
        retiming: Sequence[tuple[float, float]] = (),
    ) -> TimeMap:
        """The map of a strip from its properties in the sequencer.

        content_start: frame at which the untrimmed source begins. trimmed: scene frames trimmed off the source itself
        (hard trim). delay: seconds by which the sound is offset. retiming: (scene frame, source frame) of every
        retiming key; empty for a strip at original speed.
        """
        at_start = trimmed / fps - delay
        frames = retiming or ((content_start, 0.0), (content_start + max(end - start, 1), float(max(end - start, 1))))
        return TimeMap(fps, start, end, tuple((float(at), at_start + source / fps) for at, source in frames))

    def __post_init__(self) -> None:
        frames, seconds = zip(*self.knots, strict=True) if self.knots else ((), ())
        if not (0 < self.fps < math.inf and len(frames) > 1 and np.isfinite([*frames, *seconds]).all()):
            raise EDTalkError("A time map needs a positive frame rate and two knots of finite numbers.")
        rising = all(a < b for a, b in pairwise(frames)) and all(a <= b for a, b in pairwise(seconds))
        if self.end < self.start or not rising:
            raise EDTalkError(f"A time map must run forwards, found {self.start}-{self.end} through {self.knots}.")

    @property
    def frames(self) -> np.ndarray:
        """(T,) int64, the scene frames from `start` to before `end`."""
        return np.arange(self.start, self.end)

    @property
    def speed(self) -> float:
        """Source seconds per scene second, from the first knot to the last; 1.0 is original speed."""
        (first, second), *_, (last, end) = self.knots
        return (end - second) / (last - first) * self.fps

    def seconds(self, frames: np.ndarray | Sequence[float] | float) -> np.ndarray:
        """(T,) source seconds at scene frames (T,), which may lie outside the strip."""
        at, source = np.array(self.knots).T
        frames = np.asarray(frames, np.float64)
        outside = np.minimum(frames - at[0], 0.0) + np.maximum(frames - at[-1], 0.0)
        return np.interp(frames, at, source) + outside / self.fps

    def frame_of(self, seconds: np.ndarray | Sequence[float] | float) -> np.ndarray:
        """(T,) scene frames, not rounded, at which source seconds (T,) play; the last frame of a freeze."""
        at, source = np.array(self.knots).T
        seconds = np.asarray(seconds, np.float64)
        upper = np.clip(np.searchsorted(source, seconds, side="right"), 1, len(at) - 1)
        width = source[upper] - source[upper - 1]
        part = np.divide(seconds - source[upper - 1], width, out=np.ones_like(seconds), where=width > 0)
        inside = at[upper - 1] + np.clip(part, 0.0, 1.0) * (at[upper] - at[upper - 1])
        outside = np.minimum(seconds - source[0], 0.0) + np.maximum(seconds - source[-1], 0.0)
        return inside + outside * self.fps

    def cut(self, length: float) -> tuple[float, float]:
        """First and last second that the strip plays of a source of `length` seconds; equal when it plays none.

        Trimmed parts are excluded, so that lip sync neither starts early nor continues over a cut.
        """
        first, last = self.seconds([self.start, self.end])
        return (min(max(first, 0.0), length), min(max(last, 0.0), length))

    def moved(self, delta: int) -> TimeMap:
        """The same strip `delta` frames later."""
        knots = tuple((frame + delta, second) for frame, second in self.knots)
        return replace(self, start=self.start + delta, end=self.end + delta, knots=knots)

    def clipped(self, start: int, end: int) -> TimeMap:
        """This map limited to the frames from `start` to before `end`, as a metastrip does to its content."""
        start = min(max(self.start, start), self.end)
        return replace(self, start=start, end=max(start, min(self.end, end)))

    def move_to(self, other: TimeMap) -> int | None:
        """The offset in whole frames from this map to `other`; None if they differ in any other way."""
        delta = other.start - self.start
        return delta if self.moved(delta).same_as(other) else None

    def same_as(self, other: TimeMap) -> bool:
        """Whether both maps give the same seconds at the same frames."""
        if (self.start, self.end) != (other.start, other.end) or not math.isclose(self.fps, other.fps, rel_tol=1e-6):
            return False
        frames = sorted({self.start, self.end, *(frame for frame, _ in (*self.knots, *other.knots))})
        return bool(np.abs(self.seconds(frames) - other.seconds(frames)).max() * self.fps < _SAME)

    def follow(self, frames: np.ndarray | Sequence[float], other: TimeMap) -> np.ndarray:
        """(T,) frames of `other` that play what this map plays at `frames` (T,), rounded to 1e-6 frames."""
        delta = self.move_to(other)
        if delta is not None:
            return np.asarray(frames, np.float64) + delta
        return np.round(other.frame_of(self.seconds(frames)), 6)

    def moves_to(self, other: TimeMap) -> list[tuple[float, float, float, float]]:
        """How keys within this strip move to stay with their source in `other`: pieces (first, last, delta, scale).

        Within a piece, frame f moves to `first + delta + (f - first) * scale`. Pieces that do not move are left out.
        """
        first, last = float(self.start), float(self.end - 1)
        if last < first:
            return []
        turns = [frame for frame, _ in self.knots] + other.follow([frame for frame, _ in other.knots], self).tolist()
        bounds = sorted({first, last, *(frame for frame in turns if first < frame < last)})
        pieces = []
        for start, end in list(pairwise(bounds)) or [(first, first)]:
            at, to = self.follow([start, end], other).tolist()
            scale = round((to - at) / (end - start), 9) if end > start else 1.0
            if abs(at - start) > _SAME or abs(scale - 1.0) > _SAME:
                pieces.append((start, end, at - start, scale))
        return pieces

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, as stored in a strip's custom property."""
        knots = [value for knot in self.knots for value in knot]
        return {"fps": self.fps, "start": self.start, "end": self.end, "knots": knots}

    @staticmethod
    def from_json(data: dict[str, Any]) -> TimeMap:
        """The inverse of `to_json`; raises EDTalkError for other data."""
        try:
            values = [float(value) for value in data["knots"]]
            knots = tuple(zip(values[::2], values[1::2], strict=True))
            start, end = int(data["start"]), int(data["end"])
            if max(abs(start), abs(end)) > _FARTHEST:
                raise ValueError(f"frames {start} to {end} are outside any scene")
            return TimeMap(float(data["fps"]), start, end, knots)
        except MALFORMED as error:
            raise EDTalkError("The stored time of a strip is not readable.", "Run Lip Sync on it again.") from error


def content_frames(seconds: float, fps: float, trimmed: int = 0) -> int:
    """Frames that the sequencer gives a sound of `seconds`, less `trimmed` frames of hard trim."""
    return max(1, math.floor(seconds * fps + 0.5) - trimmed)


def rest_frames(maps: Sequence[TimeMap], one: TimeMap) -> tuple[int | None, int | None]:
    """The frames before and after `one` at which the mouth is keyed at rest; None if another strip is playing."""
    playing = [(other.start, other.end) for other in maps if other != one and other.end > other.start]

    def free(frame: int) -> bool:
        return not any(start <= frame < end for start, end in playing)

    return (one.start - 1 if free(one.start - 1) else None, one.end if free(one.end) else None)


def uncovered(whole: tuple[int, int], ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of a range that none of `ranges` covers. A range is its first frame and the one after its last."""
    parts, start = [], whole[0]
    for first, last in sorted(ranges):
        if first > start:
            parts.append((start, min(first, whole[1])))
        start = max(start, last)
        if start >= whole[1]:
            return parts
    return [*parts, (start, whole[1])]


def overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two ranges have a frame in common."""
    return max(one[0], other[0]) < min(one[1], other[1])


def union(ranges: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """The smallest range that holds all non-empty ranges; None if there is none."""
    ranges = [(start, end) for start, end in ranges if end > start]
    return (min(start for start, _ in ranges), max(end for _, end in ranges)) if ranges else None


def rate_mismatch(scene: float, file: float) -> str:
    """A warning for a movie whose frame rate differs from the scene's by more than 1 in 20,000, else "".

    This limit distinguishes 23.976 from 24 fps, which drift apart by 1.4 frames per minute.
    """
    if file <= 0 or abs(scene - file) <= 5e-5 * scene:
        return ""
    return (
        f"The file has {_rate(file)} fps, the scene {_rate(scene)}: "
        f"they drift apart by {abs(scene - file) * 60:.3g} frames per minute."
    )


def _rate(fps: float) -> str:
    return f"{fps:.3f}".rstrip("0").rstrip(".")
