"""Rules for the whole repository: which part may import what, and what no published file may contain."""

import ast
import graphlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = frozenset({"torch", "cv2", "librosa", "safetensors", "av", "PIL", "scipy", "soxr"})
BLENDER = frozenset({"bpy", "bpy_extras", "aud", "gpu"})
MAX_BYTES = 24 * 10**6  # the starter bank is the largest
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


@pytest.mark.parametrize(
    ("folder", "forbidden"), [("inference", BLENDER), ("training", BLENDER), ("edtalk_blender", ENGINE)]
)
def test_no_file_imports_the_other_sides_packages(folder, forbidden):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert len(files) > 5
    found = {path.relative_to(ROOT).as_posix(): imports(path) & forbidden for path in files}
    assert {name: packages for name, packages in found.items() if packages} == {}


def test_the_add_on_imports_only_the_contract_from_inference():
    """With relative imports, such as `from ...inference.contract import shot`, because Blender names the package."""
    others = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.module}"
        for path in sorted((ROOT / "edtalk_blender").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level and (node.module or "").split(".")[0] == "inference"
        if (node.module or "").split(".")[1:2] != ["contract"]
    ]
    assert others == []


def test_modules_that_do_not_import_bpy_work_without_it():
    """So they can be tested without Blender. A module that depends on one with bpy imports bpy itself."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "edtalk_blender").rglob("[!_]*.py"))
        if not imports(path) & BLENDER
    ]
    assert len(names) > 5
    result = run_without(
        BLENDER | ENGINE,
        "import importlib, types\n"
        "extension = sys.modules['extension'] = types.ModuleType('extension')\n"
        f"extension.__path__ = [{str(ROOT)!r}]\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module('extension.' + name)\n",
    )
    assert result.returncode == 0, result.stderr


def imported_modules(path: Path, known: set[str]) -> set[str]:
    """Those of the `known` modules that a file imports by statements, also in functions and for type checking."""
    own = path.relative_to(ROOT).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = own[: max(len(own) - node.level, 0)] if node.level else ()  # an extension lies in another package
            package = ".".join([*start, *([node.module] if node.module else [])])
            names = {f"{package}.{alias.name}" for alias in node.names}
            found |= names if names <= known else names | {package}
    return found & known


def test_no_module_imports_itself_through_others():
    """Imports in functions and for type checking count: what needs each other belongs into one module."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for folder in ("edtalk_blender", "inference", "training")
        for path in (ROOT / folder).rglob("*.py")
    }
    graph = {name: imported_modules(path, set(files)) - {name} for name, path in files.items()}
    assert sum(map(len, graph.values())) > len(graph)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_images_and_media_are_opened_for_reading_in_one_module_each():
    """The modules that limit the accepted formats and protocols. Writing may happen anywhere."""
    found = {
        (path.relative_to(ROOT).as_posix(), match[1])
        for folder in ("inference", "training", "edtalk_blender")
        for path in (ROOT / folder).rglob("*.py")
        for match in re.finditer(r"\b(Image|av)\.open\((?!.*\"w\")", path.read_text(encoding="utf-8"))
    }
    assert found == {("inference/media/picture.py", "Image"), ("inference/media/container.py", "av")}


def run_without(packages: frozenset[str], program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code from the root in a process where importing any of the packages raises."""
    guard = f"""
import sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(packages)!r}:
            raise ModuleNotFoundError("blocked by the test: " + name)
sys.meta_path.insert(0, Guard())
"""
    return subprocess.run(
        [sys.executable, "-c", guard + program, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


def write_bank_by_hand(path: Path) -> None:
    """Write a bank with one tensor of four bytes, following the format's description only."""
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


def test_the_contract_works_without_the_engines_packages(tmp_path):
    write_bank_by_hand(tmp_path / "hand.safetensors")
    contract = [f"inference.contract.{path.stem}" for path in (ROOT / "inference" / "contract").glob("[!_]*.py")]
    assert len(contract) > 5
    answer = run_without(
        ENGINE,
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
    missing_bank = error.message
shot = Shot(bank.path, bank.sha256, folder / "hand.safetensors", "auto", rest, folder / "frames")
shot.write(folder / "shot")
print(json.dumps({{
    "names": bank.names,
    "size": bank.config.size,
    "rest": Coefficients.load(folder / "rest.csv").values.tolist(),
    "happy": bank.with_emotion(rest.select(bank.names_of("exp")).values, {{"happy": 0.5}}).tolist(),
    "missing_bank": missing_bank,
    "missing_frames": Shot.read(folder / "shot").missing(),
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
    assert result["missing_bank"].endswith("none.safetensors does not exist; expected a bank (.safetensors).")
    assert result["missing_frames"] == [0]
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
    """(path, content) of every published text file."""
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
        ("a path of one machine", r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+|opt/\w+)/|[A-Z]:\\Users\\"),
        ("an unfinished task", r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b"),
    ],
    ids=["machine-path", "unfinished"],
)
def test_no_text_file_contains(what, pattern):
    lines = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for path, text in texts()
        for match in re.finditer(pattern, text)
    ]
    assert lines == [], f"{what} in {len(lines)} places"


def prose(path: Path, text: str) -> Iterator[str]:
    """Yield a Markdown file, the comments and docstrings of a Python file, or the `#` comments of any other file."""
    if path.suffix == ".md":
        yield text
        return
    if path.suffix != ".py":
        yield from re.findall(r"#.*", text)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def cited_documents(text: str) -> set[str]:
    """Paths such as `docs/farm.md` or `demo.jpg` in `docs/`; `DIR/report.md`, with a placeholder, is not one."""
    found = re.findall(r"(?<![\w./:-])[\w./-]*\w\.md\b|(?<![\w./:-])(?:\.\./)*docs/[\w./-]*\w", text)
    return {name for name in found if not any(part.isupper() for part in name.split("/")[:-1])}


def test_cited_documents_exist():
    """From the citing file's folder or the root; a bare name may lie in any folder."""
    names = {path.name for path in published()}
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, text in texts()
        for part in prose(path, text)
        for name in sorted(cited_documents(part))
        if not ((path.parent / name).exists() or (ROOT / name).exists() or name in names)
    ]
    assert missing == []


def test_python_files_are_short_enough_to_read():
    lengths = {path.relative_to(ROOT): text.count("\n") for path, text in texts() if path.suffix == ".py"}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_openmps_wait_policy_is_changed_in_the_engine_but_not_in_blender():
    """In Blender, inference is imported as a part of the extension and must leave the environment alone."""
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
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert result.stdout.decode().split() == ["None", "passive"]


def test_no_file_is_large():
    sizes = {path.relative_to(ROOT): path.stat().st_size for path in published()}
    assert {path: size for path, size in sizes.items() if size > MAX_BYTES} == {}
