"""Interrupted downloads, with the real pip and a package index on this computer."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from edtalk.edtalk_blender.engine import engine, gpu, installation, lock
from edtalk.edtalk_blender.engine.engine import State, find
from edtalk.edtalk_blender.engine.installation import Installation

from tests.engine_material import LOCK, ROOT, line, make_root, make_wheel

pytestmark = pytest.mark.slow

PATIENCE = 300.0  # seconds; only a failing test waits so long
HALF, MORE = 12 * 2**14, 18 * 2**14  # bytes, of some 600 000
NAME = "tiny-1.0-py3-none-any.whl"


@dataclass
class Index:
    """A package index with one file.

    ranges: whether it supports range requests. breaks: for each request, the number of bytes after which the connection
    breaks. held: the index waits there until the client closes the connection.
    """

    data: bytes = b""
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    held: bool = False
    requested_ranges: list[str] = field(default_factory=list)  # the Range header of each request for the file
    address: str = ""
    gone: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if request.path == "/simple/tiny/":
            page = f'<a href="/files/{NAME}">{NAME}</a>'.encode()
            return self._send(request, 200, {"Content-Type": "text/html", "Content-Length": len(page)}, page)
        if request.path != f"/files/{NAME}":
            return self._send(request, 404, {"Content-Length": 0}, b"")
        wanted = request.headers.get("Range", "")
        self.requested_ranges.append(wanted)
        if not (wanted and self.ranges):
            return self._send(request, 200, {"Content-Length": len(self.data)}, self.data)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.data):
            return self._send(request, 416, {"Content-Range": f"bytes */{len(self.data)}", "Content-Length": 0}, b"")
        content_range = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        rest = self.data[start:]
        return self._send(request, 206, {"Content-Range": content_range, "Content-Length": len(rest)}, rest)

    def _send(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, object], body: bytes) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, str(value))
        request.end_headers()
        if status in (200, 206) and request.path.startswith("/files/") and self.breaks:
            request.wfile.write(body[: self.breaks.pop(0)])
            if self.held:
                request.connection.settimeout(PATIENCE)
                request.connection.recv(1)  # returns when the other side has closed
                self.gone.set()
            request.close_connection = True
            return
        request.wfile.write(body)


@pytest.fixture
def index(tmp_path) -> Iterator[Index]:
    made = Index(make_wheel(tmp_path / "whole", content=f"# {os.urandom(300_000).hex()}").read_bytes())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    made.address = f"http://127.0.0.1:{server.server_port}/simple"
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder for downloads."""
    path = tmp_path / "downloads"
    path.mkdir()
    return path


