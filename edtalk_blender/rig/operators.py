"""Operators for a 3D head: match shape keys with sliders, drive them, bake them."""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty

from ...inference.contract.errors import EDTalkError
from ..character import character, files, sliders
from ..engine.operator_base import BaseOperator, DialogOperator
from . import rig, shape_names


class OnHead(BaseOperator):
    """Mixin for operators on the active object, a 3D head with shape keys."""

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        obj = context.active_object
        if not rig.has_shapes(obj):
            return "Select a 3D head with shape keys first"
        return character.editable_reason(obj)


class OnLinkedHead(OnHead):
    """Mixin for operators on a head with a character and links."""

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        if reason:
            return reason
        group = context.active_object.edtalk_rig
        if group.character is None:
            return "Choose the character that drives this head first"
        return "" if len(group.links) else "Use Match Names or add a link first"


class EDTALK_OT_match_shapes(OnHead, bpy.types.Operator):
    """Link shape keys to sliders by name. Recognizes ARKit, VRM and Meta viseme names, and names of sliders"""

    bl_idname = "edtalk.match_shapes"
    bl_label = "Match Names"
    bl_options = {"REGISTER", "UNDO"}

    replace: BoolProperty(
        name="Replace Links",
        description="Remove all existing links first. Disabled: only add links for shape keys without one",
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        if not reason and _face_for(context) is None:
            return "Choose the character that drives this head first"
        return reason

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj, face = context.active_object, _face_for(context)
        group, bank = obj.edtalk_rig, files.bank_of(face)
        names = rig.shape_keys(obj)
        with rig.changing(obj):
            group.character = face
            if self.replace:
                group.links.clear()
            linked = {link.shape_key for link in group.links}
            for link in shape_names.match(names, bank.coefficients, sliders.emotions(face)):
                if link.shape_key not in linked:
                    rig.add_link(obj, link.shape_key, link.slider, link.gain)
            group.active = 0
        found = {link.shape_key for link in group.links} & set(names)
        if not found:
            raise EDTalkError(
                f"None of the {len(names)} shape keys of {obj.name} has a known name.",
                "Use Add Link for each shape key.",
            )
        self.report({"INFO"}, f"Linked {len(found)} of {len(names)} shape keys")
        return None


class EDTALK_OT_add_link(OnHead, bpy.types.Operator):
    """Link a shape key to a slider. Several links of one shape key are added together"""

    bl_idname = "edtalk.add_link"
    bl_label = "Add Link"
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = context.active_object
        group = obj.edtalk_rig
        if group.character is None:
            group.character = _face_for(context)
        active = obj.active_shape_key
        rig.add_link(obj, active.name if active and active.name in rig.shape_keys(obj) else "")
        group.active = len(group.links) - 1
        return None


class EDTALK_OT_remove_link(OnHead, bpy.types.Operator):
    """Remove the active link"""

    bl_idname = "edtalk.remove_link"
    bl_label = "Remove Link"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        return reason or ("" if len(context.active_object.edtalk_rig.links) else "There are no links")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = context.active_object
        group = obj.edtalk_rig
        with rig.changing(obj):
            group.links.remove(min(max(group.active, 0), len(group.links) - 1))
            group.active = min(group.active, max(len(group.links) - 1, 0))
        return None


class EDTALK_OT_drive_shapes(OnLinkedHead, bpy.types.Operator):
    """Add drivers, so that the character's sliders control the linked shape keys"""

    bl_idname = "edtalk.drive_shapes"
    bl_label = "Drive"
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = context.active_object
        count = rig.drive(obj)
        self.report({"INFO"}, f"{rig.character_of(obj).name} drives {count} shape keys of {obj.name}")
        return None


class EDTALK_OT_undrive_shapes(OnHead, bpy.types.Operator):
    """Remove the drivers that Drive added from this head's shape keys"""

    bl_idname = "edtalk.undrive_shapes"
    bl_label = "Stop Driving"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        return reason or ("" if rig.is_driven(context.active_object) else "There are no drivers")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        rig.remove_drivers(context.active_object)
        return None


class EDTALK_OT_bake_shapes(DialogOperator, OnLinkedHead, bpy.types.Operator):
    """Bake the character's animation to keyframes of the shape keys instead of drivers, for example for export"""

    bl_idname = "edtalk.bake_shapes"
    bl_label = "Bake"
    bl_options = {"REGISTER", "UNDO"}

    which: EnumProperty(
        name="Range",
        description="Frames to bake",
        items=(
            ("SCENE", "Scene", "Bake the frame range of the scene"),
            ("PREVIEW", "Preview Range", "Bake the preview range, or the scene's frame range if there is none"),
            ("CUSTOM", "Custom", "Bake the frames from Start to End"),
        ),
        default="SCENE",
    )
    start: IntProperty(name="Start", description="First scene frame to bake", default=1, options={"SKIP_SAVE"})
    end: IntProperty(name="End", description="Last scene frame to bake", default=250, options={"SKIP_SAVE"})
    step: IntProperty(
        name="Step",
        description="Number of frames from one key to the next, usually from 1 to 4",
        default=1,
        min=1,
        soft_max=4,
    )
    simplify: FloatProperty(
        name="Simplify",
        description="Remove keys that change a shape key by at most this value, usually from 0 to 0.1. A shape key "
        "ranges from 0 to 1. 0 writes a key on every step",
        default=0.0,
        min=0.0,
        soft_max=0.1,
        precision=3,
    )

    def draw(self, _context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.prop(self, "which")
        column = layout.column(align=True)
        column.active = self.which == "CUSTOM"
        column.prop(self, "start")
        column.prop(self, "end")
        layout.prop(self, "step")
        layout.prop(self, "simplify")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj, (start, end) = context.active_object, self._range(context.scene)
        if end < start:
            raise EDTalkError(
                f"The range from frame {start} to {end} is empty.", "Set End to the start frame or later."
            )
        frames = np.unique([*range(start, end + 1, self.step), end])
        count = rig.bake(context.scene, obj, frames, self.simplify or -1.0)
        self.report({"INFO"}, f"Baked {count} shape keys of {obj.name} from frame {start} to {end}")
        return None

    def _range(self, scene: bpy.types.Scene) -> tuple[int, int]:
        if self.which == "CUSTOM":
            return self.start, self.end
        if self.which == "PREVIEW" and scene.use_preview_range:
            return scene.frame_preview_start, scene.frame_preview_end
        return scene.frame_start, scene.frame_end


def _face_for(context: bpy.types.Context) -> bpy.types.Object | None:
    """The character for the active head: its own, the head itself, the selected one, or the scene's only one."""
    obj = context.active_object
    if obj.edtalk_rig.character is not None:
        return obj.edtalk_rig.character
    if character.is_character(obj):
        return obj
    characters = character.characters(context.scene)
    candidates = [face for face in characters if face.select_get()] or characters
    return candidates[0] if len(candidates) == 1 else None


CLASSES = (
    EDTALK_OT_match_shapes,
    EDTALK_OT_add_link,
    EDTALK_OT_remove_link,
    EDTALK_OT_drive_shapes,
    EDTALK_OT_undrive_shapes,
    EDTALK_OT_bake_shapes,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
