"""`shot`: commands for shot folders: render, info, encode, frames and bundle (a farm job)."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..contract.bank import read_bank
from ..contract.errors import EDTalkError
from ..contract.shot import Shot, frame_ranges, parse_frame_ranges
from . import options
from .progress import STYLES, Progress, Stop, note, report

EXAMPLES = """examples:
  render a shot that Blender wrote; existing frames are kept
    shot render film_edtalk/Anna/shots/3f2a --frames 101-150
  write a farm job, and run the same steps on this machine
    shot bundle SHOT --out job/ --chunk 50 --gpus 1
    shot render job/shot && shot encode job/shot --out anna.mp4
  for a compositor: frame_0101.png, frame_0102.png ...
    shot frames SHOT --out plates/

Frame numbers are those of the scene: a shot that starts at frame 101 has no frame 1. 'shot info' shows them.
"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "shot",
        help="render a shot folder; for farms",
        description="Commands for a shot, the folder that the Blender extension writes for each render.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)

    render = _action(actions, "render", run_render, "render missing frames",
                     "Render the missing frames of a shot. Several runs may render parts of a shot at the same time; "
                     "the frames do not depend on the division. Finished frames are kept if a run is stopped. Several "
                     "shots in one run share the start-up time.", several=True)  # fmt: skip
    render.add_argument(
        "--frames", type=_frames, metavar="A-B", help="scene frames, both included, such as 101-150 (default: all)"
    )
    render.add_argument("--bank", type=Path, metavar="FILE", help="the shot's bank, if its path has changed")
    options.add_device(render)
    _add_progress(render)
    render.add_argument("--json", action="store_true", help="print a report as a JSON object")

    _action(actions, "info", run_info, "show a shot and its missing frames (JSON)",
            "Print the properties of a shot and its missing frames as a JSON object.")  # fmt: skip

    encode = _action(actions, "encode", run_encode, "rendered frames and sound -> video",
                     "Write the frames of a shot and its sound as a video. All frames must be rendered.")  # fmt: skip
    encode.add_argument("--out", type=Path, required=True, metavar="FILE.mp4", help="the video (.mp4, .mov, .mkv)")
    _add_audio(encode)
    options.add_audio_stream(encode, "the sound")
    options.add_overwrite(encode)
    _add_progress(encode)

    frames = _action(actions, "frames", run_frames, "rendered frames -> frame_0101.png ...",
                     "Put the frames of a shot into a folder, named by their frame numbers in the scene, with the "
                     "sound. They are hard links if the file system supports them, which take no space.")  # fmt: skip
    frames.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="created if necessary")
    frames.add_argument("--copy", action="store_true", help="write copies, for programs that modify the files")
    options.add_overwrite(frames)

    bundle = _action(actions, "bundle", run_bundle, "write a farm job (Open Job Description)",
                     "Write a shot and a job that renders and encodes it to a folder, for AWS Deadline Cloud or "
                     "another farm with Open Job Description. Test: 'openjd run FOLDER/template.json'.")  # fmt: skip
    bundle.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="created if necessary")
    bundle.add_argument("--name", help="name of the job and the clip (default: that of the folder)")
    bundle.add_argument("--chunk", type=options.positive, default=50, metavar="N", help="frames per task (default 50)")
    bundle.add_argument(
        "--gpus",
        type=options.positive,
        default=0,
        metavar="N",
        help="minimum GPUs of a machine (default: none)",
    )
    bundle.add_argument(
        "--timeout", type=options.positive, default=3600, metavar="SECONDS", help="time limit of a task (default 3600)"
    )
    bundle.add_argument("--device", default="auto", help="device for rendering on the farm (default auto)")
    bundle.add_argument("--engine", metavar="PYTHON", help="the engine's Python on the farm (default: this one)")
    bundle.add_argument("--engine-folder", metavar="FOLDER", help="the extension's folder there (default: this one)")
    bundle.add_argument("--keep-bank", action="store_true", help="reference the bank, which all machines can read")
    _add_audio(bundle)
    bundle.add_argument("--json", action="store_true", help="print a report as a JSON object")


def _action(
    actions: argparse._SubParsersAction, name: str, run: Any, short: str, description: str, several: bool = False
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=short, description=description)
    parser.set_defaults(run=run)
    count = {"nargs": "+"} if several else {}
    parser.add_argument("shot", type=Path, metavar="SHOT", help="the folder with shot.json", **count)
    parser.add_argument(
        "--frames-folder", type=Path, metavar="FOLDER", help="folder of its frames (default: as stored in the shot)"
    )
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    return parser


