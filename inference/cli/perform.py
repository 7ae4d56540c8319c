"""`perform`: writes head motion and emotion for the speech of a sound to a file, for editing or rendering."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..contract.expression import EMOTIONS
from ..contract.eyes import gaze_names, gaze_offsets
from ..contract.idle import BLINK
from ..contract.mixing import EXPRESSION
from .detection import add_detection, check_detection, check_presets, detect, suggestions_json
from .options import (
    add_audio_stream,
    add_bank,
    add_overwrite,
    amount,
    check_free,
    frame_rate,
    load_bank_for,
    number,
    seed,
)
from .progress import note

if TYPE_CHECKING:
    from ..contract.bank import Bank
    from ..expression import Emotions
    from ..prosody import Prosody

FULL, CLIPPED = 0.999, 0.01  # samples above are clipped; share of them from which on it is said
_PART = 2**18  # samples that are looked at at once


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "perform",
        help="sound -> head motion and emotion",
        description="Write head motion for the speech of a sound, one row per frame: nods at stressed syllables, and "
        "slow changes of posture. The motion is drawn at random; another seed draws another motion. It is added to the "
        "rest pose of the bank, and begins and ends there. With --emotion auto each phrase gets an emotion, a "
        "suggestion from the voice and the text. Render the file with 'render --coefficients'.",
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
    parser.add_argument(
        "--emotion", choices=("auto", "none"), default="none", help="detect emotion from voice and text (default none)"
    )
    parser.add_argument("--intensity", type=number, default=1.0, metavar="X", help="factor for the emotion (default 1)")
    add_detection(parser)
    parser.add_argument("--brows", action="store_true", help="raise the brows at some stressed syllables")
    parser.add_argument("--blinks", action="store_true", help="blink, more often while speaking and in pauses")
    parser.add_argument("--gaze", action="store_true", help="move the eyes, for banks that name the sliders for it")
    parser.add_argument("--lips", action="store_true", help="include the mouth coefficients of 'lipsync'")
    add_bank(parser)
    add_overwrite(parser)
    parser.add_argument("--json", action="store_true", help="print a report as a JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    check_free(args.out, args.overwrite, suffixes=(".npz", ".csv"))
    check_detection(args)
    bank = load_bank_for(args, audio=args.lips)
    if args.emotion == "auto":
        check_presets(bank)
    from ..lipsync import frame_times, lip_sync
    from ..media.sound import RATE
    from ..media.speech import Speech
    from ..motion import SHORTEST, eased, head_motion
    from ..prosody import cached_prosody

    speech = Speech(args.audio, args.audio_stream, SHORTEST)
    seconds = speech.seconds
    parts = (speech[first : first + _PART] for first in range(0, len(speech), _PART))
    clipped = sum(int(np.count_nonzero(np.abs(part) > FULL)) for part in parts) / len(speech)
    if clipped > CLIPPED:
        note(
            f"{args.audio}: {clipped:.0%} of the samples are clipped, so loudness is uncertain. Record it more quietly."
        )
    times = frame_times(seconds, args.fps)
    found = head_motion(bank, speech, times, [args.seed], sway=args.sway, nods=args.nods)
    if found.note:
        note(f"{args.audio}: {found.note}")
    made = bank.at_rest(len(times), args.fps)
    _add(bank, made.values, found.names, eased(found.rows[0], times, seconds))
    names = list(found.names)
    report: dict[str, object] = {}
    if args.lips:
        made.values[:, bank.config.bank_slices["lip"]] = lip_sync(speech[:], RATE, times, bank)
        names = [*bank.names_of("lip"), *names]
    if args.emotion == "auto":
        felt = detect(args, bank, speech, seconds, times)
        part = bank.config.bank_slices[EXPRESSION]
        made.values[:, part] = _with_emotion(bank, made.values[:, part], felt, args.intensity)
        names += bank.names_of(EXPRESSION)
        report = {"emotions": suggestions_json(felt.suggestions), "emotion_note": felt.note}
    names += _upper_face(args, bank, cached_prosody(speech), times, made.values)
    names = list(dict.fromkeys(names))
    made.select(names).save(args.out)
    if args.json:
        report |= {
            "out": str(args.out),
            "frames": len(times),
            "fps": args.fps,
            "names": names,
            "note": found.note,
        }
        print(json.dumps(report))


def _add(bank: Bank, values: np.ndarray, names: Sequence[str], rows: np.ndarray) -> None:
    """Add rows (T, k) to the columns of k coefficients in values (T, n)."""
    values[:, [bank.names.index(name) for name in names]] += rows


def _with_emotion(bank: Bank, expression: np.ndarray, felt: Emotions, intensity: float) -> np.ndarray:
    """(T, m) the expression with emotions of `intensity`: as presets, or as the weights that the network gives."""
    strengths = dict(zip(EMOTIONS, intensity * felt.rows.T, strict=True))
    result = bank.with_emotion(expression, strengths)
    if felt.expression is not None:
        own = result - bank.rest[bank.config.bank_slices[EXPRESSION]]
        result = result + (intensity * felt.expression - own)
    return result


def _upper_face(
    args: argparse.Namespace, bank: Bank, voice: Prosody, times: np.ndarray, values: np.ndarray
) -> Sequence[str]:
    """Add the motion that --brows, --blinks and --gaze ask for to values (T, n). Returns the names of its columns."""
    from ..upper_face import brow_accents, speech_blinks, speech_gaze

    names: list[str] = []
    if args.brows:
        brows, rows = brow_accents(bank, voice, times, args.seed)
        if not brows:
            note(f"The bank '{bank.name}' does not name its brows, so they stay still.")
        _add(bank, values, brows, rows)
        names += brows
    if args.blinks:
        if BLINK in bank.names:
            column = values[:, bank.names.index(BLINK)]
            column += np.maximum(1 - column, 0) * speech_blinks(voice, times, args.seed)
            names.append(BLINK)
        else:
            note(f"The bank '{bank.name}' does not name its eyelids, so they stay open.")
    if args.gaze:
        looking = gaze_names(bank)
        if not looking:
            note(f"The bank '{bank.name}' does not name the sliders that turn the eyes, so they look straight.")
        _add(bank, values, looking, gaze_offsets(bank, speech_gaze(voice, times, args.seed)))
        names += looking
    return names
