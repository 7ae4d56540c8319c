"""The check of a Python that the user chose."""

import re
import sys
import time
from pathlib import Path

import pytest
from edtalk.edtalk_blender.engine import check
from edtalk.edtalk_blender.engine.engine import Engine, State, checked

from tests.engine_material import ROOT, make_python

PATIENCE = 200.0  # seconds


def test_all_packages_of_the_engine_are_imported():
    lines = (ROOT / "wheels" / "requirements-worker.txt").read_text(encoding="utf-8").splitlines()
    assert set(check.MODULES) == {match[0] for line in lines if (match := re.match(r"[\w-]+(?===)", line))}


@pytest.mark.slow
def test_the_running_python_is_examined_in_another_process():
    found = check.find_problem()
    assert check.examine(Path(sys.executable)).problem == found["problem"]
    if not found["problem"]:
        assert f"torch {found['versions']['torch']}" in check.examine(Path(sys.executable)).versions


def test_the_first_missing_or_damaged_package_is_named(monkeypatch):
    monkeypatch.setattr(check, "MODULES", {"json": "json", "no-such-package": "no_such_module"})
    assert check.find_problem()["problem"] == "it has no no-such-package"
    monkeypatch.setattr(check, "MODULES", {"broken": "tests"})
    monkeypatch.setattr(check.importlib, "import_module", lambda name: 1 / 0)
    assert "its broken does not work (ZeroDivisionError" in check.find_problem()["problem"]
    monkeypatch.setattr(check, "OLDEST", (3, 99))
    assert "3.99 is needed" in check.find_problem()["problem"]


def test_what_is_not_a_python_has_a_problem(tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho no JSON\n")
    program.chmod(0o755)
    assert check.examine(tmp_path / "nothing").problem
    assert check.examine(program).problem
    assert check.examine(make_python(tmp_path)).problem


def test_a_python_that_is_too_slow_to_be_checked_is_used(tmp_path, monkeypatch):
    """A busy computer is no damage: the engine may start in it."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(check, "_PATIENCE", 0.1)
    assert check.examine(program) == check.Finding("")


def test_the_tick_waits_for_the_finding(tmp_path):
    chosen = Engine(State.READY, tmp_path, tmp_path / "python", origin="preferences")
    assert checked(chosen, None).state is State.UNCHECKED
    assert checked(chosen, None).usable
    bad = checked(chosen, check.Finding("it has no torch"))
    assert bad.state is State.BROKEN
    assert "it has no torch" in bad.reason
    assert bad.hint
    good = checked(chosen, check.Finding("", "torch 2.13.0"))
    assert (good.state, good.versions) == (State.READY, "torch 2.13.0")


def test_each_python_is_checked_once_until_it_is_forgotten(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(check, "examine", lambda python: asked.append(python) or check.Finding(""))
    checks = check.Checks()
    until = time.monotonic() + PATIENCE
    while checks.of(tmp_path) is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    checks.of(tmp_path)
    assert asked == [tmp_path]
    checks.forget()
    while checks.of(tmp_path) is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    assert asked == [tmp_path] * 2
