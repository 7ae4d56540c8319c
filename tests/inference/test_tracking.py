"""Tests of tracking a face through footage: positions, frames without a face, choice of a face, unusual media."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.contract.errors import EDTalkError
from inference.contract.plate import Track, media_sha256
from inference.face.detect import Face, choose_face
from inference.face.footage import track_frames, track_media, unseen_note
from inference.media.video import frames_at, read_frames, stamped_frames
from inference.media.video_writer import VideoWriter
from tests.footage import HEIGHT, WIDTH, Place, background, frame, frames, true_middle, write_clip
from tests.inference.test_video import make_clip, number

pytestmark = pytest.mark.slow

FPS = 25


def refusal(function, *arguments, **named) -> EDTalkError:
    with pytest.raises(EDTalkError) as caught:
        function(*arguments, **named)
    return caught.value


def follow(pictures: list[np.ndarray], **options) -> Track:
    return track_frames(lambda: ((i / FPS, rgb) for i, rgb in enumerate(pictures)), FPS, **options)


def middles(crops: np.ndarray) -> np.ndarray:
    return crops[:, :2] + crops[:, 2:3] / 2 - 0.5


def errors(track: Track, places: list[Place]) -> np.ndarray:
    """(N,) distance in pixels of each crop's centre from its true position; NaN for frames without a crop."""
    truth = np.array([(np.nan, np.nan) if place is None else true_middle(place) for place in places])
    return np.linalg.norm(middles(track.crops) - truth, axis=1)


# ------------------------------------------------------------------------------------------------ frames and times


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_frame_is_returned_once_with_its_time(tmp_path, suffix):
    times = np.array([0.0, 0.033, 0.1, 0.133, 0.3, 0.333, 0.366, 0.5])  # uneven, as from a phone
    path = make_clip(tmp_path / f"c{suffix}", times)
    found = list(stamped_frames(path))
    assert [number(rgb) for _, rgb in found] == list(range(8))
    np.testing.assert_allclose([time for time, _ in found], times, atol=1e-3)
    part = [(time, number(rgb)) for time, rgb in stamped_frames(path, start=0.2, end=0.34)]
    assert [shown for _, shown in part] == [3, 4, 5], "from the frame shown at the start"
    assert [time for time, _ in part] == [time for time, _ in found[3:6]]
    assert "the requested start is" in refusal(list, stamped_frames(path, start=9)).message


def test_frame_at_a_time_does_not_depend_on_the_other_times(tmp_path):
    """Nor on the frame at which decoding starts."""
    times = np.cumsum(np.random.default_rng(1).choice([0.02, 0.033, 0.04, 0.5], 120)) - 0.02
    path = make_clip(tmp_path / "c.mp4", times - times[0], gop=9)
    track = [time for time, _ in stamped_frames(path)]
    whole = [rgb for _, rgb in stamped_frames(path)]
    assert all(np.array_equal(a, b) for a, b in zip(frames_at(path, track), whole, strict=True))
    for row in (0, 1, 30, 61, 90, 119):
        (alone,) = frames_at(path, [track[row]])
        assert np.array_equal(alone, whole[row])
    sparse = [3, 3, 4, 70, 118]
    moments = [track[row] + 0.005 for row in sparse]
    found = list(frames_at(path, moments))
    assert all(np.array_equal(rgb, whole[row]) for rgb, row in zip(found, sparse, strict=True))
    assert found[0] is found[1], "a held frame is decoded once"
    assert np.array_equal(next(frames_at(path, [1e4])), whole[-1])
    assert np.array_equal(next(frames_at(path, [-1.0])), whole[0])


def test_times_of_pictures_are_their_numbers(tmp_path):
    for index in range(12):
        Image.new("RGB", (64, 48), (index, 0, 0)).save(tmp_path / f"f{index}.png")
    assert [(time, rgb[0, 0, 0]) for time, rgb in stamped_frames(tmp_path, start=2, end=4)] == [(2, 2), (3, 3)]
    assert [rgb[0, 0, 0] for rgb in frames_at(tmp_path, [0, 2, 2.0, 10, 99])] == [0, 2, 2, 10, 11]
    assert [time for time, _ in stamped_frames(tmp_path / "f3.png")] == [0]
    assert [rgb[0, 0, 0] for rgb in frames_at(tmp_path / "f3.png", [0, 5])] == [3, 3]
    assert "the requested start is" in refusal(list, stamped_frames(tmp_path, start=12)).message


# ------------------------------------------------------------------------------------------------ the face


