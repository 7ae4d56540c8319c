"""Writes wheels/locks/: for each platform, backend and Python, the packages of the engine with version and SHA-256.

    python -m pip install uv packaging
    python wheels/lock.py            keep the locked versions
    python wheels/lock.py --upgrade  use the newest versions

uv resolves requirements-worker.txt for each platform with the package index that it is configured with. No address is
written. A line has a package and the file that fits the platform best:

    numpy==2.4.6 --hash=sha256:89cd...  # 16817154 bytes
"""

from __future__ import annotations

import argparse
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

from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

HERE = Path(__file__).parent
LOCKS = HERE / "locks"
REQUIREMENTS = HERE / "requirements-worker.txt"
PYTHONS = ((3, 11), (3, 13), (3, 14))  # of Blender 4.5 and 5.0, of 5.1 and 5.2, and of Linux distributions
INSTALLER = "pip==26.3"  # its wheel is in wheels/
MACOS = (14, 0)  # the oldest version that torch's wheels support


@dataclass(frozen=True)
class Target:
    """The platform and backend of lock files.

    name: PLATFORM-BACKEND, as `edtalk_blender/engine/lock.py` expects it. uv: uv's name of the platform. tags: pip's
    names of it, best first. cpu: torch is the build for the CPU, which is not on the default index. torch: its version,
    if it is not that of requirements-worker.txt. pythons: those that its torch has wheels for.
    """

    name: str
    uv: str
    tags: tuple[str, ...]
    cpu: bool = False
    torch: str = ""
    pythons: tuple[tuple[int, int], ...] = PYTHONS


_GLIBC = (*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)), "manylinux2014_x86_64")
TARGETS = (
    Target("linux-x86_64-cuda", "x86_64-manylinux_2_28", _GLIBC),
    Target("linux-x86_64-cpu", "x86_64-manylinux_2_28", _GLIBC, cpu=True),
    Target("windows-x86_64-cpu", "x86_64-pc-windows-msvc", ("win_amd64",)),
    Target("macos-arm64-mps", "aarch64-apple-darwin", tuple(mac_platforms(MACOS, "arm64"))),
    # The last version with a build for cards older than the GTX 16 on the default index. Last, to reuse the other pins.
    Target("linux-x86_64-cuda-old", "x86_64-manylinux_2_28", _GLIBC, torch="2.7.1", pythons=PYTHONS[:2]),
)
# SHA-256 and size of torch 2.13.0+cpu for Linux, by Python; wheels/README.md gives their origin.
CPU_TORCH = {
    (3, 11): ("6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b", 191794682),
    (3, 13): ("3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6", 191815667),
    (3, 14): ("d20fa53ee744502fa4c69818a720b05ca0d37abd055d4f6e66cae155114bc691", 191822516),
}
_CUDA_ONLY = re.compile(r"nvidia-.*|cuda-.*|triton")  # dependencies of torch's other build


@dataclass(frozen=True)
class Wheel:
    name: str
    version: str
    sha256: str
    size: int

    def __str__(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}  # {self.size} bytes"


