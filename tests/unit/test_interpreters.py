"""Finding the Python that the engine is made from, and copying the one that Blender brings."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from edtalk.edtalk_blender.engine import engine, gpu, installation, interpreters, lock
from edtalk.edtalk_blender.engine.engine import State
from edtalk.edtalk_blender.engine.installation import Installation
from edtalk.edtalk_blender.engine.interpreters import Source

from tests.engine_material import line, make_root, make_wheel

posix = pytest.mark.skipif(os.name == "nt", reason="copies the files of a Python as they lie on POSIX")
PATIENCE = 300.0  # seconds, for an installation on a busy machine


def make_blender(folder: Path) -> Path:
    """A folder as Blender's official builds have it, with the files of this Python; returns the Python folder."""
    python = folder / "5.2" / "python"
    (folder / "5.2" / "scripts").mkdir(parents=True)
    (python / "bin").mkdir(parents=True)
    name = "python{}.{}".format(*sys.version_info)
    shutil.copy(Path(sys.base_prefix, "bin", name), python / "bin" / name)
    shutil.copytree(sysconfig.get_path("stdlib"), python / "lib" / name, symlinks=True, ignore=interpreters._LEFT_OUT)
    packages = python / "lib" / name / "site-packages"
    packages.mkdir()
    (packages / "numpy.py").write_text("raise ImportError('a package of Blender')")
    for path in (python / "lib" / name, packages):
        path.chmod(0o555)  # as in a read-only image
    return python


@pytest.fixture
def blender(tmp_path, monkeypatch) -> Path:
    if os.name == "nt":
        pytest.skip("copies the files of a Python as they lie on POSIX")
    python = make_blender(tmp_path / "blender")
    monkeypatch.setattr(sys, "base_prefix", str(python))
    monkeypatch.setattr(sys, "executable", str(next((python / "bin").iterdir())))
    return python


def test_without_a_bundled_python_the_running_one_is_used(monkeypatch, tmp_path):
    assert interpreters.bundled() is None
    found = interpreters.find()
    assert found is not None
    assert found.folder is None
    assert found.python.samefile(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "blender"))  # Blender itself is not started as Python
    assert interpreters.find() is None


def test_a_python_of_another_version_is_not_used(monkeypatch):
    monkeypatch.setattr(interpreters, "VERSION", (3, 99))
    assert interpreters.find() is None


@posix
def test_the_name_with_the_version_is_preferred(tmp_path):
    """A later version takes over the name python3, and the engine would lose its packages."""
    named = tmp_path / "python{}.{}".format(*interpreters.VERSION)
    named.touch()
    (tmp_path / "python3").symlink_to(named.name)
    assert interpreters._versioned(tmp_path / "python3") == named
    (tmp_path / "python2").touch()
    assert interpreters._versioned(tmp_path / "python2").name == "python2"


@pytest.mark.slow
def test_the_python_of_an_official_build_is_found_and_copied(blender, tmp_path):
    found = interpreters.find()
    assert found is not None
    assert found.folder == blender
    assert interpreters.copy(found, tmp_path / "engine")
    code = "import sys, os; print(os.path.realpath(sys.prefix)); import numpy"
    shutil.rmtree(tmp_path / "blender", onerror=_make_writable)
    answer = subprocess.run(
        [engine.interpreter(tmp_path / "engine"), "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert Path(answer.stdout.strip()) == (tmp_path / "engine").resolve(), answer.stderr
    assert "No module named 'numpy'" in answer.stderr, "Blender's packages are not copied"


@pytest.mark.slow
def test_the_engine_outlives_the_blender_it_was_installed_with(blender, tmp_path, monkeypatch):
    monkeypatch.delenv(engine.VARIABLE, raising=False)
    monkeypatch.setattr(installation, "SPARE", 10**6)
    monkeypatch.setattr(lock, "here", lambda: "linux-x86_64")
    monkeypatch.setattr(gpu, "probe", lambda: [])
    monkeypatch.setenv("PYTHONPATH", str(blender))
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    wheel = make_wheel(tmp_path / "packages", content="import sys; print('prefix', sys.prefix)")
    root, user = make_root(tmp_path / "extension", line(wheel)), tmp_path / "user"
    made = Installation(root, user, wheels=wheel.parent)
    made.start()
    assert made.wait(PATIENCE)
    assert made.error is None
    assert "passed" in made.log.tail
    shutil.rmtree(tmp_path / "blender", onerror=_make_writable)
    moved = (user / "engine").rename(tmp_path / "imported by a newer Blender")
    (tmp_path / "imported by a newer Blender").rename(user / "engine")
    found = engine.find(root, user)
    assert found.state is State.READY
    assert not (user / "engine" / "pyvenv.cfg").exists()
    assert moved.name
    command = [str(found.python), "-X", "utf8", "-m", "inference", "selftest"]
    answer = subprocess.run(command, cwd=root, env={}, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


@posix
def test_a_copy_that_does_not_run_is_noticed(tmp_path):
    folder = tmp_path / "python"
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python{}.{}".format(*sys.version_info)
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    assert not interpreters.copy(Source(python, folder), tmp_path / "engine")


def test_libraries_that_lie_beside_blender_on_windows_are_copied(tmp_path, monkeypatch):
    """Packages for the stable ABI need python3.dll, and torch the runtime of C++, which may not be installed."""
    blender = tmp_path / "Blender 5.2"
    folder = blender / "5.2" / "python"
    for name in ("bin/python.exe", "bin/python313.dll", "lib/os.py", "lib/site-packages/numpy.py", "DLLs/_ssl.pyd"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for name in ("blender.exe", "python3.dll", "python313.dll", "blender.crt/vcruntime140.dll", "blender.crt/ucrt.dll"):
        (blender / name).parent.mkdir(exist_ok=True)
        (blender / name).write_text(name)
    monkeypatch.setattr(interpreters, "_WINDOWS", True)
    monkeypatch.setattr(interpreters, "_runs", lambda commands, modules: Path(commands[0][0]))
    assert interpreters.copy(Source(folder / "bin" / "python.exe", folder), tmp_path / "engine")
    copied = {path.relative_to(tmp_path / "engine").as_posix() for path in (tmp_path / "engine").rglob("*.*")}
    expected = {"bin/python.exe", "bin/python313.dll", "bin/python3.dll", "bin/vcruntime140.dll"}
    assert copied == expected | {"lib/os.py", "DLLs/_ssl.pyd"}
    monkeypatch.setattr(engine, "_WINDOWS", True)
    assert engine.interpreter(tmp_path / "engine") == tmp_path / "engine" / "bin" / "python.exe"


@pytest.mark.parametrize("path", ["", ".", "tools", "PATH"])
def test_programs_of_the_current_folder_are_not_run(monkeypatch, tmp_path, path):
    """A project from an unknown source may contain a python.exe."""
    for windows in (False, True):
        monkeypatch.setattr(interpreters, "_WINDOWS", windows)
        for folder in (tmp_path, tmp_path / "tools"):
            program = folder / ("python3.exe" if windows else "python3")
            program.parent.mkdir(exist_ok=True)
            program.touch(mode=0o755)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PATH", str(tmp_path / "tools") if path == "PATH" else path)
        assert interpreters.find_program("python3") == (tmp_path / "tools" / program.name if path == "PATH" else None)


def _make_writable(_remove: object, path: str, _error: object) -> None:
    """Remove something from a read-only folder."""
    Path(path).parent.chmod(0o755)
    Path(path).unlink() if Path(path).is_file() else shutil.rmtree(path)
