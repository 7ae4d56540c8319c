"""Plates and tracks, and the shots that use them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edtalk.inference.contract.coefficients import Coefficients
from edtalk.inference.contract.errors import EDTalkError
from edtalk.inference.contract.plate import Plate, Track, media_sha256, pictures_in, runs
from edtalk.inference.contract.shot import LAYERS, Shot

NAMES = ("jawOpen", "headYaw")
NOWHERE = [np.nan] * 4


def refusal(function, *arguments, **named) -> EDTalkError:
    with pytest.raises(EDTalkError) as caught:
        function(*arguments, **named)
    return caught.value


@pytest.fixture
def track() -> Track:
    """Frames at uneven times, without a face in the third."""
    crops = np.array([[10, 20, 100, 0], [11, 20, 101, 1.5], NOWHERE, [14, 22, 99, -3]])
    return Track(np.array([0.0, 0.033, 0.1, 0.4]), crops)


@pytest.fixture
def movie(tmp_path) -> Path:
    path = tmp_path / "rushes" / "take 1.mp4"
    path.parent.mkdir()
    path.write_bytes(b"not looked at" * 1000)
    return path


@pytest.fixture
def shot(movie, track, tmp_path) -> Shot:
    """Seven rows: two are equal, two show no face, and the last one goes back in time."""
    times = [0.0, 0.04, 0.04, 0.12, 0.2, 0.4, 0.0]
    rows = np.array([[0, 0], [0.5, 0], [0.5, 0], [0.5, 0], [0.9, 1], [0.5, 0], [0, 0]], np.float32)
    plate = Plate.of(movie, media_sha256(movie), track, times)
    return Shot(tmp_path / "bank.safetensors", "ab" * 32, None, "auto", Coefficients(rows, NAMES, 25),
                tmp_path / "frames", 101, layer="plate", plate=plate)  # fmt: skip


# ------------------------------------------------------------------------------------------------ tracks


def test_a_track_gives_the_frames_shown(track):
    times, crops = track.at([-1, 0, 0.032, 0.0325, 0.05, 0.1, 0.2, 0.399999, 9])
    assert times.tolist() == [0, 0, 0.033, 0.033, 0.033, 0.1, 0.1, 0.4, 0.4], "near a frame's beginning means it"
    for time, crop in zip(times, crops, strict=True):
        assert np.array_equal(crop, track.crops[track.times.tolist().index(time)], equal_nan=True)
    again = track.at(times)
    assert np.array_equal(again[0], times), "snapped times stay"


def test_track_round_trips(track, tmp_path):
    track.save(tmp_path / "track.npy")
    for other in (Track.from_bytes(track.to_bytes()), Track.load(tmp_path / "track.npy")):
        assert np.array_equal(other.times, track.times)
        assert np.array_equal(other.crops, track.crops, equal_nan=True)
        assert other.unseen == track.unseen == [(2, 2)]


@pytest.mark.parametrize(
    ("times", "crops"),
    [
        ([], np.zeros((0, 4))),
        ([0, 1], [[0, 0, 9, 0]]),
        ([1, 0], [[0, 0, 9, 0]] * 2),
        ([0, 0], [[0, 0, 9, 0]] * 2),
        ([0], [[0, 0, 0, 0]]),
        ([0], [[0, 0, -9, 0]]),
        ([0], [[0, np.nan, 9, 0]]),
        ([0], [[0, np.inf, 9, 0]]),
        ([np.nan], [[0, 0, 9, 0]]),
        ([0], [[0, 0, 9]]),
    ],
)
def test_invalid_tracks(times, crops, tmp_path):
    assert refusal(Track, times, crops).hint == "Track the face again."


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text"])
def test_invalid_track_files(content, tmp_path):
    path = tmp_path / "track.npy"
    assert str(path) in refusal(Track.load, path).message
    path.write_bytes(content)
    assert str(path) in refusal(Track.load, path).message
    np.save(path, np.zeros((3, 4)))
    assert str(path) in refusal(Track.load, path).message
    assert "40 bytes" in refusal(Track.from_bytes, bytes(41)).message


def test_runs_cover_exactly_the_marked_frames():
    random = np.random.default_rng(3)
    for count in range(12):
        marked = random.random(count) < 0.5
        covered = np.zeros(count, bool)
        for first, last in runs(marked):
            assert not covered[first : last + 1].any()
            covered[first : last + 1] = True
            assert not marked[first - 1 : first].any()
            assert not marked[last + 1 : last + 2].any()
        assert np.array_equal(covered, marked)


# ------------------------------------------------------------------------------------------------ media


def test_images_in_natural_order(tmp_path):
    for name in ("shot10.png", "shot9.PNG", "2.png", "10.jpg", "a2b10.tif", "a2b9.tif", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    names = [path.name for path in pictures_in(tmp_path)]
    assert names == ["2.png", "10.jpg", "a2b9.tif", "a2b10.tif", "shot9.PNG", "shot10.png"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "contains no images" in refusal(pictures_in, empty).message
    assert refusal(pictures_in, tmp_path / "none").kind == "media"


def test_media_hashes(tmp_path, movie):
    known = media_sha256(movie)
    movie.rename(tmp_path / "moved.mov")
    assert media_sha256(tmp_path / "moved.mov") == known
    movie.write_bytes(b"other")
    assert media_sha256(movie) != known
    assert refusal(media_sha256, tmp_path / "gone.mp4").kind == "media"

    def folder(name: str, *contents: bytes) -> Path:
        (tmp_path / name).mkdir()
        for number, content in enumerate(contents):
            (tmp_path / name / f"{number}.png").write_bytes(content)
        return tmp_path / name

    first = folder("first", b"1", b"2")
    assert media_sha256(first) == media_sha256(folder("same", b"1", b"2"))
    (first / "notes.txt").touch()
    assert media_sha256(first) == media_sha256(tmp_path / "same")
    others = [folder("order", b"2", b"1"), folder("longer", b"1", b"2", b"2"), folder("joined", b"12")]
    assert len({media_sha256(path) for path in [first, *others]}) == 4


# ------------------------------------------------------------------------------------------------ shots


def test_rows_with_the_same_frame_and_crop_share_a_file(shot):
    keys = shot.keys()
    assert [keys.index(key) for key in keys] == [0, 1, 1, 3, 3, 5, 0], "without a face coefficients do not count"
    assert shot.missing() == [0, 1, 3, 5]


def test_keys_depend_on_the_plate(shot, movie, tmp_path):
    plate, known = shot.plate, set(shot.keys())
    nudged = plate.track + np.array([0.25, 0, 0, 0])
    for name, value in {
        "bank_sha256": "cd" * 32,
        "image_format": "exr",
        "layer": "pasted",
        "mask": "mouth",
        "feather": 0.5,
        "plate": replace(plate, sha256="cd" * 32),
    }.items():
        assert not known & set(replace(shot, **{name: value}).keys()), name
    seen = {key for key, there in zip(shot.keys(), plate.seen, strict=True) if there}
    assert not seen & set(replace(shot, plate=replace(plate, track=nudged)).keys())
    assert not seen & set(replace(shot, plate=replace(plate, times=plate.times + 1)).keys())
    elsewhere = replace(plate, media=tmp_path / "b.mp4")
    assert replace(shot, plate=elsewhere, first_frame=5, frames_folder="x").keys() == shot.keys()


def test_keys_depend_on_the_layer(shot, tmp_path):
    portrait = tmp_path / "p.png"
    portrait.write_bytes(b"a portrait")
    square = replace(shot, plate=None, portrait=portrait, layer="square")
    shots = [replace(square, layer=layer) for layer in LAYERS]
    assert len(set().union(*(shot.keys() for shot in shots))) == len(LAYERS) * len(set(square.keys()))
    for changes in ({"mask": "mouth"}, {"feather": 0.9}):
        assert replace(square, **changes).keys() == square.keys(), "the square has no mask"
    written = square.write(tmp_path / "shot")
    stored = json.loads((tmp_path / "shot" / "shot.json").read_bytes())
    assert stored["format_version"] == 1
    assert not {"layer", "mask", "feather", "plate"} & set(stored), "as before there were any"
    assert Shot.read(tmp_path / "shot").keys() == written.keys()


def test_invalid_shots(shot, movie):
    for changes, expected in (
        ({"layer": "half"}, "found 'half'"),
        ({"mask": "nose"}, "found 'nose'"),
        ({"feather": 0}, "above 0"),
        ({"feather": 1.5}, "above 0"),
        ({"feather": float("nan")}, "above 0"),
        ({"plate": None}, "portrait or a plate"),
        ({"coefficients": shot.coefficients[:3]}, "must have the 3 frames of the shot, found 7"),
    ):
        assert expected in refusal(replace, shot, **changes).message, changes
    assert refusal(lambda: shot.portrait_sha256).kind == "media"


def test_the_plate_is_written_with_the_shot(shot, movie, tmp_path):
    folder = tmp_path / "shot"
    written, found = shot.write(folder), Shot.read(folder)
    for other in (written, found):
        assert other.plate.media == folder / "plate" / "take 1.mp4"
        assert other.plate.media.read_bytes() == movie.read_bytes()
        assert np.array_equal(other.plate.times, shot.plate.times)
        assert np.array_equal(other.plate.track, shot.plate.track, equal_nan=True)
        assert other.keys() == shot.keys()
        assert (other.portrait, other.layer, other.mask, other.feather) == (None, "plate", "face", 0.25)
    assert written.plate.media.samefile(movie), "a link takes no space"
    assert json.loads((folder / "shot.json").read_bytes())["format_version"] == 2
    movie.unlink()
    Shot.read(folder).write(folder)
    folder.rename(tmp_path / "moved")
    assert media_sha256(Shot.read(tmp_path / "moved").plate.media) == shot.plate.sha256


@pytest.fixture
def no_links(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)


def test_without_link_support_the_plate_is_copied_or_referenced(shot, movie, tmp_path, no_links):
    copied = shot.write(tmp_path / "copied")
    assert copied.plate.media.read_bytes() == movie.read_bytes()
    before = copied.plate.media.stat().st_mtime_ns
    assert shot.write(tmp_path / "copied").plate.media.stat().st_mtime_ns == before, "once is enough"
    named = shot.write(tmp_path / "named", plate_by_name=True)
    assert named.plate.media == Shot.read(tmp_path / "named").plate.media == movie
    assert not list((tmp_path / "named" / "plate").iterdir())


def test_links_are_preferred_to_references(shot, movie, tmp_path):
    written = shot.write(tmp_path / "shot", plate_by_name=True)
    assert written.plate.media == tmp_path / "shot" / "plate" / movie.name
    assert {path.name for path in (tmp_path / "shot" / "plate").iterdir()} == {movie.name}


@pytest.mark.parametrize("links", [True, False])
def test_a_folder_of_images_is_updated(shot, tmp_path, links, request):
    if not links:
        request.getfixturevalue("no_links")
    rushes = tmp_path / "frames in"
    rushes.mkdir()
    for number in range(4):
        (rushes / f"{number}.png").write_bytes(bytes([number]))
    (rushes / "notes.txt").touch()

    def write() -> list[str]:
        plate = replace(shot.plate, media=rushes, sha256=media_sha256(rushes))
        found = replace(shot, plate=plate).write(tmp_path / "shot").plate.media
        assert media_sha256(found) == plate.sha256
        return sorted(path.name for path in found.iterdir())

    assert write() == ["0.png", "1.png", "2.png", "3.png"]
    (rushes / "3.png").unlink()
    (rushes / "1.png").unlink()
    (rushes / "1.png").write_bytes(b"retouched")
    assert write() == ["0.png", "1.png", "2.png"], "what is gone there must not count as a frame here"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("plate.npy", None, "plate.npy does not exist"),
        ("plate.npy", b"", "plate.npy is damaged"),
        ("shot.json", {"plate": {}}, "is not a shot"),
        ("shot.json", {"plate": 5}, "is not a shot"),
        ("shot.json", {"layer": "half"}, "found 'half'"),
    ],
)
def test_damaged_folders(shot, tmp_path, name, content, expected):
    folder = tmp_path / "shot"
    shot.write(folder)
    path = folder / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(json.loads(path.read_bytes()) | content))
    error = refusal(Shot.read, folder)
    assert expected in error.message
    assert error.hint


def test_missing_plate(shot, movie, tmp_path):
    movie.unlink()
    error = refusal(shot.write, tmp_path / "shot")
    assert (error.kind, "take 1.mp4 does not exist" in error.message) == ("media", True)
    assert not (tmp_path / "shot" / "shot.json").exists()
