"""Panels in the sidebar of the Sequencer: dialogue, face rendering, sync and live preview."""

from __future__ import annotations

import bpy

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..character import files
from ..character.snapshot import FULL_FRAME_LAYERS
from ..lipsync import head_motion, speech_operators
from ..lipsync.on_strips import speaker_of_selection
from ..render import dub
from ..timeline import audio, sequencer
from ..timeline.operators import draw_scenes
from ..translations.context import CONTEXT
from ..workspace import operators as workspace
from .character import EmotionSliders
from .help import HasHelp
from .messages import CATEGORY, draw_lines, draw_note, draw_problem
from .rendered import draw_disk_use, draw_rendered


class EDTALK_MT_speakers(bpy.types.Menu):
    """Speaker of the selected sound strips"""

    bl_label = "Speaker"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        for obj in sequencer.characters(context, compat.sequencer_scene(context)):
            layout.operator("edtalk.assign_strip", text=obj.name, icon="USER").uid = obj.edtalk.uid
        layout.separator()
        layout.operator("edtalk.assign_strip", text="None", text_ctxt=CONTEXT, icon="X").clear = True


class _InSequencer(HasHelp):
    bl_space_type = "SEQUENCE_EDITOR"
    bl_region_type = "UI"
    bl_category = CATEGORY


class _OfSpeaker(_InSequencer):
    """A panel below Dialogue that shows settings of the speaker."""

    bl_parent_id = "EDTALK_PT_dialogue"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return _speaker(context) is not None


class EDTALK_PT_dialogue(_InSequencer, bpy.types.Panel):
    """Dialogue strips and their characters"""

    bl_label = "Dialogue"
    help_page = "lip-sync.html"

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, compat.sequencer_scene(context)
        if not compat.has_sequencer_scene(context):
            draw_note(layout, "This editor has no scene yet.")
            layout.operator("edtalk.use_scene", icon="SCENE_DATA").scene = context.scene.name
            draw_scenes(layout, context.scene)
            return
        workspace.draw_button(layout)
        known = sequencer.characters(context, scene)
        if not known:
            layout.operator_context = "INVOKE_DEFAULT"
            layout.operator("edtalk.add_character", icon="ADD")
            if dub.target_movies(context):
                layout.operator("edtalk.dub_movie", icon="FILE_MOVIE")
            return
        if not compat.strips(scene) and not any(obj.name in scene.objects for obj in known):
            draw_note(layout, f"The characters are not in the scene '{scene.name}'.")
            draw_scenes(layout, scene)
        sounds = sequencer.selected_sounds(context)
        self._draw_speaker(layout, context, sounds)
        for strip in sounds[:3]:
            self._draw_notes(layout, scene, strip)
        column = layout.column(align=True)
        column.operator_context = "INVOKE_DEFAULT"
        column.scale_y = 1.3
        text = f"Lip Sync {len(sounds)} Strips" if len(sounds) > 1 else "Lip Sync"
        column.operator("edtalk.lip_sync", text=text, text_ctxt=CONTEXT, icon="SOUND").which = "SELECTED"
        if has_dialogue(context):
            column.operator("edtalk.lip_sync", text="Lip Sync All Dialogue", text_ctxt=CONTEXT).which = "LINKED"
        if speaker := _speaker(context):
            layout.row(align=True).prop(speaker.edtalk, "speech_kinds")
            text = f"Animate {len(sounds)} Strips from Speech" if len(sounds) > 1 else "Animate from Speech"
            name, icon = "edtalk.animate_from_speech", "OUTLINER_OB_SPEAKER"
            _draw_buttons(layout, context, name, text, "Animate All Dialogue", icon, scale=1.3)
        if dub.target_movies(context):
            column.operator("edtalk.dub_movie", icon="FILE_MOVIE")

    def _draw_speaker(
        self, layout: bpy.types.UILayout, context: bpy.types.Context, sounds: list[bpy.types.SoundStrip]
    ) -> None:
        if not sounds:
            has_sound = any(strip.type == "SOUND" for strip in compat.strips(compat.sequencer_scene(context)))
            draw_note(layout, "Select sound strips." if has_sound else "Add the dialogue with Add > Sound.")
            return
        speakers = {strip.get(sequencer.CHARACTER) for strip in sounds}
        speaker = sequencer.speaker(sounds[0]) if len(speakers) == 1 else None
        default = sequencer.default_speaker(context, compat.sequencer_scene(context))
        if speaker:
            text = speaker.name
        elif len(speakers) > 1:
            text = "Multiple"
        else:
            text = f"{default.name} (active)" if default else "None"
        row = layout.row(align=True)
        row.label(text="Speaker", text_ctxt=CONTEXT)
        row.menu("EDTALK_MT_speakers", text=text, icon="USER")

    def _draw_notes(self, layout: bpy.types.UILayout, scene: bpy.types.Scene, strip: bpy.types.SoundStrip) -> None:
        if problem := audio.problem(strip):
            draw_problem(layout, f"{problem}.", "file.find_missing_files", "Find Missing Files")
            return
        for note in (sequencer.frame_rate_note(scene, strip), sequencer.retiming_note(scene, strip)):
            draw_note(layout, note)
        if strip.get(sequencer.STALE):
            draw_note(layout, f"Part of '{strip.name}' has no lip-sync keys. Run Lip Sync again.")


