"""Messages between Blender and the worker, over the worker's stdin and stdout. Standard library only.

A message is a 12-byte header `EDT1 | u32 length of the JSON | u32 length of the payload` (little endian), a JSON
object in UTF-8, and raw bytes. Its `t` says what it is; `id` is the job that it belongs to, chosen by Blender.

Blender asks      with                                          payload
`portrait`        bank, picture, crop
`lip_sync`        bank, rate, samples, times (two counts)       samples float32, then times in seconds float64
`capture`         bank, media, crop, fps, start, end, which, rest
`track`           media, crop, start, end, which
`render`          shot (a folder, see `inference.contract.shot`)
`preview`         bank, picture, crop                           one row of coefficients, float32
`explore`         bank, picture, crop
`cancel`          id of the job
`ping`, `release` (free the device's memory), `shutdown`

bank and picture are paths, bank "" is the embedded one. crop is "auto", "none", or [x, y, side] in pixels of the
picture, with an angle in degrees clockwise as a fourth number where the square is turned (`contract.shot.as_crop`).
media is a video, a folder of pictures or a picture, of which what is on screen from `start` seconds to `end` (null: to
its end) is captured, `fps` times a second (null: at its own rate, from the beginning of the frame on screen at `start`;
25 for pictures). `track` follows a face through every frame that is on screen from `start` to `end`, which are times of
the media's own (`contract.plate`): a folder's pictures are counted from 0. which may be left out and says which of
several faces is meant: null (there must be one only), a number from the left, from 1, or from the right, from -1,
"largest", or [x, y] for the nearest to that pixel. rest may be left out: at how many seconds the recorded face is known
to be at rest, null: not known. Payloads are little endian.

Jobs are done in the order asked, but `render`, `capture`, `track` and `explore` make way between two frames for all but
renders, `release` and jobs of their own kind. A preview that has not begun is dropped when a newer one of the same
bank, picture and crop comes. After `cancel` the job still ends with `done` (or with an `error`, or its full result, if
that came first).

The worker answers, after `hello` (protocol, engine, device, device_name, pid, python, torch) as the first message of
all, in whose place an `error` with id 0 says why it cannot start:

`accepted`        the job has begun (not for `ping` and `release`, which are only answered with `done`)
`progress`        phase ("loading", "listening", "watching", "tracking", "exploring", "rendering"), done, total, eta
                  (seconds, null)
`frame_file`      index (row of the shot, in any order), file (its name), reused (there already)
`done`            the job's result, or cancelled: true. portrait: rest {name: value}, size; payload RGB uint8
                  (size, size, 3), top row first; crop "none" or [x, y, side] and angle, to be shown: the square found
                  by "auto" is nearly always turned a little, so a character keeps "auto", or all four numbers.
                  lip_sync: names, frames; payload float32 (frames, len(names)). capture: as lip_sync, and of the
                  rows fps and start (seconds), and unseen, [first, last] of each stretch of rows in which no face was
                  seen (they are carried over from those around), and note, a sentence on them or "". track: frames,
                  width, height, fps (null for pictures), sha256 (of the media, as `contract.plate.Plate` has it),
                  unseen and note; payload as of `contract.plate.Track.to_bytes`. preview: size, payload as portrait,
                  or superseded: true. render: rendered (pictures drawn), reused (other rows), cancelled, seconds.
                  explore: motions, one object for each coefficient in the bank's order, with the fields of
                  `inference.explore.Motion`
`error`           kind, message, hint, code: see `contract.errors`; ends the job. With id 0 it belongs to no job and
                  the worker ends after it
`beat`            every second: busy (id or null), memory and device_memory (bytes, or null where not known)
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO

VERSION = 1
MAGIC = b"EDT1"
MAX_JSON = 2**20
MAX_PAYLOAD = 256 * 2**20  # an hour of sound at 16 kHz is 230 MB
_HEADER = struct.Struct("<4sII")


class ProtocolError(Exception):
    """The other side sent something that is no message."""


@dataclass(frozen=True)
class Message:
    """One message; `fields` are the JSON object without `t` and `id`."""

    kind: str
    job: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    def __getitem__(self, name: str) -> Any:
        """A field; raises ProtocolError when the sender left it out."""
        try:
            return self.fields[name]
        except KeyError:
            raise ProtocolError(f"The message '{self.kind}' lacks '{name}'.") from None


def encode(message: Message) -> bytes:
    """Header and JSON; the payload follows as it is. Raises ProtocolError for a message over the limits."""
    text = json.dumps({"t": message.kind, "id": message.job, **message.fields}, allow_nan=False).encode()
    if len(text) > MAX_JSON or len(message.payload) > MAX_PAYLOAD:
        raise ProtocolError(
            f"The message '{message.kind}' is too large: {len(text)} bytes of JSON, {len(message.payload)} of payload."
        )
    return _HEADER.pack(MAGIC, len(text), len(message.payload)) + text


def write(stream: BinaryIO, message: Message) -> None:
    """Write and flush one message; the caller sees to it that only one thread does so at a time."""
    stream.write(encode(message))
    if message.payload:
        stream.write(message.payload)
    stream.flush()


def read(stream: BinaryIO) -> Message | None:
    """The next message, or None where the stream ends between two. Blocks; lengths are checked before allocation.

    Raises ProtocolError for anything else than a message, a stream that ends within one included.
    """
    header = _exactly(stream, _HEADER.size, start=True)
    if header is None:
        return None
    magic, json_length, payload_length = _HEADER.unpack(header)
    if magic != MAGIC:
        raise ProtocolError(f"Expected a message, found the bytes {header[:12]!r}.")
    if json_length > MAX_JSON or payload_length > MAX_PAYLOAD:
        raise ProtocolError(f"A message claims {json_length} bytes of JSON and {payload_length} of payload.")
    text = _exactly(stream, json_length)
    payload = _exactly(stream, payload_length) if payload_length else b""
    try:
        fields = json.loads(text)
        kind, job = str(fields.pop("t")), int(fields.pop("id"))
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"A message's JSON is unreadable: {text[:80]!r}.") from error
    return Message(kind, job, fields, payload)


def _exactly(stream: BinaryIO, count: int, *, start: bool = False) -> bytes | None:
    parts, missing = [], count
    while missing:
        part = stream.read(missing)
        if not part:
            if start and missing == count:
                return None
            raise ProtocolError(f"The stream ended {missing} bytes before the end of a message.")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
