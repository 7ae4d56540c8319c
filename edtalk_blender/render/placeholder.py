"""The picture that a face strip shows where a frame is not rendered yet."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import bpy
import numpy as np

from ...inference.contract.errors import disk_error
from ...inference.contract.shot import write_whole
from ..character.snapshot import CharacterSnapshot

_ALPHA = 0.4


def name(face: CharacterSnapshot) -> str:
    """The placeholder's file in the frames folder of a character."""
    return f"waiting_{face.uid[:8]}_{'plate' if face.is_full_frame else face.square}.png"


def pixels(face: CharacterSnapshot, image: bpy.types.Image | None) -> np.ndarray:
    """What the placeholder shows, (H, H, 4) float32, top row first: the half transparent face, or grey without `image`.

    For full-frame layers it is transparent and of any size, so that the plate shows. image: the face as last rendered.
    """
    usable = not face.is_full_frame and image is not None and image.size[0] and image.size[0] == image.size[1]
    side = image.size[0] if image is not None and usable else 8
    drawn = np.full((side, side, 4), 0.5, np.float32)
    if image is not None and usable:
        image.pixels.foreach_get(drawn.ravel())
    drawn[..., 3] = 0.0 if face.is_full_frame else _ALPHA
    return drawn[::-1]


def write(path: Path, drawn: np.ndarray, size: int) -> None:
    """Write the placeholder as a PNG of `size` pixels, unless it is there. Uses no bpy. Raises EDTalkError."""
    if path.is_file():
        return
    drawn = _resized(_resized(drawn, size).swapaxes(0, 1), size).swapaxes(0, 1)
    rows = np.zeros((size, 1 + 4 * size), np.uint8)  # each begins with the number of its filter, none
    rows[:, 1:] = np.rint(255 * np.clip(drawn, 0.0, 1.0)).reshape(size, -1)
    chunks = {
        b"IHDR": struct.pack(">2I5B", size, size, 8, 6, 0, 0, 0),  # 8 bits of red, green, blue and alpha
        b"IDAT": zlib.compress(rows.tobytes(), 1),
        b"IEND": b"",
    }
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error
    write_whole(path, content)


def _resized(rows: np.ndarray, count: int) -> np.ndarray:
    """Rows (N, W, 4) interpolated linearly to `count` rows."""
    at = np.clip((np.arange(count, dtype=np.float32) + 0.5) * len(rows) / count - 0.5, 0, len(rows) - 1)
    low = at.astype(int)
    share = (at - low)[:, None, None]
    return rows[low] * (1 - share) + rows[np.minimum(low + 1, len(rows) - 1)] * share
