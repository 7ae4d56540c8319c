"""The worker as a process with pipes, with small random banks."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inference import __version__, cli
from inference.contract import protocol
from inference.contract.bank import load_bank
from inference.contract.coefficients import Coefficients
from inference.contract.config import GeneratorConfig
from inference.contract.protocol import Message
from inference.contract.requests import Portrait, Preview
from inference.contract.shot import Shot
from inference.lipsync import frame_times, lip_sync
from inference.renderer import FaceRenderer
from inference.worker.queue import Inbox
from tests.cli_material import BANKS, ROOT, SMALL, Material, write_bank
from tests.synthetic_inputs import picture, waveform

PATIENCE = 300  # seconds; only a failing test waits so long
COMMAND = [sys.executable, "-X", "utf8", "-m", "inference", "worker", "--device", "cpu", "--threads", "1"]
PORTRAIT = ROOT / "inference" / "demo" / "portrait_1.png"
# A worker with parts replaced: {patches} runs after the import of torch, before the first request.
PATCHED = """
import os, sys, time
import numpy, torch
from inference import drawing
from inference.worker import jobs, worker
{patches}
worker.run("cpu", 1)
"""


class Answers:
    """All messages about one job, in order."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages

    @property
    def last(self) -> Message:
        return self.messages[-1]

    def of(self, kind: str) -> list[Message]:
        return [message for message in self.messages if message.kind == kind]


class Client:
    """One worker and its pipes."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        self.ids = itertools.count(1)
        self.beats: list[Message] = []
        self._arrived: queue.Queue[Message | Exception | None] = queue.Queue()
        self._kept: list[Message] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while (message := protocol.read(self.process.stdout)) is not None:
                self._arrived.put(message)
            self._arrived.put(None)
        except Exception as error:
            self._arrived.put(error)

    def next(self) -> Message | None:
        """The next message that is no beat; None when the worker has closed its end."""
        while True:
            message = self._arrived.get(timeout=PATIENCE)
            if isinstance(message, Exception):
                raise message
            if message is None or message.kind != "beat":
                return message
            self.beats.append(message)

    def ask(self, kind: str, payload: bytes = b"", /, **fields: Any) -> int:
        job = next(self.ids)
        protocol.write(self.process.stdin, Message(kind, job, fields, payload))
        return job

    def cancel(self, job: int) -> None:
        protocol.write(self.process.stdin, Message("cancel", job))

    def until(self, job: int, reached: Callable[[Message], bool]) -> list[Message]:
        """Messages about a job up to the one that is meant; those about other jobs wait for their turn."""
        found, others = [], []
        while not (found and reached(found[-1])):
            message = self._kept.pop(0) if self._kept else self.next()
            assert message is not None, f"the worker ended with {self.process.wait()}"
            (found if message.job == job else others).append(message)
        self._kept = others + self._kept
        return found

    def answers(self, job: int) -> Answers:
        return Answers(self.until(job, lambda message: message.kind in ("done", "error")))

    def done(self, kind: str, payload: bytes = b"", /, **fields: Any) -> Message:
        """The result of one request that succeeds."""
        last = self.answers(self.ask(kind, payload, **fields)).last
        assert last.kind == "done", last.fields
        return last

    def refused(self, kind: str, payload: bytes = b"", /, **fields: Any) -> dict[str, str]:
        """The error of one request that fails; the worker lives on."""
        last = self.answers(self.ask(kind, payload, **fields)).last
        assert last.kind == "error", last.fields
        assert self.done("ping").fields == {}
        return last.fields

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    client = Client(COMMAND)
    client.hello = client.next()
    yield client
    client.end()


@pytest.fixture
def worker(shared: Client) -> Client:
    """The worker of this module, idle."""
    assert shared.done("ping").fields == {}
    return shared


@pytest.fixture
def start() -> Iterator[Callable[..., Client]]:
    """Starts workers for one test."""
    clients: list[Client] = []

    def start(command: list[str], **options: Any) -> Client:
        clients.append(Client(command, **options))
        return clients[-1]

    yield start
    for client in clients:
        client.end()


@pytest.fixture(scope="module")
def direct(material: Material) -> Iterator[FaceRenderer]:
    """A renderer in this process, for the expected results; its source is the whole picture of the material."""
    before = torch.get_num_threads()
    renderer = FaceRenderer(load_bank(material.bank), "cpu", threads=1)  # as in the worker: threads affect rounding
    source = np.asarray(Image.open(material.source))
    renderer.set_source(source, source)
    yield renderer
    torch.set_num_threads(before)


@pytest.fixture
def face(material: Material) -> dict[str, Any]:
    return {"bank": str(material.bank), "picture": str(material.source), "crop": "none"}


@pytest.fixture
def shot(material: Material, direct: FaceRenderer, tmp_path: Path) -> Callable[..., Shot]:
    """Creates shots of the material's portrait. rows: (T, n), added to the coefficients of the portrait."""

    def make(rows: np.ndarray, **changes: Any) -> Shot:
        bank = direct.bank
        values = direct.source_coefficients.values + rows.astype(np.float32)
        table = Coefficients(values, bank.names, 24)
        inputs = {"bank": bank.path, "bank_sha256": bank.sha256, "portrait": material.source, "crop": "none",
                  "coefficients": table, "frames_folder": tmp_path / "frames"}  # fmt: skip
        return Shot(**(inputs | changes))

    return make


