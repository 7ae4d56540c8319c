"""Signs of life as keys: gentle head motion and blinks over a stretch of frames."""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty

from ..inference.contract.errors import EDTalkError
from ..inference.contract.idle import BLINK, SWAY, add_idle_motion
from . import compat
from .animation import curves, keys
from .character import character
from .character.operators import OnCharacter
from .timeline import sequencer

ERROR = 0.002  # how far a written curve may be from the motion, in the bank's units; thins the keys about threefold


def write_idle_motion(
    scene: bpy.types.Scene, obj: bpy.types.Object, span: tuple[int, int], amount: float, *, blinks: bool, seed: int
) -> tuple[str, ...]:
    """Key head motion and blinks from frame `span[0]` to the one before `span[1]`, around rest; returns the sliders.

    amount: 1 is a person who listens. Raises EDTalkError where the bank does not name its head and eyes.
    """
    bank, rest = character.bank_of(obj), character.rest_values(obj)
    names = [name for name in SWAY if amount and name in bank.names] + [BLINK] * (blinks and BLINK in bank.names)
    if not names:
        raise EDTalkError(
            f"The bank '{bank.name}' of {obj.name} does not say which sliders turn the head and shut the eyes.",
            "Choose the starter bank, or key them by hand.",
            "bank",
        )
    frames = np.arange(*span)
    still = np.tile(np.array([rest[name] for name in names], np.float32), (len(frames), 1))
    moving = add_idle_motion(still, names, (frames - span[0]) / sequencer.fps(scene), amount or 1e-6, seed)
    for name, column in zip(names, moving.T, strict=True):
        kept = curves.decimate(frames, column, ERROR)
        keys.write_curves(obj, {name: column[kept]}, frames[kept], replace=(frames[0], frames[-1]))
    return tuple(names)


class EDTALK_OT_idle_motion(OnCharacter, bpy.types.Operator):
    """Key gentle head motion and blinks, so that the face is alive while nothing else moves it"""

    bl_idname = "edtalk.idle_motion"
    bl_label = "Idle Motion"
    bl_options = {"REGISTER", "UNDO"}

    frames: EnumProperty(name="Range", items=sequencer.RENDER_RANGES, default="AUTO")
    amount: FloatProperty(name="Head", description="How much the head moves", default=1.0, min=0.0, soft_max=2.0)
    blinks: BoolProperty(name="Blinks", description="Shut the eyes every few seconds", default=True)
    seed: IntProperty(name="Seed", description="Another number is another motion", min=0)

    def run(self, context: bpy.types.Context) -> set[str] | None:
        from .timeline.sequencer import render_range

        obj, scene = character.active(context), compat.sequencer_scene(context)
        span = render_range(scene, obj, self.frames)
        names = write_idle_motion(scene, obj, span, self.amount, blinks=self.blinks, seed=self.seed)
        self.report({"INFO"}, f"{len(names)} sliders of {obj.name} keyed from frame {span[0]} to {span[1] - 1}")
        return None


def register() -> None:
    bpy.utils.register_class(EDTALK_OT_idle_motion)


def unregister() -> None:
    bpy.utils.unregister_class(EDTALK_OT_idle_motion)
