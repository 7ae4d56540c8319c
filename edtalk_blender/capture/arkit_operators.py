"""Import ARKit face captures as keyframes of a character."""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty
from bpy_extras.io_utils import ImportHelper

from ...inference.contract.arkit import HEAD
from ...inference.contract.bank import Coefficient
from ...inference.contract.errors import EDTalkError
from ..animation import curves, hidden, keys
from ..character import arkit, character, files, sliders
from ..character.operators import OnCharacter
from ..engine import session
from ..timeline import timemap
from . import arkit_csv
from .arkit_csv import Rate, Take

_RATES = ("23.976", "24", "25", "29.97", "29.97 drop", "30", "50", "59.94", "59.94 drop", "60")
_DROP = ", with drop-frame timecode"


class EDTALK_OT_import_arkit(OnCharacter, ImportHelper, bpy.types.Operator):
    """Import a face capture from Live Link Face or another ARKit app (.csv) to keyframes on the character"""

    bl_idname = "edtalk.import_arkit"
    bl_label = "Import Face Capture"
    bl_options = {"REGISTER", "UNDO", "PRESET"}

    filename_ext = ".csv"
    filter_glob: StringProperty(default="*.csv;*.tsv;*.txt", options={"HIDDEN"})
    filepath: StringProperty(name="Take", description="CSV file to import", subtype="FILE_PATH", options={"SKIP_SAVE"})
    start: IntProperty(
        name="Start Frame", description="Scene frame at which the take starts", default=1, options={"SKIP_SAVE"}
    )
    use_timecode: BoolProperty(
        name="Use Timecode",
        description="Place the take by its timecode, in sync with other recordings of the same clock",
    )
    timecode: StringProperty(
        name="At Start Frame",
        description="Timecode of the start frame, as hours:minutes:seconds:frames",
        default="00:00:00:00",
    )
    rate: EnumProperty(
        name="Timecode Rate",
        description="Frames per second of the take's timecode",
        items=(
            ("AUTO", "Automatic", "Detect the rate. Takes shorter than a second use 60, the rate of Live Link Face"),
            *(
                (rate, rate, rate.replace(" drop", "") + " frames per second" + _DROP * rate.endswith("drop"))
                for rate in _RATES
            ),
        ),
        default="AUTO",
    )
    fps: FloatProperty(
        name="Rows per Second",
        description="Frame rate of files without a time column, in rows per second from 1 to 240",
        default=60.0,
        min=1.0,
        soft_max=240.0,
    )
    mouth: BoolProperty(name="Mouth", description="Animate the mouth sliders", default=True)
    expression: BoolProperty(
        name="Expression", description="Animate the sliders of brows, eyes and cheeks", default=True
    )
    head: EnumProperty(
        name="Head",
        description="How to animate the head",
        items=(
            ("NONE", "None", "Do not animate the head"),
            ("START", "Relative to Start", "Use head rotation relative to the start of the take"),
            ("RECORDED", "As Recorded", "Use head rotation relative to the phone"),
        ),
        default="START",
    )
    strength: FloatProperty(
        name="Strength",
        description="Scale of the captured motion, usually from 0 to 2. 1 is as recorded",
        default=1.0,
        soft_min=0.0,
        soft_max=2.0,
    )
    from_rest: BoolProperty(
        name="Relative to Portrait",
        description="Add the motion to the expression of the portrait. Disabled: a neutral captured face gives a "
        "neutral character",
        default=True,
    )
    swap_sides: BoolProperty(
        name="Swap Jaw and Mouth Sides",
        description="Swap left and right of jaw and mouth. Some versions of Live Link Face write them swapped",
    )
    simplify: FloatProperty(
        name="Simplify",
        description="Remove keys that change the curves by at most this value, in slider units, usually from 0 to 0.1. "
        "0 writes a key on every frame",
        default=0.005,
        min=0.0,
        soft_max=0.1,
        precision=3,
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if not self.properties.is_property_set("start"):
            self.start = context.scene.frame_current
        return super().invoke(context, event)

    def draw(self, _context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split, layout.use_property_decorate = True, False
        column = layout.column(heading="Animate")
        column.prop(self, "mouth")
        column.prop(self, "expression")
        layout.prop(self, "head")
        layout.prop(self, "strength")
        layout.prop(self, "from_rest")
        layout.prop(self, "swap_sides")
        layout.prop(self, "simplify")
        column = layout.column()
        column.prop(self, "start")
        column.prop(self, "use_timecode")
        row = column.row()
        row.active = self.use_timecode
        row.prop(self, "timecode")
        layout.prop(self, "rate")
        layout.prop(self, "fps")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        take = self._take()
        entries = self._sliders(obj, take)
        frames, seconds = self._times(context.scene, take)
        rest = sliders.rest_values(obj) if self.from_rest else {}
        for name, moved in arkit.to_bank(entries, take.names, take.at(seconds)).items():
            column = rest.get(name, 0.0) + self.strength * moved
            kept = curves.decimate(frames, column, self.simplify or -1.0)
            keys.write_curves(obj, {name: column[kept]}, frames[kept], replace=(frames[0], frames[-1]))
        self._report(obj, take, frames)
        return None

    def _take(self) -> Take:
        rate = "" if self.rate == "AUTO" else self.rate
        take = arkit_csv.read_take(files.resolve(self.filepath), rate, self.fps)
        take = take.with_sides_swapped() if self.swap_sides else take
        return take.with_head_from_start() if self.head == "START" else take

    def _sliders(self, obj: bpy.types.Object, take: Take) -> list[Coefficient]:
        """The coefficients to animate. Raises EDTalkError if the take moves none of them."""
        bank = files.bank_of(obj)
        if not any(entry.arkit for entry in bank.coefficients):
            raise EDTalkError(
                f"The bank '{bank.name}' of {obj.name} has no ARKit mapping.",
                "Use Name Sliders, or choose the starter bank.",
                "bank",
            )
        wanted = {"lip": self.mouth, "pose": self.head != "NONE"}
        entries = [entry for entry in bank.coefficients if wanted.get(entry.bank, self.expression)]
        if not arkit.to_bank(entries, take.names, take.values[:1]):
            name = files.resolve(self.filepath).name
            raise EDTalkError(
                f"{name} has no motion for the enabled parts of the face.", "Enable Mouth, Expression or Head."
            )
        return entries

    def _times(self, scene: bpy.types.Scene, take: Take) -> tuple[np.ndarray, np.ndarray]:
        """Scene frames (T,) of the take, and their seconds (T,) in the take."""
        fps = timemap.scene_fps(scene.render.fps, scene.render.fps_base)
        first = float(self.start)
        if self.use_timecode:
            if take.start is None:
                raise EDTalkError(f"{files.resolve(self.filepath).name} has no timecode.", "Disable Use Timecode.")
            first += (take.start - arkit_csv.timecode_seconds(self.timecode, take.rate or Rate(60, 60.0))) * fps
        near = 1e-4  # frames
        frames = np.arange(np.ceil(first - near), np.floor(first + take.duration * fps + near) + 1)
        if not len(frames):
            raise EDTalkError("The take is between two scene frames.", "Change its start, or record a longer take.")
        if np.abs(frames).max() > 1048574:  # Blender's last frame
            seconds = int(take.start or 0)
            clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:00"
            raise EDTalkError(
                f"The timecode places the take at frame {first:.0f}, beyond Blender's frame range.",
                f"Set At Start Frame near the take's timecode, {clock}.",
            )
        return frames, (frames - first) / fps

    def _report(self, obj: bpy.types.Object, take: Take, frames: np.ndarray) -> None:
        self.report({"INFO"}, f"Imported {take.duration:.1f} s to frames {frames[0]:.0f} to {frames[-1]:.0f}")
        if take.skipped:
            self.report({"WARNING"}, f"{take.skipped} rows without a face were interpolated")
        if self.head != "NONE" and not set(HEAD) & set(take.names):
            self.report({"WARNING"}, "The take has no head rotation. Enable it in the app")
        if reason := hidden.hidden_by(obj):
            error = EDTalkError(reason, "The capture was written but is overridden.", "hidden")
            options = {"uid": obj.edtalk.uid}
            session.report(error, fix="edtalk.reveal_animation", label="Show Animation", options=options)


def _draw_in_import_menu(menu: bpy.types.Menu, _context: bpy.types.Context) -> None:
    menu.layout.operator_context = "INVOKE_DEFAULT"
    menu.layout.operator("edtalk.import_arkit", text="ARKit Face Capture (.csv)")


CLASSES = (EDTALK_OT_import_arkit,)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    bpy.types.TOPBAR_MT_file_import.append(_draw_in_import_menu)


def unregister() -> None:
    bpy.types.TOPBAR_MT_file_import.remove(_draw_in_import_menu)
    unregister_classes()
