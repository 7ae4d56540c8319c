"""Memory that the engine frees stays in its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import resource
import numpy as np
from inference.memory import keep_freed_memory
assert keep_freed_memory() == {keeps}
def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(4 * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
touched()
print(touched())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the settings")
def test_freed_memory_is_used_again() -> None:
    """20 arrays of 1,024 pages, which are mapped anew each time without the settings."""
    command = [sys.executable, "-c", CODE.format(keeps=True)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(found.stdout) < 1024


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from inference import memory

    monkeypatch.setattr(sys, "platform", "win32")
    assert not memory.keep_freed_memory()
