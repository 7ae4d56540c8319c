"""Reads each frame of a plate: the coefficients of its face relative to the clip's frame at rest, and its quality.

All frames are compared with one frame of the same clip by the relative reader, because a single reading cannot tell the
shape of a face from its expression (a closed mouth may read as a jaw that is open by 0.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from . import tables
from .contract.errors import EDTalkError
from .contract.plate import Track, runs
from .contract.references import Readings, closed_mouth
from .dubbing import HELD_BYTES, crop_of
from .face.crop import crop_face
from .lanes import read_ahead
from .media.video import frames_at
from .neutral import NeutralFrame, nearest_to_rest

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

    step: called before each frame with the number of frames done and the total; every frame is looked at, then
    compared. It may raise to stop; the next call then continues with the comparisons that are done, see
    `tables.rows`. Crops of the face are kept in memory, at most HELD_BYTES of them; what a longer clip
    has beyond that is decoded twice. The renderer's source is neither used nor changed. Raises EDTalkError of kind
    "bank" if the bank lacks a network, "face" if no frame shows a face, "media" if the clip cannot be read.
    """
    if not can_read(renderer):
        message = f"The bank '{renderer.bank.name}' has no relative reader, refiner or insets for reference frames."
        raise EDTalkError(message, "Choose another bank, or dub without reference frames.", "bank")
    seen = np.flatnonzero(~np.isnan(track.crops[:, 2]))
    if not len(seen):
        raise EDTalkError(f"No face was found in {media.name}.", "Choose another clip.", "face")
    reader, total, neutral = renderer.reader, 2 * len(seen), NeutralFrame()
    looks = np.full((len(track), 2), np.nan, np.float32)

    def cut(first: int) -> Iterator[np.ndarray]:
        """The faces of the frames from the place `first` of `seen` on."""
        frames = seen[first:]
        for frame, rgb in zip(frames, read_ahead(frames_at(media, track.times[frames])), strict=True):
            crop = crop_of(track.crops[frame], reader.comparing_size)
            assert crop is not None, "the frame shows a face"
            yield crop_face(rgb, crop)

    held: list[np.ndarray] = []
    for place, face in enumerate(cut(0)):
        step(place, total)
        looks[seen[place]] = _looks(face)
        neutral.add(place, face)
        if len(held) == place and (place + 1) * face.nbytes <= HELD_BYTES:
            held.append(face)
    sharp = looks[seen, 0] >= np.median(looks[seen, 0])
    near = neutral.near(sharp) or neutral.kept
    absolute = reader.encode((face for _, face in near), gaze=False)
    _, at_rest = near[nearest_to_rest(absolute, sharp[[place for place, _ in near]])]

    def faces(first: int) -> Iterator[np.ndarray]:
        after = max(first, len(held))
        for place, face in enumerate(chain(held[first:], cut(after) if after < len(seen) else ()), first):
            step(len(seen) + place, total)
            yield face

    def compared(done: np.ndarray) -> Iterator[np.ndarray]:
        return reader.compare_each(reader.rest_reference(at_rest), faces(len(done)))

    digits, device = hashlib.sha256(track.to_bytes()).hexdigest(), str(renderer.device)
    file = tables.file_of("compared", digits, renderer.bank.sha256, device, media=media)
    read = tables.rows(file, len(renderer.bank.names), compared).astype(np.float32)
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
