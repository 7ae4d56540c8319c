"""What a trainer leaves: a checkpoint that is whole, whatever happens, and a log that grows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from training.checkpoint import log_line, save_checkpoint  # noqa: E402


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
