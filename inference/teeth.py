"""Draws single teeth in an opening mouth, at the output's resolution.

`inference.model.teeth` says where they are; this samples their texture. Teeth that the source shows are taken over into
the texture once per source, so they stay the person's own.
"""

from __future__ import annotations

import cv2
import numpy as np

from .closing import Mouth
from .model.insets import DARKEST, GREY
from .model.teeth import MASKS, ROWS, STRIP
from .source_teeth import SourceTeeth, find_upper_teeth
from .tongue import interior

_HIDDEN = -4.0  # logit of the inside of the lips below which nothing is drawn
_LEVELS = 3  # of reduced textures
_SURE = 0.5  # share of a pixel that must be teeth for it to be taken over
# Difference of tone and of colour, in logarithms, at which a pixel is no longer taken for teeth.
_TONE, _TINT = 0.8, 0.35
_FEW = 250.0  # texels: fewer own teeth, a few teeth's, only give their tone
_TOO_FEW = 80.0  # texels: fewer own teeth give nothing
_OWN_TONE = 0.4  # largest logarithm by which the tone of own teeth differs from the texture's
_SPREAD = 1.2  # texels: sigma of the points that are taken over
# The tongues of the rendered heads are lighter and redder than those of photographs: factors of their colours.
_MOUTH = np.array([0.8, 0.95, 0.95], np.float32)
_WIDE = 0.4  # share of the mouth's surroundings that must show its inside, for its colour to be taken over
_OWN_MOUTH = -1.2, 0.3  # limits of the logarithms of its factors
# Gap of the source's lips, in eye distances, from which on its own mouth is shaded less, and the least strength.
_OWN_GAP, _OWN_DEPTH = (0.25, 0.45), 0.3
_LIGHTEST = 0.2  # logarithm at which colours are clamped
# Of the upper and lower row: |u| from which on back teeth are darker, by which logarithm, and the share of filled gaps.
_SOFTENED = (0.6, 0.3, 0.0), (0.25, 0.7, 0.6)
_LOWERED = 0.07  # v: upper teeth lie lower than those of the rendered heads, whose lips hide them
_BLACK = np.float32(255 * DARKEST)  # added to levels before logarithms


def softened(strips: np.ndarray) -> np.ndarray:
    """Strips (ROWS, 4, *STRIP) as they are drawn: back teeth are dark and have no gaps, as each is a pixel wide from
    the front, and the gaps of lower teeth are less deep. Both would look like blotches.
    """
    across = np.abs(np.linspace(-1, 1, STRIP[1], dtype=np.float32))
    result = strips.copy()
    for row, (start, dark, gaps) in enumerate(_SOFTENED):
        back = np.clip((across - start) / 0.3, 0, 1)
        back = back * back * (3 - 2 * back)
        level = strips[row, :3].mean(0)
        deep = np.minimum(level - cv2.GaussianBlur(level, (0, 0), 6.0, sigmaY=1e-3), 0)
        for channel in range(3):
            plane = strips[row, channel] - gaps * deep
            soft = cv2.GaussianBlur(plane, (0, 0), 14.0, sigmaY=2.0, borderType=cv2.BORDER_REPLICATE)
            result[row, channel] = plane + (soft - plane - dark) * back
    return result


