"""Other programs, run so that they neither disturb Blender nor outlive it; and what they write, within bounds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_WINDOWS = sys.platform == "win32"
_LONGEST_LINE = 4096  # bytes
# Blender's Python, a shell's virtual environment and pip's targets are not the other Python's business.
_FOREIGN = {"VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV"}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's variables without those that would lead another Python to Blender's modules; plus `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("PYTHON") and name.upper() not in _FOREIGN
    }
    return kept | {"PYTHONNOUSERSITE": "1"} | dict(extra or {})


class Process:
    """A running program in a group of its own, so that Ctrl-C in Blender's terminal is Blender's alone.

    On Windows it ends with Blender, however Blender ends; elsewhere a program that reads its stdin sees that end.
    Starting one takes from milliseconds to, with a virus scanner, seconds: not for Blender's main thread.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stderr: int = subprocess.PIPE,
    ) -> None:
        """env: all of its variables (see `environment`).  Raises OSError if it cannot be started."""
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
        self._popen = subprocess.Popen(
            list(command), cwd=cwd, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, **apart
        )
        self._family: _JobObject | None = None
        if sys.platform == "win32":
            self._family = _JobObject(int(self._popen._handle))  # type: ignore[attr-defined]

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def stdin(self) -> IO[bytes]:
        assert self._popen.stdin is not None, "stdin is not a pipe"
        return self._popen.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._popen.stdout is not None, "stdout is not a pipe"
        return self._popen.stdout

    @property
    def stderr(self) -> IO[bytes]:
        assert self._popen.stderr is not None, "stderr is not a pipe"
        return self._popen.stderr

    def kill(self) -> None:
        """End it and what it started, at once; fine if it has ended already."""
        if self._popen.poll() is not None:
            return
        with contextlib.suppress(OSError):
            if self._family:
                self._family.terminate()
            else:
                os.killpg(self._popen.pid, signal.SIGKILL)

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code (negative: the signal that ended it), or None if it still runs after `seconds`."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def answer(self, seconds: float) -> bytes | None:
        """What it writes to stdout, if it ends well within `seconds`; it is killed if it does not end."""
        try:
            said, _ = self._popen.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            said, _ = self._popen.communicate()
        return said if self._popen.returncode == 0 else None


class Log:
    """The last lines that a program wrote, in memory, and more of them in a file that never grows beyond `size` bytes.

    The file before it is kept beside it as NAME.1.  A disk that is full or read-only costs the file, nothing else.
    """

    def __init__(self, path: Path | None = None, *, lines: int = 200, size: int = 2**20) -> None:
        self.path = path
        self._size = size
        self._capacity = lines
        self._lines: deque[str] = deque(maxlen=lines)
        self._latest: deque[str] = deque(maxlen=lines)
        self._partial = b""
        self._lock = threading.Lock()

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, notes among them."""
        return self._with_partial(self._lines)

    @property
    def latest(self) -> tuple[str, ...]:
        """The last lines since the last note."""
        return self._with_partial(self._latest)

    @property
    def last_words(self) -> str:
        """The last line since the last note that says something: of a Python traceback, the error."""
        return next((line.strip() for line in reversed(self.latest) if line.strip()), "")

    def note(self, text: str) -> None:
        """A line of our own, with the time."""
        start = "\n" if self._partial else ""
        self.write(f"{start}[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}\n".encode())
        with self._lock:
            self._latest.clear()

    def write(self, data: bytes) -> None:
        """What came from the program, cut anywhere."""
        with self._lock:
            *lines, self._partial = (self._partial + data).split(b"\n")
            if len(self._partial) > _LONGEST_LINE:
                lines.append(self._partial)
                self._partial = b""
            new = [_text(line) for line in lines[-self._capacity :]]
            self._lines.extend(new)
            self._latest.extend(new)
            if self.path:
                with contextlib.suppress(OSError):
                    self._append(self.path, data[-self._size :])

    def follow(self, stream: IO[bytes]) -> None:
        """Take in what a program writes until it stops; returns then, and closes the stream."""
        with contextlib.suppress(OSError, ValueError), stream:
            while data := os.read(stream.fileno(), 2**16):
                self.write(data)

    def _with_partial(self, lines: deque[str]) -> tuple[str, ...]:
        with self._lock:
            return (*lines, *([_text(self._partial)] if self._partial else []))

    def _append(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size + len(data) > self._size:
            path.replace(path.with_name(path.name + ".1"))
        with path.open("ab") as file:
            file.write(data)


def _text(line: bytes) -> str:
    """A line as a terminal would show it: a progress bar that was drawn over and over in one line counts once."""
    return line.rstrip(b"\r").rsplit(b"\r", 1)[-1][:_LONGEST_LINE].decode("utf-8", "replace")


class _Limits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION"""

    _fields_ = (
        ("process_time", ctypes.c_int64),
        ("job_time", ctypes.c_int64),
        ("flags", ctypes.c_uint32),
        ("working_set", ctypes.c_size_t * 2),
        ("active_processes", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("classes", ctypes.c_uint32 * 2),
        ("io_counters", ctypes.c_uint64 * 6),
        ("memory", ctypes.c_size_t * 4),
    )


class _JobObject:
    """Windows' way to hold a process and its descendants: closing it, as Windows does when Blender ends, ends them."""

    _KILL_ON_CLOSE, _EXTENDED_LIMITS = 0x2000, 9

    def __init__(self, process: int) -> None:
        """process: its handle.  Where Windows refuses, the process still ends when its stdin does."""
        self._kernel = kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
        handle, number = ctypes.c_void_p, ctypes.c_uint32
        kernel.CreateJobObjectW.restype = handle
        kernel.CreateJobObjectW.argtypes = (ctypes.c_void_p, ctypes.c_wchar_p)
        kernel.SetInformationJobObject.argtypes = (handle, ctypes.c_int, ctypes.c_void_p, number)
        kernel.AssignProcessToJobObject.argtypes = (handle, handle)
        kernel.TerminateJobObject.argtypes = (handle, number)
        kernel.TerminateProcess.argtypes = (handle, number)
        kernel.CloseHandle.argtypes = (handle,)
        self._process = process
        self._job = kernel.CreateJobObjectW(None, None)
        limits = _Limits(flags=self._KILL_ON_CLOSE)
        kernel.SetInformationJobObject(self._job, self._EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits))
        self._holds = bool(kernel.AssignProcessToJobObject(self._job, process))

    def terminate(self) -> None:
        if self._holds:
            self._kernel.TerminateJobObject(self._job, 1)
        else:
            self._kernel.TerminateProcess(self._process, 1)

    def __del__(self) -> None:
        if getattr(self, "_job", None):
            self._kernel.CloseHandle(self._job)
