"""Rules about the repository as a whole: which side imports what, and what no file may hold."""

import ast
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = frozenset({"torch", "cv2", "librosa", "safetensors", "av", "PIL", "scipy", "soxr"})
BLENDER = frozenset({"bpy", "bpy_extras", "aud", "gpu"})
# Modules of the add-on that work without bpy, so that they can be tested without it.
WITHOUT_BLENDER = (
    "animation.curves",
    "animation.pose",
    "animation.presets",
    "capture.arkit_csv",
    "capture.one_euro",
    "capture.retarget",
    "character.arkit",
    "character.exif",
    "character.mix",
    "engine.client",
    "engine.engine",
    "engine.fetch",
    "engine.gpu",
    "engine.installation",
    "engine.lock",
    "engine.process",
    "rig.shape_names",
    "timeline.timemap",
)
MAX_BYTES = 20 * 10**6
MAX_LINES = 700


def imports(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, at any depth, by statement or by a literal name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__"):
                found.add(str(node.args[0].value))
    return {name.split(".")[0] for name in found}


def trespasses(folder: Path, forbidden: frozenset[str]) -> list[str]:
    """`file: module` for every forbidden import below a folder."""
    return [
        f"{path.relative_to(folder)}: {name}"
        for path in sorted(folder.rglob("*.py"))
        for name in sorted(imports(path) & forbidden)
    ]


def test_every_way_of_importing_is_seen(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.py").write_text("def f():\n    import numpy, torch.nn as nn\n")
    (tmp_path / "three.py").write_text("import importlib\nimportlib.import_module('librosa')\n__import__('av')\n")
    (tmp_path / "two.py").write_text("# import PIL\nfrom cv2 import imread\nfrom .torch import x\nname = 'scipy'\n")
    assert trespasses(tmp_path, ENGINE) == ["deep/one.py: torch", "three.py: av", "three.py: librosa", "two.py: cv2"]


def test_the_engine_knows_no_blender():
    assert len(list((ROOT / "inference").rglob("*.py"))) > 5
    assert trespasses(ROOT / "inference", BLENDER) == []


@pytest.mark.skipif(not (ROOT / "edtalk_blender").is_dir(), reason="there is no add-on yet")
def test_the_add_on_imports_no_engine_package():
    assert len(list((ROOT / "edtalk_blender").rglob("*.py"))) > 1
    assert trespasses(ROOT / "edtalk_blender", ENGINE) == []


def test_the_add_on_imports_nothing_of_inference_but_the_contract():
    """`from ...inference.contract import shot` and the like; relative imports, because Blender names the package."""
    others = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.module}"
        for path in sorted((ROOT / "edtalk_blender").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level and (node.module or "").split(".")[0] == "inference"
        if (node.module or "").split(".")[1:2] != ["contract"]
    ]
    assert others == []


def test_modules_without_blender_import_without_it():
    """Each of `WITHOUT_BLENDER`, and no module that imports bpy only somewhere below."""
    answer = run_without(
        BLENDER | ENGINE,
        "import importlib, types\n"
        "extension = sys.modules['extension'] = types.ModuleType('extension')\n"
        f"extension.__path__ = [{str(ROOT)!r}]\n"
        f"for name in {WITHOUT_BLENDER!r}:\n"
        "    importlib.import_module('extension.edtalk_blender.' + name)\n",
    )
    assert answer.returncode == 0, answer.stderr


def test_files_of_others_are_opened_in_one_place_a_library():
    """Where formats and protocols are limited; writing is another matter."""
    found = {
        (path.relative_to(ROOT).as_posix(), match[1])
        for folder in ("inference", "training", "edtalk_blender")
        for path in (ROOT / folder).rglob("*.py")
        for match in re.finditer(r"\b(Image|av)\.open\((?!.*\"w\")", path.read_text(encoding="utf-8"))
    }
    assert found == {("inference/media/picture.py", "Image"), ("inference/media/container.py", "av")}


def run_without_engine(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_without(ENGINE, program, *arguments)


def run_without(packages: frozenset[str], program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code from the root in a process where importing any of the packages raises."""
    guard = f"""
import sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(packages)!r}:
            raise ModuleNotFoundError("kept out by the test: " + name)
sys.meta_path.insert(0, Guard())
"""
    return subprocess.run(
        [sys.executable, "-c", guard + program, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("module", sorted(ENGINE))
def test_the_guard_keeps_out(module):
    answer = run_without_engine(f"import {module}")
    assert answer.returncode == 1
    assert f"kept out by the test: {module}" in answer.stderr


def write_bank_by_hand(path: Path) -> None:
    """A bank with one tensor of four bytes, put together from the format's description alone."""
    coefficients = [
        {"name": name, "bank": name[:-1], "rest": rest, "soft_min": 0.0, "soft_max": 1.0, "unit": ""}
        for name, rest in (("lip1", 0.25), ("lip2", 0.0), ("pose1", -1.0), ("exp1", 0.5))
    ]
    bank = {
        "format_version": 1,
        "name": "by hand",
        "size": 8,
        "style_dim": 4,
        "channels": {"4": 4, "8": 4},
        "banks": [["lip", 2], ["pose", 1], ["exp", 1]],
        "coefficients": coefficients,
        "presets": {"neutral": [2.0], "happy": [5.0]},
        "licence": "CC0-1.0",
        "origin": "a test",
        "sha256": "",
        "has_audio": False,
    }
    header = {
        "__metadata__": {"edtalk": json.dumps(bank)},
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))


def test_the_contracts_work_without_the_engine(tmp_path):
    write_bank_by_hand(tmp_path / "hand.safetensors")
    contract = [f"inference.contract.{path.stem}" for path in (ROOT / "inference" / "contract").glob("[!_]*.py")]
    assert len(contract) > 5
    answer = run_without_engine(
        f"""
import importlib, json, pathlib
for name in {contract!r}:
    importlib.import_module(name)
from inference.contract.bank import read_bank
from inference.contract.coefficients import Coefficients
from inference.contract.errors import EDTalkError
from inference.contract.shot import Shot

folder = pathlib.Path(sys.argv[1])
bank = read_bank(folder / "hand.safetensors")
rest = bank.at_rest(2, fps=24)
rest.save(folder / "rest.csv")
try:
    read_bank(folder / "none.safetensors")
except EDTalkError as error:
    refusal = error.message
shot = Shot(bank.path, bank.sha256, folder / "hand.safetensors", "auto", rest, folder / "frames")
shot.write(folder / "shot")
print(json.dumps({{
    "names": bank.names,
    "size": bank.config.size,
    "rest": Coefficients.load(folder / "rest.csv").values.tolist(),
    "happy": bank.with_emotion(rest.select(bank.names_of("exp")).values, {{"happy": 0.5}}).tolist(),
    "refusal": refusal,
    "missing": Shot.read(folder / "shot").missing(),
    "engine": [name for name in {sorted(ENGINE)!r} if name in sys.modules],
}}))
""",
        str(tmp_path),
    )
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout)
    assert result["names"] == ["lip1", "lip2", "pose1", "exp1"]
    assert result["size"] == 8
    assert result["rest"] == [[0.25, 0.0, -1.0, 0.5]] * 2
    assert result["happy"] == [[2.0], [2.0]]
    assert result["refusal"].endswith("none.safetensors does not exist.")
    assert result["missing"] == [0]
    assert result["engine"] == []


