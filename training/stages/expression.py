"""Stage 2 of training from footage: the expression bank's enhancement learns, without labels.

Encoder, heads and the directions of all banks are frozen; those of the expression and its head were trained by
`stages.expression_motion`. The enhancement learns by self-reconstruction, driven by the closed-form code of
`stages.upper_face`, and by exchanges: an exchanged expression must move brows and lids alone, because the enhancement
also changes the features that the flow is made from. The decoder's response to the expression's directions trains with
it. The start changes nothing: the first picture equals the last one of the stage before.

In the second part, the rest of the decoder trains as well, at a smaller rate, as the authors recommend. Its
response to the directions of mouth and pose stays the same.
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
from torch import Tensor, nn

from inference.model.generator import Generator

from ..footage.motion import MotionPool, exchanges, kept_frames, upper_exchanges
from ..footage.takes import Footage
from ..heads.data import Tracks
from ..learning.devices import Devices
from ..learning.losses import held_flow_error, total
from ..learning.optimiser import step_scale
from ..learning.trainer import Limits, Trainer
from .mouth import CODES, Codes
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

# What the names of trained weights contain: the enhancement, and the modulations, which make the decoder respond to the
# latent. The latter change along the expression's directions alone.
ENHANCEMENT, MODULATION = "dec.fineadainresblock.", "conv.modulation.weight"
STEP = 0.3  # their step size
DECODER_FROM, DECODER_STEP = 0.25, 0.3  # share of the stage before the rest of the decoder trains, and its step size
WEIGHTS = {"picture": 3.0, "edges": 3.0, "flow": 4.0, "exchange": 10.0, "expression": 60.0}
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
    """Parameter groups of the weights that stage 2 trains, with gradients switched on.

    Groups have the step size `scale`, and `late` for those of the decoder that train from DECODER_FROM on.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if name.startswith("dec."):
            late = not (name.startswith(ENHANCEMENT) or MODULATION in name)
            scale = DECODER_STEP * step_scale(name, "") if late else STEP
            groups.setdefault((scale, late), []).append(weight.requires_grad_(True))
    return [{"params": weights, "scale": scale, "late": late} for (scale, late), weights in groups.items()]


@contextmanager
def along_the_expression(model: Generator) -> Iterator[None]:
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
        names = ("alpha", "lips", "kept", "exchanged")
        drawn = drawn_together(model, begun, features, {name: batch[name] for name in names})
        last = drawn["alpha"][-1]
        tracks, lips = (
            Tracks(batch[f"{name}_source"], batch[f"{name}_driven"], batch[f"{name}_inside"])
            for name in ("track", "lips")
        )
        everywhere = torch.ones_like(tracks.visible[0])
        places = (batch[f"exchange_{name}"] for name in ("at", "after", "weight"))
        return {
            "flow": held_flow_error(drawn["alpha"], tracks, everywhere),
            "exchange": held_flow_error(drawn["lips"], lips, everywhere),
            "picture": picture_error(last.rgb, batch["driven"], batch["weight"]),
            "edges": edge_error(last.rgb, batch["driven"], batch["weight"]),
            "expression": difference_error(drawn["exchanged"], drawn["kept"], *places),
        }


def expression_batch(
    footage: Footage, codes: Tensor, lips: np.ndarray, faces: np.ndarray, size: int, count: int,
    rng: np.random.Generator, pool: MotionPool,
) -> dict[str, Tensor]:  # fmt: skip
    """Tensors of `count` sources of the pool with their driven frames, and with one exchange each of mouth and
    expression.

    codes: (N, 36). lips: (N, 28, 2), see `Codes.lips_moved`. faces: (N, 26, 2), see `UpperFace.moved`.
    """
    chosen = rng.integers(0, len(pool.source_rows), count)
    source, driven, tracks = pool.source_rows[chosen], pool.driven_rows[chosen], pool.tracks(chosen)
    rows = driven.ravel()
    batch = drive(footage, codes, size, source, driven, None)
    kept = kept_frames(footage, pool, chosen, rng)
    mouths, exchange = exchanges(footage, lips, kept, rng), upper_exchanges(footage, faces, kept.frames, rng)
    with_lips = exchanged(codes, kept.frames, mouths.other, slice(CODES))
    with_face = exchanged(codes, kept.frames, exchange.other, slice(-COUNT, None))
    mouth, eyes, away = boxes(footage.points[rows], size)
    weight = 1.0 + (EYE_WEIGHT - 1.0) * eyes + (CHEEK_WEIGHT - 1.0) * (1.0 - away)
    if rng.random() < WITHOUT_LIPS:
        weight = weight * (1.0 - mouth)
    return {
        "source": batch.source, "driven": batch.driven, "alpha": batch.alpha, "start": batch.source_alpha,
        "weight": weight, "track_source": tracks.source, "track_driven": tracks.driving, "track_inside": tracks.visible,
        "lips": with_lips, "lips_source": mouths.tracks.source, "lips_driven": mouths.tracks.driving,
        "lips_inside": mouths.tracks.visible, "kept": codes[kept.frames] * GAIN, "exchanged": with_face,
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
    lips, faces = teacher.lips_moved(footage), upper.moved(codes[:, -COUNT:].numpy())
    step, wrapped = devices.set_up(ExpressionStep(model), optimiser)

    def figures() -> dict[str, Any]:
        return self_figures(average, heldout, held) | dict(evaluate(average))

    for progress in trainer.steps("expression", wrapped, figures):
        for group in wrapped.param_groups:
            group["lr"] *= progress >= DECODER_FROM or not group["late"]
        own = devices.generator(args.seed, trainer.step)
        batch = expression_batch(footage, codes, lips, faces, args.size, args.sources, own, pool)
        try:
            losses = step(devices.moved(batch))
            loss = total(losses, WEIGHTS)
            with along_the_expression(model):
                devices.minimise(loss, wrapped, model)
        except RuntimeError as error:
            args.sources = devices.halved(args.sources, error, "sources")
            continue
        trainer.note(losses | {"loss": loss})
    return average
