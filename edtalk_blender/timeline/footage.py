"""Movie and image strips as footage of a face: their files, and which second of a movie a strip shows at a frame."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import bpy

from ...inference.contract.content import unreadable_media
from ...inference.contract.errors import EDTalkError
from ...inference.contract.files import check_file
from .. import compat
from . import audio, sequencer
from .timemap import TimeMap

_EXPECTED = "expected a movie such as MP4, MOV, MKV or WebM"


def selected(context: bpy.types.Context) -> list[bpy.types.MovieStrip]:
    """The selected movie strips of the edited scene, in order of time."""
    return [strip for strip in sequencer.selected(context) if strip.type == "MOVIE"]


def selected_at(context: bpy.types.Context, frame: float) -> bpy.types.Strip | None:
    """The selected movie or image strip at a frame, the one on the highest channel if there are several."""
    shown = [
        strip
        for strip in sequencer.selected(context)
        if strip.type in ("MOVIE", "IMAGE") and compat.left_handle(strip) <= frame < compat.right_handle(strip)
    ]
    return max(shown, key=lambda strip: strip.channel, default=None)


def movie_path(strip: bpy.types.MovieStrip) -> Path:
    """The file of a movie strip, absolute. Raises EDTalkError(kind="media") if it is missing."""
    return _existing(strip, strip.filepath)


def picture_path(strip: bpy.types.ImageStrip, frame: float) -> Path:
    """The file that an image strip shows at a frame, absolute. Raises EDTalkError(kind="media") if it is missing."""
    number = int(frame - compat.content_start(strip)) + compat.strip_value(strip, "content_trim_start")
    element = strip.elements[min(max(number, 0), len(strip.elements) - 1)]
    return _existing(strip, strip.directory + element.filename)


def _existing(strip: bpy.types.Strip, file: str) -> Path:
    path = Path(bpy.path.abspath(file, library=strip.id_data.library))
    if not path.is_file():
        raise EDTalkError(f"The file of '{strip.name}' is missing: {path}.", audio.FIND_MISSING, "media")
    return path


def time_map(scene: bpy.types.Scene, strip: bpy.types.MovieStrip) -> TimeMap:
    """Which second of its movie a movie strip shows at each frame; trims, slips, retiming and metastrips count.

    A movie whose frame rate differs from the scene's plays at its own speed, or frame by frame if the strip was added
    that way. Raises EDTalkError for a file that is missing or not a movie, and for a reversed strip.
    """
    if strip.use_reverse_frames:
        message = f"'{strip.name}' is reversed; reversed strips are not supported."
        raise EDTalkError(message, "Disable Reverse Frames in the strip's properties.")
    rate, start = sequencer.fps(scene), compat.content_start(strip)
    cut = compat.strip_value(strip, "content_trim_start")
    content = max(movie_frames(movie_path(strip)) - cut - compat.strip_value(strip, "content_trim_end"), 1)
    movie_rate = sequencer.movie_fps(strip) or rate
    keys = compat.retiming(strip, content)
    if keys is None:  # the keys between the first and the last cannot be read
        keys = [(strip.retiming_keys[0].timeline_frame, 0.0), (strip.retiming_keys[-1].timeline_frame, float(content))]
    keys = keys or [(start, 0.0), (start + content, float(content))]

    # Where a strip plays at the movie's own speed, Blender still counts its keys in movie frames.
    length, speed = keys[-1][0] - start, movie_rate / rate
    duration = compat.strip_value(strip, "content_duration")
    speed = speed if abs(duration - length / speed) < abs(duration - length) else 1.0
    knots = tuple((start + (frame - start) / speed, (cut + shown) / movie_rate) for frame, shown in keys)

    clock = TimeMap(rate, compat.left_handle(strip), max(compat.left_handle(strip), compat.right_handle(strip)), knots)
    meta = strip.parent_meta()
    while meta:
        clock = clock.clipped(compat.left_handle(meta), compat.right_handle(meta))
        meta = meta.parent_meta()
    return clock


def movie_frames(path: Path) -> int:
    """Number of frames of a movie, as Blender counts them. Raises EDTalkError(kind="media") for other files."""
    check_file(path, _EXPECTED)
    state = path.stat()
    return _movie_frames(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _movie_frames(path: Path, _changed: int, _size: int) -> int:
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
        raise unreadable_media(path, _EXPECTED)
    return frames


def unregister() -> None:
    _movie_frames.cache_clear()
