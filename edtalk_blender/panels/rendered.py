"""The state of a character's rendered frames in the Sequencer's sidebar: which are waiting, missing or out of date."""

from __future__ import annotations

from collections.abc import Mapping

import bpy

from ..render import face_strip, render, survey
from ..render.cache_limit import Use
from ..render.survey import Frames
from ..timeline import sequencer
from .messages import draw_note, draw_problem


def draw_rendered(layout: bpy.types.UILayout, scene: bpy.types.Scene, obj: bpy.types.Object) -> None:
    """Draw notes about the frames of a character's face strips, with the buttons that render them."""
    if render.rendering(obj):
        return  # the Status panel shows its progress
    strips, counted = sequencer.faces(scene, obj), survey.latest()
    if strips and counted is None:
        draw_note(layout, f"{obj.name}: counting frames...")
    frames = [counted.strips.get(strip.get(sequencer.ID, ""), Frames()) if counted else Frames() for strip in strips]
    _draw_missing(layout, obj, {strip: one for strip, one in zip(strips, frames, strict=True) if one.missing})
    for one in frames[:1]:
        if one.waiting:
            draw_note(layout, f"{obj.name}: {one.waiting} of {one.total} frames are not rendered yet.")
    _draw_outdated(layout, obj, [strip for strip in strips if strip.get(face_strip.OUTDATED)])
    for strip in strips:
        if strip.get(sequencer.STALE) and not strip.get(face_strip.OUTDATED):
            draw_note(layout, f"'{strip.name}' no longer matches its movie. Run Render Face again.")


def draw_disk_use(layout: bpy.types.UILayout, characters: list[bpy.types.Object]) -> None:
    """Draw the size of the rendered frames of each character, and the button that deletes unused ones."""
    if render.is_rendering():
        return  # the folders change with every frame
    counted = survey.latest()
    if counted is None:
        if any(obj.edtalk.face_strip for obj in characters):
            draw_note(layout, "Calculating the size of the rendered frames...")
        return
    uses = {obj.name: counted.uses.get(survey.folder(obj), Use()) for obj in characters}
    column = layout.column(align=True)
    for name, use in uses.items():
        if use.frames:
            draw_note(column, f"{name}: {use}.")
    if any(use.unused for use in uses.values()):
        column.operator("edtalk.clear_cache", icon="TRASH")


def _draw_missing(
    layout: bpy.types.UILayout, obj: bpy.types.Object, strips: Mapping[bpy.types.ImageStrip, Frames]
) -> None:
    """The number of pictures that are no longer in their folder, and the button that renders them again."""
    if not strips:
        return
    missing, total = (sum(one.missing for one in strips.values()), sum(one.total for one in strips.values()))
    names = sequencer.quoted((strip.name for strip in strips), most=2)
    text = f"{missing} of {total} frames of {names} are missing in {face_strip.folder_of(next(iter(strips)))}."
    button = draw_problem(layout, text, "edtalk.render_face", "Render Missing Frames")
    button.frames, button.uid = "STRIP", obj.edtalk.uid


def _draw_outdated(layout: bpy.types.UILayout, obj: bpy.types.Object, strips: list[bpy.types.ImageStrip]) -> None:
    """The number of frames that show an earlier animation, and the button that renders them again."""
    if not strips:
        return
    count = sum(strip[face_strip.OUTDATED] for strip in strips)
    total = sum(len(strip.elements) for strip in strips)
    names = sequencer.quoted((strip.name for strip in strips), most=2)
    button = draw_problem(
        layout, f"{count} of {total} frames of {names} are out of date.", "edtalk.render_face", "Render Changed Frames"
    )
    button.frames, button.uid = "STRIP", obj.edtalk.uid
