"""Default shortcuts for Key Emotion and Change Emotion in the 3D Viewport and the Sequencer.

They are in the add-on key configuration, so Preferences > Keymap and the extension's preferences can change them. No
keymap of Blender's default or industry-compatible configuration uses these keys.
"""

from __future__ import annotations

from typing import NamedTuple

import bpy
import rna_keymap_ui


class Shortcut(NamedTuple):
    """An operator's key. modifiers: options of `KeyMapItems.new`."""

    operator: str
    key: str
    modifiers: tuple[str, ...]


SHORTCUTS = (
    Shortcut("edtalk.emotion_key", "K", ("ctrl", "shift")),
    Shortcut("edtalk.emotion_change", "K", ("shift", "alt")),
)
KEYMAPS = (("3D View", "VIEW_3D"), ("Sequencer", "SEQUENCE_EDITOR"))  # name and space type

_added: list[tuple[bpy.types.KeyMap, bpy.types.KeyMapItem]] = []


def draw(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """Draw the shortcuts as Preferences > Keymap does."""
    configuration = context.window_manager.keyconfigs.user
    operators = {shortcut.operator for shortcut in SHORTCUTS}
    for name, space in KEYMAPS:
        keymap = configuration.keymaps.find(name, space_type=space) if configuration else None
        for item in keymap.keymap_items if keymap else ():
            if item.idname in operators:
                column = layout.column()
                column.context_pointer_set("keymap", keymap)
                rna_keymap_ui.draw_kmi([], configuration, keymap, item, column, 0)


def register() -> None:
    configuration = bpy.context.window_manager.keyconfigs.addon
    if configuration is None:
        return
    for name, space in KEYMAPS:
        keymap = configuration.keymaps.new(name, space_type=space)
        for shortcut in SHORTCUTS:
            pressed = dict.fromkeys(shortcut.modifiers, True)
            _added.append((keymap, keymap.keymap_items.new(shortcut.operator, shortcut.key, "PRESS", **pressed)))


def unregister() -> None:
    for keymap, item in _added:
        keymap.keymap_items.remove(item)
    _added.clear()
