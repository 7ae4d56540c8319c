"""Clips in and out, through FFmpeg's libraries (PyAV), one frame at a time: memory does not grow with the length.

Frames are uint8 (H, W, 3), RGB, sRGB values.  Unlike upstream (architecture notes, section 9) a clip is read at the
frame rate asked for by presentation time, so that a 30 fps clip keeps its speed at 25 fps.
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

from ..contract.errors import EDTalkError
from ..contract.files import check_file
from ..contract.plate import PICTURES, pictures_in
from .container import open_media
from .picture import load_picture

logger = logging.getLogger(__name__)
_EXPECTED = "expected a video such as MP4, MOV, MKV or WebM"
_SLACK = Fraction(2, 1000)  # seconds: containers that round times to 1 ms must not lose or repeat a frame
_WORTH_SEEKING = 2  # seconds into a clip; less is read through sooner
_FAR = 10  # seconds between two frames wanted; as far apart as key frames usually are
_EXACT = Fraction(1, 10**6)  # seconds: what is lost of a frame's own time in a float


def parse_fps(value: float | str | Fraction) -> Fraction:
    """Frames per second from a number, "25", "24000/1001" or "23.976"; film rates such as 23.976 become exact."""
    try:
        fps = Fraction(value)
    except (ValueError, ZeroDivisionError, TypeError, OverflowError):
        fps = Fraction(0)
    if not 0 < fps <= 1000:
        raise EDTalkError(f"A frame rate is a number such as 25, 23.976 or 24000/1001, found '{value}'.")
    for whole in (24, 30, 48, 60, 120):
        film = Fraction(whole * 1000, 1001)
        if abs(fps - film) < 0.005:
            return film
    return fps.limit_denominator(1001)


# ------------------------------------------------------------------------------------------------ clips in


@dataclass(frozen=True)
class ClipInfo:
    """What a clip's file says of it.

    width, height: pixels, as shown (after rotation).  fps: average.  frames: estimated, None if unknown.
    duration: seconds, None if unknown.  rotation: degrees counterclockwise that a player turns the stored picture.
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    duration: float | None
    rotation: int
    has_audio: bool


def probe(path: str | os.PathLike[str]) -> ClipInfo:
    """Look at a clip without reading more than its first frame; raises EDTalkError(kind="media")."""
    path = Path(path)
    container, stream = _open_clip(path)
    with contextlib.closing(_decode(container, stream, path)) as frames:
        first = next(frames)
        rotation = round(first.rotation / 90) * 90 % 360
        width, height = (first.height, first.width) if rotation % 180 else (first.width, first.height)
        fps, duration = _rate(stream), _duration(container, stream)
        count = stream.frames or (round(duration * fps) if duration else None)
        sound = bool(container.streams.audio)
        return ClipInfo(width, height, fps, count, float(duration) if duration else None, rotation, sound)


def read_frames(
    path: str | os.PathLike[str],
    fps: float | str | Fraction | None = None,
    *,
    start: float | Fraction = 0,
    end: float | Fraction | None = None,
) -> Iterator[np.ndarray]:
    """The frames of a clip as shown: upright, 8-bit RGB, whatever is stored.

    With `fps`, frame i is what is on screen at start + i / fps seconds, up to `end` or the clip's own; there are
    round((the clip's duration - start) * fps) of them, at least one.  Without it, every stored frame of the whole clip.
    A damaged or cut-off file yields what is good and logs a warning.
    Raises EDTalkError(kind="media") when there is nothing to yield.
    """
    path = Path(path)
    if fps is None:
        return map(_to_rgb, _decode(*_open_clip(path), path))
    rate, first = parse_fps(fps), Fraction(start)
    return _resampled(_Part(path, first), rate, first, None if end is None else Fraction(end))


def open_driver(
    path: str | os.PathLike[str],
    fps: float | str | Fraction | None = None,
    *,
    start: float | Fraction = 0,
    end: float | Fraction | None = None,
) -> Iterator[np.ndarray]:
    """The frames of whatever drives a face: a video, one still picture, or a folder of pictures in natural order.

    Every picture of a folder is one frame; `fps` resamples videos only, and says which pictures of a folder lie between
    `start` and `end` seconds.  Raises EDTalkError(kind="media").
    """
    path = Path(path)
    if path.is_dir():
        return (load_picture(picture).rgb for picture in pictures_of(path, fps, start=start, end=end))
    if path.suffix.lower() in PICTURES:
        return iter([load_picture(path).rgb])
    return read_frames(path, fps, start=start, end=end)


