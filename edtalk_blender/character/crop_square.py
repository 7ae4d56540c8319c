"""The square of a portrait that is used as the face, and how dragging changes it. Without bpy.

Points are (x, y) in pixels of the upright picture, from its top left corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

SMALLEST = 16.0  # pixels of a side while dragging
_DIRECTIONS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])  # of the corners: top left, then clockwise


@dataclass(frozen=True)
class Square:
    """x, y: left top corner before the rotation. angle: clockwise in degrees, about the centre."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    @staticmethod
    def around(centre: np.ndarray, side: float, angle: float) -> Square:
        x, y = np.asarray(centre) - 0.5 * side
        return Square(float(x), float(y), float(side), float(angle))

    @staticmethod
    def largest(width: int, height: int) -> Square:
        """The largest upright square in the middle of a picture."""
        return Square.around(np.array([width, height]) / 2, min(width, height), 0.0)

    @property
    def centre(self) -> np.ndarray:
        return np.array([self.x, self.y]) + 0.5 * self.side

    @property
    def corners(self) -> np.ndarray:
        """(4, 2): top left, top right, bottom right, bottom left."""
        return self.centre + 0.5 * self.side * _DIRECTIONS @ _turn(self.angle).T

    @property
    def handle(self) -> np.ndarray:
        """(2,): the point above the square by which it is rotated."""
        return self.centre + _turn(self.angle) @ (0.0, -0.65 * self.side)

    def contains(self, point: np.ndarray) -> bool:
        local = (point - self.centre) @ _turn(self.angle)
        return bool(abs(local).max() <= 0.5 * self.side)

    def moved(self, by: np.ndarray) -> Square:
        return replace(self, x=float(self.x + by[0]), y=float(self.y + by[1]))

    def resized(self, corner: int, to: np.ndarray) -> Square:
        """The square whose corner is nearest to a point; the opposite corner and the angle stay."""
        opposite = self.corners[(corner + 2) % 4]
        diagonal = _turn(self.angle) @ _DIRECTIONS[corner]  # as long as the diagonal of a square with a side of 1 twice
        side = max(float((to - opposite) @ diagonal) / 2, SMALLEST)
        return Square.around(opposite + 0.5 * side * diagonal, side, self.angle)

    def rotated(self, towards: np.ndarray) -> Square:
        """The square whose handle lies in the direction of a point; within 2 degrees of upright it is upright."""
        x, y = towards - self.centre
        angle = math.degrees(math.atan2(x, -y))
        return replace(self, angle=0.0 if abs(angle) < 2 else angle)

    def kept_inside(self, width: int, height: int) -> Square:
        """The square with its centre in the picture, at most twice as wide as the picture's longer side."""
        side = min(max(self.side, SMALLEST), 2.0 * max(width, height))
        return Square.around(np.clip(self.centre, 0, (width, height)), side, self.angle)


def _turn(degrees: float) -> np.ndarray:
    """(2, 2): clockwise rotation, as y points down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])


class Dragging:
    """A square that is dragged over a picture of a size: by a corner, by the handle, or from inside.

    to_region: maps points (k, 2) of the picture to pixels of the region, where `reach` pixels are close enough.
    """

    def __init__(
        self, square: Square, size: tuple[int, int], to_region: Callable[[np.ndarray], np.ndarray], reach: float
    ) -> None:
        self.square, self._size, self._to_region, self._reach = square, size, to_region, reach
        self._grabbed = ""
        self._from = np.zeros(2)

    @property
    def is_dragging(self) -> bool:
        return bool(self._grabbed)

    def part_at(self, point: np.ndarray) -> str:
        """What a click at a point of the picture grabs: the number of a corner, "handle", "inside", or ""."""
        places = self._to_region(np.array([*self.square.corners, self.square.handle, point]))
        distances = np.linalg.norm(places[:-1] - places[-1], axis=1)
        if distances.min() <= self._reach:
            return ("0", "1", "2", "3", "handle")[int(distances.argmin())]
        return "inside" if self.square.contains(point) else ""

    def grab(self, point: np.ndarray) -> bool:
        """Begin to drag what is at a point. Returns whether there is anything."""
        self._grabbed, self._from = self.part_at(point), point
        return self.is_dragging

    def drag(self, point: np.ndarray) -> None:
        if self._grabbed == "inside":
            changed = self.square.moved(point - self._from)
            self._from = point
        elif self._grabbed == "handle":
            changed = self.square.rotated(point)
        elif self._grabbed:
            changed = self.square.resized(int(self._grabbed), point)
        else:
            return
        self.square = changed.kept_inside(*self._size)

    def release(self) -> None:
        self._grabbed = ""

    def nudge(self, x: float, y: float) -> None:
        self.square = self.square.moved(np.array([x, y])).kept_inside(*self._size)
