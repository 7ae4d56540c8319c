"""Write pictures with known values without Blender, and read back what Blender renders. For tests in Blender."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import bpy
import numpy as np


def write_png(path: Path, pixels: np.ndarray) -> Path:
    """Write uint8 sRGB (H, W, 3), or (H, W, 4) with straight alpha."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 6 if channels == 4 else 2, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )
    return path


def write_exr(path: Path, pixels: np.ndarray) -> Path:
    """Write uint8 sRGB (H, W, 4) as uncompressed half floats, linear with premultiplied alpha."""
    height, width, _channels = pixels.shape
    alpha = pixels[..., 3:] / 255
    planes = np.concatenate([to_linear(pixels[..., :3]) * alpha, alpha], axis=2).astype("<f2")
    planes = planes[..., [3, 2, 1, 0]]  # channels are stored in alphabetical order, A B G R
    channels = b"".join(
        name + b"\0" + struct.pack("<iBBBBii", 1, 0, 0, 0, 0, 1, 1) for name in (b"A", b"B", b"G", b"R")
    )
    box = struct.pack("<iiii", 0, 0, width - 1, height - 1)

    def attribute(name: bytes, kind: bytes, data: bytes) -> bytes:
        return name + b"\0" + kind + b"\0" + struct.pack("<i", len(data)) + data

    header = struct.pack("<ii", 20000630, 2)
    header += attribute(b"channels", b"chlist", channels + b"\0") + attribute(b"compression", b"compression", b"\0")
    header += attribute(b"dataWindow", b"box2i", box) + attribute(b"displayWindow", b"box2i", box)
    header += attribute(b"lineOrder", b"lineOrder", b"\0")
    header += attribute(b"pixelAspectRatio", b"float", struct.pack("<f", 1.0))
    header += attribute(b"screenWindowCenter", b"v2f", bytes(8))
    header += attribute(b"screenWindowWidth", b"float", struct.pack("<f", 1.0)) + b"\0"
    lines = [struct.pack("<ii", y, 8 * width) + planes[y].T.tobytes() for y in range(height)]
    offsets = len(header) + 8 * height + np.arange(height, dtype="<u8") * len(lines[0])
    path.write_bytes(header + offsets.tobytes() + b"".join(lines))
    return path


def to_linear(levels: np.ndarray) -> np.ndarray:
    """sRGB values 0 to 255 as linear values 0 to 1."""
    values = levels / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def to_levels(linear: np.ndarray) -> np.ndarray:
    """Linear values 0 to 1 as sRGB values 0 to 255."""
    linear = np.clip(linear, 0.0, 1.0)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def render(scene: bpy.types.Scene, path: Path, frame: int | None = None) -> np.ndarray:
    """Render a frame of a scene to a PNG with the scene's settings; returns its values as `read` does."""
    if frame is not None:
        scene.frame_set(frame)
    settings = scene.render.image_settings
    if "media_type" in settings.bl_rna.properties:
        settings.media_type = "IMAGE"
    settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGBA", "8"
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True, scene=scene.name)
    return read(path)


def read(path: Path) -> np.ndarray:
    """The values of a PNG, int (H, W, 4) from 0 to 255, top row first, straight alpha."""
    image = bpy.data.images.load(str(path), check_existing=False)
    image.colorspace_settings.name, image.alpha_mode = "Non-Color", "CHANNEL_PACKED"
    width, height = image.size
    pixels = np.empty(4 * width * height, np.float32)
    image.pixels.foreach_get(pixels)
    bpy.data.images.remove(image)
    return np.rint(255 * pixels.reshape(height, width, 4)[::-1]).astype(int)
