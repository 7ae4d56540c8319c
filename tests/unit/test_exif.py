"""EXIF orientation of JPEG files, also of damaged files and files without one."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from edtalk.edtalk_blender.character import exif


def jpeg(orientation: int, order: str = "<", entries: int = 1) -> bytes:
    """Header of a JPEG with a JFIF segment and an EXIF orientation after other tags."""
    others = [struct.pack(f"{order}HHII", 0x0100 + index, 3, 1, 7) for index in range(entries - 1)]
    note = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, entries)
    segment = b"Exif\0\0" + tiff + b"".join([*others, note]) + bytes(4)
    jfif = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    return b"\xff\xd8" + jfif + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + b"\xff\xda\0\2"


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", range(1, 9))
def test_every_orientation_is_read(tmp_path, value, order):
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(value, order, entries=value))
    assert exif.orientation(path) == value


def test_files_without_a_readable_orientation_are_upright(tmp_path):
    path = tmp_path / "photo.jpg"
    assert exif.orientation(path) == exif.orientation(tmp_path) == 1
    whole = jpeg(6)
    for data in (b"", b"\x89PNG\r\n", jpeg(0), jpeg(9), whole.replace(b"II", b"XX"), b"\xff\xd8\xff\xda\0\2" + whole):
        path.write_bytes(data)
        assert exif.orientation(path) == 1
    for size in range(len(whole) - 12):
        path.write_bytes(whole[:size])
        assert exif.orientation(path) in (1, 6)


def test_upright_equals_the_engines_rotation(tmp_path: Path):
    image = pytest.importorskip("PIL.Image", reason="compares with the engine's library")
    ops = pytest.importorskip("PIL.ImageOps")
    pixels = np.random.default_rng(3).integers(0, 256, (2, 3, 3), np.uint8)
    for orientation in range(1, 9):
        shown = image.fromarray(pixels)
        shown.getexif()[0x0112] = orientation
        shown.save(tmp_path / "p.png", exif=shown.getexif())
        expected = np.asarray(ops.exif_transpose(image.open(tmp_path / "p.png")))
        turned = exif.upright(pixels, orientation)
        np.testing.assert_array_equal(turned, expected)
        assert exif.is_on_its_side(orientation) == (turned.shape != pixels.shape)


@pytest.mark.parametrize("length", [0, 1])
def test_a_segment_shorter_than_its_own_length_ends_the_search(tmp_path, length):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + struct.pack(">H", length) + jpeg(6)[2:])
    assert exif.orientation(tmp_path / "photo.jpg") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX")
def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert exif.orientation(tmp_path / "pipe.jpg") == exif.orientation(Path("/dev/zero")) == 1