class EDTALK_PT_markers(_InSequencer, bpy.types.Panel):
    """Markers for words and mouth shapes under the waveform"""

    bl_label = "Markers"
    help_page = "lip-sync.html#markers"
    bl_parent_id = "EDTALK_PT_dialogue"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_dialogue(context)

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, compat.sequencer_scene(context).edtalk_markers
        layout.row(align=True).prop(settings, "show", expand=True)
        if settings.show == "NONE":
            return
        sounds = [strip for strip in sequencer.selected_sounds(context) if sequencer.is_dialogue(strip)]
        for strip in sounds[:1]:
            if settings.show == "WORDS":
                layout.prop(strip, "edtalk_text", icon="TEXT", placeholder="Text that is said")
            if sequencer.remembered_time(strip) is None:
                draw_note(layout, f"Run Lip Sync on '{strip.name}' first.")
        if not sounds:
            draw_note(layout, "Select a dialogue strip.")


class EDTALK_PT_head_motion(_OfSpeaker, bpy.types.Panel):
    """Head motion that follows the speech"""

    bl_label = "Head Motion"
    help_page = "head-motion.html#speech"

    def draw(self, context: bpy.types.Context) -> None:
        layout, group = self.layout, _speaker(context).edtalk
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(group, "head_sway", slider=True)
        column.prop(group, "head_nods", slider=True)
        row = column.row(align=True)
        row.prop(group, "head_seed")
        row.operator("edtalk.next_head_seed", text="", icon="FILE_REFRESH")
        column.prop(group, "head_variations")
        sounds = sequencer.selected_sounds(context)
        text = f"Head Motion for {len(sounds)} Strips" if len(sounds) > 1 else "Head Motion"
        _draw_buttons(layout, context, "edtalk.head_motion", text, "Head Motion for All Dialogue", "CON_ROTLIKE")
        if reason := speech_operators.EDTALK_OT_head_motion.unsupported(context):
            draw_note(layout, f"{reason}.")
        for strip in sounds[:1]:
            if head_motion.variations(strip):
                used = head_motion.used_variation(_speaker(context), strip)
                layout.menu("EDTALK_MT_variations", text=used or "Use Variation", icon="NLA")


class EDTALK_MT_variations(bpy.types.Menu):
    """Variations of the head motion of the selected strip"""

    bl_label = "Use Variation"

    def draw(self, context: bpy.types.Context) -> None:
        for strip in sequencer.selected_sounds(context)[:1]:
            for name in head_motion.variations(strip):
                self.layout.operator("edtalk.use_variation", text=name).name = name


class EDTALK_PT_detect_emotion(_OfSpeaker, bpy.types.Panel):
    """Emotions that are suggested from voice and words"""

    bl_label = "Emotion from Speech"
    help_page = "emotion.html#speech"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, group, sounds = self.layout, _speaker(context).edtalk, sequencer.selected_sounds(context)
        if group.emotion_from != "VOICE":
            for strip in sounds[:1]:
                layout.prop(strip, "edtalk_text", icon="TEXT", placeholder="Text that is said")
                layout.prop(strip, "edtalk_text_block", text="", icon="TEXT")
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.row(align=True).prop(group, "emotion_from", expand=True)
        column.prop(group, "emotion_amount", slider=True)
        column.row(align=True).prop(group, "emotion_as", expand=True)
        column.prop(group, "brow_accents")
        text = f"Detect Emotion of {len(sounds)} Strips" if len(sounds) > 1 else "Detect Emotion"
        _draw_buttons(layout, context, "edtalk.detect_emotion", text, "Detect Emotion of All Dialogue", "VIEWZOOM")
        draw_note(layout, "The result is a suggestion. Edit it like your own keys.")
        if reason := speech_operators.EDTALK_OT_detect_emotion.unsupported(context):
            draw_note(layout, f"{reason}.")


class EDTALK_PT_lip_settings(_OfSpeaker, bpy.types.Panel):
    """How Lip Sync writes keyframes: smoothing, number of keys, and whether to an NLA strip"""

    bl_label = "Keyframes"
    help_page = "lip-sync.html#keyframes"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, group = self.layout, _speaker(context).edtalk
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(group, "lip_step")
        layout.prop(group, "lip_smooth")
        layout.prop(group, "lip_decimate")
        layout.prop(group, "lip_nla")


