"""The square that is cut out of a picture for the network, and its place in the picture.

Points are (x, y) in pixels; pixel centres lie at whole numbers, as in OpenCV.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from ..contract.errors import EDTalkError

TEMPLATE = 256  # pixels: side of the square in which landmark templates are given


@dataclass(frozen=True, eq=False)
class Crop:
    """A square of `size` pixels and its place in the picture.

    to_picture: (2, 3) float64, crop pixel -> picture pixel.  to_crop: its inverse.
    """

    size: int
    to_picture: np.ndarray

    @cached_property
    def to_crop(self) -> np.ndarray:
        return inverse_matrix(self.to_picture)

    @property
    def scale(self) -> float:
        """Picture pixels per crop pixel."""
        return math.sqrt(abs(np.linalg.det(self.to_picture[:, :2])))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x, y, side and angle with which `crop_from_box` gives this crop again; for squares of the picture only."""
        side = self.scale * self.size
        x, y = apply_matrix(self.to_picture, np.full(2, (self.size - 1) / 2)) - side / 2 + 0.5
        return float(x), float(y), side, math.degrees(math.atan2(self.to_picture[1, 0], self.to_picture[0, 0]))

    def at_size(self, size: int) -> Crop:
        """The same region of the picture with another number of pixels."""
        step = self.size / size
        finer = np.array([[step, 0, step / 2 - 0.5], [0, step, step / 2 - 0.5], [0, 0, 1]])
        return Crop(size, self.to_picture @ finer)


def similarity(template: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(2, 3) rotation, uniform scale and shift that best takes `template` (k, 2) to `image` (k, 2), never mirrored.

    Least squares (Umeyama).  In the plane a rotation with scale is one complex number, hence the closed form.
    Raises EDTalkError(kind="face") for fewer than two different points.
    """
    source = np.asarray(template, np.float64) @ (1, 1j)
    target = np.asarray(image, np.float64) @ (1, 1j)
    spread = source - source.mean()
    power = (abs(spread) ** 2).sum()
    if len(source) != len(target) or not power > 1e-12:
        raise EDTalkError("A face is placed by at least two different points.", kind="face")
    turn = (spread.conj() * (target - target.mean())).sum() / power
    shift = target.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def crop_from_landmarks(points: np.ndarray, template: np.ndarray, size: int = TEMPLATE) -> Crop:
    """The crop that brings `points` (k, 2) of the picture to `template` (k, 2), given for a 256 px square."""
    return Crop(TEMPLATE, similarity(template, points)).at_size(size)


def crop_from_box(x: float, y: float, side: float, size: int = TEMPLATE, angle: float = 0.0) -> Crop:
    """The square of the picture that begins at (x, y), turned about its centre.

    angle: clockwise, in degrees.
    """
    if not side > 0:
        raise EDTalkError(f"A crop needs a size above 0 pixels, found {side:g}.", kind="face")
    if angle == 0:
        return Crop(size, _region(x, y, side, side, size))
    centre = x + side / 2 - 0.5, y + side / 2 - 0.5
    return Crop(size, pose_matrix(*centre, math.log(side / size), math.radians(angle), size))


def whole(rgb: np.ndarray, size: int = TEMPLATE) -> Crop:
    """The picture as it is, for one that is already a face crop; a picture that is not square gets squeezed."""
    return Crop(size, _region(0, 0, rgb.shape[1], rgb.shape[0], size))


def crop_face(rgb: np.ndarray, crop: Crop) -> np.ndarray:
    """uint8 (H, W[, 3]) -> uint8 (size, size[, 3]): bilinear, averaged over the pixels that it shrinks.

    Outside the picture its edge pixels are repeated. A black corner would be an edge that the network moves with the
    head.
    """
    return sample(rgb, crop.to_picture, (crop.size, crop.size), crop.scale)


def _region(x: float, y: float, width: float, height: float, size: int) -> np.ndarray:
    """The axis-aligned rectangle that begins at the outer corner of pixel (x, y), as a crop's `to_picture`."""
    sx, sy = width / size, height / size
    return np.array([[sx, 0, x + sx / 2 - 0.5], [0, sy, y + sy / 2 - 0.5]])


def pose_matrix(cx: float, cy: float, log_scale: float, angle: float, size: int) -> np.ndarray:
    """`to_picture` of the square with its centre at (cx, cy), turned clockwise by `angle` radians."""
    turn = np.exp(complex(log_scale, angle))
    shift = complex(cx, cy) - turn * complex(1, 1) * (size - 1) / 2
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def inverse_matrix(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))[:2]


def apply_matrix(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(2, 3) matrix on points (k, 2)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def sample(picture: np.ndarray, to_picture: np.ndarray, size: tuple[int, int], scale: float) -> np.ndarray:
    """The picture seen through `to_picture` as (width, height) pixels of `scale` picture pixels each."""
    fine = max(1, round(scale))  # bilinear looks at four pixels only: take more samples and average them
    width, height = size
    step = np.array([[1 / fine, 0, 0.5 / fine - 0.5], [0, 1 / fine, 0.5 / fine - 0.5], [0, 0, 1]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    samples = cv2.warpAffine(
        picture, to_picture @ step, (width * fine, height * fine), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return samples if fine == 1 else cv2.resize(samples, size, interpolation=cv2.INTER_AREA)
