"""Stage 2 of training from footage: the expression bank's enhancement learns, without labels.

All else is frozen: encoder, heads, decoder, and the directions of all banks. Those of the expression and its head were
trained by `stages.expression_motion`. The enhancement learns by self-reconstruction, driven by the closed-form code of
`stages.upper_face`. The start changes nothing: the first picture equals the last one of the stage before. An exchanged
expression must still move brows and lids alone, because the enhancement also changes the features that the flow is
made from.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inference.model.generator import Generator

from ..footage.motion import MotionPool, kept_frames, upper_exchanges
from ..footage.takes import Footage
from ..heads.data import Tracks
from ..learning.devices import Devices
from ..learning.losses import held_flow_error, total
from ..learning.trainer import Limits, Trainer
from .mouth import Codes
from .reenactment import (
    GAIN,
    anchored,
    boxes,
    difference_error,
    drawn_together,
    drive,
    edge_error,
    exchanged,
    picture_error,
    self_figures,
)
from .upper_face import COUNT, UpperFace, driving_codes

TRAINED = {"dec.fineadainresblock.": 0.3}  # start of the names of trained weights, and their step size
WEIGHTS = {"picture": 1.0, "edges": 1.0, "flow": 4.0, "expression": 40.0}
EYE_WEIGHT, CHEEK_WEIGHT = 5.0, 2.0
WITHOUT_LIPS = 0.5  # share of steps that leave the lips out: what the mouth bank missed is not expression's to repair


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


class ExpressionStep(nn.Module):
    """Losses of stage 2 for one batch; the only module whose forward is called in training."""

    def __init__(self, model: Generator) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Unweighted losses of `expression_batch`'s tensors."""
        model = self.model
        with torch.no_grad():
            source, features = model.enc(batch["source"])
        begun = anchored(model, source, batch["start"])
        drawn = drawn_together(model, begun, features, {name: batch[name] for name in ("alpha", "kept", "exchanged")})
        last = drawn["alpha"][-1]
        tracks = Tracks(batch["track_source"], batch["track_driven"], batch["track_inside"])
        places = (batch[f"exchange_{name}"] for name in ("at", "after", "weight"))
        return {
            "flow": held_flow_error(drawn["alpha"], tracks, torch.ones_like(tracks.visible[0])),
            "picture": picture_error(last.rgb, batch["driven"], batch["weight"]),
            "edges": edge_error(last.rgb, batch["driven"], batch["weight"]),
            "expression": difference_error(drawn["exchanged"], drawn["kept"], *places),
        }


def expression_batch(
    footage: Footage, codes: Tensor, faces: np.ndarray, size: int, count: int, rng: np.random.Generator,
    pool: MotionPool,
) -> dict[str, Tensor]:  # fmt: skip
    """Tensors of `count` sources of the pool with their driven frames, and with one exchange of the expression each.

    codes: (N, 36). faces: (N, 26, 2), see `UpperFace.moved`.
    """
    chosen = rng.integers(0, len(pool.source_rows), count)
    source, driven, tracks = pool.source_rows[chosen], pool.driven_rows[chosen], pool.tracks(chosen)
    rows = driven.ravel()
    batch = drive(footage, codes, size, source, driven, None)
    kept = kept_frames(footage, pool, chosen, rng).frames
    exchange = upper_exchanges(footage, faces, kept, rng)
    mouth, eyes, away = boxes(footage.points[rows], size)
    weight = 1.0 + (EYE_WEIGHT - 1.0) * eyes + (CHEEK_WEIGHT - 1.0) * (1.0 - away)
    if rng.random() < WITHOUT_LIPS:
        weight = weight * (1.0 - mouth)
    return {
        "source": batch.source, "driven": batch.driven, "alpha": batch.alpha, "start": batch.source_alpha,
        "weight": weight, "track_source": tracks.source, "track_driven": tracks.driving, "track_inside": tracks.visible,
        "kept": codes[kept] * GAIN, "exchanged": exchanged(codes, kept, exchange.other, slice(-COUNT, None)),
        "exchange_at": exchange.at, "exchange_after": exchange.after, "exchange_weight": exchange.weight,
    }  # fmt: skip


def train_expression(
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
    evaluate_every: float = 300.0,
    devices: Devices | None = None,
) -> Generator:
    """Train or resume stage 2 from the generator of `expression_motion`, and return the averaged generator.

    args: has `out`, `rate`, `size`, `sources` and `seed`.
    """
    devices = devices or Devices()
    average = copy.deepcopy(model)
    optimiser = torch.optim.Adam(trained_weights(model), args.rate, betas=(0.9, 0.99))
    trainer = Trainer(
        args, {"model": model, "average": average, "optimiser": optimiser}, {"expression": limit}, rng,
        averaged=(model, average), longest=0.995, evaluate_every=evaluate_every,
        agreed=devices.agreed, writes=devices.rank == 0,
        extra=lambda: {"config": json.dumps(model.config.to_json())},
    )  # fmt: skip
    codes, held = (torch.from_numpy(driving_codes(teacher, upper, part)) for part in (footage, heldout))
    faces = upper.moved(codes[:, -COUNT:].numpy())
    step, wrapped = devices.set_up(ExpressionStep(model), optimiser)

    def figures() -> dict[str, Any]:
        return self_figures(average, heldout, held) | dict(evaluate(average))

    for _ in trainer.steps("expression", wrapped, figures):
        own = devices.generator(args.seed, trainer.step)
        batch = expression_batch(footage, codes, faces, args.size, args.sources, own, pool)
        try:
            losses = step(devices.moved(batch))
            loss = total(losses, WEIGHTS)
            devices.minimise(loss, wrapped, model)
        except RuntimeError as error:
            args.sources = devices.halved(args.sources, error, "sources")
            continue
        trainer.note(losses | {"loss": loss})
    return average
