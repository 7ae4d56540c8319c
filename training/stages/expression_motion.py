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

from ..footage.motion import MotionPool, exchanges, kept_frames, upper_exchanges
from ..footage.takes import Footage, mirrored
from ..learning.augment import Crop
from ..learning.losses import held_flow_error, sampling_grid, total
from ..learning.optimiser import minimise
from ..learning.trainer import Limits, Trainer
from .expression import with_expression
from .flow_response import ResponseFit, add_response, channel_fields, ignore_directions
from .mouth import Codes
from .reenactment import (
    DRIVEN,
    GAIN,
    LIPS,
    LOOKS,
    WEIGHTS,
    Drive,
    Mixed,
    anchored,
    difference_error,
    drawing_losses,
    drawn_with_lips,
    drive,
    exchange_error,
    exchanged,
    latents,
    looks_of,
    own_error,
    read,
    self_figures,
    solve_heads,
    stage_optimiser,
    with_larger_mask_steps,
)
from .upper_face import UpperFace, driving_codes

EXPRESSION_WEIGHT = 40.0  # of what exchanging the upper face must move
# The same for a training that starts from a bank: its decoder moves already, and a larger weight harms that.
EXPRESSION_WEIGHT_WITH_START = 10.0
READING_WEIGHT = 6.0  # of what the heads read
MIRRORED, MIXED = 0.5, 0.3  # shares of the sources whose faces are mirrored, and whose frames get the mouths of others
MIXED_FRAMES = 3000  # of those that the heads are solved from
SOLVED_STEPS, SOLVED_SOURCES = 180, 12  # of drawings that the decoder's response is solved from
SOLVED_EACH = 4  # most drawings of a source of the pool: more add little
LEAST_SLOPE = 0.1  # of tanh, where a flow is turned back into what it is made of


@torch.no_grad()
def quiet_directions(model: Generator, footage: Footage, rows: np.ndarray) -> None:
    """Set the expression's directions to those that faces hardly use, and keep the encoder from using them at all.

    A portrait then counts as one at its usual expression, and nothing of who somebody is gets lost.
    """
    found = torch.cat([latents(model, footage, rows, bank) for bank in (None, *LOOKS)])
    used = model.basis()[:, : model.config.bank_slices["exp"].start]
    free = found - (found @ used) @ used.T
    square = free.T @ free / len(free) + found.square().sum(1).mean() * (used @ used.T)
    model.direction_exp.weight.copy_(torch.linalg.eigh(square).eigenvectors[:, : model.direction_exp.weight.shape[1]])
    quiet = model.basis()[:, model.config.bank_slices["exp"]]
    weight = model.enc.net_app.convs[-1].weight
    weight.copy_((weight.flatten(1) - quiet @ (quiet.T @ weight.flatten(1))).view_as(weight))


