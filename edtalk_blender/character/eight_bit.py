"""8-bit copies of portraits that Blender shows but the engine does not read, such as OpenEXR and Radiance HDR."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import bpy
import numpy as np

from ...inference.contract.errors import EDTalkError
from ...inference.contract.files import atomic_write, open_regular
from . import exif

# How the files begin that the engine reads, see `inference/media/picture.py`. Targa has no such mark.
_KNOWN = (
    b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF8", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51", b"II*\0", b"MM\0*",
    b"P1", b"P2", b"P3", b"P4", b"P5", b"P6",
)  # fmt: skip
_TARGA = (".tga", ".targa")


def is_needed(path: Path) -> bool:
    """Whether the engine does not read the format of a picture. False if the file cannot be read."""
    try:
        with open_regular(path) as file:
            start = file.read(12)
    except OSError:
        return False
    if start[4:8] == b"ftyp" or path.suffix.lower() in _TARGA:  # AVIF
        return False
    return not start.startswith(_KNOWN) or exif.has_tiff_deep_pixels(path)


def copy(image: bpy.types.Image, path: Path) -> Path:
    """An 8-bit sRGB PNG of an image, in Blender's temporary folder. It is made once for each state of the file `path`.

    Light above white is clipped, as in the view transform Standard. Raises EDTalkError if Blender has no pixels of it.
    """
    state = path.stat()
    key = hashlib.sha256(f"{path}|{state.st_size}|{state.st_mtime_ns}".encode()).hexdigest()[:20]
    target = Path(bpy.app.tempdir) / f"edtalk_{key}.png"
    if not target.is_file():
        levels = _levels(image)
        if levels is None:
            message = f"{path} has no pixels that Blender can show as one picture."
            raise EDTalkError(message, "Save it as a PNG, and choose that file.", "media")
        with atomic_write(target, durable=False) as partial:
            partial.write_bytes(_png(levels))
    return target


def _levels(image: bpy.types.Image) -> np.ndarray | None:
    """The image as uint8 (H, W, 4) sRGB with straight alpha, top row first; None if it has no pixels."""
    width, height = image.size
    if not width or not height or len(image.pixels) != width * height * image.channels:
        return None
    flat = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(flat)
    pixels = np.nan_to_num(flat.reshape(height, width, image.channels)[::-1], posinf=1.0, neginf=0.0)
    colour = pixels[..., :3] if image.channels >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    alpha = pixels[..., 3:] if image.channels == 4 else np.ones_like(colour[..., :1])
    if image.is_float:  # linear light, multiplied by alpha
        colour = np.clip(colour / np.maximum(alpha, 1e-6), 0, 1)
        colour = np.where(colour <= 0.0031308, colour * 12.92, 1.055 * colour ** (1 / 2.4) - 0.055)
    return np.rint(np.clip(np.concatenate([colour, alpha], axis=2), 0, 1) * 255).astype(np.uint8)


def _png(levels: np.ndarray) -> bytes:
    """uint8 (H, W, 4), straight alpha, as a PNG. The alpha channel is left out if it is opaque."""
    kind = 6
    if (levels[..., 3] == 255).all():
        levels, kind = levels[..., :3], 2
    height, width = levels.shape[:2]
    rows = np.zeros((height, 1 + width * levels.shape[2]), np.uint8)  # each row begins with its filter, 0
    rows[:, 1:] = levels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in parts:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content
