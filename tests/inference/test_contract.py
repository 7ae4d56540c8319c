"""The contract between Blender and a worker, which the real worker and the fake one of the tests both keep."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inference.contract import protocol
from inference.contract.answers import (
    RESULTS,
    Accepted,
    Answer,
    CaptureResult,
    Done,
    EncodeResult,
    ExploreResult,
    Failure,
    FrameFile,
    Hello,
    LipSyncResult,
    PerformResult,
    PortraitResult,
    PreviewResult,
    Progress,
    ReadPlateResult,
    RenderResult,
    Stopped,
    TrackResult,
    read_answer,
)
from inference.contract.bank import STARTER, read_bank
from inference.contract.coefficients import Coefficients
from inference.contract.errors import EDTalkError
from inference.contract.expression import EMOTIONS, SpokenText, Suggestion
from inference.contract.plate import Track as FaceTrack
from inference.contract.protocol import Message, ProtocolError
from inference.contract.references import Readings
from inference.contract.requests import (
    REQUESTS,
    Cancel,
    Capture,
    Encode,
    Explore,
    LipSync,
    Perform,
    Ping,
    Portrait,
    Preview,
    ReadPlate,
    Release,
    Render,
    Request,
    Shutdown,
    Track,
    read_request,
)
from inference.contract.shot import Shot
from tests.cli_material import ROOT
from tests.inference.test_worker import COMMAND, Client

FAKE = [sys.executable, str(ROOT / "tests" / "fake_worker.py")]
PICTURE = ROOT / "inference" / "demo" / "portrait_1.png"
LINE = ROOT / "inference" / "demo" / "line.wav"
REST = np.array([entry.rest for entry in read_bank(STARTER).coefficients], np.float32)
BY_HAND = (10.0, 20.0, 300.0)


def sent_and_read(message: Message) -> Message:
    """A message after it has passed through a stream."""
    stream = io.BytesIO()
    protocol.write(stream, message)
    stream.seek(0)
    return protocol.read(stream)


# ------------------------------------------------------------------------------------------------ the classes


EXAMPLES = [
    Portrait(None, PICTURE, "auto"),
    Portrait("bank.safetensors", "Bücher/日本.png", (1, 2.5, 30, -4)),
    Explore(None, PICTURE, "none"),
    Preview(None, PICTURE, BY_HAND, np.arange(36)),
    LipSync(None, 44_100, np.linspace(-1, 1, 101), [-0.5, 0.0, 1 / 3]),
    Capture(None, PICTURE, "auto", which=(5, 6.5), rest=0.25),
    Perform(None, "line.wav", np.linspace(0, 1, 26), (7, 2**32 - 1), 0.5, 2.0),
    Perform(
        None,
        "line.wav",
        [0.0],
        want=("emotion", "gaze"),
        emotion_from="words",
        text=(SpokenText("Ich freue mich über 日本.", 0.5, 2.0), SpokenText("", 3.0)),
    ),
    Capture("a.safetensors", "a.mp4", BY_HAND, 24000 / 1001, 0.5, 2.0, -1),
    Track("a.mp4"),
    Track("a.mp4", "none", 1.0, 3.5, "largest"),
    ReadPlate(None, "a.mp4", FaceTrack(np.array([0.0, 0.04]), np.array([[1, 2, 3, 4], [5, 6, 7, 8]]))),
    Render("shots/one"),
    Render("shots/one", (2, 5)),
    Encode(("a/1.png", "b/Ü.png", "a/1.png"), 24000 / 1001, "out.mov", "prores", 640, "line.wav"),
    Encode(("a/1.png",), 25, "out.mp4"),
    Release(),
    Ping(),
    Cancel(),
    Shutdown(),
]


@pytest.mark.parametrize("request_", EXAMPLES, ids=lambda request: request.kind)
def test_a_request_is_read_as_it_was_made(request_):
    message = request_.to_message(7)
    assert (message.kind, message.job) == (request_.kind, 7)
    found = read_request(sent_and_read(message))
    assert type(found) is type(request_)
    assert found.to_message(7) == message
    for name, value in vars(request_).items():
        if not isinstance(value, FaceTrack):  # it has no equality, and the messages are equal
            np.testing.assert_array_equal(getattr(found, name), value)


def test_there_is_an_example_of_every_request_and_a_result_for_it():
    assert {type(request) for request in EXAMPLES} == set(REQUESTS.values())
    assert set(RESULTS) == set(REQUESTS) - {"cancel", "shutdown"}


ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
TRACK = FaceTrack(np.array([0.0, 0.04]), np.array([[1, 2, 3, 4], [np.nan] * 4]))
ANSWERS = [
    (None, Hello(1, "1.0", "cuda:0", "A card", 5, "3.11", "2.9")),
    (Ping(), Accepted()),
    (Ping(), Progress("loading", 1, None, None)),
    (Ping(), FrameFile(3, "a.png", True)),
    (Ping(), Failure("face", "No face was found.", "Choose another picture.", "face_not_found")),
    (Ping(), Done()),
    (EXAMPLES[0], Stopped()),
    (EXAMPLES[3], Stopped(superseded=True)),
    (EXAMPLES[0], PortraitResult({"jawOpen": 0.5}, BY_HAND, 3.5, np.arange(12, dtype=np.uint8).reshape(2, 2, 3))),
    (EXAMPLES[3], PreviewResult(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))),
    (EXAMPLES[4], LipSyncResult(("a", "b", "c"), ROWS)),
    (EXAMPLES[6], PerformResult(("a", "b"), np.arange(12, dtype=np.float32).reshape(2, 3, 2), "No speech.")),
    (
        EXAMPLES[6],
        PerformResult(
            (),
            np.zeros((1, 3, 0)),
            "",
            np.arange(21, dtype=np.float32).reshape(3, 7) / 21,
            (Suggestion(0.5, 1.5, "happy", 0.7), Suggestion(2.0, 2.5, "sad", 0.2)),
            "The text was cut.",
            ("browInnerUp", "browOuterUp"),
            np.ones((3, 2)),
            np.ones((3, 1)),
            np.ones((3, 2)),
        ),
    ),
    (EXAMPLES[5], CaptureResult(("a", "b", "c"), ROWS, 25.0, 0.04, ((0, 1),), "No face from 0 to 1.")),
    (Track("a.mp4"), TrackResult(TRACK, 640, 360, None, "ab" * 32, ((1, 1),), "")),
    (
        ReadPlate(None, "a.mp4", FaceTrack(np.array([0.0, 0.04]), np.array([[1, 2, 3, 4], [5, 6, 7, 8]]))),
        ReadPlateResult(Readings(ROWS, [[1, 7], [np.nan, np.nan]])),
    ),
    (Render("a"), RenderResult(2, 3, False, 0.5)),
    (Render("a"), RenderResult(2, 3, True, 0.5)),
    (Render("a"), Stopped()),
    (Encode(("a.png",), 25, "a.mp4"), EncodeResult(1, 0.5)),
]


@pytest.mark.parametrize(("request_", "answer"), ANSWERS, ids=lambda one: type(one).__name__)
def test_an_answer_is_read_as_it_was_made(request_: Request | None, answer: Answer):
    message = sent_and_read(answer.to_message(3))
    found = read_answer(message, request_)
    assert type(found) is type(answer)
    assert found.to_message(3) == answer.to_message(3)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Portrait(None, "a.png", (1, 2)), "crop"),
        (lambda: Portrait(None, "", "auto"), "picture"),
        (lambda: Capture(None, "a.mp4", start=3.0, end=2.0), "after its start"),
        (lambda: Capture(None, "a.mp4", fps=0), "frame rate"),
        (lambda: Capture(None, "a.mp4", which=0), "which"),
        (lambda: Capture(None, "a.mp4", rest=-1.0), "rest"),
        (lambda: Track("a.mp4", start=-1.0), "start"),
        (lambda: LipSync(None, 0, [0.0], [0.0]), "rate"),
        (lambda: Perform(None, "a.wav", [0.0], ()), "seed"),
        (lambda: Perform(None, "a.wav", [0.0], (2**32,)), "4294967295"),
        (lambda: Perform(None, "a.wav", [0.0], (-1,)), "seeds"),
        (lambda: Perform(None, "a.wav", [0.0], (0,), float("nan")), "sway"),
        (lambda: Perform(None, "a.wav", [0.0], (0,), 1.0, 2.5), "nods"),
        (lambda: Perform(None, "a.wav", [float("inf")]), "times"),
        (lambda: Perform(None, "a.wav", [0.0], want=()), "want"),
        (lambda: Perform(None, "a.wav", [0.0], want=("tail",)), "want"),
        (lambda: Perform(None, "a.wav", [0.0], emotion_from="face"), "emotion_from"),
        (lambda: Perform(None, "a.wav", [0.0], text="x" * 300_000), "at most"),
        (lambda: Perform(None, "a.wav", [0.0], text=(SpokenText("Oh", 2.0, 1.0),)), "after its start"),
        (lambda: Perform(None, "a.wav", [0.0], text=(5,)), "text"),
        (lambda: LipSync(None, 16_000, [0.0], [float("nan")]), "times"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_sent(make, expected):
    with pytest.raises(EDTalkError, match=expected):
        make()


@pytest.mark.parametrize(
    "message",
    [
        PreviewResult(np.zeros((2, 2, 3), np.uint8)).to_message(1),
        Message("done", 1, {"size": 2}, bytes(11)),
        Message("done", 1, {"size": -2}, bytes(12)),
        Message("done", 1, {}),
        Message("dance", 1, {}),
    ],
)
def test_an_answer_that_does_not_fit_the_request_is_an_error(message):
    for request in (EXAMPLES[0], EXAMPLES[4], Render("a")):
        with pytest.raises(ProtocolError):
            read_answer(message, request)


@pytest.mark.parametrize("value", ["3", -1, 0.5, True, [], {}, None, float("nan"), 10**400])
def test_values_of_the_wrong_type_are_refused_before_they_are_drawn(value):
    for name in ("done", "total", "eta", "phase"):
        fields = dict(Progress("rendering", 1, 2, 0.5).to_message(1).fields) | {name: value}
        if (name, value) in [("phase", "3"), ("eta", 0.5), ("eta", None), ("total", None)]:
            read_answer(Message("progress", 1, fields))
            continue
        with pytest.raises(ProtocolError, match=name):
            read_answer(Message("progress", 1, fields))
    with pytest.raises(ProtocolError):
        read_answer(Message("beat", 0, {"busy": "x", "memory": value, "device_memory": None}))


def test_the_document_names_every_message_and_field():
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    for record in [*EXAMPLES, *(answer for _request, answer in ANSWERS)]:
        message = record.to_message(1)
        assert f"`{message.kind}`" in text, message.kind
        assert [name for name in message.fields if f"`{name}`" not in text] == [], message.kind


# ------------------------------------------------------------------------------------------------ the workers


@pytest.fixture(scope="module", params=["real", "fake"])
def either(request) -> Iterator[Client]:
    """The real worker, then the fake one."""
    client = Client(COMMAND if request.param == "real" else FAKE)
    client.hello = client.next()
    yield client
    client.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of pictures of a face and, in `shot`, a shot of two frames."""
    folder = tmp_path_factory.mktemp("contract")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "0.png").write_bytes(PICTURE.read_bytes())
    bank = read_bank(STARTER)
    table = Coefficients(np.stack([REST, REST]), bank.names, 25)
    Shot(STARTER, bank.sha256, PICTURE, "auto", table, folder / "frames").write(folder / "shot")
    return folder


