"""A small shot, the commands that work on it, and checks of what a fault may leave behind.

EDTALK_FAULT_RUNS sets the number of kills of each kind, 2 by default:

    EDTALK_FAULT_RUNS=20 python -m pytest tests/faults -s
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.contract.shot import Shot
from inference.media.picture import _STALE_AFTER, clear_leftovers
from tests.cli_material import ROOT, run
from tests.farm.conftest import inputs, make_shot, pictures

__all__ = ["inputs", "make_shot"]  # pytest finds fixtures by name

RUNS = int(os.environ.get("EDTALK_FAULT_RUNS", "2"))
FRAMES = 60
PATIENCE = 300.0  # seconds; only a failing test waits so long


@pytest.fixture
def shot(make_shot: Callable[..., Path]) -> Path:
    return make_shot(FRAMES)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """The folder that the shot is rendered into."""
    return tmp_path / "frames"


@pytest.fixture
def undisturbed(shot: Path, tmp_path: Path) -> dict[str, bytes]:
    """The shot's frames, rendered in one run into a separate folder."""
    assert render(shot, "--frames-folder", tmp_path / "undisturbed") == 0
    return pictures(tmp_path / "undisturbed")


def render(shot: Path, *words: object) -> int:
    return run("shot", "render", shot, "--device", "cpu", "--threads", 1, *words)


def start(*words: object, **options: object) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own."""
    command = [sys.executable, "-m", "inference", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True, **options)


def start_render(shot: Path, **options: object) -> subprocess.Popen[bytes]:
    return start("shot", "render", shot, "--device", "cpu", "--threads", 1, **options)


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"still waiting until {what}"
        time.sleep(0.001)


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill a process. Returns whether it was still running."""
    running = process.poll() is None
    if running:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return running


def group_is_gone(group: int, seconds: float = PATIENCE) -> bool:
    """Whether no process of a process group is left."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def finished(folder: Path) -> dict[str, bytes]:
    return pictures(folder) if folder.is_dir() else {}


def check_frames(folder: Path, before: dict[str, bytes], undisturbed: dict[str, bytes]) -> None:
    """No finished frame is lost, and every file with a frame's name is a complete frame."""
    now = finished(folder)
    assert before.items() <= now.items(), "a finished frame was lost"
    assert now.items() <= undisturbed.items(), "a frame is incomplete or different"


def check_can_go_on(shot: Path, folder: Path, undisturbed: dict[str, bytes]) -> None:
    """The next render completes the shot; afterwards no partial file of a killed process remains."""
    for partial in folder.glob(".*") if folder.is_dir() else ():
        old = partial.stat().st_mtime - 2 * _STALE_AFTER
        os.utime(partial, (old, old))
    assert render(shot) == 0
    clear_leftovers(folder)
    assert pictures(folder) == undisturbed
    assert {path.name for path in folder.iterdir()} == set(undisturbed)
    assert Shot.read(shot).missing() == []


def moments(seed: int) -> list[float]:
    """When to strike in each run, as fractions of the work."""
    source = random.Random(seed)
    return [source.random() for _ in range(RUNS)]


def tell(text: str) -> None:
    """Print a line of the table that a long run by hand gives."""
    print(text, flush=True)
