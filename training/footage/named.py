"""What is known of clips beside their pictures: persons and emotions that folders or tables name, and their sound."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference.contract.emotion import NEUTRAL
from inference.contract.errors import EDTalkError
from inference.contract.expression import EMOTIONS

FOLDERS = (NEUTRAL, *EMOTIONS)  # names of folders that name an emotion
_EMOTION = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)


@dataclass(frozen=True)
class KnownTake:
    """A take: its clip's name and SHA-256, the emotion that it shows ("" if nobody says so), and its clip's sound."""

    clip: str
    sha256: str
    emotion: str
    sound: Path | None

    def samples(self) -> np.ndarray | None:
        """(n,) float32 at 16 kHz from the clip's begin; None without sound."""
        return None if self.sound is None else np.load(self.sound).astype(np.float32) / 32767.0


def emotion_of_folder(clip: Path, root: Path) -> str:
    """The emotion that a folder between `root` and a clip names, "" if none does."""
    if not clip.is_relative_to(root) or clip == root:
        return ""
    folders = [part.lower() for part in clip.relative_to(root).parts[:-1]]
    return next((part for part in folders if part in FOLDERS), "")


def read_table(path: Path, what: str, clips: Collection[str]) -> dict[str, str]:
    """Clip name to `what` ("person" or "emotion") of a CSV file with two columns, with or without a line of headings.

    clips: names that may occur. Raises EDTalkError for another form, an unknown clip, or a word that is no emotion.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise EDTalkError(f"{path} cannot be read: {reason}.", f"Give a CSV file with lines of clip,{what}.") from error
    if rows and [cell.lower() for cell in rows[0]] == ["clip", what]:
        rows = rows[1:]
    values: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not all(row):
            raise EDTalkError(
                f"{path} has {len(row)} columns in row {number}; expected two, clip and {what}.",
                f"Write lines such as {next(iter(sorted(clips)), 'a.mp4')},{'happy' if what == 'emotion' else 'Anna'}.",
            )
        name, value = Path(row[0]).name, row[1]
        if name not in clips:
            raise EDTalkError(f"{path} names the clip '{row[0]}', which is not among the clips.", "Correct its name.")
        if what == "emotion":
            value = value.lower()
            if not _EMOTION.fullmatch(value):
                raise EDTalkError(f"{path} has an emotion '{value}' in row {number}.", "Write one word such as happy.")
        values[name] = value
    return values


def known_takes(folder: Path) -> list[KnownTake]:
    """All takes of prepared footage, in the order of `Footage.take_ids`."""
    state = json.loads((folder / "clips.json").read_text())
    takes = []
    for digest in dict.fromkeys(state["used"]):
        entry = state["clips"][digest]
        sound = folder / entry["sound"] if entry.get("sound") else None
        takes += [KnownTake(entry["name"], digest, entry.get("emotion", ""), sound)] * len(entry["takes"])
    return takes


def frames_by_emotion(clip: np.ndarray, takes: Iterable[KnownTake]) -> Mapping[str, np.ndarray]:
    """Frame numbers by emotion. clip: (N,) take of each frame."""
    emotions = [take.emotion for take in takes]
    named = np.array([emotions[number] for number in clip])
    return {name: np.flatnonzero(named == name) for name in sorted(set(emotions) - {""})}
