"""Key emotions over time, and create custom emotions.

A custom emotion is a slider of the character like those of its bank. It is stored with the character in the .blend, so
a file does not depend on the user's library. The library is a file in Blender's configuration folder with emotions to
add to other characters.
"""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty
from bpy_extras.io_utils import ExportHelper, ImportHelper

from ...inference.contract.emotion import NEUTRAL
from ...inference.contract.errors import EDTalkError
from ...inference.contract.mixing import EXPRESSION
from .. import compat
from ..character import character, files, sliders
from ..character.operators import OnCharacter
from ..engine.operator_base import DialogOperator
from ..lipsync import markers
from ..translations.context import translated
from . import emotion_pictures, keys, presets, sampling


def _emotion_items(_operator: bpy.types.Operator, context: bpy.types.Context | None) -> list[emotion_pictures.EnumItem]:
    return emotion_pictures.items(character.active(context) if context else None)


class ForEmotion(OnCharacter):
    """Mixin for operators with an emotion of the active character and its strength."""

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        if reason := super().disabled_reason(context):
            return reason
        try:
            available = sliders.emotions(character.active(context))
        except EDTalkError as error:  # the bank cannot be read
            return error.message.removesuffix(".")
        return "" if available else "This bank has no emotions. Save one from the current pose first"

    def choose(self, context: bpy.types.Context) -> None:
        """Without an emotion from the caller, use the one that was used last."""
        if not self.properties.is_property_set("emotion"):  # type: ignore[attr-defined]
            self.emotion = emotion_pictures.chosen(character.active(context))

    def targets(self, obj: bpy.types.Object) -> dict[str, float]:
        """Values by emotion: `strength` for the chosen one, 0 for all others. Raises EDTalkError if it is unknown."""
        available = sliders.emotions(obj)
        emotion, strength = self.emotion, self.strength  # type: ignore[attr-defined]
        if emotion not in available and emotion != NEUTRAL:
            raise EDTalkError(
                f"{obj.name} has no emotion '{emotion}'.", f"Choose one of: {', '.join((NEUTRAL, *available))}."
            )
        return {name: strength if name == emotion else 0.0 for name in available}


# --- Emotions over time


class EDTALK_OT_emotion_key(ForEmotion, bpy.types.Operator):
    """Insert a keyframe for an emotion at the current frame, and keyframes of 0 for all other emotions"""

    bl_idname = "edtalk.emotion_key"
    bl_label = "Key Emotion"
    bl_options = {"REGISTER", "UNDO"}

    emotion: EnumProperty(name="Emotion", description="Emotion to key", items=_emotion_items, options={"SKIP_SAVE"})
    strength: FloatProperty(
        name="Strength",
        description="Strength of the emotion, from 0 to 1.5. 1 is the full emotion",
        default=1.0,
        min=0.0,
        soft_max=1.0,
        max=sliders.EMOTION_LIMITS[1],
    )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        self.choose(context)
        obj = character.active(context)
        targets = self.targets(obj)
        keys.insert_keys(obj, targets, context.scene.frame_current_final)
        _set_sliders(obj, targets)
        obj.edtalk.last_emotion = self.emotion
        self.report({"INFO"}, f"{obj.name}: {sliders.title(self.emotion)} at frame {context.scene.frame_current}")
        return None