def motion(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((frames, 36))


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def render(worker: Client, shot: Shot, folder: Path) -> Answers:
    shot.write(folder)
    return worker.answers(worker.ask("render", shot=str(folder)))


def begin_long_render(worker: Client, shot: Callable[..., Shot], folder: Path) -> int:
    """Start a render of many frames; returns after the first one."""
    shot(motion(20_000)).write(folder)
    job = worker.ask("render", shot=str(folder))
    worker.until(job, lambda message: message.kind == "frame_file")
    return job


# ------------------------------------------------------------------------------------------------ a worker


def test_the_first_message_is_hello(shared):
    hello = shared.hello
    assert (hello.kind, hello.job) == ("hello", 0)
    assert hello["protocol"] == protocol.VERSION
    assert (hello["engine"], hello["device"], hello["pid"]) == (__version__, "cpu", shared.process.pid)
    assert all(hello[name] for name in ("device_name", "python", "torch"))


def test_it_sends_beats(shared):
    while not shared.beats:
        shared.done("ping")
        time.sleep(0.05)
    beat = shared.beats[0]
    assert beat["busy"] is None
    assert beat["memory"] > 50e6 if sys.platform == "linux" else beat["memory"] is None
    assert beat["device_memory"] is None


def test_unknown_requests_and_jobs(worker, face):
    assert "'dance'" in worker.refused("dance")["message"]
    assert worker.refused("portrait", bank="")["kind"] == "protocol"
    assert worker.refused("preview", b"1234", **face)["kind"] == "protocol"
    worker.cancel(10**6)  # an unknown job is ignored
    worker.done("ping")


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C works differently there")
def test_ctrl_c_does_not_end_the_worker(worker):
    worker.process.send_signal(signal.SIGINT)
    worker.done("ping")


# ------------------------------------------------------------------------------------------------ faces


def test_portrait_returns_coefficients_and_the_face(worker, face, direct):
    done = worker.done("portrait", **face)
    assert done["rest"] == dict(zip(direct.bank.names, direct.source_coefficients.values[0].tolist(), strict=True))
    assert (done["crop"], done["angle"], done["size"]) == ("none", 0, 64)
    assert done.payload == Image.open(face["picture"]).tobytes()


def assert_close(payload: bytes, expected: np.ndarray) -> None:
    """A frame drawn alone may differ in rounding with the number of threads."""
    found = np.frombuffer(payload, np.uint8).reshape(expected.shape)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_preview_equals_the_renderers_frame(worker, face, direct):
    rows = direct.source_coefficients.values + np.array([[0], [0.7]], np.float32)
    for row in rows:
        done = worker.done("preview", row.tobytes(), **face)
        assert done["size"] == 64
        assert_close(done.payload, direct.frame(row[None]))
    error = worker.refused("preview", np.full(36, np.nan, np.float32).tobytes(), **face)
    assert "finite" in error["message"]


def test_a_preview_at_full_size_equals_the_frame_with_detail(worker, face, direct):
    row = direct.source_coefficients.values + np.float32(0.3)
    picture = np.asarray(Image.open(face["picture"]))
    large = direct.another()
    large.set_source(picture, np.asarray(Image.fromarray(picture).resize((128, 128))))
    done = worker.done("preview", row.tobytes(), **face, size=128)
    assert done["size"] == 128
    assert_close(done.payload, large.frame(row))
    assert worker.done("preview", row.tobytes(), **face, size=16)["size"] == 64, "not below the bank's own"


def test_a_detected_crop_can_be_used_as_a_given_crop(worker, material, tmp_path):
    scene = Image.new("RGB", (640, 340), (130, 130, 130))
    scene.paste(Image.open(PORTRAIT).resize((256, 256)).rotate(8, fillcolor=(130, 130, 130)), (200, 40))
    scene.save(tmp_path / "scene.png")
    ask = {"bank": str(material.bank), "picture": str(tmp_path / "scene.png")}
    found = worker.done("portrait", crop="auto", **ask)
    (x, y, side), angle = found["crop"], found["angle"]
    assert abs(x + side / 2 - 328) < 40
    assert abs(y + side / 2 - 168) < 40
    assert -16 < angle < -3
    again = worker.done("portrait", crop=[x, y, side, angle], **ask)
    np.testing.assert_allclose([again["angle"], *again["crop"]], [angle, x, y, side])
    difference = np.frombuffer(again.payload, np.uint8).astype(int) - np.frombuffer(found.payload, np.uint8)
    assert np.abs(difference).mean() < 0.1
    upright = worker.done("portrait", crop=[x, y, side], **ask)
    np.testing.assert_allclose([upright["angle"], *upright["crop"]], [0, x, y, side])
    assert upright.payload != found.payload


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        ({"picture": "nowhere.png"}, "media", "nowhere.png does not exist"),
        ({"picture": "noise.png"}, "media", "noise.png cannot be used"),
        ({"picture": "folder"}, "media", "folder could not be read"),
        ({"picture": "black.png", "crop": "auto"}, "face", "No face was found in black.png"),
        ({"picture": "pair.png", "crop": "auto"}, "face", "2 faces were found in pair.png"),
        ({"picture": "black.png", "crop": [500, 0, 30]}, "face", "The crop lies outside black.png"),
        ({"bank": "nowhere.safetensors"}, "bank", "nowhere.safetensors does not exist"),
        ({"bank": "noise.png"}, "bank", "is not a bank"),
    ],
)
def test_portraits_and_banks_that_cannot_be_used(worker, face, tmp_path, change, kind, expected):
    (tmp_path / "folder").mkdir()
    (tmp_path / "noise.png").write_bytes(b"\x89PNG" + np.random.default_rng(1).bytes(500))
    Image.new("RGB", (120, 80)).save(tmp_path / "black.png")
    portrait = np.asarray(Image.open(PORTRAIT).convert("RGB").resize((256, 256)))
    Image.fromarray(np.hstack([portrait, portrait])).save(tmp_path / "pair.png")
    change = {name: value if name == "crop" else str(tmp_path / value) for name, value in change.items()}
    error = worker.refused("portrait", **(face | change))
    assert (error["kind"], expected in error["message"]) == (kind, True), error
    assert error["hint"]
    assert "--" not in error["message"] + error["hint"]  # no options of the command line


