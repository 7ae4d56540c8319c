"""A small extension for tests of the installer: its lock, packages and environments, and a stand-in for Python."""

from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path

from edtalk.edtalk_blender.engine import lock
from edtalk.edtalk_blender.engine.engine import interpreter

ROOT = Path(__file__).parents[1]
LOCK = lock.LOCKS / "linux-x86_64-cpu-py{}{}.txt".format(*sys.version_info)


def make_root(folder: Path, *lines: str) -> Path:
    """An extension with these lines in its lock, the real pip, and a self-test that imports `tiny`."""
    (folder / lock.LOCKS).mkdir(parents=True)
    (folder / LOCK).write_text("\n".join(["# what inference/ imports", *lines, ""]))
    for file in (lock.INSTALLER, lock.pip(ROOT).relative_to(ROOT)):
        shutil.copyfile(ROOT / file, folder / file)
    (folder / "inference").mkdir()
    (folder / "inference" / "__init__.py").touch()
    (folder / "inference" / "__main__.py").write_text(
        "import sys, tiny\nassert sys.argv[1:] == ['selftest']\nprint('passed')\n"
    )
    return folder


def make_wheel(folder: Path, name: str = "tiny", content: str = "") -> Path:
    """A package with one module; always the same bytes."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {
            f"{name}.py": content,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": f"{name}.py,,\n",
        }.items():
            wheel.writestr(zipfile.ZipInfo(file), text)
    return path


def line(wheel: Path, size: int = 0) -> str:
    """The line of a lock for a wheel. size: in bytes, 0 for that of the file."""
    name, version, *_ = wheel.name.split("-")
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"{name}=={version} --hash=sha256:{sha256}  # {size or wheel.stat().st_size} bytes"


def stamp(root: Path, *files: Path) -> str:
    """The content of a stamp as setup.sh writes it."""
    files = files or (LOCK,)
    return f"{lock.hash_of(root, files)}  - {' '.join(file.as_posix() for file in files)}"


def make_environment(folder: Path, stamp: str | None = None) -> Path:
    """The files of an environment that `find` checks."""
    python = interpreter(folder)
    python.parent.mkdir(parents=True)
    python.touch()
    python.chmod(0o755)
    if stamp is not None:
        (folder / ".stamp").write_text(f"{stamp}\n")
    return python


def make_python(folder: Path) -> Path:
    """A stand-in for Python. "-m venv" copies it into the environment, fetch.py runs the code in the file `pip`.

    That code has the requested packages in `wanted`. A download copies them from the folder `index` afterwards. The
    file `calls` lists all calls of pip.
    """
    path = folder / "python3.11"
    path.write_text(
        f"""#!{sys.executable}
import os, pathlib, shutil, sys, time
here = pathlib.Path({str(folder)!r})
arguments = " ".join(sys.argv[1:])
if "-m venv" in arguments:
    folder = pathlib.Path(sys.argv[-1]) / "bin"
    folder.mkdir()
    shutil.copy(__file__, folder / "python")
elif "fetch.py" in arguments:
    wanted = []
    if "--requirement" in sys.argv:
        lines = pathlib.Path(sys.argv[sys.argv.index("--requirement") + 1]).read_text().splitlines()
        wanted = [line.split()[0] for line in lines]
    with (here / "calls").open("a") as calls:
        print(arguments, "for", *wanted, file=calls)
    for name in wanted:
        print("Collecting", name, flush=True)
    download = " download " in arguments
    exec((here / "pip").read_text())
    for name in wanted if download else []:
        file = here / "index" / (name.replace("==", "-") + "-py3-none-any.whl")
        if file.exists():
            shutil.copy(file, sys.argv[sys.argv.index("--dest") + 1])
"""
    )
    path.chmod(0o755)
    (folder / "pip").write_text("")
    make_wheel(folder / "index")
    return path


def recorded_calls(folder: Path, word: str) -> list[str]:
    """The calls of `make_python`'s pip that contain this word, since the last call of this function."""
    path = folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [call for call in lines if word in call]
