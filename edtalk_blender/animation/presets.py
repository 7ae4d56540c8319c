"""Files of custom emotions: for each emotion, the offset from rest of every expression slider.

Standard library only. The emotion library and exported emotions have the same format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from ...inference.contract.content import content_of
from ...inference.contract.errors import EDTalkError
from ...inference.contract.files import atomic_write, read_regular
from ...inference.contract.parsing import MALFORMED, parse_json

_KEY = "edtalk_emotions"
VERSION = 1
_LARGEST = 16 * 2**20  # bytes
_EXPECTED = "expected a .json file of emotions"

Presets = dict[str, dict[str, float]]


def read(path: Path) -> Presets:
    """The emotions of a file. Raises EDTalkError with the file's name if it is missing or not an emotion file."""
    try:
        data = parse_json(read_regular(path, _LARGEST))
        version = int(data[_KEY])
        presets = {
            str(name): {str(slider): float(value) for slider, value in offsets.items()}
            for name, offsets in data["emotions"].items()
        }
    except FileNotFoundError as error:
        raise EDTalkError(f"{path} does not exist; {_EXPECTED}.", "Choose an existing emotion file.") from error
    except OSError as error:
        raise EDTalkError(f"{path} could not be read: {error.strerror}.", "Choose another file.", "disk") from error
    except MALFORMED as error:
        message = f"{path} is not an emotion file: {_EXPECTED}, found {content_of(path)}."
        raise EDTalkError(message, "Choose a file made by Export Emotions.") from error
    if version > VERSION:
        raise EDTalkError(f"{path} was written by a newer version of the extension.", "Update the extension.")
    if not all(math.isfinite(value) for offsets in presets.values() for value in offsets.values()):
        raise EDTalkError(
            f"{path} contains an emotion with infinite or undefined values.", "Choose a file made by Export Emotions."
        )
    return presets


def write(path: Path, presets: Mapping[str, Mapping[str, float]]) -> None:
    """Write emotions to a file atomically. Raises EDTalkError if it cannot be written."""
    text = json.dumps({_KEY: VERSION, "emotions": presets}, indent=1, ensure_ascii=False)
    with atomic_write(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text + "\n", encoding="utf-8")
