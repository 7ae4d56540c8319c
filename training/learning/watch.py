"""The status file of a training that another program watches, and its request to stop.

    WORK/status.json    where the training is; written whole and renamed, see docs/training-from-footage.md
    WORK/STOP           a request to stop: any file of that name, removed once the training has stopped

The trainings of `python -m training footage` and `person` run inside a `Watch`:

    with Watch(work, "footage", {"prepare": None, "self": 60.0}) as watch:
        watch.at("self", 0.25, step=10)     # raises nothing; writes the file from time to time
        if watch.stop_requested: ...
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from inference.contract.errors import EDTalkError
from inference.contract.files import atomic_write
from inference.contract.training import STATUS, STOP

FORMAT = 1
EVERY = 2.0  # seconds between two versions of the file while a phase runs
HEARTBEAT = 10.0  # seconds after which it is written again although nothing changed
LABELS = {
    "prepare": "Preparing the footage",
    "mouth": "Learning the mouth's code",
    "motion": "Measuring motion between frames",
    "common-motion": "Learning motion that all faces share",
    "own-motion": "Learning each person's motion",
    "self": "Learning to draw",
    "mouth-pose": "Separating mouth and pose",
    "expression-motion": "Learning to move brows and lids",
    "expression": "Learning expression",
    "person": "Tuning to the person",
    "finish": "Writing the bank",
}


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A training was asked to stop and has saved its checkpoint.

    best: the network with the best weights so far, None if there is none. phase: where it stopped. codes: what the
    network was driven by, set where it is known.
    """

    def __init__(self, phase: str, best: Any = None) -> None:
        super().__init__(f"stopped in the phase {phase}")
        self.phase, self.best = phase, best
        self.codes: Any = None


