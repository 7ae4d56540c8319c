"""`render`: renders a portrait or dubs a clip, to a video with sound or a folder of images."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from ..contract.references import MOST_REFERENCES
from ..contract.shot import FEATHER, LAYERS, MASKS
from . import options
from .detection import add_detection
from .framing import Framing, add_crop
from .performance import ENDS
from .progress import STYLES, report

EXAMPLES = """examples:
  a portrait speaks with changing emotions; the head follows the speech, and the eyes blink
    render --source me.png --audio line.wav --emotion "0=neutral 1.5=happy 4=sad:0.8" --head-motion 1 --out me.mp4
  mouth from a sound, head motion from one clip, expression from another
    render --source me.png --audio line.wav --pose-video head.mp4 --expression actor.mp4 --out me.mp4
  everything from one clip, added to the portrait's own pose and expression
    render --source me.png --lip-video a.mp4 --pose-video a.mp4 --expression a.mp4 --relative --out me.mp4
  dub a clip and paste the mouth back into the full frame; before that, preview frame 40
    render --source shot.mp4 --audio line.wav --paste-back --frames 40-40 --out preview/
    render --source shot.mp4 --audio line.wav --paste-back --out dubbed.mp4
  frames 0 to 99 only, as images
    render --source me.png --audio line.wav --frames 0-99 --out frames/ --format png
