"""The training loop of every stage: limits, learning rate, weight averaging, checkpoints, log and resuming.

A stage builds its networks and a `Trainer`, then loops over `Trainer.steps` once per phase:

    parts = {"model": model, "average": average, "optimiser": optimiser}
    trainer = Trainer(args, parts, {"painter": limits(args)}, rng, averaged=(model, average))
    for progress in trainer.steps("painter", optimiser, evaluate):
        loss = ...
        minimise(loss, optimiser)
        trainer.note({"loss": loss})

Running the same command again continues from the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from .optimiser import follow, rate_at, set_rate

SMOOTHING = 0.02  # weight of the newest value in the running means
SAVE_EVERY, EVALUATE_EVERY = 120.0, 300.0  # seconds of training
PRINT_EVERY = 50  # steps
# Names of checkpoint entries written by earlier versions.
RENAMED = {
    "suspicion": "critic_optimiser",
    "finding": "anchor_optimiser",
    "spent": "elapsed",
    "steps": "step",
}


@dataclass(frozen=True)
class Limits:
    """A phase ends after `minutes` of training or `steps` steps, counted over all runs, whichever comes first."""

    minutes: float = math.inf
    steps: int | None = None

    def progress(self, state: PhaseState) -> float:
        """0 at the start of the phase, 1 or more once it has ended."""
        by_steps = state.step / self.steps if self.steps else float(self.steps == 0)
        by_time = state.elapsed / (60.0 * self.minutes) if self.minutes > 0 else 1.0
        return max(by_steps, by_time)


@dataclass
class PhaseState:
    """Steps taken and seconds trained, over all runs."""

    step: int = 0
    elapsed: float = 0.0


def add_trainer_options(parser: argparse.ArgumentParser, *, minutes: float, rate: float, threads: int = 1) -> None:
    """Add the options that every stage has. minutes, rate, threads: defaults."""
    parser.add_argument("--out", type=Path, required=True, help="checkpoint (.pt) to write, and to resume if it exists")
    add_limit_options(parser, "", minutes=minutes, what="the training")
    parser.add_argument("--rate", type=float, default=rate, help=f"peak learning rate (default {rate:g})")
    parser.add_argument("--threads", type=int, default=threads, help=f"CPU threads (default {threads})")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")


def add_limit_options(parser: argparse.ArgumentParser, phase: str, *, minutes: float, what: str) -> None:
    """Add --PHASE-minutes and --PHASE-steps; without a prefix for the phase "". what: description of the phase."""
    prefix = f"--{phase}-" if phase else "--"
    parser.add_argument(
        f"{prefix}minutes", type=float, default=minutes, help=f"limit of {what} in minutes (default {minutes:g})"
    )
    parser.add_argument(f"{prefix}steps", type=int, help=f"limit of {what} in steps (default: none)")


def limits(args: argparse.Namespace, phase: str = "") -> Limits:
    """The limits given by the options of `add_limit_options`."""
    prefix = f"{phase.replace('-', '_')}_" if phase else ""
    return Limits(getattr(args, f"{prefix}minutes"), getattr(args, f"{prefix}steps"))


def seeded(args: argparse.Namespace) -> np.random.Generator:
    """Set the number of threads and PyTorch's seed; return the random generator of the training."""
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    torch.manual_seed(args.seed)
    return np.random.default_rng(args.seed)