def test_a_changed_bank_or_picture_is_read_again(worker, face, material, tmp_path):
    bank, source = tmp_path / "bank.safetensors", tmp_path / "source.png"
    shutil.copy(material.bank, bank)
    shutil.copy(material.source, source)
    ask = {"bank": str(bank), "picture": str(source), "crop": "none"}
    rests = [worker.done("portrait", **ask)["rest"]]
    Image.fromarray(picture("another", 64, 64)).save(source)
    rests.append(worker.done("portrait", **ask)["rest"])
    write_bank(bank, GeneratorConfig(**(SMALL | {"style_dim": 40}), banks=BANKS), sound=False)
    rests.append(worker.done("portrait", **ask)["rest"])
    assert all(one != other for one, other in itertools.combinations(rests, 2))
    worker.done("release")
    assert worker.done("portrait", **ask)["rest"] == rests[-1]


def test_the_embedded_bank_needs_no_path(worker):
    done = worker.done("portrait", bank="", picture=str(PORTRAIT), crop="auto")
    assert "jawOpen" in done["rest"]


# ------------------------------------------------------------------------------------------------ sound


def listen(bank: Path, samples: np.ndarray, times: np.ndarray) -> tuple[bytes, dict[str, Any]]:
    fields = {"bank": str(bank), "rate": 16_000, "samples": len(samples), "times": len(times)}
    return samples.astype("<f4").tobytes() + times.astype("<f8").tobytes(), fields


