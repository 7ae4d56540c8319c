"""Shades the inside of an opening mouth: a tongue behind the lower teeth, and a cavity that is darker towards the back.

The network for teeth predicts one smooth colour for all that is neither lip nor tooth. Here, this colour is multiplied
by factors. They depend on the shape of the gap between both rows of teeth, as the network's masks show it, so they move
as smoothly as the masks. The network's colour only weakens them, where it shows a light tongue already.

Lengths are in pixels of the mouth's window, at the size of the network's output. Factors and tones are natural
logarithms, because the planes of the network hold logarithms of colours: 0.1 is about 10 % lighter, -0.1 about 10 %
darker.
"""

from __future__ import annotations

import cv2
import numpy as np

from .model.teeth import MASKS

_UPPER, _LOWER = 0, 1  # rows of teeth
_REST_COLOUR = slice(MASKS + 7, MASKS + 10)  # planes: logarithms of the colour of all that is neither lip nor tooth

# The height of the gap between the rows of teeth.
_WIDEST_COLUMNS = 6  # its height is the mean of so many columns, the highest ones
NARROW, WIDE = 2.0, 14.0  # pixels: nothing is shaded below the first height, and the light is full from the second on
_TIPS, _TIPS_SOFTNESS = 0.95, 0.03  # v of the texture (0 gums, 1 past the tips) at which teeth end; how gradually

# The shape of the tongue.
_TONGUE_HEIGHT, _TONGUE_WIDTH = 0.66, 0.92  # shares of the gap's height and of its width
_TONGUE_HIGHEST = 15.0  # pixels: the tongue does not grow further

# Tones of red, green and blue: where the tongue is lightest, and at the back of the mouth.
_TONGUE_TONE = np.array((0.52, 0.64, 0.68), np.float32)
_BACK_TONE = np.array((-0.1, -0.2, -0.18), np.float32)
_NARROW_LIGHT = 0.45  # share of the tongue's light that is left in a gap of NARROW pixels
# Logarithms by which the network's own colour exceeds its mean over the gap: up to the first, the tongue is lit in
# full; from the second on, the network shows a light tongue itself and none is added.
_ALREADY_LIGHT = 0.4, 0.9
_PALATE = 0.35  # share by which the back is less dark behind the upper teeth

# Tones of shadows and of the highlight.
_BORDER_SHADOW = 0.2  # at the tongue's border
_GROOVE_SHADOW = 0.07  # along its middle
_TEETH_SHADOW, _LIP_SHADOW = 0.25, 0.08  # at the gap's lower edge, where the tongue meets lower teeth or the lip
_HIGHLIGHT = 0.12  # wet, beside the groove


def interior(planes: np.ndarray) -> np.ndarray | None:
    """Logarithms of factors of the mouth's colour, float32 (h, w, 3); None where the gap is lower than NARROW.

    planes: float32 (h, w, PLANES) of the part of the mouth's window that shows it, see `inference.model.teeth`.
    """
    height, width = planes.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    inside = _sigmoid(planes[..., MASKS - 1])
    upper, lower = _teeth(planes, _UPPER), _teeth(planes, _LOWER)
    free = inside * (1 - upper) * (1 - lower)
    gap, total = free.sum(0), float(free.sum())  # of each column
    opening = float(np.sort(gap)[-_WIDEST_COLUMNS:].mean())
    if opening < NARROW:
        return None
    lit = min((opening - NARROW) / (WIDE - NARROW), 1.0)

    # The upper and the lower edge of the gap, and the height of the lower teeth, in each column.
    middle, teeth = (free * y).sum(0) / np.maximum(gap, 1e-3), (inside * lower).sum(0)
    top, bottom, teeth = _smoothed(np.stack([middle - gap / 2, middle + gap / 2, teeth]), gap)

    # Coordinates of the tongue.
    centre = float((gap * x).sum()) / total
    half = 2 * float(np.sqrt((gap * (x - centre) ** 2).sum() / total))
    across = (x - centre) / max(_TONGUE_WIDTH * half, 1.0)  # -1 and 1 at its sides
    round_ = np.clip(1 - across**2, 0, None)
    outline = np.maximum(0.55 * np.sqrt(round_) + 0.45 * round_, 0.15)  # its height in each column, 1 at its highest
    up = (bottom - y) / min(_TONGUE_HEIGHT * opening, _TONGUE_HIGHEST)  # in the same unit
    level = up / outline  # 0 at the lower edge of the gap, 1 at the outline

    # Shapes of light and shadow, 0 to about 1.
    body = np.exp(-(((level - 0.45) / 0.5) ** 4)) * (1 - 0.45 * across**2)
    groove = np.exp(-((across / 0.1) ** 2)) * np.clip(1.1 - 2 * np.abs(level - 0.5), 0, 1)
    wet = np.exp(-(((level - 0.36) / 0.1) ** 2)) * np.exp(-(((np.abs(across) - 0.22) / 0.16) ** 2))
    below = _LIP_SHADOW + (_TEETH_SHADOW - _LIP_SHADOW) * np.clip(teeth / 4 - 0.2, 0, 1) * lit

    light = _HIGHLIGHT * wet - _BORDER_SHADOW * (1 - body) - _GROOVE_SHADOW * groove
    light = light - below * np.exp(-np.maximum(up, 0) / 0.14)
    shown = planes[..., _REST_COLOUR].mean(-1)
    excess = shown - (shown * free).sum() / total
    lighter = np.interp(excess, _ALREADY_LIGHT, (1, 0)) * (_NARROW_LIGHT + (1 - _NARROW_LIGHT) * lit)
    tongue = _TONGUE_TONE * (body * lighter)[..., None] + light[..., None]
    height_in_gap = np.clip((bottom - y) / np.maximum(bottom - top, 1), 0, 1)
    back = _BACK_TONE * ((1 - _PALATE * height_in_gap**3) * (0.6 + 0.4 * lit))[..., None]
    share = _sigmoid(8 * (1 - level) * outline)  # of the tongue: 0 above its outline, 1 within it
    return ((back + (tongue - back) * share[..., None]) * min(opening / NARROW - 1, 1.0)).astype(np.float32)


def _teeth(planes: np.ndarray, row: int) -> np.ndarray:
    """Share of each pixel that shows teeth of a row, 0..1 (h, w): its mask, without what lies past the tips."""
    v = planes[..., MASKS + 2 * row + 1]
    return _sigmoid(planes[..., row]) * _sigmoid((_TIPS - v) / _TIPS_SOFTNESS)


def _smoothed(lines: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Lines (n, w), a value for each column, smoothed where their weight (w,) is large and continued elsewhere.

    The narrow blur decides where columns nearby have a weight, the wide one where only distant columns do.
    """
    planes = np.concatenate([lines * weight, weight[None]]).astype(np.float32)
    near, far = (
        cv2.GaussianBlur(planes, (0, 0), sigma, sigmaY=1e-3, borderType=cv2.BORDER_CONSTANT) for sigma in (3.0, 12.0)
    )
    mixed = near + 1e-3 * far
    return mixed[:-1] / (mixed[-1] + 1e-9)


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(np.minimum(-logit, 60.0)))
