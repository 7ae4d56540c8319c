"""Operators for capture: animation from movie strips or files, and the pose of a single image."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, StringProperty
from bpy_extras.io_utils import ImportHelper

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..character import character
from ..engine import session
from ..engine.operator_base import EngineOperator
from ..timeline import footage, sequencer
from . import capture


def target(context: bpy.types.Context) -> bpy.types.Object | None:
    """The character that receives the capture: the active one, or the scene's only one."""
    return sequencer.default_speaker(context, compat.sequencer_scene(context))


class OntoCharacter(EngineOperator):
    """Mixin for operators that capture to the active character."""

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        scene, obj = compat.sequencer_scene(context), target(context)
        if obj is None:
            has_characters = bool(sequencer.characters(context, scene))
            return "Select a character in the viewport first" if has_characters else "Add a character first"
        if not capture.options_of(scene).used_banks:
            return "Enable Mouth, Head, Expression or Gaze first"
        return character.editable_reason(obj)


class FromFile(OntoCharacter, ImportHelper):
    """Mixin for capture operators that open the file browser."""

    filter_movie: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_image: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filepath: StringProperty(
        name="File", description="Movie or image of a face", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self._from_button = True
        return ImportHelper.invoke(self, context, event)


class EDTALK_OT_capture(OntoCharacter, bpy.types.Operator):
    """Capture the face in the selected movie strips to keyframes on the character"""

    bl_idname = "edtalk.capture"
    bl_label = "Capture"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        if not reason and not footage.selected(context):
            return "Select a movie strip in the sequencer first"
        return reason

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene, obj = compat.sequencer_scene(context), target(context)
        sequencer.ensure_unique_ids(scene)
        tasks, failed = [], []
        for strip in footage.selected(context):
            try:
                tasks.append(capture.capture(scene, obj, strip))
            except EDTalkError as error:
                failed.append(error)
        if not tasks:
            raise failed[0]
        for failure in failed:
            session.report(failure)
        if failed:
            count = len(tasks) + len(failed)
            self.report({"WARNING"}, f"{len(failed)} of {count} strips cannot be captured: {failed[0]}")
        self.finish(*tasks)
        return None


class EDTALK_OT_capture_file(FromFile, bpy.types.Operator):
    """Capture the face in a movie file or a folder of images to keyframes, starting at the current frame"""

    bl_idname = "edtalk.capture_file"
    bl_label = "Capture File"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        self.finish(capture.capture(compat.sequencer_scene(context), target(context), self.filepath))
        return None


class EDTALK_OT_match_face(OntoCharacter, bpy.types.Operator):
    """Match the character's pose to the face in the selected movie or image strip at the current frame"""

    bl_idname = "edtalk.match_face"
    bl_label = "Match Face"

    key: BoolProperty(name="Insert Keyframes", description="Key the pose at the current frame", default=True)

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        if not reason and cls._strip(context) is None:
            return "Select a movie or image strip at the current frame first"
        return reason

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        self.finish(capture.match(scene, target(context), self._strip(context), key=self.key))
        return None

    @staticmethod
    def _strip(context: bpy.types.Context) -> bpy.types.Strip | None:
        return footage.selected_at(context, compat.sequencer_scene(context).frame_current_final)


class EDTALK_OT_match_picture(FromFile, bpy.types.Operator):
    """Match the character's pose to the face in an image file, or in the first frame of a movie file"""

    bl_idname = "edtalk.match_picture"
    bl_label = "Match Image"

    key: BoolProperty(name="Insert Keyframes", description="Key the pose at the current frame", default=True)

    def run(self, context: bpy.types.Context) -> set[str] | None:
        self.finish(capture.match(compat.sequencer_scene(context), target(context), self.filepath, key=self.key))
        return None


CLASSES = (EDTALK_OT_capture, EDTALK_OT_capture_file, EDTALK_OT_match_face, EDTALK_OT_match_picture)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
