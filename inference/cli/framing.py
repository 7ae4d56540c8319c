"""The options that say where the face is in an image or a clip: detected, given, or the whole image."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..contract.errors import EDTalkError
from ..contract.plate import PICTURES
from ..face.framing import frame_clip, frame_picture, is_whole
from . import index
from .hints import with_options
from .progress import note

if TYPE_CHECKING:
    from ..contract.plate import Track
    from ..face.crop import Crop
    from ..face.detect import Which


@dataclass(frozen=True)
class Framing:
    """The values of --crop and --face, or of --driver-crop and --driver-face.

    mode: "auto", "none" or "box". box: x, y and size in pixels. which: see `detect.choose_face`. options: the names of
    the two options, for messages.
    """

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
        # No picture has 65536 pixels along a side.
        if not (math.isfinite(x + y) and 0 < side <= 65536 and max(abs(x), abs(y)) <= 65536):
            raise argparse.ArgumentTypeError(f"expected auto, none or x,y,size in pixels, found '{text}'")
        return Framing("box", (x, y, side))

    def of_picture(self, rgb: np.ndarray, size: int, label: str) -> Crop:
        """The crop of an image at `size` pixels, rotated upright. Raises EDTalkError."""
        try:
            crop = frame_picture(rgb, size, self.box or self.mode, which=self.which, label=label)
        except EDTalkError as error:
            raise with_options(error, *self.options) from error
        self._say_found(rgb, crop, label)
        return crop

    def of_clip(self, frames: Iterator[np.ndarray], fps: float, size: int, label: str) -> Crop:
        """One crop for a whole driving clip, not rotated: the head's motion within it is what drives the face."""
        first = next(frames)
        frames = itertools.chain([first], frames)
        try:
            crop = frame_clip(frames, fps, size, self.box or self.mode, which=self.which, label=label)
        except EDTalkError as error:
            raise with_options(error, *self.options) from error
        self._say_found(first, crop, label)
        return crop

    def of_portrait(self, path: Path, size: int) -> str | tuple[float, ...]:
        """The face of a portrait, as a shot's `crop`."""
        from ..media.picture import load_picture

        rgb = load_picture(path).opaque
        crop = self.of_picture(rgb, size, path.name)
        return "none" if is_whole(rgb, crop) else self.box or crop.box

    def of_footage(self, path: Path, end: float) -> Track:
        """Where the face is in the frames of a clip up to `end`, in the clip's own time (see `contract.plate`)."""
        from ..face.crop import TEMPLATE, crop_from_box
        from ..face.footage import track_media, unseen_note
        from ..media.video import stamped_frames

        where, which = self.box or self.mode, self.which
        options = [where, list(which) if isinstance(which, (tuple, list, np.ndarray)) else which, repr(end)]
        try:
            track = index.track(path, options, lambda: track_media(path, where, which=which, end=end).track)
        except EDTalkError as error:
            raise with_options(error, *self.options) from error
        squares = track.crops[~np.isnan(track.crops[:, 2])]
        if self.mode == "auto" and (squares != squares[0]).any():
            note(f"found a face in {path.name}; the crop follows it.")
        else:
            x, y, side, angle = squares[0].tolist()
            _, first = next(stamped_frames(path))  # only its size matters
            self._say_found(first, crop_from_box(x, y, side, TEMPLATE, angle), path.name)
        counted = path.is_dir() or path.suffix.lower() in PICTURES
        if unseen := unseen_note(path.name, track, counted=counted):
            note(unseen)
        return track

    def choosing(self, which: Which, options: tuple[str, str] = ("--crop", "--face")) -> Framing:
        """The same with the value of --face. options: see the class. Raises EDTalkError if no face is searched for."""
        if which is not None and self.mode != "auto":
            raise EDTalkError(f"{options[1]} requires face detection, which {options[0]} disables.")
        return replace(self, which=which, options=options)

    def _say_found(self, rgb: np.ndarray, crop: Crop, label: str) -> None:
        if self.mode != "auto":
            return
        if is_whole(rgb, crop):
            note(f"{label} is a face crop already and is used as a whole.")
            return
        x, y, side, _ = crop.box
        note(f"found a face in {label}: {self.options[0]} {x:.0f},{y:.0f},{side:.0f}.")


def add_crop(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--crop", type=Framing.parse, default=Framing(), metavar="auto|none|X,Y,SIZE",
        help="detect the face (auto, default), use the whole image (none), or a square whose top left corner is at X,Y "
        "in pixels",
    )  # fmt: skip
