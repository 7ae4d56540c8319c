"""`python -m training footage` as another program starts, watches, stops and continues it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import load_bank
from inference.contract.errors import EDTalkError
from inference.media.picture import load_picture
from training.learning.watch import STOP, Watch, read_status
from training.stages import footage as command
from training.stages.contact import COLUMNS, HEADER, TILE

from .footage_material import prepare_faces

STEPS = 2


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five seconds of footage are enough, sliders are measured on two faces, and keep their numbers."""
    monkeypatch.setattr(command, "LEAST", 5.0)
    monkeypatch.setattr(command, "FACES", 2)
    monkeypatch.setattr("training.stages.finish_bank.named_coefficients", lambda bank, *measured: bank.coefficients)


class Killed(BaseException):
    """Ends a training without any of its own handling."""


class Watched(Watch):
    """A watch beside which somebody acts once a phase has taken a step."""

    def __init__(self, args: argparse.Namespace, phase: str, act: Callable[[], None]) -> None:
        planned = {"prepare": None} | command.planned_minutes(args) | {"finish": None}
        super().__init__(args.work, "footage", planned, args.out)
        self.moment, self.act = phase, act

    def at(self, phase: str, share: float, step: int = 0, doing: str = "") -> None:
        super().at(phase, share, step, doing)
        if phase == self.moment and step == 1:
            self.act()


def options(folder: Path, clips: list[Path], *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    words = f"--out {folder / 'made.safetensors'} --work {folder / 'work'} --size 32 --steps {STEPS} --minutes inf"
    small = "--mouth-steps 3 --pool 8 --sources 2 --pairs 2"
    return parser.parse_args([*map(str, clips), *words.split(), *small.split(), *more])


def steps_of(folder: Path, stage: str) -> list[int]:
    saved = torch.load(folder / "work" / f"{stage}.pt", weights_only=True)
    return [phase["step"] for phase in saved["phases"].values()]


def test_clips_are_not_used_without_consent(tmp_path: Path) -> None:
    clips = prepare_faces(tmp_path, 2.0)
    with pytest.raises(EDTalkError, match="without consent"):
        command.run(options(tmp_path, clips))
    state = read_status(tmp_path / "work")
    assert state["state"] == "failed"
    assert command.CONSENT in state["hint"]
    assert not (tmp_path / "made.safetensors").exists()


def test_too_little_footage_fails_with_its_sentence(tmp_path: Path) -> None:
    clips = prepare_faces(tmp_path, 4.0)
    with pytest.raises(EDTalkError, match=r"Only 4 s of 4 s show a usable face .*; at least 5 s are needed"):
        command.run(options(tmp_path, clips, "--consent"))
    assert "at least 5 s are needed" in read_status(tmp_path / "work")["message"]


def test_a_killed_training_goes_on_and_a_stopped_one_leaves_a_bank(tmp_path: Path) -> None:
    def die() -> None:
        raise Killed

    clips = prepare_faces(tmp_path)
    args = options(tmp_path, clips, "--consent")
    with pytest.raises(Killed), Watched(args, "mouth-pose", die) as args.watch:
        command.make_bank(args, args.watch)
    before = (tmp_path / "work" / "stage0.pt").read_bytes()
    assert not args.out.exists()

    with Watched(args, "mouth-pose", (args.work / STOP).touch) as args.watch:
        command.make_bank(args, args.watch)
    assert (tmp_path / "work" / "stage0.pt").read_bytes() == before, "a finished stage is not trained again"
    state = read_status(args.work)
    assert state["state"] == "stopped"
    assert Path(state["bank"]) == args.out.resolve()
    assert state["psnr"] > 0.0
    assert not (args.work / STOP).exists()
    assert dict(load_bank(args.out).config.banks) == {"lip": 20, "pose": 6}
    assert steps_of(tmp_path, "stage1") == [1]
    sheet = load_picture(state["sheet"]).opaque
    assert sheet.shape == (2 * TILE + HEADER, len(COLUMNS) * TILE, 3)

    command.run(options(tmp_path, clips, "--consent"))
    state = read_status(args.work)
    assert (state["state"], state["share"]) == ("done", 1.0)
    assert steps_of(tmp_path, "stage1") == [STEPS]
    bank = load_bank(args.out)
    assert dict(bank.config.banks) == {"lip": 20, "pose": 6, "exp": 10}
    assert bank.licence == "yours; made from your footage"
    assert command.CONSENT in bank.origin
    assert bank.footage is not None
    assert bank.footage["consent"] == command.CONSENT
    assert [clip["name"] for clip in bank.footage["clips"]] == ["anna.mp4", "bert.mp4"]


def test_a_stop_before_anything_can_be_drawn_is_said(tmp_path: Path) -> None:
    clips = prepare_faces(tmp_path)
    args = options(tmp_path, clips, "--consent")
    (args.work / STOP).touch()
    command.run(args)
    state = read_status(args.work)
    assert state["state"] == "stopped"
    assert "before it could draw" in state["message"]
    assert state["bank"] == ""
