"""Train the network that reads the outline of the lips in a window of the mouth, on rendered heads.

    python -m training lips --pool POOL --people 1000 --out L.pt --minutes 40 --write inference/face/lips.safetensors

The pool of rendered pictures is that of `training.stages.landmarks`. Run the same command again to resume. The logged
errors are those of people who are not trained on, as shares of the distance of their eyes; "overlap" is the median of
intersection over union of the boxes around the lips.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from inference.face.lips import CELL, HEIGHT, WIDTH, LipNet

from ..learning.lip_snapshots import lip_snapshot
from ..learning.trainer import seeded
from . import landmarks
from .landmarks import LICENCE, ORIGIN, Pool, half_precision, heat_error, train_network

BATCH = 32
SOFT = 0.9  # deviation of a heat map around its landmark, in cells
OUTLINE = 16  # the first landmarks
WEIGHT = {"error": 0.5, "heat": 1.0}
FORMAT = "edtalk-lips-1"


def batch_of(made: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, HEIGHT, WIDTH) in [-1, 1] and points (N, COUNT, 2) of windows."""
    pictures, points = (torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1, points


def snapshots(pool: Pool, rows: np.ndarray, rng: np.random.Generator, *, plain: bool = False) -> tuple[Tensor, Tensor]:
    """A batch of the pool's pictures, see `lip_snapshot`."""
    parts = (pool.frames, pool.masks, pool.points)
    return batch_of([lip_snapshot(*(part[row] for part in parts), rng, plain=plain) for row in rows])


def lip_loss(net: LipNet, pictures: Tensor, points: Tensor) -> dict[str, Tensor]:
    """The terms of the loss. Landmarks outside the picture do not count."""
    found, heat = net(pictures)
    inside = ((points > -1) & (points < torch.tensor([WIDTH, HEIGHT]))).all(-1)
    total = inside.sum().clamp(min=1)
    error = torch.sqrt((found - points).square().sum(-1) + 0.04)
    missing = heat_error(heat, points, CELL, SOFT)
    return {"error": (error * inside).sum() / total, "heat": (missing * inside).sum() / total}


@torch.no_grad()
def measure(net: LipNet, pool: Pool, count: int = 256) -> dict[str, float]:
    """Errors on held-out people: see the module. "plain": without augmentation."""
    net.eval()
    figures = {}
    for kind in ("plain", "hard"):
        rng = np.random.default_rng(1)
        rows = rng.choice(pool.held_out, count)
        pictures, points = snapshots(pool, rows, rng, plain=kind == "plain")
        found = net(pictures)[0]
        distance = WIDTH / 1.6
        error = torch.linalg.vector_norm(found - points, dim=-1)[:, :OUTLINE] / distance
        boxes = [torch.cat([p[:, :OUTLINE].amin(1), p[:, :OUTLINE].amax(1)], 1) for p in (found, points)]
        figures |= {
            f"{kind}": round(error.median().item(), 4),
            f"{kind}_q95": round(error.flatten().quantile(0.95).item(), 4),
            f"{kind}_overlap": round(overlap(*boxes).median().item(), 3),
        }
    net.train()
    return figures


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """(N,) intersection over union of boxes (N, 4): left, top, right, bottom."""
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (first, second)]
    return common / (areas[0] + areas[1] - common)


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    rng = seeded(args)
    pool = Pool(args.pool, args.people, args.assets)

    def terms(net: LipNet) -> dict[str, Tensor]:
        return lip_loss(net, *snapshots(pool, rng.choice(pool.training, BATCH), rng))

    average = train_network(args, LipNet(), "lips", rng, terms, WEIGHT, lambda net: measure(net, pool))
    if args.write:
        write(average, args.write)


def write(net: LipNet, path: Path) -> None:
    """Write the network for `inference.face.lips`, in half precision, with its licence and origin."""
    save_file(
        half_precision(net), path, {"licence": LICENCE, "origin": ORIGIN.replace("landmarks", "lips"), "format": FORMAT}
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`, those of the landmarks."""
    landmarks.add_options(parser, minutes=40)
