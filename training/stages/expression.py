"""Stage 2 of training from footage: the expression bank's enhancement learns, without labels.

Encoder, heads and the directions of all banks are frozen; those of the expression and its head were trained by
`stages.expression_motion`. The enhancement learns by self-reconstruction, driven by the closed-form code of
`stages.upper_face`, and by exchanges: an exchanged expression must move brows and lids alone, because the enhancement
also changes the features that the flow is made from. The rest of the decoder trains with it: a frozen decoder would
keep the reconstruction error that the stage before has added. Its response to the directions of mouth and pose stays
the same. The start changes nothing: the first picture equals the last one of the stage before.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.model.generator import Generator

from ..footage.motion import MotionPool, sample_base_frames, sample_lip_exchanges, sample_upper_exchanges
from ..footage.takes import Footage
from ..heads.data import Tracks
from ..learning.devices import Devices
from ..learning.losses import edge_loss, flow_loss, picture_loss, weighted_sum
from ..learning.optimiser import step_scale
from ..learning.trainer import Limits, Trainer
from .footage_generator import anchored_latent, decode_together, exchange_alpha
from .footage_losses import exchange_loss, reenactment_batch, region_masks
from .mouth import CODES, GAIN, MotionCodes
from .reenactment import psnr_figures
from .upper_face import COUNT, UpperFace, driving_codes

# What the names of trained weights contain: the enhancement, and the modulations, which make the decoder respond to the
# latent. The latter change along the expression's directions alone.
ENHANCEMENT, MODULATION = "dec.fineadainresblock.", "conv.modulation.weight"
STEP = 0.3  # their step size, relative to the learning rate
# Without `square`, drawings get sharper during the stage, but no closer to the true frames.
WEIGHTS = {"picture": 6.0, "edges": 3.0, "square": 6.0, "flow": 4.0, "exchange": 12.0, "expression": 60.0}
EYE_WEIGHT, CHEEK_WEIGHT = 5.0, 2.0
WITHOUT_LIPS = 0.5  # share of steps whose picture loss leaves the lips out: they belong to the mouth bank


def add_expression_bank(model: Generator) -> Generator:
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


def parameter_groups(model: Generator) -> list[dict[str, Any]]:
    """Parameter groups of the decoder's weights, with the step size `scale`; their gradients are switched on."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if name.startswith("dec."):
            scale = STEP if name.startswith(ENHANCEMENT) or MODULATION in name else step_scale(name, "")
            groups.setdefault(scale, []).append(weight.requires_grad_(True))
    return [{"params": weights, "scale": scale} for scale, weights in groups.items()]


@contextmanager
def limit_to_expression_directions(model: Generator) -> Iterator[None]:
    """Limit the step that is taken in this block: modulations change along the expression's directions alone.

    So a drawing without a part along them moves as before.
    """
    modulations = [
        weight for name, weight in model.named_parameters() if name.startswith("dec.") and MODULATION in name
    ]
    before = [weight.detach().clone() for weight in modulations]
    yield
    with torch.no_grad():
        directions = model.basis()[:, model.config.bank_slices["exp"]]
        for weight, old in zip(modulations, before, strict=True):
            weight.copy_(old + (weight - old) @ directions @ directions.T)


