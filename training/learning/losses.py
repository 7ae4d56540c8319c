"""What the generator is trained by: the picture, its edges, the flow at tracked points, and what the heads read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.model.generator import Generator, Level, warp_grid

from ..heads.data import Batch, Tracks
from ..units import ALPHA_GAIN

WEIGHTS = {"picture": 1.0, "edges": 1.0, "flow": 4.0, "still": 1.0, "read": 0.03, "place": 0.1, "hidden": 0.3}
HIDDEN_FROM = 0.15  # difference of colour, of 2, from which a pixel counts as hidden in the source; all of it at twice
OPEN = 0.75  # mask where the source shows what is seen: further open and it could hardly be shut again
OWN_MOTION, MOST = 0.01, 8.0  # half widths of motion besides the head's that double a point's weight; the most of it
FLOW_FROM = 16  # coarsest resolution at which the warp is held to the tracked points
PLACED = (8, 16, 32)  # resolutions whose features say where on a face they lie


class PlaceHeads(nn.Module):
    """What a feature says of where on the average head it lies; trained beside the generator and then dropped.

    Motion is a function of that place: x (jaw open) pulls down chins, wherever a picture has them. A decoder that
    finds the place in the warped features of one level can put the next level's flow right.
    """

    def __init__(self, channels: Mapping[int, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(channels[size], 3) for size in PLACED)

    def error(self, features: Sequence[Tensor], points: Tensor, visible: Tensor, places: Tensor) -> Tensor:
        """Mean square error, of 1 for not knowing. features: coarse to fine from 8 px; points: (S, P, 2) in the
        picture; visible: (S, P); places: (P, 3)."""
        found = []
        for head, feature in zip(self.heads, features, strict=False):
            at = F.grid_sample(feature, points[:, None], padding_mode="border", align_corners=False)[:, :, 0]
            wrong = (head(at.transpose(1, 2)) - places).square().mean(-1)
            found.append((wrong * visible).sum() / visible.sum().clamp(min=1.0))
        return torch.stack(found).mean()


def generator_losses(
    model: Generator, place_heads: PlaceHeads, batch: Batch, rarity: Tensor, point_weight: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Unweighted losses by name, and the driven pictures (S * K, 3, R, R). rarity: (36,), see `HeadPairs`;
    point_weight: (P,)."""
    drivings = len(batch.driving) // len(batch.source)
    latent, features = model.enc(batch.source)
    levels = list(model.levels(latent, features, batch.driving_coefficients * ALPHA_GAIN))
    rgb = levels[-1].rgb
    losses = {
        "picture": picture_loss(rgb, batch),
        "edges": edge_loss(rgb, batch),
        "flow": held_flow_error(levels, batch.tracks, point_weight),
        "still": still_error(levels[-1].flow, batch),
        "read": read_error(model, latent, batch.source_coefficients, rarity),
        "place": place_heads.error(
            features, batch.tracks.source[::drivings], batch.tracks.visible[::drivings], batch.places
        ),
        "hidden": hidden_error(levels[-1].flow, batch, OPEN),
    }
    return losses, rgb


def hidden_error(flow: Tensor, batch: Batch, open_mask: float) -> Tensor:
    """How much the mask lets through of a source that does not show what is to be seen: around the mouth, shut it
    where that is so; there and around the eyes, keep it at `open_mask` elsewhere. flow: (N, 3, R, R).

    No flow finds teeth behind closed lips. The picture's loss says so too, but a mask that is nearly shut or nearly
    open everywhere hardly hears it.
    """
    repeats = len(batch.driving) // len(batch.source)
    with torch.no_grad():
        source = batch.source.repeat_interleave(repeats, 0)
        found = F.grid_sample(source, sampling_grid(flow).permute(0, 2, 3, 1), align_corners=False)
        missed = (found - batch.driving).abs().mean(1, keepdim=True)
        hidden = batch.mouth * ((missed - HIDDEN_FROM) / HIDDEN_FROM).clamp(0.0, 1.0)
        target = open_mask * (1.0 - hidden)
        weight = (batch.weight - 1.0) * (1.0 + 10.0 * hidden)  # there is little of it
    error = F.binary_cross_entropy_with_logits(flow[:, 2:], target, weight, reduction="sum")
    return error / weight.sum().clamp(min=1.0)


