"""What the steps of `inference.renderer` hand over to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .model.correction import CorrectionSource
from .model.decoder import Canvas, Source
from .model.fast_detail import FastDetail
from .model.fast_gaze import TurnableEyes
from .model.insets import PlacedInset
from .model.plan import Plan
from .model.source_lips import SourceLips
from .model.tensor_trees import concatenated

if TYPE_CHECKING:
    from .teeth import TeethTexture


@dataclass(frozen=True)
class PreparedSource:
    """Everything that depends on N source pictures alone. own: their coefficients, (N, n).

    tone: of one monochrome source, see `inference.monochrome`. lips: of one source, as `eyes`.
    """

    generator: Source
    corrected: CorrectionSource | None  # None without a refiner
    own: np.ndarray
    eyes: TurnableEyes | None = None  # of one source, if the bank has a bank of gaze
    tone: np.ndarray | None = None
    lips: SourceLips | None = None

    @staticmethod
    def concatenated(sources: Sequence[PreparedSource]) -> PreparedSource:
        """The sources of a batch as one object."""
        if len(sources) == 1:
            return sources[0]
        corrected = [source.corrected for source in sources]
        return PreparedSource(
            concatenated([source.generator for source in sources]),
            None if corrected[0] is None else concatenated(corrected),
            np.concatenate([source.own for source in sources]),
        )


class CardDetail(NamedTuple):
    """The texture of a source on a card, and its teeth, which are drawn on the CPU."""

    texture: FastDetail
    teeth: TeethTexture | None

    @property
    def size(self) -> int:
        return self.texture.size

    def lay_teeth(self, picture: np.ndarray, to_picture: np.ndarray, planes: np.ndarray) -> None:
        """Composite the teeth of a frame over it, in place: uint8 (D, D, 3), or float32 in [-1, 1].

        to_picture, planes: see `inference.model.insets.PlacedInset.frames`.
        """
        if self.teeth is None:
            return
        if picture.dtype == np.uint8:
            self.teeth.lay_over(picture, to_picture, planes)
            return
        levels = (picture + 1) * np.float32(127.5)
        self.teeth.lay_over(levels, to_picture, planes)
        picture[...] = levels / np.float32(127.5) - 1


@dataclass(frozen=True)
class PlannedBatch:
    """Everything that is known of a batch of frames before it is drawn.

    eyes: of each source, none without insets. canvas: None if it is to be computed for each frame. size: width in
    pixels of the frames. teeth: whether single teeth are found for them.
    """

    plan: Plan
    source: PreparedSource
    eyes: list[TurnableEyes]
    canvas: Canvas | None
    size: int
    teeth: bool


class Decoded(NamedTuple):
    """A batch of pictures (N, 3, S, S), their sampling positions in [-1, 1] (N, 2, S, S), masks in 0..1 (N, S, S), the
    insets to composite over the pictures, and the plan by which they were drawn.
    """

    planes: np.ndarray
    places: np.ndarray
    mask: np.ndarray
    insets: list[PlacedInset]
    plan: Plan


def with_closed_mouths(
    pictures: list[np.ndarray], plan: Plan, sources: Sequence[PreparedSource], shade: bool = True
) -> list[np.ndarray]:
    """The first pictures of a batch, (D, D, C) each, with the open mouths of their sources closed as planned.

    sources: one, or one for each picture of the batch. shade: see `inference.closing.with_closed_mouth`.
    """
    if plan.closing is None:
        return pictures
    every = list(sources) * (len(pictures) if len(sources) == 1 else 1)
    return [
        picture if source.lips is None else source.lips.close_mouth(picture, alpha, closing, shade)
        for picture, source, alpha, closing in zip(pictures, every, plan.alpha, plan.closing, strict=False)
    ]
