"""Fixtures for the tests of the built extension. Blender runs in separate processes here."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
bpy = importlib.util.find_spec("bpy")  # found, not imported
if bpy is None:
    collect_ignore_glob = ["test_*.py"]
else:
    TOOL = next(Path(bpy.origin).parent.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py"))


def tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOOL, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all files that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout, to know which files are published")
    folder = tmp_path_factory.mktemp("clean") / "edtalk"
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def extension(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip, built by Blender's tool."""
    folder = tmp_path_factory.mktemp("zip")
    answer = tool("build", "--source-dir", source, "--output-dir", folder)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (path,) = folder.iterdir()
    return path
