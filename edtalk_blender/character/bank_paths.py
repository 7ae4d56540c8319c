"""Keeps relative bank paths valid when a .blend is saved elsewhere, or a character is appended or made local.

Blender remaps the paths of its own data, but not those of custom properties.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bpy
from bpy.app.handlers import persistent

from . import character, files

_saved: dict[str, str] = {}  # while a file is saved: bank paths before, by name of the character
_libraries: dict[str, str] = {}  # folder of the library of each linked character, by its uid


def remapped(path: str, old: str, new: str) -> str:
    """A path relative to the folder `old`, made relative to the folder `new`, or absolute if `new` is empty.

    Other paths are returned unchanged, and so are those of files that do not exist.
    """
    if not path.startswith("//") or not old or (new and os.path.abspath(old) == os.path.abspath(new)):
        return path
    file = Path(os.path.normpath(Path(old) / files.without_backslashes(path)[2:]))
    if not file.is_file():
        return path
    if not new:
        return str(file)
    try:
        return "//" + Path(os.path.relpath(file, new)).as_posix()
    except ValueError:  # on another drive
        return str(file)


def _own_characters() -> list[bpy.types.Object]:
    """Characters whose bank path is stored in this file."""
    return [
        obj
        for obj in bpy.data.objects
        if character.is_character(obj) and obj.library is None and obj.override_library is None
    ]


@persistent
def _before_saving(path: str, *_: object) -> None:
    _saved.clear()
    old, new = os.path.dirname(bpy.data.filepath), os.path.dirname(path)
    if not old or not new:
        return
    for obj in _own_characters():
        bank = remapped(obj.edtalk.bank, old, new)
        if bank != obj.edtalk.bank:
            _saved[obj.name], obj.edtalk.bank = obj.edtalk.bank, bank


@persistent
def _after_saving(path: str, *_: object) -> None:
    """Restore the paths after Save Copy or a failed save, when the opened file is still the old one."""
    if os.path.abspath(bpy.data.filepath) != os.path.abspath(path):
        for name, bank in _saved.items():
            if name in bpy.data.objects:
                bpy.data.objects[name].edtalk.bank = bank
    _saved.clear()


@persistent
def _after_appending(context: Any, *_: object) -> None:
    """context: a `BlendImportContext`."""
    here = os.path.dirname(bpy.data.filepath)
    for item in context.import_items:
        obj = item.id
        if not isinstance(obj, bpy.types.Object) or obj not in _own_characters() or item.source_library is None:
            continue
        library = os.path.dirname(bpy.path.abspath(item.source_library.filepath))
        obj.edtalk.bank = remapped(obj.edtalk.bank, library, here)


@persistent
def _after_update(_scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    """Remap the path of a character that was linked before: Blender reports no event when it is made local."""
    for update in depsgraph.updates:
        obj = update.id.original if isinstance(update.id, bpy.types.Object) else None
        if not character.is_character(obj) or not obj.edtalk.bank.startswith("//"):
            continue
        if obj.library is not None:
            _libraries[obj.edtalk.uid] = os.path.dirname(bpy.path.abspath(obj.library.filepath))
        elif obj.override_library is None and obj.edtalk.uid in _libraries and not files.bank_path(obj).is_file():
            here = os.path.dirname(bpy.data.filepath)
            obj.edtalk.bank = remapped(obj.edtalk.bank, _libraries[obj.edtalk.uid], here)


_HANDLERS = {
    "depsgraph_update_post": _after_update,
    "save_pre": _before_saving,
    "save_post": _after_saving,
    "save_post_fail": _after_saving,
    "blend_import_post": _after_appending,
}


def register() -> None:
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).append(handler)


def unregister() -> None:
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).remove(handler)
    _libraries.clear()
