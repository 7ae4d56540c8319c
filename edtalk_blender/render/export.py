"""Export Movie: a face's frames encoded by the engine, or the whole sequencer rendered by Blender.

The engine writes the frames of a face strip as they are, in the face's size, with the sound of the sequencer. That is
quick, and nothing lies beside the face. Blender's renderer is used where other strips are visible too.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import bpy
from bpy.app.handlers import persistent
from bpy.props import EnumProperty, IntProperty, StringProperty
from bpy_extras.io_utils import ExportHelper

from ...inference.contract import answers, requests
from ...inference.contract.errors import EDTalkError
from ...inference.contract.files import atomic_write
from .. import compat
from ..engine import session
from ..engine.operator_base import EngineOperator
from ..engine.session import Task
from ..timeline import audio, sequencer, timemap
from . import face_strip, render

_OPAQUE = ("square", "pasted")  # layers whose frames fill the picture
_INVISIBLE = ("SOUND", "ADJUSTMENT")  # types of strips that show nothing by themselves


@dataclass(frozen=True)
class Format:
    """suffix: of the file. codec: as the engine names it. blender: container and codec as Blender names them."""

    suffix: str
    codec: str
    blender: tuple[str, str]


FORMATS = {
    "MP4": Format(".mp4", "h264", ("MPEG4", "H264")),
    "MOV": Format(".mov", "h264", ("QUICKTIME", "H264")),
    "MKV": Format(".mkv", "h264", ("MKV", "H264")),
    "PRORES": Format(".mov", "prores", ("QUICKTIME", "PRORES")),
    "FFV1": Format(".mkv", "ffv1", ("MKV", "FFV1")),
}


# --- What is exported


def shown_strips(scene: bpy.types.Scene) -> list[bpy.types.ImageStrip]:
    """The face strips that are not muted, in order of time."""
    found = [strip for strip in compat.strips(scene) if sequencer.is_face(strip) and not strip.mute]
    return sorted(found, key=compat.left_handle)


def is_face_alone(scene: bpy.types.Scene) -> bool:
    """Whether one face fills the picture: all that is visible are opaque frames of one character."""
    faces = shown_strips(scene)
    if len({strip[sequencer.CHARACTER] for strip in faces}) != 1:
        return False
    visible = [strip for strip in compat.strips(scene) if strip.type not in _INVISIBLE and not strip.mute]
    return len(visible) == len(faces) and all(
        strip.get(sequencer.LAYER) in _OPAQUE and not strip.modifiers and len(strip.retiming_keys) < 2
        for strip in faces
    )


def frame_range(scene: bpy.types.Scene, which: str) -> tuple[int, int]:
    """The first frame and the one after the last. which: "STRIP" (of the face strips), "SCENE" or "PREVIEW".

    "STRIP" is the scene's range where there is no face strip. Raises EDTalkError if there is no preview range.
    """
    if which == "PREVIEW":
        if not scene.use_preview_range:
            raise EDTalkError("The scene has no preview range.", "Set one in the timeline with P.")
        return scene.frame_preview_start, scene.frame_preview_end + 1
    shown = timemap.union((compat.left_handle(one), compat.right_handle(one)) for one in shown_strips(scene))
    if which == "STRIP" and shown is not None:
        return shown
    return scene.frame_start, scene.frame_end + 1


def pictures(scene: bpy.types.Scene, span: tuple[int, int]) -> list[Path]:
    """The file of the face's frame at each scene frame. Raises EDTalkError where a frame is missing."""
    found: dict[int, Path] = {}
    for strip in sorted(shown_strips(scene), key=lambda strip: strip.channel):  # higher channels cover lower ones
        first, _end = sequencer.picture_range(strip)
        start, end = max(compat.left_handle(strip), span[0]), min(compat.right_handle(strip), span[1])
        folder, known = face_strip.folder_of(strip), face_strip.pictures_in(face_strip.folder_of(strip))
        for frame in range(start, end):
            name = strip.elements[min(max(frame - first, 0), len(strip.elements) - 1)].filename
            if name in known:
                found[frame] = folder / name
            else:
                found.pop(frame, None)
    missing = [frame for frame in range(*span) if frame not in found]
    if missing:
        message = f"{len(missing)} of {span[1] - span[0]} frames have no rendered face, the first is {missing[0]}."
        raise EDTalkError(message, "Use Render Face, choose the range Face Strip, or export the Whole Scene.", "input")
    return [found[frame] for frame in range(*span)]


