"""What is said in a dialogue strip: its own text, a Text data-block, or the text strips over it."""

from __future__ import annotations

import bpy
from bpy.props import PointerProperty

from ...inference.contract.expression import SpokenText
from .. import compat
from ..timeline.timemap import TimeMap

_LONGEST = 100_000  # characters that are sent of each text; the engine reads less and says so


def texts_of(scene: bpy.types.Scene, strip: bpy.types.SoundStrip, clock: TimeMap) -> tuple[SpokenText, ...]:
    """The texts of a strip, with their times in seconds of its sound; () if none is known.

    The first of these that is not empty: the strip's own text, its Text data-block, the text strips at the same frames.
    """
    own = strip.edtalk_text.strip()
    if not own and strip.edtalk_text_block is not None:
        own = strip.edtalk_text_block.as_string().strip()
    if own:
        found = [(own, clock.start, clock.end)]
    else:
        titles = [other for other in compat.strips(scene) if other.type == "TEXT" and not other.mute]
        spans = [(compat.left_handle(other), compat.right_handle(other)) for other in titles]
        found = [
            (other.text.strip(), max(clock.start, first), min(clock.end, last))
            for other, (first, last) in zip(titles, spans, strict=True)
        ]
    texts = []
    for text, first, last in sorted(found, key=lambda one: one[1]):
        start, end = (float(second) for second in clock.seconds([first, last])) if first < last else (0.0, 0.0)
        if text and end > start:
            texts.append(SpokenText(text[:_LONGEST], start, end))
    return tuple(texts)


def register() -> None:
    bpy.types.Strip.edtalk_text_block = PointerProperty(
        type=bpy.types.Text,
        name="Text Block",
        description="Text data-block with what is said in this strip. Used if the field Text is empty",
    )


def unregister() -> None:
    del bpy.types.Strip.edtalk_text_block
