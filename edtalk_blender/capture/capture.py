"""Capture: read the face in a movie into keyframes of a character, or the face in an image into a pose.

    session.wait(capture(scene, obj, strip, Options(banks=("pose", "exp"), relative=True, smooth=0.5)))

The source is a strip, with its trims, offset and speed, or a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, FloatProperty, FloatVectorProperty, IntProperty, PointerProperty

from ...inference.contract import answers, mixing, requests
from ...inference.contract.errors import EDTalkError
from ...inference.contract.shot import as_crop
from ..animation import curves, hidden, keys, sampling
from ..character import character, files, rest_pose, sliders
from ..engine import session
from ..engine.session import Task
from ..timeline import footage, sequencer
from ..timeline.timemap import TimeMap
from . import one_euro

LIPS = "lip"
BANK_SWITCHES = {
    "lip": "use_lip",
    "pose": "use_pose",
    "exp": "use_exp",
    "eye": "use_eye",
}  # bank: property of CaptureSettings
_INSTANT = 1e-3  # seconds, shorter than any frame


class CaptureSettings(bpy.types.PropertyGroup):
    """Capture settings of a scene."""

    use_lip: BoolProperty(name="Mouth", description="Capture the mouth", default=True)
    use_pose: BoolProperty(name="Head", description="Capture head rotation and position", default=True)
    use_exp: BoolProperty(name="Expression", description="Capture brows, lids and expression", default=True)
    use_eye: BoolProperty(name="Gaze", description="Capture where the eyes look", default=True)
    relative: BoolProperty(
        name="Relative",
        description="Apply the captured motion relative to the rest frame, on top of the character's rest pose. "
        "Disabled: use the captured values as they are",
    )
    rest_at: EnumProperty(
        name="Rest",
        description="Frame with the neutral expression of the recorded face",
        items=(
            ("FIRST", "First Frame", "Use the first captured frame"),
            ("FRAME", "At Frame", "Use a given scene frame within the captured range"),
        ),
        default="FIRST",
    )
    rest_frame: IntProperty(name="Frame", description="Scene frame at which the recorded face has a neutral expression")
    gain: FloatProperty(
        name="Gain",
        description="Scale of the captured motion, usually from 0 to 2. 1 is as recorded",
        default=1.0,
        min=0.0,
        soft_max=2.0,
        max=10.0,
    )
    smooth: FloatProperty(
        name="Smooth",
        description="Smooth slow motion; fast motion is unchanged. 0 disables smoothing, 1 removes about 3/4 of the "
        "jitter",
        default=0.25,
        min=0.0,
        soft_max=1.0,
        max=10.0,
    )
    simplify: FloatProperty(
        name="Simplify",
        description="Remove keys that change the curves by at most this value, in slider units, usually from 0 to 0.1. "
        "0 writes a key on every frame",
        default=0.0,
        min=0.0,
        soft_max=0.1,
        max=10.0,
        precision=3,
    )
    video_mouth: FloatProperty(
        name="Mouth Blend",
        description="Blend of lip sync and capture on the mouth: 0 keeps the existing lip-sync keys, 1 uses the "
        "captured mouth",
        default=1.0,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )
    crop_mode: EnumProperty(
        name="Crop",
        description="Part of the recording to use",
        items=(
            ("auto", "Detect Face", "Detect the face and use one square for the whole recording"),
            ("none", "Full Image", "Use the full image, which must be a square around the face already"),
            ("box", "Manual", "Use a square given in pixels of the recording"),
        ),
        default="auto",
    )
    crop: FloatVectorProperty(
        name="Square",
        description="Left edge, top edge and size of the square in pixels, from the top left corner of the recording",
        size=3,
        default=(0.0, 0.0, 256.0),
        step=100,
        precision=1,
    )
    which: IntProperty(
        name="Face Number",
        description="Number of the face to use if there are several, counted from the left (negative: from the right). "
        "0 expects a single face",
        min=-20,
        max=20,
    )


@dataclass(frozen=True)
class Options:
    """Options of a capture.

    banks: any of "lip", "pose", "exp" and "eye". relative: apply offsets from the driver's rest, see
    `mixing.retargeted`.
    rest_frame: scene frame at which the driver is at rest; None: the first captured frame. smooth: strength, see
    `one_euro.smooth`. simplify: largest error of the decimated curves, 0 for a key on every frame. video_mouth: weight
    of the captured mouth against the existing keys, 0..1. crop: see `contract.shot.as_crop`. which: face to use,
    counted from 1 from the left or from -1 from the right; 0 expects a single face.
    """

    banks: Sequence[str] = tuple(BANK_SWITCHES)
    relative: bool = False
    rest_frame: float | None = None
    gain: float = 1.0
    smooth: float = 0.0
    simplify: float = 0.0
    video_mouth: float = 1.0
    crop: str | Sequence[float] = "auto"
    which: int = 0

    @property
    def used_banks(self) -> list[str]:
        """The banks to capture; without the mouth if none of the captured one is used."""
        return [name for name in self.banks if name != LIPS or self.video_mouth > 0]


def settings(scene: bpy.types.Scene) -> CaptureSettings:
    return scene.edtalk_capture


def options_of(scene: bpy.types.Scene) -> Options:
    """Options from the scene's settings."""
    own = settings(scene)
    return Options(
        banks=tuple(bank for bank, switch in BANK_SWITCHES.items() if getattr(own, switch)),
        relative=own.relative,
        rest_frame=own.rest_frame if own.rest_at == "FRAME" else None,
        gain=own.gain,
        smooth=own.smooth,
        simplify=own.simplify,
        video_mouth=own.video_mouth,
        crop=tuple(own.crop) if own.crop_mode == "box" else own.crop_mode,
        which=own.which,
    )


