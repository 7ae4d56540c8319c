"""Render Face: a character's evaluated rows become a shot, the shot's pictures a strip that fills as they come."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, StringProperty
from bpy_extras.io_utils import ExportHelper

from ...inference.coefficients import Coefficients
from ...inference.errors import EDTalkError, disk_error
from ...inference.files import link_or_copy
from ...inference.protocol import Message
from ...inference.shot import Shot
from .. import animation, character, compat, portrait, sequencer, session
from ..core import timemap
from ..session import Task
from . import sync
from .base import Asking, Explained

RENDERED = "edtalk_rendered"  # of a face strip: what its pictures were made from, in short
FRAMES, SHOTS = "frames", "shots"  # folders within a character's own

_PICTURE = re.compile(r"[0-9a-f]{20}\.(png|exr)")
_COLOUR_SPACES = {"png": "sRGB", "exr": "Linear Rec.709"}  # a strip takes that of its first file, which is a PNG
_FLUSH = 0.25  # seconds between two updates of a strip
_WAITING_ALPHA = 0.4

_renders: dict[str, Task] = {}  # by character: the render that its face strips are waiting for


# --- Where frames are kept


def character_folder(obj: bpy.types.Object) -> Path:
    """The folder of a character's shots and frames: beside the .blend, or temporary while that has not been saved."""
    name = bpy.path.clean_name(obj.name)
    if cache := session.preferred().cache:
        place = hashlib.sha256(bpy.data.filepath.encode()).hexdigest()[:8]
        return Path(bpy.path.abspath(cache)) / f"{blend_name()}_{place}" / name
    if not bpy.data.filepath:
        return Path(bpy.app.tempdir) / "edtalk" / name
    return Path(bpy.data.filepath).parent / f"{blend_name()}_edtalk" / name


def blend_name() -> str:
    return Path(bpy.data.filepath).stem or "unsaved"


def is_temporary() -> bool:
    """Whether frames will be gone when Blender is closed."""
    return not bpy.data.filepath and not session.preferred().cache


def strip_folder(strip: bpy.types.ImageStrip) -> Path:
    """The folder of an image strip's files, absolute."""
    return Path(bpy.path.abspath(strip.directory))


def as_directory(folder: Path) -> str:
    """How a strip names a folder: from the .blend where it can, so that both may move together."""
    if bpy.data.filepath:
        with suppress(ValueError):  # on another drive
            return bpy.path.relpath(str(folder)) + "/"
    return f"{folder}/"


# --- Rendering


@dataclass(frozen=True)
class Plan:
    """What is to be rendered, and how much of it there is already."""

    shot: Shot
    folder: Path
    missing: int
    reused: int


def render_range(scene: bpy.types.Scene, obj: bpy.types.Object, which: str) -> tuple[int, int]:
    """First frame and the one after the last; EDTalkError where there is no such range."""
    if which in ("AUTO", "DIALOGUE"):
        clocks = [sequencer.time_map(scene, strip) for strip in sequencer.dialogue(scene, obj)]
        found = timemap.union((clock.start, clock.end) for clock in clocks)
        if found:
            return found
        if which == "DIALOGUE":
            raise EDTalkError(f"{obj.name} has no dialogue yet.", "Use Lip Sync, or render another range.")
    if which == "PREVIEW":
        if not scene.use_preview_range:
            raise EDTalkError("The scene has no preview range.", "Set one in the timeline with P.")
        return scene.frame_preview_start, scene.frame_preview_end + 1
    return scene.frame_start, scene.frame_end + 1


