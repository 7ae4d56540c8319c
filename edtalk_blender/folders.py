"""Folders of a character's shots, frames and tracks: next to the .blend, or in the folder set in the preferences."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import bpy

from .engine import session

_LONGEST_NAME = 63  # bytes; the longest name of an object before Blender 5.0

FRAMES, SHOTS, TRACKS, SEQUENCES = "frames", "shots", "tracks", "sequences"  # subfolders of a character's folder


def character_folder(obj: bpy.types.Object) -> Path:
    """Folder of a character: in the preferences' folder or next to the .blend; temporary for an unsaved .blend."""
    return characters_folder(bpy.data.filepath) / folder_name(obj)


def characters_folder(blend: str) -> Path:
    """The folder that holds the characters' folders of a .blend. blend: its absolute path, "" if it is unsaved."""
    if cache := session.preferred().cache:
        path_hash = hashlib.sha256(blend.encode()).hexdigest()[:8]
        return Path(bpy.path.abspath(cache)) / f"{Path(blend).stem or 'unsaved'}_{path_hash}"
    if not blend:
        return _temporary_folder()
    return Path(blend).parent / f"{Path(blend).stem}_edtalk"


def temporary_folder(obj: bpy.types.Object) -> Path:
    """Folder of a character until the .blend is saved for the first time."""
    return _temporary_folder() / folder_name(obj)


def _temporary_folder() -> Path:
    return Path(bpy.app.tempdir) / "edtalk"


def folder_name(obj: bpy.types.Object) -> str:
    """Name of a character's folders: its own, or a hash of it if that is long.

    Characters are named after their portraits. File systems allow 255 bytes for a name, Windows 259 letters for a path.
    """
    name = bpy.path.clean_name(obj.name)
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    return f"face_{hashlib.sha256(obj.name.encode()).hexdigest()[:16]}"


def is_own(path: Path) -> bool:
    """Whether a path may be read when a .blend opens, without asking the user.

    Allowed are the folder of the .blend, the folder set in the preferences and the temporary folder.
    """
    roots = [bpy.app.tempdir, os.path.dirname(bpy.data.filepath), bpy.path.abspath(session.preferred().cache)]
    path = Path(os.path.abspath(path))
    return any(path.is_relative_to(os.path.abspath(root)) for root in roots if root)


def blend_name() -> str:
    """Name of the .blend without suffix, "unsaved" if it has none."""
    return Path(bpy.data.filepath).stem or "unsaved"


def is_temporary() -> bool:
    """Whether frames are in the temporary folder, which Blender deletes when it quits."""
    return not bpy.data.filepath and not session.preferred().cache


def is_in_temporary_folder(folder: Path) -> bool:
    """Whether a folder is in the temporary folder, which Blender deletes when it quits."""
    return Path(os.path.abspath(folder)).is_relative_to(os.path.abspath(bpy.app.tempdir))


def as_directory(folder: Path) -> str:
    """Path of a folder for a strip: relative to the .blend if possible, so that both can be moved together."""
    if bpy.data.filepath:
        with suppress(ValueError):  # on another drive
            return bpy.path.relpath(str(folder)) + "/"
    return f"{folder}/"
