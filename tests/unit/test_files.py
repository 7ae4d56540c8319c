"""Files appear whole or not at all, whoever else writes them."""

from __future__ import annotations

import pytest
from edtalk.inference.errors import EDTalkError
from edtalk.inference.files import appearing


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with appearing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.suffix == path.suffix
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_goes_wrong_the_old_file_stays_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with appearing(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with appearing(path) as one, appearing(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one", "the last to end"
    assert list(tmp_path.iterdir()) == [path]


def test_the_disk_is_named(tmp_path):
    path = tmp_path / "none" / "a.txt"
    with pytest.raises(EDTalkError, match=r"a\.txt could not be written") as failure, appearing(path) as partial:
        partial.touch()
    assert failure.value.kind == "disk"
