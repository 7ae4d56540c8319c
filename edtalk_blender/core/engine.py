"""The worker's own Python: where it is, whether it is as it should be, how it is installed and repaired. No bpy.

`find` looks at a few files and is fit for drawing code. An `Installation` works in a thread of its own; it uses the
network only if told `online=True`, and what it could not finish is marked so that nobody takes it for an engine:

    <user folder>/engine/              a virtual environment
    <user folder>/engine/.incomplete   why it is not finished; there until it is
    <user folder>/engine/.stamp        hash of the requirements that it was installed from
"""

from __future__ import annotations

import atexit
import contextlib
import enum
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...inference.errors import EDTalkError, disk_error
from .process import Log, Process, environment

logger = logging.getLogger(__name__)

VARIABLE = "EDTALK_WORKER_PYTHON"
PYTHON = (3, 11)  # what the requirements are pinned for
NEEDED = 3 * 10**9  # bytes of disk, with a little to spare
_WINDOWS = sys.platform == "win32"
_REQUIREMENTS = Path("wheels", "requirements-worker.txt")
_DEVELOPMENT = Path("wheels", "requirements-development.txt")  # a checkout's environment holds these too
_FOLDER, _MARKER, _STAMP = "engine", ".incomplete", ".stamp"
_INSTALL = "Install the engine in the extension's preferences."
_REPAIR = "Repair the engine in the extension's preferences."


class State(enum.Enum):
    """MISSING: nothing there.  INCOMPLETE: an installation was not finished.  BROKEN: the interpreter is not there.
    OUTDATED: installed for another version of the extension; may work."""

    READY = "ready"
    MISSING = "not installed"
    INCOMPLETE = "not completely installed"
    BROKEN = "broken"
    OUTDATED = "out of date"


@dataclass(frozen=True)
class Engine:
    """What was found.

    python: the interpreter, None if there is none.  reason, hint: a sentence and the next step, "" when READY.
    origin: "preferences", the name of the environment variable, "checkout" or "installed".
    """

    state: State
    root: Path
    python: Path | None = None
    reason: str = ""
    hint: str = ""
    origin: str = "installed"

    @property
    def usable(self) -> bool:
        return self.state in (State.READY, State.OUTDATED)

    def command(self, *options: str) -> tuple[str, ...]:
        """What starts the worker, in `root`; options as `python -m inference worker --help` lists them.

        Raises EDTalkError(kind="engine") with the reason when there is nothing to start.
        """
        if not self.usable:
            raise EDTalkError(self.reason, self.hint, "engine")
        return (str(self.python), "-X", "utf8", "-m", "inference", "worker", *options)


def find(root: Path, user_dir: Path, preferred: str | Path = "") -> Engine:
    """The engine to use: the one chosen in the preferences, by the environment variable, a checkout's, the installed.

    root: the extension's folder, where `inference` is.  preferred: an interpreter or the folder of an environment; one
    that was chosen and is not there is BROKEN, and no other is taken instead. Runs nothing.
    """
    for chosen, origin in ((preferred, "preferences"), (os.environ.get(VARIABLE, ""), VARIABLE)):
        if str(chosen):
            return _chosen(root, Path(chosen).expanduser(), origin)
    checkout = root / ".venv" / "worker"
    if checkout.is_dir():
        hint = f"Run setup.sh in {root}."
        return _environment(root, checkout, requirements_hash(root, _REQUIREMENTS, _DEVELOPMENT), "checkout", hint)
    return _environment(root, user_dir / _FOLDER, requirements_hash(root), "installed", _REPAIR)


def _chosen(root: Path, path: Path, origin: str) -> Engine:
    """Somebody else's environment, of which nothing is known but whether its interpreter is there."""
    python = interpreter(path) if path.is_dir() else path
    if python.is_file() and os.access(python, os.X_OK):
        return Engine(State.READY, root, python, origin=origin)
    where = "in the preferences" if origin == "preferences" else f"by {origin}"
    hint = "Choose a Python interpreter or the folder of an environment, or clear the setting to use the default."
    return Engine(State.BROKEN, root, None, f"The engine set {where}, {python}, is no program.", hint, origin)


