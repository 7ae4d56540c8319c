"""An index of clips: what was found in their frames is stored, so that all previews and renders read a clip once.

A preview of one frame needs the face, and for reference frames the mouth, in every frame of the clip. The tables lie in
the user's folder for such files, or in the one that the environment variable EDTALK_CACHE names; if that is empty,
nothing is stored. They belong to the content of the clip, the bank, the options and the code of the engine. They
contain numbers only, and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from ..contract.errors import EDTalkError
from ..contract.files import atomic_write, read_regular
from ..contract.parsing import MALFORMED, parse_npy
from ..contract.plate import Track, media_sha256
from ..contract.references import Readings
from ..media.clip import Clip

FOLDER = "EDTALK_CACHE"  # environment variable
_LARGEST, _MOST = 2**28, 2**29  # bytes of a table, and of all; the tables of an hour have 20 MB


def track(path: Path, options: Sequence[object], make: Callable[[], Track]) -> Track:
    """The track of a clip: a stored one, or that which `make` returns.

    options: everything else that the track depends on, as values that JSON can represent.
    """

    def made() -> np.ndarray:
        found = make()
        return np.column_stack([found.times, found.crops])

    found = _table(["track", media_sha256(path), *options], made)
    return Track(found[:, 0], found[:, 1:])


def readings(path: Path, track: Track, bank_sha256: str, make: Callable[[], Readings]) -> Readings:
    """The readings of a track's frames with a bank: stored ones, or those that `make` returns."""

    def made() -> np.ndarray:
        found = make()
        return np.column_stack([found.rows, found.looks])

    digits = hashlib.sha256(track.to_bytes()).hexdigest()
    found = _table(["readings", media_sha256(path), digits, bank_sha256], made)
    return Readings(found[:, :-2], found[:, -2:])


def frame_count(clip: Clip, most: int | None = None) -> int:
    """As `Clip.count`, which decodes a movie, but counted once."""
    if clip.is_still:
        return clip.count(most)
    key = ["count", media_sha256(clip.path), repr(clip.fps), repr(clip.start), repr(clip.end), most]
    return int(_table(key, lambda: np.array([clip.count(most)]))[0])


def _table(key: Sequence[object], make: Callable[[], np.ndarray]) -> np.ndarray:
    """The stored table of a key, or that which `make` returns. It is not stored where the folder cannot be written."""
    folder = _folder()
    if folder is None:
        return make()
    digits = hashlib.sha256(json.dumps([_engine(), *key]).encode()).hexdigest()[:32]
    file = folder / f"{digits}.npy"
    with suppress(OSError, EDTalkError, *MALFORMED):  # missing or damaged
        table = parse_npy(read_regular(file, _LARGEST))
        os.utime(file)  # the tables that were used last are kept
        return table
    table = make()
    with suppress(OSError, EDTalkError):
        folder.mkdir(parents=True, exist_ok=True)
        stored = BytesIO()
        np.save(stored, table, allow_pickle=False)
        with atomic_write(file, durable=False) as partial:
            partial.write_bytes(stored.getvalue())
        _tidy(folder)
    return table


def _tidy(folder: Path) -> None:
    """Remove the tables that were not used for the longest time, beyond `_MOST` bytes in all."""
    status = [(file, file.stat()) for file in folder.glob("*.npy")]
    total = 0
    for file, found in sorted(status, key=lambda one: -one[1].st_mtime_ns):
        total += found.st_size
        if total > _MOST:
            file.unlink()


def _folder() -> Path | None:
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
    """A hash of the engine's code and of the networks beside it, because other code may find something else."""
    found, root = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted([*root.rglob("*.py"), *(root / "face").glob("*.safetensors")]):
        found.update(file.read_bytes())
    return found.hexdigest()
