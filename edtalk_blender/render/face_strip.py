"""The image strip that shows a rendered face."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ...inference.contract.answers import Progress
from ...inference.contract.shot import Shot
from .. import compat
from ..character.snapshot import CharacterSnapshot
from ..engine.work import Steps
from ..folders import as_directory
from ..plate import dubbing
from ..timeline import sequencer

SIZE = "edtalk_size"  # of a face strip: width and height of its pictures
RENDERED = "edtalk_rendered"  # of a face strip: version of the pictures that it shows or waits for, see `version`

OUTDATED = "edtalk_outdated"  # of a face strip: number of its frames that show an earlier animation, see `outdated`
_OUTDATED_TAG = "COLOR_01"  # red

PICTURE = re.compile(r"[0-9a-f]{20}\.(png|exr)")  # names of rendered pictures, other than the placeholder's
PLACEHOLDER = re.compile(r"waiting_[0-9a-z]*_(plate|\d+)\.png")
# A strip takes both from its first file, which may be the placeholder, a PNG. OpenEXR alpha is premultiplied.
_COLOUR_SPACES, _ALPHA_MODES = {"png": "sRGB", "exr": "Linear Rec.709"}, {"png": "STRAIGHT", "exr": "PREMUL"}


_READ = 2000  # names that are read at once


@dataclass(frozen=True)
class Content:
    """The content of a face strip.

    version: see `version`. placeholder: file in the frames folder for frames that are not rendered yet. size: width
    and height of the pictures. rows: rows of the shot that are rendered now; at the others, a strip keeps the pictures
    that it has. names: by identity of a strip, "" for a new one, the file of each row (T,), see `names`.
    sounds: identities of the dialogue strips that it follows; a strip over a plate follows the plate alone.
    plate: identity of the movie strip that it lies over, or "". plate_differs: see `sequencer.APART`.
    """

    shot: Shot
    shot_folder: Path
    version: str
    placeholder: str
    size: tuple[int, int]
    rows: range
    names: Mapping[str, np.ndarray]
    sounds: tuple[str, ...] = ()
    plate: str = ""
    plate_differs: bool = False


# --- Finding and adding strips


def find(
    scene: bpy.types.Scene, obj: bpy.types.Object, plate: bpy.types.MovieStrip | None
) -> list[bpy.types.ImageStrip]:
    """The character's face strip over a plate, or over none, followed by the pieces that the artist cut off it.

    A piece has the same first frame of content as the strip that it was cut off.
    """
    over = sequencer.identity(plate) if plate else None
    strips = [strip for strip in sequencer.faces(scene, obj) if strip.get(sequencer.SHOT)]
    strips = [strip for strip in strips if strip.get(sequencer.PLATE) == over]
    if plate is None:
        main = next((strip for strip in strips if strip.get(sequencer.ID) == obj.edtalk.face_strip), None)
        strips.sort(key=lambda strip: strip != main)
    start = compat.content_start(strips[0]) if strips else 0
    return [strip for strip in strips if compat.content_start(strip) == start]


def add(
    scene: bpy.types.Scene,
    face: CharacterSnapshot,
    content: Content,
    strip_id: str,
    below: Sequence[bpy.types.Strip],
    plate: bpy.types.MovieStrip | None,
) -> bpy.types.ImageStrip:
    """A new face strip on a free channel above the strips `below`, placed as its plate or fitted into the frame."""
    sequencer.use_standard_view(scene)
    start, end = _range(content.shot)
    channel = sequencer.free_channel(scene, start, end, above=max(map(_outer_channel, below), default=0))
    placeholder = content.shot.frames_folder / content.placeholder
    strip = compat.new_image(scene, f"{face.name} face", placeholder, channel, start)
    strip[sequencer.ID], strip[sequencer.CHARACTER] = strip_id, face.uid
    strip[SIZE] = content.size
    strip.blend_type = "ALPHA_OVER"
    if plate is not None and face.is_full_frame:
        dubbing.copy_transform(strip, plate, content.size)
    else:
        strip.transform.scale_x = strip.transform.scale_y = fit(scene, content.size)
    return strip


def _range(shot: Shot) -> tuple[int, int]:
    return shot.first_frame, shot.first_frame + len(shot.coefficients)


def _outer_channel(strip: bpy.types.Strip) -> int:
    """The channel of a strip, or of the outermost metastrip around it."""
    while meta := strip.parent_meta():
        strip = meta
    return strip.channel


def fit(scene: bpy.types.Scene, size: tuple[int, int]) -> float:
    """The scale at which a picture just fits into the frame."""
    return min(scene.render.resolution_x / size[0], scene.render.resolution_y / size[1])


def size_of(strip: bpy.types.ImageStrip) -> tuple[int, int]:
    """Width and height of a face strip's pictures."""
    width, height = strip[SIZE]
    return width, height