def _environment(root: Path, folder: Path, wanted: str, origin: str, mend: str) -> Engine:
    python = interpreter(folder)

    def found(state: State, reason: str, hint: str = mend) -> Engine:
        return Engine(state, root, python if python.exists() else None, reason, hint, origin)

    if not folder.is_dir():
        return found(State.MISSING, "The engine is not installed.", _INSTALL)
    if (why := _read(folder / _MARKER)) is not None:
        return found(State.INCOMPLETE, f"The engine's installation was not finished: {why or 'it was interrupted.'}")
    if not python.exists():
        return found(State.BROKEN, f"The engine is broken: its interpreter {python} does not exist.")
    stamp = _read(folder / _STAMP)
    if stamp is None:
        return found(State.INCOMPLETE, "The engine's installation was not finished: it was interrupted.")
    if stamp.split()[:1] != [wanted]:
        return found(State.OUTDATED, "The engine was installed for another version of this extension.")
    return Engine(State.READY, root, python, origin=origin)


def interpreter(folder: Path) -> Path:
    """Where the Python of a virtual environment is."""
    return folder / "Scripts" / "python.exe" if _WINDOWS else folder / "bin" / "python"


def requirements_hash(root: Path, *files: Path) -> str:
    """SHA-256 of the requirement files one after another, as setup.sh has it; "" if one is not there."""
    try:
        return hashlib.sha256(b"".join((root / file).read_bytes() for file in files or (_REQUIREMENTS,))).hexdigest()
    except OSError:
        return ""


def find_python() -> Path | None:
    """A Python of the version needed that can make environments; asks each candidate, which takes a moment.

    Blender's own, where it has the version, comes last: an environment made from it ends with that Blender.
    """
    name = ".".join(map(str, PYTHON))
    candidates = [[f"python{name}"], ["py", f"-{name}"], ["python3"], ["python"]]
    if Path(sys.executable or "blender").name.startswith("python"):
        candidates.append([sys.executable])
    question = (
        f"import sys, venv, ensurepip; sys.version_info[:2] == {PYTHON} or sys.exit(1); "
        "sys.stdout.buffer.write(sys.executable.encode('utf-8', 'surrogateescape'))"
    )
    for candidate in candidates:
        program = shutil.which(candidate[0])
        if program:
            with contextlib.suppress(OSError):
                answer = Process([program, *candidate[1:], "-I", "-c", question], env=environment()).answer(20)
                if answer:
                    return Path(answer.decode("utf-8", "surrogateescape"))
    return None


# ------------------------------------------------------------------------------------------------ installing


