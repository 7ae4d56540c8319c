"""Loads PyTorch's libraries in a thread while the worker imports other modules.

An import statement blocks all threads of Python while it loads a library, `ctypes` does not.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path


def load_torch_libraries() -> threading.Thread | None:
    """Begin to load them; returns the thread. Importing torch meanwhile waits for it.

    None if that is not possible: Windows searches the libraries in folders that PyTorch itself sets, and on macOS it
    was not tested. An error is ignored, because the import of torch reports it.
    """
    spec = find_spec("torch") if sys.platform == "linux" else None  # finds it without importing it
    if spec is None or spec.origin is None:
        return None
    thread = threading.Thread(target=_load, args=(Path(spec.origin).parent / "lib",), name="preload", daemon=True)
    thread.start()
    return thread


def _load(folder: Path) -> None:
    with contextlib.suppress(OSError):
        # First and globally, as PyTorch does. The second needs all others.
        ctypes.CDLL(os.fspath(folder / "libtorch_global_deps.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(os.fspath(folder / "libtorch_python.so"))
