"""`demo`: renders the embedded portrait and line of dialogue, and draws a contact sheet of the result."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..contract.coefficients import Coefficients
from ..contract.demo import EMOTIONS, LINE, PORTRAIT
from ..contract.emotion import EmotionCurve
from ..contract.errors import EDTalkError
from ..contract.head import head_reason
from . import options
from .progress import STYLES, note, report
from .render import parse_words

SIZE = 512  # width of the video in pixels


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo",
        help="render the embedded example",
        description="Render the embedded portrait speaking the embedded line with changing emotions, and draw a "
        "contact sheet of the result.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo.mp4"), metavar="FILE.mp4", help="(default demo.mp4)")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="the contact sheet (default: OUT with .png)")
    parser.add_argument("--source", type=Path, default=PORTRAIT, metavar="IMAGE", help="another portrait")
    parser.add_argument("--audio", type=Path, default=LINE, metavar="SOUND", help="another line")
    parser.add_argument("--emotion", default=EMOTIONS, metavar="CURVE", help=f"(default '{EMOTIONS}')")
    options.add_overwrite(parser)
    options.add_bank(parser)
    options.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print a report as a JSON object")
    parser.add_argument("--progress", choices=STYLES, default="auto", help="how progress is shown")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..media.picture import save_picture
    from .contact import contact_sheet
    from .rendering import make

    sheet = args.sheet or args.out.with_suffix(".png")
    options.check_free(args.out, args.overwrite, suffixes=(".mp4", ".mov", ".mkv"))
    options.check_free(sheet, args.overwrite, suffixes=(".png",))
    for path in (args.source, args.audio):
        if not path.exists():
            raise EDTalkError(f"{path} does not exist.", "Reinstall, or give another file.", "media")
    EmotionCurve.parse(
        args.emotion, options.load_bank_for(args, weights=False).presets
    )  # the sheet shows it as a curve
    result = make(_render_arguments(args))
    if result.stopped is None:
        rows = Coefficients(result.coefficients, result.bank.names, result.fps)
        title = f"{args.source.name} says {args.audio.name}: {args.emotion}"
        save_picture(sheet, contact_sheet(args.out, args.audio, rows, result.bank, args.emotion, title))
        note(f"wrote {args.out} and {sheet}.")
    if args.json:
        report(json.dumps(result.to_json() | {"sheet": str(sheet)}), keep=True)
    return result.exit_code


def _render_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """The equivalent arguments of `render`."""
    words = ["--source", args.source, "--audio", args.audio, "--emotion", args.emotion, "--out", args.out]
    words += ["--bank", args.bank, "--device", args.device, "--progress", args.progress, "--size", SIZE]
    words += ["--threads", args.threads] if args.threads else []
    words += ["--overwrite"] if args.overwrite else []
    rendering = parse_words(words)
    bank = options.load_bank_for(args, weights=False)
    rendering.head_motion = 0.0 if head_reason(bank) else 1.0
    return rendering