def published() -> list[Path]:
    """All files of the repository that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout, to know which files are published")
    files = [ROOT / name for name in answer.stdout.split("\0") if name]
    return [path for path in files if path.is_file()]


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in published():
        try:
            found.append((path, path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    assert {"setup.sh", "pyproject.toml", "bank.py"} <= {path.name for path, _ in found}
    return found


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of somebody's machine", r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+|opt/\w+)/|[A-Z]:\\Users\\"),
        ("a loose end", r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b"),
    ],
    ids=["machine", "loose-end"],
)
def test_no_text_holds(what, pattern):
    lines = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for path, text in texts()
        for match in re.finditer(pattern, text)
    ]
    assert lines == [], f"{what} in {len(lines)} places"


def test_python_files_are_short_enough_to_read():
    lengths = {path.relative_to(ROOT): text.count("\n") for path, text in texts() if path.suffix == ".py"}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_how_openmp_waits_is_changed_where_the_engine_runs_and_not_in_blender():
    """There the package has the extension's name."""
    code = (
        "import os, sys, types\n"
        "extension = sys.modules['extension'] = types.ModuleType('extension')\n"
        f"extension.__path__ = [{str(ROOT)!r}]\n"
        "import extension.inference.contract.protocol\n"
        "before = os.environ.get('OMP_WAIT_POLICY')\n"
        "import inference\n"
        "print(before, os.environ['OMP_WAIT_POLICY'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert said.stdout.decode().split() == ["None", "passive"]


def test_no_file_is_large():
    sizes = {path.relative_to(ROOT): path.stat().st_size for path in published()}
    assert {path: size for path, size in sizes.items() if size > MAX_BYTES} == {}
