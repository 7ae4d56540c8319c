"""A code of brows and lids without labels, in closed form, that the expression's directions are trained by.

Points tell where brows and lids are. A window around eyes and brows, aligned by the eyes, adds its optical flow to
usual frames of the take, which is finer where a detector errs, and its grey values, which tell whether an eye is open.
The pose's part is subtracted, both halves of the face are averaged, and principal axes are taken.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..footage.takes import UPPER, UPPER_MIRROR, Footage, head_frame, in_head_frame, without_clip_mean
from ..learning.trainer import save_checkpoint
from .mouth import POSE_RIDGE, ROOT, Codes, explaining, pose_terms, ridge

COUNT = 10
UPPER_EXTENT, UPPER_CENTRE = (2.2, 1.3), -0.2  # eye distances: the window; its centre is above the eyes
COLUMNS, ROWS = 96, 56  # pixels of the window
FIELD_COLUMNS, FIELD_ROWS = 24, 14  # cells in which its motion is averaged
GREY_COLUMNS, GREY_ROWS = 48, 28  # cells in which its grey values are averaged
FLOW_SHARE, GREY_SHARE = 0.5, 0.35  # of flow and grey values against the points, when principal axes are taken
REFERENCES = 3  # frames of a take to which the flow is measured: those nearest to its median
# Half width, top and bottom, in eye distances: what belongs to the face whatever the pose, and the nose's bridge.
FACE, BRIDGE = (0.85, -0.75, 0.35), (0.22, -0.05, 0.36)
SHIFT_SHARE = 0.5  # of the bridge's motion that is taken for an error of the alignment: lids move the eyes' middle
CONTRAST, OFFSET, LEAST_CONTRAST, BLUR = 60.0, 128.0, 6.0, 12.0  # of the grey windows that the flow is measured on


@dataclass(frozen=True)
class UpperFace:
    """Codes of brows and lids of frames; the mean of a take is subtracted, so that who somebody is does not count."""

    pose_part: np.ndarray  # (47, n) of the features that the pose explains
    regressor_spread: np.ndarray  # (47,)
    axes: np.ndarray  # (n, 10) principal axes, each divided by its deviation
    field: np.ndarray  # (10, 26, 2) motion of the points UPPER by a code of 1, in eye distances

    def codes(self, footage: Footage) -> np.ndarray:
        """(N, 10) float32, of deviation 1 or less within a take."""
        left = without_clip_mean(features(footage), footage.clip)
        left = left - explaining(footage, self.regressor_spread) @ self.pose_part
        return (left @ self.axes).astype(np.float32)

    def moved(self, codes: np.ndarray) -> np.ndarray:
        """(N, 26, 2) motion of the points UPPER by codes (N, 10), in eye distances in the frame of the eyes."""
        return np.tensordot(codes, self.field, 1).astype(np.float32)


def driving_codes(teacher: Codes, upper: UpperFace, footage: Footage) -> np.ndarray:
    """(N, 36) codes of all three banks."""
    return np.concatenate([teacher.both(footage), upper.codes(footage)], 1)


def windows(footage: Footage, rows: np.ndarray) -> np.ndarray:
    """(n, 56, 96) grey windows around eyes and brows in 0..255, aligned by the eyes."""
    middle, axis, distance = head_frame(footage.points[rows])
    x = ((np.arange(COLUMNS) + 0.5) / COLUMNS - 0.5) * UPPER_EXTENT[0]
    y = ((np.arange(ROWS) + 0.5) / ROWS - 0.5) * UPPER_EXTENT[1] + UPPER_CENTRE
    right = axis * distance[:, None]
    down = np.stack([-right[:, 1], right[:, 0]], 1)
    grid = (
        middle[:, None, None]
        + x[None, None, :, None] * right[:, None, None]
        + y[None, :, None, None] * down[:, None, None]
    )
    grey = (footage.pictures(rows) * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    at = torch.from_numpy(grid.astype(np.float32))
    return (F.grid_sample(grey, at, padding_mode="border", align_corners=False)[:, 0].numpy() + 1.0) * 127.5


def _inside(part: tuple[float, float, float], columns: int, rows: int) -> np.ndarray:
    """(rows, columns) bool: cells of the window whose centres are in a part of the face."""
    x = ((np.arange(columns) + 0.5) / columns - 0.5) * UPPER_EXTENT[0]
    y = ((np.arange(rows) + 0.5) / rows - 0.5) * UPPER_EXTENT[1] + UPPER_CENTRE
    wide, top, bottom = part
    return ((y > top) & (y < bottom))[:, None] & (np.abs(x) < wide)


def _evened(grey: np.ndarray) -> np.ndarray:
    """A grey window without its light and of usual contrast, uint8."""
    detail = (grey - cv2.GaussianBlur(grey, (0, 0), BLUR)) / (grey.std() + LEAST_CONTRAST)
    return np.clip(CONTRAST * detail + OFFSET, 0, 255).astype(np.uint8)


def motion(footage: Footage, grey: np.ndarray) -> np.ndarray:
    """(N, 14, 24, 2) motion of the window's content from usual frames of the take, in eye distances, less a share of
    the bridge's.

    grey: (N, 56, 96) of `windows`.
    """
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    size = (FIELD_COLUMNS, FIELD_ROWS)
    even = [_evened(window) for window in grey]
    small = np.stack([cv2.resize(window, size, interpolation=cv2.INTER_AREA) for window in even]).astype(np.float32)
    moved = np.zeros((len(footage), FIELD_ROWS, FIELD_COLUMNS, 2), np.float32)
    for take in footage.takes:
        distance = np.abs(small[take] - np.median(small[take], 0)).mean((1, 2))
        usual = take[np.argsort(distance)[:REFERENCES]]
        for row in take:
            found = [flow.calc(even[other], even[row], None) for other in usual if other != row]
            total = np.sum(found, 0) / len(usual)  # the flow to the frame itself is zero
            moved[row] = cv2.resize(total, size, interpolation=cv2.INTER_AREA)
    shift = SHIFT_SHARE * moved[:, _inside(BRIDGE, *size)].mean(1)
    return (moved - shift[:, None, None]) * (UPPER_EXTENT[0] / COLUMNS)


def features(footage: Footage) -> np.ndarray:
    """(N, 26 * 2 + 14 * 12 * 2 + 28 * 24) points, motion and grey values, averaged over the two halves of the face.

    Brows and lids move alike on both sides, and the pose does not. Values outside the face are 0.
    """
    parts = np.array_split(np.arange(len(footage)), max(1, len(footage) // 200))
    grey = np.concatenate([windows(footage, rows) for rows in parts])
    moved = motion(footage, grey) * _inside(FACE, FIELD_COLUMNS, FIELD_ROWS)[..., None]
    moved = (moved + moved[:, :, ::-1] * np.array([-1.0, 1.0], np.float32))[:, :, : FIELD_COLUMNS // 2] / 2.0
    seen = np.stack([cv2.resize(window, (GREY_COLUMNS, GREY_ROWS), interpolation=cv2.INTER_AREA) for window in grey])
    inside = _inside(FACE, GREY_COLUMNS, GREY_ROWS)
    middle = seen[:, inside].mean(1)[:, None, None]
    seen = inside * (seen - middle) / (seen[:, inside].std(1)[:, None, None] + LEAST_CONTRAST)
    seen = (seen + seen[:, :, ::-1])[:, :, : GREY_COLUMNS // 2] / 2.0
    places = in_head_frame(footage.points)[:, UPPER]
    places = (places + places[:, UPPER_MIRROR] * np.array([-1.0, 1.0], np.float32)) / 2.0
    parts_found = [part.reshape(len(grey), -1) for part in (places, moved, seen)]
    return np.concatenate(parts_found, 1).astype(np.float32)


def upper_face_from(footage: Footage) -> UpperFace:
    """Fit the code to footage in closed form; takes about 3 ms of CPU a frame."""
    found = without_clip_mean(features(footage), footage.clip)
    spread = pose_terms(footage).std(0)
    regressors = explaining(footage, spread)
    part = ridge(regressors, found, POSE_RIDGE)
    left = found - regressors @ part
    count, flow = 2 * len(UPPER), FIELD_ROWS * FIELD_COLUMNS // 2 * 2
    scale = np.ones(left.shape[1])
    for columns, share in (
        (slice(0, count), 1.0), (slice(count, count + flow), FLOW_SHARE), (slice(count + flow, None), GREY_SHARE)
    ):  # fmt: skip
        scale[columns] = max(np.sqrt(np.square(left[:, columns]).sum(1).mean()), 1e-6) / share
    even = left / scale
    variance, axes = np.linalg.eigh(even.T @ even / len(even))
    variance, axes = variance[::-1][:COUNT], axes[:, ::-1][:, :COUNT]
    axes = axes / np.sqrt(variance + ROOT * variance[0]) / scale[:, None]
    field = ridge(left @ axes, left[:, :count], POSE_RIDGE).reshape(COUNT, len(UPPER), 2)
    return UpperFace(*(array.astype(np.float32) for array in (part, spread, axes, field)))


def stored_upper_face(path: Path, footage: Footage) -> UpperFace:
    """The code in `path`; fitted to `footage` and written there first if it is missing."""
    names = [entry.name for entry in fields(UpperFace)]
    if path.exists():
        saved = torch.load(path, weights_only=True)
        return UpperFace(*(saved[name].numpy() for name in names))
    made = upper_face_from(footage)
    save_checkpoint({name: torch.from_numpy(getattr(made, name)) for name in names}, path)
    return made
