"""Compare faces with the plates under them in the sequencer: a split picture, or the plates alone.

Only the crop and the visibility of the face strips are changed. Both are restored when the comparison ends.
"""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty, FloatProperty, PointerProperty

from .. import compat
from ..timeline import sequencer

BEFORE = "edtalk_compare"  # of a face strip that is compared: its crop at the left and whether it was muted
_SIZE = "edtalk_size"  # as in `render.face_strip`


def over_plates(scene: bpy.types.Scene) -> list[bpy.types.ImageStrip]:
    """The face strips that lie over a movie strip."""
    return [strip for strip in compat.strips(scene) if sequencer.is_face(strip) and strip.get(sequencer.PLATE)]


def apply(scene: bpy.types.Scene) -> None:
    """Show all face strips over plates as the scene's settings say."""
    settings = scene.edtalk_compare
    for strip in over_plates(scene):
        if BEFORE in strip:
            left, muted = strip[BEFORE]
            strip.crop.min_x, strip.mute = left, bool(muted)
            del strip[BEFORE]
        if settings.mode == "RESULT" or strip.mute:
            continue
        strip[BEFORE] = [strip.crop.min_x, int(strip.mute)]
        if settings.mode == "PLATE":
            strip.mute = True
        else:
            width = strip[_SIZE][0]
            strip.crop.min_x = max(strip.crop.min_x, round(settings.split * width))


def _changed(settings: CompareSettings, _context: bpy.types.Context) -> None:
    apply(settings.id_data)


class CompareSettings(bpy.types.PropertyGroup):
    """How the faces of a scene are compared with their plates."""

    mode: EnumProperty(
        name="Compare",
        description="What the sequencer shows, also in renders: the faces, the plates, or both",
        items=(
            ("RESULT", "Result", "Show the faces over their plates"),
            ("SPLIT", "Split", "Show the plates in the left part of the frame, and the faces in the right part"),
            ("PLATE", "Plate", "Show the plates alone"),
        ),
        default="RESULT",
        update=_changed,
    )
    split: FloatProperty(
        name="Split",
        description="Part of the face strip's width, from the left, in which the plate is shown, from 0 to 1",
        default=0.5,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
        update=_changed,
    )


CLASSES = (CompareSettings,)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    bpy.types.Scene.edtalk_compare = PointerProperty(type=CompareSettings, name="Compare")


def unregister() -> None:
    del bpy.types.Scene.edtalk_compare
    unregister_classes()
