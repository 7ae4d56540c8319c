"""Tables that are stored while they are computed: a reading of a clip that was cancelled or killed continues."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from inference import tables
from inference.capture import capture
from inference.drawing import ShotRenderer
from inference.face.crop_tracker import CropTracker
from inference.face.footage import track_media
from inference.media.clip import Clip
from inference.model.readers.face_reader import FaceReader
from inference.plate_reading import read_plate
from tests.cli_material import ROOT
from tests.footage import frame, write_clip

TRACK, READ, CAPTURE = range(3)
CHILD = """
import sys, time
from pathlib import Path
from tests.inference.test_tables import computed
from inference import tables
tables._EVERY = 4
computed(int(sys.argv[1]), Path(sys.argv[2]), lambda done, total: time.sleep(0.03))
"""


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(tables.FOLDER, str(tmp_path / "store"))
    return tmp_path / "store"


def squares(first: int, last: int, stop: int | None = None):
    """Blocks of a table of squares, with an exception before row `stop`."""

    def more(done: np.ndarray):
        assert len(done) >= first
        for row in range(len(done), last):
            if row == stop:
                raise KeyboardInterrupt
            yield np.array([[row, row**2]], np.float32)

    return more


def test_rows_of_an_interrupted_computation_are_kept(store):
    file = tables.file_of("squares")
    with pytest.raises(KeyboardInterrupt):
        tables.rows(file, 2, squares(0, 10, stop=7))
    found = tables.rows(file, 2, squares(7, 10))
    np.testing.assert_array_equal(found, np.stack([np.arange(10), np.arange(10) ** 2], 1))
    np.testing.assert_array_equal(tables.rows(file, 2, squares(10, 10)), found)


def test_rows_are_stored_at_intervals(store, monkeypatch):
    file, stored = tables.file_of("squares"), []
    monkeypatch.setattr(tables, "_store", lambda _file, found: stored.append(len(found)))
    monkeypatch.setattr(tables, "_EVERY", 10)
    tables.rows(file, 2, squares(0, 1005))
    assert stored[:21] == list(range(10, 211, 10))
    assert max(np.diff(stored)) <= 1005 / tables._SHARE, "at most a twentieth is lost"
    assert len(stored) < 70, "the time of storing does not grow with the square of the length"
    assert stored[-1] == 1005


@pytest.mark.parametrize("content", [np.zeros((3, 5)), np.zeros((3, 2), np.int64), np.zeros(2), None])
def test_a_file_with_other_content_is_not_used(store, content):
    file = tables.file_of("squares")
    file.parent.mkdir()
    if content is None:
        file.write_bytes(b"\x93NUMPY damaged")
    else:
        np.save(file, content)
    assert len(tables.rows(file, 2, squares(0, 4))) == 4


def test_without_a_folder_nothing_is_stored(monkeypatch):
    monkeypatch.setenv(tables.FOLDER, "")
    assert tables.file_of("squares", media=Path("missing.mp4")) is None
    assert len(tables.rows(None, 2, squares(0, 4))) == 4


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """A face that moves, disappears and returns."""
    places = [(220.0 + 2 * step, 180.0) for step in range(24)]
    places[12:12] = [None] * 14  # type: ignore[list-item]
    shown = [frame(place, width=480) for place in places]
    return write_clip(tmp_path_factory.mktemp("film") / "walk.mp4", shown, np.arange(len(places)) / 25)


def computed(what: int, film: Path, step=lambda done, total: None) -> list[np.ndarray]:
    """The track of a film, its readings or its captured coefficients."""
    if what == TRACK:
        found = track_media(film, step=step).track
        return [found.times, found.crops]
    renderer = ShotRenderer("cpu", 1).bank("").renderer
    if what == READ:
        readings = read_plate(renderer, film, track_media(film).track, step)
        return [readings.rows, readings.looks]
    return [capture(renderer, Clip.at_own_rate(film), "auto", step).rows.values]


@pytest.mark.slow
@pytest.mark.parametrize("what", [TRACK, READ, CAPTURE])
def test_a_killed_reading_continues(what, film, tmp_path, monkeypatch):
    monkeypatch.setenv(tables.FOLDER, "")
    whole = computed(what, film)
    store = tmp_path / "store"
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(what), str(film)],
        cwd=ROOT,
        env={**os.environ, tables.FOLDER: str(store), "PYTHONPATH": str(ROOT)},
    )
    until = time.monotonic() + 300
    # The track of a clip to be read is a table of its own.
    while len(list(store.glob("[!.]*.npy"))) < (2 if what == READ else 1):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = {file: np.load(file) for file in store.glob("[!.]*.npy")}
    newest = max(kept, key=lambda file: file.stat().st_mtime_ns)

    added = {"tracked": 0, "compared": 0}
    add, compare = CropTracker.add, FaceReader._compare

    def counted_add(self, rgb):
        added["tracked"] += 1
        add(self, rgb)

    def counted_compare(self, rest, images):
        added["compared"] += len(images)
        return compare(self, rest, images)

    monkeypatch.setattr(CropTracker, "add", counted_add)
    monkeypatch.setattr(FaceReader, "_compare", counted_compare)
    monkeypatch.setenv(tables.FOLDER, str(store))
    for one, expected in zip(computed(what, film), whole, strict=True):
        np.testing.assert_array_equal(one, expected)
    done, rows = kept[newest], np.load(newest)
    assert 0 < len(done) < len(rows), "it was killed meanwhile"
    np.testing.assert_array_equal(rows[: len(done)], done)
    if what == READ:
        assert added["tracked"] == 0
        assert added["compared"] < len(rows) - len(done) + 8, "the last batch is padded"
    else:
        assert added["tracked"] == len(rows) - len(done)
