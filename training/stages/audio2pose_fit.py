"""The training of Audio2Pose: first of the expected motion, then of the flow, whatever the motion comes from.

`audio2pose` trains on performances of a gesture model, `person_motion` on a person in clips.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from inference.model.audio2pose import LEVELS, Audio2Pose, Audio2PoseConfig, split, to_bands

from ..learning.optimiser import minimise
from ..learning.trainer import Trainer, limits

BATCH = 8
RENEWAL = {"expected": 4, "audio2pose": 6}  # steps of each phase after which a speech is added
MEAN_CHANNELS = 64  # of the network of the expected motion
EXPECTED_RATE = 2e-3  # its learning rate
NOISE = 0.02  # added to the bands, in their deviations
EXCHANGED = 0.1  # share of steps that also compare with the prosody of another speech
MARGIN = (0.0, 0.0, 0.1, 0.2, 0.2, 0.1)  # nats by which the own prosody should be likelier, for each band
HELD_OUT_DRAWS = 2  # motions of each held-out speech, next to each other in the batch
MIRROR = np.array([-1, 1, -1, -1, 1, 1], np.float32)  # signs of the motion in a mirrored picture


class Source(Protocol):
    """What the flow is trained on."""

    def draw(self, rng: np.random.Generator, count: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
        """Motion (B, 6, T), prosody (B, 17, T) and expected motion (B, 6, T)."""
        ...

    def held_out(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same of speech that is not trained on; neighbours in the batch may belong to the same speech."""
        ...

    def renew(self) -> None: ...


def measure(model: Audio2Pose, source: Source, rng: np.random.Generator) -> None:
    """Set the model's means and deviations from what it is trained on."""
    motion, features, _ = source.draw(rng, 256)
    model.mean.gain.copy_(motion.square().mean(dim=(0, 2)).sqrt()[:, None].expand_as(model.mean.gain))
    model.feature_mean.copy_(features.mean(dim=(0, 2))[:, None])
    model.feature_scale.copy_(features.std(dim=(0, 2))[:, None].clamp(min=0.05))
    for number, band in enumerate(to_bands(motion)):
        model.deviation[number] = band.square().mean(dim=(0, 2)).sqrt()[:, None]
    for number in reversed(range(LEVELS)):
        motion = split(motion)[0]
        model.slow_deviation[number] = motion.square().mean(dim=(0, 2)).sqrt()[:, None]


