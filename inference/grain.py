"""The grain of a portrait's skin, made anew for where the portrait is stretched across, as on the near side of a turned
head. There, pores and noise become streaks.
"""

from __future__ import annotations

import cv2
import numpy as np

# How wide a pixel of the portrait is in a frame's direction across, relative to its height, above which its own grain
# is used and below which it is replaced in full.
STRETCHED = 0.7, 0.5
STRETCH = 2  # by a frame, for which the grain is made
FINE = 1.6 / 512  # picture widths: sigma above whose frequencies a picture is called grain
PATCH = 64 / 512  # picture widths: side of the patch whose spectrum the grain has
SKIN_ROWS, SKIN_COLUMNS = (0.3, 0.75), (0.3, 0.7)  # the part of a picture that is mostly skin
SMOOTH = 0.25  # the patch is chosen so that this share of that part is smoother
STRUCTURE = 2.2, 3.2  # deviations of the grain: weaker is grain, stronger is structure, as moles and hair, and stays
ROUGH = 2.0, 3.25  # the same for the spread around a pixel: skin, and hair or edges
LINES = 0.4, 0.65  # coherence of gradients: 0 is noise, 1 are parallel lines, as hair
DARK = 2.2, 3.2  # how many times darker than most skin: skin in shade, and hair
STRONGEST = 10.0  # levels: deviation of the patch from which on it is no skin, and nothing is changed
GAIN = 1.3  # of the deviation, as interpolation softens grain
COARSE = 4  # pixels per pixel of what is smooth
# Interpolation half-way between pixels from six of them: the filter of H.264's motion compensation.
HALF_WAY = np.array([1, -5, 20, 20, -5, 1], np.float32) / 32
_EDGE = cv2.BORDER_REPLICATE


