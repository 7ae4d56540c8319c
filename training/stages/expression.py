"""Stage 2 of training from footage: the expression bank learns what mouth and pose leave over, without labels.

Encoder, decoder and the banks of mouth and pose are frozen. An expression head, its directions and the expression
enhancement learn by self-reconstruction. The start changes nothing: the first picture equals that of stage 1.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.model.generator import Generator

from ..footage.motion import MotionPool
from ..footage.swap import swap
from ..footage.takes import Footage, head_frame, without_clip_mean
from ..heads.data import Tracks
from ..learning.devices import Devices
from ..learning.losses import held_flow_error, total
from ..learning.trainer import Limits, Trainer
from .mouth import Codes, explaining
from .reenactment import GAIN, boxes, drive, edge_error, picture_error, self_figures

COUNT = 10
# Trained weights by the start of their names, and their step size relative to the learning rate. The head starts at
# zero, and reads a code of deviation 1 with weights of about 3; the enhancement is not equalised.
TRAINED = {"exp_fc.2.": 30.0, "direction_exp.": 1.0, "dec.fineadainresblock.": 0.3}
WEIGHTS = {"picture": 1.0, "edges": 1.0, "keep": 0.05, "apart": 0.02, "size": 1e-3, "see": 0.1, "flow": 4.0}
EYE_WEIGHT, CHEEK_WEIGHT = 5.0, 2.0
WITHOUT_LIPS = 0.5  # share of steps that leave the lips out: what the mouth bank missed is not expression's to repair
EYE_WIDE, EYE_HIGH, EYE_COLUMNS, EYE_ROWS = 2.0, 0.9, 32, 14  # the window around eyes and brows
UPPER_FACE = (1.1, 0.8, 0.35)  # eye distances: half width, and reach above and below the eyes, of the flow loss
GATHERED = 128  # rows over which the correlation with other banks is measured


def with_expression(model: Generator) -> Generator:
    """The generator of stage 1 with an expression bank that changes nothing yet."""
    config = replace(model.config, banks=(*model.config.banks[:2], ("exp", COUNT)))
    larger = Generator(config)
    missing, unexpected = larger.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected, unexpected
    assert all(name.startswith(("exp_fc", "direction_exp", "dec.fine")) for name in missing), missing
    with torch.no_grad():
        for layer in larger.exp_fc[:2]:
            layer.weight.copy_(torch.eye(config.style_dim) / layer.scale)
            layer.bias.zero_()
        larger.exp_fc[2].weight.zero_()
        larger.exp_fc[2].bias.zero_()
        for block in larger.dec.fineadainresblock:  # adds normalised * (1 + gamma) + beta
            block.norm2.mlp_gamma.weight.zero_()
            block.norm2.mlp_gamma.bias.fill_(-1.0)
            block.norm2.mlp_beta.weight.zero_()
            block.norm2.mlp_beta.bias.zero_()
    return larger.requires_grad_(False)


def trained_weights(model: Generator) -> list[dict[str, Any]]:
    """Parameter groups of the weights that stage 2 trains, with gradients switched on, and their `scale`."""
    return [
        {
            "params": [
                weight.requires_grad_(True) for name, weight in model.named_parameters() if name.startswith(start)
            ],
            "scale": scale,
        }
        for start, scale in TRAINED.items()
    ]


def eye_windows(footage: Footage, rows: np.ndarray) -> Tensor:
    """(N, rows * columns) grey windows around eyes and brows, aligned by the eyes, of zero mean and unit deviation."""
    found = []
    for part in np.array_split(rows, max(1, len(rows) // 200)):
        middle, axis, distance = head_frame(footage.points[part])
        x = ((np.arange(EYE_COLUMNS) + 0.5) / EYE_COLUMNS - 0.5) * EYE_WIDE
        y = ((np.arange(EYE_ROWS) + 0.5) / EYE_ROWS - 0.5) * EYE_HIGH - 0.12
        right = axis * distance[:, None]
        down = np.stack([-right[:, 1], right[:, 0]], 1)
        grid = (
            middle[:, None, None]
            + x[None, None, :, None] * right[:, None, None]
            + y[None, :, None, None] * down[:, None, None]
        )
        grey = footage.pictures(part).mean(1, keepdim=True)
        seen = F.grid_sample(grey, torch.from_numpy(grid.astype(np.float32)), align_corners=False).flatten(1)
        found.append((seen - seen.mean(1, keepdim=True)) / (seen.std(1, keepdim=True) + 0.05))
    return torch.cat(found)


def expression_codes(footage: Footage, basis: Footage | None = None) -> np.ndarray:
    """(N, 10) principal components of eyes and brows within takes, with the pose's part removed in closed form.

    basis: the footage to which components are fitted (default: this one).
    """
    fitted = basis or footage
    mean_free = [
        without_clip_mean(eye_windows(part, np.arange(len(part))).numpy(), part.clip) for part in (fitted, footage)
    ]
    poses = [explaining(part) for part in (fitted, footage)]
    square = poses[0].T @ poses[0] + 1e-3 * np.diag(np.square(poses[0]).sum(0) + 1e-9)
    part_of_pose = np.linalg.solve(square, poses[0].T @ mean_free[0])
    left = [values - pose @ part_of_pose for values, pose in zip(mean_free, poses, strict=True)]
    variance, axes = np.linalg.eigh(left[0].T @ left[0] / len(left[0]))
    axes = axes[:, ::-1][:, :COUNT] / np.sqrt(variance[::-1][:COUNT] + 0.05 * variance[-1])
    return (left[1] @ axes).astype(np.float32)


class ExpressionStep(nn.Module):
    """Losses of stage 2 for one batch; the only module whose forward is called in training."""

    def __init__(self, model: Generator) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Unweighted losses of `expression_batch`'s tensors."""
        model, exp = self.model, self.model.config.bank_slices["exp"]
        with torch.no_grad():
            source, features = model.enc(batch["source"])
            driven = model.fc(model.enc(torch.cat([batch["driven"], batch["foreign"]]))[0])
        read, foreign = model.exp_fc(driven).chunk(2)
        alpha = torch.cat([batch["alpha"], read], 1)
        shared = model.basis()[:, : exp.start]
        source = source - (source @ shared + batch["start"]) @ shared.T  # see `reenactment.anchored`
        levels = list(model.levels(source, features, alpha))
        last = levels[-1]
        gathered = torch.cat([batch["gathered"], torch.cat([read, batch["alpha"]], 1)])
        tracks = Tracks(batch["track_source"], batch["track_driven"], batch["track_weight"])
        return {
            "flow": held_flow_error(levels, tracks, torch.ones_like(tracks.visible[0])),
            "picture": picture_error(last.rgb, batch["driven"], batch["weight"]),
            "edges": edge_error(last.rgb, batch["driven"], batch["weight"]),
            "keep": (foreign - read).square().mean(),
            "apart": correlation(gathered[:, :COUNT], gathered[:, COUNT:]),
            "size": (alpha[:, exp] - alpha[:, exp].mean(0)).square().mean(),
            "see": F.mse_loss(read[::2] - read[1::2], batch["code"][::2] - batch["code"][1::2]),
        }


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Mean square correlation of the columns of two tables (N, m) and (N, n)."""
    one, other = ((part - part.mean(0)) / (part.std(0) + 1e-3) for part in (one, other))
    return ((one.T @ other) / len(one)).square().mean()


def around_eyes(points: np.ndarray, at: Tensor) -> Tensor:
    """(N, P) 1 for positions `at` (N, P, 2) near eyes and brows of frames with points (N, 9, 2), else 0."""
    middle, axis, distance = head_frame(points)
    turn = np.stack([axis, np.stack([-axis[:, 1], axis[:, 0]], 1)], 2) / distance[:, None, None]
    local = (at - torch.from_numpy(middle).float()[:, None]) @ torch.from_numpy(turn).float()
    (wide, above, below) = UPPER_FACE
    return ((local[..., 0].abs() < wide) & (local[..., 1] > -above) & (local[..., 1] < below)).float()


def expression_batch(
    footage: Footage, codes: Tensor, wanted: Tensor, size: int, count: int, rng: np.random.Generator, gathered: Tensor,
    pool: MotionPool,
) -> dict[str, Tensor]:  # fmt: skip
    """Tensors of `count` sources of the pool with their driven frames. codes: (N, 26); wanted: (N, 10)."""
    chosen = rng.integers(0, len(pool.source_rows), count)
    source, driven, tracks = pool.source_rows[chosen], pool.driven_rows[chosen], pool.tracks(chosen)
    rows = driven.ravel()
    batch = drive(footage, codes, size, source, driven, None)
    mouth, eyes, away = boxes(footage.points[rows], size)
    weight = 1.0 + (EYE_WEIGHT - 1.0) * eyes + (CHEEK_WEIGHT - 1.0) * (1.0 - away)
    if rng.random() < WITHOUT_LIPS:
        weight = weight * (1.0 - mouth)
    others = rng.integers(0, len(footage), len(rows))
    foreign = np.stack([
        swap(footage.frames[row], footage.frames[other], footage.points[row], footage.points[other], rng)
        for row, other in zip(rows, others, strict=True)
    ])  # fmt: skip
    shown = torch.from_numpy(foreign).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    return {
        "source": batch.source, "driven": batch.driven, "foreign": F.avg_pool2d(shown, shown.shape[-1] // size),
        "alpha": batch.alpha, "start": batch.source_alpha, "weight": weight,
        "code": wanted[rows] * GAIN, "gathered": gathered,
        "track_source": tracks.source, "track_driven": tracks.driving,
        "track_weight": tracks.visible * around_eyes(footage.points[rows], tracks.driving),
    }  # fmt: skip


def train_expression(
    args: Any,
    model: Generator,
    footage: Footage,
    heldout: Footage,
    teacher: Codes,
    limit: Limits,
    rng: np.random.Generator,
    evaluate: Callable[[Generator], Mapping[str, Any]] = lambda model: {},
    *,
    pool: MotionPool,
    evaluate_every: float = 300.0,
    devices: Devices | None = None,
) -> Generator:
    """Train or resume stage 2 from stage 1's generator, and return the averaged generator with an expression bank.

    args: has `out`, `rate`, `size`, `sources` and `seed`.
    """
    devices = devices or Devices()
    larger = with_expression(model)
    average = copy.deepcopy(larger)
    optimiser = torch.optim.Adam(trained_weights(larger), args.rate, betas=(0.9, 0.99))
    trainer = Trainer(
        args, {"model": larger, "average": average, "optimiser": optimiser}, {"expression": limit}, rng,
        averaged=(larger, average), longest=0.995, evaluate_every=evaluate_every,
        agreed=devices.agreed, writes=devices.rank == 0,
        extra=lambda: {"config": json.dumps(larger.config.to_json())},
    )  # fmt: skip
    codes, wanted = torch.from_numpy(teacher.both(footage)), torch.from_numpy(expression_codes(footage))
    held = torch.from_numpy(np.pad(teacher.both(heldout), ((0, 0), (0, COUNT))))
    step, wrapped = devices.set_up(ExpressionStep(larger), optimiser)
    gathered = torch.zeros(0, codes.shape[1] + COUNT)

    def figures() -> dict[str, Any]:
        with torch.no_grad():
            read = torch.cat([
                average.exp_fc(average.fc(average.enc(heldout.pictures(part, args.size))[0]))
                for part in np.array_split(np.arange(len(heldout)), max(1, len(heldout) // 100))
            ])  # fmt: skip
        held[:, -COUNT:] = read / GAIN
        return self_figures(average, heldout, held) | dict(evaluate(average))

    for _ in trainer.steps("expression", wrapped, figures):
        own = devices.generator(args.seed, trainer.step)
        batch = expression_batch(footage, codes, wanted, args.size, args.sources, own, gathered, pool)
        shown = devices.moved(batch)
        try:
            losses = step(shown)
            loss = total(losses, WEIGHTS)
            devices.minimise(loss, wrapped, larger)
        except RuntimeError as error:
            args.sources = devices.halved(args.sources, error, "sources")
            continue
        with torch.no_grad():
            read = larger.exp_fc(larger.fc(larger.enc(shown["driven"])[0]))
            rows = torch.cat([gathered, torch.cat([read, shown["alpha"]], 1).cpu()])[-GATHERED:]
            gathered = rows[rows.isfinite().all(1)]
        trainer.note(losses | {"loss": loss})
    return average
