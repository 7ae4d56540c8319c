"""pip, with downloads that go on where they were interrupted: by a broken connection, by Cancel, by a crash. No bpy.

    python -I fetch.py download --dest FOLDER ...     pip's own options

A program for a Python that has pip, with no other module of this package. A file that is being fetched is
FOLDER/NAME.part; whole, it becomes FOLDER/NAME, and pip checks it as any other. Everything but the fetching is pip's:
where to look, through which proxy, with which certificates and passwords. It ends when what holds its stdin does.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pip._internal.cli.main import main
from pip._internal.exceptions import InstallationError, PipError
from pip._internal.models.link import Link
from pip._internal.network import utils
from pip._internal.network.session import PipSession
from pip._internal.operations import prepare
from pip._vendor.requests import RequestException, Response
from pip._vendor.urllib3.exceptions import HTTPError

PART = ".part"
RETRIES = 20  # after broken connections, for each file
_CHUNK = 2**14  # bytes, after each of which what came is on the disk
_SHOWN = 0.25  # seconds between two lines of progress


class Downloader:
    """Takes the place of pip's."""

    def __init__(self, session: PipSession, *_options: object) -> None:
        self._session = session
        self._folder = Path(sys.argv[sys.argv.index("--dest") + 1])

    def __call__(self, link: Link, _location: str) -> tuple[str, str]:
        """Fetch a file; returns where it is and, as nobody needs it, no content type."""
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
                    raise  # nobody is there, or says no
            print(f"The connection broke at {_size(part)} bytes of {name}: going on", flush=True)
        known = f" of {total}" if total else ""
        told = f"{name} broke off {RETRIES + 1} times, last at {_size(part)}{known} bytes"
        raise InstallationError(f"incomplete-download: {told}")

    def batch(self, links: Iterable[Link], location: str) -> Iterator[tuple[Link, tuple[str, str]]]:
        """Fetch several."""
        for link in links:
            yield link, self(link, location)

    def _ask(self, link: Link, part: Path) -> Response:
        """A response with what is missing, or with everything if the server does not know parts."""
        for _ in range(2):
            here = _size(part)
            headers = utils.HEADERS | ({"Range": f"bytes={here}-"} if here else {})
            response = self._session.get(link.url_without_fragment, headers=headers, stream=True)
            if response.status_code != 416:
                break
            if response.headers.get("Content-Range", "").endswith(f"/{here}"):
                return response  # nothing is missing
            part.unlink()  # it is longer than the file
        utils.raise_for_status(response)
        print(f"{'Going on with' if here else 'Downloading'} {link.filename}", flush=True)
        return response


def _receive(response: Response, part: Path, total: int | None) -> None:
    """Write what comes behind what is there, or in its place; total: bytes of the whole file where that is known."""
    if response.status_code == 416:
        return
    follows = response.status_code == 206
    if follows and not response.headers.get("Content-Range", "").startswith(f"bytes {_size(part)}-"):
        part.unlink()  # the server answers something else than was asked: have everything
        raise HTTPError("another part than the one that was asked for")
    shown = 0.0
    with part.open("ab" if follows else "wb") as file:
        for chunk in utils.response_chunks(response, _CHUNK):
            file.write(chunk)
            if total and (time.monotonic() > shown + _SHOWN or file.tell() == total):
                print(f"Progress {file.tell()} of {total}", flush=True)
                shown = time.monotonic()


def _whole_size(response: Response) -> int | None:
    if response.status_code in (206, 416):
        told = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        told = response.headers.get("Content-Length", "")
    return int(told) if told.isdecimal() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # not by `sys.stdin`, whose lock would outlive this thread
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare.Downloader = Downloader
    sys.exit(main())
