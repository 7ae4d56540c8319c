"""`capture`: writes the coefficients of a face in a clip or image to a file, for editing or rendering."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from . import options
from .clips import Clip, capture_clip
from .framing import add_crop
from .progress import STYLES, report


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "capture",
        help="clip or image -> coefficients",
        description="Measure mouth, pose and expression of a face in every frame of a clip, or in an image.",
    )
    parser.add_argument("--video", type=Path, required=True, metavar="CLIP|IMAGE", help="the face to measure")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".npz (exact) or .csv (to edit)")
    parser.add_argument("--fps", type=options.frame_rate, default=25.0, help="frame rate of the result (default 25)")
    add_crop(parser)
    options.add_face(parser)
    options.add_only(parser)
    options.add_bank(parser)
    options.add_overwrite(parser)
    options.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print a report as a JSON object")
    parser.add_argument("--progress", choices=STYLES, default="auto", help="how progress is shown")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    options.check_free(args.out, args.overwrite, suffixes=(".npz", ".csv"))
    bank = options.load_bank_for(args)
    names = options.columns(bank, args.only)
    renderer = options.make_renderer(bank, args)
    framing = args.crop.choosing(args.face)
    found = capture_clip(renderer, Clip(args.video, args.fps), framing, args.progress)
    found.select(names).save(args.out)
    if args.json:
        made = {"out": str(args.out), "frames": len(found), "fps": args.fps, "names": list(names)}
        report(json.dumps(made), keep=True)
