"""Checks a Python that the user chose, by importing what the engine needs. No torch, no bpy.

Run as a program it prints what it found. `Checks` runs it in threads, because it takes seconds.
"""

from __future__ import annotations

import importlib
import json
import platform
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULES = {  # of requirements-worker.txt
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "librosa": "librosa",
    "soxr": "soxr",
    "opencv-python": "cv2",
    "pillow": "PIL",
    "av": "av",
    "safetensors": "safetensors",
}
OLDEST = (3, 11)
_PATIENCE = 180.0  # seconds: the first import of torch from a slow disk


@dataclass(frozen=True)
class Finding:
    """problem: why the engine cannot run, "" if it can. versions: for the user."""

    problem: str
    versions: str = ""


def find_problem() -> dict[str, Any]:
    """What this Python lacks, and its versions."""
    found: dict[str, Any] = {"versions": {"Python": platform.python_version()}, "problem": ""}
    if sys.version_info < OLDEST:
        found["problem"] = f"it is Python {platform.python_version()}, and {'.'.join(map(str, OLDEST))} is needed"
        return found
    for package, name in MODULES.items():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            within = "" if error.name == name else f", which {package} needs"
            found["problem"] = f"it has no {package if error.name == name else error.name}{within}"
            return found
        except Exception as error:  # a package for another computer raises anything
            found["problem"] = f"its {package} does not work ({type(error).__name__}: {error})"
            return found
        found["versions"][package] = str(getattr(module, "__version__", ""))
    return found


def examine(python: Path) -> Finding:
    """Run this file with another Python. Takes seconds; never raises.

    No problem is found in a Python that needs longer than `_PATIENCE`: on a slow computer the engine may still start.
    """
    from .process import Process, environment

    command = [str(python), "-I", "-X", "utf8", __file__]
    try:
        process = Process(command, env=environment(), stderr=subprocess.DEVNULL)
        answer = process.answer(_PATIENCE)
    except OSError as error:
        return Finding(f"it cannot be started ({error.strerror})")
    if process.timed_out:
        return Finding("")
    if answer is None:
        return Finding("it stopped while it imported the engine's packages")
    try:
        found = json.loads(answer.splitlines()[-1])
        versions = found["versions"]
        shown = ", ".join(f"{name} {versions[name]}" for name in ("Python", "torch", "numpy") if name in versions)
        return Finding(found["problem"], shown)
    except (ValueError, LookupError, TypeError):
        return Finding("it is not a Python interpreter")


class Checks:
    """The findings on the Pythons that were asked for."""

    def __init__(self) -> None:
        self._found: dict[Path, Future[Finding]] = {}

    def of(self, python: Path) -> Finding | None:
        """The finding, None while the Python is being checked. The first call starts that."""
        if python not in self._found:
            result = self._found[python] = Future[Finding]()

            def run() -> None:
                result.set_result(examine(python))

            threading.Thread(target=run, name="edtalk check", daemon=True).start()
        found = self._found[python]
        return found.result() if found.done() else None

    def forget(self) -> None:
        """Check again when next asked."""
        self._found = {}


if __name__ == "__main__":
    print(json.dumps(find_problem()))
