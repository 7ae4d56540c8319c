"""EXIF orientation of JPEG, PNG, WebP and TIFF files, also of damaged files and files without one."""

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


def exif_data(orientation: int, order: str) -> bytes:
    """TIFF structure with the orientation in a directory behind other data."""
    note = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(f"{order}I", 20)
        + bytes(12)
        + struct.pack(f"{order}H", 1)
        + note
        + bytes(4)
    )


def in_file(kind: str, data: bytes) -> bytes:
    """A file of a format with this EXIF data, without a picture."""
    if kind == "png":
        chunks = [(b"IHDR", bytes(13)), (b"IDAT", bytes(9)), (b"eXIf", data), (b"IEND", b"")]
        parts = [struct.pack(">I4s", len(body), name) + body + bytes(4) for name, body in chunks]
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    if kind.startswith("webp"):
        data = b"Exif\0\0" + data if kind == "webp with prefix" else data
        chunks = [(b"VP8X", bytes(10)), (b"VP8 ", bytes(7)), (b"EXIF", data)]
        parts = [struct.pack("<4sI", name, len(body)) + body + bytes(len(body) % 2) for name, body in chunks]
        return b"RIFF" + struct.pack("<I", sum(map(len, parts)) + 4) + b"WEBP" + b"".join(parts)
    return data


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["png", "webp", "webp with prefix", "tiff"])
def test_other_formats_have_an_orientation_too(tmp_path, kind, order):
    path = tmp_path / "photo"
    for value in range(1, 9):
        path.write_bytes(in_file(kind, exif_data(value, order)))
        assert exif.orientation(path) == value
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert exif.orientation(path) in (1, 8)


def test_formats_agree_with_the_engine(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="compares with the engine's library")
    ops = pytest.importorskip("PIL.ImageOps")
    picture = image.new("RGB", (6, 4))
    for orientation in range(1, 9):
        note = picture.getexif()
        note[0x0112] = orientation
        for suffix in ("jpg", "png", "webp", "tif"):
            path = tmp_path / f"photo.{suffix}"
            picture.save(path, exif=note)
            turned = ops.exif_transpose(image.open(path)).size == (4, 6)
            assert exif.is_on_its_side(exif.orientation(path)) == turned, path


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_of_the_upright_picture_are_found_in_the_stored_one(orientation):
    stored = np.arange(3 * 5).reshape(3, 5, 1)
    turned = exif.upright(stored, orientation)
    height, width = turned.shape[:2]
    matrix = exif.to_stored(orientation, width, height)
    for y in range(height):
        for x in range(width):
            column, row = np.floor(matrix @ (x + 0.5, y + 0.5, 1)).astype(int)
            assert stored[row, column] == turned[y, x]
