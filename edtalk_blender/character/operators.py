"""Operators that add characters and set their portrait and bank."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, StringProperty
from bpy_extras.io_utils import ImportHelper

from ...inference.contract.errors import EDTalkError
from ..engine.operator_base import BaseOperator
from . import character, files, placement, sliders

EMOTIONS = "emotion"  # name of the emotion sliders where banks are listed


class OnCharacter(BaseOperator):
    """Mixin for operators that change the active character."""

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        obj = character.active(context)
        if obj is None:
            return "Select a character first" if character.characters(context.scene) else "Add a character first"
        return character.editable_reason(obj)


class PortraitChooser(ImportHelper):
    """Mixin for operators that choose an image file in a File Browser with thumbnails."""

    filter_image: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    display_type: EnumProperty(  # read by the File Browser, which expects its own number for thumbnails
        items=(("THUMBNAIL", "Thumbnails", "Show the images", 3),),
        default="THUMBNAIL",
        options={"HIDDEN", "SKIP_SAVE"},
    )
    filepath: StringProperty(
        name="Portrait", description="Image file of a face", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )


# --- Adding


class EDTALK_OT_add_character(BaseOperator, PortraitChooser, bpy.types.Operator):
    """Add a talking face from a portrait"""

    bl_idname = "edtalk.add_character"
    bl_label = "Add Character"
    bl_options = {"REGISTER", "UNDO"}

    bank: StringProperty(name="Bank", description="Bank file. Empty: the starter bank", options={"SKIP_SAVE"})
    title: StringProperty(
        name="Name", description="Name of the character. Empty: the name of the portrait file", options={"SKIP_SAVE"}
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "Switch to Object Mode first" if context.mode != "OBJECT" else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        files.check_picture(self.filepath)
        obj = character.create(context, self.filepath, self.bank, self.title)
        character.select(context, obj)
        placement.show(context, obj)
        self.report({"INFO"}, f"Added {obj.name}")
        return None


class EDTALK_OT_frame_character(BaseOperator, bpy.types.Operator):
    """Turn the 3D View to the front of the active character and zoom so that its face fills most of it"""

    bl_idname = "edtalk.frame_character"
    bl_label = "Frame Face"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if character.active(context) is not None else "Select a character first"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        placement.show(context, character.active(context))
        return None


class EDTALK_OT_make_character(BaseOperator, bpy.types.Operator):
    """Turn the active object into a talking face. The image of an Empty becomes its portrait"""

    bl_idname = "edtalk.make_character"
    bl_label = "Convert to Character"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        obj = context.active_object
        if obj is None:
            return "Select an object first"
        if character.is_character(obj):
            return f"{obj.name} is already a character"
        return character.editable_reason(obj)

    def run(self, context: bpy.types.Context) -> set[str] | None:
        character.adopt(context.active_object)
        return None


class EDTALK_OT_select_character(BaseOperator, bpy.types.Operator):
    """Select this character and make it active"""

    bl_idname = "edtalk.select_character"
    bl_label = "Select Character"
    bl_options = {"REGISTER", "UNDO"}

    uid: StringProperty(name="Character", description="Identifier of the character")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.find(self.uid)
        if obj is None or context.view_layer.objects.get(obj.name) != obj:
            raise EDTalkError("The character is no longer in this scene.", "Choose another one.")
        character.select(context, obj)
        return None


class EDTALK_OT_make_override(BaseOperator, bpy.types.Operator):
    """Create a library override of the linked character to animate it in this file"""

    bl_idname = "edtalk.make_override"
    bl_label = "Make Library Override"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        obj = character.active(context)
        return "" if obj is not None and character.editable_reason(obj) else "Select a linked character first"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        if obj.override_library is not None:
            obj.override_library.is_system_override = False
            return None
        made = obj.override_hierarchy_create(context.scene, context.view_layer, do_fully_editable=True)
        if made is None:
            raise EDTalkError(f"{obj.name} cannot be overridden.", "Append it instead of linking it.")
        character.select(context, made)
        return None


class EDTALK_OT_set_portrait(OnCharacter, PortraitChooser, bpy.types.Operator):
    """Choose another portrait for the character. Its animation is kept"""

    bl_idname = "edtalk.set_portrait"
    bl_label = "Choose Portrait"
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str] | None:
        files.check_picture(self.filepath)
        character.active(context).edtalk.portrait = self.filepath
        return None


class EDTALK_OT_set_bank(OnCharacter, ImportHelper, bpy.types.Operator):
    """Choose the bank that renders the face and defines its sliders. Shared sliders keep their animation"""

    bl_idname = "edtalk.set_bank"
    bl_label = "Choose Bank"
    bl_options = {"REGISTER", "UNDO"}

    filename_ext = ".safetensors"
    filter_glob: StringProperty(default="*.safetensors", options={"HIDDEN"})
    filepath: StringProperty(
        name="Bank", description="File of the bank (.safetensors)", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )
    starter: BoolProperty(
        name="Starter Bank", description="Use the bank that is included in the extension", options={"SKIP_SAVE"}
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return self.execute(context) if self.starter else super().invoke(context, event)

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        dropped = character.set_bank(obj, "" if self.starter else self.filepath)
        if dropped:
            names = ", ".join(dropped[:5]) + (f" and {len(dropped) - 5} more" if len(dropped) > 5 else "")
            self.report(
                {"WARNING"}, f"The bank '{files.bank_of(obj).name}' has no sliders {names}. Their keys are kept"
            )
        return None


class EDTALK_OT_update_sliders(OnCharacter, bpy.types.Operator):
    """Update the character's sliders after its bank file has changed"""

    bl_idname = "edtalk.update_sliders"
    bl_label = "Update Sliders"
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str] | None:
        sliders.setup_channels(character.active(context))
        return None


CLASSES = (
    EDTALK_OT_add_character,
    EDTALK_OT_frame_character,
    EDTALK_OT_make_character,
    EDTALK_OT_select_character,
    EDTALK_OT_make_override,
    EDTALK_OT_set_portrait,
    EDTALK_OT_set_bank,
    EDTALK_OT_update_sliders,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
