"""Read clips through FFmpeg's libraries (PyAV), one frame at a time: memory does not grow with the length.

Frames are uint8 sRGB (H, W, 3) in RGB order. A clip is resampled by presentation time, so a 30 fps clip keeps its speed
when it is read at 25 fps. Upstream takes frame by frame instead.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ..contract.content import unreadable_media
from ..contract.errors import EDTalkError
from ..contract.files import check_file
from ..contract.plate import PICTURES, pictures_in
from .colour import check_colours, to_srgb, transfer_of
from .container import decoded_packets, open_media
from .picture import load_picture
from .sound import LONGEST_GAP, OVERLAP

logger = logging.getLogger(__name__)
_EXPECTED = "expected a video such as MP4, MOV, MKV or WebM"
_SLACK = Fraction(2, 1000)  # seconds: containers may round times to 1 ms, which must not drop or repeat a frame
_SEEK_FROM = 2  # seconds into a clip; an earlier start is faster to reach by decoding
_SEEK_GAP = 10  # seconds between two requested frames, the usual distance of key frames; seek over more
_LONGEST = 24 * 3600  # seconds of a clip; a small file may claim any length
_COMB = 10  # levels by which a line of an interlaced frame must differ from its neighbours to be taken for a comb
_EPSILON = Fraction(1, 10**6)  # seconds: rounding error of a frame's time as a float


def parse_fps(value: float | str | Fraction) -> Fraction:
    """Frames per second from a number, "25", "24000/1001" or "23.976". Rates such as 23.976 become exact fractions.

    Raises EDTalkError if it is not a number greater than 0 and at most 1000.
    """
    try:
        # A text such as 1e999999999 would be computed exactly, which takes any time and memory.
        fps = Fraction(0) if isinstance(value, str) and ("e" in value.lower() or len(value) > 40) else Fraction(value)
    except (ValueError, ZeroDivisionError, TypeError, OverflowError):
        fps = Fraction(0)
    if not 0 < fps <= 1000:
        raise EDTalkError(f"A frame rate must be a number such as 25, 23.976 or 24000/1001, found '{str(value)[:80]}'.")
    for whole in (24, 30, 48, 60, 120):
        film = Fraction(whole * 1000, 1001)
        if abs(fps - film) < 0.005:
            return film
    return fps.limit_denominator(1001)


@dataclass(frozen=True)
class ClipInfo:
    """Properties of a clip.

    width, height: square pixels, as shown (after rotation). fps: average. frames: estimated, None if unknown.
    duration: seconds, None if unknown. rotation: counterclockwise degrees by which players rotate the stored picture.
    transfer: "pq" or "hlg" for HDR, else "".
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    duration: float | None
    rotation: int
    has_audio: bool
    transfer: str = ""


def probe(path: str | os.PathLike[str]) -> ClipInfo:
    """Read the properties of a clip; decodes its first frame only. Raises EDTalkError(kind="media")."""
    path = Path(path)
    container, stream = _open_clip(path)
    with contextlib.closing(_decode(container, stream, path)) as frames:
        first = next(frames)
        rotation = round(first.rotation / 90) * 90 % 360
        width, height = _shown_size(first, _aspect(stream))
        width, height = (height, width) if rotation % 180 else (width, height)
        fps, duration = _rate(stream), _duration(container, stream)
        count = stream.frames or (round(duration * fps) if duration else None)
        sound = bool(container.streams.audio)
        seconds = float(duration) if duration else None
        return ClipInfo(width, height, fps, count, seconds, rotation, sound, transfer_of(first))


def read_frames(
    path: str | os.PathLike[str],
    fps: float | str | Fraction | None = None,
    *,
    start: float | Fraction = 0,
    end: float | Fraction | None = None,
) -> Iterator[np.ndarray]:
    """The frames of a clip as shown: rotated upright, with square pixels, uint8 sRGB (H, W, 3).

    With `fps`, frame i is the one shown at start + i / fps seconds, up to `end` or the end of the clip; there are
    round((duration - start) * fps) of them, at least one. Without `fps`, every stored frame of the whole clip.
    start, end: seconds. A damaged or truncated file yields its readable frames and logs a warning.
    Raises EDTalkError(kind="media") if there is no frame, at the call or at the first frame.
    """
    path = Path(path)
    if fps is None:
        container, stream = _open_clip(path)
        aspect = _aspect(stream)
        return (_to_rgb(frame, aspect) for frame in _decode(container, stream, path))
    rate, first = parse_fps(fps), Fraction(start)
    return _resampled(_Part(path, first), rate, first, None if end is None else Fraction(end))


