"""Similarity of pictures to the truth, inside a box around the face and outside the person."""

from __future__ import annotations

import cv2
import numpy as np

WINDOW = 11  # pixels of SSIM's Gaussian window, sigma 1.5
EDGE = 64  # picture side over the width of the rim around a person that is ignored


def face_boxes(points: np.ndarray, size: int) -> np.ndarray:
    """Tracked face points (T, F, 2) in [-1, 1] -> (T, 4) int left, top, right, bottom in pixels."""
    low = np.clip((points.min(1) + 1) / 2 * size, 0, size - 1).astype(int)
    high = np.clip((points.max(1) + 1) / 2 * size, 1, size).astype(int)
    return np.concatenate([low, np.maximum(high, low + 1)], 1)


def psnr(pictures: np.ndarray, truth: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(T,) dB of uint8 pictures (T, S, S, 3) inside the boxes; infinite for equal pictures."""
    errors = np.array([
        np.square(picture[y0:y1, x0:x1].astype(np.float32) - target[y0:y1, x0:x1]).mean()
        for picture, target, (x0, y0, x1, y1) in zip(pictures, truth, boxes, strict=True)
    ])  # fmt: skip
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / errors)


def ssim(pictures: np.ndarray, truth: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(T,) mean structural similarity of luma inside the boxes."""
    scores = []
    for picture, target, (x0, y0, x1, y1) in zip(pictures, truth, boxes, strict=True):
        a, b = (_luma(np.asarray(p), x0, y0, x1, y1) for p in (picture, target))
        mean_a, mean_b = _blur(a), _blur(b)
        spread_a, spread_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
        common = _blur(a * b) - mean_a * mean_b
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        likeness = (2 * mean_a * mean_b + c1) * (2 * common + c2)
        likeness /= (mean_a**2 + mean_b**2 + c1) * (spread_a + spread_b + c2)
        left, top = min(x0, WINDOW // 2), min(y0, WINDOW // 2)
        scores.append(likeness[top : top + y1 - y0, left : left + x1 - x0].mean())
    return np.array(scores)


def _luma(picture: np.ndarray, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """Luma of the box and of the margin that the SSIM window covers."""
    rim = WINDOW // 2
    part = picture[max(0, y0 - rim) : y1 + rim, max(0, x0 - rim) : x1 + rim]
    return cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY).astype(np.float64)


def _blur(values: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(values, (WINDOW, WINDOW), 1.5)


def background_change(pictures: np.ndarray, portrait: np.ndarray, masks: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(T,) mean change from the portrait, of 255, where both show background; NaN without such pixels.

    masks (T, S, S) and mask (S, S): uint8 coverage by the person in frames and portrait; a rim is added.
    """
    size = len(mask)
    rim = np.ones((2 * (size // EDGE) + 1,) * 2, np.uint8)
    changes = []
    for picture, person in zip(pictures, masks, strict=True):
        free = cv2.dilate(np.maximum(person, mask), rim) == 0
        change = np.abs(picture.astype(np.int16) - portrait)[free]
        changes.append(change.mean() if change.size else np.nan)
    return np.array(changes)


def drift(pictures: np.ndarray, truth: np.ndarray, points: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """(T,) mean displacement of tracked points by dense optical flow from truth to result, in [-1, 1] units.

    It uses pixels alone, and so checks the points that a network reports. It detects small shifts of clear features,
    and large ones only in part.
    """
    tracker = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    size, result = truth.shape[1], []
    for picture, target, at, seen in zip(pictures, truth, points, visible, strict=True):
        grey = [cv2.cvtColor(np.ascontiguousarray(p), cv2.COLOR_RGB2GRAY) for p in (target, picture)]
        flow = tracker.calc(*grey, None)
        x, y = (((at[seen] + 1) / 2 * size - 0.5).T).astype(np.float32)
        shift = cv2.remap(flow, x[:, None], y[:, None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]
        result.append(np.linalg.norm(shift, axis=1).mean() * 2 / size)
    return np.array(result)
