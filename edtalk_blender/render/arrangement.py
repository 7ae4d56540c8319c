"""Where the faces of several characters are in the frame of the sequencer."""

from __future__ import annotations

from collections.abc import Sequence

import bpy

from .. import compat
from ..character.snapshot import FULL_FRAME_LAYERS
from ..engine.operator_base import BaseOperator
from ..timeline import sequencer
from . import face_strip


def arrange(scene: bpy.types.Scene, strips: Sequence[bpy.types.ImageStrip]) -> None:
    """Put face strips side by side in cells of equal size, as large as they fit, without changing their time.

    Strips of one character share a cell. The order is that of the characters from left to right in the 3D View.
    """
    columns, rows = _grid(scene, len(_speakers(strips)), face_strip.size_of(strips[0]))
    width, height = scene.render.resolution_x / columns, scene.render.resolution_y / rows
    for place, uid in enumerate(_speakers(strips)):
        row, column = divmod(place, columns)
        in_row = min(columns, len(_speakers(strips)) - row * columns)  # the last row is centred
        for strip in (one for one in strips if one[sequencer.CHARACTER] == uid):
            size = face_strip.size_of(strip)
            strip.transform.scale_x = strip.transform.scale_y = min(width / size[0], height / size[1])
            strip.transform.offset_x = (column - 0.5 * (in_row - 1)) * width
            strip.transform.offset_y = (0.5 * (rows - 1) - row) * height


def _grid(scene: bpy.types.Scene, count: int, size: tuple[int, int]) -> tuple[int, int]:
    """The columns and rows in which `count` pictures are as large as possible."""
    frame = scene.render.resolution_x, scene.render.resolution_y

    def scale(columns: int) -> float:
        return min(frame[0] / columns / size[0], frame[1] / -(-count // columns) / size[1])

    columns = max(range(count, 0, -1), key=scale)
    return columns, -(-count // columns)


def _speakers(strips: Sequence[bpy.types.ImageStrip]) -> list[str]:
    """Identities of the strips' characters, from left to right in the 3D View, then by name."""
    found = {}
    for strip in strips:
        obj = sequencer.speaker(strip)
        found[strip[sequencer.CHARACTER]] = (obj.matrix_world.translation.x, obj.name) if obj else (0.0, "")
    return sorted(found, key=lambda uid: found[uid])


def hiding_each_other(scene: bpy.types.Scene, strip: bpy.types.ImageStrip) -> list[bpy.types.ImageStrip]:
    """The face strips at the time of this one, itself included, if all fill the frame as new strips do; else empty.

    Full-frame layers and faces over a plate have their place. Faces that the artist has moved are left alone.
    """
    span = compat.left_handle(strip), compat.right_handle(strip)
    faces = [one for one in compat.strips(scene) if _is_movable(one) and sequencer.overlaps(one, span)]
    several = len({one[sequencer.CHARACTER] for one in faces}) > 1
    return faces if several and _are_as_placed(scene, strip, faces) else []


def _is_movable(strip: bpy.types.Strip) -> bool:
    if not sequencer.is_face(strip) or not strip.get(sequencer.SHOT):
        return False
    return not strip.get(sequencer.PLATE) and strip.get(sequencer.LAYER) not in FULL_FRAME_LAYERS


def _are_as_placed(scene: bpy.types.Scene, new: bpy.types.ImageStrip, faces: Sequence[bpy.types.ImageStrip]) -> bool:
    """Whether the other faces are where `arrange` or `face_strip.add` put them."""
    others = [strip for strip in faces if strip[sequencer.CHARACTER] != new[sequencer.CHARACTER]]
    before = [_place(strip) for strip in others]
    alone = [(face_strip.fit(scene, face_strip.size_of(strip)), 0.0, 0.0) for strip in others]
    if all(map(_is_close, before, alone)):
        return True
    arrange(scene, others)
    same = all(map(_is_close, before, map(_place, others)))
    for strip, place in zip(others, before, strict=True):
        strip.transform.scale_x = strip.transform.scale_y = place[0]
        strip.transform.offset_x, strip.transform.offset_y = place[1:]
    return same


def _place(strip: bpy.types.ImageStrip) -> tuple[float, float, float]:
    return strip.transform.scale_x, strip.transform.offset_x, strip.transform.offset_y


def _is_close(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    return all(abs(a - b) < 1e-3 * max(1.0, abs(a)) for a, b in zip(one, other, strict=True))


class EDTALK_OT_arrange_faces(BaseOperator, bpy.types.Operator):
    """Put the face strips of all characters side by side, as large as they fit into the frame. Selected face strips \
of several characters are arranged alone"""

    bl_idname = "edtalk.arrange_faces"
    bl_label = "Faces Side by Side"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if _to_arrange(context) else "Render the faces of several characters first"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        arrange(compat.sequencer_scene(context), _to_arrange(context))
        return None


def _to_arrange(context: bpy.types.Context) -> list[bpy.types.ImageStrip]:
    """The selected face strips if they are of several characters, else all; empty if those are of one."""
    faces = [strip for strip in compat.strips(compat.sequencer_scene(context)) if _is_movable(strip)]
    for strips in ([strip for strip in faces if strip.select], faces):
        if len({strip[sequencer.CHARACTER] for strip in strips}) > 1:
            return strips
    return []


CLASSES = (EDTALK_OT_arrange_faces,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
