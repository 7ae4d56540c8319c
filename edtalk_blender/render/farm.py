"""Render farm jobs: exporting a character's face as a job folder and fetching the rendered frames."""

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
from ..engine.operator_base import BaseOperator, EngineOperator
from ..engine.session import Chain, Task
from ..folders import FRAMES, as_directory, blend_name, character_folder, folder_name
from ..plate import dubbing
from ..timeline import audio, sequencer
from . import face_shot, recovery

FOLDER = "edtalk_farm"  # of a scene: folder of its last exported job
_SHOT = "farm"  # name of the farm job's shot among a character's shots


@dataclass(frozen=True)
class Settings:
    """Options of the export operator; see `inference.contract.farm.Job`."""

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
    """Write a job for frame span[0] to before span[1] to a folder named after the character; returns its shot.

    The job contains the dialogue and the frames that are already rendered. plate: the movie strip that the character
    dubs; its movie is included. Raises EDTalkError if portrait, bank, movie or a sound are missing, or the folder
    cannot be written to.
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
    return write_bundle(replace(shot, sound=sound), folder / folder_name(obj), job, keep_bank=settings.keep_bank)


def fetch(obj: bpy.types.Object, folder: Path) -> tuple[int, int]:
    """Copy the frames that a farm has rendered for a character; returns the numbers of fetched and missing frames.

    Raises EDTalkError if the folder contains no job of the character.
    """
    shot = Shot.read(folder / folder_name(obj) / "shot")
    missing = {shot.file_names()[row] for row in shot.missing()}
    local_shot = replace(shot, frames_folder=character_folder(obj) / FRAMES)
    fetched_names = {local_shot.file_names()[row] for row in local_shot.missing()} - missing
    try:
        local_shot.frames_folder.mkdir(parents=True, exist_ok=True)
        for name in fetched_names:
            link_or_copy(shot.frames_folder / name, local_shot.frames_folder / name)
    except OSError as error:
        raise disk_error(local_shot.frames_folder, error) from error
    return len(fetched_names), len(missing)


def dialogue(scene: bpy.types.Scene, obj: bpy.types.Object, span: tuple[int, int]) -> tuple[np.ndarray, int] | None:
    """A character's dialogue mixed over a frame range: samples (n,) float32 and their rate in Hz; None if silent."""
    sounds = []
    for strip in sequencer.dialogue(scene, obj):
        whole = sequencer.time_map(scene, strip)
        clock = whole.clipped(*span)
        if clock.end > clock.start and not audio.is_silent(scene, strip, whole):
            animated = audio.loudness(scene, strip, clock.frames) is not None  # `audio.read` has applied it
            sounds.append((clock, audio.read(scene, strip, clock), 1.0 if animated else strip.volume))
    if not sounds:
        return None
    rate, per_second = max(sound.rate for _, sound, _ in sounds), sequencer.fps(scene)
    mixed = np.zeros(round((span[1] - span[0]) / per_second * rate), np.float32)
    for clock, sound, volume in sounds:
        first, last = (round((frame - span[0]) / per_second * rate) for frame in (clock.start, clock.end))
        moments = clock.seconds(span[0] + np.arange(first, last) / rate * per_second) - sound.start
        played = np.interp(moments * sound.rate, np.arange(len(sound.samples)), sound.samples, left=0.0, right=0.0)
        mixed[first:last] += volume * played[: len(mixed) - first]
    return mixed, rate


def _write_dialogue(scene: bpy.types.Scene, obj: bpy.types.Object, span: tuple[int, int]) -> Path | None:
    """The dialogue as a temporary WAV file, or None if silent."""
    mixed = dialogue(scene, obj, span)
    if mixed is None:
        return None
    path = Path(bpy.app.tempdir) / "edtalk_dialogue" / "dialogue.wav"
    samples, rate = mixed
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


