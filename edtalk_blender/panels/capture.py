"""The sub-panel Capture, in the sidebars of the Sequencer and of the 3D View."""

from __future__ import annotations

import bpy

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..capture import capture
from ..capture.operators import target
from ..character import character
from ..timeline import footage, sequencer
from .messages import CATEGORY, draw_note

_SWITCHES = {"lip": "use_lip", "pose": "use_pose", "exp": "use_exp"}


def draw_capture(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """What to take over, how, and the buttons that do."""
    scene, obj = compat.sequencer_scene(context), target(context)
    layout.operator_context = "INVOKE_DEFAULT"
    if obj is None:
        draw_note(layout, "Select the character that a recorded face is to be taken over to.")
        return
    own = capture.settings(scene)
    _draw_what(layout, own, _banks(obj))
    _draw_how(layout, own)
    movies = footage.selected(context)
    names = sequencer.quoted((strip.name for strip in movies), most=1)
    draw_note(layout, f"From {names} to {obj.name}." if movies else f"To {obj.name}; select a movie strip to capture.")
    column = layout.column(align=True)
    column.operator_context = "INVOKE_DEFAULT"
    column.operator("edtalk.capture", icon="CAMERA_DATA")
    column.operator("edtalk.capture_file", icon="FILE_FOLDER")
    column = layout.column(align=True)
    column.operator_context = "INVOKE_DEFAULT"
    column.operator("edtalk.match_face", icon="USER")
    column.operator("edtalk.match_picture", icon="FILE_IMAGE")


def _draw_what(layout: bpy.types.UILayout, own: capture.CaptureSettings, banks: list[str]) -> None:
    row = layout.row(align=True)
    for bank, switch in _SWITCHES.items():
        if bank in banks:
            row.prop(own, switch, toggle=True)
    if own.use_lip and "lip" in banks:
        layout.prop(own, "video_mouth", text="Mouth: Sound to Video", slider=True)


def _draw_how(layout: bpy.types.UILayout, own: capture.CaptureSettings) -> None:
    column = layout.column()
    column.use_property_split = True
    column.use_property_decorate = False
    column.prop(own, "relative")
    if own.relative:
        column.prop(own, "rest_at")
        if own.rest_at == "FRAME":
            column.prop(own, "rest_frame")
    column.prop(own, "gain")
    column.prop(own, "smooth")
    column.prop(own, "simplify")
    column.prop(own, "crop_mode")
    if own.crop_mode == "box":
        column.prop(own, "crop")
    if own.crop_mode == "auto":
        column.prop(own, "which")


def _banks(obj: bpy.types.Object) -> list[str]:
    try:
        return [name for name, _count in character.bank_of(obj).config.banks]
    except EDTalkError:
        return []  # the character's panel says what is missing


class _Capture:
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_label = "Capture"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        draw_capture(self.layout, context)


class EDTALK_PT_capture_sequencer(_Capture, bpy.types.Panel):
    """What a recorded face does, as keys of the character"""

    bl_space_type = "SEQUENCE_EDITOR"


class EDTALK_PT_capture_view(_Capture, bpy.types.Panel):
    """What a recorded face does, as keys of the character"""

    bl_space_type = "VIEW_3D"


CLASSES = (EDTALK_PT_capture_sequencer, EDTALK_PT_capture_view)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
