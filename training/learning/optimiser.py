"""How large a step each of a generator's parameters takes, and the average that follows them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from inference.model.generator import Generator

from .losses import PlaceHeads

WARM_UP = 60  # steps
MASK_STEP = 12.0  # how many times the step of its flow a blend mask takes: it has no sub-pixel to hit


def rate_at(step: int, share: float, peak: float) -> float:
    """Warm-up by steps, then a cosine over the share of the time that has gone."""
    return peak * min(1.0, (step + 1) / WARM_UP) * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0))))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """For all groups, times the `scale` of those that have one."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def step_scale(name: str, last_of_encoder: str) -> float:
    """How large a parameter's step is against the others'.

    Adam moves all weights of a layer in step, so what a layer of hundreds of inputs puts out jumps by many times the
    rate: a flow that jitters by a pixel never settles, and neither does anything that looks through it.
    """
    if "fineadainresblock" in name:
        return 0.1  # not equalised
    if "to_flows" in name and "modulation" not in name:
        return 0.1
    if name.split(".")[0].endswith("fc"):
        return 0.0 if name.startswith("fc") or ".2." not in name else 1.0  # the square ones stay the identity
    if name.startswith("enc."):
        return 0.05 if name.startswith(last_of_encoder) else 0.5
    return 1.0 if "to_rgbs" in name else 0.4


def optimiser_for(model: Generator, place_heads: PlaceHeads, rate: float) -> torch.optim.Adam:
    """Adam over both, in groups that have a `scale`, see `set_rate`."""
    groups: dict[float, list[Tensor]] = {0.3: list(place_heads.parameters())}
    last = f"enc.net_app.convs.{len(model.enc.net_app.convs) - 1}."
    for name, weight in model.named_parameters():
        groups.setdefault(step_scale(name, last), []).append(weight)
    described = [{"params": weights, "scale": scale} for scale, weights in groups.items() if scale]
    return torch.optim.Adam(described, rate, betas=(0.9, 0.99))


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int, longest: float = 0.998) -> None:
    """Draw the average of a model's weights after step `step`: over few steps at first, up to 1 / (1 - longest)."""
    decay = min(longest, step / (step + 20.0))
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1.0 - decay)


@torch.no_grad()
def mask_rows(model: Generator) -> list[Tensor]:
    """Views of what makes each level's blend logit; its flow has the other rows of the same tensors."""
    return [row for flow in model.dec.to_flows for row in (flow.conv.weight[:, 2], flow.bias[:, 2])]