class EDTALK_OT_export_farm_job(EngineOperator, bpy.types.Operator):
    """Export the character's face as a render farm job: a folder that renders without Blender, for AWS Deadline \
Cloud, Flamenco or any farm that supports Open Job Description"""

    bl_idname = "edtalk.export_farm_job"
    bl_label = "Export Farm Job"

    directory: StringProperty(
        name="Folder", description="Folder for the jobs. Each character gets a subfolder", subtype="DIR_PATH"
    )
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})
    frames: EnumProperty(name="Range", description="Frames to export", items=sequencer.RENDER_RANGES, default="AUTO")
    everybody: BoolProperty(name="All Characters", description="Export every character of the scene")
    chunk: IntProperty(
        name="Frames per Task",
        description="Number of frames in each task. Starting the engine takes some seconds per task",
        min=1,
        default=50,
    )
    gpus: IntProperty(
        name="GPUs", description="Minimum number of GPUs that a machine must have. 0: it needs none", min=0, max=64
    )
    keep_bank: BoolProperty(
        name="Leave Bank in Place",
        description="Refer to the bank by its path instead of copying it. All machines must be able to read it",
    )
    engine: StringProperty(
        name="Python",
        description="Python interpreter that runs the engine on the farm. Empty: the same path as on this machine",
    )
    engine_folder: StringProperty(
        name="Extension", description="Folder of this extension on the farm. Empty: the same path as on this machine"
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
            raise EDTalkError("No folder is set for the job.", "Choose a folder.")
        scene, folder = compat.sequencer_scene(context), Path(bpy.path.abspath(self.directory))
        chosen = _chosen(context, scene, self.everybody)
        for obj in chosen:
            job_range(scene, obj, self.frames)  # raises before anything is submitted or written
        settings = Settings(self.chunk, self.gpus, self.keep_bank, self.engine.strip(), self.engine_folder.strip())
        messages: dict[str, str] = {}
        chains = [Chain(_steps(scene, obj, self.frames, folder, settings, messages.__setitem__)) for obj in chosen]
        self.finish(*chains)
        for obj in chosen:
            later = f"{obj.name} will be exported after its portrait has been analyzed"
            self.report({"INFO"}, messages.get(obj.name, later))
        scene[FOLDER] = as_directory(folder)
        return None


def job_range(
    scene: bpy.types.Scene, obj: bpy.types.Object, which: str
) -> tuple[tuple[int, int], bpy.types.MovieStrip | None]:
    """The range of a job, see `face_shot.render_ranges`. Raises EDTalkError if there are several."""
    ranges = face_shot.render_ranges(scene, obj, which)
    if len(ranges) > 1:
        names = sequencer.quoted(plate.name for _span, plate in ranges)
        message = f"{obj.name} dubs {len(ranges)} movie strips, {names}; a farm job can contain only one."
        raise EDTalkError(message, "Set the preview range to one of them and export that range.")
    return ranges[0]


def _steps(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    which: str,
    folder: Path,
    settings: Settings,
    report: Callable[[str, str], None],
) -> Iterator[list[Task]]:
    """Steps that prepare a character and export it. report: called with its name and a message."""
    scene_name, uid = scene.name, obj.edtalk.uid
    yield from dubbing.preparation(scene_name, uid)
    scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
    if scene is not None and obj is not None:
        span, plate = job_range(scene, obj, which)
        shot = export(scene, obj, span, folder, settings, plate)
        report(obj.name, f"{obj.name}: {len(shot.missing())} frames to render, in {folder}")


class EDTALK_OT_fetch_farm_frames(BaseOperator, bpy.types.Operator):
    """Copy frames rendered by a farm back to the characters. Render Face then shows them and renders only what has \
changed since the export"""

    bl_idname = "edtalk.fetch_farm_frames"
    bl_label = "Fetch Farm Frames"

    directory: StringProperty(name="Folder", description="Folder that the job was exported to", subtype="DIR_PATH")
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
        characters = sequencer.characters(context, scene)
        exported = [obj for obj in characters if (folder / folder_name(obj)).is_dir()]
        if not exported:
            raise EDTalkError(
                f"{folder} contains no job of these characters.", "Choose the folder that the job was exported to."
            )
        for obj in exported:
            fetched, missing = fetch(obj, folder)
            remaining = f", {missing} not rendered yet" if missing else ""
            self.report({"INFO"}, f"{obj.name}: {fetched} frames fetched{remaining}")
        recovery.schedule()
        return None


def _no_character(context: bpy.types.Context) -> str:
    characters = sequencer.characters(context, compat.sequencer_scene(context))
    return "" if characters else "Add a character first"


def _chosen(context: bpy.types.Context, scene: bpy.types.Scene, all_characters: bool) -> list[bpy.types.Object]:
    if all_characters:
        return sequencer.characters(context, scene)
    obj = sequencer.default_speaker(context, scene)
    if obj is None:
        raise EDTalkError("No character is selected.", "Select one in the viewport, or export all characters.")
    return [obj]


CLASSES = (EDTALK_OT_export_farm_job, EDTALK_OT_fetch_farm_frames)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