class ExpressionLosses(nn.Module):
    """Losses of stage 2 for one batch; the only module whose forward is called in training."""

    def __init__(self, model: Generator) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Unweighted losses by name of the tensors of `expression_batch`."""
        model = self.model
        with torch.no_grad():
            source, features = model.enc(batch["source"])
        latent = anchored_latent(model, source, batch["source_alpha"])
        names = ("alpha", "lips", "base", "exchanged")
        decoded = decode_together(model, latent, features, {name: batch[name] for name in names})
        last = decoded["alpha"][-1]
        tracks, lip_tracks = (
            Tracks(batch[f"{name}_source"], batch[f"{name}_driving"], batch[f"{name}_inside"])
            for name in ("track", "lips")
        )
        positions = (batch[f"exchange_{name}"] for name in ("before", "after", "weight"))
        return {
            "flow": flow_loss(decoded["alpha"], tracks),
            "exchange": flow_loss(decoded["lips"], lip_tracks),
            "picture": picture_loss(last.rgb, batch["driving"], batch["weight"]),
            "edges": edge_loss(last.rgb, batch["driving"], batch["weight"]),
            "square": F.mse_loss(last.rgb, batch["driving"]),
            "expression": exchange_loss(decoded["exchanged"], decoded["base"], *positions),
        }


def expression_batch(
    footage: Footage, codes: Tensor, lip_motion: np.ndarray, upper_motion: np.ndarray, size: int, count: int,
    rng: np.random.Generator, pool: MotionPool,
) -> dict[str, Tensor]:  # fmt: skip
    """Tensors of `count` sources of the pool with their driving frames, and one exchange each of lips and expression.

    codes: (N, 36). lip_motion: (N, 28, 2), see `MotionCodes.lip_motion`. upper_motion: (N, 26, 2), see
    `UpperFace.motion`. size: pixels of the pictures.
    """
    chosen = rng.integers(0, len(pool.source_rows), count)
    source, driving, tracks = pool.source_rows[chosen], pool.driving_rows[chosen], pool.tracks(chosen)
    batch = reenactment_batch(footage, codes, size, source, driving, rng)
    base = sample_base_frames(footage, pool, chosen, rng)
    lip_exchange = sample_lip_exchanges(footage, lip_motion, base, rng)
    upper_exchange = sample_upper_exchanges(footage, upper_motion, base.rows, rng)
    mouth, eyes, background = region_masks(footage.points[driving.ravel()], size)
    weight = 1.0 + (EYE_WEIGHT - 1.0) * eyes + (CHEEK_WEIGHT - 1.0) * (1.0 - background)
    if rng.random() < WITHOUT_LIPS:
        weight = weight * (1.0 - mouth)
    return {
        "source": batch.source, "driving": batch.driving, "alpha": batch.alpha, "source_alpha": batch.source_alpha,
        "weight": weight,
        "track_source": tracks.source, "track_driving": tracks.driving, "track_inside": tracks.visible,
        "lips": exchange_alpha(codes, base.rows, lip_exchange.donor, slice(CODES)),
        "lips_source": lip_exchange.tracks.source, "lips_driving": lip_exchange.tracks.driving,
        "lips_inside": lip_exchange.tracks.visible,
        "base": codes[base.rows] * GAIN,
        "exchanged": exchange_alpha(codes, base.rows, upper_exchange.donor, slice(-COUNT, None)),
        "exchange_before": upper_exchange.before, "exchange_after": upper_exchange.after,
        "exchange_weight": upper_exchange.weight,
    }  # fmt: skip


def train_expression(
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
    evaluate_every: float = 300.0,
    devices: Devices | None = None,
) -> Generator:
    """Train or resume stage 2 from the generator of `expression_motion`, and return the averaged generator.

    args: has `out`, `rate`, `size`, `sources` and `seed`.
    """
    devices = devices or Devices()
    average = copy.deepcopy(model)
    optimiser = torch.optim.Adam(parameter_groups(model), args.rate, betas=(0.9, 0.99))
    trainer = Trainer(
        args, {"model": model, "average": average, "optimiser": optimiser}, {"expression": limit}, rng,
        averaged=(model, average), longest=0.995, evaluate_every=evaluate_every,
        agreed=devices.agreed, writes=devices.rank == 0,
        extra=lambda: {"config": json.dumps(model.config.to_json())},
    )  # fmt: skip
    codes, heldout_codes = (torch.from_numpy(driving_codes(teacher, upper, part)) for part in (footage, heldout))
    lip_motion, upper_motion = teacher.lip_motion(footage), upper.motion(codes[:, -COUNT:].numpy())
    losses_of, wrapped = devices.set_up(ExpressionLosses(model), optimiser)

    def figures() -> dict[str, Any]:
        return psnr_figures(average, heldout, heldout_codes) | dict(evaluate(average))

    for _ in trainer.steps("expression", wrapped, figures):
        step_rng = devices.generator(args.seed, trainer.step)
        batch = expression_batch(footage, codes, lip_motion, upper_motion, args.size, args.sources, step_rng, pool)
        try:
            losses = losses_of(devices.moved(batch))
            loss = weighted_sum(losses, WEIGHTS)
            with limit_to_expression_directions(model):
                devices.minimise(loss, wrapped, model)
        except RuntimeError as error:
            args.sources = devices.halved(args.sources, error, "sources")
            continue
        trainer.note(losses | {"loss": loss})
    return average
