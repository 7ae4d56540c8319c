"""Codes of mouth and pose, learned without labels. Stage 0 drives the decoder with them.

A small autoencoder reconstructs the mouth of one frame from another frame of the same take, in a window aligned by the
points. Its code also predicts the displacement of the lip points. The part of the code that the head's pose explains is
then subtracted by a linear regression.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.contract.errors import EDTalkError

from ..footage.takes import (
    CHIN,
    EARS,
    LEFT_CORNER,
    LIPS,
    MOUTH,
    RIGHT_CORNER,
    RIGID,
    Footage,
    mouth_window_grid,
    pose_from_points,
    subtract_take_mean,
    to_eye_frame,
)
from ..learning.trainer import save_checkpoint

CODES, POSES = 20, 6
GAIN = 2.0  # alpha is the code times this, so that a code of 1 moves the latent by about as much as another person
WIDE, HIGH, COLUMNS, ROWS = 1.6, 1.2, 32, 24  # the window in eye distances and pixels
MARGIN = 1.5  # the stored windows are larger by this, so that shifts and turns stay inside
LIP_BOX = (slice(6, 20), slice(6, 26))  # of the window: rows and columns of the lips
PAIRS, STEPS, RATE, WARM_UP = 48, 900, 3e-3, 60
ROOT = 0.05  # of the largest variance, added before each axis is divided by its standard deviation
POSE_SPREAD = 1.5  # standard deviation of the pose code within a take
USUAL_SPREAD = 0.1  # eye distances: a usual difference between people
POSE_RIDGE = 0.01
LIMIT = 3.0  # standard deviations to which the regressors of the pose are limited
SHIFT_SHARE = 0.25  # of a shift of the lips that their shape does not explain: the rest is attributed to the head


class MouthEncoder(nn.Module):
    """Mouth window (N, 3, 24, 32) -> code (N, CODES)."""

    def __init__(self) -> None:
        super().__init__()
        channels = ((3, 16, 1), (16, 24, 2), (24, 32, 2), (32, 48, 2))
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, stride, 1) for i, o, stride in channels)
        self.last = nn.Linear(576, CODES)

    def forward(self, window: Tensor) -> Tensor:
        x = window - window.mean((2, 3), keepdim=True)
        x = x / (x.std((1, 2, 3), keepdim=True) + 0.05)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return self.last(x.flatten(1))


class MouthDecoder(nn.Module):
    """Renders a mouth with another code: warps the identity's window and adds a residual. Dropped after training."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(i, o, 3, s, 1) for i, o, s in ((3, 16, 1), (16, 24, 2), (24, 32, 2)))
        self.gain = nn.Linear(2 * CODES, 64)
        self.maps = nn.Linear(2 * CODES, 32 * 6 * 8)
        self.middle = nn.Conv2d(64, 32, 3, 1, 1)
        self.up = nn.ModuleList((nn.Conv2d(32 + 24, 24, 3, 1, 1), nn.Conv2d(24 + 16, 16, 3, 1, 1)))
        self.out = nn.Conv2d(16, 5, 3, 1, 1)
        with torch.no_grad():
            for part in self.out.parameters():
                part.zero_()

    def forward(self, identity: Tensor, code: Tensor, identity_code: Tensor) -> Tensor:
        """Window (N, 3, 24, 32) of the identity with another code.

        identity: (N, 3, 24, 32). code, identity_code: (N, CODES) of the target and of the identity's window.
        """
        both = torch.cat([code, identity_code], 1)
        skips, x = [], identity
        for layer in self.down:
            x = F.leaky_relu(layer(x), 0.2)
            skips.append(x)
        gain, offset = self.gain(both)[:, :, None, None].chunk(2, 1)
        x = torch.cat([x * (1.0 + gain) + offset, self.maps(both).view(-1, 32, 6, 8)], 1)
        x = F.leaky_relu(self.middle(x), 0.2)
        for layer, skip in zip(self.up, skips[-2::-1], strict=True):
            x = F.leaky_relu(layer(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1)), 0.2)
        output = self.out(x)
        line_x, line_y = ((torch.arange(count) * 2 + 1) / count - 1.0 for count in (COLUMNS, ROWS))
        grid = torch.stack(torch.meshgrid(line_x, line_y, indexing="xy"), -1)
        grid = grid + 0.3 * torch.tanh(output[:, :2]).permute(0, 2, 3, 1)
        return F.grid_sample(identity, grid, padding_mode="border", align_corners=False) + output[:, 2:]