def render_face(scene: bpy.types.Scene, obj: bpy.types.Object, span: tuple[int, int]) -> tuple[Task | None, Plan]:
    """Place or renew a character's face strip over some frames and begin to render what is missing.

    The task is None where every picture is there already. Raises EDTalkError before anything is changed when portrait
    or bank are missing or the folder cannot be written to.
    """
    own = _face_strips(scene, obj)
    strip_id = sequencer.identity(own[0]) if own else character.new_uid()[:12]
    plan = write_shot(scene, obj, span, strip_id)
    if own:
        _adopt(plan.shot, strip_folder(own[0]))
        plan = _counted(plan.shot, plan.folder)
    waiting = _waiting_picture(obj, plan.shot.frames_folder)
    strips = own or [_new_strip(scene, obj, span, waiting, strip_id)]
    for strip in strips:
        _fill(scene, strip, obj, plan, span, waiting.name)
    if not character.editable_reason(obj):
        obj.edtalk.face_strip = strip_id
    if older := _renders.pop(obj.edtalk.uid, None):
        older.cancel()
    if not plan.missing:
        return None, plan
    return _submit(scene, obj, plan, [sequencer.identity(strip) for strip in strips]), plan


def write_shot(scene: bpy.types.Scene, obj: bpy.types.Object, span: tuple[int, int], strip_id: str) -> Plan:
    start, end = span
    bank = character.bank_of(obj)
    home = next((one for one in bpy.data.scenes if obj.name in one.objects), scene)  # a sequencer may stand alone
    rows = animation.sample(home, obj, range(start, end))
    folder = character_folder(obj)
    shot = Shot(
        bank=character.bank_path(obj),
        bank_sha256=bank.sha256,
        portrait=character.portrait_path(obj),
        crop=character.crop_of(obj),
        coefficients=Coefficients(rows, bank.names, sequencer.fps(scene)),
        frames_folder=folder / FRAMES,
        first_frame=start,
        image_format=sequencer.settings(scene).image_format,
    )
    return _counted(shot.write(folder / SHOTS / strip_id), folder / SHOTS / strip_id)


def _counted(shot: Shot, folder: Path) -> Plan:
    missing = len(shot.missing())
    return Plan(shot, folder, missing, len(set(shot.file_names())) - missing)


def _adopt(shot: Shot, old_folder: Path) -> None:
    """Take over pictures from where the strip's were before the .blend was saved, renamed or moved."""
    if old_folder == shot.frames_folder or not old_folder.is_dir():
        return
    names = shot.file_names()
    try:
        shot.frames_folder.mkdir(parents=True, exist_ok=True)
        for name in (names[row] for row in shot.missing()):
            if (old_folder / name).is_file():
                link_or_copy(old_folder / name, shot.frames_folder / name)
    except OSError as error:
        raise disk_error(shot.frames_folder, error) from error


def _submit(scene: bpy.types.Scene, obj: bpy.types.Object, plan: Plan, strip_ids: list[str]) -> Task:
    scene_name, uid, version = scene.name, obj.edtalk.uid, _version(plan.shot)
    arrived: dict[int, str] = {}
    flushed = time.monotonic()

    def strips() -> list[bpy.types.ImageStrip]:
        """Those that still wait for these pictures: an undo, a later render or the artist may have taken them away."""
        scene = bpy.data.scenes.get(scene_name)
        found = [sequencer.find(scene, one) for one in strip_ids] if scene else []
        return [strip for strip in found if strip and strip.get(RENDERED) == version]

    def receive(message: Message) -> None:
        nonlocal flushed
        if message.kind == "frame_file":
            arrived[message["index"]] = message["file"]
        if not arrived or (message.kind not in ("done", "error") and time.monotonic() - flushed < _FLUSH):
            return
        flushed = time.monotonic()
        waiting = strips()
        for strip in waiting:
            for index, name in arrived.items():
                if strip.elements[index].filename != name:
                    strip.elements[index].filename = name
            compat.refresh(strip)
        arrived.clear()
        if not waiting and uid in _renders:
            _renders.pop(uid).cancel()  # nobody wants the rest

    task = session.submit("render", {"shot": str(plan.folder)}, label=f"Render '{obj.name}'", on_event=receive)
    _renders[uid] = task
    task.then(lambda task: _renders.pop(uid) if _renders.get(uid) is task else None)
    return task


def rendering(obj: bpy.types.Object) -> Task | None:
    """The render of this character that is going on."""
    task = _renders.get(obj.edtalk.uid)
    return task if task in session.tasks else None


def _is_rendering() -> bool:
    return any(task in session.tasks for task in _renders.values())


# --- The strip


