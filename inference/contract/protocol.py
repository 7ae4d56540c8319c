"""The framing of messages between Blender and the worker, over the worker's stdin and stdout.

A message is a 12-byte header `EDT1 | u32 length of the JSON | u32 length of the payload` (little endian), a JSON object
in UTF-8, and raw bytes. The JSON field `t` is the kind of message, `id` the number of the request that it belongs to,
chosen by Blender. `requests` has a class for each kind; `docs/protocol.md` describes them all.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import IO, Any

from .errors import EDTalkError
from .parsing import MALFORMED, parse_json

VERSION = 1
MAGIC = b"EDT1"
MAX_JSON = 2**20  # bytes
MAX_PAYLOAD = 256 * 2**20  # bytes; an hour of sound at 16 kHz has 230 MB
_HEADER = struct.Struct("<4sII")


class ProtocolError(EDTalkError):
    """The other process sent, or is to be sent, something that does not follow the protocol."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "Update the extension and its engine to the same version.", "protocol")


@dataclass(frozen=True)
class Message:
    """One message. kind, job: `t` and `id` of the JSON object. fields: the rest of it."""

    kind: str
    job: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    def __getitem__(self, name: str) -> Any:
        """A field of the JSON object; raises ProtocolError if it is missing."""
        try:
            return self.fields[name]
        except KeyError:
            raise ProtocolError(f"The message '{self.kind}' has no field '{name}'.") from None


def encode(message: Message) -> bytes:
    """Header and JSON of a message, to be followed by its payload. Raises ProtocolError if it exceeds the limits."""
    text = json.dumps({"t": message.kind, "id": message.job, **message.fields}, allow_nan=False).encode()
    if len(text) > MAX_JSON or len(message.payload) > MAX_PAYLOAD:
        raise ProtocolError(
            f"The message '{message.kind}' is too large: {len(text)} bytes of JSON, {len(message.payload)} of payload."
        )
    return _HEADER.pack(MAGIC, len(text), len(message.payload)) + text


def write(stream: IO[bytes], message: Message) -> None:
    """Write and flush one message. The caller ensures that only one thread writes at a time."""
    stream.write(encode(message))
    if message.payload:
        stream.write(message.payload)
    stream.flush()


def read(stream: IO[bytes]) -> Message | None:
    """The next message, or None at the end of the stream. Blocks. Lengths are checked before memory is allocated.

    Raises ProtocolError for bytes that are not a message and for a stream that ends within a message.
    """
    header = _exactly(stream, _HEADER.size, may_end=True)
    if not header:
        return None
    magic, json_length, payload_length = _HEADER.unpack(header)
    if magic != MAGIC:
        raise ProtocolError(f"Expected a message, found the bytes {header[:12]!r}.")
    if json_length > MAX_JSON or payload_length > MAX_PAYLOAD:
        raise ProtocolError(f"A message claims {json_length} bytes of JSON and {payload_length} of payload: too large.")
    text = _exactly(stream, json_length)
    payload = _exactly(stream, payload_length) if payload_length else b""
    try:
        fields = parse_json(text)
        kind, job = str(fields.pop("t")), int(fields.pop("id"))
    except MALFORMED as error:
        raise ProtocolError(f"A message's JSON is unreadable: {text[:80]!r}.") from error
    return Message(kind, job, fields, payload)


def _exactly(stream: IO[bytes], count: int, *, may_end: bool = False) -> bytes:
    """`count` bytes, or none if the stream ends before the first of them and `may_end`."""
    parts, missing = [], count
    while missing:
        part = stream.read(missing)
        if not part:
            if may_end and missing == count:
                return b""
            raise ProtocolError(f"The stream ended {missing} bytes before the end of a message.")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
