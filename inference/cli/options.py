"""Options that several commands share, and their checks."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ..contract.bank import STARTER, Bank, load_bank, read_bank
from ..contract.errors import EDTalkError
from ..contract.head import LARGEST_AMOUNT, LARGEST_SEED
from ..contract.shot import LARGEST

if TYPE_CHECKING:
    from ..renderer import FaceRenderer

DEFAULT_SIZE = 512  # pixels of a side of the face's square, if the bank's own is not larger
_RATE = re.compile(r"\d{1,9}(\.\d{1,15})?(/\d{1,9}(\.\d{1,15})?)?")  # with exponents, a Fraction can take any time
_MOST = 10**9
_MOST_THREADS = 1024


def add_bank(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bank", type=Path, default=STARTER, metavar="FILE", help="bank to use (default: the embedded starter bank)"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default auto: the fastest)")
    group.add_argument("--threads", type=thread_count, metavar="N", help="CPU threads (default: one per core)")


def add_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only",
        type=bank_names,
        metavar="BANKS",
        help="write only the coefficients of these banks, such as 'lip' or 'pose,exp' (default: all); 'render "
        "--coefficients' takes missing coefficients from the portrait",
    )


def add_face(parser: argparse._ActionsContainer, option: str = "--face", text: str = "") -> None:
    usual = (
        "which face to use: the Nth from the left, from 1 (negative: from the right), the largest, or the nearest to "
        "a point in pixels"
    )
    parser.add_argument(option, type=face_choice, metavar="N|largest|X,Y", help=text or usual)


def add_audio_stream(parser: argparse._ActionsContainer, which: str) -> None:
    parser.add_argument(
        "--audio-stream", type=positive, metavar="N",
        help=f"number of the audio stream of {which}, from 1 (default: the one that the file marks as default, else "
        "the first)",
    )  # fmt: skip


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= _MOST:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found '{text[:80]}'")
    return value


def thread_count(text: str) -> int:
    value = positive(text)
    if value > _MOST_THREADS:
        raise argparse.ArgumentTypeError(f"expected at most {_MOST_THREADS} threads, found '{text}'")
    return value


def face_choice(text: str) -> int | str | tuple[float, float]:
    """A value for `inference.face.detect.choose_face`."""
    if text == "largest":
        return text
    try:
        point = tuple(float(part) for part in text.split(","))
        which = int(text) if len(point) == 1 else point
    except ValueError:
        which = 0
    if not which or (isinstance(which, tuple) and (len(which) != 2 or not all(map(math.isfinite, which)))):
        raise argparse.ArgumentTypeError(
            f"expected a number from 1, largest, or a point such as 640,360, found '{text}'"
        )
    return which


def amount(text: str) -> float:
    """A gain of head motion."""
    value = number(text)
    if not 0 <= value <= LARGEST_AMOUNT:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {LARGEST_AMOUNT:g}, found '{text}'")
    return value


def seed(text: str) -> int:
    """A number that chooses a random motion."""
    if not text.isascii() or not text.isdecimal() or len(text) > 20 or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {LARGEST_SEED}, found '{text[:80]}'")
    return int(text)


def share(text: str) -> float:
    value = number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1, found '{text}'")
    return value


def side(text: str) -> int:
    """Width of a square image in pixels."""
    value = positive(text)
    if value > LARGEST:
        raise argparse.ArgumentTypeError(f"expected at most {LARGEST} pixels, found '{text}'")
    return value


def frame_side(text: str) -> int:
    """Width of the face's square in pixels; 0 for "native", the bank's own size."""
    return 0 if text == "native" else side(text)


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, found '{text}'")
    return value


def frame_rate(text: str) -> float:
    """25, 23.976 or 30000/1001."""
    try:
        value = float(Fraction(text)) if _RATE.fullmatch(text) else math.nan
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not 1 <= value <= 240:
        raise argparse.ArgumentTypeError(f"expected frames per second from 1 to 240, found '{text}'")
    return value


def bank_names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise argparse.ArgumentTypeError("expected bank names such as lip or pose,exp")
    return names


def columns(bank: Bank, only: Sequence[str] | None) -> tuple[str, ...]:
    """The coefficient names of the banks in `only` (default: all), in the bank's order. Raises EDTalkError."""
    have = [name for name, _ in bank.config.banks]
    for name in only or ():
        if name not in have:
            raise EDTalkError(f"The bank '{bank.name}' has no part '{name}'; available: {', '.join(have)}.")
    return tuple(coefficient.name for coefficient in bank.coefficients if not only or coefficient.bank in only)


def check_free(path: Path, overwrite: bool, suffixes: Iterable[str] = ()) -> None:
    """Raise EDTalkError if an output file cannot or must not be written, before any work is done.

    suffixes: the allowed ones, default any.
    """
    suffixes = tuple(suffixes)
    if suffixes and path.suffix.lower() not in suffixes:
        raise EDTalkError(f"The output must end in {' or '.join(suffixes)}, found '{path.name}'.")
    if path.is_dir():
        raise EDTalkError(f"{path} is a folder; expected a file name.", "Choose a file name.")
    if path.exists() and not overwrite:
        raise EDTalkError(f"{path} exists.", "Choose another name, or add --overwrite.")
    if not path.parent.is_dir():
        raise EDTalkError(f"The folder {path.parent} does not exist.", "Create it first.", "disk")


def load_bank_for(
    args: argparse.Namespace, *, audio: bool = False, emotions: bool = False, weights: bool = True
) -> Bank:
    """The bank of --bank. Raises EDTalkError if it lacks a lip-sync network (`audio`) or emotions (`emotions`).

    weights: whether the weights are loaded as well, not only the metadata.
    """
    if args.bank == STARTER and not STARTER.exists():
        raise EDTalkError(
            "The embedded starter bank is missing from this installation.", "Reinstall, or give --bank FILE.", "bank"
        )
    bank = load_bank(args.bank) if weights else read_bank(args.bank)
    if audio and not bank.has_audio:
        raise EDTalkError(
            f"The bank '{bank.name}' has no lip-sync network.",
            "Convert it again with --audio2lip Audio2Lip.pt, or use --lip-video.",
            "bank",
        )
    if emotions and not bank.presets:
        why = "has no emotion presets" if bank.config.enhances_expression else "has no expression coefficients"
        raise EDTalkError(
            f"The bank '{bank.name}' {why}, so --emotion cannot be used.",
            "Leave out --emotion, or use a bank with emotion presets.",
            "bank",
        )
    return bank


def make_renderer(bank: Bank, args: argparse.Namespace) -> FaceRenderer:
    import cv2

    from ..renderer import FaceRenderer

    if args.threads:
        cv2.setNumThreads(args.threads)
    return FaceRenderer(bank, device=args.device, threads=args.threads)
