"""Operators for naming sliders: analyse what each slider moves, propose names, apply or discard them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import bpy
from bpy.props import BoolProperty, StringProperty
from bpy_extras.io_utils import ExportHelper

from ...inference.contract import answers, requests
from ...inference.contract.bank import STARTER
from ...inference.contract.errors import EDTalkError
from ..character import character, files
from ..character.operators import OnCharacter
from ..engine import session
from ..engine.operator_base import EngineOperator
from ..engine.session import Task
from . import naming


class EDTALK_OT_name_sliders(EngineOperator, OnCharacter, bpy.types.Operator):
    """Analyze what each slider of the bank moves in this portrait, and propose names and ranges"""

    bl_idname = "edtalk.name_sliders"
    bl_label = "Name Sliders"

    everything: BoolProperty(
        name="All Sliders",
        description="Propose new names for all sliders. Disabled: only for numbered sliders such as lip_01",
    )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        bank = files.bank_of(obj)
        names = bank.names if self.everything else naming.numbered(bank)
        if not names:
            raise EDTalkError(
                f"All sliders of the bank '{bank.name}' have names.", "Enable All Sliders to propose new ones."
            )
        self.finish(analyze(obj, names))
        return None


def analyze(obj: bpy.types.Object, names: Sequence[str], *, show: bool = False) -> Task:
    """Let the engine analyze what each slider moves, then propose names for `names`.

    show: whether the panel Slider Names opens with the proposals. Raises EDTalkError without a portrait.
    """
    bank, uid = files.bank_of(obj), obj.edtalk.uid

    def apply(answer: answers.ExploreResult) -> None:
        obj = character.find(uid)
        if obj is None or files.bank_of(obj).names != bank.names:
            return  # deleted, or its bank changed
        naming.propose(obj, answer.motions, names)
        session.edited("Propose Slider Names")
        session.redraw()
        if show and not session.blocking():
            _show_names()

    request = requests.Explore(files.bank_path(obj), files.portrait_path(obj), files.crop_of(obj))
    return session.submit(request, label=f"Analyzing the sliders of {obj.name}", on_done=apply)


def _show_names() -> None:
    """Open the panel Slider Names as a popup over the first 3D View."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            region = next((region for region in area.regions if region.type == "WINDOW"), None)
            if area.type == "VIEW_3D" and region is not None:
                with bpy.context.temp_override(window=window, area=area, region=region):
                    bpy.ops.wm.call_panel(name="EDTALK_PT_naming", keep_open=True)
                return


class OnProposals(OnCharacter):
    """Mixin for operators on proposed names."""

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        return reason or ("" if len(character.active(context).edtalk_naming.sliders) else "Use Name Sliders first")


class EDTALK_OT_apply_names(OnProposals, ExportHelper, bpy.types.Operator):
    """Save a copy of the bank with the new names, and use it for all characters of the old bank. Keeps animation"""

    bl_idname = "edtalk.apply_names"
    bl_label = "Apply Names"
    bl_options = {"REGISTER", "UNDO"}

    filename_ext = ".safetensors"
    filter_glob: StringProperty(default="*.safetensors", options={"HIDDEN"})
    filepath: StringProperty(
        name="Bank", description="File of the new bank", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self.filepath = str(proposed_path(character.active(context)))
        return super().invoke(context, event)

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        users = naming.apply(obj, self.filepath or str(proposed_path(obj)))
        self.report({"INFO"}, f"Renamed the sliders of {', '.join(user.name for user in users)}")
        return None


class EDTALK_OT_discard_names(OnProposals, bpy.types.Operator):
    """Discard the proposed names"""

    bl_idname = "edtalk.discard_names"
    bl_label = "Discard"
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context: bpy.types.Context) -> set[str] | None:
        character.active(context).edtalk_naming.sliders.clear()
        return None


def proposed_path(obj: bpy.types.Object) -> Path:
    """Default path of the new bank: next to the old one; for the starter bank next to the .blend, or at home."""
    bank = files.bank_path(obj)
    folder = bank.parent
    if bank == STARTER:
        folder = Path(bpy.data.filepath).parent if bpy.data.filepath else Path.home()
    return folder / f"{bank.stem}_named.safetensors"


CLASSES = (EDTALK_OT_name_sliders, EDTALK_OT_apply_names, EDTALK_OT_discard_names)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
