"""Read ARKit face captures from CSV files into times and blend shape values.

Supported are the CSV of Live Link Face (a timecode, 52 blend shapes, rotations of head and eyes) and plain tables of
blend shapes from other apps, with or without a time column.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np

from ...inference.contract import arkit
from ...inference.contract.errors import EDTalkError
from ...inference.contract.files import read_regular
from ...inference.contract.spreadsheet import SpreadsheetRows, encoding_of

_EXPORT_HINT = "Export the take as CSV. In Live Link Face, use the ARKit capture mode."
_LARGEST = 256 * 2**20  # bytes; over an hour at 60 fps
_TIMECODE = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})([:;.,])(\d{1,3}(?:\.\d+)?)")
_TIME_COLUMNS = ("time", "timestamp", "seconds", "sec", "t", "ms", "timems", "timestampms", "timeseconds")
_FRAME_COLUMNS = ("frame", "frames", "frameindex", "framenumber", "index")


# --- Timecode


@dataclass(frozen=True)
class Rate:
    """Timecode rate: `count` frame numbers per timecode second, at `fps` frames per real second.

    drop: drop-frame timecode, which skips 2 of every 30 frame numbers at each minute except every tenth.
    """

    count: int
    fps: float
    drop: bool = False

    @staticmethod
    def parse(text: str) -> Rate:
        """Parse "24", "29.97", "59.94 drop" and so on. Raises EDTalkError for unsupported rates."""
        number, _, drop = text.strip().partition(" ")
        try:
            fps = float(number)
            count = math.ceil(fps - 1e-6)
            is_ntsc = fps < count - 1e-6
            if not 1 <= count <= 240 or drop not in ("", "drop") or (drop and not (is_ntsc and count % 30 == 0)):
                raise ValueError(text)
        except (ValueError, OverflowError) as error:
            raise EDTalkError(
                f"Unsupported timecode rate '{text}'.", "Use 24, 25, 30, 50, 60, 23.976, 29.97, 59.94 or 29.97 drop."
            ) from error
        return Rate(count, count * 1000 / 1001 if is_ntsc else float(count), bool(drop))

    def seconds(self, hours: int, minutes: int, seconds: int, frames: float) -> float:
        """Seconds since timecode 00:00:00:00. frames: may be fractional."""
        minutes += 60 * hours
        total = (60 * minutes + seconds) * self.count + frames
        if self.drop:
            total -= self.count // 15 * (minutes - minutes // 10)
        return total / self.fps


def timecode_seconds(text: str, rate: Rate) -> float:
    """Seconds of a timecode HH:MM:SS:FF or HH:MM:SS:FF.sss. Raises EDTalkError for any other text."""
    parts = _split_timecode(text)
    if parts is None:
        raise EDTalkError(
            f"'{text}' is not a valid timecode.", "Write it as hours:minutes:seconds:frames, for example 10:30:00:00."
        )
    return rate.seconds(*parts[:4])


def _split_timecode(text: str) -> tuple[int, int, int, float, bool] | None:
    """Hours, minutes, seconds, frames, and whether it is drop-frame (with a semicolon). None if invalid."""
    found = _TIMECODE.fullmatch(text.strip())
    if not found or int(found[2]) > 59 or int(found[3]) > 59:
        return None
    return int(found[1]), int(found[2]), int(found[3]), float(found[5]), found[4] == ";"


def _guess_rate(codes: Sequence[tuple[int, int, int, float, bool]]) -> Rate:
    """Estimate the timecode rate from the highest frame number.

    That is reliable if the take contains the end of a second. Otherwise at least Live Link Face's 60 is assumed.
    """
    drop = any(code[4] for code in codes)
    has_end_of_second = any(code[2] != after[2] for code, after in pairwise(codes))
    highest = int(max(code[3] for code in codes)) + 1
    for count in (24, 25, 30, 48, 50, 60, 100, 120, 240):
        if count >= highest and (has_end_of_second or count >= 60):
            return Rate(count, count * 1000 / 1001 if drop else float(count), drop and count % 30 == 0)
    return Rate(highest, float(highest))


# --- Takes


@dataclass(frozen=True, eq=False)
class Take:
    """One capture. times: (T,) seconds from its first row, strictly increasing. values: (T, n) of the columns `names`.

    names: of `contract.arkit`; blend shapes are 0..1, head angles are degrees. start: timecode of the first row in
    seconds, or None. rate: rate of the timecode, or None. skipped: number of incomplete or repeated rows left out.
    """

    times: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray
    start: float | None = None
    rate: Rate | None = None
    skipped: int = 0

    @property
    def duration(self) -> float:
        """Seconds from the first row to the last row."""
        return float(self.times[-1])

    def at(self, seconds: np.ndarray) -> np.ndarray:
        """Values at `seconds` (K,), linearly interpolated, (K, n). The first and last rows extend beyond the ends."""
        columns = [np.interp(seconds, self.times, column) for column in self.values.T]
        return np.stack(columns, axis=1)

    def with_sides_swapped(self) -> Take:
        """The take with left and right of jaw and mouth swapped: some versions of Live Link Face write them swapped."""
        other = {"jawLeft": "jawRight", "jawRight": "jawLeft", "mouthLeft": "mouthRight", "mouthRight": "mouthLeft"}
        return replace(self, names=tuple(other.get(name, name) for name in self.names))

    def with_head_from_start(self) -> Take:
        """The take with head angles relative to the first row, independent of the phone's position."""
        values = self.values.copy()
        head = [index for index, name in enumerate(self.names) if name in arkit.HEAD]
        values[:, head] -= values[0, head]
        return replace(self, values=values)


