"""What `render` does: read, measure, put together, draw and write, one frame at a time."""

from __future__ import annotations

import argparse
import signal
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contract.bank import Bank
from ..contract.coefficients import Coefficients
from ..contract.emotion import EmotionCurve
from ..contract.errors import EDTalkError
from ..contract.shot import FEATHER
from ..timeline import TAIL, Rules, rules
from . import options, output
from .clips import Clip, Footage, Portrait, Source, frame_clip, measure
from .performance import Performance, at_rate
from .progress import Progress, Stop

if TYPE_CHECKING:
    from ..media.video_writer import Sound
    from ..renderer import FaceRenderer

DEFAULT_FPS = 25.0
_DRIVER_OPTIONS = ("--driver-crop", "--driver-face")


@dataclass(frozen=True)
class Result:
    """What was made. coefficients: (T, n) of the whole timeline, of which frames `span` were drawn."""

    out: Path
    bank: Bank
    device: str
    fps: float
    span: slice
    frames: int
    seconds_taken: float
    coefficients: np.ndarray
    stopped: int | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self.stopped is None else 128 + self.stopped

    def to_json(self) -> dict[str, Any]:
        return {
            "event": "done" if self.stopped is None else "stopped",
            "out": str(self.out),
            "frames": self.frames,
            "first_frame": self.span.start,
            "fps": self.fps,
            "seconds": self.frames / self.fps,
            "bank": self.bank.name,
            "device": self.device,
            "ms_per_frame": round(1000 * self.seconds_taken / self.frames, 2),
        }


def check(args: argparse.Namespace) -> None:
    """Refuse what can be seen to make no sense before anything is read."""
    clips = [args.lip_video, args.pose_video, args.expression]
    if args.relative and not any(clips):
        raise EDTalkError(
            "--relative is about driving clips, and there is none.",
            "Give --lip-video, --pose-video or --expression, or leave --relative out.",
        )
    if not args.emotion and (args.intensity != 1.0 or args.emotion_base != "own"):
        raise EDTalkError("--intensity and --emotion-base are about --emotion, which is not given.")
    if args.expression and args.emotion_base == "neutral":
        raise EDTalkError(
            "--emotion-base neutral would replace the expression that --expression copies.", "Leave one of them out."
        )
    if _is_full(args.layer) and args.size:
        raise EDTalkError(
            "--size is the size of the face alone; with --paste-back, --layer plate or pasted the result "
            "has the picture's size."
        )
    if args.layer == "square" and (args.mask or args.feather):
        raise EDTalkError(
            "--mask and --feather are about the other layers: the square has no matte.",
            "Give --layer matte, plate or pasted.",
        )
    if args.layer in ("matte", "plate") and output.is_clip(args.out, args.format):
        raise EDTalkError(
            f"--layer {args.layer} is partly transparent, and a clip cannot be.",
            "Give a folder for --out; its pictures are RGBA.",
        )
    if args.driver_face and not any(clips):
        raise EDTalkError("--driver-face is about driving clips, and there is none.")
    if args.sound not in (None, "none") and not Path(args.sound).is_file():
        raise EDTalkError(f"The sound file {args.sound} does not exist.", "Choose the file again.", "media")
    inputs = [args.source, args.audio, args.coefficients, *clips]
    output.check_output(args.out, args.format, args.overwrite, inputs)


def make(args: argparse.Namespace) -> Result:
    """Everything from the arguments of `render` to the finished file; on Ctrl-C what is finished by then."""
    check(args)
    bank = options.load_bank_for(args, audio=bool(args.audio), emotions=bool(args.emotion))
    if args.expression and not bank.config.enhances_expression:
        raise EDTalkError(
            f"The bank '{bank.name}' moves only mouth and head, so --expression cannot be used.",
            "Leave --expression out, or use a bank with expressions.",
            "bank",
        )
    work = _Work(args, bank)
    emotion = EmotionCurve.parse(args.emotion, bank.presets) if args.emotion else None
    frames = work.length
    if not work.source_clip and not work.moves and emotion is None and not args.idle_motion:
        raise EDTalkError("Nothing drives the face.", "Give --audio, --lip-video, --pose-video, --emotion, ...")
    span = _span(args, frames, work.fps)
    times, duration = np.arange(frames) / work.fps, frames / work.fps

    renderer = options.make_renderer(bank, args)
    source = work.source(renderer, span)
    performance = Performance(
        audio_lips=work.audio_lips(times),
        table=work.table,
        clips=work.measured(renderer, span),
        rules=work.rules,
        relative=args.relative,
        emotion=emotion,
        intensity=args.intensity,
        from_neutral=args.emotion_base == "neutral",
        idle=args.idle_motion,
    )
    values = performance.coefficients(bank, source.own, times, duration)
    started = time.perf_counter()
    drawn, stopped = _draw(args, work, source, values[span], span)
    return Result(
        args.out, bank, str(renderer.device), work.fps, span, drawn, time.perf_counter() - started, values, stopped
    )


def _draw(
    args: argparse.Namespace, work: _Work, source: Source, rows: np.ndarray, span: slice
) -> tuple[int, int | None]:
    """Number of frames written, and the signal that stopped it short, if one did."""
    from ..face.paste import Layering

    size = args.size or work.bank.config.size
    full = _is_full(args.layer)
    clip = output.is_clip(args.out, args.format)
    layering = Layering(args.layer, args.mask or "face", args.feather or FEATHER)
    shape = source.shape[:2] if full else (size, size)
    writer = output.open_output(args.out, args.format, span, work.fps, shape, work.sound(span, clip), args.overwrite)
    with Stop() as stop, writer, Progress("rendering", len(rows), args.progress) as bar:
        for picture in source.pictures(rows, span.start, layering):
            picture = picture if full or size == len(picture) else output.enlarged(picture, size)
            writer.write(picture[..., :3] if clip else picture)
            bar.step()
            if stop.asked is not None:
                break
    return bar.done, None if bar.done == len(rows) else stop.asked or signal.SIGINT


