"""What the face strips show and how large the rendered frames are, counted in steps of a timer, for the panels.

Panels draw the latest survey. It is made anew after strips, undo steps or the folders of frames have changed. The timer
reads the strips, some frames at a time; a thread reads the folders.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import bpy

from ...inference.contract.answers import Progress
from .. import compat
from ..character import character
from ..engine import session, work
from ..engine.work import Steps
from ..folders import FRAMES, character_folder
from ..timeline import sequencer
from . import cache_limit, face_strip, render
from .cache_limit import Use

_DELAY = 0.3  # seconds without a change before it is made
_LOOK_AGAIN = 1.0  # seconds between two looks at the folders' times
_READ = 2000  # frames of a strip that are read at once


@dataclass(frozen=True)
class Frames:
    """Numbers of frames of a face strip: all, not rendered yet, and rendered but not in the folder any more."""

    total: int = 0
    waiting: int = 0
    missing: int = 0


@dataclass(frozen=True)
class Survey:
    """strips: by identity. uses: by folder of a character's frames, see `cache_limit.use`."""

    strips: Mapping[str, Frames] = field(default_factory=dict)
    uses: Mapping[Path, Use] = field(default_factory=dict)


@dataclass
class _State:
    """latest: None before the first survey. looked: time of the last look at folders. times: of their changes."""

    latest: Survey | None = None
    looked: float = 0.0
    times: Mapping[Path, int] = field(default_factory=dict)


_state = _State()


def latest() -> Survey | None:
    """The latest survey; None until the first one is made. In background mode it is made at once.

    Panels call it, so it notices changed folders.
    """
    if session.blocking():
        return work.complete(steps())
    if time.monotonic() - _state.looked > _LOOK_AGAIN and not _timer.is_waiting:
        _state.looked = time.monotonic()
        if _state.latest is None or _times(_state.times) != _state.times or _folders() - _state.times.keys():
            schedule()
    return _state.latest


def folder(obj: bpy.types.Object) -> Path:
    """The folder of a character's frames."""
    return character_folder(obj) / FRAMES


def schedule() -> None:
    """Make a survey soon, because something has changed. Does nothing in background mode."""
    _timer.schedule()


def forget() -> None:
    """Show no numbers of the previous file."""
    _state.latest = None


def steps() -> Steps[Survey]:
    """Make a survey; the strips may change between the steps, which `schedule` notices."""
    strips = [
        (scene.name, strip.name) for scene in bpy.data.scenes for strip in compat.strips(scene) if strip.type == "IMAGE"
    ]
    own = _folders()
    folders = own | {one for one in (_folder_of(*names) for names in strips) if one}
    times = _times(folders)
    sizes = yield from work.in_thread(lambda: {one: cache_limit.sizes(one) for one in folders})
    shown: set[str] = set()
    counted: dict[str, Frames] = {}
    for names in strips:
        found = yield from _count(*names, sizes, shown)
        counted |= found
    uses = yield from work.in_thread(lambda: {one: cache_limit.use(sizes[one], shown) for one in own})
    _state.latest, _state.times = Survey(counted, uses), times
    return _state.latest


def _count(
    scene_name: str, name: str, sizes: Mapping[Path, Mapping[str, int]], shown: set[str]
) -> Steps[dict[str, Frames]]:
    """Count the frames of a face strip, in steps: {its identity: the counts}, {} for another image strip.

    The file names of its pictures are added to `shown`.
    """
    total = waiting = missing = 0
    while (strip := _find(scene_name, name)) is not None:
        files = [element.filename for element in strip.elements[total : total + _READ]]
        pictures = [file for file in files if face_strip.PICTURE.fullmatch(file)]
        there = sizes.get(face_strip.folder_of(strip), {})
        total, waiting = total + len(files), waiting + len(files) - len(pictures)
        missing += sum(file not in there for file in pictures)
        shown.update(pictures)
        if total >= len(strip.elements):
            identity = strip.get(sequencer.ID) if sequencer.is_face(strip) else ""
            return {identity: Frames(total, waiting, missing)} if identity else {}
        yield Progress("counting", total)
    return {}


def _find(scene_name: str, name: str) -> bpy.types.ImageStrip | None:
    scene = bpy.data.scenes.get(scene_name)
    strip = scene.sequence_editor.strips_all.get(name) if scene and scene.sequence_editor else None
    return strip if strip is not None and strip.type == "IMAGE" else None


def _folder_of(scene_name: str, name: str) -> Path | None:
    strip = _find(scene_name, name)
    return face_strip.folder_of(strip) if strip is not None and sequencer.is_face(strip) else None


def _folders() -> set[Path]:
    """The folders of the frames of all characters."""
    return {folder(obj) for obj in bpy.data.objects if character.is_character(obj)}


def _times(folders: Collection[Path]) -> dict[Path, int]:
    """When files were last added to folders or removed; 0 for those that are not there."""
    found = {}
    for one in folders:
        try:
            found[one] = os.stat(one).st_mtime_ns
        except OSError:
            found[one] = 0
    return found


def _make() -> Steps[Survey]:
    survey = yield from steps()
    session.redraw(("SEQUENCE_EDITOR", "PREFERENCES"))
    return survey


_timer = work.Idle(_make, _DELAY, lambda: render.is_rendering())


def unregister() -> None:
    _timer.stop()
    forget()
