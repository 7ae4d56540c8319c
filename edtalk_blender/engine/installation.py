"""Installing the engine, in a thread: first everything is fetched and checked, then the old engine goes. No bpy.

    <user folder>/downloads/   packages as they came, kept: what is here and whole is not fetched again, what is not
                               whole yet is NAME.part; the folder can be carried to a computer without network
    <user folder>/installer/   pip, while it is needed
    <user folder>/engine/      the engine, see engine.py

pip fetches, because it knows the computer's index, proxy and certificates; fetch.py has it go on with a file that was
interrupted, in this run or an earlier one, where it broke off.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import re
import shlex
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...inference.contract.errors import EDTalkError, disk_error
from . import gpu, lock
from .engine import DOWNLOADS, FOLDER, INSTALLER, MARKER, STAMP, find_python, interpreter, set_aside, sweep
from .engine import PYTHON as VERSION
from .lock import Lock, Package
from .process import Log, Process, environment

logger = logging.getLogger(__name__)

UNPACKED, SPARE = 2.2, 10**9  # an engine's size on disk in those of its downloads, and bytes to be left over
REPLACING = "replacing the old engine"  # the phase in which `let_go` is waited for
_SMALL = 8 * 10**6  # bytes: up to here packages are fetched together, larger ones singly
_QUIETLY = ("--disable-pip-version-check", "--no-input")
_FETCH = Path(__file__).with_name("fetch.py")
_PROGRESS = re.compile(rb"Progress (\d+) of (\d+)")


class Installation:
    """Makes `<user folder>/engine` anew, in a thread; the attributes tell how it goes.

    phase: what is being done.  done, total, unit: how far, in MB or packages; total is 0 where nobody knows.
    log: what the steps say.  finished, then cancelled or error (an EDTalkError), or neither: the engine is READY. If it
    fails before everything is fetched, an engine that was there still is.  let_go: an event that is waited for before
    that one is removed, to be set when no worker runs from it any longer.
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
        """online: whether the network may be used.  wheels: a folder or .zip to install from instead.  python: the
        interpreter to make the environment from, by default one that is found, or uv's.  backend: one of
        `lock.BACKENDS`, or "auto": what suits the graphics card.  mirror: index to use in place of pip's own.
        torch_index: one to look for torch in as well; for the backend "other" the only one.  hold: whether to wait for
        `let_go`.
        """
        self.phase, self.unit, self.done, self.total = "", "", 0, 0
        self.log = Log(user_dir / "engine-installation.log")
        self.error: EDTalkError | None = None
        self.cancelled = False
        self.let_go = threading.Event()
        if not hold:
            self.let_go.set()
        self._root, self._user_dir, self._folder = root, user_dir, user_dir / FOLDER
        self._downloads, self._installer = user_dir / DOWNLOADS, user_dir / INSTALLER
        self._online, self._wheels, self._python = online and wheels is None, wheels, python
        self._backend, self._mirror, self._torch_index = backend, mirror.strip(), torch_index.strip()
        self._replacing = False  # the old engine is gone, the new one not yet there
        self._process: Process | None = None
        self._guard = threading.Lock()  # of _process, against being started while cancelled
        self._thread = threading.Thread(target=self._run, name="edtalk installation", daemon=True)

    @property
    def finished(self) -> bool:
        return self._thread.ident is not None and not self._thread.is_alive()

    def start(self) -> None:
        """Begin. Raises EDTalkError if there is nothing to begin with."""
        lock.parse(self._root, lock.INSTALLER)
        if self._backend != "auto" or not lock.offered(self._root):
            lock.read(self._root, self._backend)
        if self._wheels and not _holds_wheels(self._wheels):
            message = f"{self._wheels} holds no Python packages: expected a folder, or a .zip, of .whl files."
            raise EDTalkError(message, "Choose another one.", "engine")
        if not self._wheels and not self._online:
            message = "Installing the engine needs the network, which Blender is not allowed to use."
            hint = "Allow Online Access in Preferences > System, or install from a folder of packages."
            raise EDTalkError(message, hint, "offline")
        if self._backend == "other" and self._online and not self._torch_index:
            message = "For another graphics card the address of an index that has torch for it is needed."
            raise EDTalkError(message, "Enter it under Torch Index in the extension's preferences.", "engine")
        atexit.register(self.cancel)
        self._thread.start()

    def cancel(self) -> None:
        """Stop soon; an engine that is half made by then is left marked as incomplete, downloads are kept."""
        with self._guard:
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
            shutil.rmtree(self._installer, ignore_errors=True)

    def _install(self) -> None:
        self._enter("looking for Python")
        python, uv = self._find_python()
        self._user_dir.mkdir(parents=True, exist_ok=True)
        chosen = self._choose()
        check_space(self._user_dir, chosen)
        self._enter("preparing")
        self._make_installer(python, uv)
        if self._online:
            self._fetch([*lock.parse(self._root, lock.INSTALLER), *chosen.packages], chosen.unlocked)
        self._enter(REPLACING)
        while not self.let_go.wait(0.1):
            self._go_on()
        set_aside(self._folder)
        self._replacing = True
        sweep(self._user_dir)
        self._folder.mkdir()
        self._mark("")
        self._enter("making the environment")
        # The installer's Python is the right one, wherever it came from.
        make = [str(interpreter(self._installer)), "-I", "-m", "venv", "--without-pip", str(self._folder)]
        self._call(make, "The engine's environment could not be made")
        self._install_packages(chosen)
        self._enter("testing")
        test = [str(interpreter(self._folder)), "-X", "utf8", "-m", "inference", "selftest"]
        self._call(test, "The engine was installed but does not work", cwd=self._root)
        (self._folder / STAMP).write_text(f"{lock.hash_of(self._root, [chosen.file])}  {chosen.file.as_posix()}\n")
        (self._folder / MARKER).unlink()
        self.phase = "done"

    def _find_python(self) -> tuple[Path | None, str]:
        """A Python, or else uv."""
        python = self._python or find_python()
        uv = "" if python else shutil.which("uv") or ""
        if python or uv:
            return python, uv
        name = ".".join(map(str, VERSION))
        hint = f"Install Python {name} (on Debian and Ubuntu python{name}-venv too) or uv, or choose one by hand."
        raise EDTalkError(f"Python {name} with its venv module was not found on this computer.", hint, "engine")

    def _choose(self) -> Lock:
        """What to install; of a folder of packages, what it is whole for."""
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
        there = lock.hashes(self._wheels)
        for backend in backends:
            if not lock.missing(lock.read(self._root, backend).packages, there):
                return lock.read(self._root, backend)
        raise _incomplete(self._wheels, lock.read(self._root, backends[0]), there)

    def _make_installer(self, python: Path | None, uv: str) -> None:
        """An environment with the locked pip; from a folder without one, with the pip that comes with Python."""
        shutil.rmtree(self._installer, ignore_errors=True)
        self._installer.mkdir()
        failure, where = "The installer could not be made", str(interpreter(self._installer))
        offline = [] if self._online else ["--offline"]
        folder = self._wheels or self._downloads
        here = not lock.missing(lock.parse(self._root, lock.INSTALLER), lock.hashes(folder, "pip-*.whl"))
        source = ["--no-index", "--find-links", str(folder)] if here or not self._online else self._source()
        wanted = [*source, "--require-hashes", "--requirement", str(self._root / lock.INSTALLER)]
        if uv:
            version = ".".join(map(str, VERSION))
            make = [uv, "venv", "--no-config", "--allow-existing", *offline, "--python", version]
            self._call([*make, str(self._installer)], failure)
            apart = ["--no-config", *offline] if "--no-index" in source else []
            self._call_again([uv, "pip", "install", "--no-progress", "--python", where, *apart, *wanted], failure)
            return
        self._call([str(python), "-I", "-m", "venv", str(self._installer)], failure)
        if here or self._online:
            # Isolated, pip heeds no settings of the user's, which might name an index or a proxy.
            apart = ["--isolated"] if "--no-index" in source else []
            self._call_again([*self._pip("install"), "--progress-bar", "off", *apart, *wanted], failure)

    def _fetch(self, packages: Sequence[Package], unlocked: str) -> None:
        """Download what is not there yet; checked against its checksum by pip, and what was there by ourselves."""
        self._enter("checking earlier downloads")
        self._downloads.mkdir(exist_ok=True)
        wanted = lock.missing(packages, lock.hashes(self._downloads))
        self._enter("downloading")
        before = sum(package.size for package in packages) - sum(package.size for package in wanted)
        self._count(before, sum(package.size for package in packages))
        for batch in _batches(wanted):
            command = self._download("--no-deps", *self._source(), *self._written(batch))
            self._call_again(command, "The engine's packages could not be downloaded", before)
            before += sum(package.size for package in batch)
            self._count(before)
        if unlocked:
            self._enter("downloading torch")
            self._fetch_unlocked(unlocked, packages)
        for part in self._downloads.glob("*.part"):  # of another version, begun and never gone on with
            part.unlink()

    def _fetch_unlocked(self, unlocked: str, packages: Sequence[Package]) -> None:
        """Download torch with what it brings along for its card, which is not locked and not to be had elsewhere.

        The packages, which are here, are taken where it needs some of them.
        """
        folder = self._unlocked_folder(unlocked)
        folder.mkdir(exist_ok=True)
        for other in self._downloads.glob("other-*"):
            if other != folder:
                shutil.rmtree(other)
        same = self._installer / "same.txt"
        same.write_text("".join(f"{package.pinned}\n" for package in packages), encoding="utf-8")
        command = self._download("--index-url", self._torch_index, "--constraint", str(same), into=folder)
        for wheel in self._downloads.glob("*.whl"):
            if not wheel.name.startswith("torch-"):
                command += ["--find-links", str(wheel)]
        self._call_again([*command, unlocked], "torch could not be downloaded")

    def _unlocked_folder(self, unlocked: str) -> Path:
        """Each index's and version's own, for their files may be called the same."""
        return self._downloads / f"other-{hashlib.sha256(f'{self._torch_index} {unlocked}'.encode()).hexdigest()[:8]}"

    def _download(self, *what: str, into: Path | None = None) -> list[str]:
        pip = [str(interpreter(self._installer)), "-I", str(_FETCH), *_QUIETLY, "download", "--no-cache-dir"]
        return [*pip, "--only-binary", ":all:", "--dest", str(into or self._downloads), *what]

    def _install_packages(self, chosen: Lock) -> None:
        """Out of the folder, each locked file checked by pip once more."""
        self._enter("installing packages")
        self.unit, self.total = "", len(chosen.packages)
        into = [*self._pip("--python", str(interpreter(self._folder)), "install"), "--progress-bar", "off"]
        there = ["--isolated", "--no-index", "--find-links", str(self._wheels or self._downloads)]
        command = [*into, "--no-deps", *there, *self._written(chosen.packages)]
        self._call(command, "The engine's packages could not be installed")
        if chosen.unlocked:
            self._enter("installing torch")
            torch = chosen.unlocked
            if self._online:
                folder = self._unlocked_folder(torch)
                there += ["--find-links", str(folder)]
                torch = next(map(str, folder.glob("torch-*.whl")), torch)
            self._call([*into, "--only-binary", ":all:", *there, torch], "torch could not be installed")

    def _pip(self, *what: str) -> list[str]:
        return [str(interpreter(self._installer)), "-m", "pip", *_QUIETLY, *what]

    def _source(self) -> list[str]:
        """Where pip looks besides what it is configured with."""
        mirror = ["--index-url", self._mirror] if self._mirror else []
        return mirror + (["--extra-index-url", self._torch_index] if self._torch_index else [])

    def _written(self, packages: Sequence[Package]) -> list[str]:
        """Options for these packages and their checksums."""
        path = self._installer / "wanted.txt"
        path.write_text("".join(f"{package}\n" for package in packages), encoding="utf-8")
        return ["--require-hashes", "--requirement", str(path)]

    def _call_again(self, command: Sequence[str], failure: str, before: int = 0) -> None:
        """`_call`, once more if it fails: where the network is asked, that may help."""
        if self._online:
            with contextlib.suppress(EDTalkError):
                self._call(command, failure, before=before)
                return
            self._go_on()
            self.log.note("once more")
        self._call(command, failure, before=before)

    def _call(self, command: Sequence[str], failure: str, cwd: Path | None = None, before: int = 0) -> None:
        """Run one step to its end; raises EDTalkError beginning with `failure`, or _CancelledError.

        before: bytes of earlier downloads, to which those of this one are added.
        """
        self.log.note(re.sub(r"//[^/@\s]+@", "//***@", shlex.join(command)))  # a mirror may want a password
        # What pip has not finished lies where there is room, and goes with the installer.
        place = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self._installer))
        with self._guard:
            self._go_on()
            process = self._process = Process(
                command,
                cwd=cwd or self._user_dir,
                env=environment(place),
                stdin=subprocess.PIPE,  # its end tells the step that Blender is no more
                stderr=subprocess.STDOUT,
            )
        with process.stdin, process.stdout:
            for line in process.stdout:
                if match := _PROGRESS.match(line):
                    now, all_of_it = map(int, match.groups())
                    self._count(before + now)
                    before += all_of_it if now == all_of_it else 0
                    continue
                self.log.write(line)
                if self.total and not self.unit:
                    self.done = min(self.done + line.startswith((b"Processing ", b"Collecting ")), self.total)
                    if line.startswith(b"Installing collected packages"):  # the longest part, of which pip says no more
                        self.phase, self.done, self.total = "unpacking packages", 0, 0
        code = process.wait()
        self._go_on()
        if code:
            raise _explained(failure, code, self.log, self._online)

    def _count(self, done: int, total: int | None = None) -> None:
        """Show bytes as MB."""
        if total is not None:
            self.unit, self.total = " MB", round(total / 1e6)
        self.done = min(round(done / 1e6), self.total)

    def _enter(self, phase: str) -> None:
        self._go_on()
        self.phase, self.unit, self.done, self.total = phase, "", 0, 0

    def _go_on(self) -> None:
        if self.cancelled:
            raise _CancelledError

    def _mark(self, why: str) -> None:
        """Leave the reason for the next Blender; if even that fails there is no stamp, which tells as much."""
        with contextlib.suppress(OSError):
            if self._replacing and self._folder.is_dir():
                (self._folder / MARKER).write_text(why, encoding="utf-8")


