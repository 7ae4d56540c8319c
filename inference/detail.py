"""Pictures with the source's own texture: what the network lost of the source is put back where it has moved to.

At rest the network draws the source less sharply than it is. What it changes from there to another frame, it changes
well enough; so a frame is the source itself, warped as the network's last flow says, plus that change. At rest nothing
changes and the frame is the source, at whatever size. Where the source cannot show what is there, as within a mouth
that opens or behind a head that turned away, the flow is stretched or the network's mask closes, and the frame fades
into what the network drew alone.

The network's share of this is done at its own size, only the source is warped at the output's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

# Of the flow from the rest: how much longer or shorter an edge may become, as a factor, without its texture being
# doubted, and where nothing of it is left.
_TRUSTED, _REFUSED = 0.7, 0.25
_FAINT = 0.05  # a mask at rest below this says nothing about the source
_MISSED = 0.5, 1.5  # pixels of the network: where the flow at rest has no way back, texture goes from the first on
_STEPS = 4  # to find that way back; flows at rest differ little from none
_SOFT = 1.0  # pixels of the network: texture never ends in an edge
# Half-way values between pixels, from six of them: the filter that H.264 moves pictures with.
_HALF_WAY = np.array([1, -5, 20, 20, -5, 1], np.float32) / 32
_EDGE = cv2.BORDER_REPLICATE


Inset = tuple[np.ndarray, np.ndarray]  # (2, 3) from its pixels to [-1, 1] of the picture; (h, w, 4) colour times alpha


class Workspace:
    """Memory for frames of D pixels, used for one after another: fresh pages take longer than the arithmetic."""

    def __init__(self, size: int) -> None:
        self.places = np.empty((size, size, 2), np.float32)
        self.change, self.weight = np.empty((2, size, size, 3), np.float32)
        self.kept = np.empty((size, size), np.float32)
        self.seen = np.empty((size, size, 3), np.uint8)


class Detail:
    """What one source picture has that the network does not draw.

    fine: uint8 (D, D, 3), the square that the network saw, at the output's size D, no smaller than the network's S.
    planes float32 (3, S, S) in [-1, 1] and flow float32 (3, S, S): the source as the network draws it at rest, and its
    last level's flow and mask before their activations. workspace: of size D, that of other details of the same thread.
    """

    def __init__(self, fine: np.ndarray, planes: np.ndarray, flow: np.ndarray, workspace: Workspace) -> None:
        self.size, self._workspace = len(fine), workspace
        self._fine = _between(fine)
        self._rest = _levels(planes)
        self._pixels = _pixels(len(self._rest))
        looks, self._mask = _looks(flow)
        self._away = looks - self._pixels

    def __call__(
        self, planes: np.ndarray, flow: np.ndarray, whole_levels: bool = True, insets: Sequence[Inset] = ()
    ) -> np.ndarray:
        """What the network drew of another frame -> (D, D, 3), sRGB levels: uint8, or float32 that are not clamped.

        insets: what to lay over it, see `inference.model.insets.Laid.frame`.
        """
        looks, mask = _looks(flow)
        place, missed = self._place(looks)
        kept = self._kept(place, mask, missed)
        at_rest = cv2.remap(self._rest, place, None, cv2.INTER_CUBIC, None, _EDGE)
        change = cv2.subtract(_levels(planes), cv2.multiply(at_rest, cv2.merge((kept, kept, kept))))
        work, size, ratio = self._workspace, (self.size, self.size), self.size / len(change)
        shift = (place - self._pixels) * np.float32(2 * ratio)  # `_fine` has a pixel between any two
        if ratio != 1:
            shift = cv2.resize(shift, size, work.places, interpolation=cv2.INTER_LINEAR)
            change = cv2.resize(change, size, work.change, interpolation=cv2.INTER_CUBIC)
            kept = cv2.resize(kept, size, work.kept, interpolation=cv2.INTER_CUBIC)
        places = cv2.add(_pixels(self.size, 2), shift, work.places)
        seen = cv2.remap(self._fine, places, None, cv2.INTER_LINEAR, work.seen, _EDGE)
        weight = cv2.merge((kept, kept, kept), work.weight)
        seen = cv2.multiply(seen, weight, weight, dtype=cv2.CV_32F)
        result = cv2.add(seen, change, dtype=cv2.CV_8U if whole_levels else cv2.CV_32F)
        for to_picture, drawn in insets:
            _lay_over(result, to_picture, drawn)
        return result

    def _place(self, looks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel of a frame was at rest, (S, S, 2), and how far from that place the rest looked elsewhere.

        The pixel that looks at one place of the source now is the one that looked there at rest.
        """
        away, place = self._away, looks - self._away
        for _ in range(_STEPS - 1):
            place = looks - cv2.remap(away, place, None, cv2.INTER_LINEAR, None, _EDGE)
        missed = place + cv2.remap(away, place, None, cv2.INTER_LINEAR, None, _EDGE) - looks
        return place, np.hypot(missed[..., 0], missed[..., 1])

    def _kept(self, place: np.ndarray, mask: np.ndarray, missed: np.ndarray) -> np.ndarray:
        """(S, S) 0 .. 1: how much of the source's texture belongs at each pixel; 1 at rest."""
        least, most = _stretch(place)
        kept = np.clip((np.minimum(least, 1 / np.maximum(most, 1)) - _REFUSED) / (_TRUSTED - _REFUSED), 0, 1)
        mask_at_rest = cv2.remap(self._mask, place, None, cv2.INTER_LINEAR, None, _EDGE)
        kept *= np.minimum(mask / np.maximum(mask_at_rest, _FAINT), 1)
        kept *= np.clip((_MISSED[1] - missed) / (_MISSED[1] - _MISSED[0]), 0, 1)
        return cv2.GaussianBlur(kept, (0, 0), _SOFT, borderType=_EDGE)


