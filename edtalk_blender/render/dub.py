"""Dub Movie: a movie strip gets a character, its dialogue a mouth, and the result lies above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import bpy

from ...inference.contract.errors import EDTalkError
from .. import compat, follow
from ..character import character
from ..character.snapshot import FULL_FRAME_LAYERS
from ..engine import session
from ..engine.asking import Asking
from ..engine.session import Chain, Task
from ..folders import is_temporary
from ..lipsync import lipsync
from ..plate import dubbing
from ..timeline import audio, footage, sequencer
from . import face_shot, render


def movies(context: bpy.types.Context) -> list[bpy.types.MovieStrip]:
    """The movie strips that are meant: those selected, else the active one."""
    selected = footage.selected(context)
    scene = compat.sequencer_scene(context)
    active = scene.sequence_editor.active_strip if scene.sequence_editor else None
    return selected or ([active] if active is not None and active.type == "MOVIE" else [])


def who(context: bpy.types.Context, strips: Sequence[bpy.types.MovieStrip]) -> bpy.types.Object | None:
    """The character that dubs: the one that did before, else who speaks in the selected sounds, else the active one."""
    for strip in (*strips, *sequencer.selected_sounds(context)):
        if obj := sequencer.speaker(strip):
            return obj
    active = context.view_layer.objects.active if context.view_layer else None
    return active if character.is_character(active) else None


def begin(
    scene: bpy.types.Scene,
    strips: Sequence[bpy.types.MovieStrip],
    obj: bpy.types.Object | None = None,
    sounds: Sequence[bpy.types.SoundStrip] = (),
    *,
    tell: Callable[[str, face_shot.Plan], object] = lambda *_: None,
) -> Chain:
    """Begin to dub movie strips: their face is found and its mouth moved by a character, above them.

    obj: the character; None makes one, of the face that the first strip shows. sounds: are lip-synced to it first.
    tell: see `render.steps`. Raises EDTalkError before anything is changed where a film is missing or cannot be
    followed.
    """
    if not strips:
        raise EDTalkError("No movie strip is selected.", "Select the film that is to be dubbed in the sequencer.")
    for strip in strips:
        if not len(footage.time_map(scene, strip).frames):
            raise EDTalkError(f"'{strip.name}' shows nothing.", "Move its handles.", "media")
    for sound in sounds:
        if problem := audio.problem(sound):
            raise EDTalkError(f"{problem}.", audio.FIND_MISSING, "media")
    if obj is None:
        obj = character.create(scene, name=Path(strips[0].name).stem)
    elif reason := character.editable_reason(obj):
        raise EDTalkError(f"{reason}.")
    for strip in strips:
        sequencer.assign(strip, obj)
    if obj.edtalk.layer not in FULL_FRAME_LAYERS:
        together = all(dubbing.is_frame_by_frame(scene, strip) for strip in strips)
        obj.edtalk.layer, obj.edtalk.mask = "plate" if together else "pasted", "mouth"
    return Chain(_steps(scene, obj, [sequencer.identity(sound) for sound in sounds], tell))


def _steps(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    sound_ids: Sequence[str],
    tell: Callable[[str, face_shot.Plan], object],
) -> Iterator[list[Task]]:
    scene_name, uid = scene.name, obj.edtalk.uid
    yield from dubbing.preparation(scene_name, uid)  # where the mouth rests is known before it speaks
    scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
    if scene is None or obj is None:
        return
    sounds = [sequencer.find(scene, one) for one in sound_ids]
    tasks = [lipsync.lip_sync(scene, sound, obj) for sound in sounds if sound is not None]
    if tasks := [task for task in tasks if task]:
        yield tasks
        session.edited("Dub Movie")
    scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
    if scene is not None and obj is not None:
        yield from render.steps(scene, obj, "AUTO", tell)


class EDTALK_OT_dub_movie(Asking, bpy.types.Operator):
    """Give the face in the selected movie strips another mouth: that of the active character, or of a new one, which \
speaks the selected sound strips. The result lies in a strip above, and the movie stays as it is. Used again, only \
frames that changed are rendered"""

    bl_idname = "edtalk.dub_movie"
    bl_label = "Dub Movie"
    bl_options = {"UNDO"}

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        strips = movies(context)
        if not strips:
            return "Select the movie strip that is to be dubbed, and the sound strips that are spoken"
        if bpy.app.is_job_running("RENDER"):
            return "Wait until Blender has finished rendering"
        obj = who(context, strips)
        return character.editable_reason(obj) if obj else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        sequencer.ensure_unique_ids(scene)
        if sequencer.settings(scene).follow:
            follow.follow(scene)
        strips, running = movies(context), True
        obj = who(context, strips)
        sounds = [one for one in sequencer.selected_sounds(context) if sequencer.speaker(one) in (None, obj)]
        told = []

        def tell(name: str, plan: face_shot.Plan) -> None:
            if running:  # later, there is no operator any more that could report
                told.append(f"{name}: {plan.missing} frames to render, {plan.reused} are there already")

        try:
            self.finish(begin(scene, strips, obj, sounds, tell=tell))
        finally:
            running = False
            for text in told:
                self.report({"INFO"}, text)
        if is_temporary():
            self.report({"INFO"}, "Frames are kept only until Blender closes: save the .blend to keep them beside it")
        return None


CLASSES = (EDTALK_OT_dub_movie,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
