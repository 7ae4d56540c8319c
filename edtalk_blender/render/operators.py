"""Operators that render faces and clear unused frames."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, StringProperty

from ...inference.contract.errors import EDTalkError
from .. import compat, follow
from ..character import character
from ..engine import session
from ..engine.operator_base import BaseOperator, EngineOperator
from ..engine.session import Chain
from ..folders import FRAMES, character_folder
from ..plate import compositing
from ..timeline import sequencer
from . import cache_limit, face_shot, face_strip, render


class EDTALK_OT_render_face(EngineOperator, bpy.types.Operator):
    """Render the character's face into an image strip. Only missing and changed frames are rendered, so a cancelled \
render can be continued"""

    bl_idname = "edtalk.render_face"
    bl_label = "Render Face"  # its undo step is pushed when the strip is there, see `render.steps`

    frames: EnumProperty(name="Range", description="Frames to render", items=sequencer.RENDER_RANGES, default="AUTO")
    everybody: BoolProperty(name="All Characters", description="Render every character of the scene")
    uid: StringProperty(
        name="Character",
        description="Identifier of the character to render. Empty: the selected ones",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        scene = compat.sequencer_scene(context)
        if not sequencer.characters(context, scene):
            return "Add a character first"
        if bpy.app.is_job_running("RENDER"):
            return "Wait until Blender has finished rendering"
        return ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        if sequencer.settings(scene).follow and follow.follow(scene):
            session.edited("Follow Sound")
        chosen = self._chosen(context, scene)
        for obj in chosen:
            face_shot.render_ranges(scene, obj, self.frames)  # raises before anything is submitted or changed
        before = scene.view_settings.view_transform
        with render.reported_plans(self) as on_plan:
            self.finish(*[Chain(render.steps(scene, obj, self.frames, on_plan)) for obj in chosen])
        if scene.view_settings.view_transform != before:
            session.notify(f"View Transform set to Standard: {before} would change the face's colors")
        return None

    def _chosen(self, context: bpy.types.Context, scene: bpy.types.Scene) -> list[bpy.types.Object]:
        known = sequencer.characters(context, scene)
        if self.uid:
            return [obj for obj in known if obj.edtalk.uid == self.uid]
        if self.everybody:
            return known
        selected = [obj for obj in known if obj in context.selected_objects] if context.view_layer else []
        default = sequencer.default_speaker(context, scene)
        chosen = selected or [obj for obj in (default,) if obj is not None]
        if not chosen:
            chosen = [obj for obj in known if any(sequencer.speaker(one) == obj for one in sequencer.selected(context))]
        if not chosen:
            raise EDTalkError("No character is selected.", "Select one in the viewport, or render all characters.")
        return chosen


class EDTALK_OT_clear_cache(BaseOperator, bpy.types.Operator):
    """Delete the rendered frames of this file's characters that no strip shows. Undoing past this point may require \
rendering again"""

    bl_idname = "edtalk.clear_cache"
    bl_label = "Purge Unused Frames"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "Wait until the face is rendered, or cancel the render" if render.is_rendering() else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        folders = {character_folder(obj) / FRAMES for obj in bpy.data.objects if character.is_character(obj)}
        count, size = 0, 0
        shown = cache_limit.shown_names()
        for path in (path for folder in folders if folder.is_dir() for path in folder.iterdir()):
            if face_strip.PICTURE.fullmatch(path.name) and path.name not in shown:
                size += path.stat().st_size
                count += 1
                path.unlink()
        compositing.clear_unused()
        self.report({"INFO"}, f"Deleted {count} frames, {size / 1e6:.1f} MB")
        return None


CLASSES = (EDTALK_OT_render_face, EDTALK_OT_clear_cache)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
