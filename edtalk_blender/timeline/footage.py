"""Movie and image strips as recordings of a face: their files, and when a strip shows which second of its film."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import bpy

from ...inference.contract.errors import EDTalkError
from .. import compat
from . import audio, sequencer
from .timemap import TimeMap


def selected(context: bpy.types.Context) -> list[bpy.types.MovieStrip]:
    """The selected movie strips of the edited scene, in order of time."""
    return [strip for strip in sequencer.selected(context) if strip.type == "MOVIE"]


def seen_at(context: bpy.types.Context, frame: float) -> bpy.types.Strip | None:
    """The selected movie or image strip that is shown at a frame, the uppermost if there are several."""
    shown = [
        strip
        for strip in sequencer.selected(context)
        if strip.type in ("MOVIE", "IMAGE") and compat.left_handle(strip) <= frame < compat.right_handle(strip)
    ]
    return max(shown, key=lambda strip: strip.channel, default=None)


def movie_path(strip: bpy.types.MovieStrip) -> Path:
    """The file of a movie strip, absolute; EDTalkError(kind="media") when it is missing."""
    return _existing(strip, strip.filepath)


def picture_path(strip: bpy.types.ImageStrip, frame: float) -> Path:
    """The file that an image strip shows at a frame, absolute; EDTalkError(kind="media") when it is missing."""
    number = int(frame - compat.content_start(strip)) + compat.strip_value(strip, "content_trim_start")
    element = strip.elements[min(max(number, 0), len(strip.elements) - 1)]
    return _existing(strip, strip.directory + element.filename)


def _existing(strip: bpy.types.Strip, file: str) -> Path:
    path = Path(bpy.path.abspath(file, library=strip.id_data.library))
    if not path.is_file():
        raise EDTalkError(f"The file of '{strip.name}' is missing: {path}.", audio.FIND_MISSING, "media")
    return path


def time_map(scene: bpy.types.Scene, strip: bpy.types.MovieStrip) -> TimeMap:
    """When a movie strip shows which second of its film: trimmed, slipped, retimed, in metastrips.

    A film of another frame rate than the scene's runs at its own speed, or frame by frame where the strip was added
    so. Raises EDTalkError for a file that is missing or no film, and for a strip that plays backwards.
    """
    if strip.use_reverse_frames:
        message = f"'{strip.name}' plays backwards, which a captured performance does not follow."
        raise EDTalkError(message, "Switch off Reverse Frames in the strip's properties.")
    rate, start = sequencer.fps(scene), compat.content_start(strip)
    cut = compat.strip_value(strip, "content_trim_start")
    content = max(film_frames(movie_path(strip)) - cut - compat.strip_value(strip, "content_trim_end"), 1)
    film = strip.fps or rate
    keys = compat.retiming(strip, content)
    if keys is None:  # what lies between the first and the last cannot be read
        keys = [(strip.retiming_keys[0].timeline_frame, 0.0), (strip.retiming_keys[-1].timeline_frame, float(content))]
    keys = keys or [(start, 0.0), (start + content, float(content))]

    # A strip that keeps its film's speed counts the frames of its keys as if it did not.
    length, speed = keys[-1][0] - start, film / rate
    duration = compat.strip_value(strip, "content_duration")
    speed = speed if abs(duration - length / speed) < abs(duration - length) else 1.0
    knots = tuple((start + (frame - start) / speed, (cut + shown) / film) for frame, shown in keys)

    clock = TimeMap(rate, compat.left_handle(strip), max(compat.left_handle(strip), compat.right_handle(strip)), knots)
    meta = strip.parent_meta()
    while meta:
        clock = clock.clipped(compat.left_handle(meta), compat.right_handle(meta))
        meta = meta.parent_meta()
    return clock


def film_frames(path: Path) -> int:
    """Number of frames of a film, as Blender counts them; EDTalkError(kind="media") for another file."""
    state = path.stat()
    return _film_frames(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _film_frames(path: Path, _changed: int, _size: int) -> int:
    clip = None
    try:
        clip = bpy.data.movieclips.load(str(path))
        frames = clip.frame_duration
    except RuntimeError:
        frames = 0
    finally:
        if clip is not None:
            bpy.data.movieclips.remove(clip)
    if frames < 1:
        raise EDTalkError(f"{path} is no film that Blender can read.", "Choose MP4, MOV, MKV or WebM.", "media")
    return frames


def unregister() -> None:
    _film_frames.cache_clear()