class Trainer:
    """Counts the steps of a stage, and saves and restores everything that training depends on.

    args: has `out`, the checkpoint, and `rate`, the peak learning rate.
    parts: networks and optimisers by checkpoint entry.
    phases: limits by phase name, in training order.
    rng: random generator of the training; its state is saved, as is PyTorch's.
    averaged: the trained network and the network that holds the moving average of its weights.
    longest: decay of that average, reached after some steps.
    extra: returns further checkpoint entries, called when one is written.

    Raises SystemExit if `out` is a checkpoint with other phases.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        parts: Mapping[str, nn.Module | torch.optim.Optimizer],
        phases: Mapping[str, Limits],
        rng: np.random.Generator,
        *,
        averaged: tuple[nn.Module, nn.Module],
        longest: float = 0.998,
        extra: Callable[[], Mapping[str, Any]] = dict,
        evaluate_every: float = EVALUATE_EVERY,
    ) -> None:
        self.out, self.rate, self.parts, self.phases, self.rng = Path(args.out), args.rate, parts, phases, rng
        self.averaged, self.longest, self.extra, self.evaluate_every = averaged, longest, extra, evaluate_every
        self.states = {name: PhaseState() for name in phases}
        self.averaged_steps = 0
        self.running: dict[str, float] = {}
        self.resumed = self.out.exists()
        if self.resumed:
            self._load()

    @property
    def step(self) -> int:
        """Steps of all phases."""
        return sum(state.step for state in self.states.values())

    @property
    def elapsed(self) -> float:
        """Seconds of training of all phases."""
        return sum(state.elapsed for state in self.states.values())

    def started(self, phase: str) -> bool:
        """Whether the phase has taken a step, in this run or before."""
        return self.states[phase].step > 0

    def steps(
        self,
        phase: str,
        optimiser: torch.optim.Optimizer,
        evaluate: Callable[[], Mapping[str, Any]] | None = None,
        *,
        rate: float | None = None,
        anneal: float = 1.0,
        average: bool = True,
    ) -> Iterator[float]:
        """Yield the progress of the phase (0 to 1) once per step, with the optimiser's learning rate set.

        Yields nothing if the phase has ended, or if a later one has started. A checkpoint is written at intervals and
        after every evaluation; the last evaluation is at the end of the phase and its result goes to the log.

        evaluate: returns figures for the log; it must not draw from the generators of the training.
        rate: peak learning rate of this phase (default: that of the trainer).
        anneal: share of the cosine schedule that is used; with less than 1 the rate does not fall to zero.
        average: update the moving average of the weights after every step.
        """
        names, state, limit = list(self.phases), self.states[phase], self.phases[phase]
        if any(self.started(name) for name in names[names.index(phase) + 1 :]):
            return
        saved = evaluated = state.elapsed
        first = state.step
        while (progress := limit.progress(state)) < 1.0:
            began = time.monotonic()
            set_rate(optimiser, rate_at(state.step, anneal * progress, rate or self.rate))
            yield progress
            state.step += 1
            if average:
                self.averaged_steps += 1
                model, mean = self.averaged
                follow(mean, model, self.averaged_steps, self.longest)
            state.elapsed += time.monotonic() - began
            if state.step % PRINT_EVERY == 0:
                means = " ".join(f"{name} {value:.4f}" for name, value in self.running.items())
                print(f"{phase}: {state.elapsed / 60:.1f} min, step {state.step}: {means}", flush=True)
            due = evaluate is not None and state.elapsed - evaluated > self.evaluate_every
            if due:
                self._log(phase, evaluate())
                evaluated = state.elapsed
            if due or state.elapsed - saved > SAVE_EVERY:
                self.save()
                saved = state.elapsed
        if state.step > first:
            if evaluate is not None:
                self._log(phase, evaluate())
            self.save()

    def note(self, values: Mapping[str, Tensor]) -> None:
        """Update the running means with the scalars of a step."""
        for name, value in values.items():
            mean = self.running.get(name, value.item())
            self.running[name] = mean + max(SMOOTHING, 1 / (self.step + 1)) * (value.item() - mean)

    def save(self) -> None:
        """Write the checkpoint."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"phases": {name: asdict(phase) for name, phase in self.states.items()}}
        state |= {"averaged_steps": self.averaged_steps, "running": self.running}
        state |= {"random": json.dumps(self.rng.bit_generator.state), "torch_random": torch.get_rng_state()}
        save_checkpoint(state | dict(self.extra()), self.out)

    def _load(self) -> None:
        saved = _upgraded(torch.load(self.out, weights_only=True), list(self.phases))
        if set(saved["phases"]) != set(self.phases):
            raise SystemExit(
                f"{self.out} is not a checkpoint of this training: expected the phases {', '.join(self.phases)}, "
                f"found {', '.join(saved['phases'])}. Choose another --out, or repeat the options it was started with."
            )
        for name, part in self.parts.items():
            if name in saved:  # earlier versions did not save the parts of pretraining
                part.load_state_dict(saved[name])
        self.states = {name: PhaseState(**saved["phases"][name]) for name in self.phases}
        self.averaged_steps, self.running = saved["averaged_steps"], saved["running"]
        if "random" in saved:
            self.rng.bit_generator.state = json.loads(saved["random"])
        if "torch_random" in saved:
            torch.set_rng_state(saved["torch_random"])

    def _log(self, phase: str, figures: Mapping[str, Any]) -> None:
        minutes = round(sum(state.elapsed for state in self.states.values()) / 60, 1)
        log_line({"phase": phase, "minutes": minutes, "step": self.states[phase].step, **figures}, self.out)


def _upgraded(saved: dict[str, Any], phases: list[str]) -> dict[str, Any]:
    """A checkpoint in the present format. Earlier versions counted all phases together: it resumes in the last one."""
    if "phases" in saved:
        return saved
    saved = {RENAMED.get(name, name): value for name, value in saved.items()}
    if "optimisers" in saved:
        saved |= {f"{phase}_optimiser": state for phase, state in zip(phases, saved["optimisers"], strict=True)}
    step, elapsed = (saved[name] if isinstance(saved[name], list) else [saved[name]] for name in ("step", "elapsed"))
    counted = phases[len(phases) - len(step) :]
    saved["phases"] = {name: asdict(PhaseState()) for name in phases} | {
        name: {"step": number, "elapsed": seconds} for name, number, seconds in zip(counted, step, elapsed, strict=True)
    }
    return saved | {"averaged_steps": max(step), "running": saved.get("running", {})}


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint to `path`; if that fails, the previous file is kept."""
    partial = path.with_suffix(".partial")
    torch.save(dict(state), partial)
    partial.replace(path)


def log_line(line: Mapping[str, Any], path: Path) -> None:
    """Append a line to the log beside the checkpoint `path`, and print it."""
    text = json.dumps(line)
    with path.with_suffix(".jsonl").open("a") as lines:
        lines.write(text + "\n")
    print(text, flush=True)
