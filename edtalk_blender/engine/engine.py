"""Find, check, remove and report the engine, which is the worker's Python environment. No bpy.

`find` only looks at a few files, so that panels can call it. installation.py creates the engine and marks one that is
incomplete:

    <engine>/              a copy of Blender's Python with the packages, or a virtual environment, see interpreters.py
    <engine>/.incomplete   why it is not complete; removed when it is
    <engine>/.stamp        hash and names of the requirements files that it was installed from

<engine> is <user folder>/engine, except on Windows (see `place`).
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import itertools
import os
import platform
import re
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...inference.contract.errors import EDTalkError
from . import lock
from .check import Finding

VARIABLE = "EDTALK_WORKER_PYTHON"
FOLDER, DOWNLOADS, INSTALLER = "engine", "downloads", "installer"  # in the extension's own folder
MARKER, STAMP = ".incomplete", ".stamp"  # in the engine's folder
_WINDOWS = sys.platform == "win32"
_INSTALL = "Press Install Engine in the EDTalk tab or in the extension's preferences."
_REPAIR = "Press Repair Engine in the EDTalk tab or in the extension's preferences."


class State(enum.Enum):
    """MISSING: there is none. INCOMPLETE: its installation did not finish. BROKEN: it has no interpreter, or a chosen
    Python lacks packages. OUTDATED: it was installed for another version of the extension and may work. UNCHECKED: a
    chosen Python whose packages are being checked."""

    READY = "ready"
    MISSING = "not installed"
    INCOMPLETE = "not completely installed"
    BROKEN = "broken"
    OUTDATED = "out of date"
    UNCHECKED = "being checked"


@dataclass(frozen=True)
class Engine:
    """The engine that was found.

    root: the extension's folder. python: the interpreter, None if there is none. reason, hint: why it is not READY and
    the next step, else "". origin: where it was found: "preferences", the name of the environment variable, "checkout"
    or "installed". made_from: the lock that it was installed from, relative to `root`, "" if unknown.
    """

    state: State
    root: Path
    python: Path | None = None
    reason: str = ""
    hint: str = ""
    origin: str = "installed"
    made_from: str = ""
    versions: str = ""

    @property
    def usable(self) -> bool:
        return self.state in (State.READY, State.OUTDATED, State.UNCHECKED)

    @property
    def chosen(self) -> bool:
        """Whether the user chose this Python."""
        return self.origin in ("preferences", VARIABLE)

    def command(self, *options: str) -> tuple[str, ...]:
        """The command that starts the worker, to run in `root`. options: see `python -m inference worker --help`.

        Raises EDTalkError(kind="engine") with the reason if the engine is not usable.
        """
        if not self.usable:
            raise EDTalkError(self.reason, self.hint, "engine")
        return (str(self.python), "-X", "utf8", "-m", "inference", "worker", *options)


def find(root: Path, user_dir: Path, preferred: str | Path = "") -> Engine:
    """The engine to use: that of the preferences, of the environment variable, of a checkout, or the installed one.

    root: the extension's folder, which contains `inference`. preferred: an interpreter or the folder of an environment;
    if it does not exist the engine is BROKEN, and no other is used instead. Starts no process.
    """
    for chosen, origin in ((preferred, "preferences"), (os.environ.get(VARIABLE, ""), VARIABLE)):
        if str(chosen):
            return _chosen(root, Path(chosen).expanduser(), origin)
    checkout = root / ".venv" / "worker"
    if checkout.is_dir():
        return _environment(root, checkout, "checkout", f"Run setup.sh in {root}.")
    return _environment(root, place(user_dir), "installed", _REPAIR)


def place(user_dir: Path) -> Path:
    """The folder of the installed engine.

    On Windows it is a short path below the local application data, one for each user folder: some packages contain
    paths of 167 characters, and Windows allows 259 in all. See LONGEST in installation.py.
    """
    local = os.environ.get("LOCALAPPDATA", "")
    if not _WINDOWS or not local:
        return user_dir / FOLDER
    return Path(local, "EDTalk", hashlib.sha256(str(user_dir).lower().encode("utf-8", "replace")).hexdigest()[:8])


def _chosen(root: Path, path: Path, origin: str) -> Engine:
    """An environment of the user's, of which only the interpreter is checked."""
    python = interpreter(path) if path.is_dir() else path
    if python.is_file() and os.access(python, os.X_OK):
        return Engine(State.READY, root, python, origin=origin)
    where = "in the preferences" if origin == "preferences" else f"by {origin}"
    hint = (
        "Choose a Python interpreter or the folder of an environment, or clear the setting to use the installed engine."
    )
    return Engine(State.BROKEN, root, None, f"The engine set {where}, {python}, is not a program.", hint, origin)


