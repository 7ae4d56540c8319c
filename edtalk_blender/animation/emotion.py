"""Emotions over time, and emotions of the artist's own.

An own emotion is a slider of the character like those of its bank, and is stored in the .blend with it, so that a file
means the same on every machine. The library, a file in Blender's configuration folder, is only where emotions wait to
be added to another character.
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
from ..character import character
from ..character.operators import OnCharacter
from . import keys, presets, sampling

_shown: list[tuple[str, str, str]] = []  # Blender keeps no reference to the words of a menu that it shows


def _emotion_items(_operator: bpy.types.Operator, context: bpy.types.Context) -> list[tuple[str, str, str]]:
    obj = character.active(context) if context else None
    names = [NEUTRAL, *(character.emotions(obj) if obj else ())]
    _shown[:] = [(name, character.title(name), "") for name in names]
    return _shown


class ForEmotion(OnCharacter):
    """Mixin: an emotion of the active character and how strong it is to be."""

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        reason = super().disabled_reason(context)
        if not reason and not character.emotions(character.active(context)):
            return "This bank has no emotions; save one from the pose first"
        return reason

    def targets(self, obj: bpy.types.Object) -> dict[str, float]:
        """What every emotion slider goes to: the chosen one to its strength, all others to 0."""
        known = character.emotions(obj)
        if self.emotion not in known and self.emotion != NEUTRAL:
            raise EDTalkError(f"{obj.name} has no emotion '{self.emotion}'; it has: {', '.join(known)}.")
        return {name: self.strength if name == self.emotion else 0.0 for name in known}


# --- Over time


class EDTALK_OT_emotion_key(ForEmotion, bpy.types.Operator):
    """Key an emotion at the current frame; all others are keyed at 0, so that the face blends from one to the next"""

    bl_idname = "edtalk.emotion_key"
    bl_label = "Key Emotion"
    bl_options = {"REGISTER", "UNDO"}

    emotion: EnumProperty(name="Emotion", items=_emotion_items)
    strength: FloatProperty(name="Strength", default=1.0, min=0.0, soft_max=1.0, max=character.EMOTION_LIMITS[1])

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        targets = self.targets(obj)
        keys.insert_keys(obj, targets, context.scene.frame_current_final)
        _show(context, obj, targets)
        return None


class EDTALK_OT_emotion_change(ForEmotion, bpy.types.Operator):
    """Change from the emotion that the face has to another one, here or at a cut"""

    bl_idname = "edtalk.emotion_change"
    bl_label = "Change Emotion"
    bl_options = {"REGISTER", "UNDO"}

    emotion: EnumProperty(name="To", items=_emotion_items)
    strength: FloatProperty(name="Strength", default=1.0, min=0.0, soft_max=1.0, max=character.EMOTION_LIMITS[1])
    at: EnumProperty(
        name="At",
        items=(
            ("FRAME", "Current Frame", "Around the current frame"),
            ("CUT", "Nearest Cut", "Around the nearest edge of a picture strip or timeline marker"),
        ),
        default="FRAME",
    )
    frames: IntProperty(name="Frames", description="How long the change takes", default=12, min=1, soft_max=100)
    place: EnumProperty(
        name="Place",
        items=(
            ("START", "Starts Here", "The change begins at the frame"),
            ("CENTRE", "Centred", "The change is half done at the frame"),
            ("END", "Ends Here", "The new emotion is reached at the frame"),
        ),
        default="START",
    )
    easing: EnumProperty(
        name="Easing",
        items=(
            ("EASE_IN_OUT", "Ease In and Out", "Begin and end gently"),
            ("EASE_IN", "Ease In", "Begin gently"),
            ("EASE_OUT", "Ease Out", "End gently"),
            ("LINEAR", "Linear", "Change evenly"),
        ),
        default="EASE_IN_OUT",
    )
    hold: BoolProperty(name="Hard Cut", description="Hold what was, and change from one frame to the next")

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self)

    def draw(self, _context: bpy.types.Context) -> None:
        layout = self.layout
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
        _show(context, obj, sampling.sliders_at(obj, list(targets), scene.frame_current))
        self.report({"INFO"}, f"{character.title(self.emotion)} from frame {end}")
        return None

    def _nearest_cut(self, context: bpy.types.Context) -> int:
        found = cuts(context.scene) or cuts(compat.sequencer_scene(context))
        if not found:
            raise EDTalkError("There is no cut: no timeline marker and no picture strip.", "Use the current frame.")
        return min(found, key=lambda cut: abs(cut - context.scene.frame_current))


def cuts(scene: bpy.types.Scene) -> list[int]:
    """Frames at which a new shot begins: timeline markers, and where picture strips begin or end."""
    found = {marker.frame for marker in scene.timeline_markers}
    for strip in compat.strips(scene):
        if strip.type in ("MOVIE", "IMAGE", "SCENE", "MOVIECLIP", "META"):
            found |= {compat.left_handle(strip), compat.right_handle(strip)}
    return sorted(found)


def _show(context: bpy.types.Context, obj: bpy.types.Object, values: dict[str, float]) -> None:
    """Set the sliders to what was keyed, which they would else take only when the frame changes."""
    for name, value in values.items():
        obj.edtalk[name] = float(value)
    obj.update_tag()


# --- Emotions of the artist's own


def library_path() -> Path:
    """File of the artist's emotions; it outlives the extension."""
    return Path(bpy.utils.user_resource("CONFIG", path="edtalk", create=True)) / "emotions.json"


def library() -> presets.Presets:
    """The artist's emotions by name. Raises EDTalkError where their file is damaged."""
    return presets.read(library_path()) if library_path().exists() else {}


