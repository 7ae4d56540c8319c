"""Contact sheets of trainings as icons: large pictures that panels draw and no .blend stores.

A panel draws an icon into a square, so a wide sheet is divided into icons that are drawn side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import bpy
import bpy.utils.previews
import numpy as np

from .jobs import Job

_previews: bpy.utils.previews.ImagePreviewCollection | None = None
_read_at: dict[Path, int] = {}  # time of the file that the icons were made from, in ns
_parts: dict[Path, int] = {}  # number of icons


def icons(path: Path) -> list[int]:
    """Icons of a contact sheet from left to right; [] if `update` has not read it."""
    if _previews is None:
        return []
    return [_previews[_name(path, part)].icon_id for part in range(_parts.get(path, 0))]


def _name(path: Path, part: int) -> str:
    return f"{path} {part}"


def update(jobs: Iterable[Job]) -> None:
    """Read the contact sheets that have changed."""
    if _previews is None:
        return
    for job in jobs:
        if job.sheet is None:
            continue
        try:
            changed = job.sheet.stat().st_mtime_ns
        except OSError:
            continue
        if _read_at.get(job.sheet) != changed:
            _read_at[job.sheet] = changed
            _read(job.sheet, _previews)


def _read(path: Path, previews: bpy.utils.previews.ImagePreviewCollection) -> None:
    """Make icons of the whole picture; `previews.load` would reduce it to 256 pixels."""
    try:
        image = bpy.data.images.load(str(path), check_existing=False)
    except RuntimeError:
        return
    try:
        width, height = image.size
        if not width or not height:
            return
        pixels = np.empty((height, width, image.channels), np.float32)
        image.pixels.foreach_get(pixels.reshape(-1))
        _parts[path] = max(1, round(width / height))
        for part, piece in enumerate(np.array_split(pixels, _parts[path], axis=1)):
            name = _name(path, part)
            preview = previews[name] if name in previews else previews.new(name)
            preview.image_size = piece.shape[1::-1]
            preview.image_pixels_float.foreach_set(piece.flatten())
    finally:
        bpy.data.images.remove(image)


def register() -> None:
    global _previews
    _previews = bpy.utils.previews.new()


def unregister() -> None:
    global _previews
    if _previews is not None:
        bpy.utils.previews.remove(_previews)
    _previews = None
    _read_at.clear()
    _parts.clear()
