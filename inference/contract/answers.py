"""Every answer that the worker gives. Standard library and numpy only.

    message = PreviewResult(pixels).to_message(job=7)   # the worker sends
    answer = read_answer(message, request)               # Blender reads

`read_answer` raises ProtocolError for a message that is not of the documented form; unknown fields are ignored.
"""

from __future__ import annotations

from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from .checks import Crop, as_number, as_whole, crop_field, parse
from .errors import EDTalkError
from .expression import EMOTIONS, Suggestion
from .plate import Track
from .protocol import Message, ProtocolError
from .references import Readings
from .requests import Request
from .shot import as_crop


class Answer:
    """Base class of the answers. `kind` is the `t` of the message."""

    kind: ClassVar[str] = "done"

    def to_message(self, job: int) -> Message:
        """The message to send. job: the number of the request, 0 for `Hello`, `Beat` and errors about no request."""
        return Message(self.kind, job)

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """The answer that a message holds; call `read_answer` instead, which checks the message too."""
        return cls()


@dataclass(frozen=True)
class _PlainAnswer(Answer):
    """An answer whose fields are those of the message."""

    def to_message(self, job: int) -> Message:
        return Message(self.kind, job, dict(vars(self)))

    @classmethod
    def from_message(cls, message: Message) -> Self:
        return cls(*(_plain(message[field.name], field) for field in fields(cls)))


@dataclass(frozen=True)
class Hello(_PlainAnswer):
    """The first message of a worker.

    protocol: version of the protocol that it speaks. engine: version of the extension that it belongs to. device: the
    name that torch has for the device, such as "cuda:0"; device_name: the name of the product. pid: of the process.
    python, torch: versions.
    """

    kind = "hello"
    protocol: int
    engine: str
    device: str
    device_name: str
    pid: int
    python: str
    torch: str


@dataclass(frozen=True)
class Beat(_PlainAnswer):
    """Sent every second.

    busy: number of the request that is being worked on. memory, device_memory: bytes that the process and the graphics
    card hold for it. Each is None where there is none or it is not known.
    """

    kind = "beat"
    busy: int | None
    memory: int | None
    device_memory: int | None


@dataclass(frozen=True)
class Accepted(_PlainAnswer):
    """The worker has started on the request."""

    kind = "accepted"


@dataclass(frozen=True)
class Progress(_PlainAnswer):
    """The progress of a request.

    phase: "loading", "analyzing", "reading", "comparing", "tracking", "exploring", "rendering" or "encoding"; ""
    before the start. done, total: steps of the phase; total None: not known. eta: seconds that the rest of the phase
    will take; None: not known.
    """

    kind = "progress"
    phase: str = ""
    done: int = 0
    total: int | None = None
    eta: float | None = None


@dataclass(frozen=True)
class FrameFile(_PlainAnswer):
    """The picture of one row of a shot exists.

    index: the row, from 0; rows come in any order. file: name of the picture in the shot's frames folder. reused:
    whether it existed before or is the picture of another row.
    """

    kind = "frame_file"
    index: int
    file: str
    reused: bool


@dataclass(frozen=True)
class Failure(Answer):
    """The request failed; about no request (job 0): the worker cannot start or go on. Fields: see `EDTalkError`."""

    kind = "error"
    error_kind: str
    message: str
    hint: str = ""
    code: str = ""

    @staticmethod
    def of(error: EDTalkError) -> Failure:
        return Failure(error.kind, error.message, error.hint, error.code)

    def to_message(self, job: int) -> Message:
        content = {"kind": self.error_kind, "message": self.message, "hint": self.hint, "code": self.code}
        return Message(self.kind, job, content)

    @classmethod
    def from_message(cls, message: Message) -> Self:
        return cls(*(str(message.fields.get(name, "")) for name in ("kind", "message", "hint", "code")))


@dataclass(frozen=True)
class Done(Answer):
    """The request has been done and has no result."""


@dataclass(frozen=True)
class Stopped(Answer):
    """The request has ended without a result.

    superseded: a newer preview took its place; otherwise it was cancelled.
    """

    superseded: bool = False

    def to_message(self, job: int) -> Message:
        return Message(self.kind, job, {"superseded" if self.superseded else "cancelled": True})

    @classmethod
    def from_message(cls, message: Message) -> Self:
        return cls(bool(message.fields.get("superseded")))


