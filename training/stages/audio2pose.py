"""Train Audio2Pose on performances of a stochastic gesture model (`voices.gestures`), or on footage.

    python -m training audio2pose --out P.pt --minutes 40 [--start BANK]
    python -m training audio2pose CLIP|FOLDER ... --bank B.safetensors --out B2.safetensors

The first command trains from synthetic speech. Run it again to resume. A log (P.jsonl) is written beside the
checkpoint. The weights of each band that are best on held-out voices are kept.

The second command gives a bank the manner of a person who speaks in clips, see `stages.person_motion`.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from inference.contract.bank import load_bank
from inference.contract.errors import EDTalkError
from inference.model.audio2pose import LEVELS, POSE_FPS, Audio2Pose, Audio2PoseConfig, split, to_bands
from inference.model.load import AUDIO2POSE, load_network
from inference.motion import pose_features
from inference.prosody import Prosody

from ..learning.optimiser import minimise
from ..learning.trainer import Trainer, add_limit_options, add_trainer_options, limits, seeded
from ..voices.gestures import Speech, performance, spoken
from ..voices.speech import HELD_OUT_VARIANTS

ROWS = 512  # of an example, 41 s
SECONDS = ROWS / POSE_FPS
BATCH = 8
POOL, FIRST = 500, 64  # speeches in memory at most, and at the start
MEANS = 32  # performances that are averaged for the expected motion
RENEWAL = {"expected": 4, "audio2pose": 6}  # steps of each phase after which a speech is added
MEAN_CHANNELS = 64  # of the network of the expected motion
EXPECTED_RATE = 2e-3  # its learning rate
NOISE = 0.02  # added to the bands, in their deviations
EXCHANGED = 0.1  # share of steps that also compare with the prosody of another speech
MARGIN = (0.0, 0.0, 0.1, 0.2, 0.2, 0.1)  # nats by which the own prosody should be likelier, for each band
HELD_OUT, HELD_OUT_DRAWS = 16, 2
MIRROR = np.array([-1, 1, -1, -1, 1, 1], np.float32)  # signs of the motion in a mirrored picture
EMPTY = np.zeros((0, 2))


@dataclass(frozen=True, eq=False)
class Example:
    """A speech to train on.

    features: (17, 512) prosody at 12.5 rows per second. speech: of which performances are drawn. expected: (512, 6)
    mean of MEANS performances.
    """

    features: np.ndarray
    speech: Speech
    expected: np.ndarray


def example(seed: tuple[int, ...], variants: tuple[str, ...] | None = None) -> Example:
    """The speech of a seed. variants: of espeak-ng's voices; None: those for training."""
    rng = np.random.default_rng(seed)
    speech = spoken(rng, SECONDS, variants) if variants else spoken(rng, SECONDS)
    features = pose_features(speech.heard, ROWS)
    expected = np.mean([performance(speech, rng) for _ in range(MEANS)], axis=0)
    return Example(features, replace(speech, heard=_nothing(speech.heard)), expected)


def _nothing(voice: Prosody) -> Prosody:
    """An empty prosody, so that the memory of a speech's rows is freed."""
    none = np.zeros(0)
    return Prosody(voice.features[:0].copy(), none, none > 0, EMPTY, voice.speaker)