class Installation:
    """Makes `<user folder>/engine` anew, in a thread; the attributes tell how it goes.

    phase: what is being done.  done, total: packages, while they are installed.  log: what the steps say.
    finished, then cancelled or error (an EDTalkError), or neither: the engine is READY.
    """

    def __init__(
        self,
        root: Path,
        user_dir: Path,
        *,
        online: bool = False,
        wheels: Path | None = None,
        python: Path | None = None,
    ) -> None:
        """online: whether the network may be used.  wheels: a folder to install from instead.  python: the interpreter
        to make the environment from, by default one that is found, or uv's."""
        self.phase, self.done, self.total = "", 0, 0
        self.log = Log(user_dir / "engine-installation.log")
        self.error: EDTalkError | None = None
        self.cancelled = False
        self._root, self._user_dir, self._folder = root, user_dir, user_dir / _FOLDER
        self._online, self._wheels, self._python = online and wheels is None, wheels, python
        self._process: Process | None = None
        self._lock = threading.Lock()  # guards _process against being started while cancelled
        self._thread = threading.Thread(target=self._run, name="edtalk installation", daemon=True)

    @property
    def finished(self) -> bool:
        return self._thread.ident is not None and not self._thread.is_alive()

    def start(self) -> None:
        """Begin; no worker may be running from the old engine. Raises EDTalkError if there is nothing to begin with."""
        if not requirements_hash(self._root):
            message = f"{self._root / _REQUIREMENTS} does not exist."
            raise EDTalkError(message, "Install the extension again.", "engine")
        if self._wheels and not any(self._wheels.glob("*.whl")):
            message = f"{self._wheels} holds no Python packages: expected a folder of .whl files."
            raise EDTalkError(message, "Choose another folder.", "engine")
        if not self._wheels and not self._online:
            message = "Installing the engine needs the network, which Blender is not allowed to use."
            hint = "Allow Online Access in Preferences > System, or install from a folder of packages."
            raise EDTalkError(message, hint, "offline")
        atexit.register(self.cancel)
        self._thread.start()

    def cancel(self) -> None:
        """Stop soon; what is there by then is left marked as incomplete."""
        with self._lock:
            self.cancelled = True
            process = self._process
        if process:
            process.kill()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, for command lines and tests; returns whether it has come."""
        self._thread.join(timeout)
        return self.finished

    def _run(self) -> None:
        try:
            self._install()
            self.cancelled = False  # too late
        except _CancelledError:
            self._mark("it was cancelled.")
        except Exception as error:
            self.cancelled, self.error = False, _as_sentence(error, self._folder)
            self.log.note(str(self.error))
            self._mark(self.error.message)
        finally:
            atexit.unregister(self.cancel)

    def _install(self) -> None:
        self._enter("looking for Python")
        tool = self._find_tool()
        self._enter("removing the old engine")
        _set_aside(self._folder)
        _sweep(self._user_dir)
        self._folder.mkdir(parents=True)
        self._mark("")
        check_space(self._folder)
        self._enter("making the environment")
        self._call(tool.make(self._folder, self._online), "The engine's environment could not be made")
        self._enter("installing packages")
        self._install_packages(tool)
        self._enter("testing")
        python = str(interpreter(self._folder))
        test = [python, "-X", "utf8", "-m", "inference", "selftest"]
        self._call(test, "The engine was installed but does not work", cwd=self._root)
        (self._folder / _STAMP).write_text(requirements_hash(self._root) + "\n")
        (self._folder / _MARKER).unlink()
        self.phase = "done"

    def _find_tool(self) -> _Pip | _Uv:
        python = self._python or find_python()
        if python:
            return _Pip(python)
        if uv := shutil.which("uv"):
            return _Uv(uv)
        name = ".".join(map(str, PYTHON))
        hint = f"Install Python {name} (on Debian and Ubuntu python{name}-venv too) or uv, or choose one by hand."
        raise EDTalkError(f"Python {name} with its venv module was not found on this computer.", hint, "engine")

    def _install_packages(self, tool: _Pip | _Uv) -> None:
        requirements = self._root / _REQUIREMENTS
        lines = requirements.read_text(encoding="utf-8").splitlines()
        self.total = sum(bool(line.strip()) and not line.startswith(("#", "-")) for line in lines)
        command = tool.install(self._folder, requirements, self._wheels)
        if self._online:  # downloads break; pip goes on from what it has
            with contextlib.suppress(EDTalkError):
                self._call(command, "")
                return
            self._go_on()
            self.log.note("once more")
        self._call(command, "The engine's packages could not be installed")

    def _call(self, command: Sequence[str], failure: str, cwd: Path | None = None) -> None:
        """Run one step to its end; raises EDTalkError beginning with `failure`, or _CancelledError."""
        self.done = 0
        self.log.note(shlex.join(command))
        with self._lock:
            self._go_on()
            process = self._process = Process(
                command, cwd=cwd or self._user_dir, env=environment(), stderr=subprocess.STDOUT
            )
        with process.stdout:
            for line in process.stdout:
                self.log.write(line)
                self.done = min(self.done + line.startswith(b"Collecting "), self.total)
        code = process.wait()
        self._go_on()
        if code:
            raise _explained(failure, code, self.log, self._online)

    def _enter(self, phase: str) -> None:
        self._go_on()
        self.phase = phase

    def _go_on(self) -> None:
        if self.cancelled:
            raise _CancelledError

    def _mark(self, why: str) -> None:
        """Leave the reason for the next Blender; if even that fails there is no stamp, which tells as much."""
        with contextlib.suppress(OSError):
            if self._folder.is_dir():
                (self._folder / _MARKER).write_text(why, encoding="utf-8")


class _CancelledError(Exception):
    """Raised between two steps."""


@dataclass(frozen=True)
class _Pip:
    """Python's own tools; the environment brings its pip along."""

    python: Path

    def make(self, folder: Path, online: bool) -> list[str]:
        return [str(self.python), "-I", "-m", "venv", str(folder)]

    def install(self, folder: Path, requirements: Path, wheels: Path | None) -> list[str]:
        # Isolated, pip heeds no settings of the user's, which might name an index or a proxy.
        source = ["--isolated", "--no-index", "--find-links", str(wheels)] if wheels else ["--retries", "5"]
        pip = [str(interpreter(folder)), "-m", "pip", "--disable-pip-version-check", "install", "--no-input"]
        return [*pip, "--progress-bar", "off", *source, "--requirement", str(requirements)]


