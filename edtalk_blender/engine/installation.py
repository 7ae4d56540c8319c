"""Installs the engine in a thread: downloads and checks all packages, then replaces the old engine. No bpy.

    <user folder>/downloads/   downloaded packages. They are kept and not downloaded again; incomplete ones are
                               NAME.part. The folder can be copied to a computer without network access.
    <user folder>/installer/   temporary files of the installation
    <engine>/                  the engine, see engine.py

The engine gets Blender's own Python, see interpreters.py. The extension contains pip, which downloads the packages,
because pip uses the computer's settings for index, proxy and certificates. fetch.py runs it and resumes interrupted
downloads, also of earlier runs.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from ...inference.contract.errors import EDTalkError, disk_error
from . import gpu, interpreters, lock
from .engine import DOWNLOADS, INSTALLER, MARKER, STAMP, interpreter, place, set_aside, sweep
from .interpreters import Source
from .lock import Lock, Package
from .process import Log, Process, environment

logger = logging.getLogger(__name__)

LONGEST = 170  # characters of the longest path in a package, in torch
UNPACKED = 2.2  # size of an installed engine relative to its downloads
SPARE = 10**9  # bytes of disk that remain free
_MOST_UNPACKED = 4  # size of the packages in a .zip relative to the .zip; they are compressed themselves
REPLACING = "replacing the old engine"  # the phase that waits for `may_replace`
_SMALL = 8 * 10**6  # bytes; smaller packages are downloaded together, larger ones one by one
_QUIETLY = ("--disable-pip-version-check", "--no-input")
_WINDOWS_PATH = 259  # characters of a path, unless long paths are enabled
_FETCH = Path(__file__).with_name("fetch.py")
_PROGRESS = re.compile(rb"Progress (\d+) of (\d+)")


class Installation:
    """Creates the engine in a thread; the attributes give the progress.

    phase: the current step. done, total, unit: its progress, in MB or packages; total 0: not known. log: output of the
    steps. finished: it has ended; then `cancelled` is True, or `error` is set, or the engine is READY. If it fails
    before all packages are downloaded, the old engine remains. may_replace: an event that it waits for before it
    removes the old engine; set it when no worker uses that engine.
    """

    def __init__(
        self,
        root: Path,
        user_dir: Path,
        *,
        online: bool = False,
        wheels: Path | None = None,
        python: Path | None = None,
        backend: str = "auto",
        mirror: str = "",
        torch_index: str = "",
        hold: bool = False,
    ) -> None:
        """root: the extension's folder. user_dir: the extension's own folder. online: whether the network may be used.
        wheels: a folder or .zip to install from instead. python: the interpreter for the environment; default: see
        `interpreters.find`. backend: one of `lock.BACKENDS`, or "auto": chosen by the graphics card. mirror: index to
        use instead of pip's. torch_index: additional index for torch; the only one for the backend "other". hold:
        whether to wait for `may_replace`.
        """
        self.phase, self.unit, self.done, self.total = "", "", 0, 0
        self.log = Log(user_dir / "engine-installation.log")
        self.error: EDTalkError | None = None
        self.cancelled = False
        self.may_replace = threading.Event()
        if not hold:
            self.may_replace.set()
        self._root, self._user_dir, self._folder = root, user_dir, place(user_dir)
        self._downloads, self._installer = user_dir / DOWNLOADS, user_dir / INSTALLER
        self._online, self._wheels, self._python = online and wheels is None, wheels, python
        self._backend, self._mirror, self._torch_index = backend, mirror.strip(), torch_index.strip()
        self._replacing = False  # the old engine is removed, the new one is not complete
        self._process: Process | None = None
        self._guard = threading.Lock()  # protects _process: no process starts after `cancel`
        self._thread = threading.Thread(target=self._run, name="edtalk installation", daemon=True)

    @property
    def finished(self) -> bool:
        return self._thread.ident is not None and not self._thread.is_alive()

    def start(self) -> None:
        """Start the thread. Raises EDTalkError if the options do not allow an installation."""
        lock.pip(self._root)
        check_path(self._folder)
        if self._backend != "auto" or not lock.offered(self._root):
            lock.read(self._root, self._backend)
        if self._wheels and not _holds_wheels(self._wheels):
            message = f"{self._wheels} contains no Python packages. Expected a folder or .zip with .whl files."
            raise EDTalkError(message, "Choose another folder.", "engine")
        if not self._wheels and not self._online:
            message = "The installation needs the network, but online access is disabled in Blender."
            hint = "Press Allow Online Access, or install from a folder of packages."
            raise EDTalkError(message, hint, "offline")
        if self._backend == "other" and self._online and not self._torch_index:
            message = "Another graphics card needs the address of a package index with torch for it."
            raise EDTalkError(message, "Enter it under PyTorch Index in the extension's preferences.", "engine")
        atexit.register(self.cancel)
        self._thread.start()

    def cancel(self) -> None:
        """Stop soon. Downloads are kept; an engine that is not complete is marked as such."""
        with self._guard:
            self.cancelled = True
            process = self._process
        if process:
            process.kill()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most `timeout` seconds; returns whether it has ended."""
        self._thread.join(timeout)
        return self.finished

    def _run(self) -> None:
        try:
            self._install()
            self.cancelled = False  # it was cancelled after the last step
        except _CancelledError:
            self._mark("it was cancelled.")
        except Exception as error:
            self.cancelled, self.error = False, _as_edtalk_error(error, self._folder)
            self.log.note(str(self.error))
            self._mark(self.error.message)
        finally:
            atexit.unregister(self.cancel)
            shutil.rmtree(self._installer, ignore_errors=True)

    def _install(self) -> None:
        self._enter("looking for Python")
        source = self._find_source()
        self._user_dir.mkdir(parents=True, exist_ok=True)
        chosen = self._choose()
        check_space(self._user_dir, chosen)
        shutil.rmtree(self._installer, ignore_errors=True)
        self._installer.mkdir()
        if self._online:
            self._fetch(source.python, chosen)
        self._enter(REPLACING)
        while not self.may_replace.wait(0.1):
            self._check_cancelled()
        set_aside(self._folder)
        self._replacing = True
        sweep(self._user_dir)
        self._make_environment(source)
        self._install_packages(chosen)
        self._enter("testing")
        test = [str(interpreter(self._folder)), "-X", "utf8", "-m", "inference", "selftest"]
        self._call(test, "The engine was installed but does not work", cwd=self._root)
        (self._folder / STAMP).write_text(f"{lock.hash_of(self._root, [chosen.file])}  {chosen.file.as_posix()}\n")
        (self._folder / MARKER).unlink()
        self.phase = "done"

    def _find_source(self) -> Source:
        source = Source(self._python) if self._python else interpreters.find()
        if source:
            self.log.note(f"Python: {source.folder or source.python}")
            return source
        name = ".".join(map(str, interpreters.VERSION))
        hint = f"Install Python {name} (on Debian and Ubuntu with python{name}-venv), or use Blender from blender.org."
        raise EDTalkError(f"Blender's Python {name} cannot be run on its own.", hint, "engine")

    def _make_environment(self, source: Source) -> None:
        """Create the engine's folder with a Python and without packages."""
        self._folder.mkdir(parents=True)
        self._mark("")
        if source.folder:
            self._enter("copying Python")
            if interpreters.copy(source, self._folder):
                return
            self.log.note("the copy of Blender's Python does not run; a virtual environment uses it instead")
            shutil.rmtree(self._folder)
            self._folder.mkdir()
            self._mark("")
        self._enter("creating the environment")
        make = [str(source.python), "-I", "-m", "venv", "--without-pip", str(self._folder)]
        self._call(make, "The engine's environment could not be created")

    def _choose(self) -> Lock:
        """The lock to install; for a folder of packages, one whose packages are all there."""
        backends = [self._backend]
        if self._backend == "auto":
            self._enter("looking for a graphics card")
            backends = [backend for backend in lock.offered(self._root) if backend != "other"]
            proposed, why = gpu.backend(backends, gpu.probe())
            self.log.note(why)
            backends.sort(key=lambda backend: backend != proposed)
        if not self._wheels:
            return lock.read(self._root, backends[0])
        self._enter("checking the packages")
        if self._wheels.is_file():
            _unpack(self._wheels, self._downloads)
            self._wheels = self._downloads
        present = lock.hashes(self._wheels)
        for backend in backends:
            if not lock.missing(lock.read(self._root, backend).packages, present):
                return lock.read(self._root, backend)
        raise _incomplete(self._wheels, lock.read(self._root, backends[0]), present)

    def _fetch(self, python: Path, chosen: Lock) -> None:
        """Download the missing packages. pip checks their checksums; those of earlier downloads are checked here."""
        packages = chosen.packages
        self._enter("checking earlier downloads")
        self._downloads.mkdir(exist_ok=True)
        wanted = lock.missing(packages, lock.hashes(self._downloads))
        self._enter("downloading")
        before = sum(package.size for package in packages) - sum(package.size for package in wanted)
        self._count(before, sum(package.size for package in packages))
        for batch in _batches(wanted):
            command = self._download(python, self._downloads, "--no-deps", *self._source(), *self._written(batch))
            self._call_with_retry(command, "The engine's packages could not be downloaded", before)
            before += sum(package.size for package in batch)
            self._count(before)
        if chosen.unlocked:
            self._enter("downloading torch")
            self._fetch_unlocked(python, chosen.unlocked, packages)
        for part in self._downloads.glob("*.part"):  # incomplete downloads of another version
            part.unlink()

    def _fetch_unlocked(self, python: Path, unlocked: str, packages: Sequence[Package]) -> None:
        """Download torch and those of its dependencies that are not locked, from the index for torch.

        packages: already downloaded; used for its other dependencies.
        """
        folder = self._unlocked_folder(unlocked)
        folder.mkdir(exist_ok=True)
        for other in self._downloads.glob("other-*"):
            if other != folder:
                shutil.rmtree(other)
        same = self._installer / "same.txt"
        same.write_text("".join(f"{package.pinned}\n" for package in packages), encoding="utf-8")
        command = self._download(python, folder, "--index-url", self._torch_index, "--constraint", str(same))
        for wheel in self._downloads.glob("*.whl"):
            if not wheel.name.startswith("torch-"):
                command += ["--find-links", str(wheel)]
        self._call_with_retry([*command, unlocked], "torch could not be downloaded")

    def _unlocked_folder(self, unlocked: str) -> Path:
        """A folder for each index and version, because their files may have the same names."""
        return self._downloads / f"other-{hashlib.sha256(f'{self._torch_index} {unlocked}'.encode()).hexdigest()[:8]}"

    def _download(self, python: Path, into: Path, *what: str) -> list[str]:
        return self._pip(python, "download", "--no-cache-dir", "--only-binary", ":all:", "--dest", str(into), *what)

    def _install_packages(self, chosen: Lock) -> None:
        """Install from the folder; pip checks each locked file again."""
        self._enter("checking packages")
        self.unit, self.total = "", len(chosen.packages)
        # No settings of the user's pip: they may name an index, a proxy or another folder.
        into = self._pip(interpreter(self._folder), "install", "--progress-bar", "off")
        source = ["--isolated", "--no-index", "--find-links", str(self._wheels or self._downloads)]
        # Python compiles the few modules that are used when it first imports them.
        into += ["--no-compile", "--no-warn-script-location"]
        command = [*into, "--no-deps", *source, *self._written(chosen.packages)]
        self._call(command, "The engine's packages could not be installed")
        if chosen.unlocked:
            self._enter("installing torch")
            torch = chosen.unlocked
            if self._online:
                folder = self._unlocked_folder(torch)
                source += ["--find-links", str(folder)]
                torch = next(map(str, folder.glob("torch-*.whl")), torch)
            self._call([*into, "--only-binary", ":all:", *source, torch], "torch could not be installed")

    def _pip(self, python: Path, *what: str) -> list[str]:
        return [str(python), "-I", "-X", "utf8", str(_FETCH), str(lock.pip(self._root)), *what, *_QUIETLY]

    def _source(self) -> list[str]:
        """pip's options for the indexes of the preferences."""
        mirror = ["--index-url", self._mirror] if self._mirror else []
        return mirror + (["--extra-index-url", self._torch_index] if self._torch_index else [])

    def _written(self, packages: Sequence[Package]) -> list[str]:
        """pip's options for these packages, with their checksums."""
        path = self._installer / "wanted.txt"
        path.write_text("".join(f"{package}\n" for package in packages), encoding="utf-8")
        return ["--require-hashes", "--requirement", str(path)]

    def _call_with_retry(self, command: Sequence[str], failure: str, before: int = 0) -> None:
        """`_call`, repeated once after a failure if the network is used."""
        if self._online:
            with contextlib.suppress(EDTalkError):
                self._call(command, failure, before=before)
                return
            self._check_cancelled()
            self.log.note("trying again")
        self._call(command, failure, before=before)

    def _call(self, command: Sequence[str], failure: str, cwd: Path | None = None, before: int = 0) -> None:
        """Run a command to its end. Raises EDTalkError with a message that starts with `failure`, or _CancelledError.

        before: bytes that were downloaded before, added to the progress.
        """
        self.log.note(
            re.sub(r"//[^/@\s]+@", "//***@", shlex.join(command))
        )  # the address of a mirror may contain a password
        # pip's temporary files: on a disk with enough space, removed with the installer.
        extra = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self._installer))
        if "--isolated" in command:
            extra["PIP_CONFIG_FILE"] = os.devnull  # --isolated still reads the computer's settings
        with self._guard:
            self._check_cancelled()
            process = self._process = Process(
                command,
                cwd=cwd or self._user_dir,
                env=environment(extra),
                stdin=subprocess.PIPE,  # its end ends the command when Blender ends
                stderr=subprocess.STDOUT,
            )
        with process.stdin, process.stdout:
            for line in process.stdout:
                if match := _PROGRESS.match(line):
                    now, size = map(int, match.groups())
                    self._count(before + now)
                    before += size if now == size else 0
                    continue
                self.log.write(line)
                if self.total and not self.unit:
                    signs = (b"Processing ", b"Collecting ", b"Unpacked ")
                    self.done = min(self.done + line.startswith(signs), self.total)
                    if line.startswith(b"Installing collected packages"):
                        self.phase, self.done = "unpacking packages", 0
        code = process.wait()
        self._check_cancelled()
        if code:
            raise _explained(failure, code, self.log, self._online)

    def _count(self, done: int, total: int | None = None) -> None:
        """Set the progress in MB from bytes."""
        if total is not None:
            self.unit, self.total = " MB", round(total / 1e6)
        self.done = min(round(done / 1e6), self.total)

    def _enter(self, phase: str) -> None:
        self._check_cancelled()
        self.phase, self.unit, self.done, self.total = phase, "", 0, 0

    def _check_cancelled(self) -> None:
        if self.cancelled:
            raise _CancelledError

    def _mark(self, why: str) -> None:
        """Mark the engine as incomplete, with the reason. A missing stamp says so too if this fails."""
        with contextlib.suppress(OSError):
            if self._replacing and self._folder.is_dir():
                (self._folder / MARKER).write_text(why, encoding="utf-8")


