"""Menu entries for the operators, for the menu search (F3) and custom shortcuts."""

from __future__ import annotations

import bpy

from ..translations.context import CONTEXT


class EDTALK_MT_strip(bpy.types.Menu):
    """Talking face operators for strips"""

    bl_label = "Talking Face"

    def draw(self, _context: bpy.types.Context) -> None:
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator("edtalk.emotion_change")
        layout.operator("edtalk.emotion_key")
        layout.separator()
        layout.operator("edtalk.lip_sync")
        layout.operator("edtalk.render_face")
        layout.operator("edtalk.resync")
        layout.separator()
        layout.operator("edtalk.capture")
        layout.operator("edtalk.match_face")
        layout.operator("edtalk.dub_movie")
        layout.separator()
        layout.operator("edtalk.idle_motion")
        layout.separator()
        layout.operator("edtalk.export_movie")


def _draw_in_strip_menu(menu: bpy.types.Menu, _context: bpy.types.Context) -> None:
    menu.layout.separator()
    menu.layout.menu("EDTALK_MT_strip")


def _draw_in_add_menu(menu: bpy.types.Menu, _context: bpy.types.Context) -> None:
    menu.layout.operator_context = "INVOKE_DEFAULT"
    menu.layout.operator("edtalk.add_character", text="Talking Face", text_ctxt=CONTEXT, icon="USER")


def register() -> None:
    bpy.utils.register_class(EDTALK_MT_strip)
    bpy.types.VIEW3D_MT_add.append(_draw_in_add_menu)
    bpy.types.SEQUENCER_MT_strip.append(_draw_in_strip_menu)


def unregister() -> None:
    bpy.types.SEQUENCER_MT_strip.remove(_draw_in_strip_menu)
    bpy.types.VIEW3D_MT_add.remove(_draw_in_add_menu)
    bpy.utils.unregister_class(EDTALK_MT_strip)
