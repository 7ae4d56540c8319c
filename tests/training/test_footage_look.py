"""`python -m training footage --check`: what a look at clips says, as JSON and as text, and that it only looks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("torch")

from inference.media.picture import load_picture
from training.footage import look
from training.stages import footage as command

PORTRAIT = Path(look.__file__).parents[2] / "inference" / "demo" / "portrait_1.png"


def checked(folder: Path, work: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[dict, str]:
    """The report in check.json and what was printed; the exit code says whether there is a problem."""
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    args = parser.parse_args([str(folder), "--check", "--work", str(work), "--size", "32", "--minutes", "60", *more])
    with pytest.raises(SystemExit) as ended:
        command.run(args)
    assert ended.value.code == 1
    assert [path.name for path in work.iterdir()] == ["check.json"]
    return json.loads((work / "check.json").read_text()), capsys.readouterr().out


def test_a_folder_without_clips_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "notes.txt").write_text("x")
    report, text = checked(clips, tmp_path / "work", capsys)
    assert not report["ok"]
    assert "1 files, none of them a movie" in report["problem"]
    assert report["problem"] in text
    (clips / "damaged.mp4").write_bytes(b"not a movie")
    report, text = checked(clips, tmp_path / "work", capsys)
    assert report["problem"] == report["clips"][0]["error"], "it names the file, once"
    assert "damaged.mp4" in report["clips"][0]["error"]


def test_a_short_clip_is_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "LOOKED_AT", 3)
    monkeypatch.setattr(look, "TIMED", 2)
    clips = tmp_path / "clips"
    clips.mkdir()
    portrait = np.ascontiguousarray(load_picture(PORTRAIT).opaque[:512, :512])
    with av.open(str(clips / "short.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = (side - side % 2 for side in portrait.shape[:2])
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            for packet in stream.encode(av.VideoFrame.from_ndarray(portrait, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    report, text = checked(clips, tmp_path / "work", capsys, "--json")
    assert json.loads(text) == report
    (clip,) = report["clips"]
    assert (clip["name"], clip["person"], clip["faces"], clip["error"]) == ("short.mp4", "short", 1, "")
    assert clip["seconds"] == pytest.approx(0.4, abs=0.05)
    assert clip["usable"] == pytest.approx(clip["seconds"], abs=0.05)
    assert "at least 20 s are needed" in report["problem"]
    for name in ("disk_needed", "disk_free", "memory_needed", "step_seconds", "steps", "steps_advised"):
        assert report[name] > 0, name
    share = command.SHARES["mouth-pose"]
    assert report["steps"] == pytest.approx(3600 * share / report["step_seconds"], rel=0.05)
    assert "short.mp4: about 0 of 0 s usable" in look.as_text(report)
