"""Changes the gaze of a portrait, without a network: the iris moves inside the opening of the lids.

A window around each eye is cut from the source once and divided into parts by the landmarks: the opening between the
lids, the iris including the part that the lids hide, and the eye without iris. A frame samples these parts at the
positions of its head motion, with the iris shifted. They are composited below the insets, so that a closing lid covers
them. Without a change of gaze nothing is drawn. Nothing outside the opening changes; the lids follow the gaze by
coefficients of the expression, see `with_lids`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..face.crop import EYES, TEMPLATE
from ..face.landmarks import LEFT_LIDS, NAMES, RIGHT_LIDS, Landmarks, find_each, gaze, square_at
from .insets import PlacedInset, Window
from .layout import constant
from .refiner import warped

BANK, COEFFICIENTS = "eye", ("eyeYaw", "eyePitch")
YAW, PITCH = np.radians((25.0, 20.0))  # turn of the eyes at a coefficient of 1: to the picture's right, and down
SIZE = 72, 104  # height and width of an eye's window in pixels
EXTENT = 0.208, 0.30  # half of them, in eye distances
BALL = 0.19  # distance of the iris from the centre of the eye ball, in eye distances
IRIS = 0.093  # radius of the iris, in eye distances
SCALES = 0.88, 1.0, 1.12  # radii that are tried, as factors of the expected one
LIDS_DOWN, LIDS_UP = 0.5, 0.5  # per radian: how far the upper lids close when the eyes turn down, and open
FIRST = 0.02  # radians of turn over which the drawing fades in
SURE = 0.35  # largest mean error of the landmarks of an eye, in widths of an iris, with which it is turned


class EyeParts(NamedTuple):
    """One eye of the source; parts are (1, C, *SIZE) with colours in [-1, 1].

    window: its place in the source. own: 3, as it is. bare: 3, without iris. iris: 4, colour and alpha, at its place.
    opening: 1, from 0 to 1 inside the lids.
    """

    window: Window
    own: Tensor
    bare: Tensor
    iris: Tensor
    opening: Tensor


def estimate_gaze(picture: np.ndarray) -> np.ndarray:
    """Estimate the gaze (2,) float32, in the order of COEFFICIENTS.

    picture: uint8 (S, S, 3), cropped as for the bank.
    """
    return estimate_gazes([picture], faces_in([picture]))[0]


def faces_in(pictures: Sequence[np.ndarray]) -> Landmarks:
    """The landmarks of the face in each of N pictures, cropped as for the bank, without a closer look at the lips."""
    squares = [square_at((EYES + 0.5) * len(picture) / TEMPLATE - 0.5) for picture in pictures]
    return find_each(pictures, squares, lips=False)


def estimate_gazes(pictures: Sequence[np.ndarray], faces: Landmarks) -> np.ndarray:
    """Estimate the gaze (N, 2) of N pictures, see `estimate_gaze`. faces: see `faces_in`."""
    found = faces.points.astype(np.float64)
    points = np.stack([refine_irises(*pair) for pair in zip(pictures, found, strict=True)])
    return (gaze(points) / (YAW, PITCH)).astype(np.float32)


def with_lids(rows: Tensor, turns: Tensor, blink: int | None, wide: int | None) -> Tensor:
    """Coefficients (N, n) with upper lids that follow the gaze.

    turns: (N, 2), coefficients of COEFFICIENTS. blink, wide: columns of eyeBlink and eyeWide; None if there are none.
    """
    down, rows = turns[:, 1] * float(PITCH), rows.clone()
    if blink is not None:
        still_open = 1 - rows[:, blink].clamp(0.0, 1.0)
        rows[:, blink] += LIDS_DOWN * down.clamp(min=0.0) * still_open
        if wide is not None:
            rows[:, wide] += LIDS_UP * (-down).clamp(min=0.0) * still_open
    return rows


def eye_parts(fine: np.ndarray, points: np.ndarray, spread: np.ndarray) -> list[EyeParts]:
    """The eyes of a picture whose gaze can be changed: none, one or both.

    fine: uint8 (D, D, 3). points (COUNT, 2), spread (COUNT,): landmarks of the face in pixels of it, and their expected
    error, see `inference.face.landmarks`.
    """
    across = (points[1] - points[0]).astype(np.float64)
    distance = float(np.hypot(*across))
    along = across / max(distance, 1e-6)
    parts = []
    for lids, centre, iris in ((RIGHT_LIDS, 0, "irisRight"), (LEFT_LIDS, 1, "irisLeft")):
        if spread[lids].mean() <= SURE * 2 * IRIS * distance:
            parts.append(_parts(fine, points[lids], points[centre], points[NAMES.index(iris)], along, distance))
    return parts


class _Cut(NamedTuple):
    """An eye cut from a picture: colours (*SIZE, 3) of 0..255, opening (*SIZE), and the iris's centre and radius in
    pixels of it. to_picture: (2, 3) matrix from its pixels to those of the picture.
    """

    own: np.ndarray
    opening: np.ndarray
    iris: np.ndarray
    radius: float
    to_picture: np.ndarray


def _cut(
    fine: np.ndarray, lids: np.ndarray, centre: np.ndarray, iris: np.ndarray, along: np.ndarray, distance: float
) -> _Cut:
    height, width = SIZE
    step = 2 * EXTENT[1] * distance / width  # picture pixels per pixel of the window
    turn = step * np.array([[along[0], -along[1]], [along[1], along[0]]])
    to_picture = np.column_stack([turn, centre - turn @ ((width - 1) / 2, (height - 1) / 2)])
    own = cv2.warpAffine(
        fine, to_picture, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32)
    into = np.linalg.inv(np.vstack([to_picture, (0, 0, 1)]))[:2]
    opening = _filled(_rounded(lids @ into[:, :2].T + into[:, 2]))
    at, radius = find_iris(own, opening, into[:, :2] @ iris + into[:, 2], IRIS * distance / step)
    return _Cut(own, opening, at, radius, to_picture)


def refine_irises(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Landmarks (COUNT, 2) with the irises located in the picture, uint8 (H, W, 3), at its full resolution.

    The input of the landmark network is a reduced picture, in which an iris has few pixels.
    """
    across = (points[1] - points[0]).astype(np.float64)
    distance = float(np.hypot(*across))
    result = points.copy()
    for lids, centre, name in ((RIGHT_LIDS, 0, "irisRight"), (LEFT_LIDS, 1, "irisLeft")):
        iris = NAMES.index(name)
        eye = _cut(picture, points[lids], points[centre], points[iris], across / max(distance, 1e-6), distance)
        result[iris] = eye.to_picture[:, :2] @ eye.iris + eye.to_picture[:, 2]
    return result


