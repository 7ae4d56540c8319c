"""The panel Capture in the sidebars of the Sequencer and the 3D View."""

from __future__ import annotations

import bpy

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..capture import capture
from ..capture.operators import target
from ..character import files
from ..timeline import footage, sequencer
from .help import HasHelp
from .messages import CATEGORY, draw_note


def draw_capture(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """Draw the capture settings and operators."""
    scene, obj = compat.sequencer_scene(context), target(context)
    layout.operator_context = "INVOKE_DEFAULT"
    if obj is None:
        draw_note(layout, "Select the character to receive the capture.")
        return
    settings = capture.settings(scene)
    _draw_parts(layout, settings, _banks(obj))
    _draw_options(layout, settings)
    movies = footage.selected(context)
    names = sequencer.quoted((strip.name for strip in movies), most=1)
    draw_note(layout, f"From {names} to {obj.name}." if movies else f"To {obj.name}. Select a movie strip.")
    column = layout.column(align=True)
    column.operator_context = "INVOKE_DEFAULT"
    column.operator("edtalk.capture", icon="CAMERA_DATA")
    column.operator("edtalk.capture_file", icon="FILE_FOLDER")
    column = layout.column(align=True)
    column.operator_context = "INVOKE_DEFAULT"
    column.operator("edtalk.match_face", icon="USER")
    column.operator("edtalk.match_picture", icon="FILE_IMAGE")


def _draw_parts(layout: bpy.types.UILayout, settings: capture.CaptureSettings, banks: list[str]) -> None:
    row = layout.row(align=True)
    for bank, switch in capture.BANK_SWITCHES.items():
        if bank in banks:
            row.prop(settings, switch, toggle=True)
    if settings.use_lip and "lip" in banks:
        layout.prop(settings, "video_mouth", slider=True)


def _draw_options(layout: bpy.types.UILayout, settings: capture.CaptureSettings) -> None:
    column = layout.column()
    column.use_property_split = True
    column.use_property_decorate = False
    column.prop(settings, "relative")
    if settings.relative:
        column.prop(settings, "rest_at")
        if settings.rest_at == "FRAME":
            column.prop(settings, "rest_frame")
    column.prop(settings, "gain")
    column.prop(settings, "smooth")
    column.prop(settings, "simplify")
    column.prop(settings, "crop_mode")
    if settings.crop_mode == "box":
        column.prop(settings, "crop")
    if settings.crop_mode == "auto":
        column.prop(settings, "which")


def _banks(obj: bpy.types.Object) -> list[str]:
    try:
        return [name for name, _count in files.bank_of(obj).config.banks]
    except EDTalkError:
        return []  # the Character panel shows the problem


class _Capture(HasHelp):
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_label = "Capture"
    help_page = "capture.html"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        draw_capture(self.layout, context)


class EDTALK_PT_capture_sequencer(_Capture, bpy.types.Panel):
    """Capture a recorded face to keyframes of the character"""

    bl_space_type = "SEQUENCE_EDITOR"


class EDTALK_PT_capture_view(_Capture, bpy.types.Panel):
    """Capture a recorded face to keyframes of the character"""

    bl_space_type = "VIEW_3D"


CLASSES = (EDTALK_PT_capture_sequencer, EDTALK_PT_capture_view)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
