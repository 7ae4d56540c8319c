"""The outline of the lids and the iris, fitted to the picture of an eye.

The network of the landmarks reads eyes that are 15 pixels wide, so that on photographs its lids are off by a quarter of
the opening. Here curves are fitted to the picture at full resolution: the upper lid's edge is darker than the skin
above it, the opening differs in colour from the skin below it, and both lie where they usually do around the iris.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import cv2
import numpy as np

from .landmarks import LEFT_LIDS, NAMES, RIGHT_LIDS

PIXEL = 0.6 / 104  # eye distances per pixel of an eye's window
RADIUS = 0.093 / PIXEL  # of an iris, in pixels
_EYES = (  # landmarks: centre, left and right corner, iris
    (0, [RIGHT_LIDS[0], RIGHT_LIDS[4]], NAMES.index("irisRight")),
    (1, [LEFT_LIDS[4], LEFT_LIDS[0]], NAMES.index("irisLeft")),
)
_SEARCH_SIZE = 100, 136  # height and width of the window that is searched
_SMOOTHING = 1.3  # sigma in pixels with which the window is smoothed
# A curve's parameters: x and y of the left and right end, height and skew of the upper and of the lower lid. Their
# prior, relative to the iris's centre and in its radii: mean and deviation.
_PRIOR_MEAN = np.array([-2.35, 0.35, 2.35, 0.35, 1.05, 0.0, 0.6, 0.0])
_PRIOR_DEVIATION = np.array([0.45, 0.35, 0.45, 0.35, 0.3, 0.15, 0.2, 0.2])
# Pixels from the corners of the landmarks to the left and right one.
_CORNER_OFFSETS = np.array([[-6.0, -4.0], [6.0, -4.0]])
# Where the lids cross the iris: mean and deviation, in radii.
_UPPER_CROSSING, _LOWER_CROSSING = (-0.72, 0.22), (0.98, 0.16)
_RADIUS_SCALES = 0.85, 0.95, 1.05, 1.15  # radii of the iris that are tried, in RADIUS
_IRIS_CANDIDATES, _IRIS_SPACING = 4, 4.0  # places of the iris that are tried, and pixels between them
_LASH_LIGHTNESS = 0.6, 0.9  # lightness, as a share of the skin's, up to which and from which on something is no lash
_OUTSIDE_WEIGHT = 0.6  # weight of what is left of the eye outside the lids
_STEPS, _KEPT, _VARIATIONS = 10, 24, 5  # of the search: steps, best candidates, and new ones around each of them


Height: TypeAlias = float | np.ndarray


class Eyelids(NamedTuple):
    """The lids of one eye, in pixels of its window.

    to_picture: (2, 3) matrix from its pixels to those of the picture. ends: (2, 2), left and right corner. upper,
    lower: height of the curve and its skew, see `curves_at`. iris: (2,), centre. radius: of the iris. contrast: of the
    iris against what is beside it, from 0 to about 1. fit: how well the picture agrees with the curves, about 1.
    """

    to_picture: np.ndarray
    ends: np.ndarray
    upper: tuple[float, float]
    lower: tuple[float, float]
    iris: np.ndarray
    radius: float
    contrast: float
    fit: float

    def curves_at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """y of the upper and of the lower lid at any x; beyond the corners, both lie on the line through them."""
        (left, first), (right, last) = self.ends
        along = (2 * x - left - right) / (right - left)
        line = first + (last - first) * (along + 1) / 2
        return _curves(line, np.clip(along, -1, 1), *self.upper, *self.lower)


def _curves(
    line: np.ndarray, along: np.ndarray, up: Height, up_skew: Height, down: Height, down_skew: Height
) -> tuple[np.ndarray, np.ndarray]:
    upper = line - up * (1 - np.abs(along) ** 2.3) * (1 + up_skew * along)
    return upper, line + down * (1 - along**2) * (1 + down_skew * along)


def find_eyelids(picture: np.ndarray, points: np.ndarray) -> tuple[Eyelids, Eyelids]:
    """The lids of the right and the left eye. picture: uint8 (H, W, 3). points: (COUNT, 2), landmarks of the face.

    About 30 ms of CPU.
    """
    across = (points[1] - points[0]).astype(np.float64)
    distance = max(float(np.hypot(*across)), 1e-6)
    right, left = (
        _fitted(
            *window_of(picture, points[centre], across / distance, distance, _SEARCH_SIZE),
            points[corners],
            points[iris],
        )
        for centre, corners, iris in _EYES
    )
    return right, left


def window_of(
    picture: np.ndarray, centre: np.ndarray, along: np.ndarray, distance: float, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A window of `size`, height and width, around a place in a picture: uint8 (*size, 3), and (2, 3), see `Eyelids`.

    along: (2,) direction from the right eye to the left one. distance: of the eyes in pixels.
    """
    height, width = size
    turn = PIXEL * distance * np.array([[along[0], -along[1]], [along[1], along[0]]])
    to_picture = np.column_stack([turn, centre - turn @ ((width - 1) / 2, (height - 1) / 2)])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(picture, to_picture, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return cut, to_picture


def into_window(to_picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) of the picture in pixels of the window."""
    inverse = np.linalg.inv(to_picture[:, :2])
    return (points - to_picture[:, 2]) @ inverse.T


def _fitted(window: np.ndarray, to_picture: np.ndarray, corners: np.ndarray, iris: np.ndarray) -> Eyelids:
    smooth = cv2.GaussianBlur(window.astype(np.float32) / 255, (0, 0), _SMOOTHING)
    light = np.log(smooth @ np.array([0.3, 0.55, 0.15], np.float32) + 0.06)
    near = into_window(to_picture, iris) - (0, 3)  # the network places irises below their centre
    colour = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB)
    # The network places corners too close to each other, and too low.
    seen = into_window(to_picture, corners) + _CORNER_OFFSETS
    irises, searched = _find_irises(light, near), []
    for _, centre, radius in irises:
        prior = _PRIOR_MEAN.copy()
        prior[:4] = (prior[:4] + ((seen - centre) / radius).ravel()) / 2
        searched.append((_CurveScore(light, colour, centre, radius), prior))
    contrast_deficit = np.array([irises[0][0] - contrast for contrast, _, _ in irises])
    number, best, fit = _search(searched, contrast_deficit)
    contrast, centre, radius = irises[number]
    ends = centre + best[:4].reshape(2, 2) * radius
    upper, lower = ((float(best[at] * radius), float(best[at + 1])) for at in (4, 6))
    return Eyelids(to_picture, ends, upper, lower, centre, radius, contrast, fit)


def _find_irises(light: np.ndarray, near: np.ndarray) -> list[tuple[float, np.ndarray, float]]:
    """Contrast, centre and radius of the discs that are darkest against what is beside and below them, best first.

    There are several because lashes are dark as well, and light irises with a highlight are not.
    """
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    distance_cost = 0.25 * (((x - near[0]) / 16) ** 2 + ((y - near[1]) / 12) ** 2)
    low, high = np.quantile(light, (0.02, 0.85))
    tone = np.clip((light - low) / max(float(high - low), 0.05), 0, 1.2).astype(np.float32)
    contrasts = []
    for scale in _RADIUS_SCALES:
        radius = RADIUS * scale
        reach = int(np.ceil(radius * 1.6))
        down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1] / radius
        away = np.hypot(right, down)
        ring = (away > 1.12) & (away < 1.55)
        areas = (
            (away < 0.95) & (down > -0.45),  # without what the upper lid hides
            ring & (np.abs(down) < 0.55) & (right < 0),
            ring & (np.abs(down) < 0.55) & (right > 0),
            ring & (down > 0.6),
        )
        dark, one, other, below = (
            cv2.filter2D(seen, -1, (area / area.sum()).astype(np.float32), borderType=cv2.BORDER_REPLICATE)
            for seen, area in zip((np.minimum(tone, 0.6), tone, tone, tone), areas, strict=True)  # highlights are light
        )
        contrast = 0.5 * np.minimum(one, other) + 0.25 * np.maximum(one, other) + 0.25 * below - dark
        contrasts.append(contrast - distance_cost - 0.3 * abs(scale - 1))
    remaining, found = np.stack(contrasts), []
    for _ in range(_IRIS_CANDIDATES):
        scale, row, column = (int(at) for at in np.unravel_index(int(remaining.argmax()), remaining.shape))
        centre = np.array([column, row], np.float64)
        found.append((float(remaining[scale, row, column]), centre, RADIUS * _RADIUS_SCALES[scale]))
        remaining[:, np.hypot(x - column, y - row) < _IRIS_SPACING] = -np.inf
    return found


class _CurveScore:
    """How well curves agree with a window.

    light: (h, w), logarithms. colour: (h, w, 3), Lab. centre, radius: of the iris.
    """

    def __init__(self, light: np.ndarray, colour: np.ndarray, centre: np.ndarray, radius: float) -> None:
        self.centre, self.radius = centre, radius
        y, x = np.mgrid[: light.shape[0], : light.shape[1]]
        y, x = (y - centre[1]) / radius, np.abs(x - centre[0]) / radius
        below = (y > 1.7) & (y < 3.2) & (x < 2.5)
        skin = np.median(colour[below] if below.sum() > 50 else colour.reshape(-1, 3), 0)
        not_skin = np.tanh(np.sqrt(np.square((colour - skin) / (12, 5, 5)).sum(2)) / 2)
        hue = np.tanh(np.sqrt(np.square(colour[..., 1:] - skin[1:]).sum(2)) / 10)
        dark, light_enough = _LASH_LIGHTNESS
        lightness = colour[..., 0] / max(float(skin[0]), 1.0)
        eye_colour = hue * np.clip((lightness - dark) / (light_enough - dark), 0, 1)
        light = light / max(float(light.std()), 0.15)
        # [0]: lighter above than below. [1]: no skin above, skin below. [2]: no skin. [3]: not the hue of skin, and not
        # dark, as the white and light irises are, but not lashes.
        edges = (
            np.tanh(1.2 * (_shifted_down(light, 3) - _shifted_down(light, -2))),
            _shifted_down(not_skin, 2) - _shifted_down(not_skin, -3),
            not_skin,
            eye_colour,
        )
        self.maps = [edge.astype(np.float32) for edge in edges]
        self.along = np.linspace(-1, 1, 25)
        weight = np.where(np.abs(self.along) > 0.8, 0.5, 1.0)
        self.weight = weight / weight.sum()

    def __call__(self, candidates: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(K, 8) parameters in radii, relative to the iris -> (K,) how well they agree, and (K,) what is left of the
        eye outside the lids, above and below: 0..2.
        """
        left, first, right, last, *shape = (column[:, None] for column in candidates.T)
        share = (self.along + 1) / 2
        x = left + (right - left) * share
        upper, lower = _curves(first + (last - first) * share, self.along, *shape)
        opening = lower - upper
        top = self._mean(0, x, upper)
        bottom = self._mean(1, x, lower)
        inside = sum(self._mean(2, x, upper + opening * depth) for depth in (0.25, 0.5, 0.75)) / 3
        beside = (self._mean(2, x, lower + 5 / self.radius) + self._mean(2, x, upper - 7 / self.radius)) / 2
        outside = (self._mean(3, x, lower + 4 / self.radius) + self._mean(3, x, lower + 8 / self.radius)) / 2
        outside = outside + self._mean(3, x, upper - 5 / self.radius)
        at = np.clip(-left / (right - left), 0, 1) * (len(self.along) - 1)  # the curves below and above the centre
        index, part = np.minimum(at.astype(int), len(self.along) - 2), at % 1
        crossing_cost = 0.0
        for curve, (prior, spread) in ((upper, _UPPER_CROSSING), (lower, _LOWER_CROSSING)):
            one, other = (np.take_along_axis(curve, index + step, 1) for step in (0, 1))
            crossing_cost = crossing_cost + (((one + (other - one) * part)[:, 0] - prior) / spread) ** 2
        prior_cost = np.square((candidates - expected) / _PRIOR_DEVIATION).sum(1)
        return top + 0.8 * bottom + 0.8 * (inside - beside) - 0.035 * crossing_cost - 0.03 * prior_cost, outside

    def _mean(self, number: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(K,) mean of a map along curves (K, n)."""
        places = (
            (x * self.radius + self.centre[0]).astype(np.float32),
            (y * self.radius + self.centre[1]).astype(np.float32),
        )
        return cv2.remap(self.maps[number], *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) @ self.weight


def _shifted_down(values: np.ndarray, rows: int) -> np.ndarray:
    """What lies `rows` above each pixel."""
    return np.roll(values, rows, 0)


def _search(
    searched: list[tuple[_CurveScore, np.ndarray]], contrast_deficit: np.ndarray
) -> tuple[int, np.ndarray, float]:
    """The best of random candidates, which are drawn ever closer around the best ones so far.

    searched: score of curves and prior mean for each place of the iris. contrast_deficit: (n,), by which the contrast
    of an iris is below the best one's. Returns the number of the place, (8,) parameters, and `Eyelids.fit`.
    """
    drawn = np.random.default_rng(0)
    start = np.concatenate([np.zeros((1, 8)), drawn.normal(size=(240, 8)) * _PRIOR_DEVIATION])
    places = np.repeat(np.arange(len(searched)), len(start))
    candidates = np.concatenate([prior + start for _, prior in searched])
    values = _values(searched, places, candidates)
    for step in range(_STEPS):
        best = np.argsort(contrast_deficit[places] + _OUTSIDE_WEIGHT * values[1] - values[0], kind="stable")[:_KEPT]
        of_new = places[best].repeat(_VARIATIONS)
        new = candidates[best].repeat(_VARIATIONS, 0)
        new = new + drawn.normal(size=new.shape) * _PRIOR_DEVIATION * (0.5 * 0.72**step)
        values = np.concatenate([values[:, best], _values(searched, of_new, new)], 1)
        candidates, places = np.concatenate([candidates[best], new]), np.concatenate([places[best], of_new])
    found = int((values[0] - _OUTSIDE_WEIGHT * values[1] - contrast_deficit[places]).argmax())
    return int(places[found]), candidates[found], float(values[0, found])


def _values(searched: list[tuple[_CurveScore, np.ndarray]], places: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(2, K): what `_CurveScore` returns for candidates (K, 8) with these places (K,) of the iris."""
    values = np.empty((2, len(candidates)))
    for number, (curve_score, prior) in enumerate(searched):
        mine = places == number
        if mine.any():
            values[:, mine] = curve_score(candidates[mine], prior)
    return values
