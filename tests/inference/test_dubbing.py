"""Dubbing: new lips for every frame of some footage, in any order, division and media format."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from inference.contract.errors import EDTalkError
from inference.contract.plate import Plate, Track, media_sha256
from inference.contract.shot import Coefficients, Shot
from inference.drawing import ShotRenderer
from inference.dubbing import crop_of, dub, frames_in_any_order
from inference.face.crop_tracker import CropTracker
from inference.face.framing import cut
from inference.face.paste import Layering
from inference.face.size import FaceSize
from inference.media.frames import encode
from inference.media.picture import Picture, load_picture
from inference.media.video import read_frames, stamped_frames
from inference.media.video_writer import VideoWriter
from tests.cli_material import Material, render, run
from tests.footage import HEIGHT, frame, write_clip
from tests.inference.test_video import make_clip, number
from tests.inference.test_worker import Client
from tests.synthetic_inputs import picture

LIPS = 20  # the first columns of the material's bank
NOWHERE = [np.nan] * 4
UNEVEN = np.array([0, 0.03, 0.1, 0.13, 0.2, 0.5, 0.53, 0.6, 0.63, 0.66, 0.7, 0.74])


class Recorder:
    """A `Caller` that records its calls and cancels after a number of images."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.files: dict[int, str] = {}
        self.drawn, self._stop_after = 0, stop_after

    @property
    def cancelled(self) -> bool:
        return self.drawn >= self._stop_after

    def frame_file(self, index: int, file: str, reused: bool) -> None:
        self.files[index] = file
        self.drawn += not reused

    def progress(self, phase: str, done: int, total: int) -> None:
        assert 0 <= done <= total

    def run_previews(self) -> None:
        pass


@pytest.fixture(scope="module")
def shots() -> Iterator[ShotRenderer]:
    before = torch.get_num_threads()
    yield ShotRenderer("cpu", 1)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def loaded(shots, material: Material):
    return shots.bank(material.bank)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Twelve different frames at uneven times."""
    rushes = [picture(f"rushes_{index}", 48, 64) for index in range(len(UNEVEN))]
    return make_clip(tmp_path_factory.mktemp("film") / "film.mp4", UNEVEN, frames=rushes, gop=5)


@pytest.fixture(scope="module")
def track(film) -> Track:
    """A moving square, and no face in two frames."""
    steps = np.arange(len(UNEVEN))
    crops = np.stack([15 + steps * 0.7, 5 + steps % 3, np.full(len(steps), 30.0), steps * 0.5], axis=1)
    crops[[4, 5]] = np.nan
    return Track(np.array([time for time, _ in stamped_frames(film)]), crops)


@pytest.fixture
def shot(material, loaded, film, track, tmp_path) -> Callable[..., Shot]:
    """Makes shots of the film; row i shows its frame i unless `times` say otherwise."""

    def make(rows: np.ndarray | None = None, times: Any = None, media: Path = film, **changes: Any) -> Shot:
        times = track.times if times is None else times
        if rows is None:
            rows = np.random.default_rng(7).standard_normal((len(times), 36))
        plate = Plate.of(media, media_sha256(media), track, times)
        given = {"bank": material.bank, "bank_sha256": loaded.bank.sha256, "portrait": None, "crop": "auto",
                 "coefficients": Coefficients(rows, loaded.bank.names, 25), "frames_folder": tmp_path / "frames",
                 "layer": "pasted", "plate": plate}  # fmt: skip
        return Shot(**(given | changes))

    return make


def drawn(shots: ShotRenderer, shot: Shot, rows: list[int] | None = None) -> list[bytes]:
    """The content of each row's file, after rendering the missing ones."""
    caller = Recorder()
    shots.render(caller, shot, rows)
    requested = list(range(len(shot.coefficients)) if rows is None else rows)
    assert sorted(caller.files) == requested
    return [(shot.frames_folder / caller.files[row]).read_bytes() for row in requested]


def pictures(shot: Shot) -> list[np.ndarray]:
    found = [load_picture(shot.frames_folder / name) for name in shot.file_names()]
    return [one.rgb if one.alpha is None else np.dstack([one.rgb, one.alpha]) for one in found]


def refusal(function, *arguments, **named) -> EDTalkError:
    with pytest.raises(EDTalkError) as caught:
        function(*arguments, **named)
    return caught.value


