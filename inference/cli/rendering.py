"""What `render` does: read the inputs, build a shot, render it with the pipeline of the worker, write the output."""

from __future__ import annotations

import argparse
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contract.bank import Bank
from ..contract.coefficients import Coefficients
from ..contract.emotion import EmotionCurve
from ..contract.errors import EDTalkError
from ..contract.expression import EMOTIONS
from ..contract.idle import BLINK
from ..contract.plate import Plate, Track, media_sha256
from ..contract.references import Readings, References, spoken
from ..contract.requests import SHORTEST_SOUND
from ..contract.shot import FEATHER, FILLS_PICTURE, Shot
from ..face.framing import cut
from ..face.size import FaceSize
from . import index, options, output
from .clips import Clip, frame_clip, measure
from .detection import check_detection, check_presets, detect
from .performance import TAIL, Performance, Rules, at_rate, rules
from .progress import Progress, Stop, note

if TYPE_CHECKING:
    from ..drawing import LoadedBank, ShotRenderer
    from ..media.video_writer import Sound
    from ..motion import HeadMotion
    from ..renderer import FaceRenderer

DEFAULT_FPS = 25.0
_DRIVER_OPTIONS = ("--driver-crop", "--driver-face")


def _square_size(args: argparse.Namespace, native: int) -> int:
    """The size of the shot, see `Shot.size`, for --size or its default. native: the bank's own size in pixels."""
    if args.size is not None:
        return args.size
    is_native = args.plain or args.layer in FILLS_PICTURE or native >= options.DEFAULT_SIZE
    return 0 if is_native else options.DEFAULT_SIZE


@dataclass(frozen=True)
class Result:
    """What was rendered.

    coefficients: (T, n) of the whole timeline, see `Plan`; frames `span` of it were rendered. frames: number of frames
    written. stopped: the signal that ended the render early, or None.
    """

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
    """Reject combinations of options that make no sense, before any file is read. Raises EDTalkError."""
    clips = [args.lip_video, args.pose_video, args.expression]
    if args.relative and not any(clips):
        raise EDTalkError(
            "--relative requires a driving clip.",
            "Give --lip-video, --pose-video or --expression, or leave --relative out.",
        )
    check_detection(args)
    if args.emotion == "auto" and not args.audio:
        raise EDTalkError("--emotion auto requires --audio.", "Give --audio, or name an emotion.")
    if args.emotion in (None, "none") and (args.intensity != 1.0 or args.emotion_base != "own"):
        raise EDTalkError("--intensity and --emotion-base require --emotion.")
    if args.expression and args.emotion_base == "neutral":
        raise EDTalkError(
            "--emotion-base neutral would replace the expression from --expression.", "Leave out one of them."
        )
    if args.head_motion and not args.audio:
        raise EDTalkError("--head-motion requires --audio.", "Give --audio, or use --idle-motion.")
    if args.seed is not None and not args.head_motion:
        raise EDTalkError("--seed requires --head-motion.", "Add --head-motion 1, or leave --seed out.")
    if args.layer in FILLS_PICTURE and args.size:
        raise EDTalkError(
            "--size cannot be used with --paste-back, --layer plate or --layer pasted: the output has the size of the "
            "source."
        )
    if args.layer == "square" and (args.mask or args.feather):
        raise EDTalkError(
            "--mask and --feather require --layer matte, plate or pasted.",
            "Add --layer, or leave them out.",
        )
    if args.layer in ("matte", "plate") and output.is_clip(args.out, args.format):
        raise EDTalkError(
            f"--layer {args.layer} is transparent, and video files have no transparency.",
            "Give a folder as --out; its images are RGBA.",
        )
    if args.driver_face and not any(clips):
        raise EDTalkError("--driver-face requires a driving clip.")
    if args.sound not in (None, "none") and not Path(args.sound).is_file():
        raise EDTalkError(f"The sound file {args.sound} does not exist.", "Choose the file again.", "media")
    inputs = [args.source, args.audio, args.coefficients, *clips]
    output.check_output(args.out, args.format, args.overwrite, inputs)


