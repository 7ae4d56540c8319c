"""A scene to start from, made of material that comes with the extension: a face, a line of dialogue, its emotions."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

from ..inference.contract.demo import EMOTIONS, LINE, PORTRAIT
from ..inference.contract.emotion import EmotionCurve
from . import compat
from .animation import keys
from .character import character
from .engine.asking import Explained
from .idle import write_idle_motion
from .timeline import sequencer

FPS = 25


def build(
    scene: bpy.types.Scene, portrait: Path = PORTRAIT, line: Path = LINE, emotions: str = EMOTIONS
) -> bpy.types.Object:
    """A character, its dialogue in the sequencer and its emotion curve in `scene`; returns the character.

    The scene gets FPS frames a second and the line's length. Portrait and line are packed: the .blend can go anywhere.
    Raises EDTalkError for a picture that cannot be read or an emotion the bank does not have.
    """
    character.check_picture(str(portrait))
    scene.render.fps, scene.render.fps_base = FPS, 1.0
    obj = character.create(scene, str(portrait), name="Painting")
    obj.edtalk.portrait_image.pack()
    strip = compat.new_sound(scene, line.stem, line, channel=1, frame=1)
    strip.sound.pack()
    sequencer.assign(strip, obj)
    clock = sequencer.time_map(scene, strip)
    scene.frame_start, scene.frame_end = clock.start, clock.end - 1
    key_emotions(obj, EmotionCurve.parse(emotions, character.bank_of(obj).presets), clock.start)
    write_idle_motion(scene, obj, (clock.start, clock.end), 1.0, blinks=True, seed=0)
    return obj


def key_emotions(obj: bpy.types.Object, curve: EmotionCurve, start: int) -> None:
    """One key for each of the curve's, on every emotion that it uses; time 0 is frame `start`."""
    frames = np.array([start + key.seconds(0.0) * FPS for key in curve.keys])
    for name in curve.names:
        values = np.array([key.strengths.get(name, 0.0) for key in curve.keys])
        keys.write_curves(obj, {name: values}, frames, interpolation="BEZIER")


class EDTALK_OT_demo(Explained, bpy.types.Operator):
    """Make a face, a line of dialogue and an emotion curve to try things on; then use Lip Sync and Render Face"""

    bl_idname = "edtalk.demo"
    bl_label = "Try the Demo"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        scene = compat.sequencer_scene(context)
        return "This scene has a character already" if character.characters(scene) else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        obj = build(scene)
        if context.view_layer and obj.name in context.view_layer.objects:
            context.view_layer.objects.active = obj
        for strip in compat.strips(scene):
            strip.select = sequencer.is_dialogue(strip)
        self.report({"INFO"}, f"Added {obj.name} and its line: use Lip Sync, then Render Face in the sequencer")
        return None


def register() -> None:
    bpy.utils.register_class(EDTALK_OT_demo)


def unregister() -> None:
    bpy.utils.unregister_class(EDTALK_OT_demo)
