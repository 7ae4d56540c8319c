"""Rendered heads that are ever new, drawn while training goes on: no data set on disk."""

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

from . import dataset, live, mesh
from .data import RAREST, HeadPairs, area_mean
from .sampling import SWAY

SEED = 4_000  # of the people, plus the trainer's own: data sets and evaluation draw theirs from small seeds
FRAMES = 10  # of each person
PATIENCE = 120.0  # seconds without a new person, while some are asked for, after which something is wrong
ROOT = Path(__file__).parents[2]


class Painter:
    """One renderer process and the slots that it fills; started anew if it dies."""

    def __init__(self, size: int, frames: int, seed: int, sway: float, first: int, stride: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edtalk-heads-"))
        self.slots = live.shelf(self.folder, frames, size, "w+")
        self._options = {"frames": frames, "size": size, "seed": seed, "sway": sway, "stride": stride}
        self._next, self._stride, self._delivered = first, stride, 0
        self._start()

    def _start(self) -> None:
        options = [f"--{name}={value}" for name, value in {**self._options, "first": self._next}.items()]
        # one thread each: a frame's parts share a core better than two cores share a frame
        alone = {"LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (self.folder / "errors.txt").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", live.__name__, str(self.folder), *options],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=os.environ | alone,
            )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input, self._output = self.process.stdin, self.process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._unread, self._since, self._delivered = b"", time.monotonic(), 0

    def ready(self) -> list[tuple[int, int]]:
        """(slot, identity) of those who have become ready, without waiting. Raises SystemExit where none ever will."""
        ended = self.process.poll() is not None  # asked first, so that nothing it wrote is missed
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
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        if not self._delivered:
            said = (self.folder / "errors.txt").read_text().strip().splitlines()
            raise SystemExit(
                f"The process that renders heads {how} before it had drawn anybody"
                + (f": {said[-1]}" if said else ".")
                + " Render a data set with `python -m training heads`, or check that OpenGL works through EGL."
            )
        print(f"The process that renders heads {how}; another goes on from identity {self._next}.", flush=True)
        self._close_pipes()
        self._start()

    def free(self, slot: int) -> None:
        """The slot may be filled again. A process that has just died is noticed by `ready`."""
        with suppress(BrokenPipeError):
            self._input.write(b"%d\n" % slot)
            self._input.flush()

    @property
    def idle_for(self) -> float:
        """Seconds since it was last heard of."""
        return time.monotonic() - self._since

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._close_pipes()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _close_pipes(self) -> None:
        for pipe in (self._input, self._output):
            with suppress(BrokenPipeError):
                pipe.close()


class HeadStream(HeadPairs):
    """As `HeadPairs`, with `people` rendered people in memory, the oldest of whom give way to new ones in `renew`.

    Who was seen is noted in the file `log`, an identity of the set `seed` a line; with the same file it goes on after
    the last of them. Making one waits until the memory is full; nothing waits from then on.
    """

    def __init__(
        self,
        size: int,
        people: int = 600,
        *,
        seed: int = SEED,
        frames: int = FRAMES,
        sway: float = SWAY,
        painters: int = 1,
        log: Path | None = None,
    ) -> None:
        seen = [int(line) for line in log.read_text().split()] if log and log.exists() else []
        first, count = max(seen, default=-1) + 1, people * frames
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
        self.painters = [Painter(size, frames, seed, sway, first + k, painters) for k in range(painters)]
        self._closing = weakref.finalize(self, _close, self.painters)
        self._fill()
        self.rarity = 1.0 / self.coefficients.std(0).clamp(min=RAREST).square()

    def _fill(self) -> None:
        told = time.monotonic()
        while self.taken < self.identities:
            self.renew()
            if min(painter.idle_for for painter in self.painters) > PATIENCE:
                self.close()
                raise SystemExit(f"No head was rendered for {PATIENCE:.0f} seconds: {self.taken} of {self.identities}.")
            if time.monotonic() - told > 15.0:
                told = time.monotonic()
                print(f"{self.taken} of {self.identities} people rendered", flush=True)
            time.sleep(0.01)

    def renew(self) -> None:
        """Take in whoever has been rendered since, in the place of the oldest; does not wait."""
        for painter in self.painters:
            for slot, identity in painter.ready():
                place = self.taken % self.identities * self.frames_per_identity
                rows = slice(place, place + self.frames_per_identity)
                for name in ("frames", "points", "visible", "coefficients"):
                    getattr(self, name)[rows] = torch.from_numpy(painter.slots[name][slot])
                self.masks[rows] = torch.from_numpy(area_mean(painter.slots["masks"][slot][..., None], 32)[..., 0])
                painter.free(slot)
                self.taken += 1
                if self._log:
                    with self._log.open("a") as log:
                        log.write(f"{identity}\n")

    def close(self) -> None:
        """End the rendering; what is in memory stays."""
        self._closing()


def _close(painters: list[Painter]) -> None:
    for painter in painters:
        painter.close()


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


def training_pairs(args: argparse.Namespace, size: int) -> HeadPairs:
    """Training data of --data or --stream. The people of a stream are listed beside the checkpoint --out."""
    if not getattr(args, "stream", None):
        return HeadPairs(args.data, size)
    return HeadStream(size, args.stream, seed=SEED + args.seed, log=args.out.with_suffix(".people"))
