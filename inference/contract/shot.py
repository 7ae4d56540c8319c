"""A shot: all input that is needed to render a range of frames, as a folder that the worker and farms read.

A frame's file is named by a hash of its input. So frames that did not change are not rendered again when the timeline
moves, identical frames share one file, undo finds the files of earlier versions, and programs that cache files by name
never show an outdated frame. Standard library and numpy only: the add-on writes shots, the worker reads them.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from .coefficients import Coefficients
from .errors import EDTalkError, disk_error
from .files import atomic_write, cached_sha256, link_or_copy, open_regular, read_regular
from .parsing import MALFORMED, parse_json, parse_npy, stored_path
from .plate import PICTURES, Plate, pictures_in
from .references import References
from .rendered import is_complete

# Version 2 adds the plate, layers and the size, version 3 `detail` and `added`. A shot that uses none of them is
# written as version 1, so that earlier releases read it. Version 4 adds the display of the plate, version 5 references.
FORMAT_VERSION = 5
PICTURE_VERSION = 14  # increased when the same input gives other pixels; all frames are then rendered again
IMAGE_FORMATS = ("png", "exr")
LAYERS = ("square", "matte", "plate", "pasted")
FILLS_PICTURE = ("plate", "pasted")  # layers whose frames have the size of the source picture
MASKS = ("face", "mouth")
_CHOICES = ("layer", "mask", "feather", "size", "detail", "added")
FEATHER = 0.25
LARGEST = 4096  # pixels of a side of the face's square
_SHOT, _TABLE, _PLATE_ROWS, _PLATE = "shot.json", "coefficients.npy", "plate.npy", "plate"
_REFERENCES, _MOUTHS = "references.npy", "mouths.npy"  # the tables of `References`
_RANGE = re.compile(r"\s*(-?\d{1,9})(?:-(-?\d{1,9}))?\s*")
MOST_FRAMES = 2**21  # in one list of frames; Blender's scenes have fewer
_LARGEST_FRAME = 2**31
_FARTHEST = 65536  # pixels of a crop; no picture is that large
_LONGEST_NAME = 63  # bytes of a portrait's name; partial files add to it, and Windows limits a path to 259 letters
_AGAIN = "Render the shot again from Blender."
_FOLDER = "Choose the folder of a shot."
_EXPECTED = "expected the folder of a shot, with shot.json in it"
_MOST_TEXT, _MOST_ROWS, _MOST_PICTURE = 16 * 2**20, 256 * 2**20, 2**30  # largest files that are read, in bytes


def as_crop(value: Any) -> str | tuple[float, ...]:
    """Check a crop: "auto", "none", or x, y and size of a square in pixels and optionally an angle.

    The angle is in degrees, clockwise, about the centre of the square. It is left out if it is 0.
    No number is larger than 65536. Raises EDTalkError(kind="face") for other values.
    """
    if isinstance(value, str) and value in ("auto", "none"):
        return value
    try:
        numbers = () if isinstance(value, str) else tuple(float(number) for number in value)
    except MALFORMED:
        numbers = ()
    if len(numbers) in (3, 4) and all(abs(number) <= _FARTHEST for number in numbers) and numbers[2] > 0:
        return numbers[:3] if numbers[3:] == (0,) else numbers
    raise EDTalkError(
        f"Crop must be auto, none, or x,y,size[,angle] of at most {_FARTHEST} pixels, found {str(value)[:80]!r}.",
        "Set the crop again.",
        "face",
    )


def is_opaque(picture: Path) -> bool:
    """Whether the format of a picture file rules out transparency: JPEG, and PNG without an alpha channel or tRNS.

    False if the file cannot be read. Only the first 64 kB are read; a PNG has its tRNS chunk before the pixels.
    """
    try:
        with open_regular(picture) as file:
            head = file.read(2**16)
    except OSError:
        return False
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        pixels = head.find(b"IDAT")
        return head[25:26] in (b"\0", b"\2", b"\3") and pixels > 0 and b"tRNS" not in head[:pixels]
    return head.startswith(b"\xff\xd8\xff")


@dataclass(frozen=True, eq=False)
class Shot:
    """One face over some frames.

    bank: path of the bank file. bank_sha256: the hash in its metadata.
    portrait: the source image, None with a plate. crop: where the face is in it, see `as_crop`.
    coefficients: one row per frame, final values in the bank's column order.
    frames_folder: where rendered frames are written; created with the first one.
    first_frame: the scene's frame number of row 0. image_format: "png" or "exr".
    sound: optional; starts at row 0; does not affect the images.
    layer: what a frame shows. "square": the face's square, opaque. "matte": the square, with an alpha that is 0 at its
        border. "plate": the whole picture, transparent except for the face. "pasted": the face pasted on the picture.
    mask: the part of the face that is visible in the other layers than "square": "face", or "mouth" with its
        surroundings. feather: width of the mask's soft border relative to its half width, above 0 and at most 1.
    size: width of the face's square in pixels, 1 to 4096; 0: the bank's own, or for "plate" and "pasted" what the
        resolution of the source needs. Frames of "square" and "matte" have exactly this size. The face is never
        rendered smaller than the bank's own size (see `inference.face.size`).
    detail: whether the fine texture of the source is added; False gives the network's output alone.
    plate: the footage of a dubbed shot. Each row is rendered from a frame of its own; `crop` is not used. Frames
        without a face (NaN in the track) stay unchanged; their "square" is black.
    added: with a plate, names of the coefficients whose values are added to the frame's own. The others are final
        values. None: all except those of the lips.
    references: with a plate and the mask "mouth", frames of the clip from which the mouth is drawn, see
        `inference.mouth`. Every frame then shows the plate with another mouth, "square" the face's square of it. Lip
        coefficients are 0 for the person's closed mouth, all others are changes. None: each frame's own face is moved.
    Raises EDTalkError for an invalid crop, format, layer, mask or size, no rows, or a plate with another length.
    """

    bank: Path
    bank_sha256: str
    portrait: Path | None
    crop: str | tuple[float, ...]
    coefficients: Coefficients
    frames_folder: Path
    first_frame: int = 1
    image_format: str = "png"
    sound: Path | None = None
    layer: str = "square"
    mask: str = "face"
    feather: float = FEATHER
    plate: Plate | None = None
    size: int = 0
    detail: bool = True
    added: tuple[str, ...] | None = None
    references: References | None = None

    def __post_init__(self) -> None:
        self._normalise()
        self._check()

    def _normalise(self) -> None:
        """Convert the values that a caller or a file gave to the types of the fields."""
        if self.plate is not None:
            object.__setattr__(self, "portrait", None)
            object.__setattr__(self, "crop", "auto")
        elif self.portrait is None:
            raise EDTalkError("A shot needs a portrait or a plate, found neither.", "Choose an image.")
        for name in ("bank", "portrait", "frames_folder", "sound"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(value))
        object.__setattr__(self, "crop", as_crop(self.crop))
        object.__setattr__(self, "feather", float(self.feather))
        object.__setattr__(self, "size", int(self.size))
        object.__setattr__(self, "detail", bool(self.detail))
        if self.added is not None:
            object.__setattr__(self, "added", tuple(str(name) for name in self.added))

    def _check(self) -> None:
        """Raise EDTalkError for values out of range, and for parts that do not fit together."""
        for what, value, known in (
            ("The image format must be {}", self.image_format, IMAGE_FORMATS),
            ("The layer must be {}", self.layer, LAYERS),
            ("The mask must be {}", self.mask, MASKS),
        ):
            if value not in known:
                raise EDTalkError(f"{what.format(' or '.join(known))}, found '{value}'.")
        if not 0 <= self.size <= LARGEST:
            raise EDTalkError(f"The size must be 0 to {LARGEST} pixels, found {self.size}.")
        if not 0 < self.feather <= 1:
            raise EDTalkError(f"The feather must be above 0 and at most 1, found {self.feather:g}.")
        if abs(self.first_frame) > _LARGEST_FRAME:
            raise EDTalkError(f"The first frame must be at most {_LARGEST_FRAME}.")
        if not len(self.coefficients):
            raise EDTalkError("A shot needs at least one frame, found none.", "Choose a longer range.")
        for name in self.added or ():
            if name not in self.coefficients.names:
                raise EDTalkError(f"The shot adds to the coefficient '{name}', which it does not have.")
        if self.plate is not None and len(self.plate.times) != len(self.coefficients):
            message = f"The plate must have the {len(self.coefficients)} frames of the shot, found"
            raise EDTalkError(f"{message} {len(self.plate.times)}.", "Track the face again.")
        if self.references is not None:
            expected = len(self.coefficients), len(self.coefficients.names)
            if self.plate is None or self.mask != "mouth" or self.references.own.shape != expected:
                message = "References need a plate, the mask 'mouth' and a reading of each frame of the shot."
                raise EDTalkError(message, "Dub the movie again.")

    @property
    def portrait_sha256(self) -> str:
        """Hash of the portrait file. Raises EDTalkError(kind="media") if it is unreadable, or there is none."""
        if self.portrait is None:
            raise EDTalkError("A shot with a plate has no portrait.", kind="media")
        return file_sha256(self.portrait)

    @property
    def fills_picture(self) -> bool:
        """Whether frames have the size of the source picture, not of the face's square."""
        return self.layer in FILLS_PICTURE

    def keeps_frames_near(self, folder: str | os.PathLike[str]) -> bool:
        """Whether its frames are inside or beside `folder`, which holds the shot, or in its character's folder.

        A shot from elsewhere may name any path, and must not write there without being asked.
        """
        frames, folder = Path(os.path.realpath(self.frames_folder)), Path(os.path.realpath(folder))
        beside = folder.parent  # of a character, this is CHARACTER/shots, and CHARACTER/frames has the frames
        return frames.is_relative_to(beside) or (beside.name == "shots" and frames == beside.parent / "frames")

    @property
    def _choices(self) -> dict[str, Any]:
        """The options that differ from their defaults, as written in files and hashed in keys.

        Defaults are left out so that the keys of shots from earlier versions stay valid.
        """
        chosen: dict[str, Any] = {}
        if self.layer != "square" or self.references is not None:
            chosen |= {"layer": self.layer, "mask": self.mask, "feather": self.feather}
        if self.size:
            chosen["size"] = self.size
        if not self.detail:
            chosen["detail"] = False
        if self.added is not None:
            chosen["added"] = self.added
        return chosen

    @property
    def _format_version(self) -> int:
        """The oldest version that has everything this shot uses."""
        if self.references is not None:
            return 5
        if self.plate is not None and self.plate.display:
            return 4
        if not self.detail or self.added is not None:
            return 3
        return 2 if self.plate or self._choices else 1

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        source = [self.portrait_sha256, self.crop] if self.plate is None else [self.plate.sha256, "plate"]
        if self.plate is not None and self.plate.display:
            source.append(self.plate.display)
        made_from: list[Any] = [PICTURE_VERSION, self.bank_sha256, *source, self.image_format]
        if self._choices:
            made_from.append(self._choices)
        if self.portrait is not None and not is_opaque(self.portrait):
            made_from.append("over grey")  # release 0.1.0 showed the colours below transparent parts
        mouths = None
        if self.references is not None:
            made_from.append(hashlib.sha256(self.references.frames_table.tobytes()).hexdigest())
            mouths = self.references.plate_table
        start = hashlib.sha256(json.dumps(made_from).encode())
        keys = []
        rows = self.coefficients.values.astype("<f4") + np.float32(0)  # -0 and 0 give the same picture
        for number, row in enumerate(rows):
            digest = start.copy()
            if self.plate is not None:
                digest.update(self.plate.row(number))
            if self.plate is None or self.plate.seen[number]:
                digest.update(row.tobytes())
                if mouths is not None:
                    digest.update(mouths[number].tobytes())
            keys.append(digest.hexdigest()[:20])
        return tuple(keys)

    def keys(self) -> tuple[str, ...]:
        """20 hexadecimal digits per row, equal for equal frames. They do not depend on the frame number."""
        return self._keys

    def file_names(self) -> tuple[str, ...]:
        """The name of each row's file in `frames_folder`."""
        return tuple(f"{key}.{self.image_format}" for key in self._keys)

    def missing(self, rows: Iterable[int] | None = None) -> list[int]:
        """Rows to render, ascending: the first row of each distinct frame without a complete file.

        rows: ascending, the rows to check; default all. Only the files of these rows are looked at, see
        `rendered.is_complete`. If the folder cannot be read, all of them are missing; the error is raised when the
        first frame is written.
        """
        first: dict[str, int] = {}
        names = self.file_names()
        for row in range(len(names)) if rows is None else rows:
            first.setdefault(names[row], row)
        if not os.path.isdir(self.frames_folder):
            return list(first.values())
        folder = os.fspath(self.frames_folder)
        return [row for name, row in first.items() if not is_complete(os.path.join(folder, name))]

    def write(self, folder: str | os.PathLike[str], *, plate_by_name: bool = False) -> Shot:
        """Write the shot with its portrait, sound and plate into a folder. Returns it as `read` would.

        The folder is created if necessary. Portrait and sound are copied. The plate becomes a hard link; where that is
        impossible it is copied or, with plate_by_name, referenced by its path (movies are large, and such a shot is
        only rendered on this machine). Files are written atomically, `shot.json` last. Raises EDTalkError(kind="disk").
        """
        folder = Path(folder)
        table = _as_npy(self.coefficients.values.astype("<f4"))
        portrait = self.portrait and folder / self.portrait.name
        if portrait and len(portrait.name.encode()) > _LONGEST_NAME:
            portrait = folder / f"portrait_{self.portrait_sha256[:16]}{portrait.suffix[:8]}"
        sound = self.sound and folder / self.sound.name
        data = {
            "format_version": self._format_version,
            "bank": _relative(self.bank, folder),
            "bank_sha256": self.bank_sha256,
            "names": self.coefficients.names,
            "fps": self.coefficients.fps,
            "coefficients_sha256": hashlib.sha256(table).hexdigest(),
            "frames_folder": _relative(self.frames_folder, folder),
            "first_frame": self.first_frame,
            "image_format": self.image_format,
            **self._choices,
        }
        if portrait:
            data |= {"portrait": portrait.name, "portrait_sha256": self.portrait_sha256, "crop": self.crop}
        if sound:
            data["sound"] = sound.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(folder, error) from error
        if self.portrait and portrait and (not portrait.is_file() or file_sha256(portrait) != self.portrait_sha256):
            write_whole(portrait, _read_bytes(self.portrait))
        if self.sound and sound and not (sound.exists() and sound.samefile(self.sound)):
            write_whole(sound, _sound_bytes(self.sound))
        plate = self.plate
        if plate is not None:
            plate = replace(plate, media=_bring_plate(plate, folder / _PLATE, by_name=plate_by_name))
            data["plate"] = _write_plate(plate, folder)
        if self.references is not None:
            data["references"] = _write_references(self.references, folder)
        write_whole(folder / _TABLE, table)
        write_whole(folder / _SHOT, json.dumps(data, indent=1).encode())
        return replace(self, portrait=portrait, sound=sound, plate=plate)

    @staticmethod
    def read(folder: str | os.PathLike[str]) -> Shot:
        """Read a shot. Raises EDTalkError naming the file that is missing, damaged or belongs to another shot."""
        folder = Path(folder)
        path = folder / _SHOT
        if folder.is_file():
            raise EDTalkError(f"{folder} is a file; {_EXPECTED}.", _FOLDER)
        try:
            data = parse_json(read_regular(path, _MOST_TEXT))
            version = int(data["format_version"])
            if version > FORMAT_VERSION:
                raise EDTalkError(
                    f"{path} has shot format {version}, this version reads up to {FORMAT_VERSION}.",
                    "Update the extension.",
                )
            table = _read_npy(folder / _TABLE, data["coefficients_sha256"])
            plate = data.get("plate")
            rows = None if plate is None else _read_npy(folder / _PLATE_ROWS, plate["rows_sha256"])
            shot = _from_json(folder, data, table, rows, _read_references(folder, data.get("references")))
        except FileNotFoundError as error:
            if not folder.exists():
                raise EDTalkError(f"{folder} does not exist; {_EXPECTED}.", _FOLDER) from error
            raise EDTalkError(f"{folder} is not a complete shot: {error.filename} does not exist.", _AGAIN) from error
        except OSError as error:
            raise EDTalkError(f"{error.filename or path} could not be read: {error.strerror}.", _AGAIN) from error
        except MALFORMED as error:
            raise EDTalkError(f"{path} is not a shot, or is damaged: {error!r}.", _AGAIN) from error
        if shot.portrait is not None and shot.portrait_sha256 != data.get("portrait_sha256"):
            raise EDTalkError(f"{shot.portrait} is not the portrait that the shot was made with.", _AGAIN)
        return shot