def asked_of(folder: Path) -> dict[str, Request]:
    """A request of each kind that succeeds."""
    pictures = folder / "pictures"
    return {
        "portrait": Portrait(None, PICTURE, "auto"),
        "lip_sync": LipSync(None, 16_000, np.zeros(16_000), [0.0, 0.5]),
        "perform": Perform(None, LINE, [0.0, 0.5, 1.0], (1, 2)),
        "capture": Capture(None, PICTURE),
        "track": Track(pictures),
        "read_plate": ReadPlate(None, pictures, FaceTrack(np.zeros(1), np.array([[60.0, 40.0, 300.0, 0.0]]))),
        "explore": Explore(None, PICTURE, "auto"),
        "preview": Preview(None, PICTURE, "auto", REST),
        "render": Render(folder / "shot"),
        "encode": Encode((PICTURE, PICTURE), 25, folder / "movie.mp4"),
        "release": Release(),
        "ping": Ping(),
    }


def answers_to(client: Client, request: Request) -> list[Answer]:
    job = next(client.ids)
    protocol.write(client.process.stdin, request.to_message(job))
    return [read_answer(message, request) for message in client.answers(job).messages]


def test_hello_is_typed(either):
    hello = read_answer(either.hello)
    assert isinstance(hello, Hello)
    assert hello.protocol == protocol.VERSION


