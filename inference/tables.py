"""Tables of numbers that take long to compute, such as the readings of a clip, stored in the user's cache folder.

The environment variable EDTALK_CACHE names another folder; if it is set but empty, nothing is stored. The name of a
table's file is a hash of its key, of the clip that it was computed from and of the code of the engine, so a table that
was computed otherwise is not found. Tables may be deleted at any time. The tables that were not used for the longest
time are removed when all of them together become too large.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from .contract.errors import EDTalkError
from .contract.files import atomic_write, read_regular
from .contract.parsing import MALFORMED, parse_npy
from .contract.plate import media_sha256

FOLDER = "EDTALK_CACHE"  # environment variable that names the folder
_LARGEST_TABLE, _MOST = 2**28, 2**29  # bytes of one table (256 MiB) and of all; those of an hour of film have 80 MB
# An unfinished table is stored again after so many new rows, or after this part of its rows (a 20th) if that is more.
# The larger a table, the rarer it is stored, because each time it is written as a whole.
_EVERY, _SHARE = 250, 20


def file_of(*key: object, media: Path | None = None) -> Path | None:
    """Where a table is stored, whether or not it exists; None if the user has switched storing off.

    key: all that the table depends on, as values that JSON can represent. media: a clip whose content belongs to the
    key. Raises EDTalkError(kind="media") if the clip cannot be read.
    """
    folder = _folder()
    if folder is None:
        return None
    content = [] if media is None else [media_sha256(media)]
    digits = hashlib.sha256(json.dumps([_engine(), *content, *key]).encode()).hexdigest()[:32]
    return folder / f"{digits}.npy"


def table(file: Path | None, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The table stored in a file, or, if it is missing or damaged, the one that `make` returns, which is then stored.

    file: see `file_of`. If it cannot be written, nothing is stored and no error is raised.
    """
    found = _load(file)
    if found is None:
        found = make()
        _store(file, found)
    return found


def rows(file: Path | None, width: int, more: Callable[[np.ndarray], Iterable[np.ndarray]]) -> np.ndarray:
    """(T, width) float64: the rows that a file contains, followed by those that `more` yields.

    file: see `file_of`. more: takes the stored rows (k, width), and yields the following ones as blocks (n, width).

    The rows are stored at intervals, at the end, and if `more` raises an exception, which is passed on. A computation
    that was cancelled or killed therefore continues with the rows that were stored.
    """
    found = _load(file)
    if found is None or found.ndim != 2 or found.shape[1] != width or found.dtype != np.float64:
        found = np.zeros((0, width))
    blocks, count, stored = [found], len(found), len(found)
    try:
        for block in more(found):
            blocks.append(np.asarray(block, np.float64))
            count += len(block)
            if count - stored >= max(_EVERY, stored // _SHARE):
                _store(file, np.concatenate(blocks))
                stored = count
    finally:
        if count > stored:
            _store(file, np.concatenate(blocks))
    return np.concatenate(blocks)


def _load(file: Path | None) -> np.ndarray | None:
    """The stored table; None if it is missing or damaged."""
    if file is not None:
        with suppress(OSError, EDTalkError, *MALFORMED):
            found = parse_npy(read_regular(file, _LARGEST_TABLE))
            os.utime(file)  # the tables that were used last are kept
            return found
    return None


def _store(file: Path | None, found: np.ndarray) -> None:
    """Write a table, unless it is too large; what cannot be written is left out silently."""
    if file is None or found.nbytes >= _LARGEST_TABLE:
        return
    with suppress(OSError, EDTalkError):
        file.parent.mkdir(parents=True, exist_ok=True)
        content = BytesIO()
        np.save(content, found, allow_pickle=False)
        with atomic_write(file, durable=False) as partial:
            partial.write_bytes(content.getvalue())
        _tidy(file.parent)


def _tidy(folder: Path) -> None:
    """Remove the tables that were not used for the longest time, until the rest has at most `_MOST` bytes."""
    status = [(file, file.stat()) for file in folder.glob("*.npy")]
    total = 0
    for file, found in sorted(status, key=lambda one: -one[1].st_mtime_ns):
        total += found.st_size
        if total > _MOST:
            file.unlink()


def _folder() -> Path | None:
    """The folder of all tables; None if nothing is to be stored."""
    if (chosen := os.environ.get(FOLDER)) is not None:
        return Path(chosen) if chosen else None
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        return None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local")
    elif sys.platform == "darwin":
        base = home / "Library/Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "edtalk" / "clips"


@lru_cache(maxsize=1)
def _engine() -> str:
    """A hash of the engine's code and of the networks in `face/`, because other code may compute other tables."""
    found, root = hashlib.sha256(), Path(__file__).parent
    for file in sorted([*root.rglob("*.py"), *(root / "face").glob("*.safetensors")]):
        found.update(file.read_bytes())
    return found.hexdigest()
