"""Takes the eyes of a source picture apart, so that `inference.model.lids` can move their lids and turn them.

Each eye is cut out as a window. Along the outline of its lids (`inference.face.eyelids`), it is divided into skin,
edges with lashes, white and iris, and what each of them hides is completed from what is around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from ..face.eyelids import PIXEL, Eyelids, find_eyelids, window_of
from ..face.landmarks import LEFT_LIDS, RIGHT_LIDS
from .gaze import IRIS, SIZE, SURE, disc, find_iris, inpaint
from .insets import DARKEST
from .lid_skin import skin_fields

LEAST_FIT = 0.25  # smallest fit of the lids with which they are moved
LEAST_DARKENING, MOST_DARKENING = 0.45, 1.6  # of the logarithms by which lashes darken
MOST_SHARPENING = 2.0  # largest factor by which lashes are darkened to make up for their softness
CHART_BELOW, CHART_ABOVE = 12, 6  # pixels of the lashes' chart below and above the edge of the lid
# Pixels above the upper lid's edge that a closing lid covers at least, and at most.
LEAST_LASH_HEIGHT, MOST_LASH_HEIGHT = 4, 18
BORDER = 14  # pixels over which drawn skin ends at the sides of the window
UNFOLDED = 11, 21  # pixels above the upper lid's edge up to which skin moves with it, and above which it stays
TIP_FADE = 7, 11  # pixels above these in which the tips of lashes are removed, fading
# Logarithms by which thin lines are darker than what is around them: on skin, and in tips of lashes.
LINE_CONTRAST = 0.06, 0.16
STILL_CHANNELS = 3, 3, 3, 1, 1, 1, 1, 1  # channels of `LidParts.still`
EDGE = slice(9, 10)  # of these channels, the pixels below the edge of the upper lid


@dataclass(frozen=True)
class LidParts:
    """The eyes of N sources, two each, the right one first. h, w: `SIZE`, a window's pixels.

    windows: (N, 2, 3, 2), middle, along and down of each eye's `Window`. still: (N, 2, C, h, w) with
    `STILL_CHANNELS`: the eye without iris, the eye as it is, the skin of the closed lid, all in [-1, 1]; pixels below
    the edge of the upper lid; height of the opening in pixels; what a closing lid covers, 0..1; skin that unfolds
    as it closes, 0..1; alpha of the drawing. iris: (N, 2, 4, h, w), colour and alpha. lashes: (N, 2, 1, CHART_ABOVE +
    CHART_BELOW, w), logarithms by which the lashes of a closed eye darken, by distance from the edge of the lid.
    heights: (N, 2), of the openings in pixels. clear: (N, 1), 1 if the lids were found, else 0. skin: (N, 2, 2, 2,
    FIELD, FIELD), see `lid_skin.skin_fields`; 0 if the lids were not found.
    """

    windows: Tensor
    still: Tensor
    iris: Tensor
    lashes: Tensor
    heights: Tensor
    clear: Tensor
    skin: Tensor


def lid_parts(fine: np.ndarray, points: np.ndarray, spread: np.ndarray) -> LidParts:
    """The eyes of one source, on the CPU.

    fine: uint8 (D, D, 3). points (COUNT, 2), spread (COUNT,): landmarks of the face in pixels of it, and their expected
    error, see `inference.face.landmarks`. About 70 ms of CPU.
    """
    across = (points[1] - points[0]).astype(np.float64)
    distance = max(float(np.hypot(*across)), 1e-6)
    eyes = find_eyelids(fine, points)
    parts = [_parts(fine, eye, across / distance, distance, outer) for eye, outer in zip(eyes, (-1, 1), strict=True)]
    sure = max(spread[lids].mean() for lids in (RIGHT_LIDS, LEFT_LIDS)) <= SURE * 2 * IRIS * distance
    clear = sure and min(eye.fit for eye in eyes) >= LEAST_FIT
    windows, still, iris, lashes, heights = (
        torch.from_numpy(np.stack(part).astype(np.float32))[None] for part in zip(*parts, strict=True)
    )
    skin = torch.from_numpy(skin_fields(len(fine), eyes, distance))[None] * float(clear)
    return LidParts(windows, still, iris, lashes, heights, torch.tensor([[float(clear)]]), skin)


def _parts(fine: np.ndarray, eye: Eyelids, along: np.ndarray, distance: float, outer: int) -> tuple[np.ndarray, ...]:
    """One eye, without the first dimension of `LidParts`. outer: -1 if its outer corner is the left one, else 1."""
    height, width = SIZE
    middle = np.array([eye.ends[:, 0].mean(), np.mean(eye.curves_at(np.linspace(*eye.ends[:, 0], 9))) + 2])
    shift = middle - ((width - 1) / 2, (height - 1) / 2)  # of this window in the one in which the lids were found
    centre = eye.to_picture[:, :2] @ middle + eye.to_picture[:, 2]
    own = window_of(fine, centre, along, distance, SIZE)[0].astype(np.float32)
    columns, y = np.arange(width) + shift[0], np.arange(height)[:, None]
    upper, lower = (curve - shift[1] for curve in eye.curves_at(columns))
    lower = lower + 2 * np.clip((lower - upper) / 8, 0, 1)  # so that nothing of the eye remains below a closed lid
    iris = eye.iris - shift
    # The curve follows the upper side of the lid's edge, but the edge itself moves with the lid.
    base = _closed_lid_skin(own, y - upper, np.broadcast_to(lower - upper, SIZE))[1]
    upper = upper + np.minimum(_edge_thickness(own, base, upper, iris, eye.radius), (lower - upper) / 3)
    edge, opening = y - upper, np.broadcast_to(lower - upper, SIZE)
    inside = (_ramp(edge - 1, 2) * _ramp(opening - edge - 2, 2)).astype(np.float32)
    iris, radius = find_iris(own, inside, iris, eye.radius)
    lash_heights = _lash_heights(own, base, upper)
    skin, base = _closed_lid_skin(own, edge, opening, lash_heights)
    covered = _smoothstep((edge + lash_heights + 5) / 5)
    beside = np.minimum(np.arange(width), np.arange(width)[::-1])
    unfolds = np.maximum(covered, _smoothstep((edge + UNFOLDED[1]) / 7)) * _smoothstep(beside / BORDER)
    left, clean = _lash_tips(own, edge + lash_heights)
    skin = clean + (skin - clean) * unfolds[..., None]
    length = eye.ends[1, 0] - eye.ends[0, 0]
    still = np.dstack([
        _without_iris(own, inside, iris, radius) / 127.5 - 1, own / 127.5 - 1, skin / 127.5 - 1, edge, opening,
        np.maximum(covered, left), unfolds, _feather(edge, opening, length),
    ])  # fmt: skip
    colour = np.dstack([_round_iris(own, inside, iris, radius) / 127.5 - 1, disc(iris, radius * 1.06, 1.5)])
    place, size = (centre + 0.5) * 2 / len(fine) - 1, PIXEL * distance / len(fine)
    windows = np.stack([place, size * width * along, size * height * np.array([-along[1], along[0]])])
    along_lid = np.clip((columns - eye.ends[0, 0]) / length, 0, 1) * 2 - 1
    lashes = _lash_chart(own, base, upper, along_lid, outer)[None]
    return windows, still.transpose(2, 0, 1), colour.transpose(2, 0, 1), lashes, opening.max()


def _feather(edge: np.ndarray, opening: np.ndarray, length: float) -> np.ndarray:
    """(*SIZE) 0..1: alpha of the drawing, soft around the eye and 0 on the window's border."""
    away = np.clip(np.maximum(-edge - 14, edge - opening - 12) / 7, 0, 1)
    beside = np.clip((np.abs(np.arange(SIZE[1]) - (SIZE[1] - 1) / 2) - length / 2 - 6) / 7, 0, 1)
    rows, columns = (np.minimum(np.arange(count), np.arange(count)[::-1]) for count in SIZE)
    return _smoothstep(1 - np.hypot(away, beside)) * np.clip(np.minimum(rows[:, None], columns) / 4, 0, 1)