@pytest.mark.parametrize("samples", [8000, 8001])  # with an odd number the times are not aligned
def test_lip_sync_equals_the_function(worker, material, samples):
    sound, times = waveform(1)[:samples], frame_times(0.5, 24000 / 1001)
    payload, fields = listen(material.bank, sound, times)
    answers = worker.answers(worker.ask("lip_sync", payload, **fields))
    bank = load_bank(material.bank)
    assert (answers.last["names"], answers.last["frames"]) == (list(bank.names_of("lip")), len(times))
    found = np.frombuffer(answers.last.payload, "<f4").reshape(len(times), 20)
    np.testing.assert_allclose(found, lip_sync(sound, 16_000, times, bank), atol=1e-5)
    progress = answers.of("progress")[-1]
    assert (progress["phase"], progress["done"] == progress["total"]) == ("analyzing", True)


def test_sounds_that_cannot_be_used(worker, material):
    payload, fields = listen(material.bank, waveform(0.5), np.zeros(3))
    assert worker.refused("lip_sync", payload[:-1], **fields)["kind"] == "protocol"
    assert worker.refused("lip_sync", payload, **(fields | {"samples": -1}))["kind"] == "protocol"
    payload, fields = listen(material.bank, waveform(0.5)[:100], np.zeros(3))
    assert worker.refused("lip_sync", payload, **fields)["kind"] == "media"
    payload, fields = listen(material.silent_bank, waveform(0.5), np.zeros(3))
    assert worker.refused("lip_sync", payload, **fields)["kind"] == "bank"
    payload, fields = listen(material.bank, np.full(8000, np.nan), np.zeros(3))
    assert np.isfinite(np.frombuffer(worker.done("lip_sync", payload, **fields).payload, "<f4")).all()


def test_lip_sync_can_be_cancelled(worker, material):
    payload, fields = listen(material.bank, np.tile(waveform(10), 60), frame_times(600, 60))
    job = worker.ask("lip_sync", payload, **fields)
    worker.until(job, lambda message: message.kind == "progress" and message["phase"] == "analyzing")
    worker.cancel(job)
    assert worker.answers(job).last.fields == {"cancelled": True}


# ------------------------------------------------------------------------------------------------ renders


def test_equal_rows_are_rendered_once_and_reported_for_each_row(worker, shot, direct, tmp_path):
    rows = motion(3)[[0, 1, 1, 0, 2, 1]]
    made = shot(rows)
    answers = render(worker, made, tmp_path / "shot")
    files = answers.of("frame_file")
    assert sorted((file["index"], file["file"]) for file in files) == list(enumerate(made.file_names()))
    assert [file["index"] for file in files if not file["reused"]] == [0, 1, 4]
    done = answers.last
    assert (done["rendered"], done["reused"], done["cancelled"]) == (3, 3, False)
    assert done["seconds"] > 0
    assert set(written(made.frames_folder)) == set(made.file_names())
    expected = direct.render(made.coefficients)
    for name, pixels in zip(made.file_names(), expected, strict=True):
        assert np.array_equal(Image.open(made.frames_folder / name), pixels)
    reports = answers.of("progress")
    assert [(report["done"], report["total"]) for report in reports if report["phase"] == "rendering"][-1] == (3, 3)