def open_driver(
    path: str | os.PathLike[str],
    fps: float | str | Fraction | None = None,
    *,
    start: float | Fraction = 0,
    end: float | Fraction | None = None,
) -> Iterator[np.ndarray]:
    """The frames of a driver: a movie, one picture, or a folder of pictures in natural order, uint8 (H, W, 3) each.

    `fps` resamples movies only. Every picture of a folder is one frame, and `fps` gives the pictures between `start`
    and `end` seconds. Raises EDTalkError(kind="media").
    """
    path = Path(path)
    if path.is_dir():
        return (load_picture(picture).opaque for picture in pictures_of(path, fps, start=start, end=end))
    if path.suffix.lower() in PICTURES:
        return iter([load_picture(path).opaque])
    return read_frames(path, fps, start=start, end=end)


def pictures_of(
    folder: str | os.PathLike[str],
    fps: float | str | Fraction | None = None,
    *,
    start: float | Fraction = 0,
    end: float | Fraction | None = None,
) -> list[Path]:
    """The pictures of a folder that `open_driver` reads. Raises EDTalkError(kind="media") if there is none."""
    pictures = pictures_in(folder)
    first, last = (0, None) if fps is None else _span(parse_fps(fps), start, end)
    if first >= len(pictures):
        message = f"{folder} has {len(pictures)} pictures; picture {first + 1} does not exist."
        raise EDTalkError(message, "Choose an earlier start.", "media")
    return pictures[first:last]


