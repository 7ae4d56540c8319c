"""Damaged media: one sentence with the file, what was expected and found, and a hint with the next step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inference.contract.demo import LINE
from inference.contract.errors import EDTalkError
from inference.media.sound import load_sound
from inference.media.video import probe, read_frames
from tests.cli_material import render
from tests.footage import frame, write_clip
from tests.inference.test_cli_failures import refusal
from tests.inference.test_video import make_clip

AGAIN = "Copy or export it again."
Damage = Callable[[bytes], bytes]


def _without_index(stored: bytes) -> bytes:
    at = stored.index(b"moov") - 4
    return stored[:at] + stored[at + int.from_bytes(stored[at : at + 4], "big") :]


def _blank_index(stored: bytes) -> bytes:
    at = stored.index(b"moov") - 4
    end = at + int.from_bytes(stored[at : at + 4], "big")
    return stored[: at + 8] + bytes(end - at - 8) + stored[end:]


def _blank_middle(stored: bytes) -> bytes:
    at = stored.index(b"mdat") - 4
    third = int.from_bytes(stored[at : at + 4], "big") // 3
    return stored[: at + third] + bytes(third) + stored[at + 2 * third :]


@pytest.fixture(scope="module")
def movie(tmp_path_factory) -> Path:
    """A movie of two seconds; its index is at the end, as cameras write it."""
    return make_clip(tmp_path_factory.mktemp("movie") / "movie.mp4", np.arange(50) / 25)


MOVIES: list[tuple[str, Damage, str, str]] = [
    ("cut off", lambda stored: stored[: len(stored) // 2], "an MP4 or MOV file that ends after [0-9,]+ of", AGAIN),
    ("start only", lambda stored: stored[:100], "an MP4 or MOV file that ends after 100 of", AGAIN),
    ("no index", _without_index, "an MP4 or MOV file without its index", AGAIN),
    ("blank index", _blank_index, "found a damaged file: an MP4 or MOV file", AGAIN),
    ("empty", lambda stored: b"", r"is empty \(0 bytes\)", AGAIN),
    (
        "text",
        lambda stored: b"Shopping list" * 99,
        "found a text file that begins 'Shopping list",
        "Choose another file.",
    ),
    (
        "blank",
        lambda stored: bytes(len(stored)),
        "found an unknown format",
        "Choose another file. If this is the right",
    ),
]


@pytest.mark.parametrize(("name", "damage", "found", "hint"), MOVIES, ids=[name for name, *_ in MOVIES])
@pytest.mark.parametrize("read", [probe, load_sound], ids=["as a movie", "as a sound"])
def test_a_damaged_movie(movie, tmp_path, name, damage, found, hint, read):
    path = tmp_path / f"{name}.mp4"
    path.write_bytes(damage(movie.read_bytes()))
    with pytest.raises(EDTalkError, match=found) as caught:
        read(path)
    error = caught.value
    assert error.kind == "media"
    assert str(path) in error.message
    assert "expected" in error.message
    assert error.hint.startswith(hint)
    assert "\n" not in error.message


@pytest.mark.parametrize("size", [30, 44])
def test_a_sound_of_which_only_the_header_is_left(tmp_path, size):
    path = tmp_path / "line.wav"
    path.write_bytes(LINE.read_bytes()[:size])
    with pytest.raises(EDTalkError, match=f"a WAV sound that ends after {size} of [0-9,]+ or more bytes") as caught:
        load_sound(path)
    assert caught.value.hint == AGAIN


def test_a_sound_that_is_cut_off_is_used_with_a_warning(tmp_path, caplog):
    path, stored = tmp_path / "line.wav", LINE.read_bytes()
    whole, rate = load_sound(LINE)
    assert not caplog.text
    path.write_bytes(stored[: len(stored) // 2])
    samples, _ = load_sound(path)
    assert len(samples) == pytest.approx(len(whole) / 2, abs=rate / 20)
    assert f"{path} is damaged or truncated: read {len(samples) / rate:.2f} of {len(whole) / rate:.2f} s" in caplog.text
    assert AGAIN in caplog.text


def test_a_movie_with_a_blank_middle_is_used_with_a_warning(tmp_path, caplog, movie):
    path = tmp_path / "blank.mp4"
    path.write_bytes(_blank_middle(movie.read_bytes()))
    count = sum(1 for _ in read_frames(path))
    assert 0 < count < 50
    assert f"{path} is damaged or truncated: read {count} of 50 frames" in caplog.text
    assert AGAIN in caplog.text


def test_the_warning_reaches_the_answer(worker, tmp_path):
    """So that Blender shows it; what the worker logs, nobody reads."""
    whole = write_clip(tmp_path / "whole.mp4", [frame((320, 180))] * 40, np.arange(40) / 25)
    path = tmp_path / "blank.mp4"
    path.write_bytes(_blank_middle(whole.read_bytes()))
    done = worker.done("track", media=str(path), crop="auto", start=0.0, end=None, which=None)
    assert "blank.mp4 is damaged or truncated: read" in done["note"]


def test_the_command_line_says_so_too(material, movie, tmp_path, capsys):
    path = tmp_path / "cut.mp4"
    path.write_bytes(movie.read_bytes()[:2000])
    said = refusal(capsys, *render(material, "--audio", material.voice, "--lip-video", path, "--out", tmp_path / "out"))
    assert "--lip-video" in said or "that ends after 2,000 of" in said
