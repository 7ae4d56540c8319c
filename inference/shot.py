"""A shot: everything that a stretch of frames is rendered from, in a folder that a worker or a farm can read.

Every picture is named by what it was made from. So a frame that did not change is never rendered again however the
timeline moved, frames that hold share one file, undoing an edit finds the old pictures, and nobody who keeps files by
name shows a stale one. Standard library and numpy only: Blender writes shots, the worker reads them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from .coefficients import Coefficients
from .errors import EDTalkError, disk_error
from .files import appearing

FORMAT_VERSION = 1
PICTURE_VERSION = 1  # raised when the engine comes to make other pictures from the same inputs: all are made anew then
IMAGE_FORMATS = ("png", "exr")
_SHOT, _TABLE = "shot.json", "coefficients.npy"
_RANGE = re.compile(r"\s*(-?\d+)(?:-(-?\d+))?\s*")
_AGAIN = "Render the shot again from Blender."


def as_crop(value: object) -> str | tuple[float, ...]:
    """A crop as shots and messages give it: "auto", "none", or x, y, side in pixels and optionally an angle.

    The angle is in degrees, clockwise, about the square's centre; it is left out where it is 0. Raises EDTalkError for
    anything else.
    """
    if isinstance(value, str) and value in ("auto", "none"):
        return value
    try:
        numbers = () if isinstance(value, str) else tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) in (3, 4) and all(map(math.isfinite, numbers)) and numbers[2] > 0:
        return numbers[:3] if numbers[3:] == (0,) else numbers
    raise EDTalkError(
        f"A crop is auto, none, or x, y and side in pixels and perhaps an angle, found {value!r}.",
        "Set the crop again.",
        "face",
    )


@dataclass(frozen=True, eq=False)
class Shot:
    """One face over some frames.

    bank: the file, and bank_sha256 the hash in its metadata. crop: see `as_crop`. coefficients: one row a frame, final
    values in the bank's column order. frames_folder: where pictures go, made when the first is written.
    first_frame: the scene's number of row 0. image_format: "png" or "exr".
    sound: what is heard from row 0 on, if anything; no picture depends on it.
    Raises EDTalkError for another crop or format, or no rows.
    """

    bank: Path
    bank_sha256: str
    portrait: Path
    crop: str | tuple[float, ...]
    coefficients: Coefficients
    frames_folder: Path
    first_frame: int = 1
    image_format: str = "png"
    sound: Path | None = None

    def __post_init__(self) -> None:
        for name in ("bank", "portrait", "frames_folder"):
            object.__setattr__(self, name, Path(getattr(self, name)))
        object.__setattr__(self, "sound", None if self.sound is None else Path(self.sound))
        object.__setattr__(self, "crop", as_crop(self.crop))
        if self.image_format not in IMAGE_FORMATS:
            raise EDTalkError(f"Frames are {' or '.join(IMAGE_FORMATS)} files, found '{self.image_format}'.")
        if not len(self.coefficients):
            raise EDTalkError("A shot needs at least one frame, found none.", "Choose a longer range.")

    @property
    def portrait_sha256(self) -> str:
        """Of the portrait's bytes; EDTalkError(kind="media") when it cannot be read."""
        return file_sha256(self.portrait)

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        made_from = [PICTURE_VERSION, self.bank_sha256, self.portrait_sha256, self.crop, self.image_format]
        start = hashlib.sha256(json.dumps(made_from).encode())
        keys = []
        for row in self.coefficients.values.astype("<f4") + np.float32(0):  # -0 and 0 are the same picture
            digest = start.copy()
            digest.update(row.tobytes())
            keys.append(digest.hexdigest()[:20])
        return tuple(keys)

    def keys(self) -> tuple[str, ...]:
        """20 hexadecimal digits a row, equal where the pictures are; they do not depend on the row's frame."""
        return self._keys

    def file_names(self) -> tuple[str, ...]:
        """The name of each row's picture in `frames_folder`."""
        return tuple(f"{key}.{self.image_format}" for key in self._keys)

    def missing(self, rows: Iterable[int] | None = None) -> list[int]:
        """Rows to render, in order: the first one of each picture that has no file yet, or an empty one.

        rows: ascending, those to look at; default all. All of them are missing where the folder cannot be read; what is
        wrong with it comes out when the first is written.
        """
        there: set[str] = set()
        with suppress(OSError), os.scandir(self.frames_folder) as entries:
            there = {entry.name for entry in entries if entry.stat().st_size}
        first, names = {}, self.file_names()
        for row in range(len(names)) if rows is None else rows:
            first.setdefault(names[row], row)
        return [row for name, row in first.items() if name not in there]

    def write(self, folder: str | os.PathLike[str]) -> Shot:
        """Write the shot with copies of its portrait and sound into a folder, made if need be; returns it as `read`
        finds it.

        Each file appears whole or not at all, `shot.json` last. Raises EDTalkError(kind="disk").
        """
        folder = Path(folder)
        table = BytesIO()
        np.save(table, self.coefficients.values.astype("<f4"), allow_pickle=False)
        portrait = folder / self.portrait.name
        sound = self.sound and folder / self.sound.name
        data = {
            "format_version": FORMAT_VERSION,
            "bank": _relative(self.bank, folder),
            "bank_sha256": self.bank_sha256,
            "portrait": portrait.name,
            "portrait_sha256": self.portrait_sha256,
            "crop": self.crop,
            "names": self.coefficients.names,
            "fps": self.coefficients.fps,
            "coefficients_sha256": hashlib.sha256(table.getvalue()).hexdigest(),
            "frames_folder": _relative(self.frames_folder, folder),
            "first_frame": self.first_frame,
            "image_format": self.image_format,
        }
        if sound:
            data["sound"] = sound.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(folder, error) from error
        if not portrait.is_file() or file_sha256(portrait) != self.portrait_sha256:
            write_whole(portrait, _read_bytes(self.portrait))
        if sound and not (sound.exists() and sound.samefile(self.sound)):
            write_whole(sound, _sound_bytes(self.sound))
        write_whole(folder / _TABLE, table.getvalue())
        write_whole(folder / _SHOT, json.dumps(data, indent=1).encode())
        return replace(self, portrait=portrait, sound=sound)

    @staticmethod
    def read(folder: str | os.PathLike[str]) -> Shot:
        """The shot of a folder; raises EDTalkError naming the file that is missing, damaged or of another shot."""
        folder = Path(folder)
        path = folder / _SHOT
        try:
            data = json.loads(path.read_bytes())
            version = int(data["format_version"])
            if version > FORMAT_VERSION:
                raise EDTalkError(
                    f"{path} has shot format {version}, this version reads up to {FORMAT_VERSION}.",
                    "Update the extension.",
                )
            table = (folder / _TABLE).read_bytes()
            if hashlib.sha256(table).hexdigest() != data["coefficients_sha256"]:
                raise EDTalkError(f"{folder / _TABLE} is damaged, or belongs to another shot.", _AGAIN)
            shot = _from_json(folder, data, np.load(BytesIO(table), allow_pickle=False))
        except FileNotFoundError as error:
            raise EDTalkError(f"{folder} is not a whole shot: {error.filename} does not exist.", _AGAIN) from error
        except OSError as error:
            raise EDTalkError(f"{error.filename or path} could not be read: {error.strerror}.", _AGAIN) from error
        except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            raise EDTalkError(f"{path} is not a shot, or is damaged: {error!r}.", _AGAIN) from error
        if shot.portrait_sha256 != data.get("portrait_sha256"):
            raise EDTalkError(f"{shot.portrait} is not the portrait that the shot was made with.", _AGAIN)
        return shot


