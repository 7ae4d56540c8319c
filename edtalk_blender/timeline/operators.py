"""The operator that shows a scene with characters in the current editor."""

from __future__ import annotations

import bpy
from bpy.props import StringProperty

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..character import character
from ..engine.operator_base import BaseOperator


def with_characters(*, without: bpy.types.Scene, most: int = 3) -> list[bpy.types.Scene]:
    """The first scenes of the file that have characters, in order of their names, except one."""
    return [scene for scene in bpy.data.scenes if scene != without and character.characters(scene)][:most]


class EDTALK_OT_use_scene(BaseOperator, bpy.types.Operator):
    """Show this scene in the current editor. Since Blender 5.0, the Video Sequencer has a scene of its own"""

    bl_idname = "edtalk.use_scene"
    bl_label = "Use This Scene Here"

    scene: StringProperty(name="Scene", description="Name of the scene. Empty: the scene of the window")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = bpy.data.scenes.get(self.scene) if self.scene else context.scene
        if scene is None:
            raise EDTalkError(f"There is no scene '{self.scene}' in this file.", "Choose another one.")
        is_sequencer = context.area is not None and context.area.type == "SEQUENCE_EDITOR"
        compat.show_scene(context, scene, is_sequencer)
        return None


def draw_scenes(layout: bpy.types.UILayout, shown: bpy.types.Scene) -> None:
    """Draw a button for each other scene that has characters."""
    for scene in with_characters(without=shown):
        layout.operator("edtalk.use_scene", text=f"Use '{scene.name}' Here", icon="SCENE_DATA").scene = scene.name


CLASSES = (EDTALK_OT_use_scene,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
