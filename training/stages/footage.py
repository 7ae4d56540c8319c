"""Make a bank from footage without labels: from clips of people, or from rendered heads as a proof.

    python -m training footage CLIPS --out mine.safetensors --size 128 --minutes 480 --start starter
    python -m training footage --heads heads128 --train 600 --size 64 --start none --out proof.safetensors

Steps, each resumable by the same command: prepare the clips, learn the codes of mouth and pose, stage 0 (encoder and
decoder see and move), stage 1 (mouth and pose part), stage 2 (expression), finish (ranges, axes, presets, the bank).
Checkpoints, logs and figures are written into the folder --work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference.contract.bank import STARTER
from inference.model.generator import Generator

from ..footage.heads import HeadsAsFootage
from ..footage.motion import POOL_DRIVINGS, POOL_SOURCES, MotionPool, motion_pool
from ..footage.prepare import prepared
from ..footage.takes import Footage
from ..learning.devices import Devices
from ..learning.trainer import Limits, seeded
from .expression import train_expression
from .finish_bank import finish
from .generator import loaded_generator
from .mouth import Codes, learned_codes
from .mouth_pose import train_mouth_pose
from .reenactment import train_reenactment

# Shares of --minutes. Seeing and common motion are a matter of minutes, whatever the length of the training.
SHARES = {"common-motion": 0.06, "own-motion": 0.2, "self": 0.36, "mouth-pose": 0.26, "expression": 0.12}
HELD_OUT = 0.15  # share of each take's time that is not trained on


@dataclass(frozen=True)
class Split:
    """Footage to learn from and footage to measure on."""

    trained: Footage
    heldout: Footage


def split_in_time(footage: Footage, share: float = HELD_OUT) -> Split:
    """Hold out the end of every take: neighbouring frames are nearly copies, so random ones would not do."""
    late = np.zeros(len(footage), bool)
    for rows in footage.takes:
        late[rows[len(rows) - max(2, round(share * len(rows))) :]] = True
    return Split(footage.part(np.flatnonzero(~late)), footage.part(np.flatnonzero(late)))


def stage_args(args: argparse.Namespace, name: str, **more: Any) -> argparse.Namespace:
    """What a stage reads from its options."""
    common = {"out": args.work / f"{name}.pt", "rate": args.rate, "size": args.size, "seed": args.seed}
    return argparse.Namespace(**common, **more)


def stage_limits(args: argparse.Namespace) -> dict[str, Limits]:
    """Limits of every phase: its share of --minutes, or --steps."""
    return {name: Limits(share * args.minutes, args.steps) for name, share in SHARES.items()}


def stored_pool(path: Path, footage: Footage, seed: int, sources: int) -> MotionPool:
    """The motion pool in `path`; made first if it is missing."""
    if path.exists():
        saved = torch.load(path, weights_only=False)
        return MotionPool(*saved)
    pool = motion_pool(footage, sources, POOL_DRIVINGS, np.random.default_rng(seed))
    partial = path.with_suffix(".partial")
    torch.save((pool.source_rows, pool.driven_rows, pool.source, pool.driven, pool.inside), partial)
    partial.replace(path)
    return pool


def start_weights(start: str, size: int) -> Mapping[str, torch.Tensor] | None:
    """Encoder and decoder of a start file; None for "none". Raises SystemExit if its size is another one."""
    if start == "none":
        return None
    path = STARTER if start == "starter" else Path(start)
    model = loaded_generator(path)
    if model.config.size != size:
        raise SystemExit(f"{path} draws {model.config.size} px, but --size is {size}. Give --size {model.config.size}.")
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(("enc.", "dec.")) and "fineadainresblock" not in name
    }


def train_all(
    args: argparse.Namespace,
    split: Split,
    figures: Callable[[Codes], Callable[[Generator], Mapping[str, Any]]],
) -> tuple[Generator, Codes]:
    """Train or resume stages 0 to 2. figures: returns further figures for the logs, given the codes.

    Returns the generator with three banks, and the codes that it was driven by.
    """
    rng = seeded(args)
    args.work.mkdir(parents=True, exist_ok=True)
    devices = Devices(args.devices, accumulate=args.accumulate)
    teacher = learned_codes(split.trained, args.work / "mouth.pt", rng, steps=args.mouth_steps)
    evaluate, limits = figures(teacher), stage_limits(args)
    pool = stored_pool(args.work / "motion.pt", split.trained, args.seed, args.pool)
    seeing = {name: limits[name] for name in ("common-motion", "own-motion", "self")}
    model = train_reenactment(
        stage_args(args, "stage0", sources=args.sources), split.trained, split.heldout, teacher, seeing, rng, evaluate,
        pool=pool, start=start_weights(args.start, args.size),
    )  # fmt: skip
    model = train_mouth_pose(
        stage_args(args, "stage1", pairs=args.pairs), model, split.trained, split.heldout, teacher,
        limits["mouth-pose"], rng, evaluate, pool=pool,
        reach=None if args.reach == "none" else args.reach, devices=devices,
    )  # fmt: skip
    model = train_expression(
        stage_args(args, "stage2", sources=args.sources), model, split.trained, split.heldout, teacher,
        limits["expression"], rng, evaluate, devices=devices,
    )  # fmt: skip
    return model, teacher


def proof_figures(args: argparse.Namespace) -> Callable[[Codes], Callable[[Generator], Mapping[str, Any]]]:
    """Figures of rendered people, for which the truth is known: the gates of the proof."""
    from ..evaluate.disentangled import Truth, gate_figures

    truth = Truth(args.heads, args.train, people=args.measured)
    return lambda teacher: lambda model: gate_figures(model, truth, teacher)


def run(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`. Raises SystemExit if neither clips nor heads are given."""
    if bool(args.clips) == bool(args.heads):
        raise SystemExit("Give either clips (files or folders of movies), or --heads with a folder of rendered heads.")
    args.work = args.work or args.out.with_suffix(".work")
    if args.heads:
        split = Split(HeadsAsFootage(args.heads, 0, args.train), HeadsAsFootage(args.heads, args.train))
        model, teacher = train_all(args, split, proof_figures(args))
        origin = f"{args.train} rendered people (CC0), seen without labels"
    else:
        footage, origin = prepared(args.clips, args.work / "footage", args.size)
        split = split_in_time(footage)
        model, teacher = train_all(args, split, lambda teacher: lambda model: {})
    finish(model, teacher, split.trained, args.out, origin=origin, start=args.start, licence=args.licence)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("clips", nargs="*", type=Path, help="movies, or folders of movies")
    parser.add_argument("--heads", type=Path, help="data set of rendered heads to use as footage, as a proof")
    parser.add_argument("--train", type=int, default=600, help="with --heads: people to train on (default 600)")
    parser.add_argument(
        "--measured", type=int, default=40, help="with --heads: held-out people to measure (default 40)"
    )
    parser.add_argument("--out", type=Path, required=True, help="bank (.safetensors) to write")
    parser.add_argument("--work", type=Path, help="folder of checkpoints and logs (default: OUT with .work)")
    parser.add_argument("--size", type=int, default=128, choices=(32, 64, 128, 256), help="pixels (default 128)")
    parser.add_argument("--start", default="none", help='bank to take encoder and decoder from, "starter" or "none"')
    parser.add_argument("--minutes", type=float, default=480.0, help="time of training in all (default 480)")
    parser.add_argument("--steps", type=int, help="limit of each phase in steps (default: none)")
    parser.add_argument("--mouth-steps", type=int, default=900, help="steps of the mouth's code (default 900)")
    parser.add_argument(
        "--pool", type=int, default=POOL_SOURCES, help=f"sources with known motion (default {POOL_SOURCES})"
    )
    parser.add_argument("--sources", type=int, default=8, help="sources per step (default 8)")
    parser.add_argument("--pairs", type=int, default=6, help="pairs per step of stage 1 (default 6)")
    parser.add_argument("--reach", default="chin", choices=("chin", "lips", "none"), help="patch of the mouth swap")
    parser.add_argument("--devices", type=int, default=1, help="devices for stages 1 and 2 (default 1)")
    parser.add_argument("--accumulate", type=int, default=1, help="steps whose gradients are averaged (default 1)")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate (default 0.003)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    parser.add_argument("--licence", default="", help="terms of the footage (default: yours; made from your footage)")