class _CancelledError(Exception):
    """Raised between two steps after `cancel`."""


def check_path(folder: Path) -> None:
    """Raise EDTalkError(kind="disk") if Windows could not store the engine in this folder because of its long path."""
    if sys.platform == "win32" and excess(folder) > 0 and not _long_paths():
        message = f"The path of the engine's folder, {folder}, is {excess(folder)} characters too long for Windows."
        hint = "Enable long paths in Windows (group policy: Enable Win32 long paths) and restart Blender."
        raise EDTalkError(message, hint, "disk")


def excess(folder: PurePath) -> int:
    """The number of characters by which the longest path of an engine in this folder exceeds the limit of Windows."""
    return len(str(folder / "Lib" / "site-packages")) + 1 + LONGEST - _WINDOWS_PATH


def _long_paths() -> bool:
    """Whether this Windows allows long paths."""
    if sys.platform == "win32":
        import winreg

        name = r"SYSTEM\CurrentControlSet\Control\FileSystem"
        with contextlib.suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, name) as key:
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    return False


def check_space(folder: Path, chosen: Lock) -> None:
    """Raise EDTalkError(kind="disk") if the disk of an existing folder has not enough space for an installation."""
    free, needed = shutil.disk_usage(folder).free, space(chosen)
    if free < needed:
        message = f"The engine needs {needed / 1e9:.1f} GB of disk space, {folder} has {free / 1e9:.1f} GB free."
        raise EDTalkError(message, "Free some space, or choose an engine on another disk in the preferences.", "disk")


