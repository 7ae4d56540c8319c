"""Files that appear whole or not at all. Standard library only: both sides write them."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import disk_error


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; when the block ends without an error it takes that name.

    Two may write the same file at a time. An OSError in the block or at its end becomes EDTalkError(kind="disk").
    """
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with suppress(OSError):  # renamed; or where nothing can be written there is nothing to remove either
            partial.unlink()


def link_or_copy(source: Path, target: Path, copy: bool = False) -> None:
    """Give a file another name, where that is not possible or not wanted a copy; whole or not at all.

    Whatever has that name is replaced. Raises EDTalkError(kind="disk").
    """
    with appearing(target) as partial:
        if not copy:
            with suppress(OSError):
                os.link(source, partial)
        if not partial.exists():
            shutil.copyfile(source, partial)