def make(args: argparse.Namespace) -> Result:
    """Run `render`. After Ctrl-C the output holds the frames finished so far. Raises EDTalkError."""
    check(args)
    inputs = Inputs(args)
    output.refuse_existing(args.out, args.format, inputs.span, args.overwrite)
    from ..drawing import ShotRenderer  # after the checks above: loading torch takes seconds

    renderer = ShotRenderer(args.device, args.threads)
    plan = inputs.plan(renderer)
    started = time.perf_counter()
    written, stopped = _write(inputs, plan.shot, renderer)
    seconds = time.perf_counter() - started
    if stopped is not None:
        is_clip, whole = output.is_clip(args.out, args.format), inputs.span.stop - inputs.span.start
        again = "the whole video, add --overwrite" if is_clip else f"the rest, add {output.rest(inputs.span, written)}"
        note(f"Stopped after {written} of {whole} frames, which are kept in {args.out}. To render {again}.")
    device = str(renderer.device)
    return Result(args.out, inputs.bank, device, inputs.fps, inputs.span, written, seconds, plan.coefficients, stopped)


def _write(inputs: Inputs, shot: Shot, renderer: ShotRenderer) -> tuple[int, int | None]:
    """Render a shot into the output. Returns the number of frames, and the signal that ended it early or None."""
    args, frames = inputs.args, len(shot.coefficients)
    clip = output.is_clip(args.out, args.format)
    with Stop() as stop, Progress("rendering", frames, args.progress) as bar, ExitStack() as opened:
        writer = None
        for pixels in renderer.draw(shot, range(frames)):
            if writer is None:  # the first frame determines the size
                shape, sound = pixels.shape[:2], inputs.sound(clip)
                writer = output.open_output(args.out, args.format, inputs.span, inputs.fps, shape, sound)
                opened.enter_context(writer)
            writer.write(pixels[..., :3] if clip else pixels)
            bar.step()
            if stop.asked is not None:
                break
    return bar.done, None if bar.done == frames else stop.asked or signal.SIGINT


@dataclass(frozen=True)
class Plan:
    """What `render` renders.

    shot: the frames of `Inputs.span`, ready to be rendered or written. coefficients: (T, n) of the whole timeline, as
    in the shot: absolute, or in dubbing relative to the frame's own where `Shot.added` says so.
    """

    shot: Shot
    coefficients: np.ndarray


