"""Paste a rendered face back into its picture, and make the image layers of a shot from rendered faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from ..contract.errors import EDTalkError
from ..media.picture import Picture
from .crop import Crop, apply_matrix, crop_face

# Replaced area in crop coordinates from -1 to 1: centre, half width and height, exponent that rounds the corners.
# "mouth" includes the parts of chin and cheeks that move with it, at their place in an automatic crop.
_AREAS = {"face": ((0.0, 0.0), (1.0, 1.0), 4), "mouth": ((0.067, 0.47), (0.5, 0.46), 2)}


class PasteBack:
    """Pastes rendered faces into the picture that the crop was cut from. Created once per picture size and crop.

    rect: (left, top, right, bottom) in pixels, the part of the picture that changes.
    mask: float32 (bottom - top, right - left), 1 inside, falling smoothly to exactly 0 at its edge. A rounded square as
        large as the crop for the face, an oval for the mouth.
    """

    def __init__(self, picture_shape: Sequence[int], crop: Crop, *, feather: float = 0.25, area: str = "face") -> None:
        """picture_shape: (H, W, ...). feather: width of the soft edge as a fraction of the mask's half width, greater
        than 0 and at most 1. area: "face" or "mouth". Raises EDTalkError for another feather.
        """
        if not 0 < feather <= 1:
            raise EDTalkError(f"The feather of a paste must be greater than 0 and at most 1, found {feather:g}.")
        height, width = picture_shape[:2]
        edge = crop.size - 1
        (middle_x, middle_y), (half_width, half_height), power = _AREAS[area]
        box = np.array([(x, y) for x in (-1, 1) for y in (-1, 1)]) * (half_width, half_height) + (middle_x, middle_y)
        corners = apply_matrix(crop.to_picture, (box + 1) * edge / 2)
        left, top = np.clip(np.floor(corners.min(0)), 0, (width, height)).astype(int).tolist()
        right, bottom = np.clip(np.ceil(corners.max(0)) + 1, 0, (width, height)).astype(int).tolist()
        self.shape, self.size = (height, width), crop.size
        self.rect = left, top, max(left, right), max(top, bottom)

        # A face larger than its region is averaged down before it is warped, as in `crop.sample`.
        self._reduced = crop.at_size(max(1, round(crop.size / max(1, round(1 / crop.scale)))))
        self._to_rect = self._reduced.to_picture - [[0, 0, left], [0, 0, top]]
        x, y = np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32)[:, None]
        across, down = crop.to_crop * 2 / edge - [
            [0, 0, 1 + middle_x],
            [0, 0, 1 + middle_y],
        ]  # the mask's edges lie at +-1
        (a, b, c), (d, e, f) = (across / half_width).astype(np.float32), (down / half_height).astype(np.float32)
        u, v = a * x + b * y + c, d * x + e * y + f
        u, v = u * u, v * v
        # |u|^4 + |v|^4 = 1 is a rounded square, u^2 + v^2 = 1 an oval
        inside = 0.9999 - (np.sqrt(np.sqrt(u * u + v * v)) if power == 4 else np.sqrt(u + v))
        ramp = np.clip(inside / feather, 0, 1)
        self.mask = ramp * ramp * (3 - 2 * ramp)
        self._rest = 1 - self.mask

    def paste(self, background: np.ndarray, face: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Paste a face, uint8 (size, size, 3), into a picture, uint8 (H, W, 3). Outside the mask nothing changes.

        out: array for the result, which is returned; `out=background` works in place and is the fastest.
        """
        if background.shape != (*self.shape, 3):
            raise EDTalkError(f"This paste needs pictures of shape {(*self.shape, 3)}, found {background.shape}.")
        if out is None:
            out = background.copy()
        elif out is not background:
            np.copyto(out, background)
        left, top, right, bottom = self.rect
        if self.mask.size:
            part = out[top:bottom, left:right]
            part[:] = cv2.blendLinear(self._place(face), np.ascontiguousarray(part), self.mask, self._rest)
        return out

    def layer(self, face: np.ndarray) -> np.ndarray:
        """The face on a transparent picture, uint8 (H, W, 4) with straight alpha, for compositing over the plate."""
        left, top, right, bottom = self.rect
        layer = np.zeros((*self.shape, 4), np.uint8)
        if self.mask.size:
            layer[top:bottom, left:right, :3] = self._place(face)
            layer[top:bottom, left:right, 3] = np.rint(self.mask * 255)
        return layer

    def _place(self, face: np.ndarray) -> np.ndarray:
        """The face warped to the pixels of `rect`, uint8 (bottom - top, right - left, 3)."""
        if face.shape != (self.size, self.size, 3):
            raise EDTalkError(f"This paste needs faces of shape {(self.size, self.size, 3)}, found {face.shape}.")
        if self._reduced.size != self.size:
            face = cv2.resize(face, (self._reduced.size, self._reduced.size), interpolation=cv2.INTER_AREA)
        left, top, right, bottom = self.rect
        # Cubic keeps a magnified face sharper. The repeated border lies where the mask is 0.
        flags = cv2.INTER_CUBIC if self._reduced.scale > 1 else cv2.INTER_LINEAR
        return cv2.warpAffine(
            face, self._to_rect, (right - left, bottom - top), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )


@dataclass
class Layering:
    """Makes the images of a shot from rendered faces. layer, mask, feather: see `inference.contract.shot.Shot`.

    The mask of a crop is computed once for consecutive frames with the same crop.
    """

    layer: str = "square"
    mask: str = "face"
    feather: float = 0.25
    _paste: tuple[tuple, PasteBack] | None = field(default=None, init=False, repr=False)

    def compose(self, face: np.ndarray, picture: Picture | None, crop: Crop) -> np.ndarray:
        """The image of a rendered face, uint8 (S, S, 3) of any size: uint8 (H, W, 3), or (H, W, 4) with straight alpha.

        picture: the picture that the face was cut from by `crop`; None is allowed for "square" and "matte". Its alpha,
        if any, is kept. Outside the mask, "pasted" equals the picture and the alpha of other layers is exactly 0.
        """
        if self.layer == "square":
            return face
        size, alpha = len(face), None if picture is None else picture.alpha
        if self.layer == "matte":
            paste = self._paste_for((size, size), Crop(size, np.eye(2, 3)))
            matte = paste.layer(face)[..., 3]
            if alpha is not None:
                matte = _multiplied(matte, crop_face(alpha, crop.at_size(size)))
            return np.dstack([face, matte])
        assert picture is not None, f"the layer {self.layer} needs the picture"
        paste = self._paste_for(picture.rgb.shape, crop.at_size(size))
        if self.layer == "pasted":
            pasted = paste.paste(picture.rgb, face)
            return pasted if alpha is None else np.dstack([pasted, alpha])
        layer = paste.layer(face)
        if alpha is not None:
            layer[..., 3] = _multiplied(layer[..., 3], alpha)
        return layer

    def without_face(self, rgb: np.ndarray, size: int) -> np.ndarray:
        """The image of a frame without a face, as from `compose`. rgb: the frame; size: pixels of a rendered face."""
        if self.layer == "pasted":
            return rgb
        if self.layer == "plate":
            return np.zeros((*rgb.shape[:2], 4), np.uint8)
        return np.zeros((size, size, 4 if self.layer == "matte" else 3), np.uint8)

    def _paste_for(self, shape: tuple[int, ...], crop: Crop) -> PasteBack:
        key = shape[:2], crop.size, crop.to_picture.tobytes()
        if self._paste is None or self._paste[0] != key:
            self._paste = key, PasteBack(shape, crop, feather=self.feather, area=self.mask)
        return self._paste[1]


def _multiplied(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The product of two alpha channels, uint8."""
    return np.rint(first * (second / np.float32(255))).astype(np.uint8)
