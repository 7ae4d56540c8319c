"""Reading and writing messages: any input gives a message or a ProtocolError."""

from __future__ import annotations

import io
import random
import struct

import pytest
from edtalk.inference.contract import protocol
from edtalk.inference.contract.protocol import Message, ProtocolError

PREVIEW = Message("preview", 7, {"picture": "Bücher/日本.png", "crop": [1.5, 2, 30], "bank": ""}, bytes(range(256)))


def packed(message: Message) -> bytes:
    stream = io.BytesIO()
    protocol.write(stream, message)
    return stream.getvalue()


def frame(text: bytes, payload: bytes = b"", magic: bytes = protocol.MAGIC) -> bytes:
    return struct.pack("<4sII", magic, len(text), len(payload)) + text + payload


class Trickle(io.RawIOBase):
    """A pipe that returns few bytes at a time and records the largest number requested."""

    def __init__(self, data: bytes, most: int) -> None:
        self.data, self.most, self.largest = io.BytesIO(data), most, 0

    def read(self, count: int = -1) -> bytes:
        self.largest = max(self.largest, count)
        return self.data.read(min(count, self.most))


@pytest.mark.parametrize("most", [1, 5, 10_000])
def test_messages_are_read_as_they_were_written(most):
    sent = [PREVIEW, Message("ping", 2**40), Message("beat", 0, {"busy": None, "memory": 5.5}), PREVIEW]
    stream = Trickle(b"".join(map(packed, sent)), most)
    assert [protocol.read(stream) for _ in sent] == sent
    assert protocol.read(stream) is None


def test_a_missing_field_is_named():
    assert PREVIEW["crop"] == [1.5, 2, 30]
    with pytest.raises(ProtocolError, match="'preview' has no field 'shot'"):
        _ = PREVIEW["shot"]


def test_a_stream_that_ends_within_a_message_is_an_error():
    data = packed(PREVIEW)
    for length in (*range(1, 40), len(data) - 256, len(data) - 1):
        with pytest.raises(ProtocolError, match="ended"):
            protocol.read(io.BytesIO(data[:length]))


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"5", b"{}", b'{"t": "ping"}', b'{"t": "ping", "id": null}', b'{"t": "ping", "id": Infinity}',
     b'{"t": "ping", "id": NaN}', b'{"t": "ping", "id": "x"}', b'{"t": "\xff", "id": 1}', b"[" * 200_000],
)  # fmt: skip
def test_json_that_is_not_a_message_is_an_error(text):
    with pytest.raises(ProtocolError):
        protocol.read(io.BytesIO(frame(text)))


def test_printed_text_is_an_error():
    with pytest.raises(ProtocolError, match="Loading"):
        protocol.read(io.BytesIO(b"Loading model weights: 100%\n"))
    with pytest.raises(ProtocolError):
        protocol.read(io.BytesIO(frame(b'{"t": "ping", "id": 1}', magic=b"EDT9")))


@pytest.mark.parametrize("lengths", [(protocol.MAX_JSON + 1, 0), (2, protocol.MAX_PAYLOAD + 1), (2**32 - 1, 2**32 - 1)])
def test_lengths_are_checked_before_the_content_is_read(lengths):
    stream = Trickle(struct.pack("<4sII", protocol.MAGIC, *lengths) + bytes(100), 100)
    with pytest.raises(ProtocolError, match="claims"):
        protocol.read(stream)
    assert stream.largest == 12


def test_messages_over_the_limits_are_not_sent(monkeypatch):
    stream = io.BytesIO()
    with pytest.raises(ProtocolError, match="too large"):
        protocol.write(stream, Message("ping", 1, {"text": "x" * protocol.MAX_JSON}))
    monkeypatch.setattr(protocol, "MAX_PAYLOAD", 8)
    with pytest.raises(ProtocolError, match="too large"):
        protocol.write(stream, Message("ping", 1, payload=bytes(9)))
    with pytest.raises(ValueError, match="JSON"):
        protocol.write(stream, Message("ping", 1, {"eta": float("nan")}))
    assert stream.getvalue() == b""


def test_damaged_streams_give_messages_or_protocol_errors():
    source = random.Random(3)
    whole = packed(PREVIEW) + packed(Message("ping", 1))
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(source.randint(1, 4)):
            data[source.randrange(len(data) if source.random() < 0.3 else 60)] = source.randrange(256)
        stream = io.BytesIO(data)
        try:
            while (message := protocol.read(stream)) is not None:
                assert isinstance(message.kind, str)
        except ProtocolError:
            pass
