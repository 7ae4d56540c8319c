"""The EXIF orientation of JPEG, PNG, WebP and TIFF, which Blender ignores and the engine applies. No bpy."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...inference.contract.files import open_regular

_ORIENTATION, _BITS, _SAMPLE_FORMAT = 0x0112, 0x0102, 0x0153  # tags
_FLOAT = 3  # value of _SAMPLE_FORMAT
_PREFIX = b"Exif\0\0"  # before EXIF data in a JPEG, and sometimes in a WebP
_MOST_SEARCHED = 2**20  # bytes; cameras write EXIF first


def orientation(path: Path) -> int:
    """The EXIF orientation, 1 to 8, of a JPEG, PNG, WebP or TIFF.

    1 (unchanged) for other files, without EXIF or if it cannot be read.
    """
    try:
        with open_regular(path) as file:
            start = file.read(12)
            file.seek(0)
            if start[:2] == b"\xff\xd8":
                return _from_jpeg(file)
            if start[:8] == b"\x89PNG\r\n\x1a\n":
                return _from_png(file)
            if start[:4] == b"RIFF" and start[8:] == b"WEBP":
                return _from_webp(file)
            return _from_tiff(file)
    except (OSError, struct.error, ValueError):
        return 1


def _from_jpeg(file: BinaryIO) -> int:
    file.seek(2)
    while file.tell() < _MOST_SEARCHED:
        marker, kind, length = struct.unpack(">BBH", file.read(4))
        if marker != 0xFF or kind == 0xDA or length < 2:  # start of the image data, or a damaged file
            return 1
        segment = file.read(length - 2)
        if kind == 0xE1 and segment.startswith(_PREFIX):
            return _from_tiff(io.BytesIO(segment[len(_PREFIX) :]))
    return 1


def _from_png(file: BinaryIO) -> int:
    file.seek(8)
    while True:  # each chunk has 12 bytes or more, so this ends with the file
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"eXIf":
            return _from_tiff(io.BytesIO(file.read(min(length, _MOST_SEARCHED))))
        file.seek(length + 4, os.SEEK_CUR)


def _from_webp(file: BinaryIO) -> int:
    file.seek(12)
    while True:  # each chunk has 8 bytes or more, so this ends with the file
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind == b"EXIF":
            return _from_tiff(io.BytesIO(file.read(min(length, _MOST_SEARCHED)).removeprefix(_PREFIX)))
        file.seek(length + length % 2, os.SEEK_CUR)


def _from_tiff(file: BinaryIO) -> int:
    """The orientation in a TIFF file, or in EXIF data, which have the same structure."""
    value = _tiff_numbers(file, (_ORIENTATION,)).get(_ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def has_tiff_deep_pixels(path: Path) -> bool:
    """Whether a file is a TIFF with floating-point numbers or more than 16 bits a channel. False if unreadable."""
    try:
        with open_regular(path) as file:
            found = _tiff_numbers(file, (_BITS, _SAMPLE_FORMAT))
    except (OSError, struct.error, ValueError):
        return False
    return found.get(_BITS, 1) > 16 or found.get(_SAMPLE_FORMAT, 1) == _FLOAT


def _tiff_numbers(file: BinaryIO, tags: tuple[int, ...]) -> dict[int, int]:
    """The first number of each of these tags, of 16 bits, in a TIFF file. Empty for other files."""
    start = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(start[:4])
    if order is None:
        return {}
    (directory,) = struct.unpack_from(f"{order}I", start, 4)
    file.seek(directory)
    (count,) = struct.unpack(f"{order}H", file.read(2))
    entries, found = file.read(12 * count), {}
    for entry in range(0, 12 * count, 12):
        tag, _kind, numbers, value = struct.unpack_from(f"{order}HHIH", entries, entry)
        if tag in tags:
            if numbers > 2:  # they do not fit into the entry, which has their place in the file
                file.seek(struct.unpack_from(f"{order}I", entries, entry + 8)[0])
                (value,) = struct.unpack(f"{order}H", file.read(2))
            found[tag] = value
    return found


def is_on_its_side(orientation: int) -> bool:
    """Whether applying the orientation swaps width and height."""
    return orientation >= 5


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an orientation to pixels (H, W, n), top row first; returns a view, (W, H, n) if the sides swap."""
    turned = {3: 2, 4: 2, 5: -1, 6: -1, 7: 1, 8: 1}.get(orientation, 0)
    pixels = np.rot90(pixels, turned)
    return pixels[:, ::-1] if orientation in (2, 4, 5, 7) else pixels


def to_stored(orientation: int, width: int, height: int) -> np.ndarray:
    """(2, 3) matrix from points (x, y) of the upright picture of this size to points of the stored one.

    Points are measured in pixels from the top left corner of the picture.
    """
    w, h = width, height
    matrices = {
        2: [[-1, 0, w], [0, 1, 0]],
        3: [[-1, 0, w], [0, -1, h]],
        4: [[1, 0, 0], [0, -1, h]],
        5: [[0, 1, 0], [1, 0, 0]],
        6: [[0, 1, 0], [-1, 0, w]],
        7: [[0, -1, h], [-1, 0, w]],
        8: [[0, -1, h], [1, 0, 0]],
    }
    return np.array(matrices.get(orientation, [[1, 0, 0], [0, 1, 0]]), float)
