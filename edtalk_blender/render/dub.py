"""Dub Movie: replaces the mouth in a movie strip by a character's, in a face strip above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import bpy
from bpy.props import BoolProperty

from ...inference.contract.errors import EDTalkError
from .. import compat, follow
from ..character import character
from ..character.snapshot import FULL_FRAME_LAYERS
from ..engine import session
from ..engine.operator_base import EngineOperator
from ..engine.session import Chain, Task
from ..lipsync import lipsync
from ..plate import dubbing
from ..timeline import audio, footage, sequencer
from . import face_shot, render

_UNDO = "Dub Movie"


def target_movies(context: bpy.types.Context) -> list[bpy.types.MovieStrip]:
    """The selected movie strips, else the active one."""
    selected = footage.selected(context)
    scene = compat.sequencer_scene(context)
    active = scene.sequence_editor.active_strip if scene.sequence_editor else None
    return selected or ([active] if active is not None and active.type == "MOVIE" else [])


def own_sounds(context: bpy.types.Context, strips: Sequence[bpy.types.MovieStrip]) -> list[bpy.types.SoundStrip]:
    """The selected sounds from the files of movies. A click on a movie selects its sound too."""
    own = {bpy.path.abspath(strip.filepath, library=strip.id_data.library) for strip in strips}

    def is_own(sound: bpy.types.Sound | None) -> bool:
        return sound is not None and bpy.path.abspath(sound.filepath, library=sound.library) in own

    return [strip for strip in sequencer.selected_sounds(context) if is_own(strip.sound)]


def dialogue(context: bpy.types.Context, strips: Sequence[bpy.types.MovieStrip]) -> list[bpy.types.SoundStrip]:
    """The selected sounds that movies can be dubbed with: all but the movies' own."""
    own = own_sounds(context, strips)
    return [strip for strip in sequencer.selected_sounds(context) if strip not in own]


def target_character(context: bpy.types.Context, strips: Sequence[bpy.types.MovieStrip]) -> bpy.types.Object | None:
    """The character that dubs: the one assigned to the movies, else to the dialogue, else the active one.

    None, for a new one, also if the active character has frames of its own: dubbing would change their layer.
    """
    for strip in (*strips, *dialogue(context, strips)):
        if obj := sequencer.speaker(strip):
            return obj
    active = context.view_layer.objects.active if context.view_layer else None
    if not character.is_character(active):
        return None
    faces = sequencer.faces(compat.sequencer_scene(context), active)
    return active if all(strip.get(sequencer.PLATE) for strip in faces) else None


def begin(
    scene: bpy.types.Scene,
    strips: Sequence[bpy.types.MovieStrip],
    obj: bpy.types.Object | None = None,
    sounds: Sequence[bpy.types.SoundStrip] = (),
    *,
    which: str = "AUTO",
    on_plan: Callable[[str, face_shot.Plan], object] = lambda *_: None,
) -> Chain:
    """Begin to dub movie strips: track their face, lip-sync the sounds and render the mouth into strips above them.

    obj: the character; None creates one from the face in the first strip. sounds: lip-synced to it first. which: the
    frames to render, see `face_shot.render_ranges`. on_plan: see `render.steps`. Raises EDTalkError before anything is
    changed where a movie is missing or not supported.
    """
    if not strips:
        raise EDTalkError("No movie strip is selected.", "Select the movie strip to dub in the sequencer.")
    for strip in strips:
        if not len(footage.time_map(scene, strip).frames):
            raise EDTalkError(f"'{strip.name}' has no visible frames.", "Move its handles.", "media")
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
        in_step = all(dubbing.is_frame_by_frame(scene, strip) for strip in strips)
        obj.edtalk.layer, obj.edtalk.mask = "plate" if in_step else "pasted", "mouth"
    return Chain(_steps(scene, obj, [sequencer.identity(sound) for sound in sounds], which, on_plan))


def _steps(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    sound_ids: Sequence[str],
    which: str,
    on_plan: Callable[[str, face_shot.Plan], object],
) -> Iterator[list[Task]]:
    """Steps of a `session.Chain`. Their one undo step comes with the strip, or where they end without it."""
    scene_name, uid, is_shown = scene.name, obj.edtalk.uid, False

    def show(name: str, plan: face_shot.Plan) -> None:
        nonlocal is_shown
        is_shown = True
        on_plan(name, plan)

    try:
        yield from dubbing.preparation(scene_name, uid)  # lip sync starts from the measured rest pose
        scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
        if scene is None or obj is None:
            return
        sounds = [sequencer.find(scene, one) for one in sound_ids]
        tasks = [lipsync.lip_sync(scene, sound, obj) for sound in sounds if sound is not None]
        if tasks := [task for task in tasks if task]:
            yield tasks
        scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
        if scene is not None and obj is not None:
            yield from render.steps(scene, obj, which, show, undo=_UNDO)
    finally:
        if not is_shown:
            session.edited(_UNDO)


class EDTALK_OT_dub_movie(EngineOperator, bpy.types.Operator):
    """Dub the face in the selected movie strips with the selected sounds, except the movies' own. The character is \
the one that dubs the movie already, the speaker of the sounds, the active one, or a new one. The result is a strip \
above the movie, which is not changed. Run again to render only frames that changed; mouth keys that exist are kept"""

    bl_idname = "edtalk.dub_movie"
    bl_label = _UNDO

    current_frame: BoolProperty(
        name="Current Frame Only",
        description="Render only the frame under the playhead, to check the mouth before the whole movie is rendered",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        strips = target_movies(context)
        if not strips:
            return "Select the movie strip to dub, and the sound strips with the dialogue"
        if bpy.app.is_job_running("RENDER"):
            return "Wait until Blender has finished rendering"
        obj = target_character(context, strips)
        return character.editable_reason(obj) if obj else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        sequencer.ensure_unique_ids(scene)
        if sequencer.settings(scene).follow:
            follow.follow(scene)
        strips = target_movies(context)
        obj = target_character(context, strips)
        sounds = [
            strip
            for strip in dialogue(context, strips)
            if sequencer.speaker(strip) in (None, obj) and not (obj and lipsync.has_mouth_keys(strip, obj))
        ]
        which = "AUTO"
        if self.current_frame:
            which, now = face_shot.FRAME, scene.frame_current
            strips = [strip for strip in strips if compat.left_handle(strip) <= now < compat.right_handle(strip)]
            if not strips:
                raise EDTalkError("The playhead is outside the selected movie.", "Move it over the movie strip.")
        with render.reported_plans(self) as on_plan:
            self.finish(begin(scene, strips, obj, sounds, which=which, on_plan=on_plan))
        return None


CLASSES = (EDTALK_OT_dub_movie,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
