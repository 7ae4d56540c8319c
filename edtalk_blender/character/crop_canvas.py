"""Where the pixels of a portrait are drawn in the Image Editor and in the 3D View."""

from __future__ import annotations

from typing import Protocol

import bpy
import numpy as np
from bpy_extras import view3d_utils
from mathutils import Vector
from mathutils.geometry import intersect_line_plane

from . import exif, files


class Canvas(Protocol):
    """Maps pixels of the upright picture, from its top left corner, to pixels of a region and back."""

    def to_region(self, points: np.ndarray) -> np.ndarray:
        """(k, 2) -> (k, 2)."""

    def to_picture(self, x: float, y: float) -> np.ndarray | None:
        """(2,), or None for a place that the picture's plane does not cover."""


class _Picture:
    """Maps upright pixels to (u, v) in the image as Blender shows it: without EXIF rotation, v up from the bottom."""

    def __init__(self, obj: bpy.types.Object) -> None:
        orientation = exif.orientation(files.portrait_path(obj))
        self.stored = np.array(obj.edtalk.portrait_image.size[:], float)
        self._matrix = exif.to_stored(orientation, *files.portrait_size(obj))

    def uv(self, points: np.ndarray) -> np.ndarray:
        u, v = ((points @ self._matrix[:, :2].T + self._matrix[:, 2]) / self.stored).T
        return np.stack([u, 1 - v], axis=1)

    def pixel(self, u: float, v: float) -> np.ndarray:
        stored = np.array([u, 1 - v]) * self.stored
        return np.linalg.solve(self._matrix[:, :2], stored - self._matrix[:, 2])


class ImageCanvas:
    """The portrait in an Image Editor."""

    def __init__(self, region: bpy.types.Region, obj: bpy.types.Object) -> None:
        self._view, self._picture = region.view2d, _Picture(obj)

    def to_region(self, points: np.ndarray) -> np.ndarray:
        return np.array([self._view.view_to_region(u, v, clip=False) for u, v in self._picture.uv(points)], float)

    def to_picture(self, x: float, y: float) -> np.ndarray | None:
        return self._picture.pixel(*self._view.region_to_view(x, y))


class ViewCanvas:
    """The portrait on a character's Empty in a 3D View."""

    def __init__(self, region: bpy.types.Region, view: bpy.types.RegionView3D, obj: bpy.types.Object) -> None:
        self._region, self._view, self._picture = region, view, _Picture(obj)
        width, height = self._picture.stored
        self._scale = obj.empty_display_size / max(width, height) * self._picture.stored
        self._offset = np.array(obj.empty_image_offset[:])
        self._matrix = obj.matrix_world.copy()

    def to_region(self, points: np.ndarray) -> np.ndarray:
        places = []
        for x, y in (self._picture.uv(points) + self._offset) * self._scale:
            world = self._matrix @ Vector((x, y, 0.0))
            places.append(
                view3d_utils.location_3d_to_region_2d(self._region, self._view, world, default=Vector((-1e6, -1e6)))
            )
        return np.array([(place.x, place.y) for place in places])

    def to_picture(self, x: float, y: float) -> np.ndarray | None:
        start = view3d_utils.region_2d_to_origin_3d(self._region, self._view, (x, y))
        along = view3d_utils.region_2d_to_vector_3d(self._region, self._view, (x, y))
        normal = self._matrix.to_3x3() @ Vector((0.0, 0.0, 1.0))
        hit = intersect_line_plane(start, start + along, self._matrix.translation, normal)
        if hit is None:
            return None
        local = self._matrix.inverted_safe() @ hit
        u, v = np.array([local.x, local.y]) / self._scale - self._offset
        return self._picture.pixel(u, v)
