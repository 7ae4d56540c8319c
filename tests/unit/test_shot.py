"""Shots: the keys of frames, and valid and damaged shot folders."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from edtalk.inference.contract import rendered
from edtalk.inference.contract.coefficients import Coefficients
from edtalk.inference.contract.errors import EDTalkError
from edtalk.inference.contract.files import link_or_copy, open_regular
from edtalk.inference.contract.plate import Plate
from edtalk.inference.contract.shot import PICTURE_VERSION, Shot, as_crop, frame_ranges, is_opaque, parse_frame_ranges

from tests.fake_worker import encode_png

NAMES = ("jawOpen", "headYaw", "browUp")
ROWS = np.array([[0, 0, 0], [0.5, 0, 0], [0.5, 0, 0], [0, 0, 0], [0.5, 1e-7, 0]], np.float32)

PICTURE = encode_png([bytes(12)] * 4, 2)


@pytest.fixture
def shot(tmp_path) -> Shot:
    portrait = tmp_path / "pictures" / "Müller.PNG"
    portrait.parent.mkdir()
    portrait.write_bytes(b"not looked at")
    table = Coefficients(ROWS, NAMES, 24000 / 1001)
    return Shot(tmp_path / "bank.safetensors", "ab" * 32, portrait, "auto", table, tmp_path / "frames", 101)


def refusal(function, *arguments) -> EDTalkError:
    with pytest.raises(EDTalkError) as caught:
        function(*arguments)
    return caught.value


# ------------------------------------------------------------------------------------------------ keys


def test_equal_rows_share_a_file(shot):
    keys = shot.keys()
    assert [keys.index(key) for key in keys] == [0, 1, 1, 0, 4]
    assert all(len(key) == 20 and int(key, 16) >= 0 for key in keys)
    assert shot.file_names() == tuple(f"{key}.png" for key in keys)


def test_keys_depend_on_the_input_of_a_frame(shot, tmp_path, monkeypatch):
    other_portrait = tmp_path / "other.png"
    other_portrait.write_bytes(b"another picture")
    changes = {"bank_sha256": "cd" * 32, "portrait": other_portrait, "crop": "none", "image_format": "exr"}
    for name, value in changes.items():
        assert not set(replace(shot, **{name: value}).keys()) & set(shot.keys()), name
    crops = [(1, 2, 30), (1, 2, 31), (1, 2, 30, 5)]
    assert len({replace(shot, crop=crop).keys() for crop in crops}) == 3
    monkeypatch.setattr("edtalk.inference.contract.shot.PICTURE_VERSION", PICTURE_VERSION + 1)
    assert not set(replace(shot).keys()) & set(shot.keys())


def test_only_formats_without_transparency_are_opaque(tmp_path):
    def png(colour: int, chunks: bytes) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + bytes(9)[:8] + b"\x08" + bytes([colour]) + chunks

    contents = {
        "photo.jpg": (b"\xff\xd8\xff\xe0", True),
        "rgb.png": (png(2, b"IDAT"), True),
        "rgba.png": (png(6, b"IDAT"), False),
        "grey_alpha.png": (png(4, b"IDAT"), False),
        "colour_key.png": (png(2, b"tRNS....IDAT"), False),
        "endless_header.png": (png(2, bytes(2**17)), False),
        "photo.webp": (b"RIFF", False),
        "empty.png": (b"", False),
    }
    for name, (content, opaque) in contents.items():
        (tmp_path / name).write_bytes(content)
        assert is_opaque(tmp_path / name) == opaque, name
    assert not is_opaque(tmp_path / "missing.png")


def test_keys_do_not_depend_on_paths_and_times(shot, tmp_path):
    moved = tmp_path / "moved.jpg"
    moved.write_bytes(shot.portrait.read_bytes())
    table = Coefficients(ROWS[::-1], NAMES, 25)
    other = replace(shot, portrait=moved, coefficients=table, first_frame=-7, bank=tmp_path / "x", frames_folder="y")
    assert other.keys() == shot.keys()[::-1]
    negative = replace(shot, coefficients=Coefficients(np.where(ROWS == 0, -0.0, ROWS), NAMES))
    assert negative.keys() == shot.keys()


def test_missing_lists_the_first_row_of_each_file(shot):
    assert shot.missing() == [0, 1, 4]
    shot.frames_folder.mkdir()
    names = shot.file_names()
    (shot.frames_folder / names[1]).write_bytes(PICTURE)
    (shot.frames_folder / names[4]).touch()  # what a power cut leaves behind
    assert shot.missing() == [0, 4]


def test_frames_that_were_cut_off_are_missing(shot):
    shot.frames_folder.mkdir()
    path = shot.frames_folder / shot.file_names()[0]
    for content in (PICTURE[:-1], PICTURE[:40], b"x", b"\0" * len(PICTURE), PICTURE[8:]):
        path.write_bytes(content)
        assert shot.missing([0]) == [0]
    path.write_bytes(PICTURE)
    assert shot.missing([0]) == []
    path.unlink()
    path.mkdir()
    assert shot.missing([0]) == [0]


def test_a_frame_is_opened_once_and_others_are_not_looked_at(shot, monkeypatch):
    shot.frames_folder.mkdir()
    names = shot.file_names()
    for name in {*names, "ffffffffffffffffffff.png"}:
        (shot.frames_folder / name).write_bytes(PICTURE)
    opened = []
    monkeypatch.setattr(rendered, "open_regular", lambda path: opened.append(path) or open_regular(path))
    assert shot.missing() == shot.missing() == []
    assert sorted(opened) == sorted(str(shot.frames_folder / name) for name in set(names))


def test_missing_checks_only_the_given_rows(shot):
    assert shot.missing([2, 3]) == [2, 3], "whoever renders these cannot count on the first rows of their pictures"
    assert shot.missing([1, 2]) == [1]
    assert shot.missing([]) == []
    shot.frames_folder.mkdir()
    (shot.frames_folder / shot.file_names()[0]).write_bytes(PICTURE)
    assert shot.missing([2, 3]) == [2]


# ------------------------------------------------------------------------------------------------ folders


@pytest.mark.parametrize("crop", ["auto", "none", (1.5, -2, 30), (1, 2, 30, -3.25)])
@pytest.mark.parametrize("image_format", ["png", "exr"])
def test_round_trip(shot, tmp_path, crop, image_format):
    shot = replace(shot, crop=crop, image_format=image_format)
    folder = tmp_path / "new" / "shot"
    written, found = shot.write(folder), Shot.read(folder)
    for other in (written, found):
        assert np.array_equal(other.coefficients.values, ROWS)
        assert (other.coefficients.names, other.coefficients.fps) == (NAMES, 24000 / 1001)
        for name in ("bank", "bank_sha256", "crop", "frames_folder", "first_frame", "image_format", "portrait_sha256"):
            assert getattr(other, name) == getattr(shot, name), name
        assert other.portrait == folder / "Müller.PNG"
        assert other.keys() == shot.keys()
    assert {path.name for path in folder.iterdir()} == {"shot.json", "coefficients.npy", "Müller.PNG"}
    shot.portrait.unlink()  # the folder has its own
    assert Shot.read(folder).keys() == found.keys()


def test_a_shot_can_be_overwritten(shot, tmp_path):
    folder = tmp_path / "shot"
    shot.write(folder)
    shorter = replace(shot, coefficients=shot.coefficients[:2], first_frame=3)
    shorter.write(folder)
    Shot.read(folder).write(folder)
    assert Shot.read(folder).keys() == shot.keys()[:2]
    assert Shot.read(folder).first_frame == 3


def test_a_project_folder_can_be_moved(shot, tmp_path):
    project = tmp_path / "project"
    folder = project / "shot"
    replace(shot, frames_folder=project / "cache", bank=project / "mine.safetensors").write(folder)
    project.rename(tmp_path / "elsewhere")
    found = Shot.read(tmp_path / "elsewhere" / "shot")
    assert found.frames_folder == tmp_path / "elsewhere" / "cache"
    assert found.bank == tmp_path / "elsewhere" / "mine.safetensors"
    assert found.keys() == shot.keys()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("shot.json", None, "shot.json does not exist"),
        ("shot.json", b"", "shot.json is not a shot"),
        ("shot.json", b"[1]", "shot.json is not a shot"),
        ("shot.json", b"{}", "shot.json is not a shot"),
        ("shot.json", b"\xff\xfe\x00", "shot.json is not a shot"),
        ("shot.json", {"format_version": 99}, "format 99"),
        ("shot.json", {"crop": "face"}, "found 'face'"),
        ("shot.json", {"names": ["a"]}, "1 names"),
        ("shot.json", {"names": None}, "shot.json is not a shot"),
        ("shot.json", {"image_format": "gif"}, "'gif'"),
        ("coefficients.npy", None, "coefficients.npy does not exist"),
        ("coefficients.npy", b"", "coefficients.npy is damaged"),
        ("coefficients.npy", b"\x93NUMPY", "coefficients.npy is damaged"),
        ("Müller.PNG", None, "Müller.PNG does not exist"),
        ("Müller.PNG", b"another picture", "Müller.PNG is not the portrait"),
    ],
)
def test_damaged_folders(shot, tmp_path, name, content, expected):
    folder = tmp_path / "shot"
    shot.write(folder)
    path = folder / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(
            content if isinstance(content, bytes) else json.dumps(json.loads(path.read_bytes()) | content).encode()
        )
    error = refusal(Shot.read, folder)
    assert expected in error.message
    assert error.hint


def test_missing_folder(tmp_path):
    assert "nothing does not exist; expected the folder of a shot" in refusal(Shot.read, tmp_path / "nothing").message


def test_disk_errors_leave_no_files(shot, tmp_path):
    (tmp_path / "file").touch()
    assert refusal(shot.write, tmp_path / "file" / "shot").kind == "disk"
    folder = tmp_path / "shot"
    (folder / "coefficients.npy").mkdir(parents=True)
    error = refusal(shot.write, folder)
    assert (error.kind, "coefficients.npy" in error.message) == ("disk", True)
    assert {path.name for path in folder.iterdir()} == {"coefficients.npy", "Müller.PNG"}


def test_missing_portrait(shot, tmp_path):
    shot.portrait.unlink()
    for function in (shot.keys, lambda: shot.write(tmp_path / "shot")):
        error = refusal(function)
        assert (error.kind, "Müller.PNG does not exist" in error.message) == ("media", True)
    assert not (tmp_path / "shot").exists()


def test_the_sound_is_copied_and_not_part_of_keys(shot, tmp_path):
    sound, folder = tmp_path / "line 1.wav", tmp_path / "shot"
    sound.write_bytes(b"heard, not looked at")
    heard = replace(shot, sound=sound)
    assert heard.keys() == shot.keys()
    assert heard.write(folder).sound == Shot.read(folder).sound == folder / "line 1.wav"
    sound.unlink()
    Shot.read(folder).write(folder)
    assert (folder / "line 1.wav").read_bytes() == b"heard, not looked at"
    error = refusal(heard.write, tmp_path / "other")
    assert (error.kind, "line 1.wav could not be read" in error.message) == ("media", True)
    shot.write(folder)
    assert Shot.read(folder).sound is None
    assert "sound" not in json.loads((folder / "shot.json").read_bytes()), "as before there were any"


# ------------------------------------------------------------------------------------------------ frames


def test_frame_ranges_round_trip():
    random = np.random.default_rng(2)
    for count in range(1, 40):
        frames = sorted(set(random.integers(-30, 30, count).tolist()))
        assert parse_frame_ranges(frame_ranges(frames)) == frames
    assert frame_ranges([1, 2, 3, 7, 9, 10]) == "1-3,7,9-10"
    assert frame_ranges(range(-5, 0)) == "-5--1"
    assert parse_frame_ranges(" 3, 5-7 ,6-8") == [3, 5, 6, 7, 8]


@pytest.mark.parametrize("text", ["", ",", "1-", "-", "a", "1.5", "5-3", "1-2-3", "1,,2", "1..3"])
def test_invalid_frame_ranges(text):
    assert repr(text)[1:-1] in refusal(parse_frame_ranges, text).message


@pytest.mark.parametrize("text", ["1-2000000000", "1-2000000,1-2000000", "1" * 5000, "-9999999999"])
def test_frame_ranges_beyond_any_scene(text):
    assert len(refusal(parse_frame_ranges, text).message) < 200


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("links", [True, False])
def test_a_target_is_replaced_by_a_link_or_a_copy(tmp_path, monkeypatch, copy, links):
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"1")
    target.write_bytes(b"whatever was there")
    if not links:
        monkeypatch.setattr("os.link", refuse)
    for _ in range(2):  # the second time both may be one file
        link_or_copy(source, target, copy)
        assert target.read_bytes() == b"1"
        assert target.samefile(source) == (links and not copy)
        assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


# ------------------------------------------------------------------------------------------------ crops


def test_crops_are_normalised():
    assert as_crop("auto") == "auto"
    assert as_crop([1, 2, 3]) == as_crop(np.array([1, 2, 3], np.float32)) == as_crop((1, 2, 3, 0)) == (1.0, 2.0, 3.0)
    assert as_crop([1, 2, 3, 4]) == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    "crop",
    ["", "abc", "123", "Auto", None, 5, {"x": 1}, (1, 2), (1, 2, 0), (1, 2, -3), (1, 2, float("nan")), (1, 2, "x"),
     (1, 2, 3, float("inf")), (1, 2, 3, 4, 5)],
    ids=repr,
)  # fmt: skip
def test_invalid_crops(crop):
    assert refusal(as_crop, crop).kind == "face"


def test_a_size_changes_the_keys(shot, tmp_path):
    keys = {size: replace(shot, size=size).keys() for size in (0, 512, 1024)}
    assert keys[0] == shot.keys()
    assert len({key for some in keys.values() for key in some}) == 3 * len(set(shot.keys()))
    for size, version in ((0, 1), (512, 2)):
        made = replace(shot, size=size)
        made.write(tmp_path / "shot")
        data = json.loads((tmp_path / "shot" / "shot.json").read_text())
        assert (data["format_version"], data.get("size", 0)) == (version, size)
        found = Shot.read(tmp_path / "shot")
        assert (found.size, found.keys()) == (size, made.keys())
    for size in (-512, 4097):
        assert "0 to 4096 pixels" in refusal(lambda size=size: replace(shot, size=size)).message
    data["size"] = "large"
    (tmp_path / "shot" / "shot.json").write_text(json.dumps(data))
    assert "shot.json" in refusal(Shot.read, tmp_path / "shot").message


def test_later_options_change_the_keys_and_raise_the_version_only_if_used(shot, tmp_path):
    names = shot.coefficients.names
    plate = Plate(shot.portrait, "0" * 64, np.zeros(len(shot.coefficients)), np.ones((len(shot.coefficients), 4)))
    dubbed = replace(shot, portrait=None, plate=plate)
    made = [shot, replace(shot, detail=False), dubbed, replace(dubbed, added=names[:2]), replace(dubbed, added=())]
    assert len({each.keys() for each in made}) == len(made)
    for each, version in zip(made, (1, 3, 2, 3, 3), strict=True):
        each.write(tmp_path / "shot")
        assert json.loads((tmp_path / "shot" / "shot.json").read_text())["format_version"] == version
        found = Shot.read(tmp_path / "shot")
        assert (found.detail, found.added, found.keys()) == (each.detail, each.added, each.keys())
    assert "'nose'" in refusal(lambda: replace(dubbed, added=("nose",))).message


def test_the_display_of_a_plate_is_kept_and_gives_other_frames(shot, tmp_path):
    count = len(shot.coefficients)
    media = tmp_path / "hdr.mp4"
    media.write_bytes(b"not looked at")
    plate = Plate(media, "0" * 64, np.zeros(count), np.ones((count, 4)))
    plain, shown = (replace(shot, portrait=None, plate=replace(plate, display=display)) for display in ("", "pq"))
    assert not set(plain.keys()) & set(shown.keys())
    for one, version in ((plain, 2), (shown, 4)):
        one.write(tmp_path / "written")
        assert json.loads((tmp_path / "written" / "shot.json").read_text())["format_version"] == version
        assert Shot.read(tmp_path / "written").plate.display == one.plate.display
        assert Shot.read(tmp_path / "written").keys() == one.keys()
    with pytest.raises(EDTalkError, match="display"):
        replace(plate, display="other")


def test_a_shot_without_rows(shot):
    assert "at least one frame" in refusal(lambda: replace(shot, coefficients=shot.coefficients[:0])).message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX")
@pytest.mark.parametrize("name", ["shot.json", "coefficients.npy", "portrait.png"])
def test_only_regular_files_of_a_shot_are_read(shot, tmp_path, name):
    written = shot.write(tmp_path / "written")
    path = written.portrait if name == "portrait.png" else tmp_path / "written" / name
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()):
        path.unlink()
        make(path)
        with pytest.raises(EDTalkError, match=r"could not be read|outside the shot"):
            Shot.read(tmp_path / "written")
        if path.is_dir():
            path.rmdir()


@pytest.mark.parametrize("name", ["portrait", "sound"])
def test_a_link_does_not_lead_out_of_a_shot(shot, tmp_path, name):
    """A stranger's shot could otherwise have any file of the user copied into a bundle."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"not looked at")
    written = replace(shot, sound=secret).write(tmp_path / "written")
    inside = getattr(written, name).with_name("inside")
    getattr(written, name).rename(inside)
    for target, refused in ((inside, False), (secret, True), (tmp_path / "written" / ".." / "secret", True)):
        getattr(written, name).unlink(missing_ok=True)
        try:
            getattr(written, name).symlink_to(target)
        except OSError:
            pytest.skip("this system allows no links")
        if refused:
            assert "is a link to a file outside the shot" in refusal(Shot.read, tmp_path / "written").message
        else:
            Shot.read(tmp_path / "written")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frames_folder", "a\0b"),
        ("bank", "\ud800"),
        ("bank", 5),
        ("portrait", "a\0b.png"),
        ("portrait", "\ud800.png"),
        ("sound", ["a.wav"]),
        ("first_frame", 10**400),
        ("crop", [0, 0, 10**400]),
        ("crop", [0, 0, 100_000]),
        ("size", 1e400),
        ("fps", "25"),
        ("feather", []),
    ],
)
def test_forged_values(shot, tmp_path, key, value):
    shot.write(tmp_path / "written")
    path = tmp_path / "written" / "shot.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(EDTalkError, match=r"is not a shot, or is damaged|cannot be used"):
        Shot.read(tmp_path / "written")


def test_a_table_that_claims_more_values_than_it_has(shot, tmp_path):
    shot.write(tmp_path / "written")
    folder = tmp_path / "written"
    table = (folder / "coefficients.npy").read_bytes().replace(b"(5, 3)", b"(5, 9)")
    (folder / "coefficients.npy").write_bytes(table)
    data = json.loads((folder / "shot.json").read_text())
    (folder / "shot.json").write_text(json.dumps(data | {"coefficients_sha256": hashlib.sha256(table).hexdigest()}))
    assert "claims" in refusal(Shot.read, folder).message


@pytest.mark.parametrize("text", ["[" * 10**6, '{"format_version": Infinity}', '{"format_version": 1e999}'])
def test_forged_shots_are_refused(shot, tmp_path, text):
    shot.write(tmp_path / "written")
    (tmp_path / "written" / "shot.json").write_text(text)
    with pytest.raises(EDTalkError, match="is not a shot, or is damaged"):
        Shot.read(tmp_path / "written")