def space(chosen: Lock) -> int:
    """Bytes of disk space that an installation needs, including downloads and a reserve."""
    return round(chosen.size * (1 + UNPACKED) + SPARE)


def _batches(packages: Sequence[Package]) -> Iterator[list[Package]]:
    """Packages to download together: torch first (an index may lack it), all small ones, then each other one."""
    torch = [package for package in packages if package.name == "torch"]
    small = [package for package in packages if package.size <= _SMALL and package not in torch]
    yield from (batch for batch in (torch, small) if batch)
    yield from ([package] for package in packages if package not in torch and package not in small)


def _holds_wheels(path: Path) -> bool:
    try:
        if path.is_dir():
            return any(path.glob("*.whl"))
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".whl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _unpack(archive: Path, folder: Path) -> None:
    """Extract the wheels of a .zip, from any folder in it, and nothing else.

    Raises EDTalkError if the archive is damaged, claims more than wheels can contain, or does not fit on the disk.
    """
    folder.mkdir(exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            wheels = [entry for entry in opened.infolist() if entry.filename.endswith(".whl")]
            size = sum(entry.file_size for entry in wheels)  # `zipfile` extracts no more than it says
            if size > _MOST_UNPACKED * archive.stat().st_size:
                message = f"{archive} claims to contain {size / 1e9:.1f} GB of packages, far more than its own size."
                raise EDTalkError(message, "Copy it again, or choose another file.", "checksum")
            if size + SPARE > (free := shutil.disk_usage(folder).free):
                message = f"{archive} needs {(size + SPARE) / 1e9:.1f} GB of disk space, {folder} has {free / 1e9:.1f}"
                raise EDTalkError(f"{message} GB free.", "Free some space.", "disk")
            for entry in wheels:
                name = entry.filename.replace("\\", "/").rpartition("/")[2]
                with opened.open(entry) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target, 2**20)
    except zipfile.BadZipFile as error:
        raise EDTalkError(f"{archive} is damaged ({error}).", "Copy it again.", "checksum") from error