def _face_strips(scene: bpy.types.Scene, obj: bpy.types.Object) -> list[bpy.types.ImageStrip]:
    """The character's face strip, and what the artist cut off it: all pieces that share its content's first frame."""
    strips = [strip for strip in sequencer.faces(scene, obj) if strip.get(sequencer.SHOT)]
    main = sequencer.find(scene, obj.edtalk.face_strip) or (strips[0] if strips else None)
    if main is None:
        return []
    start = compat.content_start(main)
    return [main, *(strip for strip in strips if strip != main and compat.content_start(strip) == start)]


def _new_strip(
    scene: bpy.types.Scene, obj: bpy.types.Object, span: tuple[int, int], waiting: Path, strip_id: str
) -> bpy.types.ImageStrip:
    _show_colours_as_they_are(scene)
    above = max((strip.channel for strip in sequencer.dialogue(scene, obj)), default=0)
    channel = sequencer.free_channel(scene, *span, above=above)
    strip = compat.new_image(scene, f"{obj.name} face", waiting, channel, span[0])
    strip[sequencer.ID], strip[sequencer.CHARACTER] = strip_id, obj.edtalk.uid
    strip.blend_type = "ALPHA_OVER"
    return strip


def _fill(
    scene: bpy.types.Scene,
    strip: bpy.types.ImageStrip,
    obj: bpy.types.Object,
    plan: Plan,
    span: tuple[int, int],
    waiting: str,
) -> None:
    """Have a strip show a shot's pictures where there are any, `waiting` elsewhere, trimmed as the artist had it."""
    start, end = span
    was = compat.content_start(strip), compat.content_start(strip) + len(strip.elements)
    handles = compat.left_handle(strip), compat.right_handle(strip)
    trimmed = len(strip.elements) > 1 and handles != was
    names = plan.shot.file_names()
    absent = {names[row] for row in plan.shot.missing()}
    strip.directory = as_directory(plan.shot.frames_folder)
    with suppress(TypeError):  # a studio's own colour management may have other names
        strip.colorspace_settings.name = _COLOUR_SPACES[plan.shot.image_format]
    sequencer.set_elements(strip, [waiting if name in absent else name for name in names])
    compat.set_strip_value(strip, "left_handle_offset", 0.0)
    compat.set_strip_value(strip, "right_handle_offset", 0.0)
    compat.set_strip_value(strip, "content_start", float(start))
    if trimmed and handles[0] < end and handles[1] > start:
        compat.set_strip_value(strip, "left_handle", max(handles[0], start))
        compat.set_strip_value(strip, "right_handle", min(handles[1], end))
    if sequencer.is_covered(scene, strip):
        strip.channel = sequencer.free_channel(
            scene, compat.left_handle(strip), compat.right_handle(strip), above=strip.channel
        )
    spoken = [sequencer.identity(one) for one in sequencer.dialogue(scene, obj) if _overlaps(one, span)]
    strip[sequencer.SHOT] = as_directory(plan.folder)
    strip[sequencer.SOUNDS] = " ".join(spoken)
    strip[RENDERED] = _version(plan.shot)
    sequencer.remember_time(strip, sequencer.time_map(scene, strip))
    compat.refresh(strip)


def refill(scene: bpy.types.Scene) -> None:
    """Show pictures that arrived while nobody looked: after an undo, or a Blender that ended while rendering."""
    for strip in compat.strips(scene):
        if not (sequencer.is_face(strip) and strip.get(sequencer.SHOT)):
            continue
        folder, known = strip_folder(strip), {}
        waiting = {element.filename for element in strip.elements if not _PICTURE.fullmatch(element.filename)}
        if waiting:
            with suppress(EDTalkError):
                shot = Shot.read(bpy.path.abspath(strip[sequencer.SHOT]))
                if _version(shot) == strip.get(RENDERED) and len(shot.coefficients) == len(strip.elements):
                    known = dict(enumerate(shot.file_names()))
        for index, name in known.items():
            if strip.elements[index].filename in waiting and (folder / name).is_file():
                strip.elements[index].filename = name
        if known:
            compat.refresh(strip)


def waiting_frames(strip: bpy.types.ImageStrip) -> int:
    """How many frames of a face strip have not been rendered."""
    return sum(not _PICTURE.fullmatch(element.filename) for element in strip.elements)