@dataclass(frozen=True, eq=False)
class PortraitResult(Answer):
    """The coefficients of a portrait, and the cropped face.

    rest: value of each coefficient, by name, in the bank's order. crop, angle: the square that was used: "none", or
    x, y, side in pixels, and its angle in degrees, clockwise. pixels: (size, size, 3) uint8 sRGB, the input of
    the network.
    """

    rest: dict[str, float]
    crop: Crop
    angle: float
    pixels: np.ndarray

    def to_message(self, job: int) -> Message:
        content = {"rest": self.rest, "crop": crop_field(self.crop), "angle": self.angle, "size": len(self.pixels)}
        return Message(self.kind, job, content, self.pixels.tobytes())

    @classmethod
    def from_message(cls, message: Message) -> Self:
        rest = {str(name): as_number(value, name) for name, value in message["rest"].items()}
        return cls(rest, as_crop(message["crop"]), as_number(message["angle"], "angle"), _pixels(message))


@dataclass(frozen=True, eq=False)
class PreviewResult(Answer):
    """A rendered face. pixels: (size, size, 3) uint8 sRGB, top row first."""

    pixels: np.ndarray

    def to_message(self, job: int) -> Message:
        return Message(self.kind, job, {"size": len(self.pixels)}, self.pixels.tobytes())

    @classmethod
    def from_message(cls, message: Message) -> Self:
        return cls(_pixels(message))


@dataclass(frozen=True, eq=False)
class LipSyncResult(Answer):
    """Lip coefficients. names: of the n lip coefficients. rows: (T, n) float32, one for each time asked for."""

    names: tuple[str, ...]
    rows: np.ndarray

    def to_message(self, job: int) -> Message:
        content = {"names": list(self.names), "frames": len(self.rows)}
        return Message(self.kind, job, content, np.asarray(self.rows, "<f4").tobytes())

    @classmethod
    def from_message(cls, message: Message) -> Self:
        return cls(*_table(message))


def _no_rows(columns: int) -> np.ndarray:
    return np.zeros((0, columns), np.float32)


@dataclass(frozen=True, eq=False)
class PerformResult(Answer):
    """What was drawn from speech. Each array has a row for each of the T times, or 0 rows if it was not wanted.

    names: of the n head coefficients; () if head motion was not wanted. rows: (S, T, n) float32, for each seed and time
    the head motion to be added to a pose. note: a sentence if the sound has no speech, else "".

    emotions: (T, 7) float32, strength from 0 to 1 of each of `expression.EMOTIONS`. suggestions: the same as phrases.
    emotion_note: a sentence about what emotion was not detected from, and why, else "".
    brow_names: of the brow coefficients, () if the bank names none. brows: (T, their number) float32, to be added.
    blinks: (T, 1) float32, how far the eyes are closed, from 0 to 1. gaze: (T, 2) float32, degrees to the picture's
    right and down, relative to the usual direction of the eyes.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    note: str = ""
    emotions: np.ndarray = field(default_factory=lambda: _no_rows(len(EMOTIONS)))
    suggestions: tuple[Suggestion, ...] = ()
    emotion_note: str = ""
    brow_names: tuple[str, ...] = ()
    brows: np.ndarray = field(default_factory=lambda: _no_rows(0))
    blinks: np.ndarray = field(default_factory=lambda: _no_rows(1))
    gaze: np.ndarray = field(default_factory=lambda: _no_rows(2))

    def to_message(self, job: int) -> Message:
        seeds, frames, _ = self.rows.shape
        content: dict[str, Any] = {"names": list(self.names), "seeds": seeds, "frames": frames, "note": self.note}
        content |= {"emotions": list(EMOTIONS) if len(self.emotions) else [], "emotion_note": self.emotion_note}
        content |= {"suggestions": [asdict(one) for one in self.suggestions], "brow_names": list(self.brow_names)}
        content |= {"blinks": len(self.blinks) > 0, "gaze": len(self.gaze) > 0}
        parts = (self.rows, self.emotions, self.brows, self.blinks, self.gaze)
        return Message(self.kind, job, content, b"".join(np.asarray(part, "<f4").tobytes() for part in parts))

    @classmethod
    def from_message(cls, message: Message) -> Self:
        names, brows = (tuple(str(name) for name in message[field]) for field in ("names", "brow_names"))
        seeds, frames = (as_whole(message[name], name) for name in ("seeds", "frames"))
        if tuple(message["emotions"]) not in ((), EMOTIONS):
            raise ProtocolError(f"'emotions' must be {', '.join(EMOTIONS)}, found {message['emotions']!r:.80}.")
        wide = (len(message["emotions"]), len(brows), int(bool(message["blinks"])), 2 * bool(message["gaze"]))
        sizes = [seeds * frames * len(names), *(frames * columns for columns in wide)]
        if 4 * sum(sizes) != len(message.payload):
            raise ProtocolError(f"{sizes} values are {4 * sum(sizes)} bytes, found {len(message.payload)}.")
        parts = np.split(np.frombuffer(message.payload, "<f4").copy(), np.cumsum(sizes)[:-1])
        usual = (len(EMOTIONS), 0, 1, 2)
        shapes = [(frames, columns) if columns else (0, most) for columns, most in zip(wide, usual, strict=True)]
        emotions, brow_rows, blinks, gaze = (part.reshape(shape) for part, shape in zip(parts[1:], shapes, strict=True))
        rows = parts[0].reshape(seeds, frames, len(names))
        suggestions = tuple(_suggestion(one) for one in message["suggestions"])
        texts = str(message["note"]), str(message["emotion_note"])
        return cls(names, rows, texts[0], emotions, suggestions, texts[1], brows, brow_rows, blinks, gaze)


@dataclass(frozen=True, eq=False)
class CaptureResult(Answer):
    """Coefficients of a recording.

    names: of the n coefficients. rows: (T, n) float32, row i at `start` + i / `fps` seconds of the recording. unseen:
    first and last row of each stretch in which no face was found; its values are interpolated from the rows around it.
    note: a sentence about these stretches, "" if there are none.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    fps: float
    start: float
    unseen: tuple[tuple[int, int], ...] = ()
    note: str = ""

    def to_message(self, job: int) -> Message:
        content: dict[str, Any] = {"names": list(self.names), "frames": len(self.rows)}
        content |= {"fps": self.fps, "start": self.start}
        content |= {"unseen": [list(stretch) for stretch in self.unseen], "note": self.note}
        return Message(self.kind, job, content, np.asarray(self.rows, "<f4").tobytes())

    @classmethod
    def from_message(cls, message: Message) -> Self:
        fps, start = as_number(message["fps"], "fps"), as_number(message["start"], "start")
        return cls(*_table(message), fps, start, _stretches(message["unseen"]), str(message["note"]))


