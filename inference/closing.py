"""Closes the open mouth of a portrait by moving its own lips, without a network.

The networks render the frame with the mouth as open as in the portrait. Then both lips are moved as bodies until their
inner edges meet, as thick as they are; the chin goes along with the lower lip. What is between the lips is covered by
them: the upper teeth stay where they are.

Positions are complex numbers, x + iy. Upright positions have the middle between the eyes as origin and the eye distance
as unit; y points down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .face.landmarks import NAMES, landmark_indices
from .face.lip_edges import COUNT, MIDDLE
from .thin_plate import thin_plate_spline

# Lengths are in eye distances.
UPPER = 0.22  # share of the opening by which the upper lip comes down; the lower lip goes up by the rest

# Corners of a wide-open mouth are drawn down and inwards. When it closes, they go back:
CORNERS_UP = 0.7  # up, as a share of the height by which the middle of the closed mouth lies above them
CORNERS_OUT = 0.18  # outwards, as a share of what the inner edges are longer than the mouth is wide
CORNERS_OUT_MOST = 0.08  # outwards at most

# A bent lip has thin sides. Once straight, it is made at least as thick there as a lip whose thickness falls from its
# middle to the corners as 1 - |x| ** SIDE_EXPONENT, with x from -1 to 1.
SIDE_EXPONENT = 2.5
# Length of its inner edge relative to the closed mouth: up to the first it is not thickened, from the second on fully.
BENT = 1.05, 1.2
KEPT_X = 0.75  # 0: a bent lip is spread evenly along the closed mouth; 1: each of its places keeps its x

LINE_DARKNESS = 0.4  # share of the light that is missing on the line between closed lips
LINE_WIDTH = 0.012

# The part of the picture that is moved, and where its motion fades.
BESIDE, ABOVE = 1.05, 0.55  # its extent from the middle of the mouth
BELOW_CHIN = 0.6
FADE_BESIDE, FADE_UPRIGHT = 0.3, 0.25  # outer shares of these extents where the motion fades
FADE_BORDER = 0.35  # from the lower border of the picture, below which nothing is known
CELL = 1 / 14  # width of a cell; displacements are computed for cells and interpolated
SPLINE_SMOOTHING = 1e-3  # of the thin plate, see `thin_plate_spline`

# Beside the corners there are no lips, and the edge between the upper and the lower displacement gets soft.
SOFT_FROM_CORNER = 0.06  # distance from the corners at which it is fully so
SOFTNESS = 0.05  # standard deviation of the blur

# Landmarks that go with the chin, and the share of its way that each goes.
_JAW = [*landmark_indices("jawRight"), *landmark_indices("jawLeft"), NAMES.index("chin")]
_JAW_SHARES = np.array([0, 0, 0.15, 0.4, 0.7, 0.9, 0, 0, 0.15, 0.4, 0.7, 0.9, 1])
CLEAR_OF_MOUTH = 0.12  # distance beside the mouth or below it from which on a landmark of the jaw counts as shown

# What stays where it is: eyes and nose, points beside the mouth (relative to its middle), and points at the lower end
# of the area (x relative to the chin).
_STILL = [0, 1, *landmark_indices("noseBase", "noseWingRight", "noseWingLeft", "noseTip")]
_STILL_BESIDE, _STILL_BELOW = np.array([-1.1, 1.1, -1.1 - 0.5j, 1.1 - 0.5j]), np.linspace(-0.8, 0.8, 5)

_SOME = slice(0, COUNT, 3)  # points of an outline that the thin plate passes through
_BITS = 4  # fractional bits of positions in OpenCV's drawing


@dataclass(frozen=True)
class Mouth:
    """A mouth in a picture.

    outlines: (4, face.lip_edges.COUNT), see `face.lip_edges.find_lips`. landmarks: (face.landmarks.COUNT,), those of
    the face. Both are complex, in pixels.
    """

    outlines: np.ndarray
    landmarks: np.ndarray

    @property
    def gap(self) -> float:
        """Largest distance of the lips' inner edges, in eye distances."""
        upper, lower = self.outlines[1:3] / (self.landmarks[1] - self.landmarks[0])
        return float((lower - upper).imag.max())


