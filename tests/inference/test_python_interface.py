"""The Python interface: the example of docs/command-line.md as written, and motion relative to a portrait."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.cli.bench import RandomBank
from inference.contract.errors import EDTalkError
from inference.renderer import FaceRenderer
from tests.inference.test_renderer import SMALL, portrait

ROOT = Path(__file__).parents[2]
NAMES = RandomBank.of(SMALL).names


@pytest.fixture(scope="module")
def renderer() -> FaceRenderer:
    renderer = FaceRenderer(RandomBank.of(SMALL), "cpu")
    renderer.set_source(portrait())
    return renderer


@pytest.mark.slow
def test_the_documented_example_runs_as_written(tmp_path, monkeypatch) -> None:
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shutil.copy(ROOT / "inference" / "demo" / "portrait_1.png", tmp_path / "me.png")
    monkeypatch.chdir(tmp_path)
    done: dict[str, Any] = {}
    exec(compile(example, "docs/command-line.md", "exec"), done)
    renderer, rows, shown = done["renderer"], done["rows"], done["portrait"]
    assert rows.values.shape == (48, 38)
    assert done["frame"].shape == shown.shape == (512, 512, 3)
    (rest,) = renderer.render(renderer.moved({}))
    assert np.abs(rest.astype(int) - shown).mean() < 1  # without motion, the frame is the portrait
    opened, closed = renderer.render(renderer.moved({"jawOpen": done["opening"][[24, 0]]}))
    assert np.array_equal(closed, rest)
    assert np.abs(opened.astype(int) - rest)[300:450, 150:360].mean() > 3  # the mouth opens


def test_motion_is_added_to_the_portraits_own_pose(renderer: FaceRenderer) -> None:
    own = renderer.source_coefficients.values
    rows = renderer.moved({NAMES[0]: np.array([0.0, 0.5, 1.0]), NAMES[3]: -0.25}, fps=24)
    expected = np.tile(own, (3, 1))
    expected[:, 0] += np.array([0.0, 0.5, 1.0], np.float32)
    expected[:, 3] -= 0.25
    np.testing.assert_array_equal(rows.values, expected)
    assert rows.names == NAMES
    assert rows.fps == 24
    assert np.array_equal(renderer.source_coefficients.values, own)


def test_rows_without_motion_are_the_portraits_own(renderer: FaceRenderer) -> None:
    own = renderer.source_coefficients.values
    np.testing.assert_array_equal(renderer.moved({}).values, own)
    np.testing.assert_array_equal(renderer.moved({}, frames=4).values, np.tile(own, (4, 1)))
    np.testing.assert_array_equal(renderer.moved({NAMES[1]: 0.0}, frames=2).values, np.tile(own, (2, 1)))
    assert len(renderer.moved({NAMES[1]: np.zeros(0)})) == 0


@pytest.mark.parametrize(
    ("motion", "frames", "message"),
    [
        ({"smile": 1.0}, None, "no coefficient 'smile'"),
        ({NAMES[0]: np.zeros(3), NAMES[1]: np.zeros(4)}, None, r"found \[3, 4\]"),
        ({NAMES[0]: np.zeros(3)}, 5, r"found \[3, 5\]"),
        ({NAMES[0]: np.zeros((3, 1))}, None, rf"'{NAMES[0]}' must be a number or \(T,\) values, found \(3, 1\)"),
    ],
)
def test_invalid_motion_is_named(renderer: FaceRenderer, motion, frames, message: str) -> None:
    with pytest.raises(EDTalkError, match=message):
        renderer.moved(motion, frames)
    with pytest.raises(EDTalkError, match="No source"):
        FaceRenderer(RandomBank.of(SMALL), "cpu").moved({})
