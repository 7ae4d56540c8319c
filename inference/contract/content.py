"""Say what a file contains, for messages about a file that cannot be used. Standard library only."""

from __future__ import annotations

import codecs
import os
from io import BufferedReader
from pathlib import Path

from .errors import EDTalkError
from .files import open_regular

_HEAD = 512  # bytes that are looked at
_MOST_ATOMS = 4096  # parts of an MP4 file that are looked at; a file has about five, or two a fragment
UNKNOWN_SIZE = 1_900_000_000  # bytes: recorders that do not know the length write 2**31 or so
_AGAIN = "Copy or export it again."
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
    *(("a HEIC photograph", ((4, b"ftyp" + brand),)) for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    *(("an MP4 or MOV file", ((4, part),)) for part in (b"ftyp", b"moov", b"mdat", b"wide")),
    ("a PDF document", ((0, b"%PDF"),)),
    ("a .blend file", ((0, b"BLENDER"),)),
    ("a NumPy array (.npy)", ((0, b"\x93NUMPY"),)),
    ("a safetensors file", ((8, b'{"'),)),
    ("a zip archive", ((0, b"PK\x03\x04"),)),
    ("a gzip archive", ((0, b"\x1f\x8b"),)),
)
_SOUNDS = ("a WAV sound", "a FLAC sound", "an Ogg sound", "an MP3 sound")
_MOVIES = ("an AVI movie", "a Matroska or WebM movie", "an MP4 or MOV file")


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


def unreadable_media(path: Path, expected: str, label: str = "") -> EDTalkError:
    """The error for a sound or a movie that cannot be decoded: what was expected and found, and what to do next.

    expected: such as "expected a video such as MP4". label: name of the file in the message, by default its path. A
    file that begins as a sound or a movie is damaged.
    """
    found, label = content_of(path), label or str(path)
    if found not in (*_SOUNDS, *_MOVIES):
        hint = "Choose another file."
        if found == "an unknown format":
            hint += " If this is the right one, it is damaged: copy or export it again."
        return EDTalkError(f"{label} cannot be read: {expected}, found {found}.", hint, "media")
    fault = damage_of(path)
    message = f"{label} cannot be read: {expected}, found a damaged file: {found}{fault and f' {fault}'}."
    return EDTalkError(message, _AGAIN, "media")


def damage_of(path: Path) -> str:
    """What is missing in an MP4, MOV, WAV or AVI file by its own statements, such as "that ends after 5 of 9 bytes".

    "" if nothing is, and for other files. Never raises.
    """
    try:
        with open_regular(path) as file:
            size, head = os.fstat(file.fileno()).st_size, file.read(12)
            if head[:4] == b"RIFF":
                stated, fault = stated_size(head), ""
            elif content_of(path) == "an MP4 or MOV file":
                stated, fault = _atoms(file, size)
            else:
                return ""
    except (OSError, ValueError):
        return ""
    if stated > size:
        return f"that ends after {size:,} of {stated:,} or more bytes"
    return fault


def stated_size(head: bytes) -> int:
    """The size in bytes that the header of a RIFF file (WAV, AVI) states; 0 if it states none."""
    size = int.from_bytes(head[4:8], "little")
    return size + 8 if head[:4] == b"RIFF" and 4 < size < UNKNOWN_SIZE else 0


def _atoms(file: BufferedReader, size: int) -> tuple[int, str]:
    """Where the last part of an MP4 file of `size` bytes should end, and a fault of the parts or ""."""
    at, has_index = 0, False
    for _ in range(_MOST_ATOMS):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            break
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length or size - at
        has_index |= head[4:8] == b"moov"
        if length < 8:
            return at, "with a damaged part"
        at += length
    return at, "" if has_index else "without its index (the 'moov' atom)"
