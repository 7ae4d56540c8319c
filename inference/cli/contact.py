"""`sheet`: draws a contact sheet of a rendered clip with its sound, mouth and emotions."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ..contract.bank import Bank
from ..contract.coefficients import Coefficients
from ..contract.emotion import EmotionCurve
from . import options
from .progress import note

FRAMES = 12


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "sheet",
        help="contact sheet of a rendered clip",
        description="Draw frames of a clip that was rendered from a shot, with its sound, mouth opening and emotions.",
    )
    parser.add_argument(
        "--video", type=Path, required=True, metavar="FILE", help="the clip; its first frame is row 0 of the shot"
    )
    parser.add_argument("--audio", type=Path, required=True, metavar="SOUND", help="its dialogue")
    parser.add_argument("--shot", type=Path, required=True, metavar="FOLDER", help="the shot that it was rendered from")
    parser.add_argument("--emotion", default="neutral", metavar="CURVE", help="its emotions, as for 'render'")
    parser.add_argument("--title", default="", help="title of the sheet")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the image to write")
    options.add_overwrite(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..contract.bank import read_bank
    from ..contract.shot import Shot
    from ..media.picture import save_picture

    options.check_free(args.out, args.overwrite, suffixes=(".png",))
    shot = Shot.read(args.shot)
    sheet = contact_sheet(
        args.video, args.audio, shot.coefficients, read_bank(shot.bank), args.emotion, args.title or args.video.name
    )
    save_picture(args.out, sheet)
    note(f"wrote {args.out}.")


def contact_sheet(clip: Path, audio: Path, rows: Coefficients, bank: Bank, emotion: str, title: str = "") -> np.ndarray:
    """uint8 (H, W, 3): FRAMES frames of a clip with their sound, mouth and emotions. rows: one row per frame."""
    from ..media.sound import load_sound
    from ..media.video import read_frames
    from .sheet import Line, draw, evenly

    frames, fps = len(rows), rows.fps or 25.0
    chosen = set(evenly(frames, FRAMES))
    pictures = {index: rgb for index, rgb in enumerate(read_frames(clip)) if index in chosen}
    times = np.arange(frames) / fps
    samples, rate = load_sound(audio)
    emotions = EmotionCurve.parse(emotion, bank.presets).strengths(times, frames / fps)
    return draw(Line(times, samples, rate, _opening(rows, bank), emotions), pictures, title)


def _opening(rows: Coefficients, bank: Bank) -> np.ndarray:
    """(T,) mouth opening, 0 to 1: "jawOpen" if the bank has it, else the distance of the lips from their median."""
    if "jawOpen" in bank.names:
        opening = rows.column("jawOpen")
    else:
        lips = rows.select(bank.names_of("lip")).values
        opening = np.linalg.norm(lips - np.median(lips, axis=0), axis=1)
    return np.clip(opening / max(float(np.abs(opening).max()), 1e-6), 0.0, 1.0)
