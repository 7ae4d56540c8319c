"""Render Face: a character's evaluated rows become a shot, the shot's pictures a strip that fills as they come."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, StringProperty
from bpy_extras.io_utils import ExportHelper

from ...inference.coefficients import Coefficients
from ...inference.errors import EDTalkError, disk_error
from ...inference.files import appearing, link_or_copy
from ...inference.protocol import Message
from ...inference.shot import Shot
from .. import animation, character, compat, compositing, dubbing, footage, sequencer, session
from ..compositing import WHOLE
from ..core import timemap
from ..folders import FRAMES, SHOTS, as_directory, character_folder, is_own, is_temporary
from ..session import Chain, Task
from . import sync
from .base import Asking, Explained

RENDERED = "edtalk_rendered"  # of a face strip: what its pictures were made from, in short
SIZE = "edtalk_size"  # of a face strip: width and height of its pictures

_PICTURE = re.compile(r"[0-9a-f]{20}\.(png|exr)")
# What a strip takes from its first file, which is a PNG. OpenEXR's alpha is multiplied in, as its standard has it.
_COLOUR_SPACES, _ALPHA_MODES = {"png": "sRGB", "exr": "Linear Rec.709"}, {"png": "STRAIGHT", "exr": "PREMUL"}
_FLUSH = 0.25  # seconds between two updates of a strip
_WAITING_ALPHA = 0.4

_renders: dict[tuple[str, str], Task] = {}  # by character and plate: the render that face strips are waiting for


# --- Rendering


@dataclass(frozen=True)
class Plan:
    """What is to be rendered, and how much of it there is already."""

    shot: Shot
    folder: Path
    missing: int
    reused: int

    def with_more(self, other: Plan) -> Plan:
        """This plan, with what there is to do for another one too."""
        return replace(self, missing=self.missing + other.missing, reused=self.reused + other.reused)


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


def stretches(
    scene: bpy.types.Scene, obj: bpy.types.Object, which: str
) -> list[tuple[tuple[int, int], bpy.types.MovieStrip | None]]:
    """What is to be rendered of a character: first frame and the one after the last, and the plate they lie on.

    Over each movie strip that it dubs there is one, as long as the strip for "AUTO", else where the range has it; for
    other characters there is one without a plate. EDTalkError where there is no such range.
    """
    plates = sequencer.plates(scene, obj)
    if not plates:
        return [(render_range(scene, obj, which), None)]
    clocks = [footage.time_map(scene, plate) for plate in plates]
    if which != "AUTO":
        wanted = render_range(scene, obj, which)
        clocks = [clock.clipped(*wanted) for clock in clocks]
    found = [((clock.start, clock.end), plate) for clock, plate in zip(clocks, plates, strict=True)]
    found = [(span, plate) for span, plate in found if span[1] > span[0]]
    if not found:
        names = sequencer.quoted(plate.name for plate in plates)
        raise EDTalkError(f"{obj.name} dubs {names}, which is not shown in this range.", "Render another range.")
    return found


def steps(
    scene: bpy.types.Scene, obj: bpy.types.Object, which: str, tell: Callable[[str, Plan], object] = lambda *_: None
) -> Iterator[list[Task]]:
    """Steps of a `session.Chain` that find out what has to be known of a character, and render it.

    tell: is told its name and each plan that is begun.
    """
    scene_name, uid, later = scene.name, obj.edtalk.uid, False
    for tasks in dubbing.getting_ready(scene_name, uid):
        yield tasks
        later = True
    scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
    if scene is None or obj is None:
        return
    begun = []
    for span, plate in stretches(scene, obj, which):
        task, plan = render_face(scene, obj, span, plate)
        tell(obj.name, plan)
        begun.append(task)
    if later:
        session.edited("Render Face")
    if tasks := [task for task in begun if task]:
        yield tasks


def render_face(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    span: tuple[int, int],
    plate: bpy.types.MovieStrip | None = None,
) -> tuple[Task | None, Plan]:
    """Place or renew a character's face strip over some frames and begin to render what is missing.

    plate: the movie strip that it is laid over. The task is None where every picture is there already. Raises
    EDTalkError before anything is changed when portrait, film or bank are missing or the folder cannot be written to.
    """
    own = _face_strips(scene, obj, plate)
    strip_id = sequencer.identity(own[0]) if own else character.new_uid()[:12]
    plan = write_shot(scene, obj, span, strip_id, plate)
    if own:
        _adopt(plan.shot, strip_folder(own[0]))
        plan = _counted(plan.shot, plan.folder)
    waiting = _waiting_picture(obj, plan.shot)
    size = _picture_size(scene, obj, plan.shot, plate)
    strips = own or [_new_strip(scene, obj, span, waiting, strip_id, plate, size)]
    for strip in strips:
        _fill(scene, strip, obj, plan, span, waiting.name, plate)
        _resize(scene, strip, size)
    if plate is not None:
        sequencer.remember_time(plate, sequencer.time_map(scene, plate))
    elif not character.editable_reason(obj):
        obj.edtalk.face_strip = strip_id
    if older := _renders.pop(_key(obj, plate), None):
        older.cancel()
    if not plan.missing:
        compositing.renew(scene)
        return None, plan
    return _submit(scene, obj, plan, [sequencer.identity(strip) for strip in strips], plate), plan


def write_shot(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    span: tuple[int, int],
    strip_id: str,
    plate: bpy.types.MovieStrip | None = None,
) -> Plan:
    start, end = span
    bank, group = character.bank_of(obj), obj.edtalk
    home = next((one for one in bpy.data.scenes if obj.name in one.objects), scene)  # a sequencer may stand alone
    rows = animation.sample(home, obj, range(start, end))
    folder = character_folder(obj)
    if plate is None:
        source = {"portrait": character.portrait_path(obj), "crop": character.crop_of(obj)}
    else:
        rows = dubbing.differences(obj, rows)
        source = {"portrait": None, "crop": "auto", "plate": dubbing.plate_of(scene, obj, plate, span)}
    shot = Shot(
        bank=character.bank_path(obj),
        bank_sha256=bank.sha256,
        coefficients=Coefficients(rows, bank.names, sequencer.fps(scene)),
        frames_folder=folder / FRAMES,
        first_frame=start,
        image_format=sequencer.settings(scene).image_format,
        layer=group.layer,
        size=_square_size(group, bank.config.size),
        mask=group.mask,
        feather=round(group.feather, 4),
        **source,
    )
    written = shot.write(folder / SHOTS / strip_id, plate_by_name=True)
    return _counted(written, folder / SHOTS / strip_id)


def _square_size(group: bpy.types.PropertyGroup, own: int) -> int:
    """A shot's size: 0 for a bank that draws as much by itself, and where pictures are as large as the plate."""
    size = int(group.size)
    return 0 if group.layer in WHOLE or size <= own else size


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


