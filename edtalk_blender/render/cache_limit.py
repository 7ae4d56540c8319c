"""Keeps the rendered frames below the size in the preferences, by deleting those that were unused for longest.

A thread measures the folders, at most once an hour after a render, and deletes, some files at a time. Before that,
Blender's main thread looks, one strip after the other, which of these files the strips show by now.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy

from ...inference.contract.answers import Progress
from .. import compat
from ..character import character
from ..engine import session, work
from ..engine.work import Steps
from ..folders import FRAMES, character_folder
from . import face_strip

_INTERVAL = 3600.0  # seconds between two measurements
_KEPT = 7 * 86400.0  # seconds; frames that were used later are never deleted: an undo or another .blend may show them
_AT_ONCE, _READ = 200, 2000  # files that are deleted, and names that are read, in one step
_NEXT, _LOOK, _WAIT = (
    0.02,
    0.1,
    1.0,
)  # seconds until the next step, the next look at the thread, and while Blender works


@dataclass
class _State:
    """measured: when the folders were last measured (`time.monotonic`), None if never."""

    measured: float | None = None


_state = _State()


def shown_names() -> set[str]:
    """Names of the files of all image strips of the open .blend.

    They depend on the content, and the folders may be written in two ways.
    """
    return {element.filename for strip in image_strips() for element in strip.elements}


def image_strips() -> list[bpy.types.ImageStrip]:
    """All image strips of the open .blend."""
    return [strip for scene in bpy.data.scenes for strip in compat.strips(scene) if strip.type == "IMAGE"]


def enforce() -> None:
    """Start to delete what exceeds the limit. Does nothing in background mode and within an hour of the last time."""
    limit, now = session.preferred().cache_limit, time.monotonic()
    recent = _state.measured is not None and now - _state.measured < _INTERVAL
    if limit <= 0 or recent or session.blocking():
        return
    _state.measured = now
    purge = Purge(folders(), round(limit * 1e9))
    bpy.app.timers.register(purge.step, first_interval=1.0, persistent=True)


def folders() -> list[Path]:
    """The frames folders that the limit is for: all in the preferences' folder, else those of the open .blend."""
    if cache := session.preferred().cache:
        return list(Path(bpy.path.abspath(cache)).glob(f"*/*/{FRAMES}"))
    return [character_folder(obj) / FRAMES for obj in bpy.data.objects if character.is_character(obj)]


# --- Disk use


@dataclass(frozen=True)
class Use:
    """Size of rendered frames: number and bytes of all, and bytes of those that no strip shows."""

    frames: int = 0
    size: int = 0
    unused: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(self.frames + other.frames, self.size + other.size, self.unused + other.unused)

    def __str__(self) -> str:
        unused = f", {_megabytes(self.unused)} unused" if self.unused else ""
        return f"{_megabytes(self.size)} in {self.frames} frames{unused}"


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


