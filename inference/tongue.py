"""Shades the inside of an opening mouth: a tongue behind the lower teeth, and a cavity that is darker towards the back.

The network for teeth predicts one smooth colour for all that is neither lip nor tooth. Here, this colour is multiplied
by factors. They depend on the shape of the gap between both rows of teeth only, as the network's masks show it, so
they move as smoothly as the masks.
"""

from __future__ import annotations

import cv2
import numpy as np

from .model.teeth import MASKS

_COLUMNS = 6  # the widest ones, whose mean is the gap
NARROW, WIDE = 2.0, 14.0  # pixels of the window: gaps from which on something is seen, and are fully lit
_EDGE, _SOFT = 0.95, 0.03  # v from which on a row's texture shows no teeth, and how gradually
_HEIGHT, _WIDTH = 0.66, 0.92  # of the tongue, as shares of the gap and of half its width
_HIGHEST = 15.0  # pixels of the window: a tongue does not grow further
# Logarithms of factors (red, green, blue) where the tongue is lightest, and at the back of the mouth.
_TONGUE, _BACK = (np.array(tone, np.float32) for tone in ((0.52, 0.64, 0.68), (-0.1, -0.2, -0.18)))
_DIM = 0.45  # share of the tongue's light in a narrow gap
_LIGHT = 0.4, 0.9  # logarithms above the mean of the mouth: from there on, the network shows a light tongue already
_PALATE = 0.35  # share by which the back is less dark behind the upper teeth
# Logarithms: shadows at the tongue's border, in its groove, and where it meets lower teeth or the lip; wet highlights.
_BORDER, _GROOVE, _BEHIND_TEETH, _BEHIND_LIP, _GLOSS = 0.2, 0.07, 0.25, 0.08, 0.12


def interior(planes: np.ndarray) -> np.ndarray | None:
    """Logarithms of factors of the mouth's colour, float32 (h, w, 3); None where no gap is seen.

    planes: float32 (h, w, PLANES) of the part of the mouth's window that shows it, see `inference.model.teeth`.
    """
    height, width = planes.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    inside = _sigmoid(planes[..., MASKS - 1])
    upper, lower = (
        _sigmoid(planes[..., row]) * _sigmoid((_EDGE - planes[..., MASKS + 2 * row + 1]) / _SOFT) for row in (0, 1)
    )
    free = inside * (1 - upper) * (1 - lower)
    gap, total = free.sum(0), float(free.sum())  # of each column
    opening = float(np.sort(gap)[-_COLUMNS:].mean())
    if opening < NARROW:
        return None
    lit = min((opening - NARROW) / (WIDE - NARROW), 1.0)
    middle, teeth = (free * y).sum(0) / np.maximum(gap, 1e-3), (inside * lower).sum(0)
    top, bottom, teeth = _smoothed(np.stack([middle - gap / 2, middle + gap / 2, teeth]), gap)
    centre = float((gap * x).sum()) / total
    half = 2 * float(np.sqrt((gap * (x - centre) ** 2).sum() / total))
    across = (x - centre) / max(_WIDTH * half, 1.0)
    round_ = np.clip(1 - across**2, 0, None)
    outline = np.maximum(0.55 * np.sqrt(round_) + 0.45 * round_, 0.15)  # the tongue's, 1 at its highest
    up = (bottom - y) / min(_HEIGHT * opening, _HIGHEST)
    level = up / outline  # 0 at the lower edge of the gap, 1 at the tongue's outline
    body = np.exp(-(((level - 0.45) / 0.5) ** 4)) * (1 - 0.45 * across**2)
    groove = np.exp(-((across / 0.1) ** 2)) * np.clip(1.1 - 2 * np.abs(level - 0.5), 0, 1)
    wet = np.exp(-(((level - 0.36) / 0.1) ** 2)) * np.exp(-(((np.abs(across) - 0.22) / 0.16) ** 2))
    below = _BEHIND_LIP + (_BEHIND_TEETH - _BEHIND_LIP) * np.clip(teeth / 4 - 0.2, 0, 1) * lit
    light = _GLOSS * wet - _BORDER * (1 - body) - _GROOVE * groove - below * np.exp(-np.maximum(up, 0) / 0.14)
    shown = planes[..., MASKS + 7 : MASKS + 10].mean(-1)  # a tongue between the lips is light already
    lighter = np.interp(shown - (shown * free).sum() / total, _LIGHT, (1, 0)) * (_DIM + (1 - _DIM) * lit)
    tongue = _TONGUE * (body * lighter)[..., None] + light[..., None]
    height_in_gap = np.clip((bottom - y) / np.maximum(bottom - top, 1), 0, 1)
    back = _BACK * ((1 - _PALATE * height_in_gap**3) * (0.6 + 0.4 * lit))[..., None]
    share = _sigmoid(8 * (1 - level) * outline)
    return ((back + (tongue - back) * share[..., None]) * min(opening / NARROW - 1, 1.0)).astype(np.float32)


def _smoothed(lines: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Lines (n, w) along the columns, smoothed where their weight (w,) is large and continued elsewhere."""
    planes = np.concatenate([lines * weight, weight[None]]).astype(np.float32)
    near, far = (
        cv2.GaussianBlur(planes, (0, 0), sigma, sigmaY=1e-3, borderType=cv2.BORDER_CONSTANT) for sigma in (3.0, 12.0)
    )
    mixed = near + 1e-3 * far
    return mixed[:-1] / (mixed[-1] + 1e-9)


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(np.minimum(-logit, 60.0)))