class EDTALK_PT_emotions_sequencer(_InSequencer, EmotionSliders, bpy.types.Panel):
    """Strength of each emotion, added to the expression sliders"""

    bl_options = {"DEFAULT_CLOSED"}


class EDTALK_PT_face(_InSequencer, bpy.types.Panel):
    """Render the face to an image strip"""

    bl_label = "Face"
    help_page = "render.html"

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, compat.sequencer_scene(context)
        settings = sequencer.settings(scene)
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(settings, "render_range")
        column.prop(settings, "image_format")
        known = sequencer.characters(context, scene)
        if obj := sequencer.default_speaker(context, scene):
            draw_layer(layout, obj)
        if len(known) > 1:
            column.prop(settings, "everybody")
        column = layout.column(align=True)
        column.operator_context = "INVOKE_DEFAULT"
        column.scale_y = 1.3
        button = column.operator("edtalk.render_face", icon="RENDER_ANIMATION")
        button.frames, button.everybody = settings.render_range, settings.everybody and len(known) > 1
        for obj in known:
            draw_rendered(layout, scene, obj)
        row = layout.row(align=True)
        row.operator_context = "INVOKE_DEFAULT"
        row.operator("edtalk.export_movie", icon="FILE_MOVIE")
        draw_disk_use(layout, known)


class EDTALK_PT_follow(_InSequencer, bpy.types.Panel):
    """Keep sound, keyframes and face strips in sync when a strip moves"""

    bl_label = "Keep in Sync"
    help_page = "edit.html"
    bl_options = {"DEFAULT_CLOSED"}

    def draw_header(self, context: bpy.types.Context) -> None:
        self.layout.prop(sequencer.settings(compat.sequencer_scene(context)), "follow", text="")

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, sequencer.settings(compat.sequencer_scene(context))
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column()
        column.active = settings.follow
        column.prop(settings, "follow_face")
        column.prop(settings, "follow_keys")
        layout.operator("edtalk.resync", icon="FILE_REFRESH")


class EDTALK_PT_preview(_InSequencer, bpy.types.Panel):
    """Update the face while sliders change and during scrubbing"""

    bl_label = "Live Preview"
    help_page = "render.html#preview"
    bl_options = {"DEFAULT_CLOSED"}

    def draw_header(self, context: bpy.types.Context) -> None:
        self.layout.prop(sequencer.settings(compat.sequencer_scene(context)), "preview", text="")

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, sequencer.settings(compat.sequencer_scene(context))
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.active = settings.preview
        layout.prop(settings, "preview_size")
        draw_lines(layout, "Shows the face in the 3D View, and as an image with its name in the Image Editor.")


def has_dialogue(context: bpy.types.Context) -> bool:
    """Whether a sound strip of the edited scene is assigned to a character."""
    return any(sequencer.is_dialogue(strip) for strip in compat.strips(compat.sequencer_scene(context)))


def _draw_buttons(
    layout: bpy.types.UILayout,
    context: bpy.types.Context,
    operator: str,
    text: str,
    text_for_all: str,
    icon: str,
    scale: float = 1.0,
) -> None:
    """Draw the buttons of an operator for the selected strips, and for all dialogue if there is any."""
    column = layout.column(align=True)
    column.operator_context = "INVOKE_DEFAULT"
    column.scale_y = scale
    column.operator(operator, text=text, text_ctxt=CONTEXT, icon=icon).which = "SELECTED"
    if has_dialogue(context):
        column.operator(operator, text=text_for_all, text_ctxt=CONTEXT).which = "LINKED"


def draw_layer(layout: bpy.types.UILayout, obj: bpy.types.Object) -> None:
    """Draw the settings of a character's rendered images."""
    group = obj.edtalk
    column = layout.column()
    column.use_property_split = True
    column.use_property_decorate = False
    column.prop(group, "layer")
    if group.layer not in FULL_FRAME_LAYERS:
        column.prop(group, "size")
    if group.layer != "square":
        column.prop(group, "mask")
        column.prop(group, "feather", slider=True)


def _speaker(context: bpy.types.Context) -> bpy.types.Object | None:
    """As `speaker_of_selection`; None without a bank."""
    obj = speaker_of_selection(context)
    try:
        return obj if obj is not None and files.bank_of(obj) else None
    except EDTalkError:
        return None


CLASSES = (
    EDTALK_MT_speakers,
    EDTALK_PT_dialogue,
    EDTALK_PT_markers,
    EDTALK_PT_head_motion,
    EDTALK_MT_variations,
    EDTALK_PT_detect_emotion,
    EDTALK_PT_lip_settings,
    EDTALK_PT_emotions_sequencer,
    EDTALK_PT_face,
    EDTALK_PT_follow,
    EDTALK_PT_preview,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