"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "render",
        help="portrait + sound, clips, emotions -> video",
        description="Animate a face. Coefficients that nothing drives keep the values of the source. The length is "
        "that of the sound, else of the coefficients, the lip clip, the source clip, the pose clip or the expression "
        "clip, whichever is given first; else it is set by --seconds.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def parse_words(words: Sequence[object]) -> argparse.Namespace:
    """The arguments of `run` for the words of a command line, such as "--source" and a path, without `render`."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    parser.add_argument(
        "--source", type=Path, required=True, metavar="IMAGE|CLIP",
        help="the face to animate; a clip is dubbed: every frame keeps its own pose and expression",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.mp4|FOLDER",
        help="a video (.mp4, .mov, .mkv), or a folder for one image per frame",
    )  # fmt: skip
    parser.add_argument("--format", choices=("png", "exr"), help="format of the images in the folder (default png)")
    options.add_overwrite(parser)
    options.add_bank(parser)
    _add_mouth(parser)
    _add_head(parser)
    _add_expression(parser)
    _add_driving_clips(parser)
    _add_image(parser)
    _add_dubbing(parser)
    _add_time(parser)
    options.add_device(parser)
    _add_report(parser)


def _add_mouth(parser: argparse.ArgumentParser) -> None:
    lips = parser.add_argument_group("mouth (one of)")
    one = lips.add_mutually_exclusive_group()
    one.add_argument(
        "--audio", type=Path, metavar="SOUND", help="speech (sound or video file); also the sound of the result"
    )
    one.add_argument("--lip-video", type=Path, metavar="CLIP", help="face whose mouth is copied")
    lips.add_argument(
        "--coefficients", type=Path, metavar="FILE",
        help=".npz or .csv from 'lipsync' or 'capture': sets the coefficients it contains; other options override it",
    )  # fmt: skip
    lips.add_argument(
        "--sound", metavar="FILE|none",
        help="sound of the result (default: --audio, else the sound of the lip clip or of the source clip)",
    )  # fmt: skip
    options.add_audio_stream(lips, "--audio, or without --audio of the file that the sound of the result is taken from")


def _add_head(parser: argparse.ArgumentParser) -> None:
    head = parser.add_argument_group("head (one of; default: the pose of the source)")
    one = head.add_mutually_exclusive_group()
    one.add_argument("--pose-video", type=Path, metavar="CLIP|IMAGE", help="face whose head motion is copied")
    one.add_argument("--fixed-pose", action="store_true", help="keep the pose of the source, even with --coefficients")
    head.add_argument(
        "--idle-motion", type=options.number, default=0.0, metavar="X",
        help="add slight head motion of amount X (1 is natural) and blinks; needs a bank with named coefficients",
    )  # fmt: skip
    head.add_argument(
        "--head-motion", type=options.amount, default=0.0, metavar="X",
        help="add head motion that follows the speech of --audio, of amount X (1 is natural, at most 2), and blinks",
    )  # fmt: skip
    head.add_argument(
        "--seed", type=options.seed, metavar="N", help="number of the head motion; each draws another (default 0)"
    )  # fmt: skip


def _add_expression(parser: argparse.ArgumentParser) -> None:
    expression = parser.add_argument_group("expression (default: the expression of the source)")
    expression.add_argument("--expression", type=Path, metavar="CLIP|IMAGE", help="face whose expression is copied")
    expression.add_argument(
        "--emotion", metavar="CURVE",
        help="'happy', 'happy:0.7', 'happy:0.5+surprised:0.3', or keys at seconds or percent of the length: "
        "'0=neutral 1.5=happy:0.8 100%%=sad'; 'inspect' lists the emotions of a bank; 'auto': one for each phrase, a "
        "suggestion from the voice of --audio and --text",
    )  # fmt: skip
    add_detection(expression)
    expression.add_argument(
        "--intensity", type=options.number, default=1.0, metavar="X", help="factor for the emotions (default 1)"
    )
    expression.add_argument(
        "--emotion-base", choices=("own", "neutral"), default="own",
        help="add the emotion to the existing expression (own, default), or replace it as EDTalk's demos do (neutral)",
    )  # fmt: skip


def _add_driving_clips(parser: argparse.ArgumentParser) -> None:
    drivers = parser.add_argument_group("driving clips")
    drivers.add_argument(
        "--relative", action="store_true",
        help="add the clips' change since their first frame to the values of the source, instead of replacing them",
    )  # fmt: skip
    drivers.add_argument(
        "--driver-end", choices=(*ENDS, "upstream"),
        help="what follows after the end of a clip: hold its last frame, mirror it (play it backwards and forwards) or "
        "loop it (default: hold poses; mirror expressions and dubbed clips, and poses if a sound drives a bank without "
        "expressions); upstream: as the default, without the last 20 frames of an expression clip, as in EDTalk's "
        "demos",
    )  # fmt: skip
    drivers.add_argument(
        "--driver-crop", type=Framing.parse, default=Framing(), metavar="auto|none|X,Y,SIZE",
        help="as --crop, for driving clips and images",
    )  # fmt: skip
    options.add_face(drivers, "--driver-face", "as --face, for driving clips")


def _add_image(parser: argparse.ArgumentParser) -> None:
    picture = parser.add_argument_group("image")
    add_crop(picture)
    options.add_face(picture)
    layers = picture.add_mutually_exclusive_group()
    layers.add_argument(
        "--layer", choices=LAYERS, default="square",
        help="content of a frame: the square of the face (square, default), the square with an alpha matte (matte, "
        "RGBA), the whole image, transparent except for the face (plate, RGBA), or the face pasted on the whole image "
        "(pasted)",
    )  # fmt: skip
    layers.add_argument(
        "--paste-back", action="store_const", const="pasted", dest="layer",
        help="paste the face on the full image, same as --layer pasted",
    )  # fmt: skip
    picture.add_argument(
        "--mask", choices=MASKS,
        help="visible part of the face: face, or mouth with chin and cheeks (default: mouth for a clip of which only "
        "the mouth is driven, else face)",
    )  # fmt: skip
    picture.add_argument(
        "--feather", type=options.share, metavar="X",
        help=f"width of the mask's soft border relative to its half width, above 0 to 1 (default {FEATHER})",
    )  # fmt: skip
    picture.add_argument(
        "--size", type=options.frame_side, metavar="PIXELS|native",
        help="width of the square in pixels, or the bank's own size (native); detail is taken from the source "
        f"(default: {options.DEFAULT_SIZE}, or the bank's own size if that is larger or with --plain)",
    )  # fmt: skip
    picture.add_argument(
        "--plain", action="store_true", help="output of the network only, without detail from the source"
    )


def _add_dubbing(parser: argparse.ArgumentParser) -> None:
    dub = parser.add_argument_group("dubbing a clip, with the mask mouth")
    dub.add_argument(
        "--references", type=reference_times, default="auto", metavar="auto|none|SECONDS[,SECONDS...]",
        help="frames of the clip from which the new mouth is taken: chosen automatically (auto, default), those at "
        "these seconds of it (of a folder: numbers of images from 0), or none: the mouth of each frame itself is moved",
    )  # fmt: skip
    dub.add_argument(
        "--keep-pauses", action="store_true",
        help="keep the mouth of the clip where the new one rests for at least 0.35 s (needs reference frames)",
    )  # fmt: skip


def _add_time(parser: argparse.ArgumentParser) -> None:
    time = parser.add_argument_group("time")
    time.add_argument(
        "--fps", type=options.frame_rate,
        help="frame rate of the result; clips are resampled to it (default: that of a source clip, else that of "
        "--coefficients, else 25)",
    )  # fmt: skip
    part = time.add_mutually_exclusive_group()
    part.add_argument("--seconds", type=seconds_span, metavar="B|A-B", help="only the first B seconds, or A to B")
    part.add_argument(
        "--frames", type=frames_span, metavar="A-B", help="only frames A to B, both included, counted from 0"
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    report = parser.add_argument_group("report")
    report.add_argument("--json", action="store_true", help="print a report as a JSON object")
    report.add_argument(
        "--progress", choices=STYLES, default="auto",
        help="how progress is shown; json prints JSON lines to stdout (default: a bar on a terminal)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from .rendering import make

    result = make(args)
    if args.json:
        report(json.dumps(result.to_json()), keep=True)
    return result.exit_code


def seconds_span(text: str) -> tuple[float, float]:
    """Parse "B" or "A-B" in seconds."""
    first, _, last = text.rpartition("-")
    try:
        start, end = float(first or 0), float(last)
    except ValueError:
        start, end = 0.0, math.nan
    if not 0 <= start < end < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds such as 4 or 1.5-4, found '{text}'")
    return start, end


def reference_times(text: str) -> str | tuple[float, ...]:
    """Parse "auto", "none" or seconds separated by commas."""
    if text in ("auto", "none"):
        return text
    try:
        times = tuple(float(part) for part in text.split(","))
    except ValueError:
        times = (math.nan,)
    if not all(0 <= time < math.inf for time in times) or len(times) > MOST_REFERENCES:
        message = f"expected auto, none or up to {MOST_REFERENCES} seconds such as 1.5,3, found '{text[:80]}'"
        raise argparse.ArgumentTypeError(message)
    return times


def frames_span(text: str) -> tuple[int, int]:
    """Parse "A-B", both included, to the half-open range (A, B + 1)."""
    first, divider, last = text.partition("-")
    if not divider or not first.isdecimal() or not last.isdecimal() or int(first) > int(last):
        raise argparse.ArgumentTypeError(f"expected frames such as 0-99, found '{text}'")
    return int(first), int(last) + 1
