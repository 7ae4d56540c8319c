"""What a face does in a clip, a folder of pictures or a picture: coefficients of every frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from .contract.coefficients import Coefficients
from .contract.plate import Track
from .face.footage import tracked_crops, unseen_note
from .face.framing import cut, frame_clip

if TYPE_CHECKING:
    from .face.crop import Crop
    from .face.detect import Which
    from .media.clip import Clip
    from .renderer import FaceRenderer


@dataclass(frozen=True, eq=False)
class Captured:
    """One row for every frame. unseen: first and last row of each stretch without a face; note: a sentence on them."""

    rows: Coefficients
    unseen: list[tuple[int, int]]
    note: str


def capture(
    renderer: FaceRenderer,
    clip: Clip,
    crop: Crop | str | Sequence[float],
    step: Callable[[int, int], object] = lambda done, total: None,
    *,
    which: Which = None,
    watch: bool = True,
    rest: float | None = None,
) -> Captured:
    """One row for every frame of a clip, as the frame is within one square for all of them.

    crop: the square, or how to come by it, see `inference.face.framing.frame_clip`. which: with "auto", one of several
    faces, see `detect.choose_face`. step: called with the number of frames measured and of all, 0 where not
    known, before each frame that is looked at; may raise to stop. Where the face has left the picture its motion is
    carried over from the frames around; without `watch`, with "none", and where no frame shows a face that can be
    detected, nothing is known of that. The renderer's source picture is neither used nor changed.

    A bank with a relative reader reads every frame again, as what it does more than one of them; what that one does is
    what the plain reader says of all frames in the middle. rest: the time of that one, in the clip's own seconds;
    default: the one that looks nearest to rest. `step` then counts frames twice.
    Raises EDTalkError, kind "media" or "face".
    """
    from .face.crop import Crop

    compares = renderer.reader.can_compare and not clip.is_picture
    total = (clip.expected() or 0) * (2 if compares else 1)
    watch = watch and not clip.is_picture and (isinstance(crop, Crop) or crop != "none")
    if not isinstance(crop, Crop):
        looked_at = _told(clip.frames(), lambda _: step(0, total))
        crop = frame_clip(looked_at, clip.fps, renderer.config.size, crop, which=which, label=clip.path.name)
    presence = _Presence(crop, clip) if watch else None
    measured = _told(clip.frames(), lambda done: step(done, total))
    rows = renderer.encode(cut(rgb, crop) for rgb in (presence.watch(measured) if presence else measured))
    seen = presence.seen() if presence else np.ones(len(rows), bool)
    values = rows.values
    if compares:
        number = nearest_to_rest(rows, seen) if rest is None else frame_at(clip, rest, len(rows))
        again = _told(clip.frames(), lambda done: step(len(rows) + done, total))
        closer = crop.at_size(renderer.reader.comparing_size)
        reference = renderer.reader.rest_reference(cut(next(islice(clip.frames(), number, None)), closer))
        more = renderer.reader.compare(reference, (cut(rgb, closer) for rgb in again))
        counts = seen if seen.any() else ~seen
        values = more + np.median((values - more)[counts], axis=0)  # one frame alone may be misread
    times = np.arange(len(rows)) if clip.is_still else clip.start + np.arange(len(rows)) / clip.fps
    track = Track(times, np.where(seen[:, None], crop.box, np.nan))
    then = "there the motion is carried over from the frames around"
    note = unseen_note(clip.path.name, track, counted=clip.is_still, then=then)
    values = carried_over(values, seen)
    return Captured(Coefficients(values, rows.names, None if clip.is_picture else clip.fps), track.unseen, note)


def nearest_to_rest(rows: Coefficients, seen: np.ndarray) -> int:
    """Number of the frame in which a face does least, of those in which it is `seen` (T,), or of all."""
    doing = np.square(rows.values).sum(axis=1)
    return int(np.argmin(np.where(seen, doing, np.inf))) if seen.any() else int(np.argmin(doing))


def frame_at(clip: Clip, time: float, count: int) -> int:
    """Number of the one of `count` frames that is on screen at `time` seconds."""
    return min(max(math.floor((time - clip.start) * clip.fps + 1e-3), 0), count - 1)


def carried_over(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(T, n) rows with those not `seen` (T,) interpolated between their neighbours, held before and after all."""
    if seen.all() or not seen.any():
        return values
    places = np.flatnonzero(seen)
    columns = [np.interp(np.arange(len(values)), places, column[places]) for column in values.T]
    return np.where(seen[:, None], values, np.stack(columns, axis=1)).astype(values.dtype)


class _Presence:
    """Whether the face in a square is there, frame by frame."""

    def __init__(self, crop: Crop, clip: Clip) -> None:
        from .face.crop_tracker import CropTracker

        x, y, side, _ = crop.box
        self._fps, self._square = clip.fps, (x + side / 2 - 0.5, y + side / 2 - 0.5, side)
        # It is enough to look once a second: where the face is lost on the way the tracker looks at once.
        self._tracker = CropTracker(every=max(1, round(clip.fps)), which=self._square[:2], label=clip.path.name)

    def watch(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for rgb in frames:
            self._tracker.add(rgb)
            yield rgb

    def seen(self) -> np.ndarray:
        """(T,) bool; all of them where no face could be detected at all."""
        if not self._tracker.found:
            return np.ones(len(self._tracker), bool)
        crops = tracked_crops(self._tracker, self._fps)
        x, y, side = self._square
        middle = crops[:, :2] + crops[:, 2:3] / 2 - 0.5
        return np.abs(middle - (x, y)).max(axis=1) < side / 2  # which NaN is not


def _told(frames: Iterator[np.ndarray], tell: Callable[[int], object]) -> Iterator[np.ndarray]:
    for number, rgb in enumerate(frames):
        tell(number)
        yield rgb