# ------------------------------------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize("mask", ["face", "mouth"])
def test_pixels_outside_the_mask_are_unchanged(shots, shot, film, track, mask):
    pasted, plate = (shot(layer=layer, mask=mask) for layer in ("pasted", "plate"))
    for each in (pasted, plate):
        drawn(shots, each)
    for row, (_, rgb) in enumerate(stamped_frames(film)):
        result, layer = pictures(pasted)[row], pictures(plate)[row]
        assert layer.shape == (48, 64, 4)
        outside = layer[..., 3] == 0
        if row in (4, 5):
            assert np.array_equal(result, rgb), "no face, nothing changes"
            assert not layer.any()
            continue
        assert outside.any() and not outside.all()  # noqa: PT018
        changed = np.abs(result.astype(int) - rgb).max(axis=2)
        assert changed[outside].max() <= 1, "an alpha below half a level"
        left, top, side = track.crops[row, :3].astype(int)
        reach = np.zeros((48, 64), bool)
        reach[max(top - 1, 0) : top + side + 2, max(left - 1, 0) : left + side + 2] = True
        assert not changed[~reach].any(), "outside the square nothing at all"
        alpha = layer[..., 3:] / 255
        np.testing.assert_allclose(layer[..., :3] * alpha + rgb * (1 - alpha), result, atol=1.5)


def test_lips_are_replaced_and_other_coefficients_added(shots, loaded, shot, film, track):
    """Lips are absolute; other coefficients are added to the frame's own."""
    rows = np.zeros((12, 36), np.float32)
    rows[:, :LIPS] = 0.3
    rows[6:, LIPS:] = 0.7
    made = shot(rows, layer="square", size=64)
    drawn(shots, made)
    renderer = loaded.renderer
    for row, (_, rgb) in enumerate(stamped_frames(film)):
        crop = crop_of(track.crops[row], 64)
        if crop is None:
            assert not pictures(made)[row].any()
            continue
        own = renderer.encode([cut(rgb, crop)]).values[0]
        wanted = np.concatenate([rows[row, :LIPS], own[LIPS:] + rows[row, LIPS:]])
        ((_, _, face),) = dub(renderer, [(rgb, crop)], wanted[None], size=FaceSize(64))
        assert np.abs(pictures(made)[row].astype(int) - face).max() <= 1
    assert loaded.added(None).tolist() == [False] * LIPS + [True] * 16


@pytest.mark.parametrize("layer", ["plate", "pasted", "matte", "square"])
def test_frames_do_not_depend_on_the_division(shots, shot, tmp_path, layer):
    whole = drawn(shots, shot(layer=layer, frames_folder=tmp_path / "whole"))
    random = np.random.default_rng(1)
    for turn in range(2):
        chosen = random.integers(0, 3, 12)
        made = shot(layer=layer, frames_folder=tmp_path / f"parts{turn}")
        parts: dict[int, bytes] = {}
        for chunk in range(3):
            rows = np.flatnonzero(chosen == chunk).tolist()
            parts |= dict(zip(rows, drawn(shots, made, rows), strict=True))
        assert [parts[row] for row in range(12)] == whole


def test_plate_times_may_repeat_jump_and_descend(shots, shot, track):
    rows = np.tile(np.random.default_rng(2).standard_normal(36), (12, 1))
    straight = dict(zip(track.times.tolist(), drawn(shots, shot(rows)), strict=True))
    order = np.array([11, 11, 10, 3, 2, 1, 0, 0, 7, 7, 9, 4])
    made = shot(rows, times=track.times[order] + 0.004, frames_folder=shot().frames_folder.parent / "other")
    assert made.plate.times.tolist() == track.times[order].tolist()
    assert drawn(shots, made) == [straight[time] for time in made.plate.times.tolist()]
    assert len(list(made.frames_folder.iterdir())) == len(set(order.tolist())), "holds are drawn once"


def test_a_cancelled_render_continues(shots, shot):
    made = shot()
    stopped = Recorder(stop_after=4)
    first = shots.render(stopped, made)
    assert first["cancelled"]
    before = {path: path.stat().st_mtime_ns for path in made.frames_folder.iterdir()}
    assert 4 <= len(before) == first["rendered"] < 12, "files that were being written are finished and reported"
    answer = shots.render(Recorder(), made)
    assert (answer["rendered"], answer["reused"]) == (12 - len(before), len(before))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_size_above_the_banks(shots, shot):
    made = shot(layer="matte", size=128)
    drawn(shots, made)
    assert {one.shape for one in pictures(made)} == {(128, 128, 4)}


