"""Strips of the sequencer: identity, character, time and channel, and the scene's settings.

A strip's identity is its custom property `edtalk_id`, its character's `edtalk_character`. Custom properties are saved,
copied and undone with the strip.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, PointerProperty, StringProperty

from ...inference.contract.errors import EDTalkError
from .. import compat
from ..character import character
from . import audio, timemap
from .timemap import TimeMap

ID, CHARACTER = "edtalk_id", "edtalk_character"
TIME = "edtalk_time"  # of a strip whose keys or face follow it: its TimeMap when they were last in place
SHOT = "edtalk_shot"  # of a face strip: folder of the shot that it was rendered from
NLA = "edtalk_nla"  # of a dialogue strip: name of the NLA strip that holds its mouth keys
HEAD_NLA = "edtalk_head_nla"  # of a dialogue strip: names of the NLA strips with its head motion (JSON list)
SPEECH_NLA = "edtalk_speech_nla"  # of a dialogue strip: names of those with other motion from speech (JSON object)
SOUNDS = "edtalk_sounds"  # of a face strip: identities of the dialogue strips that it was rendered for
LAYER = "edtalk_layer"  # of a face strip: layer of its pictures, as a `Shot` has it
PLATE = "edtalk_plate"  # of a face strip: identity of the movie strip that it lies over
APART = "edtalk_apart"  # of a face strip: the frame rates of plate and scene differ, so it may be a frame off
STALE = "edtalk_stale"  # of a dialogue strip: part of it has no keys; of a face strip: its plate has changed
GENERATED = "edtalk_generated"  # of a dialogue strip: its keys in the action have the type Generated
LAST_CHANNEL = 128
_MOST_RATES = 64
_movie_rates: dict[tuple[str, int, int], float] = {}  # by file, time of its change and size


# --- Identities


def identity(strip: bpy.types.Strip) -> str:
    """The strip's identity, assigned if it has none."""
    if not strip.get(ID):
        strip[ID] = uuid.uuid4().hex[:12]
    return strip[ID]


def find(scene: bpy.types.Scene, strip_id: str) -> bpy.types.Strip | None:
    """The strip with this identity, or None."""
    return next((strip for strip in compat.strips(scene) if strip_id and strip.get(ID) == strip_id), None)


def ensure_unique_ids(scene: bpy.types.Scene) -> None:
    """Give copies of strips a new identity, because Blender copies the original's.

    The original is the strip whose time is as remembered, else one that plays part of it in place, else the one on the
    lowest channel. A copy that plays what none of the others plays was cut off: it remembers the time of its part
    before the cut, so its keys follow if it was moved too. Any other copy has no keys.
    """
    shared = Counter(strip[ID] for strip in compat.strips(scene) if strip.get(ID))
    for own in (own for own, count in shared.items() if count > 1):
        copies = [strip for strip in compat.strips(scene) if strip.get(ID) == own]
        copies.sort(key=lambda strip: (not _as_remembered(scene, strip), not _is_in_place(scene, strip), strip.channel))
        played = [_played(scene, copies[0])]
        for strip in copies[1:]:
            strip[ID] = uuid.uuid4().hex[:12]
            _take_faces(scene, strip, copies[0])
            then, part = remembered_time(strip), _played(scene, strip)
            if then is None or part is None:
                continue
            is_piece = not any(other and timemap.overlap(part, other) for other in played)
            if is_piece and strip.get(NLA) and not _is_in_place(scene, strip):
                is_piece, strip[STALE] = False, True  # its keys are in the NLA strip of the original
            if is_piece:
                played.append(part)
                remember_time(strip, then.clipped(*part))
            else:
                del strip[TIME]


def _played(scene: bpy.types.Scene, strip: bpy.types.Strip) -> tuple[int, int] | None:
    """The frames, as remembered, of the content that a strip plays now; None if nothing is remembered."""
    remembered, current = remembered_time(strip), time_map(scene, strip)
    if remembered is None:
        return None
    first, last = np.floor(current.follow([current.start, current.end - 1], remembered) + 0.5).astype(int).tolist()
    part = remembered.clipped(first, last + 1)
    return part.start, part.end


def _is_in_place(scene: bpy.types.Scene, strip: bpy.types.Strip) -> bool:
    """Whether a strip plays a part of what is remembered, at the remembered frames."""
    remembered, current = remembered_time(strip), time_map(scene, strip)
    return remembered is not None and remembered.clipped(current.start, current.end).same_as(current)


