"""Emotions of the artist's own in a file: by name, how far each expression slider moves from rest.

Standard library only. The same file is the artist's library and what is handed to somebody else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from ...inference.contract.errors import EDTalkError
from ...inference.contract.files import appearing

_KEY = "edtalk_emotions"
VERSION = 1

Presets = dict[str, dict[str, float]]


def read(path: Path) -> Presets:
    """The emotions of a file; EDTalkError naming the file when it is missing or anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = int(data[_KEY])
        presets = {
            str(name): {str(slider): float(value) for slider, value in offsets.items()}
            for name, offsets in data["emotions"].items()
        }
    except FileNotFoundError as error:
        raise EDTalkError(f"{path} does not exist.", "Choose a file of emotions.") from error
    except OSError as error:
        raise EDTalkError(f"{path} could not be read: {error.strerror}.", kind="disk") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EDTalkError(f"{path} holds no emotions.", "Choose a file that was exported here.") from error
    if version > VERSION:
        raise EDTalkError(f"{path} was written by a newer version of the extension.", "Update the extension.")
    if not all(math.isfinite(value) for offsets in presets.values() for value in offsets.values()):
        raise EDTalkError(f"{path} holds an emotion that is not finite.", "Choose a file that was exported here.")
    return presets


def write(path: Path, presets: Mapping[str, Mapping[str, float]]) -> None:
    """Write emotions to a file, whole or not at all."""
    text = json.dumps({_KEY: VERSION, "emotions": presets}, indent=1, ensure_ascii=False)
    with appearing(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text + "\n", encoding="utf-8")
