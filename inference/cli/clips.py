"""Faces on their way in: a portrait or a clip to animate, and clips that are measured to drive it.

Everything is read frame by frame, and again where it is needed twice: memory does not grow with a clip's length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..capture import capture
from ..contract.coefficients import Coefficients
from ..face.framing import cut, cut_at, fitting_size
from ..media.clip import Clip
from .framing import Framing
from .progress import Progress, note

if TYPE_CHECKING:
    from ..face.crop import Crop
    from ..face.paste import Layering
    from ..renderer import FaceRenderer


def measure(
    renderer: FaceRenderer, clip: Clip, crops: list[Crop | None], needed: Iterable[int], progress: str
) -> np.ndarray:
    """(N, n) coefficients of the frames `needed`, up to the last of them; other rows, and those without a crop, are 0.

    crops: one a frame, the last one for all that follow.
    """
    last = max(needed := set(needed))
    seen = sorted(index for index in needed if crops[min(index, len(crops) - 1)] is not None)
    rows = np.zeros((last + 1, len(renderer.bank.names)), np.float32)
    if not seen:
        return rows
    with Progress(f"reading {clip.path.name}", len(seen), progress) as bar:

        def faces() -> Iterator[np.ndarray]:
            wanted = set(seen)
            for index, rgb in enumerate(islice(clip.frames(), seen[-1] + 1)):
                if index in wanted:
                    yield cut(rgb, crops[min(index, len(crops) - 1)])
                    bar.step()

        rows[seen] = renderer.encode(faces()).values
    return rows


def frame_clip(clip: Clip, framing: Framing, size: int) -> Crop:
    """The one square of a driving clip or picture."""
    return framing.of_clip(clip.frames(), clip.fps, size, clip.path.name)


def capture_clip(renderer: FaceRenderer, clip: Clip, framing: Framing, progress: str = "auto") -> Coefficients:
    """Coefficients of every frame of a clip."""
    crop = frame_clip(clip, framing, renderer.config.size)
    passes = 2 if renderer.can_compare and not clip.is_picture else 1
    total = (clip.expected() or 0) * passes or None
    with Progress(f"reading {clip.path.name}", total, progress) as bar:
        found = capture(renderer, clip, crop, lambda _done, _total: bar.step(), watch=framing.mode != "none")
    if found.note:
        note(found.note)
    return found.rows


class Source(Protocol):
    """What is animated. `own` is (1, n) or (T, n): the face's own coefficients."""

    own: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the full picture."""

    def pictures(self, rows: np.ndarray, start: int, layering: Layering) -> Iterator[np.ndarray]:
        """One for each of the coefficients (T, n), the first of which is frame `start`; see `Layering.compose`."""


class Portrait:
    """A picture; frames are made from it alone. size: of a face, as for `dub`."""

    def __init__(self, renderer: FaceRenderer, path: Path, framing: Framing, size: int | None) -> None:
        from ..media.picture import load_picture

        self._renderer, self._picture = renderer, load_picture(path)
        self.shape = self._picture.rgb.shape
        self._crop = framing.of_picture(self._picture.rgb, renderer.config.size, path.name)
        side = fitting_size(self._crop, renderer.config.size) if size is None else size
        detail = cut_at(self._picture.rgb, self._crop, side) if side else None
        renderer.set_source(cut(self._picture.rgb, self._crop), detail)
        self.own = renderer.source_coefficients.values

    def pictures(self, rows: np.ndarray, start: int, layering: Layering) -> Iterator[np.ndarray]:
        for face in self._renderer.render(rows):
            yield layering.compose(face, self._picture, self._crop)


class Footage:
    """A clip to be dubbed: frame i is made from the clip's frame `indices[i]`, cut out where the face is by then.

    size: of a face, as for `dub`.
    """

    def __init__(
        self,
        renderer: FaceRenderer,
        clip: Clip,
        framing: Framing,
        indices: np.ndarray,
        span: slice,
        progress: str,
        size: int | None,
    ) -> None:
        self._renderer, self._clip, self._indices = renderer, clip, indices
        self.shape, self._size = next(clip.frames()).shape, size
        self._crops = framing.of_frames(clip, int(indices.max()) + 1, renderer.config.size)
        rows = measure(renderer, clip, self._crops, indices[span].tolist(), progress)
        self.own = rows[np.minimum(indices, len(rows) - 1)]

    def pictures(self, rows: np.ndarray, start: int, layering: Layering) -> Iterator[np.ndarray]:
        from ..dubbing import dub
        from ..media.picture import Picture

        indices = self._indices[start : start + len(rows)].tolist()
        crops = [self._crops[min(index, len(self._crops) - 1)] for index in indices]
        frames = zip(self._clip.in_order(indices), crops, strict=True)
        for rgb, crop, face in dub(self._renderer, frames, rows, size=self._size):
            if crop is None:
                yield layering.without_face(rgb, self._size or self._renderer.config.size)
            else:
                yield layering.compose(face, Picture(rgb), crop)
