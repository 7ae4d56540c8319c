"""The command line: one module per group of commands, and one place that turns errors into a message and exit code.

Exit codes: 0 done, 1 internal error, 2 invalid input, 3 disk full or not writable, 130 interrupted (finished frames
are kept).
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

from ..contract.errors import EDTalkError
from . import capture, contact, demo, lipsync, maintain, perform, render, shot, worker
from .hints import with_options
from .progress import finish_reports, note

BUG, INPUT, DISK, INTERRUPTED = 1, 2, 3, 130
_DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO)


class _Parser(argparse.ArgumentParser):
    """Reports invalid arguments in one line, like all other errors."""

    def error(self, message: str) -> NoReturn:
        _say(f"{message[:1].upper()}{message[1:]}.", f"See '{self.prog} --help'.")
        raise SystemExit(INPUT)


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m inference",
        description="Talking-head animation from a portrait (EDTalk): lip sync, head motion and emotions.",
        epilog="Start with: python -m inference demo --out demo.mp4. "
        "Exit codes: 0 done, 1 internal error, 2 invalid input, 3 disk full or not writable, 130 interrupted.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for module in (render, lipsync, perform, capture, shot, demo, contact, maintain, worker):
        module.add_commands(commands)
    for command in set(commands.choices.values()):
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; raises only the parser's SystemExit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may have bytes that are not text
    logging.basicConfig(format="edtalk: %(message)s", level=logging.WARNING)  # shows the warnings about damaged clips
    try:
        return _run(build_parser().parse_args(arguments))
    finally:
        finish_reports()


def _run(args: argparse.Namespace) -> int:
    """Run a command and report its errors. Returns the exit code."""
    try:
        return args.run(args) or 0
    except EDTalkError as error:
        if args.debug:
            traceback.print_exc()
        error = with_options(error)
        _say(error.message, error.hint)
        return DISK if error.kind == "disk" else INPUT
    except KeyboardInterrupt:
        _say("Stopped.")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports the error again at exit
        return 0
    except MemoryError:
        _say("The computer has too little free memory.", "Close other programs, or use smaller files.")
        return INPUT
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            _say(f"{error.filename or 'A file'} could not be written: {error.strerror}.", "Free some space.")
            return DISK
        return _bug(error, args.debug)
    except Exception as error:
        return _bug(error, args.debug)


def _bug(error: Exception, debug: bool) -> int:
    if type(error).__name__ == "OutOfMemoryError":  # of torch, which is not imported here
        _say("The graphics card has too little free memory.", "Close other programs, or use --size or --device cpu.")
        return INPUT
    if debug:
        traceback.print_exc()
    text = " ".join(str(error).split())
    _say(
        f"Internal error ({type(error).__name__}: {text}). This is a bug in EDTalk.",
        "" if debug else "Please report it, with the output of this command with --debug and of 'selftest'.",
    )
    return BUG


def _say(message: str, hint: str = "") -> None:
    note(f"{message} {hint}".rstrip())
