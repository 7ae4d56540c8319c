"""Train the landmark network on rendered heads.

    python -m training landmarks --pool DIR --people 1000 --out L.pt --minutes 45
    python -m training landmarks --pool DIR --out L.pt --minutes 0 --write inference/face/landmarks.safetensors

The heads are rendered into --pool first, with wider poses than other data sets and with turned eyes; a pool that exists
is used, and continued if it has fewer people. So a pool of drawn and lifelike heads is made in two runs, of which the
second has --assets and more --people. Run the same command again to resume. The logged errors are those of
people who are not trained on, as shares of the distance of their eyes.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from inference.face.crop import apply_matrix
from inference.face.landmarks import (
    ANCHORS,
    CELLS,
    COUNT,
    GAZE,
    NINE,
    SIDE,
    LandmarkNet,
    anchor_features,
    gaze_features,
)
from inference.model.gaze import refine_irises

from ..heads import mesh
from ..heads.identity import identity
from ..heads.lifelike_render import renderer_of
from ..heads.lips import with_lips
from ..heads.render import Renderer
from ..heads.sampling import coefficients
from ..learning.optimiser import minimise
from ..learning.snapshots import Snapshot, framing, negative, snapshot, warped
from ..learning.trainer import Trainer, add_trainer_options, limits, seeded
from ..units import NAMES
from .insets import anchors_of

FRAME = 256  # pixels of a rendered picture
FRAMES = 6  # pictures of each person
SEED = 77_000  # of the pool's people
ANCHOR_SEED, ANCHOR_PEOPLE = 78_000, 60  # of the people on whom the anchors of the insets are fitted
BATCH = 32
NEGATIVES = 8  # of a batch
HELD_OUT = 0.05  # share of the pool's people, the last ones
POSES = {"headYaw": 0.75, "headPitch": 0.6, "headRoll": 0.5}  # deviations; 1 is 30, 20 and 20 degrees
WIDEST = 1.7
SOFT = 0.8  # deviation of a heat map around its landmark, in cells
WEIGHT = {"error": 0.5, "heat": 1.0, "spread": 0.05, "shown": 1.0, "present": 1.0}
EYE_BALL = 1.26  # the heads' eye balls are larger than people's: iris displacement per radian against the drawn one
LICENCE = "CC0-1.0"
ORIGIN = (
    "Trained from nothing by `python -m training landmarks` on rendered heads only (MakeHuman's CC0 data and assets). "
    "No photograph and no data set of photographs was used."
)
N = TypeVar("N", bound=nn.Module)


class Pool:
    """Rendered pictures with their landmarks, in a folder.

    frames: (N, FRAME, FRAME, 3) uint8; masks: (N, FRAME, FRAME) uint8; points: (N, COUNT, 2) float32 pixels; gaze:
    (N, 2) radians to the picture's right and up by which the eyes are turned away from the camera.
    """

    def __init__(self, folder: Path, people: int, assets: Path | None = None) -> None:
        """Render people that are missing, with `assets` as lifelike heads (`training.heads.assets`)."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, count = folder, people * FRAMES
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "frames": ((FRAME, FRAME, 3), np.uint8),
            "masks": ((FRAME, FRAME), np.uint8),
            "points": ((COUNT, 2), np.float32),
            "gaze": ((2,), np.float32),
        }
        meta = folder / "meta.json"
        self.done = json.loads(meta.read_text())["done"] if meta.exists() else 0
        files = {}
        for name, (shape, kind) in shapes.items():
            path = folder / f"{name}.bin"
            path.touch()
            row = int(np.prod(shape)) * np.dtype(kind).itemsize
            if path.stat().st_size < count * row:
                os.truncate(path, count * row)
            files[name] = np.memmap(path, kind, "r+", shape=(path.stat().st_size // row, *shape))
        self.frames, self.masks, self.points, self.gaze = files.values()
        drawer = renderer_of(FRAME, assets)
        while self.done < people:
            self._render(drawer, self.done)
            self.done += 1
            if self.done % 20 == 0 or self.done == people:
                for file in files.values():
                    file.flush()
                meta.write_text(json.dumps({"done": self.done}))
                print(f"{self.done}/{people} people", flush=True)
        heldout_count = max(1, round(HELD_OUT * self.done))
        self.training, self.held_out = np.split(np.arange(self.done * FRAMES), [(self.done - heldout_count) * FRAMES])

    def _render(self, drawer: Renderer, person: int) -> None:
        rng = np.random.default_rng([SEED, person, 2])
        rows = coefficients(person, FRAMES, SEED)
        with drawer.context:
            upper, lower = np.clip(rng.normal(rng.uniform(0.45, 1.2), 0.12, 2), 0.35, 1.35)
            drawer.show(with_lips(identity(person, SEED), upper, lower))
            for k, row in enumerate(rows):
                row = row.copy()
                for name, deviation in POSES.items():
                    row[NAMES.index(name)] = np.clip(rng.normal(0, deviation), -WIDEST, WIDEST)
                away = rng.random() < 0.7
                gaze = (rng.uniform(-0.65, 0.65), rng.uniform(-0.45, 0.4)) if away else (0.0, 0.0)
                picture = drawer.render(row, gaze)
                at = person * FRAMES + k
                self.frames[at], self.masks[at] = picture.image, picture.mask
                self.points[at] = (picture.landmarks + 1) * (FRAME / 2) - 0.5
                self.gaze[at] = gaze

    def snapshots(self, rows: np.ndarray, negatives: int, rng: np.random.Generator) -> list[Snapshot]:
        """A snapshot of each row; the last `negatives` of them show no face that could be used."""
        others = rng.integers(0, self.done * FRAMES, len(rows))
        snapshots = []
        for k, (row, other) in enumerate(zip(rows, others, strict=True)):
            frame, points, backdrop = self.frames[row], self.points[row], self.frames[other]
            if k < len(rows) - negatives:
                snapshots.append(snapshot(frame, self.masks[row], points, backdrop, rng))
            else:
                snapshots.append(negative(frame, points, backdrop, rng))
        return snapshots


def batch_of(snapshots: list[Snapshot]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures (N, 3, SIDE, SIDE) in [-1, 1], points (N, COUNT, 2), shown (N, COUNT), present (N,)."""
    pictures = torch.from_numpy(np.stack([one.picture for one in snapshots])).permute(0, 3, 1, 2).float() / 127.5 - 1
    points, visible = (
        torch.from_numpy(np.stack([getattr(one, name) for one in snapshots])) for name in ("points", "shown")
    )
    return pictures, points, visible, torch.tensor([one.present for one in snapshots])


def heat_error(heat: Tensor, points: Tensor, cell: float, soft: float) -> Tensor:
    """(N, P) cross-entropy of heat maps, given as logits (N, P, rows, columns), with Gaussians around points (N, P, 2).

    points, cell: positions and the side of a cell, in pixels. soft: deviation of a Gaussian, in cells.
    """
    place = (points + 0.5) / cell - 0.5  # in cells
    x, y = (
        (-(torch.arange(heat.shape[3 - axis]) - place[..., axis, None]).square() / (2 * soft**2)).exp()
        for axis in (0, 1)
    )
    target = (y[..., :, None] * x[..., None, :]).flatten(2)
    target = target / target.sum(-1, keepdim=True).clamp(min=1e-6)
    return -(target * heat.flatten(2).log_softmax(-1)).sum(-1)


def landmark_loss(net: LandmarkNet, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """The terms of the loss. Landmarks outside the picture do not count; covered ones count half."""
    pictures, points, visible, present = batch
    prediction, spread, visible_logits, is_face, heat = net(pictures)
    inside = ((points > -4) & (points < SIDE + 3)).all(-1) & (present[:, None] > 0)
    weight = inside * (0.5 + 0.5 * visible)
    error = torch.linalg.vector_norm(prediction - points, dim=-1)
    smooth = torch.sqrt(error.square() + 0.04)
    missing = heat_error(heat, points, SIDE / CELLS, SOFT)
    total = weight.sum().clamp(min=1)
    likelihood_error = error.detach() / spread.exp() + spread  # negative logarithm of a Laplace distribution
    return {
        "error": (smooth * weight).sum() / total,
        "heat": (missing * weight).sum() / total,
        "spread": (likelihood_error * weight).sum() / total,
        "shown": F.binary_cross_entropy_with_logits(visible_logits[present > 0], visible[present > 0]),
        "present": F.binary_cross_entropy_with_logits(is_face, present),
    }


@torch.no_grad()
def measure(net: LandmarkNet, pool: Pool, count: int = 256, negatives: int = 64) -> dict[str, float]:
    """Median and 95th percentile of the error of the nine landmarks in held-out snapshots, as a share of the distance
    of the eyes, and the share of wrong answers to whether there is a face.
    """
    rng = np.random.default_rng(1)
    rows = rng.choice(pool.held_out, count + negatives)
    pictures, points, visible, present = batch_of(pool.snapshots(rows, negatives, rng))
    net.eval()
    prediction, is_face = (answer := net(pictures)).points, answer.present
    net.train()
    nine = len(NINE)
    error = torch.linalg.vector_norm(prediction - points, dim=-1)[:count, :nine]
    eyes = torch.linalg.vector_norm(points[:count, 0] - points[:count, 1], dim=-1).clamp(min=12)
    visible_errors = (error / eyes[:, None])[visible[:count, :nine] > 0]
    wrong = (is_face > 0).float() != present
    return {
        "median": round(visible_errors.median().item(), 4),
        "q95": round(visible_errors.quantile(0.95).item(), 4),
        "missed": round(wrong[:count].float().mean().item(), 4),
        "invented": round(wrong[count:].float().mean().item(), 4),
    }


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    rng = seeded(args)
    pool = Pool(args.pool, args.people, args.assets)

    def terms(net: LandmarkNet) -> dict[str, Tensor]:
        return landmark_loss(net, batch_of(pool.snapshots(rng.choice(pool.training, BATCH), NEGATIVES, rng)))

    average = train_network(args, LandmarkNet(), "landmarks", rng, terms, WEIGHT, lambda net: measure(net, pool))
    if args.write:
        write(average, pool, args.write)


def train_network(
    args: argparse.Namespace,
    net: N,
    phase: str,
    rng: np.random.Generator,
    terms_of: Callable[[N], dict[str, Tensor]],
    weights: Mapping[str, float],
    evaluate: Callable[[N], Mapping[str, float]],
) -> N:
    """Train or resume a network with the sum of the weighted terms of its loss. Returns its averaged weights."""
    net = net.to(memory_format=torch.channels_last)
    average = copy.deepcopy(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-4)
    parts = {"model": net, "average": average, "optimiser": optimiser}
    trainer = Trainer(args, parts, {phase: limits(args)}, rng, averaged=(net, average))
    net.train()
    for _ in trainer.steps(phase, optimiser, lambda: evaluate(average)):
        terms = terms_of(net)
        minimise(sum(weights[name] * term for name, term in terms.items()), optimiser)
        trainer.note(terms)
    return average


@torch.no_grad()
def fit_gaze(net: LandmarkNet, pool: Pool, count: int = 1500) -> Tensor:
    """(F, 2): the least-squares reading of the gaze from landmarks that the network finds, see `landmarks.gaze`."""
    rng = np.random.default_rng(2)
    away = np.flatnonzero(np.nan_to_num(pool.gaze).any(1))
    rows = rng.permutation(away[np.isin(away, pool.training)])[:count]
    net.eval()
    landmarks = []
    for part in np.array_split(rows, max(1, len(rows) // 50)):
        cut = [warped(pool.frames[row], framing(pool.points[row], 0.0, 1.0, np.zeros(2))) for row in part]
        pictures = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 127.5 - 1
        predicted = net(pictures).points.double().numpy()
        landmarks += [refine_irises(*pair) for pair in zip(cut, predicted, strict=True)]
    net.train()
    features = gaze_features(np.stack(landmarks))
    truth = pool.gaze[rows] * (EYE_BALL, -EYE_BALL)
    gram = features.T @ features + 1e-4 * len(rows) * np.eye(features.shape[1])
    return torch.from_numpy(np.linalg.solve(gram, features.T @ truth)).float()


@torch.no_grad()
def fit_anchors(net: LandmarkNet, people: int) -> Tensor:
    """(F, 6): the least-squares reading of the insets' anchors from landmarks that the network finds.

    See `landmarks.eyes_and_mouth`. The people are drawn heads, as those on which the insets are trained.
    """
    head, drawer, frames = mesh.load(), renderer_of(FRAME, None), []
    with drawer.context:
        for person in range(people):
            drawer.show(identity(person, ANCHOR_SEED))
            frames += [drawer.render(row) for row in coefficients(person, FRAMES, ANCHOR_SEED)]
    points = torch.from_numpy(np.stack([frame.points for frame in frames]).astype(np.float32))
    ends = np.cumsum([count for _, count in mesh.POINT_GROUPS])
    groups = {name: (int(end) - count, int(end)) for (name, count), end in zip(mesh.POINT_GROUPS, ends, strict=True)}
    truth = anchors_of(points, torch.from_numpy(head.template[head.points]), groups).double().numpy()
    matrices = [framing((frame.landmarks + 1) * (FRAME / 2) - 0.5, 0.0, 1.0, np.zeros(2)) for frame in frames]
    cut = [warped(frame.image, matrix) for frame, matrix in zip(frames, matrices, strict=True)]
    net.eval()
    predicted = [
        net(torch.from_numpy(np.stack(cut[at : at + 50])).permute(0, 3, 1, 2).float() / 127.5 - 1).points
        for at in range(0, len(cut), 50)
    ]
    net.train()
    origin, across, features = anchor_features(torch.cat(predicted).double().numpy())
    pixels = [apply_matrix(matrix, (at + 1) * (FRAME / 2) - 0.5) for matrix, at in zip(matrices, truth, strict=True)]
    places = (np.stack(pixels) @ (1, 1j) - origin[:, None]) / across[:, None]
    solution = np.linalg.lstsq(features, np.stack([places.real, places.imag], -1).reshape(-1, 6), rcond=None)[0]
    return torch.from_numpy(solution).float()


def write(net: LandmarkNet, pool: Pool, path: Path) -> None:
    """Write the network for `inference.face.landmarks`, in half precision, with its licence and origin."""
    state = half_precision(net)
    state |= {GAZE: fit_gaze(net, pool), ANCHORS: fit_anchors(net, ANCHOR_PEOPLE)}
    save_file(state, path, {"licence": LICENCE, "origin": ORIGIN, "format": "edtalk-landmarks-1"})


def half_precision(net: nn.Module) -> dict[str, Tensor]:
    """The state of a network with its floating-point numbers in half precision."""
    return {
        name: part.half().contiguous() if part.is_floating_point() else part for name, part in net.state_dict().items()
    }


def add_options(parser: argparse.ArgumentParser, minutes: float = 45) -> None:
    """Add the options of `train`. minutes: default limit."""
    parser.add_argument("--pool", type=Path, required=True, help="folder of the rendered pictures")
    parser.add_argument("--people", type=int, default=1000, help="number of people in the pool (default 1000)")
    parser.add_argument(
        "--assets", type=Path, help="folder of MakeHuman's CC0 assets: new people of the pool are lifelike"
    )
    parser.add_argument("--write", type=Path, help="also write the network to this .safetensors file")
    add_trainer_options(parser, minutes=minutes, rate=2e-3)