def pictures_of(
    folder: str | os.PathLike[str],
    fps: float | str | Fraction | None = None,
    *,
    start: float | Fraction = 0,
    end: float | Fraction | None = None,
) -> list[Path]:
    """The pictures of a folder that `open_driver` reads; raises EDTalkError(kind="media") where there is none."""
    pictures = pictures_in(folder)
    first, last = (0, None) if fps is None else _span(parse_fps(fps), start, end)
    if first >= len(pictures):
        message = f"{folder} holds {len(pictures)} pictures: there is no number {first + 1}."
        raise EDTalkError(message, "Choose an earlier part.", "media")
    return pictures[first:last]


def stamped_frames(
    path: str | os.PathLike[str], *, start: float = 0, end: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Every frame that is on screen from `start` to `end`, with the time when it begins, in the media's own time.

    That is seconds for a video, the picture's number from 0 for a folder, and 0 for a picture. Frames are as
    `read_frames` has them, however uneven their times are. Raises EDTalkError(kind="media").
    """
    path = Path(path)
    end = math.inf if end is None else end
    if path.is_dir() or path.suffix.lower() in PICTURES:
        pictures = dict(enumerate(pictures_in(path) if path.is_dir() else [path]))
        shown = [number for number in pictures if number > start - 1 and number < end]
        if not shown:
            raise _ends_before(path, len(pictures), start, "pictures")
        for number in shown:
            yield float(number), load_picture(pictures[number]).rgb
        return
    found, time, part = False, Fraction(0), _Part(path, Fraction(start))
    for time, until, frame in _timed(part, part.begins):
        if time >= end - _SLACK and found:
            return
        if until > start + _SLACK:
            found = True
            yield float(time), _to_rgb(frame)
    if not found:
        raise _ends_before(path, float(time), start, "s")


def frames_at(path: str | os.PathLike[str], times: Iterable[float]) -> Iterator[np.ndarray]:
    """The frame on screen at each of some ascending `times` of the media's own, as `stamped_frames` counts them.

    Before the first frame it is that one, after the last that one. Where a frame is asked for again the array is the
    same one. Which frame it is does not depend on the other times. Raises EDTalkError(kind="media").
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in PICTURES:
        pictures = pictures_in(path) if path.is_dir() else [path]
        for number, same in itertools.groupby(min(max(int(time + 1e-6), 0), len(pictures) - 1) for time in times):
            yield from itertools.repeat(load_picture(pictures[number]).rgb, len(list(same)))
        return
    frames: Iterator[tuple[Fraction, Fraction, av.VideoFrame]] = iter(())
    until, seekable = Fraction(-1), True
    frame: av.VideoFrame | None = None
    rgb: np.ndarray | None = None
    for time in times:
        at = Fraction(time) + _EXACT
        if frame is None or (seekable and at - until > _FAR):
            part = _Part(path, Fraction(time))
            seekable = part.zero is not None or frame is None
            frames, until = _timed(part, part.begins), Fraction(-1)
        while until <= at and (following := next(frames, None)) is not None:
            (_, until, frame), rgb = following, None
        if rgb is None:
            assert frame is not None, "a part has at least one frame"
            rgb = _to_rgb(frame)
        yield rgb


def _ends_before(path: Path, length: float, start: float, unit: str) -> EDTalkError:
    message = f"{path} ends after {length:g} {unit}: there is nothing to see from {start:g} on."
    return EDTalkError(message, "Choose an earlier part.", "media")


def _span(fps: Fraction, start: float | Fraction, end: float | Fraction | None) -> tuple[int, int | None]:
    """First frame on screen from `start` on, and the one after the last that begins before `end`."""
    first = math.floor((Fraction(start) + _SLACK) * fps)
    return first, None if end is None else max(first + 1, math.ceil((Fraction(end) - _SLACK) * fps))


def _open_clip(path: Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    check_file(path, _EXPECTED)
    try:
        container = open_media(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        hint = "It may be damaged or not have finished copying: copy or export it again."
        raise EDTalkError(f"{path} cannot be read: {_EXPECTED}, found something else.", hint, "media") from error
    covers = av.stream.Disposition.attached_pic  # the sleeve in a music file is no video
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        found = "only sound" if container.streams.audio else "no picture"
        container.close()
        raise EDTalkError(f"{path} has no video in it: {_EXPECTED}, found {found}.", "Choose another file.", "media")
    return container, streams[0]


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream, path: Path
) -> Generator[av.VideoFrame, None, None]:
    """Frames in the order shown; bad packets are left out and told of at the end."""
    stream.thread_type = "AUTO"
    count, bad, end = 0, 0, Fraction(0)
    with container:
        expected = _duration(container, stream)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # the file breaks off; what the decoder still holds is good
                bad, packet = bad + 1, None
            try:
                frames = stream.decode(packet)
            except av.EOFError:  # it had been emptied already
                frames = []
            except av.FFmpegError:
                bad, frames = bad + 1, []
            for frame in frames:
                count += 1
                if frame.pts is not None:
                    end = _seconds(frame.pts - (stream.start_time or 0), frame.time_base) + 1 / _rate(stream)
                yield frame
            if packet is None:
                break
    if not count:
        raise EDTalkError(f"{path} holds no frame that can be read.", "Copy or export it again.", "media")
    short = expected is not None and expected - end > max(Fraction(1, 5), 3 / _rate(stream))
    if bad or short:
        length = f" of {float(expected):.2f}" if expected else ""
        logger.warning("%s is damaged or cut off: %d frames, %.2f%s s, could be read.", path, count, end, length)


class _Part:
    """The frames of a clip from at least `start` seconds on, read from there where the file can be sought.

    zero: the clip's beginning, in the seconds that its frames give, or None for the first frame's. begins: what its
    file says of it, if anything.
    """

    def __init__(self, path: Path, start: Fraction) -> None:
        container, stream = _open_clip(path)
        self.path, self.usual = path, 1 / _rate(stream)
        self.zero: Fraction | None = None
        self.begins = None if stream.start_time is None else _seconds(stream.start_time, stream.time_base)
        self.frames: Iterator[av.VideoFrame] = _decode(container, stream, path)
        if start > _WORTH_SEEKING and stream.start_time is not None:
            zero = _seconds(stream.start_time, stream.time_base)
            sought = _sought(path, start + zero)
            if sought is not None:
                self.frames, self.zero = sought, zero
                container.close()


def _sought(path: Path, time: Fraction) -> Iterator[av.VideoFrame] | None:
    """The frames from the last key frame before `time` on; None where the file does not lead there."""
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
    is left out. A frame without a timestamp or duration lasts `part.usual`.
    """
    current: av.VideoFrame | None = None
    time = Fraction(0)
    for frame in part.frames:
        stamp = None if frame.pts is None else _seconds(frame.pts, frame.time_base)
        zero = (stamp or Fraction(0)) if zero is None else zero
        begins = (time + part.usual if current is not None else time) if stamp is None else stamp - zero
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
        rgb = None
        while start + chosen / fps < until - _SLACK:
            rgb = _to_rgb(frame) if rgb is None else rgb
            ready.append(rgb)
            chosen += 1
        count = max(1, math.floor((until - start) * fps + Fraction(1, 2)))  # frames of a clip that ends here
        while ready and given < min(count, wanted):
            yield ready.popleft()
            given += 1
        if given >= wanted:
            return
    if not given:
        message = f"{part.path} ends at {float(until):.2f} s: there is nothing to see {float(start):.2f} s into it."
        raise EDTalkError(message, "Choose an earlier part.", "media")


def _seconds(count: int, time_base: Fraction | None) -> Fraction:
    assert time_base is not None, "FFmpeg gives every stream a time base"
    return count * time_base


def _length(frame: av.VideoFrame) -> Fraction | None:
    return _seconds(frame.duration, frame.time_base) if frame.duration else None


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    # Untagged clips: players take HD as BT.709 and smaller ones as BT.601, which is FFmpeg's own default.
    untagged_hd = frame.colorspace == 2 and frame.height >= 720
    rgb = frame.reformat(format="rgb24", src_colorspace="ITU709" if untagged_hd else None).to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90) % 4))


def _rate(stream: av.VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction | None:
    if stream.duration:
        return _seconds(stream.duration, stream.time_base)
    return Fraction(container.duration, av.time_base) if container.duration else None
