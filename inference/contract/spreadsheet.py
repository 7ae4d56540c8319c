"""Read CSV text as spreadsheet programs of any country save it. Standard library only: the add-on uses it, too."""

from __future__ import annotations

import codecs
import csv
import itertools
import re
from collections.abc import Iterable, Iterator

_SEPARATOR_LINE = re.compile(r"sep=([,;\t])\s*")  # a first line that some programs write for Excel


def encoding_of(start: bytes) -> str:
    """The encoding of a text file that begins with these bytes: UTF-16 if it is marked so, otherwise UTF-8."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


class SpreadsheetRows:
    """The rows of a CSV file that are not blank: line numbers from 1, and cells.

    Cells are separated by commas, semicolons or tabs. Countries with a decimal comma separate them by one of the latter
    two, so a number may then have a comma for the point.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        lines = iter(lines)
        begin = list(_up_to_first_filled(lines))
        first = begin[-1] if begin else ""
        marked = _SEPARATOR_LINE.fullmatch(first)
        if marked:
            begin[-1] = ""
        unquoted = re.sub(r'"[^"]*"?', "", first)
        likely = max(";\t,", key=unquoted.count)
        self._delimiter = marked[1] if marked else likely if likely in unquoted else ","
        self._reader = csv.reader(itertools.chain(begin, lines), delimiter=self._delimiter)

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Raises csv.Error for text that is no table."""
        for cells in self._reader:
            if any(map(str.strip, cells)):
                yield self._reader.line_num, cells

    def number(self, cell: str) -> float:
        """The number in a cell. Raises ValueError if there is none."""
        return float(cell if self._delimiter == "," else cell.replace(",", "."))


def _up_to_first_filled(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if line.strip():
            return
