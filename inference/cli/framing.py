"""Which square of a picture or a clip is the face: found, given by hand, or all of it."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import EDTalkError
from .progress import note

if TYPE_CHECKING:
    from ..face import Crop
    from .clips import Clip

# A square picture whose face lies this near to where the network expects it is taken as it is: cutting it again would
# blur it and add a border for nothing. As a share of the side, and as natural logarithm of the size.
_NEAR, _SAME_SIZE = 0.12, 0.25
_LOOKS, _LOOKS_PER_SECOND = 10, 2  # frames of a clip in which its face is looked for


@dataclass(frozen=True)
class Framing:
    """The value of --crop or --driver-crop. box: x, y, side in pixels; which: the face from the left, from 1."""

    mode: str = "auto"
    box: tuple[float, float, float] | None = None
    which: int | None = None
    options: tuple[str, str] = ("--crop", "--face")

    @staticmethod
    def parse(text: str) -> Framing:
        if text in ("auto", "none"):
            return Framing(text)
        try:
            x, y, side = (float(part) for part in text.split(","))
        except ValueError:
            x = y = side = math.nan
        if not (math.isfinite(x + y) and 0 < side < math.inf):
            raise argparse.ArgumentTypeError(f"expected auto, none or x,y,size in pixels, found '{text}'")
        return Framing("box", (x, y, side))

    def of_picture(self, rgb: np.ndarray, size: int, label: str) -> Crop:
        """The face of one picture at `size` pixels, turned upright."""
        from ..face import crop_from_face, find_face

        manual = self._without_looking(rgb, size, label)
        if manual is not None:
            return manual
        try:
            crop = crop_from_face(find_face(rgb, which=self.which, label=label), size)
        except EDTalkError as error:
            raise self._explained(error) from error
        if _fills(rgb.shape, [crop]):
            return self._whole(rgb, size, label)
        self._say_found(crop, label)
        return crop

    def of_clip(self, frames: Iterator[np.ndarray], fps: float, size: int, label: str) -> Crop:
        """One upright square for a whole driving clip: what moves within it is the head's motion, to be copied."""
        from ..face import crop_from_box

        first = next(frames)
        manual = self._without_looking(first, size, label)
        if manual is not None:
            return manual
        crops = self._looks(itertools.chain([first], frames), fps, size, label)
        if _fills(first.shape, crops):
            return self._whole(first, size, label)
        x, y, log_side = _place(crops)
        side = math.exp(log_side)
        crop = crop_from_box(x - side / 2 + 0.5, y - side / 2 + 0.5, side, size)
        self._say_found(crop, label)
        return crop

    def of_frames(self, clip: Clip, count: int, size: int) -> list[Crop]:
        """Squares that follow the face through the first `count` frames of a clip, or one that holds for all."""
        from ..face import CropTracker

        label, first = clip.path.name, next(clip.frames())
        manual = self._without_looking(first, size, label)
        if manual is not None:
            return [manual]
        if _is_square(first.shape) and _fills(first.shape, self._looks(clip.frames(), clip.fps, size, label)):
            return [self._whole(first, size, label)]
        tracker = CropTracker(size, which=self.which, label=label)
        try:
            for rgb in itertools.islice(clip.frames(), count):
                tracker.add(rgb)
            crops = tracker.crops()
        except EDTalkError as error:
            raise self._explained(error) from error
        note(f"face found in {label}; its square follows it.")
        return crops

    def _looks(self, frames: Iterator[np.ndarray], fps: float, size: int, label: str) -> list[Crop]:
        """The face's crop in a few frames from the start of a clip; EDTalkError if none shows one."""
        from ..face import crop_from_face, find_face

        every = max(1, round(fps / _LOOKS_PER_SECOND))
        crops, reason = [], None
        for rgb in itertools.islice(frames, 0, every * _LOOKS, every):
            try:
                crops.append(crop_from_face(find_face(rgb, which=self.which, label=label), size))
            except EDTalkError as error:
                reason = reason or error
        if not crops:
            raise self._explained(reason)
        return crops

    def choosing(self, which: int | None, options: tuple[str, str] = ("--crop", "--face")) -> Framing:
        """The same with the value of --face; `options` are these two options' names, for messages."""
        if which is not None and self.mode != "auto":
            raise EDTalkError(f"{options[1]} chooses among faces, and with {options[0]} none are looked for.")
        return replace(self, which=which, options=options)

    def _without_looking(self, rgb: np.ndarray, size: int, label: str) -> Crop | None:
        from ..face import crop_from_box, whole

        if self.mode == "none":
            return whole(rgb, size)
        if self.box is None:
            return None
        x, y, side = self.box
        height, width = rgb.shape[:2]
        if x >= width or y >= height or x + side <= 0 or y + side <= 0:
            option = self.options[0]
            raise EDTalkError(f"The square of {option} lies outside {label}, which is {width} x {height} pixels.")
        return crop_from_box(x, y, side, size)

    def _whole(self, rgb: np.ndarray, size: int, label: str) -> Crop:
        from ..face import whole

        note(f"{label} is already a face crop; used whole.")
        return whole(rgb, size)

    def _say_found(self, crop: Crop, label: str) -> None:
        side = crop.scale * crop.size
        x, y = crop.to_picture @ (crop.size / 2 - 0.5, crop.size / 2 - 0.5, 1) - side / 2 + 0.5
        note(f"face found in {label}; cut out as {self.options[0]} {x:.0f},{y:.0f},{side:.0f}.")

    def _explained(self, error: EDTalkError) -> EDTalkError:
        """The same with this framing's own options in the hint."""
        crop, face = self.options
        hint = error.hint.replace("--crop", crop).replace("--face", face)
        if error.message.startswith("No face"):
            hint = f"Give {crop} x,y,size, {crop} none to use the whole picture, or a clearer picture."
        return EDTalkError(error.message, hint, error.kind)


def _place(crops: Sequence[Crop]) -> np.ndarray:
    """(3,): centre x, y and logarithm of the side of the usual one of some crops, in their picture."""
    middle = (crops[0].size - 1) / 2
    places = [(*crop.to_picture @ (middle, middle, 1), math.log(crop.scale * crop.size)) for crop in crops]
    return np.median(places, axis=0)


def _is_square(shape: tuple[int, ...]) -> bool:
    return shape[0] == shape[1]


def _fills(shape: tuple[int, ...], crops: Sequence[Crop]) -> bool:
    """Whether a picture of that shape, with its face there, has been cut out for the network already."""
    if not _is_square(shape):
        return False
    width = shape[1]
    x, y, log_side = _place(crops)
    middle = (width - 1) / 2
    return max(abs(x - middle), abs(y - middle)) < _NEAR * width and abs(log_side - math.log(width)) < _SAME_SIZE
