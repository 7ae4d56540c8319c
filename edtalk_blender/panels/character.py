"""Panels in the sidebar of the 3D View: the character, its emotions and its sliders."""

from __future__ import annotations

import re
from collections.abc import Iterable

import bpy

from ...inference.contract.errors import EDTalkError
from ...inference.contract.mixing import EXPRESSION
from ..animation import emotion_operators, emotion_pictures, hidden
from ..character import character, files, sliders
from ..character.operators import EMOTIONS
from ..timeline import sequencer
from ..timeline.operators import draw_scenes
from ..translations.context import CONTEXT
from ..workspace import operators as workspace
from .help import HasHelp, draw_help
from .messages import CATEGORY, draw_note, draw_problem
from .next_step import next_step

# Groups of sliders: title and pattern of ARKit names, in order. Other sliders come first, without a title.
_GROUPS = {
    "lip": (
        ("Jaw", r"jaw"),
        ("Tongue and Cheeks", r"tongue|cheek"),
        ("Corners", r"mouth(Left|Right|Smile|Frown|Dimple|Stretch|Press)"),
        ("Lips", r"mouth"),
    ),
    "pose": (("Rotation", r"head(Yaw|Pitch|Roll)"), ("Position", r"head")),
    "exp": (("Brows", r"brow"), ("Eyes", r"eye"), ("Cheeks and Nose", r"cheek|nose"), ("Mouth", r"mouth")),
}


def grouped(bank: str, names: Iterable[str]) -> dict[str, list[str]]:
    """Slider names by the title of their group, in display order. The title "" holds names without a group."""
    table = _GROUPS.get(bank, ())
    groups: dict[str, list[str]] = {"": [], **{title: [] for title, _pattern in table}}
    for name in names:
        groups[next((title for title, pattern in table if re.match(pattern, name)), "")].append(name)
    return {title: members for title, members in groups.items() if members}


def problems(obj: bpy.types.Object) -> list[tuple[str, str, str]]:
    """Problems of the character: a sentence, the operator that fixes it, and the label of its button."""
    found = []
    if reason := character.editable_reason(obj):
        found.append((f"{reason}.", "edtalk.make_override", "Make Override"))
    for check, operator, label in (
        (files.bank_of, "edtalk.set_bank", "Choose Bank"),
        (files.portrait_path, "edtalk.set_portrait", "Choose Portrait"),
    ):
        try:
            check(obj)
        except EDTalkError as error:
            if operator == "edtalk.set_portrait" and obj.edtalk.portrait_image is None and _dubs(obj):
                message = (
                    f"{obj.name} has no portrait yet. Select its movie and press Dub Movie, which takes it from there."
                )
                found.append((message, "edtalk.dub_movie", "Dub Movie"))
            else:
                found.append((error.message, operator, label))
    if not any(operator == "edtalk.set_bank" for _message, operator, _label in found):
        if set(files.bank_of(obj).names) - set(sliders.channel_names(obj)):
            found.append((f"{obj.name} lacks sliders of its bank.", "edtalk.update_sliders", "Add Sliders"))
        if (hint := hidden.hidden_by(obj)) is not None:
            found.append((hint, "edtalk.reveal_animation", "Show Animation"))
    return found


def _dubs(obj: bpy.types.Object) -> bool:
    return any(sequencer.plates(scene, obj) for scene in bpy.data.scenes)


class EDTALK_MT_characters(bpy.types.Menu):
    """Characters of this scene"""

    bl_label = "Characters"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        for obj in character.characters(context.scene):
            layout.operator("edtalk.select_character", text=obj.name, icon="USER").uid = obj.edtalk.uid
        layout.separator()
        layout.operator("edtalk.add_character", icon="ADD")


class EDTALK_MT_emotions(bpy.types.Menu):
    """Custom emotions"""

    bl_label = "Custom Emotions"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator("edtalk.save_emotion", icon="ADD")
        layout.operator("edtalk.import_emotions", icon="IMPORT")
        layout.operator("edtalk.export_emotions", icon="EXPORT")
        layout.separator()
        layout.operator("edtalk.create_pose_library", icon="ASSET_MANAGER").where = "FILE"
        layout.operator(
            "edtalk.create_pose_library", text="Add Poses to User Library", text_ctxt=CONTEXT
        ).where = "USER"
        layout.operator("edtalk.save_pose_asset")
        layout.separator()
        try:
            known = emotion_operators.library()
        except EDTalkError as error:
            layout.label(text=error.message, icon="ERROR")
            return
        obj = character.active(context)
        missing = [name for name in known if obj is None or name not in sliders.own_presets(obj)]
        if missing:
            layout.separator()
        for name in missing:
            layout.operator("edtalk.add_emotion", text=f"Add {sliders.title(name)}").emotion = name


