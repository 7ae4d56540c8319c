"""Processor time and memory of the engine: renders and encodings of growing shots, each a process of its own.

`shot render` runs with one thread, so that its processor time is that of one core.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from inference.contract.bank import STARTER, read_bank
from inference.contract.coefficients import Coefficients
from inference.contract.demo import PORTRAIT
from inference.contract.shot import Shot

ROOT = Path(__file__).parents[2]
FRAMES = {128: (25, 100, 400), 512: (25, 100, 400), 1024: (25, 100)}  # by size in pixels
HOUR = 90_000  # frames of an hour at 25 fps


def run() -> dict[str, Any]:
    """Measure. Returns figures by name, all as JSON values."""
    figures: dict[str, Any] = {"render": {}, "encode": {}}
    with tempfile.TemporaryDirectory(prefix="edtalk_scale_") as folder:
        for size, counts in FRAMES.items():
            figures["render"][str(size)] = {}
            for count in counts:
                shot = _write(Path(folder) / f"{size}_{count}", size, count)
                figures["render"][str(size)][str(count)] = _process("render", shot, "--threads", "1")
                if size == 512:
                    clip = Path(folder) / f"{count}.mp4"
                    figures["encode"][str(count)] = _process("encode", shot, "--out", clip)
        shot = _write(Path(folder) / "hour", 128, HOUR)
        figures["25_frames_of_an_hour"] = _process("render", shot, "--threads", "1", "--frames", "1-25")
    for size, found in figures["render"].items():
        rendered = {int(count): one["s"] for count, one in found.items()}
        figures[f"frame_{size}_s"], figures[f"start_{size}_s"] = line(rendered)
    figures["encode_frame_s"], figures["encode_start_s"] = line(
        {int(n): one["s"] for n, one in figures["encode"].items()}
    )
    return figures


def line(seconds: dict[int, float]) -> tuple[float, float]:
    """Least squares: seconds of a frame and of the start, from the seconds of runs by their number of frames."""
    slope, start = np.polyfit(list(seconds), list(seconds.values()), 1)
    return float(slope), float(start)


def _write(folder: Path, size: int, frames: int) -> Path:
    """A shot of the demo's portrait, in which all coefficients move in every frame."""
    bank, random = read_bank(STARTER), np.random.default_rng(0)
    rest = np.array([one.rest for one in bank.coefficients])
    rows = rest + 0.3 * random.uniform(-1, 1, (frames, len(rest)))
    table = Coefficients(rows.astype(np.float32), bank.names, 25.0)
    Shot(STARTER, bank.sha256, PORTRAIT, "auto", table, folder / "frames", size=size).write(folder)
    return folder


def _process(action: str, *words: object) -> dict[str, float]:
    """Processor time and peak memory of a `shot` command."""
    command = [sys.executable, "-m", "inference", "shot", action, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {said.decode()[-500:]}")
    return {"s": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 2**10}
