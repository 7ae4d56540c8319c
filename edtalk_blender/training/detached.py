"""Programs that keep running when Blender quits, found again by process number and start time. No bpy."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..engine.interpreters import find_program
from ..engine.process import Process, environment

_children: dict[int, subprocess.Popen[bytes]] = {}  # those of this Blender, which must be waited for when they end


def start(command: Sequence[str], *, cwd: Path, log: Path) -> tuple[int, str]:
    """Start a program at a low priority, with its output appended to a file. Returns its number and start time.

    It gets no signal and no end of input when Blender or its terminal ends. The start can take seconds (virus
    scanners), so do not call this on Blender's main thread. Raises OSError if it cannot be started.
    """
    with log.open("ab") as output:
        process = _popen(list(command), cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, stdout=output)
    _children[process.pid] = process
    return process.pid, start_time(process.pid)


def _popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
        flags |= subprocess.BELOW_NORMAL_PRIORITY_CLASS
        with suppress(OSError):  # refused if the program that started Blender keeps its processes together
            free = flags | subprocess.CREATE_BREAKAWAY_FROM_JOB
            return subprocess.Popen(command, stderr=subprocess.STDOUT, creationflags=free, **options)
        return subprocess.Popen(command, stderr=subprocess.STDOUT, creationflags=flags, **options)
    if nice := find_program("nice"):  # it becomes the program, with the same number
        command = [str(nice), "-n", "10", *command]
    return subprocess.Popen(command, stderr=subprocess.STDOUT, start_new_session=True, **options)


def is_running(pid: int, started: str) -> bool:
    """Whether the program with this number and start time runs. The number alone may be another program's by now."""
    return bool(pid > 0 and started and start_time(pid) == started)


def kill(pid: int, started: str) -> None:
    """End the program and its child processes at once, if it still runs."""
    if not is_running(pid, started):
        return
    with suppress(OSError):
        if sys.platform == "win32":
            Process(["taskkill", "/F", "/T", "/PID", str(pid)]).wait(20)
        else:
            os.killpg(pid, signal.SIGKILL)


def start_time(pid: int) -> str:
    """When a running program was started, as text that only equals itself; "" if there is no such program."""
    if (child := _children.get(pid)) and child.poll() is not None:
        return ""
    if sys.platform == "win32":
        return _start_time_on_windows(pid)
    if sys.platform == "linux":
        return _start_time_on_linux(pid)
    answer = Process(["ps", "-o", "state=,lstart=", "-p", str(pid)], env=environment({"LC_ALL": "C"})).answer(10)
    state, _, started = (answer or b"").decode("ascii", "replace").strip().partition(" ")
    return "" if state.startswith("Z") else started.strip()


def _start_time_on_linux(pid: int) -> str:
    """The time of the process's start in ticks since the computer was started, and the ID of that start."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else f"{boot} {fields[19].decode()}"


def _start_time_on_windows(pid: int) -> str:
    limited_information, still_active = 0x1000, 259
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.OpenProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.OpenProcess(limited_information, False, pid))
    if not process:
        return ""
    code, times = ctypes.c_uint32(), [ctypes.c_uint64() for _ in range(4)]  # created, ended, in the kernel, outside
    try:
        runs = kernel.GetExitCodeProcess(process, ctypes.byref(code)) and code.value == still_active
        known = runs and kernel.GetProcessTimes(process, *map(ctypes.byref, times))
        return str(times[0].value) if known else ""
    finally:
        kernel.CloseHandle(process)
