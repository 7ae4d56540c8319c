"""pip with downloads that resume after a broken connection, a cancel or a crash. No bpy.

    python -I fetch.py PIP.whl download --dest FOLDER ...     the wheel of pip, then pip's own options

A program that uses no other module of this package. pip runs from its wheel, so that no Python needs to have it. An
incomplete file is FOLDER/NAME.part; a complete one is renamed to FOLDER/NAME and checked by pip. Only the download
itself is replaced: indexes, proxies, certificates and passwords are pip's. `install` prints a line for each package
that was unpacked. The program ends when its stdin ends.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, sys.argv.pop(1))

from pip._internal.cli.main import main
from pip._internal.exceptions import InstallationError, PipError
from pip._internal.models.link import Link
from pip._internal.network import utils
from pip._internal.network.session import PipSession
from pip._internal.operations import prepare
from pip._internal.operations.install import wheel
from pip._vendor.requests import RequestException, Response
from pip._vendor.urllib3.exceptions import HTTPError

PART = ".part"
install_wheel = wheel.install_wheel
RETRIES = 20  # after broken connections, for each file
_CHUNK = 2**14  # bytes that are written at a time
_INTERVAL = 0.25  # seconds between two lines of progress


class Downloader:
    """Replaces pip's Downloader."""

    def __init__(self, session: PipSession, *_options: object) -> None:
        self._session = session
        self._folder = Path(sys.argv[sys.argv.index("--dest") + 1])

    def __call__(self, link: Link, _location: str) -> tuple[str, str]:
        """Download a file. Returns its path and an empty content type, which pip does not need."""
        name = link.filename
        part, whole = self._folder / f"{name}{PART}", self._folder / name
        total, reached = None, False
        for _ in range(RETRIES + 1):
            try:
                response = self._ask(link, part)
                reached = True
                total = _whole_size(response)
                _receive(response, part, total)
                if total is None or _size(part) == total:
                    part.replace(whole)
                    return str(whole), ""
            except (PipError, RequestException, HTTPError) as error:
                if not reached or getattr(error, "response", None) is not None:
                    raise  # no server was reached, or it refused
            print(f"The connection broke at {_size(part)} bytes of {name}, resuming", flush=True)
        known = f" of {total}" if total else ""
        reason = f"the connection broke {RETRIES + 1} times, last at {_size(part)}{known} bytes of {name}"
        raise InstallationError(f"incomplete-download: {reason}")

    def batch(self, links: Iterable[Link], location: str) -> Iterator[tuple[Link, tuple[str, str]]]:
        """Download several files."""
        for link in links:
            yield link, self(link, location)

    def _ask(self, link: Link, part: Path) -> Response:
        """A response with the missing bytes, or with the whole file if the server does not support ranges."""
        for _ in range(2):
            here = _size(part)
            headers = utils.HEADERS | ({"Range": f"bytes={here}-"} if here else {})
            response = self._session.get(link.url_without_fragment, headers=headers, stream=True)
            if response.status_code != 416:
                break
            if response.headers.get("Content-Range", "").endswith(f"/{here}"):
                return response  # the file is complete
            part.unlink()  # longer than the file
        utils.raise_for_status(response)
        print(f"{'Resuming' if here else 'Downloading'} {link.filename}", flush=True)
        return response


def _receive(response: Response, part: Path, total: int | None) -> None:
    """Append the response to the incomplete file, or replace it. total: size of the file in bytes, None if unknown."""
    if response.status_code == 416:
        return
    follows = response.status_code == 206
    if follows and not response.headers.get("Content-Range", "").startswith(f"bytes {_size(part)}-"):
        part.unlink()  # the server sent another range: start again
        raise HTTPError("the server sent another range")
    shown = 0.0
    with part.open("ab" if follows else "wb") as file:
        for chunk in utils.response_chunks(response, _CHUNK):
            file.write(chunk)
            if total and (time.monotonic() > shown + _INTERVAL or file.tell() == total):
                print(f"Progress {file.tell()} of {total}", flush=True)
                shown = time.monotonic()


def _whole_size(response: Response) -> int | None:
    if response.status_code in (206, 416):
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        size = response.headers.get("Content-Length", "")
    return int(size) if size.isdecimal() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def unpack(name: str, *arguments: Any, **options: Any) -> None:
    """Replaces pip's function, which reports no progress."""
    install_wheel(name, *arguments, **options)
    print(f"Unpacked {name}", flush=True)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # not `sys.stdin.read`, whose lock would block the end of the process
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if "--dest" in sys.argv:
        prepare.Downloader = Downloader  # type: ignore[assignment, misc]
    wheel.install_wheel = unpack
    sys.exit(main())
