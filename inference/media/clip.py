"""A clip, a folder of pictures or one picture as a row of frames at an even rate, read as often as it is needed.

Nothing is held: memory does not grow with the length.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

_USUAL = 25.0  # fps of what has no rate of its own
_CREDIBLE = (1, 240)  # fps; files of one frame, and damaged ones, claim others
_ROUNDED = 2e-3  # seconds: as near as this to a frame's beginning is meant to be there


@dataclass(frozen=True)
class Clip:
    """What is on screen from `start` seconds to `end` (default: to its own), `fps` times a second.

    Every picture of a folder is one frame; a picture is one.
    """

    path: Path
    fps: float
    start: float = 0.0
    end: float | None = None

    @staticmethod
    def at_own_rate(path: str | os.PathLike[str], start: float = 0.0, end: float | None = None) -> Clip:
        """At the clip's own rate, and from the beginning of the frame that is on screen at `start`.

        Raises EDTalkError(kind="media") for a file that is no clip.
        """
        from .video import probe

        clip = Clip(Path(path), _USUAL, start, end)
        fps = _USUAL if clip.is_still else float(probe(path).fps)
        fps = fps if _CREDIBLE[0] <= fps <= _CREDIBLE[1] else _USUAL
        return Clip(clip.path, fps, math.floor((start + _ROUNDED) * fps) / fps, end)

    @property
    def is_picture(self) -> bool:
        from ..contract.plate import PICTURES

        return self.path.suffix.lower() in PICTURES and not self.path.is_dir()

    @property
    def is_still(self) -> bool:
        """Whether it is made of pictures, which have no time of their own."""
        return self.path.is_dir() or self.is_picture

    def frames(self) -> Iterator[np.ndarray]:
        """uint8 (H, W, 3) each; EDTalkError(kind="media"), also on the way, when there is none."""
        from .video import open_driver

        return open_driver(self.path, self.fps, start=self.start, end=self.end)

    def count(self, most: int | None = None) -> int:
        """Number of frames, found by reading them; no more than `most` are read."""
        known = self.expected() if self.is_still else None
        if known is not None:
            return known if most is None else min(known, most)
        return sum(1 for _ in islice(self.frames(), most))

    def expected(self) -> int | None:
        """Number of frames as its file has it, for a progress bar; None where that does not say."""
        from .video import pictures_of, probe

        if self.is_picture:
            return 1
        if self.path.is_dir():
            return len(pictures_of(self.path, self.fps, start=self.start, end=self.end))
        ends = [time for time in (probe(self.path).duration, self.end) if time is not None]
        return max(1, round((min(ends) - self.start) * self.fps)) if ends else None

    def has_sound(self) -> bool:
        from .video import probe

        return not self.is_still and probe(self.path).has_audio
