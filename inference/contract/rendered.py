"""Whether the file of a rendered frame is complete. Standard library only, so the add-on can use it."""

from __future__ import annotations

import os
import stat
import struct
from functools import lru_cache
from io import BufferedReader
from pathlib import Path

from .files import open_regular

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_EXR = b"\x76\x2f\x31\x01"
_MOST_HEADER = 2**16  # bytes of an EXR header; the engine's have 300
_LINES = {0: 1, 1: 1, 2: 1, 3: 16, 4: 32, 5: 16, 6: 32, 7: 32}  # lines of an EXR block, by compression


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether a `.png` or `.exr` file is there with its end; a power failure or a full disk may have cut it off.

    The content is looked at once for each size and modification time of the file; pixels are not decoded.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return False
        return _has_end(os.fspath(path), status.st_size, status.st_mtime_ns)
    except (OSError, ValueError):
        return False


@lru_cache(maxsize=2**17)
def _has_end(path: str, size: int, mtime_ns: int) -> bool:
    with open_regular(path) as file:
        if Path(path).suffix == ".exr":
            return _exr_has_end(file, size)
        begin = file.read(len(_PNG))
        file.seek(max(size - len(_PNG_END), 0))
        return begin == _PNG and file.read() == _PNG_END


def _exr_has_end(file: BufferedReader, size: int) -> bool:
    """Whether the last block of a scan-line file, which its table of offsets names, ends within the file."""
    head = file.read(_MOST_HEADER)
    try:
        if head[:4] != _EXR:
            return False
        at, attributes = 8, {}
        while head[at] != 0:
            name, kind, _ = head[at : at + 600].split(b"\0", 2)
            at += len(name) + len(kind) + 2
            (length,) = struct.unpack_from("<I", head, at)
            attributes[name] = head[at + 4 : at + 4 + length]
            at += 4 + length
        _, top, _, bottom = struct.unpack("<4i", attributes[b"dataWindow"])
        blocks = -(-(bottom + 1 - top) // _LINES[attributes[b"compression"][0]])
        file.seek(at + 1)
        offsets = struct.unpack(f"<{blocks}Q", file.read(8 * blocks))
        file.seek(max(offsets))
        _, length = struct.unpack("<iI", file.read(8))
        return max(offsets) + 8 + length <= size
    except (struct.error, ValueError, LookupError, OverflowError, OSError):
        return False