def _lay_over(picture: np.ndarray, to_picture: np.ndarray, drawn: np.ndarray) -> None:
    """Change a picture (D, D, 3), levels, where an inset lies."""
    rows, columns = (np.flatnonzero(drawn[..., 3].any(axis)) for axis in (1, 0))
    if not rows.size:
        return
    size, left, top, right, bottom = len(picture), columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    drawn = drawn[top:bottom, left:right]
    to_pixel = to_picture * (size / 2)
    to_pixel[:, 2] += (size - 1) / 2 + to_pixel[:, :2] @ (left, top)
    width, height = right - left, bottom - top
    corners = np.array([[-1, -1, 1], [width, -1, 1], [-1, height, 1], [width, height, 1]]) @ to_pixel.T
    left, top = np.clip(np.floor(corners.min(0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0)) + 1, 0, size).astype(int)
    if left >= right or top >= bottom:
        return
    to_pixel[:, 2] -= left, top
    levels = np.concatenate([(drawn[..., :3] + drawn[..., 3:]) * np.float32(127.5), drawn[..., 3:]], -1)
    found = cv2.warpAffine(levels, to_pixel, (int(right - left), int(bottom - top)), flags=cv2.INTER_LINEAR)
    under, beside = picture[top:bottom, left:right], 1 - found[..., 3]
    kept = cv2.multiply(under, cv2.merge((beside, beside, beside)), dtype=cv2.CV_32F)
    over = np.ascontiguousarray(found[..., :3])
    under[...] = cv2.add(kept, over, dtype=cv2.CV_8U if picture.dtype == np.uint8 else cv2.CV_32F)


def _levels(planes: np.ndarray) -> np.ndarray:
    """(3, S, S), nominally in [-1, 1] -> (S, S, 3), 0 .. 255."""
    levels = (np.clip(planes, -1.0, 1.0) + 1.0) * np.float32(127.5)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


@lru_cache(maxsize=4)
def _pixels(size: int, step: int = 1) -> np.ndarray:
    """(size, size, 2) float32: x and y of each pixel, which are `step` apart."""
    line = np.arange(size, dtype=np.float32) * step
    return np.stack(np.meshgrid(line, line), -1)


def _looks(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel looks in the source, (S, S, 2) in pixels, and how much of what it sees it takes, (S, S)."""
    size = flow.shape[-1]
    line = np.linspace(-1.0, 1.0, size, dtype=np.float32)  # as `warp_grid`
    grid = np.stack(np.meshgrid(line, line), -1) + np.tanh(flow[:2]).transpose(1, 2, 0)
    return ((grid + 1) * size - 1) / 2, 1 / (1 + np.exp(-np.clip(flow[2], -30.0, 30.0)))


def _stretch(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, S) each: how far apart neighbours were at rest, along the directions of most and least; 0 where it folds."""
    padded = cv2.copyMakeBorder(place, 1, 1, 1, 1, cv2.BORDER_REFLECT_101)
    across = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    across[:, [0, -1]] = place[:, [1, -1]] - place[:, [0, -2]]
    down[[0, -1]] = place[[1, -1]] - place[[0, -2]]
    area = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    half = (np.square(across) + np.square(down)).sum(-1) / 2  # singular values of [across down], in closed form
    spread = np.sqrt(np.maximum(half * half - area * area, 0))
    least = np.sqrt(np.maximum(half - spread, 0))
    return np.where(area > 0, least, 0), np.sqrt(half + spread)


def _between(fine: np.ndarray) -> np.ndarray:
    """uint8 (D, D, 3) -> (2D - 1, 2D - 1, 3): a pixel more between any two, so that warping it softens nothing."""
    size = len(fine)
    one = np.ones(1, np.float32)
    result = np.empty((2 * size - 1, 2 * size - 1, 3), np.uint8)
    result[::2, ::2] = fine
    # OpenCV's anchor is the fourth of six taps' pixels: the value before each pixel
    across = cv2.sepFilter2D(fine, -1, _HALF_WAY, one, borderType=_EDGE)
    result[::2, 1::2] = across[:, 1:]
    result[1::2, ::2] = cv2.sepFilter2D(fine, -1, one, _HALF_WAY, borderType=_EDGE)[1:]
    result[1::2, 1::2] = cv2.sepFilter2D(across, -1, one, _HALF_WAY, borderType=_EDGE)[1:, 1:]
    return result
