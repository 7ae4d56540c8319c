"""The panel Render Farm in the sidebar of the Sequencer."""

from __future__ import annotations

import bpy

from .. import compat
from ..timeline import sequencer
from .help import HasHelp
from .messages import CATEGORY


class EDTALK_PT_farm(HasHelp, bpy.types.Panel):
    """Render faces on a render farm"""

    bl_label = "Render Farm"
    help_page = "farm.html"
    bl_space_type = "SEQUENCE_EDITOR"
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(sequencer.characters(context, compat.sequencer_scene(context)))

    def draw(self, context: bpy.types.Context) -> None:
        scene = compat.sequencer_scene(context)
        settings = sequencer.settings(scene)
        column = self.layout.column(align=True)
        column.operator_context = "INVOKE_DEFAULT"
        button = column.operator("edtalk.export_farm_job", icon="EXPORT")
        button.frames = settings.render_range
        button.everybody = settings.everybody and len(sequencer.characters(context, scene)) > 1
        column.operator("edtalk.fetch_farm_frames", icon="IMPORT")


CLASSES = (EDTALK_PT_farm,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
