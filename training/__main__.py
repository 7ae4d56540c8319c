"""Command line of the training: one command per step of making a bank, see README.md beside this file.

`python -m training`, or `python PATH/TO/training` from any folder, as farm machines use it.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

if not __package__:  # started by its path: put the folder that contains the packages on the search path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from inference.contract.errors import EDTalkError

# Command: module with `add_options(parser)`, its function, and a summary. In the order in which a bank is made.
COMMANDS = {
    "heads": ("heads.dataset", "run", "render a data set of synthetic heads"),
    "landmarks": ("stages.landmarks", "train", "train the network that finds the landmarks of a face"),
    "lips": ("stages.lips", "train", "train the network that reads the outline of the lips"),
    "generator": ("stages.generator", "train", "train the generator"),
    "reader": ("stages.reader", "train", "train the reader of single pictures"),
    "refiner": ("stages.refiner", "train", "train the refiner of the generator's pictures"),
    "insets": ("stages.insets", "train", "train the insets of mouth and eyes"),
    "teeth": ("stages.teeth", "train", "train the network that finds teeth in an opening mouth"),
    "relative-reader": (
        "stages.relative_reader",
        "train",
        "fit the first estimate of the relative reader",
    ),
    "close-reader": ("stages.close_reader", "train", "train the reader of mouth and eye windows"),
    "calibration": ("stages.calibration", "train", "fit the correction of its brows and lids"),
    "audio2lip": ("stages.audio2lip", "train", "train lip-sync on synthetic speech"),
    "audio2pose": ("stages.audio2pose", "train", "train head motion on synthetic speech"),
    "speech-or-music": ("stages.speech_or_music", "run", "fit the weights that tell speech from music"),
    "words": ("stages.words", "run", "fit the table of words that scores emotions of text"),
    "audio2expression": ("stages.audio2expression", "train", "train emotion from speech on synthetic speech"),
    "footage": ("stages.footage", "run", "make a bank from footage without labels"),
    "person": ("stages.person", "run", "tune a bank to one person"),
    "export": ("export", "run", "assemble a bank from checkpoints"),
    "evaluate": ("evaluate.bank", "run", "measure a bank on people it was not trained on"),
    "evaluate-disentangled": ("evaluate.disentangled", "run", "measure banks that were trained without labels"),
    "ablations": ("evaluate.ablations", "run", "measure what each part of the training without labels is worth"),
    "evaluate-lips": ("evaluate.lips", "run", "measure lip-sync on recordings of voices"),
    "evaluate-footage": ("evaluate.footage", "run", "measure dubbing on clips of real people"),
    "evaluate-capture": ("evaluate.capture", "run", "measure how capture follows small motions of a face"),
    "evaluate-performance": ("evaluate.performance", "run", "measure the head motion of a bank"),
    "evaluate-emotion": ("evaluate.emotion", "run", "measure emotion from speech of a bank"),
    "compare-seeds": ("evaluate.seeds", "run", "draw head motion of one line with several seeds"),
    "compare-detail": ("evaluate.compare_detail", "run", "compare detail transfer with plain enlargement"),
}


# Options that count something there must be at least one of; other numbers may be 0.
COUNTS = (
    "accumulate", "batch", "devices", "every", "frames", "identities", "pairs", "people", "pool", "size", "sources",
    "threads",
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Reports invalid arguments in one line, like all other errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message[:1].upper()}{message[1:]}. See '{self.prog} --help'.\n")


def _check_numbers(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a message if a number is negative, infinite or NaN, or if a count is 0."""
    for name, value in vars(args).items():
        least = 1 if name in COUNTS else 0
        if isinstance(value, int | float) and not least <= value < math.inf:
            option = f"--{name.replace('_', '-')}"
            parser.error(f"argument {option}: expected a number from {least} up, found {value:g}")


def _imported(module: str, command: str) -> ModuleType:
    """Import a module of the training. Raises SystemExit for one that the extension's zip does not contain."""
    try:
        return importlib.import_module(f"training.{module}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("training."):
            raise
        raise SystemExit(
            f"The extension does not contain the command {command}. Run it in a checkout of the project."
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. arguments: default the command line's."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _Parser(
        prog="python -m training",
        description="Make a bank from nothing: render heads, train the stages, export and evaluate.",
        epilog="COMMAND --help lists the options of a command; training/README.md has all steps and their durations.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, function, summary) in COMMANDS.items():
        if arguments[:1] != [name]:  # the others are not imported, which would take seconds
            commands.add_parser(name, help=summary, add_help=False)
            continue
        stage = _imported(module, name)
        command = commands.add_parser(
            name, help=summary, description=stage.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        stage.add_options(command)
        command.set_defaults(run=getattr(stage, function))
    args = parser.parse_args(arguments)
    _check_numbers(parser, args)
    try:
        args.run(args)
    except FileNotFoundError as error:
        raise SystemExit(
            f"{error.filename or error} does not exist. Check the path, or run the earlier step."
        ) from error
    except EDTalkError as error:
        raise SystemExit(str(error)) from error
    except OSError as error:  # such as a file in the place of a folder, a missing permission or a full disk
        if error.filename is None:
            raise
        message = f"{error.filename} cannot be used: {error.strerror}. Choose another path, or free some space."
        raise SystemExit(message) from error


if __name__ == "__main__":
    main()