def _take_faces(scene: bpy.types.Scene, plate: bpy.types.Strip, original: bpy.types.Strip) -> None:
    """Reassign face strips that lie over a piece or copy of a plate, and not over the original, to it."""

    def covers(one: bpy.types.Strip, face: bpy.types.Strip) -> bool:
        ends = compat.left_handle(one), compat.right_handle(one)
        return ends[0] <= compat.left_handle(face) and compat.right_handle(face) <= ends[1]

    for face in [strip for strip in compat.strips(scene) if is_face(strip) and strip.get(PLATE) == original[ID]]:
        if covers(plate, face) and not covers(original, face):
            face[PLATE] = plate[ID]


def _as_remembered(scene: bpy.types.Scene, strip: bpy.types.Strip) -> bool:
    then = remembered_time(strip)
    return then is not None and then.same_as(time_map(scene, strip))


# --- Characters


def is_dialogue(strip: bpy.types.Strip) -> bool:
    return strip.type == "SOUND" and bool(strip.get(CHARACTER))


def is_face(strip: bpy.types.Strip) -> bool:
    return strip.type == "IMAGE" and bool(strip.get(CHARACTER))


def is_plate(strip: bpy.types.Strip) -> bool:
    """Whether a strip is a movie strip that a character dubs."""
    return strip.type == "MOVIE" and bool(strip.get(CHARACTER))


def assign(strip: bpy.types.Strip, obj: bpy.types.Object | None) -> None:
    """Set the character that speaks in a sound strip or dubs a movie strip; None removes it."""
    identity(strip)
    if obj is not None:
        strip[CHARACTER] = obj.edtalk.uid
    elif CHARACTER in strip:
        del strip[CHARACTER]


def speaker(strip: bpy.types.Strip) -> bpy.types.Object | None:
    """The character of a strip, or None. Read-only, so panels may call it."""
    uid = strip.get(CHARACTER)
    objects = [obj for obj in bpy.data.objects if character.is_character(obj) and obj.edtalk.uid == uid] if uid else []
    return min(objects, key=lambda obj: (obj.library is not None, obj.session_uid), default=None)


def speaking(
    scene_name: str, strip_id: str
) -> tuple[bpy.types.Scene | None, bpy.types.Strip | None, bpy.types.Object | None]:
    """Scene, strip and character of a request to the engine; all None if one of them was deleted."""
    scene = bpy.data.scenes.get(scene_name)
    strip = find(scene, strip_id) if scene else None
    obj = speaker(strip) if strip else None
    return (scene, strip, obj) if obj else (None, None, None)


def default_speaker(context: bpy.types.Context, scene: bpy.types.Scene) -> bpy.types.Object | None:
    """The character for strips that have none yet: the active one, or the only one."""
    active = context.view_layer.objects.active if context.view_layer else None
    if character.is_character(active):
        return active
    candidates = characters(context, scene)
    return candidates[0] if len(candidates) == 1 else None


def characters(context: bpy.types.Context, scene: bpy.types.Scene) -> list[bpy.types.Object]:
    """The characters of the edited scene; if it has none, of the window's scene, else of all other scenes."""
    in_scene = character.characters(scene) or character.characters(context.scene)
    if in_scene:
        return in_scene
    others = {obj for other in bpy.data.scenes for obj in character.characters(other)}
    return sorted(others, key=lambda obj: obj.name)


def dialogue(scene: bpy.types.Scene, obj: bpy.types.Object) -> list[bpy.types.Strip]:
    """The sound strips in which a character speaks, in order of time."""
    uid = obj.edtalk.uid
    own = [strip for strip in compat.strips(scene) if is_dialogue(strip) and strip[CHARACTER] == uid]
    return sorted(own, key=compat.left_handle)


def faces(scene: bpy.types.Scene, obj: bpy.types.Object) -> list[bpy.types.Strip]:
    """The face strips of a character, in order of time."""
    uid = obj.edtalk.uid
    own = [strip for strip in compat.strips(scene) if is_face(strip) and strip[CHARACTER] == uid]
    return sorted(own, key=compat.left_handle)


def plates(scene: bpy.types.Scene, obj: bpy.types.Object) -> list[bpy.types.MovieStrip]:
    """The movie strips that a character dubs, in order of time."""
    uid = obj.edtalk.uid
    own = [strip for strip in compat.strips(scene) if is_plate(strip) and strip[CHARACTER] == uid]
    return sorted(own, key=compat.left_handle)


