"""Training data that is rendered during training, instead of a data set on disk."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from . import dataset, mesh, render_process
from .data import RAREST, HeadPairs, area_mean
from .sampling import SWAY

SEED = 4_000  # added to the trainer's seed, so that the people differ from those of data sets and of the evaluation
FRAMES = 10  # per person
TIMEOUT = 120.0  # seconds without a new person after which rendering is given up
ROOT = Path(__file__).parents[2]


class RenderProcess:
    """A renderer process (`training.heads.render_process`) and the slots that it fills; restarted if it dies."""

    def __init__(
        self, size: int, frames: int, seed: int, sway: float, first: int, stride: int, assets: Path | None = None
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edtalk-heads-"))
        self.slots = render_process.slot_arrays(self.folder, frames, size, "w+")
        self._options: dict[str, int | float | Path] = {"frames": frames, "size": size, "seed": seed, "sway": sway}
        self._options["stride"] = stride
        if assets:
            self._options["assets"] = assets.resolve()
        self._next, self._stride, self._delivered = first, stride, 0
        self._start()

    def _start(self) -> None:
        options = [f"--{name}={value}" for name, value in {**self._options, "first": self._next}.items()]
        # One thread per process: several processes use the cores better than several threads per frame.
        single_thread = {"LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (self.folder / "errors.txt").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", render_process.__name__, str(self.folder), *options],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=os.environ | single_thread,
            )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input, self._output = self.process.stdin, self.process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._unread, self._since, self._delivered = b"", time.monotonic(), 0

    def ready(self) -> list[tuple[int, int]]:
        """(slot, identity) of newly rendered people; does not wait.

        Raises SystemExit if the process ended before it rendered the first person.
        """
        ended = self.process.poll() is not None  # checked first, so that no output is missed
        with suppress(BlockingIOError):
            self._unread += os.read(self._output.fileno(), 65536)
        *lines, self._unread = self._unread.split(b"\n")
        found = [(int(slot), int(identity)) for slot, identity in (line.split() for line in lines)]
        if found:
            self._next, self._delivered = found[-1][1] + self._stride, self._delivered + len(found)
            self._since = time.monotonic()
        if ended and not found:
            self._replace()
        return found

    def _replace(self) -> None:
        code = self.process.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        if not self._delivered:
            errors = (self.folder / "errors.txt").read_text().strip().splitlines()
            raise SystemExit(
                f"The process that renders heads {how} before it rendered the first person"
                + (f": {errors[-1]}" if errors else ".")
                + " Render a data set with `python -m training heads`, or check that OpenGL works through EGL."
            )
        print(f"The process that renders heads {how}; a new one continues from identity {self._next}.", flush=True)
        self._close_pipes()
        self._start()

    def free(self, slot: int) -> None:
        """Allow the process to fill the slot again. If the process has died, the next `ready` replaces it."""
        with suppress(BrokenPipeError):
            self._input.write(b"%d\n" % slot)
            self._input.flush()

    @property
    def idle_for(self) -> float:
        """Seconds since the last rendered person."""
        return time.monotonic() - self._since

    def close(self) -> None:
        """Kill the process and remove its files."""
        self.process.kill()
        self.process.wait()
        self._close_pipes()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _close_pipes(self) -> None:
        for pipe in (self._input, self._output):
            with suppress(BrokenPipeError):
                pipe.close()


class HeadStream(HeadPairs):
    """`HeadPairs` of people that are rendered during training. `renew` replaces the oldest people by new ones.

    size: pixels of the pictures. people: number of people in memory. seed, frames, sway, assets: as in
    `training.heads.dataset`. processes: number of renderer processes. log: file that lists the identities that were
    used, one per line; if it exists, rendering continues after its last identity.
    The constructor waits until `people` people are rendered; `renew` does not wait.

    Raises SystemExit if no person is rendered for TIMEOUT seconds.
    """

    def __init__(
        self,
        size: int,
        people: int = 600,
        *,
        seed: int = SEED,
        frames: int = FRAMES,
        sway: float = SWAY,
        processes: int = 1,
        log: Path | None = None,
        assets: Path | None = None,
    ) -> None:
        used = [int(line) for line in log.read_text().split()] if log and log.exists() else []
        first, count = max(used, default=-1) + 1, people * frames
        self.identities, self.frames_per_identity, self.size = people, frames, size
        self.groups = {name: tuple(span) for name, span in dataset.describe(1, 1, size, 0, 0, sway)["points"].items()}
        kinds = {name: (shape, kind) for name, (shape, kind) in dataset.arrays(people, frames, size).items()}
        made = {
            name: torch.from_numpy(np.zeros(shape, kind)) for name, (shape, kind) in kinds.items() if name != "masks"
        }
        self.frames, self.points, self.visible = made["frames"], made["points"], made["visible"]
        self.coefficients, self.masks = made["coefficients"], torch.zeros(count, 32, 32, dtype=torch.uint8)
        self.places = torch.from_numpy(mesh.places())
        self._log, self.taken = log, 0
        self.processes = [
            RenderProcess(size, frames, seed, sway, first + k, processes, assets) for k in range(processes)
        ]
        self._closing = weakref.finalize(self, _close, self.processes)
        self._fill()
        self.rarity = 1.0 / self.coefficients.std(0).clamp(min=RAREST).square()

    def _fill(self) -> None:
        reported = time.monotonic()
        while self.taken < self.identities:
            self.renew()
            if min(process.idle_for for process in self.processes) > TIMEOUT:
                self.close()
                raise SystemExit(
                    f"No head was rendered for {TIMEOUT:.0f} seconds ({self.taken} of {self.identities} done). "
                    "Render a data set with `python -m training heads` instead."
                )
            if time.monotonic() - reported > 15.0:
                reported = time.monotonic()
                print(f"{self.taken} of {self.identities} people rendered", flush=True)
            time.sleep(0.01)

    def renew(self) -> None:
        """Replace the oldest people by those rendered since the last call; does not wait."""
        for process in self.processes:
            for slot, identity in process.ready():
                place = self.taken % self.identities * self.frames_per_identity
                rows = slice(place, place + self.frames_per_identity)
                for name in ("frames", "points", "visible", "coefficients"):
                    getattr(self, name)[rows] = torch.from_numpy(process.slots[name][slot])
                self.masks[rows] = torch.from_numpy(area_mean(process.slots["masks"][slot][..., None], 32)[..., 0])
                process.free(slot)
                self.taken += 1
                if self._log:
                    with self._log.open("a") as log:
                        log.write(f"{identity}\n")

    def close(self) -> None:
        """Stop rendering; the people in memory stay."""
        self._closing()


def _close(processes: list[RenderProcess]) -> None:
    for process in processes:
        process.close()


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `training_pairs`."""
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--data", type=Path, nargs="+", help="data sets to train on")
    either.add_argument(
        "--stream",
        type=int,
        nargs="?",
        const=600,
        metavar="PEOPLE",
        help="render new people during training instead, and keep this many in memory (default 600)",
    )
    parser.add_argument("--assets", type=Path, help="with --stream: folder of MakeHuman's assets, for lifelike heads")


def training_pairs(args: argparse.Namespace, size: int) -> HeadPairs:
    """The training data that --data or --stream selects, with pictures of `size` pixels.

    The people of a stream are listed in a file beside the checkpoint --out.
    """
    if not getattr(args, "stream", None):
        return HeadPairs(args.data, size)
    return HeadStream(size, args.stream, seed=SEED + args.seed, log=args.out.with_suffix(".people"), assets=args.assets)
