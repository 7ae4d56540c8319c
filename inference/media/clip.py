"""A movie, a folder of pictures or one picture as frames at an even rate.

Frames are read again at each use and not kept, so memory does not grow with the length.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

_DEFAULT_FPS = 25.0  # of pictures
_PLAUSIBLE_FPS = (1, 240)  # files of one frame and damaged files claim other rates
_TOLERANCE = 2e-3  # seconds: a time this close before the start of a frame counts as its start


@dataclass(frozen=True)
class Clip:
    """The frames shown from `start` to `end` at `fps` frames per second.

    start, end: seconds; end None: to the end of the file. Every picture of a folder is one frame.
    """

    path: Path
    fps: float
    start: float = 0.0
    end: float | None = None

    @staticmethod
    def at_own_rate(path: str | os.PathLike[str], start: float = 0.0, end: float | None = None) -> Clip:
        """A clip at the file's frame rate, from the start of the frame shown at `start`.

        Raises EDTalkError(kind="media") if the file is not a readable clip.
        """
        from .video import probe

        clip = Clip(Path(path), _DEFAULT_FPS, start, end)
        fps = _DEFAULT_FPS if clip.is_still else float(probe(path).fps)
        fps = fps if _PLAUSIBLE_FPS[0] <= fps <= _PLAUSIBLE_FPS[1] else _DEFAULT_FPS
        return Clip(clip.path, fps, math.floor((start + _TOLERANCE) * fps) / fps, end)

    @property
    def is_picture(self) -> bool:
        """Whether it is a single picture."""
        from ..contract.plate import PICTURES

        return self.path.suffix.lower() in PICTURES and not self.path.is_dir()

    @property
    def is_still(self) -> bool:
        """Whether it is a picture or a folder of pictures, which have no times."""
        return self.path.is_dir() or self.is_picture

    def frames(self) -> Iterator[np.ndarray]:
        """The frames, uint8 (H, W, 3) each. Raises EDTalkError(kind="media"), also while iterating."""
        from .video import open_driver

        return open_driver(self.path, self.fps, start=self.start, end=self.end)

    def count(self, most: int | None = None) -> int:
        """Number of frames, found by reading them. most: stop at this number."""
        known = self.expected() if self.is_still else None
        if known is not None:
            return known if most is None else min(known, most)
        return sum(1 for _ in islice(self.frames(), most))

    def expected(self) -> int | None:
        """Number of frames according to the file, for a progress bar; None if unknown."""
        from .video import pictures_of, probe

        if self.is_picture:
            return 1
        if self.path.is_dir():
            return len(pictures_of(self.path, self.fps, start=self.start, end=self.end))
        ends = [time for time in (probe(self.path).duration, self.end) if time is not None]
        return max(1, round((min(ends) - self.start) * self.fps)) if ends else None

    def has_sound(self) -> bool:
        """Whether the file has an audio stream. Raises EDTalkError(kind="media")."""
        from .video import probe

        return not self.is_still and probe(self.path).has_audio
