"""The operator that moves and resizes the square of the face over the portrait."""

from __future__ import annotations

import math
from typing import Any

import bpy
import gpu
import numpy as np
from bpy.props import FloatProperty
from gpu_extras.batch import batch_for_shader

from ...inference.contract.errors import EDTalkError
from . import character, files, placement
from .crop_canvas import Canvas, ImageCanvas, ViewCanvas
from .crop_square import SMALLEST, Dragging, Square
from .operators import OnCharacter

_REACH = 12.0  # pixels at a scale of 1 around a corner that grab it
_COLOUR, _DARK = (1.0, 0.6, 0.1, 1.0), (0.0, 0.0, 0.0, 0.6)
_STEPS = {"LEFT_ARROW": (-1, 0), "RIGHT_ARROW": (1, 0), "UP_ARROW": (0, -1), "DOWN_ARROW": (0, 1)}
_NAVIGATION = ("MIDDLEMOUSE", "WHEEL", "TRACKPAD", "NUMPAD_", "HOME", "MOUSEROTATE", "TIMER", "WINDOW", "NDOF")
_HELP = (
    "Drag the square, a corner to resize, or the upper handle to rotate.  Arrow keys: move.  Enter: apply.  Esc: cancel"
)


class EDTALK_OT_edit_crop(OnCharacter, bpy.types.Operator):
    """Move, resize and rotate the square of the face over the portrait with the mouse. Enter applies it, Esc cancels"""

    bl_idname = "edtalk.edit_crop"
    bl_label = "Edit Crop"
    bl_options = {"REGISTER", "UNDO"}

    x: FloatProperty(name="Left", description="Left edge of the square in pixels from the portrait's left", precision=1)
    y: FloatProperty(name="Top", description="Top edge of the square in pixels from the portrait's top", precision=1)
    size: FloatProperty(
        name="Size", description="Side of the square in pixels. 0: the current or detected square", min=0.0, precision=1
    )
    angle: FloatProperty(
        name="Angle",
        description="Clockwise rotation of the square about its centre, from -180 to 180 degrees",
        subtype="ANGLE",
        min=-math.pi,
        max=math.pi,
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        if reason := super().disabled_reason(context):
            return reason
        return "" if character.active(context).edtalk.portrait_image else "Choose a portrait first"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        square = Square(self.x, self.y, self.size, math.degrees(self.angle)) if self.size > 0 else _current(obj)
        width, height = files.portrait_size(obj)
        files.set_crop(obj, square.kept_inside(width, height))
        obj.edtalk.crop_mode = "box"
        self.x, self.y, self.size = obj.edtalk.crop
        self.angle = obj.edtalk.crop_angle
        return None

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        area, obj = context.area, character.active(context)
        can_show = area is not None and (
            area.type == "IMAGE_EDITOR" or (area.type == "VIEW_3D" and obj.type == "EMPTY")
        )
        if not can_show:
            return self.execute(context)
        try:
            self._session = _Session(area, obj)
        except EDTalkError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        context.window_manager.modal_handler_add(self)
        context.workspace.status_text_set(_HELP)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        session = self._session
        if not session.is_valid():
            return self._end(context, {"CANCELLED"})
        if event.type in ("RET", "NUMPAD_ENTER") and event.value == "PRESS":
            square = session.dragging.square
            self.x, self.y, self.size, self.angle = square.x, square.y, square.side, math.radians(square.angle)
            self._end(context, set())  # first, so that the undo step has the picture that was shown before
            return self.execute(context)
        if event.type in ("ESC", "RIGHTMOUSE") and event.value == "PRESS":
            return self._end(context, {"CANCELLED"})
        return session.handle(event)

    def cancel(self, context: bpy.types.Context) -> None:
        """Called by Blender if the window is closed or another file is loaded."""
        self._end(context, set())

    def _end(self, context: bpy.types.Context, result: set[str]) -> set[str]:
        self._session.close()
        if context.workspace:
            context.workspace.status_text_set(None)
        return result


def _current(obj: bpy.types.Object) -> Square:
    """The square that is in use, or the one that cropping by hand starts from."""
    manual = files.manual_square(obj)
    return manual if obj.edtalk.crop_mode == "box" and manual.side >= SMALLEST else files.first_square(obj)


class _Session:
    """The square drawn over the portrait in one editor, from invoking the operator to its end.

    The portrait is shown in place of the rendered face meanwhile. Raises EDTalkError if its file is missing.
    """

    def __init__(self, area: bpy.types.Area, obj: bpy.types.Object) -> None:
        self._area, self._space, self._uid = area, area.spaces.active, obj.edtalk.uid
        self._region = next(region for region in area.regions if region.type == "WINDOW")
        self._scale = bpy.context.preferences.system.ui_scale or 1.0
        self.dragging = Dragging(
            _current(obj),
            files.portrait_size(obj),
            lambda points: self._canvas().to_region(points),
            _REACH * self._scale,
        )
        self._in_view = area.type == "VIEW_3D"
        portrait = obj.edtalk.portrait_image
        if self._in_view:
            self._shown, obj.data = obj.data, portrait
            placement.show_in(area, obj)
        else:
            self._shown, self._space.image = self._space.image, portrait
        self._drawing = type(self._space).draw_handler_add(self._draw, (), "WINDOW", "POST_PIXEL")
        area.tag_redraw()

    def is_valid(self) -> bool:
        """Whether area and character still exist."""
        areas = [area for window in bpy.context.window_manager.windows for area in window.screen.areas]
        return self._area in areas and self._area.spaces.active == self._space and self._obj is not None

    @property
    def _obj(self) -> bpy.types.Object | None:
        obj = character.find(self._uid)
        return obj if obj is not None and obj.edtalk.portrait_image else None

    def _canvas(self) -> Canvas:
        assert self._obj is not None, "checked by is_valid"
        if self._in_view:
            return ViewCanvas(self._region, self._space.region_3d, self._obj)
        return ImageCanvas(self._region, self._obj)

    def handle(self, event: bpy.types.Event) -> set[str]:
        """Drag with the mouse, let navigation pass, and block all other events."""
        if event.type in _STEPS and event.value == "PRESS":
            by = 10.0 if event.shift else 1.0
            self.dragging.nudge(*(by * step for step in _STEPS[event.type]))
        elif event.type == "MOUSEMOVE" and self.dragging.is_dragging:
            point = self._point(event)
            if point is not None:
                self.dragging.drag(point)
        elif event.type == "LEFTMOUSE" and event.value == "PRESS" and self._is_inside(event):
            point = self._point(event)
            if point is not None:
                self.dragging.grab(point)
        elif event.type == "LEFTMOUSE" and event.value == "RELEASE" and self.dragging.is_dragging:
            self.dragging.release()
        elif event.type == "MOUSEMOVE" or event.type.startswith(_NAVIGATION) or not self._is_inside(event):
            return {"PASS_THROUGH"}
        self._area.tag_redraw()
        return {"RUNNING_MODAL"}

    def _point(self, event: bpy.types.Event) -> np.ndarray | None:
        return self._canvas().to_picture(event.mouse_x - self._region.x, event.mouse_y - self._region.y)

    def _is_inside(self, event: bpy.types.Event) -> bool:
        """Whether the mouse is over the editor's content, not over a sidebar or header that lies on it."""

        def contains(region: bpy.types.Region) -> bool:
            x, y = event.mouse_x - region.x, event.mouse_y - region.y
            return 0 <= x < region.width and 0 <= y < region.height

        others = (region for region in self._area.regions if region.type != "WINDOW" and region.width > 1)
        return contains(self._region) and not any(map(contains, others))

    def _draw(self) -> None:
        if bpy.context.area != self._area or self._obj is None:
            return
        square = self.dragging.square
        corners, handle = np.split(self._canvas().to_region(np.array([*square.corners, square.handle])), [4])
        top = corners[:2].mean(axis=0)
        shader = gpu.shader.from_builtin("UNIFORM_COLOR")
        gpu.state.blend_set("ALPHA")
        for colour, width in ((_DARK, 4.0), (_COLOUR, 2.0)):
            gpu.state.line_width_set(width * self._scale)
            _draw_lines(shader, "LINE_LOOP", corners, colour)
            _draw_lines(shader, "LINES", np.array([top, handle[0]]), colour)
        for place in (*corners, handle[0]):
            half = 5.0 * self._scale
            box = place + half * np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)])
            _draw_lines(shader, "TRI_STRIP", box, _COLOUR)
        gpu.state.line_width_set(1.0)
        gpu.state.blend_set("NONE")

    def close(self) -> None:
        """Remove the drawing, and show what was shown before. An empty Image Editor keeps the portrait."""
        if self._drawing is None:
            return
        type(self._space).draw_handler_remove(self._drawing, "WINDOW")
        self._drawing = None
        obj = character.find(self._uid)
        if self._in_view and obj is not None:
            obj.data = self._shown
        elif not self._in_view and self._shown is not None and self.is_valid():
            self._space.image = self._shown
        self._area.tag_redraw()


def _draw_lines(shader: Any, kind: str, points: np.ndarray, colour: tuple[float, ...]) -> None:
    batch = batch_for_shader(shader, kind, {"pos": [(float(x), float(y)) for x, y in points]})
    shader.uniform_float("color", colour)
    batch.draw(shader)


CLASSES = (EDTALK_OT_edit_crop,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
