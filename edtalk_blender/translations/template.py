"""The labels to translate, read from the source code. Works without Blender.

    python -m edtalk_blender.translations.template > messages.pot
    python -m edtalk_blender.translations.template german     # only those that german.py lacks

Labels of classes and properties, items of enums, literal texts and notes of panels, slider groups and named sliders are
found. Messages with names or numbers in them stay in English.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[1]
_NOTES = ("draw_note", "draw_lines")
_WITHOUT_LABELS = ("node_group.py",)  # sockets of nodes keep their English names
_TEXTS = (ast.Constant, ast.JoinedStr, ast.BinOp)
_ITEM = (3, 5)  # least and most parts of an enum item: identifier, name, description, icon, number


def messages() -> dict[str, str]:
    """The labels in order, each with the file and line where it appears first."""
    found: dict[str, str] = {}
    for path in sorted(FOLDER.rglob("*.py")):
        if path.parent == Path(__file__).parent or path.name in _WITHOUT_LABELS:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        place = path.relative_to(FOLDER).as_posix()
        for text, line in sorted(_labels(tree, place), key=lambda label: label[1]):
            if re.search(r"[^\W\d]{2}", text):
                found.setdefault(text, f"{place}:{line}")
    return found


def _labels(tree: ast.Module, place: str) -> Iterator[tuple[str, int]]:
    """The labels that a module defines, and their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield from _assigned(node.targets[0].id, node.value)
        elif isinstance(node, ast.Call):
            yield from _passed(node)


def _assigned(name: str, value: ast.AST) -> Iterator[tuple[str, int]]:
    """The labels in the value of a variable: a class's label, or a table of titles or of menu items."""
    if name == "bl_label":
        yield from _texts(value)
    elif name in ("_EFFECTS", "_EMOTIONS") and isinstance(value, ast.Dict):
        for key in value.keys:
            yield from ((title(text), line) for text, line in _texts(key))
    elif name == "BANK_TITLES" and isinstance(value, ast.Dict):
        for entry in value.values:
            yield from _texts(entry)
    elif name == "_GROUPS":
        yield from _group_titles(value)
    elif name.isupper():
        yield from _items(value)


def _passed(call: ast.Call) -> Iterator[tuple[str, int]]:
    """The labels that are passed to a function: texts of a layout, names of properties, menu items and notes."""
    called = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    for keyword in call.keywords:
        if keyword.arg == "text" or (keyword.arg == "name" and called.endswith("Property")):
            yield from _texts(keyword.value)
        elif keyword.arg == "items":
            yield from _items(keyword.value)
    if called in _NOTES and len(call.args) > 1:
        yield from _texts(call.args[1])


def _texts(node: ast.AST | None) -> Iterator[tuple[str, int]]:
    """Literal texts, also those of a conditional expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value, node.lineno
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


def _items(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Names of the items of an enum."""
    for item in node.elts if isinstance(node, ast.Tuple | ast.List) else ():
        parts = item.elts if isinstance(item, ast.Tuple) else []
        if _ITEM[0] <= len(parts) <= _ITEM[1] and all(isinstance(part, _TEXTS) for part in parts[:3]):
            yield from _texts(parts[1])


def _group_titles(node: ast.AST) -> Iterator[tuple[str, int]]:
    for pair in ast.walk(node):
        if isinstance(pair, ast.Tuple) and len(pair.elts) == 2 and isinstance(pair.elts[0], ast.Constant):
            yield from _texts(pair.elts[0])


def title(name: str) -> str:
    """A slider's name for the UI, as `sliders.title`, which needs Blender."""
    spaced = "".join(f" {letter}" if letter.isupper() else letter for letter in name.replace("_", " "))
    return " ".join(word[:1].upper() + word[1:] for word in spaced.split())


def main() -> None:
    known = importlib.import_module(f"{__package__}.{sys.argv[1]}").LABELS if len(sys.argv) > 1 else {}
    for text, place in messages().items():
        if text not in known:
            quoted = text.replace("\\", "\\\\").replace('"', '\\"')
            print(f'#: {place}\nmsgctxt "EDTalk"\nmsgid "{quoted}"\nmsgstr ""\n')


if __name__ == "__main__":
    main()