def _incomplete(folder: Path, chosen: Lock, present: dict[str, Path]) -> EDTalkError:
    """The error for a folder in which packages are missing or damaged."""
    absent = lock.missing(chosen.packages, present)
    for package in absent:
        start = f"{re.sub(r'[-_.]+', '_', package.name)}-{package.version}-".lower()
        for found, wheel in present.items():
            if wheel.name.lower().startswith(start):
                message = (
                    f"{wheel} has the wrong checksum: expected {package.hashes[0][:12]}..., found {found[:12]}...."
                )
                return EDTalkError(message, f"Copy it again, or use the file for {chosen.file.stem}.", "checksum")
    names = ", ".join(package.pinned for package in absent[:3]) + (" ..." if len(absent) > 3 else "")
    missing = f"{len(absent)} of {len(chosen.packages)} packages for {chosen.file.stem}"
    message = f"{folder} is incomplete, {missing} are missing: {names}."
    return EDTalkError(message, f"See {lock.LOCKS.parent / 'README.md'} for how to fill it.", "engine")


def _as_edtalk_error(error: Exception, folder: Path) -> EDTalkError:
    if isinstance(error, EDTalkError):
        return error
    if isinstance(error, OSError):
        return disk_error(Path(error.filename or folder), error)
    logger.error("The installation failed.", exc_info=error)
    hint = "This is a bug: report it with the text of Copy Report."
    return EDTalkError(f"The installation failed ({type(error).__name__}: {error}).", hint, "bug")


