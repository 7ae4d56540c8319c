"""Learn a code of the mouth's shape without labels, and the codes of mouth and pose that stage 0 is driven by.

A small encoder sees the mouth in a window that is aligned by points. It must redraw the mouth of one frame from
another frame of the same take and predict where the lips' points went. What of its code a rigid head explains is then
subtracted in closed form.
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
    in_head_frame,
    pose_numbers,
    window_grid,
    without_clip_mean,
)
from ..learning.trainer import save_checkpoint

CODES, POSES = 20, 6
WIDE, HIGH, COLUMNS, ROWS = 1.6, 1.2, 32, 24  # the window in eye distances and pixels
MARGIN = 1.5  # the stored windows are larger by this, so that shifts and turns stay inside
LIP_BOX = (slice(6, 20), slice(6, 26))  # of the window: rows and columns of the lips
PAIRS, STEPS, RATE, WARM_UP = 48, 900, 3e-3, 60
ROOT = 0.05  # of the largest variance, added before each axis is divided by its deviation
POSE_SPREAD = 1.5  # deviation of the pose code
USUAL_SPREAD = 0.1  # eye distances: a usual difference between people
POSE_RIDGE = 0.01
LIMIT = 3.0  # deviations to which the regressors of the pose are limited
SHIFT_SHARE = 0.25  # of a shift of the lips that their shape does not explain: the rest is taken for the head's


class MouthEncoder(nn.Module):
    """(N, 3, 24, 32) window -> (N, 20) code."""

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
    """Redraws a mouth with another code: warps the identity's window and adds a residual. Dropped after training."""

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

    def forward(self, identity: Tensor, code: Tensor, own: Tensor) -> Tensor:
        """identity (N, 3, 24, 32); code, own (N, 20) of the wanted and of the identity's mouth -> (N, 3, 24, 32)."""
        both = torch.cat([code, own], 1)
        skips, x = [], identity
        for layer in self.down:
            x = F.leaky_relu(layer(x), 0.2)
            skips.append(x)
        gain, offset = self.gain(both)[:, :, None, None].chunk(2, 1)
        x = torch.cat([x * (1.0 + gain) + offset, self.maps(both).view(-1, 32, 6, 8)], 1)
        x = F.leaky_relu(self.middle(x), 0.2)
        for layer, skip in zip(self.up, skips[-2::-1], strict=True):
            x = F.leaky_relu(layer(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1)), 0.2)
        made = self.out(x)
        line_x, line_y = ((torch.arange(count) * 2 + 1) / count - 1.0 for count in (COLUMNS, ROWS))
        grid = torch.stack(torch.meshgrid(line_x, line_y, indexing="xy"), -1)
        grid = grid + 0.3 * torch.tanh(made[:, :2]).permute(0, 2, 3, 1)
        return F.grid_sample(identity, grid, padding_mode="border", align_corners=False) + made[:, 2:]