# --- NLA strips with motion from speech


def motion_strips(strip: bpy.types.Strip, kind: str) -> list[str]:
    """Names of the NLA strips with a kind of motion, such as "head"; [] if there are none or they are unreadable."""
    return _motion_strips(strip).get(kind, [])


def all_motion_strips(strip: bpy.types.Strip) -> list[str]:
    """Names of all NLA strips with motion from the speech of a dialogue strip."""
    return [name for names in _motion_strips(strip).values() for name in names]


def remember_motion_strips(strip: bpy.types.Strip, kind: str, names: list[str]) -> None:
    """Store in a dialogue strip the names of the NLA strips that one kind of motion was written to.

    kind: "head", or another kind of motion from speech. names: none removes the entry.
    """
    names_by_kind = _motion_strips(strip) | {kind: names}
    head, others = names_by_kind.pop("head", []), {kind: names for kind, names in names_by_kind.items() if names}
    for key, value in ((HEAD_NLA, head), (SPEECH_NLA, others)):
        if value:
            strip[key] = json.dumps(value)
        elif key in strip:
            del strip[key]


def _motion_strips(strip: bpy.types.Strip) -> dict[str, list[str]]:
    names_by_kind = {}
    try:
        names_by_kind["head"] = [str(name) for name in json.loads(strip.get(HEAD_NLA, "[]"))]
        stored = json.loads(strip.get(SPEECH_NLA, "{}"))
        names_by_kind |= {str(kind): [str(name) for name in names] for kind, names in stored.items()}
    except (ValueError, TypeError, AttributeError):
        return names_by_kind
    return names_by_kind


# --- Selection


def selected(context: bpy.types.Context) -> list[bpy.types.Strip]:
    """The selected strips of the edited scene, in order of time."""
    scene = compat.sequencer_scene(context)
    return sorted((strip for strip in compat.strips(scene) if strip.select), key=compat.left_handle) if scene else []


def selected_sounds(context: bpy.types.Context) -> list[bpy.types.SoundStrip]:
    return [strip for strip in selected(context) if strip.type == "SOUND"]


# --- Time


def fps(scene: bpy.types.Scene) -> float:
    """Frames per second of a scene."""
    return timemap.scene_fps(scene.render.fps, scene.render.fps_base)


def time_map(scene: bpy.types.Scene, strip: bpy.types.Strip) -> TimeMap:
    """Which second of its source a strip plays at each frame. Unreadable retiming keys count as constant speed."""
    rate, start, end = fps(scene), compat.left_handle(strip), max(compat.left_handle(strip), compat.right_handle(strip))
    clock = TimeMap.of_strip(
        rate,
        start,
        end,
        compat.content_start(strip),
        trimmed=compat.strip_value(strip, "content_trim_start"),
        delay=strip.sound_offset if strip.type == "SOUND" else 0.0,
        retiming=_retiming(strip, rate),
    )
    meta = strip.parent_meta()
    while meta:
        clock = clock.clipped(compat.left_handle(meta), compat.right_handle(meta))
        meta = meta.parent_meta()
    return clock


def _retiming(strip: bpy.types.Strip, rate: float) -> Sequence[tuple[float, float]]:
    keys = strip.retiming_keys
    if len(keys) < 2:
        return ()
    content = content_frames(strip, rate)
    even = ((keys[0].timeline_frame, 0.0), (keys[-1].timeline_frame, float(content)))
    return compat.retiming(strip, content) or even


def content_frames(strip: bpy.types.Strip, rate: float) -> int:
    """Frames of the strip's content at original speed and at the scene's rate."""
    if strip.type == "IMAGE":
        return len(strip.elements)
    trimmed = compat.strip_value(strip, "content_trim_start") + compat.strip_value(strip, "content_trim_end")
    seconds = audio.seconds(strip)
    return timemap.content_frames(seconds, rate, trimmed) if seconds else compat.strip_value(strip, "content_duration")


def remembered_time(strip: bpy.types.Strip) -> TimeMap | None:
    """The strip's time when its keys were last in place; None before the first lip sync or if unreadable."""
    data = strip.get(TIME)
    try:
        return TimeMap.from_json(data.to_dict()) if data else None
    except (EDTalkError, AttributeError):
        return None


def remember_time(strip: bpy.types.Strip, clock: TimeMap) -> None:
    """Store in a dialogue strip the time map with which its keys were written."""
    strip[TIME] = clock.to_json()


