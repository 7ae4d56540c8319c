"""A plate: the footage of a dubbed shot, and the position of the face in each of its frames.

Times are in the media's own units: for a movie seconds since its first frame, for a folder of images the number of the
image from 0, for a single image 0. Standard library and numpy only: the add-on uses this module, too.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np

from .errors import EDTalkError
from .files import atomic_write, cached_sha256, read_regular
from .parsing import MALFORMED, parse_npy

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".tga")
# How Blender shows the HDR movie that frames are laid over: "" the movie is not HDR, or the frames are not for Blender;
# "pq" and "hlg": as linear light in which 100 nits are white; "... signal": the stored signal as if it were sRGB.
DISPLAYS = ("", "pq", "hlg", "pq signal", "hlg signal")
_ROUNDED = 2e-3  # seconds; a time at most this much before the start of a frame means that frame, as in reading
_AGAIN = "Track the face again."
_MOST_ROWS = 256 * 2**20  # bytes of a track; 6 million frames


def pictures_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The images of a folder in natural order (frame_2 before frame_10).

    Raises EDTalkError(kind="media") if there are none.
    """

    def natural(path: Path) -> list[tuple[bool, int, str]]:
        parts = [part for part in re.split(r"(\d+)", path.name) if part]
        return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part.lower()) for part in parts]

    folder = Path(folder)
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.name[0] != "."]
    except OSError as error:
        raise EDTalkError(f"{folder} could not be read: {error.strerror}.", "Check the path.", "media") from error
    if not found:
        raise EDTalkError(f"{folder} contains no images; expected PNG, JPEG or TIFF files.", "Check the path.", "media")
    return sorted(found, key=natural)


def media_sha256(media: str | os.PathLike[str]) -> str:
    """Hash of a file, or of the images of a folder and their order. Files that did not change are not read again.

    Raises EDTalkError(kind="media") if there is nothing to read.
    """
    media = Path(media)
    if not media.is_dir():
        return _file_sha256(media)
    digests = [_file_sha256(path) for path in pictures_in(media)]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    try:
        return cached_sha256(path)
    except OSError as error:
        message = f"{path} could not be read: {error.strerror}."
        raise EDTalkError(message, "Choose the footage again.", "media") from error