def with_closed_mouth(picture: np.ndarray, mouth: Mouth, closed: float, chin: float, shade: bool = True) -> np.ndarray:
    """A copy of the picture with its mouth closed; the picture itself if the mouth lies outside of it.

    picture: (D, D, C), uint8 or float32; levels, or with `shade` False any values. mouth: in this picture. closed: from
    0, as in the picture, to 1, lips that touch. chin: the share of the lower lip's way, 0..1, that the chin goes along.
    shade: whether the line between the lips is darkened.
    """
    eyes, middle = mouth.landmarks[1] - mouth.landmarks[0], mouth.landmarks[:2].mean()
    unit, size = abs(eyes), len(picture)
    was, face = (mouth.outlines - middle) / eyes, (mouth.landmarks - middle) / eyes
    now = _closed_outlines(was, closed)
    centre = was[1, [0, -1]].mean()
    area = _Area(centre, face[_JAW[-1]].imag + BELOW_CHIN, eyes, middle, size)
    if area.empty:
        return picture
    rise = float((was[2] - now[2])[MIDDLE].imag.mean())
    jaw = face[_JAW]
    # Landmarks of the far side of a turned head lie behind the face.
    beside = np.maximum(was[0, 0].real - jaw.real, jaw.real - was[0, -1].real) > CLEAR_OF_MOUTH
    shown = beside | (jaw.imag - was[3].imag.max() > CLEAR_OF_MOUTH)
    jaw, shift = jaw[shown], 1j * chin * rise * _JAW_SHARES[shown]
    neck = face[_JAW[-1]].real + _STILL_BELOW + 1j * area.bottom
    still = np.concatenate([face[_STILL], centre.real + _STILL_BESIDE + 1j * centre.imag, neck])
    # Displacements in pixels, from the closed mouth back to the picture: one field for each lip. Both agree where there
    # are no lips.
    fields = []
    for inner, outer in ((1, 0), (2, 3)):
        start, end = (
            np.concatenate([lines[inner, _SOME], lines[outer, _SOME][1:-1], jaw - moved, still])
            for lines, moved in ((was, 0), (now, shift))
        )
        fields.append(_interpolated(end, start - end, area.nodes) * area.fade * eyes)
    below, between = area.masks(now)
    between *= min((1 - closed) * mouth.gap * unit / 2, 1)  # OpenCV's polygons include their outlines
    # The upper lip is seen in rows before `last`, the lower one from `first` on, both in the band between.
    first = int(np.argmax((below > 0).any(1)))
    last = int(np.argmax((below > 0.999).all(1))) or len(below)
    band = slice(first, last)
    result = picture.copy()
    part = result[area.rows, area.columns]
    upper = area.sampled(picture, fields[0], slice(0, last))
    lower = area.sampled(picture, fields[1], slice(first, len(part)))
    mixed = upper[band].astype(np.float32)
    mixed += (part[band] - mixed) * between[band, :, None]
    mixed += (lower[: last - first] - mixed) * below[band, :, None]
    if shade:
        mixed *= 1 - LINE_DARKNESS * closed**4 * area.line(now, max(LINE_WIDTH * unit, 1.0))[band, :, None]
    if picture.dtype == np.uint8:
        mixed = np.clip(np.rint(mixed), 0, 255)
    part[:first], part[band], part[last:] = upper[:first], mixed, lower[last - first :]
    return result


