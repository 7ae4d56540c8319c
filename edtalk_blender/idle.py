"""Idle motion as keyframes: slight head motion and blinks."""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty

from ..inference.contract.errors import EDTalkError
from ..inference.contract.idle import BLINK, GLANCES, SWAY, add_idle_motion
from . import compat
from .animation import curves, keys
from .character import character, files, sliders
from .character.operators import OnCharacter
from .timeline import sequencer

ERROR = 0.002  # largest error of the decimated curves, in slider units; removes about two thirds of the keyframes


def write_idle_motion(
    scene: bpy.types.Scene, obj: bpy.types.Object, span: tuple[int, int], amount: float, *, blinks: bool, seed: int
) -> tuple[str, ...]:
    """Write keyframes for head motion and blinks around rest. Returns the names of the animated sliders.

    span: first frame, and the frame after the last. amount: scale of the head motion; 1 is like a listening person.
    Raises EDTalkError if the bank has neither named head sliders nor a blink slider.
    """
    bank, rest = files.bank_of(obj), sliders.rest_values(obj)
    names = [name for name in (*SWAY, *GLANCES) if amount and name in bank.names]
    names += [BLINK] * (blinks and BLINK in bank.names)
    if not names:
        raise EDTalkError(
            f"The bank '{bank.name}' of {obj.name} has no sliders named {', '.join((*SWAY, BLINK))}.",
            "Use Name Sliders, or choose the starter bank.",
            "bank",
        )
    frames = np.arange(*span)
    rest_rows = np.tile(np.array([rest[name] for name in names], np.float32), (len(frames), 1))
    rows = add_idle_motion(rest_rows, names, (frames - span[0]) / sequencer.fps(scene), amount or 1e-6, seed)
    for name, column in zip(names, rows.T, strict=True):
        kept = curves.decimate(frames, column, ERROR)
        keys.write_curves(obj, {name: column[kept]}, frames[kept], replace=(frames[0], frames[-1]), generated=True)
    return tuple(names)


class EDTALK_OT_idle_motion(OnCharacter, bpy.types.Operator):
    """Add keyframes for slight head motion and blinks"""

    bl_idname = "edtalk.idle_motion"
    bl_label = "Idle Motion"
    bl_options = {"REGISTER", "UNDO"}

    frames: EnumProperty(name="Range", description="Frames to key", items=sequencer.RENDER_RANGES, default="AUTO")
    amount: FloatProperty(
        name="Head Motion",
        description="Scale of the head motion, usually from 0 to 2. 0 disables it, 1 is like a listening person",
        default=1.0,
        min=0.0,
        soft_max=2.0,
    )
    blinks: BoolProperty(name="Blinks", description="Add a blink every few seconds", default=True)
    seed: IntProperty(
        name="Seed", description="Number that selects the random motion. Another number gives another motion", min=0
    )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj, scene = character.active(context), compat.sequencer_scene(context)
        span = sequencer.render_range(scene, obj, self.frames)
        names = write_idle_motion(scene, obj, span, self.amount, blinks=self.blinks, seed=self.seed)
        self.report({"INFO"}, f"Keyed {len(names)} sliders of {obj.name} from frame {span[0]} to {span[1] - 1}")
        return None


def register() -> None:
    bpy.utils.register_class(EDTALK_OT_idle_motion)


def unregister() -> None:
    bpy.utils.unregister_class(EDTALK_OT_idle_motion)
