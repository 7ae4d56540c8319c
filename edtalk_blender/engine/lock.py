"""Reads the lock files of the engine: the packages for a platform, backend and Python, with SHA-256. No bpy.

    wheels/locks/PLATFORM-BACKEND-pyVERSION.txt   linux-x86_64-cuda-py313.txt; made by wheels/lock.py
    wheels/locks/installer.txt                    the pip that installs them, a wheel in wheels/

Each is a requirements file for pip. The backend "other" has none: its torch comes from the index that the user enters,
all other packages are those of the backend "cpu".
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ...inference.contract.errors import EDTalkError
from .interpreters import VERSION

LOCKS = Path("wheels", "locks")
INSTALLER = LOCKS / "installer.txt"
BACKENDS = {
    "cpu": "the CPU",
    "cuda": "NVIDIA graphics cards (CUDA 13)",
    "cuda-old": "older NVIDIA graphics cards (CUDA 12)",
    "mps": "Apple graphics",
    "other": "another graphics card",
}
_LINE = re.compile(
    r"(?P<name>[\w.-]+)==(?P<version>[\w.+!-]+)(?P<hashes>( --hash=sha256:[0-9a-f]{64})+)(  # (?P<size>\d+) bytes)?"
)


@dataclass(frozen=True)
class Package:
    """A package. hashes: SHA-256 of the accepted files, in hexadecimal. size: of the file, in bytes."""

    name: str
    version: str
    hashes: tuple[str, ...]
    size: int

    @property
    def pinned(self) -> str:
        return f"{self.name}=={self.version}"

    def __str__(self) -> str:
        return " ".join([self.pinned, *(f"--hash=sha256:{hash}" for hash in self.hashes)])


@dataclass(frozen=True)
class Lock:
    """The packages of one backend.

    file: relative to the extension's folder. unlocked: for the backend "other", a package without checksum.
    """

    file: Path
    backend: str
    packages: tuple[Package, ...]
    unlocked: str = ""

    @property
    def size(self) -> int:
        """Bytes to download; for the backend "other" without torch, whose size is unknown."""
        return sum(package.size for package in self.packages)


def here() -> str:
    """Name of this platform in the lock files."""
    system = {"win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)
    machine = platform.machine().lower()
    return f"{system}-{ {'amd64': 'x86_64', 'aarch64': 'arm64'}.get(machine, machine) }"


def offered(root: Path, place: str = "", python: tuple[int, int] = VERSION) -> list[str]:
    """The backends that are available for a platform and a Python, by default these."""
    place = place or here()
    found = [backend for backend in BACKENDS if (root / _file(place, backend, python)).is_file()]
    return [*found, "other"] if "cpu" in found else found


def _file(place: str, backend: str, python: tuple[int, int]) -> Path:
    return LOCKS / "{}-{}-py{}{}.txt".format(place, backend, *python)


def read(root: Path, backend: str, place: str = "", python: tuple[int, int] = VERSION) -> Lock:
    """The lock for a backend on a platform with a Python, by default these.

    Raises EDTalkError(kind="engine") if there is none or it cannot be read.
    """
    place = place or here()
    if backend not in offered(root, place, python):
        others = " or ".join(BACKENDS[name] for name in offered(root, place, python))
        where = f"{place} with Python {'.'.join(map(str, python))}"
        message = f"The engine cannot be installed for {BACKENDS.get(backend, backend)} on {where}."
        hint = f"Choose {others}." if others else "Choose an existing Python with torch in the preferences."
        raise EDTalkError(message, hint, "engine")
    file = _file(place, "cpu" if backend == "other" else backend, python)
    lock = Lock(file, backend, parse(root, file))
    if backend != "other":
        return lock
    torch = next((package for package in lock.packages if package.name == "torch"), None)
    rest = tuple(package for package in lock.packages if package is not torch)
    return replace(lock, packages=rest, unlocked=f"torch=={torch.version.partition('+')[0]}" if torch else "")


def pip(root: Path) -> Path:
    """The wheel of pip that comes with the extension. Raises EDTalkError(kind="engine") if it is missing or damaged."""
    (package,) = parse(root, INSTALLER)
    wheel = root / "wheels" / f"pip-{package.version}-py3-none-any.whl"
    if not missing([package], hashes(wheel.parent, wheel.name)):
        return wheel
    raise EDTalkError(f"{wheel} is missing or damaged.", "Install the extension again.", "engine")


def parse(root: Path, file: Path) -> tuple[Package, ...]:
    """The packages of a lock file. Raises EDTalkError(kind="engine") if it is missing or damaged."""
    try:
        lines = (root / file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        message = f"{root / file} does not exist or cannot be read."
        raise EDTalkError(message, "Install the extension again.", "engine") from error
    packages = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            match = _LINE.fullmatch(line.strip())
            if not match:
                message = f"{root / file}, line {number}, is not a package with version and checksum: {line.strip()!r}."
                raise EDTalkError(message, "Install the extension again.", "engine")
            hashes = tuple(re.findall(r"[0-9a-f]{64}", match["hashes"]))
            packages.append(Package(match["name"], match["version"], hashes, int(match["size"] or 0)))
    return tuple(packages)


def hash_of(root: Path, files: Iterable[Path | str]) -> str:
    """SHA-256 of the concatenated files, as setup.sh computes it; "" if one is missing."""
    try:
        return hashlib.sha256(b"".join((root / file).read_bytes() for file in files)).hexdigest()
    except OSError:
        return ""


def missing(packages: Iterable[Package], hashes: Iterable[str]) -> list[Package]:
    """The packages none of whose accepted files has one of these hashes."""
    have = set(hashes)
    return [package for package in packages if have.isdisjoint(package.hashes)]


def hashes(folder: Path, pattern: str = "*.whl") -> dict[str, Path]:
    """The wheels in a folder by their SHA-256. Takes a few seconds per GB."""
    found = {}
    for wheel in sorted(folder.glob(pattern)):
        with wheel.open("rb") as file:
            found[hashlib.file_digest(file, "sha256").hexdigest()] = wheel
    return found
