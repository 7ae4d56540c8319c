"""The panel Slider Names in the sidebar of the 3D View: edit proposed names and ranges of sliders."""

from __future__ import annotations

import bpy

from ...inference.contract.errors import EDTalkError
from ..character import character, files
from ..naming import naming
from ..translations.context import CONTEXT
from .help import HasHelp
from .messages import CATEGORY, draw_lines


class EDTALK_UL_slider_names(bpy.types.UIList):
    """Sliders and their proposed names"""

    def draw_item(
        self,
        _context: bpy.types.Context,
        layout: bpy.types.UILayout,
        group: naming.Naming,
        item: naming.SliderName,
        _icon: int,
        _owner: naming.Naming,
        _active: str,
    ) -> None:
        row = layout.row(align=True)
        row.alert = bool(naming.fault(group.id_data, item))
        row.label(text=item.name)
        row.prop(item, "new_name", text="", emboss=False)
        row.label(text=item.region)


class EDTALK_PT_naming(HasHelp, bpy.types.Panel):
    """Name the sliders of a bank that only numbers them"""

    bl_label = "Slider Names"
    help_page = "character.html#names"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_options = {"DEFAULT_CLOSED"}
    bl_order = 11

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        obj = character.active(context)
        try:
            return obj is not None and bool(len(obj.edtalk_naming.sliders) or naming.numbered(files.bank_of(obj)))
        except EDTalkError:
            return False

    def draw(self, context: bpy.types.Context) -> None:
        layout, obj = self.layout, character.active(context)
        group, bank = obj.edtalk_naming, files.bank_of(obj)
        if not len(group.sliders):
            column = layout.column(align=True)
            draw_lines(column, f"The sliders of the bank '{bank.name}' have no names.")
            layout.operator("edtalk.name_sliders", icon="VIEWZOOM")
            return
        layout.template_list("EDTALK_UL_slider_names", "", group, "sliders", group, "active", rows=6)
        item = group.sliders[min(max(group.active, 0), len(group.sliders) - 1)]
        if reason := naming.fault(obj, item):
            draw_lines(layout.column(align=True), reason, "ERROR")
        column = layout.column(align=True)
        if item.name in obj.edtalk:
            path = f'["{bpy.utils.escape_identifier(item.name)}"]'
            column.prop(obj.edtalk, path, text="Preview", text_ctxt=CONTEXT, slider=True)
        row = column.row(align=True)
        row.prop(item, "soft_min")
        row.prop(item, "soft_max")
        row = layout.row(align=True)
        row.operator("edtalk.apply_names", icon="CHECKMARK")
        row.operator("edtalk.discard_names", icon="X")


CLASSES = (EDTALK_UL_slider_names, EDTALK_PT_naming)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