class EDTALK_OT_emotion_change(ForEmotion, bpy.types.Operator):
    """Key a transition from the current emotion to another one, at the current frame or at a cut"""

    bl_idname = "edtalk.emotion_change"
    bl_label = "Change Emotion"
    bl_options = {"REGISTER", "UNDO"}

    emotion: EnumProperty(
        name="To",
        description="Emotion at the end of the transition",
        items=_emotion_items,
        options={"SKIP_SAVE"},
    )
    strength: FloatProperty(
        name="Strength",
        description="Strength of the new emotion, from 0 to 1.5. 1 is the full emotion",
        default=1.0,
        min=0.0,
        soft_max=1.0,
        max=sliders.EMOTION_LIMITS[1],
    )
    at: EnumProperty(
        name="At",
        description="Reference frame of the transition",
        items=(
            ("FRAME", "Current Frame", "Use the current frame"),
            ("CUT", "Nearest Cut", "Use the nearest timeline marker or the nearest start or end of an image strip"),
        ),
        default="FRAME",
    )
    frames: IntProperty(
        name="Duration",
        description="Length of the transition in frames, usually from 1 to 100",
        default=12,
        min=1,
        soft_max=100,
    )
    place: EnumProperty(
        name="Align",
        description="Position of the transition relative to the reference frame",
        items=(
            ("START", "Start", "The transition starts at the reference frame"),
            ("CENTRE", "Center", "The transition is centered on the reference frame"),
            ("END", "End", "The transition ends at the reference frame"),
        ),
        default="START",
    )
    easing: EnumProperty(
        name="Easing",
        description="Interpolation of the transition",
        items=(
            ("EASE_IN_OUT", "Ease In and Out", "Start and end slowly"),
            ("EASE_IN", "Ease In", "Start slowly"),
            ("EASE_OUT", "Ease Out", "End slowly"),
            ("LINEAR", "Linear", "Change at constant speed"),
        ),
        default="EASE_IN_OUT",
    )
    hold: BoolProperty(name="Hard Cut", description="Change from one frame to the next, without a transition")

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        self.choose(context)
        title = f"{translated(self.bl_label)}: {character.active(context).name}"
        return context.window_manager.invoke_props_dialog(self, title=title)

    def draw(self, _context: bpy.types.Context) -> None:
        layout = self.layout
        layout.template_icon_view(self, "emotion", show_labels=True, scale=5.0, scale_popup=5.0)
        layout.use_property_split = True
        layout.prop(self, "emotion")
        layout.prop(self, "strength")
        layout.prop(self, "at")
        layout.prop(self, "hold")
        column = layout.column()
        column.active = not self.hold
        column.prop(self, "frames")
        column.prop(self, "place")
        column.prop(self, "easing")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        self.choose(context)
        obj, scene = character.active(context), context.scene
        targets = self.targets(obj)
        at = scene.frame_current if self.at == "FRAME" else self._nearest_cut(context)
        if self.hold:
            start, end = at - 1, at
        else:
            start = at - {"START": 0, "CENTRE": self.frames // 2, "END": self.frames}[self.place]
            end = start + self.frames
        before = sampling.sliders_at(obj, list(targets), start)
        curves = {name: np.array([before[name], target]) for name, target in targets.items()}
        keys.write_curves(
            obj,
            curves,
            np.array([start, end]),
            replace=(start, end),
            interpolation="CONSTANT" if self.hold else "LINEAR" if self.easing == "LINEAR" else "SINE",
            easing="AUTO" if self.hold or self.easing == "LINEAR" else self.easing,
        )
        _set_sliders(obj, sampling.sliders_at(obj, list(targets), scene.frame_current))
        obj.edtalk.last_emotion = self.emotion
        self.report({"INFO"}, f"{obj.name}: {sliders.title(self.emotion)} from frame {end}")
        return None

    def _nearest_cut(self, context: bpy.types.Context) -> int:
        frames = cuts(context.scene) or cuts(compat.sequencer_scene(context))
        if not frames:
            raise EDTalkError("No cut found.", "Add a timeline marker or an image strip.")
        return min(frames, key=lambda cut: abs(cut - context.scene.frame_current))


def cuts(scene: bpy.types.Scene) -> list[int]:
    """Frames of cuts, sorted: timeline markers, and the start and end of every strip with images."""
    own = markers.own(scene)  # words and mouth shapes
    frames = {marker.frame for marker in scene.timeline_markers if marker not in own}
    for strip in compat.strips(scene):
        if strip.type in ("MOVIE", "IMAGE", "SCENE", "MOVIECLIP", "META"):
            frames |= {compat.left_handle(strip), compat.right_handle(strip)}
    return sorted(frames)


def _set_sliders(obj: bpy.types.Object, values: dict[str, float]) -> None:
    """Set sliders to their keyed values now; Blender would update them at the next frame change."""
    for name, value in values.items():
        obj.edtalk[name] = float(value)
    obj.update_tag()


# --- Custom emotions


def library_path() -> Path:
    """File of the emotion library. It is kept when the extension is uninstalled."""
    return Path(bpy.utils.user_resource("CONFIG", path="edtalk", create=True)) / "emotions.json"


def library() -> presets.Presets:
    """Emotions of the library by name. Raises EDTalkError if the file is damaged."""
    return presets.read(library_path()) if library_path().exists() else {}


class EDTALK_OT_save_emotion(DialogOperator, OnCharacter, bpy.types.Operator):
    """Save the current expression as a custom emotion with its own slider"""

    bl_idname = "edtalk.save_emotion"
    bl_label = "Save as Emotion"
    bl_options = {"REGISTER", "UNDO"}

    emotion: StringProperty(name="Name", description="Name of the new emotion", default="My Emotion")
    to_library: BoolProperty(
        name="Add to Library", description="Save it in the emotion library too, for other characters", default=True
    )
    reset: BoolProperty(
        name="Reset Expression",
        description="Reset the expression sliders to rest and set the slider of the new emotion to 1",
        default=True,
    )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        bank = files.bank_of(obj)
        columns = bank.names_of(EXPRESSION)
        offsets = dict(zip(bank.names, (sliders.row(obj) - sliders.rest_row(obj)).tolist(), strict=True))
        changed = {name: round(offsets[name], 6) for name in columns if abs(offsets[name]) > 1e-6}
        if not changed:
            raise EDTalkError("The face has no expression to save.", "Change the expression sliders first.")
        own = sliders.own_presets(obj)
        sliders.set_own_presets(obj, own | {self.emotion: changed})
        if self.to_library:
            presets.write(library_path(), library() | {self.emotion: changed})
        if self.reset:
            rest = sliders.rest_values(obj)
            emotions = dict.fromkeys(sliders.emotions(obj), 0.0)
            _set_sliders(obj, {name: rest[name] for name in columns} | emotions | {self.emotion: 1.0})
        return None


class EDTALK_OT_add_emotion(OnCharacter, bpy.types.Operator):
    """Add an emotion from the library to the character"""

    bl_idname = "edtalk.add_emotion"
    bl_label = "Add Emotion"
    bl_options = {"REGISTER", "UNDO"}

    emotion: StringProperty(name="Name", description="Emotion to add")

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return super().disabled_reason(context) or ("" if library_path().exists() else "The emotion library is empty")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj, available = character.active(context), library()
        if self.emotion not in available:
            raise EDTalkError(
                f"The library has no emotion '{self.emotion}'.", f"Choose one of: {', '.join(available) or 'none'}."
            )
        _add(obj, {self.emotion: available[self.emotion]})
        return None


class EDTALK_OT_remove_emotion(OnCharacter, bpy.types.Operator):
    """Remove this custom emotion and its keyframes from the character. It stays in the library"""

    bl_idname = "edtalk.remove_emotion"
    bl_label = "Remove Emotion"
    bl_options = {"REGISTER", "UNDO"}

    emotion: StringProperty(name="Name", description="Emotion to remove")
    from_library: BoolProperty(name="From Library", description="Remove it from the library too")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        own = sliders.own_presets(obj)
        stored = library() if self.from_library else {}
        if self.emotion not in own and self.emotion not in stored:
            raise EDTalkError(f"{obj.name} has no custom emotion '{self.emotion}'.")
        if self.emotion in stored:
            del stored[self.emotion]
            presets.write(library_path(), stored)
        if own.pop(self.emotion, None) is not None:
            keys.remove_keys(obj, [self.emotion], -np.inf, np.inf)
            sliders.set_own_presets(obj, own)
        return None


class EDTALK_OT_export_emotions(OnCharacter, ExportHelper, bpy.types.Operator):
    """Export the character's custom emotions to a file"""

    bl_idname = "edtalk.export_emotions"
    bl_label = "Export Emotions"

    filename_ext = ".json"
    filter_glob: StringProperty(default="*.json", options={"HIDDEN"})
    filepath: StringProperty(name="File", description="File to export to", subtype="FILE_PATH", options={"SKIP_SAVE"})

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        obj = character.active(context)
        if obj is None:
            return "Select a character first"
        return "" if sliders.own_presets(obj) else f"{obj.name} has no custom emotions"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        presets.write(files.resolve(self.filepath), sliders.own_presets(character.active(context)))
        return None


class EDTALK_OT_import_emotions(OnCharacter, ImportHelper, bpy.types.Operator):
    """Add the emotions of a file to the character"""

    bl_idname = "edtalk.import_emotions"
    bl_label = "Import Emotions"
    bl_options = {"REGISTER", "UNDO"}

    filename_ext = ".json"
    filter_glob: StringProperty(default="*.json", options={"HIDDEN"})
    filepath: StringProperty(
        name="File", description="File of emotions to import", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )
    to_library: BoolProperty(
        name="Add to Library", description="Add them to the emotion library too, for other characters", default=True
    )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        imported = presets.read(files.resolve(self.filepath))
        _add(obj, imported)
        if self.to_library:
            presets.write(library_path(), library() | imported)
        self.report({"INFO"}, f"Added {', '.join(imported)}")
        return None


def _add(obj: bpy.types.Object, emotions: presets.Presets) -> None:
    """Add custom emotions to the character. Raises EDTalkError if the bank has none of an emotion's sliders."""
    bank = files.bank_of(obj)
    for name, offsets in emotions.items():
        if not set(offsets) & set(bank.names_of(EXPRESSION)):
            raise EDTalkError(
                f"The emotion '{name}' was made with another bank: the bank '{bank.name}' has none of its sliders.",
                "Use a character with the same bank.",
            )
    sliders.set_own_presets(obj, sliders.own_presets(obj) | emotions)


CLASSES = (
    EDTALK_OT_emotion_key,
    EDTALK_OT_emotion_change,
    EDTALK_OT_save_emotion,
    EDTALK_OT_add_emotion,
    EDTALK_OT_remove_emotion,
    EDTALK_OT_export_emotions,
    EDTALK_OT_import_emotions,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