# --- Animation


def capture(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    source: bpy.types.MovieStrip | str | os.PathLike[str],
    options: Options | None = None,
    *,
    frame: int | None = None,
) -> Task:
    """Start capturing the face in `source` to keyframes of a character.

    source: a movie strip, or the path of a movie, image or folder of images. A file starts at `frame` (default: the
    current frame); a folder plays at the scene's frame rate. options: by default the scene's settings.
    The keyframes are written when the worker has answered. They replace existing ones in the same range. If the
    strip was moved during the capture, they follow it. Raises EDTalkError if the capture cannot start.
    """
    options = options or options_of(scene)
    names = _names(obj, options)
    recording = (
        _Recording.of_strip(scene, source) if isinstance(source, bpy.types.Strip)
        else _Recording.of_file(scene, source, frame)
    )  # fmt: skip
    timing = recording.timing
    if options.relative and options.rest_frame is not None:
        timing = timing | {"rest": recording.seconds_of_rest(scene, options.rest_frame)}
    clock, start_frame, strip_id = recording.clock, recording.start_frame, recording.strip_id
    scene_name, uid = scene.name, obj.edtalk.uid

    def apply(answer: answers.CaptureResult) -> None:
        scene, obj = _targets(scene_name, uid, names)
        if obj is None:
            return
        rows = _rows(answer, names)
        captured = clock or _file_clock(sequencer.fps(scene), start_frame, rows.fps, len(rows.values))
        moved = _moved(scene, strip_id, captured)
        write(scene, obj, rows, captured, captured.moved(moved).frames, options)
        session.edited("Capture")
        if answer.note:
            session.report(EDTalkError(answer.note, "", "face"))
        if reason := hidden.hidden_by(obj):
            error = EDTalkError(reason, "The capture was written but is overridden.", "hidden")
            session.report(error, fix="edtalk.reveal_animation", label="Show Animation", options={"uid": uid})

    return _submit(obj, recording.path, options, timing, f"Capture '{recording.label}'", apply)