@dataclass(frozen=True, eq=False)
class Track:
    """The position of a face in every frame of some footage.

    times: (N,) float64, ascending, the start of each frame. crops: (N, 4) float64, x, y and width of the square in
    pixels of the upright image, and its angle in degrees clockwise; a row of NaN where no face was detected.
    Raises EDTalkError for other shapes or values.
    """

    times: np.ndarray
    crops: np.ndarray

    def __post_init__(self) -> None:
        times, crops = checked_rows(self.times, self.crops)
        if not len(times) or not (np.diff(times) > 0).all():
            raise EDTalkError("The frames of a track must be in the order of their times.", _AGAIN)
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "crops", crops)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def unseen(self) -> list[tuple[int, int]]:
        """First and last frame, from 0, of each run of frames without a face."""
        return runs(np.isnan(self.crops[:, 2]))

    def at(self, times: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The frames shown at `times` (T,), in any order: their start times (T,) and crops (T, 4).

        Times before the first frame or after the last give that frame.
        """
        times = np.asarray(times, np.float64).reshape(-1)
        rows = np.searchsorted(self.times, times + _ROUNDED, side="right") - 1
        rows = np.clip(rows, 0, len(self) - 1)
        return self.times[rows], self.crops[rows]

    def to_bytes(self) -> bytes:
        """Little-endian float64 (N, 5): time, x, y, side, angle."""
        return np.column_stack([self.times, self.crops]).astype("<f8").tobytes()

    @staticmethod
    def from_bytes(payload: bytes) -> Track:
        """The inverse of `to_bytes`. Raises EDTalkError if the payload is not a track."""
        if len(payload) % 40:
            raise EDTalkError(f"A track needs 40 bytes per frame, found {len(payload)} bytes.", _AGAIN)
        return _from_table(np.frombuffer(payload, "<f8").reshape(-1, 5))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.npy` file of shape (N, 5), atomically. Raises EDTalkError(kind="disk")."""
        table = BytesIO()
        np.save(table, np.column_stack([self.times, self.crops]).astype("<f8"), allow_pickle=False)
        with atomic_write(Path(path)) as partial:
            partial.write_bytes(table.getvalue())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Track:
        """Read a file that `save` wrote. Raises EDTalkError if it is missing or not a track."""
        try:
            return _from_table(parse_npy(read_regular(path, _MOST_ROWS)))
        except (OSError, EDTalkError, *MALFORMED) as error:
            raise EDTalkError(f"{path} is not a readable face track.", _AGAIN) from error


@dataclass(frozen=True, eq=False)
class Plate:
    """The source frames of a shot's rows.

    media: a movie, a folder of images or an image. sha256: see `media_sha256`. times: (T,) float64, the time of the
    frame that each row is rendered from. track: (T, 4) float64, its crop, see `Track.crops`. display: see `DISPLAYS`.
    Raises EDTalkError if the arrays have different lengths, or for an unknown display.
    """

    media: Path
    sha256: str
    times: np.ndarray
    track: np.ndarray
    display: str = ""

    def __post_init__(self) -> None:
        times, track = checked_rows(self.times, self.track)
        if self.display not in DISPLAYS:
            raise EDTalkError(f"The display of a plate must be one of {', '.join(DISPLAYS[1:])}.", _AGAIN)
        object.__setattr__(self, "media", Path(self.media))
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "track", track)

    @staticmethod
    def of(
        media: str | os.PathLike[str],
        sha256: str,
        track: Track,
        times: Sequence[float] | np.ndarray,
        display: str = "",
    ) -> Plate:
        """The frames shown at `times` (T,), in any order and with repetitions."""
        return Plate(Path(media), sha256, *track.at(times), display)

    @cached_property
    def seen(self) -> np.ndarray:
        """(T,) bool: whether a face was detected in the row's frame."""
        return ~np.isnan(self.track[:, 2])

    def check_media(self) -> None:
        """Raise EDTalkError(kind="media") if the footage is missing or is not the one that the shot was made with."""
        if media_sha256(self.media) != self.sha256:
            message = f"{self.media} has changed since the shot was made."
            raise EDTalkError(message, "Track the face again, then render again.", "media")

    def row(self, number: int) -> bytes:
        """Identifies the source of a row: equal bytes for the same crop of the same frame."""
        return np.array([self.times[number], *self.track[number]], "<f8").tobytes()


def runs(marked: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of True in (N,) bool."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    return [(int(first), int(after) - 1) for first, after in zip(edges[::2], edges[1::2], strict=True)]


def checked_rows(times: np.ndarray, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """times and crops as (T,) and (T, 4) float64, each crop finite or all NaN. Raises EDTalkError otherwise."""
    times = np.array(times, np.float64).reshape(-1) + 0.0  # -0 and 0 give the same frame
    crops = np.array(crops, np.float64) + 0.0
    if crops.shape != (len(times), 4):
        message = f"A track of {len(times)} frames needs crops of shape {(len(times), 4)}, found {crops.shape}."
        raise EDTalkError(message, _AGAIN)
    seen = ~np.isnan(crops).all(1)
    if not (np.isfinite(times).all() and np.isfinite(crops[seen]).all() and (crops[seen, 2] > 0).all()):
        raise EDTalkError("The times of a track must be finite and its squares larger than 0 pixels.", _AGAIN)
    crops[~seen] = np.nan  # one form only, because `row` compares bytes
    return times, crops


def _from_table(table: np.ndarray) -> Track:
    if table.ndim != 2 or table.shape[1] != 5:
        raise EDTalkError(f"A track needs 5 numbers per frame, found an array of shape {table.shape}.", _AGAIN)
    return Track(table[:, 0], table[:, 1:])