def _key(obj: bpy.types.Object, plate: bpy.types.MovieStrip | None) -> tuple[str, str]:
    return obj.edtalk.uid, sequencer.identity(plate) if plate else ""


def _submit(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    plan: Plan,
    strip_ids: list[str],
    plate: bpy.types.MovieStrip | None,
) -> Task:
    scene_name, key, version = scene.name, _key(obj, plate), _version(plan.shot)
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
        if not waiting and key in _renders:
            _renders.pop(key).cancel()  # nobody wants the rest

    def end(task: Task) -> None:
        if _renders.get(key) is task:
            del _renders[key]
        if scene := bpy.data.scenes.get(scene_name):
            compositing.renew(scene)

    task = session.submit("render", {"shot": str(plan.folder)}, label=f"Render '{obj.name}'", on_event=receive)
    _renders[key] = task
    task.then(end)
    return task


def rendering(obj: bpy.types.Object) -> Task | None:
    """The render of this character that is going on."""
    own = (task for (uid, _plate), task in _renders.items() if uid == obj.edtalk.uid)
    return next((task for task in own if task in session.tasks), None)


def _is_rendering() -> bool:
    return any(task in session.tasks for task in _renders.values())


# --- The strip


def strip_folder(strip: bpy.types.ImageStrip) -> Path:
    """The folder of an image strip's files, absolute."""
    return Path(bpy.path.abspath(strip.directory))


