"""The first hour in a real Blender window. Run it manually on a machine with a display:

    EDTALK_GUI_BLENDER="blender" DISPLAY=:0 python -m pytest tests/gui -s

See `tests/gui/window.py` for the variables. Blender must have the extension and its engine. With `edtalk.zip` in the
folder, `python -m tests.gui.window first_hour:install first_hour:engine` installs both by clicks, with a network.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gui import window

pytestmark = pytest.mark.gui


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if not window.command():
        pytest.skip("needs a window: set EDTALK_GUI_BLENDER and DISPLAY (see tests/gui/window.py)")
    where = window.folder(tmp_path)
    window.prepare(where)
    return where


def test_the_first_hour(folder: Path) -> None:
    first = window.run("first_hour", folder)
    assert first["finished"]
    bottom, top = first["graph editor shows"]
    assert top - bottom < 3.0, "the Graph Editor is not zoomed to the mouth curves"
    assert first["windows after saving"] == 1, "saving asked a question"
    again = window.run("first_hour", folder, "again")
    assert again["finished"]
    assert again["missing after reopening"] == 0
    assert again["movie"] > 10_000
    assert again["output path is kept"]
    assert 0 < first["waiting after cancelling"] < 163
    steps = first["steps"] + again["steps"]
    assert len(steps) >= 28
    assert {step["step"]: step["failed"] for step in steps if "failed" in step} == {}
    assert sum("undo" in step for step in steps) >= 8