def stamped_frames(
    path: str | os.PathLike[str], *, start: float = 0, end: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Every stored frame shown from `start` to `end`, with its start time.

    Times are in the media's own time: seconds for a movie, the number of the picture from 0 for a folder, 0 for a
    picture. Frames are uint8 (H, W, 3), at uneven times if they are stored so. Raises EDTalkError(kind="media").
    """
    path = Path(path)
    end = math.inf if end is None else end
    if path.is_dir() or path.suffix.lower() in PICTURES:
        pictures = dict(enumerate(pictures_in(path) if path.is_dir() else [path]))
        shown = [number for number in pictures if number > start - 1 and number < end]
        if not shown:
            raise _ends_before(path, len(pictures), start, "pictures")
        for number in shown:
            yield float(number), load_picture(pictures[number]).opaque
        return
    found, time, part = False, Fraction(0), _Part(path, Fraction(start))
    for time, until, frame in _timed(part, part.begins):
        if time >= end - _SLACK and found:
            return
        if until > start + _SLACK:
            found = True
            yield float(time), _to_rgb(frame, part.aspect)
    if not found:
        raise _ends_before(path, float(time), start, "s")


def frames_at(path: str | os.PathLike[str], times: Iterable[float]) -> Iterator[np.ndarray]:
    """The frame shown at each of `times`, ascending, in the media's own time as in `stamped_frames`.

    Times before the first frame give the first, times after the last frame give the last. A frame does not depend on
    the other times. The same array is returned again for the same frame. Raises EDTalkError(kind="media").
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in PICTURES:
        pictures = pictures_in(path) if path.is_dir() else [path]
        for number, same in itertools.groupby(min(max(int(time + 1e-6), 0), len(pictures) - 1) for time in times):
            yield from itertools.repeat(load_picture(pictures[number]).opaque, len(list(same)))
        return
    frames: Iterator[tuple[Fraction, Fraction, av.VideoFrame]] = iter(())
    until, seekable = Fraction(-1), True
    frame: av.VideoFrame | None = None
    aspect, rgb = Fraction(1), None
    for time in times:
        at = Fraction(time) + _EPSILON
        if frame is None or (seekable and at - until > _SEEK_GAP):
            part = _Part(path, Fraction(time))
            aspect = part.aspect
            seekable = part.zero is not None or frame is None
            frames, until = _timed(part, part.begins), Fraction(-1)
        while until <= at and (following := next(frames, None)) is not None:
            (_, until, frame), rgb = following, None
        if rgb is None:
            assert frame is not None, "a part has at least one frame"
            rgb = _to_rgb(frame, aspect)
        yield rgb


def _ends_before(path: Path, length: float, start: float, unit: str) -> EDTalkError:
    message = f"{path} ends at {length:g} {unit}; the requested start is {start:g}."
    return EDTalkError(message, "Choose an earlier start.", "media")


def _span(fps: Fraction, start: float | Fraction, end: float | Fraction | None) -> tuple[int, int | None]:
    """Number of the frame shown at `start`, and of the first frame that starts at `end` or later (None: no end)."""
    first = math.floor((Fraction(start) + _SLACK) * fps)
    return first, None if end is None else max(first + 1, math.ceil((Fraction(end) - _SLACK) * fps))


def _open_clip(path: Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open a file and choose its first video stream. Raises EDTalkError(kind="media")."""
    check_file(path, _EXPECTED)
    try:
        container = open_media(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise unreadable_media(path, _EXPECTED) from error
    if not container.streams:  # a damaged index
        container.close()
        raise unreadable_media(path, _EXPECTED)
    covers = av.stream.Disposition.attached_pic  # the cover picture of a music file
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        found = "only sound" if container.streams.audio else "no video stream"
        container.close()
        raise EDTalkError(f"{path} has no video: {_EXPECTED}, found {found}.", "Choose another file.", "media")
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        container.close()
        message = f"The picture of {path} has a format that cannot be decoded: {_EXPECTED}."
        raise EDTalkError(message, "Export it as H.264.", "media")
    return container, known[0]


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream, path: Path
) -> Generator[av.VideoFrame, None, None]:
    """Frames in presentation order. Damaged packets are skipped, with a warning at the end."""
    stream.thread_type = "AUTO"
    count, bad, last = 0, 0, None  # last: the largest timestamp
    with container:
        expected = _duration(container, stream)
        for frames, damaged in decoded_packets(container, stream):
            bad += damaged
            for frame in frames:
                if not count:
                    check_colours(frame, stream.codec_context.codec_tag, str(path))
                count += 1
                if frame.pts is not None and (last is None or frame.pts > last):
                    last = frame.pts
                yield frame
    if not count:
        message = f"{path} is damaged: {_EXPECTED}, found no readable frame."
        raise EDTalkError(message, "Copy or export it again.", "media")
    end = Fraction(0)
    if last is not None:
        end = _seconds(last - (stream.start_time or 0), stream.time_base) + 1 / _rate(stream)
    short = expected is not None and expected - end > max(Fraction(1, 5), 3 / _rate(stream))
    if bad or short:
        whole = f" of {stream.frames}" if stream.frames > count else ""
        length = f" of {float(expected):.2f}" if expected else ""
        found = f"read {count}{whole} frames, {float(end):.2f}{length} s"
        logger.warning("%s is damaged or truncated: %s. Copy or export it again.", path, found)


class _Part:
    """The decoded frames of a clip from `start` seconds or earlier on. It seeks there if the file allows it.

    usual: usual duration of a frame in seconds. aspect: width of a stored pixel over its height. begins: timestamp in
    seconds of the clip's start according to the file, None if unknown. zero: that timestamp after seeking, otherwise
    None for that of the first frame.
    """

    def __init__(self, path: Path, start: Fraction) -> None:
        container, stream = _open_clip(path)
        self.path, self.usual, self.aspect = path, 1 / _rate(stream), _aspect(stream)
        self.zero: Fraction | None = None
        self.begins = None if stream.start_time is None else _seconds(stream.start_time, stream.time_base)
        self.frames: Iterator[av.VideoFrame] = _decode(container, stream, path)
        if start > _SEEK_FROM and stream.start_time is not None:
            zero = _seconds(stream.start_time, stream.time_base)
            sought = _seek(path, start + zero)
            if sought is not None:
                self.frames, self.zero = sought, zero
                container.close()


def _seek(path: Path, time: Fraction) -> Iterator[av.VideoFrame] | None:
    """The frames from the last key frame before timestamp `time` in seconds on; None if seeking fails."""
    container, stream = _open_clip(path)
    try:
        container.seek(math.floor(time / _seconds(1, stream.time_base)), stream=stream)
        frames = _decode(container, stream, path)
        first = next(frames)
    except (av.FFmpegError, OSError, EDTalkError):
        container.close()
        return None
    if first.pts is None or _seconds(first.pts, first.time_base) > time + _SLACK:
        frames.close()
        return None
    return itertools.chain([first], frames)


def _timed(part: _Part, zero: Fraction | None) -> Iterator[tuple[Fraction, Fraction, av.VideoFrame]]:
    """The begin and end of each frame of a part, in seconds since the clip's beginning, and the frame.

    zero: timestamp of the clip's beginning in seconds; None: that of the first frame. A frame that ends when it begins
    is left out. A frame without a timestamp or duration lasts `part.usual`. Timestamps that start again, as where
    recordings were joined, and gaps that only damage explains are corrected as those of the sound are.
    """
    current: av.VideoFrame | None = None
    time = Fraction(0)
    for frame in part.frames:
        stamp = None if frame.pts is None else _seconds(frame.pts, frame.time_base)
        zero = (stamp or Fraction(0)) if zero is None else zero
        following = time + (_length(current) or part.usual) if current is not None else time
        begins = following if stamp is None else stamp - zero
        if begins - following > LONGEST_GAP or (current is not None and begins - following < -OVERLAP):
            zero, begins = zero + begins - following, following
        if current is not None and begins > time:
            yield time, begins, current
        time, current = begins if current is None else max(time, begins), frame
    if current is not None:
        yield time, time + max(_length(current) or part.usual, 2 * _SLACK), current


def _resampled(part: _Part, fps: Fraction, start: Fraction, end: Fraction | None) -> Iterator[np.ndarray]:
    """RGB frames at an even rate: each is the frame shown at its time."""
    ready: deque[np.ndarray] = deque()  # chosen, but held back: a clip may end less than half a frame later
    chosen = given = 0
    wanted = math.inf if end is None else max(1, math.ceil((end - start - _SLACK) * fps))
    for _, until, frame in _timed(part, part.zero):
        if until - start > _LONGEST:
            message = f"{part.path} claims to be longer than {_LONGEST // 3600} hours."
            raise EDTalkError(message, "Export only the part that is needed.", "media")
        rgb = None
        while start + chosen / fps < until - _SLACK:
            while ready and given < wanted:  # certain now: only the last one may be cut off by the clip's end
                yield ready.popleft()
                given += 1
            if given >= wanted:
                return
            rgb = _to_rgb(frame, part.aspect) if rgb is None else rgb
            ready.append(rgb)
            chosen += 1
        count = max(1, math.floor((until - start) * fps + Fraction(1, 2)))  # frames of a clip that ends here
        while ready and given < min(count, wanted):
            yield ready.popleft()
            given += 1
        if given >= wanted:
            return
    if not given:
        message = f"{part.path} ends at {float(until):.2f} s; the requested start is {float(start):.2f} s."
        raise EDTalkError(message, "Choose an earlier start.", "media")


def _seconds(count: int, time_base: Fraction | None) -> Fraction:
    assert time_base is not None, "FFmpeg gives every stream a time base"
    return count * time_base


def _length(frame: av.VideoFrame) -> Fraction | None:
    return _seconds(frame.duration, frame.time_base) if frame.duration else None


def _to_rgb(frame: av.VideoFrame, aspect: Fraction) -> np.ndarray:
    rgb = to_srgb(frame, *_shown_size(frame, aspect))
    if frame.interlaced_frame:
        rgb = deinterlaced(rgb)
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90) % 4))


def deinterlaced(rgb: np.ndarray) -> np.ndarray:
    """An interlaced frame, uint8 (H, W, 3), as it was in the moment of its even lines.

    Pixels of the odd lines, which were recorded in another moment, are replaced by the mean of those above and below
    where they differ from both. Other lines keep their detail. No other frame is needed, so the result does not depend
    on where reading began.
    """
    above = rgb[:-1:2].astype(np.int16)
    line = rgb[1::2].astype(np.int16)
    below = np.concatenate([above[1:], above[-1:]])[: len(line)]
    combed = ((line - above) * (line - below).astype(np.int32)).max(axis=2) > _COMB**2
    result = rgb.copy()
    result[1::2][combed] = ((above + below + 1) // 2)[combed]
    return result


def _shown_size(frame: av.VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Width and height of a frame in square pixels, before it is rotated; the height is kept."""
    width = frame.width if aspect == 1 else max(1, round(frame.width * aspect))
    return width, frame.height


def _aspect(stream: av.VideoStream) -> Fraction:
    """Width of a stored pixel over its height; 1 for values that only a damaged header claims, as in players."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and Fraction(1, 4) <= aspect <= 4 else Fraction(1)


def _rate(stream: av.VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction | None:
    if stream.duration:
        return _seconds(stream.duration, stream.time_base)
    return Fraction(container.duration, av.time_base) if container.duration else None
