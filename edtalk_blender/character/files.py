"""The files of a character: its bank, its portrait and the crop of the portrait."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import bpy

from ...inference.contract.bank import STARTER, Bank, read_bank
from ...inference.contract.errors import EDTalkError
from . import exif


def bank_path(obj: bpy.types.Object) -> Path:
    """The character's bank file, absolute; it may be missing."""
    return resolve(obj.edtalk.bank, obj) if obj.edtalk.bank else STARTER


def bank_of(obj: bpy.types.Object) -> Bank:
    """The metadata of the character's bank, cached until the file changes. Raises EDTalkError if missing."""
    return load_bank_file(bank_path(obj))


def load_bank_file(path: Path) -> Bank:
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
    """Raise EDTalkError if Blender cannot read a file as an image. Creates no data-block."""
    file = resolve(path)
    if not file.is_file():
        raise EDTalkError(f"{file} does not exist.", "Choose an image of a face.")
    image = bpy.data.images.load(path)
    try:
        if not all(image.size):
            raise EDTalkError(f"{file} is not a readable image.", "Choose a PNG or JPEG of a face.")
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

    Raises EDTalkError if no portrait is set or the file is missing.
    """
    image = obj.edtalk.portrait_image
    if image is None:
        raise EDTalkError(f"{obj.name} has no portrait yet.", "Choose a portrait.")
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


def crop_of(obj: bpy.types.Object) -> str | tuple[float, float, float]:
    """ "auto", "none", or left, top and side of the face's square in pixels of the portrait."""
    group = obj.edtalk
    return tuple(group.crop) if group.crop_mode == "box" else group.crop_mode


def unregister() -> None:
    _read_bank.cache_clear()