_OFFLINE = ("NewConnectionError", "Failed to establish", "timed out", "ProxyError", "SSLError", "ConnectionReset",
            "Could not fetch URL", "connection-failed", "connection-timeout", "ssl-verification-failed",
            "incomplete-download", "dns error", "error sending request")  # fmt: skip
_MISMATCH = re.compile(
    r"^\S+==\S+ from (?P<url>[^\s#]+).*?Expected sha256 (?P<wanted>[0-9a-f]{64}).*?Got\s+(?P<found>[0-9a-f]{64})",
    re.DOTALL | re.MULTILINE,
)


def _explained(failure: str, code: int, log: Log, online: bool) -> EDTalkError:
    """The error for a command that ended with an exit code, from its output."""
    lines = [line.strip() for line in log.latest if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error") and line != "ERROR: Exception:"]
    words = (errors or lines or [f"exit code {code}"])[-1].removeprefix("ERROR: ").rstrip(".")
    text = "\n".join(lines)
    if "No space left" in text or "WinError 112" in text:
        return EDTalkError(f"{failure}: the disk is full.", "Free some space, then repair the engine.", "disk")
    if match := _MISMATCH.search(text):
        file, wanted, found = match["url"].rpartition("/")[2], match["wanted"], match["found"]
        message = f"{failure}: {file} has the wrong checksum: expected {wanted[:12]}..., found {found[:12]}...."
        return EDTalkError(message, "Try again; if it happens again, clear Mirror or enter another one.", "checksum")
    if online and any(sign in text for sign in _OFFLINE):
        hint = "Check the connection and try again: downloads are kept. Or install from a folder of packages."
        words = "" if words.startswith("No matching") else f" ({words})"  # pip could not reach the index
        return EDTalkError(f"{failure}: the network failed{words}.", hint, "network")
    if match := re.search(r"No matching distribution found for (\S+)", text):
        hint = "Clear Mirror or enter another one, or install from a folder of packages."
        if online and match[1].startswith("torch=="):
            hint = "Choose another backend, or enter an index that has it under PyTorch Index in the preferences."
            return EDTalkError(f"{failure}: {words}.", hint, "torch")
        return EDTalkError(f"{failure}: {words}.", hint, "engine")
    return EDTalkError(f"{failure}: {words}.", "Try again; if it happens again, copy the report.", "engine")
