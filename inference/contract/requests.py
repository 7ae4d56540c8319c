"""Every request that the worker understands. Standard library and numpy only.

    message = Preview(bank, picture, "auto", row).to_message(job=7)   # Blender sends
    request = read_request(message)                                    # the worker reads

A constructor checks its values and raises EDTalkError. `read_request` raises ProtocolError for a message that is not of
the documented form; unknown fields are ignored. `answers` has a class for each answer. `docs/protocol.md` describes the
wire format, `protocol` reads and writes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from .checks import Crop, as_number, as_path, as_whole, crop_field, parse, set_fields
from .errors import EDTalkError
from .expression import SpokenText, as_parts, as_source, as_texts, read_texts, texts_field
from .head import check_head_motion
from .parsing import parse_json
from .plate import Track as FaceTrack
from .protocol import Message, ProtocolError
from .shot import LARGEST, as_crop

Which = int | str | tuple[float, float] | None  # see `Capture`

FASTEST = 1000.0  # frames per second
CODECS = ("h264", "prores", "ffv1")
SHORTEST_SOUND = 0.04  # seconds that lip-sync needs: one frame of the network's own rate


class Request:
    """Base class of the requests. `kind` is the `t` of the message."""

    kind: ClassVar[str]

    def to_message(self, job: int) -> Message:
        """The message to send. job: a number that identifies the request among all of one worker."""
        return Message(self.kind, job)

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """The request that a message holds; call `read_request` instead, which checks the message too."""
        return cls()


@dataclass(frozen=True)
class FaceRequest(Request):
    """A request about the face of one picture.

    bank: the bank file, None for the embedded bank. picture: the portrait. crop: the square around the face: "auto"
    detects it, "none" takes the whole picture, or x, y, side in pixels of the picture and an optional angle in degrees,
    clockwise about the centre of the square.
    """

    bank: Path | None
    picture: Path
    crop: Crop

    def __post_init__(self) -> None:
        set_fields(self, bank=_bank(self.bank), picture=as_path(self.picture, "picture"), crop=as_crop(self.crop))

    def to_message(self, job: int) -> Message:
        return Message(self.kind, job, self._face)

    @classmethod
    def from_message(cls, message: Message) -> Self:
        return cls(message["bank"], message["picture"], message["crop"])

    @property
    def _face(self) -> dict[str, Any]:
        return {"bank": str(self.bank or ""), "picture": str(self.picture), "crop": crop_field(self.crop)}


class Portrait(FaceRequest):
    """Measure the coefficients of a portrait and return the cropped face. Answer: `PortraitResult`."""

    kind = "portrait"


class Explore(FaceRequest):
    """Measure how each coefficient of the bank moves the face. Answer: `ExploreResult`."""

    kind = "explore"


@dataclass(frozen=True, eq=False)
class Preview(FaceRequest):
    """Render the face with one row of coefficients. Answer: `PreviewResult`.

    A preview that has not started is superseded by a newer one of the same face. coefficients: (n,) float32, in the
    order of the bank's names. size: width of the square in pixels, at most 4096; smaller than the bank's own, such as
    0: the bank's own.
    """

    kind = "preview"
    coefficients: np.ndarray
    size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(
            self,
            coefficients=np.asarray(self.coefficients, "<f4").reshape(-1),
            size=as_whole(self.size, "size"),
        )
        if self.size > LARGEST:
            raise EDTalkError(f"'size' must be at most {LARGEST} pixels, found {self.size}.")

    def to_message(self, job: int) -> Message:
        size = {"size": self.size} if self.size else {}
        return Message(self.kind, job, self._face | size, self.coefficients.tobytes())

    @classmethod
    def from_message(cls, message: Message) -> Self:
        coefficients, size = np.frombuffer(message.payload, "<f4"), message.fields.get("size", 0)
        return cls(message["bank"], message["picture"], message["crop"], coefficients, size)

    def shows_same_face(self, other: object) -> bool:
        """Whether the other request is a preview of the same bank, picture and crop."""
        return isinstance(other, Preview) and self._face == other._face


@dataclass(frozen=True, eq=False)
class LipSync(Request):
    """Compute lip coefficients from speech. Answer: `LipSyncResult`.

    samples: (n,) float32, one channel, -1 to 1. rate: samples per second. times: (T,) float64, the moments for which
    coefficients are wanted, in seconds from the first sample; they may lie outside the sound.
    """

    kind = "lip_sync"
    bank: Path | None
    rate: int
    samples: np.ndarray
    times: np.ndarray

    def __post_init__(self) -> None:
        set_fields(
            self,
            bank=_bank(self.bank),
            rate=int(as_number(self.rate, "rate", least=1)),
            samples=np.asarray(self.samples, "<f4").reshape(-1),
            times=np.asarray(self.times, "<f8").reshape(-1),
        )
        if not np.isfinite(self.times).all():
            raise EDTalkError("'times' must be finite numbers of seconds.")

    def to_message(self, job: int) -> Message:
        counts = {"samples": len(self.samples), "times": len(self.times)}
        payload = self.samples.tobytes() + self.times.tobytes()
        return Message(self.kind, job, {"bank": str(self.bank or ""), "rate": self.rate, **counts}, payload)

    @classmethod
    def from_message(cls, message: Message) -> Self:
        samples, times = (as_whole(message[name], name) for name in ("samples", "times"))
        expected, found = 4 * samples + 8 * times, len(message.payload)
        if found != expected:
            raise ProtocolError(f"{samples} samples and {times} times are {expected} bytes, found {found}.")
        sound = np.frombuffer(message.payload, "<f4", samples)
        return cls(message["bank"], message["rate"], sound, np.frombuffer(message.payload, "<f8", times, 4 * samples))


@dataclass(frozen=True, eq=False)
class Perform(Request):
    """Draw head motion, emotions, and motion of brows and eyes from the speech in a sound. Answer: `PerformResult`.

    media: sound or video file, which is read whole, so that motion depends on the place in the file only. times: (T,)
    float64, the moments for which motion is wanted, in seconds of the file. seeds: 0 to 2**32 - 1, one for each head
    motion; brows, blinks and gaze use the first. sway, nods: 0 to 2, gains of the motion below and above 0.8 Hz.

    want: what is drawn, see `expression.PARTS`. text: what is said, a str for the whole sound or `SpokenText` with
    times in seconds of the file. emotion_from: "both", "voice" or "words", from which emotion is detected.
    """

    kind = "perform"
    bank: Path | None
    media: Path
    times: np.ndarray
    seeds: tuple[int, ...] = (0,)
    sway: float = 1.0
    nods: float = 1.0
    want: tuple[str, ...] = ("head",)
    text: tuple[SpokenText, ...] | str = ()
    emotion_from: str = "both"

    def __post_init__(self) -> None:
        set_fields(
            self,
            bank=_bank(self.bank),
            media=as_path(self.media, "media"),
            times=np.asarray(self.times, "<f8").reshape(-1),
            seeds=tuple(as_whole(seed, "seeds") for seed in self.seeds),
            sway=as_number(self.sway, "sway"),
            nods=as_number(self.nods, "nods"),
            want=as_parts(self.want),
            text=as_texts(self.text),
            emotion_from=as_source(self.emotion_from),
        )
        check_head_motion(self.sway, self.nods, self.seeds)
        if not np.isfinite(self.times).all():
            raise EDTalkError("'times' must be finite numbers of seconds.")

    @property
    def texts(self) -> tuple[SpokenText, ...]:
        """`text`, always with times."""
        return as_texts(self.text)

    def to_message(self, job: int) -> Message:
        content: dict[str, Any] = {"bank": str(self.bank or ""), "media": str(self.media), "times": len(self.times)}
        content |= {"seeds": list(self.seeds), "sway": self.sway, "nods": self.nods, "want": list(self.want)}
        content |= {"text": texts_field(self.texts), "emotion_from": self.emotion_from}
        return Message(self.kind, job, content, self.times.tobytes())

    @classmethod
    def from_message(cls, message: Message) -> Self:
        times, found = as_whole(message["times"], "times"), len(message.payload)
        if found != 8 * times:
            raise ProtocolError(f"{times} times are {8 * times} bytes, found {found}.")
        needed = {name: message[name] for name in ("bank", "media", "seeds", "sway", "nods")}
        needed |= {name: message.fields[name] for name in ("want", "emotion_from") if name in message.fields}
        texts = read_texts(message.fields.get("text", ()))
        return cls(**needed, times=np.frombuffer(message.payload, "<f8", times), text=texts)


@dataclass(frozen=True)
class Capture(Request):
    """Measure the coefficients of a face in every frame of a recording. Answer: `CaptureResult`.

    bank, crop: as for `Portrait`. media: a video, a folder of pictures or one picture. fps: rows per second; None: the
    rate of the video, from the frame that is visible at `start`, or 25 for pictures. start, end: seconds of the
    recording, `end` excluded; end None: to its end. which: which of several faces is meant: None if there must be only
    one, a number counted from the left (1, 2 ...) or from the right (-1, -2 ...), "largest", or the (x, y) in pixels
    that the face is nearest to. rest: time in seconds at which the face is neutral; None: the frame with the smallest
    coefficients is used.
    """

    kind = "capture"
    bank: Path | None
    media: Path
    crop: Crop = "auto"
    fps: float | None = None
    start: float = 0.0
    end: float | None = None
    which: Which = None
    rest: float | None = None

    def __post_init__(self) -> None:
        start, end = _span(self.kind, self.start, self.end)
        set_fields(
            self,
            bank=_bank(self.bank),
            media=as_path(self.media, "media"),
            crop=as_crop(self.crop),
            fps=None if self.fps is None else as_number(self.fps, "fps"),
            start=start,
            end=end,
            which=_which(self.which),
            rest=None if self.rest is None else as_number(self.rest, "rest", least=0),
        )
        if self.fps is not None and not 0 < self.fps <= FASTEST:
            raise EDTalkError(f"The frame rate must be above 0 and at most {FASTEST:g} fps, found {self.fps:g}.")

    def to_message(self, job: int) -> Message:
        content = {"bank": str(self.bank or ""), "media": str(self.media), "crop": crop_field(self.crop)}
        span = {"fps": self.fps, "start": self.start, "end": self.end}
        return Message(self.kind, job, content | span | {"which": _which_field(self.which), "rest": self.rest})

    @classmethod
    def from_message(cls, message: Message) -> Self:
        needed = {name: message[name] for name in ("bank", "media", "crop", "fps", "start", "end")}
        return cls(**needed, which=message.fields.get("which"), rest=message.fields.get("rest"))


@dataclass(frozen=True)
class Track(Request):
    """Find the square around a face in every frame of a recording, for dubbing. Answer: `TrackResult`.

    media, crop, which: as for `Capture`. start, end: all frames that are visible between these times are tracked, in
    seconds of the recording; frame k of a folder of pictures is visible from k to k + 1. end None: to its end.
    """

    kind = "track"
    media: Path
    crop: Crop = "auto"
    start: float = 0.0
    end: float | None = None
    which: Which = None

    def __post_init__(self) -> None:
        start, end = _span(self.kind, self.start, self.end)
        media, crop, which = as_path(self.media, "media"), as_crop(self.crop), _which(self.which)
        set_fields(self, media=media, crop=crop, start=start, end=end, which=which)

    def to_message(self, job: int) -> Message:
        content = {"media": str(self.media), "crop": crop_field(self.crop), "start": self.start, "end": self.end}
        return Message(self.kind, job, content | {"which": _which_field(self.which)})

    @classmethod
    def from_message(cls, message: Message) -> Self:
        needed = {name: message[name] for name in ("media", "crop", "start", "end")}
        return cls(**needed, which=message.fields.get("which"))


@dataclass(frozen=True, eq=False)
class ReadPlate(Request):
    """Read the face in every frame of a tracked recording, for reference frames. Answer: `ReadPlateResult`.

    bank: the bank file, None for the embedded bank. media: the recording. track: see `TrackResult`.
    """

    kind = "read_plate"
    bank: Path | None
    media: Path
    track: FaceTrack

    def __post_init__(self) -> None:
        set_fields(self, bank=_bank(self.bank), media=as_path(self.media, "media"))

    def to_message(self, job: int) -> Message:
        content = {"bank": str(self.bank or ""), "media": str(self.media), "frames": len(self.track)}
        return Message(self.kind, job, content, self.track.to_bytes())

    @classmethod
    def from_message(cls, message: Message) -> Self:
        track = FaceTrack.from_bytes(message.payload)
        if len(track) != message["frames"]:
            raise ProtocolError(f"A track of {message['frames']} frames has {len(track)} rows.")
        return cls(message["bank"], message["media"], track)


@dataclass(frozen=True)
class Render(Request):
    """Render the frames of a shot that do not exist yet. Answers: `FrameFile` for each row, then `RenderResult`.

    shot: the folder that `inference.contract.shot.Shot.write` made. rows: the first row to render and the one after the
    last; None: all rows.
    """

    kind = "render"
    shot: Path
    rows: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        set_fields(self, shot=as_path(self.shot, "shot"), rows=_rows(self.rows))

    def to_message(self, job: int) -> Message:
        rows = {} if self.rows is None else {"rows": list(self.rows)}
        return Message(self.kind, job, {"shot": str(self.shot)} | rows)

    @classmethod
    def from_message(cls, message: Message) -> Self:
        return cls(message["shot"], message.fields.get("rows"))


@dataclass(frozen=True)
class Encode(Request):
    """Write pictures and a sound as a movie. Answer: `EncodeResult`.

    pictures: a file for each frame; a frame may repeat. fps: frames per second. movie: the file to write, .mp4, .mov or
    .mkv. codec: "h264", "prores" or "ffv1". width: of the movie in pixels; 0: that of the pictures. sound: a file that
    starts with the first frame, None for a silent movie.
    """

    kind = "encode"
    pictures: tuple[Path, ...]
    fps: float
    movie: Path
    codec: str = "h264"
    width: int = 0
    sound: Path | None = None

    def __post_init__(self) -> None:
        set_fields(
            self,
            pictures=tuple(as_path(picture, "pictures") for picture in self.pictures),
            fps=as_number(self.fps, "fps"),
            movie=as_path(self.movie, "movie"),
            width=as_whole(self.width, "width"),
            sound=None if self.sound is None else as_path(self.sound, "sound"),
        )
        if not self.pictures:
            raise EDTalkError("A movie needs at least one picture, found none.")
        if self.codec not in CODECS:
            raise EDTalkError(f"The codec must be {', '.join(CODECS)}, found {self.codec!r:.40}.")
        if self.width > LARGEST:
            raise EDTalkError(f"The width must be at most {LARGEST} pixels, found {self.width}.")
        if not 0 < self.fps <= FASTEST:
            raise EDTalkError(f"The frame rate must be above 0 and at most {FASTEST:g} fps, found {self.fps:g}.")

    def to_message(self, job: int) -> Message:
        content = {"fps": self.fps, "movie": str(self.movie), "codec": self.codec, "width": self.width}
        sound = None if self.sound is None else str(self.sound)
        pictures = json.dumps([str(picture) for picture in self.pictures]).encode()
        return Message(self.kind, job, content | {"sound": sound}, pictures)

    @classmethod
    def from_message(cls, message: Message) -> Self:
        names = ("fps", "movie", "codec", "width", "sound")
        pictures = parse_json(message.payload)
        if not isinstance(pictures, list):
            raise ProtocolError("The payload must be a JSON list of files.")
        return cls(tuple(pictures), **{name: message[name] for name in names})


@dataclass(frozen=True)
class Release(Request):
    """Free the memory of all loaded banks and faces, including that of the device. Answer: `Done`."""

    kind = "release"


@dataclass(frozen=True)
class Ping(Request):
    """Check that the worker answers. Answer: `Done`, which may come between two frames of a long request."""

    kind = "ping"


@dataclass(frozen=True)
class Cancel(Request):
    """Stop the request whose number is the `job` of the message. There is no separate answer."""

    kind = "cancel"


@dataclass(frozen=True)
class Shutdown(Request):
    """End the worker after the frame that it is computing. Has no answer."""

    kind = "shutdown"


REQUESTS: dict[str, type[Request]] = {
    request.kind: request
    for request in (
        Portrait,
        LipSync,
        Perform,
        Capture,
        Track,
        ReadPlate,
        Explore,
        Preview,
        Render,
        Encode,
        Release,
        Ping,
        Cancel,
        Shutdown,
    )
}


def read_request(message: Message) -> Request:
    """The request that a message holds; ProtocolError for an unknown one or one that is not of the documented form."""
    known = REQUESTS.get(message.kind)
    if known is None:
        raise ProtocolError(f"The worker does not know the request '{message.kind}'.")
    return parse(known, message)


def _bank(value: Any) -> Path | None:
    """The path of a bank; messages have "" for the embedded one."""
    return None if value is None or value == "" else as_path(value, "bank")


def _span(kind: str, start: Any, end: Any) -> tuple[float, float | None]:
    start, end = as_number(start, "start", least=0), None if end is None else as_number(end, "end")
    if end is not None and end <= start:
        raise EDTalkError(f"The end of a {kind} must lie after its start, found {start:g} s to {end:g} s.")
    return start, end


def _rows(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise EDTalkError(f"'rows' must be the first row and the one after the last, found {value!r:.40}.")
    first, end = as_whole(value[0], "rows"), as_whole(value[1], "rows")
    if first >= end:
        raise EDTalkError(f"The end of 'rows' must lie after its start, found {first} to {end}.")
    return first, end


def _which(value: Any) -> Which:
    if value is None or value == "largest" or (type(value) is int and value):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        return as_number(value[0], "which"), as_number(value[1], "which")
    raise EDTalkError(f"'which' must be the number of a face, 'largest' or a point (x, y), found {value!r}.")


def _which_field(which: Which) -> int | str | list[float] | None:
    return list(which) if isinstance(which, tuple) else which
