"""Every operator of the installed extension is registered, answers `poll`, and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("call_operators.py")


@pytest.fixture(scope="module")
def result(extension, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("operators")
    environment = os.environ | {"BLENDER_USER_RESOURCES": str(folder / "user"), "EDTALK_WORKER_PYTHON": sys.executable}
    command = [sys.executable, SCRIPT, extension, folder]
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in answer.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, answer.stdout[-4000:] + answer.stderr[-4000:]
    return json.loads(lines[0].removeprefix("RESULT "))


@pytest.mark.slow
def test_operators_are_registered_as_they_are_defined(result):
    assert result["registered"] == result["defined"]
    assert len(result["registered"]) > 50
    assert result["replaced"] == [], "Blender loses a registered class that another registered class derives from"


@pytest.mark.slow
def test_every_operator_answers_poll_and_runs(result):
    calls = result["calls"]
    errors = [f"{name}: {one['error']}" for name, one in calls.items() if "error" in one]
    assert not errors, "\n".join(errors)
    assert all(isinstance(answer, bool) for one in calls.values() for answer in one["polled"])
    expected = set(calls) - set(result["excluded"])
    assert {name for name, one in calls.items() if one.get("answer") == ["FINISHED"]} == expected


@pytest.mark.slow
def test_only_existing_operators_are_excluded_and_each_has_a_reason(result):
    assert set(result["excluded"]) <= set(result["registered"])
    assert all(len(reason) > 20 for reason in result["excluded"].values())