class EDTALK_OT_save_emotion(OnCharacter, bpy.types.Operator):
    """Save the expression that the face has now as an emotion of your own, with a slider"""

    bl_idname = "edtalk.save_emotion"
    bl_label = "Save as Emotion"
    bl_options = {"REGISTER", "UNDO"}

    emotion: StringProperty(name="Name", default="My Emotion")
    to_library: BoolProperty(name="Keep in Library", description="For other characters and files too", default=True)
    reset: BoolProperty(
        name="Hand Over", description="Put the expression to rest and set the new emotion's slider to 1", default=True
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self)

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        bank = character.bank_of(obj)
        columns = bank.names_of(EXPRESSION)
        offsets = dict(zip(bank.names, (character.row(obj) - character.rest_row(obj)).tolist(), strict=True))
        moved = {name: round(offsets[name], 6) for name in columns if abs(offsets[name]) > 1e-6}
        if not moved:
            raise EDTalkError("The face has no expression to save.", "Move the expression sliders first.")
        own = character.own_presets(obj)
        character.set_own_presets(obj, own | {self.emotion: moved})
        if self.to_library:
            presets.write(library_path(), library() | {self.emotion: moved})
        if self.reset:
            rest = character.rest_values(obj)
            emotions = dict.fromkeys(character.emotions(obj), 0.0)
            _show(context, obj, {name: rest[name] for name in columns} | emotions | {self.emotion: 1.0})
        return None


class EDTALK_OT_add_emotion(OnCharacter, bpy.types.Operator):
    """Give the character an emotion from your library"""

    bl_idname = "edtalk.add_emotion"
    bl_label = "Add Emotion"
    bl_options = {"REGISTER", "UNDO"}

    emotion: StringProperty(name="Name")

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return super().disabled_reason(context) or ("" if library_path().exists() else "Your library is empty")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj, known = character.active(context), library()
        if self.emotion not in known:
            raise EDTalkError(f"Your library has no emotion '{self.emotion}'; it has: {', '.join(known) or 'none'}.")
        _add(obj, {self.emotion: known[self.emotion]})
        return None


class EDTALK_OT_remove_emotion(OnCharacter, bpy.types.Operator):
    """Take this emotion of your own from the character, with its keys; your library keeps it"""

    bl_idname = "edtalk.remove_emotion"
    bl_label = "Remove Emotion"
    bl_options = {"REGISTER", "UNDO"}

    emotion: StringProperty(name="Name")
    from_library: BoolProperty(name="From Library", description="Remove it from your library as well")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        own = character.own_presets(obj)
        known = library() if self.from_library else {}
        if self.emotion not in own and self.emotion not in known:
            raise EDTalkError(f"{obj.name} has no emotion of its own called '{self.emotion}'.")
        if self.emotion in known:
            del known[self.emotion]
            presets.write(library_path(), known)
        if own.pop(self.emotion, None) is not None:
            keys.remove_keys(obj, [self.emotion], -np.inf, np.inf)
            character.set_own_presets(obj, own)
        return None


class EDTALK_OT_export_emotions(OnCharacter, ExportHelper, bpy.types.Operator):
    """Write the character's own emotions to a file, for somebody else"""

    bl_idname = "edtalk.export_emotions"
    bl_label = "Export Emotions"

    filename_ext = ".json"
    filter_glob: StringProperty(default="*.json", options={"HIDDEN"})
    filepath: StringProperty(name="File", subtype="FILE_PATH", options={"SKIP_SAVE"})

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        obj = character.active(context)
        if obj is None:
            return "Select a character first"
        return "" if character.own_presets(obj) else f"{obj.name} has no emotions of its own"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        presets.write(character.resolve(self.filepath), character.own_presets(character.active(context)))
        return None


class EDTALK_OT_import_emotions(OnCharacter, ImportHelper, bpy.types.Operator):
    """Give the character the emotions of a file, and keep them in your library"""

    bl_idname = "edtalk.import_emotions"
    bl_label = "Import Emotions"
    bl_options = {"REGISTER", "UNDO"}

    filename_ext = ".json"
    filter_glob: StringProperty(default="*.json", options={"HIDDEN"})
    filepath: StringProperty(name="File", subtype="FILE_PATH", options={"SKIP_SAVE"})
    to_library: BoolProperty(name="Keep in Library", description="For other characters and files too", default=True)

    def run(self, context: bpy.types.Context) -> set[str] | None:
        obj = character.active(context)
        found = presets.read(character.resolve(self.filepath))
        _add(obj, found)
        if self.to_library:
            presets.write(library_path(), library() | found)
        self.report({"INFO"}, f"Added {', '.join(found)}")
        return None


def _add(obj: bpy.types.Object, found: presets.Presets) -> None:
    """Give the character emotions of its own; EDTalkError where none of their sliders is among the bank's."""
    bank = character.bank_of(obj)
    for name, offsets in found.items():
        if not set(offsets) & set(bank.names_of(EXPRESSION)):
            raise EDTalkError(
                f"The emotion '{name}' was made with another bank: '{bank.name}' has none of its sliders.",
                "Use a character with the same bank.",
            )
    character.set_own_presets(obj, character.own_presets(obj) | found)


CLASSES = (
    EDTALK_OT_emotion_key,
    EDTALK_OT_emotion_change,
    EDTALK_OT_save_emotion,
    EDTALK_OT_add_emotion,
    EDTALK_OT_remove_emotion,
    EDTALK_OT_export_emotions,
    EDTALK_OT_import_emotions,
)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()


def unregister() -> None:
    unregister_classes()
    _shown.clear()