class Source(Protocol):
    """What the flow is trained on."""

    def draw(self, rng: np.random.Generator, count: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
        """Motion (B, 6, T), prosody (B, 17, T) and expected motion (B, 6, T)."""
        ...

    def held_out(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same of speech that is not trained on; neighbours in the batch may belong to the same speech."""
        ...

    def renew(self) -> None: ...


class Pool:
    """The last POOL of the speeches to train on. Speech k depends only on the seed and on k.

    renewed: how often `renew` was called before. After an interruption the same speeches are made again.
    """

    def __init__(self, seed: int, renewed: int) -> None:
        self._seed, self._next = seed, max(FIRST + renewed - POOL, 0)
        self.examples: deque[Example] = deque(maxlen=POOL)
        while self._next < FIRST + renewed:
            self.renew()

    def renew(self) -> None:
        """Add a speech."""
        self.examples.append(example((self._seed, 1, self._next)))
        self._next += 1

    def draw(self, rng: np.random.Generator, count: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
        """A batch: motion (B, 6, 512) of new performances, half of them mirrored, the prosody (B, 17, 512) of their
        speeches, and the expected motion (B, 6, 512) of both mirror images."""
        chosen = [self.examples[index] for index in rng.integers(len(self.examples), size=count)]
        motion = [performance(one.speech, rng) * (MIRROR if rng.random() < 0.5 else 1) for one in chosen]
        expected = [one.expected * (1 + MIRROR) / 2 for one in chosen]
        features = np.stack([one.features for one in chosen])
        made = (torch.from_numpy(np.stack(table).swapaxes(1, 2).astype(np.float32)) for table in (motion, expected))
        return next(made), torch.from_numpy(features), next(made)

    def held_out(self) -> tuple[Tensor, Tensor, Tensor]:
        return held_out()


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


@cache
def held_out() -> tuple[Tensor, Tensor, Tensor]:
    """Motion (32, 6, 512), prosody (32, 17, 512) and expected motion (32, 6, 512) of voices not trained on."""
    motion, features, expected = [], [], []
    for number in range(HELD_OUT):
        one, rng = example((99, 2, number), HELD_OUT_VARIANTS), np.random.default_rng((99, 3, number))
        for _ in range(HELD_OUT_DRAWS):
            motion.append(performance(one.speech, rng).T)
            features.append(one.features)
            expected.append((one.expected * (1 + MIRROR) / 2).T.astype(np.float32))
    return (
        torch.from_numpy(np.stack(motion)),
        torch.from_numpy(np.stack(features)),
        torch.from_numpy(np.stack(expected)),
    )


@torch.no_grad()
def expected_errors(model: Audio2Pose, held: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """On held-out speech: mean square error of the expected motion, and that of no motion, standardised."""
    _, features, expected = held
    assert model.mean is not None
    none = (expected / model.mean.gain[0]).square().mean()
    return model.expected_error(expected, features), none


@torch.no_grad()
def likelihoods(model: Audio2Pose, held: tuple[Tensor, Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Likelihood of each band (6,) in nats per number, and its loss with other prosody (6,).

    held: speech that is not trained on; default: that of `held_out`.
    """
    motion, features, _ = held or held_out()
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


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    seeded(args)
    if args.clips:
        from .person_motion import adapt

        adapt(args)
        return
    model = started_from(args.start) if args.start else None
    fit(args, model or Audio2Pose(Audio2PoseConfig(mean=MEAN_CHANNELS)), lambda renewed: Pool(args.seed, renewed),
        measured=model is not None)  # fmt: skip


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

    def evaluate_expected() -> dict[str, object]:
        error, none = expected_errors(average, source.held_out())
        best.keep_expected(average, error)
        return {"error": round(error.item(), 4), "without": round(none.item(), 4)}

    for _ in trainer.steps("expected", expected_optimiser, evaluate_expected, rate=EXPECTED_RATE):
        _, features, expected = source.draw(np.random.default_rng((args.seed, 6, trainer.step)))
        loss = model.expected_error(expected, features)
        minimise(loss, expected_optimiser, model.mean.parameters())
        if (states["expected"].step + 1) % RENEWAL["expected"] == 0:
            source.renew()
        trainer.note({"error": loss})
    if not trainer.started("audio2pose"):
        for network in (model, average):
            network.mean.load_state_dict(best.model.mean.state_dict())

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
        if (states["audio2pose"].step + 1) % RENEWAL["audio2pose"] == 0:
            source.renew()
        trainer.note({"loss": loss})
    return best.model


def started_from(path: Path) -> Audio2Pose:
    """The flow of a bank, to train on. Raises EDTalkError (kind "bank") if the bank has none."""
    bank = load_bank(path)
    known = load_network(bank, AUDIO2POSE)
    if not isinstance(known, Audio2Pose):
        raise EDTalkError(f"{path} has no network for head motion (Audio2Pose).", "Leave out --start.", "bank")
    model = Audio2Pose(replace(known.config, mean=known.config.mean or MEAN_CHANNELS))
    model.load_state_dict(known.state_dict(), strict=False)  # earlier versions lack the expected motion
    if known.mean is None:
        model.mean.gain.copy_(total_deviation(model).expand_as(model.mean.gain))
    return model


def total_deviation(model: Audio2Pose) -> Tensor:
    """(6, 1) deviation of the motion: each band has one place in 32, 32, 16, ... rows."""
    share = 0.5 ** torch.tensor([LEVELS, *range(LEVELS, 0, -1)])[:, None, None]
    return (share * model.deviation.square()).sum(dim=0).sqrt()


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    add_trainer_options(parser, minutes=40.0, rate=3e-3)
    add_limit_options(parser, "expected", minutes=10.0, what="the training of the expected motion")
    parser.add_argument("--start", type=Path, help="bank (.safetensors) whose weights the training starts from")
    parser.add_argument("clips", type=Path, nargs="*", help="footage of one person, files or folders (with --bank)")
    parser.add_argument("--bank", type=Path, help="bank (.safetensors) that reads the footage, and to which --out adds")