@pytest.mark.parametrize("layer", ["matte", "plate", "pasted"])
@pytest.mark.parametrize("image_format", ["png", "exr"])
def test_layers_of_a_portrait(shots, loaded, material, tmp_path, layer, image_format):
    Image.fromarray(picture("poster", 90, 120)).save(tmp_path / "poster.png")
    rows = Coefficients(np.random.default_rng(3).standard_normal((2, 36)), loaded.bank.names, 25)
    made = Shot(material.bank, loaded.bank.sha256, tmp_path / "poster.png", (20, 10, 60), rows, tmp_path / "frames",
                layer=layer, image_format=image_format)  # fmt: skip
    drawn(shots, made)
    if image_format == "exr":
        assert all((made.frames_folder / name).read_bytes()[:4] == b"\x76\x2f\x31\x01" for name in made.file_names())
        return
    poster = load_picture(tmp_path / "poster.png").rgb
    for one in pictures(made):
        assert one.shape[2] == (3 if layer == "pasted" else 4)
        if layer == "pasted":
            assert np.array_equal(one[:, :19], poster[:, :19])
            assert np.array_equal(one[72:], poster[72:])
        if layer == "plate":
            assert one.shape[:2] == (90, 120)
            assert not one[:, :19, 3].any()


@pytest.mark.parametrize("layer", ["square", "matte", "plate", "pasted"])
def test_colours_of_transparent_pixels_are_never_shown(shots, loaded, material, tmp_path, layer):
    """Two cut-outs that differ only in what lies under their transparent pixels give the same result."""
    poster, cut = picture("poster", 90, 120), np.full((90, 120), 255, np.uint8)
    cut[:, :40] = 0
    made = []
    for name, hidden in (("green", (0, 255, 0)), ("red", (255, 0, 0))):
        rgba = np.dstack([np.where(cut[..., None] == 0, np.array(hidden, np.uint8), poster), cut])
        Image.fromarray(rgba).save(tmp_path / f"{name}.png")
        rows = Coefficients(np.random.default_rng(3).standard_normal((1, 36)), loaded.bank.names, 25)
        made.append(Shot(material.bank, loaded.bank.sha256, tmp_path / f"{name}.png", (20, 10, 60), rows,
                         tmp_path / name, layer=layer))  # fmt: skip
        drawn(shots, made[-1])
    (green,), (red,) = map(pictures, made)
    assert green.shape[2] == (3 if layer == "square" else 4)
    visible = np.ones(green.shape[:2], bool) if layer == "square" else green[..., 3] > 0
    assert np.array_equal(green[visible], red[visible])


# ------------------------------------------------------------------------------------------------ media


def test_a_folder_of_images_as_plate(shots, shot, film, track, tmp_path):
    folder = tmp_path / "rushes"
    folder.mkdir()
    for index, (_, rgb) in enumerate(stamped_frames(film)):
        Image.fromarray(rgb).save(folder / f"{index}.png")
    counted = Track(np.arange(12.0), track.crops)
    rows = np.random.default_rng(7).standard_normal((12, 36))
    made = shot(rows)
    of_folder = replace(made, plate=Plate.of(folder, media_sha256(folder), counted, np.arange(12)),
                        frames_folder=tmp_path / "other")  # fmt: skip
    assert drawn(shots, of_folder) == drawn(shots, made)


