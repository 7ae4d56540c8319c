"""Name the Sliders: have the engine look at what each slider of a bank does, edit what it proposes, apply it."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import BoolProperty, StringProperty
from bpy_extras.io_utils import ExportHelper

from ...inference.contract import answers, requests
from ...inference.contract.bank import STARTER
from ...inference.contract.errors import EDTalkError
from ..character import character
from ..character.operators import OnCharacter
from ..engine import session
from ..engine.asking import Asking
from . import naming


class EDTALK_OT_name_sliders(Asking, OnCharacter, bpy.types.Operator):
    """Move each slider of the bank alone, see what it does to this portrait, and propose names and ranges"""

    bl_idname = "edtalk.name_sliders"
    bl_label = "Name the Sliders"
    bl_options = {"UNDO"}

    everything: BoolProperty(
        name="All Sliders",
        description="Propose names for sliders that have names too, not only for lip_01, pose_02 ...",
    )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        bank, uid = character.bank_of(obj), obj.edtalk.uid
        names = bank.names if self.everything else naming.numbered(bank)
        if not names:
            raise EDTalkError(
                f"All sliders of the bank '{bank.name}' have names.", "Choose All Sliders to have others proposed."
            )
        request = requests.Explore(character.bank_path(obj), character.portrait_path(obj), character.crop_of(obj))

        def apply(answer: answers.ExploreResult) -> None:
            obj = character.find(uid)
            if obj is None or character.bank_of(obj).names != bank.names:
                return  # deleted, or given another bank meanwhile
            naming.propose(obj, answer.motions, names)
            session.edited("Propose Slider Names")
            session.redraw()

        label = f"Looking at the sliders of {obj.name}"
        self.finish(session.submit(request, label=label, on_done=apply))
        return None


class OnProposals(OnCharacter):
    """Mixin for operators that need proposals."""

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        return reason or ("" if len(character.active(context).edtalk_naming.sliders) else "Name the sliders first")


class EDTALK_OT_apply_names(OnProposals, ExportHelper, bpy.types.Operator):
    """Write a bank with these names, and have all characters that use the old one use it; their animation stays"""

    bl_idname = "edtalk.apply_names"
    bl_label = "Apply Names"
    bl_options = {"REGISTER", "UNDO"}

    filename_ext = ".safetensors"
    filter_glob: StringProperty(default="*.safetensors", options={"HIDDEN"})
    filepath: StringProperty(name="Bank", subtype="FILE_PATH", options={"SKIP_SAVE"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self.filepath = str(proposed_path(character.active(context)))
        return super().invoke(context, event)

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        users = naming.apply(obj, self.filepath or str(proposed_path(obj)))
        self.report({"INFO"}, f"Named the sliders of {', '.join(user.name for user in users)}")
        return None


class EDTALK_OT_discard_names(OnProposals, bpy.types.Operator):
    """Forget the proposed names"""

    bl_idname = "edtalk.discard_names"
    bl_label = "Discard"
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str] | None:
        character.active(context).edtalk_naming.sliders.clear()
        return None


def proposed_path(obj: bpy.types.Object) -> Path:
    """Beside the bank; for the bank that comes with the extension beside the .blend, or at home."""
    bank = character.bank_path(obj)
    folder = bank.parent
    if bank == STARTER:
        folder = Path(bpy.data.filepath).parent if bpy.data.filepath else Path.home()
    return folder / f"{bank.stem}_named.safetensors"


CLASSES = (EDTALK_OT_name_sliders, EDTALK_OT_apply_names, EDTALK_OT_discard_names)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
