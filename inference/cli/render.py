"""`render`: a portrait or a clip, and what drives it, to a video with sound or a folder of pictures."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from ..contract.shot import FEATHER, LAYERS, MASKS
from . import options
from .framing import Framing
from .performance import ENDS
from .progress import STYLES

EXAMPLES = """examples:
  a portrait speaks, in changing moods, with a little life in head and eyes
    render --source me.png --audio line.wav --emotion "0=neutral 1.5=happy 4=sad:0.8" --idle-motion 1 --out me.mp4
  mouth from a sound, head from one clip, expression from another
    render --source me.png --audio line.wav --pose-video head.mp4 --expression actor.mp4 --out me.mp4
  everything from one clip, added to the portrait's own pose and expression
    render --source me.png --lip-video a.mp4 --pose-video a.mp4 --expression a.mp4 --relative --out me.mp4
  new words for an existing shot, put back into the full picture
    render --source shot.mp4 --audio line.wav --paste-back --out dubbed.mp4
  frames 0 to 99 only, as pictures
    render --source me.png --audio line.wav --frames 0-99 --out frames/ --format png
"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "render",
        help="portrait + sound, clips, emotions -> video",
        description="Make a face speak and move. What nothing drives stays as the source shows it. The result is as "
        "long as the sound, else the coefficients, the lip clip, the source clip, the pose clip or the expression "
        "clip, whichever of them is given first; else --seconds says how long.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", type=Path, required=True, metavar="PICTURE|CLIP",
        help="the face to animate; of a clip every frame is used with its own pose and expression (dubbing)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.mp4|FOLDER",
        help="a video (.mp4, .mov, .mkv), or a folder for one picture a frame",
    )  # fmt: skip
    parser.add_argument("--format", choices=("png", "exr"), help="pictures in the folder (default png)")
    options.add_overwrite(parser)
    options.add_bank(parser)

    lips = parser.add_argument_group("mouth (one of)")
    one = lips.add_mutually_exclusive_group()
    one.add_argument("--audio", type=Path, metavar="SOUND", help="sound or video file with speech; also what is heard")
    one.add_argument("--lip-video", type=Path, metavar="CLIP", help="a face whose mouth is copied")
    lips.add_argument(
        "--coefficients", type=Path, metavar="FILE",
        help=".npz or .csv from 'lipsync' or 'capture': drives whatever coefficients it names; other options override",
    )  # fmt: skip
    lips.add_argument(
        "--sound", metavar="FILE|none",
        help="what is heard (default: --audio, else the sound of the lip clip or of the source clip)",
    )  # fmt: skip

    head = parser.add_argument_group("head (one of; default: as in the source)")
    one = head.add_mutually_exclusive_group()
    one.add_argument("--pose-video", type=Path, metavar="CLIP|PICTURE", help="a face whose head motion is copied")
    one.add_argument("--fixed-pose", action="store_true", help="the source's own pose, even with --coefficients")
    head.add_argument(
        "--idle-motion", type=options.number, default=0.0, metavar="X",
        help="gentle head motion of amount X (1 is natural) and blinks; needs a bank with named coefficients",
    )  # fmt: skip

    expression = parser.add_argument_group("expression (default: as in the source)")
    expression.add_argument("--expression", type=Path, metavar="CLIP|PICTURE", help="a face whose expression is copied")
    expression.add_argument(
        "--emotion", metavar="CURVE",
        help="'happy', 'happy:0.7', 'happy:0.5+surprised:0.3', or keys at seconds or percent of the whole: "
        "'0=neutral 1.5=happy:0.8 100%%=sad'; 'inspect' lists a bank's emotions",
    )  # fmt: skip
    expression.add_argument(
        "--intensity", type=options.number, default=1.0, metavar="X", help="scales the emotions (default 1)"
    )
    expression.add_argument(
        "--emotion-base", choices=("own", "neutral"), default="own",
        help="add the emotion to the expression there is (own, default), or replace it, as EDTalk's demos do (neutral)",
    )  # fmt: skip

    drivers = parser.add_argument_group("driving clips")
    drivers.add_argument(
        "--relative", action="store_true",
        help="clips add their change since their first frame to the source's own motion, instead of replacing it",
    )  # fmt: skip
    drivers.add_argument(
        "--driver-end", choices=(*ENDS, "upstream"),
        help="a clip shorter than the result: hold its last frame, mirror it (forth and back) or loop it (default: "
        "hold heads, mirror expressions and dubbed clips; mirror heads too where a sound drives a bank without "
        "expression); upstream does that and drops an expression clip's last 20 frames, as EDTalk's demos do",
    )  # fmt: skip
    drivers.add_argument(
        "--driver-crop", type=Framing.parse, default=Framing(), metavar="auto|none|X,Y,SIZE",
        help="as --crop, for driving clips and pictures",
    )  # fmt: skip
    options.add_face(drivers, "--driver-face", "as --face, for driving clips")

    picture = parser.add_argument_group("picture")
    picture.add_argument(
        "--crop", type=Framing.parse, default=Framing(), metavar="auto|none|X,Y,SIZE",
        help="find the face (auto, default), use the whole picture (none), or the square with its left top corner "
        "at X,Y in pixels",
    )  # fmt: skip
    options.add_face(picture)
    layers = picture.add_mutually_exclusive_group()
    layers.add_argument(
        "--layer", choices=LAYERS, default="square",
        help="what a frame shows: the face's square (default), the square with a matte (RGBA), the whole picture "
        "transparent but for the face (plate, RGBA), or with the face laid in (pasted)",
    )  # fmt: skip
    layers.add_argument(
        "--paste-back", action="store_const", const="pasted", dest="layer",
        help="put the face back into the full picture, as --layer pasted",
    )  # fmt: skip
    picture.add_argument(
        "--mask", choices=MASKS, help="what is laid in: the whole face (default), or the mouth with chin and cheeks"
    )
    picture.add_argument(
        "--feather", type=options.share, metavar="X",
        help=f"width of the mask's soft part as a share of its half width, above 0 to 1 (default {FEATHER})",
    )  # fmt: skip
    picture.add_argument(
        "--size", type=options.side, metavar="PIXELS",
        help="side of the result (default: the bank's); with the source's own detail",
    )  # fmt: skip
    picture.add_argument(
        "--plain", action="store_true", help="what the network draws, soft as it is, without the source's own detail"
    )

    time = parser.add_argument_group("time")
    time.add_argument(
        "--fps", type=options.frame_rate,
        help="frames per second; clips are resampled to it (default: that of --coefficients, else 25)",
    )  # fmt: skip
    part = time.add_mutually_exclusive_group()
    part.add_argument("--seconds", type=seconds_span, metavar="B|A-B", help="only the first B seconds, or A to B")
    part.add_argument(
        "--frames", type=frames_span, metavar="A-B", help="only frames A to B, both included, counted from 0"
    )

    options.add_device(parser)
    report = parser.add_argument_group("report")
    report.add_argument("--json", action="store_true", help="print what was made as a JSON object")
    report.add_argument(
        "--progress", choices=STYLES, default="auto",
        help="how progress is shown; json prints a JSON line on stdout now and then (default: a bar on a terminal)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from .rendering import make

    result = make(args)
    if args.json:
        print(json.dumps(result.to_json()))
    return result.exit_code


def seconds_span(text: str) -> tuple[float, float]:
    """ "B" or "A-B" in seconds."""
    first, _, last = text.rpartition("-")
    try:
        start, end = float(first or 0), float(last)
    except ValueError:
        start, end = 0.0, math.nan
    if not 0 <= start < end < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds such as 4 or 1.5-4, found '{text}'")
    return start, end


def frames_span(text: str) -> tuple[int, int]:
    """ "A-B", both included, as the half-open (A, B + 1)."""
    first, divider, last = text.partition("-")
    if not divider or not first.isdecimal() or not last.isdecimal() or int(first) > int(last):
        raise argparse.ArgumentTypeError(f"expected frames such as 0-99, found '{text}'")
    return int(first), int(last) + 1
