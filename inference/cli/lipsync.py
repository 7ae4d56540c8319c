"""`lipsync`: writes the mouth coefficients of a sound to a file, for editing or rendering."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..contract.coefficients import Coefficients
from .options import add_audio_stream, add_bank, add_only, add_overwrite, check_free, columns, frame_rate, load_bank_for
from .progress import report


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "lipsync",
        help="sound -> mouth coefficients",
        description="Write the mouth coefficients of a sound, one row per frame. All other coefficients are at rest. "
        "Render the file with 'render --coefficients'.",
    )
    parser.add_argument("--audio", type=Path, required=True, metavar="SOUND", help="sound or video file with speech")
    add_audio_stream(parser, "--audio")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".npz (exact) or .csv (to edit)")
    parser.add_argument("--fps", type=frame_rate, default=25.0, help="frames per second (default 25)")
    add_only(parser)
    add_bank(parser)
    add_overwrite(parser)
    parser.add_argument("--json", action="store_true", help="print a report as a JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    check_free(args.out, args.overwrite, suffixes=(".npz", ".csv"))
    bank = load_bank_for(args, audio=True)
    names = columns(bank, args.only)
    from ..lipsync import frame_times, lip_sync
    from ..media.sound import RATE, load_speech

    samples, seconds = load_speech(args.audio, args.audio_stream)
    times = frame_times(seconds, args.fps)
    values = bank.at_rest(len(times)).values
    values[:, bank.config.bank_slices["lip"]] = lip_sync(samples, RATE, times, bank)
    Coefficients(values, bank.names, args.fps).select(names).save(args.out)
    if args.json:
        made = {"out": str(args.out), "frames": len(times), "fps": args.fps, "names": list(names)}
        report(json.dumps(made), keep=True)