@pytest.mark.parametrize("kind", sorted(RESULTS))
def test_every_request_gets_its_typed_answers(either, folder, kind):
    *before, result = answers_to(either, asked_of(folder)[kind])
    assert type(result) is RESULTS[kind], result
    if kind in ("ping", "release"):
        assert before == []
    else:
        assert before[0] == Accepted()
        assert all(isinstance(answer, (Progress, FrameFile)) for answer in before[1:])
    if kind == "render":
        assert sorted(answer.index for answer in before if isinstance(answer, FrameFile)) == [0, 1]
    if isinstance(result, ExploreResult):
        assert len(result.motions) == len(REST)
    if isinstance(result, CaptureResult):
        assert result.rows.shape == (1, len(REST))
    if isinstance(result, PerformResult):
        assert result.rows.shape == (2, 3, len(result.names))
    if isinstance(result, LipSyncResult):
        assert result.rows.shape == (2, len(result.names))


def test_emotion_brows_and_eyes_come_with_the_fields_of_the_document(either):
    times = np.arange(0, 2.0, 0.04)
    want = ("emotion", "brows", "blinks", "gaze")
    (*_, found) = answers_to(either, Perform(None, LINE, times, want=want, text="I am so happy! This is wonderful."))
    assert (found.names, found.rows.shape) == ((), (1, len(times), 0))
    assert found.emotions.shape == (len(times), len(EMOTIONS))
    assert found.brow_names == ("browInnerUp", "browOuterUp")
    assert found.brows.shape == found.gaze.shape == (len(times), 2)
    assert found.blinks.shape == (len(times), 1)
    assert 0 <= found.blinks.min() <= found.blinks.max() <= 1
    assert 0 <= found.emotions.min() <= found.emotions.max() <= 1
    assert {one.kind for one in found.suggestions} == {"happy"}
    assert found.emotions[:, EMOTIONS.index("happy")].max() > 0.4
    (*_, found) = answers_to(either, Perform(None, LINE, times, want=("blinks",)))
    assert found.emotions.size == found.brows.size == found.gaze.size == 0
    assert found.blinks.any()


