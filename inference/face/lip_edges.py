"""The outlines of the lips, fitted to the picture.

On photographs, the landmarks of the lips' inner edges are off by up to a third of a smile's opening: they lie on the
teeth. Here, each inner edge is moved to where the colour of the lip ends, at the picture's full resolution.
"""

from __future__ import annotations

import cv2
import numpy as np

from .landmarks import landmark_indices

COUNT = 25  # points of an outline
MIDDLE = slice(COUNT // 3, COUNT - COUNT // 3)  # its points around the middle of the mouth
_CORNERS = landmark_indices("mouthRight"), landmark_indices("mouthLeft")
_OUTLINES = [  # landmarks between the corners, from the right to the left
    [*landmark_indices("upperLipRight", "upperLipTop"), *landmark_indices("upperLipLeft")[::-1]],
    landmark_indices("innerUpper"),
    landmark_indices("innerLower"),
    [*landmark_indices("lowerLipRight", "lowerLipBottom"), *landmark_indices("lowerLipLeft")[::-1]],
]

# Lengths are in eye distances. Colours are compared in deviations: differences of Lab, divided by the standard
# deviation of the lip's own colours in each channel.

# The search for an inner edge, on both sides of its landmarks.
_REACH_PER_GAP, _REACH = 0.45, 0.02  # how far: a share of the gap between the lips, and a constant
_REACH_MOST = 0.13
_TRIED = 53  # places across the edge at each of its points
_BLUR = 0.008  # standard deviation of the blur of the picture
_COMPARED = 0.035  # width of the strips on both sides of a place whose colours are compared
_LEAST_DEVIATION = (8.0, 3.0, 3.0)  # of a lip's colours, Lab; large in L, as lips are darker towards the mouth
_FOREIGN = 3.6  # deviations: the scale of a tanh that says how foreign a colour is to the lip

# The choice of the edge among the places.
_DISTANCE_WEIGHT = 0.36  # of the squared distance from the landmarks, as a share of the search's reach
_BEND_WEIGHT = 1.2  # of the squared difference of neighbouring points
_BEND_UNIT = 0.03  # the difference that counts as 1
_INSIDE_OUTER = 0.02  # by which an inner edge must stay inside of the outer one
_CORNER_PART = 0.18  # part of half the mouth's width, beside the corners, where the landmarks count more
_FIRST_READING = 0.05  # by how much the edges by another reading of the landmarks must be clearer, of at most 2

# What is seen between the lips.
_OUTSIDE = 0.3  # share of a lip beside its outer edge that is left out
_LIP_PART = 0.7  # share of the rest that shows the lip's colours
_DEVIATION_LIMITS = (5.0, 3.0, 3.0), (8.0, 5.0, 5.0)  # smallest and largest deviation of its colours, Lab
_NEITHER = 3.6  # deviations from both lips from which on a colour belongs to neither
_STEPS = 60  # places from lip to lip at which the colour is looked at


def find_lips(picture: np.ndarray, points: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """The outlines of the lips from the right corner of the mouth to the left one, (4, COUNT, 2) float64 pixels.

    Outer edge and inner edge of the upper lip, inner edge and outer edge of the lower lip; all begin and end in the
    corners. picture: uint8 (H, W, 3). points: (landmarks.COUNT, 2) pixels, landmarks of the face. others: other
    readings of them; the one with the clearest edges is taken. About 4 ms of CPU for each reading.
    """
    found = [_fitted(picture, reading.astype(np.float64)) for reading in (points, *others)]
    return max(found, key=lambda one: one[1] + (one is found[0]) * _FIRST_READING)[0]


def _fitted(picture: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, float]:
    """See `find_lips`. Also returns how clear both inner edges are, at most 2."""
    eyes = max(float(np.hypot(*(points[1] - points[0]))), 1e-6)
    right, left = (points[corner] for corner in _CORNERS)
    lines = [_smoothed(resampled(np.concatenate([right, points[line], left])), 1.2) for line in _OUTLINES]
    lab, offset = _colours(picture, np.stack(lines), eyes)
    down = np.array([points[0, 1] - points[1, 1], points[1, 0] - points[0, 0]]) / eyes  # unit vector down the face
    gap = max(float(((lines[2] - lines[1]) @ down).max()), 0.0)
    reach = min(_REACH_PER_GAP * gap + _REACH * eyes, _REACH_MOST * eyes)
    (upper, first), (lower, second) = (
        _edge(lab, outer - offset, inner - offset, eyes, reach, sign)
        for outer, inner, sign in ((lines[0], lines[1], -1), (lines[3], lines[2], 1))
    )
    upper, lower = upper + offset, lower + offset
    if ((lower - upper) @ down).max() < gap / 2:  # lips as dark as what is between them
        upper, lower = lines[1:3]
    crossed = np.minimum((lower - upper) @ down, 0)[:, None] / 2 * down  # edges of lips that touch
    return np.stack([lines[0], upper + crossed, lower - crossed, lines[3]]), first + second


def seen_opening(picture: np.ndarray, points: np.ndarray, lips: np.ndarray) -> float:
    """How far the lips are apart by what is seen between them, in eye distances; about 0 if it looks like the lips.

    The distance from the first to the last colour that belongs to neither lip, such as the dark of a mouth or teeth:
    the median over the middle of the mouth. A line between closed lips counts with its thickness. picture, points,
    lips: see `find_lips`.
    """
    eyes = max(float(np.hypot(*(points[1] - points[0]))), 1e-6)
    lab, offset = _colours(picture, lips, eyes)
    outer_upper, upper, lower, outer_lower = lips[:, MIDDLE] - offset
    top, bottom = (outer + _OUTSIDE * (inner - outer) for outer, inner in ((outer_upper, upper), (outer_lower, lower)))
    along = np.linspace(0, 1, _STEPS)[:, None]
    seen = _sampled(lab, top + along[..., None] * (bottom - top))
    height = np.maximum(np.hypot(*(bottom - top).T), 1e-6)
    unlike = np.full(seen.shape[:2], np.inf)
    for inner, end, share in ((upper, top, along), (lower, bottom, 1 - along)):
        lip = seen[share < _LIP_PART * np.hypot(*(inner - end).T) / height]
        usual = np.median(lip, 0)
        spread = np.clip(1.4826 * np.median(np.abs(lip - usual), 0), *_DEVIATION_LIMITS)
        unlike = np.minimum(unlike, np.hypot.reduce((seen - usual) / spread, axis=-1))
    other = unlike > _NEITHER
    steps = np.where(other.any(0), _STEPS - other.argmax(0) - other[::-1].argmax(0), 0)
    return float(np.median(steps / _STEPS * height) / eyes)


def resampled(line: np.ndarray, count: int = COUNT) -> np.ndarray:
    """`count` points at equal distances along a line (N, 2)."""
    length = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    at = np.linspace(0, length[-1], count)
    return np.stack([np.interp(at, length, part) for part in line.T], 1)


def best_path(values: np.ndarray, bent: float) -> np.ndarray:
    """The best path through values (n, m), as an index of each row, (n,) integers.

    Its sum of values, less `bent` times its squared steps from row to row, is the largest.
    """
    at = np.arange(values.shape[1])
    cost = bent * np.square(at[:, None] - at)
    best, came_from = values[0], []
    for row in values[1:]:
        total = best[:, None] - cost
        came_from.append(total.argmax(0))
        best = total.max(0) + row
    path = [int(best.argmax())]
    for back in came_from[::-1]:
        path.append(int(back[path[-1]]))
    return np.array(path[::-1])


def _edge(
    lab: np.ndarray, outer: np.ndarray, inner: np.ndarray, eyes: float, reach: float, sign: int
) -> tuple[np.ndarray, float]:
    """The inner edge (COUNT, 2) of a lip in pixels of `lab`, and how clear it is, at most 1.

    lab: float32 (h, w, 3). outer, inner: (COUNT, 2), its edges by the landmarks. eyes, reach: eye distance, and how far
    the edge is searched, in pixels. sign: 1 if the lip lies below the edge, else -1.

    An edge lies where the colours on one side are the lip's and on the other side foreign.
    """
    tangent = np.gradient(inner, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.maximum(np.hypot(*tangent.T), 1e-6)[:, None]
    away = np.linspace(-reach, reach, _TRIED)
    tried = inner[:, None] + away[:, None] * normal[:, None]
    # Foreign colours: 0 as the lip's, towards 1 far from them. The lip's are taken between its edges.
    lip = outer[:, None] + (inner - outer)[:, None] * np.array([0.25, 0.35, 0.45])[:, None]
    lip = _sampled(lab, lip[3:-3]).reshape(-1, 3)
    usual = np.median(lip, 0)
    spread = np.maximum(1.4826 * np.median(np.abs(lip - usual), 0), _LEAST_DEVIATION)
    foreign = np.tanh(np.hypot.reduce((_sampled(lab, tried) - usual) / spread, axis=-1) / _FOREIGN)
    # Means of `foreign` over the places on both sides of each place.
    cells = max(round(_COMPARED * eyes / (away[1] - away[0])), 1)
    sums, at = np.pad(foreign.cumsum(1), ((0, 0), (1, 0))), np.arange(_TRIED)
    start, end = np.maximum(at - cells, 0), np.minimum(at + cells, _TRIED)
    above = (sums[:, at] - sums[:, start]) / np.maximum(at - start, 1)
    below = (sums[:, end] - sums[:, at]) / np.maximum(end - at, 1)
    along = np.abs(np.linspace(-1, 1, COUNT))
    ends = np.clip((1 - along) / _CORNER_PART, 0, 1)[:, None]
    # How good each place is: contrast, near the landmarks, not outside of the outer edge.
    value = sign * (above - below) * ends - _DISTANCE_WEIGHT * (away / reach) ** 2 * (4 - 3 * ends)
    value -= 10 * ends * (((tried - outer[:, None]) * normal[:, None]).sum(2) * sign > -_INSIDE_OUTER * eyes)
    path = best_path(value, _BEND_WEIGHT * ((away[1] - away[0]) / (_BEND_UNIT * eyes)) ** 2)
    shift = cv2.GaussianBlur(away[path][None], (7, 1), 1.2, borderType=cv2.BORDER_REPLICATE)[0]
    shift *= np.clip((1 - along) / 0.12, 0, 1)
    return _smoothed(inner + shift[:, None] * normal, 0.8), float(value[np.arange(COUNT), path].mean())


def _colours(picture: np.ndarray, lines: np.ndarray, eyes: float) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed colours of the rows of a picture around lines, Lab, float32 (h, W, 3).

    Also returns (2,), what to subtract from positions in the picture to get those in the rows. lines: (..., 2) pixels.
    eyes: eye distance in pixels.
    """
    first = int(np.clip(lines[..., 1].min() - eyes / 2, 0, len(picture) - 1))
    rows = picture[first : max(int(lines[..., 1].max() + eyes / 2), first + 1)]
    smooth = cv2.GaussianBlur(rows, (0, 0), max(_BLUR * eyes, 0.5))
    return cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.array([0.0, first])


def _sampled(lab: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The colours (n, m, 3) at positions (n, m, 2) in pixels, interpolated linearly."""
    x, y = (np.ascontiguousarray(part, np.float32) for part in np.moveaxis(at, -1, 0))
    return cv2.remap(lab, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _smoothed(line: np.ndarray, sigma: float) -> np.ndarray:
    """A line (N, 2), smoothed between its ends. sigma: standard deviation in points of the line."""
    kernel = cv2.getGaussianKernel(9, sigma)[:, 0]
    padded = np.concatenate([2 * line[:1] - line[4:0:-1], line, 2 * line[-1:] - line[-2:-6:-1]])
    return np.stack([np.convolve(part, kernel, "valid") for part in padded.T], 1)