@torch.no_grad()
def solve_response(
    model: Generator, footage: Footage, codes: Tensor, faces: np.ndarray, pool: MotionPool, rng: np.random.Generator
) -> None:
    """Set the response of the decoder's flow to the expression's directions, from exchanges of the upper face.

    codes: (N, 36). faces: (N, 26, 2), see `UpperFace.moved`.
    """
    exp = model.config.bank_slices["exp"]
    directions, fit = model.basis()[:, exp], ResponseFit()
    ignore_directions(model, directions)
    sources = len(pool.source_rows)
    for _ in range(min(SOLVED_STEPS, -(-SOLVED_EACH * sources // SOLVED_SOURCES))):
        chosen = rng.integers(0, sources, min(SOLVED_SOURCES, sources))
        kept = kept_frames(footage, pool, chosen, rng).frames
        exchange = upper_exchanges(footage, faces, kept, rng)
        rows = pool.source_rows[chosen]
        latent, features = model.enc(footage.pictures(rows, model.config.size))
        begun = anchored(model, latent, codes[rows] * GAIN)
        levels = list(model.levels(begun, features, codes[kept] * GAIN))
        flow, after = levels[-1].flow, exchange.after
        grid = sampling_grid(flow)
        slope = (1.0 - torch.tanh(_sampled(flow[:, :2], after)).square()).clamp(min=LEAST_SLOPE)
        wanted = (_sampled(grid, exchange.at) - _sampled(grid, after)) / slope
        change = (codes[exchange.other] - codes[kept])[:, exp] * GAIN
        fit.add(channel_fields(model, levels, after), wanted, exchange.weight, change)
    add_response(model, directions, fit.solution())


def _sampled(values: Tensor, at: Tensor) -> Tensor:
    """(N, P, 2) values (N, 2, R, R) at positions (N, P, 2)."""
    found = F.grid_sample(values, at[:, None], padding_mode="border", align_corners=False)
    return found[:, :, 0].transpose(1, 2)


def whole_optimiser(model: Generator) -> torch.optim.Adam:
    """Adam over all weights but those of the expression's enhancement, which learns in stage 2."""
    model.requires_grad_(True)
    model.dec.fineadainresblock.requires_grad_(False)
    return stage_optimiser(model)


def reading_error(
    model: Generator, batch: Drive, footage: Footage, codes: Tensor, teacher: Codes, rng: np.random.Generator
) -> Tensor:
    """Mean square error, in codes, of what the heads read of the motion between two driven frames of each source.

    The faces are shifted, scaled and mirrored at random, and with them the pose; the windows stay the same. The frames
    of some sources get the mouths of others, and the lip code must be theirs. codes: (N, 36) of all frames.
    """
    rows, sources = batch.driven_rows, len(batch.source)
    each = len(rows) // sources
    slices = model.config.bank_slices
    wanted, faces, shown = batch.alpha.clone(), batch.driven.clone(), footage.part(rows)
    mixed = np.flatnonzero(np.repeat(rng.random(sources) < MIXED, each))
    if len(mixed):
        made = Mixed.of(footage, rows[mixed], rng)
        shown.frames[mixed], shown.points[mixed] = made.pictures.frames, made.pictures.points
        faces[mixed] = made.pictures.pictures(np.arange(len(mixed)), model.config.size)
        wanted[mixed, slices["lip"]] = codes[made.mouth][:, slices["lip"]] * GAIN
    flipped = np.repeat(rng.random(sources) < MIRRORED, each)
    places = np.where(flipped[:, None, None], mirrored(shown.points), shown.points)
    faces = torch.where(torch.from_numpy(flipped)[:, None, None, None], faces.flip(-1), faces)
    crop = Crop.random(len(rows), rng)
    looks = looks_of(shown.pictures(np.arange(len(rows))), shown.points, model.config)
    wanted[:, slices["pose"]] = torch.from_numpy(teacher.pose(crop.points(torch.from_numpy(places)).numpy())) * GAIN
    left = read(model, crop.pictures(faces, "border"), looks) - wanted
    pairs = left.view(sources, each, left.shape[1])
    return (pairs[:, 1:] - pairs[:, :1]).square().mean() / (2.0 * GAIN**2)


def train_expression_motion(
    args: Any,
    model: Generator,
    footage: Footage,
    heldout: Footage,
    teacher: Codes,
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
        "expression": EXPRESSION_WEIGHT_WITH_START if started else EXPRESSION_WEIGHT, "read": READING_WEIGHT,
    }  # fmt: skip
    larger = with_expression(model)
    codes, held = (torch.from_numpy(driving_codes(teacher, upper, part)) for part in (footage, heldout))
    exp = larger.config.bank_slices["exp"]
    lips, faces = teacher.lips_moved(footage), upper.moved(codes[:, exp].numpy())
    if not args.out.exists():
        quiet_directions(larger, footage, rng.choice(len(footage), min(2000, len(footage)), replace=False))
        solve_response(larger, footage, codes, faces, pool, rng)
        print(f"heads solved: {solve_heads(larger, footage, codes.numpy(), rng, mixed=MIXED_FRAMES)}", flush=True)
    average, optimiser = copy.deepcopy(larger), whole_optimiser(larger)
    trainer = Trainer(
        args, {"model": larger, "average": average, "optimiser": optimiser}, {"expression-motion": limit}, rng,
        averaged=(larger, average), longest=0.995, evaluate_every=evaluate_every,
        extra=lambda: {"config": json.dumps(larger.config.to_json())},
    )  # fmt: skip

    def figures() -> dict[str, Any]:
        return self_figures(average, heldout, held) | dict(evaluate(average))

    for _ in trainer.steps("expression-motion", optimiser, figures):
        chosen = trainer.rng.integers(0, len(pool.source_rows), args.sources)
        batch = drive(footage, codes, args.size, pool.source_rows[chosen], pool.driven_rows[chosen], trainer.rng)
        kept = kept_frames(footage, pool, chosen, trainer.rng)
        exchange = exchanges(footage, lips, kept, trainer.rng)
        upper_exchange = upper_exchanges(footage, faces, kept.frames, trainer.rng)
        latent, features = larger.enc(batch.source)
        drawn = drawn_with_lips(
            larger, latent, features, batch, codes, exchange,
            kept=codes[kept.frames] * GAIN, exchanged=exchanged(codes, kept.frames, upper_exchange.other, exp),
        )  # fmt: skip
        tracks = pool.tracks(chosen)
        losses = drawing_losses(drawn[DRIVEN], batch, footage)
        losses["flow"] = held_flow_error(drawn[DRIVEN], tracks, torch.ones(tracks.source.shape[1]))
        losses["exchange"] = exchange_error(drawn[LIPS], exchange)
        losses["expression"] = difference_error(
            drawn["exchanged"], drawn["kept"], upper_exchange.at, upper_exchange.after, upper_exchange.weight
        )
        losses["own"] = own_error(larger, latent, batch.source_alpha)
        losses["read"] = reading_error(larger, batch, footage, codes, teacher, trainer.rng)
        loss = total(losses, weights)
        with with_larger_mask_steps(larger):
            minimise(loss, optimiser, larger.parameters())
        trainer.note(losses | {"loss": loss})
    return average
