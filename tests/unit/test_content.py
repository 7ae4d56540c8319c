"""What a message says that a wrong file contains."""

import zipfile

import pytest

from inference.contract.bank import STARTER
from inference.contract.content import content_of
from inference.contract.demo import LINE, PORTRAIT


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "an empty file"),
        (b"Hello,\n  world", "a text file that begins 'Hello, world'"),
        ("ä".encode() * 300, f"a text file that begins '{'ä' * 40}'"),  # 512 bytes end within a character
        (b"x" + "ä".encode() * 300, f"a text file that begins 'x{'ä' * 39}'"),
        (b"\xff\xd8\xff\xe0", "a JPEG picture"),
        (b"RIFF\x10\0\0\0AVI LIST", "an AVI movie"),
        (b"\0\0\0\x20ftypisom", "an MP4 or MOV file"),
        (b"\0\0\0\x08wide\0\0", "an MP4 or MOV file"),
        (b"\0\0\0\x20ftypheic", "a HEIC photograph"),
        (b"\0\x13\x37" * 9, "an unknown format"),
    ],
)
def test_by_its_first_bytes(tmp_path, content, expected):
    (tmp_path / "file").write_bytes(content)
    assert content_of(tmp_path / "file") == expected


def test_real_files(tmp_path):
    assert content_of(PORTRAIT) == "a PNG picture"
    assert content_of(LINE) == "a WAV sound"
    assert content_of(STARTER) == "a safetensors file"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", "b")
    assert content_of(tmp_path / "a.zip") == "a zip archive"


def test_what_is_no_readable_file(tmp_path):
    assert content_of(tmp_path) == "a folder"
    assert content_of(tmp_path / "missing") == "a file that cannot be opened"
