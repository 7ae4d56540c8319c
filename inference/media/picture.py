"""Read and write still pictures, and convert between pictures and network tensors.

Pictures are uint8 sRGB (H, W, 3) in RGB order. The network takes float32 (N, 3, size, size) in [-1, 1]. Conversions
follow the reference implementation.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..contract.content import content_of
from ..contract.errors import EDTalkError
from ..contract.files import atomic_write, check_file
from .container import is_heif

LONGEST_SIDE = 16384  # pixels; photographs and scans are smaller, a damaged header may claim more
MOST_PIXELS = 128_000_000  # of the largest photographs; each takes 3 bytes, several times while it is converted
_LIMIT = f"sides of at most {LONGEST_SIDE} pixels and {MOST_PIXELS // 10**6} million pixels in all"
# The only formats that are decoded, whatever the suffix is. Pillow passes PostScript to another program and has many
# decoders that are not needed here. JPEG includes MPO, PPM includes the other Netpbm formats.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "TGA", "JPEG2000", "GIF", "AVIF", "PPM")
_EXPECTED = "expected a picture such as PNG, JPEG, TIFF or WebP"
_GROUND = np.uint16(128)  # level of the mid grey behind transparent pictures
_STALE_AFTER = 3600.0  # seconds after its last change, no process still writes a partial file
# Files that Pillow does not read but Blender does, by how they begin; most have linear light in floating point.
_OTHER_FORMATS = {
    "an OpenEXR picture": (b"\x76\x2f\x31\x01",),
    "a Radiance HDR picture": (b"#?RADIANCE", b"#?RGBE"),
    "a TIFF of another kind, such as 32 bits a channel": (b"II*\0", b"MM\0*"),
}
_CONVERT = "Save a copy as an 8-bit PNG with Save As Render in Blender's Image Editor, and choose it."
_EXPORT = "Export it as JPEG or PNG. Phones can be set to take JPEG."
_CHOOSE = "Choose another picture, or save this one again as an 8-bit PNG."


@dataclass(frozen=True, eq=False)
class Picture:
    """A still picture with straight alpha.

    rgb: uint8 (H, W, 3), sRGB. alpha: uint8 (H, W), 255 is opaque; None if the file has no alpha.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None

    @property
    def opaque(self) -> np.ndarray:
        """The picture over mid grey, uint8 (H, W, 3). Transparent pixels have arbitrary colours, which are hidden."""
        if self.alpha is None or self.alpha.min() == 255:
            return self.rgb
        alpha = self.alpha[..., None].astype(np.uint16)
        return ((self.rgb * alpha + _GROUND * (255 - alpha) + 127) // 255).astype(np.uint8)


def load_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a still picture, or the first frame of an animation, with its EXIF rotation applied.

    Grey, palette, CMYK and 16-bit files become 8-bit RGB; embedded colour profiles are not applied.
    Raises EDTalkError(kind="media") naming the file if it cannot be used.
    """
    path = Path(path)
    check_file(path, _EXPECTED)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below replaces it
            with Image.open(path, formats=FORMATS) as image:
                if max(image.size) > LONGEST_SIDE or image.width * image.height > MOST_PIXELS:
                    raise _unusable(path, f"found {image.width} x {image.height} pixels", _LIMIT)
                image.load()
                return _to_picture(path, ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise _unusable(path, "found far too many pixels", _LIMIT) from error
    except UnidentifiedImageError as error:
        raise _unrecognised(path) from error
    except PermissionError as error:
        raise EDTalkError(f"{path} cannot be opened: permission denied.", "Change its permissions.", "media") from error
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, MemoryError) as error:  # raised by decoders
        raise _unusable(path, f"found a damaged or incomplete one ({error})") from error


def save_picture(path: str | os.PathLike[str], pixels: np.ndarray) -> None:
    """Write uint8 sRGB (H, W, 3), or (H, W, 4) with straight alpha, as `.png` or half-float `.exr`.

    As OpenEXR requires, colours in `.exr` are linear and multiplied by alpha. The file is written completely or not at
    all. Raises EDTalkError(kind="disk") if it cannot be written, EDTalkError for another array or suffix.
    """
    path = Path(path)
    pixels = np.ascontiguousarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise EDTalkError(f"A picture is saved from uint8 (H, W, 3 or 4), found {pixels.dtype} {pixels.shape}.")
    if path.suffix.lower() not in (".png", ".exr"):
        raise EDTalkError(f"Pictures are saved as .png or .exr, found the suffix '{path.suffix}' in {path}.")
    with atomic_write(path, durable=False) as partial:
        if path.suffix.lower() == ".exr":
            partial.write_bytes(_exr(pixels))
        else:
            partial.write_bytes(_png(pixels))


def clear_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove partial files of killed writers from a folder, except those that were changed in the last hour.

    The hour is measured by the clock of the file system, because a file server and other machines have other clocks.
    """
    with contextlib.suppress(OSError):
        leftovers = list(Path(folder).glob(".*.partial.*"))
        if not leftovers:
            return
        with tempfile.NamedTemporaryFile(prefix=".", suffix=".now", dir=folder) as file:
            file.write(b"\n")
            file.flush()
            now = os.stat(file.name).st_mtime
        for path in leftovers:
            with contextlib.suppress(OSError):  # another process removed it
                if now - path.stat().st_mtime > _STALE_AFTER:
                    path.unlink()


def to_network(rgb: np.ndarray, size: int = 256) -> np.ndarray:
    """Convert a source picture, uint8 (H, W, 3), to float32 (3, size, size) in [-1, 1].

    As upstream does for sources: Pillow's default resize (bicubic, antialiased, uint8 result), aspect ratio ignored.
    """
    small = np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize((size, size)))
    return np.ascontiguousarray(_normalise(small).transpose(2, 0, 1))


