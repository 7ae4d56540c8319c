"""Reads each frame of a plate: the coefficients of its face relative to the clip's frame at rest, and its quality.

All frames are compared with one frame of the same clip by the relative reader, because a single reading cannot tell the
shape of a face from its expression (a closed mouth may read as a jaw that is open by 0.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .contract.errors import EDTalkError
from .contract.plate import Track, runs
from .contract.references import Readings, closed_mouth
from .dubbing import crop_of
from .face.crop import crop_face
from .lanes import read_ahead
from .media.video import frames_at
from .neutral import NeutralFrame

if TYPE_CHECKING:
    from .renderer import FaceRenderer

_DARKEST = 4.0  # levels added to the brightness before its logarithm, so that noise in dark frames counts little
_SMOOTHED = np.array([1, 4, 6, 4, 1], np.float32) / 16  # over time; the readings of a still face vary


def can_read(renderer: FaceRenderer) -> bool:
    """Whether the bank has the networks for reading a plate and drawing from references."""
    networks = renderer.reader.networks
    return renderer.reader.can_compare and networks.refiner is not None and networks.insets is not None


def read_plate(
    renderer: FaceRenderer,
    media: Path,
    track: Track,
    step: Callable[[int, int], object] = lambda done, total: None,
) -> Readings:
    """Read every frame of a track that shows a face.

    step: called before each frame with the number of frames read and the total; every frame is read twice. It may raise
    to stop. Frames are not kept in memory. The renderer's source is neither used nor changed. Raises EDTalkError of
    kind "bank" if the bank lacks a network, "face" if no frame shows a face, "media" if the clip cannot be read.
    """
    if not can_read(renderer):
        message = f"The bank '{renderer.bank.name}' has no relative reader, refiner or insets for reference frames."
        raise EDTalkError(message, "Choose another bank, or dub without reference frames.", "bank")
    seen = np.flatnonzero(~np.isnan(track.crops[:, 2]))
    if not len(seen):
        raise EDTalkError(f"No face was found in {media.name}.", "Choose another clip.", "face")
    reader, total, neutral = renderer.reader, 2 * len(seen), NeutralFrame()
    looks = np.full((len(track), 2), np.nan, np.float32)

    def faces(done: int) -> Iterator[np.ndarray]:
        for place, (frame, rgb) in enumerate(zip(seen, read_ahead(frames_at(media, track.times[seen])), strict=True)):
            step(done + place, total)
            crop = crop_of(track.crops[frame], reader.comparing_size)
            assert crop is not None, "the frame shows a face"
            face = crop_face(rgb, crop)
            if not done:
                looks[frame] = _looks(face)
                neutral.add(place, face)
            yield face

    absolute = reader.encode(faces(0), gaze=False)
    sharpness = looks[seen, 0]
    rest = neutral.choose(absolute, sharpness >= np.median(sharpness))
    crop = crop_of(track.crops[seen[rest]], reader.comparing_size)
    assert crop is not None
    reference = reader.rest_reference(crop_face(next(frames_at(media, track.times[seen[rest : rest + 1]])), crop))
    read = reader.compare(reference, faces(len(seen)))
    rows = np.full((len(track), read.shape[1]), np.nan, np.float32)
    rows[seen] = read - closed_mouth(renderer.bank, read)
    for first, last in runs(~np.isnan(rows[:, 0])):
        part, count = np.pad(rows[first : last + 1], ((2, 2), (0, 0)), mode="edge"), last + 1 - first
        rows[first : last + 1] = sum(weight * part[shift : shift + count] for shift, weight in enumerate(_SMOOTHED))
    return Readings(rows, looks)


def _looks(face: np.ndarray) -> tuple[float, float]:
    """Sharpness of the lower half of a face, uint8 (S, S, 3), and the binary logarithm of its brightness."""
    size = len(face)
    part = face[size // 2 :, size // 5 : size - size // 5]
    grey = cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 1.0), cv2.CV_32F)
    brightness = float(grey.mean())
    return float(np.sqrt(np.square(edges).mean())) / (brightness + _DARKEST), float(np.log2(brightness + _DARKEST))
