"""The square that is cut out of a picture for the network, and its place in the picture.

Points are (x, y) in pixels; pixel centres lie at whole numbers, as in OpenCV.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from ..contract.errors import EDTalkError

_MOST_SAMPLES = 8192  # along a side, which limits the memory for a crop that is larger than any face
TEMPLATE = 256  # pixels: side of the square in which landmark templates are given
EYES = np.array([[106.3, 113.0], [165.5, 113.5]])  # right and left eye in a 256 px crop, as upstream has them


@dataclass(frozen=True, eq=False)
class Crop:
    """A square of `size` pixels and its place in the picture.

    to_picture: (2, 3) float64 matrix from crop pixels to picture pixels. to_crop: its inverse.
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
        """x, y, side and angle in degrees: the arguments with which `crop_from_box` makes this crop. Squares only."""
        side = self.scale * self.size
        x, y = apply_matrix(self.to_picture, np.full(2, (self.size - 1) / 2)) - side / 2 + 0.5
        return float(x), float(y), side, math.degrees(math.atan2(self.to_picture[1, 0], self.to_picture[0, 0]))

    def at_size(self, size: int) -> Crop:
        """The same region of the picture, sampled with `size` x `size` pixels."""
        step = self.size / size
        finer = np.array([[step, 0, step / 2 - 0.5], [0, step, step / 2 - 0.5], [0, 0, 1]])
        return Crop(size, self.to_picture @ finer)


def similarity(template: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(2, 3) rotation, uniform scale and shift that best maps `template` (k, 2) to `image` (k, 2), without mirroring.

    Least squares (Umeyama). In the plane, a rotation with scale is one complex number, which gives the closed form.
    Raises EDTalkError(kind="face") for fewer than two distinct points.
    """
    source = np.asarray(template, np.float64) @ (1, 1j)
    target = np.asarray(image, np.float64) @ (1, 1j)
    spread = source - source.mean()
    power = (abs(spread) ** 2).sum()
    if len(source) != len(target) or not power > 1e-12:
        raise EDTalkError("At least two distinct landmarks are needed.", kind="face")
    turn = (spread.conj() * (target - target.mean())).sum() / power
    shift = target.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def crop_from_landmarks(points: np.ndarray, template: np.ndarray, size: int = TEMPLATE) -> Crop:
    """The crop that maps `points` (k, 2) of the picture to `template` (k, 2), given for a 256 px square."""
    return Crop(TEMPLATE, similarity(template, points)).at_size(size)


def crop_from_box(x: float, y: float, side: float, size: int = TEMPLATE, angle: float = 0.0) -> Crop:
    """The square of the picture with its left top corner at (x, y), rotated about its centre.

    x, y, side: pixels of the picture. angle: clockwise, in degrees. Raises EDTalkError(kind="face") for a side of 0 or
    less.
    """
    if not side > 0:
        raise EDTalkError(f"The side of a crop must be greater than 0 pixels, found {side:g}.", kind="face")
    if angle == 0:
        return Crop(size, _region(x, y, side, side, size))
    centre = x + side / 2 - 0.5, y + side / 2 - 0.5
    return Crop(size, pose_matrix((*centre, math.log(side / size), math.radians(angle)), size))


def whole(rgb: np.ndarray, size: int = TEMPLATE) -> Crop:
    """The whole picture, for one that is already a face crop. A picture that is not square is squeezed."""
    return Crop(size, _region(0, 0, rgb.shape[1], rgb.shape[0], size))


def crop_face(rgb: np.ndarray, crop: Crop) -> np.ndarray:
    """Cut a crop out of uint8 (H, W) or (H, W, 3); returns uint8 (size, size) or (size, size, 3).

    Sampling is bilinear, and averaged where the crop is smaller than its region. Outside the picture, the edge pixels
    are repeated: a black corner would be an edge that the network moves with the head.
    """
    return sample(rgb, crop.to_picture, (crop.size, crop.size), crop.scale)


def _region(x: float, y: float, width: float, height: float, size: int) -> np.ndarray:
    """`to_picture` of the axis-aligned rectangle whose left top corner is the outer corner of pixel (x, y)."""
    sx, sy = width / size, height / size
    return np.array([[sx, 0, x + sx / 2 - 0.5], [0, sy, y + sy / 2 - 0.5]])


def pose_matrix(pose: Iterable[float], size: int) -> np.ndarray:
    """`to_picture` (2, 3) of a square.

    pose: centre x and y, natural logarithm of picture pixels per crop pixel, clockwise rotation in radians.
    size: pixels of the crop's side.
    """
    cx, cy, log_scale, angle = pose
    turn = np.exp(complex(log_scale, angle))
    shift = complex(cx, cy) - turn * complex(1, 1) * (size - 1) / 2
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def inverse_matrix(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a (2, 3) matrix, (2, 3)."""
    return np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))[:2]


def apply_matrix(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (k, 2) transformed by a (2, 3) matrix."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def sample(picture: np.ndarray, to_picture: np.ndarray, size: tuple[int, int], scale: float) -> np.ndarray:
    """Sample a picture through `to_picture`.

    size: (width, height) of the result. scale: picture pixels per pixel of the result.
    """
    # Bilinear sampling reads four pixels only, so take more samples and average them.
    fine = max(1, min(round(scale), _MOST_SAMPLES // max(size)))
    width, height = size
    step = np.array([[1 / fine, 0, 0.5 / fine - 0.5], [0, 1 / fine, 0.5 / fine - 0.5], [0, 0, 1]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    samples = cv2.warpAffine(
        picture, to_picture @ step, (width * fine, height * fine), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return samples if fine == 1 else cv2.resize(samples, size, interpolation=cv2.INTER_AREA)