def is_blender_rendering() -> bool:
    """Whether Blender itself is rendering in a background thread. For faces see `render.is_rendering`."""
    return bool(bpy.app.is_job_running("RENDER"))


def movie_fps(strip: bpy.types.MovieStrip) -> float:
    """Frames per second of a movie strip's file, 0 if unknown.

    Blender opens the file for it, which takes up to 50 ms, and closes the one that is open. If a render reads that in
    its thread, Blender hangs. So it is asked once for each file, and not during a render.
    """
    path = bpy.path.abspath(strip.filepath, library=strip.id_data.library)
    try:
        state = os.stat(path)
    except OSError:
        return 0.0
    key = path, state.st_mtime_ns, state.st_size
    if key not in _movie_rates:
        if is_blender_rendering():
            return float(strip.elements[0].orig_fps) if len(strip.elements) else 0.0
        if len(_movie_rates) >= _MOST_RATES:
            _movie_rates.clear()
        _movie_rates[key] = float(strip.fps)
    return _movie_rates[key]


def frame_rate_note(scene: bpy.types.Scene, strip: bpy.types.Strip) -> str:
    """A warning if a strip comes from a movie whose frame rate differs from the scene's, else "".

    A sound has no frame rate of its own, so the movie strip with the same file is looked up.
    """
    rate = fps(scene)
    if strip.type == "MOVIE":
        return timemap.rate_mismatch(rate, movie_fps(strip))
    if strip.type != "SOUND" or strip.sound is None:
        return ""
    path = audio.file_path(strip)
    for other in compat.strips(scene):
        if other.type == "MOVIE" and Path(bpy.path.abspath(other.filepath)) == path:
            return timemap.rate_mismatch(rate, movie_fps(other))
    return ""


def retimed_meta(strip: bpy.types.Strip) -> bpy.types.Strip | None:
    """The innermost retimed meta strip that contains a strip, else None.

    Blender's API does not give the retiming keys of a meta strip, but its content is then longer or shorter than the
    strips in it.
    """
    meta = strip.parent_meta()
    while meta:
        inside = timemap.union((compat.left_handle(one), compat.right_handle(one)) for one in meta.strips)
        if inside is not None and compat.strip_value(meta, "content_duration") != inside[1] - inside[0]:
            return meta
        meta = meta.parent_meta()
    return None


def retimed_meta_note(strip: bpy.types.Strip, meta: bpy.types.Strip) -> str:
    """The sentence about a strip in a retimed meta strip."""
    return f"'{strip.name}' is in the meta strip '{meta.name}', whose retiming Blender does not give to extensions."


def retiming_note(scene: bpy.types.Scene, strip: bpy.types.Strip) -> str:
    """A warning if the retiming of a strip or its meta strip cannot be read exactly, else ""."""
    if meta := retimed_meta(strip):
        return f"{retimed_meta_note(strip, meta)} Lip Sync cannot find its frames."
    if len(strip.retiming_keys) > 2 and compat.retiming(strip, content_frames(strip, fps(scene))) is None:
        return f"The retiming keys of '{strip.name}' cannot be read in this Blender version; constant speed is assumed."
    return ""


# --- Channels and files


def free_channel(scene: bpy.types.Scene, start: int, end: int, above: int = 0) -> int:
    """The lowest channel above `above` that is free from `start` to before `end`. Raises EDTalkError if none is."""
    occupied = {strip.channel for strip in compat.strip_collection(scene) if overlaps(strip, (start, end))}
    for channel in range(above + 1, LAST_CHANNEL + 1):
        if channel not in occupied:
            return channel
    message = f"No channel above {above} is free from frame {start} to {end}."
    raise EDTalkError(message, "Move or delete strips to make room.")


def overlaps(strip: bpy.types.Strip, span: tuple[int, int]) -> bool:
    """Whether a strip shows any frame from span[0] to the one before span[1]."""
    return compat.left_handle(strip) < span[1] and compat.right_handle(strip) > span[0]


def picture_range(strip: bpy.types.ImageStrip) -> tuple[int, int]:
    """The frame of an image strip's first picture, and the one after its last; also of trimmed pictures."""
    start = round(compat.content_start(strip))
    return start, start + len(strip.elements)


def is_covered(scene: bpy.types.Scene, strip: bpy.types.Strip) -> bool:
    """Whether another strip overlaps it on the same channel."""
    span = compat.left_handle(strip), compat.right_handle(strip)
    return any(
        other.channel == strip.channel and overlaps(other, span)
        for other in scene.sequence_editor.strips
        if other != strip
    )