@pytest.mark.parametrize(
    "options", [{"rotation": 90}, {"pix_fmt": "yuv420p10le"}, {"pix_fmt": "gray"}], ids=["rotated", "10 bit", "grey"]
)
def test_rotated_high_depth_and_grey_media(shots, shot, tmp_path, options):
    """A rotated clip, one with more bits and one without colour: the plate equals `read_frames`."""
    path = write_clip(tmp_path / "odd.mp4", [picture(f"odd_{index}", 48, 64) for index in range(4)],
                      UNEVEN[:4], **options)  # fmt: skip
    shown = list(read_frames(path))
    assert {rgb.shape for rgb in shown} == {(48, 64, 3)}
    crops = np.array([[15, 5, 30, 0]] * 3 + [NOWHERE])
    made = shot()
    made = replace(made, coefficients=made.coefficients[:4],
                   plate=Plate.of(path, media_sha256(path), Track(UNEVEN[:4], crops), UNEVEN[:4]))  # fmt: skip
    drawn(shots, made)
    for result, rgb in zip(pictures(made), shown, strict=True):
        assert np.array_equal(result[:, :14], rgb[:, :14])
    assert np.array_equal(pictures(made)[3], shown[3])


def test_4k_footage(shots, shot, tmp_path):
    media = tmp_path / "large.png"
    Image.fromarray(np.tile(picture("large", 270, 480), (8, 8, 1))).save(media, compress_level=1)
    plate = Plate.of(media, media_sha256(media), Track(np.zeros(1), np.array([[900, 500, 700, 3.0]])), [0])
    made = shot()
    made = replace(made, coefficients=made.coefficients[:1], plate=plate, layer="plate")
    drawn(shots, made)
    (result,) = pictures(made)
    assert result.shape == (2160, 3840, 4)
    assert result[850, 1250, 3] == 255
    assert not result[:450, :, 3].any()


