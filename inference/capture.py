"""Captures the coefficients of every frame of a clip, a folder of pictures or a single picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from . import tables
from .contract.coefficients import Coefficients
from .contract.plate import Track
from .face.footage import tracked_crops, unseen_note
from .face.framing import cut, frame_clip

if TYPE_CHECKING:
    from .face.crop import Crop
    from .face.detect import Which
    from .media.clip import Clip
    from .neutral import NeutralFrame
    from .renderer import FaceRenderer


@dataclass(frozen=True, eq=False)
class Captured:
    """rows: one per frame; unseen: first and last row of each range without a visible face; note: describes them."""

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
    """Read the coefficients of every frame of a clip, in one square crop for all frames.

    crop: the square, or how to find it, see `inference.face.framing.frame_clip`. which: with "auto", the face to use if
    there are several, see `detect.choose_face`. step: called before each frame with the number of frames read and the
    total, 0 if unknown; may raise to stop. The next call then continues, see `tables.rows`, for which the frames read
    so far are only decoded. watch: find frames in which the face has left the crop, and interpolate their coefficients;
    not done with crop "none", for pictures, or if no frame has a detectable face. The renderer's source is neither used
    nor changed.

    With a bank that has a relative reader, every frame is then compared with a neutral frame. The absolute values of
    that frame are the median over all frames of absolute reading minus difference, as a single reading may be wrong.
    Large motions of jaw and smile are then corrected by landmarks, see `inference.lower_face`.
    rest: time of the neutral frame in the clip's own seconds; default: see `inference.neutral`. `step` then counts
    every frame twice.
    Raises EDTalkError of kind "media" or "face".
    """
    from .face.crop import Crop
    from .lanes import read_ahead  # imports PyTorch
    from .neutral import NeutralFrame

    compares = renderer.reader.can_compare and not clip.is_picture
    total = (clip.expected() or 0) * (2 if compares else 1)
    watch = watch and not clip.is_picture and (isinstance(crop, Crop) or crop != "none")
    if not isinstance(crop, Crop):
        looked_at = with_progress(read_ahead(clip.frames()), lambda _: step(0, total))
        crop = frame_clip(looked_at, clip.fps, renderer.config.size, crop, which=which, label=clip.path.name)
    presence = _Presence(crop, clip) if watch else None
    neutral = NeutralFrame()
    key = [list(crop.box), watch, rest, clip.fps, clip.start, clip.end, renderer.bank.sha256, str(renderer.device)]
    # Comparing reads the gaze, which takes longer than the rest. It does not depend on the neutral frame.
    values = _encoded(
        renderer, clip, crop, presence, neutral if compares and rest is None else None,
        lambda number: step(number, total), key, gaze=not compares,
    )  # fmt: skip
    count, names = len(values), renderer.bank.names
    seen = presence.seen() if presence else np.ones(count, bool)
    if compares:
        number = neutral.choose(Coefficients(values, names), seen) if rest is None else frame_at(clip, rest, count)
        values = _compared(
            renderer, clip, crop, values, seen, number, lambda number: step(count + number, total), key
        )  # fmt: skip
    times = np.arange(count) if clip.is_still else clip.start + np.arange(count) / clip.fps
    track = Track(times, np.where(seen[:, None], crop.box, np.nan))
    then = "the motion there is interpolated"
    note = unseen_note(clip.path.name, track, counted=clip.is_still, then=then)
    values = interpolated(values, seen)
    return Captured(Coefficients(values, names, None if clip.is_picture else clip.fps), track.unseen, note)


def _encoded(
    renderer: FaceRenderer,
    clip: Clip,
    crop: Crop,
    presence: _Presence | None,
    neutral: NeutralFrame | None,
    step: Callable[[int], object],
    key: Sequence[object],
    *,
    gaze: bool,
) -> np.ndarray:
    """(T, n) float32 absolute readings of all frames; the frames are also shown to `presence` and `neutral`.

    step: called with the number of each frame. key: what the readings depend on, beside the clip.
    """
    from .face.crop_tracker import STATE
    from .lanes import read_ahead

    width = len(renderer.bank.names)

    def rows(done: np.ndarray) -> Iterator[np.ndarray]:
        """Blocks of rows: the coefficients of a frame, then the tracker's state if there is a tracker."""
        states: list[np.ndarray] = []

        def cuts() -> Iterator[np.ndarray]:
            for number, rgb in enumerate(with_progress(read_ahead(clip.frames()), step)):
                is_new = number >= len(done)
                if presence and is_new:
                    states.append(presence.add(rgb))
                elif presence and number + 1 == len(done):
                    presence.restore(done[:, width:], rgb)
                if not is_new and not (neutral and neutral.keeps(number)):
                    continue
                picture = cut(rgb, crop)
                if neutral:
                    neutral.add(number, picture)
                if is_new:
                    yield picture

        at = 0
        for block in renderer.reader.encode_each(cuts(), gaze=gaze):
            yield np.hstack([block, *([np.concatenate(states[at : at + len(block)])] if presence else [])])
            at += len(block)

    file = None if clip.is_picture else tables.file_of("encoded", *key, media=clip.path)
    return tables.rows(file, width + (STATE if presence else 0), rows)[:, :width].astype(np.float32)


