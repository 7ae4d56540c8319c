"""How the skin around the eyes moves when they squint or open wide.

Displacement fields in eye distances, fitted to the tracked points of the rendered heads (`training.heads`): a squint
raises the lower lid and the cheek below it, and pulls both inwards; wide eyes raise the upper lid and the skin up to
the brow. They are computed once per portrait, along the outline of its lids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..face.eyelids import PIXEL, Eyelids, into_window

FIELD = 128  # side in pixels of the fields, which cover the picture
# Gaussians: x and y of the middle, outwards and down from the middle between the corners of the eye; deviations;
# displacement outwards and down, with the sign of the sampling position's; angle by which they are rotated.
SQUINT = (-0.030, -0.088, 0.138, 0.446, 0.0045, 0.0556, -0.27), (0.253, 0.296, 0.135, 0.196, 0.0457, 0.0226, 0.07)
WIDE = ((-0.010, -0.050, 0.163, 0.048, 0.0045, 0.0600, 0.05),)  # y from the edge of the upper lid
RAISED = 0.05  # by which a squint raises the edge of the lower lid
OPEN = 0.12  # height of an opening; the edges of narrower eyes move less, in proportion
LASHES = 0.25  # part of an opening that the upper lashes hide, which a squint does not move
BESIDE = 0.05  # height over which a squint fades above the corners
REACH = 1.2  # how far from an eye its skin moves, at most, in both directions
FAINT = 0.0015  # displacement that is left out, so that the fields end


def skin_fields(size: int, eyes: Sequence[Eyelids], distance: float) -> np.ndarray:
    """(2, 2, 2, FIELD, FIELD) float32: for each eye, for wide and squinting eyes, x and y of the displacement of the
    sampling positions at a coefficient of 1, in half widths of the picture.

    size: of the picture in pixels. eyes: the right eye, then the left one. distance: of the eyes in pixels.
    """
    result = np.zeros((2, 2, FIELD, FIELD, 2), np.float32)
    pixels = ((np.arange(FIELD) + 0.5) * size / FIELD - 0.5).astype(np.float32)
    for eye, outer, fields in zip(eyes, (-1, 1), result, strict=True):
        middle = eye.to_picture @ (*eye.ends.mean(0), 1)
        columns, rows = (np.flatnonzero(np.abs(pixels - at) < REACH * distance) for at in middle)
        if not len(columns) or not len(rows):
            continue
        near = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        at = into_window(eye.to_picture, np.stack(np.meshgrid(pixels[near[1]], pixels[near[0]]), -1))
        to_picture = eye.to_picture[:, :2] / PIXEL * (outer, 1) * 2 / size
        for field, moved in zip(fields, _wide_and_squint(eye, at, outer), strict=True):
            field[near] = moved @ to_picture.T
    return result.transpose(0, 1, 4, 2, 3)


def _wide_and_squint(eye: Eyelids, at: np.ndarray, outer: int) -> tuple[np.ndarray, np.ndarray]:
    """Displacement (h, w, 2) of positions `at` (h, w, 2) in an eye's window: outwards and down, in eye distances."""
    upper, lower = (curve * PIXEL for curve in eye.curves_at(at[..., 0]))
    middle = eye.ends.mean(0) * PIXEL
    x, y = outer * (at[..., 0] * PIXEL - middle[0]), at[..., 1] * PIXEL
    opening = lower - upper
    height = max(float(np.subtract(*eye.curves_at(np.linspace(*eye.ends[:, 0], 9))[::-1]).max()) * PIXEL, 1e-3)
    scale = min(height / OPEN, 1.0)
    above = np.minimum(y - upper, WIDE[0][1])
    stretched = (lower - y) / np.maximum(opening, BESIDE)
    wide = _gaussians(WIDE, x, above) * np.clip(stretched, 0, 1)[..., None]
    top = upper + LASHES * opening - BESIDE * (1 - opening / height)
    bottom = np.maximum(lower - RAISED * scale, top + 0.01)
    share = np.clip((y - top) / (bottom - top), 0, 1)
    squint = _gaussians(SQUINT, x, y - middle[1]) * (share * share * (3 - 2 * share))[..., None]
    return _ending(wide) * scale, _ending(squint) * scale


def _gaussians(parameters: Sequence[Sequence[float]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    result = np.zeros((*x.shape, 2))
    for middle_x, middle_y, width, height, outwards, down, angle in parameters:
        cos, sin, right, below = np.cos(angle), np.sin(angle), x - middle_x, y - middle_y
        away = ((right * cos + below * sin) / width) ** 2 + ((below * cos - right * sin) / height) ** 2
        result += np.exp(-away / 2)[..., None] * (outwards, down)
    return result


def _ending(field: np.ndarray) -> np.ndarray:
    length = np.hypot(*np.moveaxis(field, -1, 0))
    return field * (np.maximum(length - FAINT, 0) / np.maximum(length, 1e-9))[..., None]


def combined(fields: Tensor, amounts: Tensor) -> Tensor:
    """The displacement (N, 2, FIELD, FIELD) of sampling positions. fields: (1 or N, 2, 2, 2, FIELD, FIELD), see
    `skin_fields`. amounts: (N, 2, 2), coefficients of both eyes, of wide and of squinting eyes.
    """
    return (amounts.flatten(1)[:, None] @ fields.flatten(1, 2).flatten(2)).view(-1, *fields.shape[3:])
