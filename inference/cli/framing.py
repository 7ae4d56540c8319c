"""Which square of a picture or a clip is the face: found, given by hand, or all of it."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..contract.errors import EDTalkError
from ..face.framing import frame_clip, frame_picture, given_crop, is_whole
from .hints import with_options
from .progress import note

if TYPE_CHECKING:
    from ..face.crop import Crop
    from ..face.detect import Which
    from ..media.clip import Clip


@dataclass(frozen=True)
class Framing:
    """The value of --crop or --driver-crop. box: x, y, side in pixels; which: see `detect.choose_face`."""

    mode: str = "auto"
    box: tuple[float, float, float] | None = None
    which: Which = None
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
            raise with_options(error, *self.options) from error
        self._say_found(rgb, crop, label)
        return crop

    def of_clip(self, frames: Iterator[np.ndarray], fps: float, size: int, label: str) -> Crop:
        """One upright square for a whole driving clip: what moves within it is the head's motion, to be copied."""
        first = next(frames)
        frames = itertools.chain([first], frames)
        try:
            crop = frame_clip(frames, fps, size, self.box or self.mode, which=self.which, label=label)
        except EDTalkError as error:
            raise with_options(error, *self.options) from error
        self._say_found(first, crop, label)
        return crop

    def of_frames(self, clip: Clip, count: int, size: int) -> list[Crop | None]:
        """Squares that follow the face through the first `count` frames of a clip, or one that holds for all.

        None where the face is not to be seen.
        """
        from ..dubbing import crop_of
        from ..face.footage import track_frames, unseen_note

        label, first = clip.path.name, next(clip.frames())

        def frames() -> Iterator[tuple[float, np.ndarray]]:
            for number, rgb in enumerate(itertools.islice(clip.frames(), count)):
                yield number if clip.is_still else number / clip.fps, rgb

        try:
            if self.mode != "auto":
                return [given_crop(first, size, self.box or self.mode, label)]
            track = track_frames(frames, clip.fps, which=self.which, label=label)
        except EDTalkError as error:
            raise with_options(error, *self.options) from error
        crops = [crop_of(square, size) for square in track.crops]
        if all(crop is None or is_whole(first, crop) for crop in crops):
            self._say_found(first, next(filter(None, crops)), label)
        else:
            note(f"face found in {label}; its square follows it.")
        if absent := unseen_note(label, track, counted=clip.is_still):
            note(absent)
        return crops

    def choosing(self, which: Which, options: tuple[str, str] = ("--crop", "--face")) -> Framing:
        """The same with the value of --face; `options` are these two options' names, for messages."""
        if which is not None and self.mode != "auto":
            raise EDTalkError(f"{options[1]} chooses among faces, and with {options[0]} none are looked for.")
        return replace(self, which=which, options=options)

    def _say_found(self, rgb: np.ndarray, crop: Crop, label: str) -> None:
        if self.mode != "auto":
            return
        if is_whole(rgb, crop):
            note(f"{label} is already a face crop; used whole.")
            return
        x, y, side, _ = crop.box
        note(f"face found in {label}; cut out as {self.options[0]} {x:.0f},{y:.0f},{side:.0f}.")
