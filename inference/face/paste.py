"""Pasting a rendered face back into the picture it was cut from."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..contract.errors import EDTalkError
from .detect import Crop, apply_matrix

# ------------------------------------------------------------------------------------------------ paste back


# What is replaced, in a crop from -1 to 1: centre, half width and half height, and the power that rounds its corners.
# The mouth with chin and cheeks as far as they move with it, where "auto" puts them.
_AREAS = {"face": ((0.0, 0.0), (1.0, 1.0), 4), "mouth": ((0.067, 0.47), (0.5, 0.46), 2)}


class PasteBack:
    """Lays rendered faces over the picture that the crop was cut from; made once per source (and crop).

    rect: (left, top, right, bottom), the part of the picture that changes.
    mask: float32 of that part, 1 inside, falling smoothly to exactly 0 at its edge: of the whole face a rounded square
    as large as the crop, of the mouth an oval.
    """

    def __init__(self, picture_shape: Sequence[int], crop: Crop, *, feather: float = 0.25, area: str = "face") -> None:
        """feather: width of the falling part as a fraction of the mask's half width, above 0 and at most 1.

        area: "face" or "mouth".
        """
        if not 0 < feather <= 1:
            raise EDTalkError(f"The feather of a paste is above 0 and at most 1, found {feather:g}.")
        height, width = picture_shape[:2]
        edge = crop.size - 1
        (middle_x, middle_y), (half_width, half_height), power = _AREAS[area]
        box = np.array([(x, y) for x in (-1, 1) for y in (-1, 1)]) * (half_width, half_height) + (middle_x, middle_y)
        corners = apply_matrix(crop.to_picture, (box + 1) * edge / 2)
        left, top = np.clip(np.floor(corners.min(0)), 0, (width, height)).astype(int).tolist()
        right, bottom = np.clip(np.ceil(corners.max(0)) + 1, 0, (width, height)).astype(int).tolist()
        self.shape, self.size = (height, width), crop.size
        self.rect = left, top, max(left, right), max(top, bottom)

        # A face larger than its place is averaged down before it is placed, as in `_sample`.
        self._reduced = crop.at_size(max(1, round(crop.size / max(1, round(1 / crop.scale)))))
        self._to_rect = self._reduced.to_picture - [[0, 0, left], [0, 0, top]]
        x, y = np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32)[:, None]
        across, down = crop.to_crop * 2 / edge - [[0, 0, 1 + middle_x], [0, 0, 1 + middle_y]]  # edges at +-1
        (a, b, c), (d, e, f) = (across / half_width).astype(np.float32), (down / half_height).astype(np.float32)
        u, v = a * x + b * y + c, d * x + e * y + f
        u, v = u * u, v * v
        # |u|^4 + |v|^4 = 1 is a rounded square
        inside = 0.9999 - (np.sqrt(np.sqrt(u * u + v * v)) if power == 4 else np.sqrt(u + v))
        ramp = np.clip(inside / feather, 0, 1)
        self.mask = ramp * ramp * (3 - 2 * ramp)
        self._rest = 1 - self.mask

    def paste(self, background: np.ndarray, face: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 (H, W, 3) with the uint8 (size, size, 3) face laid over it; outside the mask nothing changes.

        out: where to put the result; `out=background` changes only the rectangle, in place, and is the fastest.
        """
        if background.shape != (*self.shape, 3):
            raise EDTalkError(f"This paste is for pictures of {(*self.shape, 3)}, found {background.shape}.")
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
        """uint8 (H, W, 4): the face alone, straight alpha, transparent around it; for compositing over the plate."""
        left, top, right, bottom = self.rect
        layer = np.zeros((*self.shape, 4), np.uint8)
        if self.mask.size:
            layer[top:bottom, left:right, :3] = self._place(face)
            layer[top:bottom, left:right, 3] = np.rint(self.mask * 255)
        return layer

    def _place(self, face: np.ndarray) -> np.ndarray:
        """The face warped into the rectangle."""
        if face.shape != (self.size, self.size, 3):
            raise EDTalkError(f"This paste is for faces of {(self.size, self.size, 3)}, found {face.shape}.")
        if self._reduced.size != self.size:
            face = cv2.resize(face, (self._reduced.size, self._reduced.size), interpolation=cv2.INTER_AREA)
        left, top, right, bottom = self.rect
        # Cubic keeps a magnified face crisper; the repeated border is only ever seen where the mask is 0.
        flags = cv2.INTER_CUBIC if self._reduced.scale > 1 else cv2.INTER_LINEAR
        return cv2.warpAffine(
            face, self._to_rect, (right - left, bottom - top), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