def test_moving_face_is_tracked():
    places = [(320 + 60 * np.sin(i / 6), 180 + 20 * np.cos(i / 9)) for i in range(40)]
    track = follow(frames(places))
    assert track.unseen == []
    error = errors(track, places)
    assert error.max() < 4, "within the error of the detector"
    assert np.abs(np.diff(error)).max() < 0.6, "steady"


def test_face_that_leaves_and_returns_is_unseen_meanwhile():
    steps = np.concatenate(
        [np.full(12, 320), np.linspace(320, -150, 48), np.full(15, -150), np.linspace(-150, 320, 48)]
    )
    places = [(x, 180.0) for x in steps]
    track = follow(frames(places))
    ((first, last),) = track.unseen
    # Half of the face is visible when its centre is at the border; it is 160 pixels wide.
    assert 0 <= steps[first] < 80, "when a good part of the face is outside"
    assert 0 <= steps[last] < 80
    assert np.nanmax(errors(track, places)) < 25, "partly extrapolated at the border"


@pytest.mark.parametrize(("gap", "unseen"), [(6, []), (20, [(20, 39)])])
def test_only_short_gaps_are_bridged(gap, unseen):
    here = (300.0, 180.0)
    places = [here] * 20 + [None] * gap + [here] * 20
    track = follow(frames(places))
    assert track.unseen == unseen
    assert np.nanmax(errors(track, [here] * len(places))) < 12


def test_frames_before_and_after_the_face_are_unseen():
    here = (300.0, 180.0)
    track = follow(frames([None] * 15 + [here] * 30 + [None] * 20))
    (start, first), (after, last) = track.unseen
    assert (start, after, last) == (0, 45, 64)
    assert 14 <= first < 20, "it may be found some frames late"
    assert "No face was found in any frame of x.mp4" in refusal(follow, frames([None] * 5), label="x.mp4").message


def test_failed_detections_do_not_end_a_track(monkeypatch):
    """A face in profile is not detected."""
    from inference.face import detect as face_detect

    seen = iter([True, False] + [False] * 100)
    detect = face_detect.detect_faces
    monkeypatch.setattr(
        face_detect, "detect_faces", lambda rgb, **options: detect(rgb, **options) if next(seen) else []
    )
    places = [(320 + 0.5 * i, 180.0) for i in range(40)]
    assert follow(frames(places)).unseen == []


# ------------------------------------------------------------------------------------------------ which of several


def test_choice_by_number_size_or_point():
    left, middle, right = (Face((x, 50, side, side)) for x, side in ((10, 60), (200, 90), (400, 70)))
    faces = [left, middle, right]
    for which, face in [(1, left), (2, middle), (3, right), (-1, right), (-3, left), ("largest", middle),
                        ((0, 0), left), ([460, 90], right), ((250, 1000), middle)]:  # fmt: skip
        assert choose_face(faces, which=which) is face, which
    for which in (None, 4, -4, 0):
        assert refusal(choose_face, faces, which=which).kind == "face"


def test_chosen_face_is_tracked_beside_another():
    """It leaves the picture; the tracker must not switch to the other face."""
    steps = np.concatenate([np.full(11, 700), np.linspace(700, 1050, 36), np.full(14, 1050)])
    pictures = [frame((180.0, 180.0), (x, 180.0), width=900) for x in steps]
    assert "2 faces were found" in refusal(follow, pictures[:1]).message
    for which in (2, -1, (700, 180)):
        track = follow(pictures, which=which)
        seen = ~np.isnan(track.crops[:, 2])
        assert middles(track.crops)[seen, 0].min() > 600
        assert track.unseen[-1][1] == len(steps) - 1
    stays = follow(pictures, which=1)
    assert stays.unseen == []
    assert errors(stays, [(180.0, 180.0)] * len(steps)).max() < 5


# ------------------------------------------------------------------------------------------------ media


def test_movies_folders_and_pictures(tmp_path):
    places = [(320.0 + 2 * i, 180.0) for i in range(14)]
    pictures = frames(places)
    folder = tmp_path / "folder"
    folder.mkdir()
    for index, rgb in enumerate(pictures):
        Image.fromarray(rgb).save(folder / f"{index}.png")
    steps = []
    clip = write_clip(tmp_path / "c.mp4", pictures, np.arange(14) / 30)
    for media, fps, times in (
        (clip, 30, np.arange(14) / 30),
        (folder, None, np.arange(14)),
        (folder / "0.png", None, [0]),
    ):
        found = track_media(media, step=lambda done, total: steps.append((done, total)))
        np.testing.assert_allclose(found.track.times, times, atol=1e-6)
        assert (found.size, found.note) == ((WIDTH, HEIGHT), "")
        assert found.fps is None if fps is None else found.fps == pytest.approx(fps, rel=0.1)
        assert errors(found.track, places[: len(times)]).max() < 4
        assert steps[-1] == (len(times) - 1, len(times))
    part = track_media(folder, start=3, end=6).track
    assert part.times.tolist() == [3, 4, 5]


