"""Footage whose mouths are changed: every frame keeps its own face, pose and light."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from .contract.errors import EDTalkError
from .contract.plate import Plate, media_sha256
from .face.crop import Crop, crop_from_box
from .face.framing import cut, cut_at, fitting_size
from .media.video import frames_at

if TYPE_CHECKING:
    from .renderer import FaceRenderer

# A frame of the footage, and its crop and the face drawn there, or None where none is to be seen.
Dubbed = tuple[np.ndarray, Crop | None, np.ndarray | None]


def dub(
    renderer: FaceRenderer,
    frames: Iterable[tuple[np.ndarray, Crop | None]],
    rows: np.ndarray,
    added: np.ndarray | None = None,
    size: int | None = None,
) -> Iterator[Dubbed]:
    """Draw each frame's face with a row of coefficients of its own, as they are asked for.

    frames: uint8 (H, W, 3) and the crop, None where there is no face, one a row. rows: (T, n) in the bank's order.
    added: (n,) bool, which of them are added to the frame's own; default none. size: pixels of a face, with the frame's
    own detail; default: those of a few sizes that lose least of the frame. 0: as the network alone draws it.
    """
    for (rgb, crop), row in zip(frames, rows, strict=True):
        if crop is None:
            yield rgb, None, None
            continue
        side = fitting_size(crop, renderer.config.size) if size is None else size
        details = [cut_at(rgb, crop, side)] if side else None
        (face,) = renderer.render_frames([cut(rgb, crop)], row[None], added=added, details=details)
        yield rgb, crop, face


def plate_frames(plate: Plate, rows: list[int], size: int) -> Iterator[tuple[np.ndarray, Crop | None]]:
    """The frames of some rows of a plate, ascending in time, and their crops of `size` pixels.

    Raises EDTalkError(kind="media") where the plate is gone or another than the shot was made with.
    """
    if media_sha256(plate.media) != plate.sha256:
        raise EDTalkError(
            f"{plate.media} is not the footage that the shot was made with; it has changed since.",
            "Track the face again, and render again.",
            "media",
        )
    for row, rgb in zip(rows, frames_at(plate.media, plate.times[rows]), strict=True):
        yield rgb, crop_of(plate.track[row], size)


def crop_of(square: np.ndarray, size: int) -> Crop | None:
    """A row of a track as a crop; None where it is NaN."""
    x, y, side, angle = square.tolist()
    return None if np.isnan(side) else crop_from_box(x, y, side, size, angle)
