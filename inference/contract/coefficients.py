"""Motion coefficients over time: the values that artists animate and the network renders.

Standard library and numpy only: the add-on uses this module, too.
"""

from __future__ import annotations

import csv
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import EDTalkError
from .files import atomic_write

_UNREADABLE = (  # what numpy, zipfile and csv raise for other files
    OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, StopIteration,
    csv.Error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Coefficients:
    """T frames of n named coefficients.

    values: (T, n) float32, absolute, in the bank's own units (face units of the starter bank range from 0 to 1).
    names: n unique coefficient names in the bank's column order.
    fps: rows per second, or None if the rows are not a timeline.
    Raises EDTalkError for values of another shape or not finite, a repeated name, or an fps that is not above 0.
    """

    values: np.ndarray
    names: tuple[str, ...]
    fps: float | None = None

    def __post_init__(self) -> None:
        values = np.ascontiguousarray(self.values, dtype=np.float32)
        if values.ndim != 2 or values.shape[1] != len(self.names):
            raise EDTalkError(
                f"Coefficients must have the shape (T, {len(self.names)}) for {len(self.names)} names, "
                f"found {np.shape(self.values)}."
            )
        if not np.isfinite(values).all():
            raise EDTalkError("Coefficients must be finite numbers, found NaN or infinity.")
        if len(set(self.names)) != len(self.names):
            raise EDTalkError("The names of coefficients must be unique, found one twice.")
        if self.fps is not None and not 0 < self.fps < np.inf:
            raise EDTalkError(f"The frame rate of coefficients must be above 0, found {self.fps}.")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "names", tuple(self.names))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: int | slice) -> Coefficients:
        """One row or a slice of rows, always two-dimensional. Raises IndexError as other sequences do."""
        if isinstance(rows, (int, np.integer)):
            row = range(len(self))[rows]
            rows = slice(row, row + 1)
        return Coefficients(self.values[rows], self.names, self.fps)

    def column(self, name: str) -> np.ndarray:
        """(T,) view of one coefficient. Raises EDTalkError for an unknown name."""
        return self.values[:, self._index(name)]

    def select(self, names: Sequence[str]) -> Coefficients:
        """The named columns, in the given order. Raises EDTalkError for an unknown name."""
        columns = [self._index(name) for name in names]
        return Coefficients(self.values[:, columns], tuple(names), self.fps)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `.npz` (exact) or `.csv` (a header with the names, one row per frame), atomically.

        The suffix of the path selects the format. Raises EDTalkError for another suffix, or with kind "disk".
        """
        path = Path(path)
        if path.suffix not in (".npz", ".csv"):
            raise EDTalkError(f"A coefficient file must end in .npz or .csv, found '{path.suffix}' in {path}.")
        with atomic_write(path) as partial:
            if path.suffix == ".npz":
                fps = np.array([] if self.fps is None else [self.fps])
                np.savez(partial, values=self.values, names=np.array(self.names), fps=fps)
            else:
                with partial.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    writer.writerow(("frame" if self.fps is None else f"fps={self.fps!r}", *self.names))
                    writer.writerows((frame, *map(repr, row.tolist())) for frame, row in enumerate(self.values))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Coefficients:
        """Read a file that `save` wrote. Raises EDTalkError naming the file if it is missing or invalid."""
        path = Path(path)
        try:
            values, names, fps = _read_csv(path) if path.suffix == ".csv" else _read_npz(path)
        except FileNotFoundError as error:
            raise EDTalkError(f"{path} does not exist.", "Choose a .npz or .csv file of coefficients.") from error
        except _UNREADABLE as error:
            raise EDTalkError(
                f"{path} is not a readable coefficient file: expected names and a table of numbers.",
                "Create one with 'python -m inference capture' or 'lipsync'.",
            ) from error
        try:
            return Coefficients(values, names, fps)
        except EDTalkError as error:
            raise EDTalkError(f"{path} cannot be used. {error.message}") from error

    def _index(self, name: str) -> int:
        try:
            return self.names.index(name)
        except ValueError:
            raise EDTalkError(f"There is no coefficient '{name}'; available: {', '.join(self.names)}.") from None


def _read_npz(path: Path) -> tuple[np.ndarray, tuple[str, ...], float | None]:
    with np.load(path, allow_pickle=False) as file:
        fps = float(file["fps"][0]) if file["fps"].size else None
        return file["values"].astype(np.float32), tuple(str(name) for name in file["names"]), fps


def _read_csv(path: Path) -> tuple[np.ndarray, tuple[str, ...], float | None]:
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
        rows = csv.reader(file)
        first, *names = next(rows)
        table = [[float(value) for value in row[1:]] for row in rows if row]
    if first != "frame" and not first.startswith("fps="):
        raise ValueError(f"expected a header that begins with 'frame' or 'fps=', found {first!r}")
    fps = float(first.removeprefix("fps=")) if first != "frame" else None
    values = np.array(table, np.float32).reshape(len(table), -1) if table else np.empty((0, len(names)), np.float32)
    return values, tuple(names), fps