@dataclass(frozen=True)
class _Recording:
    """What is captured, and where it lies in the scene.

    label: for messages. start_frame: of the scene. clock: of a strip, None for a file. strip_id: "" for a file.
    timing: part of the request, see `requests.Capture`.
    """

    path: Path
    label: str
    start_frame: int
    clock: TimeMap | None
    strip_id: str
    timing: dict[str, float | None]

    @staticmethod
    def of_strip(scene: bpy.types.Scene, strip: bpy.types.MovieStrip) -> _Recording:
        """The visible part of a movie strip. Raises EDTalkError if it shows no frame."""
        clock = footage.time_map(scene, strip)
        if clock.end == clock.start:
            raise EDTalkError(f"'{strip.name}' shows no frame of its movie.", "Move its handles.", "media")
        first, last = np.maximum(clock.seconds([clock.start, clock.end - 1]), 0.0).tolist()
        timing = {"fps": None, "start": first, "end": last + 1 / (sequencer.movie_fps(strip) or clock.fps)}
        return _Recording(
            footage.movie_path(strip), strip.name, clock.start, clock, sequencer.identity(strip), timing
        )  # fmt: skip

    @staticmethod
    def of_file(scene: bpy.types.Scene, source: str | os.PathLike[str], frame: int | None) -> _Recording:
        """A file or a folder of images, from a scene frame on; default: the current one."""
        path = _file(source)
        timing = {"fps": sequencer.fps(scene) if path.is_dir() else None, "start": 0.0, "end": None}
        return _Recording(path, path.name, scene.frame_current if frame is None else frame, None, "", timing)

    def seconds_of_rest(self, scene: bpy.types.Scene, frame: float) -> float:
        """Seconds of the recording at a scene frame. Raises EDTalkError if the recording does not show it."""
        clock, start = self.clock, self.start_frame
        if frame < start or (clock and frame >= clock.end):
            shown = f"from frame {start} to {clock.end - 1}" if clock else f"from frame {start}"
            message = f"The rest frame {frame:g} is outside '{self.label}', which is shown {shown}."
            raise EDTalkError(message, "Choose a frame within it, or First Frame.")
        at_rest = clock.seconds([frame])[0] if clock else (frame - start) / sequencer.fps(scene)
        return max(0.0, float(at_rest))


@dataclass(frozen=True)
class Rows:
    """Captured coefficients. values: (T, n) of the sliders `names`, at `fps`, the first at `start` s of the file."""

    names: tuple[str, ...]
    values: np.ndarray
    fps: float
    start: float


def write(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    rows: Rows,
    clock: TimeMap,
    frames: np.ndarray,
    options: Options,
) -> None:
    """Write captured coefficients as keyframes of a character.

    clock: gives the time in the recording of its K frames. frames: (K,), where to write them.
    """
    bank = files.bank_of(obj)
    ranges = {entry.name: entry.soft_max - entry.soft_min for entry in bank.coefficients}
    widths = np.array([ranges[name] or 1.0 for name in rows.names])
    smooth = one_euro.smooth(rows.values, rows.fps, options.smooth, widths)
    values = mixing.at_times(smooth, rows.fps, rows.start, clock.seconds(clock.frames))
    rest = _rest(obj, rows.names)
    driver_rest = None
    if options.relative:
        at_rest = clock.start if options.rest_frame is None else options.rest_frame
        (driver_rest,) = mixing.at_times(smooth, rows.fps, rows.start, clock.seconds([at_rest]))
    values = mixing.retargeted(values, rest, gain=options.gain, driver_rest=driver_rest)
    lips = [column for column, name in enumerate(rows.names) if name in bank.names_of(LIPS)]
    if lips and options.video_mouth < 1:
        columns = [bank.names.index(rows.names[column]) for column in lips]
        existing = sampling.sample_sliders(scene, obj, frames)[0][:, columns]
        values[:, lips] = mixing.blended(existing, values[:, lips], options.video_mouth)
    error = options.simplify if options.simplify > 0 else -1.0
    for name, column in zip(rows.names, values.T, strict=True):
        kept = np.unique(curves.decimate(frames, column, error))
        keys.write_curves(obj, {name: column[kept]}, frames[kept], replace=(frames[0], frames[-1]))


def _file_clock(fps: float, start_frame: int, movie_fps: float, count: int) -> TimeMap:
    """Time map of a whole movie with `count` frames at `movie_fps`, from scene frame `start_frame` at its own speed."""
    shown = max(1, round(count / movie_fps * fps))
    return TimeMap.of_strip(fps, start_frame, start_frame + shown, start_frame)


def _moved(scene: bpy.types.Scene, strip_id: str, captured: TimeMap) -> int:
    """Frames by which the strip was moved during the capture; 0 if it changed in another way or was deleted."""
    strip = sequencer.find(scene, strip_id)
    if strip is None or strip.type != "MOVIE":
        return 0
    with suppress(EDTalkError):
        return captured.move_to(footage.time_map(scene, strip)) or 0
    return 0


# --- Single frame