class _InSidebar(HasHelp):
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY


class EDTALK_PT_character(_InSidebar, bpy.types.Panel):
    """The active character"""

    bl_label = "Character"
    help_page = "character.html"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        obj = character.active(context)
        row = layout.row(align=True)
        if obj is None:
            if character.characters(context.scene):
                row.menu("EDTALK_MT_characters", text="Choose Character", text_ctxt=CONTEXT, icon="USER")
            row.operator("edtalk.add_character", icon="ADD")
            if not character.characters(context.scene):
                layout.operator("edtalk.demo", icon="PLAY")
                draw_scenes(layout, context.scene)
            if context.active_object is not None:
                layout.operator("edtalk.make_character", icon="USER")
            workspace.draw_button(layout)
            return
        row.menu("EDTALK_MT_characters", text="", icon="USER")
        row.prop(obj, "name", text="")
        row.operator("edtalk.frame_character", text="", icon="ZOOM_SELECTED")
        row.operator("edtalk.add_character", text="", icon="ADD")
        for message, operator, label in problems(obj):
            draw_problem(layout, message, operator, label)
        if step := next_step(obj):
            draw_note(layout, step)
            workspace.draw_button(layout)

        group = obj.edtalk
        column = layout.column(align=True)
        row = column.row(align=True)
        row.prop(group, "portrait_image", text="", icon="IMAGE_DATA")
        row.operator("edtalk.set_portrait", text="", icon="FILE_FOLDER")
        _draw_crop(column, obj)
        row = layout.row(align=True)
        row.label(text=_bank_name(obj), icon="OUTLINER_DATA_ARMATURE")
        if group.bank:
            row.operator("edtalk.set_bank", text="", icon="LOOP_BACK").starter = True
        row.operator("edtalk.set_bank", text="", icon="FILE_FOLDER")
        row.menu("EDTALK_MT_banks", text="", icon="DOWNARROW_HLT")
        row = layout.row(align=True)
        _draw_pose_buttons(row)
        row.separator()
        row.operator("edtalk.idle_motion", icon="FORCE_TURBULENCE")


def _draw_crop(column: bpy.types.UILayout, obj: bpy.types.Object) -> None:
    """Draw the crop and the values of a manual one. What is wrong with them is drawn below, to not move them."""
    group = obj.edtalk
    row = column.row(align=True)
    row.prop(group, "crop_mode", text="")
    row.operator_context = "INVOKE_DEFAULT"
    row.operator("edtalk.edit_crop", text="", icon="SELECT_SET")
    if group.crop_mode == "box":
        for index, label in enumerate(("Left", "Top", "Size")):
            column.prop(group, "crop", index=index, text=label)
        column.prop(group, "crop_angle")
        if problem := files.crop_problem(obj):
            draw_problem(column, problem, "", "")


class EDTALK_PT_crop(HasHelp, bpy.types.Panel):
    """The square of the portrait that is used as the active character's face"""

    bl_label = "Portrait Crop"
    help_page = "character.html#crop"
    bl_space_type = "IMAGE_EDITOR"
    bl_region_type = "UI"
    bl_category = CATEGORY

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        obj = character.active(context)
        return obj is not None and obj.edtalk.portrait_image is not None

    def draw(self, context: bpy.types.Context) -> None:
        obj = character.active(context)
        self.layout.label(text=obj.name, icon="USER")
        _draw_crop(self.layout.column(align=True), obj)


def _bank_name(obj: bpy.types.Object) -> str:
    try:
        return f"Bank: {files.bank_of(obj).name}"
    except EDTalkError:
        return f"Bank: {files.bank_path(obj).name}"