@pytest.mark.parametrize("size", [100, 256])
def test_larger_frames_have_the_detail_of_the_portrait(worker, shot, material, tmp_path, size):
    portrait = Image.fromarray(picture("large", 300, 300))
    portrait.save(tmp_path / "large.png")
    made = shot(motion(2) * [[0], [1]], portrait=tmp_path / "large.png", size=size)
    rest = worker.done("portrait", bank=str(material.bank), picture=str(tmp_path / "large.png"), crop="none")["rest"]
    table = made.coefficients
    values = np.float32([list(rest.values())]) + np.float32([[0], [0.5]])
    made = replace(made, coefficients=Coefficients(values, table.names, table.fps))
    assert render(worker, made, tmp_path / "shot").last["rendered"] == 2
    still, moved = (np.asarray(Image.open(made.frames_folder / name)).astype(int) for name in made.file_names())
    expected = np.asarray(portrait.resize((size, size))).astype(int)
    assert np.abs(still - expected).max() <= 1
    assert moved.shape == still.shape
    assert np.abs(moved - expected).mean() > 1


def test_a_size_below_the_banks_is_scaled_down(worker, tmp_path, material, shot):
    made = shot(motion(1), size=40)
    assert render(worker, made, tmp_path / "shot").last["rendered"] == 1
    (small,) = (np.asarray(Image.open(made.frames_folder / name)) for name in made.file_names())
    full = replace(made, size=0, frames_folder=tmp_path / "full")
    render(worker, full, tmp_path / "shot")
    (name,) = full.file_names()
    np.testing.assert_array_equal(
        small, Image.open(tmp_path / "full" / name).resize((40, 40), Image.Resampling.LANCZOS)
    )


def test_only_changed_rows_are_rendered_again(worker, shot, tmp_path):
    rows = motion(8)
    first = shot(rows)
    assert render(worker, first, tmp_path / "shot").last["rendered"] == 8
    before = {path: path.stat().st_mtime_ns for path in first.frames_folder.iterdir()}
    again = render(worker, first, tmp_path / "shot")
    assert (again.last["rendered"], again.last["reused"]) == (0, 8)
    assert [file["index"] for file in again.of("frame_file") if file["reused"]] == list(range(8))
    edited = np.roll(rows, 3, axis=0)
    edited[5] += 0.25
    (first.frames_folder / first.file_names()[0]).unlink()
    found = render(worker, shot(edited, first_frame=77), tmp_path / "shot")
    assert [file["index"] for file in found.of("frame_file") if not file["reused"]] == [3, 5]
    assert all(path.stat().st_mtime_ns == when for path, when in before.items() if path.name != first.file_names()[0])


@pytest.mark.parametrize("image_format", ["png", "exr"])
def test_files_are_identical_however_the_range_is_divided(worker, shot, tmp_path, image_format):
    rows, parts = motion(9), tmp_path / "parts"
    whole = shot(rows, image_format=image_format)
    render(worker, whole, tmp_path / "shot")
    worker.done("release")
    for part in (rows[6:], rows[[2, 1]], rows[:1], rows):
        render(worker, shot(part, frames_folder=parts, image_format=image_format), tmp_path / "part")
    assert written(parts) == written(whole.frames_folder)
    assert len(written(parts)) == 9


def test_a_cancelled_render_keeps_its_frames_and_is_resumed(worker, shot, tmp_path):
    job = begin_long_render(worker, shot, tmp_path / "shot")
    worker.cancel(job)
    answers = worker.answers(job)
    assert answers.last["cancelled"]
    kept = written(tmp_path / "frames")
    assert len(kept) == answers.last["rendered"] < 20_000
    some = shot(motion(20_000)[: len(kept) + 2])
    resumed = render(worker, some, tmp_path / "shot")
    assert (resumed.last["rendered"], resumed.last["reused"]) == (2, len(kept))
    assert written(tmp_path / "frames").items() > kept.items()


