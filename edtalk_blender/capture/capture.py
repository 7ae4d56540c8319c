"""Capture: what a recorded face does becomes keys of a character, and a still of one the pose of a frame.

    session.wait(capture(scene, obj, strip, Options(banks=("pose", "exp"), relative=True, smooth=0.5)))

Both for a strip, whose trims, offset and speed count, and for a file.
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
from ..animation import curves, hidden, keys, sampling
from ..character import character, portrait
from ..engine import session
from ..engine.session import Task
from ..timeline import footage, sequencer
from ..timeline.timemap import TimeMap
from . import one_euro

LIPS = "lip"
_BANKS = {"lip": "use_lip", "pose": "use_pose", "exp": "use_exp"}  # a bank: the switch for it
_INSTANT = 1e-3  # seconds: shorter than any frame


class CaptureSettings(bpy.types.PropertyGroup):
    """How a recorded face is taken over, for a whole scene."""

    use_lip: BoolProperty(name="Mouth", description="Take over the mouth", default=True)
    use_pose: BoolProperty(name="Head", description="Take over how the head is turned and where it is", default=True)
    use_exp: BoolProperty(name="Expression", description="Take over brows, eyes and mood", default=True)
    relative: BoolProperty(
        name="Relative",
        description="Add how the recorded face moves away from its own rest to the character's rest. Otherwise the "
        "character does exactly what the recorded face does",
    )
    rest_at: EnumProperty(
        name="Rest",
        description="When the recorded face is at rest",
        items=(
            ("FIRST", "First Frame", "In the first frame that is captured"),
            ("FRAME", "At Frame", "At a frame of the scene within what is captured"),
        ),
        default="FIRST",
    )
    rest_frame: IntProperty(name="Frame", description="Frame of the scene at which the recorded face is at rest")
    gain: FloatProperty(
        name="Gain",
        description="How strongly the motion is taken over: 1 as recorded, less calms it, more exaggerates",
        default=1.0,
        min=0.0,
        soft_max=2.0,
        max=10.0,
    )
    smooth: FloatProperty(
        name="Smooth",
        description="Take away jitter where the face moves slowly, and leave quick motion as it is. 0 changes nothing",
        default=0.25,
        min=0.0,
        soft_max=1.0,
        max=10.0,
    )
    simplify: FloatProperty(
        name="Simplify",
        description="Leave out keys where the curve stays within this distance without them. 0 writes every frame",
        default=0.0,
        min=0.0,
        soft_max=0.1,
        max=10.0,
        precision=3,
    )
    video_mouth: FloatProperty(
        name="Sound to Video",
        description="The mouth: 0 keeps the keys that it has, from lip sync for one, 1 is the recorded mouth",
        default=1.0,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )
    crop_mode: EnumProperty(
        name="Crop",
        description="Which part of the recording is the face",
        items=(
            ("auto", "Find Face", "Find the face in the recording; one square for all of it"),
            ("none", "Whole Picture", "The recording shows a face already, cut as the bank wants it"),
            ("box", "Manual", "A square given in pixels of the recording"),
        ),
        default="auto",
    )
    crop: FloatVectorProperty(
        name="Square",
        description="Left edge, top edge and side of the square, in pixels of the recording from its top left corner",
        size=3,
        default=(0.0, 0.0, 256.0),
        step=100,
        precision=1,
    )
    which: IntProperty(
        name="Face Number",
        description="Which face is meant where the recording shows several: 1 is the first from the left, -1 the first "
        "from the right. 0 where there is only one",
        min=-20,
        max=20,
    )


@dataclass(frozen=True)
class Options:
    """How a recorded face is taken over.

    banks: those of "lip", "pose" and "exp" to take. relative: from rest to rest, see `contract.mixing.retargeted`; the
    recorded face is at rest at `rest_frame` of the scene, None: in the first frame captured. smooth: see
    `core.one_euro`. simplify: as `lip_decimate` of a character. video_mouth: share of the recorded mouth in a mix with
    the keys that the mouth has. crop: see `contract.shot.as_crop`. which: of several faces, counted from the left
    from 1 on, from the right from -1 on; 0 where there is only one.
    """

    banks: Sequence[str] = tuple(_BANKS)
    relative: bool = False
    rest_frame: float | None = None
    gain: float = 1.0
    smooth: float = 0.0
    simplify: float = 0.0
    video_mouth: float = 1.0
    crop: str | Sequence[float] = "auto"
    which: int = 0


def settings(scene: bpy.types.Scene) -> CaptureSettings:
    return scene.edtalk_capture


def options_of(scene: bpy.types.Scene) -> Options:
    """What the scene's settings say."""
    own = settings(scene)
    return Options(
        banks=tuple(bank for bank, switch in _BANKS.items() if getattr(own, switch)),
        relative=own.relative,
        rest_frame=own.rest_frame if own.rest_at == "FRAME" else None,
        gain=own.gain,
        smooth=own.smooth,
        simplify=own.simplify,
        video_mouth=own.video_mouth,
        crop=tuple(own.crop) if own.crop_mode == "box" else own.crop_mode,
        which=own.which,
    )