def _parts(
    fine: np.ndarray, lids: np.ndarray, centre: np.ndarray, iris: np.ndarray, along: np.ndarray, distance: float
) -> EyeParts:
    own, opening, at, radius, _ = _cut(fine, lids, centre, iris, along, distance)
    round_iris = disc(at, radius * 1.06, 1.5)
    parts = np.dstack(
        [own, _bare(own, opening, at, radius), _whole_iris(own, opening, at, radius), round_iris, opening]
    )
    tensor = torch.from_numpy(parts.astype(np.float32)).permute(2, 0, 1)[None]
    colours = tensor[:, :9] / 127.5 - 1
    size = len(fine)
    middle = torch.tensor(((centre + 0.5) * 2 / size - 1)[None], dtype=torch.float32)
    down = np.array([-along[1], along[0]])
    half = [
        torch.tensor((side * distance * 2 / size)[None], dtype=torch.float32)
        for side in (EXTENT[1] * along, EXTENT[0] * down)
    ]
    iris_alpha = torch.cat([colours[:, 6:9], tensor[:, 9:10]], 1)
    return EyeParts(Window(middle, *half), colours[:, :3], colours[:, 3:6], iris_alpha, tensor[:, 10:11])


def _rounded(outline: np.ndarray) -> np.ndarray:
    """The lids' outline (8, 2) as a closed curve of 64 points through them: cubic pieces that do not overshoot."""
    # As SciPy's PchipInterpolator, whose import takes two seconds.
    steps = np.roll(outline, -1, axis=0) - outline
    before = np.roll(steps, 1, axis=0)
    product = before * steps
    slopes = np.where(product > 0, 2 * product / np.where(product > 0, before + steps, 1.0), 0.0)
    at = np.arange(0, 1, 0.125)[:, None, None]
    weights = 2 * at**3 - 3 * at**2 + 1, at**3 - 2 * at**2 + at, 3 * at**2 - 2 * at**3, at**3 - at**2
    ends = outline, slopes, np.roll(outline, -1, axis=0), np.roll(slopes, -1, axis=0)
    curve = sum(weight * end for weight, end in zip(weights, ends, strict=True))  # (8, 8, 2), pieces second
    return np.asarray(curve).swapaxes(0, 1).reshape(-1, 2)