def frame_ranges(frames: Iterable[int]) -> str:
    """Frames, ascending, as people and farms write them: "1-20,24"."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse_frame_ranges(text: str) -> list[int]:
    """The frames, ascending, that such a text names, negative ones too: "-5--1". EDTalkError for another text."""
    frames: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise EDTalkError(f"Frames are given as 7, 1-20 or 1-20,24, found '{text}'.")
        frames.update(range(first, last + 1))
    return sorted(frames)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Of a picture's bytes, read again only when its size or time changed; EDTalkError(kind="media") if unreadable."""
    path = Path(path)
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return hashlib.sha256(_read_bytes(path)).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _sound_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"The sound {path} could not be read: {error.strerror}."
        raise EDTalkError(message, "Choose another file.", "media") from error


def _unreadable(path: Path, error: OSError) -> EDTalkError:
    if isinstance(error, FileNotFoundError):
        return EDTalkError(f"The portrait {path} does not exist.", "Choose the picture again.", "media")
    return EDTalkError(f"The portrait {path} could not be read: {error.strerror}.", "Choose another picture.", "media")


def _from_json(folder: Path, data: dict[str, Any], values: np.ndarray) -> Shot:
    try:
        return Shot(
            bank=_absolute(folder, data["bank"]),
            bank_sha256=str(data["bank_sha256"]),
            portrait=folder / Path(str(data["portrait"])).name,
            crop=data["crop"],
            coefficients=Coefficients(values, tuple(str(name) for name in data["names"]), data["fps"]),
            frames_folder=_absolute(folder, data["frames_folder"]),
            first_frame=int(data["first_frame"]),
            image_format=str(data["image_format"]),
            sound=folder / Path(str(data["sound"])).name if data.get("sound") else None,
        )
    except EDTalkError as error:
        raise EDTalkError(f"{folder / _SHOT} cannot be used. {error.message}", _AGAIN) from error


def _relative(path: Path, folder: Path) -> str:
    """How a shot names a file: from its folder where both lie in one place and may move together, else absolute."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return Path(os.path.relpath(path, folder) if path.is_relative_to(folder.parent) else path).as_posix()


def _absolute(folder: Path, path: object) -> Path:
    return Path(os.path.abspath(folder / str(path)))


def write_whole(path: Path, content: bytes) -> None:
    with appearing(path) as partial:
        partial.write_bytes(content)
