"""Operator that builds the compositor nodes for a face strip."""

from __future__ import annotations

import bpy

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..engine.operator_base import BaseOperator
from ..timeline import sequencer
from . import compositing


def face_strip(context: bpy.types.Context) -> bpy.types.ImageStrip | None:
    """The face strip to composite: the active character's, or a selected one without a character.

    Of several, a selected one comes first, then the one at the current frame, then the earliest.
    """
    scene = compat.sequencer_scene(context)
    now, obj = scene.frame_current, sequencer.default_speaker(context, scene)
    strips = sequencer.faces(scene, obj) if obj else filter(sequencer.is_face, sequencer.selected(context))
    strips = [strip for strip in strips if strip.get(sequencer.SHOT)]
    shown = [strip for strip in strips if compat.left_handle(strip) <= now < compat.right_handle(strip)]
    return next(iter([*(strip for strip in strips if strip.select), *shown, *strips]), None)


class EDTALK_OT_build_compositor(BaseOperator, bpy.types.Operator):
    """Create compositor nodes that lay the rendered face over its plate, with controls for color, blur and grain. \
Your own nodes are kept. Run again to update the generated ones"""

    bl_idname = "edtalk.build_compositor"
    bl_label = "Build Compositor"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        scene = compat.sequencer_scene(context)
        if not sequencer.characters(context, scene):
            return "Add a character first"
        if face_strip(context) is None:
            return "Render the face first"
        return "Wait until Blender has finished rendering" if bpy.app.is_job_running("RENDER") else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene, strip = compat.sequencer_scene(context), face_strip(context)
        obj = sequencer.speaker(strip)
        if obj is None:
            raise EDTalkError(f"The character of '{strip.name}' is no longer in this file.", "Render the face again.")
        is_new = compositing.is_new(scene, strip)
        todo = compositing.build(scene, obj, strip)
        if todo:
            self.report({"INFO"}, todo)
        if is_new:
            before = scene.view_settings.view_transform
            sequencer.use_standard_view(scene)
            if scene.view_settings.view_transform != before:
                self.report({"INFO"}, f"View Transform set to Standard: {before} would change the face's colors")
            if scene.render.use_sequencer:
                scene.render.use_sequencer = False
                self.report(
                    {"INFO"},
                    "Sequencer was disabled under Output > Post Processing, so that Render uses the compositor",
                )
        return None


CLASSES = (EDTALK_OT_build_compositor,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