def read_take(path: Path, rate: str = "", fps: float = 60.0) -> Take:
    """Read a take from a CSV file.

    rate: timecode rate, see `Rate.parse`; estimated if empty. fps: rows per second of files without times.
    Raises EDTalkError with the file's name and the reason.
    """
    try:
        content = read_regular(path, _LARGEST)
        text = content.decode(encoding_of(BytesIO(content)))
    except FileNotFoundError as error:
        raise EDTalkError(f"{path} does not exist.", "Choose the take again.", "media") from error
    except OSError as error:
        raise EDTalkError(f"{path} could not be read: {error.strerror}.", "Choose another file.", "media") from error
    except ValueError as error:
        raise EDTalkError(f"{path} is not a readable CSV file: it is not text.", _EXPORT_HINT, "media") from error
    try:
        return _parse(text, Rate.parse(rate) if rate else None, fps)
    except EDTalkError as error:
        raise EDTalkError(
            f"{path.name} cannot be read: {error.message}", error.hint or _EXPORT_HINT, "media"
        ) from error


def _parse(text: str, rate: Rate | None, fps: float) -> Take:
    table = _Table(text)
    units = {name: index for index, cell in enumerate(table.header) if (name := unit_name(cell)) is not None}
    if not set(units) & set(arkit.FACE):
        raise EDTalkError("the header has no ARKit blend shapes such as EyeBlinkLeft or JawOpen.")
    found = len(table.rows)
    units = {name: index for name, index in units.items() if any(row.is_filled([index]) for row in table.rows)}
    # Apps leave the cells empty while they lose the face, and cut off the last row when they are stopped.
    time_column = table.time_column()
    width = 0 if time_column is None else time_column + 1
    table.rows = [row for row in table.rows if row.is_filled(units.values()) and len(row.cells) >= width]
    if not (table.rows and units):
        raise EDTalkError("no row contains a face.")
    values = table.numbers(units.values())
    times, start, rate = _times(table, rate, fps)
    step = np.diff(times, prepend=-np.inf)
    if (step < 0).any():
        raise EDTalkError(f"the time decreases in line {table.rows[int(np.argmax(step < 0))].line}.")
    names, values = _normalised(tuple(units), values[step > 0])
    times = times[step > 0]  # drop repeated rows
    return Take(times - times[0], names, values, start, rate, found - len(times))