# --- Filling strips


def fill(scene: bpy.types.Scene, strip: bpy.types.ImageStrip, content: Content) -> None:
    """Show a shot's pictures in a strip, with the placeholder for missing ones. The artist's trim is kept."""
    trim = _trim(strip)
    _set_files(strip, content)
    _place(scene, strip, content.shot, trim)
    _keep_size_in_frame(scene, strip, content.size)
    strip[sequencer.SHOT] = as_directory(content.shot_folder)
    strip[sequencer.SOUNDS] = " ".join(content.sounds)
    strip[RENDERED], strip[sequencer.LAYER] = content.version, content.shot.layer
    if content.plate:
        strip[sequencer.PLATE], strip[sequencer.APART] = content.plate, content.plate_differs
    if sequencer.STALE in strip:
        del strip[sequencer.STALE]
    if len(content.rows) == len(content.shot.coefficients):
        mark_outdated(strip, 0)
    sequencer.remember_time(strip, sequencer.time_map(scene, strip))
    compat.refresh(strip)


def mark_outdated(strip: bpy.types.ImageStrip, count: int) -> None:
    """Store how many frames of a strip are out of date, and colour it in the timeline unless it has a colour."""
    if count == strip.get(OUTDATED, 0):
        return
    if count:
        strip[OUTDATED] = count
        if strip.color_tag == "NONE":
            strip.color_tag = _OUTDATED_TAG
    else:
        del strip[OUTDATED]
        if strip.color_tag == _OUTDATED_TAG:
            strip.color_tag = "NONE"


def version(shot: Shot) -> str:
    """12 hexadecimal digits that identify the set of pictures of a shot."""
    return hashlib.sha256(" ".join(shot.file_names()).encode()).hexdigest()[:12]


def _keep_size_in_frame(scene: bpy.types.Scene, strip: bpy.types.ImageStrip, size: tuple[int, int]) -> None:
    """Scale a strip whose pictures change their size, so that they look as large as before."""
    before = tuple(strip.get(SIZE) or size)
    if before != size:
        change = fit(scene, size) / fit(scene, before)
        strip.transform.scale_x *= change
        strip.transform.scale_y *= change
    strip[SIZE] = size


def _set_files(strip: bpy.types.ImageStrip, content: Content) -> None:
    shot = content.shot
    compat.set_picture_size(strip, content.size)  # first, because the old pictures may be missing in the new folder
    strip.directory = as_directory(shot.frames_folder)
    with suppress(TypeError):  # a studio's own colour management may have other names
        strip.colorspace_settings.name = _COLOUR_SPACES[shot.image_format]
    strip.alpha_mode = _ALPHA_MODES[shot.image_format]
    compat.set_files(strip, content.names.get(sequencer.identity(strip), content.names[""]))
    compat.set_picture_size(strip, content.size)


@dataclass(frozen=True)
class Shown:
    """What a face strip shows: its first frame, and for each frame the file; size and layer of the pictures."""

    start: int
    names: tuple[str, ...]
    size: tuple[int, ...]
    layer: str


def names(
    shot: Shot, rows: range, missing: Collection[int], placeholder: str, size: tuple[int, int], before: Shown | None
) -> np.ndarray:
    """The file for each row of a shot: its picture, else the one that a strip shows there, else the placeholder.

    missing: see `Shot.missing`. placeholder, rows, size: see `Content`. Returns (T,) bytes.
    """
    wanted = list(shot.file_names())
    absent = {wanted[row] for row in missing}
    old: dict[int, str] = {}
    if before and before.size == size and before.layer == shot.layer:
        old = dict(enumerate(before.names, before.start - shot.first_frame))
    for row, name in enumerate(wanted) if absent else ():
        if name in absent:
            kept = "" if row in rows else old.get(row, "")
            is_kept = PICTURE.fullmatch(kept) and kept.endswith(shot.image_format)
            wanted[row] = kept if is_kept else placeholder
    return compat.file_names(wanted)


def _trim(strip: bpy.types.ImageStrip) -> tuple[int, int] | None:
    """The strip's handles where the artist trimmed it, else None."""
    start, length = compat.content_start(strip), len(strip.elements)
    handles = compat.left_handle(strip), compat.right_handle(strip)
    return handles if length > 1 and handles != (start, start + length) else None