def _overlaps(strip: bpy.types.Strip, span: tuple[int, int]) -> bool:
    return compat.left_handle(strip) < span[1] and compat.right_handle(strip) > span[0]


def _version(shot: Shot) -> str:
    return hashlib.sha256(" ".join(shot.file_names()).encode()).hexdigest()[:12]


def _waiting_picture(obj: bpy.types.Object, folder: Path) -> Path:
    """The picture shown where none has been rendered yet: the face half transparent, a grey square for want of one."""
    size = character.bank_of(obj).config.size
    path = folder / f"waiting_{obj.edtalk.uid[:8]}_{size}.png"
    if path.is_file():
        return path
    pixels = np.full((size, size, 4), 0.5, np.float32)
    face = character.face_image(obj)
    if face is not None and tuple(face.size) == (size, size):
        face.pixels.foreach_get(pixels.ravel())
    pixels[..., 3] = _WAITING_ALPHA
    image = bpy.data.images.new("EDTalk waiting", size, size, alpha=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        image.pixels.foreach_set(pixels.ravel())
        image.filepath_raw, image.file_format = str(path), "PNG"
        image.save()
    except OSError as error:
        raise disk_error(path, error) from error
    except RuntimeError as error:
        raise EDTalkError(f"{path} could not be written.", "Choose a folder that may be written to.", "disk") from error
    finally:
        bpy.data.images.remove(image)
    return path


def _show_colours_as_they_are(scene: bpy.types.Scene) -> None:
    """Factory scenes are viewed through AgX, which alters pictures in strips; Blender's own Add Image does the same."""
    view = scene.view_settings
    if view.view_transform in ("AgX", "Filmic"):
        view.view_transform = "Standard"


# --- Operators


class EDTALK_OT_render_face(Asking, bpy.types.Operator):
    """Render the character's face over its dialogue into a strip. Only frames that changed are rendered, and a \
render that was cancelled goes on where it stopped"""

    bl_idname = "edtalk.render_face"
    bl_label = "Render Face"
    bl_options = {"UNDO"}

    frames: EnumProperty(name="Range", items=sequencer.RENDER_RANGES, default="AUTO")
    everybody: BoolProperty(name="All Characters", description="Render every character of the scene")

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        scene = compat.sequencer_scene(context)
        if not sequencer.characters(context, scene):
            return "There is no character yet: add one first"
        if bpy.app.is_job_running("RENDER"):
            return "Wait until Blender has finished rendering"
        return ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        if sequencer.settings(scene).follow:
            sync.follow(scene)
        chosen = self._chosen(context, scene)
        for obj in chosen:
            render_range(scene, obj, self.frames)  # is said before anything is asked or changed
        unknown = [obj for obj in chosen if not portrait.is_known(obj)]
        measured = [portrait.measure(obj) for obj in unknown]
        if measured and self._from_button and not session.blocking():
            for obj, task in zip(unknown, measured, strict=True):
                task.then(_render_later(scene, obj, self.frames))
            chosen = [obj for obj in chosen if obj not in unknown]
        else:
            self.finish(*measured)
        before = scene.view_settings.view_transform
        tasks = [self._render(scene, obj) for obj in chosen]
        if scene.view_settings.view_transform != before:
            self.report({"INFO"}, f"View Transform set to Standard: {before} would have changed the face's colours")
        if is_temporary():
            self.report({"INFO"}, "Frames are kept only until Blender closes: save the .blend to keep them beside it")
        self.finish(*(task for task in tasks if task))
        return None

    def _chosen(self, context: bpy.types.Context, scene: bpy.types.Scene) -> list[bpy.types.Object]:
        known = sequencer.characters(context, scene)
        if self.everybody:
            return known
        selected = [obj for obj in known if obj in context.selected_objects] if context.view_layer else []
        default = sequencer.default_speaker(context, scene)
        chosen = selected or [obj for obj in (default,) if obj is not None]
        if not chosen:
            chosen = [obj for obj in known if any(sequencer.speaker(one) == obj for one in sequencer.selected(context))]
        if not chosen:
            raise EDTalkError("No character is selected.", "Select one in the viewport, or render all characters.")
        return chosen

    def _render(self, scene: bpy.types.Scene, obj: bpy.types.Object) -> Task | None:
        task, plan = render_face(scene, obj, render_range(scene, obj, self.frames))
        self.report({"INFO"}, f"{obj.name}: {plan.missing} frames to render, {plan.reused} are there already")
        return task


def _render_later(scene: bpy.types.Scene, obj: bpy.types.Object, which: str):
    """What renders a character once its portrait has been read."""
    scene_name, uid = scene.name, obj.edtalk.uid

    def go_on(task: Task) -> None:
        scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
        if scene is None or obj is None or task.error or task.cancelled:
            return
        try:
            render_face(scene, obj, render_range(scene, obj, which))
        except EDTalkError as error:
            session.report(error)
        session.edited("Render Face")

    return go_on


class EDTALK_OT_clear_cache(Explained, bpy.types.Operator):
    """Delete rendered frames that no strip shows. What is undone afterwards may have to be rendered again"""

    bl_idname = "edtalk.clear_cache"
    bl_label = "Clear Unused Frames"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "Wait until the face is rendered, or cancel it" if _is_rendering() else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        folders = {character_folder(obj) / FRAMES for obj in bpy.data.objects if character.is_character(obj)}
        count, size = 0, 0
        shown = _shown_pictures()
        for path in (path for folder in folders if folder.is_dir() for path in folder.iterdir()):
            if _PICTURE.fullmatch(path.name) and path not in shown:
                size += path.stat().st_size
                count += 1
                path.unlink()
        self.report({"INFO"}, f"Deleted {count} frames, {size / 1e6:.1f} MB")
        return None


def _shown_pictures() -> set[Path]:
    strips: Iterable[bpy.types.Strip] = (strip for scene in bpy.data.scenes for strip in compat.strips(scene))
    return {
        strip_folder(strip) / element.filename
        for strip in strips
        if strip.type == "IMAGE"
        for element in strip.elements
    }


class EDTALK_OT_export_movie(Explained, ExportHelper, bpy.types.Operator):
    """Render the sequencer, faces and sound, into an MP4 file"""

    bl_idname = "edtalk.export_movie"
    bl_label = "Export Movie"

    filename_ext = ".mp4"
    filter_glob: StringProperty(default="*.mp4", options={"HIDDEN"})

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        scene = compat.sequencer_scene(context)
        if not compat.strips(scene):
            return "There is nothing in the sequencer yet"
        if _is_rendering():
            return "Wait until the face is rendered, or cancel it"
        return "Wait until Blender has finished rendering" if bpy.app.is_job_running("RENDER") else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        path = export_movie(scene, bpy.path.abspath(self.filepath))
        if not session.blocking():
            self.report({"INFO"}, f"The scene's output is now {path}")
        return None


def export_movie(scene: bpy.types.Scene, file: str | Path) -> Path:
    """Render a scene's sequencer into an MP4 file; with a window it is begun, with Blender's progress and Esc.

    Raises EDTalkError where it cannot be written.
    """
    path = Path(file).with_suffix(".mp4")
    if not path.parent.is_dir():
        raise EDTalkError(f"The folder {path.parent} does not exist.", "Choose another one.", "disk")
    if not session.blocking():
        compat.set_video_output(scene, path)
        bpy.ops.render.render("INVOKE_DEFAULT", animation=True, scene=scene.name)
        return path
    path.unlink(missing_ok=True)
    try:
        with compat.video_output(scene, path):
            bpy.ops.render.render(animation=True, scene=scene.name)
    except RuntimeError as error:
        raise EDTalkError(f"{path} could not be written: {error}", "Choose another place.", "disk") from error
    if not path.is_file() or not path.stat().st_size:
        raise EDTalkError(f"{path} was not written.", "See Blender's console for the reason.", "disk")
    return path


CLASSES = (EDTALK_OT_render_face, EDTALK_OT_clear_cache, EDTALK_OT_export_movie)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()


def unregister() -> None:
    unregister_classes()
    _renders.clear()
