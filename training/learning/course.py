"""The course of a training that is bounded by time and may be interrupted: its steps, its checkpoint, its log."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

LATE = 0.02  # share of a value that is noted in the mean of those noted before
SAVE_EVERY, EVALUATE_EVERY = 120.0, 300.0  # seconds


def add_course_options(
    parser: argparse.ArgumentParser, *, minutes: float, rate: float, threads: int = 1, minutes_of: str = "training"
) -> None:
    """What every training is told; the numbers are what it is told by default."""
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write and to go on from")
    parser.add_argument("--minutes", type=float, default=minutes, help=f"{minutes_of} time in all, over every run")
    parser.add_argument("--rate", type=float, default=rate, help="the highest learning rate")
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--seed", type=int, default=0)


def seeded(args: argparse.Namespace) -> np.random.Generator:
    """What a training draws from; sets its threads, and PyTorch's own seed."""
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    torch.manual_seed(args.seed)
    return np.random.default_rng(args.seed)


class Course:
    """Where a training stands. Goes on from the checkpoint `out` where there is one.

    parts: networks and optimisers, by their names in the checkpoint. rng: what the training draws from. more: what else
    is to be in the checkpoint, asked for when it is written. step, elapsed: steps and seconds of all runs; running: the
    mean of what was noted lately.
    """

    def __init__(
        self,
        out: Path,
        parts: Mapping[str, nn.Module | torch.optim.Optimizer],
        rng: np.random.Generator,
        more: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.out, self.parts, self.rng, self.more = out, parts, rng, more
        self.step, self.elapsed, self.running = 0, 0.0, {}
        if out.exists():
            saved = torch.load(out, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(saved[name])
            self.step, self.elapsed, self.running = (saved[name] for name in ("step", "elapsed", "running"))
            rng.bit_generator.state = json.loads(saved["random"])

    def steps(
        self,
        minutes: float,
        evaluate: Callable[[], Mapping[str, Any]],
        *,
        save_every: float = SAVE_EVERY,
        evaluate_every: float = EVALUATE_EVERY,
    ) -> Iterator[float]:
        """Once a step, which share of the time has gone, until all of it has. What `evaluate` finds goes to the log.

        A checkpoint is written now and then, and after every evaluation, the last of which is at the end.
        """
        saved = evaluated = self.elapsed
        while self.elapsed < minutes * 60.0:
            began = time.monotonic()
            yield self.elapsed / (minutes * 60.0)
            self.step += 1
            self.elapsed += time.monotonic() - began
            if self.step % 50 == 0:
                noted = " ".join(f"{name} {value:.4f}" for name, value in self.running.items())
                print(f"{self.elapsed / 60:6.1f} min, step {self.step}: {noted}", flush=True)
            due = self.elapsed - evaluated > evaluate_every
            if due:
                self._log(evaluate())
                evaluated = self.elapsed
            if due or self.elapsed - saved > save_every:
                self.save()
                saved = self.elapsed
        self._log(evaluate())
        self.save()

    def note(self, values: Mapping[str, Tensor]) -> None:
        """Take in what a step has found, numbers each."""
        for name, value in values.items():
            before = self.running.get(name, value.item())
            self.running[name] = before + max(LATE, 1 / (self.step + 1)) * (value.item() - before)

    def save(self) -> None:
        """Write the checkpoint."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"step": self.step, "elapsed": self.elapsed, "running": self.running}
        save_checkpoint(state | {"random": json.dumps(self.rng.bit_generator.state)} | dict(self.more()), self.out)

    def _log(self, found: Mapping[str, Any]) -> None:
        log_line({"minutes": round(self.elapsed / 60, 1), "step": self.step, **found}, self.out)


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint; one that is interrupted leaves the one before as it was."""
    partial = path.with_suffix(".partial")
    torch.save(dict(state), partial)
    partial.replace(path)


def log_line(line: Mapping[str, Any], path: Path) -> None:
    """Add a line to the log beside the checkpoint `path`, and show it."""
    text = json.dumps(line)
    with path.with_suffix(".jsonl").open("a") as lines:
        lines.write(text + "\n")
    print(text, flush=True)