def new_grain(fine: np.ndarray) -> np.ndarray | None:
    """What replaces the grain of a portrait's skin: it is isotropic where a frame stretches the portrait across by
    STRETCH.

    fine: uint8 (D, D, 3). Returns float32 (2D - 1, 2D - 1), levels to add to all colours of `between(fine)`, new grain
    less the portrait's own; None if no skin is found. The new grain has the spectrum of a smooth patch, at each place
    the deviation of what it replaces, and random phases, the same ones for all portraits.
    """
    size = len(fine)
    high = cv2.subtract(fine, cv2.GaussianBlur(fine, (0, 0), FINE * size), dtype=cv2.CV_32F)
    light = cv2.transform(high, np.full((1, 3), 1 / 3, np.float32))
    patch = _patch(light)
    deviation = 1.4826 * float(np.median(np.abs(patch)))
    if not 0 < deviation <= STRONGEST:
        return None
    skin = _skin(fine, light, deviation)
    strongest = cv2.dilate(np.abs(light), np.ones((3, 3))) / deviation
    grain = light * _below(strongest, *STRUCTURE)
    own = GAIN * np.sqrt(cv2.GaussianBlur(_small(grain * grain), (0, 0), 0.012 * size / COARSE)) * skin
    grain *= cv2.resize(skin, (size, size), interpolation=cv2.INTER_LINEAR)
    side = 2 * size - 1
    tile = _tile(np.clip(patch, -4 * deviation, 4 * deviation))
    half_way = sum(tap * np.roll(tile, row, 0) for tap, row in zip(HALF_WAY, (2, 1, 0, -1, -2, -3), strict=True))
    tall = np.stack((tile, half_way), 1).reshape(-1, len(tile))  # by STRETCH
    repeated = np.tile(tall, (-(-side // len(tall)), -(-side // len(tile))))[:side, :side]
    return repeated * cv2.resize(own, (side, side), interpolation=cv2.INTER_LINEAR) - between(grain)


def between(fine: np.ndarray) -> np.ndarray:
    """(D, D) or (D, D, 3) -> (2D - 1, 2D - 1) or with 3: a pixel between any two, so that warping does not blur."""
    size = len(fine)
    one = np.ones(1, np.float32)
    result = np.empty((2 * size - 1, 2 * size - 1, *fine.shape[2:]), fine.dtype)
    result[::2, ::2] = fine
    # The anchor of a filter with six taps is the fourth one in OpenCV, so this is the value before each pixel.
    across = cv2.sepFilter2D(fine, -1, HALF_WAY, one, borderType=_EDGE)
    result[::2, 1::2] = across[:, 1:]
    result[1::2, ::2] = cv2.sepFilter2D(fine, -1, one, HALF_WAY, borderType=_EDGE)[1:]
    result[1::2, 1::2] = cv2.sepFilter2D(across, -1, one, HALF_WAY, borderType=_EDGE)[1:, 1:]
    return result


def _skin(fine: np.ndarray, light: np.ndarray, deviation: float) -> np.ndarray:
    """(D / COARSE, D / COARSE) 0..1: where a picture may be skin: neither rough, nor in lines, nor dark."""
    unit = len(fine) / COARSE
    power = _small(cv2.min(light * light, 36 * deviation**2))
    rough = np.sqrt(cv2.GaussianBlur(power, (0, 0), 0.01 * unit)) / deviation
    weak = np.clip(light, -deviation, deviation)  # so that edges count little beside the grain
    across, down = cv2.Sobel(weak, -1, 1, 0), cv2.Sobel(weak, -1, 0, 1)
    xx, yy, xy = (
        cv2.GaussianBlur(_small(product), (0, 0), 0.02 * unit) for product in (across**2, down**2, across * down)
    )
    lines = np.hypot(xx - yy, 2 * xy) / np.maximum(xx + yy, 1e-6)
    level = _small(cv2.transform(fine, np.full((1, 3), 1 / 3, np.float32)).astype(np.float32))
    rows, columns = (slice(round(a * unit), round(b * unit)) for a, b in (SKIN_ROWS, SKIN_COLUMNS))
    dark = np.median(level[rows, columns]) / np.maximum(level, 1)
    skin = np.minimum(np.minimum(_below(rough, *ROUGH), _below(lines, *LINES)), _below(dark, *DARK))
    reach = round(0.005 * unit) * 2 + 1
    return cv2.GaussianBlur(cv2.erode(skin, np.ones((reach, reach))), (0, 0), 0.006 * unit)


def _small(plane: np.ndarray) -> np.ndarray:
    side = -(-len(plane) // COARSE)
    return cv2.resize(plane, (side, side), interpolation=cv2.INTER_AREA)


def _patch(light: np.ndarray) -> np.ndarray:
    """A patch of a picture's skin: SMOOTH of all have less grain."""
    size = len(light)
    half = max(round(size * PATCH / 2), 2)
    power = cv2.boxFilter(light * light, -1, (2 * half, 2 * half))
    rows, columns = (range(round(a * size), round(b * size), half) for a, b in (SKIN_ROWS, SKIN_COLUMNS))
    places = sorted((power[y, x], y, x) for y in rows for x in columns)
    _, y, x = places[int(len(places) * SMOOTH)]
    return light[y - half : y + half, x - half : x + half]


def _tile(patch: np.ndarray) -> np.ndarray:
    """(n, n) -> (n, n): a texture that repeats and has a deviation of 1. Its spectrum is that of the patch, the same
    across and down.
    """
    size = len(patch)
    window = np.hanning(size)
    power = np.square(np.abs(np.fft.fft2((patch - patch.mean()) * np.outer(window, window))))
    noise = np.fft.fft2(np.random.default_rng(0).standard_normal((size, size)))
    tile = np.fft.ifft2(noise * np.sqrt(power + power.T)).real
    return (tile / max(tile.std(), 1e-6)).astype(np.float32)


def _below(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """1 up to `low`, 0 from `high` on."""
    return np.clip((high - value) / (high - low), 0, 1)
