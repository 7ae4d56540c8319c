"""Read CSV text as spreadsheet programs of any country save it. Standard library only: the add-on uses it, too."""

from __future__ import annotations

import codecs
import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

_SEPARATOR_LINE = re.compile(r"sep=([,;\t])\s*")  # a first line that some programs write for Excel
_BLOCK = 2**16  # bytes that are looked at together


def encoding_of(file: BinaryIO) -> str:
    """The encoding of a text file: UTF-16, UTF-8, or Windows-1252 for text that is not UTF-8. Rewinds the file."""
    start = file.read(_BLOCK)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif 0 in start:  # most letters of a table are ASCII, so one byte of their two is 0
        encoding = "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
    else:
        encoding = "utf-8-sig" if _is_utf8(itertools.chain([start], iter(lambda: file.read(_BLOCK), b""))) else "cp1252"
    file.seek(0)
    return encoding


def _is_utf8(blocks: Iterable[bytes]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in blocks:
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


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
