"""The EXIF orientation of a JPEG, which Blender ignores and the engine applies. No bpy."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from ...inference.contract.files import open_regular

_ORIENTATION = 0x0112  # the tag
_MOST_SEARCHED = 2**20  # bytes; cameras write EXIF first


def orientation(path: Path) -> int:
    """The EXIF orientation, 1 to 8; 1 (unchanged) for other files, without EXIF or where it cannot be read."""
    try:
        with open_regular(path) as file:
            if file.read(2) != b"\xff\xd8":
                return 1
            while file.tell() < _MOST_SEARCHED:
                marker, kind, length = struct.unpack(">BBH", file.read(4))
                if marker != 0xFF or kind == 0xDA or length < 2:  # start of the image data, or a damaged file
                    return 1
                segment = file.read(length - 2)
                if kind == 0xE1 and segment.startswith(b"Exif\0\0"):
                    return _from_tiff(segment[6:])
    except (OSError, struct.error, ValueError):
        pass
    return 1


def _from_tiff(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, _kind, _count, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
        if tag == _ORIENTATION:
            return value if 1 <= value <= 8 else 1
    return 1


def is_on_its_side(orientation: int) -> bool:
    """Whether applying the orientation swaps width and height."""
    return orientation >= 5


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an orientation to pixels (H, W, n), top row first; returns a view, (W, H, n) if the sides swap."""
    turned = {3: 2, 4: 2, 5: -1, 6: -1, 7: 1, 8: 1}.get(orientation, 0)
    pixels = np.rot90(pixels, turned)
    return pixels[:, ::-1] if orientation in (2, 4, 5, 7) else pixels
