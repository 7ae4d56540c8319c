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
from functools import cached_property, lru_cache
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np

from . import grain
from .teeth import TeethTexture

# The distance in the source of neighbouring pixels of a frame, in pixels, and its inverse, below which texture is not
# used and above which it is used in full. Stretched texture is streaky, but the network's output is blurred there.
STRETCHED = 0.12, 0.35
SQUEEZED = 0.1, 0.4
FAINT = 0.05  # smallest mask at rest to which other masks are compared
RESIDUAL = 0.5, 1.5  # network pixels: error of the inverted flow at which texture starts to fade and is fully off
GRAIN_STEPS = 4  # per level
LEAST_GRAIN = 0.25  # weights of new grain below it are 0, as they would be seen little but cost time
GRAIN_TILES = 4, 2  # rows and columns; grain costs time in the rectangle around what each of them needs
STEPS = 4  # iterations of inverting the flow at rest, which is close to zero
SOFT = 1.0  # network pixels: sigma of the blur of the texture's weight
# Rows of the frames of a batch that are sampled together, so that their part of the portrait stays in the cache.
BAND = 32
_EDGE = cv2.BORDER_REPLICATE
_THIN = np.ones((3, 3), np.uint8)
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
        self._fine = grain.between(fine)
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
        seen = self._seen([shift for *_, shift, _ in small])
        for texture, (*_, shift, streaky) in zip(seen, small, strict=True):
            if streaky is not None:
                self._regrain(texture, shift, streaky)
        size, level = (self.size, self.size), cv2.CV_8U if whole_levels else cv2.CV_32F
        frames = []
        for texture, (change, kept, *_), over in zip(seen, small, insets or [()] * len(seen), strict=True):
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
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """All that is computed at the network's size for a frame.

        Returns what is added to the texture (S, S, 3), in levels, the texture's weight (S, S), by how many pixels of
        `_fine` the texture is moved (S, S, 2), and the weight of its new grain (S, S), None without.
        """
        positions = _sampling_positions(places)
        place, residual = self._place(positions)
        stretch = _stretch(place)
        kept = self._kept(place, mask, residual, stretch)
        at_rest = cv2.remap(self._rest, place, None, cv2.INTER_CUBIC, None, _EDGE)
        change = cv2.subtract(_levels(planes), cv2.multiply(at_rest, cv2.merge((kept, kept, kept))))
        shift = (place - self._pixels) * np.float32(2 * self.size / len(mask))
        return change, kept, shift, self._streaky(stretch, kept, place)

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

    @cached_property
    def _new_grain(self) -> tuple[np.ndarray, np.ndarray] | None:
        """What gives `_fine` its new grain: uint8, GRAIN_STEPS per level, 128 is none; and where there is some,
        (S, S) 0..1. None if it shows no skin.
        """
        new = grain.new_grain(np.ascontiguousarray(self._fine[::2, ::2]))
        if new is None:
            return None
        area = cv2.resize(
            (np.abs(new) > 0.25).astype(np.float32), self._rest.shape[1::-1], interpolation=cv2.INTER_AREA
        )
        return cv2.addWeighted(new, GRAIN_STEPS, new, 0, 128, dtype=cv2.CV_8U), area

    def _streaky(self, stretch: Stretch, kept: np.ndarray, place: np.ndarray) -> np.ndarray | None:
        """(S, S) weight of the new grain at each pixel, 0..1, where texture is used; None if it is 0."""
        if self.size < 2 * len(kept):  # grain is finer than a pixel
            return None
        wide, full = grain.STRETCHED
        seen = (stretch.across < wide**2 * stretch.down) & (stretch.least > 0) & (kept > 0)
        if not seen.any() or self._new_grain is None:
            return None
        weight = (1 - _share(np.sqrt(stretch.across / np.maximum(stretch.down, 1e-9)), full, wide)) * seen
        weight *= cv2.remap(self._new_grain[1], place, None, cv2.INTER_LINEAR, None, _EDGE)
        weight = cv2.erode(weight, _THIN)  # a thin strip, as beside the far side, would double the area
        weight = cv2.GaussianBlur(weight, (0, 0), SOFT, borderType=_EDGE)
        weight = np.maximum(weight - np.float32(LEAST_GRAIN), 0) * np.float32(1 / (1 - LEAST_GRAIN))  # fades in
        return weight if weight.any() else None

    def _regrain(self, picture: np.ndarray, shift: np.ndarray, weight: np.ndarray) -> None:
        """Give new grain to a moved portrait (D, D, 3), in place. shift, weight: see `_small`."""
        assert self._new_grain is not None
        small = len(weight)
        ratio, rest = divmod(self.size, small)
        if rest:
            shift, weight = (cv2.resize(part, (self.size, self.size)) for part in (shift, weight))
            ratio, small = 1, self.size
        rows, columns = (-(-small // count) for count in GRAIN_TILES)
        used = (weight > 0).view(np.uint8)
        shift, weight = (cv2.copyMakeBorder(part, 1, 1, 1, 1, _EDGE) for part in (shift, weight))
        for row, column in product(range(0, small, rows), range(0, small, columns)):
            left, top, width, height = cv2.boundingRect(used[row : row + rows, column : column + columns])
            if not width:
                continue
            left, top = left + column, top + row
            around = np.s_[top : top + height + 2, left : left + width + 2]  # interpolation reads one pixel more
            inner = np.s_[ratio : (height + 1) * ratio, ratio : (width + 1) * ratio]
            moved, strength = (cv2.resize(one[around], None, fx=ratio, fy=ratio)[inner] for one in (shift, weight))
            area = np.s_[top * ratio : (top + height) * ratio, left * ratio : (left + width) * ratio]
            moved = cv2.add(_pixels(self.size, 2)[area], moved)
            new = cv2.remap(self._new_grain[0], moved, None, cv2.INTER_LINEAR, None, _EDGE)
            new = cv2.multiply(cv2.subtract(new, 128, dtype=cv2.CV_32F), strength, scale=1 / GRAIN_STEPS)
            picture[area] = cv2.add(picture[area], cv2.merge((new, new, new)), dtype=cv2.CV_8U)

    def _place(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position at rest of each pixel of a frame, (S, S, 2), and the error of that inversion, (S, S), in pixels.

        A pixel of the frame corresponds to the pixel that sampled the same position of the source at rest.
        """
        away, place = self._away, positions - self._away
        for _ in range(STEPS - 1):
            place = positions - cv2.remap(away, place, None, cv2.INTER_LINEAR, None, _EDGE)
        residual = place + cv2.remap(away, place, None, cv2.INTER_LINEAR, None, _EDGE) - positions
        return place, cv2.magnitude(*cv2.split(residual))

    def _kept(self, place: np.ndarray, mask: np.ndarray, residual: np.ndarray, stretch: Stretch) -> np.ndarray:
        """(S, S) weight of the source's texture at each pixel, 0..1; 1 at rest."""
        least, most, *_ = stretch
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


class Stretch(NamedTuple):
    """Distances of neighbouring pixels at rest, (S, S) each: smallest and largest of all directions, and the squares of
    those across and down. The smallest one is 0 at folds.
    """

    least: np.ndarray
    most: np.ndarray
    across: np.ndarray
    down: np.ndarray


def _stretch(place: np.ndarray) -> Stretch:
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
    return Stretch(np.where(area > 0, least, 0), np.sqrt(half + spread), x, y)


def _share(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 up to `low`, 1 from `high` on."""
    return np.clip((value - low) / (high - low), 0, 1)