def _face_strips(
    scene: bpy.types.Scene, obj: bpy.types.Object, plate: bpy.types.MovieStrip | None
) -> list[bpy.types.ImageStrip]:
    """The character's face strip over a plate, or over none, and what the artist cut off it: all pieces that share its
    content's first frame."""
    over = plate.get(sequencer.ID) if plate else None
    strips = [strip for strip in sequencer.faces(scene, obj) if strip.get(sequencer.SHOT)]
    strips = [strip for strip in strips if strip.get(sequencer.PLATE) == over] if over or not plate else []
    main = None if plate else sequencer.find(scene, obj.edtalk.face_strip)
    main = main if main in strips else next(iter(strips), None)
    if main is None:
        return []
    start = compat.content_start(main)
    return [main, *(strip for strip in strips if strip != main and compat.content_start(strip) == start)]


def _new_strip(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    span: tuple[int, int],
    waiting: Path,
    strip_id: str,
    plate: bpy.types.MovieStrip | None,
    size: tuple[int, int],
) -> bpy.types.ImageStrip:
    show_colours_as_they_are(scene)
    below = [*sequencer.dialogue(scene, obj), *((plate,) if plate else ())]
    channel = sequencer.free_channel(scene, *span, above=max((_channel(strip) for strip in below), default=0))
    strip = compat.new_image(scene, f"{obj.name} face", waiting, channel, span[0])
    strip[sequencer.ID], strip[sequencer.CHARACTER] = strip_id, obj.edtalk.uid
    strip.blend_type = "ALPHA_OVER"
    if plate is not None and obj.edtalk.layer in WHOLE:
        dubbing.lie_over(strip, plate, size)
    else:
        scale = _fit(scene, size)
        strip.transform.scale_x = strip.transform.scale_y = scale
    strip[SIZE] = size
    return strip


def _channel(strip: bpy.types.Strip) -> int:
    """The channel on which a strip is seen: within metastrips the outermost one's."""
    while meta := strip.parent_meta():
        strip = meta
    return strip.channel


def _fit(scene: bpy.types.Scene, size: tuple[int, int]) -> float:
    """The scale at which a picture just fits into the frame."""
    return min(scene.render.resolution_x / size[0], scene.render.resolution_y / size[1])


def _resize(scene: bpy.types.Scene, strip: bpy.types.ImageStrip, size: tuple[int, int]) -> None:
    """Where a strip's pictures have become larger or smaller, show them as large within the frame as the last ones."""
    before = tuple(strip.get(SIZE) or size)
    if before != size:
        change = _fit(scene, size) / _fit(scene, before)
        strip.transform.scale_x *= change
        strip.transform.scale_y *= change
    strip[SIZE] = size


def _picture_size(
    scene: bpy.types.Scene, obj: bpy.types.Object, shot: Shot, plate: bpy.types.MovieStrip | None
) -> tuple[int, int]:
    """Width and height of a shot's pictures."""
    if shot.layer not in WHOLE:
        return (shot.size or character.bank_of(obj).config.size,) * 2
    if plate is None:
        return character.portrait_size(obj)
    return dubbing.tracked(scene, obj, plate).size


