"""Batches and losses of stage 0 of training from footage; the later stages use them too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.model.generator import Level

from ..footage.motion import LipExchanges
from ..footage.takes import EYES, MOUTH, Footage, eye_frame, mouth_windows
from ..heads.data import TINT, Tracks
from ..learning.augment import Exposure
from ..learning.losses import FLOW_FROM, edge_loss, flow_loss, mask_loss, picture_loss, sampling_grid, still_loss
from .mouth import COLUMNS, GAIN, HIGH, ROWS, WIDE

MOUTH_WEIGHT, EYE_WEIGHT = 10.0, 4.0  # of the picture loss, added to 1
DRIVING, LIPS = "driving", "lips"  # names of decoded driving frames, and of frames with exchanged lips
SAME = 6.0 / 127.5  # difference up to which two pictures are the same, for the background


@dataclass(frozen=True)
class ReenactmentBatch:
    """S sources with K driving frames each; pictures in [-1, 1]."""

    source: Tensor  # (S, 3, R, R)
    driving: Tensor  # (S * K, 3, R, R)
    source_rows: np.ndarray  # (S,) frame numbers
    driving_rows: np.ndarray  # (S * K,) frame numbers
    alpha: Tensor  # (S * K, n) of the driving frames
    source_alpha: Tensor  # (S, n)
    weight: Tensor  # (S * K, 1, R, R) of the picture loss
    mouth: Tensor  # (S * K, 1, R, R) 1 in the mouth's box
    background: Tensor  # (S * K, 1, R, R) 1 outside head and shoulders

    def repeated_source(self) -> Tensor:
        """(S * K, 3, R, R) the source of each driving frame."""
        return self.source.repeat_interleave(len(self.driving) // len(self.source), 0)


def reenactment_batch(
    footage: Footage, codes: Tensor, size: int, source: np.ndarray, driving: np.ndarray,
    rng: np.random.Generator | None,
) -> ReenactmentBatch:  # fmt: skip
    """The batch of the frame numbers source (S,) and driving (S, K).

    codes: (N, n) of all frames. size: pixels of the pictures. rng: draws one exposure for each source; None: none.
    """
    rows = driving.ravel()
    sources, targets = footage.pictures(source, size), footage.pictures(rows, size)
    if rng is not None:
        exposure = Exposure.random(len(source), rng, **TINT)
        sources, targets = (exposure.apply(part).clamp(-1.0, 1.0) for part in (sources, targets))
    mouth, eyes, background = region_masks(footage.points[rows], size)
    return ReenactmentBatch(
        sources, targets, source, rows, codes[rows] * GAIN, codes[source] * GAIN,
        1.0 + MOUTH_WEIGHT * mouth + EYE_WEIGHT * eyes, mouth, background,
    )  # fmt: skip


def region_masks(points: np.ndarray, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Soft boxes around mouth and eyes, and 1 outside the head: (N, 1, size, size) each. points: (N, COUNT, 2)."""
    middle, _, distance = eye_frame(points)
    line = (np.arange(size) * 2 + 1) / size - 1.0

    def box(centre: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
        across = np.abs(line[None] - centre[:, :1]) / (half_width * distance[:, None])
        down = np.abs(line[None] - centre[:, 1:]) / (half_height * distance[:, None])
        inside_x, inside_y = (np.clip(4.0 * (1.0 - value) + 0.5, 0.0, 1.0) for value in (across, down))
        return (inside_y[:, :, None] * inside_x[:, None, :])[:, None]

    mouth = box(points[:, MOUTH] + np.stack([0 * distance, 0.1 * distance], 1), 0.62, 0.6)
    eyes = np.maximum(*(box(points[:, eye] - np.stack([0 * distance, 0.1 * distance], 1), 0.4, 0.36) for eye in EYES))
    head = box(middle + np.stack([0 * distance, 0.4 * distance], 1), 1.35, 2.0)
    mouth_mask, eye_mask, background = (torch.from_numpy(part.astype(np.float32)) for part in (mouth, eyes, 1.0 - head))
    return mouth_mask, eye_mask, background


def reconstruction_losses(levels: list[Level], batch: ReenactmentBatch, footage: Footage) -> dict[str, Tensor]:
    """Unweighted losses by name of decoded driving frames, without those of the flow."""
    flow, rgb = levels[-1].flow, levels[-1].rgb
    return {
        "picture": picture_loss(rgb, batch.driving, batch.weight),
        "edges": edge_loss(rgb, batch.driving, batch.weight),
        "window": mouth_window_loss(rgb, batch.driving, footage.points[batch.driving_rows]),
        "still": still_loss(flow, unchanged_background(batch)),
        "hidden": mask_loss(flow, batch.repeated_source(), batch.driving, batch.mouth, batch.weight),
    }


def flow_losses(decoded: Mapping[str, list[Level]], tracks: Tracks, exchange: LipExchanges) -> dict[str, Tensor]:
    """Unweighted losses of the flow by name, of the levels DRIVING and LIPS. tracks: of the driving frames."""
    return {"flow": flow_loss(decoded[DRIVING], tracks), "exchange": flow_loss(decoded[LIPS], exchange.tracks)}


def mouth_window_loss(rgb: Tensor, target: Tensor, points: np.ndarray) -> Tensor:
    """L1 loss and edge loss of the aligned mouth window.

    rgb, target: (N, 3, R, R). points: (N, COUNT, 2) of the target.
    """
    windows = [mouth_windows(part, points, WIDE, HIGH, COLUMNS, ROWS) for part in (rgb, target)]
    return (windows[0] - windows[1]).abs().mean() + edge_loss(*windows, torch.ones_like(windows[0][:, :1]))


def unchanged_background(batch: ReenactmentBatch) -> Tensor:
    """(S * K, 1, 32, 32) 1 for background that is the same in source and driving frame."""
    source, driving, background = (
        F.adaptive_avg_pool2d(part, 32) for part in (batch.repeated_source(), batch.driving, batch.background)
    )
    return (((source - driving).abs().amax(1, keepdim=True) < SAME) & (background > 0.5)).float()


def exchange_loss(exchanged: list[Level], base: list[Level], before: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    """Mean L1 distance, in half widths, of the motion that an exchange causes from the motion that it must cause.

    What the levels of the base frame show at the positions `before` (E, P, 2) must be shown by those of the exchange at
    the positions `after` (E, P, 2). An error that both share therefore does not count, however small the motion is.
    weight: (E, P).
    """
    errors = []
    for exchanged_level, base_level in zip(exchanged, base, strict=True):
        if exchanged_level.flow.shape[-1] >= FLOW_FROM:
            prediction, target = (
                F.grid_sample(sampling_grid(level.flow), positions[:, None], padding_mode="border", align_corners=False)
                for level, positions in ((exchanged_level, after), (base_level, before))
            )
            distance = (prediction - target.detach()).abs().sum(1)[:, 0]
            errors.append((distance * weight).sum() / weight.sum().clamp(min=1.0))
    return torch.stack(errors).mean()


def concatenate_tracks(first: Tracks, second: Tracks) -> Tracks:
    """Tracks of both, in this order."""
    return Tracks(*(torch.cat(parts) for parts in zip(vars(first).values(), vars(second).values(), strict=True)))
