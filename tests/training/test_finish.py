"""Finishing a bank from footage: what folders and tables name, lip-sync by ridge, and names of sliders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import Bank, Coefficient, numbered_coefficients, read_bank, save_bank
from inference.contract.config import GeneratorConfig
from inference.contract.errors import EDTalkError
from inference.lipsync import lip_sync
from inference.media.sound import RATE
from inference.model.load import networks_json
from tests.inference.test_prosody import syllables
from training.footage.named import KnownTake, emotion_of_folder, frames_by_emotion, read_table
from training.footage.prepare import clips_in
from training.footage.takes import Footage
from training.stages.finish_bank import UNUSED_UNIT, may_name, measured_coefficients
from training.stages.footage_lipsync import fit_lip_sync, last_layer_inputs

SECONDS, LIPS = 40.0, 3


# ------------------------------------------------------------------------------------------------ names


def test_folders_name_persons_and_emotions(tmp_path: Path) -> None:
    for name in ("anna/Happy/a.mp4", "anna/b.mp4", "sad/c.mp4", "d.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = {clip.name: (person, emotion_of_folder(clip, tmp_path)) for clip, person in clips_in([tmp_path])}
    assert found == {
        "a.mp4": ("anna", "happy"), "b.mp4": ("anna", ""), "c.mp4": (tmp_path.name, "sad"), "d.mp4": ("d", ""),
    }  # fmt: skip
    people = {clip.name: person for clip, person in clips_in([tmp_path], {"d.mp4": "dora"})}
    assert people["d.mp4"] == "dora"


def test_a_table_names_clips_with_and_without_headings(tmp_path: Path) -> None:
    table = tmp_path / "emotions.csv"
    for text in ("clip,emotion\na.mp4,Happy\n\nb.mp4, sad\n", "a.mp4,Happy\nfolder/b.mp4,sad"):
        table.write_text(text)
        assert read_table(table, "emotion", {"a.mp4", "b.mp4"}) == {"a.mp4": "happy", "b.mp4": "sad"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4\n", "has 1 columns in row 1; expected two, clip and emotion"),
        ("a.mp4,\n", "expected two, clip and emotion"),
        ("x.mp4,happy\n", "names the clip 'x.mp4', which is not among the clips"),
        ("a.mp4,very happy\n", "has an emotion 'very happy' in row 1"),
    ],
)
def test_a_table_that_cannot_be_used_is_said(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "emotions.csv"
    table.write_text(text)
    with pytest.raises(EDTalkError, match=message) as found:
        read_table(table, "emotion", {"a.mp4"})
    assert str(table) in str(found.value)
    with pytest.raises(EDTalkError, match="cannot be read"):
        read_table(tmp_path / "missing.csv", "emotion", {"a.mp4"})


def test_frames_of_an_emotion_are_those_of_its_takes() -> None:
    takes = [KnownTake("a", "1", "happy", None), KnownTake("b", "2", "", None), KnownTake("c", "3", "happy", None)]
    found = frames_by_emotion(np.array([0, 0, 1, 2]), takes)
    assert {name: rows.tolist() for name, rows in found.items()} == {"happy": [0, 1, 3]}


# ------------------------------------------------------------------------------------------------ lip-sync


def talk(tmp_path: Path, seconds: float = SECONDS) -> tuple[Footage, list[KnownTake]]:
    """Two takes of two frames a second with speech-like sound, without pictures."""
    takes, times, clips = [], [], []
    for number in range(2):
        sound = syllables(seconds, tuple(np.arange(1.0, seconds - 1, 1.5 - 0.3 * number)))
        path = tmp_path / f"{number}.npy"
        np.save(path, (np.clip(sound, -1, 1) * 32767).astype(np.int16))
        takes.append(KnownTake(f"{number}.mp4", str(number), "", path))
        times.append(np.arange(round(2 * seconds)) / 2)
        clips.append(np.full(len(times[-1]), number))
    count = sum(map(len, times))
    footage = Footage(
        np.zeros((count, 1, 1, 3), np.uint8), np.zeros((count, 9, 2), np.float32), np.concatenate(clips),
        np.zeros(count, np.int64), np.concatenate(times),
    )  # fmt: skip
    return footage, takes


def halves(footage: Footage) -> tuple[np.ndarray, np.ndarray]:
    late = footage.seconds > 0.85 * SECONDS
    return np.flatnonzero(~late), np.flatnonzero(late)


def test_lip_sync_is_learned_where_lips_follow_the_sound(tmp_path: Path) -> None:
    """Lips that are a linear function of what the network hears are found again by `lip_sync` with the bank."""
    footage, takes = talk(tmp_path)
    known, _ = last_layer_inputs(footage, takes, 0.0)
    left, size, _ = np.linalg.svd(known - known.mean(0), full_matrices=False)
    lips = left[:, :LIPS] * np.sign(size[:LIPS]) * np.sqrt(len(left))
    early, late = halves(footage)
    fit = fit_lip_sync(footage.subset(early), footage.subset(late), lips[early], lips[late], np.ones(LIPS), takes)
    assert "Lip-sync follows the lips with r" in fit.sentence
    assert len(fit.r) == LIPS
    assert np.mean(fit.r) > 0.6
    config = GeneratorConfig(32, 16, {4: 8, 8: 8, 16: 8, 32: 8}, (("lip", LIPS), ("pose", 1)))
    tensors = dict(fit.tensors)
    bank = Bank("tiny", config, numbered_coefficients(config.banks), networks=networks_json(tensors))
    save_bank(bank, tensors, tmp_path / "tiny.safetensors")
    samples = takes[1].samples()
    assert samples is not None
    rows = np.flatnonzero(footage.take_ids == 1)
    heard = lip_sync(samples, RATE, footage.seconds[rows], read_bank(tmp_path / "tiny.safetensors"))
    r = [np.corrcoef(heard[:, column], lips[rows, column])[0, 1] for column in range(LIPS)]
    assert np.mean(r) > 0.6


def test_lips_without_relation_to_the_sound_give_no_lip_sync(tmp_path: Path) -> None:
    footage, takes = talk(tmp_path)
    lips = np.random.default_rng(1).standard_normal((len(footage), LIPS))
    early, late = halves(footage)
    fit = fit_lip_sync(footage.subset(early), footage.subset(late), lips[early], lips[late], np.ones(LIPS), takes)
    assert fit.tensors == {}
    assert "below 0.3" in fit.sentence
    silent = [KnownTake(take.clip, take.sha256, "", None) for take in takes]
    fit = fit_lip_sync(footage.subset(early), footage.subset(late), lips[early], lips[late], np.ones(LIPS), silent)
    assert fit.sentence == "No lip-sync: the clips have 0 s of sound, 60 s are needed."


# ------------------------------------------------------------------------------------------------ sliders


def test_sliders_without_effect_are_marked_and_keep_their_numbers() -> None:
    class Model:
        config = GeneratorConfig(32, 16, {4: 8, 8: 8, 16: 8, 32: 8}, (("lip", 2), ("pose", 1)))

    codes = np.array([[-1.0, 0.0, 5.0], [1.0, 0.0, 7.0], [0.0, 0.0, 6.0]])
    entries = measured_coefficients(Model, codes, np.array([0.0, 0.0, 6.0]), np.array([1.0, 0.001, 2.0]))  # type: ignore[arg-type]
    assert [entry.name for entry in entries] == ["lip_01", "lip_02", "pose_01"]
    assert [entry.unit for entry in entries] == ["", UNUSED_UNIT, ""]
    assert all(entry.soft_min < entry.rest < entry.soft_max for entry in entries)
    assert not may_name(entries[1], "mouth")


@pytest.mark.parametrize(
    ("bank", "region", "named"),
    [("lip", "mouth", True), ("lip", "jaw", True), ("lip", "head", False), ("pose", "head", True),
     ("pose", "mouth", False), ("exp", "brows", True), ("exp", "head", False)],
)  # fmt: skip
def test_a_slider_is_named_after_its_own_region_only(bank: str, region: str, named: bool) -> None:
    assert may_name(Coefficient(f"{bank}_01", bank), region) == named
