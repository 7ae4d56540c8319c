"""Say what a file contains, for messages about a file that cannot be used. Standard library only."""

from __future__ import annotations

import codecs
from pathlib import Path

from .files import open_regular

_HEAD = 512  # bytes that are looked at
# How formats begin. A format with several marks has them at several places.
_MARKS: tuple[tuple[str, tuple[tuple[int, bytes], ...]], ...] = (
    ("a PNG picture", ((0, b"\x89PNG"),)),
    ("a JPEG picture", ((0, b"\xff\xd8\xff"),)),
    ("a GIF picture", ((0, b"GIF8"),)),
    ("a TIFF picture", ((0, b"II*\0"),)),
    ("a TIFF picture", ((0, b"MM\0*"),)),
    ("an OpenEXR picture", ((0, b"\x76\x2f\x31\x01"),)),
    ("a WebP picture", ((0, b"RIFF"), (8, b"WEBP"))),
    ("a WAV sound", ((0, b"RIFF"), (8, b"WAVE"))),
    ("a FLAC sound", ((0, b"fLaC"),)),
    ("an Ogg sound", ((0, b"OggS"),)),
    ("an MP3 sound", ((0, b"ID3"),)),
    ("an MP3 sound", ((0, b"\xff\xfb"),)),
    ("an AVI movie", ((0, b"RIFF"), (8, b"AVI "))),
    ("a Matroska or WebM movie", ((0, b"\x1a\x45\xdf\xa3"),)),
    ("an MP4 or MOV file", ((4, b"ftyp"),)),
    ("a PDF document", ((0, b"%PDF"),)),
    ("a .blend file", ((0, b"BLENDER"),)),
    ("a NumPy array (.npy)", ((0, b"\x93NUMPY"),)),
    ("a safetensors file", ((8, b'{"'),)),
    ("a zip archive", ((0, b"PK\x03\x04"),)),
    ("a gzip archive", ((0, b"\x1f\x8b"),)),
)


def content_of(path: Path) -> str:
    """What a file contains, such as "a JPEG picture", "a text file that begins '...'" or "an unknown format".

    Only its first bytes are read, so a damaged file counts as what it begins as. Never raises.
    """
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return "a folder" if path.is_dir() else "a file that cannot be opened"
    if not head:
        return "an empty file"
    for name, marks in _MARKS:
        if all(head[at : at + len(mark)] == mark for at, mark in marks):
            return name
    text = as_text(head)
    return "an unknown format" if text is None else f"a text file that begins '{text}'"


def as_text(head: bytes) -> str | None:
    """The first 40 characters of a file that begins with `head`, in one line; None if it is not a text in UTF-8."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # its last character may be incomplete
    except UnicodeDecodeError:
        return None
    if not all(character >= " " or character in "\t\r\n" for character in text):
        return None
    return " ".join(text.split())[:40]
