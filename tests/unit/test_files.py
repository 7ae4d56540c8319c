"""Tests of atomic writing, and of reading regular files only."""

from __future__ import annotations

import os

import pytest
from edtalk.inference.contract.errors import EDTalkError
from edtalk.inference.contract.files import atomic_write, check_file, read_regular


def test_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.suffix == path.suffix
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_error_keeps_the_old_file_and_leaves_no_other(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_at_once(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as one, atomic_write(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one", "the last to end"
    assert list(tmp_path.iterdir()) == [path]


def test_longest_name_that_file_systems_allow_is_written(tmp_path):
    path = tmp_path / ("a" * 251 + ".txt")
    with atomic_write(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("durable", [True, False])
def test_content_is_on_the_disk_before_the_file_gets_its_name(tmp_path, monkeypatch, durable):
    path, synced = tmp_path / "a.txt", []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_size, path.exists())))
    with atomic_write(path, durable) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert synced == ([(3, False)] if durable else [])


def test_write_error_names_the_file(tmp_path):
    path = tmp_path / "none" / "a.txt"
    with pytest.raises(EDTalkError, match=r"a\.txt could not be written") as failure, atomic_write(path) as partial:
        partial.touch()
    assert failure.value.kind == "disk"


def test_regular_file_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        assert read_regular(tmp_path / name, 5) == b"12345"
        with pytest.raises(OSError, match="it has 5 bytes, at most 4 are expected"):
            read_regular(tmp_path / name, 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes need POSIX")
def test_other_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/zero", "/dev/null"):
        with pytest.raises(OSError, match="not a regular file"):
            read_regular(path, 5)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 5)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "me.png"
    path.write_bytes(b"x")
    check_file(path, "expected a picture")
    monkeypatch.setattr(os, "access", lambda *_: False)  # the user root may read everything
    with pytest.raises(EDTalkError, match=r"me\.png cannot be read: permission denied; expected a picture"):
        check_file(path, "expected a picture")
