"""Finds the Python that the engine is made from, which has the version of Blender's own. No bpy.

Official builds of Blender bring a Python in VERSION/python, which works wherever it lies. The engine gets a copy of it
without its packages, so that it survives updates and the removal of that Blender. Builds of Linux distributions use the
system's Python; the engine is a virtual environment of it then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .process import Process, environment

VERSION = sys.version_info[:2]
_WINDOWS = sys.platform == "win32"
_QUESTION = (
    "import sys, ssl, zlib, ctypes, hashlib, {modules}; sys.version_info[:2] == {version} or sys.exit(1); "
    "sys.stdout.buffer.write(sys.executable.encode('utf-8', 'surrogateescape'))"
)
_LEFT_OUT = shutil.ignore_patterns(
    "site-packages", "__pycache__", "*.pyc", "test", "idlelib", "tkinter", "turtledemo", "*.a", "*.pdb"
)


@dataclass(frozen=True)
class Source:
    """A Python. folder: the folder to copy, of which it is a part; None: make a virtual environment."""

    python: Path
    folder: Path | None = None


def find() -> Source | None:
    """The Python to make the engine from, None if there is none. Runs each candidate."""
    folder = bundled()
    if folder and (python := _runs(_own(folder), "encodings")):
        return Source(python, folder)
    name = ".".join(map(str, VERSION))
    system = [[f"python{name}"], ["py", f"-{name}"], ["python3"], ["python"]]
    programs = [[str(program), *words[1:]] for words in system if (program := find_program(words[0]))]
    if Path(sys.executable or "blender").name.startswith("python"):
        programs.insert(0, [sys.executable])
    python = _runs(programs, "venv")
    return Source(python) if python else None


def bundled(prefix: Path | None = None) -> Path | None:
    """The Python folder that this Blender brings, None if it uses another Python. prefix: default: of this Python."""
    folder = prefix or Path(sys.base_prefix)
    return folder if folder.name == "python" and (folder.parent / "scripts").is_dir() else None


def _own(folder: Path) -> list[list[str]]:
    """Commands that may start the Python in a folder."""
    names = (sys.executable, folder / "bin" / "python{}.{}".format(*VERSION), folder / "bin" / "python.exe")
    return [[str(name)] for name in names if name and Path(name).is_relative_to(folder)]


def _runs(commands: Iterable[list[str]], modules: str) -> Path | None:
    """The path of the first Python that has the required version, and can import these and the usual modules."""
    question = _QUESTION.format(modules=modules, version=tuple(VERSION))
    for command in commands:
        with contextlib.suppress(OSError):
            answer = Process([*command, "-I", "-c", question], env=environment()).answer(20)
            if answer:
                return _versioned(Path(answer.decode("utf-8", "surrogateescape")))
    return None


def _versioned(python: Path) -> Path:
    """The same program under its name with the version, which no later version takes."""
    name = python.with_name("python{}.{}{}".format(*VERSION, python.suffix if _WINDOWS else ""))
    return name if name.exists() and name.samefile(python) else python


def copy(source: Source, target: Path) -> bool:
    """Copy a Python without its packages. Returns whether the copy runs. Raises OSError if it cannot be written."""
    assert source.folder is not None
    shutil.copytree(source.folder, target, symlinks=True, ignore=_LEFT_OUT, dirs_exist_ok=True)
    if _WINDOWS:
        _copy_libraries(source.folder.parents[1], target / "bin")
        return _runs([[str(target / source.python.relative_to(source.folder))]], "venv") is not None
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():  # it may come from a read-only image
            path.chmod(path.stat().st_mode | (0o700 if path.is_dir() else 0o200))
    python = target / "bin" / "python"
    if not python.exists():
        python.symlink_to(source.python.name)
    return _runs([[str(python)]], "encodings") is not None


def _copy_libraries(blender: Path, folder: Path) -> None:
    """Copy what lies beside blender.exe on Windows and packages need too: python3.dll and the runtime of C++."""
    for library in (blender / "python3.dll", *blender.glob("blender.crt/*140*.dll")):
        if library.is_file() and not (folder / library.name).exists():
            shutil.copy2(library, folder)


def find_program(name: str) -> Path | None:
    """The program in the first folder of PATH that has it. name: without ".exe". None if there is none.

    The current folder is not searched, and neither are relative folders of PATH: they may belong to a project from an
    unknown source. `shutil.which` searches the current folder first on Windows.
    """
    for folder in map(Path, os.get_exec_path()):
        program = folder / (f"{name}.exe" if _WINDOWS else name)
        if folder.is_absolute() and program.is_file() and os.access(program, os.X_OK):
            return program
    return None
