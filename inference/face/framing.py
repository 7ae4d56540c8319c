"""Which square of a picture or a clip is its face: found, given by hand, or all of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..contract.errors import EDTalkError

if TYPE_CHECKING:  # at run time only where pixels are looked at: it brings OpenCV, and a command's --help need not wait
    from .crop import Crop
    from .detect import Which

# A square picture whose face lies this near to where the network expects it is taken as it is: cutting it again would
# blur it and add a border for nothing. As a share of the side, and as natural logarithm of the size.
_NEAR, _SAME_SIZE = 0.12, 0.25

_LOOKS, _LOOKS_PER_SECOND = 10, 2  # frames of a clip in which its face is looked for


def frame_picture(
    rgb: np.ndarray,
    size: int,
    crop: str | Sequence[float] = "auto",
    *,
    which: Which = None,
    label: str = "the picture",
) -> Crop:
    """The face of a uint8 (H, W, 3) picture at `size` pixels.

    crop: "auto" looks for the face and turns it upright, or takes a picture that is all face whole; "none" takes any
    picture whole; x, y, side in pixels, and an angle in degrees clockwise if there is one, is the square to take.
    which: with "auto", one of several faces, see `detect.choose_face`. Raises EDTalkError(kind="face") when no
    face is found, or several and none is chosen, or the square lies outside the picture.
    """
    from .crop import whole
    from .detect import crop_from_face, find_face

    if crop != "auto":
        return given_crop(rgb, size, crop, label)
    found = crop_from_face(find_face(rgb, which=which, label=label), size)
    return whole(rgb, size) if fills(rgb.shape, [found]) else found


def frame_clip(
    frames: Iterator[np.ndarray],
    fps: float,
    size: int,
    crop: str | Sequence[float] = "auto",
    *,
    which: Which = None,
    label: str = "the clip",
) -> Crop:
    """The one upright square for all of a clip: what moves within it is the head's motion.

    frames: uint8 (H, W, 3) each, `fps` a second; no more are read than needed. crop, which and errors as for
    `frame_picture`, and the errors of reading.
    """
    from .crop import crop_from_box, whole

    first = next(frames)
    if crop != "auto":
        return given_crop(first, size, crop, label)
    found = look_for_face(itertools.chain([first], frames), fps, size, which=which, label=label)
    if fills(first.shape, found):
        return whole(first, size)
    x, y, log_side = usual_place(found)
    side = math.exp(log_side)
    return crop_from_box(x - side / 2 + 0.5, y - side / 2 + 0.5, side, size)


def look_for_face(
    frames: Iterator[np.ndarray], fps: float, size: int, *, which: Which = None, label: str = "the clip"
) -> list[Crop]:
    """The face's crop in a few frames from the start of a clip; EDTalkError(kind="face") if none shows one."""
    from .detect import choose_face, crop_from_face, detect_faces

    every = max(1, round(fps / _LOOKS_PER_SECOND))
    crops, reason, upright = [], None, False
    for rgb in itertools.islice(frames, 0, every * _LOOKS, every):
        try:
            face = choose_face(detect_faces(rgb, upright_only=upright), which=which, label=label)
            crops.append(crop_from_face(face, size))
            upright |= face.angle == 0  # the clip lies on no side: where it has left there is no need to turn it about
        except EDTalkError as error:
            reason = reason or error
    if not crops:
        raise reason
    return crops


def given_crop(rgb: np.ndarray, size: int, crop: str | Sequence[float], label: str) -> Crop:
    """`frame_picture` for "none" and for a square, where nothing is looked for."""
    from .crop import crop_from_box, whole

    if crop == "none":
        return whole(rgb, size)
    x, y, side, *angle = crop
    height, width = rgb.shape[:2]
    if x >= width or y >= height or x + side <= 0 or y + side <= 0:
        message = f"The crop lies outside {label}, which is {width} x {height} pixels."
        raise EDTalkError(message, "Give a square inside the picture.", "face", "crop_outside")
    return crop_from_box(x, y, side, size, *angle)


def is_whole(rgb: np.ndarray, crop: Crop) -> bool:
    """Whether a crop takes in the picture as it is."""
    from .crop import whole

    return np.allclose(crop.to_picture, whole(rgb, crop.size).to_picture)


def cut(rgb: np.ndarray, crop: Crop) -> np.ndarray:
    """The face as a picture of its own; one that is all face stays as it is, and the network's own rules resize it."""
    from .crop import crop_face

    return rgb if is_whole(rgb, crop) else crop_face(rgb, crop)


def cut_at(rgb: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """uint8 (size, size, 3): the face with other pixels than the crop has, for `FaceRenderer.set_source`'s detail."""
    from PIL import Image

    from .crop import crop_face

    if is_whole(rgb, crop):
        return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize((size, size)))
    return crop_face(rgb, crop.at_size(size))


def usual_place(crops: Sequence[Crop]) -> np.ndarray:
    """(3,): centre x, y and logarithm of the side of the usual one of some crops, in their picture."""
    middle = (crops[0].size - 1) / 2
    places = [(*crop.to_picture @ (middle, middle, 1), math.log(crop.scale * crop.size)) for crop in crops]
    return np.median(places, axis=0)


def is_square(shape: tuple[int, ...]) -> bool:
    return shape[0] == shape[1]


def fills(shape: tuple[int, ...], crops: Sequence[Crop]) -> bool:
    """Whether a picture of that shape, with its face there, has been cut out for the network already."""
    if not crops or not is_square(shape):
        return False
    width = shape[1]
    x, y, log_side = usual_place(crops)
    middle = (width - 1) / 2
    return max(abs(x - middle), abs(y - middle)) < _NEAR * width and abs(log_side - math.log(width)) < _SAME_SIZE
