"""Train Audio2Pose on performances of a stochastic gesture model (`voices.gestures`), or on footage.

    python -m training audio2pose --out P.pt --minutes 40 [--start BANK]
    python -m training audio2pose CLIP|FOLDER ... --bank B.safetensors --out B2.safetensors

The first command trains from synthetic speech. Run it again to resume. A log (P.jsonl) is written beside the
checkpoint. The weights of each band that are best on held-out voices are kept.

The second command gives a bank the manner of a person who speaks in clips, see `stages.person_motion`.
"""

from __future__ import annotations

import argparse
from collections import deque
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.contract.bank import load_bank
from inference.contract.errors import EDTalkError
from inference.model.audio2pose import POSE_FPS, Audio2Pose, Audio2PoseConfig
from inference.model.load import AUDIO2POSE, load_network
from inference.motion import pose_features
from inference.prosody import Prosody

from ..learning.trainer import add_limit_options, add_trainer_options, seeded
from ..voices.gestures import Speech, performance, spoken
from ..voices.speech import HELD_OUT_VARIANTS
from .audio2pose_fit import BATCH, HELD_OUT_DRAWS, MEAN_CHANNELS, MIRROR, continued, fit
from .person_motion import adapt

ROWS = 512  # of an example, 41 s
SECONDS = ROWS / POSE_FPS
POOL, FIRST = 500, 64  # speeches in memory at most, and at the start
MEANS = 32  # performances that are averaged for the expected motion
HELD_OUT = 16  # speeches
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


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    seeded(args)
    if args.clips:
        adapt(args)
        return
    model = started_from(args.start) if args.start else None
    fit(args, model or Audio2Pose(Audio2PoseConfig(mean=MEAN_CHANNELS)), lambda renewed: Pool(args.seed, renewed),
        measured=model is not None)  # fmt: skip


def started_from(path: Path) -> Audio2Pose:
    """The flow of a bank, to train on. Raises EDTalkError (kind "bank") if the bank has none."""
    bank = load_bank(path)
    known = load_network(bank, AUDIO2POSE)
    if not isinstance(known, Audio2Pose):
        raise EDTalkError(f"{path} has no network for head motion (Audio2Pose).", "Leave out --start.", "bank")
    return continued(known)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    add_trainer_options(parser, minutes=40.0, rate=3e-3)
    add_limit_options(parser, "expected", minutes=10.0, what="the training of the expected motion")
    parser.add_argument("--start", type=Path, help="bank (.safetensors) whose weights the training starts from")
    parser.add_argument("clips", type=Path, nargs="*", help="footage of one person, files or folders (with --bank)")
    parser.add_argument("--bank", type=Path, help="bank (.safetensors) that reads the footage, and to which --out adds")
