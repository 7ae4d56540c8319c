"""The panel Plate in the sidebars of the Sequencer and the 3D View: dubbing and compositing over a plate."""

from __future__ import annotations

import bpy

from .. import compat
from ..character.snapshot import FULL_FRAME_LAYERS
from ..plate import compare, dubbing, operators
from ..render import dub
from ..timeline import sequencer
from ..translations.context import CONTEXT
from .help import HasHelp
from .messages import CATEGORY, draw_note
from .sequencer import draw_layer


def draw_plate(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """Draw the dubbing and compositing settings and operators."""
    scene, movies = compat.sequencer_scene(context), dub.target_movies(context)
    if movies:
        obj = dub.target_character(context, movies)
        names = sequencer.quoted((strip.name for strip in movies), most=1)
        sounds = [strip.name for strip in dub.dialogue(context, movies)]
        dialogue = f" with {sequencer.quoted(sounds, most=1)}" if sounds else ""
        draw_note(layout, f"Dub {names}{dialogue}, using {obj.name if obj else 'a new character'}.")
        if sounds and any(not strip.mute for strip in dub.own_sounds(context, movies)):
            draw_note(layout, "The movie's own sound plays too. Mute its strip with H.")
    else:
        obj = sequencer.default_speaker(context, scene)
        draw_note(layout, "To dub, select a movie strip and its new dialogue.")
    column = layout.column(align=True)
    column.operator_context = "INVOKE_DEFAULT"
    column.scale_y = 1.3
    column.operator("edtalk.dub_movie", icon="FILE_MOVIE")
    column.operator("edtalk.dub_movie", text="Preview Frame", text_ctxt=CONTEXT, icon="IMAGE_DATA").current_frame = True
    if obj is None:
        return
    draw_layer(layout, obj)
    if sequencer.plates(scene, obj):
        options = layout.column()
        options.use_property_split = True
        options.use_property_decorate = False
        options.prop(obj.edtalk, "which")
        if obj.edtalk.mask == "mouth":
            options.prop(obj.edtalk, "dub_references")
            if obj.edtalk.dub_references == "chosen":
                options.prop(obj.edtalk, "dub_frames")
            if obj.edtalk.dub_references != "none":
                options.prop(obj.edtalk, "dub_keep_pauses")
        draw_note(layout, dubbing.note(scene, obj))
    strip = operators.face_strip(context)
    if strip is not None and strip.get(sequencer.LAYER) not in FULL_FRAME_LAYERS:
        draw_note(layout, "Use Plate Layer to align the face with its plate in the compositor.")
    layout.operator("edtalk.build_compositor", icon="NODE_COMPOSITING")
    if compare.over_plates(scene):
        _draw_compare(layout, scene)


def _draw_compare(layout: bpy.types.UILayout, scene: bpy.types.Scene) -> None:
    settings = scene.edtalk_compare
    layout.label(text="Compare")
    column = layout.column(align=True)
    column.row(align=True).prop(settings, "mode", expand=True)
    if settings.mode == "SPLIT":
        column.prop(settings, "split", slider=True)
    if settings.mode != "RESULT":
        draw_note(layout, "Choose Result before you export a movie.")


class _Plate(HasHelp):
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_label = "Plate"
    help_page = "dub.html"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        draw_plate(self.layout, context)


class EDTALK_PT_plate_sequencer(_Plate, bpy.types.Panel):
    """Dub a movie, or lay the face over its plate: a movie, or the full image of the portrait"""

    bl_space_type = "SEQUENCE_EDITOR"


class EDTALK_PT_plate_view(_Plate, bpy.types.Panel):
    """Dub a movie, or lay the face over its plate: a movie, or the full image of the portrait"""

    bl_space_type = "VIEW_3D"


CLASSES = (EDTALK_PT_plate_sequencer, EDTALK_PT_plate_view)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