class Inputs:
    """The inputs of one `render`. Files are opened when they are needed.

    Raises EDTalkError if the options do not fit the bank, if there is no driving input, or if the range is empty.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.bank = args, _bank_for(args)
        table = Coefficients.load(args.coefficients) if args.coefficients else None
        self.fps: float = args.fps or _source_rate(args.source) or (table and table.fps) or DEFAULT_FPS
        self.table = None if table is None else self._without_fixed_pose(at_rate(table, self.bank, self.fps))
        self.clips = {
            name: Clip(path, self.fps)
            for name, path in (("lip", args.lip_video), ("pose", args.pose_video), ("exp", args.expression))
            if path
        }
        source = Clip(args.source, self.fps)
        self.source_clip = None if source.is_picture else source
        dubs_mouth = self.source_clip is not None and self._mask == "mouth"
        if (args.keep_pauses or args.references not in ("auto", "none")) and not dubs_mouth:
            message = "--references and --keep-pauses require a source clip and the mask mouth."
            raise EDTalkError(message, "Add --mask mouth, or leave them out.")
        if args.keep_pauses and args.references == "none":
            raise EDTalkError("--keep-pauses requires reference frames.", "Leave out --references none.")
        named = args.emotion not in (None, "none", "auto")
        self.emotion = EmotionCurve.parse(args.emotion, self.bank.presets) if named else None
        moves = args.audio or self.clips or self.table is not None or self.emotion or args.idle_motion
        if not (self.length and (self.source_clip or moves)):
            raise EDTalkError("No driving input.", "Give --audio, --lip-video, --pose-video, --emotion, ...")

    def plan(self, renderer: ShotRenderer) -> Plan:
        """Read everything that drives the face and combine it into a shot."""
        args, loaded = self.args, renderer.bank(self.args.bank)
        choices: dict[str, Any] = {
            "layer": args.layer,
            "mask": self._mask,
            "feather": args.feather or FEATHER,
            "size": _square_size(args, loaded.size),
            "detail": not args.plain,
        }
        framing, plate = args.crop.choosing(args.face), None
        if self.source_clip is None:
            crop = framing.of_portrait(args.source, loaded.size)
            size = FaceSize.of(choices["layer"], choices["size"], choices["detail"])
            own = loaded.face(args.source, crop, size).renderer.source_coefficients.values
            choices |= {"portrait": args.source, "crop": crop}
        else:
            from ..plate_reading import can_read

            uses_references = self._mask == "mouth" and args.references != "none" and can_read(loaded.renderer)
            track, times = self._footage(uses_references)
            plate = Plate.of(self.source_clip.path, media_sha256(self.source_clip.path), track, times[self.span])
            own = self._own_motion(loaded, plate)
            choices |= {"plate": plate, "portrait": None, "crop": "auto"}
        performance = self._performance(loaded)
        times, duration = np.arange(self.length) / self.fps, self.length / self.fps
        values = performance.coefficients(self.bank, own, times, duration)
        if plate is not None:
            replaced = performance.replaced(self.bank)
            values = np.where(replaced, values, values - own)
            choices["added"] = np.array(self.bank.names)[~replaced].tolist()
            if uses_references:
                values, choices["references"] = self._references(loaded, plate, track, times, values, replaced)
        shot = Shot(
            bank=self.args.bank,
            bank_sha256=loaded.bank.sha256,
            coefficients=Coefficients(values[self.span], self.bank.names, self.fps),
            frames_folder=args.out,
            first_frame=self.span.start + 1,
            **choices,
        )
        return Plan(shot, values)

    def _performance(self, loaded: LoadedBank) -> Performance:
        """Everything that drives the face."""
        args, head = self.args, self._head_motion(loaded.bank)
        return Performance(
            audio_lips=self._audio_lips(loaded.bank),
            table=self.table,
            clips=self._measured(loaded.renderer),
            rules=self.rules,
            relative=args.relative,
            emotion=self.emotion,
            detected=self._detected(loaded.bank),
            intensity=args.intensity,
            from_neutral=args.emotion_base == "neutral",
            idle=args.idle_motion or args.head_motion,
            head=None if head is None else head.rows[0],
            head_names=() if head is None else head.names,
            blinks=None if head is None else self._blinks(),
        )

    @cached_property
    def length(self) -> int:
        """Number of frames of the whole result."""
        if self.args.audio:
            from ..lipsync import frame_times

            return len(frame_times(self._speech[1], self.fps))
        if self.table is not None:
            return len(self.table)
        moving = [self.clips.get("lip"), self.source_clip, self.clips.get("pose"), self.clips.get("exp")]
        for clip in moving:
            if clip is not None and not clip.is_picture:
                return index.frame_count(clip)
        if self.args.frames:
            return self.args.frames[1]
        if self.args.seconds:
            return max(1, round(self.args.seconds[1] * self.fps))
        raise EDTalkError("Cannot determine the output length.", "Give --audio, a clip, or a length with --seconds.")

    @cached_property
    def span(self) -> slice:
        """The frames to render. Raises EDTalkError if there are none."""
        first, last = 0, self.length
        if self.args.frames:
            first, last = self.args.frames
        elif self.args.seconds:
            first, last = round(self.args.seconds[0] * self.fps), max(1, round(self.args.seconds[1] * self.fps))
        if first >= min(last, self.length):
            raise EDTalkError(
                f"There is nothing to render: the result has only frames 0 to {self.length - 1}, "
                f"{self.length / self.fps:.2f} s at {self.fps:g} fps.",
                "Choose another --frames or --seconds.",
            )
        return slice(first, min(last, self.length))

    @cached_property
    def rules(self) -> Rules:
        return rules(
            self.args.driver_end,
            audio=bool(self.args.audio),
            has_expression=self.bank.config.enhances_expression,
            dubbing=self.source_clip is not None,
        )

    def sound(self, clip: bool) -> Sound | None:
        """The sound of the output: of a clip from the first frame of `span` on, of a folder from frame 0 on."""
        if self.args.sound == "none":
            return None
        path = Path(self.args.sound) if self.args.sound else self.args.audio
        if path is None:
            talking = self.clips.get("lip") or self.source_clip
            path = talking.path if talking and talking.has_sound() else None
        if path is None:
            return None
        from ..media.sound import SoundFile

        chosen = self.args.audio_stream if path == self.args.audio or not self.args.audio else None
        return SoundFile(path, chosen, self.span.start / self.fps if clip else 0.0)

    def _without_fixed_pose(self, table: Coefficients) -> Coefficients:
        """The table without its pose if --fixed-pose is given."""
        if not self.args.fixed_pose:
            return table
        pose = self.bank.names_of("pose")
        return table.select([name for name in table.names if name not in pose])

    @cached_property
    def _speech(self) -> tuple[np.ndarray, float]:
        """Samples of --audio at the rate of the lip-sync network, and the length in seconds.

        Raises EDTalkError if they are too short for --head-motion or --emotion auto.
        """
        from ..media.sound import load_speech
        from ..motion import SHORTEST

        performs = self.args.head_motion or self.args.emotion == "auto"
        return load_speech(self.args.audio, self.args.audio_stream, SHORTEST if performs else SHORTEST_SOUND)

    def _audio_lips(self, bank: Bank) -> np.ndarray | None:
        """(T, lip) from --audio, or None."""
        if not self.args.audio:
            return None
        from ..lipsync import lip_sync
        from ..media.sound import RATE

        return lip_sync(self._speech[0], RATE, np.arange(self.length) / self.fps, bank)

    def _head_motion(self, bank: Bank) -> HeadMotion | None:
        """Head motion from --audio for every frame, or None without --head-motion."""
        args = self.args
        if not args.head_motion:
            return None
        from ..motion import eased, head_motion

        times = np.arange(self.length) / self.fps
        gains = {"sway": args.head_motion, "nods": args.head_motion}
        found = head_motion(bank, self._speech[0], times, [args.seed or 0], **gains)
        if found.note:
            note(f"{args.audio}: {found.note}")
        return replace(found, rows=eased(found.rows, times, self._speech[1]))

    def _blinks(self) -> np.ndarray | None:
        """How far the eyes are closed in every frame, with the speech of --audio; None without known eyelids."""
        if BLINK not in self.bank.names:
            return None
        from ..prosody import cached_prosody
        from ..upper_face import speech_blinks

        times = np.arange(self.length) / self.fps
        return speech_blinks(cached_prosody(self._speech[0]), times, self.args.seed or 0)

    def _detected(self, bank: Bank) -> dict[str, np.ndarray] | None:
        """Strengths of emotions from --audio for every frame, or None without --emotion auto."""
        if self.args.emotion != "auto":
            return None
        samples, seconds = self._speech
        found = detect(self.args, bank, samples, seconds, np.arange(self.length) / self.fps)
        return dict(zip(EMOTIONS, found.rows.T, strict=True))

    @property
    def _mask(self) -> str:
        """--mask or its default: the mouth for a clip if nothing else is driven."""
        args = self.args
        if args.mask or self.source_clip is None:
            return args.mask or "face"
        lips = self.bank.names_of("lip")
        others: Any = args.pose_video or args.fixed_pose or args.idle_motion or args.head_motion
        others = others or args.expression or args.emotion not in (None, "none")
        return "face" if others or (self.table and not set(self.table.names) <= set(lips)) else "mouth"

    def _footage(self, uses_references: bool) -> tuple[Track, np.ndarray]:
        """The face in the source clip, and the time in it that each frame of the whole result shows, (length,).

        uses_references: track all frames of the result, not only those before the end of `span`, and the reference
        frames of --references. Raises EDTalkError if the clip ends before one of them.
        """
        clip, framing = self.source_clip, self.args.crop.choosing(self.args.face)
        assert clip is not None, "only a clip is dubbed"
        step = 1.0 if clip.is_still else 1 / self.fps  # images of a folder are counted, not timed
        times = self.rules.pose_indices(self.length, index.frame_count(clip, self.length)) * step
        chosen = self.args.references if uses_references and self.args.references != "auto" else ()
        end = max(float((times if uses_references else times[self.span]).max()), *chosen, 0.0) + step
        track = framing.of_footage(clip.path, end)
        last = float(track.times[-1])
        lasts = max(step, last - float(track.times[-2]) if len(track) > 1 else 0.0)
        if late := [time for time in chosen if time >= last + lasts]:
            limit = f"image {last:.0f}" if clip.is_still else f"{last:.2f} s"
            message = f"{clip.path} has no reference frame at {late[0]:g}: its last frame is at {limit}."
            raise EDTalkError(message, "Choose other --references.")
        return track, times

    def _references(
        self,
        loaded: LoadedBank,
        plate: Plate,
        track: Track,
        times: np.ndarray,
        values: np.ndarray,
        replaced: np.ndarray,
    ) -> tuple[np.ndarray, References]:
        """The rows of a shot that is drawn from reference frames, and these frames.

        times: (T,) of the whole result. values: (T, n), see `Plan`. replaced: (n,), the columns that are not changes of
        the clip's own values.
        """
        args, bank = self.args, self.bank
        readings = self._readings(loaded.renderer, plate.media, track)
        lips, values = np.isin(bank.names, bank.names_of("lip")), values.copy()
        if (driver := self.clips.get("lip")) is not None and not args.relative:
            values[:, lips] = self._mouth_of(loaded.renderer, driver, track, readings)[:, lips]
        starts, _ = track.at(times)
        own = np.nan_to_num(readings.rows[np.searchsorted(track.times, starts)])
        values[:, lips & ~replaced] += own[:, lips & ~replaced]
        values[:, ~lips & replaced] -= own[:, ~lips & replaced]
        shown = spoken(values[:, lips], self.fps) if args.keep_pauses else np.ones(len(values), np.float32)
        chosen = () if args.references == "auto" else args.references
        part = shown[self.span]
        return values, References.of(bank, track, readings, times[self.span], chosen=chosen, shown=part)

    def _mouth_of(self, renderer: FaceRenderer, driver: Clip, track: Track, readings: Readings) -> np.ndarray:
        """(T, n) coefficients of a driving clip relative to its closed mouth, as readings of the source clip are.

        track, readings: of the source clip, used again if it drives itself.
        """
        from ..capture import interpolated

        indices = self.rules.indices("lip", self.length, index.frame_count(driver, self.length + TAIL))
        if self.source_clip is None or driver.path.resolve() != self.source_clip.path.resolve():
            crop = frame_clip(driver, self.args.driver_crop.choosing(self.args.driver_face, _DRIVER_OPTIONS), 256)
            times = np.arange(indices.max() + 1) * (1.0 if driver.is_still else 1 / self.fps)
            track = Track(times, np.tile(crop.box, (len(times), 1)))
            readings = self._readings(renderer, driver.path, track)
        starts, _ = track.at(indices * (1.0 if driver.is_still else 1 / self.fps))
        return interpolated(readings.rows, readings.seen)[np.searchsorted(track.times, starts)]

    def _readings(self, renderer: FaceRenderer, media: Path, track: Track) -> Readings:
        """What `plate_reading.read_plate` reads from every frame of a clip, or has read before."""
        from ..plate_reading import read_plate

        def read() -> Readings:
            total = 2 * int((~np.isnan(track.crops[:, 2])).sum())
            with Progress(f"reading {media.name}", total, self.args.progress) as bar:
                return read_plate(renderer, media, track, lambda _done, _total: bar.step())

        return index.readings(media, track, renderer.bank.sha256, read)

    def _own_motion(self, loaded: LoadedBank, plate: Plate) -> np.ndarray:
        """(1, n) zeros, or (T, n) the coefficients of the source clip if the performance depends on them.

        Only blinks do: they close an eye as far as it is still open. Everything else is replaced or added.
        """
        if not ((self.args.idle_motion or self.args.head_motion) and BLINK in self.bank.names):
            return np.zeros((1, len(self.bank.names)), np.float32)
        from ..dubbing import plate_frames

        frames = plate_frames(plate, range(len(plate.times)), loaded.size)
        own = np.zeros((self.length, len(self.bank.names)), np.float32)
        seen = np.flatnonzero(plate.seen)
        own[self.span][seen] = loaded.renderer.encode(cut(rgb, crop) for rgb, crop in frames if crop is not None).values
        return own

    def _measured(self, renderer: FaceRenderer) -> dict[str, np.ndarray]:
        """Coefficients of the driving clips by the bank that they drive. A clip that drives two is measured once."""
        framing = self.args.driver_crop.choosing(self.args.driver_face, _DRIVER_OPTIONS)
        by_path: dict[Path, tuple[Clip, int, set[int]]] = {}
        for name, clip in self.clips.items():
            count = clip.count(self.length + TAIL)
            indices = self.rules.indices(name, self.length, count)[self.span]
            _, _, needed = by_path.setdefault(clip.path, (clip, count, {0}))
            needed.update(indices.tolist())
        rows = {}
        for path, (clip, count, needed) in by_path.items():
            crop = frame_clip(clip, framing, renderer.config.size)
            found = measure(renderer, clip, crop, needed, self.args.progress)
            rows[path] = np.pad(found, ((0, count - len(found)), (0, 0)))
        return {name: rows[clip.path] for name, clip in self.clips.items()}


def _source_rate(source: Path) -> float | None:
    """The frame rate of a video that is dubbed; None for pictures."""
    clip = Clip(source, DEFAULT_FPS)
    return None if clip.is_still else Clip.at_own_rate(source).fps


def _bank_for(args: argparse.Namespace) -> Bank:
    """The metadata of --bank, checked for what the other options need."""
    bank = options.load_bank_for(
        args, audio=bool(args.audio), emotions=args.emotion not in (None, "none"), weights=False
    )
    if args.emotion == "auto":
        check_presets(bank)
    if args.expression and not bank.config.enhances_expression:
        raise EDTalkError(
            f"The bank '{bank.name}' has no expression coefficients, so --expression cannot be used.",
            "Leave out --expression, or use a bank with expressions.",
            "bank",
        )
    return bank