# --- Over time


def capture(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    source: bpy.types.MovieStrip | str | os.PathLike[str],
    options: Options | None = None,
    *,
    frame: int | None = None,
) -> Task:
    """Begin to write what a recorded face does as keys of a character, in place of those in the same frames.

    source: a movie strip, or a video, a folder of pictures or a picture, which then begins at `frame` (default: the
    current one), a folder at the scene's rate. options: by default the scene's settings. The keys are written when the
    answer comes, where the strip is by then. Raises EDTalkError when it cannot begin.
    """
    options = options or options_of(scene)
    names = _names(obj, options)
    if isinstance(source, bpy.types.Strip):
        clock = footage.time_map(scene, source)
        if clock.end == clock.start:
            raise EDTalkError(f"'{source.name}' shows nothing.", "Move its handles.", "media")
        path, label, begin, strip_id = footage.movie_path(source), source.name, clock.start, sequencer.identity(source)
        first, last = np.maximum(clock.seconds([clock.start, clock.end - 1]), 0.0).tolist()
        asked = {"fps": None, "start": first, "end": last + 1 / (source.fps or clock.fps)}
    else:
        path, clock, strip_id = _file(source), None, ""
        label, begin = path.name, scene.frame_current if frame is None else frame
        asked = {"fps": sequencer.fps(scene) if path.is_dir() else None, "start": 0.0, "end": None}
    rest_frame = options.rest_frame if options.relative else None
    if rest_frame is not None and (rest_frame < begin or (clock and rest_frame >= clock.end)):
        shown = f"{begin} to {clock.end - 1}" if clock else f"{begin} on"
        message = f"The recorded face cannot be at rest at frame {rest_frame:g}: '{label}' is shown from {shown}."
        raise EDTalkError(message, "Choose a frame within it, or the first one.")
    if rest_frame is not None:
        at_rest = clock.seconds([rest_frame])[0] if clock else (rest_frame - begin) / sequencer.fps(scene)
        asked["rest"] = max(0.0, float(at_rest))

    scene_name, uid = scene.name, obj.edtalk.uid

    def apply(answer: answers.CaptureResult) -> None:
        scene, obj = _targets(scene_name, uid, names)
        if obj is None:
            return
        rows = _rows(answer, names)
        then = clock or _file_clock(sequencer.fps(scene), begin, rows.fps, len(rows.values))
        moved = _moved(scene, strip_id, then)
        write(scene, obj, rows, then, then.moved(moved).frames, options)
        session.edited("Capture")
        if answer.note:
            session.report(EDTalkError(answer.note, "", "face"))
        if reason := hidden.hidden_by(obj):
            error = EDTalkError(reason, "What was captured is written, but it does not show.", "hidden")
            session.report(error, fix="edtalk.reveal_animation", label="Show It", options={"uid": uid})

    return _submit(obj, path, options, asked, f"Capture '{label}'", apply)


@dataclass(frozen=True)
class Rows:
    """What a recorded face does. values: (T, n) of the sliders `names`, the first at `start` seconds of the file."""

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
    """Write recorded rows as keys of a character at `frames` (K,), which show the moments of the frames of `clock`."""
    bank = character.bank_of(obj)
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
        known = [bank.names.index(rows.names[column]) for column in lips]
        before = sampling.sample_sliders(scene, obj, frames)[0][:, known]
        values[:, lips] = mixing.blended(before, values[:, lips], options.video_mouth)
    error = options.simplify if options.simplify > 0 else -1.0
    for name, column in zip(rows.names, values.T, strict=True):
        kept = np.unique(curves.decimate(frames, column, error))
        keys.write_curves(obj, {name: column[kept]}, frames[kept], replace=(frames[0], frames[-1]))


