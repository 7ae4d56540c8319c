"""Footage preparation: takes, rejected frames, what is said about unusable clips, and that it resumes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import av

from inference.contract.errors import EDTalkError
from inference.media.picture import load_picture
from training.footage import prepare
from training.footage.prepare import clips_in, prepared, rejected, takes_of

PORTRAIT = Path(prepare.__file__).parents[2] / "inference" / "demo" / "portrait_1.png"
SQUARE = (0.0, 0.0, 200.0)
NINE = np.array([
    [70, 80], [130, 80], [100, 110], [80, 140], [120, 140], [100, 135], [100, 150], [100, 141], [100, 175],
], float)  # fmt: skip
ALL_SURE = np.ones(9)


def squares(count: int) -> np.ndarray:
    return np.tile([10.0, 10.0, 100.0], (count, 1))


def test_a_take_ends_at_a_lost_face_a_gap_and_a_cut() -> None:
    times = np.arange(200) / 25
    faces = squares(200)
    faces[60] = np.nan
    faces[120:, 0] += 80
    assert [(run[0], run[-1]) for run in takes_of(times, faces)] == [(0, 59), (61, 119), (120, 199)]
    times[150:] += 1.0
    assert [(run[0], run[-1]) for run in takes_of(times, faces)] == [(0, 59), (61, 119), (120, 149), (150, 199)]


def test_short_runs_are_no_takes() -> None:
    assert takes_of(np.arange(20) / 25, squares(20)) == []


@pytest.mark.parametrize(
    ("change", "reason"), [("", ""), ("small", "small"), ("turned", "turned"), ("hidden", "hidden"), ("eyes", "unsure")]
)
def test_frames_are_rejected_for_a_reason(change: str, reason: str) -> None:
    points, sure = NINE.copy(), ALL_SURE.copy()
    if change == "small":
        points = 100 + (points - 100) * 0.3
    if change == "turned":
        points[2, 0] += 30
    sure[7] = 0.2 if change == "hidden" else 1.0
    sure[0] = 0.2 if change == "eyes" else 1.0
    assert rejected(points, sure, SQUARE) == reason


def test_a_folder_without_movies_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(EDTalkError, match=r"No clip was found in .*: 1 files, none of them a movie"):
        clips_in([tmp_path])


def test_a_person_is_the_folder_below(tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    for name in ("anna/one.mp4", "anna/two.mov", "three.mkv"):
        (tmp_path / name).write_bytes(b"")
    assert [(clip.name, person) for clip, person in clips_in([tmp_path])] == [
        ("one.mp4", "anna"), ("two.mov", "anna"), ("three.mkv", "three"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.4 s of a portrait that slides to the right and never speaks, beside a damaged movie."""
    folder = tmp_path_factory.mktemp("clips")
    portrait = load_picture(PORTRAIT).opaque
    step = len(portrait) // 2 % 2
    side = len(portrait) - step
    with av.open(str(folder / "still.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = side - side % 2
        stream.pix_fmt = "yuv420p"
        for number in range(35):
            shown = np.roll(portrait, number, axis=1)[: stream.height, : stream.width]
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    (folder / "broken.mp4").write_bytes(b"not a movie")
    return folder


def test_a_clip_is_prepared_once_and_silence_is_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(EDTalkError, match="Nobody speaks"):
        prepared([clip], tmp_path, 64, least=0.5)
    state = json.loads((tmp_path / "clips.json").read_text())
    entries = {entry["name"]: entry for entry in state["clips"].values()}
    assert "error" in entries["broken.mp4"]
    assert entries["still.mp4"]["frames"] > 20
    report = (tmp_path / "report.md").read_text()
    assert "still.mp4" in report
    assert (tmp_path / "contact.jpg").exists()

    def forbidden(*_: object) -> None:
        raise AssertionError("a clip that is done was read again")

    with pytest.raises(EDTalkError, match="at least 20 s are needed"):
        prepared([clip], tmp_path, 64, forbidden)  # type: ignore[arg-type]
    take = next(tmp_path.glob("still_*/take_000"))
    points = np.load(take / "state.npz")["points"]
    assert np.ptp(points[:, 2, 0]) > 0.05, "the square does not follow the head"
    with pytest.raises(EDTalkError, match="has footage of 64 px"):
        prepared([clip], tmp_path, 128)
    (tmp_path / "clips.json").write_text(json.dumps(state | {"format": 1}))
    with pytest.raises(EDTalkError, match="another version"):
        prepared([clip], tmp_path, 64)
