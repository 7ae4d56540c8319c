"""Where a new character stands, and views that show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import bpy
import numpy as np
from mathutils import Matrix, Quaternion, Vector

_GAP = 0.2  # metres between a new face and other objects
_FAR = 10.0  # sizes of a face
_FILL = 0.6  # part of the view that a framed face takes up
_SOLID = {"MESH", "CURVE", "SURFACE", "META", "FONT", "CURVES", "POINTCLOUD", "VOLUME", "GREASEPENCIL", "ARMATURE"}
_FRONT = Quaternion((1.0, 0.0, 0.0), 0.5 * np.pi)  # of a view in Blender's direction Front
_SENSOR = 72.0  # mm: the larger side of a view shows view_distance * _SENSOR / lens

Box = tuple[Vector, Vector]  # lowest and highest corner, in world space


def free_location(scene: bpy.types.Scene, size: float) -> Vector:
    """A place for an upright square face of `size` metres: the 3D cursor, or to the right of the objects there.

    Where the nearest such place is far away, as on a large ground, the nearest place above is taken if it is nearer.
    """
    boxes = [box for obj in scene.objects if (box := _bounds(obj)) is not None]
    start = scene.cursor.location.copy()
    beside, above = (_first_free(boxes, start, size, axis) for axis in (0, 2))
    distance = beside.x - start.x
    return above if distance > _FAR * size and above.z - start.z < distance else beside


def _first_free(boxes: list[Box], start: Vector, size: float, axis: int) -> Vector:
    place = start.copy()
    half = Vector((0.5 * size, 0.0, 0.5 * size))
    half += Vector((_GAP, _GAP, _GAP))
    while ends := [high[axis] for low, high in boxes if _overlap((place - half, place + half), (low, high))]:
        place[axis] = max(ends) + half[axis] + 1e-4
    return place


def _overlap(one: Box, other: Box) -> bool:
    return all(one[0][axis] < other[1][axis] and other[0][axis] < one[1][axis] for axis in range(3))


def _bounds(obj: bpy.types.Object) -> Box | None:
    """The bounds of an object that can hide a face; None for lights, cameras and the like."""
    if obj.hide_viewport:
        return None
    if obj.type == "EMPTY":
        if obj.empty_display_type != "IMAGE":
            return None
        corners = [Vector(corner) for corner in _image_corners(obj)]
    elif obj.type in _SOLID and obj.display_type != "BOUNDS":
        corners = [Vector(corner) for corner in obj.bound_box]
    else:
        return None
    # The world matrix of an object is only up to date after the next depsgraph update.
    is_free = obj.parent is None and not obj.constraints
    matrix = obj.matrix_basis if is_free else obj.matrix_world
    moved = np.array([matrix @ corner for corner in corners])
    return Vector(moved.min(axis=0)), Vector(moved.max(axis=0))


def _image_corners(obj: bpy.types.Object) -> Iterator[tuple[float, float, float]]:
    """The corners of an image Empty, in its own space."""
    width, height = obj.data.size if obj.data is not None and all(obj.data.size) else (1, 1)
    scale = obj.empty_display_size / max(width, height)
    left, bottom = obj.empty_image_offset
    for x in (left, left + 1.0):
        for y in (bottom, bottom + 1.0):
            yield x * width * scale, y * height * scale, 0.0


def show(context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """Frame a character in the 3D Views of the current window, seen from its front."""
    screen = context.window.screen if context.window else None
    for area in screen.areas if screen else ():
        if area.type == "VIEW_3D":
            show_in(area, obj)


def show_in(area: bpy.types.Area, obj: bpy.types.Object) -> None:
    """Frame a character in the part of a 3D View beside its sidebars, seen from its front, also in local view."""
    space = area.spaces.active
    if space.local_view:
        obj.local_view_set(space, True)
    view = space.region_3d
    if view is None or view.lock_rotation:
        return
    window = next(region for region in area.regions if region.type == "WINDOW")
    left, right = _free(window, [region for region in area.regions if _is_open(space, region)])
    width, height = max(right - left, 1), max(window.height, 1)
    matrix = obj.matrix_basis if obj.parent is None else obj.matrix_world
    size = obj.empty_display_size * max(matrix.to_scale()) if obj.type == "EMPTY" else max(obj.dimensions)
    per_pixel = max(size, 1e-3) / (_FILL * min(width, height))
    view.view_perspective = "ORTHO"
    view.view_rotation = (_turn(matrix) if obj.type == "EMPTY" else Quaternion()) @ _FRONT
    aside = per_pixel * (window.width - left - right) / 2
    view.view_location = matrix.translation + view.view_rotation @ Vector((aside, 0.0, 0.0))
    view.view_distance = per_pixel * max(window.width, window.height, 1) * space.lens / _SENSOR


def _is_open(space: bpy.types.SpaceView3D, region: bpy.types.Region) -> bool:
    if region.type == "UI":
        return space.show_region_ui
    return region.type == "TOOLS" and space.show_region_toolbar


def _free(window: bpy.types.Region, covering: Sequence[bpy.types.Region]) -> tuple[int, int]:
    """First and last column of a 3D View, in pixels from its left edge, between the regions that cover its sides."""
    left, right = 0, window.width
    for region in covering:
        start = region.x - window.x
        if start + region.width / 2 < window.width / 2:
            left = max(left, start + region.width)
        else:
            right = min(right, start)
    return left, right


def _turn(matrix: Matrix) -> Quaternion:
    """The rotation about Z from Blender's front view to the view that an image Empty faces."""
    normal = matrix.to_quaternion() @ Vector((0.0, 0.0, 1.0))
    return Quaternion((0.0, 0.0, 1.0), np.arctan2(normal.x, -normal.y))
