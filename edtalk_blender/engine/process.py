"""Runs other programs so that they end with Blender, and logs their output within a size limit."""

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
from typing import IO, Any, BinaryIO, cast

_WINDOWS = sys.platform == "win32"
_LONGEST_LINE = 4096  # bytes
# Variables for Blender's libraries or another Python, and settings of pip that change what and where it installs. Its
# settings for indexes, proxies and certificates are kept.
_FOREIGN = {"VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "LD_LIBRARY_PATH", "LD_PRELOAD"}
_FOREIGN |= {f"DYLD_{name}" for name in ("LIBRARY_PATH", "FRAMEWORK_PATH", "INSERT_LIBRARIES", "FALLBACK_LIBRARY_PATH")}
_FOREIGN |= {f"PIP_{name}" for name in ("TARGET", "PREFIX", "ROOT", "USER", "PYTHON", "DRY_RUN", "CONSTRAINT")}
_FOREIGN |= {f"PIP_{name}" for name in ("REQUIREMENT", "REQUIRE_VIRTUALENV", "NO_BINARY", "ONLY_BINARY", "EDITABLE")}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables without those that affect another Python, plus `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("PYTHON") and name.upper() not in _FOREIGN
    }
    return kept | {"PYTHONNOUSERSITE": "1"} | dict(extra or {})


class Process:
    """A running program in its own process group, so that Ctrl-C in Blender's terminal does not reach it.

    On Windows it is ended when Blender ends. On other systems its stdin ends then, which the program must handle.
    The start can take seconds (virus scanners), so do not start one on Blender's main thread.
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
        """env: all of its variables (see `environment`). Raises OSError if it cannot be started."""
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
        self._popen = subprocess.Popen(
            list(command), cwd=cwd, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, **group
        )
        self.timed_out = False
        self._job_object: _JobObject | None = None
        if sys.platform == "win32":
            self._job_object = _JobObject(int(self._popen._handle))  # type: ignore[attr-defined]

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def stdin(self) -> BinaryIO:
        assert self._popen.stdin is not None, "stdin is not a pipe"
        return cast(BinaryIO, self._popen.stdin)

    @property
    def stdout(self) -> BinaryIO:
        assert self._popen.stdout is not None, "stdout is not a pipe"
        return cast(BinaryIO, self._popen.stdout)

    @property
    def stderr(self) -> IO[bytes]:
        assert self._popen.stderr is not None, "stderr is not a pipe"
        return self._popen.stderr

    def kill(self) -> None:
        """Kill it and its child processes. Does nothing if it has ended."""
        if self._popen.poll() is not None:
            return
        with contextlib.suppress(OSError):
            if self._job_object:
                self._job_object.terminate()
            else:
                os.killpg(self._popen.pid, signal.SIGKILL)

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code (negative: the signal that ended it); None if it still runs after `seconds`."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def answer(self, seconds: float) -> bytes | None:
        """Its stdout if it ends with exit code 0 within `seconds`, otherwise None. It is killed after `seconds`.

        `timed_out` then says whether it was killed.
        """
        try:
            output, _ = self._popen.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.timed_out = True
            self.kill()
            output, _ = self._popen.communicate()
        return output if self._popen.returncode == 0 else None


class Log:
    """The last lines that a program wrote, in memory, and more of them in a file of at most `size` bytes.

    A full file is renamed to NAME.1. Errors of the disk are ignored.
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
        """The last lines, including notes."""
        return self._with_partial(self._lines)

    @property
    def latest(self) -> tuple[str, ...]:
        """The last lines since the last note."""
        return self._with_partial(self._latest)

    @property
    def last_line(self) -> str:
        """The last line since the last note that is not blank; the error of a Python traceback."""
        return next((line.strip() for line in reversed(self.latest) if line.strip()), "")

    def note(self, text: str) -> None:
        """Add a line with the time."""
        start = "\n" if self._partial else ""
        self.write(f"{start}[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}\n".encode())
        with self._lock:
            self._latest.clear()

    def write(self, data: bytes) -> None:
        """Add output of the program, which may end within a line."""
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
        """Read a stream to its end and close it."""
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
    """A line as a terminal shows it: only the text after the last carriage return."""
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
    """A Windows job object: it ends a process and its descendants when it is closed, as it is when Blender ends."""

    _KILL_ON_CLOSE, _EXTENDED_LIMITS = 0x2000, 9

    def __init__(self, process: int) -> None:
        """process: its handle. If Windows refuses the job, the process still ends with its stdin."""
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
