"""Where a character's shots, frames and tracks are kept: beside the .blend, or in the folder of the preferences."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import bpy

from .engine import session

FRAMES, SHOTS, TRACKS, SEQUENCES = "frames", "shots", "tracks", "sequences"  # folders within a character's own


def character_folder(obj: bpy.types.Object) -> Path:
    """The folder of a character's shots and frames: beside the .blend, or temporary while that has not been saved."""
    name = bpy.path.clean_name(obj.name)
    if cache := session.preferred().cache:
        place = hashlib.sha256(bpy.data.filepath.encode()).hexdigest()[:8]
        return Path(bpy.path.abspath(cache)) / f"{blend_name()}_{place}" / name
    if not bpy.data.filepath:
        return temporary_folder(obj)
    return Path(bpy.data.filepath).parent / f"{blend_name()}_edtalk" / name


def temporary_folder(obj: bpy.types.Object) -> Path:
    """Where a character's files are until the .blend is saved for the first time."""
    return Path(bpy.app.tempdir) / "edtalk" / bpy.path.clean_name(obj.name)


def is_own(path: Path) -> bool:
    """Whether a path lies where files of this .blend are kept, and may be read without the artist asking for it.

    That is the folder of the .blend, the one of the preferences and the temporary one.
    """
    places = [bpy.app.tempdir, os.path.dirname(bpy.data.filepath), bpy.path.abspath(session.preferred().cache)]
    path = Path(os.path.abspath(path))
    return any(path.is_relative_to(os.path.abspath(place)) for place in places if place)


def blend_name() -> str:
    return Path(bpy.data.filepath).stem or "unsaved"


def is_temporary() -> bool:
    """Whether frames will be gone when Blender is closed."""
    return not bpy.data.filepath and not session.preferred().cache


def as_directory(folder: Path) -> str:
    """How a strip names a folder: from the .blend where it can, so that both may move together."""
    if bpy.data.filepath:
        with suppress(ValueError):  # on another drive
            return bpy.path.relpath(str(folder)) + "/"
    return f"{folder}/"
