"""Choose the square of a picture or clip that is the face: detected, given by the user, or the whole picture."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..contract.errors import EDTalkError

if TYPE_CHECKING:  # imported late, because it loads OpenCV and a command's --help must not wait
    from .crop import Crop
    from .detect import Which

# A square picture whose face is this close to the expected place and size is used whole: cropping it again would blur
# it and add a border. In fractions of the side, and as natural logarithm of the ratio of sizes.
_NEAR, _SAME_SIZE = 0.12, 0.25

_SAMPLES, _SAMPLES_PER_SECOND = 10, 2  # frames of a clip in which the face is detected


def load_portrait(
    path: str | os.PathLike[str], size: int = 512, crop: str | Sequence[float] = "auto", *, which: Which = None
) -> np.ndarray:
    """The face in an image file, uint8 (size, size, 3), for `FaceRenderer.set_source`.

    crop and which: see `frame_picture`. Raises EDTalkError of kind "media" or "face".
    """
    from ..media.picture import load_picture

    rgb = load_picture(path).opaque
    return cut_at(rgb, frame_picture(rgb, size, crop, which=which, label=os.path.basename(path)), size)


def frame_picture(
    rgb: np.ndarray,
    size: int,
    crop: str | Sequence[float] = "auto",
    *,
    which: Which = None,
    label: str = "the picture",
) -> Crop:
    """The face of a uint8 (H, W, 3) picture at `size` pixels.

    crop: "auto" detects the face and rotates it upright, or uses a picture whole that is already a face crop; "none"
    uses any picture whole; (x, y, side) or (x, y, side, angle) is a square in pixels, rotated clockwise in degrees.
    which: selects one of several faces with "auto", see `detect.choose_face`. label: name of the picture, for messages.
    Raises EDTalkError(kind="face") if no face is found, if there are several and `which` is None, or if the square lies
    outside the picture.
    """
    from .crop import whole
    from .detect import crop_from_face, find_face

    if crop != "auto":
        return given_crop(rgb, size, crop, label)
    found = crop_from_face(find_face(rgb, which=which, label=label), size)
    return whole(rgb, size) if is_face_crop(rgb.shape, [found]) else found


def frame_clip(
    frames: Iterator[np.ndarray],
    fps: float,
    size: int,
    crop: str | Sequence[float] = "auto",
    *,
    which: Which = None,
    label: str = "the clip",
) -> Crop:
    """One upright square for a whole clip, so that motion within it is the motion of the head.

    frames: uint8 (H, W, 3) each, `fps` per second; only the frames needed are read. crop, which, label and errors are
    those of `frame_picture`; errors of reading pass through.
    """
    from .crop import crop_from_box, whole

    first = next(frames)
    if crop != "auto":
        return given_crop(first, size, crop, label)
    found = sample_crops(itertools.chain([first], frames), fps, size, which=which, label=label)
    if is_face_crop(first.shape, found):
        return whole(first, size)
    x, y, log_side = median_place(found)
    side = math.exp(log_side)
    return crop_from_box(x - side / 2 + 0.5, y - side / 2 + 0.5, side, size)


def sample_crops(
    frames: Iterator[np.ndarray], fps: float, size: int, *, which: Which = None, label: str = "the clip"
) -> list[Crop]:
    """Crops of the face in a few frames from the start of a clip.

    Frames without a face are left out. Raises EDTalkError(kind="face") if all are.
    """
    from .detect import Face, choose_face, crop_from_face, detect_faces, find_again

    every = max(1, round(fps / _SAMPLES_PER_SECOND))
    crops, upright = [], False
    face: Face | None = None
    reason: EDTalkError | None = None
    for rgb in itertools.islice(frames, 0, every * _SAMPLES, every):
        try:
            face = face and find_again(rgb, face)
            face = face or choose_face(detect_faces(rgb, upright_only=upright), which=which, label=label)
            crops.append(crop_from_face(face, size))
            upright |= face.angle == 0  # the clip is upright: do not search frames without a face for rolled heads
        except EDTalkError as error:
            reason = reason or error
    if reason and not crops:
        raise reason
    return crops


def given_crop(rgb: np.ndarray, size: int, crop: str | Sequence[float], label: str) -> Crop:
    """The crop for "none" or a given square; arguments and errors are those of `frame_picture`. Nothing is detected."""
    from .crop import crop_from_box, whole

    if isinstance(crop, str):
        return whole(rgb, size)
    x, y, side, *angle = crop
    height, width = rgb.shape[:2]
    if x >= width or y >= height or x + side <= 0 or y + side <= 0:
        message = f"The crop lies outside {label}, which is {width} x {height} pixels."
        raise EDTalkError(message, "Give a square inside the picture.", "face", "crop_outside")
    return crop_from_box(x, y, side, size, *angle)


def is_whole(rgb: np.ndarray, crop: Crop) -> bool:
    """Whether a crop is the whole picture."""
    from .crop import whole

    return np.allclose(crop.to_picture, whole(rgb, crop.size).to_picture)


def cut(rgb: np.ndarray, crop: Crop) -> np.ndarray:
    """Cut out the face, uint8 (size, size, 3). For a crop of the whole picture, the picture is returned unchanged."""
    from .crop import crop_face

    return rgb if is_whole(rgb, crop) else crop_face(rgb, crop)


def cut_at(rgb: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """Cut out the face at another size, uint8 (size, size, 3), for the detail of `FaceRenderer.set_source`."""
    from PIL import Image

    from .crop import crop_face

    if is_whole(rgb, crop):
        return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize((size, size)))
    return crop_face(rgb, crop.at_size(size))


def median_place(crops: Sequence[Crop]) -> np.ndarray:
    """(3,): medians of the crops' centre x, y and natural logarithm of the side, in pixels of the picture."""
    middle = (crops[0].size - 1) / 2
    places = [(*crop.to_picture @ (middle, middle, 1), math.log(crop.scale * crop.size)) for crop in crops]
    return np.median(places, axis=0)


def is_square(shape: tuple[int, ...]) -> bool:
    """Whether a picture of shape (H, W, ...) is square."""
    return shape[0] == shape[1]


def is_face_crop(shape: tuple[int, ...], crops: Sequence[Crop]) -> bool:
    """Whether a picture of shape (H, W, ...) is already cut out as the network expects. crops: its face, detected."""
    if not crops or not is_square(shape):
        return False
    width = shape[1]
    x, y, log_side = median_place(crops)
    middle = (width - 1) / 2
    return max(abs(x - middle), abs(y - middle)) < _NEAR * width and abs(log_side - math.log(width)) < _SAME_SIZE
