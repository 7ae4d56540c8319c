"""Operators for poses: reset, mirror, copy, paste and key."""

from __future__ import annotations

from collections.abc import Mapping

import bpy
from bpy.props import StringProperty

from ...inference.contract.errors import EDTalkError
from ..character import character, files, sliders
from ..character.operators import EMOTIONS, OnCharacter
from ..engine.operator_base import BaseOperator
from . import keys, pose


class EDTALK_OT_reset(OnCharacter, bpy.types.Operator):
    """Reset sliders to rest, the pose of the portrait"""

    bl_idname = "edtalk.reset"
    bl_label = "Reset"
    bl_options = {"REGISTER", "UNDO"}

    bank: StringProperty(
        name="Sliders",
        description="Sliders to reset, such as lip, pose or exp. Empty: all sliders and emotions",
        options={"SKIP_SAVE"},
    )
    slider: StringProperty(
        name="Slider", description="One slider to reset. Empty: all of Sliders", options={"SKIP_SAVE"}
    )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        rest = sliders.rest_values(obj)
        names = (self.slider,) if self.slider else slider_names(obj, self.bank)
        _pose(context, obj, {name: rest.get(name, 0.0) for name in names})
        return None


class EDTALK_OT_mirror(OnCharacter, bpy.types.Operator):
    """Mirror the pose: swap the left and right sliders, and flip head yaw, roll and horizontal shift"""

    bl_idname = "edtalk.mirror"
    bl_label = "Mirror"
    bl_options = {"REGISTER", "UNDO"}

    bank: StringProperty(
        name="Sliders",
        description="Sliders to mirror, such as lip, pose or exp. Empty: all sliders",
        options={"SKIP_SAVE"},
    )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        mirrored = pose.mirrored(pose_of(obj, self.bank))
        if not mirrored:
            raise EDTalkError(
                "There are no sliders to mirror.", "Name the sliders of the two sides with Left and Right."
            )
        pose_from_rest(context, obj, mirrored)
        return None


class EDTALK_OT_copy_pose(BaseOperator, bpy.types.Operator):
    """Copy the current pose to the clipboard, to paste it at another frame, on another character or in another file"""

    bl_idname = "edtalk.copy_pose"
    bl_label = "Copy Pose"

    bank: StringProperty(
        name="Sliders",
        description="Sliders to copy, such as lip, pose or exp. Empty: all sliders and emotions",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if character.active(context) is not None else "Select a character first"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        context.window_manager.clipboard = pose.to_text(pose_of(character.active(context), self.bank))
        return None


class EDTALK_OT_paste_pose(OnCharacter, bpy.types.Operator):
    """Paste the pose from the clipboard. Sliders that this character does not have are ignored"""

    bl_idname = "edtalk.paste_pose"
    bl_label = "Paste Pose"
    bl_options = {"REGISTER", "UNDO"}

    bank: StringProperty(
        name="Sliders",
        description="Sliders to paste, such as lip, pose or exp. Empty: the whole pose",
        options={"SKIP_SAVE"},
    )
    text: StringProperty(name="Pose", description="Pose as text. Empty: the clipboard", options={"SKIP_SAVE", "HIDDEN"})

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        copied = pose.from_text(self.text or context.window_manager.clipboard)
        wanted = set(slider_names(obj, self.bank))
        fitting = {name: value for name, value in copied.items() if name in wanted}
        if not fitting:
            raise EDTalkError(
                f"{obj.name} has none of the {len(copied)} copied sliders.",
                "Copy a pose from a character with the same bank.",
            )
        pose_from_rest(context, obj, fitting)
        if not self.bank and len(fitting) < len(copied):
            self.report({"WARNING"}, f"{obj.name} lacks {len(copied) - len(fitting)} of the {len(copied)} sliders")
        return None


class EDTALK_OT_key_pose(OnCharacter, bpy.types.Operator):
    """Insert a keyframe on every slider at the current frame"""

    bl_idname = "edtalk.key_pose"
    bl_label = "Key Pose"
    bl_options = {"REGISTER", "UNDO"}

    bank: StringProperty(
        name="Sliders",
        description="Sliders to key, such as lip, pose or exp. Empty: all sliders and emotions",
        options={"SKIP_SAVE"},
    )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        count = keys.key_sliders(context, obj, slider_names(obj, self.bank))
        self.report({"INFO"}, f"Inserted {count} keyframes" if count else "No keyframes needed")
        return None


def slider_names(obj: bpy.types.Object, bank: str = "") -> tuple[str, ...]:
    """Slider names of a bank, of the emotions (bank "emotion"), or of both (bank "")."""
    known = files.bank_of(obj)
    emotions = tuple(sliders.emotions(obj))
    if not bank:
        return (*known.names, *emotions)
    return emotions if bank == EMOTIONS else known.names_of(bank)


def pose_of(obj: bpy.types.Object, bank: str = "") -> dict[str, float]:
    """Slider values by name as offsets from rest. bank: as in `slider_names`."""
    rest = sliders.rest_values(obj)
    return {name: obj.edtalk[name] - rest.get(name, 0.0) for name in slider_names(obj, bank) if name in obj.edtalk}


def pose_from_rest(context: bpy.types.Context, obj: bpy.types.Object, pose: Mapping[str, float]) -> None:
    """Set sliders to offsets from rest, and key those that changed if auto keying is enabled."""
    rest = sliders.rest_values(obj)
    _pose(context, obj, {name: rest.get(name, 0.0) + value for name, value in pose.items()})


def _pose(context: bpy.types.Context, obj: bpy.types.Object, values: Mapping[str, float]) -> None:
    """Set sliders, and key those that changed if auto keying is enabled."""
    changed = [name for name, value in values.items() if obj.edtalk.get(name) != value]
    for name in changed:
        obj.edtalk[name] = float(values[name])
    keys.key_sliders(context, obj, changed, automatic=True)
    obj.update_tag()


CLASSES = (
    EDTALK_OT_reset,
    EDTALK_OT_mirror,
    EDTALK_OT_copy_pose,
    EDTALK_OT_paste_pose,
    EDTALK_OT_key_pose,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