@torch.no_grad()
def expected_errors(model: Audio2Pose, held: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """On held-out speech: mean square error of the expected motion, and that of no motion, standardised."""
    _, features, expected = held
    assert model.mean is not None
    none = (expected / model.mean.gain[0]).square().mean()
    return model.expected_error(expected, features), none


@torch.no_grad()
def likelihoods(model: Audio2Pose, held: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """On held-out speech: likelihood of each band (6,) in nats per number, and its loss with other prosody (6,)."""
    motion, features, _ = held
    own = model.log_likelihood(motion, features).mean(dim=1)
    other = model.log_likelihood(motion, features.roll(HELD_OUT_DRAWS, dims=0)).mean(dim=1)
    return own, own - other


class Best(nn.Module):
    """The best weights of the expected motion and of each band so far, with their errors and likelihoods."""

    def __init__(self, config: Audio2PoseConfig) -> None:
        super().__init__()
        self.model = Audio2Pose(config)
        self.register_buffer("error", torch.tensor(torch.inf))
        self.register_buffer("likelihoods", torch.full((len(config.steps),), -torch.inf))

    @torch.no_grad()
    def keep_expected(self, model: Audio2Pose, error: Tensor) -> None:
        """Copy the network of the expected motion if it is better than the kept one."""
        if error < self.error:
            self.error.copy_(error)
            self.model.mean.load_state_dict(model.mean.state_dict())

    @torch.no_grad()
    def keep(self, model: Audio2Pose, found: Tensor) -> None:
        """Copy the bands of a model that are better than the kept ones."""
        for number in (found > self.likelihoods).nonzero().flatten().tolist():
            self.model.bands[number].load_state_dict(model.bands[number].state_dict())
            self.likelihoods[number] = found[number]
        for name, value in model.named_buffers():
            self.model.get_buffer(name).copy_(value)


def fit(
    args: argparse.Namespace, model: Audio2Pose, source_of: Callable[[int], Source], *, measured: bool
) -> Audio2Pose:
    """Train first the expected motion, then the flow. Returns the best weights.

    source_of: makes what it is trained on, given how often that was renewed before. measured: whether the means and
    deviations of the model are known.
    """
    config = model.config
    average, best = Audio2Pose(config), Best(config)
    assert model.mean is not None
    optimiser = torch.optim.Adam(model.bands.parameters(), args.rate, betas=(0.9, 0.99))
    expected_optimiser = torch.optim.Adam(model.mean.parameters(), EXPECTED_RATE)
    trainer = Trainer(
        args,
        {"model": model, "average": average, "best": best, "optimiser": optimiser, "expected": expected_optimiser},
        {"expected": limits(args, "expected"), "audio2pose": limits(args)}, np.random.default_rng(args.seed),
        averaged=(model, average), longest=0.995, extra=lambda: {"config": json.dumps(asdict(config))},
    )  # fmt: skip
    states = trainer.states
    source = source_of(sum(states[name].step // every for name, every in RENEWAL.items()))
    if not trainer.resumed:
        if not measured:
            measure(model, source, np.random.default_rng((args.seed, 4)))
        average.load_state_dict(model.state_dict())

    _train_expected(args, trainer, model, average, best, source, expected_optimiser)
    if not trainer.started("audio2pose"):
        for network in (model, average):
            network.mean.load_state_dict(best.model.mean.state_dict())
    _train_flow(args, trainer, model, average, best, source, optimiser)
    return best.model


def _train_expected(
    args: argparse.Namespace, trainer: Trainer, model: Audio2Pose, average: Audio2Pose, best: Best, source: Source,
    optimiser: torch.optim.Adam,
) -> None:  # fmt: skip
    def evaluate() -> dict[str, object]:
        error, none = expected_errors(average, source.held_out())
        best.keep_expected(average, error)
        return {"error": round(error.item(), 4), "without": round(none.item(), 4)}

    assert model.mean is not None
    for _ in trainer.steps("expected", optimiser, evaluate, rate=EXPECTED_RATE):
        _, features, expected = source.draw(np.random.default_rng((args.seed, 6, trainer.step)))
        loss = model.expected_error(expected, features)
        minimise(loss, optimiser, model.mean.parameters())
        if (trainer.states["expected"].step + 1) % RENEWAL["expected"] == 0:
            source.renew()
        trainer.note({"error": loss})


def _train_flow(
    args: argparse.Namespace, trainer: Trainer, model: Audio2Pose, average: Audio2Pose, best: Best, source: Source,
    optimiser: torch.optim.Adam,
) -> None:  # fmt: skip
    def evaluate() -> dict[str, object]:
        own, lost = likelihoods(average, source.held_out())
        best.keep(average, own)
        return {"likelihood": _rounded(own), "own_less_other": _rounded(lost), "best": _rounded(best.likelihoods)}

    margin = torch.tensor(MARGIN)
    for _ in trainer.steps("audio2pose", optimiser, evaluate):
        rng = np.random.default_rng((args.seed, 3, trainer.step))
        motion, features, _ = source.draw(rng)
        own = model.log_likelihood(motion, features, NOISE).mean(dim=1)
        loss = -own.sum()
        if rng.random() < EXCHANGED:
            other = model.log_likelihood(motion, features.roll(1, dims=0), NOISE).mean(dim=1)
            loss = loss + (margin - own + other).clamp(min=0).sum()
        minimise(loss, optimiser, model.bands.parameters())
        if (trainer.states["audio2pose"].step + 1) % RENEWAL["audio2pose"] == 0:
            source.renew()
        trainer.note({"loss": loss})


def continued(flow: Audio2Pose, **changes: int) -> Audio2Pose:
    """A copy of a flow, to train further. changes: of its configuration."""
    model = Audio2Pose(replace(flow.config, mean=flow.config.mean or MEAN_CHANNELS, **changes))
    model.load_state_dict(flow.state_dict(), strict=False)  # earlier versions lack the expected motion
    assert model.mean is not None
    if flow.mean is None:
        model.mean.gain.copy_(total_deviation(model).expand_as(model.mean.gain))
    return model


def total_deviation(model: Audio2Pose) -> Tensor:
    """(6, 1) deviation of the motion: each band has one place in 32, 32, 16, ... rows."""
    share = 0.5 ** torch.tensor([LEVELS, *range(LEVELS, 0, -1)])[:, None, None]
    return (share * model.deviation.square()).sum(dim=0).sqrt()


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
