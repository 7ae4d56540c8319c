"""The speech of a sound file of any length: long files are decoded again where they are needed, and not kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..contract.downmix import Downmix
from ..contract.requests import SHORTEST_SOUND
from .sound import RATE, SoundFile, is_finite, length_of, read_sound, resampled

_KEPT = 10 * 60 * RATE  # samples: shorter sounds stay in memory, 38 MB at most
_BEHIND = 8 * RATE  # samples before the last ones that stay, because parts overlap


class Speech:
    """The sound of a file as the array (n,) of `sound.load_speech`: mono, float32, 16 kHz, of which parts are read.

    `speech[first:last]` is an array. Parts are read fast in ascending order. seconds: the length. digest: SHA-256 of
    all samples.
    """

    seconds: float
    digest: bytes
    _length: int
    _blocks: Iterator[np.ndarray]  # those after `_held`
    _held: np.ndarray  # samples from number `_from` on
    _from: int

    def __init__(self, path: str | os.PathLike[str], stream: int | None = None, shortest: float = SHORTEST_SOUND):
        """stream, shortest and errors: see `load_speech`."""
        self._source, self._downmix, self._cancels = SoundFile(Path(path), stream), Downmix(), False
        self._count(shortest)
        if self._downmix.cancels:
            self._cancels = True
            self._count(shortest)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> np.ndarray:
        first, last, _ = part.indices(self._length)
        if first < self._from:
            self._rewind()
        parts, end = [self._held], self._from + len(self._held)
        while end < last and (block := next(self._blocks, None)) is not None:
            if end + len(block) > first - _BEHIND:
                parts.append(block)
            else:
                self._from, parts = end + len(block), [block[:0]]
            end += len(block)
        self._held = np.concatenate(parts) if len(parts) > 1 else self._held
        found = self._held[max(first - self._from, 0) : max(last - self._from, 0)].copy()
        if self._length > _KEPT and (surplus := last - _BEHIND - self._from) > 0:
            self._held, self._from = self._held[surplus:].copy(), self._from + surplus
        return found

    def _rewind(self) -> None:
        self._blocks = self._decoded({})
        self._held, self._from = np.zeros(0, np.float32), 0

    def _count(self, shortest: float) -> None:
        """Decode all of it once; keep a short sound."""
        lengths: dict[int, int] = {}
        self._length, digest = 0, hashlib.sha256()
        kept: list[np.ndarray] = []
        for block in self._decoded(lengths):
            self._length += len(block)
            digest.update(block.data)
            if self._length <= _KEPT:
                kept.append(block)
            else:
                kept.clear()
        self.seconds, self.digest = length_of(self._source, lengths, shortest), digest.digest()
        self._rewind()
        if kept:
            self._held, self._blocks = np.concatenate(kept), iter(())

    def _decoded(self, lengths: dict[int, int]) -> Iterator[np.ndarray]:
        """The samples in blocks. lengths: receives the number of samples before resampling by their rate in Hz."""
        mix = self._downmix.loudest if self._cancels else self._downmix.average

        def mixed() -> Iterator[tuple[np.ndarray, int]]:
            for block, rate in read_sound(self._source):
                lengths[rate] = lengths.get(rate, 0) + len(block)
                yield mix(block), rate

        for block, _ in resampled(mixed(), RATE):
            samples = np.ascontiguousarray(block, np.float32)
            yield samples if is_finite(samples) else np.nan_to_num(samples, posinf=1.0, neginf=-1.0)