def _filled(outline: np.ndarray) -> np.ndarray:
    """(*SIZE) float32: 1 inside a closed outline, with a soft edge of about two pixels."""
    mask = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(mask, (0, 0), 1.2).astype(np.float32) / 255


def disc(at: np.ndarray, radius: float, soft: float) -> np.ndarray:
    """(*SIZE) float32: 1 in a disc, with an edge of `soft` pixels."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.clip((radius - np.hypot(x - at[0], y - at[1])) / soft + 0.5, 0, 1).astype(np.float32)


def find_iris(own: np.ndarray, opening: np.ndarray, near: np.ndarray, radius: float) -> tuple[np.ndarray, float]:
    """Centre and radius of the iris: the disc that is darkest against the ring around it, inside the opening.

    own: uint8 (*SIZE, 3), the window of an eye. opening: (*SIZE,) mask of what lies between the lids. near: (x, y), a
    rough estimate of the centre, which decides between positions of equal contrast. radius: expected, in pixels.
    """
    sure = cv2.erode(opening, np.ones((3, 3))).astype(np.float32)
    grey = own.mean(2, dtype=np.float32) / np.float32(128) - 1  # around 0, so that little is lost in rounding
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    unlikely = np.hypot((6 / radius) * (x - near[0]), (9 / radius) * (y - near[1])).astype(np.float32)
    discs = _discs(float(radius))
    both = torch.complex(torch.from_numpy(grey * sure), torch.from_numpy(sure))
    sums = torch.fft.ifft2(torch.fft.fft2(both, discs.shape) * discs.spectra)[:, : SIZE[0], : SIZE[1]]
    (dark, light), (inside, around) = (part.numpy().reshape(2, len(SCALES), *SIZE) for part in (sums.real, sums.imag))
    contrast = 128 * (light / np.maximum(around, 1) - dark / np.maximum(inside, 1)) - unlikely
    # A disc that lids hide for the most part may be dark by chance.
    contrast += np.minimum(inside * (25 / discs.inner), 20) - discs.unusual
    contrast[(inside < 0.25 * discs.inner) | (around < 0.1 * discs.ring)] = -np.inf
    scale, *place = np.unravel_index(int(contrast.argmax()), contrast.shape)
    if not np.isfinite(contrast[(scale, *place)]):
        return near, radius
    return _peak(contrast[scale], tuple(place)), radius * SCALES[scale]


class _Discs(NamedTuple):
    """Discs and the rings around them, of one size for each of SCALES, to correlate a window with.

    shape: of the transform, with a margin that keeps opposite borders apart. spectra: (2 * scales, *shape), discs
    first. inner, ring, unusual: (scales, 1, 1) float32, sums of each disc and of each ring, and what a size costs.
    """

    shape: tuple[int, int]
    spectra: Tensor
    inner: np.ndarray
    ring: np.ndarray
    unusual: np.ndarray


@lru_cache(maxsize=8)
def _discs(radius: float) -> _Discs:
    inner, ring = [], []
    for scale in SCALES:
        small, outer = _kernel(radius * scale * 0.95), _kernel(radius * scale * 1.45)
        hole = np.pad(_kernel(radius * scale * 1.08, len(small) // 2), (len(outer) - len(small)) // 2)
        inner.append(small)
        ring.append(outer - hole)
    reach = len(ring[-1]) // 2
    height, width = (-(-(length + reach) // 8) * 8 for length in SIZE)
    kernels = np.zeros((2 * len(SCALES), height, width), np.float32)
    for kernel, place in zip((*inner, *(np.clip(one, 0, 1) for one in ring)), kernels, strict=True):
        half = len(kernel) // 2
        place[: len(kernel), : len(kernel)] = kernel
        place[:] = np.roll(place, (-half, -half), (0, 1))
    costs = [one.sum() for one in inner], [one.sum() for one in ring], [40 * abs(scale - 1) for scale in SCALES]
    columns = (np.array(part, np.float32)[:, None, None] for part in costs)
    return _Discs((height, width), torch.fft.fft2(torch.from_numpy(kernels)), *columns)


def _kernel(radius: float, half: int | None = None) -> np.ndarray:
    """A disc in a square of odd side, float32."""
    half = int(np.ceil(radius)) + 1 if half is None else half
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    return np.clip(radius - np.hypot(x, y) + 0.5, 0, 1).astype(np.float32)


def _peak(values: np.ndarray, place: tuple[np.intp, ...]) -> np.ndarray:
    """(2,) x and y of a maximum, between pixels."""
    result = []
    for axis in (1, 0):
        at, last = int(place[axis]), values.shape[axis] - 1
        row = values[place[0]] if axis == 1 else values[:, place[1]]
        before, here, after = row[max(at - 1, 0)], row[at], row[min(at + 1, last)]
        bend = before - 2 * here + after
        shift = 0.5 * (before - after) / bend if np.isfinite(bend) and bend < 0 else 0.0
        result.append(at + float(np.clip(shift, -0.5, 0.5)))
    return np.array(result)


def inpaint(colours: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) of the known pixels, interpolated smoothly over the others. known: (h, w), 1 or 0."""
    result, weight = np.zeros_like(colours), np.zeros_like(known)
    for sigma in (2.0, 5.0, 12.0, 40.0):
        blurred = cv2.GaussianBlur(known, (0, 0), sigma)
        mean = cv2.GaussianBlur(colours * known[..., None], (0, 0), sigma) / np.maximum(blurred, 1e-6)[..., None]
        share = np.clip(blurred / 0.15, 0, 1) * (1 - weight)
        result += mean * share[..., None]
        weight += share
    return np.where(known[..., None] > 0.99, colours, result / np.maximum(weight, 1e-6)[..., None])