def frame_ranges(frames: Iterable[int]) -> str:
    """Frames, ascending, as text: "1-20,24"."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse_frame_ranges(text: str) -> list[int]:
    """The frames of such a text, ascending; they may be negative: "-5--1". Raises EDTalkError for other text."""
    ranges: list[tuple[int, int]] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise EDTalkError(f"Frames must be given as 7, 1-20 or 1-20,24, found '{text[:80]}'.")
        ranges.append((first, last))
    if sum(last + 1 - first for first, last in ranges) > MOST_FRAMES:
        raise EDTalkError(f"At most {MOST_FRAMES} frames can be given, found more in '{text[:80]}'.")
    frames: list[int] = []
    for first, last in sorted(ranges):
        frames.extend(range(max(first, frames[-1] + 1) if frames else first, last + 1))
    return frames


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hash of a portrait file, see `files.cached_sha256`. Raises EDTalkError(kind="media") if it is unreadable."""
    path = Path(path)
    try:
        return cached_sha256(path, _MOST_PICTURE)
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_bytes(path: Path) -> bytes:
    try:
        return read_regular(path, _MOST_PICTURE)
    except OSError as error:
        raise _unreadable(path, error) from error


def _sound_bytes(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        message = f"The sound {path} could not be read: {error.strerror}."
        raise EDTalkError(message, "Choose another file.", "media") from error


def _unreadable(path: Path, error: OSError) -> EDTalkError:
    if isinstance(error, FileNotFoundError):
        return EDTalkError(f"The portrait {path} does not exist.", "Choose the image again.", "media")
    return EDTalkError(f"The portrait {path} could not be read: {error.strerror}.", "Choose another image.", "media")


def _as_npy(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _read_npy(path: Path, sha256: object) -> np.ndarray:
    content = read_regular(path, _MOST_ROWS)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise EDTalkError(f"{path} is damaged or belongs to another shot.", _AGAIN)
    return parse_npy(content)


def _write_plate(plate: Plate, folder: Path) -> dict[str, Any]:
    """Write the times and the track of a plate. Returns its entry in `shot.json`."""
    rows = _as_npy(np.column_stack([plate.times, plate.track]).astype("<f8"))
    write_whole(folder / _PLATE_ROWS, rows)
    entry = {
        "media": _relative(plate.media, folder),
        "sha256": plate.sha256,
        "rows_sha256": hashlib.sha256(rows).hexdigest(),
    }
    return entry | ({"display": plate.display} if plate.display else {})


def _write_references(references: References, folder: Path) -> dict[str, str]:
    """Write the tables of the reference frames and of the readings. Returns their hashes by file name."""
    tables = {_REFERENCES: _as_npy(references.frames_table), _MOUTHS: _as_npy(references.plate_table)}
    for name, content in tables.items():
        write_whole(folder / name, content)
    return {name: hashlib.sha256(content).hexdigest() for name, content in tables.items()}


def _bring_plate(plate: Plate, folder: Path, *, by_name: bool) -> Path:
    """Copy or link the footage of a plate into a folder. Returns its new path."""
    media, target = plate.media, folder / plate.media.name
    if not media.exists():
        raise EDTalkError(f"The plate {media} does not exist.", "Choose the footage again.", "media")
    if target.exists() and target.samefile(media):
        return target
    pictures = pictures_in(media) if media.is_dir() else None
    try:
        (target if pictures else folder).mkdir(parents=True, exist_ok=True)
        if by_name and not _can_link(pictures[0] if pictures else media, folder):
            return media
        wanted = {target / picture.name: picture for picture in pictures} if pictures else {target: media}
        for path, source in wanted.items():
            if not (path.exists() and (path.samefile(source) or filecmp.cmp(path, source, shallow=False))):
                link_or_copy(source, path)
        for path in target.iterdir() if pictures else ():  # left from an earlier version; they would be read as frames
            if path not in wanted and path.suffix.lower() in PICTURES:
                path.unlink()
    except OSError as error:
        raise disk_error(Path(error.filename or folder), error) from error
    return target


def _can_link(path: Path, folder: Path) -> bool:
    trial = folder / f".{path.stem}.partial"
    with suppress(OSError):
        trial.unlink(missing_ok=True)
        os.link(path, trial)
        trial.unlink()
        return True
    return False


def _read_references(folder: Path, hashes: dict[str, Any] | None) -> References | None:
    if hashes is None:
        return None
    return References.from_tables(*(_read_npy(folder / name, hashes[name]) for name in (_REFERENCES, _MOUTHS)))


def _from_json(
    folder: Path, data: dict[str, Any], values: np.ndarray, rows: np.ndarray | None, references: References | None
) -> Shot:
    plate, choices = data.get("plate"), {name: data[name] for name in _CHOICES if name in data}
    try:
        dubbed: Plate | None = None
        if plate and rows is not None:
            media, display = _absolute(folder, plate["media"]), plate.get("display", "")
            dubbed = Plate(media, str(plate["sha256"]), rows[:, 0], rows[:, 1:], display)
        return Shot(
            bank=_absolute(folder, data["bank"]),
            bank_sha256=str(data["bank_sha256"]),
            portrait=_inside(folder, data["portrait"]) if plate is None else None,
            crop=data["crop"] if plate is None else "auto",
            coefficients=Coefficients(values, tuple(str(name) for name in data["names"]), data["fps"]),
            frames_folder=_absolute(folder, data["frames_folder"]),
            first_frame=int(data["first_frame"]),
            image_format=str(data["image_format"]),
            sound=_inside(folder, data["sound"]) if data.get("sound") else None,
            plate=dubbed,
            references=references,
            **choices,
        )
    except EDTalkError as error:
        raise EDTalkError(f"{folder / _SHOT} cannot be used. {error.message}", _AGAIN) from error


def _inside(folder: Path, name: object) -> Path:
    """A file of a shot. Only the name of a stored path is used, and a link may not lead out of the shot's folder."""
    path = folder / stored_path(name).name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise EDTalkError(f"'{path.name}' is a link to a file outside the shot.")
    return path


def _relative(path: Path, folder: Path) -> str:
    """A path as stored in a shot: relative if it is inside or beside the shot's folder, else absolute."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return Path(os.path.relpath(path, folder) if path.is_relative_to(folder.parent) else path).as_posix()


def _absolute(folder: Path, path: object) -> Path:
    return Path(os.path.abspath(folder / stored_path(path)))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it. Raises EDTalkError(kind="disk")."""
    with atomic_write(path) as partial:
        partial.write_bytes(content)
