"""A code of brows and lids, computed without labels and in closed form. It trains the expression's directions.

Its features are the points of brows and lids; the optical flow of a window around eyes and brows, which is more precise
than the detected points; and the grey values of this window, which show whether an eye is open. The part that the pose
explains is subtracted, both halves of the face are averaged, and principal axes are taken.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..footage.takes import UPPER, UPPER_MIRROR, Footage, eye_frame, subtract_take_mean, to_eye_frame
from ..learning.trainer import save_checkpoint
from .mouth import POSE_RIDGE, ROOT, MotionCodes, pose_regressors, raw_pose_regressors, standardised_ridge

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
    """Computes codes of brows and lids. The mean of a take is subtracted, so that they do not depend on the identity.

    The field names are keys of the checkpoint.
    """

    pose_part: np.ndarray  # (47, n) of the features that the pose explains
    regressor_spread: np.ndarray  # (47,)
    axes: np.ndarray  # (n, 10) principal axes, each divided by its standard deviation
    field: np.ndarray  # (10, 26, 2) motion of the points UPPER by a code of 1, in eye distances

    def codes(self, footage: Footage) -> np.ndarray:
        """Codes (N, 10) float32, with a standard deviation of 1 or less within a take."""
        residual = subtract_take_mean(upper_face_features(footage), footage.take_ids)
        residual = residual - pose_regressors(footage, self.regressor_spread) @ self.pose_part
        return (residual @ self.axes).astype(np.float32)

    def motion(self, codes: np.ndarray) -> np.ndarray:
        """Motion (N, 26, 2) of the points UPPER by codes (N, 10), in eye distances in the frame of the eyes."""
        return np.tensordot(codes, self.field, 1).astype(np.float32)


def driving_codes(teacher: MotionCodes, upper: UpperFace, footage: Footage) -> np.ndarray:
    """Codes (N, 36) of all three banks: lips, pose, expression."""
    return np.concatenate([teacher.lip_and_pose_codes(footage), upper.codes(footage)], 1)


def grey_windows(footage: Footage, rows: np.ndarray) -> np.ndarray:
    """(n, 56, 96) grey windows around eyes and brows in 0..255, aligned by the eyes."""
    middle, axis, distance = eye_frame(footage.points[rows])
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


def _normalised(grey: np.ndarray) -> np.ndarray:
    """A grey window with uniform lighting and contrast, uint8."""
    detail = (grey - cv2.GaussianBlur(grey, (0, 0), BLUR)) / (grey.std() + LEAST_CONTRAST)
    return np.clip(CONTRAST * detail + OFFSET, 0, 255).astype(np.uint8)


def window_motion(footage: Footage, grey: np.ndarray) -> np.ndarray:
    """Optical flow (N, 14, 24, 2) in the window from reference frames of the take, in eye distances.

    A share of the flow at the bridge of the nose is subtracted. grey: (N, 56, 96) of `grey_windows`.
    """
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    size = (FIELD_COLUMNS, FIELD_ROWS)
    normalised = [_normalised(window) for window in grey]
    thumbnails = np.stack([cv2.resize(window, size, interpolation=cv2.INTER_AREA) for window in normalised]).astype(
        np.float32
    )
    moved = np.zeros((len(footage), FIELD_ROWS, FIELD_COLUMNS, 2), np.float32)
    for take in footage.takes:
        distance = np.abs(thumbnails[take] - np.median(thumbnails[take], 0)).mean((1, 2))
        references = take[np.argsort(distance)[:REFERENCES]]
        for row in take:
            flows = [flow.calc(normalised[other], normalised[row], None) for other in references if other != row]
            total = np.sum(flows, 0) / len(references)  # the flow to the frame itself is zero
            moved[row] = cv2.resize(total, size, interpolation=cv2.INTER_AREA)
    shift = SHIFT_SHARE * moved[:, _inside(BRIDGE, *size)].mean(1)
    return (moved - shift[:, None, None]) * (UPPER_EXTENT[0] / COLUMNS)


def upper_face_features(footage: Footage) -> np.ndarray:
    """Features (N, 26 * 2 + 14 * 12 * 2 + 28 * 24): points, flow and grey values.

    They are averaged over both halves of the face, because brows and lids move alike on both sides, and the pose does
    not. Values outside the face are 0.
    """
    parts = np.array_split(np.arange(len(footage)), max(1, len(footage) // 200))
    grey = np.concatenate([grey_windows(footage, rows) for rows in parts])
    flow = window_motion(footage, grey) * _inside(FACE, FIELD_COLUMNS, FIELD_ROWS)[..., None]
    flow = (flow + flow[:, :, ::-1] * np.array([-1.0, 1.0], np.float32))[:, :, : FIELD_COLUMNS // 2] / 2.0
    brightness = np.stack(
        [cv2.resize(window, (GREY_COLUMNS, GREY_ROWS), interpolation=cv2.INTER_AREA) for window in grey]
    )
    inside = _inside(FACE, GREY_COLUMNS, GREY_ROWS)
    mean = brightness[:, inside].mean(1)[:, None, None]
    brightness = inside * (brightness - mean) / (brightness[:, inside].std(1)[:, None, None] + LEAST_CONTRAST)
    brightness = (brightness + brightness[:, :, ::-1])[:, :, : GREY_COLUMNS // 2] / 2.0
    points = to_eye_frame(footage.points)[:, UPPER]
    points = (points + points[:, UPPER_MIRROR] * np.array([-1.0, 1.0], np.float32)) / 2.0
    columns = [part.reshape(len(grey), -1) for part in (points, flow, brightness)]
    return np.concatenate(columns, 1).astype(np.float32)


def fit_upper_face(footage: Footage) -> UpperFace:
    """Fit the code to footage in closed form; takes about 3 ms of CPU a frame."""
    values = subtract_take_mean(upper_face_features(footage), footage.take_ids)
    spread = raw_pose_regressors(footage).std(0)
    regressors = pose_regressors(footage, spread)
    pose_part = standardised_ridge(regressors, values, POSE_RIDGE)
    residual = values - regressors @ pose_part
    point_count, flow_count = 2 * len(UPPER), FIELD_ROWS * FIELD_COLUMNS // 2 * 2
    scale = np.ones(residual.shape[1])
    ends = [0, point_count, point_count + flow_count, len(scale)]
    for start, end, share in zip(ends, ends[1:], (1.0, FLOW_SHARE, GREY_SHARE), strict=False):
        columns = slice(start, end)
        scale[columns] = max(np.sqrt(np.square(residual[:, columns]).sum(1).mean()), 1e-6) / share
    scaled = residual / scale
    variance, axes = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    variance, axes = variance[::-1][:COUNT], axes[:, ::-1][:, :COUNT]
    axes = axes / np.sqrt(variance + ROOT * variance[0]) / scale[:, None]
    field = standardised_ridge(residual @ axes, residual[:, :point_count], POSE_RIDGE).reshape(COUNT, len(UPPER), 2)
    return UpperFace(*(array.astype(np.float32) for array in (pose_part, spread, axes, field)))


def load_or_fit_upper_face(path: Path, footage: Footage) -> UpperFace:
    """Load the code from `path`, or fit it to `footage` and write it there."""
    names = [entry.name for entry in fields(UpperFace)]
    if path.exists():
        saved = torch.load(path, weights_only=True)
        return UpperFace(*(saved[name].numpy() for name in names))
    upper = fit_upper_face(footage)
    save_checkpoint({name: torch.from_numpy(getattr(upper, name)) for name in names}, path)
    return upper
