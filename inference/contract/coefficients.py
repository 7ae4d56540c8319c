"""Motion coefficients over time: the values that artists animate and the network renders.

Standard library and numpy only: the add-on uses this module, too.
"""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from .content import content_of
from .errors import EDTalkError
from .files import atomic_write, open_regular
from .parsing import MALFORMED, read_npz
from .spreadsheet import SpreadsheetRows, encoding_of

_MOST_NAMES = 1024
_MOST_CSV, _LONGEST_LINE = 256 * 2**20, 2**18  # bytes, characters
_EXPECTED = "expected a .npz or .csv file of named coefficients"
_CHOOSE = "Choose another file."


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
            raise EDTalkError(f"{path} does not exist; {_EXPECTED}.", _CHOOSE, code="not_coefficients") from error
        except (OSError, csv.Error, *MALFORMED) as error:
            raise EDTalkError(
                f"{path} is not a readable coefficient file: {_EXPECTED}, found {_found(path, error)}.",
                _CHOOSE,
                code="not_coefficients",
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
    values, names, fps = read_npz(path, ("values", "names", "fps"))
    if names.ndim != 1 or len(names) > _MOST_NAMES or names.dtype.kind != "U":
        raise ValueError(f"expected at most {_MOST_NAMES} names, found {names.dtype} {names.shape}")
    "".join(names.tolist()).encode()  # halves of surrogate pairs could not be written or shown
    return values.astype(np.float32), tuple(names.tolist()), float(fps[0]) if fps.size else None


def _read_csv(path: Path) -> tuple[np.ndarray, tuple[str, ...], float | None]:
    with open_regular(path, _MOST_CSV) as binary:
        encoding = encoding_of(binary)
        rows = SpreadsheetRows(_lines(TextIOWrapper(binary, encoding=encoding, newline="")))
        table = iter(rows)
        _, header = next(table)
        first, *names = _without_empty_end(header, 1)
        if first != "frame" and not first.startswith("fps="):
            raise ValueError(f"expected a header that begins with 'frame' or 'fps=', found {first!r}")
        if len(names) > _MOST_NAMES:
            raise ValueError(f"expected at most {_MOST_NAMES} names, found {len(names)}")
        numbers, widths = array("d"), []
        for _, cells in table:
            row = _without_empty_end(cells, 1 + len(names))
            numbers.extend(map(rows.number, row[1:]))
            widths.append(len(row) - 1)
    if len(set(widths)) > 1:
        raise ValueError("its rows have different lengths")
    width = widths[0] if widths else len(names)
    values = np.frombuffer(numbers, np.float64) if numbers else np.empty(0)
    with np.errstate(over="ignore"):  # such values become infinite, which `Coefficients` refuses
        result = values.astype(np.float32).reshape(len(widths), width)
    return result, tuple(names), rows.number(first.removeprefix("fps=")) if first != "frame" else None


def _found(path: Path, error: Exception) -> str:
    """What a file contains that cannot be read, with the reason if it has the format of coefficient files."""
    found = content_of(path)
    has_format = found.startswith("a text file" if path.suffix == ".csv" else "a zip archive")
    return f"{found} ({error})" if has_format and str(error) else found


def _without_empty_end(cells: list[str], least: int) -> list[str]:
    """The cells without empty ones at the end, which spreadsheets add; at least the first `least` are kept."""
    end = len(cells)
    while end > least and not cells[end - 1].strip():
        end -= 1
    return cells[:end]


def _lines(file: TextIOWrapper) -> Iterator[str]:
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"a line has more than {_LONGEST_LINE} characters")
        yield line