def _draw_pose_buttons(row: bpy.types.UILayout, bank: str = "") -> None:
    for operator, icon in (
        ("edtalk.reset", "LOOP_BACK"),
        ("edtalk.mirror", "MOD_MIRROR"),
        ("edtalk.copy_pose", "COPYDOWN"),
        ("edtalk.paste_pose", "PASTEDOWN"),
        ("edtalk.key_pose", "KEY_HLT"),
    ):
        if operator == "edtalk.mirror" and bank == EMOTIONS:
            continue
        row.operator(operator, text="", icon=icon).bank = bank


class OfCharacter:
    """Mixin for panels that are shown if the active character has a bank."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        obj = character.active(context)
        try:
            return obj is not None and bool(files.bank_of(obj))
        except EDTalkError:
            return False


class EmotionSliders(OfCharacter, HasHelp):
    """Mixin for the panels with the emotions of the active character."""

    bl_label = "Emotions"
    help_page = "emotion.html"

    def draw_header_preset(self, _context: bpy.types.Context) -> None:
        self.layout.menu("EDTALK_MT_emotions", text="", icon="DOWNARROW_HLT")
        draw_help(self.layout, self.help_page)

    def draw(self, context: bpy.types.Context) -> None:
        layout, obj = self.layout, character.active(context)
        layout.template_icon_view(
            context.window_manager, "edtalk_emotion", show_labels=True, scale=4.0, scale_popup=5.0
        )
        layout.label(text=sliders.title(emotion_pictures.chosen(obj)), text_ctxt=CONTEXT)
        row = layout.row(align=True)
        row.operator_context = "INVOKE_DEFAULT"
        row.operator("edtalk.emotion_key", icon="KEY_HLT")
        row.operator("edtalk.emotion_change", icon="IPO_EASE_IN_OUT")
        own = sliders.own_presets(obj)
        column = layout.column(align=True)
        for name in sliders.emotions(obj):
            row = column.row(align=True)
            _draw_slider(row, obj, name)
            if name in own:
                row.operator("edtalk.remove_emotion", text="", icon="X").emotion = name
        _draw_pose_buttons(layout.row(align=True), EMOTIONS)


class EDTALK_PT_emotions(_InSidebar, EmotionSliders, bpy.types.Panel):
    """Strength of each emotion, added to the expression sliders"""


class EDTALK_PT_banks(_InSidebar, OfCharacter, bpy.types.Panel):
    """All sliders of the face, in groups: mouth, head, expression and gaze"""

    bl_label = "Sliders"
    help_page = "character.html#sliders"

    def draw(self, context: bpy.types.Context) -> None:
        obj = character.active(context)
        bank = files.bank_of(obj)
        for name, _count in bank.config.banks:
            header, body = self.layout.panel(f"edtalk_{name}", default_closed=name != EXPRESSION)
            self._draw_header(header, obj, name)
            if body is None:
                continue
            state = sliders.bank_state(obj, name)
            body.active = state is None or not state.mute
            for title, members in grouped(name, bank.names_of(name)).items():
                if title:
                    body.label(text=title, text_ctxt=CONTEXT)
                column = body.column(align=True)
                for member in members:
                    _draw_slider(column, obj, member)
            _draw_pose_buttons(body.row(align=True), name)

    def _draw_header(self, header: bpy.types.UILayout, obj: bpy.types.Object, name: str) -> None:
        header.label(text=sliders.BANK_TITLES.get(name, sliders.title(name)), text_ctxt=CONTEXT)
        state = sliders.bank_state(obj, name)
        if state is not None:
            header.prop(state, "strength", text="", slider=True)
            header.prop(state, "solo", text="", icon="SOLO_ON" if state.solo else "SOLO_OFF", emboss=False)
            header.prop(state, "mute", text="", icon="HIDE_ON" if state.mute else "HIDE_OFF", emboss=False)


def _draw_slider(layout: bpy.types.UILayout, obj: bpy.types.Object, name: str) -> None:
    if name in obj.edtalk:
        path = f'["{bpy.utils.escape_identifier(name)}"]'
        layout.prop(obj.edtalk, path, text=sliders.title(name), text_ctxt=CONTEXT, slider=True)


CLASSES = (
    EDTALK_MT_characters,
    EDTALK_MT_emotions,
    EDTALK_PT_character,
    EDTALK_PT_emotions,
    EDTALK_PT_banks,
    EDTALK_PT_crop,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
