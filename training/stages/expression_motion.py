"""Before stage 2 of training from footage: the expression's directions learn to move brows and lids.

What new directions move is a tenth of the other errors of the flow, so gradient descent hardly finds it. The flow's
response to them is therefore solved in closed form first (`stages.flow_response`). Then all but the enhancement trains.
The decoder is driven by the codes of mouth and pose and by that of `stages.upper_face`, which the heads learn to read.
Each batch also contains exchanges of one code alone, of the mouth or of brows and lids, with the motion that they must
give.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.model.generator import Generator

from ..footage.motion import MotionPool, sample_base_frames, sample_lip_exchanges, sample_upper_exchanges
from ..footage.takes import Footage, mirrored
from ..learning.augment import Crop
from ..learning.losses import sampling_grid, weighted_sum
from ..learning.optimiser import larger_mask_steps, minimise
from ..learning.trainer import Limits, Trainer
from .expression import add_expression_bank
from .flow_response import ResponseFit, add_response, channel_fields, ignore_directions
from .footage_generator import (
    LOOKS,
    SwappedFrames,
    anchored_latent,
    decode_with_lip_exchange,
    exchange_alpha,
    latents,
    predict_alpha,
    reader_windows,
    solve_heads,
    source_code_error,
    stage_optimiser,
)
from .footage_losses import (
    DRIVING,
    ReenactmentBatch,
    exchange_loss,
    flow_losses,
    reconstruction_losses,
    reenactment_batch,
)
from .mouth import GAIN, MotionCodes
from .reenactment import WEIGHTS, psnr_figures
from .upper_face import UpperFace, driving_codes

EXPRESSION_WEIGHT = 40.0  # of what exchanging the upper face must move
# The same for a training that starts from a bank: its decoder moves already, and a larger weight harms that.
EXPRESSION_WEIGHT_WITH_START = 10.0
READING_WEIGHT = 6.0  # of what the heads read
PICTURE_WEIGHT = 3.0  # of pictures and edges: with 1, the other losses cost self-reconstruction .6 dB
MIRRORED, SWAPPED = 0.5, 0.3  # shares of the sources whose faces are mirrored, and whose mouths are swapped
SWAPPED_FRAMES = 3000  # of those that the heads are solved from
SOLVED_STEPS, SOLVED_SOURCES = 180, 12  # batches that the decoder's response is solved from, and sources of each
SOLVED_EACH = 4  # most frames of a source of the pool: more add little
LEAST_SLOPE = 0.1  # of tanh, where a change of the flow is converted to one before tanh


@torch.no_grad()
def choose_unused_directions(model: Generator, footage: Footage, rows: np.ndarray) -> None:
    """Set the expression's directions to those with the least variance in latents, and remove them from the encoder.

    A source then counts as a face at rest, and the latent keeps the identity. rows: (n,) frames whose latents are used.
    """
    latent = torch.cat([latents(model, footage, rows, bank) for bank in (None, *LOOKS)])
    used = model.basis()[:, : model.config.bank_slices["exp"].start]
    free = latent - (latent @ used) @ used.T
    square = free.T @ free / len(free) + latent.square().sum(1).mean() * (used @ used.T)
    model.direction_exp.weight.copy_(torch.linalg.eigh(square).eigenvectors[:, : model.direction_exp.weight.shape[1]])
    unused = model.basis()[:, model.config.bank_slices["exp"]]
    weight = model.enc.net_app.convs[-1].weight
    weight.copy_((weight.flatten(1) - unused @ (unused.T @ weight.flatten(1))).view_as(weight))


@torch.no_grad()
def fit_flow_response(
    model: Generator,
    footage: Footage,
    codes: Tensor,
    upper_motion: np.ndarray,
    pool: MotionPool,
    rng: np.random.Generator,
) -> None:
    """Set the response of the decoder's flow to the expression's directions, from exchanges of the upper face.

    codes: (N, 36). upper_motion: (N, 26, 2), see `UpperFace.motion`.
    """
    exp = model.config.bank_slices["exp"]
    directions, fit = model.basis()[:, exp], ResponseFit()
    ignore_directions(model, directions)
    sources = len(pool.source_rows)
    for _ in range(min(SOLVED_STEPS, -(-SOLVED_EACH * sources // SOLVED_SOURCES))):
        chosen = rng.integers(0, sources, min(SOLVED_SOURCES, sources))
        base = sample_base_frames(footage, pool, chosen, rng).rows
        exchange = sample_upper_exchanges(footage, upper_motion, base, rng)
        rows = pool.source_rows[chosen]
        source, features = model.enc(footage.pictures(rows, model.config.size))
        latent = anchored_latent(model, source, codes[rows] * GAIN)
        levels = list(model.levels(latent, features, codes[base] * GAIN))
        flow = levels[-1].flow
        grid = sampling_grid(flow)
        slope = (1.0 - torch.tanh(_sampled(flow[:, :2], exchange.after)).square()).clamp(min=LEAST_SLOPE)
        target = (_sampled(grid, exchange.before) - _sampled(grid, exchange.after)) / slope
        change = (codes[exchange.donor] - codes[base])[:, exp] * GAIN
        fit.add(channel_fields(model, levels, exchange.after), target, exchange.weight, change)
    add_response(model, directions, fit.solution())


def _sampled(values: Tensor, positions: Tensor) -> Tensor:
    """Values (N, 2, R, R) at positions (N, P, 2): (N, P, 2)."""
    sampled = F.grid_sample(values, positions[:, None], padding_mode="border", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)


def motion_optimiser(model: Generator) -> torch.optim.Adam:
    """Adam over all weights but those of the expression's enhancement, which learns in stage 2."""
    model.requires_grad_(True)
    model.dec.fineadainresblock.requires_grad_(False)
    return stage_optimiser(model)


