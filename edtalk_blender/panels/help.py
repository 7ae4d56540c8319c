"""The manual in the installed extension: Help buttons in the panel headers, and *Online Manual* in Blender's menus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import bpy
from bpy.props import StringProperty

from ...inference.contract.errors import EDTalkError
from ..engine.operator_base import BaseOperator

FOLDER = Path(__file__).parents[2] / "docs" / "manual"

# Pages by Blender's names of operators and properties, in lower case. The first pattern that fits is used.
PAGES = (
    ("bpy.ops.edtalk.add_character*", "character.html"),
    ("bpy.ops.edtalk.demo*", "character.html"),
    ("bpy.ops.edtalk.make_character*", "character.html"),
    ("bpy.ops.edtalk.edit_crop*", "character.html#crop"),
    ("bpy.ops.edtalk.select_character*", "several-characters.html"),
    ("bpy.ops.edtalk.*workspace*", "index.html#workspace"),
    ("bpy.ops.edtalk.*engine*", "install.html"),
    ("bpy.ops.edtalk.allow_online_access*", "install.html"),
    ("bpy.ops.edtalk.*install*", "install.html"),
    ("bpy.ops.edtalk.*download*", "install.html"),
    ("bpy.ops.edtalk.copy_report*", "troubleshooting.html#report"),
    ("bpy.ops.edtalk.*lip_sync*", "lip-sync.html"),
    ("bpy.ops.edtalk.animate_from_speech*", "lip-sync.html#speech"),
    ("bpy.ops.edtalk.detect_emotion*", "emotion.html#speech"),
    ("bpy.ops.edtalk.assign_strip*", "lip-sync.html"),
    ("bpy.ops.edtalk.resync*", "edit.html"),
    ("bpy.ops.edtalk.*emotion*", "emotion.html"),
    ("bpy.ops.edtalk.*pose_library*", "emotion.html#poses"),
    ("bpy.ops.edtalk.*pose_asset*", "emotion.html#poses"),
    ("bpy.types.markersettings.*", "lip-sync.html#markers"),
    ("bpy.ops.edtalk.idle_motion*", "head-motion.html"),
    ("bpy.ops.edtalk.*head_*", "head-motion.html#speech"),
    ("bpy.ops.edtalk.use_variation*", "head-motion.html#speech"),
    ("bpy.ops.edtalk.*train*", "footage.html"),
    ("bpy.ops.edtalk.*footage*", "footage.html"),
    ("bpy.ops.edtalk.tune*", "footage.html#person"),
    ("bpy.ops.edtalk.*farm*", "farm.html"),
    ("bpy.ops.edtalk.render_face*", "render.html"),
    ("bpy.ops.edtalk.*cache*", "render.html#disk"),
    ("bpy.ops.edtalk.export_movie*", "export.html"),
    ("bpy.ops.edtalk.*capture*", "capture.html"),
    ("bpy.ops.edtalk.match_face*", "capture.html#match"),
    ("bpy.ops.edtalk.match_picture*", "capture.html#match"),
    ("bpy.ops.edtalk.import_arkit*", "arkit.html"),
    ("bpy.ops.edtalk.dub*", "dub.html"),
    ("bpy.ops.edtalk.*compositor*", "compositing.html"),
    ("bpy.ops.edtalk.*shapes*", "3d-face.html"),
    ("bpy.ops.edtalk.*link*", "3d-face.html"),
    ("bpy.ops.edtalk.*name*", "character.html#names"),
    ("bpy.ops.edtalk.*", "index.html"),
    ("bpy.types.character.lip_*", "lip-sync.html#keyframes"),
    ("bpy.types.character.speech_*", "lip-sync.html#speech"),
    ("bpy.types.character.emotion_*", "emotion.html#speech"),
    ("bpy.types.character.brow_accents*", "emotion.html#speech"),
    ("bpy.types.character.head_*", "head-motion.html#speech"),
    ("bpy.types.character.layer*", "render.html#layer"),
    ("bpy.types.character.size*", "render.html#layer"),
    ("bpy.types.character.mask*", "render.html#layer"),
    ("bpy.types.character.feather*", "render.html#layer"),
    ("bpy.types.character.which*", "dub.html"),
    ("bpy.types.character.crop*", "character.html#crop"),
    ("bpy.types.character.*", "character.html"),
    ("bpy.types.bankstate.*", "character.html#sliders"),
    ("bpy.types.sequencersettings.follow*", "edit.html"),
    ("bpy.types.sequencersettings.*preview*", "render.html#preview"),
    ("bpy.types.sequencersettings.*", "render.html"),
    ("bpy.types.comparesettings.*", "compositing.html#compare"),
    ("bpy.types.capturesettings.*", "capture.html"),
    ("bpy.types.trainingdraft.*", "footage.html"),
    ("bpy.types.shaperig.*", "3d-face.html"),
    ("bpy.types.shapelink.*", "3d-face.html"),
    ("bpy.types.slidername.*", "character.html#names"),
    ("bpy.types.naming.*", "character.html#names"),
    ("bpy.types.edtalkpreferences.*", "install.html#preferences"),
)


class EDTALK_OT_open_manual(BaseOperator, bpy.types.Operator):
    """Open the page of the manual for this panel in the web browser. No network is needed"""

    bl_idname = "edtalk.open_manual"
    bl_label = "Manual"

    page: StringProperty(
        name="Page", description="File name of the page, with an optional #anchor", default="index.html"
    )

    def run(self, _context: bpy.types.Context) -> set[str] | None:
        name, _, anchor = self.page.partition("#")
        if not (FOLDER / name).is_file():
            raise EDTalkError(f"{FOLDER / name} does not exist.", "Install the extension again.")
        bpy.ops.wm.url_open(url=(FOLDER / name).as_uri() + (f"#{anchor}" if anchor else ""))
        return None


class HasHelp:
    """Mixin: a Help button in the panel's header, which opens `help_page`."""

    help_page: ClassVar[str]

    if TYPE_CHECKING:  # defined by bpy.types.Panel
        layout: bpy.types.UILayout

    def draw_header_preset(self, _context: bpy.types.Context) -> None:
        draw_help(self.layout, self.help_page)


def draw_help(layout: bpy.types.UILayout, page: str) -> None:
    """Draw a Help button that opens a page of the manual."""
    layout.operator("edtalk.open_manual", text="", icon="HELP", emboss=False).page = page


def manual_map() -> tuple[str, tuple[tuple[str, str], ...]]:
    """Where *Online Manual* of the context menu finds the extension's pages: the start of the URLs, and `PAGES`."""
    return FOLDER.as_uri() + "/", PAGES


CLASSES = (EDTALK_OT_open_manual,)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    bpy.utils.register_manual_map(manual_map)


def unregister() -> None:
    bpy.utils.unregister_manual_map(manual_map)
    unregister_classes()