def _fill(
    scene: bpy.types.Scene,
    strip: bpy.types.ImageStrip,
    obj: bpy.types.Object,
    plan: Plan,
    span: tuple[int, int],
    waiting: str,
    plate: bpy.types.MovieStrip | None,
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
    strip.alpha_mode = _ALPHA_MODES[plan.shot.image_format]
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
    strip[sequencer.SOUNDS] = "" if plate else " ".join(spoken)  # over a plate it stays with the plate
    strip[RENDERED], strip[sequencer.LAYER] = _version(plan.shot), plan.shot.layer
    if plate is not None:
        strip[sequencer.PLATE] = sequencer.identity(plate)
        strip[sequencer.APART] = not dubbing.is_frame_by_frame(scene, plate)
    if sequencer.STALE in strip:
        del strip[sequencer.STALE]
    sequencer.remember_time(strip, sequencer.time_map(scene, strip))
    compat.refresh(strip)


def refill(scene: bpy.types.Scene) -> None:
    """Show pictures that arrived while nobody looked: after an undo, or a Blender that ended while rendering.

    A shot elsewhere than where this .blend's files are kept is not read: the .blend may be a stranger's.
    """
    for strip in compat.strips(scene):
        if not (sequencer.is_face(strip) and strip.get(sequencer.SHOT)):
            continue
        folder, known = strip_folder(strip), {}
        waiting = {element.filename for element in strip.elements if not _PICTURE.fullmatch(element.filename)}
        if waiting:
            shot_folder = Path(bpy.path.abspath(str(strip[sequencer.SHOT])))
            with suppress(EDTalkError):
                shot = Shot.read(shot_folder) if is_own(shot_folder) else None
                if shot and _version(shot) == strip.get(RENDERED) and len(shot.coefficients) == len(strip.elements):
                    known = dict(enumerate(shot.file_names()))
        for index, name in known.items():
            if strip.elements[index].filename in waiting and os.path.isfile(folder / name):
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


def _waiting_picture(obj: bpy.types.Object, shot: Shot) -> Path:
    """The picture shown where none has been rendered yet: the face half transparent, a grey square for want of one.

    Over a plate it is transparent, of any size: the plate is seen.
    """
    whole, size = shot.layer in WHOLE, shot.size or character.bank_of(obj).config.size
    folder, size = shot.frames_folder, 8 if whole else size
    path = folder / f"waiting_{obj.edtalk.uid[:8]}_{'plate' if whole else size}.png"
    if path.is_file():
        return path
    face = None if whole else character.face_image(obj)
    drawn = face.size[0] if face is not None and face.size[0] and face.size[0] == face.size[1] else size
    pixels = np.full((drawn, drawn, 4), 0.5, np.float32)
    if face is not None and tuple(face.size) == (drawn, drawn):
        face.pixels.foreach_get(pixels.ravel())
    pixels[..., 3] = 0.0 if whole else _WAITING_ALPHA
    image = bpy.data.images.new("EDTalk waiting", drawn, drawn, alpha=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        image.pixels.foreach_set(pixels.ravel())
        if drawn != size:
            image.scale(size, size)
        image.filepath_raw, image.file_format = str(path), "PNG"
        image.save()
    except OSError as error:
        raise disk_error(path, error) from error
    except RuntimeError as error:
        raise EDTalkError(f"{path} could not be written.", "Choose a folder that may be written to.", "disk") from error
    finally:
        bpy.data.images.remove(image)
    return path


def show_colours_as_they_are(scene: bpy.types.Scene) -> None:
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
            stretches(scene, obj, self.frames)  # is said before anything is asked or changed
        before = scene.view_settings.view_transform
        running, told = True, []

        def tell(name: str, plan: Plan) -> None:
            if running:  # later, there is no operator any more that could report
                told.append(f"{name}: {plan.missing} frames to render, {plan.reused} are there already")

        chains = [Chain(steps(scene, obj, self.frames, tell)) for obj in chosen]
        try:
            self.finish(*chains)
        finally:
            running = False
            for text in told:
                self.report({"INFO"}, text)
        if scene.view_settings.view_transform != before:
            self.report({"INFO"}, f"View Transform set to Standard: {before} would have changed the face's colours")
        if is_temporary():
            self.report({"INFO"}, "Frames are kept only until Blender closes: save the .blend to keep them beside it")
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
        compositing.clear_unused()
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
    with appearing(path) as partial:
        try:
            with compat.video_output(scene, partial):
                bpy.ops.render.render(animation=True, scene=scene.name)
        except RuntimeError as error:
            raise EDTalkError(f"{path} could not be written: {error}", "Choose another place.", "disk") from error
        if not partial.is_file() or not partial.stat().st_size:
            raise EDTalkError(f"{path} was not written.", "See Blender's console for the reason.", "disk")
    return path


CLASSES = (EDTALK_OT_render_face, EDTALK_OT_clear_cache, EDTALK_OT_export_movie)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()


def unregister() -> None:
    unregister_classes()
    _renders.clear()
