"""Messages in the sidebar: notes, and problems with the button that fixes them."""

from __future__ import annotations

import bpy

CATEGORY = "EDTalk"  # the sidebar tab, unless the preferences give another name


def draw_note(layout: bpy.types.UILayout, text: str) -> None:
    """Draw an information message that needs no button. Draws nothing for an empty text."""
    column = layout.column(align=True)
    for number, line in enumerate(wrapped(text)):
        column.label(text=line, icon="BLANK1" if number else "INFO")


def draw_problem(layout: bpy.types.UILayout, message: str, operator: str, label: str) -> None:
    """Draw an error message with the button that fixes it. operator: its bl_idname, or empty for no button."""
    box = layout.box().column(align=True)
    box.alert = True
    for number, line in enumerate(wrapped(message)):
        box.label(text=line, icon="BLANK1" if number else "ERROR")
    if operator:
        box.operator(operator, text=label)


def wrapped(text: str, width: int = 38) -> list[str]:
    """Split a text into lines of at most `width` characters. Longer words, such as paths, are split anywhere."""
    lines = [""]
    for word in text.split():
        while len(word) > width:
            lines.append(word[:width])
            word = word[width:]
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return [line for line in lines if line]
