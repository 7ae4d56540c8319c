"""A process that renders new people into slots on disk, for `training.heads.stream`.

For every rendered person, the process writes the numbers of the slot and of the person ("SLOT IDENTITY") to its
standard output. It reads the numbers of slots that may be filled again from its standard input. It waits while no slot
is free, and ends when its input ends.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from training.heads.dataset import arrays, render_person
from training.heads.lifelike_render import renderer_of

SLOTS = 8


def slot_arrays(folder: Path, frames: int, size: int, mode: str) -> dict[str, np.ndarray]:
    """Memory maps of the slots by name, (SLOTS, frames, ...) each. mode: "w+" creates them, "r+" opens them."""
    return {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode, dtype=kind, shape=(SLOTS, *shape))
        for name, (shape, kind) in arrays(1, frames, size).items()
    }


def render_people(
    folder: Path, frames: int, size: int, seed: int, sway: float, first: int, stride: int, assets: Path | None = None
) -> None:
    """Render identities first, first + stride, ... until the input ends."""
    files, free, number = slot_arrays(folder, frames, size, "r+"), list(range(SLOTS)), first
    drawer = renderer_of(size, assets)
    while True:
        person = render_person(drawer, number, frames, seed, sway)
        if not free:
            line = sys.stdin.readline()
            if not line:
                return
            free.append(int(line))
        slot = free.pop()
        for name, values in person.items():
            files[name][slot] = values
        print(slot, number, flush=True)
        number += stride


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the slots' files")
    for name in ("frames", "size", "seed", "first", "stride"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--sway", type=float, required=True)
    parser.add_argument("--assets", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    os.nice(5)  # training has priority
    with suppress(BrokenPipeError):
        render_people(args.folder, args.frames, args.size, args.seed, args.sway, args.first, args.stride, args.assets)
    shutil.rmtree(args.folder, ignore_errors=True)  # the reader has ended
    os._exit(0)  # skips flushing to a closed pipe


if __name__ == "__main__":
    main()
