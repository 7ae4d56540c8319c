"""The optimisation step, the learning-rate schedule, per-parameter step sizes, and the average and best weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from inference.model.generator import Generator

from .losses import PlaceHeads

WARM_UP = 60  # steps
FINAL_RATE = 0.01  # of the peak learning rate, at the end of the schedule
MASK_STEP = 12.0  # step size of blend masks relative to the flow's: masks need no sub-pixel accuracy


def rate_at(step: int, progress: float, peak: float) -> float:
    """Learning rate: linear warm-up over WARM_UP steps, then a cosine over `progress` (0 to 1)."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return peak * min(1.0, (step + 1) / WARM_UP) * (FINAL_RATE + (1.0 - FINAL_RATE) * cosine)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups, multiplied by the group's `scale` if it has one."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def minimise(loss: Tensor, optimiser: torch.optim.Optimizer, clipped: Iterable[Tensor] | None = None) -> None:
    """One optimisation step. clipped: parameters whose gradient norm is limited to 1."""
    optimiser.zero_grad()
    loss.backward()
    if clipped is not None:
        nn.utils.clip_grad_norm_(clipped, 1.0)
    optimiser.step()


def adamw(parameters: Iterable[Tensor], rate: float, weight_decay: float = 0.02) -> torch.optim.AdamW:
    """The optimiser of all networks but the generator."""
    return torch.optim.AdamW(parameters, rate, betas=(0.9, 0.99), weight_decay=weight_decay)


def step_scale(name: str, last_of_encoder: str) -> float:
    """Step size of a generator parameter relative to the learning rate.

    Adam changes all weights of a layer by about the same amount, so the output of a layer with hundreds of inputs
    changes by many times the rate. With too large a step the flow jitters by a pixel and nothing behind it converges.
    """
    if "fineadainresblock" in name:
        return 0.1  # not equalised
    if "to_flows" in name and "modulation" not in name:
        return 0.1
    if name.split(".")[0].endswith("fc"):
        return 0.0 if name.startswith("fc") or ".2." not in name else 1.0  # square layers stay the identity
    if name.startswith("enc."):
        return 0.05 if name.startswith(last_of_encoder) else 0.5
    return 1.0 if "to_rgbs" in name else 0.4


def optimiser_for(model: Generator, place_heads: PlaceHeads, rate: float) -> torch.optim.Adam:
    """Adam over generator and place heads, in parameter groups with a `scale` (see `set_rate`)."""
    groups: dict[float, list[Tensor]] = {0.3: list(place_heads.parameters())}
    last = f"enc.net_app.convs.{len(model.enc.net_app.convs) - 1}."
    for name, weight in model.named_parameters():
        groups.setdefault(step_scale(name, last), []).append(weight)
    described = [{"params": weights, "scale": scale} for scale, weights in groups.items() if scale]
    return torch.optim.Adam(described, rate, betas=(0.9, 0.99))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, longest: float = 0.998) -> None:
    """Update the moving average of a model's weights after step `step`.

    The decay is step / (step + 20), at most `longest`. Counters are copied.
    """
    decay = min(longest, step / (step + 20.0))
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value.to(mean.device), 1.0 - decay)
        else:
            mean.copy_(value)


class BestWeights(nn.Module):
    """The best weights so far, and their score. model: a network of the same architecture, which is overwritten."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("score", torch.tensor(-1.0))

    @torch.no_grad()
    def keep(self, model: nn.Module, found: float) -> None:
        """Copy a model that is better than the kept one."""
        if found > self.score:
            self.model.load_state_dict(model.state_dict())
            self.score.fill_(found)


@contextmanager
def larger_mask_steps(model: Generator) -> Iterator[None]:
    """Make the optimisation step that is taken in this block MASK_STEP times larger for the blend masks."""
    before = [row.clone() for row in mask_rows(model)]
    yield
    with torch.no_grad():
        for row, old in zip(mask_rows(model), before, strict=True):
            row.lerp_(old, 1.0 - MASK_STEP)


@torch.no_grad()
def mask_rows(model: Generator) -> list[Tensor]:
    """Views of the weights and biases that produce each level's blend mask; the flow uses the other rows."""
    return [row for flow in model.dec.to_flows for row in (flow.conv.weight[:, 2], flow.bias[:, 2])]
