"""Trainings as jobs outside Blender: start, stop, resume and find them again. No bpy.

All state is in the folder of the job, see `inference.contract.training`. A list of these folders is in the user's
folder of the extension, so that another Blender finds them, whatever .blend is open.
"""

from __future__ import annotations

import enum
import json
import os
import platform
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...inference.contract.errors import EDTalkError, disk_error
from ...inference.contract.files import atomic_write
from ...inference.contract.training import JOB, LOG, STATUS, STOP, Settings
from . import detached

FORMAT = 1
INDEX = "trainings.json"  # in the user's folder: the folders of all jobs
_SILENT = 60.0  # seconds without a new status after which a training on another computer counts as ended
_LAST_WORDS = 2000  # bytes at the end of a log in which its error is looked for


class State(enum.Enum):
    """What a training is doing, by the names of its status file."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # it ended without saying so: the computer was switched off, or it was killed

    @property
    def is_active(self) -> bool:
        return self in (State.STARTING, State.RUNNING, State.STOPPING)


@dataclass(frozen=True)
class Job:
    """A training and its state when it was read.

    folder: its files. share: of the time, 0 to 1. psnr: of held-out frames in dB. sentence: what it is doing, or why it
    ended. hint: the next step after a failure. sheet, bank: files that exist, None before.
    """

    folder: Path
    settings: Settings
    state: State
    share: float = 0.0
    minutes_left: float | None = None
    step: int = 0
    psnr: float | None = None
    sentence: str = ""
    hint: str = ""
    sheet: Path | None = None
    bank: Path | None = None

    @property
    def name(self) -> str:
        return Path(self.settings.out).stem


@dataclass(frozen=True)
class _Process:
    """The process of a job.

    started: see `detached.start_time`. launched: seconds since 1970 when it was about to start. host: its computer.
    """

    pid: int
    started: str
    launched: float
    host: str = field(default_factory=platform.node)

    @property
    def is_here(self) -> bool:
        return self.host == platform.node()

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> _Process:
        """Raises EDTalkError if a value is missing or has another type."""
        try:
            return _Process(int(data["pid"]), str(data["started"]), float(data["launched"]), str(data["host"]))
        except (KeyError, TypeError, ValueError) as error:
            raise EDTalkError(f"The process of a training is not known ({error!r}).", "Start it again.") from error


# ------------------------------------------------------------------------------------------------ state


def read(folder: Path) -> Job:
    """The job in a folder. Raises EDTalkError if there is none."""
    data = _read_json(folder / JOB)
    if data.get("format") != FORMAT:
        raise EDTalkError(f"{folder} contains no training, or one of another version.", "Choose another folder.")
    stored = data.get("settings")
    settings = Settings.from_json(stored if isinstance(stored, dict) else {})
    settings = replace(settings, out=str(folder.with_suffix(".safetensors")))  # the folder may have been moved
    process = _Process.from_json(data)
    status = _read_json(folder / STATUS)
    if (_number(status, "started") or 0.0) < process.launched:
        status = {}  # of an earlier process
    job = Job(
        folder, settings, _state(folder, process, status), _number(status, "share") or 0.0,
        _number(status, "minutes_left"), int(_number(status, "step") or 0), _number(status, "psnr"),
        str(status.get("sentence", "")), str(status.get("hint", "")), _file(status, "sheet"), _file(status, "bank"),
    )  # fmt: skip
    return replace(job, sentence=_sentence(job, status))


def _state(folder: Path, process: _Process, status: Mapping[str, Any]) -> State:
    said = str(status.get("state", ""))
    if said in ("done", "stopped", "failed"):
        return State(said)
    if process.is_here:
        alive = detached.is_running(process.pid, process.started)
    else:
        alive = time.time() - (_number(status, "updated") or 0.0) < _SILENT
    if not alive:
        return State.INTERRUPTED if said else State.FAILED
    if (folder / STOP).exists():
        return State.STOPPING
    return State.RUNNING if said else State.STARTING


def _sentence(job: Job, status: Mapping[str, Any]) -> str:
    if job.state is State.STARTING:
        return "Starting."
    if job.state is State.STOPPING:
        return "Stopping. The best weights so far are written as a bank."
    if job.state is State.STOPPED:
        return "Stopped. The bank has the best weights so far." if job.bank else "Stopped before it could draw."
    if job.state is State.INTERRUPTED:
        return "The training ended unexpectedly. Press Resume to continue at its last checkpoint."
    if job.state is State.FAILED and not status:
        return f"The training could not start: {_last_line(job.folder / LOG)}"
    return job.sentence


def _last_line(log: Path) -> str:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST_WORDS))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
        if lines:
            return lines[-1].strip()
    return "it wrote no output."


def _read_json(path: Path) -> dict[str, Any]:
    """{} if the file is missing, damaged or contains something else."""
    with suppress(OSError, ValueError):
        data = json.loads(path.read_text(encoding="utf-8"))
        return data if isinstance(data, dict) else {}
    return {}


def _number(status: Mapping[str, Any], name: str) -> float | None:
    value = status.get(name)
    return float(value) if isinstance(value, int | float) else None


def _file(status: Mapping[str, Any], name: str) -> Path | None:
    value = status.get(name)
    return Path(value) if isinstance(value, str) and value and Path(value).is_file() else None


# ------------------------------------------------------------------------------------------------ starting and stopping


def check_new(settings: Settings) -> None:
    """Raise EDTalkError if a training with these settings cannot be started."""
    out = Path(settings.out)
    if not settings.consent:
        raise EDTalkError("The training needs your confirmation that you may use the recordings.")
    if not out.is_absolute() or not out.parent.is_dir():
        raise EDTalkError(f"The folder of the new bank, {out.parent}, does not exist.", "Choose another one.", "disk")
    if not (settings.work / JOB).exists():
        if out.exists():
            raise EDTalkError(f"{out} exists already.", "Choose another file name.", "disk")
        return
    job = read(settings.work)
    if job.state.is_active:
        raise EDTalkError(f"{job.name} is being trained already.", "Stop it first, or choose another file name.")
    same = replace(settings, minutes=job.settings.minutes, threads=job.settings.threads, consent=job.settings.consent)
    if same != job.settings:
        raise EDTalkError(
            f"{settings.work} belongs to a training with other clips or settings.", "Choose another file name."
        )


def launch(settings: Settings, python: Path, root: Path) -> None:
    """Start a training, or resume the one in its folder. Call it in a thread: it can take seconds.

    python: the engine's. root: the extension's folder. Raises EDTalkError if it cannot be started.
    """
    folder = settings.work
    command = [str(python), "-X", "utf8", "-m", "training", *settings.words()]
    launched = time.time()
    try:
        folder.mkdir(exist_ok=True)
        (folder / STOP).unlink(missing_ok=True)
        pid, started = detached.start(command, cwd=root, log=folder / LOG)
    except OSError as error:
        raise disk_error(folder, error) from error
    process = _Process(pid, started, launched)
    data = {"format": FORMAT, "settings": settings.to_json(), **vars(process)}
    with atomic_write(folder / JOB) as partial:
        partial.write_text(json.dumps(data, indent=1), encoding="utf-8")


def stop(job: Job) -> None:
    """Ask a training to stop; it writes the best weights so far as a bank. Raises EDTalkError of kind "disk"."""
    try:
        (job.folder / STOP).touch()
    except OSError as error:
        raise disk_error(job.folder / STOP, error) from error


def kill(job: Job) -> None:
    """End a training at once; its last checkpoint remains. Can take seconds, so call it in a thread."""
    process = _Process.from_json(_read_json(job.folder / JOB))
    if process.is_here:
        detached.kill(process.pid, process.started)


# ------------------------------------------------------------------------------------------------ list


class Jobs:
    """The list of all jobs, read by a thread every second while it is watched.

    index: the file that names their folders.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        self._found: tuple[Job, ...] = ()
        self._lock = threading.Lock()

    @property
    def found(self) -> tuple[Job, ...]:
        """The jobs when they were last read, newest first."""
        return self._found

    def refresh(self) -> tuple[Job, ...]:
        """Read all jobs. Folders that are not there, such as those of a disk that is not connected, are skipped."""
        found = []
        for folder in self.folders():
            with suppress(EDTalkError):
                found.append(read(folder))
        self._found = tuple(found)
        return self._found

    def folders(self) -> list[Path]:
        """The folders in the list, newest first."""
        listed = _read_json(self.index).get("folders")
        return [Path(name) for name in listed if isinstance(name, str)] if isinstance(listed, list) else []

    def add(self, folder: Path) -> None:
        """Put a folder at the start of the list. Raises EDTalkError of kind "disk"."""
        self._write([folder, *(other for other in self.folders() if other != folder)])

    def remove(self, folder: Path) -> None:
        """Take a folder out of the list; its files are kept. Raises EDTalkError of kind "disk"."""
        self._write([other for other in self.folders() if other != folder])

    def _write(self, folders: list[Path]) -> None:
        with self._lock, atomic_write(self.index) as partial:
            data = {"format": FORMAT, "folders": [os.fspath(folder) for folder in folders]}
            partial.write_text(json.dumps(data, indent=1), encoding="utf-8")