def _file_clock(fps: float, begin: int, film: float, count: int) -> TimeMap:
    """A whole film of `count` frames at its own speed, from a frame of the scene on."""
    shown = max(1, round(count / film * fps))
    return TimeMap.of_strip(fps, begin, begin + shown, begin)


def _moved(scene: bpy.types.Scene, strip_id: str, then: TimeMap) -> int:
    """By how many frames the strip has been moved since; 0 where it has changed in another way, or has gone."""
    strip = sequencer.find(scene, strip_id)
    if strip is None or strip.type != "MOVIE":
        return 0
    with suppress(EDTalkError):
        return then.move_to(footage.time_map(scene, strip)) or 0
    return 0


# --- One frame


def match(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    source: bpy.types.Strip | str | os.PathLike[str],
    options: Options | None = None,
    *,
    key: bool = True,
) -> Task:
    """Begin to pose a character like a still face, at the current frame; of `options` banks, gain and crop count.

    source: a picture, a video, of which the first frame is taken, or a movie or image strip, of which what it shows at
    the current frame is. key: whether to key the sliders too. Raises EDTalkError when it cannot begin.
    """
    options = options or options_of(scene)
    names, frame, start = _names(obj, options), scene.frame_current_final, 0.0
    if not isinstance(source, bpy.types.Strip):
        path = _file(source)
    elif source.type == "IMAGE":
        path = footage.picture_path(source, frame)
    else:
        path, film = footage.movie_path(source), source.fps or sequencer.fps(scene)
        start = max(0, round(float(footage.time_map(scene, source).seconds(frame)) * film)) / film
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
        session.edited("Match This Face")

    asked = {"fps": None, "start": start, "end": start + _INSTANT}
    return _submit(obj, path, options, asked, f"Match '{path.name}'", apply)


# --- What both share


def _names(obj: bpy.types.Object, options: Options) -> tuple[str, ...]:
    """The sliders that are taken over; EDTalkError where there are none, or the character cannot be changed."""
    if reason := character.editable_reason(obj):
        raise EDTalkError(f"{reason}.")
    bank = character.bank_of(obj)
    banks = [name for name in options.banks if name != LIPS or options.video_mouth > 0]
    names = tuple(entry.name for entry in bank.coefficients if entry.bank in banks)
    if not names:
        titles = [character.BANK_TITLES.get(name, name) for name, _count in bank.config.banks]
        raise EDTalkError("There is nothing to capture.", f"Switch on {' or '.join(titles)}.")
    return names


def _targets(scene_name: str, uid: str, names: Sequence[str]) -> tuple[bpy.types.Scene | None, bpy.types.Object | None]:
    """Scene and character, both None when one of them has gone or the character was given another bank."""
    scene, obj = bpy.data.scenes.get(scene_name), character.find(uid)
    fits = scene is not None and obj is not None and set(names) <= set(character.bank_of(obj).names)
    return (scene, obj) if fits else (None, None)


def _file(path: str | os.PathLike[str]) -> Path:
    found = Path(bpy.path.abspath(os.fspath(path)))
    if not found.exists():
        raise EDTalkError(f"The recording {found} does not exist.", "Choose a video or a picture of a face.", "media")
    return found


def _submit(
    obj: bpy.types.Object,
    path: Path,
    options: Options,
    asked: Mapping[str, Any],
    label: str,
    apply: Callable[[answers.CaptureResult], None],
) -> Task:
    with suppress(EDTalkError):  # a face can be looked at before there is a portrait
        if not portrait.is_known(obj):
            portrait.measure(obj)  # is answered first, so that rest is where this portrait's is
    bank = character.bank_path(obj)
    request = requests.Capture(bank, path, options.crop, which=options.which or None, **asked)
    return session.submit(request, label=label, on_done=apply)


def _rows(answer: answers.CaptureResult, names: Sequence[str]) -> Rows:
    columns = [answer.names.index(name) for name in names]
    return Rows(tuple(names), answer.rows[:, columns], answer.fps, answer.start)


def _rest(obj: bpy.types.Object, names: Sequence[str]) -> np.ndarray:
    rest = dict(zip(character.bank_of(obj).names, character.rest_row(obj), strict=True))
    return np.array([rest[name] for name in names])


def register() -> None:
    bpy.utils.register_class(CaptureSettings)
    bpy.types.Scene.edtalk_capture = PointerProperty(type=CaptureSettings, name="EDTalk Capture")


def unregister() -> None:
    del bpy.types.Scene.edtalk_capture
    bpy.utils.unregister_class(CaptureSettings)