class _CancelledError(Exception):
    """Raised between two steps."""


def check_space(folder: Path, chosen: Lock) -> None:
    """Raise EDTalkError(kind="disk") if the disk of an existing folder has too little room for what was chosen."""
    free, needed = shutil.disk_usage(folder).free, space(chosen)
    if free < needed:
        message = f"The engine needs {needed / 1e9:.1f} GB of disk, {folder} has {free / 1e9:.1f} GB left."
        raise EDTalkError(message, "Free some space, or choose an engine on another disk in the preferences.", "disk")


def space(chosen: Lock) -> int:
    """Bytes of disk that an installation takes, downloads included, with a little to spare."""
    return round(chosen.size * (1 + UNPACKED) + SPARE)


def _batches(packages: Sequence[Package]) -> Iterator[list[Package]]:
    """What to fetch together: torch first, which an index may lack, then all that is small, then the others singly."""
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
    """The wheels of a .zip, wherever they lie in it; nothing else of it is written anywhere."""
    folder.mkdir(exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                name = entry.filename.replace("\\", "/").rpartition("/")[2]
                if name.endswith(".whl"):
                    with opened.open(entry) as source, (folder / name).open("wb") as target:
                        shutil.copyfileobj(source, target, 2**20)
    except zipfile.BadZipFile as error:
        raise EDTalkError(f"{archive} is damaged ({error}).", "Copy it again.", "checksum") from error


def _incomplete(folder: Path, chosen: Lock, there: dict[str, Path]) -> EDTalkError:
    """The sentence for a folder from which not everything can be installed."""
    absent = lock.missing(chosen.packages, there)
    for package in absent:
        start = f"{re.sub(r'[-_.]+', '_', package.name)}-{package.version}-".lower()
        for found, wheel in there.items():
            if wheel.name.lower().startswith(start):
                message = (
                    f"{wheel} is not the file that was expected ({found[:12]}..., not {package.hashes[0][:12]}...)."
                )
                return EDTalkError(message, f"Get the one for {chosen.file.stem}, or copy it again.", "checksum")
    names = ", ".join(package.pinned for package in absent[:3]) + (" ..." if len(absent) > 3 else "")
    message = f"{folder} lacks {len(absent)} of {len(chosen.packages)} packages for {chosen.file.stem}: {names}."
    return EDTalkError(message, f"Fill it as {lock.LOCKS.parent / 'README.md'} tells.", "engine")


def _as_sentence(error: Exception, folder: Path) -> EDTalkError:
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
    """What a step that ended with an exit code said, and what is to be done."""
    lines = [line.strip() for line in log.latest if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    told = [line for line in lines if line.startswith("× ")] or errors or lines or [f"exit code {code}"]
    words = told[-1].removeprefix("× ").removeprefix("ERROR: ").rstrip(".")
    text = "\n".join(lines)
    if "No space left" in text or "WinError 112" in text:
        return EDTalkError(f"{failure}: the disk is full.", "Free some space, then repair the engine.", "disk")
    if match := _MISMATCH.search(text):
        file, wanted, found = match["url"].rpartition("/")[2], match["wanted"], match["found"]
        message = f"{failure}: {file} is not the file that was expected ({found[:12]}..., not {wanted[:12]}...)."
        return EDTalkError(message, "Try again; if it happens again, clear Mirror or choose another one.", "checksum")
    if online and any(sign in text for sign in _OFFLINE):
        hint = "Check the connection and try again: what is downloaded is kept. Or install from a folder of packages."
        words = "" if words.startswith("No matching") else f" ({words})"  # it could not look
        return EDTalkError(f"{failure}: the network failed{words}.", hint, "network")
    if match := re.search(r"No matching distribution found for (\S+)", text):
        hint = "Clear Mirror or choose another one, or install from a folder of packages."
        if online and match[1].startswith("torch=="):
            hint = "Choose another backend, or an index that has it under Torch Index in the extension's preferences."
            return EDTalkError(f"{failure}: {words}.", hint, "torch")
        return EDTalkError(f"{failure}: {words}.", hint, "engine")
    return EDTalkError(f"{failure}: {words}.", "Try again; if it happens again, copy the report.", "engine")
