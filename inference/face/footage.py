"""Find the crop of a face in every frame of a movie or a folder of pictures, and the frames without a face."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import tables
from ..contract.errors import EDTalkError
from ..contract.plate import PICTURES, Track
from .framing import given_crop, is_face_crop, is_square, sample_crops

if TYPE_CHECKING:
    from .crop import Crop
    from .crop_tracker import CropTracker
    from .detect import Which

_GAP, _TRUST = 0.5, 2.0  # seconds, see `CropTracker.seen`
_DEFAULT_FPS = 25.0  # of folders of pictures
_NAMED = 4  # ranges without a face that a note lists

Frames = Iterator[tuple[float, np.ndarray]]  # start time and pixels, uint8 (H, W, 3)


@dataclass(frozen=True, eq=False)
class Tracked:
    """The result of `track_media`.

    fps: frames per second, None for pictures. size: (width, height) in pixels. note: one sentence on frames without a
    face, "" if there are none. transfer: "pq" or "hlg" for an HDR movie, else "".
    """

    track: Track
    fps: float | None
    size: tuple[int, int]
    note: str
    transfer: str = ""


def track_media(
    media: str | os.PathLike[str],
    crop: str | Sequence[float] = "auto",
    *,
    which: Which = None,
    start: float = 0.0,
    end: float | None = None,
    step: Callable[[int, int], object] = lambda done, total: None,
) -> Tracked:
    """Track a face through the frames that a movie or a folder of pictures shows from `start` to `end`.

    start, end: in the media's own time, see `contract.plate`.
    crop: "auto" tracks the face, or uses footage whole that is already a face crop; "none" or a square, as in
        `framing.frame_picture`, is used for every frame.
    which: see `detect.choose_face`.
    step: called before each frame with the number of frames done and the total (0 if unknown); may raise to stop.
    Frames are not kept in memory. If tracking was stopped, the next call continues, see `tables.rows`; the frames
    before are decoded again. Raises EDTalkError with kind "media" or "face".
    """
    from ..media.video import probe, stamped_frames

    media = Path(media)
    pictures = media.is_dir() or media.suffix.lower() in PICTURES
    info = None if pictures else probe(media)
    fps = float(info.fps) if info else _DEFAULT_FPS
    total = _expected(media, fps, start, end, info.duration if info else None)
    _, first = next(stamped_frames(media, start=start, end=end))

    def frames() -> Frames:
        return stamped_frames(media, start=start, end=end)

    file = tables.file_of("tracked", which, start, end, media=media) if crop == "auto" else None
    track = track_frames(
        frames, fps, crop, which=which, label=media.name, step=lambda done: step(done, total), file=file
    )
    note = unseen_note(media.name, track, counted=pictures)
    size = first.shape[1], first.shape[0]
    return Tracked(track, None if pictures else fps, size, note, info.transfer if info else "")


def track_frames(
    frames: Callable[[], Frames],
    fps: float,
    crop: str | Sequence[float] = "auto",
    *,
    which: Which = None,
    label: str = "the clip",
    step: Callable[[int], object] = lambda done: None,
    file: Path | None = None,
) -> Track:
    """`track_media` for frames from a function. frames: returns an iterator from the first frame at each call.

    file: for the state of the tracker, see `tables.rows`.
    """
    from ..lanes import read_ahead
    from .crop import TEMPLATE, whole
    from .crop_tracker import STATE, CropTracker

    _, first = next(frames())
    height, width = first.shape[:2]
    square = None
    if crop == "none" and not is_square(first.shape):
        message = f"Only square footage can be used whole; {label} is {width} x {height} pixels."
        raise EDTalkError(message, "Give the square of the face.", "face", "not_square")
    if crop != "auto":
        square = given_crop(first, TEMPLATE, crop, label).box
    elif is_square(first.shape) and is_face_crop(first.shape, _faces_at_start(frames(), fps, which, label)):
        square = whole(first, TEMPLATE).box

    tracker = CropTracker(TEMPLATE, which=which, label=label)
    times: list[float] = []

    def tracked(done: np.ndarray) -> Iterator[np.ndarray]:
        for time, rgb in read_ahead(frames()):
            step(len(times))
            if rgb.shape != first.shape:
                found = f"changes from {width} x {height} to {rgb.shape[1]} x {rgb.shape[0]}"
                raise EDTalkError(f"The frame size of {label} {found} pixels.", "Convert it to one size.", "media")
            times.append(time)
            if crop == "auto" and len(times) > len(done):
                tracker.add(rgb)
                yield tracker.state()
            elif len(times) == len(done):
                tracker.restore(done, rgb)

    tables.rows(file, STATE, tracked)
    crops = tracked_crops(tracker, fps, square) if crop == "auto" else np.tile(np.array(square), (len(times), 1))
    return Track(np.array(times), crops)


def tracked_crops(tracker: CropTracker, fps: float, square: Sequence[float] | None = None) -> np.ndarray:
    """(T, 4) x, y, side and angle of the crop in each frame added to a tracker, NaN for frames without a face.

    square: used for every frame with a face instead of the tracked crop. Raises EDTalkError(kind="face") if no frame
    shows a face.
    """
    crops = np.array([crop.box for crop in tracker.crops()])
    if square is not None:
        crops[:] = square
    crops[~tracker.seen(gap=round(_GAP * fps), trust=round(_TRUST * fps))] = np.nan
    return crops


def unseen_note(label: str, track: Track, *, counted: bool, then: str = "these frames stay as they are") -> str:
    """One sentence that lists the frames without a face, "" if there are none.

    counted: whether to give numbers of pictures instead of seconds. then: what happens to these frames.
    """
    unseen, times = track.unseen, track.times
    if not unseen:
        return ""
    if counted:
        what, ends = "picture", [(f"{first + 1}", f"{last + 1}") for first, last in unseen]
    else:
        what, ends = "second", [(f"{times[first]:.2f}", f"{times[last]:.2f}") for first, last in unseen]
    parts = [first if first == last else f"{first} to {last}" for first, last in ends[:_NAMED]]
    if len(ends) > _NAMED:
        parts.append(f"{len(ends) - _NAMED} other ranges")
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    frames = sum(last - first + 1 for first, last in unseen)
    one = len(ends) == 1 and ends[0][0] == ends[0][1]
    where = f"{what}{'' if one else 's'} {listed} ({frames} frame{'' if frames == 1 else 's'})"
    return f"No face was seen in {label} at {where}; {then}."


def _faces_at_start(frames: Frames, fps: float, which: Which, label: str) -> list[Crop]:
    """Crops of the face in the first five seconds; [] if there is no face in them."""
    from .crop import TEMPLATE

    first = (rgb for _, rgb in itertools.islice(frames, round(5 * fps)))
    try:
        return sample_crops(first, fps, TEMPLATE, which=which, label=label)
    except EDTalkError:
        return []


def _expected(media: Path, fps: float, start: float, end: float | None, duration: float | None) -> int:
    """Number of frames for a progress bar; 0 if it is unknown."""
    from ..contract.plate import pictures_in

    if media.is_dir():
        ends = [time for time in (float(len(pictures_in(media))), end) if time is not None]
        return max(1, round(min(ends) - start))
    if media.suffix.lower() in PICTURES:
        return 1
    ends = [time for time in (duration, end) if time is not None]
    return max(1, round((min(ends) - start) * fps)) if ends else 0
