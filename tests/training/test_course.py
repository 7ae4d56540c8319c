"""A training that goes on where it stopped: a checkpoint that is whole, whatever happens, and a log that grows."""

from __future__ import annotations

import json
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.learning.course import (
    Course,
    log_line,
    save_checkpoint,
)


def test_an_interrupted_checkpoint_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint({"step": 2, "cannot be kept": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    save_checkpoint({"step": 3}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    assert torch.load(path, weights_only=True) == {"step": 3}


def test_a_log_grows_beside_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2):
        log_line({"step": step}, tmp_path / "model.pt")
    lines = (tmp_path / "model.jsonl").read_text()
    assert [json.loads(line) for line in lines.splitlines()] == [{"step": 1}, {"step": 2}]
    assert capsys.readouterr().out == lines


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes one."""
    ticks = count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))


def begun(path: Path) -> tuple[Course, torch.nn.Module]:
    model = torch.nn.Linear(1, 1)
    return Course(path, {"model": model}, np.random.default_rng(0), lambda: {"more": 7}), model


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]


def test_a_course_takes_its_time_and_no_more(tmp_path: Path, seconds: None) -> None:
    path = tmp_path / "model.pt"
    course, _ = begun(path)
    shares = list(course.steps(0.5, lambda: {"found": course.step}, evaluate_every=9.5))
    np.testing.assert_allclose(shares, np.arange(30) / 30)
    assert [(line["step"], line["found"]) for line in lines(path)] == [(10, 10), (20, 20), (30, 30), (30, 30)]
    assert lines(path)[0]["minutes"] == 0.2
    assert list(begun(path)[0].steps(0.5, dict)) == []  # it is used up


def test_a_killed_course_goes_on_from_its_checkpoint(tmp_path: Path, seconds: None) -> None:
    path = tmp_path / "model.pt"
    course, model = begun(path)
    for _ in course.steps(1.0, dict, save_every=3.5):
        with torch.no_grad():
            model.weight.fill_(course.step)
        course.note({"loss": torch.tensor(float(course.step))})
        drawn = course.rng.random()
        if course.step == 9:
            break  # as by a signal: nothing is put away
    again, known = begun(path)
    assert (again.step, again.elapsed, known.weight.item()) == (8, 8.0, 7.0)  # as after the second four
    assert again.running["loss"] == pytest.approx(3.5)  # of 0 to 7
    assert [again.rng.random() for _ in range(2)][1] == drawn  # of its tenth step
    assert torch.load(path, weights_only=True)["more"] == 7
    assert sum(1 for _ in again.steps(1.0, dict)) == 52


def test_what_is_noted_late_counts_from_then_on(tmp_path: Path) -> None:
    course, _ = begun(tmp_path / "model.pt")
    course.step = 1000
    course.note({"fooled": torch.tensor(2.0)})
    assert course.running == {"fooled": 2.0}
    course.note({"fooled": torch.tensor(3.0)})
    assert course.running["fooled"] == pytest.approx(2.02)