def test_changed_or_missing_footage(shots, shot, film, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(film.read_bytes())
    made = shot(media=copy)
    copy.write_bytes(film.read_bytes() + b"edited")
    error = refusal(shots.render, Recorder(), made)
    assert (error.kind, "copy.mp4 has changed since" in error.message, bool(error.hint)) == ("media", True, True)
    copy.unlink()
    error = refusal(shots.render, Recorder(), made)
    assert (error.kind, "copy.mp4" in error.message, bool(error.hint)) == ("media", True, True)


def test_truncated_footage(shots, shot, tmp_path, caplog):
    whole = make_clip(tmp_path / "whole.mkv", np.arange(30) / 30, gop=4)
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    media = tmp_path / "cut.mkv"
    times = np.array([time for time, _ in stamped_frames(media)])
    assert 0 < len(times) < 30
    made = shot()
    plate = Plate.of(media, media_sha256(media), Track(times, np.tile([15.0, 5, 30, 0], (len(times), 1))),
                     np.arange(12) / 4)  # fmt: skip
    drawn(shots, replace(made, plate=plate))
    assert number(pictures(replace(made, plate=plate))[-1][:4]) == len(times) - 1, "held from there on"


# ------------------------------------------------------------------------------------------------ sound


@pytest.mark.slow
def test_variable_frame_rate_footage_stays_in_sync(shots, shot, tmp_path):
    """The frames contain their number, and each flash in them has a click in the sound."""
    random = np.random.default_rng(4)
    times = np.cumsum(random.choice([0.025, 0.033, 0.04, 0.05], 290))
    times -= times[0]
    claps = [30, 120, 200]  # frames of the footage
    stored = [np.full((48, 64, 3), 240 if i in claps or i - 1 in claps else 20 + i % 50, np.uint8) for i in range(290)]
    media = make_clip(tmp_path / "rushes.mp4", times, frames=stored)
    sound, rate = np.zeros(12 * 16000, np.float32), 16000
    for clap in claps:
        sound[round(times[clap] * rate) :][:160] = 0.9

    found = Track(np.array([time for time, _ in stamped_frames(media)]), np.tile([15.0, 5, 30, 0], (290, 1)))
    scene = np.arange(250) / 25
    made = shot()
    table = Coefficients(np.zeros((250, 36), np.float32), made.coefficients.names, 25)
    made = replace(made, coefficients=table, plate=Plate.of(media, media_sha256(media), found, scene))
    drawn(shots, made)
    levels = np.array([one[:4].mean() for one in pictures(made)])
    expected = [stored[index].mean() for index in np.searchsorted(found.times, scene + 2e-3, side="right") - 1]
    np.testing.assert_allclose(levels, expected, atol=3)

    assert encode(made, tmp_path / "dub.mp4", (sound, rate)) == 250
    bright = np.array([rgb[:4].mean() > 150 for rgb in read_frames(tmp_path / "dub.mp4")])
    flashes = np.flatnonzero(bright & ~np.concatenate([[False], bright[:-1]])) / 25
    with av.open(str(tmp_path / "dub.mp4")) as file:
        heard = np.concatenate([block.to_ndarray().mean(0) for block in file.decode(audio=0)])
        delay = float((file.streams.audio[0].start_time or 0) * file.streams.audio[0].time_base)
    loud = np.abs(heard) > 0.4
    clicks = np.flatnonzero(loud) / 48000 + delay
    for flash, clap in zip(flashes, claps, strict=True):
        assert abs(flash - times[clap]) <= 1 / 25
        assert np.abs(clicks - flash).min() <= 1 / 25


# ------------------------------------------------------------------------------------------------ memory


def test_tracking_memory_does_not_grow_with_the_length():
    """A tracker keeps a few numbers per frame and no images."""
    still = picture("rushes", 120, 160)
    tracker = CropTracker(every=1000, detect=lambda rgb: [])

    def grown(count: int) -> int:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(count):
            tracker.add(still.copy())
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        grown(50)
        assert grown(500) < 500 * 500, "bytes a frame; a picture has 57,600"
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------ through the worker


@pytest.fixture(scope="module")
def rushes(tmp_path_factory) -> Path:
    """A real face that disappears for a while."""
    places = [(260.0, 180.0)] * 12 + [None] * 16 + [(260.0, 180.0)] * 12
    shown = [frame(place, width=480) for place in places]
    return write_clip(tmp_path_factory.mktemp("rushes") / "walk.mp4", shown, np.arange(len(places)) / 25)


def ask(worker: Client, media: Path, **changes: Any) -> int:
    fields = {"media": str(media), "crop": "auto", "start": 0.0, "end": None}
    return worker.ask("track", **(fields | changes))


def test_tracking_reports_frames_with_and_without_face(worker, rushes):
    answers = worker.answers(ask(worker, rushes))
    done, track = answers.last, Track.from_bytes(answers.last.payload)
    assert (done["frames"], done["width"], done["height"]) == (40, 480, HEIGHT)
    assert len(track) == 40
    assert done["fps"] == pytest.approx(25, rel=0.03)
    assert done["sha256"] == media_sha256(rushes)
    assert track.unseen == [tuple(stretch) for stretch in done["unseen"]]
    ((first, last),) = track.unseen
    assert (first, 26 < last < 33) == (12, True)
    assert done["note"].startswith("No face was seen in walk.mp4 at seconds 0.48 to ")
    steps = [message for message in answers.of("progress") if message["phase"] == "tracking"]
    assert steps[0]["done"] == 0
    assert all(step["total"] == 40 for step in steps)


def test_tracking_can_be_cancelled_and_runs_previews(worker, rushes, material):
    job = ask(worker, rushes)
    worker.until(job, lambda message: message.kind == "progress")
    assert worker.done("portrait", bank=str(material.bank), picture=str(material.source), crop="none")["size"] == 64
    worker.cancel(job)
    assert worker.answers(job).last.fields == {"cancelled": True}


def test_invalid_tracking_requests(worker, rushes, material, tmp_path):
    def refused(media: Path = rushes, **changes: Any) -> dict[str, str]:
        last = worker.answers(ask(worker, media, **changes)).last
        assert last.kind == "error", last.fields
        assert "--" not in last["message"] + last["hint"], "there are no such options in Blender"
        assert last["hint"]
        return last.fields

    for which in (0, "smallest", [1], [1, 2, 3], True, 1.5):
        assert refused(which=which)["kind"] == "protocol", which
    assert refused(start=2.0, end=1.0)["kind"] == "protocol"
    assert "the requested start is" in refused(start=99.0)["message"]
    assert "No face was found in any frame of film.mp4" in refused(
        make_clip(tmp_path / "film.mp4", [0, 0.1, 0.2]))["message"]  # fmt: skip
    two = Image.new("RGB", (1300, 400))
    face = Image.open(Path(__file__).parents[2] / "inference" / "demo" / "portrait_1.png").resize((380, 380))
    for x in (50, 800):
        two.paste(face, (x, 10))
    two.save(tmp_path / "two.png")
    several = refused(tmp_path / "two.png")
    assert (several["kind"], "2 faces were found" in several["message"]) == ("face", True)
    assert several["code"] == "several_faces"
    assert refused(tmp_path / "two.png", which=3)["code"] == "no_such_face"
    middles = {}
    for which in (1, -1, "largest", [1000.0, 200.0]):
        track = Track.from_bytes(worker.answers(ask(worker, tmp_path / "two.png", which=which)).last.payload)
        middles[str(which)] = track.crops[0, 0] + track.crops[0, 2] / 2
    assert middles["1"] < 400 < 800 < middles["-1"] == middles["[1000.0, 200.0]"]


def test_capture_interpolates_where_no_face_is_visible(worker, rushes, material):
    fields = {"bank": str(material.bank), "media": str(rushes), "crop": "auto", "fps": 25.0, "start": 0.0, "end": None}
    done = worker.answers(worker.ask("capture", **fields)).last
    assert done.kind == "done", done.fields
    ((first, last),) = done["unseen"]
    assert 11 <= first <= 13
    assert 26 < last < 33
    assert "the motion there is interpolated" in done["note"]
    rows = np.frombuffer(done.payload, "<f4").reshape(done["frames"], -1)
    between = np.linspace(rows[first - 1], rows[last + 1], last - first + 3)[1:-1]
    np.testing.assert_allclose(rows[first : last + 1], between, atol=1e-4)
    held = worker.answers(worker.ask("capture", **(fields | {"crop": "none", "end": 0.2}))).last
    assert (held["unseen"], held["note"]) == ([], "")


def test_the_worker_renders_a_tracked_plate(worker, rushes, material, loaded, tmp_path):
    answer = worker.answers(ask(worker, rushes)).last
    plate = Plate.of(rushes, answer["sha256"], Track.from_bytes(answer.payload), np.arange(10, 14) / 25)
    assert plate.seen.tolist() == [True, True, False, False]
    rows = Coefficients(np.zeros((4, 36), np.float32), loaded.bank.names, 25)
    Shot(material.bank, loaded.bank.sha256, None, "auto", rows, tmp_path / "frames", layer="pasted",
         plate=plate).write(tmp_path / "shot")  # fmt: skip
    answers = worker.answers(worker.ask("render", shot=str(tmp_path / "shot")))
    assert answers.last.kind == "done", answers.last.fields
    shown = list(read_frames(rushes))
    for message in answers.of("frame_file"):
        result, rgb = load_picture(tmp_path / "frames" / message["file"]).rgb, shown[10 + message["index"]]
        assert np.array_equal(result, rgb) == (message["index"] >= 2)
        assert np.array_equal(result[:, :40], rgb[:, :40]), "far from the face"


def test_frames_in_any_order_with_limited_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("inference.dubbing.HELD_BYTES", 3 * 8 * 8 * 3)  # three frames
    for index in range(7):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(tmp_path / f"{index}.png")
    for order in ([0, 1, 2, 6, 6, 5, 4, 3, 2, 1, 0, 0, 1, 2], [3, 3, 3], [6, 5, 4, 3, 2], [2, 6, 0, 1, 5, 5], [4], []):
        frames = frames_in_any_order(tmp_path, np.array(order, np.float64))
        assert [int(frame[0, 0, 0]) for frame in frames] == order


# ------------------------------------------------------------------------------------------------ the command line


def test_layers_of_the_command_line(material, loaded, tmp_path):
    """The pasted layer equals the plate layer composited on the footage."""
    words = ["--source", material.clip, "--crop", "10,10,40", "--audio", material.voice, "--format", "png", "--out"]
    layers = {}
    for name, layer in {"pasted": ["--layer", "pasted"], "back": ["--paste-back"], "plate": ["--layer", "plate"],
                        "mouth": ["--layer", "plate", "--mask", "mouth", "--feather", "0.5"],
                        "matte": ["--layer", "matte"]}.items():  # fmt: skip
        assert run(*render(material, *words, tmp_path / name, *layer)) == 0
        layers[name] = [load_picture(path) for path in sorted((tmp_path / name).glob("*.png"))]
    shown = list(read_frames(material.clip, 25))
    assert len(layers["pasted"]) == 12, "longer than the clip, which goes back"
    for index, (pasted, back, plate, mouth, matte) in enumerate(zip(*layers.values(), strict=True)):
        rgb = shown[index if index < 10 else 19 - index]
        assert np.array_equal(pasted.rgb, back.rgb)
        alpha = plate.alpha[..., None] / 255
        np.testing.assert_allclose(plate.rgb * alpha + rgb * (1 - alpha), pasted.rgb, atol=1.5)
        assert 0 < np.count_nonzero(mouth.alpha) < np.count_nonzero(plate.alpha)
        assert matte.rgb.shape == (64, 64, 3)
        assert matte.alpha.min() == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--layer", "plate"], "--layer plate is transparent, and video files have no transparency"),
        (["--layer", "matte"], "--layer matte is transparent"),
        (["--mask", "mouth"], "--mask and --feather require --layer"),
        (["--feather", "0.5"], "--mask and --feather require --layer"),
        (["--paste-back", "--feather", "1.5"], "above 0 and at most 1"),
        (["--paste-back", "--layer", "plate"], "not allowed with"),
        (["--crop", "auto", "--face", "nose"], "expected a number from 1, largest"),
        (["--crop", "auto", "--face", "1,2,3"], "expected a number from 1, largest"),
    ],
)
def test_invalid_combinations_of_options(material, tmp_path, capfd, words, expected):
    out = tmp_path / "out.mp4"
    assert run(*render(material, "--audio", material.voice, "--out", out, *words)) == 2
    assert expected in capfd.readouterr().err
    assert not out.exists()


