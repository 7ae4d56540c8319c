"""Coefficients of the faces in driving clips and pictures.

Clips are read frame by frame, and read again where they are needed twice, so memory does not grow with their length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ..capture import capture
from ..contract.coefficients import Coefficients
from ..face.framing import cut
from ..media.clip import Clip
from .framing import Framing
from .progress import Progress, note

if TYPE_CHECKING:
    from ..face.crop import Crop
    from ..renderer import FaceRenderer


def measure(renderer: FaceRenderer, clip: Clip, crop: Crop, needed: Iterable[int], progress: str) -> np.ndarray:
    """(N, n) coefficients of the frames `needed`. N is the last of them plus 1; the rows of other frames are 0."""
    wanted = sorted(set(needed))
    rows = np.zeros((wanted[-1] + 1, len(renderer.bank.names)), np.float32)
    with Progress(f"reading {clip.path.name}", len(wanted), progress) as bar:

        def faces() -> Iterator[np.ndarray]:
            remaining = set(wanted)
            for index, rgb in enumerate(islice(clip.frames(), wanted[-1] + 1)):
                if index in remaining:
                    yield cut(rgb, crop)
                    bar.step()

        rows[wanted] = renderer.encode(faces()).values
    return rows


def frame_clip(clip: Clip, framing: Framing, size: int) -> Crop:
    """The crop of a driving clip or picture, the same for all its frames."""
    return framing.of_clip(clip.frames(), clip.fps, size, clip.path.name)


def capture_clip(renderer: FaceRenderer, clip: Clip, framing: Framing, progress: str = "auto") -> Coefficients:
    """Coefficients of every frame of a clip."""
    crop = frame_clip(clip, framing, renderer.config.size)
    passes = 2 if renderer.reader.can_compare and not clip.is_picture else 1
    total = (clip.expected() or 0) * passes or None
    with Progress(f"reading {clip.path.name}", total, progress) as bar:
        found = capture(renderer, clip, crop, lambda _done, _total: bar.step(), watch=framing.mode != "none")
    if found.note:
        note(found.note)
    return found.rows