def read_error(model: Generator, latent: Tensor, truth: Tensor, rarity: Tensor) -> Tensor:
    """Mean square error of what the heads read, of 1 for not knowing. Not absolute: most units are off most of the
    time, and the median of a rare event is that it does not happen. rarity: (36,), see `HeadPairs`."""
    return ((model.coefficients(latent) / ALPHA_GAIN - truth).square() * rarity).mean()


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()


def picture_loss(rgb: Tensor, batch: Batch) -> Tensor:
    """Weighted L1 at full, half, quarter and eighth size."""
    error, weight, loss = rgb - batch.driving, batch.weight, rgb.new_zeros(())
    for _ in range(4):
        loss = loss + (error.abs() * weight).mean() / weight.mean()
        error, weight = F.avg_pool2d(error, 2), F.avg_pool2d(weight, 2)
    return loss / 4.0


def edge_loss(rgb: Tensor, batch: Batch) -> Tensor:
    """L1 of neighbouring-pixel differences, weighted like the picture: blur costs, a shift of brightness does not."""
    error, weight = rgb - batch.driving, batch.weight
    across = (error[..., :, 1:] - error[..., :, :-1]).abs() * weight[..., :, 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    return (across.mean() + down.mean()) / weight.mean()


def sampling_grid(flow: Tensor) -> Tensor:
    """(N, 2 or more, R, R) -> (N, 2, R, R): where in the source each pixel looks, in picture coordinates [-1, 1]."""
    return warp_grid(flow.shape[-1]).permute(0, 3, 1, 2) + torch.tanh(flow[:, :2])


def held_flow_error(levels: Sequence[Level], tracks: Tracks, point_weight: Tensor) -> Tensor:
    """Mean of `flow_error` over the levels that are fine enough to be held to the points."""
    held, emphasis = [level for level in levels if level.flow.shape[-1] >= FLOW_FROM], own_motion(tracks)
    return torch.stack([flow_error(level.flow, tracks, point_weight, emphasis) for level in held]).mean()


def flow_error(flow: Tensor, tracks: Tracks, point_weight: Tensor, emphasis: Tensor | None = None) -> Tensor:
    """Mean distance, in half widths, of where a tracked driving point looks from where it is in the source.

    point_weight (P,), emphasis (N, P): see `own_motion`.
    """
    looked = F.grid_sample(sampling_grid(flow), tracks.driving[:, None], padding_mode="border", align_corners=False)[
        :, :, 0
    ].transpose(1, 2)  # (N, P, 2)
    weight = tracks.visible * point_weight
    if emphasis is not None:
        weight = weight * emphasis
    return ((looked - tracks.source).abs().sum(-1) * weight).sum() / weight.sum().clamp(min=1.0)


@torch.no_grad()
def own_motion(tracks: Tracks) -> Tensor:
    """(N, P) weights, 1 for points that go where the head goes and up to MOST for those that move by themselves.

    Lids and brows move little beside a head that turns, and a mean error hardly notices when they do not move at all.
    The head's motion is the best affine map of all points.
    """
    ones = torch.ones_like(tracks.source[..., :1])
    seen = tracks.visible[..., None]
    rows = torch.cat([tracks.source, ones], -1)
    square = (rows * seen).mT @ rows + 1e-4 * torch.eye(3)
    head = torch.linalg.solve(square, (rows * seen).mT @ tracks.driving)  # (N, 3, 2)
    itself = (tracks.driving - rows @ head).norm(dim=-1)
    return (1.0 + itself / OWN_MOTION).clamp(max=MOST)


def still_error(flow: Tensor, batch: Batch) -> Tensor:
    """How far background that stays background is dragged, in half widths."""
    cells = batch.still.shape[-1]
    grid = F.adaptive_avg_pool2d(sampling_grid(flow), cells)
    line = (torch.arange(cells) * 2 + 1) / cells - 1.0
    centres = torch.stack(torch.meshgrid(line, line, indexing="xy"))[None]
    return ((grid - centres).abs().sum(1, keepdim=True) * batch.still).sum() / batch.still.sum().clamp(min=1.0)
