"""Parse content of unknown origin: JSON, numpy arrays and paths. Standard library and numpy only.

Every function raises ValueError for content that it does not accept. A parser that goes on to use the values catches
`MALFORMED` and raises its own error, so damaged and forged files never look like a fault of the program.
"""

from __future__ import annotations

import json
import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from .files import open_regular

# What Python and numpy raise for values of another type, size or range. SystemError is numpy's for text with code
# points that do not exist.
MALFORMED = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError, RecursionError, MemoryError,
    StopIteration, SystemError, struct.error,
)  # fmt: skip
_NOT_AN_ARRAY = (*MALFORMED, SyntaxError, tokenize.TokenError)  # numpy parses the header of an array as Python
_NOT_AN_ARCHIVE = (
    *_NOT_AN_ARRAY, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
MOST_ARRAY_BYTES = 256 * 2**20  # an hour of 60 coefficients at 60 fps has 52 MB


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Also refused are NaN, Infinity, deep nesting and text that is not valid Unicode."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        escape = "\\ud" if isinstance(text, str) else b"\\ud"
        if escape in text.lower():  # type: ignore[operator]  # a half of a pair could not be encoded later
            json.dumps(value, ensure_ascii=False).encode()
    except (RecursionError, MemoryError) as error:
        raise ValueError("it is nested too deeply or too large") from error
    return value


def parse_npy(content: bytes) -> np.ndarray:
    """The array in the content of a `.npy` file, without objects. The size that its header claims is checked first.

    Raises ValueError for other content.
    """
    try:
        return _read_array(BytesIO(content), len(content))
    except _NOT_AN_ARRAY as error:
        raise ValueError(f"it is not an array ({error})") from error


def read_npz(path: Path, names: tuple[str, ...], limit: int = MOST_ARRAY_BYTES) -> tuple[np.ndarray, ...]:
    """The named arrays of a `.npz` file, which together unpack to at most `limit` bytes.

    Raises FileNotFoundError if the file does not exist, ValueError for other content.
    """
    try:
        with open_regular(path, limit) as file, zipfile.ZipFile(file) as archive:
            members = [archive.getinfo(f"{name}.npy") for name in names]
            if sum(member.file_size for member in members) > limit:
                raise ValueError(f"it unpacks to more than {limit} bytes")
            arrays = []
            for member in members:
                with archive.open(member) as stream:
                    arrays.append(_read_array(stream, member.file_size))
            return tuple(arrays)
    except FileNotFoundError:
        raise
    except _NOT_AN_ARCHIVE as error:
        raise ValueError(f"it is not an archive of arrays ({error})") from error


def stored_path(value: Any) -> Path:
    """A path from a file: text that is not empty and that the system can represent."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"expected a path, found {value!r}")
    os.fsencode(value)
    return Path(value)


def finite(value: Any) -> float:
    """A finite number."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, found {value!r}")
    return number


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read_array(stream: IO[bytes], size: int) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, in_fortran_order, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("it contains Python objects")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * max(dtype.itemsize, 1) > size:
        raise ValueError(f"its header claims {shape} values of {dtype.itemsize} bytes, the file has {size} bytes")
    content = stream.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize:
        raise ValueError("it is truncated")
    array = np.frombuffer(bytearray(content), dtype, count) if content else np.zeros(count, dtype)
    return array.reshape(shape, order="F" if in_fortran_order else "C")