def _ramp(distance: np.ndarray, soft: float) -> np.ndarray:
    return np.clip(distance / soft + 0.5, 0, 1)


def _smoothstep(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)


def _closed_lid_skin(
    own: np.ndarray, edge: np.ndarray, opening: np.ndarray, lash_heights: np.ndarray | float = 8.0
) -> tuple[np.ndarray, np.ndarray]:
    """The skin of the closed lid: what is around the eye, continued over it, with the texture of the skin below it.

    Returns (*SIZE, 3) of 0..255, and (*SIZE) logarithms of its light without texture and shading.
    """
    logs = np.log(own / 255 + DARKEST)
    light = logs.mean(2)
    around = (edge < -lash_heights - 1) | (edge > opening + 6)
    usual = np.median(light[around])
    # Without brows, creases and lashes.
    local = cv2.GaussianBlur(np.where(around, light, usual).astype(np.float32), (0, 0), 8)
    known = (around & (light > local - 0.2) & (light > usual - 0.7)).astype(np.float32)
    known = cv2.erode(known, np.ones((3, 3)))
    base = cv2.GaussianBlur(inpaint(logs, known), (0, 0), 3)
    fine = light - cv2.GaussianBlur(light, (0, 0), 2.2)
    spread = 1.4826 * np.median(np.abs(fine[known > 0])) if known.any() else 0.0
    grain = np.clip(fine * cv2.GaussianBlur(known, (0, 0), 1.5), -2.5 * spread, 2.5 * spread)
    # Mirrored at the lower lid.
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    mirror = (2 * (y - edge + opening) - y + 8).astype(np.float32)
    grain = cv2.remap(grain.astype(np.float32), x, mirror, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    share = np.clip(edge / np.maximum(opening, 1), -0.5, 1.2)
    shade = 0.05 * np.exp(-(((share - 0.45) / 0.3) ** 2)) - 0.10 * np.exp(-(((share - 1.05) / 0.16) ** 2))
    shade = (shade - 0.03 * np.exp(-(((share + 0.12) / 0.12) ** 2))) * np.clip(opening / 12, 0, 1)
    # The skin between the crease and the edge of the lid goes down with it. Half of that: else the shadow of a brow
    # darkens the whole lid.
    from_crease = np.clip(edge + UNFOLDED[1], 0, None)
    down = np.clip(opening, 0, None)
    stretch = (UNFOLDED[1] - UNFOLDED[0]) / (down + UNFOLDED[1] - UNFOLDED[0])
    stretched = np.maximum(from_crease * stretch, from_crease - down)
    unfolded = cv2.remap(base, x, (y + stretched - from_crease).astype(np.float32), cv2.INTER_LINEAR)
    result = np.exp((base + unfolded) / 2 + (grain + shade)[..., None]) - DARKEST
    return np.clip(result, 0, 1) * 255, base.mean(2)


def _log_lightness(own: np.ndarray) -> np.ndarray:
    return np.log(own.mean(2) / 255 + DARKEST).astype(np.float32)


def _edge_thickness(
    own: np.ndarray, base: np.ndarray, upper: np.ndarray, iris: np.ndarray, radius: float
) -> np.ndarray:
    """(width,) pixels from the upper side of the lid's edge, with its lashes, to the white of the eye below it."""
    width = len(upper)
    columns = np.arange(width, dtype=np.float32)
    rows = (upper + np.arange(12)[:, None]).astype(np.float32)
    dark = cv2.remap(base - _log_lightness(own), np.broadcast_to(columns, rows.shape), rows, cv2.INTER_LINEAR)
    dark = cv2.GaussianBlur(dark, (0, 0), 2.5, sigmaY=0.5)
    darkest = dark[:8].argmax(0)
    lighter = (dark < 0.6 * np.take_along_axis(dark, darkest[None], 0)) & (np.arange(12)[:, None] > darkest)
    found = np.where(lighter.any(0), lighter.argmax(0), 4).astype(np.float32)
    away = np.abs(columns - iris[0])
    seen = (away > 1.15 * radius) & (away < 2.2 * radius)  # the iris is dark itself
    if not seen.any():
        return np.full(width, 3.0)
    found = np.interp(columns, columns[seen], found[seen]).astype(np.float32)[None]
    return cv2.GaussianBlur(np.clip(found, 2, 10), (0, 0), 5)[0]


def _without_iris(own: np.ndarray, inside: np.ndarray, iris: np.ndarray, radius: float) -> np.ndarray:
    """(*SIZE, 3) of 0..255: the eye without iris; its white is a little darker below the upper lid."""
    known = (cv2.erode(inside, np.ones((3, 3))) > 0.9) & (disc(iris, radius * 1.25, 2) < 0.1)
    light = own.mean(2)
    if known.sum() < 12:  # hardly any white is shown
        known = inside > 0.8
    if known.any():
        known &= light >= np.quantile(light[known], 0.4)  # without corners and lashes
    white = cv2.GaussianBlur(inpaint(own, known.astype(np.float32)), (0, 0), 1.5)
    above = cv2.GaussianBlur(inside, (0, 0), 3)
    white *= 1 - 0.3 * np.clip(above - np.roll(above, 4, axis=0), 0, 1)[..., None]
    result = own + (white - own) * (disc(iris, radius * 1.06, 1.5) * np.clip(2 * inside, 0, 1))[..., None]
    rim = disc(iris, radius * 1.25, 4) * inside * (white.mean(2) > result.mean(2))  # soft and dark around the iris
    return result + (white - result) * rim[..., None]


def _round_iris(own: np.ndarray, inside: np.ndarray, at: np.ndarray, radius: float) -> np.ndarray:
    """(*SIZE, 3) of 0..255: the iris, with what lids hide completed from its other side."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    shown = cv2.GaussianBlur(cv2.erode(inside, np.ones((3, 3))), (0, 0), 0.7) * disc(at, radius * 0.85, 1)
    result, known = own * shown[..., None], shown.copy()
    for rank, (flip_x, flip_y) in enumerate(((-1, -1), (1, -1), (-1, 1))):
        places = (at[0] + flip_x * (x - at[0])).astype(np.float32), (at[1] + flip_y * (y - at[1])).astype(np.float32)
        share = 0.04 ** (rank + 1) * cv2.remap(shown, *places, cv2.INTER_LINEAR)
        result += cv2.remap(own, *places, cv2.INTER_LINEAR) * share[..., None]
        known += share
    seen = (known > 0.04**4 * 10).astype(np.float32)
    return inpaint(result / np.maximum(known, 1e-9)[..., None], cv2.erode(seen, np.ones((2, 2))))


def _lash_heights(own: np.ndarray, base: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """(width,) pixels above the upper lid's edge that its lashes and its liner take."""
    above = np.arange(1, MOST_LASH_HEIGHT + 1)
    rows = (upper - above[:, None]).astype(np.float32)
    columns = np.broadcast_to(np.arange(len(upper), dtype=np.float32), rows.shape)
    dark = cv2.GaussianBlur(base - _log_lightness(own), (0, 0), 1.5)
    dark = cv2.remap(dark, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gone = dark < np.maximum(0.13, 0.4 * dark[:6].max(0))  # shadow and colour above them stay
    lash_heights = np.where(gone.any(0), gone.argmax(0) + 2, LEAST_LASH_HEIGHT)
    lash_heights = np.clip(lash_heights, LEAST_LASH_HEIGHT, MOST_LASH_HEIGHT).astype(np.float32)[None]
    return cv2.GaussianBlur(cv2.dilate(lash_heights, np.ones((1, 5))), (0, 0), 4)[0]


def _lash_tips(own: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thin dark lines above what a closing lid covers: tips of lashes. above: (*SIZE) pixels below its upper border.

    Returns where they are, (*SIZE) 0..1, and the eye without them, (*SIZE, 3) of 0..255.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    clean = cv2.GaussianBlur(cv2.morphologyEx(own, cv2.MORPH_CLOSE, kernel), (0, 0), 1.5)
    line = cv2.dilate(_log_lightness(clean) - _log_lightness(own), np.ones((3, 3)))
    share = _smoothstep((line - LINE_CONTRAST[0]) / (LINE_CONTRAST[1] - LINE_CONTRAST[0]))
    share = share * _smoothstep((above + TIP_FADE[1]) / (TIP_FADE[1] - TIP_FADE[0]))
    return cv2.GaussianBlur(share.astype(np.float32), (0, 0), 0.8), clean


def _lash_chart(own: np.ndarray, base: np.ndarray, upper: np.ndarray, along: np.ndarray, outer: int) -> np.ndarray:
    """`LidParts.lashes` of one eye. along: (width,), from -1 to 1 between the corners. outer: see `_parts`."""
    light = _log_lightness(own)
    rows = (upper + np.arange(-2, 4)[:, None]).astype(np.float32)
    columns = np.broadcast_to(np.arange(len(upper), dtype=np.float32), rows.shape)
    dark = cv2.remap(base - light, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    own = dark.max(0)
    dark = (own + dark.mean(0)) / 2
    dark = np.clip(cv2.GaussianBlur(dark[None], (0, 0), 8)[0] * 1.2, LEAST_DARKENING, MOST_DARKENING)
    ends = np.clip((1 - np.abs(along)) / 0.12, 0, 1) ** 0.7  # thinner towards the corners
    below = np.arange(-CHART_ABOVE, CHART_BELOW)[:, None] + 0.5
    line = np.exp(-(((below - 0.3) / np.where(below < 0.3, 1.2, 1.6)) ** 2)) * ends
    # As sharp as the picture: an edge in it is as wide as its contrast divided by its steepest slope.
    slope = np.quantile(np.hypot(cv2.Sobel(light, -1, 1, 0), cv2.Sobel(light, -1, 0, 1)) / 8, 0.99)
    contrast = np.subtract(*np.quantile(light, (0.98, 0.02)))
    soft = np.clip(0.35 * contrast / max(slope, 1e-3) - 0.5, 0.4, 2.5)
    line, drawn = (
        cv2.GaussianBlur((dark * part).astype(np.float32), (0, 0), soft)
        for part in (line, np.maximum(line, 0.6 * _drawn_lashes(along, outer)))
    )
    middle = np.abs(along) < 0.7
    if not middle.any():
        return drawn
    own = min(float(np.median(own[middle])), MOST_DARKENING)
    return drawn * np.clip(own / max(float(np.median(line.max(0)[middle])), 1e-3), 1, MOST_SHARPENING)


def _drawn_lashes(along: np.ndarray, outer: int) -> np.ndarray:
    """Lashes that hang from the lid's edge, longer and slanted to the outer corner: see `_lash_chart`, but 0..1."""
    fine, drawn = 8, np.random.default_rng(1)
    height, width = CHART_ABOVE + CHART_BELOW, len(along)
    canvas = np.zeros((height * fine, width * fine), np.uint8)
    inner = np.flatnonzero(np.abs(along) < 0.999)
    if not len(inner):
        return np.zeros((height, width))
    left, right = inner[0], inner[-1]
    for place in np.linspace(-0.93, 0.97, 44) + drawn.normal(size=44) * 0.012:  # -1 at the inner corner
        x = (left + (right - left) * (place * outer + 1) / 2 + 0.5) * fine
        length = (0.35 + 0.65 * np.clip((place + 1) / 1.3, 0, 1)) * (1 - 0.45 * max(place - 0.7, 0) / 0.3)
        length *= (CHART_BELOW - 3) * drawn.uniform(0.65, 1.0) * fine
        slant = outer * (0.75 * place + 0.15 + drawn.normal() * 0.12)
        steps = np.linspace(0, 1, 8)
        points = np.stack([x + slant * length * steps**1.3, CHART_ABOVE * fine + length * (steps - 0.25 * steps**2)], 1)
        for index in range(7):
            thick = max(round(float(fine * (1.15 - 0.9 * steps[index]))), 1)
            ends = (tuple(int(v) for v in points[at]) for at in (index, index + 1))
            cv2.line(canvas, *ends, 255, thick, cv2.LINE_AA)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA) / 255.0
