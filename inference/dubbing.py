"""Dubbing: renders the face in each frame of some footage again, with new coefficients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .contract.plate import Plate
from .face.crop import Crop, crop_from_box
from .face.framing import cut, cut_at
from .face.size import SOURCE_SIZE, FaceSize

if TYPE_CHECKING:
    from .renderer import FaceRenderer

HELD_BYTES = 256 * 2**20  # limit for decoded frames, or crops of them, that are kept in memory

# A frame of the footage, its crop and the face rendered there; the last two are None if no face is visible.
Dubbed = tuple[np.ndarray, Crop | None, np.ndarray | None]
_Row = tuple[tuple[np.ndarray, Crop | None], np.ndarray]


def dub(
    renderer: FaceRenderer,
    frames: Iterable[tuple[np.ndarray, Crop | None]],
    rows: np.ndarray,
    added: np.ndarray | None = None,
    size: FaceSize = SOURCE_SIZE,
) -> Iterator[Dubbed]:
    """Render the face of each frame with its own row of coefficients. Yields one result per frame.

    frames: one per row, uint8 (H, W, 3) and the crop of the face, or None where no face is visible. Some are read
    ahead, at most HELD_BYTES of them. rows: (T, n) in the bank's order. added: (n,) bool, coefficients that are added
    to those read from the frame instead of replacing them; default none. size: at which faces are rendered.
    """
    for some in _chunks(zip(frames, rows, strict=True), renderer.batch * renderer.lanes.count):
        seen = [(rgb, crop, row) for (rgb, crop), row in some if crop is not None]
        faces: Iterator[np.ndarray] = iter(())
        if seen:
            native = renderer.config.size
            cuts = (cut(rgb, crop) for rgb, crop, _ in seen)
            fine = (cut_at(rgb, crop, size.side(native, crop)) for rgb, crop, _ in seen) if size.detail else None
            faces = renderer.render_frames(cuts, np.stack([row for *_, row in seen]), added=added, details=fine)
        for (rgb, crop), _ in some:
            yield rgb, crop, None if crop is None else next(faces)


def _chunks(frames: Iterable[_Row], count: int) -> Iterator[list[_Row]]:
    """Lists of `count` frames with their rows, of fewer where they would exceed HELD_BYTES, so that faces are rendered
    in batches.
    """
    held: list[_Row] = []
    for (rgb, crop), row in frames:
        held.append(((rgb, crop), row))
        if len(held) >= max(1, min(count, HELD_BYTES // rgb.nbytes)):
            yield held
            held = []
    if held:
        yield held


def plate_frames(plate: Plate, rows: Sequence[int], size: int) -> Iterator[tuple[np.ndarray, Crop | None]]:
    """Yield the frames of some rows of a plate and their crops at `size` pixels. It is fastest if their times ascend.

    Raises EDTalkError(kind="media") if the footage is missing or is not the one that the shot was made with.
    """
    plate.check_media()
    for row, rgb in zip(rows, frames_in_any_order(plate.media, plate.times[list(rows)]), strict=True):
        yield rgb, crop_of(plate.track[row], size)


def frames_in_any_order(media: Path, times: np.ndarray) -> Iterator[np.ndarray]:
    """As `media.video.frames_at`, for times in any order. Descending times are read in blocks of HELD_BYTES at most."""
    from .media.video import frames_at  # imported late: it loads FFmpeg, and most shots have no plate

    at, block = 0, 1
    while at < len(times):
        ascending = _run(times[at:])
        if ascending > 1 or at + 1 == len(times):
            for rgb in frames_at(media, times[at : at + ascending]):
                yield rgb
            block = max(1, HELD_BYTES // rgb.nbytes)
            at += ascending
            continue
        descending = min(_run(-times[at:]), block)
        held = list(frames_at(media, times[at : at + descending][::-1]))
        yield from reversed(held)
        block = max(1, HELD_BYTES // held[0].nbytes)
        at += descending


def _run(times: np.ndarray) -> int:
    """Length of the initial run of times that do not descend."""
    descents = np.flatnonzero(np.diff(times) < 0)
    return int(descents[0]) + 1 if len(descents) else len(times)


def crop_of(square: np.ndarray, size: int) -> Crop | None:
    """A row of a track, (4,), as a crop of `size` pixels; None where it is NaN."""
    x, y, side, angle = square.tolist()
    return None if np.isnan(side) else crop_from_box(x, y, side, size, angle)