def test_rotated_uneven_ten_bit_and_grey_footage(tmp_path):
    places = [(320.0 + 2 * i, 180.0) for i in range(11)]
    pictures, times = frames(places), np.array([0, 0.03, 0.1, 0.13, 0.2, 0.5, 0.53, 0.6, 0.63, 0.66, 0.7])
    for name, options in {
        "rotated": {"rotation": 90},
        "upside down": {"rotation": 180},
        "ten bit": {"pix_fmt": "yuv420p10le"},
        "grey": {"pix_fmt": "gray"},
    }.items():
        found = track_media(write_clip(tmp_path / f"{name}.mp4", pictures, times, **options))
        assert found.size == (WIDTH, HEIGHT), name
        np.testing.assert_allclose(found.track.times, times, atol=1e-4, err_msg=name)
        assert errors(found.track, places).max() < 5, name


def test_movie_of_one_frame_and_truncated_movie(tmp_path, caplog):
    one = write_clip(tmp_path / "one.mp4", frames([(320.0, 180.0)]), [0.0])
    assert len(track_media(one).track) == 1
    whole = write_clip(tmp_path / "whole.mkv", frames([(320.0, 180.0)] * 24), np.arange(24) / 30, gop=4)
    content = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    cut = track_media(tmp_path / "cut.mkv").track
    assert 0 < len(cut) < 24
    assert "cut.mkv is damaged or truncated" in caplog.text


def test_unreadable_footage_is_explained(tmp_path):
    (tmp_path / "text.mp4").write_text("this is no movie " * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name, expected in (
        ("text.mp4", "cannot be read"),
        ("empty.mp4", "is empty"),
        ("none.mp4", "does not exist"),
        ("folder", "contains no images"),
        ("torn.png", "cannot be used"),
    ):
        error = refusal(track_media, tmp_path / name)
        assert (error.kind, expected in error.message, name in error.message) == ("media", True, True), error
        assert error.hint


def test_footage_used_whole_and_with_a_fixed_square(tmp_path):
    square = tmp_path / "square.mp4"
    with VideoWriter(square, FPS, (256, 256)) as writer:
        for _ in range(3):
            writer.write(frame((128.0, 128.0), height=256, width=256))
    assert track_media(square).track.crops.tolist() == [[0, 0, 256, 0]] * 3
    assert track_media(square, "none").track.crops.tolist() == [[0, 0, 256, 0]] * 3
    wide = tmp_path / "wide"
    wide.mkdir()
    for index in range(2):
        Image.fromarray(background()).save(wide / f"{index}.png")
    np.testing.assert_allclose(track_media(wide, (10, 20, 90, 7.5)).track.crops, [[10, 20, 90, 7.5]] * 2, atol=1e-9)
    assert "Only square footage" in refusal(track_media, wide, "none").message
    assert "outside wide" in refusal(track_media, wide, (900, 0, 50)).message
    Image.new("RGB", (64, 48)).save(wide / "2.png")
    assert "changes from" in refusal(track_media, wide, (10, 20, 30)).message


def test_note_on_frames_without_a_face():
    def note(*absent: int, count: int = 12, counted: bool = False) -> str:
        crops = np.tile([0.0, 0, 9, 0], (count, 1))
        crops[list(absent)] = np.nan
        return unseen_note("walk.mp4", Track(np.arange(count) / 4, crops), counted=counted, then="so it is")

    assert note() == ""
    assert note(3) == "No face was seen in walk.mp4 at second 0.75 (1 frame); so it is."
    assert note(1, 2, 3) == "No face was seen in walk.mp4 at seconds 0.25 to 0.75 (3 frames); so it is."
    assert note(0, 4, 5, counted=True) == "No face was seen in walk.mp4 at pictures 1 and 5 to 6 (3 frames); so it is."
    assert "0.00, 0.50, 1.00, 1.50 and 2 other ranges (6 frames)" in note(0, 2, 4, 6, 8, 10)


def test_hash_of_the_media(tmp_path, media: Path):
    assert len(media_sha256(media / "pose_source1.mp4")) == 64
    track = track_media(media / "pose_source1.mp4", end=1.0).track
    count = sum(1 for _ in read_frames(media / "pose_source1.mp4", FPS, end=1.0))
    assert (len(track), track.unseen) == (count, [])
