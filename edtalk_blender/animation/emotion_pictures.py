"""Pictures of emotions and mouth shapes, and the choice of an emotion by its picture.

`docs/thumbnails.py` renders the pictures in `thumbnails/` from a portrait of the demo (CC0).
"""

from __future__ import annotations

from pathlib import Path

import bpy
import bpy.utils.previews
from bpy.props import EnumProperty

from ...inference.contract.emotion import NEUTRAL
from ...inference.contract.errors import EDTalkError
from ..character import character, sliders
from ..translations.context import CONTEXT, translated

FOLDER = Path(__file__).parent / "thumbnails"

EnumItem = tuple[str, str, str, int, int]  # identifier, name, description, icon, number

_previews: bpy.utils.previews.ImagePreviewCollection | None = None
# By language and emotions. Blender keeps pointers to the strings of a dynamic enum, so no list is ever replaced.
_items: dict[tuple[str, ...], list[EnumItem]] = {}


def icon(name: str) -> int:
    """Icon of an emotion or mouth shape; 0 if it has no picture, such as an emotion of the artist."""
    path = FOLDER / f"{name}.png"
    if _previews is None or not path.is_file():
        return 0
    if name not in _previews:
        _previews.load(name, str(path), "IMAGE").image_size[:]  # reading the size loads the file now, not in a job
    return _previews[name].icon_id


def items(obj: bpy.types.Object | None) -> list[EnumItem]:
    """Enum items for neutral and the emotions of a character."""
    try:
        names = (NEUTRAL, *(sliders.emotions(obj) if obj else ()))
    except EDTalkError:  # the bank cannot be read; a panel reports it
        names = (NEUTRAL,)
    key = bpy.app.translations.locale, *names
    if key not in _items:  # translated here, because the popup of pictures does not
        labels = [translated(sliders.title(name)) for name in names]
        _items[key] = [(name, labels[number], "", icon(name), number) for number, name in enumerate(names)]
    return _items[key]


def chosen(obj: bpy.types.Object) -> str:
    """The emotion that Key Emotion and Change Emotion use: the one used last, else the strongest, else the first."""
    known = sliders.emotions(obj)
    last = obj.edtalk.last_emotion
    if last in known or last == NEUTRAL:
        return last
    strongest = max(known, key=lambda name: obj.edtalk.get(name, 0.0), default=NEUTRAL)
    if obj.edtalk.get(strongest, 0.0) <= 0.0 and "happy" in known:
        return "happy"
    return strongest


def _choice_items(_owner: bpy.types.WindowManager, context: bpy.types.Context | None) -> list[EnumItem]:
    return items(character.active(context) if context else None)


def _get_choice(_owner: bpy.types.WindowManager) -> int:
    obj = character.active(bpy.context)
    if obj is None:
        return 0
    try:
        return [NEUTRAL, *sliders.emotions(obj)].index(chosen(obj))
    except EDTalkError:
        return 0


def _set_choice(_owner: bpy.types.WindowManager, number: int) -> None:
    obj = character.active(bpy.context)
    if obj is not None and not character.editable_reason(obj):
        obj.edtalk.last_emotion = [NEUTRAL, *sliders.emotions(obj)][number]


def register() -> None:
    global _previews
    _previews = bpy.utils.previews.new()
    bpy.types.WindowManager.edtalk_emotion = EnumProperty(
        name="Emotion",
        description="Emotion that Key Emotion and Change Emotion use",
        translation_context=CONTEXT,
        items=_choice_items,
        get=_get_choice,
        set=_set_choice,
    )


def unregister() -> None:
    global _previews
    del bpy.types.WindowManager.edtalk_emotion
    if _previews is not None:
        bpy.utils.previews.remove(_previews)
    _previews = None
    _items.clear()