def _compared(
    renderer: FaceRenderer,
    clip: Clip,
    crop: Crop,
    values: np.ndarray,
    seen: np.ndarray,
    number: int,
    step: Callable[[int], object],
    key: Sequence[object],
) -> np.ndarray:
    """(T, n) readings of all frames by comparison with the neutral frame `number`.

    values: (T, n) absolute readings. seen: (T,) bool, frames with a visible face. step, key: as for `_encoded`.
    """
    from .lanes import read_ahead
    from .lower_face import MEASURED, can_correct, correction, drawn_points, measured

    closer = crop.at_size(renderer.reader.comparing_size)
    names, refiner = renderer.bank.names, renderer.reader.networks.refiner
    at_rest = cut(next(islice(clip.frames(), number, None)), closer)
    reference = renderer.reader.rest_reference(at_rest)

    def rows(done: np.ndarray) -> Iterator[np.ndarray]:
        again = with_progress(read_ahead(clip.frames()), step)
        faces = (cut(rgb, closer) for rgb in islice(again, len(done), None))
        return renderer.reader.compare_each(reference, faces, measured)

    file = tables.file_of("compared", number, *key, media=clip.path)
    table = tables.rows(file, len(names) + MEASURED, rows)
    more, found = table[:, : len(names)].astype(np.float32), table[:, len(names) :]
    first = values.shape[1] - len(reference.gaze)
    values = values.copy()
    values[:, first:] = more[:, first:] + reference.gaze
    counts = seen if seen.any() else ~seen
    at_neutral = np.median((values - more)[counts], axis=0)  # a single reading may be wrong
    if refiner is not None and can_correct(names):
        drawn = drawn_points(refiner, at_rest, renderer.config.size)
        more = more + correction(more - more[number], names, drawn, found, clip.fps)
    return more + at_neutral


def frame_at(clip: Clip, time: float, count: int) -> int:
    """Index of the frame that is shown at `time` seconds, limited to the `count` frames of the clip."""
    return min(max(math.floor((time - clip.start) * clip.fps + 1e-3), 0), count - 1)


def interpolated(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Rows (T, n), with those that are not `seen` (T,) interpolated linearly; the first and last values are held."""
    if seen.all() or not seen.any():
        return values
    places = np.flatnonzero(seen)
    columns = [np.interp(np.arange(len(values)), places, column[places]) for column in values.T]
    return np.where(seen[:, None], values, np.stack(columns, axis=1)).astype(values.dtype)


class _Presence:
    """Whether the face is inside a crop, for each frame."""

    def __init__(self, crop: Crop, clip: Clip) -> None:
        from .face.crop_tracker import CropTracker

        x, y, side, _ = crop.box
        self._fps, self._square = clip.fps, (x + side / 2 - 0.5, y + side / 2 - 0.5, side)
        # One detection per second is sufficient: if the tracker loses the face, it runs the detector immediately.
        self._tracker = CropTracker(every=max(1, round(clip.fps)), which=self._square[:2], label=clip.path.name)

    def add(self, rgb: np.ndarray) -> np.ndarray:
        """Track the face in the next frame. Returns the tracker's state after it, (1, STATE)."""
        self._tracker.add(rgb)
        return self._tracker.state()

    def restore(self, states: np.ndarray, rgb: np.ndarray) -> None:
        """Continue after frames that were tracked earlier, see `CropTracker.restore`."""
        self._tracker.restore(states, rgb)

    def seen(self) -> np.ndarray:
        """(T,) bool; all True if no face was detected in any frame."""
        if not self._tracker.found:
            return np.ones(len(self._tracker), bool)
        crops = tracked_crops(self._tracker, self._fps)
        x, y, side = self._square
        middle = crops[:, :2] + crops[:, 2:3] / 2 - 0.5
        return np.abs(middle - (x, y)).max(axis=1) < side / 2  # False for NaN


def with_progress(frames: Iterator[np.ndarray], step: Callable[[int], object]) -> Iterator[np.ndarray]:
    """The frames; `step` is called before each of them with the number of frames before it."""
    for number, rgb in enumerate(frames):
        step(number)
        yield rgb
