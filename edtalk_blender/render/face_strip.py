"""The image strip that shows a rendered face."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

import bpy
import numpy as np

from ...inference.contract.errors import EDTalkError, disk_error
from ...inference.contract.shot import Shot
from .. import compat
from ..character import character
from ..folders import as_directory, is_own
from ..plate import dubbing
from ..plate.compositing import WHOLE
from ..timeline import sequencer
from .face_shot import SIZE, Plan

RENDERED = "edtalk_rendered"  # of a face strip: what its pictures were made from, in short

PICTURE = re.compile(r"[0-9a-f]{20}\.(png|exr)")
# What a strip takes from its first file, which is a PNG. OpenEXR's alpha is multiplied in, as its standard has it.
_COLOUR_SPACES, _ALPHA_MODES = {"png": "sRGB", "exr": "Linear Rec.709"}, {"png": "STRAIGHT", "exr": "PREMUL"}
_WAITING_ALPHA = 0.4


# --- The strip


def strip_folder(strip: bpy.types.ImageStrip) -> Path:
    """The folder of an image strip's files, absolute."""
    return Path(bpy.path.abspath(strip.directory))


def _face_strips(
    scene: bpy.types.Scene, obj: bpy.types.Object, plate: bpy.types.MovieStrip | None
) -> list[bpy.types.ImageStrip]:
    """The character's face strip over a plate, or over none, and what the artist cut off it: all pieces that share its
    content's first frame."""
    over = plate.get(sequencer.ID) if plate else None
    strips = [strip for strip in sequencer.faces(scene, obj) if strip.get(sequencer.SHOT)]
    strips = [strip for strip in strips if strip.get(sequencer.PLATE) == over] if over or not plate else []
    main = None if plate else sequencer.find(scene, obj.edtalk.face_strip)
    main = main if main in strips else next(iter(strips), None)
    if main is None:
        return []
    start = compat.content_start(main)
    return [main, *(strip for strip in strips if strip != main and compat.content_start(strip) == start)]


def _new_strip(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    span: tuple[int, int],
    waiting: Path,
    strip_id: str,
    plate: bpy.types.MovieStrip | None,
    size: tuple[int, int],
) -> bpy.types.ImageStrip:
    show_colours_as_they_are(scene)
    below = [*sequencer.dialogue(scene, obj), *((plate,) if plate else ())]
    channel = sequencer.free_channel(scene, *span, above=max((_channel(strip) for strip in below), default=0))
    strip = compat.new_image(scene, f"{obj.name} face", waiting, channel, span[0])
    strip[sequencer.ID], strip[sequencer.CHARACTER] = strip_id, obj.edtalk.uid
    strip.blend_type = "ALPHA_OVER"
    if plate is not None and obj.edtalk.layer in WHOLE:
        dubbing.lie_over(strip, plate, size)
    else:
        scale = _fit(scene, size)
        strip.transform.scale_x = strip.transform.scale_y = scale
    strip[SIZE] = size
    return strip


def _channel(strip: bpy.types.Strip) -> int:
    """The channel on which a strip is seen: within metastrips the outermost one's."""
    while meta := strip.parent_meta():
        strip = meta
    return strip.channel


def _fit(scene: bpy.types.Scene, size: tuple[int, int]) -> float:
    """The scale at which a picture just fits into the frame."""
    return min(scene.render.resolution_x / size[0], scene.render.resolution_y / size[1])


def _resize(scene: bpy.types.Scene, strip: bpy.types.ImageStrip, size: tuple[int, int]) -> None:
    """Where a strip's pictures have become larger or smaller, show them as large within the frame as the last ones."""
    before = tuple(strip.get(SIZE) or size)
    if before != size:
        change = _fit(scene, size) / _fit(scene, before)
        strip.transform.scale_x *= change
        strip.transform.scale_y *= change
    strip[SIZE] = size


def _picture_size(
    scene: bpy.types.Scene, obj: bpy.types.Object, shot: Shot, plate: bpy.types.MovieStrip | None
) -> tuple[int, int]:
    """Width and height of a shot's pictures."""
    if shot.layer not in WHOLE:
        return (shot.size or character.bank_of(obj).config.size,) * 2
    if plate is None:
        return character.portrait_size(obj)
    return dubbing.tracked(scene, obj, plate).size