def test_info_shows_the_plate(shot, film, tmp_path, capfd):
    made = shot(first_frame=101).write(tmp_path / "shot")
    assert run("shot", "info", tmp_path / "shot") == 0
    info = json.loads(capfd.readouterr().out)
    assert (info["layer"], info["portrait"], info["crop"]) == ("pasted", None, None)
    assert (info["plate"], info["plate_problem"]) == (str(made.plate.media), None)
    assert info["frames_without_face"] == "105-106"
    made.plate.media.unlink()
    assert run("shot", "info", tmp_path / "shot") == 0
    assert "does not exist" in json.loads(capfd.readouterr().out)["plate_problem"]


# ------------------------------------------------------------------------------------------------ real footage


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["face", "mouth"])
def test_no_visible_seam_in_real_footage(media, starter_bank, mask):
    """With the starter bank, the gradient at the mask's border equals that of the footage within 10 %."""
    from inference.face.footage import track_media
    from inference.renderer import FaceRenderer

    clip = media / "mouth_source.mp4"
    found = track_media(clip, end=0.7).track
    renderer = FaceRenderer(starter_bank, "cpu")
    added = np.array([coefficient.bank != "lip" for coefficient in starter_bank.coefficients])
    row = np.zeros((1, len(added)), np.float32)
    row[0, starter_bank.names.index("jawOpen")] = 0.6
    own, after = [], []
    for (_, rgb), square in list(zip(stamped_frames(clip, end=0.7), found.crops, strict=True))[::4]:
        crop = crop_of(square, renderer.config.size)
        ((_, _, face),) = dub(renderer, [(rgb, crop)], row, added)
        pasted, plate = (Layering(layer, mask).compose(face, Picture(rgb), crop) for layer in ("pasted", "plate"))
        border = np.diff((plate[..., 3] > 0).astype(int), axis=0) != 0
        for values, one in ((own, rgb), (after, pasted)):
            values.append(np.abs(np.diff(one.astype(int), axis=0)).mean(2)[border].mean())
    assert np.mean(after) == pytest.approx(np.mean(own), rel=0.1)


def test_seeking_decodes_few_frames(tmp_path):
    """Reading a late frame does not decode the frames before it."""
    from inference.media import video

    path = tmp_path / "long.mp4"
    with VideoWriter(path, 25, (64, 48)) as writer:
        writer._video.codec_context.gop_size = 25
        for index in range(600):
            writer.write(np.full((48, 64, 3), 20 + index % 200, np.uint8))
    decoded = []
    original = video._decode

    def counted(*arguments: Any) -> Iterator[av.VideoFrame]:
        for found in original(*arguments):
            decoded.append(found.pts)
            yield found

    video._decode = counted
    try:
        near, far = video.frames_at(path, [0.0, 23.0])
    finally:
        video._decode = original
    assert near.mean() == pytest.approx(20, abs=2)
    assert far.mean() == pytest.approx(20 + 575 % 200, abs=2)
    assert len(decoded) < 60
