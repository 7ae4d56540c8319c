"""What a face does in a clip, a folder of pictures or a picture: coefficients of every frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .coefficients import Coefficients
from .framing import cut, frame_clip

if TYPE_CHECKING:
    from .clip import Clip
    from .face import Crop
    from .renderer import FaceRenderer


def capture(
    renderer: FaceRenderer,
    clip: Clip,
    crop: Crop | str | Sequence[float],
    step: Callable[[int, int], object] = lambda done, total: None,
) -> Coefficients:
    """One row for every frame of a clip, as the frame is within one square for all of them.

    crop: the square, or how to come by it, see `inference.framing.frame_clip`. step: called with the number of frames
    measured and of all, 0 where not known, before each frame that is looked at; may raise to stop. The renderer's
    source picture is neither used nor changed. Raises EDTalkError, kind "media" or "face".
    """
    from .face import Crop

    total = clip.expected() or 0
    if not isinstance(crop, Crop):
        looked_at = _told(clip.frames(), lambda _: step(0, total))
        crop = frame_clip(looked_at, clip.fps, renderer.config.size, crop, label=clip.path.name)
    measured = _told(clip.frames(), lambda done: step(done, total))
    rows = renderer.encode(cut(rgb, crop) for rgb in measured)
    return Coefficients(rows.values, rows.names, None if clip.is_picture else clip.fps)


def _told(frames: Iterator[np.ndarray], tell: Callable[[int], object]) -> Iterator[np.ndarray]:
    for number, rgb in enumerate(frames):
        tell(number)
        yield rgb