def use_standard_view(scene: bpy.types.Scene) -> None:
    """Change the view transform AgX or Filmic, which alters image strips, to Standard, as Blender's Add Image does."""
    view = scene.view_settings
    if view.view_transform in ("AgX", "Filmic"):
        view.view_transform = "Standard"


def quoted(names: Iterable[str], most: int = 3) -> str:
    """Names in quotes for a message: `'a', 'b' and 5 more`."""
    names = [f"'{name}'" for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# --- Settings and ranges

RENDER_RANGES = (
    ("AUTO", "Dialogue or Scene", "The character's dialogue if it has any, else the scene's frame range"),
    ("DIALOGUE", "Dialogue", "From the first to the last of the character's sound strips"),
    ("SCENE", "Scene", "The scene's frame range"),
    ("PREVIEW", "Preview Range", "The preview range of the timeline"),
    ("STRIP", "Face Strip", "The frames of the character's face strips"),
)


class SequencerSettings(bpy.types.PropertyGroup):
    """Settings of a scene."""

    follow: BoolProperty(
        name="Follow Sound",
        description="Move the keys and the face strip along when a dialogue strip is moved, trimmed or retimed",
        default=True,
    )
    follow_face: BoolProperty(
        name="Follow Face",
        description="Move the dialogue strips and their keys along when a face strip is moved",
        default=True,
    )
    follow_keys: EnumProperty(
        name="Keys",
        description="Keys of the character that follow its dialogue",
        items=(
            ("LIPS", "Mouth", "Keys written by Lip Sync"),
            ("ALL", "All", "All keys of the character within the strip: mouth, emotions, head and idle motion"),
        ),
        default="ALL",
    )
    preview: BoolProperty(
        name="Live Preview",
        description="Update the face in the 3D Viewport and Image Editor while sliders or the playhead move",
        default=True,
    )
    preview_size: EnumProperty(
        name="Size",
        description="Resolution in pixels of the preview once sliders and playhead rest. While they move, the bank's "
        "native resolution is used, which is the fastest",
        items=(
            ("0", "Bank's Native", "Always the native resolution of the bank"),
            ("256", "256", "256 pixels"),
            ("512", "512", "512 pixels"),
            ("1024", "1024", "1024 pixels"),
        ),
        default="512",
    )
    lines: StringProperty(
        name="Dialogue", description="Strips with mouth keys: their character and frames (JSON)", options={"HIDDEN"}
    )
    render_range: EnumProperty(name="Range", description="Frames to render", items=RENDER_RANGES, default="AUTO")
    everybody: BoolProperty(name="All Characters", description="Render every character of the scene")
    image_format: EnumProperty(
        name="Format",
        description="File format of the rendered faces",
        items=(("png", "PNG", "8 bit, sRGB"), ("exr", "OpenEXR", "Half float, linear")),
        default="png",
    )


def settings(scene: bpy.types.Scene) -> SequencerSettings:
    return scene.edtalk_sequencer


def render_range(scene: bpy.types.Scene, obj: bpy.types.Object, which: str) -> tuple[int, int]:
    """First frame, and the frame after the last. which: an item of `RENDER_RANGES`.

    Raises EDTalkError if the character has no dialogue or face strip, or the scene no preview range.
    """
    if which in ("AUTO", "DIALOGUE"):
        clocks = [time_map(scene, strip) for strip in dialogue(scene, obj)]
        span = timemap.union((clock.start, clock.end) for clock in clocks)
        if span:
            return span
        if which == "DIALOGUE":
            raise EDTalkError(f"{obj.name} has no dialogue yet.", "Run Lip Sync, or choose another range.")
    if which == "PREVIEW":
        if not scene.use_preview_range:
            raise EDTalkError("The scene has no preview range.", "Set one in the timeline with P.")
        return scene.frame_preview_start, scene.frame_preview_end + 1
    if which == "STRIP":
        span = timemap.union(picture_range(strip) for strip in faces(scene, obj))
        if span is None:
            raise EDTalkError(f"{obj.name} has no face strip yet.", "Choose another range.")
        return span
    return scene.frame_start, scene.frame_end + 1


CLASSES = (SequencerSettings,)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    bpy.types.Scene.edtalk_sequencer = PointerProperty(type=SequencerSettings, name="EDTalk")


def unregister() -> None:
    del bpy.types.Scene.edtalk_sequencer
    unregister_classes()
