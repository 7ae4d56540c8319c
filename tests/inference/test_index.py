"""The index of clips: a clip is read once, and previews and renders use the same readings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference import plate_reading, tables
from inference.cli import index
from inference.contract.plate import Track
from inference.contract.references import Readings
from inference.face import footage
from inference.media.clip import Clip
from inference.media.sound import load_speech
from tests.cli_material import run, write_wav
from tests.inference.test_video import make_clip

TRACK = Track(np.arange(5) / 25, np.array([[1.0, 2, 3, 4], [np.nan] * 4, *[[5.0, 6, 7, 8]] * 3]))
READINGS = Readings(np.arange(20).reshape(5, 4), np.ones((5, 2)))


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(tables.FOLDER, str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def clip(tmp_path) -> Path:
    return make_clip(tmp_path / "clip.mp4", np.arange(10) / 25)


def never(*_: object, **__: object) -> None:
    raise AssertionError("it is read again")


def test_tables_are_made_once(store, clip):
    made = index.track(clip, ["auto", None, "0.4"], lambda: TRACK)
    found = index.track(clip, ["auto", None, "0.4"], never)
    for one in (made, found):
        np.testing.assert_array_equal(one.times, TRACK.times)
        np.testing.assert_array_equal(one.crops, TRACK.crops)
    index.readings(clip, TRACK, "bank", lambda: READINGS)
    found = index.readings(clip, TRACK, "bank", never)
    np.testing.assert_array_equal(found.rows, READINGS.rows)
    np.testing.assert_array_equal(found.looks, READINGS.looks)
    assert found.rows.dtype == np.float32
    counted = index.frame_count(Clip(clip, 25))
    assert counted == index.frame_count(Clip(clip, 25)) == 10
    assert index.frame_count(Clip(clip, 50)) == 20
    assert index.frame_count(Clip(clip, 25), 4) == 4


def test_what_a_table_depends_on(store, clip):
    index.track(clip, ["auto", None, "0.4"], lambda: TRACK)
    index.readings(clip, TRACK, "bank", lambda: READINGS)
    moved = Track(TRACK.times, TRACK.crops + 1)
    for changed in (
        lambda: index.track(clip, ["auto", 2, "0.4"], never),
        lambda: index.track(clip, ["auto", None, "0.5"], never),
        lambda: index.readings(clip, TRACK, "other", never),
        lambda: index.readings(clip, moved, "bank", never),
    ):
        with pytest.raises(AssertionError):
            changed()
    make_clip(clip, np.arange(11) / 25)
    with pytest.raises(AssertionError):
        index.track(clip, ["auto", None, "0.4"], never)


def test_a_damaged_table_is_made_again(store, clip):
    index.track(clip, [], lambda: TRACK)
    (file,) = store.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    index.track(clip, [], lambda: TRACK)
    index.track(clip, [], never)


@pytest.mark.parametrize("folder", ["", "file/below"])
def test_a_folder_that_cannot_be_used_stores_nothing(tmp_path, clip, monkeypatch, folder):
    (tmp_path / "file").touch()
    monkeypatch.setenv(tables.FOLDER, folder and str(tmp_path / folder))
    assert len(index.track(clip, [], lambda: TRACK)) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "file"]


def test_the_tables_that_were_not_used_for_long_are_removed(store, clip, monkeypatch):
    monkeypatch.setattr(tables, "_MOST", 700)
    for option in range(5):
        index.track(clip, [option], lambda: TRACK)
    assert sum(file.stat().st_size for file in store.iterdir()) <= 700
    index.track(clip, [4], never)


@pytest.mark.slow
def test_the_second_preview_reads_nothing_and_equals_the_render(store, media, tmp_path, monkeypatch, capfd):
    """A filmed person; the preview of a frame is the frame of the whole render, bit for bit."""
    samples, _ = load_speech(media / "mouth_source.wav")
    voice = write_wav(tmp_path / "voice.wav", samples[16_000:25_600])
    words = ["render", "--source", media / "clips" / "lp_d12.mp4", "--audio", voice, "--paste-back", "--threads", 1,
             "--device", "cpu", "--out"]  # fmt: skip
    assert run(*words, tmp_path / "first", "--frames", "9-9") == 0, capfd.readouterr().err
    monkeypatch.setattr(footage, "track_media", never)
    monkeypatch.setattr(plate_reading, "read_plate", never)
    monkeypatch.setattr(Clip, "count", never)
    assert run(*words, tmp_path / "second", "--frames", "9-9") == 0, capfd.readouterr().err
    assert run(*words, tmp_path / "whole") == 0, capfd.readouterr().err
    first, second = (picture(tmp_path / name, 0) for name in ("first", "second"))
    assert np.array_equal(first, second)
    assert np.array_equal(first, picture(tmp_path / "whole", 9))


def picture(folder: Path, number: int) -> np.ndarray:
    return np.asarray(Image.open(sorted(folder.glob("*.png"))[number]))