# --- Encoding by the engine


def encode_face(scene: bpy.types.Scene, path: Path, span: tuple[int, int], form: Format, width: int = 0) -> Task:
    """Begin to write a face's frames as a movie with the sequencer's sound. width: in pixels, 0: that of the frames.

    Raises EDTalkError if frames are missing or the sound cannot be mixed.
    """
    files = pictures(scene, span)
    sound = mixdown(scene, span)
    rate = sequencer.fps(scene)

    def finished(answer: answers.EncodeResult) -> str:
        return f"Exported {answer.frames} frames to {path}"

    request = requests.Encode(tuple(files), rate, path, form.codec, width, sound)
    task = session.submit(request, label=f"Export '{path.name}'", finished=finished)
    if sound is not None:
        task.then(lambda _task: sound.unlink(missing_ok=True))
    return task


def mixdown(scene: bpy.types.Scene, span: tuple[int, int]) -> Path | None:
    """A temporary WAV file with what the sequencer plays in a range; None without an audible sound strip."""
    sounds = [strip for strip in compat.strips(scene) if strip.type == "SOUND" and not strip.mute]
    if not any(sequencer.overlaps(strip, span) for strip in sounds):
        return None
    path = Path(bpy.app.tempdir) / f"edtalk_{uuid.uuid4().hex[:12]}.wav"
    with _range(scene, span), bpy.context.temp_override(scene=scene):
        try:
            bpy.ops.sound.mixdown(filepath=str(path), check_existing=False, container="WAV", codec="PCM", format="S16")
        except RuntimeError as error:
            raise EDTalkError(f"The sound could not be mixed: {error}", audio.FIND_MISSING, "media") from error
    return path


@contextmanager
def _range(scene: bpy.types.Scene, span: tuple[int, int]) -> Iterator[None]:
    """Set the scene's frame range, and restore it afterwards."""
    before = scene.frame_start, scene.frame_end, scene.use_preview_range
    scene.frame_start, scene.frame_end, scene.use_preview_range = span[0], span[1] - 1, False
    try:
        yield
    finally:
        scene.frame_end, scene.frame_start, scene.use_preview_range = before[1], before[0], before[2]


# --- Rendering by Blender


_rendering = ExitStack()  # restores the scene's settings after Blender's render


def render_scene(scene: bpy.types.Scene, path: Path, span: tuple[int, int], form: Format) -> None:
    """Render the sequencer to a movie. With a window Blender's render runs on, and this returns at once.

    The scene's output settings are restored when the render ends. Raises EDTalkError if the file cannot be written.
    """
    if not session.blocking():
        _rendering.close()
        _rendering.enter_context(_range(scene, span))
        _rendering.enter_context(compat.video_output(scene, path, *form.blender))
        bpy.ops.render.render("INVOKE_DEFAULT", animation=True, scene=scene.name)
        return
    with atomic_write(path) as partial:
        try:
            with _range(scene, span), compat.video_output(scene, partial, *form.blender):
                bpy.ops.render.render(animation=True, scene=scene.name)
        except (RuntimeError, TypeError) as error:
            raise EDTalkError(f"{path} could not be written: {error}", "Choose another folder.", "disk") from error
        if not partial.is_file() or not partial.stat().st_size:
            raise EDTalkError(f"{path} was not written.", "See Blender's console for the reason.", "disk")


@persistent
def _render_ended(*_: object) -> None:
    if not session.blocking() and not bpy.app.timers.is_registered(_restore):
        bpy.app.timers.register(_restore, first_interval=0.1, persistent=True)


def _restore() -> float | None:
    """Timer: restore the scene's settings once Blender's render has ended."""
    if bpy.app.is_job_running("RENDER"):
        return 0.2
    with suppress(ReferenceError):  # the scene was deleted
        _rendering.close()
    return None


def export_movie(scene: bpy.types.Scene, file: str | Path) -> Path:
    """Render a scene's sequencer over its frame range to an MP4 file and return its path.

    Raises EDTalkError if it cannot be written.
    """
    path = checked_path(file, FORMATS["MP4"])
    render_scene(scene, path, (scene.frame_start, scene.frame_end + 1), FORMATS["MP4"])
    return path


