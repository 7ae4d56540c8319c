"""What a frame's file holds: the face's square, the square with a matte, or the whole picture with the face in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..media.picture import Picture
from .detect import Crop, crop_face
from .paste import PasteBack


@dataclass
class Layering:
    """Makes a shot's pictures of rendered faces; layer, mask and feather are those of `inference.contract.shot.Shot`.

    What depends on the crop alone is computed once for all frames that have the same one.
    """

    layer: str = "square"
    mask: str = "face"
    feather: float = 0.25
    _paste: tuple[tuple, PasteBack] | None = field(default=None, init=False, repr=False)

    @property
    def needs_picture(self) -> bool:
        """Whether the picture that the face was cut from is looked at."""
        return self.layer in ("plate", "pasted")

    def compose(self, face: np.ndarray, picture: Picture | None, crop: Crop) -> np.ndarray:
        """uint8 (H, W, 3), or (H, W, 4) with straight alpha, of a square face uint8 (S, S, 3) of any size.

        picture: what the face was cut from by `crop`; None will do unless `needs_picture`. Its own alpha, if it has
        one, stays. Outside the mask "pasted" is the picture bit for bit, and the alpha of the others exactly 0.
        """
        if self.layer == "square":
            return face
        size, alpha = len(face), None if picture is None else picture.alpha
        if self.layer == "matte":
            paste = self._paste_for((size, size), Crop(size, np.eye(2, 3)))
            matte = paste.layer(face)[..., 3]
            if alpha is not None:
                matte = _both(matte, crop_face(alpha, crop.at_size(size)))
            return np.dstack([face, matte])
        paste = self._paste_for(picture.rgb.shape, crop.at_size(size))
        if self.layer == "pasted":
            pasted = paste.paste(picture.rgb, face)
            return pasted if alpha is None else np.dstack([pasted, alpha])
        layer = paste.layer(face)
        if alpha is not None:
            layer[..., 3] = _both(layer[..., 3], alpha)
        return layer

    def without_face(self, rgb: np.ndarray, size: int) -> np.ndarray:
        """The same of a frame of footage that shows no face; `size`: what its square would have."""
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


def _both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two alphas, one within the other."""
    return np.rint(first * (second / np.float32(255))).astype(np.uint8)