def _bare(own: np.ndarray, opening: np.ndarray, at: np.ndarray, radius: float) -> np.ndarray:
    """The eye without iris, which is replaced by white, a little darker below the upper lid."""
    white = cv2.erode(opening, np.ones((3, 3))) * (1 - disc(at, radius * 1.18, 2))
    white = (white > 0.9).astype(np.float32)
    if white.sum() < 12:  # hardly any white is shown: the lightest part of the opening
        grey = np.where(opening > 0.8, own.mean(2), -1)
        white = (grey >= np.quantile(grey[grey >= 0], 0.85) if (grey >= 0).any() else grey > -2).astype(np.float32)
    inpainted = inpaint(own, white)
    above = cv2.GaussianBlur(opening, (0, 0), 3)
    shade = np.clip(above - np.roll(above, 4, axis=0), 0, 1)  # towards the upper lid
    return inpainted * (1 - 0.35 * shade[..., None])


def _whole_iris(own: np.ndarray, opening: np.ndarray, at: np.ndarray, radius: float) -> np.ndarray:
    """The iris; the part that the lids hide is copied from its other side."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    shown = (cv2.erode(opening, np.ones((3, 3))) > 0.85).astype(np.float32) * disc(at, radius, 1)
    result, known = own * shown[..., None], shown
    for flip_x, flip_y in ((-1, -1), (1, -1), (-1, 1)):
        mirrored = (at[0] + flip_x * (x - at[0])).astype(np.float32), (at[1] + flip_y * (y - at[1])).astype(np.float32)
        other, mirrored_shown = (
            cv2.remap(own, *mirrored, cv2.INTER_LINEAR),
            cv2.remap(shown, *mirrored, cv2.INTER_LINEAR),
        )
        share = np.clip(mirrored_shown - known, 0, 1) * (known < 0.5)
        result, known = result + other * share[..., None], known + share
    return inpaint(result / np.maximum(known, 1e-6)[..., None], (known > 0.5).astype(np.float32))


def shifts(turns: Tensor) -> Tensor:
    """Shift (N, 2) of the iris in half windows. turns: (N, 2), change of the coefficients of COEFFICIENTS."""
    angle = turns * constant(turns.device, YAW, PITCH)
    return torch.sin(angle) * BALL / constant(turns.device, EXTENT[1], EXTENT[0])


def turned_eyes(
    sources: Sequence[Sequence[EyeParts]],
    turns: Tensor,
    positions: Tensor | None = None,
    anchors: Tensor | None = None,
    moved: Tensor | None = None,
) -> list[PlacedInset]:
    """The turned eyes of N pictures, to be composited over them.

    sources: the eyes of one source, or of N. turns: (N, 2) change of the coefficients of COEFFICIENTS. positions:
    (N, 2, S, S), sampling position in the source of each pixel; anchors, moved: (1 or N, 3, 2) and (N, 3, 2), the
    sources' anchors before and after the head's motion. Default: the pictures are the sources themselves.
    """
    count = len(turns)
    eyes_of_rows = [sources[0] if len(sources) == 1 else sources[row] for row in range(count)]
    result = []
    for number in range(max(map(len, eyes_of_rows), default=0)):
        layers = []
        for row, eyes in enumerate(eyes_of_rows):
            at = slice(row, row + 1)
            eye, strength = (eyes[number], 1.0) if number < len(eyes) else (_any_eye(eyes_of_rows), 0.0)
            window = eye.window
            if anchors is not None and moved is not None:
                window = _moved(window, anchors[at] if len(anchors) == count else anchors, moved[at])
            layer = _turned(eye, turns[at], window, None if positions is None else positions[at])
            layers.append(PlacedInset(window, layer * strength))
        windows = (torch.cat([one.window[part] for one in layers]) for part in range(3))
        result.append(PlacedInset(Window(*windows), torch.cat([one.drawn for one in layers])))
    return result


def _turned(eye: EyeParts, turns: Tensor, window: Window, positions: Tensor | None) -> Tensor:
    """One eye of one picture, (1, 4, *SIZE), see `PlacedInset`. turns: (1, 2)."""
    in_picture = window.places(*SIZE)
    inside = eye.window.inside(in_picture if positions is None else warped(positions, in_picture)).permute(0, 2, 3, 1)
    parts = torch.cat([eye.own, eye.bare, eye.iris[:, 3:], eye.opening], 1)
    own, bare, iris_at_rest, opening = F.grid_sample(parts, inside, align_corners=False).split((3, 3, 1, 1), 1)
    iris = F.grid_sample(eye.iris, inside - shifts(turns)[:, None, None], align_corners=False)
    iris_alpha = iris[:, 3:]
    colour = torch.lerp(torch.lerp(own, bare, iris_at_rest), iris[:, :3], iris_alpha)
    strength = (torch.linalg.vector_norm(turns * turns.new_tensor([YAW, PITCH])) / FIRST).clamp(max=1.0)
    alpha = opening * torch.maximum(iris_at_rest, iris_alpha) * strength
    return torch.cat([colour * alpha, alpha], 1)


def _moved(window: Window, before: Tensor, now: Tensor) -> Window:
    """The window after the head has moved. before, now: (1, 3, 2) anchors."""
    before_eye, now_eye = before[:, 0], now[:, 0]
    before_vector, now_vector = before[:, 1] - before_eye, now[:, 1] - now_eye
    squared_length = before_vector.square().sum(1)
    cos = (now_vector * before_vector).sum(1) / squared_length
    sin = (now_vector[:, 1] * before_vector[:, 0] - now_vector[:, 0] * before_vector[:, 1]) / squared_length

    def turned(vector: Tensor) -> Tensor:
        x, y = vector.unbind(1)
        return torch.stack([cos * x - sin * y, sin * x + cos * y], 1)

    return Window(now_eye + turned(window.middle - before_eye), turned(window.along), turned(window.down))


def _any_eye(sources: Sequence[Sequence[EyeParts]]) -> EyeParts:
    """A placeholder, which is not drawn, for an eye whose gaze cannot be changed."""
    return next(eyes[0] for eyes in sources if eyes)