_sizes: dict[Path, tuple[int, dict[str, int]]] = {}  # by folder: its modification time, and the size of each frame


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each frame in a folder by name, read again only if it has changed; empty if it cannot be read."""
    try:
        changed = folder.stat().st_mtime_ns
        before, cached = _sizes.get(folder, (0, {}))
        if changed != before:
            names = face_strip.pictures_in(folder)
            cached = {name: cached.get(name) or os.path.getsize(folder / name) for name in names}
            _sizes[folder] = changed, cached
        return cached
    except OSError:
        return {}


def use(sizes: Mapping[str, int], shown: Collection[str]) -> Use:
    """The use of frames with these sizes. shown: names of the frames in use."""
    return Use(len(sizes), sum(sizes.values()), sum(size for name, size in sizes.items() if name not in shown))


# --- The limit


class Purge:
    """Reads which frames are shown, measures the folders in a thread, then deletes surplus frames; in steps."""

    def __init__(self, folders: Iterable[Path], limit: int) -> None:
        """limit: bytes."""
        self._folders, self._limit = list(folders), limit
        self._steps = self._run()

    def step(self) -> float | None:
        """Timer: do one step. Returns the seconds until the next one, None at the end."""
        if not session.may_apply() or session.tasks:
            return _WAIT
        for progress in self._steps:
            return _LOOK if progress is None else _NEXT
        return None

    def _run(self) -> Steps[None]:
        shown_paths: list[str] = []
        for strip in [(strip.id_data.name, strip.name) for strip in image_strips()]:
            yield from _read_paths(*strip, shown_paths)
        surplus_paths = yield from work.in_thread(lambda: self._measure(shown_paths))
        for start in range(0, len(surplus_paths), _AT_ONCE):
            batch = surplus_paths[start : start + _AT_ONCE]
            kept = yield from _shown_among({os.path.basename(path) for path in batch})
            unused = [path for path in batch if os.path.basename(path) not in kept]
            yield from work.in_thread(lambda: _delete(unused))  # noqa: B023
            yield Progress("deleting", start, len(surplus_paths))

    def _measure(self, shown_paths: Iterable[str]) -> list[str]:
        """Paths of the surplus frames. Uses no bpy. shown_paths: paths of the frames in use.

        They are strings, because Python's garbage collection visits each object of another type.
        """
        for path in shown_paths:  # another Blender that shares the folder sees that they are in use
            with suppress(OSError):
                os.utime(path)
        return [os.fspath(path) for path in surplus(self._folders, self._limit, time.time() - _KEPT)]


def _shown_among(names: Collection[str]) -> Steps[set[str]]:
    """The names that are files of image strips, looked up strip by strip, again if one has changed meanwhile."""
    while True:
        before, result = _contents(), set[str]()
        for number, (scene_name, name, *_) in enumerate(before, 1):
            scene = bpy.data.scenes.get(scene_name)
            strip = scene.sequence_editor.strips_all.get(name) if scene and scene.sequence_editor else None
            if strip is not None and strip.type == "IMAGE":
                result |= compat.files_among(strip, names)
            if number < len(before):
                yield Progress("looking", number, len(before))
        if _contents() == before:
            return result


def _contents() -> list[tuple[Any, ...]]:
    """Scene and name of each image strip, and what changes with its files."""
    return [
        (one.id_data.name, one.name, one.directory, one.get(face_strip.RENDERED), _place(one)) for one in image_strips()
    ]


def _place(strip: bpy.types.ImageStrip) -> tuple[int, int]:
    """Number of a strip's files and where they are in memory; other ones are elsewhere."""
    count = len(strip.elements)
    return count, strip.elements[0].as_pointer() if count else 0


def _delete(paths: Iterable[str]) -> None:
    for path in paths:
        with suppress(OSError):  # another Blender has deleted it
            os.unlink(path)


def _read_paths(scene_name: str, name: str, paths: list[str]) -> Steps[None]:
    """Add the paths of an image strip's files to a list."""
    done = 0
    while scene := bpy.data.scenes.get(scene_name):
        strip = scene.sequence_editor.strips_all.get(name) if scene.sequence_editor else None
        if strip is None or strip.type != "IMAGE" or done >= len(strip.elements):
            return
        folder = os.fspath(face_strip.folder_of(strip))
        paths += [os.path.join(folder, one.filename) for one in strip.elements[done : done + _READ]]
        done += _READ
        yield Progress("reading", done)


def surplus(folders: Iterable[Path], limit: int, used_before: float) -> Iterator[Path]:
    """The frames to delete so that the folders hold at most `limit` bytes, those unused for longest first.

    used_before: seconds since 1970; frames that were used later are kept, and so are those with further hard links,
    because deleting them frees no space. If all are kept the folders may exceed the limit.
    """
    total, unused = 0, []
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if face_strip.PICTURE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    status = os.stat(entry.path)  # that of `entry` lacks the number of links on Windows
                    total += status.st_size
                    if status.st_mtime < used_before and status.st_nlink == 1:
                        unused.append((status.st_mtime, status.st_size, entry.path))
    for _used, size, path in sorted(unused):
        if total <= limit:
            return
        total -= size
        yield Path(path)
