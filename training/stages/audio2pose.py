"""Train Audio2Pose on performances of a stochastic gesture model (`voices.gestures`) for synthetic speech.

    python -m training audio2pose --out P.pt --minutes 40

Run the same command again to resume. A log (P.jsonl) is written beside the checkpoint. The weights of each band that
are best on held-out voices are kept.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from inference.model.audio2pose import LEVELS, POSE_FPS, Audio2Pose, Audio2PoseConfig, split, to_bands
from inference.motion import pose_features
from inference.prosody import Prosody

from ..learning.optimiser import minimise
from ..learning.trainer import Trainer, add_trainer_options, limits, seeded
from ..voices.gestures import Speech, performance, spoken
from ..voices.speech import HELD_OUT_VARIANTS

ROWS = 512  # of an example, 41 s
SECONDS = ROWS / POSE_FPS
BATCH = 8
POOL, FIRST = 1500, 64  # speeches in memory at most, and at the start
RENEWAL = 6  # steps after which a speech is added
NOISE = 0.02  # added to the bands, in their deviations
EXCHANGED = 0.1  # share of steps that also compare with the prosody of another speech
MARGIN = (0.0, 0.0, 0.1, 0.2, 0.2, 0.1)  # nats by which the own prosody should be likelier, for each band
HELD_OUT, HELD_OUT_DRAWS = 16, 2
MIRROR = np.array([-1, 1, -1, -1, 1, 1], np.float32)  # signs of the motion in a mirrored picture
EMPTY = np.zeros((0, 2))


@dataclass(frozen=True, eq=False)
class Example:
    """features: (17, 512) prosody at 12.5 rows per second. speech: of which performances are drawn."""

    features: np.ndarray
    speech: Speech


def example(seed: tuple[int, ...], variants: tuple[str, ...] | None = None) -> Example:
    """The speech of a seed. variants: of espeak-ng's voices; None: those for training."""
    rng = np.random.default_rng(seed)
    speech = spoken(rng, SECONDS, variants) if variants else spoken(rng, SECONDS)
    features = pose_features(speech.heard, ROWS)
    return Example(features, replace(speech, heard=_nothing(speech.heard)))


def _nothing(voice: Prosody) -> Prosody:
    """An empty prosody, so that the memory of a speech's rows is freed."""
    none = np.zeros(0)
    return Prosody(voice.features[:0].copy(), none, none > 0, EMPTY, voice.speaker)


class Pool:
    """Speeches to train on. Speech k depends only on the seed and on k."""

    def __init__(self, seed: int, first: int) -> None:
        self._seed, self._next = seed, first
        self.examples: deque[Example] = deque(maxlen=POOL)
        for _ in range(FIRST):
            self.renew()

    def renew(self) -> None:
        self.examples.append(example((self._seed, 1, self._next)))
        self._next += 1


def draw(pool: Pool, rng: np.random.Generator, count: int = BATCH) -> tuple[Tensor, Tensor]:
    """A batch: motion (B, 6, 512) of new performances, half of them mirrored, and prosody (B, 17, 512)."""
    chosen = [pool.examples[index] for index in rng.integers(len(pool.examples), size=count)]
    motion = [performance(one.speech, rng) * (MIRROR if rng.random() < 0.5 else 1) for one in chosen]
    features = np.stack([one.features for one in chosen])
    return torch.from_numpy(np.stack(motion).swapaxes(1, 2).astype(np.float32)), torch.from_numpy(features)


def measure(model: Audio2Pose, pool: Pool, rng: np.random.Generator) -> None:
    """Set the model's means and deviations from the pool."""
    motion, features = draw(pool, rng, 256)
    model.feature_mean.copy_(features.mean(dim=(0, 2))[:, None])
    model.feature_scale.copy_(features.std(dim=(0, 2))[:, None].clamp(min=0.05))
    for number, band in enumerate(to_bands(motion)):
        model.deviation[number] = band.square().mean(dim=(0, 2)).sqrt()[:, None]
    for number in reversed(range(LEVELS)):
        motion = split(motion)[0]
        model.slow_deviation[number] = motion.square().mean(dim=(0, 2)).sqrt()[:, None]


@cache
def held_out() -> tuple[Tensor, Tensor]:
    """Motion (32, 6, 512) and prosody (32, 17, 512) of voices that are not trained on."""
    motion, features = [], []
    for number in range(HELD_OUT):
        one, rng = example((99, 2, number), HELD_OUT_VARIANTS), np.random.default_rng((99, 3, number))
        for _ in range(HELD_OUT_DRAWS):
            motion.append(performance(one.speech, rng).T)
            features.append(one.features)
    return torch.from_numpy(np.stack(motion)), torch.from_numpy(np.stack(features))


@torch.no_grad()
def likelihoods(model: Audio2Pose) -> tuple[Tensor, Tensor]:
    """On held-out voices: likelihood of each band (6,) in nats per number, and its loss with other prosody (6,)."""
    motion, features = held_out()
    own = model.log_likelihood(motion, features).mean(dim=1)
    other = model.log_likelihood(motion, features.roll(HELD_OUT_DRAWS, dims=0)).mean(dim=1)
    return own, own - other


class Best(nn.Module):
    """The best weights of each band so far, and their likelihoods."""

    def __init__(self, config: Audio2PoseConfig) -> None:
        super().__init__()
        self.model = Audio2Pose(config)
        self.register_buffer("likelihoods", torch.full((len(config.steps),), -torch.inf))

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
    config = Audio2PoseConfig()
    model, average, best = Audio2Pose(config), Audio2Pose(config), Best(config)
    optimiser = torch.optim.Adam(model.parameters(), args.rate, betas=(0.9, 0.99))
    trainer = Trainer(
        args, {"model": model, "average": average, "best": best, "optimiser": optimiser},
        {"audio2pose": limits(args)}, np.random.default_rng(args.seed), averaged=(model, average), longest=0.995,
        extra=lambda: {"config": json.dumps(asdict(config))},
    )  # fmt: skip
    pool = Pool(args.seed, first=trainer.step // RENEWAL)
    if not trainer.resumed:
        measure(model, pool, np.random.default_rng((args.seed, 4)))
        average.load_state_dict(model.state_dict())

    def evaluate() -> dict[str, object]:
        own, lost = likelihoods(average)
        best.keep(average, own)
        return {"likelihood": _rounded(own), "own_less_other": _rounded(lost), "best": _rounded(best.likelihoods)}

    margin = torch.tensor(MARGIN)
    for _ in trainer.steps("audio2pose", optimiser, evaluate):
        rng = np.random.default_rng((args.seed, 3, trainer.step))
        motion, features = draw(pool, rng)
        own = model.log_likelihood(motion, features, NOISE).mean(dim=1)
        loss = -own.sum()
        if rng.random() < EXCHANGED:
            other = model.log_likelihood(motion, features.roll(1, dims=0), NOISE).mean(dim=1)
            loss = loss + (margin - own + other).clamp(min=0).sum()
        minimise(loss, optimiser, model.parameters())
        if (trainer.step + 1) % RENEWAL == 0:
            pool.renew()
        trainer.note({"loss": loss})


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    add_trainer_options(parser, minutes=40.0, rate=3e-3)