def _environment(root: Path, folder: Path, origin: str, repair: str) -> Engine:
    python = interpreter(folder)

    def found(state: State, reason: str, hint: str = repair) -> Engine:
        return Engine(state, root, python if python.exists() else None, reason, hint, origin)

    if not folder.is_dir():
        return found(State.MISSING, "The engine is not installed.", _INSTALL)
    if (why := _read(folder / MARKER)) is not None:
        return found(State.INCOMPLETE, f"The engine's installation did not finish: {why or 'it was interrupted.'}")
    if not python.exists():
        return found(State.BROKEN, f"The engine is broken: its interpreter {python} does not exist.")
    if (home := _home(folder)) and not home.is_dir():
        return found(State.BROKEN, f"The engine is broken: the Python in {home} that it uses was removed.")
    stamp = _read(folder / STAMP)
    if stamp is None:
        return found(State.INCOMPLETE, "The engine's installation did not finish: it was interrupted.")
    hash, *files = stamp.replace(" - ", " ").split() or [""]  # sha256sum writes the dash
    if not files or lock.hash_of(root, files) != hash:
        return found(State.OUTDATED, "The engine was installed for another version of this extension.")
    return Engine(State.READY, root, python, origin=origin, made_from=files[0], versions=_locked(root, files[0]))


def _locked(root: Path, file: str) -> str:
    """The versions that a lock file gives, for the user."""
    python = re.search(r"-py(\d)(\d+)\.txt$", file)
    with contextlib.suppress(EDTalkError):
        found = {package.name: package.version for package in lock.parse(root, Path(file))}
        shown = ", ".join(f"{name} {found[name]}" for name in ("torch", "numpy") if name in found)
        return f"Python {python[1]}.{python[2]}, {shown}" if python and shown else shown
    return ""


def checked(engine: Engine, finding: Finding | None) -> Engine:
    """A chosen engine after the check of its packages. finding: None while they are being checked."""
    if finding is None:
        return replace(engine, state=State.UNCHECKED)
    if not finding.problem:
        return replace(engine, versions=finding.versions)
    where = "in the preferences" if engine.origin == "preferences" else f"by {engine.origin}"
    reason = f"The Python set {where}, {engine.python}, cannot run the engine: {finding.problem}."
    hint = "Choose another Python, or clear the setting to use the installed engine."
    return replace(engine, state=State.BROKEN, reason=reason, hint=hint, versions=finding.versions)


def _home(folder: Path) -> Path | None:
    """The folder of the Python that a virtual environment uses, None for another kind of environment."""
    for line in (_read(folder / "pyvenv.cfg") or "").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "home" and value.strip():
            return Path(value.strip())
    return None


def interpreter(folder: Path) -> Path:
    """Path of the Python of an environment, or of a Python folder as Blender brings it."""
    if not _WINDOWS:
        return folder / "bin" / "python"
    copied = folder / "bin" / "python.exe"
    return copied if copied.exists() else folder / "Scripts" / "python.exe"


# ------------------------------------------------------------------------------------------------ removing


def uninstall(user_dir: Path) -> None:
    """Remove the installed engine and its downloads. Their folders are renamed at once and deleted in a thread."""
    set_aside(place(user_dir))
    set_aside(user_dir / INSTALLER)  # left by an installation that was killed
    remove_downloads(user_dir)


def remove_downloads(user_dir: Path) -> None:
    """Remove the downloads; the files are deleted in a thread."""
    set_aside(user_dir / DOWNLOADS)
    threading.Thread(target=sweep, args=(user_dir,), name="edtalk removal", daemon=True).start()


def downloaded(user_dir: Path) -> int:
    """Size of the downloads in bytes."""
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in (user_dir / DOWNLOADS).rglob("*") if file.is_file())
    return 0


def set_aside(folder: Path) -> None:
    """Rename a folder so that `sweep` deletes it, if it exists. Raises EDTalkError if it is in use."""
    try:
        number = next(
            number for number in itertools.count() if not folder.with_name(f"{folder.name}.old{number}").exists()
        )
        folder.rename(folder.with_name(f"{folder.name}.old{number}"))
    except FileNotFoundError:
        pass
    except OSError as error:
        message = f"{folder} cannot be removed: {error.strerror}."
        hint = "Close other Blender windows that use the engine, then try again."
        raise EDTalkError(message, hint, "disk") from error


def sweep(user_dir: Path) -> None:
    """Delete the folders that `set_aside` renamed."""
    for folder in {user_dir, place(user_dir).parent}:
        for old in folder.glob("*.old*"):
            shutil.rmtree(old, ignore_errors=True)


# ------------------------------------------------------------------------------------------------ reporting


def report(
    engine: Engine,
    facts: Mapping[str, object] | None = None,
    failure: EDTalkError | None = None,
    log: Sequence[str] = (),
) -> str:
    """Text for a bug report: system, `facts` (versions, state of the client, its hello), engine, error, log.

    The path of the home folder is replaced by ~, because reports are public.
    """
    lines = ["EDTalk engine report", f"{'system':<16} {platform.platform()} {platform.machine()}"]
    entries = {"Blender's Python": platform.python_version()} | dict(facts or {})
    entries |= {"engine": engine.state.value, "engine's Python": engine.python, "found in": engine.origin}
    entries |= {"versions": engine.versions, "reason": engine.reason, "extension": engine.root}
    entries |= {"installed from": engine.made_from, "backends here": ", ".join(lock.offered(engine.root)) or "none"}
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