def frames_to_network(frames: np.ndarray, size: int = 256) -> np.ndarray:
    """Convert driving frames, uint8 (N, H, W, 3), to float32 (N, 3, size, size) in [-1, 1].

    As upstream does for drivers: bilinear, half-pixel centres, no antialiasing. Square input of `size` is not resized.
    """
    if frames.shape[1:3] != (size, size):
        import cv2  # imported late, because most callers have cropped to `size` already

        small = [cv2.resize(frame.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR) for frame in frames]
        frames = np.stack(small)
    return np.ascontiguousarray(_normalise(frames).transpose(0, 3, 1, 2))


def from_network(planes: np.ndarray) -> np.ndarray:
    """Convert network output, float (..., 3, H, W) in [-1, 1], to uint8 (..., H, W, 3), clamped and rounded.

    Upstream normalises to the range of the clip. This does not, because a frame must not depend on its neighbours.
    """
    levels = (np.clip(planes, -1.0, 1.0) + 1.0) * np.float32(127.5)
    return np.ascontiguousarray(np.moveaxis(np.rint(levels).astype(np.uint8), -3, -1))


def _unusable(path: Path, found: str, limit: str = "") -> EDTalkError:
    expected = f"{_EXPECTED} with {limit}" if limit else _EXPECTED
    return EDTalkError(f"{path} cannot be used: {expected}, {found}.", _CHOOSE, "media")


def _unrecognised(path: Path) -> EDTalkError:
    """The error for a file that Pillow does not recognise as one of `FORMATS`."""
    with path.open("rb") as file:
        start = file.read(12)
    if is_heif(start):
        return EDTalkError(f"{path} cannot be used: {_EXPECTED}, found a HEIC photograph.", _EXPORT, "media")
    for name, marks in _OTHER_FORMATS.items():
        if start.startswith(marks):
            return EDTalkError(f"{path} cannot be used: {_EXPECTED}, found {name}.", _CONVERT, "media")
    return _unusable(path, f"found {content_of(path)}")


def _to_picture(path: Path, image: Image.Image) -> Picture:
    if image.mode.startswith("I;16"):  # 65535 = 257 * 255; Pillow's conversion would clip at 255
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return Picture(np.repeat(grey[..., None], 3, axis=2))
    if image.mode in ("I", "F"):
        message = f"{path} cannot be used: {_EXPECTED} with 8 or 16 bits a channel, found 32-bit pixels."
        raise EDTalkError(message, _CONVERT, "media")
    if "transparency" in image.info or "A" in image.getbands() or image.mode in ("La", "RGBa"):
        rgba = np.asarray(image.convert("RGBA"))
        return Picture(np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3]))
    return Picture(np.array(image.convert("RGB")))


def _exr(pixels: np.ndarray) -> bytes:
    """The content of an OpenEXR file: half float, zip compression, linear colours, premultiplied alpha."""
    import av  # FFmpeg has an encoder; Pillow and current OpenCV wheels have none

    colour = _linear(pixels[..., :3])
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        colour = np.concatenate([colour * alpha, alpha], axis=2)
    layout = "gbrpf32le" if colour.shape[2] == 3 else "gbrapf32le"
    encoder = av.CodecContext.create("exr", "w")
    encoder.height, encoder.width = colour.shape[:2]
    encoder.pix_fmt, encoder.framerate = layout, Fraction(1)
    encoder.options = {"format": "half", "compression": "zip16"}
    packets = encoder.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(colour), format=layout))
    return b"".join(bytes(packet) for packet in [*packets, *encoder.encode(None)])


def _png(pixels: np.ndarray) -> bytes:
    """The content of a PNG file. OpenCV takes half of Pillow's time, and other threads work meanwhile.

    Run lengths of filtered lines suit rendered faces: deflate at level 3 takes longer for files that are 13 % larger.
    """
    import cv2  # imported late: most callers only read pictures

    swapped = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    done, content = cv2.imencode(".png", swapped, options)
    assert done, "every array of this type and shape can be encoded"
    return bytes(content)


def _linear(levels: np.ndarray) -> np.ndarray:
    """Convert sRGB uint8 to linear float32 in [0, 1] (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    table = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return table.astype(np.float32)[levels]


def _normalise(levels: np.ndarray) -> np.ndarray:
    """Convert uint8 to float32 in [-1, 1]."""
    return (levels.astype(np.float32) / 255 - np.float32(0.5)) * 2
