"""Which square of a picture or a clip is the face: found, given by hand, or all of it."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import EDTalkError
from ..framing import fills, frame_picture, given_crop, is_square, is_whole, usual_place
from .progress import note

if TYPE_CHECKING:
    from ..face import Crop
    from .clips import Clip

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
        try:
            crop = frame_picture(rgb, size, self.box or self.mode, which=self.which, label=label)
        except EDTalkError as error:
            raise self._explained(error) from error
        if self.mode == "auto" and is_whole(rgb, crop):
            note(f"{label} is already a face crop; used whole.")
        elif self.mode == "auto":
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
        if fills(first.shape, crops):
            return self._whole(first, size, label)
        x, y, log_side = usual_place(crops)
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
        if is_square(first.shape) and fills(first.shape, self._looks(clip.frames(), clip.fps, size, label)):
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
        if self.mode == "auto":
            return None
        try:
            return given_crop(rgb, size, self.box or self.mode, label)
        except EDTalkError as error:
            raise self._explained(error) from error

    def _whole(self, rgb: np.ndarray, size: int, label: str) -> Crop:
        from ..face import whole

        note(f"{label} is already a face crop; used whole.")
        return whole(rgb, size)

    def _say_found(self, crop: Crop, label: str) -> None:
        x, y, side, _ = crop.box
        note(f"face found in {label}; cut out as {self.options[0]} {x:.0f},{y:.0f},{side:.0f}.")

    def _explained(self, error: EDTalkError) -> EDTalkError:
        """The same with this framing's own options in place of the usual ones."""
        crop, face = self.options
        message, hint = (text.replace("--crop", crop).replace("--face", face) for text in (error.message, error.hint))
        if error.message.startswith("No face"):
            hint = f"Give {crop} x,y,size, {crop} none to use the whole picture, or a clearer picture."
        return EDTalkError(message, hint, error.kind)