class TeethTexture:
    """strips: (ROWS, 4, *STRIP), see `inference.model.teeth.Teeth`. mouth: (3,) factors of the rest of the mouth.

    depth, colourful: strength of its shading, and of the colours of that, 0..1.
    """

    def __init__(
        self, strips: np.ndarray, mouth: np.ndarray = _MOUTH, depth: float = 1.0, colourful: float = 1.0
    ) -> None:
        self._own: SourceTeeth | None = None  # the upper teeth that the source shows
        self._depth, self._colourful = depth, colourful
        rows = [np.ascontiguousarray(strip.transpose(1, 2, 0), np.float32) for strip in strips]
        factors = [np.dstack([np.exp(row[..., :3]), row[..., 3]]) for row in rows]
        self._strips, self._mouth = rows, np.asarray(mouth, np.float32)
        self._levels = [factors] + [
            [cv2.GaussianBlur(row, (0, 0), 0.5 * 2**level, borderType=cv2.BORDER_REPLICATE) for row in factors]
            for level in range(1, _LEVELS)
        ]

    def lay_over(self, picture: np.ndarray, to_picture: np.ndarray, planes: np.ndarray) -> None:
        """Composite the teeth of a frame over it, in place. picture: (D, D, 3) levels, uint8 or float32.

        to_picture, planes: see `inference.model.insets.PlacedInset.frame`.
        """
        found = _enlarged(self._shaded(planes), to_picture, len(picture))
        if found is None:
            return
        place, planes = found
        opacity = _sigmoid(planes[..., MASKS - 1]) * planes[..., -1]
        front = [planes[..., MASKS + 4 + channel] for channel in range(3)]
        drawn = [planes[..., MASKS + 7 + channel] * self._mouth[channel] for channel in range(3)]
        own = (
            None
            if self._own is None
            else self._own.in_picture(_in_part(to_picture, len(picture), place), opacity.shape[::-1])
        )
        for row in (1, 0):  # upper teeth are in front of the lower ones
            *colours, alpha = cv2.split(self._sampled(row, planes))
            alpha *= _sigmoid(planes[..., row])
            if own is not None and row == 0:
                alpha *= 1 - own[..., 4]
            for behind, light, colour in zip(drawn, front, colours, strict=True):
                behind += (light * colour - behind) * alpha
        if own is not None:
            for channel, behind in enumerate(drawn):
                behind += own[..., channel] + (_BLACK - behind) * own[..., 3]
        under = picture[place]
        kept = cv2.multiply(under, cv2.merge([1 - opacity] * 3), dtype=cv2.CV_32F)
        over = cv2.merge([(colour - _BLACK) * opacity for colour in drawn])
        under[...] = cv2.add(kept, over, dtype=cv2.CV_8U if picture.dtype == np.uint8 else cv2.CV_32F)

    def of_source(
        self, picture: np.ndarray, to_picture: np.ndarray, planes: np.ndarray, open_mouth: Mouth | None = None
    ) -> TeethTexture:
        """The texture for a source: without colour in black and white, and with the teeth that the source shows.

        picture: uint8 (D, D, 3). to_picture, planes: as in `lay_over`, of the source at rest. open_mouth: in the
        picture, if its lips are apart.
        """
        colourful = _colourfulness(picture, to_picture, planes.shape[:2])
        strips, grey = [_coloured(strip, colourful) for strip in self._strips], self._mouth.mean()
        mouth = grey + (self._mouth - grey) * colourful
        gap = 0.0 if open_mouth is None else open_mouth.gap
        depth = float(np.interp(gap, _OWN_GAP, (1.0, _OWN_DEPTH)))
        texture = TeethTexture(np.stack([strip.transpose(2, 0, 1) for strip in strips]), mouth, depth, colourful)
        opaque = np.dstack([planes[..., :-1], np.ones_like(planes[..., :1])])
        found = _enlarged(texture._shaded(opaque), to_picture, len(picture))
        if found is not None:
            texture = texture._with_own(picture[found[0]], found[1])
        if open_mouth is not None:
            texture._own = find_upper_teeth(picture, _in_part(to_picture, len(picture)), planes.shape[:2], open_mouth)
        return texture

    def _shaded(self, planes: np.ndarray) -> np.ndarray:
        """`planes` (h, w, PLANES) whose colours of the mouth show its depth and the tongue."""
        left, top, width, height = cv2.boundingRect((planes[..., MASKS - 1] > _HIDDEN).view(np.uint8))
        part = slice(top, top + height), slice(left, left + width)
        factors = interior(planes[part]) if width else None
        if factors is None:
            return planes
        if self._colourful < 1:
            grey = factors.mean(-1, keepdims=True)
            factors = grey + np.float32(self._colourful) * (factors - grey)
        result = planes.copy(order="K")  # a plane stays in one piece
        result[part][..., MASKS + 7 : -1] += np.float32(self._depth) * factors
        return result

    def _with_own(self, picture: np.ndarray, planes: np.ndarray) -> TeethTexture:
        """picture: the source's mouth, uint8 (h, w, 3); planes: (h, w, PLANES)."""
        inside, levels = _sigmoid(planes[..., MASKS - 1]), picture.astype(np.float32) + _BLACK
        front, behind = (np.maximum(planes[..., start : start + 3], 1.0) for start in (MASKS + 4, MASKS + 7))
        seen, rest, found = np.log(levels / front), inside * (inside > _SURE), []
        for row in range(ROWS):
            texels = self._sampled(row, planes)
            away = seen - np.log(texels[..., :3])
            rest = rest * (1 - texels[..., 3] * _sigmoid(planes[..., row]))
            like = (1 - np.maximum(np.abs(away.mean(-1)) / _TONE, np.ptp(away, -1) / _TINT)) * 2
            weight = inside * _sigmoid(planes[..., row]) * texels[..., 3] * np.clip(like, 0, 1)
            found.append(_unrolled(seen, np.maximum(weight - _SURE, 0) / (1 - _SURE), planes, row))
        mouth = self._mouth
        if rest.sum() > _WIDE * picture.shape[0] * picture.shape[1]:
            share = (np.log(levels / behind) * rest[..., None]).sum((0, 1)) / rest.sum()
            mouth = np.exp(np.clip(share, *_OWN_MOUTH))
        kept = mouth, self._depth, self._colourful
        amount = sum(filled.sum() for _, filled in found)
        if amount < _TOO_FEW:
            return TeethTexture(np.stack([strip.transpose(2, 0, 1) for strip in self._strips]), *kept)
        rows = list(zip(found, self._strips, strict=True))
        tone = sum(((own - base[..., :3]) * filled[..., None]).sum((0, 1)) for (own, filled), base in rows) / amount
        tone = np.clip(tone, -_OWN_TONE, _OWN_TONE)
        result = []
        for (own, filled), base in rows:
            colour = base[..., :3] + tone
            if amount >= _FEW:
                colour += (own - colour) * filled[..., None]
            result.append(np.dstack([colour, base[..., 3]]).transpose(2, 0, 1))
        return TeethTexture(np.stack(result), *kept)

    def _sampled(self, row: int, planes: np.ndarray) -> np.ndarray:
        """(h, w, 4) factors of the colour and opacity of a row at the coordinates in `planes`."""
        across, down = _texels(row, planes)
        step = np.median(np.abs(np.diff(across[::8], axis=1))) if across.shape[1] > 1 else 1.0
        level = int(np.clip(np.round(np.log2(max(step, 1e-3))), 0, _LEVELS - 1))
        strip = self._levels[level][row]
        return cv2.remap(strip, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _colourfulness(picture: np.ndarray, to_picture: np.ndarray, shape: tuple[int, int]) -> float:
    """0 where a window of that height and width shows black and white, 1 where it shows colours."""
    to_pixel = to_picture * (len(picture) / 2)
    to_pixel[:, 2] += (len(picture) - 1) / 2
    area = shape[::-1]
    window = cv2.warpAffine(
        picture, to_pixel, area, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    level = np.log(np.median(window.reshape(-1, 3), 0) / 255 + DARKEST)
    return float(min(np.ptp(level) / GREY, 1.0))


def _coloured(strip: np.ndarray, colourfulness: float) -> np.ndarray:
    """A strip (h, w, 4) whose colours are grey at 0."""
    grey = strip[..., :3].mean(-1, keepdims=True)
    return np.dstack([grey + (strip[..., :3] - grey) * colourfulness, strip[..., 3]]).astype(np.float32)


def _texels(row: int, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and line in the texture of a row, (h, w) float32 each."""
    height, width = STRIP
    u, v = planes[..., MASKS + 2 * row], planes[..., MASKS + 2 * row + 1]
    if row == 0:
        v = v - np.float32(_LOWERED)
    return (u + 1) * np.float32(width / 2) - np.float32(0.5), v * np.float32(height) - np.float32(0.5)


def _unrolled(seen: np.ndarray, weight: np.ndarray, planes: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours (h, w, 3) of a picture in the texture of a row, (*STRIP, 3), and where they are known, 0..1."""
    height, width = STRIP
    across, down = (np.round(texel).astype(int) for texel in _texels(row, planes))
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height) & (weight > 0)
    index, amount = down[inside] * width + across[inside], weight[inside]
    sums = [np.bincount(index, amount * seen[inside][:, channel], height * width) for channel in range(3)]
    planes = np.stack([np.bincount(index, amount, height * width), *sums], -1).astype(np.float32)
    planes = cv2.GaussianBlur(planes.reshape(height, width, 4), (0, 0), _SPREAD)
    known = planes[..., :1]
    return planes[..., 1:] / np.maximum(known, 1e-6), np.clip(known[..., 0] / 0.1, 0, 1)


def _enlarged(planes: np.ndarray, to_picture: np.ndarray, size: int) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """The part of the picture that shows the planes, and the planes at its resolution, (h, w, PLANES).

    Colours are levels plus _BLACK instead of logarithms. None if the planes show nothing.
    """
    planes = planes.transpose(2, 0, 1)
    shown = (planes[MASKS - 1] > _HIDDEN) & (planes[-1] > 0)
    left, top, width, height = cv2.boundingRect(shown.view(np.uint8))
    if not width:
        return None
    right, bottom, left, top = left + width + 1, top + height + 1, max(left - 1, 0), max(top - 1, 0)
    part = planes[:, top:bottom, left:right].copy()
    part[MASKS + 4 : -1] = 255 * np.exp(np.minimum(part[MASKS + 4 : -1], np.float32(_LIGHTEST)))
    to_pixel = to_picture * (size / 2)
    to_pixel[:, 2] += (size - 1) / 2 + to_pixel[:, :2] @ (left, top)
    height, width = part.shape[1:]
    corners = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]]) @ to_pixel.T
    left, top = (min(max(int(first), 0), size) for first in np.floor(corners.min(0)))
    right, bottom = (min(max(int(last) + 1, 0), size) for last in np.ceil(corners.max(0)))
    if left >= right or top >= bottom:
        return None
    to_pixel[:, 2] -= left, top
    # Each plane stays in one piece: almost all that follows uses single ones.
    found = np.empty((len(part), bottom - top, right - left), np.float32)
    for start in range(0, len(part), 4):
        group = cv2.merge(list(part[start : start + 4]))
        warped = cv2.warpAffine(group, to_pixel, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
        cv2.split(warped, list(found[start : start + 4]))
    return (slice(top, bottom), slice(left, right)), found.transpose(1, 2, 0)


def _in_part(to_picture: np.ndarray, size: int, part: tuple[slice, slice] | None = None) -> np.ndarray:
    """The matrix (2, 3) from pixels of a window to those of a part of a picture of `size` pixels, or of all of it."""
    to_pixel = to_picture * (size / 2)
    to_pixel[:, 2] += (size - 1) / 2
    if part is not None:
        to_pixel[:, 2] -= part[1].start, part[0].start
    return to_pixel


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))
