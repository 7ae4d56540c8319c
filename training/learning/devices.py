"""One or more devices for a stage whose whole loss is one forward pass.

With one device nothing is needed. For several, Lightning Fabric (`wheels/requirements-training.txt`) starts the
processes, wraps the module and averages the gradients.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inference.contract.errors import EDTalkError

from .optimiser import minimise

SPARE = 0.8  # share of the available memory that a step may take


def available_memory() -> float:
    """Bytes of main memory that a program can still use; infinite where the system does not say so."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)


class Devices:
    """The devices of a training.

    count: number of devices, processes with `accelerator="cpu"`. accumulate: steps whose gradients are averaged before
    the weights change. Raises SystemExit if several devices are asked for and Lightning Fabric is missing.
    """

    def __init__(self, count: int = 1, accelerator: str = "auto", accumulate: int = 1) -> None:
        self.fabric: Any = None
        self.count, self.accumulate, self._pending = count, accumulate, 0
        if count > 1:
            try:
                fabric = importlib.import_module("lightning_fabric")
            except ImportError as error:
                raise SystemExit(
                    f"{count} devices need Lightning Fabric, which is not installed. "
                    "Run `pip install -r wheels/requirements-training.txt`, or use --devices 1."
                ) from error
            self.fabric = fabric.Fabric(accelerator=accelerator, devices=count, strategy="ddp")
            self.fabric.launch()

    @property
    def rank(self) -> int:
        """Number of this process, 0 for the one that writes files."""
        return int(self.fabric.global_rank) if self.fabric else 0

    def agreed(self, values: list[float]) -> list[float]:
        """The largest of each number over all devices, so that all of them end a loop at the same step."""
        if self.fabric is None:
            return values
        found = self.fabric.all_reduce(torch.tensor(values, dtype=torch.float64), reduce_op="max")
        return [float(value) for value in found]

    def set_up(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The module and optimiser to train with. Only the module's forward may be called."""
        return self.fabric.setup(module, optimiser) if self.fabric else (module, optimiser)

    def generator(self, seed: int, step: int) -> np.random.Generator:
        """Random generator of this device's share of a step; the same for every number of devices before it."""
        return np.random.default_rng([seed, step, self.rank])

    def moved(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The batch on this process's device."""
        return self.fabric.to_device(dict(batch)) if self.fabric else batch

    def fitted(self, count: int, each: float, what: str, available: float | None = None) -> int:
        """At most `count`, halved until that many of `each` bytes fit into main memory, with longer accumulation.

        available: bytes (default: what the system says). One is always returned.
        """
        room = SPARE * (available_memory() if available is None else available)
        fits = count
        while fits > 1 and fits * each > room:
            fits //= 2
            self.accumulate *= 2
        if fits < count:
            print(f"{count} {what} a step need {count * each / 1e9:.1f} GB: going on with {fits}.", flush=True)
        return fits

    def halved(self, count: int, error: RuntimeError, what: str) -> int:
        """Half of the `count` pictures of a step that did not fit into memory; gradients are accumulated twice as long.

        what: name of these pictures' option. Raises `error` if it has another cause, EDTalkError if one did not fit.
        """
        if not isinstance(error, torch.OutOfMemoryError) and not re.search("(enough|allocate) memory", str(error)):
            raise error
        if count == 1 or self.fabric:  # the other processes wait for this one
            raise EDTalkError(
                f"There is too little memory for {count} {what} a step on each device.",
                "Choose a smaller size, or fewer with the option of that name.", "memory",
            ) from error  # fmt: skip
        self.accumulate, self._pending = 2 * self.accumulate, 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"Out of memory with {count} {what} a step: going on with {count // 2}, twice accumulated.", flush=True)
        return count // 2

    def minimise(self, loss: Tensor, optimiser: torch.optim.Optimizer, model: nn.Module) -> None:
        """One optimisation step, or a part of one if gradients are accumulated."""
        if self.fabric is None and self.accumulate == 1:
            minimise(loss, optimiser, model.parameters())
            return
        if self._pending == 0:
            optimiser.zero_grad()
        scaled = loss / self.accumulate
        if self.fabric:
            self.fabric.backward(scaled)
        else:
            scaled.backward()
        self._pending = (self._pending + 1) % self.accumulate
        if self._pending == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