def test_short_requests_are_done_between_two_frames(worker, shot, face, direct, material, tmp_path):
    job = begin_long_render(worker, shot, tmp_path / "shot")
    row = direct.source_coefficients.values
    assert_close(worker.done("preview", row.tobytes(), **face).payload, direct.frame(row))
    other = face | {"picture": str(material.lip11 / "0.png")}
    assert worker.done("preview", (row + 1).tobytes(), **other)["size"] == 64
    assert len(worker.done("portrait", **other)["rest"]) == 36
    payload, fields = listen(material.bank, waveform(0.5), frame_times(0.5, 24))
    assert worker.done("lip_sync", payload, **fields)["frames"] == 12
    assert "does not exist" in worker.refused("portrait", **(face | {"picture": "nowhere.png"}))["message"]

    (tmp_path / "second").mkdir()
    shot(motion(2, seed=5)).write(tmp_path / "second")
    waiting = worker.ask("render", shot=str(tmp_path / "second"))
    dropped = worker.ask("render", shot=str(tmp_path / "second"))
    worker.cancel(dropped)
    assert worker.answers(dropped).messages[0].fields == {"cancelled": True}  # it never started
    worker.cancel(job)
    assert worker.answers(job).last["cancelled"]
    assert worker.answers(waiting).last["rendered"] == 2
    # The requests in between did not change the frames.
    some = shot(motion(20_000)[:9])
    for name, pixels in zip(some.file_names(), direct.render(some.coefficients), strict=True):
        if (path := tmp_path / "frames" / name).exists():
            assert np.array_equal(Image.open(path), pixels)


def preview(job: int, picture: str) -> Message:
    return Preview(None, picture, "auto", np.zeros(36)).to_message(job)


def test_the_latest_preview_of_each_face_wins():
    inbox = Inbox()
    for message in (preview(1, "a"), preview(2, "b"), preview(3, "a"), Portrait(None, "a", "auto").to_message(4)):
        inbox.put(message)
    taken = [inbox.take() for _ in range(4)]
    assert [(job.id, job.superseded) for job in taken] == [(1, True), (2, False), (3, False), (4, False)]
    inbox.put(preview(5, "a"))  # a started preview is finished
    assert not taken[2].superseded


def test_every_preview_is_answered_and_the_last_one_is_rendered(worker, face, direct):
    row = direct.source_coefficients.values.astype("<f4").tobytes()
    jobs = [worker.ask("preview", row, **face) for _ in range(20)]
    last = [worker.answers(job).last for job in jobs]
    assert all(message.kind == "done" for message in last)
    assert all(message.fields == {"superseded": True} or message["size"] == 64 for message in last)
    assert last[-1]["size"] == 64


def test_shots_that_cannot_be_rendered(worker, shot, tmp_path):
    folder, rows = tmp_path / "shot", motion(2)

    def refused(made: Shot) -> dict[str, str]:
        made.write(folder)
        return worker.refused("render", shot=str(folder))

    assert "expected the folder of a shot" in worker.refused("render", shot=str(tmp_path / "nothing"))["message"]
    error = refused(shot(rows, bank_sha256="ab" * 32))
    assert (error["kind"], "not the bank that the shot was made with" in error["message"]) == ("bank", True)
    error = refused(shot(rows, bank=tmp_path / "nowhere.safetensors"))
    assert (error["kind"], "nowhere.safetensors does not exist" in error["message"]) == ("bank", True)
    made = shot(rows)
    foreign = Coefficients(made.coefficients.values[:, :2], ("nose", "ear"), 24)
    assert "nose" in refused(shot(rows, coefficients=foreign))["message"]
    (tmp_path / "noise.png").write_bytes(b"no picture")
    error = refused(shot(rows, portrait=tmp_path / "noise.png"))
    assert (error["kind"], "noise.png cannot be used" in error["message"]) == ("media", True)
    made.write(folder)
    (folder / made.portrait.name).unlink()
    assert worker.refused("render", shot=str(folder))["kind"] == "media"
    assert written(tmp_path / "frames") == {}


def test_frames_that_cannot_be_written(worker, shot, tmp_path):
    (tmp_path / "file").touch()
    shot(motion(2), frames_folder=tmp_path / "file" / "frames").write(tmp_path / "shot")
    error = worker.refused("render", shot=str(tmp_path / "shot"))
    assert (error["kind"], str(tmp_path / "file" / "frames") in error["message"]) == ("disk", True)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the files of another process")
def test_a_full_disk_is_one_error_and_finished_frames_are_kept(worker, shot, tmp_path):
    import resource

    job = begin_long_render(worker, shot, tmp_path / "shot")
    before = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        answers = worker.answers(job)
    finally:
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, before)
    assert (answers.last.kind, answers.last["kind"]) == ("error", "disk")
    reported = [message["file"] for message in answers.of("frame_file")]
    frames = written(tmp_path / "frames")
    assert set(reported) <= set(frames)  # the first one was reported before
    assert len(frames) > len(reported)  # those of the other writers may be complete and not yet reported
    assert min(map(len, frames.values())) > 100
    worker.done("ping")


