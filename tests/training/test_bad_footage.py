"""What is said about clips that nothing can be learned from, and that nothing made is lost."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from inference.contract.errors import EDTalkError
from training.footage.prepare import check, prepared, read_footage
from training.stages import footage as command

from .footage_material import prepare_faces


def options(folder: Path, clips: list[Path]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    words = f"--out {folder / 'made.safetensors'} --work {folder / 'work'} --size 32 --steps 0 --consent"
    return parser.parse_args([*map(str, clips), *words.split()])


def test_clips_that_cannot_be_read_are_named_and_all_of_them_stop(tmp_path: Path) -> None:
    for name, content in (("damaged.mp4", b"not a movie"), ("empty.mov", b"")):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(EDTalkError, match=r"Only 0 s of 0 s show a usable face \(2 of 2 clips cannot be read\)"):
        prepared([tmp_path], tmp_path / "work", 32)
    entries = json.loads((tmp_path / "work" / "clips.json").read_text())["clips"].values()
    assert all(entry["name"] in entry["error"] for entry in entries)


def test_a_damaged_clip_does_not_stop_the_others(tmp_path: Path) -> None:
    clips = prepare_faces(tmp_path)
    (tmp_path / "damaged.mp4").write_bytes(b"not a movie")
    footage, origin = prepared([*clips, tmp_path / "damaged.mp4"], tmp_path / "work" / "footage", 32, least=5.0)
    assert len(footage) == 150
    assert "damaged" not in origin
    assert "damaged.mp4" in (tmp_path / "work" / "footage" / "report.md").read_text()


def test_clips_that_are_no_longer_given_are_not_used(tmp_path: Path) -> None:
    clips = prepare_faces(tmp_path)
    footage, origin = prepared(clips[:1], tmp_path / "work" / "footage", 32, least=2.0)
    assert len(footage) == 75
    assert "bert.mp4" not in origin


def test_other_clips_than_a_training_began_with_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LEAST", 2.0)
    clips = prepare_faces(tmp_path)
    with command.Watch(tmp_path / "work", "footage", {"prepare": None}) as watch:
        command.read_material(options(tmp_path, clips[:1]), watch)
        with pytest.raises(EDTalkError, match=r"was started with other clips: bert.mp4 is new\."):
            command.read_material(options(tmp_path, clips), watch)
        with pytest.raises(EDTalkError, match=r"bert.mp4 is new, anna.mp4 is missing"):
            command.read_material(options(tmp_path, clips[1:]), watch)
        split, material, _ = command.read_material(options(tmp_path, clips[:1]), watch)
    assert len(split.trained) + len(split.heldout) == 75
    assert {take.clip for take in material.takes} == {"anna.mp4"}


def test_silence_is_refused_and_a_still_head_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_faces(tmp_path)
    folder = tmp_path / "work" / "footage"
    state = json.loads((folder / "clips.json").read_text())
    footage = read_footage(folder, state)
    capsys.readouterr()
    check(footage, state, 1.0)
    assert capsys.readouterr().out == ""
    moved = footage.points.copy()
    moved[:, :3] = moved[0, :3]  # eyes and nose
    check(type(footage)(footage.frames, moved, footage.take_ids, footage.person, footage.seconds), state, 1.0)
    assert "The head hardly moves" in capsys.readouterr().out
    still = np.tile(footage.points[:1], (len(footage), 1, 1))
    with pytest.raises(EDTalkError, match="Nobody speaks in these clips"):
        check(type(footage)(footage.frames, still, footage.take_ids, footage.person, footage.seconds), state, 1.0)