def _place(scene: bpy.types.Scene, strip: bpy.types.ImageStrip, shot: Shot, trim: tuple[int, int] | None) -> None:
    """Move a strip to its shot's frames, trimmed as before, and to a free channel if another strip overlaps."""
    start, end = _range(shot)
    compat.set_strip_value(strip, "left_handle_offset", 0.0)
    compat.set_strip_value(strip, "right_handle_offset", 0.0)
    compat.set_strip_value(strip, "content_start", float(start))
    if trim and trim[0] < end and trim[1] > start:
        compat.set_strip_value(strip, "left_handle", max(trim[0], start))
        compat.set_strip_value(strip, "right_handle", min(trim[1], end))
    if sequencer.is_covered(scene, strip):
        left, right = compat.left_handle(strip), compat.right_handle(strip)
        strip.channel = sequencer.free_channel(scene, left, right, above=strip.channel)


# --- Updating strips


def folder_of(strip: bpy.types.ImageStrip) -> Path:
    """The folder of an image strip's files, absolute."""
    return Path(bpy.path.abspath(strip.directory))


def read_names(find: Callable[[], bpy.types.ImageStrip | None]) -> Steps[list[str] | None]:
    """The files of an image strip, read in steps; None if it is gone. find: gives the strip."""
    names: list[str] = []
    while (strip := find()) is not None:
        names += [one.filename for one in strip.elements[len(names) : len(names) + _READ]]
        if len(names) >= len(strip.elements):
            return names
        yield Progress("reading", len(names), len(strip.elements))
    return None


def waiting_frames(strip: bpy.types.ImageStrip) -> int:
    """Number of frames of a face strip that have not been rendered."""
    return sum(not PICTURE.fullmatch(element.filename) for element in strip.elements)


_listed: dict[str, tuple[int, frozenset[str]]] = {}  # by folder: its modification time, and the pictures in it


def missing_frames(strip: bpy.types.ImageStrip) -> int:
    """Number of frames of a face strip whose picture was rendered but is not in the strip's folder any more.

    The folder is read again only after it has changed, so panels may call this.
    """
    found = pictures_in(folder_of(strip))
    return sum(one.filename not in found for one in strip.elements if PICTURE.fullmatch(one.filename))


def pictures_in(folder: Path) -> frozenset[str]:
    """Names of the rendered pictures in a folder; empty if it cannot be read."""
    key = os.path.abspath(folder)
    try:
        changed = os.stat(key).st_mtime_ns
        if _listed.get(key, (0,))[0] != changed:
            _listed[key] = changed, frozenset(name for name in os.listdir(key) if PICTURE.fullmatch(name))
        return _listed[key][1]
    except OSError:
        _listed.pop(key, None)
        return frozenset()


def protect(scene: bpy.types.Scene) -> None:
    """Store the size of the pictures in a scene's face strips, without which Blender hangs where one is missing.

    It is called before a file is drawn, so it looks at the first and the last picture only. Files of earlier versions
    lack the size of all but the first. `protect_strip` looks at all pictures of a strip.
    """
    for strip in compat.strips(scene):
        if sequencer.is_face(strip) and not all(_has_size(strip, (*strip.elements[:1], *strip.elements[-1:]))):
            _store_size(strip)


def protect_strip(find: Callable[[], bpy.types.ImageStrip | None]) -> Steps[None]:
    """The same for one strip, whose pictures are looked at in steps. find: gives the strip, None if it is gone."""
    start = 0
    while (strip := find()) is not None and start < len(strip.elements):
        if not all(_has_size(strip, strip.elements[start : start + _READ])):
            _store_size(strip)
            return
        start += _READ
        yield Progress("reading", start, len(strip.elements))


def _has_size(strip: bpy.types.ImageStrip, elements: Iterable[bpy.types.StripElement]) -> Iterator[bool]:
    width, height = _stored_size(strip)
    return (one.orig_width == width and one.orig_height == height for one in elements)


def _store_size(strip: bpy.types.ImageStrip) -> None:
    compat.set_picture_size(strip, _stored_size(strip))


def _stored_size(strip: bpy.types.ImageStrip) -> tuple[int, int]:
    """Width and height of a face strip's pictures; a guess for a file that lacks them."""
    width, height = tuple(strip.get(SIZE) or ()) or (512, 512)
    return int(width), int(height)


def is_rendered_at(strip: bpy.types.ImageStrip, frame: int) -> bool:
    """Whether a face strip shows a rendered picture, not the placeholder, at a scene frame of its content."""
    index = frame - round(compat.content_start(strip))
    return 0 <= index < len(strip.elements) and bool(PICTURE.fullmatch(strip.elements[index].filename))
