"""Losses of the generator: picture, edges, flow at tracked points, and coefficients read from the latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.model.generator import Generator, Level, warp_grid

from ..heads.data import Batch, Tracks
from ..units import ALPHA_GAIN

WEIGHTS = {"picture": 1.0, "edges": 1.0, "flow": 4.0, "still": 1.0, "read": 0.03, "place": 0.1, "hidden": 0.3}
HIDDEN_FROM = 0.15  # colour difference, of 2, from which a pixel counts as hidden in the source; fully at twice that
VISIBLE_MASK = (
    0.75  # mask target where the source shows the pixel; near 1 the gradient would be too small to lower it again
)
OWN_MOTION = 0.01  # half widths of motion, apart from the head's, that double the weight of a point
MOST = 8.0  # largest weight of a point
FLOW_FROM = 16  # coarsest resolution whose flow is compared with the tracked points
PLACED = (8, 16, 32)  # resolutions whose features predict their place on the head


class PlaceHeads(nn.Module):
    """Auxiliary heads that predict a feature's place on the average head; dropped after training.

    Motion depends on the place: an open jaw moves the chin down, wherever the chin is in the picture. A decoder that
    finds the place in the warped features of one level can correct the flow of the next level.
    """

    def __init__(self, channels: Mapping[int, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(channels[size], 3) for size in PLACED)

    def error(self, features: Sequence[Tensor], points: Tensor, visible: Tensor, places: Tensor) -> Tensor:
        """Mean square error; 1 for predicting the mean.

        features: coarse to fine from 8 px; points: (S, P, 2) in the picture; visible: (S, P); places: (P, 3).
        """
        errors = []
        for head, feature in zip(self.heads, features, strict=False):
            sampled = F.grid_sample(feature, points[:, None], padding_mode="border", align_corners=False)[:, :, 0]
            error = (head(sampled.transpose(1, 2)) - places).square().mean(-1)
            errors.append((error * visible).sum() / visible.sum().clamp(min=1.0))
        return torch.stack(errors).mean()


def generator_losses(
    model: Generator, place_heads: PlaceHeads, batch: Batch, rarity: Tensor, point_weight: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Unweighted losses by name, and the driven pictures (S * K, 3, R, R).

    rarity: (36,), see `HeadPairs`; point_weight: (P,).
    """
    drivings = len(batch.driving) // len(batch.source)
    latent, features = model.enc(batch.source)
    levels = list(model.levels(latent, features, batch.driving_coefficients * ALPHA_GAIN))
    rgb = levels[-1].rgb
    losses = {
        "picture": picture_loss(rgb, batch.driving, batch.weight),
        "edges": edge_loss(rgb, batch.driving, batch.weight),
        "flow": flow_loss(levels, batch.tracks, point_weight),
        "still": still_loss(levels[-1].flow, batch.still),
        "read": read_error(model, latent, batch.source_coefficients, rarity),
        "place": place_heads.error(
            features, batch.tracks.source[::drivings], batch.tracks.visible[::drivings], batch.places
        ),
        "hidden": mask_loss(
            levels[-1].flow, batch.source.repeat_interleave(drivings, 0), batch.driving, batch.mouth, batch.weight
        ),
    }
    return losses, rgb


def mask_loss(
    flow: Tensor, source: Tensor, target: Tensor, mouth: Tensor, weight: Tensor, visible_mask: float = VISIBLE_MASK
) -> Tensor:
    """Cross-entropy of the blend mask around mouth and eyes.

    The mask's target is 0 around the mouth where the warped source differs from the target picture, because there the
    content is not visible in the source (teeth behind closed lips, for example). Elsewhere it is `visible_mask`. The
    picture loss alone has almost no gradient for a mask near 0 or 1.

    flow: (N, 3, R, R), the third channel being mask logits. source, target: (N, 3, R, R) in [-1, 1]. mouth: (N, 1, R,
    R) 1 around the mouth. weight: (N, 1, R, R) of the picture loss, 1 or more.
    """
    with torch.no_grad():
        warped = F.grid_sample(source, sampling_grid(flow).permute(0, 2, 3, 1), align_corners=False)
        difference = (warped - target).abs().mean(1, keepdim=True)
        hidden = mouth * ((difference - HIDDEN_FROM) / HIDDEN_FROM).clamp(0.0, 1.0)
        mask = visible_mask * (1.0 - hidden)
        weight = (weight - 1.0) * (1.0 + 10.0 * hidden)  # hidden pixels are few
    error = F.binary_cross_entropy_with_logits(flow[:, 2:], mask, weight, reduction="sum")
    return error / weight.sum().clamp(min=1.0)