def _times(table: _Table, rate: Rate | None, fps: float) -> tuple[np.ndarray, float | None, Rate | None]:
    """Seconds of the rows (T,). If they have timecodes, also the first one in seconds and the rate, else None."""
    column = table.time_column()
    if column is not None and (table.is_called(column, "timecode") or ":" in table.rows[0].cells[column]):
        codes = []
        for row in table.rows:
            code = _split_timecode(row.cells[column])
            if code is None:
                raise EDTalkError(f"line {row.line} has the timecode '{row.cells[column]}', expected HH:MM:SS:FF.")
            codes.append(code)
        rate = rate or _guess_rate(codes)
        times = np.array([rate.seconds(*code[:4]) for code in codes])
        day = rate.seconds(24, 0, 0, 0)
        times += day * np.cumsum(np.diff(times, prepend=times[0]) < -day / 2)  # takes may pass midnight
        return times, float(times[0]), rate
    if column is not None:
        times = table.numbers([column])[:, 0]
        while len(times) > 1 and np.median(np.diff(times)) > 1:  # milli-, micro- or nanoseconds
            times = times / 1000
        return times, None, None
    column = table.column(_FRAME_COLUMNS)
    frames = np.array([row.order for row in table.rows]) if column is None else table.numbers([column])[:, 0]
    return frames / fps, None, None


@dataclass(frozen=True)
class _Row:
    line: int
    order: int
    cells: Sequence[str]

    def is_filled(self, columns: Iterable[int]) -> bool:
        return all(column < len(self.cells) and self.cells[column].strip() for column in columns)


class _Table:
    """Header and rows of a table separated by commas, semicolons or tabs, without blank lines."""

    def __init__(self, text: str) -> None:
        self._read = SpreadsheetRows(text.splitlines())
        try:
            rows = list(self._read)
        except csv.Error as error:
            raise EDTalkError(f"it is not a table ({error}).") from error
        if not rows:
            raise EDTalkError("the file is empty.")
        self.header = rows[0][1]
        self.rows = [_Row(line, order, cells) for order, (line, cells) in enumerate(rows[1:])]

    def is_called(self, column: int, *names: str) -> bool:
        return _plain(self.header[column]) in names

    def column(self, names: Sequence[str]) -> int | None:
        return next((index for index in range(len(self.header)) if self.is_called(index, *names)), None)

    def time_column(self) -> int | None:
        return self.column(("timecode", *_TIME_COLUMNS))

    def numbers(self, columns: Iterable[int]) -> np.ndarray:
        """Numbers of some columns, (rows, columns) float64. Raises EDTalkError with the line of an invalid cell."""
        columns = list(columns)
        return np.array([[self._number(row, column) for column in columns] for row in self.rows])

    def _number(self, row: _Row, column: int) -> float:
        cell = row.cells[column].strip() if column < len(row.cells) else ""
        try:
            value = self._read.number(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise EDTalkError(f"line {row.line} has '{cell}' for {self.header[column].strip()}, expected a number.")
        return value


def _normalised(names: tuple[str, ...], values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Convert head angles to degrees with the signs of `contract.arkit`, and drop a head that was not recorded.

    In Live Link Face, positive angles turn to the person's right, down, and clockwise as seen by the camera. A head
    that was not recorded is all zeros. Raises EDTalkError for blend shapes outside 0..1.
    """
    most = float(np.abs(values[:, [index for index, name in enumerate(names) if name in arkit.FACE]]).max())
    if most > 2:
        raise EDTalkError(f"its blend shapes go up to {most:g}, expected 0 to 1.")
    head = [index for index, name in enumerate(names) if name in arkit.HEAD]
    angles = values[:, head]
    if not angles.any():
        kept = [index for index in range(len(names)) if index not in head]
        return tuple(names[index] for index in kept), values[:, kept]
    values = values.copy()
    if np.abs(angles).max() <= math.pi:
        values[:, head] = np.degrees(angles)
    if "headYaw" in names:
        values[:, names.index("headYaw")] *= -1  # the right of the image is the person's left
    return names, values


# --- Names


def unit_name(text: str) -> str | None:
    """Name in `contract.arkit` for any capitalisation, separators and side suffix; None if it is no ARKit name."""
    return _SPELLINGS.get(_plain(text))


def _plain(text: str) -> str:
    """Lower case letters and digits only: `Eye_Blink.L` -> `eyeblinkl`."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


_SPELLINGS = {_plain(name): name for name in arkit.NAMES} | {
    f"{_plain(name)}{side[0].lower()}": f"{name}{side}" for name in arkit.PAIRED for side in ("Left", "Right")
}