def stored_windows(footage: Footage) -> Tensor:
    """(N, 3, 36, 48) uint8 windows of all frames, MARGIN larger than what the encoder sees."""
    size = (round(COLUMNS * MARGIN), round(ROWS * MARGIN))
    parts = []
    for rows in np.array_split(np.arange(len(footage)), max(1, len(footage) // 200)):
        grid = window_grid(footage.points[rows], WIDE * MARGIN, HIGH * MARGIN, *size)
        found = F.grid_sample(footage.pictures(rows), grid, padding_mode="border", align_corners=False)
        parts.append(((found + 1.0) * 127.5).round().clamp(0, 255).byte())
    return torch.cat(parts)


def seen(stored: Tensor, rng: np.random.Generator | None = None) -> Tensor:
    """(N, 3, 24, 32) windows in [-1, 1] of stored ones; with `rng` moved and recoloured at random."""
    pictures, count = stored.float() / 127.5 - 1.0, len(stored)
    if rng is None:
        trim_x, trim_y = (stored.shape[3] - COLUMNS) // 2, (stored.shape[2] - ROWS) // 2
        return pictures[:, :, trim_y : trim_y + ROWS, trim_x : trim_x + COLUMNS]

    def uniform(most: float) -> np.ndarray:
        return rng.uniform(-most, most, count)

    turn, scale, wide, shear = uniform(0.06), 1.0 + uniform(0.06), 1.0 + uniform(0.12), uniform(0.04)
    aspect = COLUMNS / ROWS
    matrix = np.zeros((count, 2, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = scale * wide * np.cos(turn), (-np.sin(turn) + shear) / aspect
    matrix[:, 1, 0], matrix[:, 1, 1] = scale * np.sin(turn) * aspect, scale * np.cos(turn)
    matrix /= MARGIN
    matrix[:, 0, 2], matrix[:, 1, 2] = uniform(0.1 / MARGIN), uniform(0.1 / MARGIN)
    grid = F.affine_grid(torch.from_numpy(matrix).float(), [count, 3, ROWS, COLUMNS], align_corners=False)
    pictures = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    light = torch.from_numpy((1.0 + uniform(0.2))[:, None] * (1.0 + rng.uniform(-0.12, 0.12, (count, 3))))
    return pictures * light.float()[:, :, None, None] + torch.from_numpy(uniform(0.12)).float()[:, None, None, None]


def learn_mouth(
    footage: Footage,
    rng: np.random.Generator,
    *,
    steps: int = STEPS,
    minutes: float = math.inf,
    at: Callable[[float, int], object] = lambda share, step: None,
) -> MouthEncoder:
    """Train a mouth encoder; takes about 0.11 s of CPU a step.

    steps, minutes: it ends with whichever comes first. at: called with the share that is done and the number of steps
    before each step; may raise to stop.
    """
    encoder, decoder, place = MouthEncoder(), MouthDecoder(), nn.Linear(CODES, 2 * len(LIPS), bias=False)
    stored = stored_windows(footage)
    lips = in_head_frame(footage.points)[:, LIPS].reshape(len(footage), -1)
    moved = without_clip_mean(lips, footage.clip)
    target = torch.from_numpy(moved / np.maximum(moved.std(0), 1e-4))
    weights = [*encoder.parameters(), *decoder.parameters(), *place.parameters()]
    optimiser = torch.optim.Adam(weights, RATE, betas=(0.9, 0.99))
    running, began = 0.0, time.monotonic()
    for step in range(steps):
        progress = max(step / steps, (time.monotonic() - began) / (60.0 * minutes))
        if progress >= 1.0:
            break
        at(progress, step)
        source, driven = footage.pairs(rng, PAIRS, neutral=0.0)
        rows = torch.from_numpy(np.concatenate([source, driven[:, 0]]))
        codes = encoder(seen(stored[rows], rng))
        own, code = codes[:PAIRS], codes[PAIRS:]
        identity, truth = seen(stored[rows[:PAIRS]]), seen(stored[rows[PAIRS:]])
        error = decoder(identity, code, own) - truth
        across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
        drawn = (
            error.abs().mean() + error[:, :, *LIP_BOX].abs().mean() + 0.5 * (across.abs().mean() + down.abs().mean())
        )
        points = F.mse_loss(place(code - own), target[rows[PAIRS:]] - target[rows[:PAIRS]]) / 2.0
        loss = drawn + points
        share = 0.02 + 0.98 * 0.5 * (1.0 + np.cos(np.pi * progress))
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP) * share
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        running += (loss.item() - running) * max(0.05, 1.0 / (step + 1))
        if step % 50 == 49:
            print(f"mouth: step {step + 1}: loss {running:.4f}", flush=True)
    return encoder


@dataclass(frozen=True)
class Codes:
    """Codes of mouth and pose of frames whose points are known; linear in the mouth encoder's code and the points.

    A take's own mean is subtracted from the lip code, because who somebody is would otherwise be most of it.
    """

    encoder: MouthEncoder
    pose_part: np.ndarray  # (47, 76) of the raw code that the pose explains
    regressor_spread: np.ndarray  # (47,)
    axes: np.ndarray  # (76, 20) principal axes, each divided by its deviation
    raw_scale: np.ndarray  # (76,)
    pose_axes: np.ndarray  # (14, 6) principal axes of the rigid points' motion, each divided by its deviation
    pose_centre: np.ndarray  # (14,)
    shift_part: np.ndarray  # (76, 2) shift of the lips that the shape of code and points explains

    def left(self, footage: Footage) -> np.ndarray:
        """(N, 76) raw codes over `raw_scale`, less the take's mean and what the pose explains."""
        raw = without_clip_mean(raw_codes(self.encoder, footage), footage.clip) / self.raw_scale
        return raw - explaining(footage, self.regressor_spread) @ self.pose_part

    def lip(self, footage: Footage) -> np.ndarray:
        """(N, 20) lip codes, each take's mean subtracted."""
        return self.left(footage) @ self.axes

    def lips_moved(self, footage: Footage) -> np.ndarray:
        """(N, 28, 2) motion of the lips' points by speech, in eye distances in the frame of the eyes.

        Pose and the take's mean are subtracted, and three quarters of the shift that the mouth's shape does not
        explain: most of it is an error of the subtracted pose.
        """
        code, points = shapes(self.left(footage))
        shift = points.mean(1)
        explained = code @ self.shift_part
        moved = points + ((1.0 - SHIFT_SHARE) * (explained - shift))[:, None]
        return (moved * self.raw_scale[-1]).astype(np.float32)

    def pose(self, points: np.ndarray) -> np.ndarray:
        """(N, 6) pose codes of points (N, COUNT, 2): absolute, of deviation POSE_SPREAD within a take."""
        return (POSE_SPREAD * (rigid_places(points) - self.pose_centre) @ self.pose_axes).astype(np.float32)

    def both(self, footage: Footage) -> np.ndarray:
        """(N, 26) float32."""
        return np.concatenate([self.lip(footage), self.pose(footage.points)], 1).astype(np.float32)


@torch.no_grad()
def raw_codes(encoder: MouthEncoder, footage: Footage) -> np.ndarray:
    """(N, 76): the encoder's 20 numbers, and the places of the 28 lip points in the frame of the eyes.

    Points alone are exact about an opening and coarse about everything else; the encoder is the other way round.
    """
    codes = torch.cat([encoder(seen(part)) for part in stored_windows(footage).split(500)]).numpy()
    return np.concatenate([codes, in_head_frame(footage.points)[:, LIPS].reshape(len(footage), -1)], 1)


def rigid_places(points: np.ndarray) -> np.ndarray:
    """(N, 14) places of the rigid points in the picture, of points (N, COUNT, 2)."""
    return points[:, RIGID].reshape(len(points), -1)


def pose_terms(footage: Footage) -> np.ndarray:
    """(N, 47) regressors of the pose, take means subtracted.

    Size, roll and the nose's place, the latter up to the third order; their products with the usual places of nose,
    mouth and chin of the take, since a long nose moves more and a mouth that lies deep moves less; and the places of
    the ears, which tell how the head is turned whatever the face does.

    The mouth's own place sideways is left out: it would take the lips' motion to the left and right away as well.
    """
    numbers = pose_numbers(footage.points)
    moved = without_clip_mean(numbers, footage.clip)
    pose, x, y, nose = moved[:, 2:6], moved[:, 4:5], moved[:, 5:6], moved[:, 4:6]
    local = in_head_frame(footage.points)
    places = local - without_clip_mean(local, footage.clip)
    width = places[:, RIGHT_CORNER, 0] - places[:, LEFT_CORNER, 0]
    usual = np.stack([*(numbers - moved)[:, [4, 5, 2]].T, *places[:, MOUTH].T, places[:, CHIN, 1], width], 1)
    usual = (usual - usual.mean(0)) / USUAL_SPREAD
    own = [pose[:, column, None] * usual for column in range(pose.shape[1])]
    ears = (local - places)[:, EARS].reshape(len(local), -1)
    return np.concatenate([pose, nose**2, x * y, nose**3, x**2 * y, y**2 * x, *own, ears], 1)


def explaining(footage: Footage, spread: np.ndarray | None = None) -> np.ndarray:
    """(N, 47) `pose_terms` limited to LIMIT times `spread` (47,), their deviation (default: that of this footage).

    A cubic term of a head that is turned further than all others would otherwise add an error.
    """
    terms = pose_terms(footage)
    limit = LIMIT * (terms.std(0) if spread is None else spread)
    return without_clip_mean(np.clip(terms, -limit, limit), footage.clip)


def shapes(left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 76) the encoder's numbers and the lip points' shape, and (N, 28, 2) the points, of `Codes.left`."""
    points = left[:, CODES:].reshape(len(left), len(LIPS), 2)
    shape = points - points.mean(1, keepdims=True)
    return np.concatenate([left[:, :CODES], shape.reshape(len(left), -1)], 1), points


def ridge(rows: np.ndarray, targets: np.ndarray, strength: float) -> np.ndarray:
    """(n, m) ridge regression from rows (N, n), standardised for it, to targets (N, m)."""
    scale = np.maximum(rows.std(0), 1e-6)
    rows = (rows / scale).astype(np.float64)
    square = rows.T @ rows + strength * len(rows) * np.eye(rows.shape[1])
    return np.linalg.solve(square, rows.T @ targets) / scale[:, None]


def codes_from(encoder: MouthEncoder, footage: Footage) -> Codes:
    """Remove the pose from the encoder's code, and scale it, in closed form."""
    raw = without_clip_mean(raw_codes(encoder, footage), footage.clip)
    raw_scale = np.concatenate(
        [
            np.full(count, np.sqrt(np.square(part).sum(1).mean()))
            for count, part in ((CODES, raw[:, :CODES]), (2 * len(LIPS), raw[:, CODES:]))
        ]
    )
    raw = raw / np.maximum(raw_scale, 1e-6)
    limits = pose_terms(footage).std(0)
    regressors = explaining(footage, limits)
    part = ridge(regressors, raw, POSE_RIDGE)
    left = raw - regressors @ part
    variance, axes = np.linalg.eigh(left.T @ left / len(left))
    variance, axes = variance[::-1][:CODES], axes[:, ::-1][:, :CODES]
    axes = axes / np.sqrt(variance + ROOT * variance[0])
    rigid = rigid_places(footage.points)
    moved = without_clip_mean(rigid, footage.clip)
    variance, pose_axes = np.linalg.eigh(moved.T @ moved / len(moved))  # a rigid head has six degrees of freedom
    pose_axes = pose_axes[:, ::-1][:, :POSES] / np.sqrt(np.maximum(variance[::-1][:POSES], 1e-8))
    code, points = shapes(left)
    arrays = (part, limits, axes, raw_scale, pose_axes, rigid.mean(0), ridge(code, points.mean(1), POSE_RIDGE))
    return Codes(encoder, *(array.astype(np.float32) for array in arrays))


def learned_codes(
    footage: Footage,
    path: Path,
    rng: np.random.Generator,
    *,
    steps: int = STEPS,
    minutes: float = math.inf,
    at: Callable[[float, int], object] = lambda share, step: None,
) -> Codes:
    """The codes in `path`; learned and written there first if it is missing.

    The closed-form part is stored as well, so that a training that is resumed goes on with the same codes. For `steps`,
    `minutes` and `at` see `learn_mouth`.
    """
    names = [entry.name for entry in fields(Codes) if entry.name != "encoder"]
    if path.exists():
        saved = torch.load(path, weights_only=True)
        if not all(name in saved for name in names):
            raise EDTalkError(
                f"The codes in {path} were made by another version of this program.",
                "Choose another --work folder, or go on with the version that the training was started with.",
            )
        encoder = MouthEncoder()
        encoder.load_state_dict(saved["encoder"])
        return Codes(encoder.eval(), *(saved[name].numpy() for name in names))
    encoder = learn_mouth(footage, rng, steps=steps, minutes=minutes, at=at)
    codes = codes_from(encoder.eval(), footage)
    arrays = {name: torch.from_numpy(getattr(codes, name)) for name in names}
    save_checkpoint({"encoder": encoder.state_dict(), **arrays}, path)
    return codes
