"""Errors carry a code, and each front end words the hint for it."""

import ast
from pathlib import Path

import pytest

from edtalk_blender.engine import hints as add_on
from inference.cli import hints as command_line
from inference.contract.errors import EDTalkError

INFERENCE = Path(__file__).parents[2] / "inference"


def library_trees() -> dict[str, ast.Module]:
    """The parsed modules of `inference` outside its command line, by path."""
    paths = [path for path in INFERENCE.rglob("*.py") if (INFERENCE / "cli") not in path.parents]
    return {path.relative_to(INFERENCE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def docstrings(tree: ast.Module) -> set[ast.Constant]:
    """The docstrings of a module and of all that it defines."""
    owners = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    return {owner.body[0].value for owner in owners if owner.body and isinstance(owner.body[0], ast.Expr)}


def raised_codes() -> set[str]:
    """Codes that the library gives its errors, as the fourth argument or by keyword."""
    codes = set()
    for tree in library_trees().values():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "EDTalkError":
                given = [*call.args[3:4], *(keyword.value for keyword in call.keywords if keyword.arg == "code")]
                codes |= {node.value for node in given if isinstance(node, ast.Constant)}
    return codes


def test_library_messages_name_no_command_line_option():
    found = [
        f"{path}:{node.lineno}: {node.value}"
        for path, tree in library_trees().items()
        for known in [docstrings(tree)]
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " --" in node.value and node not in known
    ]
    assert found == []


def test_front_ends_know_only_codes_that_are_raised():
    codes = raised_codes()
    assert set(command_line._HINTS) == codes
    assert set(add_on._HINTS) <= codes


def test_command_line_hints_name_the_options_of_the_input():
    error = EDTalkError("No face was found in a.png.", "Use a clearer picture.", "face", "face_not_found")
    assert "--crop none" in command_line.with_options(error).hint
    worded = command_line.with_options(error, "--driver-crop", "--driver-face")
    assert "--driver-crop none" in worded.hint
    assert (worded.message, worded.kind) == (error.message, error.kind)
    assert command_line.with_options(worded) is worded


@pytest.mark.parametrize("code", ["", "unknown"])
def test_a_hint_without_known_code_is_kept(code):
    error = EDTalkError("It failed.", "Try again.", "face", code)
    assert command_line.with_options(error) is error
    assert add_on.hint_for(code, "Try again.") == "Try again."


def test_add_on_hints_name_no_option():
    assert not any("--" in hint for hint in add_on._HINTS.values())
