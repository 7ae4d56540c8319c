"""Capture through the worker: the frames that are measured, their times, and the errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from inference.contract.bank import load_bank
from inference.contract.coefficients import Coefficients
from inference.contract.protocol import Message
from inference.media.picture import load_picture
from inference.media.video import probe, read_frames
from inference.media.video_writer import VideoWriter
from inference.renderer import FaceRenderer
from tests.cli_material import Material, pictures, run
from tests.inference.test_video import make_clip
from tests.inference.test_worker import Client, motion
from tests.synthetic_inputs import picture

PHONE = [0.0, 0.033, 0.1, 0.133, 0.3, 0.333, 0.366, 0.5]  # seconds at which frames of an uneven clip begin


@pytest.fixture(scope="module")
def renderer(material: Material) -> Iterator[FaceRenderer]:
    """A renderer in this process, for the expected results."""
    before = torch.get_num_threads()
    yield FaceRenderer(load_bank(material.bank), "cpu", threads=1)  # as in the worker: threads affect rounding
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Four seconds at 30 fps with a key frame about every 12 frames. All frames differ."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    rows = 127 + 100 * np.sin(np.arange(120)[:, None] * np.linspace(0.05, 0.4, 64))
    with VideoWriter(path, 30, (64, 48)) as writer:
        writer._video.codec_context.gop_size = 12
        for row in rows:
            writer.write(np.ascontiguousarray(np.broadcast_to(row[None, :, None], (48, 64, 3)).astype(np.uint8)))
    return path


@pytest.fixture(scope="module")
def whole(worker, material, film) -> np.ndarray:
    """(120, n) rows of the whole film."""
    return capture(worker, material, film)[0]


def ask(worker: Client, bank: Path, media: Path, **changes: Any) -> int:
    fields = {"bank": str(bank), "media": str(media), "crop": "none", "fps": None, "start": 0.0, "end": None}
    return worker.ask("capture", **(fields | changes))


def capture(worker: Client, material: Material, media: Path, **changes: Any) -> tuple[np.ndarray, Message]:
    """(T, n) rows and the answer that contains them."""
    last = worker.answers(ask(worker, material.bank, media, **changes)).last
    assert last.kind == "done", last.fields
    return np.frombuffer(last.payload, "<f4").reshape(last["frames"], len(last["names"])), last


def refused(worker: Client, material: Material, media: Path, **changes: Any) -> dict[str, str]:
    last = worker.answers(ask(worker, material.bank, media, **changes)).last
    assert last.kind == "error", last.fields
    assert worker.done("ping").fields == {}
    assert "--" not in last["message"] + last["hint"], "no options of the command line"
    return last.fields


# ------------------------------------------------------------------------------------------------ the rows


def test_a_folder_of_pictures_gives_the_rows_of_the_encoder(worker, material, renderer):
    rows, answer = capture(worker, material, material.lip11)
    expected = renderer.encode(load_picture(material.lip11 / f"{index}.png").rgb for index in range(11))
    assert np.array_equal(rows, expected.values)
    assert (tuple(answer["names"]), answer["fps"], answer["start"]) == (expected.names, 25, 0)
    part, _ = capture(worker, material, material.lip11, fps=10, start=0.2, end=0.5)
    assert np.array_equal(part, rows[2:5])


def test_a_picture_gives_one_row_at_any_time(worker, material, renderer):
    rows, _ = capture(worker, material, material.source, start=3.0, end=4.0)
    assert np.array_equal(rows, renderer.encode([load_picture(material.source).rgb]).values)


def test_at_the_rate_of_the_clip_every_frame_is_measured_once(worker, material, renderer, film):
    rows, answer = capture(worker, material, film)
    assert np.array_equal(rows, renderer.encode(read_frames(film)).values)
    assert (len(rows), answer["fps"], answer["start"]) == (120, 30, 0)
    assert len(np.unique(rows, axis=0)) == 120


@pytest.mark.parametrize("fps", [24, 24000 / 1001, 25, 60, 7.5])
def test_rows_are_of_the_frames_visible_at_their_times(worker, material, film, whole, fps):
    rows, answer = capture(worker, material, film, fps=fps)
    assert answer["fps"] == pytest.approx(fps)
    assert len(rows) == round(4 * fps)
    on_screen = [min(math.floor(index / fps * 30 + 1e-6), 119) for index in range(len(rows))]
    assert np.array_equal(rows, whole[on_screen])


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 2.5), (3.5, 3.9), (2.7, None), (3.99, None), (3.0, 9.0)])
def test_a_part_equals_that_part_of_the_whole(worker, material, film, whole, start, end):
    """Including parts that do not start at the beginning."""
    rows, answer = capture(worker, material, film, start=start, end=end)
    first, last = math.floor(start * 30 + 1e-6), 120 if end is None else min(round(end * 30), 120)
    assert np.array_equal(rows, whole[first:last])
    assert answer["start"] == pytest.approx(first / 30)


def test_a_start_between_two_frames_uses_the_visible_one(worker, material, film, whole):
    rows, answer = capture(worker, material, film, start=2.55, end=2.6)  # frame 76 is visible until 2.5667
    assert np.array_equal(rows, whole[76:78])
    assert answer["start"] == pytest.approx(76 / 30)
    selected, _ = capture(worker, material, film, fps=100, start=2.55, end=2.6)
    assert np.array_equal(selected, whole[[76, 76, 77, 77, 77]])


def test_the_crop_is_applied(worker, material, renderer, tmp_path):
    wide = np.full((100, 200, 3), 90, np.uint8)
    faces = pictures("wide", 3)
    (tmp_path / "wide").mkdir()
    for index, face in enumerate(faces):
        wide[20:84, 110:174] = face
        Image.fromarray(wide).save(tmp_path / "wide" / f"{index}.png")
    rows, _ = capture(worker, material, tmp_path / "wide", crop=[110, 20, 64])
    np.testing.assert_allclose(rows, renderer.encode(faces).values, atol=1e-5)


def test_the_command_line_gives_the_same_rows(worker, material, film, tmp_path):
    words = ["--video", film, "--crop", "none", "--bank", material.bank, "--threads", 1, "--device", "cpu"]
    assert run("capture", *words, "--fps", 24, "--out", tmp_path / "rows.npz") == 0
    rows, _ = capture(worker, material, film, fps=24)
    assert np.array_equal(Coefficients.load(tmp_path / "rows.npz").values, rows)


# ------------------------------------------------------------------------------------------------ odd clips


def test_a_variable_frame_rate_keeps_its_times(worker, material, renderer, tmp_path):
    path = make_clip(tmp_path / "phone.mp4", PHONE)
    shown = renderer.encode(read_frames(path)).values
    rows, _ = capture(worker, material, path, fps=100)
    on_screen = [sum(begins <= index / 100 + 0.002 for begins in PHONE) - 1 for index in range(50)]
    assert np.array_equal(rows[:50], shown[on_screen])


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_rotated_clip_is_measured_upright(worker, material, renderer, tmp_path, rotation):
    upright = picture("turned", 48, 64)
    path = make_clip(tmp_path / "turned.mp4", [0, 0.1], rotation=rotation, frames=[upright, upright])
    rows, _ = capture(worker, material, path)
    expected = renderer.encode([np.ascontiguousarray(np.rot90(upright, rotation // 90))]).values
    others = renderer.encode([np.ascontiguousarray(np.rot90(upright, turn)) for turn in range(4)]).values
    distance = np.abs(rows[0] - others).sum(axis=1)
    assert distance.argmin() == np.abs(expected - others).sum(axis=1).argmin()


@pytest.mark.parametrize("pix_fmt", ["gray", "yuv420p10le"])
def test_grey_and_ten_bit_clips(worker, material, renderer, tmp_path, pix_fmt):
    path = make_clip(tmp_path / "clip.mp4", np.arange(4) / 30, pix_fmt=pix_fmt)
    rows, _ = capture(worker, material, path)
    assert np.array_equal(rows, renderer.encode(read_frames(path)).values)


def test_a_clip_of_one_frame(worker, material, tmp_path):
    rows, answer = capture(worker, material, make_clip(tmp_path / "one.mp4", [0.0]))
    assert len(rows) == 1
    assert 1 <= answer["fps"] <= 240
    assert len(capture(worker, material, tmp_path / "one.mp4", end=0.01)[0]) == 1


def test_a_clip_of_unknown_length(worker, material, film, tmp_path):
    """As a stream without a header. A negative estimate of the remaining time made Blender refuse the message."""
    path = tmp_path / "film.h264"
    with av.open(str(film)) as source, av.open(str(path), "w") as target:
        (stream,) = source.streams.video
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    assert probe(path).duration is None
    answers = worker.answers(ask(worker, material.bank, path))
    assert answers.last.kind == "done", answers.last.fields
    assert answers.last["frames"] > 50
    reports = [progress for progress in answers.of("progress") if progress["phase"] == "reading"]
    assert reports
    assert all(progress["eta"] is None for progress in reports)


def test_a_truncated_clip_gives_its_readable_frames(worker, material, film, tmp_path):
    path = tmp_path / "film.mkv"
    with VideoWriter(path, 30, (64, 48)) as writer:
        for rgb in read_frames(film):
            writer.write(rgb)
    whole, _ = capture(worker, material, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    rows, _ = capture(worker, material, path)
    assert 10 < len(rows) < 120
    assert np.array_equal(rows[:-2], whole[: len(rows) - 2])


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("nowhere.mp4", "media", "nowhere.mp4 does not exist"),
        ("noise.mp4", "media", "noise.mp4 cannot be read"),
        ("noise.png", "media", "noise.png cannot be used"),
        ("empty.mp4", "media", "empty.mp4"),
        ("empty", "media", "contains no images"),
        ("voice.wav", "media", "found only sound"),
    ],
)
def test_media_that_cannot_be_used(worker, material, tmp_path, name, kind, expected):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.mp4").touch()
    for noise in ("noise.mp4", "noise.png"):
        (tmp_path / noise).write_bytes(np.random.default_rng(1).bytes(5000))
    error = refused(worker, material, material.voice if name == "voice.wav" else tmp_path / name)
    assert (error["kind"], expected in error["message"]) == (kind, True), error


def test_a_start_after_the_end_is_refused(worker, material, film):
    error = refused(worker, material, film, start=60.0)
    assert (error["kind"], "film.mp4 ends at 4.00 s" in error["message"]) == ("media", True), error
    error = refused(worker, material, material.lip11, start=60.0)
    assert "has 11 pictures" in error["message"]


def test_malformed_requests(worker, material, film):
    for change in ({"start": -1.0}, {"start": 2.0, "end": 1.0}):
        assert refused(worker, material, film, **change)["kind"] == "protocol"
    assert "frame rate" in refused(worker, material, film, fps=0)["message"]
    assert refused(worker, material, film, crop="face")["kind"] == "protocol"


def test_no_face_and_a_crop_outside_the_picture(worker, material, film):
    error = refused(worker, material, film, crop="auto")
    assert (error["kind"], "No face was found in film.mp4" in error["message"]) == ("face", True), error
    error = refused(worker, material, film, crop=[500, 0, 30])
    assert "The crop lies outside film.mp4" in error["message"]


# ------------------------------------------------------------------------------------------------ on the way


def test_capture_is_cancelled_between_two_frames(worker, material, film):
    job = ask(worker, material.bank, film, fps=240, end=1000.0)
    seen = worker.until(job, lambda message: message.kind == "progress" and message["phase"] == "reading")
    assert seen[-1]["total"] == 960
    worker.cancel(job)
    assert worker.answers(job).last.fields == {"cancelled": True}


def test_short_requests_are_done_between_two_frames_and_captures_afterwards(worker, material, film):
    first = ask(worker, material.bank, film, fps=240)
    second = ask(worker, material.bank, film, fps=60)
    worker.until(first, lambda message: message.kind == "progress" and message["phase"] == "reading")
    face = {"bank": str(material.bank), "picture": str(material.source), "crop": "none"}
    shown = worker.ask("preview", np.zeros(36, "<f4").tobytes(), **face)
    arrived: list[int] = []
    while {first, second, shown} - set(arrived):
        message = worker._kept.pop(0) if worker._kept else worker.next()
        if message.kind in ("done", "error"):
            assert message.kind == "done", message.fields
            arrived.append(message.job)
    assert arrived == [shown, first, second]


def test_requests_in_between_do_not_change_rows(worker, material, film, whole):
    job = ask(worker, material.bank, film)
    row = motion(1).astype("<f4").tobytes()
    for crop in ("none", [0, 0, 50]):
        worker.done("preview", row, bank=str(material.bank), picture=str(material.source), crop=crop)
    assert np.array_equal(np.frombuffer(worker.answers(job).last.payload, "<f4").reshape(120, -1), whole)


# ------------------------------------------------------------------------------------------------ real clips


def test_a_real_clip_that_is_already_cropped(worker, media):
    """Its rows follow the motion: neighbouring rows are more similar than distant ones."""
    ends = {"bank": "", "media": str(media / "pose_source1.mp4"), "fps": 10, "start": 3.0, "end": 4.0}
    found, whole = (worker.done("capture", crop=crop, **ends) for crop in ("auto", "none"))
    assert found.payload == whole.payload
    rows = np.frombuffer(found.payload, "<f4").reshape(10, -1)
    assert np.isfinite(rows).all()
    assert np.abs(np.diff(rows, axis=0)).sum() < np.abs(rows[5:] - rows[:5]).sum() * 9 / 5
    assert Fraction(found["fps"]) == 10