def checked_path(file: str | Path, form: Format) -> Path:
    """The path with the suffix of a format. Raises EDTalkError if its folder does not exist."""
    path = Path(file).with_suffix(form.suffix)
    if not path.parent.is_dir():
        raise EDTalkError(f"The folder {path.parent} does not exist.", "Choose another folder.", "disk")
    return path


# --- Operator


class EDTALK_OT_export_movie(EngineOperator, ExportHelper, bpy.types.Operator):
    """Write the rendered face, or all that the sequencer shows, with sound to a movie file"""

    bl_idname = "edtalk.export_movie"
    bl_label = "Export Movie"

    filename_ext = ".mp4"
    filepath: StringProperty(name="File", description="Movie file to write", subtype="FILE_PATH")
    filter_glob: StringProperty(default="*.mp4;*.mov;*.mkv", options={"HIDDEN"})
    content: EnumProperty(
        name="Content",
        description="What the movie shows",
        items=(
            ("AUTO", "Automatic", "The face if nothing else is visible in the sequencer, otherwise the whole scene"),
            ("FACE", "Face", "The rendered frames in their own size, written by the engine. Quick; ignores the strip's "
             "position, scale and effects"),
            ("SCENE", "Whole Scene", "All strips, rendered by Blender in the scene's resolution"),
        ),
    )  # fmt: skip
    format: EnumProperty(
        name="Format",
        description="Container and codec of the movie",
        items=(
            ("MP4", "MP4, H.264", "Plays everywhere"),
            ("MOV", "QuickTime, H.264", "For programs that expect .mov"),
            ("MKV", "Matroska, H.264", "Open container"),
            ("PRORES", "QuickTime, ProRes 422 HQ", "For editing; large files"),
            ("FFV1", "Matroska, FFV1", "Lossless; large files"),
        ),
    )
    frames: EnumProperty(
        name="Range",
        description="Frames of the movie",
        items=(
            ("STRIP", "Face Strip", "From the first to the last frame of the face strips"),
            ("SCENE", "Scene", "The scene's frame range"),
            ("PREVIEW", "Preview Range", "The preview range of the timeline"),
        ),
    )
    width: IntProperty(
        name="Width",
        description="Width of the movie in pixels if its content is the face. 0: that of the rendered frames",
        min=0,
        soft_max=2048,
        max=4096,
        subtype="PIXEL",
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        scene = compat.sequencer_scene(context)
        if not compat.strips(scene):
            return "The sequencer is empty"
        if render.is_rendering():
            return "Wait until the face is rendered, or cancel the render"
        return "Wait until Blender has finished rendering" if bpy.app.is_job_running("RENDER") else ""

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self._from_button = True
        return ExportHelper.invoke(self, context, event)

    def check(self, _context: bpy.types.Context) -> bool:
        """Give the file the suffix of the chosen format."""
        path = str(Path(self.filepath).with_suffix(FORMATS[self.format].suffix)) if self.filepath else ""
        changed, self.filepath = path != self.filepath, path
        return changed

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, compat.sequencer_scene(context)
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(self, "content")
        layout.prop(self, "format")
        layout.prop(self, "frames")
        if self._is_face(scene):
            layout.prop(self, "width")
        else:
            size = f"{scene.render.resolution_x} x {scene.render.resolution_y}"
            layout.label(text=f"{size}, the scene's resolution", icon="INFO")

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene, form = compat.sequencer_scene(context), FORMATS[self.format]
        path = checked_path(bpy.path.abspath(self.filepath), form)
        span = frame_range(scene, self.frames)
        if self._is_face(scene):
            self.finish(encode_face(scene, path, span, form, self.width))
        else:
            render_scene(scene, path, span, form)
        return None

    def _is_face(self, scene: bpy.types.Scene) -> bool:
        return self.content == "FACE" or (self.content == "AUTO" and is_face_alone(scene))


_HANDLERS = ("render_complete", "render_cancel")


def register() -> None:
    bpy.utils.register_class(EDTALK_OT_export_movie)
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).append(_render_ended)


def unregister() -> None:
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).remove(_render_ended)
    if bpy.app.timers.is_registered(_restore):
        bpy.app.timers.unregister(_restore)
    bpy.utils.unregister_class(EDTALK_OT_export_movie)