def _closed_outlines(lines: np.ndarray, closed: float) -> np.ndarray:
    """The outlines (4, COUNT) of a mouth after closing. closed: 0 keeps it as it is, 1 closes it fully."""
    outer_upper, upper, lower, outer_lower = lines
    along = np.linspace(-1, 1, COUNT)
    line = upper + UPPER * (lower - upper)  # where both inner edges meet
    above = line[COUNT // 2].imag - line[[0, -1]].imag.mean()  # negative if the middle lies above the corners
    outwards = (np.abs(np.diff(lines[1:3])).sum() / 2 - abs(line[-1] - line[0])) * CORNERS_OUT
    line = line + along**2 * CORNERS_UP * 1j * min(above, 0) + along * np.clip(outwards, 0, CORNERS_OUT_MOST)
    line = _smoothed(line)
    upper_end, top = _straightened(upper, outer_upper, line)
    lower_end, bottom = _straightened(lower, outer_lower, line)
    return lines + closed * (np.stack([top, upper_end, lower_end, bottom]) - lines)


def _straightened(inner: np.ndarray, outer: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inner and the outer edge of a lip, bent so that its inner edge lies on a line. All are upright and (COUNT,).

    A lip that is bent as an O keeps its thickness and the width of its middle, and its sides become short and thick.
    """
    index = np.arange(COUNT)
    across = inner.real - inner.real[0]
    across = np.maximum.accumulate(np.clip(across / max(across[-1], 1e-3), 0, 1)) * (COUNT - 1)
    place = index + KEPT_X * (across - index)  # along the line, as an index
    step = np.gradient(line)
    down = 1j * step / np.maximum(np.abs(step), 1e-6)
    # The thickness at each point of the outer edge is its distance from the nearest point of the inner one.
    fine = np.linspace(0, COUNT - 1, 8 * COUNT)
    away = np.abs(outer[:, None] - np.interp(fine, index, inner))
    nearest = np.maximum.accumulate(away.argmin(1))
    nearest[[0, -1]] = 0, len(fine) - 1
    thickness, at = away[index, nearest], np.interp(fine[nearest], index, place)
    longer = np.abs(np.diff(inner)).sum() / np.abs(np.diff(line)).sum()
    usual = np.median(thickness[MIDDLE]) * (1 - np.abs(at / (COUNT // 2) - 1) ** SIDE_EXPONENT)
    bent = np.clip((longer - BENT[0]) / (BENT[1] - BENT[0]), 0, 1)
    thickness += bent * (_smoothed(np.maximum(thickness, usual)) - thickness)
    side = np.sign((outer - inner)[MIDDLE].imag.sum())  # 1: the lip lies below the line, -1: above
    return np.interp(place, index, line), np.interp(at, index, line) + side * thickness * np.interp(at, index, down)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Values (n,) along a line, smoothed between its ends."""
    padded = np.concatenate([2 * values[0] - values[3:0:-1], values, 2 * values[-1] - values[-2:-5:-1]])
    return np.convolve(padded, cv2.getGaussianKernel(7, 1.3)[:, 0], "valid")


def _interpolated(points: np.ndarray, values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The thin-plate spline through values (n,) at points (n,), at other positions of any shape; all complex."""
    result = thin_plate_spline(_as_pairs(points), _as_pairs(values), _as_pairs(positions), SPLINE_SMOOTHING)
    return (result[:, 0] + 1j * result[:, 1]).reshape(positions.shape)


def _as_pairs(numbers: np.ndarray) -> np.ndarray:
    """Complex numbers of any shape as float64 (n, 2)."""
    return np.stack([numbers.real.ravel(), numbers.imag.ravel()], 1)


class _Area:
    """The part of a picture that a closing mouth moves.

    centre: upright position of the mouth's middle. bottom: upright y of the area's lower end. eyes, middle: vector
    between the eyes and the point between them, in pixels. size: width and height of the picture in pixels.

    rows, columns: its pixels. nodes: upright positions of the cells' middles, at which displacements are computed.
    fade: factors of the displacements there, 0..1. empty: whether it lies outside of the picture.
    """

    def __init__(self, centre: complex, bottom: float, eyes: complex, middle: complex, size: int) -> None:
        self.bottom, self._eyes, self._middle, self._centre = bottom, eyes, middle, centre
        corners = (
            centre.real
            + np.array([-BESIDE, BESIDE, -BESIDE, BESIDE])
            + 1j * np.repeat([centre.imag - ABOVE, bottom], 2)
        )
        corners = corners * eyes + middle
        left, right = (int(np.clip(edge, 0, size)) for edge in (corners.real.min(), corners.real.max() + 1))
        top, end = (int(np.clip(edge, 0, size)) for edge in (corners.imag.min(), corners.imag.max() + 1))
        self.rows, self.columns = slice(top, end), slice(left, right)
        self.empty = right - left < 2 or end - top < 2
        self._cell = max(round(abs(eyes) * CELL), 1)
        self._shape = max(end - top, 0), max(right - left, 0)
        down, over = (np.arange(-(-count // self._cell)) for count in self._shape)
        at = (over + 0.5) * self._cell - 0.5 + left + 1j * ((down + 0.5) * self._cell - 0.5 + top)[:, None]
        self.nodes = (at - middle) / eyes
        beside = 1 - np.abs(self.nodes.real - centre.real) / BESIDE
        vertical = self.nodes.imag - centre.imag
        over_or_under = 1 - np.where(vertical < 0, -vertical / ABOVE, vertical / max(bottom - centre.imag, 1e-3))
        border = (size - 1 - at.imag) / abs(eyes)
        parts = (beside, FADE_BESIDE), (over_or_under, FADE_UPRIGHT), (border, FADE_BORDER)
        self.fade = np.prod([_smooth(part / width) for part, width in parts], 0)

    def sampled(self, picture: np.ndarray, field: np.ndarray, rows: slice) -> np.ndarray:
        """Rows of the area, displaced: (n, w, C) as the picture. rows: those of the area, from 0.

        field: complex, of the cells: where each takes its content from, relative to its own place, in pixels.
        """
        size = tuple(count * self._cell for count in field.shape[::-1])
        moves = np.ascontiguousarray(field.astype(np.complex64)).view(np.float32).reshape(*field.shape, 2)
        moves = cv2.resize(moves, size, interpolation=cv2.INTER_CUBIC)[rows, : self._shape[1]][: self._shape[0]]
        start = self.columns.start, self.rows.start + rows.start
        return cv2.remap(
            picture,
            moves + _pixels(*moves.shape[1::-1]) + np.array(start, np.float32),
            None,
            cv2.INTER_CUBIC,
            None,
            cv2.BORDER_REPLICATE,
        )

    def masks(self, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What lies below the lower lip's inner edge, and what lies between the lips: float32 (h, w) 0..1 each.

        lines: upright outlines (4, COUNT).
        """
        upper, lower = lines[1:3]
        edge = np.concatenate([[lower[0] - 2], lower, [lower[-1] + 2, lower[-1] + 2 + 4j, lower[0] - 2 + 4j]])
        below, between = self._filled(edge), self._filled(np.concatenate([upper, lower[::-1]]))
        soft = cv2.GaussianBlur(below, (0, 0), SOFTNESS * abs(self._eyes))
        right = np.cos(np.angle(self._eyes)), np.sin(np.angle(self._eyes))
        here = _pixels(*self._shape[::-1]) @ np.array(right, np.float32) / np.float32(abs(self._eyes))
        origin = self.columns.start + 1j * self.rows.start
        here += np.float32(((origin - self._middle) / self._eyes).real)
        beside = np.maximum(lower[0].real - here, here - lower[-1].real) / np.float32(SOFT_FROM_CORNER)
        return below + (soft - below) * np.clip(beside, 0, 1), between

    def line(self, lines: np.ndarray, width: float) -> np.ndarray:
        """A soft line where the lips meet, float32 (h, w) 0..1, which ends before the corners. width: pixels."""
        drawn = np.zeros(self._shape, np.uint8)
        met = self._at((lines[1] + lines[2]) / 2)[2:-2]
        cv2.polylines(drawn, [met], False, 255, max(round(width), 1), cv2.LINE_AA, _BITS)
        return cv2.GaussianBlur(drawn.astype(np.float32) / 255, (0, 0), max(width * 0.6, 0.5))

    def _filled(self, outline: np.ndarray) -> np.ndarray:
        """The inside of an upright outline (n,), float32 (h, w) 0..1."""
        drawn = np.zeros(self._shape, np.uint8)
        cv2.fillPoly(drawn, [self._at(outline)], 255, cv2.LINE_AA, _BITS)
        return drawn.astype(np.float32) / 255

    def _at(self, positions: np.ndarray) -> np.ndarray:
        """Upright positions (n,) as OpenCV's drawing takes them: int32 (n, 2), in 2 ** -_BITS pixels of the area."""
        pixels = positions * self._eyes + self._middle - (self.columns.start + 1j * self.rows.start)
        return np.rint(np.stack([pixels.real, pixels.imag], 1) * 2**_BITS).astype(np.int32)


def _smooth(share: np.ndarray) -> np.ndarray:
    """A smooth step: 0 up to 0, 1 from 1 on."""
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)


@lru_cache(maxsize=8)
def _pixels(width: int, height: int) -> np.ndarray:
    """(height, width, 2) float32: x and y of each pixel."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return np.stack(np.meshgrid(x, y), -1)
