"""Detail transfer: adds the portrait's own texture, which the network does not render, to the frames.

The network renders the source at rest with less detail than the picture has, but it renders the change from rest to
another frame accurately. A frame is therefore the source, warped by the network's last flow, plus that change. At rest
the change is zero and the frame equals the source, at any size. Where the source does not show the content, as in an
opening mouth or behind a turned head, the flow is stretched or the network's mask is low. There the network's own
output is used.

Everything but the warp of the source is computed at the network's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from .teeth import TeethTexture

# The distance in the source of neighbouring pixels of a frame, in pixels, and its inverse, below which texture is not
# used and above which it is used in full. Stretched texture is streaky, but the network's output is blurred there.
STRETCHED = 0.12, 0.35
SQUEEZED = 0.1, 0.4
FAINT = 0.05  # smallest mask at rest to which other masks are compared
RESIDUAL = 0.5, 1.5  # network pixels: error of the inverted flow at which texture starts to fade and is fully off
STEPS = 4  # iterations of inverting the flow at rest, which is close to zero
SOFT = 1.0  # network pixels: sigma of the blur of the texture's weight
# Interpolation half-way between pixels from six of them: the filter of H.264's motion compensation.
HALF_WAY = np.array([1, -5, 20, 20, -5, 1], np.float32) / 32
# Rows of the frames of a batch that are sampled together, so that their part of the portrait stays in the cache.
BAND = 32
_EDGE = cv2.BORDER_REPLICATE
# From premultiplied colours in [-1, 1] and alpha to premultiplied levels and alpha.
_TO_LEVELS = np.array([[127.5, 0, 0, 127.5], [0, 127.5, 0, 127.5], [0, 0, 127.5, 127.5], [0, 0, 0, 1]], np.float32)
# Four channels to two pictures of three: the colours, and alpha three times.
_COLOURS_AND_ALPHA = [0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 3, 5]

# An inset, see `inference.model.insets.PlacedInset.frames`: the matrix from its pixels to [-1, 1] of the picture,
# (4, h, w) premultiplied RGBA, and its teeth or None.
Inset = tuple[np.ndarray, np.ndarray, np.ndarray | None]


class Workspace:
    """Reusable memory for frames of D pixels: allocating it would take longer than the arithmetic."""

    def __init__(self, size: int) -> None:
        self.change, self.weight = np.empty((2, size, size, 3), np.float32)
        self.kept = np.empty((size, size), np.float32)


class Detail:
    """The texture of one source picture, to be added to its frames.

    fine: uint8 (D, D, 3), the network's input at the output's size D, at least the network's size S. planes: float32
    (3, S, S) in [-1, 1], the source as rendered at rest. places, mask: float32 (2, S, S) in [-1, 1] and (S, S) in 0..1,
    where the source was sampled at rest, and how much of it was used. teeth: their texture; None to draw none.
    """

    def __init__(
        self,
        fine: np.ndarray,
        planes: np.ndarray,
        places: np.ndarray,
        mask: np.ndarray,
        teeth: TeethTexture | None = None,
    ) -> None:
        self.size, self._teeth = len(fine), teeth
        self._fine = _between(fine)
        self._rest = _levels(planes)
        self._pixels = _pixels(len(self._rest))
        self._mask, self._away = mask, _sampling_positions(places) - self._pixels

    def __call__(
        self,
        planes: np.ndarray,
        places: np.ndarray,
        masks: np.ndarray,
        work: Workspace,
        whole_levels: bool = True,
        insets: Sequence[Sequence[Inset]] = (),
    ) -> list[np.ndarray]:
        """Add texture to the network's output for N frames. Returns the frames, (D, D, 3) sRGB levels each.

        planes, places, masks: the network's output, (N, ...) of the same form as in the constructor. work: of this
        size, not used by another thread. whole_levels: return uint8, else float32 in 0..255, not clamped. insets: of
        each frame, composited over it; default none.
        """
        small = [self._small(*output) for output in zip(planes, places, masks, strict=True)]
        seen = self._seen([shift for *_, shift in small])
        size, level = (self.size, self.size), cv2.CV_8U if whole_levels else cv2.CV_32F
        frames = []
        for texture, (change, kept, _), over in zip(seen, small, insets or [()] * len(seen), strict=True):
            if len(change) != self.size:
                change = cv2.resize(change, size, work.change, interpolation=cv2.INTER_CUBIC)
                kept = cv2.resize(kept, size, work.kept, interpolation=cv2.INTER_CUBIC)
            weight = cv2.merge((kept, kept, kept), work.weight)
            weighted = cv2.multiply(texture, weight, weight, dtype=cv2.CV_32F)
            frame = cv2.add(weighted, change, texture if whole_levels else None, dtype=level)
            for to_picture, drawn, teeth in over:
                _lay_over(frame, to_picture, drawn)
                if teeth is not None and self._teeth is not None:
                    self._teeth.lay_over(frame, to_picture, teeth)
            frames.append(frame)
        return frames

    def _small(
        self, planes: np.ndarray, places: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All that is computed at the network's size for a frame.

        Returns what is added to the texture (S, S, 3), in levels, the texture's weight (S, S), and by how many pixels
        of `_fine` the texture is moved (S, S, 2).
        """
        positions = _sampling_positions(places)
        place, residual = self._place(positions)
        kept = self._kept(place, mask, residual)
        at_rest = cv2.remap(self._rest, place, None, cv2.INTER_CUBIC, None, _EDGE)
        change = cv2.subtract(_levels(planes), cv2.multiply(at_rest, cv2.merge((kept, kept, kept))))
        return change, kept, (place - self._pixels) * np.float32(2 * self.size / len(mask))

    def _seen(self, shifts: list[np.ndarray]) -> list[np.ndarray]:
        """The portrait, moved by each of the shifts (S, S, 2), see `_small`: uint8 (D, D, 3) each."""
        places, small = _pixels(self.size, 2), len(self._pixels)
        result = [np.empty((self.size, self.size, 3), np.uint8) for _ in shifts]
        ratio, rest = divmod(self.size, small)
        step, margin = (small, 0) if rest else (max(BAND // ratio, 1), ratio)
        if margin:  # interpolation reads one row beyond the band
            shifts = [cv2.copyMakeBorder(shift, 1, 1, 0, 0, _EDGE) for shift in shifts]
        for top in range(0, small, step):
            bottom = min(top + step, small)
            rows = slice(top * ratio, bottom * ratio) if margin else slice(0, self.size)
            for picture, shift in zip(result, shifts, strict=True):
                if margin:
                    shift = shift[top : bottom + 2]
                area = self.size, rows.stop - rows.start + 2 * margin
                moved = cv2.resize(shift, area, interpolation=cv2.INTER_LINEAR)[margin : area[1] - margin]
                moved = cv2.add(places[rows], moved, moved)
                cv2.remap(self._fine, moved, None, cv2.INTER_LINEAR, picture[rows], _EDGE)
        return result

    def _place(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position at rest of each pixel of a frame, (S, S, 2), and the error of that inversion, (S, S), in pixels.

        A pixel of the frame corresponds to the pixel that sampled the same position of the source at rest.
        """
        away, place = self._away, positions - self._away
        for _ in range(STEPS - 1):
            place = positions - cv2.remap(away, place, None, cv2.INTER_LINEAR, None, _EDGE)
        residual = place + cv2.remap(away, place, None, cv2.INTER_LINEAR, None, _EDGE) - positions
        return place, cv2.magnitude(*cv2.split(residual))

    def _kept(self, place: np.ndarray, mask: np.ndarray, residual: np.ndarray) -> np.ndarray:
        """(S, S) weight of the source's texture at each pixel, 0..1; 1 at rest."""
        least, most = _stretch(place)
        kept = np.minimum(_share(least, *STRETCHED), _share(1 / np.maximum(most, 1), *SQUEEZED))
        mask_at_rest = cv2.remap(self._mask, place, None, cv2.INTER_LINEAR, None, _EDGE)
        kept *= np.minimum(mask / np.maximum(mask_at_rest, FAINT), 1)
        kept *= np.clip((RESIDUAL[1] - residual) / (RESIDUAL[1] - RESIDUAL[0]), 0, 1)
        return cv2.GaussianBlur(kept, (0, 0), SOFT, borderType=_EDGE)


def _lay_over(picture: np.ndarray, to_picture: np.ndarray, drawn: np.ndarray) -> None:
    """Composite an inset (4, h, w) over a picture (D, D, 3) of levels, in place."""
    left, top, width, height = cv2.boundingRect((drawn[3] != 0).view(np.uint8))
    if not width:
        return
    size = len(picture)
    drawn = cv2.merge(list(drawn[:, top : top + height, left : left + width]))
    to_pixel = to_picture * (size / 2)
    to_pixel[:, 2] += (size - 1) / 2 + to_pixel[:, :2] @ (left, top)
    corners = np.array([[-1, -1, 1], [width, -1, 1], [-1, height, 1], [width, height, 1]]) @ to_pixel.T
    left, top = (min(max(int(first), 0), size) for first in np.floor(corners.min(0)))
    right, bottom = (min(max(int(last) + 1, 0), size) for last in np.ceil(corners.max(0)))
    if left >= right or top >= bottom:
        return
    to_pixel[:, 2] -= left, top
    levels = cv2.transform(drawn, _TO_LEVELS)
    found = cv2.warpAffine(levels, to_pixel, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    colours, kept = np.empty((2, *found.shape[:2], 3), np.float32)
    cv2.mixChannels([found], [colours, kept], _COLOURS_AND_ALPHA)
    np.subtract(1, kept, out=kept)
    under = picture[top:bottom, left:right]
    cv2.multiply(under, kept, kept, dtype=cv2.CV_32F)
    cv2.add(kept, colours, under, dtype=cv2.CV_8U if picture.dtype == np.uint8 else cv2.CV_32F)


def _levels(planes: np.ndarray) -> np.ndarray:
    """(3, S, S), nominally in [-1, 1] -> (S, S, 3), 0 .. 255."""
    return cv2.merge(list((np.clip(planes, -1.0, 1.0) + 1.0) * np.float32(127.5)))


@lru_cache(maxsize=4)
def _pixels(size: int, step: int = 1) -> np.ndarray:
    """(size, size, 2) float32: x and y of each pixel, `step` apart."""
    line = np.arange(size, dtype=np.float32) * step
    return np.stack(np.meshgrid(line, line), -1)


def _sampling_positions(places: np.ndarray) -> np.ndarray:
    """(2, S, S) in [-1, 1] -> (S, S, 2) in pixels."""
    size = places.shape[-1]
    return cv2.merge(list(((places + np.float32(1)) * size - np.float32(1)) / np.float32(2)))


def _stretch(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest distance of neighbouring pixels at rest, over all directions, (S, S) each; 0 at folds."""
    padded = cv2.copyMakeBorder(place, 1, 1, 1, 1, cv2.BORDER_REFLECT_101)
    across = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    across[:, [0, -1]] = place[:, [1, -1]] - place[:, [0, -2]]
    down[[0, -1]] = place[[1, -1]] - place[[0, -2]]
    (x_across, y_across), (x_down, y_down) = cv2.split(across), cv2.split(down)
    area = x_across * y_down - y_across * x_down
    x, y = np.square(x_across) + np.square(x_down), np.square(y_across) + np.square(y_down)
    half = (x + y) / 2  # singular values of [across down], in closed form
    spread = np.sqrt(np.maximum(half * half - area * area, 0))
    least = np.sqrt(np.maximum(half - spread, 0))
    return np.where(area > 0, least, 0), np.sqrt(half + spread)


def _share(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 up to `low`, 1 from `high` on."""
    return np.clip((value - low) / (high - low), 0, 1)


def _between(fine: np.ndarray) -> np.ndarray:
    """uint8 (D, D, 3) -> (2D - 1, 2D - 1, 3): one pixel is inserted between any two, so that warping does not blur."""
    size = len(fine)
    one = np.ones(1, np.float32)
    result = np.empty((2 * size - 1, 2 * size - 1, 3), np.uint8)
    result[::2, ::2] = fine
    # The anchor of a filter with six taps is the fourth one in OpenCV, so this is the value before each pixel.
    across = cv2.sepFilter2D(fine, -1, HALF_WAY, one, borderType=_EDGE)
    result[::2, 1::2] = across[:, 1:]
    result[1::2, ::2] = cv2.sepFilter2D(fine, -1, one, HALF_WAY, borderType=_EDGE)[1:]
    result[1::2, 1::2] = cv2.sepFilter2D(across, -1, one, HALF_WAY, borderType=_EDGE)[1:, 1:]
    return result