def read_error(model: Generator, latent: Tensor, truth: Tensor, rarity: Tensor) -> Tensor:
    """Mean square error of the coefficients read from the latent; 1 for predicting the mean.

    The absolute error would favour the median, which is 0 for most units. rarity: (36,), see `HeadPairs`.
    """
    return ((model.coefficients(latent) / ALPHA_GAIN - truth).square() * rarity).mean()


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float] = WEIGHTS) -> Tensor:
    """Weighted sum of scalar losses."""
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def picture_loss(rgb: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 error at full, half, quarter and eighth size. rgb, target: (N, C, R, R); weight: (N, 1, R, R)."""
    error, loss = rgb - target, rgb.new_zeros(())
    for _ in range(4):
        loss = loss + (error.abs() * weight).mean() / weight.mean()
        error, weight = F.avg_pool2d(error, 2), F.avg_pool2d(weight, 2)
    return loss / 4.0


def edge_loss(rgb: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 error of the differences between neighbouring pixels; it penalises blur, but not brightness.

    rgb, target: (N, C, R, R); weight: (N, 1, R, R).
    """
    error = rgb - target
    across = (error[..., :, 1:] - error[..., :, :-1]).abs() * weight[..., :, 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    return (across.mean() + down.mean()) / weight.mean()


def sampling_grid(flow: Tensor) -> Tensor:
    """Flow (N, 2 or more, R, R) -> (N, 2, R, R): source position of each pixel, in picture coordinates [-1, 1]."""
    return warp_grid(flow.shape[-1]).permute(0, 3, 1, 2) + torch.tanh(flow[:, :2])


def flow_loss(levels: Sequence[Level], tracks: Tracks, point_weight: Tensor | None = None) -> Tensor:
    """Mean `flow_error` of the levels from FLOW_FROM pixels on. point_weight: (P,), default 1 for every point."""
    if point_weight is None:
        point_weight = torch.ones_like(tracks.visible[0])
    compared, emphasis = [level for level in levels if level.flow.shape[-1] >= FLOW_FROM], motion_emphasis(tracks)
    return torch.stack([flow_error(level.flow, tracks, point_weight, emphasis) for level in compared]).mean()


def flow_error(flow: Tensor, tracks: Tracks, point_weight: Tensor, emphasis: Tensor | None = None) -> Tensor:
    """Mean L1 distance, in half widths, between predicted and true source positions of tracked points.

    flow: (N, 2 or more, R, R). point_weight: (P,). emphasis: (N, P), see `motion_emphasis`.
    """
    predicted = F.grid_sample(sampling_grid(flow), tracks.driving[:, None], padding_mode="border", align_corners=False)[
        :, :, 0
    ].transpose(1, 2)  # (N, P, 2)
    weight = tracks.visible * point_weight
    if emphasis is not None:
        weight = weight * emphasis
    return ((predicted - tracks.source).abs().sum(-1) * weight).sum() / weight.sum().clamp(min=1.0)


@torch.no_grad()
def motion_emphasis(tracks: Tracks) -> Tensor:
    """(N, P) weights: 1 for points that move with the head, up to MOST for those that move by themselves.

    Without them, lids and brows, which move little compared with a turning head, hardly affect the mean error. The
    head's motion is the affine map that fits all points best.
    """
    ones = torch.ones_like(tracks.source[..., :1])
    visible = tracks.visible[..., None]
    rows = torch.cat([tracks.source, ones], -1)
    square = (rows * visible).mT @ rows + 1e-4 * torch.eye(3)
    head = torch.linalg.solve(square, (rows * visible).mT @ tracks.driving)  # (N, 3, 2)
    residual = (tracks.driving - rows @ head).norm(dim=-1)
    return (1.0 + residual / OWN_MOTION).clamp(max=MOST)


def still_loss(flow: Tensor, still: Tensor) -> Tensor:
    """Mean displacement, in half widths, of background.

    flow: (N, 2 or more, R, R). still: (N, 1, C, C) 1 where source and target picture both show background.
    """
    cells = still.shape[-1]
    grid = F.adaptive_avg_pool2d(sampling_grid(flow), cells)
    line = (torch.arange(cells) * 2 + 1) / cells - 1.0
    centres = torch.stack(torch.meshgrid(line, line, indexing="xy"))[None]
    return ((grid - centres).abs().sum(1, keepdim=True) * still).sum() / still.sum().clamp(min=1.0)
