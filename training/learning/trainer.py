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
import copy
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

from inference.contract.errors import EDTalkError, disk_error

from .optimiser import rate_at, set_rate, update_average
from .watch import Stopped, Watch

SMOOTHING = 0.02  # weight of the newest value in the running means
SAVE_EVERY, EVALUATE_EVERY = 120.0, 300.0  # seconds of training
PRINT_EVERY = 50  # steps
TOO_LARGE, FOR_STEPS = 3.0, 50  # times the usual loss, and for how many steps, until the training counts as unstable
RECOVERIES = 2  # times that an unstable training goes back to its last average, at half the rate
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


class Stability:
    """Notices a loss that is not a number, or that stays TOO_LARGE times its running mean for FOR_STEPS steps."""

    def __init__(self) -> None:
        self.usual, self.counted, self.large = 0.0, 0, 0

    def holds(self, loss: float, compared: bool = True) -> bool:
        """Take in the loss of a step. compared: whether large values count. Returns False for an unstable training."""
        if not math.isfinite(loss) or not compared:
            return math.isfinite(loss)
        if self.counted and loss > TOO_LARGE * self.usual:
            self.large += 1
            return self.large < FOR_STEPS
        self.large = 0
        self.usual += max(SMOOTHING, 1.0 / (self.counted + 1)) * (loss - self.usual)
        self.counted += 1
        return True


