"""Choosing reference frames, mixing them, and shots that use them."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edtalk.inference.contract.bank import Bank, Coefficient
from edtalk.inference.contract.coefficients import Coefficients
from edtalk.inference.contract.config import GeneratorConfig
from edtalk.inference.contract.errors import EDTalkError
from edtalk.inference.contract.plate import Plate, Track, media_sha256
from edtalk.inference.contract.references import (
    MOST_REFERENCES,
    Readings,
    References,
    blend,
    choose_references,
    closed_mouth,
    likeness_weights,
    spoken,
)
from edtalk.inference.contract.shot import Shot

NAMES = {"jawOpen": "lip", "mouthPucker": "lip", "headYaw": "pose", "browDown": "exp"}
FRAMES = 40


def bank() -> Bank:
    coefficients = tuple(Coefficient(name, bank) for name, bank in NAMES.items())
    sizes = (("lip", 2), ("pose", 1), ("exp", 1))
    return Bank(
        "tiny",
        GeneratorConfig(size=64, style_dim=8, channels={4: 4, 8: 4, 16: 4, 32: 4, 64: 4}, banks=sizes),
        coefficients,
    )


@pytest.fixture
def track() -> Track:
    return Track(np.arange(FRAMES) / 25, np.tile([10.0, 20, 100, 0], (FRAMES, 1)))


@pytest.fixture
def readings() -> Readings:
    """A mouth opens and closes while the head turns; frame 7 has no face, frame 20, the widest open, is blurred."""
    rows = np.zeros((FRAMES, len(NAMES)))
    rows[:, 0] = 0.5 - 0.5 * np.cos(np.arange(FRAMES) * np.pi / 20)
    rows[:, 2] = np.linspace(-0.2, 0.2, FRAMES)
    rows[:, 3] = np.arange(FRAMES)  # brows do not matter
    looks = np.column_stack([np.ones(FRAMES), np.full(FRAMES, 7.0)])
    rows[7], looks[7], looks[20, 0] = np.nan, np.nan, 0.1
    return Readings(rows, looks)


def test_references_cover_the_mouth_shapes(track, readings):
    """Every frame has a reference nearby, the first one is closed, and blurred frames are left out."""
    found = choose_references(bank(), track, readings, count=8)
    assert len(found) == len(set(found)) == 8
    assert readings.rows[found[0], 0] < 0.1
    assert 7 not in found
    assert 20 not in found
    jaws = readings.rows[readings.seen, 0]
    away = np.abs(jaws[:, None] - readings.rows[found, 0]).min(1)
    assert away.max() < 0.2
    assert choose_references(bank(), track, readings, count=8) == found


def test_an_hour_of_frames_needs_no_more_memory_and_time_than_minutes(readings):
    """Blender chooses on its main thread: all candidates against all frames would be half a gigabyte."""
    long = 90_000
    rows = (
        np.tile(readings.rows[8:], (long // 32 + 1, 1))[:long] + np.linspace(0, 0.01, long, dtype=np.float32)[:, None]
    )
    whole = Readings(rows, np.tile([1.0, 7.0], (long, 1)))
    track = Track(np.arange(long) / 25, np.tile([10.0, 20, 100, 0], (long, 1)))
    tracemalloc.start()
    found = choose_references(bank(), track, whole, count=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20
    assert np.abs(rows[:, 0, None] - rows[found, 0]).min(1).max() < 0.2


def test_references_of_the_artist(track, readings):
    chosen = [0.81, 0.0, 0.8]
    assert choose_references(bank(), track, readings, chosen=chosen) == [20, 0], "in this order, the frames shown then"
    with pytest.raises(EDTalkError, match=r"No face was found in the reference frame at 0\.28 s"):
        choose_references(bank(), track, readings, chosen=[0.29])


def test_a_clip_without_a_face_has_no_references(track):
    nothing = Readings(np.full((FRAMES, 4), np.nan), np.full((FRAMES, 2), np.nan))
    with pytest.raises(EDTalkError, match="no face that could be used"):
        choose_references(bank(), track, nothing)


def test_the_mix_changes_without_jumps(track, readings):
    """Two references at most; shares sum to 1, and follow a target that moves slowly without a jump."""
    references = References.of(bank(), track, readings, track.times[[0]])
    weights = likeness_weights(bank())
    shares = []
    for step in np.linspace(0, 1, 400):
        target = np.array([step, 0.2 * step, 0.1 - 0.2 * step, 5], np.float32)
        shares.append(blend(weights, references, target, 7.0))
    shares = np.array(shares)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert ((shares > 0).sum(1) <= 2).all()
    assert np.abs(np.diff(shares, axis=0)).max() < 0.1
    at = references.rows[3].copy()
    assert blend(weights, references, at, 7.0).argmax() == 3


def test_closed_mouth_is_the_least_open_part_of_a_clip():
    rows = np.array([[0.3, 0.1, 0.5, 2]] * 5 + [[0.9, 0.4, -0.5, 1]] * 5, np.float32)
    np.testing.assert_allclose(closed_mouth(bank(), rows), [0.3, 0.1, 0, 0])


def test_pauses_fade_to_the_plate():
    """Short pauses show the new mouth; long ones fade to 0 within a few frames, at the start and end too."""
    lips = np.zeros((100, 2))
    lips[20:40], lips[44:60] = 0.5, 0.5
    shown = spoken(lips, 25)
    assert (shown[20:60] == 1).all()
    assert not shown[:14].any()
    assert not shown[66:].any()
    assert np.abs(np.diff(shown)).max() < 0.5
    assert not spoken(np.zeros((9, 2)), 25).any()
    assert spoken(np.zeros((0, 2)), 25).shape == (0,)


def test_readings_keep_their_content(readings, tmp_path):
    readings.save(tmp_path / "readings.npy")
    for again in (Readings.load(tmp_path / "readings.npy"), Readings.from_bytes(readings.to_bytes(), 4)):
        np.testing.assert_array_equal(again.rows, readings.rows)
        np.testing.assert_array_equal(again.looks, readings.looks)
    with pytest.raises(EDTalkError, match="do not fit"):
        Readings.from_bytes(readings.to_bytes()[:-4], 4)
    (tmp_path / "readings.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(EDTalkError, match="not a readable file of readings"):
        Readings.load(tmp_path / "readings.npy")


# ------------------------------------------------------------------------------------------------ shots


@pytest.fixture
def shot(track, readings, tmp_path) -> Shot:
    movie = tmp_path / "take.mp4"
    movie.write_bytes(b"not looked at")
    times = track.times[[0, 5, 10, 5]]
    rows = Coefficients(np.array([[0, 0, 0, 0], [0.5, 0, 0, 0], [0.6, 0, 0, 0], [0.5, 0, 0, 0]]), tuple(NAMES), 25)
    return Shot(tmp_path / "bank.safetensors", "ab" * 32, None, "auto", rows, tmp_path / "frames", layer="pasted",
                mask="mouth", plate=Plate.of(movie, media_sha256(movie), track, times),
                references=References.of(bank(), track, readings, times))  # fmt: skip


def test_a_shot_keeps_its_references(shot, tmp_path):
    written = shot.write(tmp_path / "shot")
    again = Shot.read(tmp_path / "shot")
    assert again.keys() == written.keys() == shot.keys()
    assert json.loads((tmp_path / "shot" / "shot.json").read_text())["format_version"] == 5
    for name in ("times", "crops", "rows", "looks", "own", "own_looks", "shown"):
        np.testing.assert_array_equal(getattr(again.references, name), getattr(shot.references, name))
    (tmp_path / "shot" / "mouths.npy").write_bytes(b"")
    with pytest.raises(EDTalkError, match=r"mouths\.npy is damaged"):
        Shot.read(tmp_path / "shot")


def test_keys_name_what_a_frame_is_drawn_from(shot):
    keys = shot.keys()
    assert keys[1] == keys[3]
    assert len(set(keys)) == 3
    without, references = replace(shot, references=None), shot.references
    assert not set(without.keys()) & set(keys)
    fewer = replace(references, times=references.times[1:], crops=references.crops[1:], rows=references.rows[1:],
                    looks=references.looks[1:])  # fmt: skip
    assert not set(replace(shot, references=fewer).keys()) & set(keys)
    faded = replace(references, shown=np.array([1, 1, 0.5, 1]))
    assert [a == b for a, b in zip(replace(shot, references=faded).keys(), keys, strict=True)] == [
        True,
        True,
        False,
        True,
    ]


def test_shots_without_references_stay_as_they_were(shot, tmp_path):
    old = replace(shot, references=None)
    old.write(tmp_path / "old")
    data = json.loads((tmp_path / "old" / "shot.json").read_text())
    assert data["format_version"] == 2
    assert "references" not in data
    assert Shot.read(tmp_path / "old").references is None


@pytest.mark.parametrize(
    "change",
    [
        {"mask": "face"},
        {"plate": None, "portrait": Path("portrait.png")},
    ],
)
def test_references_need_a_plate_and_the_mouth(shot, change):
    with pytest.raises(EDTalkError, match="References need a plate"):
        replace(shot, **change)


def test_impossible_references_are_refused(shot):
    references = shot.references
    many = np.arange(MOST_REFERENCES + 1) % len(references)
    for change in (
        {"shown": np.array([1, 1, 2, 1])},
        {"shown": np.ones(3)},
        {"rows": np.full_like(references.rows, np.nan)},
        {"times": references.times[:0], "crops": references.crops[:0], "rows": references.rows[:0],
         "looks": references.looks[:0]},
        {"times": references.times[many], "crops": references.crops[many], "rows": references.rows[many],
         "looks": references.looks[many]},
    ):  # fmt: skip
        with pytest.raises(EDTalkError):
            replace(references, **change)