def _is_full(layer: str) -> bool:
    """Whether its pictures are as large as the source, not as the face."""
    return layer in ("plate", "pasted")


def _span(args: argparse.Namespace, frames: int, fps: float) -> slice:
    first, last = 0, frames
    if args.frames:
        first, last = args.frames
    elif args.seconds:
        first, last = round(args.seconds[0] * fps), max(1, round(args.seconds[1] * fps))
    if first >= min(last, frames):
        raise EDTalkError(
            f"There is nothing to render: the result has only frames 0 to {frames - 1}, "
            f"{frames / fps:.2f} s at {fps:g} fps.",
            "Choose another --frames or --seconds.",
        )
    return slice(first, min(last, frames))


class _Work:
    """The inputs of one render, opened when needed."""

    def __init__(self, args: argparse.Namespace, bank: Bank) -> None:
        self.args, self.bank = args, bank
        table = Coefficients.load(args.coefficients) if args.coefficients else None
        self.fps: float = args.fps or (table and table.fps) or DEFAULT_FPS
        self.table = None if table is None else self._own_columns(at_rate(table, bank, self.fps))
        self.clips = {
            name: Clip(path, self.fps)
            for name, path in (("lip", args.lip_video), ("pose", args.pose_video), ("exp", args.expression))
            if path
        }
        source = Clip(args.source, self.fps)
        self.source_clip = None if source.is_picture else source

    @property
    def moves(self) -> bool:
        return bool(self.args.audio or self.clips or self.table is not None)

    def _own_columns(self, table: Coefficients) -> Coefficients:
        """Without the pose where --fixed-pose overrides it."""
        if not self.args.fixed_pose:
            return table
        pose = self.bank.names_of("pose")
        return table.select([name for name in table.names if name not in pose])

    @cached_property
    def speech(self) -> tuple[np.ndarray, float]:
        """Samples of --audio as lip-sync hears them, and its length in seconds."""
        from ..media.sound import load_sound, to_16k

        samples, rate = load_sound(self.args.audio)
        return to_16k(samples, rate), len(samples) / rate

    @cached_property
    def length(self) -> int:
        """Frames of the whole result."""
        if self.args.audio:
            from ..lipsync import frame_times

            return len(frame_times(self.speech[1], self.fps))
        if self.table is not None:
            return len(self.table)
        moving = [self.clips.get("lip"), self.source_clip, self.clips.get("pose"), self.clips.get("exp")]
        for clip in moving:
            if clip is not None and not clip.is_picture:
                return clip.count()
        if self.args.frames:
            return self.args.frames[1]
        if self.args.seconds:
            return max(1, round(self.args.seconds[1] * self.fps))
        raise EDTalkError("Nothing says how long the result is.", "Give --audio or a clip, or a length with --seconds.")

    @cached_property
    def rules(self) -> Rules:
        return rules(
            self.args.driver_end,
            audio=bool(self.args.audio),
            has_expression=self.bank.config.enhances_expression,
            dubbing=self.source_clip is not None,
        )

    def source(self, renderer: FaceRenderer, span: slice) -> Source:
        framing = self.args.crop.choosing(self.args.face)
        if self.source_clip is None:
            return Portrait(renderer, self.args.source, framing, self.face_size)
        indices = self.rules.pose_indices(self.length, self.source_clip.count(self.length))
        return Footage(renderer, self.source_clip, framing, indices, span, self.args.progress, self.face_size)

    @property
    def face_size(self) -> int | None:
        """Pixels of a face that is drawn, as for `inference.dubbing.dub`."""
        if self.args.plain:
            return 0
        own = self.bank.config.size
        return None if _is_full(self.args.layer) else max(self.args.size or own, own)

    def audio_lips(self, times: np.ndarray) -> np.ndarray | None:
        if not self.args.audio:
            return None
        from ..lipsync import lip_sync
        from ..media.sound import RATE

        return lip_sync(self.speech[0], RATE, times, self.bank)

    def measured(self, renderer: FaceRenderer, span: slice) -> dict[str, np.ndarray]:
        """Coefficients of the driving clips by the bank they drive; a clip that drives two is measured once."""
        framing = self.args.driver_crop.choosing(self.args.driver_face, _DRIVER_OPTIONS)
        by_path: dict[Path, tuple[Clip, int, set[int]]] = {}
        for name, clip in self.clips.items():
            count = clip.count(self.length + TAIL)
            indices = Performance(rules=self.rules).indices(name, self.length, count)[span]
            _, _, needed = by_path.setdefault(clip.path, (clip, count, {0}))
            needed.update(indices.tolist())
        rows = {}
        for path, (clip, count, needed) in by_path.items():
            crop = frame_clip(clip, framing, renderer.config.size)
            found = measure(renderer, clip, [crop], needed, self.args.progress)
            rows[path] = np.pad(found, ((0, count - len(found)), (0, 0)))
        return {name: rows[clip.path] for name, clip in self.clips.items()}

    def sound(self, span: slice, clip: bool) -> Sound | None:
        """What is heard: for a clip from the first frame of `span` on, for a folder from frame 0."""
        if self.args.sound == "none":
            return None
        path = Path(self.args.sound) if self.args.sound else self.args.audio
        if path is None:
            talking = self.clips.get("lip") or self.source_clip
            path = talking.path if talking and talking.has_sound() else None
        if path is None or not (clip and span.start):
            return path
        from ..media.sound import load_sound

        samples, rate = load_sound(path)
        return samples[round(span.start / self.fps * rate) :], rate