class Watch:
    """Writes the status file of a training and notices requests to stop.

    folder: of the status file. kind: "footage" or "person". planned: minutes of each phase in order; None for a phase
    whose duration depends on the machine. out: the bank that will be written. openjd: whether to print progress and
    failure for Open Job Description, too.

    As a context manager it turns SIGTERM and the first SIGINT into a request to stop, and at the end it writes the
    final state: `done`, `stopped` after `stopped`, or `failed` with the error's sentence.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        planned: Mapping[str, float | None],
        out: Path | None = None,
        *,
        openjd: bool = False,
    ) -> None:
        self.folder, self.planned, self.openjd = folder, dict(planned), openjd
        self._asked = False
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._written = self._phase_began = -math.inf
        self._handlers: dict[int, Any] = {}
        self._bank = out
        self.state: dict[str, Any] = {
            "format": FORMAT, "kind": kind, "state": "running", "phase": next(iter(planned)), "phases": list(planned),
            "step": 0, "share": 0.0, "minutes_left": None, "psnr": None, "sentence": "Starting.", "sheet": "",
            "bank": "", "message": "", "hint": "", "log": "", "pid": os.getpid(), "started": time.time(),
            "updated": 0.0,
        }  # fmt: skip

    @property
    def evaluate_every(self) -> float:
        """Seconds between two evaluations: a twentieth of the training, 20 s to 5 min."""
        known = sum(minutes for minutes in self.planned.values() if minutes is not None)
        return min(max(60.0 * known / 20.0, 20.0), 300.0)

    @property
    def stop_requested(self) -> bool:
        """Whether a signal came or the file STOP exists."""
        return self._asked or (self.folder / STOP).exists()

    def at(self, phase: str, share: float, step: int = 0, doing: str = "") -> None:
        """Say how far a phase is. share: of the phase, 0 to 1. doing: what is at hand, such as a clip's name."""
        with self._lock:
            now = time.monotonic()
            changed = phase != self.state["phase"]
            if changed or self._phase_began == -math.inf:
                self._phase_began = now
            share = min(max(share, 0.0), 1.0)
            label = LABELS.get(phase, phase) + (f": {doing}" if doing else "")
            number = list(self.planned).index(phase) + 1
            self.state |= {
                "phase": phase, "step": step, "share": round(self._share(phase, share), 4),
                "minutes_left": self._minutes_left(phase, share, now - self._phase_began),
            }  # fmt: skip
            self.state["sentence"] = f"{label} (step {number} of {len(self.planned)})."
            if changed or now - self._written > EVERY:
                self._write()

    def go_on(self, phase: str, share: float, step: int = 0, doing: str = "") -> None:
        """As `at`, for phases without a checkpoint. Raises Stopped if that was requested."""
        if self.stop_requested:
            raise Stopped(phase)
        self.at(phase, share, step, doing)

    def measured(self, figures: Mapping[str, Any], log: Path | None = None) -> None:
        """Take over the held-out figures of an evaluation: `psnr` in dB. log: the file that has all figures."""
        with self._lock:
            if "psnr" in figures:
                self.state["psnr"] = round(float(figures["psnr"]), 2)
            if log is not None:
                self.state["log"] = str(log.resolve())
            self._write()

    def shown(self, sheet: Path) -> None:
        """Say where the newest contact sheet is."""
        with self._lock:
            self.state["sheet"] = str(sheet.resolve())
            self._write()

    def wrote(self, bank: Path) -> None:
        """Say that a bank can be opened."""
        with self._lock:
            self.state["bank"] = str(bank.resolve())
            self._write()

    def end(self, state: str, message: str = "", hint: str = "") -> None:
        """Write the final state: "done", "stopped" or "failed". message: one sentence for the artist."""
        with self._lock:
            self.state |= {"state": state, "message": message, "hint": hint}
            if state == "done":
                self.state |= {"share": 1.0, "minutes_left": 0.0}
            self.state["sentence"] = message or self.state["sentence"]
            self._write()
        if state == "failed" and self.openjd:
            print(f"openjd_fail: {' '.join(f'{message} {hint}'.split())}", flush=True)
        if state != "failed":
            with suppress(OSError):
                (self.folder / STOP).unlink()

    def __enter__(self) -> Watch:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._bank is not None and self._bank.exists():
            self.state["bank"] = str(self._bank.resolve())  # of an earlier run
        before = read_status(self.folder)
        self.state |= {name: before[name] for name in ("psnr", "sheet", "log") if name in before}
        with suppress(ValueError):  # signals belong to the main thread
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._on_signal)
        self._write()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.state["state"] != "running":
            return
        if error is None:
            self.end("done", "The training is done.")
        elif isinstance(error, KeyboardInterrupt):
            self.end("stopped", "The training was interrupted. The same command goes on.")
        elif isinstance(error, EDTalkError):
            self.end("failed", error.message, error.hint)
        elif isinstance(error, OSError) and error.filename:
            self.end("failed", f"{error.filename} could not be used: {error.strerror}.", "Free some space and go on.")
        else:
            self.end("failed", str(error) or type(error).__name__)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def _share(self, phase: str, share: float) -> float:
        """Of the whole training; phases of unknown duration count as a twentieth of the known ones each."""
        known = sum(minutes for minutes in self.planned.values() if minutes is not None)
        if not math.isfinite(known) or known <= 0:
            weights = dict.fromkeys(self.planned, 1.0)
        else:
            weights = {name: known / 20.0 if part is None else part for name, part in self.planned.items()}
        before = sum(weight for name, weight in weights.items() if self._index(name) < self._index(phase))
        return (before + share * weights[phase]) / sum(weights.values())

    def _minutes_left(self, phase: str, share: float, seconds: float) -> float | None:
        """Planned minutes that are left; a phase of unknown duration is measured while it runs."""
        later = [part for name, part in self.planned.items() if self._index(name) > self._index(phase)]
        planned = self.planned[phase]
        if planned is not None:
            own = (1.0 - share) * planned
        elif share >= 1.0:
            own = 0.0
        elif share > 0.02:
            own = seconds / 60.0 * (1.0 - share) / share
        else:
            return None
        left = own + sum(part for part in later if part is not None)
        return round(left, 2) if math.isfinite(left) else None

    def _index(self, phase: str) -> int:
        return list(self.planned).index(phase)

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            with self._lock:
                if self.state["state"] == "running" and time.monotonic() - self._written > HEARTBEAT / 2:
                    self._write()

    def _write(self) -> None:
        """Write the file. A full disk does not end the training here: its checkpoints say so."""
        self.state["updated"] = time.time()
        with suppress(EDTalkError, OSError), atomic_write(self.folder / STATUS, durable=False) as partial:
            partial.write_text(json.dumps(self.state, indent=1))
        self._written = time.monotonic()
        if self.openjd:
            print(f"openjd_progress: {100 * self.state['share']:.1f}", flush=True)
            print(f"openjd_status: {self.state['sentence']}", flush=True)


def add_progress_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes a training report to a render farm."""
    parser.add_argument(
        "--progress", default="none", choices=("none", "openjd"), help="also print progress for Open Job Description"
    )


def read_status(folder: Path) -> dict[str, Any]:
    """The status of the training in a folder, {} if there is none."""
    try:
        return dict(json.loads((folder / STATUS).read_text()))
    except (OSError, ValueError):
        return {}