def head_reading_error(
    model: Generator,
    batch: ReenactmentBatch,
    footage: Footage,
    codes: Tensor,
    teacher: MotionCodes,
    rng: np.random.Generator,
) -> Tensor:
    """Mean square error, in codes, of the heads' alpha: of its change between two driving frames of each source.

    Augmentation: faces are shifted, scaled and mirrored at random, and the target of the pose with them; the windows
    stay the same. The mouths of a share SWAPPED of the sources are swapped, and the target is the donor's lip code.

    codes: (N, 36) of all frames.
    """
    rows, sources = batch.driving_rows, len(batch.source)
    drivings = len(rows) // sources
    slices = model.config.bank_slices
    target, faces, frames = batch.alpha.clone(), batch.driving.clone(), footage.subset(rows)
    swapped_rows = np.flatnonzero(np.repeat(rng.random(sources) < SWAPPED, drivings))
    if len(swapped_rows):
        swapped = SwappedFrames.random(footage, rows[swapped_rows], rng)
        frames.frames[swapped_rows], frames.points[swapped_rows] = swapped.footage.frames, swapped.footage.points
        faces[swapped_rows] = swapped.footage.pictures(np.arange(len(swapped_rows)), model.config.size)
        target[swapped_rows, slices["lip"]] = codes[swapped.donor][:, slices["lip"]] * GAIN
    flipped = np.repeat(rng.random(sources) < MIRRORED, drivings)
    points = np.where(flipped[:, None, None], mirrored(frames.points), frames.points)
    faces = torch.where(torch.from_numpy(flipped)[:, None, None, None], faces.flip(-1), faces)
    crop = Crop.random(len(rows), rng)
    windows = reader_windows(frames.pictures(np.arange(len(rows))), frames.points, model.config)
    cropped_points = crop.points(torch.from_numpy(points)).numpy()
    target[:, slices["pose"]] = torch.from_numpy(teacher.pose_codes(cropped_points)) * GAIN
    residual = predict_alpha(model, crop.pictures(faces, "border"), windows) - target
    by_source = residual.view(sources, drivings, residual.shape[1])
    return (by_source[:, 1:] - by_source[:, :1]).square().mean() / (2.0 * GAIN**2)


