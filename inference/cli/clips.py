"""Faces on their way in: a portrait or a clip to animate, and clips that are measured to drive it.

Everything is read frame by frame, and again where it is needed twice: memory does not grow with a clip's length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..capture import capture
from ..clip import Clip
from ..coefficients import Coefficients
from ..framing import cut
from .framing import Framing
from .progress import Progress

if TYPE_CHECKING:
    from ..face import Crop, PasteBack
    from ..renderer import FaceRenderer


def measure(
    renderer: FaceRenderer, clip: Clip, crops: list[Crop], needed: Iterable[int], progress: str
) -> np.ndarray:
    """(N, n) coefficients of the frames `needed`, up to the last of them; other rows are 0.

    crops: one a frame, the last one for all that follow.
    """
    needed = sorted(set(needed))
    with Progress(f"reading {clip.path.name}", len(needed), progress) as bar:

        def faces() -> Iterator[np.ndarray]:
            wanted = set(needed)
            for index, rgb in enumerate(islice(clip.frames(), needed[-1] + 1)):
                if index in wanted:
                    yield cut(rgb, crops[min(index, len(crops) - 1)])
                    bar.step()

        rows = np.zeros((needed[-1] + 1, len(renderer.bank.names)), np.float32)
        rows[needed] = renderer.encode(faces()).values
    return rows


def frame_clip(clip: Clip, framing: Framing, size: int) -> Crop:
    """The one square of a driving clip or picture."""
    return framing.of_clip(clip.frames(), clip.fps, size, clip.path.name)


def capture_clip(renderer: FaceRenderer, clip: Clip, framing: Framing, progress: str = "auto") -> Coefficients:
    """Coefficients of every frame of a clip."""
    crop = frame_clip(clip, framing, renderer.config.size)
    with Progress(f"reading {clip.path.name}", clip.expected(), progress) as bar:
        return capture(renderer, clip, crop, lambda _done, _total: bar.step())


class Source(Protocol):
    """What is animated. `own` is (1, n) or (T, n): the face's own coefficients."""

    own: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the full picture."""

    def faces(self, rows: np.ndarray, start: int) -> Iterator[np.ndarray]:
        """uint8 (size, size, 3) for coefficients (T, n), the first of which is frame `start`."""

    def full(self, face: np.ndarray) -> np.ndarray:
        """The last face given, put back into its full picture; with its alpha where it has one."""


class Portrait:
    """A picture; frames are made from it alone."""

    def __init__(self, renderer: FaceRenderer, path: Path, framing: Framing) -> None:
        from ..face import PasteBack
        from ..picture import load_picture

        picture = load_picture(path)
        crop = framing.of_picture(picture.rgb, renderer.config.size, path.name)
        renderer.set_source(cut(picture.rgb, crop))
        self.own = renderer.source_coefficients.values
        self.shape = picture.rgb.shape
        self._renderer, self._picture = renderer, picture
        self._paste = PasteBack(picture.rgb.shape, crop)

    def faces(self, rows: np.ndarray, start: int) -> Iterator[np.ndarray]:
        return self._renderer.render(rows)

    def full(self, face: np.ndarray) -> np.ndarray:
        pasted = self._paste.paste(self._picture.rgb, face)
        return pasted if self._picture.alpha is None else np.dstack([pasted, self._picture.alpha])


class Shot:
    """A clip to be dubbed: frame i is made from the clip's frame `indices[i]`, cut out where the face is by then."""

    def __init__(
        self, renderer: FaceRenderer, clip: Clip, framing: Framing, indices: np.ndarray, span: slice, progress: str
    ) -> None:
        self._renderer, self._clip, self._indices = renderer, clip, indices
        self.shape = next(clip.frames()).shape
        self._crops = framing.of_frames(clip, int(indices.max()) + 1, renderer.config.size)
        rows = measure(renderer, clip, self._crops, indices[span].tolist(), progress)
        self.own = rows[np.minimum(indices, len(rows) - 1)]
        self._waiting: deque[tuple[np.ndarray, Crop]] = deque()
        self._paste: tuple[Crop, PasteBack] | None = None

    def faces(self, rows: np.ndarray, start: int) -> Iterator[np.ndarray]:
        indices = self._indices[start : start + len(rows)].tolist()

        def pictures() -> Iterator[np.ndarray]:
            for index, rgb in zip(indices, self._clip.in_order(indices), strict=True):
                crop = self._crops[min(index, len(self._crops) - 1)]
                self._waiting.append((rgb, crop))
                yield cut(rgb, crop)

        for face in self._renderer.render_frames(pictures(), rows):
            self._current = self._waiting.popleft()
            yield face

    def full(self, face: np.ndarray) -> np.ndarray:
        from ..face import PasteBack

        rgb, crop = self._current
        if self._paste is None or self._paste[0] is not crop:
            self._paste = crop, PasteBack(rgb.shape, crop)
        return self._paste[1].paste(rgb, face)
