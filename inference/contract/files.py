"""Write files atomically, and read files of unknown origin. Standard library only, so the add-on can use it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BufferedReader
from pathlib import Path

from .errors import EDTalkError, disk_error


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """Write a file atomically: yields the path of a partial file, which is renamed to `path` at the end.

    After an error the partial file is removed and `path` is unchanged. Several processes may write the same file. An
    OSError in the block or at its end becomes EDTalkError(kind="disk").
    durable: wait until the content is on the disk, so that a power failure leaves the old file or the new one. It is
    off for files that can be made again, such as frames, because the wait can take longer than the frame.
    """
    partial = partial_path(path)
    try:
        yield partial
        rename(partial, path, durable)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with suppress(OSError):  # it was renamed, or could not be created
            partial.unlink()


def partial_path(path: Path) -> Path:
    """A random name in the folder of `path`, for a file that is renamed to `path` when it is complete.

    The name cannot be predicted, so no link can be planted there, and two processes never share it. It ends in the
    suffix of `path`, because libraries choose the format by it.
    """
    # The stem is cut, so that `path` may have the longest name that a file system allows.
    return path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")


def rename(partial: Path, path: Path, durable: bool = True) -> None:
    """Give a complete file its final name, replacing an existing file. durable: see `atomic_write`. Raises OSError."""
    if durable:
        with partial.open("rb+") as file:  # Windows needs write access
            os.fsync(file.fileno())
    partial.replace(path)


def check_file(path: Path, expected: str) -> None:
    """Raise EDTalkError(kind="media") unless `path` is a regular file with content.

    expected: what the file should be, for the message, such as "expected a picture such as PNG or JPEG".
    """
    if path.is_dir():
        raise EDTalkError(f"{path} is a folder; {expected}.", "Choose a file inside it.", "media")
    if not path.exists():
        raise EDTalkError(f"{path} does not exist; {expected}.", "Check the path.", "media")
    if not path.is_file():
        raise EDTalkError(f"{path} is not a regular file; {expected}.", "Choose another file.", "media")
    if not os.access(path, os.R_OK):
        raise EDTalkError(f"{path} cannot be read: permission denied; {expected}.", "Change its permissions.", "media")
    if path.stat().st_size == 0:
        raise EDTalkError(f"{path} is empty (0 bytes); {expected}.", "Copy or export it again.", "media")


def open_regular(path: str | os.PathLike[str], limit: int | None = None) -> BufferedReader:
    """Open a regular file of at most `limit` bytes for reading.

    Raises OSError as `open` does, and also for a larger file, a folder, a device or a pipe, without waiting.
    """
    flags = getattr(os, "O_NONBLOCK", 0)  # otherwise opening a pipe waits for a writer
    file = open(path, "rb", opener=lambda name, given: os.open(name, given | flags))  # noqa: SIM115 - returned
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and (limit is None or status.st_size <= limit):
        return file
    file.close()
    if stat.S_ISREG(status.st_mode):
        message = f"it has {status.st_size} bytes, at most {limit} are expected"
        raise OSError(errno.EFBIG, message, os.fspath(path))
    raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))


def read_regular(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises OSError as `open_regular` does."""
    with open_regular(path, limit) as file:
        # With a limit, because some system files report a size of 0.
        return file.read(-1 if limit is None else limit)


def cached_sha256(path: Path, limit: int | None = None) -> str:
    """SHA-256 of a regular file of at most `limit` bytes, in hexadecimal. Raises OSError as `open_regular` does.

    The file is read again only if its size or modification time has changed.
    """
    status = path.stat()
    return _sha256(path, limit, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2**16)
def _sha256(path: Path, limit: int | None, size: int, mtime_ns: int) -> str:
    with open_regular(path, limit) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path, copy: bool = False) -> None:
    """Hard-link `source` as `target`, or copy it if links are not supported or `copy` is set. Atomic.

    An existing target is replaced. Raises EDTalkError(kind="disk").
    """
    with atomic_write(target, durable=False) as partial:  # the source remains
        if not copy:
            with suppress(OSError):
                os.link(source, partial)
        if not partial.exists():
            shutil.copyfile(source, partial)
