"""The resolution at which a face is rendered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..contract.shot import FILLS_PICTURE

if TYPE_CHECKING:
    from .crop import Crop

_SIZES = 256, 512, 1024  # pixels


@dataclass(frozen=True)
class FaceSize:
    """How many pixels wide the square of a face is rendered.

    pixels: the width, raised to the bank's own if that is larger (so 0 means the bank's own); None: the smallest of the
        bank's own, 256, 512 and 1024 that keeps the resolution of the source.
    detail: whether the fine texture of the source is added (`inference.detail`). Without it the network's output is
        used, which always has the bank's own size.
    """

    pixels: int | None = 0
    detail: bool = True

    @staticmethod
    def of(layer: str, size: int, detail: bool) -> FaceSize:
        """The size at which a shot with these options renders its face, see `contract.shot.Shot`."""
        return FaceSize(None if layer in FILLS_PICTURE and not size else size, detail)

    def side(self, native: int, crop: Crop) -> int:
        """The width in pixels. native: the bank's own size; crop: where the face is in the source."""
        if not self.detail:
            return native
        if self.pixels is not None:
            return max(self.pixels, native)
        in_source = crop.scale * crop.size
        return max(native, next((size for size in (native, *_SIZES) if size >= in_source), _SIZES[-1]))


BANK_SIZE, SOURCE_SIZE = FaceSize(0), FaceSize(None)
