"""Keeps the rendered frames below the size in the preferences, by deleting those that were unused for longest.

A thread measures the folders, at most once an hour after a render. Blender's main thread deletes, a few files at a
time, because only there it is known which frames the strips show at that moment.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import bpy

from .. import compat
from ..character import character
from ..engine import session
from ..folders import FRAMES, character_folder
from . import face_strip

_INTERVAL = 3600.0  # seconds between two measurements
_KEPT = 7 * 86400.0  # seconds; frames that were used later are never deleted: an undo or another .blend may show them
_AT_ONCE = 100  # files that are deleted in one step of the timer


@dataclass
class _State:
    """measured: when the folders were last measured (`time.monotonic`), None if never."""

    measured: float | None = None


_state = _State()


def shown_pictures() -> set[str]:
    """The files of all image strips of the open .blend."""
    shown = set()
    for strip in _image_strips():
        folder = os.fspath(face_strip.folder_of(strip))  # once: a strip may have 100,000 elements
        shown |= {os.path.join(folder, element.filename) for element in strip.elements}
    return shown


def shown_names() -> set[str]:
    """The same without their folders. Names depend on the content, and folders may be written in two ways."""
    return {element.filename for strip in _image_strips() for element in strip.elements}


def _image_strips() -> list[bpy.types.ImageStrip]:
    return [strip for scene in bpy.data.scenes for strip in compat.strips(scene) if strip.type == "IMAGE"]


def enforce() -> None:
    """Start to delete what exceeds the limit. Does nothing in background mode and within an hour of the last time."""
    limit, now = session.preferred().cache_limit, time.monotonic()
    recent = _state.measured is not None and now - _state.measured < _INTERVAL
    if limit <= 0 or recent or session.blocking():
        return
    _state.measured = now
    purge = Purge(folders(), shown_pictures(), round(limit * 1e9))
    purge.start()
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


def use(folder: Path, shown: Collection[str]) -> Use:
    """The frames in a folder, read again only if it has changed. shown: names of the frames in use."""
    try:
        changed = folder.stat().st_mtime_ns
        before, sizes = _sizes.get(folder, (0, {}))
        if changed != before:
            names = face_strip.pictures_in(folder)
            sizes = {name: sizes.get(name) or os.path.getsize(folder / name) for name in names}
            _sizes[folder] = changed, sizes
    except OSError:
        return Use()
    return Use(len(sizes), sum(sizes.values()), sum(size for name, size in sizes.items() if name not in shown))


def use_of(objects: Iterable[bpy.types.Object]) -> list[Use]:
    """The rendered frames of each of some characters."""
    shown = shown_names()
    return [use(character_folder(obj) / FRAMES, shown) for obj in objects]


def use_of_file() -> Use:
    """The rendered frames of all characters of the open .blend."""
    return sum(use_of(obj for obj in bpy.data.objects if character.is_character(obj)), Use())


# --- The limit


class Purge:
    """Measures folders in a thread, then deletes surplus frames in `step`, which a timer calls."""

    def __init__(self, folders: Iterable[Path], shown: Iterable[str], limit: int) -> None:
        """shown: frames in use. limit: bytes."""
        self.surplus: list[Path] = []
        self._folders, self._shown, self._limit = list(folders), list(shown), limit
        self._thread = threading.Thread(target=self._measure, name="edtalk frames", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def step(self) -> float | None:
        """Delete some frames. Returns the seconds until the next step, None at the end."""
        if self._thread.is_alive() or not session.may_apply():
            return 1.0
        batch, self.surplus = self.surplus[:_AT_ONCE], self.surplus[_AT_ONCE:]
        if not batch:
            return None
        names = shown_names()
        for path in batch:
            if path.name not in names:
                with suppress(OSError):  # another Blender has deleted it
                    path.unlink()
        return 0.1

    def _measure(self) -> None:
        for path in self._shown:  # another Blender that shares the folder sees that they are in use
            with suppress(OSError):
                os.utime(path)
        self.surplus = list(surplus(self._folders, self._limit, time.time() - _KEPT))


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