def _fill(
    scene: bpy.types.Scene,
    strip: bpy.types.ImageStrip,
    obj: bpy.types.Object,
    plan: Plan,
    span: tuple[int, int],
    waiting: str,
    plate: bpy.types.MovieStrip | None,
) -> None:
    """Have a strip show a shot's pictures where there are any, `waiting` elsewhere, trimmed as the artist had it."""
    start, end = span
    was = compat.content_start(strip), compat.content_start(strip) + len(strip.elements)
    handles = compat.left_handle(strip), compat.right_handle(strip)
    trimmed = len(strip.elements) > 1 and handles != was
    names = plan.shot.file_names()
    absent = {names[row] for row in plan.shot.missing()}
    strip.directory = as_directory(plan.shot.frames_folder)
    with suppress(TypeError):  # a studio's own colour management may have other names
        strip.colorspace_settings.name = _COLOUR_SPACES[plan.shot.image_format]
    strip.alpha_mode = _ALPHA_MODES[plan.shot.image_format]
    sequencer.set_elements(strip, [waiting if name in absent else name for name in names])
    compat.set_strip_value(strip, "left_handle_offset", 0.0)
    compat.set_strip_value(strip, "right_handle_offset", 0.0)
    compat.set_strip_value(strip, "content_start", float(start))
    if trimmed and handles[0] < end and handles[1] > start:
        compat.set_strip_value(strip, "left_handle", max(handles[0], start))
        compat.set_strip_value(strip, "right_handle", min(handles[1], end))
    if sequencer.is_covered(scene, strip):
        strip.channel = sequencer.free_channel(
            scene, compat.left_handle(strip), compat.right_handle(strip), above=strip.channel
        )
    spoken = [sequencer.identity(one) for one in sequencer.dialogue(scene, obj) if _overlaps(one, span)]
    strip[sequencer.SHOT] = as_directory(plan.folder)
    strip[sequencer.SOUNDS] = "" if plate else " ".join(spoken)  # over a plate it stays with the plate
    strip[RENDERED], strip[sequencer.LAYER] = _version(plan.shot), plan.shot.layer
    if plate is not None:
        strip[sequencer.PLATE] = sequencer.identity(plate)
        strip[sequencer.APART] = not dubbing.is_frame_by_frame(scene, plate)
    if sequencer.STALE in strip:
        del strip[sequencer.STALE]
    sequencer.remember_time(strip, sequencer.time_map(scene, strip))
    compat.refresh(strip)


def refill(scene: bpy.types.Scene) -> None:
    """Show pictures that arrived while nobody looked: after an undo, or a Blender that ended while rendering.

    A shot elsewhere than where this .blend's files are kept is not read: the .blend may be a stranger's.
    """
    for strip in compat.strips(scene):
        if not (sequencer.is_face(strip) and strip.get(sequencer.SHOT)):
            continue
        folder, known = strip_folder(strip), {}
        waiting = {element.filename for element in strip.elements if not PICTURE.fullmatch(element.filename)}
        if waiting:
            shot_folder = Path(bpy.path.abspath(str(strip[sequencer.SHOT])))
            with suppress(EDTalkError):
                shot = Shot.read(shot_folder) if is_own(shot_folder) else None
                if shot and _version(shot) == strip.get(RENDERED) and len(shot.coefficients) == len(strip.elements):
                    known = dict(enumerate(shot.file_names()))
        for index, name in known.items():
            if strip.elements[index].filename in waiting and os.path.isfile(folder / name):
                strip.elements[index].filename = name
        if known:
            compat.refresh(strip)


def waiting_frames(strip: bpy.types.ImageStrip) -> int:
    """How many frames of a face strip have not been rendered."""
    return sum(not PICTURE.fullmatch(element.filename) for element in strip.elements)


def _overlaps(strip: bpy.types.Strip, span: tuple[int, int]) -> bool:
    return compat.left_handle(strip) < span[1] and compat.right_handle(strip) > span[0]


def _version(shot: Shot) -> str:
    return hashlib.sha256(" ".join(shot.file_names()).encode()).hexdigest()[:12]


def _waiting_picture(obj: bpy.types.Object, shot: Shot) -> Path:
    """The picture shown where none has been rendered yet: the face half transparent, a grey square for want of one.

    Over a plate it is transparent, of any size: the plate is seen.
    """
    whole, size = shot.layer in WHOLE, shot.size or character.bank_of(obj).config.size
    folder, size = shot.frames_folder, 8 if whole else size
    path = folder / f"waiting_{obj.edtalk.uid[:8]}_{'plate' if whole else size}.png"
    if path.is_file():
        return path
    face = None if whole else character.face_image(obj)
    drawn = face.size[0] if face is not None and face.size[0] and face.size[0] == face.size[1] else size
    pixels = np.full((drawn, drawn, 4), 0.5, np.float32)
    if face is not None and tuple(face.size) == (drawn, drawn):
        face.pixels.foreach_get(pixels.ravel())
    pixels[..., 3] = 0.0 if whole else _WAITING_ALPHA
    image = bpy.data.images.new("EDTalk waiting", drawn, drawn, alpha=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        image.pixels.foreach_set(pixels.ravel())
        if drawn != size:
            image.scale(size, size)
        image.filepath_raw, image.file_format = str(path), "PNG"
        image.save()
    except OSError as error:
        raise disk_error(path, error) from error
    except RuntimeError as error:
        raise EDTalkError(f"{path} could not be written.", "Choose a folder that may be written to.", "disk") from error
    finally:
        bpy.data.images.remove(image)
    return path


def show_colours_as_they_are(scene: bpy.types.Scene) -> None:
    """Factory scenes are viewed through AgX, which alters pictures in strips; Blender's own Add Image does the same."""
    view = scene.view_settings
    if view.view_transform in ("AgX", "Filmic"):
        view.view_transform = "Standard"
