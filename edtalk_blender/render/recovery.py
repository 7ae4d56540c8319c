"""Lets face strips show the pictures that exist, after an undo and on opening a file. Done in steps of a timer.

A thread reads folders and shots. Between two steps the strips may change, so each is looked up again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import bpy

from ...inference.contract.answers import Progress
from ...inference.contract.errors import EDTalkError
from ...inference.contract.shot import Shot
from .. import compat
from ..engine import session, work
from ..engine.work import Steps
from ..folders import FRAMES, SHOTS, as_directory, characters_folder, is_own
from ..plate import compositing
from ..timeline import sequencer
from . import face_strip

logger = logging.getLogger(__name__)

_DELAY = 0.1  # seconds without a further call of `schedule`
_WRITE = 500  # names that are written at once


def schedule() -> None:
    """Let all face strips show the pictures that exist: soon, and in background mode at once."""
    if session.blocking():
        work.complete(steps())
    else:
        _timer.schedule()


def steps() -> Steps[None]:
    """Let all face strips show the pictures that exist, and update the compositor to them."""
    strips = [
        (scene.name, strip.get(sequencer.ID, ""))
        for scene in bpy.data.scenes
        for strip in compat.strips(scene)
        if sequencer.is_face(strip)
    ]
    for scene_name, strip_id in strips:
        try:
            yield from _update(scene_name, strip_id)
        except Exception:  # a file with damaged data must still open
            logger.exception("A face strip of the scene '%s' could not be updated.", scene_name)
    for name in bpy.data.scenes.keys():  # noqa: SIM118  an undo between two steps replaces all scenes
        yield Progress("updating nodes")
        try:
            if scene := bpy.data.scenes.get(name):
                compositing.update(scene)
        except Exception:
            logger.exception("The compositor of the scene '%s' could not be updated.", name)


def _find(scene_name: str, strip_id: str) -> bpy.types.ImageStrip | None:
    scene = bpy.data.scenes.get(scene_name)
    return sequencer.find(scene, strip_id) if scene and strip_id else None


def _update(scene_name: str, strip_id: str) -> Steps[None]:
    find = partial(_find, scene_name, strip_id)
    yield from face_strip.protect_strip(find)
    names = yield from face_strip.read_names(find)
    if names is not None:
        yield from _find_pictures(scene_name, strip_id, names)
        yield from _show_rendered(scene_name, strip_id, names)


def _find_pictures(scene_name: str, strip_id: str, names: Sequence[str]) -> Steps[None]:
    """Point a face strip whose pictures are missing to this file's own folder, if more of them are there.

    This happens after an undo to a step before the file was saved elsewhere, and where a file was copied or renamed
    outside Blender together with its folder.
    """
    strip = _find(scene_name, strip_id)
    if strip is None:
        return
    old = face_strip.folder_of(strip)
    own = characters_folder(bpy.data.filepath) / old.parent.name / FRAMES
    if own == old:
        return

    def count() -> list[int]:
        picture_names = {name for name in names if face_strip.PICTURE.fullmatch(name)}
        return [len(picture_names & face_strip.pictures_in(folder)) for folder in (own, old)]

    count_own, count_old = yield from work.in_thread(count)
    strip = _find(scene_name, strip_id)
    if strip is None or count_own <= count_old or face_strip.folder_of(strip) != old:
        return
    shot = strip.get(sequencer.SHOT)
    strip.directory = as_directory(own)
    if isinstance(shot, str):
        strip[sequencer.SHOT] = as_directory(own.parent / SHOTS / Path(shot.rstrip("/\\")).name)
    compat.refresh(strip)


def _show_rendered(scene_name: str, strip_id: str, names: Sequence[str]) -> Steps[None]:
    """Show pictures in a face strip that were rendered meanwhile: after an undo, or after Blender was closed.

    Shots outside the folders of this .blend are not read, because the .blend may come from an untrusted source.
    """
    strip = _find(scene_name, strip_id)
    if strip is None or not strip.get(sequencer.SHOT):
        return
    shot_folder = Path(bpy.path.abspath(str(strip[sequencer.SHOT])))
    folder, version = face_strip.folder_of(strip), strip.get(face_strip.RENDERED)
    if not is_own(shot_folder):
        return
    rendered_pictures = yield from work.in_thread(lambda: _rendered(shot_folder, version, folder, names))
    items = list(rendered_pictures.items())
    for start in range(0, len(items), _WRITE):
        strip = _find(scene_name, strip_id)
        if strip is None or strip.get(face_strip.RENDERED) != version or len(strip.elements) != len(names):
            return
        for index, name in items[start : start + _WRITE]:
            if strip.elements[index].filename == names[index]:  # else a render has shown it
                strip.elements[index].filename = name
        compat.refresh(strip)
        yield Progress("showing pictures", start, len(items))


def _rendered(shot_folder: Path, version: str, folder: Path, names: Sequence[str]) -> Mapping[int, str]:
    """The pictures in a strip's folder that it waits for, by index; empty if its shot is missing or has been replaced.

    Uses no bpy. version: of the strip, see `face_strip.version`. names: files of the strip.
    """
    waiting = [index for index, name in enumerate(names) if not face_strip.PICTURE.fullmatch(name)]
    with suppress(EDTalkError):
        if not waiting:
            return {}
        shot = Shot.read(shot_folder)
        if face_strip.version(shot) == version and len(shot.coefficients) == len(names):
            file_names = shot.file_names()
            return {
                index: file_names[index] for index in waiting if os.path.isfile(os.path.join(folder, file_names[index]))
            }
    return {}


_timer = work.Idle(steps, _DELAY, lambda: False)


def unregister() -> None:
    _timer.stop()
