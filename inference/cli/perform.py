"""`perform`: writes head motion for the speech of a sound to a file, for editing or rendering."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..contract.coefficients import Coefficients
from .options import add_audio_stream, add_bank, add_overwrite, amount, check_free, frame_rate, load_bank_for, seed
from .progress import note


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "perform",
        help="sound -> head motion",
        description="Write head motion for the speech of a sound, one row per frame: nods at stressed syllables, and "
        "slow changes of posture. The motion is drawn at random; another seed draws another motion. It is added to the "
        "rest pose of the bank, and begins and ends there. Render the file with 'render --coefficients'.",
    )
    parser.add_argument("--audio", type=Path, required=True, metavar="SOUND", help="sound or video file with speech")
    add_audio_stream(parser, "--audio")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".npz (exact) or .csv (to edit)")
    parser.add_argument("--fps", type=frame_rate, default=25.0, help="frames per second (default 25)")
    parser.add_argument(
        "--sway", type=amount, default=1.0, metavar="X", help="slow motion, below 0.8 Hz: 0 (none) to 2 (default 1)"
    )
    parser.add_argument(
        "--nods", type=amount, default=1.0, metavar="X", help="fast motion, such as nods: 0 (none) to 2 (default 1)"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="number of the motion (default 0)")
    parser.add_argument("--lips", action="store_true", help="include the mouth coefficients of 'lipsync'")
    add_bank(parser)
    add_overwrite(parser)
    parser.add_argument("--json", action="store_true", help="print a report as a JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    check_free(args.out, args.overwrite, suffixes=(".npz", ".csv"))
    bank = load_bank_for(args, audio=args.lips)
    from ..lipsync import frame_times, lip_sync
    from ..media.sound import RATE, load_speech
    from ..motion import eased, head_motion

    samples, seconds = load_speech(args.audio, args.audio_stream)
    times = frame_times(seconds, args.fps)
    found = head_motion(bank, samples, times, [args.seed], sway=args.sway, nods=args.nods)
    if found.note:
        note(f"{args.audio}: {found.note}")
    rest = bank.at_rest(len(times), args.fps)
    columns = [bank.names.index(name) for name in found.names]
    rest.values[:, columns] += eased(found.rows[0], times, seconds)
    names = found.names
    if args.lips:
        rest.values[:, bank.config.bank_slices["lip"]] = lip_sync(samples, RATE, times, bank)
        names = (*bank.names_of("lip"), *names)
    Coefficients(rest.values, bank.names, args.fps).select(names).save(args.out)
    if args.json:
        report = {"out": str(args.out), "frames": len(times), "fps": args.fps, "names": list(names), "note": found.note}
        print(json.dumps(report))