@dataclass(frozen=True)
class _Uv:
    """uv, which can bring its own Python; for where there is no other."""

    uv: str

    def make(self, folder: Path, online: bool) -> list[str]:
        offline = [] if online else ["--offline"]
        version = ".".join(map(str, PYTHON))
        return [self.uv, "venv", "--no-config", "--allow-existing", *offline, "--python", version, str(folder)]

    def install(self, folder: Path, requirements: Path, wheels: Path | None) -> list[str]:
        source = ["--offline", "--no-config", "--no-index", "--find-links", str(wheels)] if wheels else []
        python = str(interpreter(folder))
        return [self.uv, "pip", "install", "--no-progress", "--python", python, *source, "-r", str(requirements)]


def check_space(folder: Path) -> None:
    """Raise EDTalkError(kind="disk") if the disk of an existing folder has too little room for the engine."""
    free = shutil.disk_usage(folder).free
    if free < NEEDED:
        message = f"The engine needs {NEEDED / 1e9:.1f} GB of disk, {folder} has {free / 1e9:.1f} GB left."
        raise EDTalkError(message, "Free some space, or choose an engine on another disk in the preferences.", "disk")


def uninstall(user_dir: Path) -> None:
    """Remove the installed engine and nothing else; at once for everybody, its files a little later in a thread."""
    _set_aside(user_dir / _FOLDER)
    threading.Thread(target=_sweep, args=(user_dir,), name="edtalk removal", daemon=True).start()


def _set_aside(folder: Path) -> None:
    try:
        folder.rename(folder.with_name(f"{folder.name}.old-{time.time_ns()}"))
    except FileNotFoundError:
        pass
    except OSError as error:
        message = f"{folder} cannot be removed: {error.strerror}."
        hint = "Close other Blender windows that use the engine, then try again."
        raise EDTalkError(message, hint, "disk") from error


def _sweep(user_dir: Path) -> None:
    for old in user_dir.glob(f"{_FOLDER}.old-*"):
        shutil.rmtree(old, ignore_errors=True)


def _as_sentence(error: Exception, folder: Path) -> EDTalkError:
    if isinstance(error, EDTalkError):
        return error
    if isinstance(error, OSError):
        return disk_error(Path(error.filename or folder), error)
    logger.error("The installation failed.", exc_info=error)
    hint = "This is a bug: report it with the text of Copy Report."
    return EDTalkError(f"The installation failed ({type(error).__name__}: {error}).", hint, "bug")


_OFFLINE = ("NewConnectionError", "Failed to establish", "timed out", "ProxyError", "SSLError", "ConnectionReset",
            "dns error", "error sending request")  # fmt: skip


def _explained(failure: str, code: int, log: Log, online: bool) -> EDTalkError:
    """What a step that ended with an exit code said, and what is to be done."""
    lines = [line.strip() for line in log.latest if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    words = (errors or lines or [f"exit code {code}"])[-1].removeprefix("ERROR: ").rstrip(".")
    text = "\n".join(lines)
    if "No space left" in text or "WinError 112" in text:
        return EDTalkError(f"{failure}: the disk is full.", "Free some space, then repair the engine.", "disk")
    if online and any(sign in text for sign in _OFFLINE):
        hint = "Check the connection and try again, or install from a folder of packages."
        return EDTalkError(f"{failure}: the network failed ({words}).", hint, "network")
    return EDTalkError(f"{failure}: {words}.", "Try again; if it happens again, copy the report.", "engine")


# ------------------------------------------------------------------------------------------------ reporting


def report(
    engine: Engine,
    facts: Mapping[str, object] | None = None,
    failure: EDTalkError | None = None,
    log: Sequence[str] = (),
) -> str:
    """Text for a bug report: system, `facts` (versions, the client's state, its hello ...), engine, error, log.

    The user's home is written as ~, for reports are public.
    """
    lines = ["EDTalk engine report", f"{'system':<16} {platform.platform()} {platform.machine()}"]
    entries = {"Blender's Python": platform.python_version()} | dict(facts or {})
    entries |= {"engine": engine.state.value, "engine's Python": engine.python, "found in": engine.origin}
    entries |= {"reason": engine.reason, "extension": engine.root}
    entries |= {"requirements": requirements_hash(engine.root)[:12]}
    with contextlib.suppress(OSError):
        entries["free disk"] = f"{shutil.disk_usage(engine.root).free / 1e9:.1f} GB"
    lines += [f"{name:<16} {value}" for name, value in entries.items() if value not in (None, "")]
    if failure:
        lines += ["", f"{failure.kind}: {failure}"]
    if log:
        lines += ["", f"Last {len(log)} lines of the log:", *log]
    text, home = "\n".join(lines), os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 1 else text


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
