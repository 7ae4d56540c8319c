"""The panel 3D Face in the sidebar of the 3D View: link the shape keys of a 3D head to sliders."""

from __future__ import annotations

import bpy

from ..character import character
from ..rig import rig
from .help import HasHelp
from .messages import CATEGORY, draw_note, draw_problem


class EDTALK_UL_links(bpy.types.UIList):
    """Links of a head: shape key and slider"""

    def draw_item(
        self,
        _context: bpy.types.Context,
        layout: bpy.types.UILayout,
        group: rig.ShapeRig,
        link: rig.ShapeLink,
        _icon: int,
        _owner: rig.ShapeRig,
        _active: str,
    ) -> None:
        is_one = _are_alike(link.shape_key, link.slider)  # one name has the room of two in a narrow sidebar
        row = layout.row(align=True) if is_one else layout.split(factor=0.62, align=True)
        row.alert = not rig.is_valid(group.id_data, link)
        row.label(text=link.shape_key or "No Shape Key", icon="SHAPEKEY_DATA")
        if not is_one:
            row.label(text=link.slider or "No Slider")

    def filter_items(self, _context: bpy.types.Context, group: rig.ShapeRig, name: str) -> tuple[list[int], list[int]]:
        """Filter by shape key or slider, because the names of links are numbers."""
        text = self.filter_name.lower()
        links = getattr(group, name)
        shown = [text in link.shape_key.lower() or text in link.slider.lower() for link in links]
        return [self.bitflag_filter_item * (is_shown != self.use_filter_invert) for is_shown in shown], []


def _are_alike(shape_key: str, slider: str) -> bool:
    """Whether two names differ in capitals, spaces and punctuation only."""
    letters, others = ("".join(filter(str.isalnum, name)).lower() for name in (shape_key, slider))
    return bool(letters) and letters == others


class EDTALK_PT_rig(HasHelp, bpy.types.Panel):
    """Drive the shape keys of a 3D head with the sliders"""

    bl_label = "3D Face"
    help_page = "3d-face.html"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_options = {"DEFAULT_CLOSED"}
    bl_order = 10

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(character.characters(context.scene)) or rig.has_shapes(context.active_object)

    def draw(self, context: bpy.types.Context) -> None:
        layout, obj = self.layout, context.active_object
        if not rig.has_shapes(obj):
            draw_note(layout, "Select a 3D head with shape keys.")
            return
        group = obj.edtalk_rig
        if reason := character.editable_reason(obj):
            draw_problem(layout, f"{reason}.", "", "")
        layout.prop(group, "character", text="", icon="USER")
        layout.operator("edtalk.match_shapes", icon="VIEWZOOM")
        column = layout.column(align=True)
        column.template_list("EDTALK_UL_links", "", group, "links", group, "active", rows=5)
        row = column.row(align=True)
        row.operator("edtalk.add_link", text="Add", icon="ADD")
        row.operator("edtalk.remove_link", text="Remove", icon="REMOVE")
        if len(group.links):
            _draw_link(layout, obj, group.links[min(max(group.active, 0), len(group.links) - 1)])
        if rig.is_stale(obj):
            draw_problem(layout, "The drivers are out of date.", "edtalk.drive_shapes", "Update Drivers")
        row = layout.row(align=True)
        if rig.is_driven(obj):
            row.operator("edtalk.undrive_shapes", icon="UNLINKED")
        else:
            row.operator("edtalk.drive_shapes", icon="LINKED")
        row.operator("edtalk.bake_shapes", icon="KEY_HLT")


def _draw_link(layout: bpy.types.UILayout, obj: bpy.types.Object, link: rig.ShapeLink) -> None:
    column = layout.column()
    column.use_property_split = True
    column.use_property_decorate = False
    column.prop_search(link, "shape_key", obj.data.shape_keys, "key_blocks")
    column.prop(link, "slider", icon="PROPERTIES")
    column.prop(link, "gain")
    column.prop(link, "offset")


CLASSES = (EDTALK_UL_links, EDTALK_PT_rig)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
