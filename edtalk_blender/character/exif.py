"""How a camera was held: a JPEG's note of it (EXIF), which Blender ignores and the engine heeds. No bpy."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from ...inference.contract.files import open_regular

_ORIENTATION = 0x0112  # the tag
_FAR = 2**20  # bytes; cameras put the note first


def orientation(path: Path) -> int:
    """1 to 8 as EXIF has it; 1, as it is, for what is no JPEG, has no note or cannot be read."""
    try:
        with open_regular(path) as file:
            if file.read(2) != b"\xff\xd8":
                return 1
            while file.tell() < _FAR:
                marker, kind, length = struct.unpack(">BBH", file.read(4))
                if marker != 0xFF or kind == 0xDA or length < 2:  # the picture itself: no note before it; or damage
                    return 1
                segment = file.read(length - 2)
                if kind == 0xE1 and segment.startswith(b"Exif\0\0"):
                    return _noted(segment[6:])
    except (OSError, struct.error, ValueError):
        pass
    return 1


def _noted(tiff: bytes) -> int:
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
    """Whether turning it upright exchanges width and height."""
    return orientation >= 5


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, n), top row first, turned and mirrored as noted; a view, of (W, H, n) for what is on its side."""
    turned = {3: 2, 4: 2, 5: -1, 6: -1, 7: 1, 8: 1}.get(orientation, 0)
    pixels = np.rot90(pixels, turned)
    return pixels[:, ::-1] if orientation in (2, 4, 5, 7) else pixels