def begin(index: Index, folder: Path) -> subprocess.Popen[bytes]:
    wanted = folder.parent / "wanted.txt"
    wanted.write_text(f"tiny==1.0 --hash=sha256:{sha256((folder.parent / 'whole' / NAME).read_bytes())}\n")
    command = [
        sys.executable,
        "-I",
        str(installation._FETCH),
        str(lock.pip(ROOT)),
        "--isolated",
        "--disable-pip-version-check",
        "download",
    ]
    command += ["--no-cache-dir", "--only-binary", ":all:", "--no-deps", "--dest", str(folder)]
    command += ["--index-url", index.address, "--require-hashes", "--requirement", str(wanted)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def fetch(index: Index, folder: Path) -> str:
    """Download the file; returns the output. Afterwards the folder contains only that file."""
    with begin(index, folder) as process:
        output = process.stdout.read().decode()
        assert process.wait(PATIENCE) == 0, output
    assert [path.name for path in folder.iterdir()] == [NAME]
    assert (folder / NAME).read_bytes() == index.data
    return output


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def part(folder: Path) -> Path:
    return folder / f"{NAME}.part"


def test_a_file_is_downloaded_with_progress(index, folder):
    output = fetch(index, folder)
    assert index.requested_ranges == [""]
    assert f"Progress {len(index.data)} of {len(index.data)}" in output


@pytest.mark.parametrize("ranges", [True, False])
def test_an_earlier_download_is_resumed_or_restarted(index, folder, ranges):
    index.ranges = ranges
    part(folder).write_bytes(index.data[:100_000])
    output = fetch(index, folder)
    assert index.requested_ranges == ["bytes=100000-"]
    assert f"Progress {len(index.data)} of {len(index.data)}" in output


def test_broken_connections_are_resumed(index, folder):
    index.breaks = [100_000, 50_000]
    fetch(index, folder)
    assert index.requested_ranges == ["", "bytes=100000-", "bytes=150000-"]


def test_without_range_requests_a_broken_download_restarts(index, folder):
    index.ranges, index.breaks = False, [100_000]
    fetch(index, folder)
    assert index.requested_ranges == ["", "bytes=100000-"]


def test_an_incomplete_file_may_be_complete_or_too_long(index, folder):
    part(folder).write_bytes(index.data)
    fetch(index, folder)
    assert index.requested_ranges == [f"bytes={len(index.data)}-"]
    (folder / NAME).unlink()
    part(folder).write_bytes(index.data + b"!")
    fetch(index, folder)
    assert index.requested_ranges[1:] == [f"bytes={len(index.data) + 1}-", ""]


def test_a_killed_download_is_resumed(index, folder):
    """Also if its parent is killed, after which it ends by itself."""
    index.held, index.breaks = True, [HALF, MORE - HALF]
    for ends, size in ((lambda process: process.kill(), HALF), (lambda process: process.stdin.close(), MORE)):
        with begin(index, folder) as process:
            until = time.monotonic() + PATIENCE
            while not part(folder).exists() or part(folder).stat().st_size < size:
                assert time.monotonic() < until
                time.sleep(0.01)
            ends(process)
            assert process.wait(PATIENCE) != 0
        assert index.gone.wait(PATIENCE)
        index.gone.clear()
    index.held = False
    fetch(index, folder)
    assert index.requested_ranges == ["", f"bytes={HALF}-", f"bytes={MORE}-"]


def test_a_connection_that_keeps_breaking_fails_and_keeps_the_incomplete_file(index, folder):
    index.breaks = [1000] * 100
    with begin(index, folder) as process:
        output = process.stdout.read().decode()
        assert process.wait(PATIENCE) != 0
    assert len(index.requested_ranges) == 21
    assert (
        f"ERROR: incomplete-download: the connection broke 21 times, last at 21000 of {len(index.data)} bytes" in output
    )
    assert part(folder).stat().st_size == 21_000


# ------------------------------------------------------------------------------------------------ by Install Engine


@pytest.fixture
def install(index, tmp_path, monkeypatch):
    """Starts the installation of an engine with that package."""
    monkeypatch.delenv(engine.VARIABLE, raising=False)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(installation, "SPARE", 10**6)
    monkeypatch.setattr(lock, "here", lambda: "linux-x86_64")
    monkeypatch.setattr(gpu, "probe", lambda: [])
    root = make_root(tmp_path / "extension", line(tmp_path / "whole" / NAME))

    def begin() -> Installation:
        made = Installation(root, tmp_path / "user", online=True, python=Path(sys.executable), mirror=index.address)
        made.start()
        return made

    assert (root / LOCK).exists()
    return begin


def test_the_next_installation_resumes_a_cancelled_one(index, install, tmp_path):
    index.held, index.breaks = True, [HALF]
    begun = install()
    kept = part(tmp_path / "user" / "downloads")
    until = time.monotonic() + PATIENCE
    while not kept.exists() or kept.stat().st_size < HALF:
        assert time.monotonic() < until
        assert not begun.finished, begun.error
        time.sleep(0.01)
    begun.cancel()
    assert begun.wait(PATIENCE)
    assert begun.cancelled
    assert kept.stat().st_size == HALF
    index.held = False
    (kept.parent / "older-0.9-py3-none-any.whl.part").write_bytes(b"left by an earlier version")
    again = install()
    assert again.wait(PATIENCE)
    assert again.error is None
    assert index.requested_ranges == ["", f"bytes={HALF}-"]
    assert find(tmp_path / "extension", tmp_path / "user").state is State.READY
    assert [path.name for path in kept.parent.iterdir()] == [NAME]


@pytest.mark.parametrize("damaged", ["part", "index"])
def test_an_incomplete_file_with_other_content_is_downloaded_again_once(index, install, tmp_path, damaged):
    downloads = tmp_path / "user" / "downloads"
    downloads.mkdir(parents=True)
    part(downloads).write_bytes(b"x" * 100_000)
    if damaged == "index":
        index.data = b"y" * 200_000
    done = install()
    assert done.wait(PATIENCE)
    assert index.requested_ranges == ["bytes=100000-", ""]
    if damaged == "part":
        assert done.error is None
        assert (downloads / NAME).read_bytes() == index.data
        return
    assert done.error.kind == "checksum"
    assert f"{NAME} has the wrong checksum: expected" in done.error.message
    assert f"found {sha256(index.data)[:12]}..." in done.error.message
    assert "\n" not in done.error.message
    assert not part(downloads).exists()