def _add_progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--progress", choices=STYLES, default="auto",
        help="how progress is shown; openjd prints lines for render farms to stdout (default: a bar on a terminal)",
    )  # fmt: skip


def _add_audio(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--audio", metavar="FILE|none", help="sound of the video (default: the sound of the shot)")


def _frames(text: str) -> list[int]:
    try:
        return parse_frame_ranges(text)
    except EDTalkError as error:
        raise argparse.ArgumentTypeError(f"expected scene frames such as 101-150, found '{text}'") from error


def run_render(args: argparse.Namespace) -> int:
    with _errors_for_farm(args.progress):
        if args.frames and len(args.shot) > 1:
            raise EDTalkError(f"--frames can be used with one shot only, found {len(args.shot)}.")
        shots = [_read(args, folder) for folder in args.shot]
        for folder, shot in zip(args.shot, shots, strict=True):
            if not args.frames_folder and not shot.keeps_frames_near(folder):
                raise EDTalkError(
                    f"The shot in {folder} writes its frames to {shot.frames_folder}, which is not near it.",
                    "Give that folder, or another one, as --frames-folder if you trust the shot.",
                )
        if args.bank:
            shots = [replace(shot, bank=args.bank) for shot in shots]
        tasks = [(shot, _rows(shot, args.frames)) for shot in shots]
        missing = sum(len(shot.missing(rows)) for shot, rows in tasks)
        started = time.monotonic()
        with Stop() as stop, Progress("rendering", missing, args.progress) as bar:
            rendered = _render(args, tasks, stop, bar)
    stopped = stop.asked if rendered < missing else None
    frames = sum(len(rows) for _, rows in tasks)
    if args.json:
        event = "done" if stopped is None else "stopped"
        seconds = round(time.monotonic() - started, 2)
        report(json.dumps({"event": event, "frames": frames, "rendered": rendered, "seconds": seconds}), keep=True)
    elif args.progress != "openjd":
        note(f"{'done' if stopped is None else 'stopped'}: {rendered} images rendered for {frames} frames")
    return 0 if stopped is None else 128 + stopped


def _render(args: argparse.Namespace, tasks: list[tuple[Shot, list[int]]], stop: Stop, bar: Progress) -> int:
    """Render rows of shots. Returns the number of images written.

    If a shot fails, the others are still rendered; the first error is raised at the end.
    """
    rendered, failures = 0, []
    tasks = [(shot, rows) for shot, rows in tasks if shot.missing(rows)]
    if not tasks:  # avoids loading torch, which takes seconds
        return 0
    from ..drawing import ShotRenderer

    renderer = ShotRenderer(args.device, args.threads)
    for shot, rows in tasks:
        try:
            rendered += renderer.render(_Reporter(shot, stop, bar), shot, rows)["rendered"]
        except EDTalkError as error:
            failures.append(error)
            if len(tasks) > 1:
                media = shot.plate.media if shot.plate else shot.portrait
                note(f"{media and media.parent}: {error}")
    if failures:
        raise failures[0]
    return rendered


def run_info(args: argparse.Namespace) -> None:
    shot = _read(args, args.shot)
    table, names, missing = shot.coefficients, shot.file_names(), shot.missing()
    absent = {names[row] for row in missing}
    print(json.dumps({
        "shot": str(args.shot),
        "first_frame": shot.first_frame,
        "last_frame": shot.first_frame + len(table) - 1,
        "frames": len(table),
        "fps": table.fps,
        "seconds": table.fps and len(table) / table.fps,
        "pictures": len(set(names)),
        "pictures_missing": len(missing),
        "missing_frames": _scene_ranges(shot, [row for row, name in enumerate(names) if name in absent]),
        "frames_folder": str(shot.frames_folder),
        "image_format": shot.image_format,
        "bank": str(shot.bank),
        "bank_problem": _bank_problem(shot),
        "portrait": shot.portrait and str(shot.portrait),
        "crop": None if shot.plate else shot.crop,
        "layer": shot.layer,
        "mask": shot.mask,
        "feather": shot.feather,
        "plate": shot.plate and str(shot.plate.media),
        "plate_problem": _plate_problem(shot),
        "frames_without_face": shot.plate and _scene_ranges(shot, np.flatnonzero(~shot.plate.seen).tolist()),
        "sound": shot.sound and str(shot.sound),
        "coefficients": table.names,
    }))  # fmt: skip


def run_encode(args: argparse.Namespace) -> None:
    with _errors_for_farm(args.progress):
        shot = _read(args, args.shot)
        options.check_free(args.out, args.overwrite, (".mp4", ".mov", ".mkv"))
        from ..media.frames import encode
        from ..media.sound import SoundFile

        if args.audio_stream and not shot.sound:
            raise EDTalkError("--audio-stream needs a sound, found none.", "Give one with --audio.")
        sound = SoundFile(shot.sound, args.audio_stream) if shot.sound else None
        with Progress("encoding", len(shot.coefficients), args.progress) as bar:
            frames = encode(shot, args.out, sound, bar.step)
    if args.progress == "openjd":
        report(f"Saved: {args.out}", keep=True)
    else:
        note(f"{args.out}: {frames} frames, {'with' if shot.sound else 'without'} sound")


def run_frames(args: argparse.Namespace) -> None:
    from ..media.frames import number_frames

    made = number_frames(_read(args, args.shot), args.out, copy=args.copy, overwrite=args.overwrite)
    note(f"{len(made)} files in {args.out}")


def run_bundle(args: argparse.Namespace) -> None:
    from ..contract.farm import Job, write_bundle

    if args.out.is_file():
        raise EDTalkError(f"{args.out} is a file; expected a folder.", "Choose another name.")
    chosen = {"engine": args.engine, "engine_folder": args.engine_folder}
    job = Job(
        name=args.name or args.out.resolve().name,
        chunk=args.chunk,
        gpus=args.gpus,
        timeout=args.timeout,
        device=args.device,
        **{name: value for name, value in chosen.items() if value},
    )
    shot = _read(args, args.shot)
    if shot.plate is not None:  # which may be any file if the shot is from elsewhere
        shot.plate.check_media()
    shot = write_bundle(shot, args.out, job, keep_bank=args.keep_bank)
    tasks = -(-len(shot.coefficients) // args.chunk)
    if args.json:
        print(json.dumps({"out": str(args.out), "name": job.title, "clip": job.clip, "tasks": tasks}))
    else:
        note(f"{args.out}: '{job.title}', {len(shot.coefficients)} frames in {tasks} tasks, then {job.clip}")


class _Reporter:
    """Reports a render to the terminal or to a farm. A `drawing.Caller`."""

    def __init__(self, shot: Shot, stop: Stop, bar: Progress) -> None:
        self._shot, self._stop, self._bar = shot, stop, bar

    @property
    def cancelled(self) -> bool:
        return self._stop.asked is not None

    def frame_file(self, index: int, file: str, reused: bool) -> None:
        if not reused and self._bar.style == "openjd":
            report(f"Saved: {self._shot.frames_folder / file}")

    def progress(self, phase: str, done: int, total: int) -> None:
        if phase == "rendering" and done:
            self._bar.step()

    def run_previews(self) -> None:
        """There are no other requests."""


@contextmanager
def _errors_for_farm(style: str) -> Iterator[None]:
    """Print errors in a form that farms show with the task, not only in its log."""
    try:
        yield
    except EDTalkError as error:
        if style == "openjd":
            report(f"openjd_fail: {' '.join(str(error).split())}", keep=True)
        raise


def _read(args: argparse.Namespace, folder: Path) -> Shot:
    shot = Shot.read(folder)
    if args.frames_folder:
        shot = replace(shot, frames_folder=args.frames_folder)
    audio = getattr(args, "audio", None)
    if audio and audio != "none" and not Path(audio).is_file():
        raise EDTalkError(f"The sound file {audio} does not exist.", "Choose the file again.", "media")
    return replace(shot, sound=None if audio == "none" else Path(audio)) if audio else shot


def _rows(shot: Shot, frames: list[int] | None) -> list[int]:
    """The rows of scene frames (default: all). Raises EDTalkError if the shot does not have one of them."""
    first, count = shot.first_frame, len(shot.coefficients)
    rows = list(range(count)) if frames is None else [frame - first for frame in frames]
    if rows[0] < 0 or rows[-1] >= count:
        raise EDTalkError(
            f"The shot has frames {first} to {first + count - 1}, requested were {frame_ranges(frames or ())}.",
            "Choose frames of the shot; 'shot info' shows them.",
        )
    return rows


def _scene_ranges(shot: Shot, rows: list[int]) -> str:
    return frame_ranges(shot.first_frame + row for row in rows)


def _plate_problem(shot: Shot) -> str | None:
    """Why the plate cannot be used, or None. The content is not checked."""
    if shot.plate is None or shot.plate.media.exists():
        return None
    return f"The plate {shot.plate.media} does not exist."


def _bank_problem(shot: Shot) -> str | None:
    try:
        found = read_bank(shot.bank).sha256
    except EDTalkError as error:
        return error.message
    return None if found == shot.bank_sha256 else f"{shot.bank} is not the bank that the shot was made with."