def train_expression_motion(
    args: Any,
    model: Generator,
    footage: Footage,
    heldout: Footage,
    teacher: MotionCodes,
    upper: UpperFace,
    limit: Limits,
    rng: np.random.Generator,
    evaluate: Callable[[Generator], Mapping[str, Any]] = lambda model: {},
    *,
    pool: MotionPool,
    started: bool = False,
    evaluate_every: float = 300.0,
) -> Generator:
    """Train or resume from stage 1's generator, and return the averaged generator with an expression bank.

    args: has `out`, `rate`, `size`, `sources` and `seed`. started: whether stage 0 started from a bank.
    """
    weights = WEIGHTS | {
        "picture": PICTURE_WEIGHT, "edges": PICTURE_WEIGHT, "read": READING_WEIGHT,
        "expression": EXPRESSION_WEIGHT_WITH_START if started else EXPRESSION_WEIGHT,
    }  # fmt: skip
    larger = add_expression_bank(model)
    codes, heldout_codes = (torch.from_numpy(driving_codes(teacher, upper, part)) for part in (footage, heldout))
    lip_motion = teacher.lip_motion(footage)
    upper_motion = upper.motion(codes[:, larger.config.bank_slices["exp"]].numpy())
    if not args.out.exists():
        choose_unused_directions(larger, footage, rng.choice(len(footage), min(2000, len(footage)), replace=False))
        fit_flow_response(larger, footage, codes, upper_motion, pool, rng)
        explained = solve_heads(larger, footage, codes.numpy(), rng, swapped_count=SWAPPED_FRAMES)
        print(f"heads solved: {explained}", flush=True)
    average, optimiser = copy.deepcopy(larger), motion_optimiser(larger)
    trainer = Trainer(
        args, {"model": larger, "average": average, "optimiser": optimiser}, {"expression-motion": limit}, rng,
        averaged=(larger, average), longest=0.995, evaluate_every=evaluate_every,
        extra=lambda: {"config": json.dumps(larger.config.to_json())},
    )  # fmt: skip

    def figures() -> dict[str, Any]:
        return psnr_figures(average, heldout, heldout_codes) | dict(evaluate(average))

    for _ in trainer.steps("expression-motion", optimiser, figures):
        chosen = trainer.rng.integers(0, len(pool.source_rows), args.sources)
        losses = losses_of(larger, footage, codes, pool, chosen, lip_motion, upper_motion, teacher, trainer.rng)
        loss = weighted_sum(losses, weights)
        with larger_mask_steps(larger):
            minimise(loss, optimiser, larger.parameters())
        trainer.note(losses | {"loss": loss})
    return average


def losses_of(
    model: Generator,
    footage: Footage,
    codes: Tensor,
    pool: MotionPool,
    chosen: np.ndarray,
    lip_motion: np.ndarray,
    upper_motion: np.ndarray,
    teacher: MotionCodes,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """Losses of sources of the pool, by name. chosen: (S,) their numbers. Other arguments: of all frames."""
    batch = reenactment_batch(
        footage, codes, model.config.size, pool.source_rows[chosen], pool.driving_rows[chosen], rng
    )  # fmt: skip
    base = sample_base_frames(footage, pool, chosen, rng)
    lip_exchange = sample_lip_exchanges(footage, lip_motion, base, rng)
    upper_exchange = sample_upper_exchanges(footage, upper_motion, base.rows, rng)
    exchanged = exchange_alpha(codes, base.rows, upper_exchange.donor, model.config.bank_slices["exp"])
    latent, features = model.enc(batch.source)
    decoded = decode_with_lip_exchange(
        model, latent, features, batch, codes, lip_exchange, base=codes[base.rows] * GAIN, exchanged=exchanged
    )
    losses = reconstruction_losses(decoded[DRIVING], batch, footage)
    losses |= flow_losses(decoded, pool.tracks(chosen), lip_exchange)
    losses["expression"] = exchange_loss(
        decoded["exchanged"], decoded["base"], upper_exchange.before, upper_exchange.after, upper_exchange.weight
    )
    losses["own"] = source_code_error(model, latent, batch.source_alpha)
    losses["read"] = head_reading_error(model, batch, footage, codes, teacher, rng)
    return losses
