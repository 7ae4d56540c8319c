"""Poses of a character: reset, mirror, copy, paste and key them."""

from __future__ import annotations

from collections.abc import Mapping

import bpy
from bpy.props import StringProperty

from ...inference.contract.errors import EDTalkError
from ..character import character
from ..character.operators import EMOTIONS, OnCharacter
from ..engine.asking import Explained
from . import keys, pose


class EDTALK_OT_reset(OnCharacter, bpy.types.Operator):
    """Put sliders back to rest, where the portrait is shown as it is"""

    bl_idname = "edtalk.reset"
    bl_label = "Reset"
    bl_options = {"REGISTER", "UNDO"}

    bank: StringProperty(name="Bank", description="Empty: all banks and emotions", options={"SKIP_SAVE"})
    slider: StringProperty(name="Slider", description="Empty: all of the bank", options={"SKIP_SAVE"})

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        rest = character.rest_values(obj)
        names = (self.slider,) if self.slider else slider_names(obj, self.bank)
        _pose(context, obj, {name: rest.get(name, 0.0) for name in names})
        return None


class EDTALK_OT_mirror(OnCharacter, bpy.types.Operator):
    """Swap left and right: sliders of either side change places, turning and shifting sideways is reversed"""

    bl_idname = "edtalk.mirror"
    bl_label = "Mirror"
    bl_options = {"REGISTER", "UNDO"}

    bank: StringProperty(name="Bank", description="Empty: all banks", options={"SKIP_SAVE"})

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        turned = pose.mirrored(pose_of(obj, self.bank))
        if not turned:
            raise EDTalkError("Nothing here can be mirrored: no slider's name tells left from right.")
        _pose_from_rest(context, obj, turned)
        return None


class EDTALK_OT_copy_pose(Explained, bpy.types.Operator):
    """Copy the pose, to paste it at another time, on another character or in another file"""

    bl_idname = "edtalk.copy_pose"
    bl_label = "Copy Pose"

    bank: StringProperty(name="Bank", description="Empty: all banks and emotions", options={"SKIP_SAVE"})

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if character.active(context) is not None else "Select a character first"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        context.window_manager.clipboard = pose.to_text(pose_of(character.active(context), self.bank))
        return None


class EDTALK_OT_paste_pose(OnCharacter, bpy.types.Operator):
    """Paste a copied pose; sliders that this character does not have are left out"""

    bl_idname = "edtalk.paste_pose"
    bl_label = "Paste Pose"
    bl_options = {"REGISTER", "UNDO"}

    bank: StringProperty(name="Bank", description="Empty: everything that was copied", options={"SKIP_SAVE"})
    text: StringProperty(name="Pose", description="Empty: the clipboard", options={"SKIP_SAVE", "HIDDEN"})

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        copied = pose.from_text(self.text or context.window_manager.clipboard)
        wanted = set(slider_names(obj, self.bank))
        fitting = {name: value for name, value in copied.items() if name in wanted}
        if not fitting:
            raise EDTalkError(
                f"None of the {len(copied)} copied sliders are among those of {obj.name}.",
                "Copy from a character with the same bank.",
            )
        _pose_from_rest(context, obj, fitting)
        if not self.bank and len(fitting) < len(copied):
            self.report({"WARNING"}, f"{len(copied) - len(fitting)} of {len(copied)} sliders have no counterpart here")
        return None


class EDTALK_OT_key_pose(OnCharacter, bpy.types.Operator):
    """Insert a key on every slider at the current frame"""

    bl_idname = "edtalk.key_pose"
    bl_label = "Key Pose"
    bl_options = {"REGISTER", "UNDO"}

    bank: StringProperty(name="Bank", description="Empty: all banks and emotions", options={"SKIP_SAVE"})

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        count = keys.key_sliders(context, obj, slider_names(obj, self.bank))
        self.report({"INFO"}, f"Inserted {count} keys" if count else "No key was needed")
        return None


def slider_names(obj: bpy.types.Object, bank: str = "") -> tuple[str, ...]:
    """Names of a bank's sliders, of the emotions' (bank "emotion"), or of all (bank "")."""
    known = character.bank_of(obj)
    emotions = tuple(character.emotions(obj))
    if not bank:
        return (*known.names, *emotions)
    return emotions if bank == EMOTIONS else known.names_of(bank)


def pose_of(obj: bpy.types.Object, bank: str = "") -> dict[str, float]:
    """The sliders of a bank, or all, by name, measured from rest."""
    rest = character.rest_values(obj)
    return {name: obj.edtalk[name] - rest.get(name, 0.0) for name in slider_names(obj, bank) if name in obj.edtalk}


def _pose_from_rest(context: bpy.types.Context, obj: bpy.types.Object, pose: Mapping[str, float]) -> None:
    rest = character.rest_values(obj)
    _pose(context, obj, {name: rest.get(name, 0.0) + value for name, value in pose.items()})


def _pose(context: bpy.types.Context, obj: bpy.types.Object, values: Mapping[str, float]) -> None:
    """Set sliders, and key those that changed where auto keying is on."""
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
