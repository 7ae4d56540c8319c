"""Checks of values in requests and answers. Each raises EDTalkError for a value that is not of the documented form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .errors import EDTalkError
from .parsing import MALFORMED, stored_path
from .protocol import Message, ProtocolError

Crop = str | tuple[float, ...]  # "auto", "none", or x, y, side in pixels and an optional angle in degrees, clockwise

LARGEST = 1e15  # of any number in a message; time and sizes are smaller


def set_fields(record: object, **values: Any) -> None:
    """Set checked values in a frozen dataclass."""
    for name, value in values.items():
        object.__setattr__(record, name, value)


def as_path(value: Any, name: str) -> Path:
    """A path that is not empty and that the system can represent. name: of the field, for the error."""
    try:
        return stored_path(str(value) if isinstance(value, Path) else value)
    except ValueError as error:
        raise EDTalkError(f"'{name}' must be a path, found {value!r}.") from error


def as_number(value: Any, name: str, least: float = -math.inf) -> float:
    """A finite number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST or value < least:
        limit = "" if least == -math.inf else f" of {least:g} or more"
        raise EDTalkError(f"'{name}' must be a number{limit}, found {value!r}.")
    return float(value)


def as_whole(value: Any, name: str, least: int = 0) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
        raise EDTalkError(f"'{name}' must be a whole number of {least} or more, found {value!r}.")
    return value


def crop_field(crop: Crop) -> str | list[float]:
    """A crop as messages hold it."""
    return crop if isinstance(crop, str) else list(crop)


def parse(known: type[Any], message: Message) -> Any:
    """`known.from_message(message)`; raises ProtocolError for any fault of the message."""
    try:
        return known.from_message(message)
    except ProtocolError:
        raise
    except EDTalkError as error:
        raise ProtocolError(f"The message '{message.kind}' is malformed: {error.message}") from error
    except MALFORMED as error:
        raise ProtocolError(f"The message '{message.kind}' is malformed: {error}.") from error
