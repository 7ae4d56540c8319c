"""Counts edits of characters and their animation, so that work in steps notices one and begins again."""

from __future__ import annotations

import bpy

from ..character import character

_number = 0


def number() -> int:
    """Increases with each edit of a character or an action, with each undo and redo, and when a file is opened."""
    return _number


def note() -> None:
    """Count an edit of the animation."""
    global _number
    _number += 1


def note_updates(depsgraph: bpy.types.Depsgraph) -> None:
    """Count the edits among a depsgraph's updates."""
    for update in depsgraph.updates:
        edited = update.id
        is_object = isinstance(edited, bpy.types.Object)
        if isinstance(edited, bpy.types.Action) or (is_object and character.is_character(edited)):
            note()
            return
