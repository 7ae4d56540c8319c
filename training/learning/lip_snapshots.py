"""Windows of the mouth, cut from rendered pictures and made to look like photographs, for the training of lips.

The edges of real lips have less contrast than rendered ones, or more: colour, shadows and stubble vary along the known
outline.
"""

from __future__ import annotations

import cv2
import numpy as np

from inference.face.crop import apply_matrix, inverse_matrix
from inference.face.landmarks import INNER_LIPS, MIRROR, OUTER_LIPS, eye_vector
from inference.face.lips import HEIGHT, WIDTH, window_at

from .augment import array_noise
from .snapshots import photographed, texture

LIPS = [*OUTER_LIPS, *INNER_LIPS]
_FINE = 4  # binary digits of a pixel's fraction in outlines


def lip_snapshot(
    frame: np.ndarray, mask: np.ndarray, points: np.ndarray, rng: np.random.Generator, *, plain: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A window (HEIGHT, WIDTH, 3) uint8 and the lips (26, 2) float32 in pixels of it.

    frame: (S, S, 3) uint8; mask: (S, S) uint8 coverage by the person; points: (COUNT, 2) pixels of the frame.
    plain: the window alone, placed inexactly, as it was rendered.
    """
    into = _placed(points, rng, stretched=not plain)
    scale = np.sqrt(abs(np.linalg.det(into[:, :2])))
    if scale < 0.6:
        frame = cv2.GaussianBlur(frame, (0, 0), 0.35 / scale)
    shown, cover = (
        cv2.warpAffine(part, into, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for part in (frame, mask)
    )
    at = apply_matrix(into, points)
    if plain:
        return shown, at[LIPS].astype(np.float32)
    if rng.random() < 0.5:
        shown, cover = shown[:, ::-1], cover[:, ::-1]
        at = (at * (-1, 1) + (WIDTH - 1, 0))[MIRROR]
    share = cover[..., None] / np.float32(255)
    picture = np.ascontiguousarray(shown, np.float32)
    if rng.random() < 0.7 and share.min() < 1:
        picture = picture * share + cv2.resize(texture(rng), (WIDTH, HEIGHT)) * (1 - share)
    outer, inner = at[OUTER_LIPS], _around(at)
    whole = _filled(outer)
    lips = np.clip(whole - _filled(inner), 0, 1)
    picture = _coloured(picture, lips, whole, share, rng)
    picture = _shaded(picture, outer, whole, share, rng)
    if rng.random() < 0.3:
        picture = _unshaven(picture, at, whole, share, rng)
    if rng.random() < 0.12:
        picture = _covered(picture, rng)
    return photographed(np.clip(picture, 0, 255).astype(np.uint8), rng), at[LIPS].astype(np.float32)


def _placed(points: np.ndarray, rng: np.random.Generator, *, stretched: bool) -> np.ndarray:
    """(2, 3) matrix from pixels of the frame to those of a window that is placed as inexactly as landmarks place it."""
    turn = np.exp(complex(rng.normal(0, 0.1), rng.normal(0, np.radians(5))))
    across = turn * complex(*eye_vector(points))
    vector = np.array([across.real, across.imag])
    middle = points[OUTER_LIPS].mean(0) + rng.normal(0, 0.07, 2) * np.hypot(*vector)
    into = inverse_matrix(window_at(middle, vector))
    if stretched and rng.random() < 0.6:  # other shapes of mouths
        stretch = np.exp(rng.normal(0, (0.1, 0.14)))
        lean = rng.normal(0, 0.06)
        change = np.array([[stretch[0], lean], [0.0, stretch[1]]])
        centre = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
        into = np.column_stack([change @ into[:, :2], change @ (into[:, 2] - centre) + centre])
    return into


def _around(at: np.ndarray) -> np.ndarray:
    """Closed outline of the gap between the lips."""
    upper, lower = np.split(at[INNER_LIPS], 2)
    return np.concatenate([upper, lower[::-1]])


def _filled(outline: np.ndarray) -> np.ndarray:
    """(HEIGHT, WIDTH) float32, 1 inside a closed outline (n, 2)."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(mask, [np.rint(outline * 2**_FINE).astype(np.int32)], 255, cv2.LINE_AA, _FINE)
    return mask.astype(np.float32) / 255


def _soft(mask: np.ndarray, low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(mask, (0, 0), rng.uniform(low, high))[..., None]


def _mean(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return (picture * mask).sum((0, 1)) / max(float(mask.sum()), 1.0)


def _coloured(
    picture: np.ndarray, lips: np.ndarray, whole: np.ndarray, share: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Lips of another colour, from that of the skin to painted ones; a darker or lighter gap between them."""
    soft = _soft(lips, 0.5, 1.6, rng) * share
    kind = rng.random()
    if kind < 0.4:  # pale: as the skin around, and sometimes beyond
        near, wide = (cv2.dilate(whole, np.ones((side, side), np.uint8)) for side in (3, 11))
        ring = np.clip(wide - near, 0, 1)
        skin, own = _mean(picture, ring[..., None] * share), _mean(picture, lips[..., None])
        picture = picture + soft * rng.uniform(0.2, 1.0) * (skin - own)
    elif kind < 0.75:
        gain = np.exp(rng.normal(0, 0.18) + rng.normal(0, 0.1, 3))
        picture = picture * (1 + soft * (gain - 1)).astype(np.float32)
    if rng.random() < 0.3:
        gap = _soft(np.clip(whole - lips, 0, 1), 0.4, 1.0, rng)
        picture = picture * (1 + gap * (np.exp(rng.normal(-0.2, 0.5)) - 1)).astype(np.float32)
    return picture


def _shaded(
    picture: np.ndarray, outer: np.ndarray, whole: np.ndarray, share: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Shadows under, on and above the lips, a dark or bright edge, and a highlight on the lower lip."""
    for direction, chance in ((1, 0.45), (-1, 0.25)):
        if rng.random() < chance:
            moved = _filled(outer + np.array([0, direction * rng.uniform(2, 9)]))
            band = _soft(np.clip(moved - whole, 0, 1), 0.8, 3.0, rng) * share
            picture = picture * (1 - band * rng.uniform(-0.25, 0.6)).astype(np.float32)
    if rng.random() < 0.35:  # the lower half of the lower lip lies in shadow
        inside = np.clip(whole - _filled(outer - np.array([0, rng.uniform(1.5, 6)])), 0, 1)
        inside[: max(0, int(outer[:, 1].mean()))] = 0
        band = _soft(inside, 0.5, 1.5, rng) * share
        picture = picture * (1 - band * rng.uniform(0.1, 0.7)).astype(np.float32)
    if rng.random() < 0.2:
        line = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.polylines(line, [np.rint(outer * 2**_FINE).astype(np.int32)], True, 255, 1, cv2.LINE_AA, _FINE)
        edge = _soft(line.astype(np.float32) / 255, 0.5, 1.2, rng) * share
        picture = picture * (1 + edge * rng.uniform(-0.4, 0.4)).astype(np.float32)
    if rng.random() < 0.2:
        low = outer[9:16].mean(0) * 0.6 + outer.mean(0) * 0.4
        spot = np.zeros((HEIGHT, WIDTH), np.float32)
        size = (rng.uniform(3, 14), rng.uniform(1, 3))
        cv2.ellipse(spot, (low.tolist(), (2 * size[0], 2 * size[1]), rng.uniform(-10, 10)), 1.0, -1)
        picture = picture + _soft(spot, 0.8, 2.0, rng) * rng.uniform(10, 80)
    return picture


def _unshaven(
    picture: np.ndarray, at: np.ndarray, whole: np.ndarray, share: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Stubble or a beard above the lips, below them, or both."""
    y = np.arange(HEIGHT, dtype=np.float32)[:, None]
    middle = at[INNER_LIPS][:, 1].mean()
    above, below = rng.random(2) < (0.75, 0.75)
    share_above = 1 / (1 + np.exp((y - middle) / rng.uniform(0.5, 6)))
    region = above * share_above + below * (1 - share_above)
    region = region * (1 - cv2.GaussianBlur(whole, (0, 0), rng.uniform(0.5, 1.5)))
    blur = rng.uniform(0.4, 0.9), rng.uniform(0.5, 2.0)
    strands = cv2.GaussianBlur(array_noise((HEIGHT, WIDTH), rng), (0, 0), blur[0], sigmaY=blur[1])
    strands = np.clip(0.5 + 0.5 * strands / max(float(strands.std()), 1e-3), 0, 1)
    amount = rng.uniform(0.1, 0.8) * region * (0.4 + 0.6 * strands)
    colour = rng.uniform(0.05, 0.6) * _mean(picture, share) * np.exp(rng.normal(0, 0.08, 3))
    cover = amount[..., None] * share
    return picture * (1 - cover) + colour.astype(np.float32) * cover


def _covered(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Something before the mouth."""
    cover = np.zeros((HEIGHT, WIDTH), np.float32)
    middle = rng.uniform(0, 1, 2) * (WIDTH, HEIGHT)
    size = rng.uniform(6, 26, 2)
    cv2.ellipse(cover, (middle.tolist(), (2 * size).tolist(), rng.uniform(0, 180)), 1.0, -1)
    soft = _soft(cover, 0.4, 1.2, rng)
    over = (
        rng.uniform(0, 255, 3)
        if rng.random() < 0.5
        else cv2.blur(np.roll(picture, int(rng.integers(9, 60)), 0), (9, 9))
    )
    return (picture * (1 - soft) + over * soft).astype(np.float32)
