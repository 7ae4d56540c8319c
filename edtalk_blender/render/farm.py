"""A character's face as a job for a render farm: written into a folder, and its frames brought back."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty

from ...inference.contract.errors import EDTalkError, disk_error
from ...inference.contract.farm import Job, write_bundle
from ...inference.contract.files import link_or_copy
from ...inference.contract.shot import Shot
from .. import compat
from ..character import character, snapshot
from ..engine import session
from ..engine.asking import Asking, Explained
from ..engine.session import Chain, Task
from ..folders import FRAMES, as_directory, blend_name, character_folder
from ..plate import dubbing
from ..timeline import audio, sequencer
from . import face_shot, face_strip

FOLDER = "edtalk_farm"  # of a scene: where its last job was exported to
_SHOT = "farm"  # name of a character's shot for the farm, among those of its strips


@dataclass(frozen=True)
class Settings:
    """What the artist sets in the file browser; names as in `inference.contract.farm.Job`."""

    chunk: int
    gpus: int
    keep_bank: bool
    engine: str
    engine_folder: str


def export(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    span: tuple[int, int],
    folder: Path,
    settings: Settings,
    plate: bpy.types.MovieStrip | None = None,
) -> Shot:
    """Write a character's face over some frames as a job, into a folder of its name; returns the shot in it.

    plate: the movie strip that it dubs, whose film comes along. So do the dialogue and what is rendered already. Raises
    EDTalkError where portrait, bank, film or a sound are missing, or the folder cannot be written to.
    """
    face = snapshot.read(obj, with_portrait=plate is None)
    shot = face_shot.write(scene, obj, face, span, _SHOT, plate).shot
    job = Job(
        name=f"{blend_name()} {obj.name}",
        chunk=settings.chunk,
        gpus=settings.gpus,
        engine=settings.engine or str(session.find_engine().python or "python"),
        engine_folder=settings.engine_folder or str(session.ROOT),
    )
    sound = _write_dialogue(scene, obj, span)
    return write_bundle(
        replace(shot, sound=sound), folder / bpy.path.clean_name(obj.name), job, keep_bank=settings.keep_bank
    )


def fetch(obj: bpy.types.Object, folder: Path) -> tuple[int, int]:
    """Bring back what a farm has rendered of a character's job: how many pictures came, and how many are still missing.

    Raises EDTalkError where the folder holds no job of the character.
    """
    shot = Shot.read(folder / bpy.path.clean_name(obj.name) / "shot")
    missing = {shot.file_names()[row] for row in shot.missing()}
    here = replace(shot, frames_folder=character_folder(obj) / FRAMES)
    wanted = {here.file_names()[row] for row in here.missing()} - missing
    try:
        here.frames_folder.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            link_or_copy(shot.frames_folder / name, here.frames_folder / name)
    except OSError as error:
        raise disk_error(here.frames_folder, error) from error
    return len(wanted), len(missing)


def dialogue(scene: bpy.types.Scene, obj: bpy.types.Object, span: tuple[int, int]) -> tuple[np.ndarray, int] | None:
    """What a character says over some frames: samples (n,) float32 and their rate, None where it is silent."""
    heard = []
    for strip in sequencer.dialogue(scene, obj):
        whole = sequencer.time_map(scene, strip)
        clock = whole.clipped(*span)
        if clock.end > clock.start and not audio.is_silent(scene, strip, whole):
            animated = audio.loudness(scene, strip, clock.frames) is not None  # `audio.read` has applied it
            heard.append((clock, audio.read(scene, strip, clock), 1.0 if animated else strip.volume))
    if not heard:
        return None
    rate, per_second = max(sound.rate for _, sound, _ in heard), sequencer.fps(scene)
    mixed = np.zeros(round((span[1] - span[0]) / per_second * rate), np.float32)
    for clock, sound, volume in heard:
        first, last = (round((frame - span[0]) / per_second * rate) for frame in (clock.start, clock.end))
        moments = clock.seconds(span[0] + np.arange(first, last) / rate * per_second) - sound.start
        played = np.interp(moments * sound.rate, np.arange(len(sound.samples)), sound.samples, left=0.0, right=0.0)
        mixed[first:last] += volume * played[: len(mixed) - first]
    return mixed, rate


def _write_dialogue(scene: bpy.types.Scene, obj: bpy.types.Object, span: tuple[int, int]) -> Path | None:
    """The dialogue as a temporary file, or None."""
    heard = dialogue(scene, obj, span)
    if heard is None:
        return None
    path = Path(bpy.app.tempdir) / "edtalk_dialogue" / "dialogue.wav"
    samples, rate = heard
    try:
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(np.rint(samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    except OSError as error:
        raise disk_error(path, error) from error
    return path


# --- Operators


class EDTALK_OT_export_farm_job(Asking, bpy.types.Operator):
    """Write the character's face as a job for a render farm: a folder with all that is needed to render it without \
Blender, for AWS Deadline Cloud, Flamenco or any farm that takes Open Job Description"""

    bl_idname = "edtalk.export_farm_job"
    bl_label = "Export Farm Job"

    directory: StringProperty(name="Folder", description="Each character gets a folder in it", subtype="DIR_PATH")
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})
    frames: EnumProperty(name="Range", items=sequencer.RENDER_RANGES, default="AUTO")
    everybody: BoolProperty(name="All Characters", description="Export every character of the scene")
    chunk: IntProperty(
        name="Frames a Task",
        description="So many that they outweigh the start of the engine, some seconds",
        min=1,
        default=50,
    )
    gpus: IntProperty(name="GPUs", description="Only machines that have at least this many render", min=0, max=64)
    keep_bank: BoolProperty(
        name="Leave Bank in Place", description="Do not copy the bank: all machines of the farm see it where it is"
    )
    engine: StringProperty(
        name="Python", description="What runs the engine on the farm's machines; empty for the same as here"
    )
    engine_folder: StringProperty(
        name="Extension", description="Folder of this extension on the farm's machines; empty for the same as here"
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return _no_character(context)

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        self._from_button = True
        scene = compat.sequencer_scene(context)
        if not self.directory and scene.get(FOLDER):
            self.directory = bpy.path.abspath(scene[FOLDER])
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def run(self, context: bpy.types.Context) -> set[str] | None:
        if not self.directory:
            raise EDTalkError("No folder was chosen for the job.", "Choose one.")
        scene, folder = compat.sequencer_scene(context), Path(bpy.path.abspath(self.directory))
        chosen = _chosen(context, scene, self.everybody)
        for obj in chosen:
            job_range(scene, obj, self.frames)  # is said before anything is asked or written
        settings = Settings(self.chunk, self.gpus, self.keep_bank, self.engine.strip(), self.engine_folder.strip())
        told: dict[str, str] = {}
        chains = [Chain(_steps(scene, obj, self.frames, folder, settings, told.__setitem__)) for obj in chosen]
        self.finish(*chains)
        for obj in chosen:
            later = f"{obj.name} is exported as soon as its portrait has been read"
            self.report({"INFO"}, told.get(obj.name, later))
        scene[FOLDER] = as_directory(folder)
        return None


def job_range(
    scene: bpy.types.Scene, obj: bpy.types.Object, which: str
) -> tuple[tuple[int, int], bpy.types.MovieStrip | None]:
    """The range of a job, see `face_shot.render_ranges`; EDTalkError where there are several."""
    found = face_shot.render_ranges(scene, obj, which)
    if len(found) > 1:
        names = sequencer.quoted(plate.name for _span, plate in found)
        message = f"{obj.name} dubs {len(found)} movie strips, {names}; a farm job holds one."
        raise EDTalkError(message, "Set the preview range to one of them, and export that range.")
    return found[0]


def _steps(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    which: str,
    folder: Path,
    settings: Settings,
    tell: Callable[[str, str], None],
) -> Iterator[list[Task]]:
    """What exports a character once all is known of it. tell: is told its name, and what there is to do."""
    scene_name, uid = scene.name, obj.edtalk.uid
    yield from dubbing.preparation(scene_name, uid)
    scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
    if scene is not None and obj is not None:
        span, plate = job_range(scene, obj, which)
        shot = export(scene, obj, span, folder, settings, plate)
        tell(obj.name, f"{obj.name}: {len(shot.missing())} frames to render, in {folder}")


class EDTALK_OT_fetch_farm_frames(Explained, bpy.types.Operator):
    """Bring the frames that a farm has rendered back to the characters. Render Face then shows them, and renders only \
what has changed since the export"""

    bl_idname = "edtalk.fetch_farm_frames"
    bl_label = "Fetch Farm Frames"

    directory: StringProperty(name="Folder", description="Where the job was exported to", subtype="DIR_PATH")
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return _no_character(context)

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        if self.directory or compat.sequencer_scene(context).get(FOLDER):
            return self.execute(context)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        folder = Path(bpy.path.abspath(self.directory or scene.get(FOLDER, "")))
        known = sequencer.characters(context, scene)
        exported = [obj for obj in known if (folder / bpy.path.clean_name(obj.name)).is_dir()]
        if not exported:
            raise EDTalkError(f"{folder} holds no job of these characters.", "Choose where it was exported to.")
        for obj in exported:
            came, missing = fetch(obj, folder)
            left = f", {missing} are not rendered yet" if missing else ""
            self.report({"INFO"}, f"{obj.name}: {came} frames fetched{left}")
        face_strip.refill(scene)
        return None


def _no_character(context: bpy.types.Context) -> str:
    known = sequencer.characters(context, compat.sequencer_scene(context))
    return "" if known else "There is no character yet: add one first"


def _chosen(context: bpy.types.Context, scene: bpy.types.Scene, everybody: bool) -> list[bpy.types.Object]:
    if everybody:
        return sequencer.characters(context, scene)
    obj = sequencer.default_speaker(context, scene)
    if obj is None:
        raise EDTalkError("No character is selected.", "Select one in the viewport, or export all characters.")
    return [obj]


CLASSES = (EDTALK_OT_export_farm_job, EDTALK_OT_fetch_farm_frames)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
