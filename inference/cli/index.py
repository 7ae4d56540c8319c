"""An index of clips: what was found in their frames is stored, so that all previews and renders read a clip once.

A preview of one frame needs the face, and for reference frames the mouth, in every frame of the clip. The tables lie
where `inference.tables` says, and belong to the content of the clip, the bank and the options. They contain numbers
only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .. import tables
from ..contract.plate import Track
from ..contract.references import Readings
from ..media.clip import Clip


def track(path: Path, options: Sequence[object], make: Callable[[], Track]) -> Track:
    """The track of a clip: a stored one, or that which `make` returns.

    options: everything else that the track depends on, as values that JSON can represent.
    """

    def made() -> np.ndarray:
        found = make()
        return np.column_stack([found.times, found.crops])

    found = tables.table(tables.file_of("track", *options, media=path), made)
    return Track(found[:, 0], found[:, 1:])


def readings(path: Path, track: Track, bank_sha256: str, make: Callable[[], Readings]) -> Readings:
    """The readings of a track's frames with a bank: stored ones, or those that `make` returns."""

    def made() -> np.ndarray:
        found = make()
        return np.column_stack([found.rows, found.looks])

    digits = hashlib.sha256(track.to_bytes()).hexdigest()
    found = tables.table(tables.file_of("readings", digits, bank_sha256, media=path), made)
    return Readings(found[:, :-2], found[:, -2:])


def frame_count(clip: Clip, most: int | None = None) -> int:
    """As `Clip.count`, which decodes a movie, but counted once."""
    if clip.is_still:
        return clip.count(most)
    part = repr(clip.fps), repr(clip.start), repr(clip.end), most
    file = tables.file_of("count", *part, media=clip.path)
    return int(tables.table(file, lambda: np.array([clip.count(most)]))[0])
