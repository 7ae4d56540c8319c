"""The upper teeth that a portrait shows, cut out to be composited over an opening mouth.

Upper teeth move with the skull, as the window of the mouth does. They are therefore cut out once per portrait, in
pixels of that window, and stay at their place while the lips part.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .closing import Mouth
from .face.lip_edges import COUNT, best_path

COLUMNS, ROWS = 2 * COUNT - 1, 40  # of the chart of the mouth's inside, from corner to corner and from lip to lip
FINE = 1.25  # pixels of the cut-out per pixel of the source
# Teeth are less red than this share of the lips' redness, and lighter than this share of what is lightest; between the
# two values, a pixel partly counts as teeth.
REDNESS, LIGHT = (0.55, 0.85), (0.45, 0.65)
GREY = 4.0  # of Lab's a: lips that are less red, as in black and white, do not tell teeth apart
LIGHTER, DARKER = 10.0, 0.9  # teeth are lighter than grey lips by this, and at least as light as this share of red ones
FIRST = 0.35  # part of the opening within which the upper teeth begin
ABOVE = 3  # rows above an edge that are compared with it
BENT, LOWEST = 0.02, 0.2  # weight of the bending of the teeth's lower edge; value of an edge at the lower lip
PASSED, DIP = 3.0, 0.08  # weight of a gap that lies above the edge, and its least depth: lower teeth follow below it
FEWEST = 0.004  # square eye distances of teeth: fewer are not used
SOFT = 0.008, 0.006  # eye distances by which the outline and the likeness of teeth are smoothed
_BITS = 4  # of fractions of pixels in OpenCV's drawing


class SourceTeeth:
    """picture: float32 (h, w, 4), levels and opacity. scale: its pixels per pixel of the mouth's window."""

    def __init__(self, picture: np.ndarray, scale: float) -> None:
        alpha = picture[..., 3:]
        # What is below them hides other upper teeth.
        below = cv2.GaussianBlur(np.maximum.accumulate(alpha[..., 0], axis=0), (9, 1), 0)
        self._layers, self._below, self._scale = np.dstack([picture[..., :3] * alpha, alpha]), below, scale

    def in_picture(self, to_pixel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """In a picture of `size`, width and height: float32 (h, w, 5), colours times opacity, opacity, and 1 where the
        teeth are or lie above. to_pixel: (2, 3), from pixels of the window to those of the picture.
        """
        matrix = _of_finer(to_pixel, self._scale)
        layers = (cv2.warpAffine(part, matrix, size, flags=cv2.INTER_LINEAR) for part in (self._layers, self._below))
        return np.dstack(list(layers))


def find_upper_teeth(
    picture: np.ndarray, to_pixel: np.ndarray, shape: tuple[int, int], mouth: Mouth
) -> SourceTeeth | None:
    """The upper teeth of a portrait; None if it shows none.

    picture: uint8 (D, D, 3). to_pixel: (2, 3), from pixels of the mouth's window, of `shape`, to those of the picture.
    mouth: in this picture, with open lips. About 3 ms of CPU.
    """
    unit = abs(mouth.landmarks[1] - mouth.landmarks[0])
    chart = _Chart.of(picture, mouth)
    if chart is None:
        return None
    outline = np.concatenate([chart.upper, chart.lower_edge()[::-1]])
    edge = np.rint(np.stack([outline.real, outline.imag], 1) * 2**_BITS).astype(np.int32)
    mask, opacity = np.zeros(picture.shape[:2], np.uint8), np.zeros(picture.shape[:2], np.float32)
    cv2.fillPoly(mask, [edge], 255, cv2.LINE_AA, _BITS)
    left, top = np.maximum((edge.min(0) >> _BITS) - 4, 0)
    right, bottom = np.maximum((edge.max(0) >> _BITS) + 5, 1)
    part = slice(top, bottom), slice(left, right)
    if not mask[part].any():
        return None
    like, drawn = chart.likeness(_lab(picture[part])), mask[part].astype(np.float32) / 255
    opacity[part] = np.prod(
        [cv2.GaussianBlur(one, (0, 0), max(sigma * unit, 0.5)) for one, sigma in zip((drawn, like), SOFT, strict=True)],
        0,
    )
    if opacity.sum() < FEWEST * unit * unit:
        return None
    scale = FINE * float(np.sqrt(abs(np.linalg.det(to_pixel[:, :2]))))
    matrix, size = _of_finer(to_pixel, scale), (round(shape[1] * scale), round(shape[0] * scale))
    cut = cv2.warpAffine(
        picture, matrix, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    seen = cv2.warpAffine(opacity, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return SourceTeeth(np.dstack([cut.astype(np.float32), seen]), scale)


@dataclass(frozen=True)
class _Chart:
    """The inside of a mouth in rows from lip to lip and columns from corner to corner.

    upper, gap: (COLUMNS,) complex pixels, the upper lip's edge, and from it to the lower lip's. inside: (ROWS, COLUMNS,
    3), Lab. lightest: its lightness where it is lightest. red: Lab's a of the lips.
    """

    upper: np.ndarray
    gap: np.ndarray
    inside: np.ndarray
    lightest: float
    red: float

    @staticmethod
    def of(picture: np.ndarray, mouth: Mouth) -> _Chart | None:
        """None if nothing inside is as light as teeth."""
        lines = mouth.outlines
        at = np.linspace(0, COUNT - 1, COLUMNS)
        upper, lower = (np.interp(at, np.arange(COUNT), line) for line in lines[1:3])
        rows = (np.arange(ROWS) + 0.5)[:, None] / ROWS
        inside = _lab_at(picture, upper + (lower - upper) * rows)
        parts = np.array([0.4, 0.55, 0.7])[:, None]
        lips = [
            _lab_at(picture, (inner + (outer - inner) * parts)[:, 4:-4]) for outer, inner in (lines[:2], lines[:1:-1])
        ]
        light, red, _ = np.median(np.concatenate(lips).reshape(-1, 3), 0)
        chart = _Chart(upper, lower - upper, inside, 0.0, float(red))
        lightest = float(np.quantile(inside[:, chart.open, 0], 0.9))
        if lightest < (light + LIGHTER if red < GREY else light * DARKER):
            return None
        return _Chart(upper, lower - upper, inside, lightest, float(red))

    @property
    def open(self) -> np.ndarray:
        """(COLUMNS,) bool: where lips are clearly apart."""
        gap = np.abs(self.gap)
        return gap > 0.3 * gap.max()

    def likeness(self, lab: np.ndarray) -> np.ndarray:
        """0..1: how much colours (..., 3) look like teeth."""
        like = np.clip((lab[..., 0] / self.lightest - LIGHT[0]) / (LIGHT[1] - LIGHT[0]), 0, 1)
        if self.red >= GREY:
            like = like * np.clip((REDNESS[1] - lab[..., 1] / self.red) / (REDNESS[1] - REDNESS[0]), 0, 1)
        return like.astype(np.float32)

    def lower_edge(self) -> np.ndarray:
        """(COLUMNS,) complex pixels: the lower edge of the upper teeth; the upper lip where there are none."""
        like = cv2.GaussianBlur(self.likeness(self.inside), (0, 0), 0.8)
        light = cv2.GaussianBlur(like * (self.inside[..., 0] / np.float32(self.lightest)), (5, 1), 1.0)
        sums, rows = np.pad(light.cumsum(0), ((1, 0), (0, 0))), np.arange(ROWS)
        start = np.maximum(rows - ABOVE, 0)
        above = (sums[rows] - sums[start]) / np.maximum(rows - start, 1)[:, None]
        value = np.concatenate([above - light, np.full((1, COLUMNS), LOWEST)])
        value[: ABOVE + 2] = -1
        passed = np.maximum.accumulate(np.pad(value[:-3], ((3, 0), (0, 0))), 0)
        value = (value - PASSED * (passed - DIP).clip(0)) * self.open
        path = best_path(value.T, BENT)
        path = cv2.GaussianBlur(path.astype(np.float32)[None], (5, 1), 1.0)[0]
        begins = like[: round(ROWS * FIRST)].max(0) > 0.5
        return self.upper + self.gap * np.where(begins, path, 0) / ROWS


def _of_finer(to_pixel: np.ndarray, scale: float) -> np.ndarray:
    """The matrix from pixels of a picture that has `scale` pixels per pixel of that of `to_pixel`."""
    matrix = to_pixel.copy()
    matrix[:, :2] /= scale
    matrix[:, 2] += (matrix[:, :2] - to_pixel[:, :2]).sum(1) / 2
    return matrix


def _lab(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _lab_at(picture: np.ndarray, at: np.ndarray) -> np.ndarray:
    x, y = (np.ascontiguousarray(part, np.float32) for part in (at.real, at.imag))
    return _lab(cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
