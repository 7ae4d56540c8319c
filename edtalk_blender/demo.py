"""The demo scene: a character with a line of dialogue and emotion keyframes, from bundled files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import bpy
import numpy as np

from ..inference.contract.demo import EMOTIONS, LINE, PORTRAIT, TEXT
from ..inference.contract.emotion import EmotionCurve
from ..inference.contract.errors import EDTalkError
from . import compat
from .animation import keys
from .character import character, files, placement
from .engine import session
from .engine.operator_base import EngineOperator
from .engine.session import Task
from .idle import write_idle_motion
from .lipsync.on_strips import one_undo_step
from .lipsync.performing import perform
from .timeline import sequencer

FPS = 25


def build(
    where: bpy.types.Context | bpy.types.Scene, portrait: Path = PORTRAIT, line: Path = LINE, emotions: str = EMOTIONS
) -> bpy.types.Object:
    """Add a character with a dialogue strip and emotion keyframes. Returns the character.

    where: a scene, or the context for its scene and active collection.
    Sets the scene's frame rate to FPS and its range to the dialogue. Portrait and sound are packed into the .blend.
    Raises EDTalkError for an unreadable portrait or an unknown emotion.
    """
    files.check_picture(str(portrait))
    scene = where.scene if isinstance(where, bpy.types.Context) else where
    scene.render.fps, scene.render.fps_base = FPS, 1.0
    obj = character.create(where, str(portrait), name="Painting")
    obj.edtalk.portrait_image.pack()
    strip = compat.new_sound(scene, line.stem, line, channel=1, frame=1)
    strip.sound.pack()
    if line == LINE:
        strip.edtalk_text = TEXT
    sequencer.assign(strip, obj)
    clock = sequencer.time_map(scene, strip)
    scene.frame_start, scene.frame_end = clock.start, clock.end - 1
    key_emotions(obj, EmotionCurve.parse(emotions, files.bank_of(obj).presets), clock.start)
    return obj


def move_idly(scene: bpy.types.Scene, obj: bpy.types.Object) -> None:
    """Write Idle Motion for the scene's frames."""
    write_idle_motion(scene, obj, (scene.frame_start, scene.frame_end + 1), 1.0, blinks=True, seed=0)


def key_emotions(obj: bpy.types.Object, curve: EmotionCurve, start: int) -> None:
    """Write the keys of an emotion curve as keyframes, on every emotion in it. `start` is the frame of second 0."""
    frames = np.array([start + key.seconds(0.0) * FPS for key in curve.keys])
    for name in curve.names:
        values = np.array([key.strengths.get(name, 0.0) for key in curve.keys])
        keys.write_curves(obj, {name: values}, frames, interpolation="BEZIER")


class EDTALK_OT_demo(EngineOperator, bpy.types.Operator):
    """Add a demo character with a line of dialogue, emotions and head motion. Then use Lip Sync and Render Face"""

    bl_idname = "edtalk.demo"
    bl_label = "Add Demo"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        scene = compat.sequencer_scene(context)
        return "This scene already has a character" if character.characters(scene) else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        is_shown = scene == context.scene and context.view_layer is not None
        obj = build(context if is_shown else scene)
        if is_shown:
            character.select(context, obj)
            placement.show(context, obj)
        for strip in compat.strips(scene):
            strip.select = sequencer.is_dialogue(strip)
        self.report({"INFO"}, f"Added {obj.name}. Use Lip Sync, then Render Face in the Sequencer")
        if session.current_client() is None and not session.find_engine().usable:
            move_idly(scene, obj)  # until the engine is installed
            return None
        (strip,) = sequencer.dialogue(scene, obj)
        task, where = perform(scene, strip, obj, ("HEAD", "EYES")), (scene.name, sequencer.identity(strip))

        def without_speech(task: Task) -> None:
            scene, _strip, obj = sequencer.speaking(*where)
            if task.error and scene is not None and obj is not None:
                move_idly(scene, obj)

        task.then(without_speech)
        one_undo_step([task], "Head Motion")
        with suppress(EDTalkError):  # reported; the demo is there
            self.finish(task)
        return None


def register() -> None:
    bpy.utils.register_class(EDTALK_OT_demo)


def unregister() -> None:
    bpy.utils.unregister_class(EDTALK_OT_demo)