def uint8_windows(footage: Footage) -> Tensor:
    """Windows (N, 3, 36, 48) uint8 of all frames, MARGIN times larger than the encoder's input."""
    size = (round(COLUMNS * MARGIN), round(ROWS * MARGIN))
    parts = []
    for rows in np.array_split(np.arange(len(footage)), max(1, len(footage) // 200)):
        grid = mouth_window_grid(footage.points[rows], WIDE * MARGIN, HIGH * MARGIN, *size)
        windows = F.grid_sample(footage.pictures(rows), grid, padding_mode="border", align_corners=False)
        parts.append(((windows + 1.0) * 127.5).round().clamp(0, 255).byte())
    return torch.cat(parts)


def augmented_windows(stored: Tensor, rng: np.random.Generator | None = None) -> Tensor:
    """Windows (N, 3, 24, 32) in [-1, 1] of those of `uint8_windows`, with `rng` augmented in position and colour."""
    pictures, count = stored.float() / 127.5 - 1.0, len(stored)
    if rng is None:
        trim_x, trim_y = (stored.shape[3] - COLUMNS) // 2, (stored.shape[2] - ROWS) // 2
        return pictures[:, :, trim_y : trim_y + ROWS, trim_x : trim_x + COLUMNS]

    def uniform(most: float) -> np.ndarray:
        return rng.uniform(-most, most, count)

    angle, scale, width, shear = uniform(0.06), 1.0 + uniform(0.06), 1.0 + uniform(0.12), uniform(0.04)
    aspect = COLUMNS / ROWS
    matrix = np.zeros((count, 2, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = scale * width * np.cos(angle), (-np.sin(angle) + shear) / aspect
    matrix[:, 1, 0], matrix[:, 1, 1] = scale * np.sin(angle) * aspect, scale * np.cos(angle)
    matrix /= MARGIN
    matrix[:, 0, 2], matrix[:, 1, 2] = uniform(0.1 / MARGIN), uniform(0.1 / MARGIN)
    grid = F.affine_grid(torch.from_numpy(matrix).float(), [count, 3, ROWS, COLUMNS], align_corners=False)
    pictures = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    light = torch.from_numpy((1.0 + uniform(0.2))[:, None] * (1.0 + rng.uniform(-0.12, 0.12, (count, 3))))
    return pictures * light.float()[:, :, None, None] + torch.from_numpy(uniform(0.12)).float()[:, None, None, None]


def train_mouth_encoder(
    footage: Footage,
    rng: np.random.Generator,
    *,
    steps: int = STEPS,
    minutes: float = math.inf,
    on_progress: Callable[[float, int], object] = lambda rate_factor, step: None,
) -> MouthEncoder:
    """Train a mouth encoder; takes about 0.11 s of CPU a step.

    steps, minutes: training ends with whichever comes first. on_progress: called before each step with the share that
    is done and the number of steps; may raise to stop.
    """
    encoder, decoder, point_head = MouthEncoder(), MouthDecoder(), nn.Linear(CODES, 2 * len(LIPS), bias=False)
    stored = uint8_windows(footage)
    lip_points = to_eye_frame(footage.points)[:, LIPS].reshape(len(footage), -1)
    displacement = subtract_take_mean(lip_points, footage.take_ids)
    target = torch.from_numpy(displacement / np.maximum(displacement.std(0), 1e-4))
    weights = [*encoder.parameters(), *decoder.parameters(), *point_head.parameters()]
    optimiser = torch.optim.Adam(weights, RATE, betas=(0.9, 0.99))
    running, start_time = 0.0, time.monotonic()
    for step in range(steps):
        progress = max(step / steps, (time.monotonic() - start_time) / (60.0 * minutes))
        if progress >= 1.0:
            break
        on_progress(progress, step)
        source, driving = footage.sample_pairs(rng, PAIRS, neutral=0.0)
        rows = torch.from_numpy(np.concatenate([source, driving[:, 0]]))
        codes = encoder(augmented_windows(stored[rows], rng))
        identity_code, code = codes[:PAIRS], codes[PAIRS:]
        identity_window, driving_target = (
            augmented_windows(stored[rows[:PAIRS]]),
            augmented_windows(stored[rows[PAIRS:]]),
        )
        error = decoder(identity_window, code, identity_code) - driving_target
        across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
        picture_loss = (
            error.abs().mean() + error[:, :, *LIP_BOX].abs().mean() + 0.5 * (across.abs().mean() + down.abs().mean())
        )
        point_loss = F.mse_loss(point_head(code - identity_code), target[rows[PAIRS:]] - target[rows[:PAIRS]]) / 2.0
        loss = picture_loss + point_loss
        rate_factor = 0.02 + 0.98 * 0.5 * (1.0 + np.cos(np.pi * progress))
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP) * rate_factor
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        running += (loss.item() - running) * max(0.05, 1.0 / (step + 1))
        if step % 50 == 49:
            print(f"mouth: step {step + 1}: loss {running:.4f}", flush=True)
    return encoder


@dataclass(frozen=True)
class MotionCodes:
    """Computes codes of mouth and pose, which are linear in the mouth encoder's code and the points.

    The mean of a take is subtracted from the lip code, because the identity would otherwise dominate it. The field
    names are keys of the checkpoint.
    """

    encoder: MouthEncoder
    pose_part: np.ndarray  # (47, 76) of the raw code that the pose explains
    regressor_spread: np.ndarray  # (47,)
    axes: np.ndarray  # (76, 20) principal axes, each divided by its standard deviation
    raw_scale: np.ndarray  # (76,)
    pose_axes: np.ndarray  # (14, 6) principal axes of the rigid points' motion, divided by its standard deviation
    pose_centre: np.ndarray  # (14,)
    shift_part: np.ndarray  # (76, 2) shift of the lips that the shape of code and points explains

    def residual_codes(self, footage: Footage) -> np.ndarray:
        """Raw codes (N, 76) divided by `raw_scale`, minus the take's mean and the part that the pose explains."""
        raw = subtract_take_mean(raw_codes(self.encoder, footage), footage.take_ids) / self.raw_scale
        return raw - pose_regressors(footage, self.regressor_spread) @ self.pose_part

    def lip_codes(self, footage: Footage) -> np.ndarray:
        """Lip codes (N, 20), minus the take's mean."""
        return self.residual_codes(footage) @ self.axes

    def lip_motion(self, footage: Footage) -> np.ndarray:
        """Motion (N, 28, 2) of the lip points by speech, in eye distances in the frame of the eyes.

        Pose and the take's mean are subtracted, and three quarters of the shift that the mouth's shape does not
        explain, because most of it is an error of the subtracted pose.
        """
        code, points = split_lip_shape(self.residual_codes(footage))
        shift = points.mean(1)
        explained = code @ self.shift_part
        motion = points + ((1.0 - SHIFT_SHARE) * (explained - shift))[:, None]
        return (motion * self.raw_scale[-1]).astype(np.float32)

    def pose_codes(self, points: np.ndarray) -> np.ndarray:
        """Pose codes (N, 6) of points (N, COUNT, 2): absolute, with a standard deviation of POSE_SPREAD in a take."""
        return (POSE_SPREAD * (rigid_points(points) - self.pose_centre) @ self.pose_axes).astype(np.float32)

    def lip_and_pose_codes(self, footage: Footage) -> np.ndarray:
        """Lip and pose codes (N, 26) float32."""
        return np.concatenate([self.lip_codes(footage), self.pose_codes(footage.points)], 1).astype(np.float32)


@torch.no_grad()
def raw_codes(encoder: MouthEncoder, footage: Footage) -> np.ndarray:
    """Codes (N, 76): the encoder's 20 numbers and the positions of the 28 lip points in the frame of the eyes.

    Points alone are exact for the opening of the mouth and coarse for everything else; the encoder is the opposite.
    """
    codes = torch.cat([encoder(augmented_windows(part)) for part in uint8_windows(footage).split(500)]).numpy()
    return np.concatenate([codes, to_eye_frame(footage.points)[:, LIPS].reshape(len(footage), -1)], 1)


def rigid_points(points: np.ndarray) -> np.ndarray:
    """Positions (N, 14) of the rigid points in the picture, from points (N, COUNT, 2)."""
    return points[:, RIGID].reshape(len(points), -1)


def raw_pose_regressors(footage: Footage) -> np.ndarray:
    """Regressors (N, 47) of the pose, minus the mean of each take.

    They are: size, roll and the nose's position, the latter up to the third order; their products with the take's mean
    positions of nose, mouth and chin, because a long nose moves more and a receding mouth less; and the positions of
    the ears, which depend on the head's rotation alone.

    The mouth's horizontal position is not among them: it would also explain sideways motion of the lips.
    """
    pose_parameters = pose_from_points(footage.points)
    offset = subtract_take_mean(pose_parameters, footage.take_ids)
    pose, x, y, nose = offset[:, 2:6], offset[:, 4:5], offset[:, 5:6], offset[:, 4:6]
    local = to_eye_frame(footage.points)
    take_mean = local - subtract_take_mean(local, footage.take_ids)
    width = take_mean[:, RIGHT_CORNER, 0] - take_mean[:, LEFT_CORNER, 0]
    usual = np.stack(
        [*(pose_parameters - offset)[:, [4, 5, 2]].T, *take_mean[:, MOUTH].T, take_mean[:, CHIN, 1], width], 1
    )
    usual = (usual - usual.mean(0)) / USUAL_SPREAD
    interactions = [pose[:, column, None] * usual for column in range(pose.shape[1])]
    ears = (local - take_mean)[:, EARS].reshape(len(local), -1)
    return np.concatenate([pose, nose**2, x * y, nose**3, x**2 * y, y**2 * x, *interactions, ears], 1)


def pose_regressors(footage: Footage, spread: np.ndarray | None = None) -> np.ndarray:
    """`raw_pose_regressors` (N, 47), limited to LIMIT standard deviations.

    Without the limit, the cubic terms of a head that is turned further than all others would add an error. spread:
    (47,) standard deviations, default those of this footage.
    """
    terms = raw_pose_regressors(footage)
    limit = LIMIT * (terms.std(0) if spread is None else spread)
    return subtract_take_mean(np.clip(terms, -limit, limit), footage.take_ids)


def split_lip_shape(residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split residual codes (N, 76) into shape (N, 76) and lip points (N, 28, 2).

    The shape contains the encoder's numbers and the lip points without their mean.
    """
    points = residual[:, CODES:].reshape(len(residual), len(LIPS), 2)
    shape = points - points.mean(1, keepdims=True)
    return np.concatenate([residual[:, :CODES], shape.reshape(len(residual), -1)], 1), points


def standardised_ridge(rows: np.ndarray, targets: np.ndarray, strength: float) -> np.ndarray:
    """Ridge regression (n, m) from rows (N, n) to targets (N, m). The rows are divided by their standard deviation."""
    scale = np.maximum(rows.std(0), 1e-6)
    rows = (rows / scale).astype(np.float64)
    square = rows.T @ rows + strength * len(rows) * np.eye(rows.shape[1])
    return np.linalg.solve(square, rows.T @ targets) / scale[:, None]


def fit_codes(encoder: MouthEncoder, footage: Footage) -> MotionCodes:
    """Fit the linear part of the codes: subtract the pose, then take scaled principal axes."""
    raw = subtract_take_mean(raw_codes(encoder, footage), footage.take_ids)
    raw_scale = np.concatenate(
        [
            np.full(count, np.sqrt(np.square(pose_part).sum(1).mean()))
            for count, pose_part in ((CODES, raw[:, :CODES]), (2 * len(LIPS), raw[:, CODES:]))
        ]
    )
    raw = raw / np.maximum(raw_scale, 1e-6)
    limits = raw_pose_regressors(footage).std(0)
    regressors = pose_regressors(footage, limits)
    pose_part = standardised_ridge(regressors, raw, POSE_RIDGE)
    residual = raw - regressors @ pose_part
    variance, axes = np.linalg.eigh(residual.T @ residual / len(residual))
    variance, axes = variance[::-1][:CODES], axes[:, ::-1][:, :CODES]
    axes = axes / np.sqrt(variance + ROOT * variance[0])
    rigid = rigid_points(footage.points)  # a rigid head has six degrees of freedom
    rigid_motion = subtract_take_mean(rigid, footage.take_ids)
    variance, pose_axes = np.linalg.eigh(rigid_motion.T @ rigid_motion / len(rigid_motion))
    pose_axes = pose_axes[:, ::-1][:, :POSES] / np.sqrt(np.maximum(variance[::-1][:POSES], 1e-8))
    lip_shape, points = split_lip_shape(residual)
    arrays = (
        pose_part,
        limits,
        axes,
        raw_scale,
        pose_axes,
        rigid.mean(0),
        standardised_ridge(lip_shape, points.mean(1), POSE_RIDGE),
    )
    return MotionCodes(encoder, *(array.astype(np.float32) for array in arrays))


def load_or_learn_codes(
    footage: Footage,
    path: Path,
    rng: np.random.Generator,
    *,
    steps: int = STEPS,
    minutes: float = math.inf,
    on_progress: Callable[[float, int], object] = lambda share, step: None,
) -> MotionCodes:
    """The codes in `path`; learned and written there first if it is missing.

    The closed-form part is stored as well, so that a training that is resumed goes on with the same codes. For `steps`,
    `minutes` and `on_progress` see `train_mouth_encoder`.
    """
    names = [entry.name for entry in fields(MotionCodes) if entry.name != "encoder"]
    if path.exists():
        saved = torch.load(path, weights_only=True)
        if not all(name in saved for name in names):
            raise EDTalkError(
                f"The codes in {path} were made by another version of this program.",
                "Choose another --work folder, or go on with the version that the training was started with.",
            )
        encoder = MouthEncoder()
        encoder.load_state_dict(saved["encoder"])
        return MotionCodes(encoder.eval(), *(saved[name].numpy() for name in names))
    encoder = train_mouth_encoder(footage, rng, steps=steps, minutes=minutes, on_progress=on_progress)
    codes = fit_codes(encoder.eval(), footage)
    arrays = {name: torch.from_numpy(getattr(codes, name)) for name in names}
    save_checkpoint({"encoder": encoder.state_dict(), **arrays}, path)
    return codes
