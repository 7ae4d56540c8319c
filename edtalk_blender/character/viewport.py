"""Show the portrait or the rendered face of a character in the viewport."""

from __future__ import annotations

import time

import bpy
import numpy as np
from bpy.app.handlers import persistent

FACE_OF = "edtalk_face_of"  # of an image with a rendered face: the uid of its character


def show_portrait(obj: bpy.types.Object) -> None:
    """Show the portrait on the character's Empty; other types of objects are not changed."""
    if obj.type == "EMPTY" and obj.data != obj.edtalk.portrait_image:
        obj.data = obj.edtalk.portrait_image


def show_pixels(obj: bpy.types.Object, rgba: np.ndarray) -> bpy.types.Image:
    """Show a rendered face in the character's image "NAME face" and on its Empty; returns the image.

    rgba: (H, W, 4) float32, 0 to 1, sRGB, bottom row first.
    """
    height, width = rgba.shape[:2]
    image = face_image(obj)
    if image is None:
        image = bpy.data.images.new(f"{obj.name} face", width, height, alpha=True)
        image[FACE_OF] = obj.edtalk.uid
    elif tuple(image.size) != (width, height):
        image.scale(width, height)
    image.pixels.foreach_set(np.ascontiguousarray(rgba, np.float32).ravel())
    if width * height <= _AT_ONCE:
        image.pack()
    else:
        _pack_later()
    if obj.type == "EMPTY" and obj.data != image:
        obj.data = image
    return image


def face_image(obj: bpy.types.Object) -> bpy.types.Image | None:
    """The image of this character's rendered face; None before the first preview."""
    uid = obj.edtalk.uid
    return next((image for image in bpy.data.images if image.get(FACE_OF) == uid and image.library is None), None)


def to_rgba(pixels: np.ndarray) -> np.ndarray:
    """(size, size, 4) float32 RGBA, 0 to 1, bottom row first, from (size, size, 3) uint8 RGB, top row first."""
    result = np.ones((*pixels.shape[:2], 4), np.float32)
    result[..., :3] = pixels[::-1]
    result[..., :3] /= 255
    return result


# --- Packing

_AT_ONCE = 512 * 512  # pixels of a face that is packed at once, which takes up to 12 ms
_IDLE = 0.15  # seconds without a new face before a larger one is packed, which takes up to 40 ms
_changed: list[float] = []  # time of the last new face (`time.monotonic`)


@persistent
def _pack_later(*_: object) -> None:
    """Pack large faces when they stop changing: Blender asks at every save about images with unsaved changes.

    Also a handler, because an undo can bring back a face with unsaved changes.
    """
    _changed[:] = [time.monotonic()]
    if not bpy.app.background and not bpy.app.timers.is_registered(pack_when_idle):
        bpy.app.timers.register(pack_when_idle, first_interval=_IDLE, persistent=True)


def pack_when_idle() -> float | None:
    """Timer: pack the faces once none has changed for a while. Returns the seconds until the next call."""
    if _changed and (rest := _changed[0] + _IDLE - time.monotonic()) > 0:
        return rest
    _pack_faces()
    return None


@persistent
def _pack_faces(*_: object) -> None:
    for image in bpy.data.images:
        if FACE_OF in image and image.is_dirty and image.library is None:
            image.pack()


def register() -> None:
    bpy.app.handlers.save_pre.append(_pack_faces)
    for handlers in (bpy.app.handlers.undo_post, bpy.app.handlers.redo_post):
        handlers.append(_pack_later)


def unregister() -> None:
    if bpy.app.timers.is_registered(pack_when_idle):
        bpy.app.timers.unregister(pack_when_idle)
    bpy.app.handlers.save_pre.remove(_pack_faces)
    for handlers in (bpy.app.handlers.undo_post, bpy.app.handlers.redo_post):
        handlers.remove(_pack_later)
