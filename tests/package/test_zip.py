"""The extension's zip: built and validated by Blender's own tool, then installed into an empty Blender."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.package.conftest import ROOT, tool


def names(extension: Path) -> set[str]:
    with zipfile.ZipFile(extension) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_source_and_zip_are_valid(source, extension, tmp_path):
    tags = tmp_path / "tags.json"
    tags.write_text(json.dumps({"add-on": ["Animation", "Sequencer"], "theme": []}))
    for path in (source, extension):
        answer = tool("validate", path, "--valid-tags", tags)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert "Success" in answer.stdout


def test_name_and_manifest(extension):
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))
    assert extension.name == f"edtalk-{manifest['version']}.zip"
    assert "blender" not in manifest["name"].lower()
    assert manifest["blender_version_min"] == "4.5.0"
    assert manifest["license"] == ["SPDX:GPL-3.0-or-later"]
    assert "wheels" not in manifest, "the add-on installs nothing into Blender's Python"


def test_zip_contains_the_code_and_nothing_else(extension, source):
    found = names(extension)
    for needed in (
        "blender_manifest.toml",
        "__init__.py",
        "LICENSE",
        "README.md",
        "edtalk_blender/__init__.py",
        "inference/contract/mixing.py",
        "inference/contract/protocol.py",
        "inference/worker/worker.py",
        "inference/banks/starter.safetensors",
        "inference/banks/starter.md",
        "inference/demo/line.wav",
        "docs/manual/index.html",
        "docs/manual/style.css",
        "wheels/requirements-worker.txt",
        *(f"wheels/locks/linux-x86_64-cpu-py{python}.txt" for python in ("311", "313", "314")),
        "wheels/locks/installer.txt",
        "wheels/pip-26.3-py3-none-any.whl",
    ):
        assert needed in found
    folders = {name.split("/")[0] for name in found if "/" in name}
    assert folders == {"edtalk_blender", "inference", "training", "wheels", "docs"}
    manual = {path for path in (source / "docs" / "manual").rglob("*.*") if path.suffix != ".md"}
    assert {name for name in found if name.startswith("docs/")} == {str(path.relative_to(source)) for path in manual}
    assert {name for name in found if "/" not in name} <= {
        "blender_manifest.toml", "__init__.py", "LICENSE", "README.md"
    }  # fmt: skip
    assert [name for name in found if Path(name).suffix in (".pyc", ".sh", ".mp4")] == []
    assert [name for name in found if name.endswith(".blend")] == ["edtalk_blender/workspace/talking_face.blend"]
    assert len([name for name in found if name.endswith(".whl")]) == 1
    code = {str(path.relative_to(source)) for path in source.rglob("*.py")}
    assert {name for name in code if name.startswith(("edtalk_blender/", "inference/"))} <= found


BLOCKED = """
import runpy, sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("moderngl", "anny", "matplotlib", "silero_vad", "pocketsphinx"):
            raise ModuleNotFoundError("not in the engine: " + name, name=name)
sys.meta_path.insert(0, Guard())
sys.argv = ["training", *sys.argv[1:]]
runpy.run_path("training", run_name="__main__")
"""


@pytest.mark.parametrize(("command", "code", "words"), [
    ("person", 0, "--bank BANK"),  # imports all that `footage` does
    ("insets", 1, "does not contain the command insets"),
])  # fmt: skip
def test_the_zip_trains_from_footage_with_the_engine(extension, tmp_path, command, code, words):
    """With the packages of the engine alone. Other commands say that they are missing."""
    python = ROOT / ".venv" / "worker" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        pytest.skip("needs .venv/worker: bash setup.sh")
    with zipfile.ZipFile(extension) as archive:
        archive.extractall(tmp_path)
    run = [python, "-B", "-c", BLOCKED, command, "--help"]
    answer = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == code, answer.stderr
    assert words in answer.stdout + answer.stderr


def test_names_are_valid_on_windows_and_macos(extension):
    found = names(extension)
    assert len({name.lower() for name in found}) == len(found), "two names differ only in case"
    reserved = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
    parts = {part for name in found for part in name.split("/")}
    assert [part for part in parts if reserved.fullmatch(part) or part.endswith((" ", "."))] == []
    assert [part for part in parts if re.search(r'[<>:"\\|?*\x00-\x1f]', part) or not part.isascii()] == []
    user = "D:/People/Maximiliane.Mustermann-Meier/AppData/Roaming/Blender Foundation/Blender"
    folder = f"{user}/5.2/extensions/extensions_blender_org/edtalk"
    assert max(len(f"{folder}/{name}") for name in found) < 260


SCRIPT = """
import json, os, sys
import bpy

zip_path, portrait = sys.argv[1:]
module = "bl_ext.user_default.edtalk"
result = {}

def record(name):
    operators = [operator for operator in dir(bpy.ops.edtalk)]
    result[name] = {"enabled": module in bpy.context.preferences.addons, "operators": len(operators),
                  "property": hasattr(bpy.types.Object, "edtalk")}

bpy.ops.extensions.package_install_files(repo="user_default", filepath=zip_path, enable_on_install=True)
record("installed")
bpy.ops.edtalk.add_character(filepath=portrait)
obj = bpy.context.active_object
obj.edtalk["jawOpen"] = 0.5
result["sliders"] = len(sys.modules[module + ".edtalk_blender.character.sliders"].row(obj))
result["folder"] = os.path.dirname(sys.modules[module].__file__)
bpy.ops.preferences.addon_disable(module=module)
record("disabled")
bpy.ops.preferences.addon_enable(module=module)
record("enabled again")
result["kept"] = obj.edtalk["jawOpen"]
result["engine"] = [name for name in ("torch", "cv2", "librosa", "safetensors") if name in sys.modules]
bpy.ops.extensions.package_uninstall(repo_index=[r.module for r in bpy.context.preferences.extensions.repos].index(
    "user_default"), pkg_id="edtalk")
record("uninstalled")
result["folder left"] = os.path.isdir(result["folder"])
print("RESULT " + json.dumps(result), flush=True)
os._exit(0)  # Blender 4.5 can hang when the interpreter ends
"""


def test_install_disable_enable_and_uninstall(extension, tmp_path):
    environment = os.environ | {"BLENDER_USER_RESOURCES": str(tmp_path / "user")}
    command = [sys.executable, "-c", SCRIPT, extension, ROOT / "inference" / "demo" / "portrait_1.png"]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in answer.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, answer.stdout + answer.stderr
    result = json.loads(lines[0].removeprefix("RESULT "))
    assert "Traceback" not in answer.stderr, answer.stderr
    enabled, removed = {"enabled": True, "property": True}, {"enabled": False, "operators": 0, "property": False}
    for name in ("installed", "enabled again"):
        assert result[name].items() >= enabled.items(), name
        assert result[name]["operators"] > 10
    assert result["disabled"] == result["uninstalled"] == removed
    assert result["sliders"] == 20 + 6 + 10 + 2
    assert result["kept"] == 0.5, "disabling the add-on must not change saved values"
    assert result["engine"] == []
    assert result["folder"].startswith(str(tmp_path / "user"))
    assert not result["folder left"]
