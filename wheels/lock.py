"""Writes wheels/locks/: for each platform and backend, the packages of the engine with version and SHA-256.

    python -m pip install uv packaging
    python wheels/lock.py --find-links FOLDER            FOLDER contains torch's CPU wheel for Linux, see README.md
    python wheels/lock.py --find-links FOLDER --upgrade  use the newest versions instead of the locked ones

uv resolves requirements-worker.txt for each platform with the package index that it is configured with. No address is
written. A line has a package and the file that fits the platform best:

    numpy==2.4.6 --hash=sha256:89cd...  # 16817154 bytes
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

HERE = Path(__file__).parent
LOCKS = HERE / "locks"
REQUIREMENTS = HERE / "requirements-worker.txt"
PYTHON = (3, 11)
INSTALLER = "pip==26.3"  # downloads the other packages; from 25.1 on pip can resume a download
MACOS = (14, 0)  # the oldest version that torch's wheels support


@dataclass(frozen=True)
class Target:
    """The platform and backend of a lock file.

    name: PLATFORM-BACKEND, as `edtalk_blender/engine/lock.py` expects it. uv: uv's name of the platform. tags: pip's
    names of it, best first. build: torch's local version, such as "+cpu", if the build is not on the default index.
    torch: its version, if it is not that of requirements-worker.txt.
    """

    name: str
    uv: str
    tags: tuple[str, ...]
    build: str = ""
    torch: str = ""


_GLIBC = (*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)), "manylinux2014_x86_64")
TARGETS = (
    Target("linux-x86_64-cuda", "x86_64-manylinux_2_28", _GLIBC),
    Target("linux-x86_64-cpu", "x86_64-manylinux_2_28", _GLIBC, build="+cpu"),
    Target("windows-x86_64-cpu", "x86_64-pc-windows-msvc", ("win_amd64",)),
    Target("macos-arm64-mps", "aarch64-apple-darwin", tuple(mac_platforms(MACOS, "arm64"))),
    # The last version with a build for cards older than the GTX 16 on the default index. Last, to reuse the other pins.
    Target("linux-x86_64-cuda-old", "x86_64-manylinux_2_28", _GLIBC, torch="2.7.1"),
)


@dataclass(frozen=True)
class Wheel:
    name: str
    version: str
    sha256: str
    size: int

    def __str__(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}  # {self.size} bytes"


def resolve(requirements: Sequence[str], pins: Iterable[str], target: Target, find_links: Path | None) -> list[Wheel]:
    """The requirements and their dependencies on the target's platform, sorted by name.

    pins: "name==version", used for these packages if they are needed.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted, kept, found = (Path(folder, name) for name in ("wanted.txt", "kept.txt", "pylock.toml"))
        wanted.write_text("\n".join(requirements))
        kept.write_text("\n".join(pins))
        command = ["uv", "pip", "compile", str(wanted), "--constraint", str(kept), "--output-file", str(found)]
        command += ["--python-platform", target.uv, "--python-version", "{}.{}".format(*PYTHON), "--only-binary=:all:"]
        command += ["--quiet", "--no-header", "--format=pylock.toml"]
        command += ["--find-links", str(find_links)] if find_links else []
        environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "{}.{}".format(*MACOS)}
        subprocess.run(command, env=environment, check=True)
        packages = tomllib.loads(found.read_text(encoding="utf-8"))["packages"]
    rank = {tag: place for place, tag in enumerate(_tags(target))}
    return sorted((_best(package, rank) for package in packages), key=lambda wheel: wheel.name)


def _tags(target: Target) -> Iterable[Tag]:
    """The tags that pip accepts on the target, best first."""
    interpreter = "cp{}{}".format(*PYTHON)
    yield from cpython_tags(PYTHON, platforms=target.tags)
    yield from compatible_tags(PYTHON, interpreter, target.tags)


def _best(package: dict, rank: dict[Tag, int]) -> Wheel:
    """The file of a package that pip would choose."""
    fitting = []
    for file in package["wheels"]:
        path = unquote(urlsplit(file["url"]).path)
        tags = parse_wheel_filename(path.rpartition("/")[2])[3]
        places = [rank[tag] for tag in tags if tag in rank]
        if places:
            fitting.append((min(places), file, path))
    if not fitting:
        raise SystemExit(f"{package['name']} {package['version']}: no wheel for this platform")
    _, file, path = min(fitting, key=lambda choice: choice[0])
    sha256, size = file["hashes"]["sha256"], file.get("size")
    if size is None:  # for find-links uv gives no size, and an old hash if a file has changed
        local = Path(url2pathname(path))
        size = local.stat().st_size
        with local.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                raise SystemExit(f"{local} has changed since uv cached it: clear uv's cache")
    return Wheel(package["name"], package["version"], sha256, size)


def _for_target(requirement: str, target: Target) -> str:
    """A requirement with torch's version and build for a target."""
    name, _, version = requirement.partition("==")
    return f"torch=={target.torch or version}{target.build}" if name == "torch" else requirement


def _listed(path: Path) -> list[str]:
    """The requirements in a file, without comments, options and hashes."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [match[0] for line in lines if (match := re.match(r"[A-Za-z0-9][^\s#]*", line))]


def write(target: str, wheels: Sequence[Wheel]) -> None:
    """Write one lock file."""
    size = sum(wheel.size for wheel in wheels)
    head = f"# {target}: {len(wheels)} packages, {size / 1e6:.0f} MB. Written by wheels/lock.py; do not edit."
    (LOCKS / f"{target}.txt").write_text("\n".join([head, *map(str, wheels)]) + "\n", encoding="utf-8")
    print(head)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--find-links", type=Path, metavar="FOLDER", help="additional wheels")
    parser.add_argument("--upgrade", action="store_true", help="ignore the versions locked before")
    options = parser.parse_args(arguments)
    LOCKS.mkdir(exist_ok=True)
    wanted = _listed(REQUIREMENTS)
    pins: dict[str, str] = {}
    for target in reversed(TARGETS) if not options.upgrade else ():
        pins |= dict(line.split("==") for line in _listed(LOCKS / f"{target.name}.txt"))
    for target in TARGETS:
        pins.pop("torch", None)  # pinned in `wanted`, with another build for each target
        requirements = [_for_target(name, target) for name in wanted]
        # Another torch needs another triton.
        kept = [f"{name}=={version}" for name, version in pins.items() if not (target.torch and name == "triton")]
        wheels = resolve(requirements, kept, target, options.find_links if target.build else None)
        write(target.name, wheels)
        if not target.torch:
            pins |= {wheel.name: wheel.version for wheel in wheels}  # the same versions for all targets
    write("installer", resolve([INSTALLER], [], TARGETS[0], None))


if __name__ == "__main__":
    sys.exit(main())