PORTRAIT = {"bank": "", "picture": str(PICTURE), "crop": "auto"}
CAPTURE = {"bank": "", "media": str(PICTURE), "crop": "auto", "fps": None, "start": 0.0, "end": None}
ENCODE = {"fps": 25, "movie": "a.mp4", "codec": "h264", "width": 0, "sound": None}
PERFORM = {"bank": "", "media": str(LINE), "times": 1, "seeds": [1], "sway": 1.0, "nods": 1.0}
TRACK_FIELDS = {"media": str(PICTURE), "crop": "auto", "start": 0.0, "end": None}


@pytest.mark.parametrize(
    ("kind", "fields", "payload"),
    [
        ("dance", {}, b""),
        *((kind, {}, b"") for kind in sorted(set(RESULTS) - {"ping", "release"})),
        ("portrait", PORTRAIT | {"bank": 5}, b""),
        ("portrait", PORTRAIT | {"crop": "face"}, b""),
        ("portrait", PORTRAIT | {"crop": [1, 2, -3]}, b""),
        ("explore", PORTRAIT | {"picture": ["a"]}, b""),
        ("preview", PORTRAIT, b"12345"),
        ("preview", PORTRAIT | {"size": "large"}, bytes(4)),
        ("preview", PORTRAIT | {"size": 10**6}, bytes(4)),
        ("lip_sync", {"bank": "", "rate": 16_000, "samples": 2, "times": 1}, bytes(15)),
        ("lip_sync", {"bank": "", "rate": 16_000, "samples": -2, "times": 3}, bytes(16)),
        ("lip_sync", {"bank": "", "rate": "fast", "samples": 2, "times": 1}, bytes(16)),
        ("perform", PERFORM | {"times": 2}, bytes(15)),
        ("perform", PERFORM | {"seeds": "many"}, bytes(8)),
        ("perform", PERFORM | {"seeds": [2**40]}, bytes(8)),
        ("perform", PERFORM | {"want": "everything"}, bytes(8)),
        ("perform", PERFORM | {"text": "Hello."}, bytes(8)),
        ("perform", PERFORM | {"text": [{"text": "a", "start": 0}]}, bytes(8)),
        ("perform", PERFORM | {"text": [{"text": "a", "start": "now", "end": None}]}, bytes(8)),
        ("capture", CAPTURE | {"start": -1.0}, b""),
        ("capture", CAPTURE | {"start": 2.0, "end": 1.0}, b""),
        ("capture", CAPTURE | {"fps": "24"}, b""),
        ("capture", CAPTURE | {"which": "best"}, b""),
        ("track", TRACK_FIELDS | {"end": "late"}, b""),
        ("render", {"shot": ""}, b""),
        ("render", {"shot": 5}, b""),
        ("render", {"shot": "a", "rows": [2, 1]}, b""),
        ("encode", ENCODE, b"no JSON"),
        ("encode", ENCODE, b'"a.png"'),
        ("encode", ENCODE, b"[]"),
        ("encode", ENCODE | {"codec": "vp9"}, b'["a.png"]'),
        ("encode", ENCODE | {"fps": 0}, b'["a.png"]'),
    ],
)
def test_malformed_requests_are_refused_as_such(either, kind, fields, payload):
    error = either.refused(kind, payload, **fields)
    assert error["kind"] == "protocol", error
    assert error["message"]
