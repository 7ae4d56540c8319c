"""Contact sheets of trainings as icons: large pictures that panels draw and no .blend stores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import bpy
import bpy.utils.previews
import numpy as np

from .jobs import Job

_previews: bpy.utils.previews.ImagePreviewCollection | None = None
_shown: dict[Path, int] = {}  # time of the file that an icon was made from, in ns


def icon(path: Path) -> int:
    """Icon of a contact sheet; 0 if `update` has not read it."""
    return _previews[str(path)].icon_id if _previews is not None and str(path) in _previews else 0


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
        if _shown.get(job.sheet) != changed:
            _shown[job.sheet] = changed
            _read(job.sheet, _previews)


def _read(path: Path, previews: bpy.utils.previews.ImagePreviewCollection) -> None:
    """Make an icon of the whole picture; `previews.load` would reduce it to 256 pixels."""
    try:
        image = bpy.data.images.load(str(path), check_existing=False)
    except RuntimeError:
        return
    try:
        if not all(image.size):
            return
        pixels = np.empty(image.size[0] * image.size[1] * image.channels, np.float32)
        image.pixels.foreach_get(pixels)
        preview = previews[str(path)] if str(path) in previews else previews.new(str(path))
        preview.image_size = image.size[:]
        preview.image_pixels_float.foreach_set(pixels)
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
    _shown.clear()
