"""Writes wheels/locks/: for each platform and backend, every package of the engine with its version and its SHA-256.

    python -m pip install uv packaging
    python wheels/lock.py --find-links FOLDER            where FOLDER holds torch's CPU wheel for Linux, see README.md
    python wheels/lock.py --find-links FOLDER --upgrade  and take the newest versions instead of those locked before

uv resolves requirements-worker.txt for machines other than this one, from the package index that it is configured with.
No address is written. A line names one package and the one file that fits its platform best:

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
INSTALLER = "pip==26.3"  # what downloads all the rest: from 25.1 on pip takes up a download again where it broke off
MACOS = (14, 0)  # the oldest that torch's wheels are for


@dataclass(frozen=True)
class Target:
    """What one lock is for.

    name: PLATFORM-BACKEND, as core/lock.py looks for it.  uv: uv's name of the platform.  tags: pip's names of it, best
    first.  build: torch's local version where the build is not the one of the common index, "+cpu".  torch: its version
    where that is not the one of requirements-worker.txt.
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
    # The last of which the common index has a build for cards older than the GTX 16; last here, to follow the others.
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
    """Every package that the requirements bring along on the target's platform, by name.

    pins: "name==version", of those that are needed no other version is taken.
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
    """What pip would accept there, best first."""
    interpreter = "cp{}{}".format(*PYTHON)
    yield from cpython_tags(PYTHON, platforms=target.tags)
    yield from compatible_tags(PYTHON, interpreter, target.tags)


def _best(package: dict, rank: dict[Tag, int]) -> Wheel:
    """Of the files of one package the one that pip would choose."""
    fitting = []
    for file in package["wheels"]:
        path = unquote(urlsplit(file["url"]).path)
        tags = parse_wheel_filename(path.rpartition("/")[2])[3]
        places = [rank[tag] for tag in tags if tag in rank]
        if places:
            fitting.append((min(places), file, path))
    if not fitting:
        raise SystemExit(f"{package['name']} {package['version']}: none of its wheels fits")
    _, file, path = min(fitting, key=lambda choice: choice[0])
    sha256, size = file["hashes"]["sha256"], file.get("size")
    if size is None:  # of find-links, uv tells neither size nor, always, the truth about a file that has changed since
        local = Path(url2pathname(path))
        size = local.stat().st_size
        with local.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                raise SystemExit(f"{local} is not what uv took it for: clear uv's cache")
    return Wheel(package["name"], package["version"], sha256, size)


def _suited(requirement: str, target: Target) -> str:
    """A requirement of the list as it is for a target."""
    name, _, version = requirement.partition("==")
    return f"torch=={target.torch or version}{target.build}" if name == "torch" else requirement


def _listed(path: Path) -> list[str]:
    """The requirements in a file: without comments, options and hashes."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [match[0] for line in lines if (match := re.match(r"[A-Za-z0-9][^\s#]*", line))]


def write(target: str, wheels: Sequence[Wheel]) -> None:
    """One lock file."""
    size = sum(wheel.size for wheel in wheels)
    head = f"# {target}: {len(wheels)} packages, {size / 1e6:.0f} MB. Written by wheels/lock.py; do not edit."
    (LOCKS / f"{target}.txt").write_text("\n".join([head, *map(str, wheels)]) + "\n", encoding="utf-8")
    print(head)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--find-links", type=Path, metavar="FOLDER", help="more wheels than the index has")
    parser.add_argument("--upgrade", action="store_true", help="forget which versions were locked before")
    options = parser.parse_args(arguments)
    LOCKS.mkdir(exist_ok=True)
    wanted = _listed(REQUIREMENTS)
    pins: dict[str, str] = {}
    for target in reversed(TARGETS) if not options.upgrade else ():
        pins |= dict(line.split("==") for line in _listed(LOCKS / f"{target.name}.txt"))
    for target in TARGETS:
        pins.pop("torch", None)  # pinned in `wanted`, and differently built
        requirements = [_suited(name, target) for name in wanted]
        # With another torch goes another triton.
        kept = [f"{name}=={version}" for name, version in pins.items() if not (target.torch and name == "triton")]
        wheels = resolve(requirements, kept, target, options.find_links if target.build else None)
        write(target.name, wheels)
        if not target.torch:
            pins |= {wheel.name: wheel.version for wheel in wheels}  # the same versions everywhere
    write("installer", resolve([INSTALLER], [], TARGETS[0], None))


if __name__ == "__main__":
    sys.exit(main())
