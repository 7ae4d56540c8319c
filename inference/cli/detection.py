"""Options for emotion that is detected from speech, which `perform` and `render` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..contract.errors import EDTalkError
from ..contract.expression import EMOTIONS, SOURCES, Suggestion
from ..contract.files import read_regular
from ..contract.parsing import read_npz
from .progress import note

if TYPE_CHECKING:
    from ..contract.bank import Bank
    from ..expression import Brought, Emotions
    from ..media.speech import Speech

_MOST_TEXT = 2**20  # bytes of a text file


def add_detection(parser: argparse._ActionsContainer) -> None:
    """Add --text, --emotion-from and --features."""
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="text file (UTF-8) with what is said, in English, for --emotion auto"
    )
    parser.add_argument(
        "--emotion-from", choices=SOURCES, metavar="SOURCE",
        help="what --emotion auto uses: voice, words, or both (default)",
    )  # fmt: skip
    parser.add_argument(
        "--features", type=Path, metavar="FILE.npz",
        help="features of the voice from another program, 'times' (n,) and 'rows' (n, d), for a bank trained with them",
    )  # fmt: skip


def check_detection(args: argparse.Namespace) -> None:
    """Raise EDTalkError for options that need --emotion auto, and for a bank that cannot show emotions."""
    for option, value in (("--text", args.text), ("--emotion-from", args.emotion_from), ("--features", args.features)):
        if value is not None and args.emotion != "auto":
            raise EDTalkError(f"{option} requires --emotion auto.", f"Add --emotion auto, or leave {option} out.")
    if args.emotion_from == "words" and args.text is None:
        raise EDTalkError("--emotion-from words requires --text.", "Give --text FILE, or use --emotion-from voice.")


def detect(
    args: argparse.Namespace, bank: Bank, samples: np.ndarray | Speech, seconds: float, times: np.ndarray
) -> Emotions:
    """The emotions of --audio at `times` (T,). samples: its sound at 16 kHz, `seconds` long. Notes are printed.

    Raises EDTalkError for files that cannot be used and a bank that lacks an emotion.
    """
    from ..contract.expression import SpokenText
    from ..expression import emotions

    check_presets(bank)
    texts = [] if args.text is None else [SpokenText(read_text_file(args.text))]
    brought = None if args.features is None else read_features(args.features, seconds)
    found = emotions(bank, samples, times, texts, source=args.emotion_from or "both", brought=brought)
    if texts and args.emotion_from != "words" and not texts[0].text.strip():
        note(f"{args.text} has no words, so emotion was detected from the voice alone.")
    if found.note:
        note(f"{args.audio}: {found.note}")
    return found


def check_presets(bank: Bank) -> None:
    """Raise EDTalkError if a bank lacks one of the emotions."""
    missing = [name for name in EMOTIONS if name not in bank.presets]
    if missing:
        message = f"The bank '{bank.name}' has no emotion '{missing[0]}', so --emotion auto cannot be used."
        raise EDTalkError(message, "Use a bank with emotion presets.", "bank")


def read_text_file(path: Path) -> str:
    """The text of a file, which may be empty. Raises EDTalkError if it does not exist, is too large or is not UTF-8."""
    expected = f"expected a text file (UTF-8) of at most {_MOST_TEXT // 1024} KiB"
    try:
        content = read_regular(path, _MOST_TEXT)
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise EDTalkError(f"{path} does not exist; {expected}.", "Check the path.") from error
    except OSError as error:
        raise EDTalkError(
            f"{path} could not be read ({error.strerror}); {expected}.", "Choose another file."
        ) from error
    except UnicodeDecodeError as error:
        found = f"found byte 0x{content[error.start]:02x} at {error.start}"
        raise EDTalkError(f"{path} is not text in UTF-8, {found}.", "Save it as UTF-8.") from error
    return text


def read_features(path: Path, seconds: float) -> Brought:
    """Brought features of a sound that lasts `seconds`. Raises EDTalkError if they cannot be used."""
    from ..expression import Brought, check_brought

    if path.suffix != ".npz":
        raise EDTalkError(f"Features must be a .npz file, found '{path.name}'.", "Save them with numpy.savez.")
    try:
        times, rows = read_npz(path, ("times", "rows"))
        brought = Brought(times.astype(np.float64), rows.astype(np.float32))
    except FileNotFoundError as error:
        raise EDTalkError(f"{path} does not exist.", "Check the path.") from error
    except ValueError as error:
        message = f"{path} has no features that can be used: {error}."
        raise EDTalkError(message, "Save 'times' (n,) and 'rows' (n, d) as numbers with numpy.savez.") from error
    try:
        check_brought(brought, seconds)
    except EDTalkError as error:
        raise EDTalkError(f"{path} cannot be used. {error.message}", error.hint) from error
    return brought


def suggestions_json(suggestions: tuple[Suggestion, ...]) -> list[dict[str, object]]:
    """Suggestions for a report."""
    return [{**vars(one), "start": round(one.start, 3), "end": round(one.end, 3)} for one in suggestions]
