"""Messages in the sidebar: notes, and problems with the button that fixes them."""

from __future__ import annotations

from collections.abc import Callable

import blf
import bpy

from ..translations.context import translated

CATEGORY = "EDTalk"  # the sidebar tab, unless the preferences give another name


_MARGINS = 88  # pixels at a scale of 1: icon, margins of panel and box, and tabs beside a line of text
_DEFAULT_WIDTH = 38  # characters, where no region is drawn


def draw_note(layout: bpy.types.UILayout, text: str) -> None:
    """Draw an information message that needs no button. Draws nothing for an empty text."""
    draw_lines(layout.column(align=True), text, "INFO")


def draw_problem(
    layout: bpy.types.UILayout, message: str, operator: str, label: str
) -> bpy.types.OperatorProperties | None:
    """Draw an error message with the button that fixes it. operator: its bl_idname, or empty for no button.

    Returns the properties of the button.
    """
    box = layout.box().column(align=True)
    box.alert = True
    draw_lines(box, message, "ERROR")
    box.operator_context = "INVOKE_DEFAULT"
    return box.operator(operator, text=label) if operator else None


def draw_lines(column: bpy.types.UILayout, text: str, icon: str = "NONE") -> None:
    """Draw a text in lines that fit into the region, with an icon before the first."""
    for number, line in enumerate(wrapped(translated(text), *_available())):
        column.label(text=line, icon="BLANK1" if number and icon != "NONE" else icon, translate=False)


def fitting(*texts: str) -> str:
    """The first of some texts that fits into a line of the region, else the last."""
    width, measure = _available()
    return next((text for text in texts if measure(text) <= width), texts[-1])


def _available() -> tuple[float, Callable[[str], float]]:
    """The width for a line in the region that is being drawn, and the function that measures text in its unit."""
    region, preferences = bpy.context.region, bpy.context.preferences
    scale = preferences.system.ui_scale  # 0 without a window
    if region is None or region.type not in ("UI", "WINDOW") or region.width <= 1 or not scale:
        return _DEFAULT_WIDTH, len
    left, right = (region.view2d.region_to_view(x, 0)[0] for x in (0, region.width))  # a sidebar may be zoomed
    blf.size(0, preferences.ui_styles[0].widget.points * scale)
    return max(right - left - _MARGINS * scale, 1.0), lambda text: blf.dimensions(0, text)[0]


def wrapped(text: str, width: float, measure: Callable[[str], float] = len) -> list[str]:
    """Split a text into lines of at most `width`. Longer words, such as paths, are split anywhere.

    measure: the width of a text, by default its number of characters.
    """
    lines = [""]
    for word in text.split():
        while measure(word) > width and len(word) > 1:
            part = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or measure(word[:n]) <= width)
            lines.append(word[:part])
            word = word[part:]
        longer = f"{lines[-1]} {word}".strip()
        if measure(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [line for line in lines if line]
