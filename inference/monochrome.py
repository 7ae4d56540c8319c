"""Keeps the tone of monochrome portraits: black-and-white photographs, and toned ones such as sepia prints.

The networks were trained on coloured pictures. What they paint where a portrait shows nothing, such as the far side of
a turned head, has slight colours.
"""

from __future__ import annotations

import cv2
import numpy as np

MEAN, MOST = 1.5, 6.0  # levels by which colours differ from a tone, on average and in 99 of 100 pixels


def tone_of(picture: np.ndarray) -> np.ndarray | None:
    """The colour of each brightness in a monochrome picture, (256, 3) float32 levels; None if it has colours.

    picture: uint8 (H, W, 3) RGB.
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).ravel()
    count = np.bincount(grey, minlength=256)
    used = np.flatnonzero(count)
    tone = np.empty((256, 3), np.float32)
    for channel in range(3):
        total = np.bincount(grey, picture[..., channel].ravel(), 256)
        tone[:, channel] = np.interp(np.arange(256), used, total[used] / count[used])
    error = np.abs(picture.reshape(-1, 3) - tone[grey]).max(1)
    return tone if error.mean() <= MEAN and np.percentile(error, 99) <= MOST else None


def toned(picture: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) in the colours of a tone: uint8, or float32, nominally in [-1, 1]."""
    if picture.dtype == np.uint8:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        return cv2.LUT(cv2.merge([grey] * 3), np.round(tone).astype(np.uint8)[None])
    level = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) + 1.0) * 127.5
    levels = np.stack([np.interp(level, np.arange(256), tone[:, channel]) for channel in range(3)], -1)
    return (levels / 127.5 - 1.0).astype(np.float32)
