"""The status file of a training: its fields, its final states, and requests to stop."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("torch")

from inference.contract.errors import EDTalkError
from training.learning.watch import STATUS, STOP, Stopped, Watch, read_status

PLANNED = {"prepare": None, "self": 30.0, "mouth-pose": 10.0, "finish": None}
FIELDS = {
    "format": int, "kind": str, "state": str, "phase": str, "phases": list, "step": int, "share": float,
    "sentence": str, "sheet": str, "bank": str, "message": str, "hint": str, "log": str, "pid": int,
    "started": float, "updated": float,
}  # fmt: skip


def test_every_field_is_there_from_the_start(tmp_path: Path) -> None:
    with Watch(tmp_path, "footage", PLANNED) as watch:
        state = read_status(tmp_path)
        assert {name: type(state[name]) for name in FIELDS} == FIELDS
        assert (state["minutes_left"], state["psnr"]) == (None, None)
        assert state["state"] == "running"
        assert state["phases"] == list(PLANNED)
        watch.at("self", 0.5, 70)
        state = read_status(tmp_path)
        assert (state["phase"], state["step"]) == ("self", 70)
        assert state["minutes_left"] == pytest.approx(25.0)
        watch.measured({"psnr": 24.123}, tmp_path / "stage0.jsonl")
        assert read_status(tmp_path)["psnr"] == 24.12
        assert Path(read_status(tmp_path)["log"]).is_absolute()
    assert read_status(tmp_path)["state"] == "done"
    assert sorted(path.name for path in tmp_path.iterdir()) == [STATUS]


def test_the_share_only_grows_and_ends_at_one(tmp_path: Path) -> None:
    with Watch(tmp_path, "footage", PLANNED) as watch:
        shares = []
        for phase in PLANNED:
            for share in (0.0, 0.4, 1.0):
                watch.at(phase, share)
                shares.append(watch.state["share"])
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert read_status(tmp_path)["share"] == 1.0


def test_a_failure_is_one_sentence_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EDTalkError), Watch(tmp_path, "footage", PLANNED):
        raise EDTalkError("Nobody speaks in these clips.", "Give clips in which somebody talks.")
    state = read_status(tmp_path)
    assert (state["state"], state["message"], state["hint"]) == (
        "failed", "Nobody speaks in these clips.", "Give clips in which somebody talks.",
    )  # fmt: skip


@pytest.mark.parametrize("how", ["file", "signal"])
def test_a_request_to_stop_is_seen_and_answered(tmp_path: Path, how: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Watch(tmp_path, "footage", PLANNED) as watch:
        watch.go_on("prepare", 0.1)
        if how == "file":
            (tmp_path / STOP).touch()
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        assert watch.stop_requested
        with pytest.raises(Stopped):
            watch.go_on("prepare", 0.2)
        watch.end("stopped", "The training has stopped.")
    assert read_status(tmp_path)["state"] == "stopped"
    assert not (tmp_path / STOP).exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_earlier_bank_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").touch()
    with Watch(tmp_path / "work", "footage", PLANNED, tmp_path / "mine.safetensors"):
        assert read_status(tmp_path / "work")["bank"] == str((tmp_path / "mine.safetensors").resolve())


def test_what_was_measured_before_is_still_said(tmp_path: Path) -> None:
    for _ in range(2):
        with Watch(tmp_path, "footage", PLANNED) as watch:
            if watch.state["psnr"] is None:
                watch.measured({"psnr": 21.5}, tmp_path / "stage0.jsonl")
                watch.shown(tmp_path / "sheet.jpg")
    assert read_status(tmp_path)["psnr"] == 21.5
    assert read_status(tmp_path)["sheet"].endswith("sheet.jpg")


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """Every version is complete JSON, however often it is written."""
    with Watch(tmp_path, "footage", PLANNED) as watch:
        for step in range(50):
            watch.measured({"psnr": step})
            assert json.loads((tmp_path / STATUS).read_text())["psnr"] == step
    assert read_status(tmp_path / "missing") == {}
