"""Change valid input into damaged and forged input, reproducibly."""

from __future__ import annotations

import json
import random
from typing import Any

# Values of another type, sign, size or range than any field expects. JSON writes the infinite ones as Infinity.
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, -(2**31), 2**64, 10**400, 0.5, 1e300, -1e300, float("inf"), float("nan"), "",
    "0", "a", "x" * 5000, "\0", "a\0b", "\ud800", "/dev/zero", "../..", "{}", [], [[]], [0], [1, 2, 3], {}, {"a": 1},
    [float("nan")] * 3, [None] * 5,
]  # fmt: skip
_TOKENS = [
    b"", b"0", b"-", b"-1", b"1e999", b"nan", b"inf", b"Infinity", b"9" * 30, b"9" * 5000, b",", b";", b":", b"=", b"+",
    b"%", b"\"", b"'", b"\n", b"\r", b"\t", b" " * 50, b"\0", b"\xff\xfe", b"\xef\xbb\xbf",
    "²".encode(), "\u0663".encode(),
    b"{", b"[" * 200, b"]", b"}", b"\\ud800", b"null", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff",
]  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content after one to four changes of its bytes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 4, 16, 100)))
        match rng.randrange(6):
            case 0:
                data[at:end] = bytes(rng.randrange(256) for _ in range(end - at))
            case 1:
                data[at:end] = rng.choice(_TOKENS)
            case 2:
                data[at:at] = rng.choice(_TOKENS)
            case 3:
                del data[at:end]
            case 4:
                data[at:at] = data[at:end] * rng.choice((1, 2, 50))
            case 5:
                del data[at:]
    return bytes(data)


def mutated_json(content: bytes, rng: random.Random) -> bytes:
    """JSON text with one to three of its values replaced or removed."""
    data = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = _changed(data, rng)
    return json.dumps(data).encode()


def _changed(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return rng.choice(VALUES)
    value = value.copy()
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    chance = rng.random()
    if chance < 0.1:
        del value[key]
    elif chance < 0.15 and isinstance(value, dict):
        value[rng.choice(("", "\0", "\ud800", "a", "extra"))] = value.pop(key)
    elif chance < 0.2 and isinstance(value, list):
        value.insert(key, value[key])
    else:
        value[key] = _changed(value[key], rng)
    return value