@dataclass(frozen=True, eq=False)
class TrackResult(Answer):
    """The position of a face in every frame of a recording.

    track: the square of each frame. width, height: of the frames, in pixels. fps: of the video; None for pictures.
    sha256: of the recording, as `inference.contract.plate.media_sha256` gives it. unseen, note: as for `CaptureResult`,
    in frames. transfer: "pq" or "hlg" if it is an HDR movie, else "".
    """

    track: Track
    width: int
    height: int
    fps: float | None
    sha256: str
    unseen: tuple[tuple[int, int], ...] = ()
    note: str = ""
    transfer: str = ""

    def to_message(self, job: int) -> Message:
        content: dict[str, Any] = {"frames": len(self.track), "width": self.width, "height": self.height}
        content |= {"fps": self.fps, "sha256": self.sha256, "note": self.note, "transfer": self.transfer}
        content |= {"unseen": [list(stretch) for stretch in self.unseen]}
        return Message(self.kind, job, content, self.track.to_bytes())

    @classmethod
    def from_message(cls, message: Message) -> Self:
        width, height = (as_whole(message[name], name, least=1) for name in ("width", "height"))
        fps = None if message["fps"] is None else as_number(message["fps"], "fps")
        track = Track.from_bytes(message.payload)
        if len(track) != message["frames"]:
            raise ProtocolError(f"A track of {message['frames']} frames has {len(track)} rows.")
        sha256, unseen = str(message["sha256"]), _stretches(message["unseen"])
        return cls(track, width, height, fps, sha256, unseen, str(message["note"]), str(message["transfer"]))


@dataclass(frozen=True, eq=False)
class ReadPlateResult(Answer):
    """What was read from each frame of a tracked recording."""

    readings: Readings

    def to_message(self, job: int) -> Message:
        frames, count = self.readings.rows.shape
        return Message(self.kind, job, {"frames": frames, "coefficients": count}, self.readings.to_bytes())

    @classmethod
    def from_message(cls, message: Message) -> Self:
        count = as_whole(message["coefficients"], "coefficients", least=1)
        readings = Readings.from_bytes(message.payload, count)
        if len(readings) != message["frames"]:
            raise ProtocolError(f"Readings of {message['frames']} frames have {len(readings)} rows.")
        return cls(readings)


@dataclass(frozen=True)
class Motion:
    """How one coefficient moves a face. Lengths are in eye distances.

    name: of the coefficient. region: where most of the motion is: "head", "jaw", "mouth", "eyes" or "brows", or "none".
    shares: of each region, 1 in sum. step: how far the coefficient was moved from rest; amount: how far the fastest
    pixels moved then. direction: mean (x, y) in the region per step, to the picture's right and down. asymmetry: -1 if
    only the left half of the picture moves, 1 if only the right one. suggestion, soft_min, soft_max, arkit: proposed
    name, range and ARKit weights, and moves: how 1.0 moves the head, see `inference.contract.bank.Coefficient`.
    """

    name: str
    region: str
    shares: dict[str, float]
    step: float
    amount: float
    direction: tuple[float, float]
    asymmetry: float
    suggestion: str
    soft_min: float
    soft_max: float
    arkit: dict[str, float]
    moves: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ExploreResult(Answer):
    """How each coefficient moves the face. motions: one for each coefficient, in the bank's order."""

    motions: tuple[Motion, ...]

    def to_message(self, job: int) -> Message:
        return Message(self.kind, job, {"motions": [asdict(motion) for motion in self.motions]})

    @classmethod
    def from_message(cls, message: Message) -> Self:
        names = [field.name for field in fields(Motion)]
        return cls(tuple(Motion(*(motion[name] for name in names)) for motion in message["motions"]))