def resolve(requirements: Sequence[str], pins: Iterable[str], target: Target, python: tuple[int, int]) -> list[Wheel]:
    """The requirements and their dependencies on the target's platform, sorted by name.

    pins: "name==version", used for these packages if they are needed.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted, kept, found = (Path(folder, name) for name in ("wanted.txt", "kept.txt", "pylock.toml"))
        wanted.write_text("\n".join(requirements))
        kept.write_text("\n".join(pins))
        command = ["uv", "pip", "compile", str(wanted), "--constraint", str(kept), "--output-file", str(found)]
        command += ["--python-platform", target.uv, "--python-version", "{}.{}".format(*python), "--only-binary=:all:"]
        command += ["--quiet", "--no-header", "--format=pylock.toml"]
        environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "{}.{}".format(*MACOS)}
        subprocess.run(command, env=environment, check=True)
        packages = tomllib.loads(found.read_text(encoding="utf-8"))["packages"]
    if target.cpu:
        packages = [package for package in packages if not _CUDA_ONLY.fullmatch(package["name"])]
    rank = {tag: place for place, tag in enumerate(_tags(target, python))}
    wheels = [_best(package, rank) for package in packages]
    if target.cpu:
        wheels = [_cpu_torch(wheel, python) if wheel.name == "torch" else wheel for wheel in wheels]
    return sorted(wheels, key=lambda wheel: wheel.name)


def _tags(target: Target, python: tuple[int, int]) -> Iterable[Tag]:
    """The tags that pip accepts on the target, best first."""
    yield from cpython_tags(python, platforms=target.tags)
    yield from compatible_tags(python, "cp{}{}".format(*python), target.tags)


def _best(package: dict, rank: dict[Tag, int]) -> Wheel:
    """The file of a package that pip would choose."""
    fitting = []
    for file in package["wheels"]:
        name = unquote(urlsplit(file["url"]).path).rpartition("/")[2]
        places = [rank[tag] for tag in parse_wheel_filename(name)[3] if tag in rank]
        if places:
            fitting.append((min(places), file))
    if not fitting:
        raise SystemExit(f"{package['name']} {package['version']}: no wheel for this platform")
    _, file = min(fitting, key=lambda choice: choice[0])
    return Wheel(package["name"], package["version"], file["hashes"]["sha256"], file["size"])


def _cpu_torch(wheel: Wheel, python: tuple[int, int]) -> Wheel:
    """The build for the CPU in place of torch's other build."""
    sha256, size = CPU_TORCH[python]
    return Wheel(wheel.name, f"{wheel.version}+cpu", sha256, size)


def _for_target(requirement: str, target: Target) -> str:
    """A requirement with torch's version for a target."""
    name, _, version = requirement.partition("==")
    return f"torch=={target.torch or version}" if name == "torch" else requirement


def _listed(path: Path) -> list[str]:
    """The requirements in a file, without comments, options and hashes."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [match[0] for line in lines if (match := re.match(r"[A-Za-z0-9][^\s#]*", line))]


def write(file: str, target: str, wheels: Sequence[Wheel]) -> None:
    """Write one lock file."""
    size = sum(wheel.size for wheel in wheels)
    head = f"# {target}: {len(wheels)} packages, {size / 1e6:.0f} MB. Written by wheels/lock.py; do not edit."
    (LOCKS / f"{file}.txt").write_text("\n".join([head, *map(str, wheels)]) + "\n", encoding="utf-8")
    print(file, head)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="ignore the versions locked before")
    options = parser.parse_args(arguments)
    LOCKS.mkdir(exist_ok=True)
    wanted = _listed(REQUIREMENTS)
    pins: dict[str, str] = {}
    files = [(target, python) for target in TARGETS for python in target.pythons]
    for target, python in reversed(files) if not options.upgrade else ():
        pins |= dict(line.split("==") for line in _listed(LOCKS / f"{_name(target, python)}.txt"))
    for target, python in files:
        pins.pop("torch", None)  # pinned in `wanted`, with another version for some targets
        requirements = [_for_target(name, target) for name in wanted]
        # Another torch needs another triton.
        kept = [f"{name}=={version}" for name, version in pins.items() if not (target.torch and name == "triton")]
        wheels = resolve(requirements, kept, target, python)
        write(_name(target, python), target.name, wheels)
        if not target.torch:
            pins |= {wheel.name: wheel.version for wheel in wheels}  # the same versions for all targets
    write("installer", "installer", resolve([INSTALLER], [], TARGETS[0], PYTHONS[0]))


def _name(target: Target, python: tuple[int, int]) -> str:
    return "{}-py{}{}".format(target.name, *python)


if __name__ == "__main__":
    sys.exit(main())