def match(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    source: bpy.types.Strip | str | os.PathLike[str],
    options: Options | None = None,
    *,
    key: bool = True,
) -> Task:
    """Start matching a character's pose at the current frame to the face in `source`.

    source: the path of an image, or of a movie (its first frame is used), or a movie or image strip (its image at the
    current frame is used). options: only banks, video_mouth, gain, crop and which apply. key: insert keyframes too.
    Raises EDTalkError if it cannot start.
    """
    options = options or options_of(scene)
    names, frame, start = _names(obj, options), scene.frame_current_final, 0.0
    if not isinstance(source, bpy.types.Strip):
        path = _file(source)
    elif source.type == "IMAGE":
        path = footage.picture_path(source, frame)
    else:
        path, movie_fps = footage.movie_path(source), sequencer.movie_fps(source) or sequencer.fps(scene)
        start = max(0, round(float(footage.time_map(scene, source).seconds(frame)) * movie_fps)) / movie_fps
    scene_name, uid = scene.name, obj.edtalk.uid

    def apply(answer: answers.CaptureResult) -> None:
        scene, obj = _targets(scene_name, uid, names)
        if obj is None:
            return
        rows = _rows(answer, names)
        values = mixing.retargeted(rows.values[:1], _rest(obj, rows.names), gain=options.gain)[0]
        pose = dict(zip(rows.names, values.tolist(), strict=True))
        if key:
            keys.insert_keys(obj, pose, frame)
        if not key or scene.frame_current_final == frame:
            for name, value in pose.items():
                obj.edtalk[name] = value
            obj.update_tag()
        session.edited("Match Face")

    timing = {"fps": None, "start": start, "end": start + _INSTANT}
    return _submit(obj, path, options, timing, f"Match '{path.name}'", apply)


# --- Shared by both


def _names(obj: bpy.types.Object, options: Options) -> tuple[str, ...]:
    """Sliders to capture. Raises EDTalkError if there are none or if the character is not editable."""
    if reason := character.editable_reason(obj):
        raise EDTalkError(f"{reason}.")
    bank = files.bank_of(obj)
    names = tuple(entry.name for entry in bank.coefficients if entry.bank in options.used_banks)
    if not names:
        titles = [sliders.BANK_TITLES.get(name, name) for name, _count in bank.config.banks]
        raise EDTalkError("There is nothing to capture.", f"Enable {' or '.join(titles)}.")
    return names


def _targets(scene_name: str, uid: str, names: Sequence[str]) -> tuple[bpy.types.Scene | None, bpy.types.Object | None]:
    """Scene and character; both None if one was deleted or the character's bank has changed."""
    scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
    fits = scene is not None and obj is not None and set(names) <= set(files.bank_of(obj).names)
    return (scene, obj) if fits else (None, None)


def _file(path: str | os.PathLike[str]) -> Path:
    found = Path(bpy.path.abspath(os.fspath(path)))
    if not found.exists():
        raise EDTalkError(f"The recording {found} does not exist.", "Choose a movie or an image of a face.", "media")
    return found


def _submit(
    obj: bpy.types.Object,
    path: Path,
    options: Options,
    timing: Mapping[str, Any],
    label: str,
    apply: Callable[[answers.CaptureResult], None],
) -> Task:
    with suppress(EDTalkError):  # a capture does not need a portrait
        if not rest_pose.is_known(obj):
            rest_pose.measure(obj)  # answered before the capture, which needs the portrait's rest pose
    bank = files.bank_path(obj)
    request = requests.Capture(bank, path, as_crop(options.crop), which=options.which or None, **timing)

    def finished(answer: answers.CaptureResult) -> str:
        return f"{label}: {len(answer.rows)} frame{'s' * (len(answer.rows) != 1)} captured"

    return session.submit(request, label=label, on_done=apply, finished=finished)


def _rows(answer: answers.CaptureResult, names: Sequence[str]) -> Rows:
    columns = [answer.names.index(name) for name in names]
    return Rows(tuple(names), answer.rows[:, columns], answer.fps, answer.start)


def _rest(obj: bpy.types.Object, names: Sequence[str]) -> np.ndarray:
    rest = dict(zip(files.bank_of(obj).names, sliders.rest_row(obj), strict=True))
    return np.array([rest[name] for name in names])


def register() -> None:
    bpy.utils.register_class(CaptureSettings)
    bpy.types.Scene.edtalk_capture = PointerProperty(type=CaptureSettings, name="EDTalk Capture")


def unregister() -> None:
    del bpy.types.Scene.edtalk_capture
    bpy.utils.unregister_class(CaptureSettings)
