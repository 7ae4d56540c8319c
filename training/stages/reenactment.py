"""Stage 0 of training from footage: encoder and decoder learn motion without labels.

The decoder is driven by the codes of `stages.mouth` and by the motion of rigid points, not by its own heads: what the
heads predict cannot be lost while the decoder does not move yet. Its flow is trained on `footage.motion`, in three
phases:

- common motion: the flow that all faces share, linear in the codes' difference, without a source (minutes);
- own motion: the flow of each person, up to 32 px;
- self: the picture, with an additional loss of the mouth's window.

In every phase, the lip code of one base frame of each source is exchanged for that of another frame, and the flow is
compared with the motion that the points predict for this.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.model.generator import Generator

from ..footage.motion import MotionPool, sample_base_frames, sample_lip_exchanges
from ..footage.takes import Footage
from ..learning.losses import FLOW_FROM, flow_error, motion_emphasis, weighted_sum
from ..learning.optimiser import larger_mask_steps, minimise
from ..learning.trainer import Limits, Trainer
from .footage_generator import (
    anchored_latent,
    calibrate,
    decode_with_lip_exchange,
    exchange_alpha,
    footage_config,
    solve_heads,
    source_code_error,
    stage_optimiser,
)
from .footage_losses import DRIVING, concatenate_tracks, flow_losses, reconstruction_losses, reenactment_batch
from .generator import fresh
from .mouth import GAIN, MotionCodes
from .pretraining import BLIND_TO, blind_flows, common_motion_optimiser, prepare_common_motion

# The flow keeps its weight to the end: with a decrease to a quarter, lip motion stops improving.
WEIGHTS = {
    "picture": 1.0, "edges": 1.0, "window": 1.0, "flow": 4.0, "exchange": 10.0, "still": 1.0, "hidden": 0.3, "own": 0.1,
}  # fmt: skip


def train_reenactment(
    args: Any,
    footage: Footage,
    heldout: Footage,
    teacher: MotionCodes,
    limits: Mapping[str, Limits],
    rng: np.random.Generator,
    evaluate: Callable[[Generator], Mapping[str, Any]] = lambda model: {},
    *,
    pool: MotionPool,
    start: Callable[[Generator, np.ndarray], None] | None = None,
    evaluate_every: float = 300.0,
) -> Generator:
    """Train or resume stage 0 and return the averaged generator.

    args: has `out`, `rate`, `size`, `sources`. limits: of the phases common-motion, own-motion and self.
    start: sets the weights of a new generator, given the codes (N, 26); see `stages.transfer`.
    evaluate: further figures of a generator for the log.
    """
    codes, heldout_codes = (torch.from_numpy(teacher.lip_and_pose_codes(part)) for part in (footage, heldout))
    lip_motion = teacher.lip_motion(footage)
    config = footage_config(args.size)
    model = fresh(config)
    if not args.out.exists():
        if start is None:
            calibrate(model, footage, codes.numpy(), rng)
        else:
            start(model, codes.numpy())
        print(f"heads solved: {solve_heads(model, footage, codes.numpy(), rng)}", flush=True)
    average = copy.deepcopy(model)
    common, own, self_optimiser = common_motion_optimiser(model), stage_optimiser(model), stage_optimiser(model)
    parts = {
        "model": model, "average": average,
        "common_optimiser": common, "own_optimiser": own, "optimiser": self_optimiser,
    }  # fmt: skip
    trainer = Trainer(
        args, parts, limits, rng, averaged=(model, average), longest=0.995,
        extra=lambda: {"config": json.dumps(config.to_json())}, evaluate_every=evaluate_every,
    )  # fmt: skip
    if start is None:
        _common_motion(trainer, common, model, pool, footage, codes, lip_motion, lambda: evaluate(model))
    _own_motion(trainer, own, model, pool, footage, codes, lip_motion, args.sources, lambda: evaluate(model))
    if not trainer.started("self"):
        average.load_state_dict(model.state_dict())

    def figures() -> dict[str, Any]:
        return psnr_figures(average, heldout, heldout_codes) | dict(evaluate(average))

    for _ in trainer.steps("self", self_optimiser, figures):
        chosen = trainer.rng.integers(0, len(pool.source_rows), args.sources)
        losses = _losses_of(model, footage, codes, pool, chosen, lip_motion, trainer.rng)
        loss = weighted_sum(losses, WEIGHTS)
        with larger_mask_steps(model):
            minimise(loss, self_optimiser, model.parameters())
        trainer.note(losses | {"loss": loss})
    return average


def _losses_of(
    model: Generator, footage: Footage, codes: Tensor, pool: MotionPool, chosen: np.ndarray, lip_motion: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """Losses of sources of the pool, by name. chosen: (S,) their numbers."""
    source, driving = pool.source_rows[chosen], pool.driving_rows[chosen]
    batch = reenactment_batch(footage, codes, model.config.size, source, driving, rng)
    base = sample_base_frames(footage, pool, chosen, rng)
    exchange = sample_lip_exchanges(footage, lip_motion, base, rng)
    latent, features = model.enc(batch.source)
    decoded = decode_with_lip_exchange(model, latent, features, batch, codes, exchange)
    losses = reconstruction_losses(decoded[DRIVING], batch, footage)
    losses |= flow_losses(decoded, pool.tracks(chosen), exchange)
    return losses | {"own": source_code_error(model, latent, batch.source_alpha)}


def _common_motion(
    trainer: Trainer, optimiser: torch.optim.Adam, model: Generator, pool: MotionPool, footage: Footage, codes: Tensor,
    lip_motion: np.ndarray, evaluate: Callable[[], Mapping[str, Any]], sources: int = 24,
) -> None:  # fmt: skip
    if not trainer.started("common-motion"):
        prepare_common_motion(model)
    basis, trained = model.basis().detach(), False
    for _ in trainer.steps("common-motion", optimiser, rate=5e-3, average=False):
        trained = True
        chosen = trainer.rng.integers(0, len(pool.source_rows), sources)
        source, driving = pool.source_rows[chosen], pool.driving_rows[chosen]
        base = sample_base_frames(footage, pool, chosen, trainer.rng)
        exchange = sample_lip_exchanges(footage, lip_motion, base, trainer.rng)
        source_alpha = codes[np.concatenate([np.repeat(source, driving.shape[1]), source])] * GAIN
        exchanged = exchange_alpha(codes, exchange.base.rows, exchange.donor, model.config.bank_slices["lip"])
        tracks = concatenate_tracks(pool.tracks(chosen), exchange.tracks)
        flows = blind_flows(model, (torch.cat([codes[driving.ravel()] * GAIN, exchanged]) - source_alpha) @ basis.T)
        emphasis, weights = motion_emphasis(tracks), torch.ones(tracks.source.shape[1])
        errors = [flow_error(flow, tracks, weights, emphasis) for flow in flows if flow.shape[-1] >= FLOW_FROM]
        loss = torch.stack(errors).mean()
        minimise(loss, optimiser, optimiser.param_groups[0]["params"])
        trainer.note({"common_flow": loss})
    if trained:
        forget_other_directions(model)
        trainer.save()
        trainer._log("common-motion", evaluate())


def _own_motion(
    trainer: Trainer, optimiser: torch.optim.Adam, model: Generator, pool: MotionPool, footage: Footage, codes: Tensor,
    lip_motion: np.ndarray, sources: int, evaluate: Callable[[], Mapping[str, Any]],
) -> None:  # fmt: skip
    level_count = sum(resolution <= BLIND_TO for resolution in model.config.resolutions)
    for _ in trainer.steps("own-motion", optimiser, evaluate, anneal=0.5, average=False):
        chosen = trainer.rng.integers(0, len(pool.source_rows), sources)
        batch = reenactment_batch(
            footage, codes, model.config.size, pool.source_rows[chosen], pool.driving_rows[chosen], trainer.rng
        )
        base = sample_base_frames(footage, pool, chosen, trainer.rng)
        exchange = sample_lip_exchanges(footage, lip_motion, base, trainer.rng)
        latent, features = model.enc(batch.source)
        decoded = decode_with_lip_exchange(model, latent, features, batch, codes, exchange, level_count=level_count)
        losses = flow_losses(decoded, pool.tracks(chosen), exchange)
        losses["own"] = source_code_error(model, latent, batch.source_alpha)
        loss = weighted_sum(losses, WEIGHTS)
        minimise(loss, optimiser, model.parameters())
        trainer.note(losses | {"loss": loss})


@torch.no_grad()
def forget_other_directions(model: Generator) -> None:
    """Restrict the flow's dependence on the latent to the banks' directions, before any source is shown."""
    basis = model.basis()
    for to_flow in model.dec.to_flows:
        weight = to_flow.conv.modulation.weight
        weight.copy_(weight @ basis @ basis.T)


@torch.no_grad()
def psnr_figures(model: Generator, footage: Footage, codes: Tensor, count: int = 48) -> dict[str, float]:
    """Held-out figures without labels: PSNR in dB of decoded pictures and of copied sources, whole and at the mouth."""
    source, driving = footage.sample_pairs(np.random.default_rng(0), count, neutral=1.0)
    different = source != driving[:, 0]  # a copy of the driving frame itself would be perfect
    source, driving, count = source[different], driving[different], int(different.sum())
    batch = reenactment_batch(footage, codes, model.config.size, source, driving, None)
    shared = model.config.bank_slices["pose"].stop  # stage 2 does not anchor the expression
    decoded: dict[str, list[Tensor]] = {"psnr": [], "psnr_unanchored": []}
    for part in np.array_split(np.arange(count), -(-count // 16)):
        latent, features = model.enc(batch.source[part])
        for name, start in (
            ("psnr", anchored_latent(model, latent, batch.source_alpha[part][:, :shared])),
            ("psnr_unanchored", latent),
        ):
            *_, last = model.levels(start, features, batch.alpha[part])
            decoded[name].append(last.rgb.clamp(-1, 1))
    result = {}
    for name, rgb in (*((name, torch.cat(parts)) for name, parts in decoded.items()), ("psnr_copy", batch.source)):
        error = (rgb - batch.driving).square()
        result[name] = (10.0 * torch.log10(4.0 / error.mean((1, 2, 3)).clamp(min=1e-6))).mean()
        at_mouth = (error.mean(1, keepdim=True) * batch.mouth).sum((1, 2, 3)) / batch.mouth.sum((1, 2, 3))
        result[f"{name}_mouth"] = (10.0 * torch.log10(4.0 / at_mouth.clamp(min=1e-6))).mean()
    return {name: round(value.item(), 2) for name, value in result.items()}
