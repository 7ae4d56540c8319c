"""Words of `python -m training` that make no sense: one sentence with what was expected and what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from training.__main__ import main


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "The following arguments are required: COMMAND. See 'python -m training --help'."),
        ("words", "The following arguments are required: --glove, --out. See 'python -m training words --help'."),
        ("footage a.mp4 --size 100", "Argument --size: invalid choice: 100 (choose from 32, 64, 128, 256)."),
        ("footage a.mp4 --minutes -3", "Argument --minutes: expected a number from 0 up, found -3."),
        ("footage a.mp4 --minutes nan", "Argument --minutes: expected a number from 0 up, found nan."),
        ("footage a.mp4 --threads 0", "Argument --threads: expected a number from 1 up, found 0."),
        ("heads --out heads --identities 0", "Argument --identities: expected a number from 1 up, found 0."),
    ],
)
def test_invalid_options_are_refused_in_one_line(words: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(expected), said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("heads", "out", "expected"),
    [
        ("5", "a.mp4", "a.mp4 is not a bank: expected a name that ends in .safetensors, found the ending .mp4."),
        ("five", "a.safetensors", "--heads five is neither a folder nor a number of people."),
    ],
)
def test_footage_refuses_names_before_it_renders(tmp_path: Path, heads: str, out: str, expected: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["footage", "--heads", heads, "--out", str(tmp_path / out)])
    assert expected in str(ended.value)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    with pytest.raises(SystemExit) as ended:
        main(["heads", "--out", str(file), "--identities", "1"])
    assert str(ended.value).startswith(f"{file} cannot be used: File exists.")


@pytest.mark.parametrize("options", [[], ["--only", "anna"]])
def test_a_folder_without_clips_is_named(tmp_path: Path, options: list[str]) -> None:
    words = ["evaluate-footage", "bank", "--clips", str(tmp_path), "--out", str(tmp_path / "report"), *options]
    with pytest.raises(SystemExit) as ended:
        main(words)
    named = " whose name contains 'anna'" if options else ""
    assert f"{tmp_path} contains no clips (.mp4, .mov, .mkv, .webm){named}, found 0 clips." in str(ended.value)