@dataclass(frozen=True)
class RenderResult(_PlainAnswer):
    """The end of a render.

    rendered: pictures that were drawn. reused: rows whose picture existed or was that of another row. cancelled:
    whether pictures are missing because the render was cancelled; those that were drawn are kept. seconds: it took.
    """

    rendered: int
    reused: int
    cancelled: bool
    seconds: float


@dataclass(frozen=True)
class EncodeResult(_PlainAnswer):
    """The movie has been written. frames: in it. seconds: it took."""

    frames: int
    seconds: float


_LARGEST = 2**63  # of the numbers in plain answers
_PLAIN_TYPES: dict[str, tuple[type, ...]] = {  # Python's types of a field's value, by the field's annotation
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (float, int),
    "float | None": (float, int, type(None)),
}
RESULTS: dict[str, type[Answer]] = {  # class of the last answer, "done", by the kind of the request
    "portrait": PortraitResult,
    "lip_sync": LipSyncResult,
    "perform": PerformResult,
    "capture": CaptureResult,
    "track": TrackResult,
    "read_plate": ReadPlateResult,
    "explore": ExploreResult,
    "preview": PreviewResult,
    "render": RenderResult,
    "encode": EncodeResult,
    "release": Done,
    "ping": Done,
}
ANSWERS: dict[str, type[Answer]] = {
    answer.kind: answer for answer in (Hello, Beat, Accepted, Progress, FrameFile, Failure)
}  # by the message's kind; "done" see `RESULTS`


def read_answer(message: Message, request: Request | None = None) -> Answer:
    """The answer that a message holds; ProtocolError for an unknown one or one that is not of the documented form.

    request: the one that the message answers, if it answers one.
    """
    if message.kind != "done":
        known = ANSWERS.get(message.kind)
    elif _ended_early(message):
        known = Stopped
    else:
        known = RESULTS.get(request.kind) if request else None
    if known is None:
        raise ProtocolError(f"The answer '{message.kind}' is not known.")
    return parse(known, message)


def was_cancelled(answer: Answer) -> bool:
    """Whether an answer says that its request ended before it was complete."""
    return isinstance(answer, Stopped) or (isinstance(answer, RenderResult) and answer.cancelled)


def _ended_early(message: Message) -> bool:
    """Whether a "done" carries no result; that of a cancelled render still counts its pictures."""
    stopped = message.fields.get("cancelled") or message.fields.get("superseded")
    return bool(stopped) and "rendered" not in message.fields


def _plain(value: Any, field: Field[Any]) -> Any:
    """The value of a field of a plain answer. Raises EDTalkError if it is not of the field's type, see `_PLAIN_TYPES`.

    Values are shown and calculated with while Blender draws, where an exception would repeat with every redraw.
    """
    if type(value) not in _PLAIN_TYPES[str(field.type)]:
        raise EDTalkError(f"'{field.name}' must be of type {field.type}, found {value!r:.40}.")
    if isinstance(value, (int, float)) and not 0 <= value <= _LARGEST:  # also refuses NaN
        raise EDTalkError(f"'{field.name}' must be a number from 0 to {_LARGEST}, found {value!r:.40}.")
    return value


def _pixels(message: Message) -> np.ndarray:
    size = as_whole(message["size"], "size", least=1)
    return np.frombuffer(message.payload, np.uint8).reshape(size, size, 3)


def _table(message: Message) -> tuple[tuple[str, ...], np.ndarray]:
    names, frames = tuple(map(str, message["names"])), as_whole(message["frames"], "frames")
    return names, np.frombuffer(message.payload, "<f4").reshape(frames, len(names))


def _suggestion(value: Any) -> Suggestion:
    if value["kind"] not in EMOTIONS:
        raise ProtocolError(f"A suggestion must be one of {', '.join(EMOTIONS)}, found {value['kind']!r:.40}.")
    start, end, strength = (as_number(value[name], name) for name in ("start", "end", "strength"))
    return Suggestion(start, end, value["kind"], strength)


def _stretches(value: Any) -> tuple[tuple[int, int], ...]:
    return tuple((as_whole(first, "unseen"), as_whole(last, "unseen")) for first, last in value)
