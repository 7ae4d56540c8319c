"""The files of a character: its bank, its portrait and the crop of the portrait."""

from __future__ import annotations

import hashlib
import math
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path

import bpy

from ...inference.contract.bank import STARTER, Bank, read_bank
from ...inference.contract.content import content_of
from ...inference.contract.errors import EDTalkError
from ...inference.contract.files import check_file
from . import eight_bit, exif
from .crop_square import Square

_EXPECTED = "expected an image of a face, such as a PNG or JPEG"


def bank_path(obj: bpy.types.Object) -> Path:
    """The character's bank file, absolute; it may be missing."""
    return resolve(obj.edtalk.bank, obj) if obj.edtalk.bank else STARTER


def bank_of(obj: bpy.types.Object) -> Bank:
    """The metadata of the character's bank, cached until the file changes. Raises EDTalkError if missing."""
    return load_bank_file(bank_path(obj))


def load_bank_file(path: Path) -> Bank:
    """The metadata of a bank; read again only if the file has changed. Raises EDTalkError of kind "bank"."""
    try:
        state = path.stat()
    except OSError:
        return read_bank(path)  # raises EDTalkError with the reason
    return _read_bank(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=32)
def _read_bank(path: Path, _changed: int, _size: int) -> Bank:
    return read_bank(path)


def resolve(path: str, obj: bpy.types.Object | None = None) -> Path:
    """An absolute path; `//` is the folder of the .blend, or of the library that a linked object comes from."""
    path = without_backslashes(path)
    here = Path(bpy.path.abspath(path))
    library = _library(obj) if obj else None
    if library is not None and path.startswith("//") and not here.exists():
        return Path(bpy.path.abspath(path, library=library))
    return here


def without_backslashes(path: str) -> str:
    """A path relative to the .blend with slashes, also if it was chosen in Windows. Other paths are unchanged."""
    return path.replace("\\", "/") if path.startswith("//") else path


def _library(obj: bpy.types.Object) -> bpy.types.Library | None:
    if obj.override_library is not None and obj.override_library.reference is not None:
        return obj.override_library.reference.library
    return obj.library


def check_picture(path: str) -> None:
    """Raise EDTalkError(kind="media") if Blender cannot read a file as an image. Creates no data-block."""
    file = resolve(path)
    check_file(file, _EXPECTED)
    image = bpy.data.images.load(path)
    try:
        if not all(image.size):
            message = f"{file} is not a readable image: {_EXPECTED}, found {content_of(file)}."
            raise EDTalkError(message, "Choose another file.", "media")
    finally:
        bpy.data.images.remove(image)


def load_picture(path: str) -> bpy.types.Image:
    """The image data-block of a file. A missing file gets one too, so that its path can be shown and corrected."""
    try:
        return bpy.data.images.load(path, check_existing=True)
    except RuntimeError:
        image = bpy.data.images.new(Path(path).name, 1, 1)
        image.source = "FILE"
        image.filepath = path
        return image


def portrait_size(obj: bpy.types.Object) -> tuple[int, int]:
    """Width and height of the portrait after EXIF rotation, as the engine sees it. Raises EDTalkError if missing."""
    width, height = obj.edtalk.portrait_image.size
    on_its_side = exif.is_on_its_side(exif.orientation(portrait_path(obj)))
    return (height, width) if on_its_side else (width, height)


def portrait_path(obj: bpy.types.Object) -> Path:
    """The portrait's file, absolute. A packed portrait is written to a temporary file for the worker.

    So is an 8-bit copy of one whose format the engine does not read.

    Raises EDTalkError if no portrait is set or the file is missing.
    """
    image = obj.edtalk.portrait_image
    if image is None:
        raise EDTalkError(f"{obj.name} has no portrait yet.", "Choose a portrait.")
    path = _file_of(obj, image)
    return eight_bit.copy(image, path) if eight_bit.is_needed(path) else path


def _file_of(obj: bpy.types.Object, image: bpy.types.Image) -> Path:
    if image.packed_file is not None:
        return _unpacked(image)
    path = Path(image.filepath_from_user())
    if not image.filepath:
        raise EDTalkError(f"The portrait '{image.name}' of {obj.name} has not been saved.", "Save or pack the image.")
    if not path.is_file():
        raise EDTalkError(f"The portrait of {obj.name} does not exist: {path}.", "Choose the portrait again.")
    return path


def _unpacked(image: bpy.types.Image) -> Path:
    data = image.packed_file.data
    suffix = Path(image.filepath).suffix or ".png"
    path = Path(bpy.app.tempdir) / f"edtalk_{hashlib.sha256(data).hexdigest()[:20]}{suffix}"
    if not path.is_file():
        path.write_bytes(data)
    return path


def crop_of(obj: bpy.types.Object) -> str | tuple[float, ...]:
    """ "auto", "none", or left, top and side of the face's square in pixels of the portrait, and its angle if not 0.

    The angle is clockwise in degrees. Raises EDTalkError for a manual square without a size.
    """
    if obj.edtalk.crop_mode != "box":
        return obj.edtalk.crop_mode
    square = manual_square(obj)
    if square.side <= 0:
        raise EDTalkError(f"The square of {obj.name} has no size.", "Set its size, or use Edit Crop.", "face")
    return astuple(square) if square.angle else astuple(square)[:3]


def manual_square(obj: bpy.types.Object) -> Square:
    """The square that is used if the crop is manual; its side is 0 before it is set."""
    x, y, side = obj.edtalk.crop
    return Square(x, y, side, round(math.degrees(obj.edtalk.crop_angle), 4))


def first_square(obj: bpy.types.Object) -> Square:
    """The square from which cropping by hand starts: the detected one, else the largest in the middle.

    Raises EDTalkError if the portrait is missing.
    """
    portrait_path(obj)
    found = Square(*obj.edtalk.found_crop)
    return found if found.side > 0 else Square.largest(*portrait_size(obj))


def set_crop(obj: bpy.types.Object, square: Square) -> None:
    """Set the manual square, rounded to tenths of a pixel and of a degree."""
    obj.edtalk.crop = [round(value, 1) for value in (square.x, square.y, square.side)]
    obj.edtalk.crop_angle = math.radians(round(square.angle, 1))


def crop_problem(obj: bpy.types.Object) -> str:
    """The reason why a manual crop cannot be used, as a sentence; empty if it can, or if the portrait is missing."""
    if obj.edtalk.crop_mode != "box":
        return ""
    square = manual_square(obj)
    if square.side <= 0:
        return "Size must be greater than 0 pixels."
    try:
        width, height = portrait_size(obj)
    except EDTalkError:
        return ""
    if square.x < width and square.y < height and square.x + square.side > 0 and square.y + square.side > 0:
        return ""
    return f"The square lies outside the portrait, which is {width} x {height} pixels."


def unregister() -> None:
    _read_bank.cache_clear()
