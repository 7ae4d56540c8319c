"""A 3D head that follows a character: finding its shape keys' sliders, drivers, keys."""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty

from ...inference.contract.errors import EDTalkError
from ..character import character
from ..engine.asking import Explained
from . import rig, shape_names


class OnHead(Explained):
    """Mixin for operators that change the active object, a 3D head."""

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        obj = context.active_object
        if not rig.has_shapes(obj):
            return "Select a 3D head with shape keys first"
        return character.editable_reason(obj)


class OnLinkedHead(OnHead):
    """Mixin for operators that need links."""

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        if reason:
            return reason
        group = context.active_object.edtalk_rig
        if group.character is None:
            return "Choose the character whose sliders move this head first"
        return "" if len(group.links) else "Match the shape keys' names first"


class EDTALK_OT_match_shapes(OnHead, bpy.types.Operator):
    """Find the slider of every shape key by its name: ARKit's, VRM's, Meta's, or the sliders' own"""

    bl_idname = "edtalk.match_shapes"
    bl_label = "Match Names"
    bl_options = {"REGISTER", "UNDO"}

    replace: BoolProperty(
        name="From Scratch", description="Forget the links there are. Off: add those of shape keys that have none"
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        if not reason and _face_for(context) is None:
            return "Choose the character whose sliders move this head first"
        return reason

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj, face = context.active_object, _face_for(context)
        group, bank = obj.edtalk_rig, character.bank_of(face)
        names = rig.shape_keys(obj)
        with rig.changing(obj):
            group.character = face
            if self.replace:
                group.links.clear()
            linked = {link.shape_key for link in group.links}
            for link in shape_names.match(names, bank.coefficients, character.emotions(face)):
                if link.shape_key not in linked:
                    rig.add_link(obj, link.shape_key, link.slider, link.gain)
            group.active = 0
        found = {link.shape_key for link in group.links} & set(names)
        if not found:
            raise EDTalkError(
                f"None of the {len(names)} shape keys of {obj.name} has a name that says what it is.",
                "Add links by hand, one for each shape key.",
            )
        self.report({"INFO"}, f"{len(found)} of {len(names)} shape keys have a slider")
        return None


class EDTALK_OT_add_link(OnHead, bpy.types.Operator):
    """Link one more shape key to a slider; a shape key may have several links, which add up"""

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
    """Remove this link"""

    bl_idname = "edtalk.remove_link"
    bl_label = "Remove Link"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        return reason or ("" if len(context.active_object.edtalk_rig.links) else "There is no link")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = context.active_object
        group = obj.edtalk_rig
        with rig.changing(obj):
            group.links.remove(min(max(group.active, 0), len(group.links) - 1))
            group.active = min(group.active, max(len(group.links) - 1, 0))
        return None


class EDTALK_OT_drive_shapes(OnLinkedHead, bpy.types.Operator):
    """Have the character's sliders move this head from now on"""

    bl_idname = "edtalk.drive_shapes"
    bl_label = "Drive"
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = context.active_object
        count = rig.drive(obj)
        self.report({"INFO"}, f"{rig.character_of(obj).name} moves {count} shape keys of {obj.name}")
        return None


class EDTALK_OT_undrive_shapes(OnHead, bpy.types.Operator):
    """Remove the drivers, so that the head can be animated by itself again"""

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


class EDTALK_OT_bake_shapes(OnLinkedHead, bpy.types.Operator):
    """Write the character's animation as keys of the head's shape keys, in place of drivers; for export, for one"""

    bl_idname = "edtalk.bake_shapes"
    bl_label = "Bake"
    bl_options = {"REGISTER", "UNDO"}

    which: EnumProperty(
        name="Frames",
        items=(
            ("SCENE", "Scene", "From the scene's first frame to its last"),
            ("PREVIEW", "Preview Range", "The preview range, or the scene's frames where there is none"),
            ("CUSTOM", "Given", "From Start to End"),
        ),
        default="SCENE",
    )
    start: IntProperty(name="Start", default=1, options={"SKIP_SAVE"})
    end: IntProperty(name="End", default=250, options={"SKIP_SAVE"})
    step: IntProperty(name="Every", description="Write every so many frames", default=1, min=1, soft_max=4)
    simplify: FloatProperty(
        name="Simplify",
        description="Leave out keys where the curve stays within this distance without them. 0 writes every frame",
        default=0.0,
        min=0.0,
        soft_max=0.1,
        precision=3,
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self)

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
            raise EDTalkError(f"There are no frames from {start} to {end}.", "Give an end after the start.")
        frames = np.unique([*range(start, end + 1, self.step), end])
        count = rig.bake(context.scene, obj, frames, self.simplify or -1.0)
        self.report({"INFO"}, f"Baked {count} shape keys of {obj.name}, frames {start} to {end}")
        return None

    def _range(self, scene: bpy.types.Scene) -> tuple[int, int]:
        if self.which == "CUSTOM":
            return self.start, self.end
        if self.which == "PREVIEW" and scene.use_preview_range:
            return scene.frame_preview_start, scene.frame_preview_end
        return scene.frame_start, scene.frame_end


def _face_for(context: bpy.types.Context) -> bpy.types.Object | None:
    """The character of the active head: the one it has, itself, one that is selected too, or the scene's only one."""
    obj = context.active_object
    if obj.edtalk_rig.character is not None:
        return obj.edtalk_rig.character
    if character.is_character(obj):
        return obj
    everybody = character.characters(context.scene)
    selected = [face for face in everybody if face.select_get()]
    chosen = selected or everybody
    return chosen[0] if len(chosen) == 1 else None


CLASSES = (
    EDTALK_OT_match_shapes,
    EDTALK_OT_add_link,
    EDTALK_OT_remove_link,
    EDTALK_OT_drive_shapes,
    EDTALK_OT_undrive_shapes,
    EDTALK_OT_bake_shapes,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
