"""What each part of the training without labels is worth: stage 1 again without it, from the same stage 0.

All rows have the same number of steps, seed and measurement. They are short: they compare parts with each other, and do
not tell what a full training reaches.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.contract.config import GeneratorConfig
from inference.model.generator import Generator

from ..footage.heads import HeadsAsFootage
from ..footage.swap import SwapRegion
from ..learning.trainer import Limits
from ..stages.footage import load_or_measure_pool
from ..stages.generator import fresh
from ..stages.mouth import MotionCodes, load_or_learn_codes
from ..stages.mouth_pose import train_mouth_pose
from .disentangled import Truth, code_figures, gate_figures, reconstruction_figures

SHOWN = (
    "mouth_r", "lip_effect", "lip_own_over_rest", "pose_own_over_rest", "lip_gain_there", "pose_gain", "self",
    "cross_over_self", "jaw_of_lip", "pose_of_lip", "pose_of_pose",
)  # fmt: skip


class FreeDirections(Generator):
    """A generator of mouth and pose whose directions have unit length, but need not be orthogonal."""

    def basis(self) -> Tensor:
        return F.normalize(self.direction_lipnonlip.weight, dim=0)


@dataclass(frozen=True)
class Ablation:
    """How a row differs from the method."""

    name: str
    region: SwapRegion | None = "chin"
    orthogonal: bool = True
    taught: bool = True


ABLATIONS = (
    Ablation("all parts"),
    Ablation("no swap", region=None),
    Ablation("lips-only patch", region="lips"),
    Ablation("no orthogonality", orthogonal=False),
    Ablation("no label-free pretraining", taught=False),
)


def started(ablation: Ablation, stage0: Generator) -> Generator:
    """The generator that a row's stage 1 starts from; it draws as stage 0 unless the pretraining is left out."""
    if not ablation.taught:
        return fresh(stage0.config)
    if ablation.orthogonal:
        return copy.deepcopy(stage0)
    free = FreeDirections(stage0.config)
    free.load_state_dict(stage0.state_dict())
    with torch.no_grad():
        free.direction_lipnonlip.weight.copy_(stage0.basis())
    return free


def ablated(
    ablation: Ablation, stage0: Generator, teacher: MotionCodes, truth: Truth, footage: HeadsAsFootage, work: Path,
    steps: int, pairs: int, rate: float,
) -> dict[str, float]:  # fmt: skip
    """Train or resume a row and measure it; the checkpoint is written into `work`."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    name = ablation.name.replace(" ", "_")
    settings = argparse.Namespace(
        out=work / f"ablation_{name}_{steps}.pt", rate=rate, size=stage0.config.size, seed=0, pairs=pairs
    )
    pool = load_or_measure_pool(work / "motion.pt", footage, 0, 2500)
    model = train_mouth_pose(
        settings, started(ablation, stage0), footage, truth.heldout, teacher, Limits(math.inf, steps), rng,
        pool=pool, region=ablation.region, taught=ablation.taught, evaluate_every=math.inf,
    )  # fmt: skip
    codes = code_figures(model, truth, teacher)
    figures = gate_figures(model, truth, None) | reconstruction_figures(model, truth.heldout, teacher)
    figures |= {"jaw_of_lip": codes["lip_head"]["jaw"], "pose_of_lip": codes["lip_head"]["pose"]}
    return figures | {"pose_of_pose": codes["pose_head"]["pose"]}


def report(result: Mapping[str, Mapping[str, Any]], steps: int, pairs: int) -> str:
    """The table of ablations in Markdown."""
    lines = [
        f"Stage 1, {steps} steps of {pairs} pairs each, driven by the codes of its own heads.",
        "",
        f"| row | {' | '.join(SHOWN)} |",
        "|---|" + "---|" * len(SHOWN),
    ]
    lines += [f"| {name} | {' | '.join(str(row[key]) for key in SHOWN)} |" for name, row in result.items()]
    return "\n".join(lines) + "\n"


def run(args: argparse.Namespace) -> None:
    """Train and measure with the options of `add_options`. Raises SystemExit if stage 0 has not been trained."""
    torch.set_num_threads(1)
    path = args.work / "stage0.pt"
    if not path.exists():
        raise SystemExit(f"{path} is missing. Run `python -m training footage --heads` first.")
    saved = torch.load(path, weights_only=True)
    stage0 = Generator(GeneratorConfig.from_json(json.loads(saved["config"])))
    stage0.load_state_dict(saved["average"])
    footage = HeadsAsFootage(args.heads, 0, args.train)
    teacher = load_or_learn_codes(footage, args.work / "mouth.pt", np.random.default_rng(0))
    truth = Truth(args.heads, args.train, people=args.people)
    args.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, dict[str, float]] = {}
    for ablation in ABLATIONS:
        result[ablation.name] = ablated(
            ablation, stage0, teacher, truth, footage, args.work, args.steps, args.pairs, args.rate
        )
        (args.out / "ablations.json").write_text(json.dumps(result, indent=1))
        (args.out / "ablations.md").write_text(report(result, args.steps, args.pairs))
        print(f"{ablation.name}: {result[ablation.name]}", flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("work", type=Path, help="folder of checkpoints, see `footage --work`")
    parser.add_argument("--heads", type=Path, required=True, help="the data set of rendered heads")
    parser.add_argument("--train", type=int, default=600, help="people to train on (default 600)")
    parser.add_argument("--people", type=int, default=40, help="held-out people to measure (default 40)")
    parser.add_argument("--steps", type=int, default=150, help="steps of each row (default 150)")
    parser.add_argument("--pairs", type=int, default=6, help="pairs per step (default 6)")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate (default 0.001)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