# ------------------------------------------------------------------------------------- how it begins and ends


def test_an_unknown_device(start):
    client = start([*COMMAND, "--device", "quantum"])
    message = client.next()
    assert (message.kind, message.job, message["kind"]) == ("error", 0, "device")
    assert client.next() is None
    assert client.process.wait(PATIENCE) == 2


def test_input_that_is_not_a_message_ends_the_worker(start):
    client = start(COMMAND, stderr=subprocess.DEVNULL)
    client.process.stdin.write(b"GET / HTTP/1.1\r\n\r\n")
    client.process.stdin.flush()
    messages = list(iter(client.next, None))
    assert (messages[-1].kind, messages[-1].job, messages[-1]["kind"]) == ("error", 0, "protocol")
    assert client.process.wait(PATIENCE) == 2


def test_stdin_ends_before_the_worker_is_ready(start):
    client = start(COMMAND)
    client.process.stdin.close()
    assert client.process.wait(PATIENCE) == 0


def test_shutdown_ends_the_worker_after_the_current_frame(start, shot, tmp_path):
    client = start(COMMAND)
    client.next()
    begin_long_render(client, shot, tmp_path / "shot")
    client.ask("shutdown")
    assert client.process.wait(PATIENCE) == 0
    assert all(name.endswith(".png") and name[0] != "." for name in written(tmp_path / "frames"))


def test_prints_reads_and_memory_errors_do_not_end_the_worker(start, face):
    patches = """
from inference.contract.answers import PreviewResult
def portrait(self, request, job):
    print("Loading model weights: 100%", flush=True)
    os.write(1, b"EDT1 from C")
    assert sys.stdin.read() == "" and os.read(0, 100) == b""
    os.system("echo from a child")
    return PreviewResult(numpy.zeros((2, 2, 3), numpy.uint8))
def preview(self, request, job):
    raise torch.cuda.OutOfMemoryError("tried to allocate 5 GiB")
def render(self, request, job):
    return PreviewResult(numpy.zeros((2**14, 2**14, 3), numpy.uint8))
jobs.Jobs.portrait, jobs.Jobs.preview, jobs.Jobs.render = portrait, preview, render
"""
    client = start([sys.executable, "-c", PATCHED.format(patches=patches)], stderr=subprocess.PIPE)
    assert client.next().kind == "hello"
    assert client.done("portrait", **face).fields == {"size": 2}
    error = client.refused("preview", **face)
    assert (error["kind"], "memory" in error["message"]) == ("memory", True)
    assert client.refused("render", shot="x")["kind"] == "protocol"  # the answer is too large
    client.process.stdin.close()
    expected = client.process.stderr.read().decode()
    client.process.stderr.close()
    assert all(text in expected for text in ("Loading model", "EDT1 from C", "from a child"))


PARENT = """
import subprocess, sys, time
from inference.contract import protocol
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
protocol.write(process.stdin, protocol.Message("render", 1, {"shot": sys.argv[2]}))
while protocol.read(process.stdout).fields.get("phase") != "rendering":
    pass
print(process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(os.name == "nt", reason="a job object does it there")
def test_the_worker_ends_with_blender_even_during_a_frame(shot, tmp_path):
    shot(motion(2)).write(tmp_path / "shot")
    patches = "drawing.save_picture = lambda *_: time.sleep(600)"  # a frame that takes a long time
    command = [sys.executable, "-c", PARENT, PATCHED.format(patches=patches), str(tmp_path / "shot")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert is_alive(worker)
        parent.kill()
        parent.wait()
        until = time.monotonic() + PATIENCE
        while is_alive(worker):
            assert time.monotonic() < until
            time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process that is not a child of this one runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(FileNotFoundError):
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return not Path("/proc/self").exists()


def test_starting_the_worker_by_hand_is_explained(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert cli.main(["worker"]) == 2
    assert "started by Blender" in capsys.readouterr().err
