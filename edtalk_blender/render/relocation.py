"""Moves rendered frames along with their .blend, and finds the frames of a .blend that was moved without them.

Frames are stored beside the .blend, or in Blender's temporary folder until it is saved for the first time. Before a
.blend is written to another path, its frames, shots, tracks and compositor sequences are linked (or copied) into the
folder of that path, and the strips and images are pointed there, so that the written file is complete. The old files
are kept: the undo history and the previous .blend may show them. Blender deletes its temporary folder when it quits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import bpy
from bpy.app.handlers import persistent

from ...inference.contract.errors import EDTalkError, disk_error
from ...inference.contract.files import link_or_copy
from ...inference.contract.rendered import is_complete
from ...inference.contract.shot import Shot
from .. import compat
from ..engine import session
from ..folders import (
    FRAMES,
    SEQUENCES,
    SHOTS,
    TRACKS,
    as_directory,
    characters_folder,
    is_in_temporary_folder,
)
from ..plate import compositing
from ..timeline import sequencer
from . import face_strip


@dataclass
class _Saving:
    """What a save changes in the open file, to restore it after Save Copy or a failed save.

    folders: scene and identity of a face strip; its directory and shot as stored before; its absolute folder from now
    on. images: by name, the path before.
    """

    folders: dict[tuple[str, str], tuple[str, str | None, Path]] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)


_saving = _Saving()


# --- Saving


@persistent
def _before_saving(path: str, *_: object) -> None:
    """Bring the frames to where the file will be written. A failure is reported, and does not prevent the save."""
    global _saving
    _saving = _Saving()
    if not path:
        return  # the start-up file
    for scene, strip in _own_face_strips():
        directory, shot = strip.directory, strip.get(sequencer.SHOT)
        old = face_strip.folder_of(strip)
        new = characters_folder(path) / old.parent.name / FRAMES
        if old.name != FRAMES or os.path.abspath(old) == os.path.abspath(new):
            continue
        key = scene.name, sequencer.identity(strip)
        _saving.folders[key] = directory, shot if isinstance(shot, str) else None, old
        try:
            _bring_frames(strip, old, new)
            _saving.folders[key] = (*_saving.folders[key][:2], new)
            strip.directory = as_directory(new)  # relative to the old path: Blender remaps it
            _bring_tracks(old.parent, new.parent)
        except EDTalkError as error:
            _report(error, old)
        if isinstance(shot, str):  # Blender does not remap custom properties
            strip[sequencer.SHOT] = _relative(_bring_shot(Path(bpy.path.abspath(shot)), new), path)
    _bring_sequences(path)


@persistent
def _after_saving(path: str, *_: object) -> None:
    global _saving
    done, _saving = _saving, _Saving()
    is_open_file = os.path.abspath(bpy.data.filepath) == os.path.abspath(path)
    for scene, strip in _own_face_strips():
        key = scene.name, strip.get(sequencer.ID, "")
        if key not in done.folders:
            continue
        directory, shot, folder = done.folders[key]
        if not is_open_file:
            strip.directory = directory
            if shot is not None:
                strip[sequencer.SHOT] = shot
        elif os.path.abspath(face_strip.folder_of(strip)) != os.path.abspath(folder):
            strip.directory = as_directory(folder)  # saved without Remap Relative
    for name, stored in done.images.items() if not is_open_file else ():
        if name in bpy.data.images:
            bpy.data.images[name].filepath = stored


def _own_face_strips() -> list[tuple[bpy.types.Scene, bpy.types.ImageStrip]]:
    scenes = [scene for scene in bpy.data.scenes if scene.library is None]
    return [(scene, strip) for scene in scenes for strip in compat.strips(scene) if sequencer.is_face(strip)]


def _bring_frames(strip: bpy.types.ImageStrip, old: Path, new: Path) -> None:
    """Link the pictures of a strip into a new folder; from the temporary folder all, because an undo may show them."""
    names = {element.filename for element in strip.elements}
    if is_in_temporary_folder(old):
        names |= face_strip.pictures_in(old)
    own = {name for name in names if face_strip.PICTURE.fullmatch(name) or face_strip.PLACEHOLDER.fullmatch(name)}
    bring(old, new, own)


def bring(old: Path, new: Path, names: Iterable[str]) -> None:
    """Link or copy those of the named files that are in `old` and not complete in `new`. Raises EDTalkError.

    Each file appears in `new` when it is complete, so an interrupted move can be continued. `old` is not changed.
    """
    try:
        new.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(new, error) from error
    for name in names:
        source, target = old / name, new / name
        if os.path.isfile(source) and not is_complete(target):
            link_or_copy(source, target)


def _bring_tracks(old: Path, new: Path) -> None:
    """Link the tracks of a character's movies, which take minutes to make."""
    names = [path.name for path in (old / TRACKS).glob("*.*") if path.suffix in (".json", ".npy")]
    if names:
        bring(old / TRACKS, new / TRACKS, names)


def _bring_shot(old: Path, frames: Path) -> Path:
    """Write a shot beside its frames. Returns its folder, the old one if it cannot be read or written.

    A strip shows its frames without it.
    """
    new = frames.parent / SHOTS / old.name
    try:
        replace(Shot.read(old), frames_folder=frames).write(new, plate_by_name=True)
    except EDTalkError:
        return old
    return new


def _relative(folder: Path, blend: str) -> str:
    """A folder as stored in a strip: relative to the .blend, absolute if it is on another drive."""
    with suppress(ValueError):
        return "//" + Path(os.path.relpath(folder, os.path.dirname(blend))).as_posix() + "/"
    return f"{folder}/"


def _bring_sequences(path: str) -> None:
    """Link the compositor's numbered pictures, and point their images to the new folder."""
    for image in bpy.data.images:
        folder = Path(bpy.path.abspath(image.filepath)).parent
        if image.library is not None or not image.get(compositing.STRIP) or folder.parent.name != SEQUENCES:
            continue
        new = characters_folder(path) / folder.parent.parent.name / SEQUENCES / folder.name
        if os.path.abspath(new) == os.path.abspath(folder) or not folder.is_dir():
            continue
        try:
            bring(folder, new, [file.name for file in folder.iterdir()])
        except (EDTalkError, OSError) as error:
            session.report(error if isinstance(error, EDTalkError) else disk_error(new, error))
            continue
        _saving.images[image.name] = image.filepath
        image.filepath = as_directory(new) + Path(image.filepath).name


def _report(error: EDTalkError, old: Path) -> None:
    kept = f"The frames remain in {old}"
    kept += ", which Blender deletes when it quits." if is_in_temporary_folder(old) else "."
    session.report(
        EDTalkError(f"{error.message} {kept}", "Free space or choose another folder, then save again.", "disk")
    )


_HANDLERS = {
    "save_pre": _before_saving,
    "save_post": _after_saving,
    "save_post_fail": _after_saving,
}


def register() -> None:
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).append(handler)


def unregister() -> None:
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).remove(handler)