class Unstable(EDTalkError):  # noqa: N818 - named like `Stopped`
    """A training that became unstable again after every recovery. best, phase, codes: as in `Stopped`."""

    def __init__(self, phase: str, step: int, log: Path, best: Any) -> None:
        super().__init__(
            f"The training became unstable for the third time, in the phase {phase} at step {step}; "
            f"its log is {log}.",
            "Start it again in another folder with half the learning rate.",
        )  # fmt: skip
        self.phase, self.best = phase, best
        self.codes: Any = None


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

    args: has `out`, the checkpoint, and `rate`, the peak learning rate; optionally `watch`, a `Watch` that is told how
        far the training is, and that may stop it. A watched training keeps its best weights, by held-out `psnr`.
    parts: networks and optimisers by checkpoint entry.
    phases: limits by phase name, in training order.
    rng: random generator of the training; its state is saved, as is PyTorch's.
    averaged: the trained network and the network that holds the moving average of its weights.
    longest: decay of that average, reached after some steps.
    extra: returns further checkpoint entries, called when one is written.
    agreed: the largest of each of several numbers over all devices, so that all of them do the same.
    writes: whether this process writes checkpoints and the log.

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
        agreed: Callable[[list[float]], list[float]] = list,
        writes: bool = True,
    ) -> None:
        self.out, self.rate, self.parts, self.phases, self.rng = Path(args.out), args.rate, parts, phases, rng
        self.averaged, self.longest, self.extra, self.evaluate_every = averaged, longest, extra, evaluate_every
        self.states = {name: PhaseState() for name in phases}
        self.averaged_steps = 0
        self.running: dict[str, float] = {}
        self.watch: Watch | None = getattr(args, "watch", None)
        self.agreed, self.writes = agreed, writes
        if self.watch is not None:
            self.evaluate_every = min(evaluate_every, self.watch.evaluate_every)
        self.best: dict[str, Tensor] | None = None
        self.best_psnr = -math.inf
        self.halvings = 0
        self._loss, self._minimised = 0.0, False
        self._kept: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
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
        first, stability = state.step, Stability()
        if self.watch is not None and evaluate is not None and average and not state.step and limit.progress(state) < 1:
            self._log(phase, evaluate())
        self._keep(average)
        while True:
            progress, stop = self.agreed([limit.progress(state), float(self._stop_requested)])
            if progress >= 1.0:
                break
            if stop:
                self._stop(phase, evaluate, average)
            began = time.monotonic()
            set_rate(optimiser, rate_at(state.step, anneal * progress, rate or self.rate) * 0.5**self.halvings)
            yield progress
            state.step += 1
            (loss,) = self.agreed([self._loss if math.isfinite(self._loss) else math.inf])
            if not stability.holds(loss, self._minimised):
                self._recover(phase, optimiser, average)
                stability = Stability()
            elif average:
                self.averaged_steps += 1
                model, mean = self.averaged
                update_average(mean, model, self.averaged_steps, self.longest)
            state.elapsed += time.monotonic() - began
            if self.watch is not None:
                self.watch.at(phase, limit.progress(state), state.step)
            if state.step % PRINT_EVERY == 0 and self.writes:
                means = " ".join(f"{name} {value:.4f}" for name, value in self.running.items())
                print(f"{phase}: {state.elapsed / 60:.1f} min, step {state.step}: {means}", flush=True)
            due = evaluate is not None and state.elapsed - evaluated > self.evaluate_every
            if due and evaluate is not None:
                self._log(phase, evaluate())
                evaluated = state.elapsed
            if due or state.elapsed - saved > SAVE_EVERY:
                self.save()
                saved = state.elapsed
                if stability.large == 0:
                    self._keep(average)
        if state.step > first:
            if evaluate is not None:
                self._log(phase, evaluate())
            self.save()

    @property
    def _stop_requested(self) -> bool:
        return self.watch is not None and self.watch.stop_requested

    def _stop(self, phase: str, evaluate: Callable[[], Mapping[str, Any]] | None, average: bool) -> None:
        """Save everything and raise `Stopped` with the best network so far."""
        if evaluate is not None and self.states[phase].step:
            self._log(phase, evaluate())
        self.save()
        raise Stopped(phase, self._best_network(average))

    def _best_network(self, average: bool) -> nn.Module:
        """A copy of the network with the best weights that were measured, or with its present ones."""
        network = copy.deepcopy(self.averaged[1 if average else 0])
        if average and self.best is not None:
            network.load_state_dict(self.best)
        return network

    def _keep(self, average: bool) -> None:
        """Keep the weights to which an unstable training goes back."""
        model, mean = ({name: part.clone() for name, part in net.state_dict().items()} for net in self.averaged)
        self._kept = (mean if average else model, mean)

    def _recover(self, phase: str, optimiser: torch.optim.Optimizer, average: bool) -> None:
        """Go back to the last average and halve the learning rate. Raises Unstable the third time."""
        self.halvings += 1
        assert self._kept is not None
        for network, weights in zip(self.averaged, self._kept, strict=True):
            network.load_state_dict(weights)
        optimiser.state.clear()
        if self.halvings > RECOVERIES:
            raise Unstable(phase, self.states[phase].step, self.out.with_suffix(".jsonl"), self._best_network(average))
        self._log(phase, {"unstable": self.halvings, "rate": self.rate * 0.5**self.halvings})

    def note(self, values: Mapping[str, Tensor]) -> None:
        """Update the running means with the scalars of a step.

        `loss`, if given, is the one that is minimised: a training in which it grows goes back to its last average.
        """
        found = {name: value.item() for name, value in values.items()}
        self._minimised = "loss" in found
        self._loss = found["loss"] if self._minimised else sum(found.values())
        for name, value in found.items():
            if math.isfinite(value):
                mean = self.running.get(name, value)
                self.running[name] = mean + max(SMOOTHING, 1 / (self.step + 1)) * (value - mean)

    def save(self) -> None:
        """Write the checkpoint. Raises EDTalkError of kind "disk" if that fails; the one before is kept."""
        if not self.writes:
            return
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"phases": {name: asdict(phase) for name, phase in self.states.items()}}
        state |= {"averaged_steps": self.averaged_steps, "running": self.running}
        state |= {"random": json.dumps(self.rng.bit_generator.state), "torch_random": torch.get_rng_state()}
        if self.best is not None:
            state |= {"best": self.best, "best_psnr": self.best_psnr}
        if self.halvings:
            state["halvings"] = self.halvings
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
        self.halvings = saved.get("halvings", 0)
        if self.watch is not None and "best_psnr" in saved:
            self.best, self.best_psnr = saved["best"], saved["best_psnr"]
        if "random" in saved:
            self.rng.bit_generator.state = json.loads(saved["random"])
        if "torch_random" in saved:
            torch.set_rng_state(saved["torch_random"])

    def _log(self, phase: str, figures: Mapping[str, Any]) -> None:
        minutes = round(sum(state.elapsed for state in self.states.values()) / 60, 1)
        if self.writes:
            log_line({"phase": phase, "minutes": minutes, "step": self.states[phase].step, **figures}, self.out)
        if self.watch is not None:
            self.watch.measured(figures, self.out.with_suffix(".jsonl"))
            if (found := figures.get("psnr", -math.inf)) > self.best_psnr:
                self.best_psnr = found
                self.best = {name: part.clone() for name, part in self.averaged[1].state_dict().items()}


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
    """Write a checkpoint to `path`; if that fails, the previous file is kept.

    Raises EDTalkError of kind "disk" if the file cannot be written.
    """
    partial = path.with_suffix(".partial")
    try:
        torch.save(dict(state), partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch's own writer raises RuntimeError for a full disk
        partial.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def log_line(line: Mapping[str, Any], path: Path) -> None:
    """Append a line to the log beside the checkpoint `path`, and print it."""
    text = json.dumps(line)
    with path.with_suffix(".jsonl").open("a") as lines:
        lines.write(text + "\n")
    print(text, flush=True)
