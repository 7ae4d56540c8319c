"""`worker`: the process that the add-on starts."""

from __future__ import annotations

import argparse
import sys

from ..contract.errors import EDTalkError
from . import options


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "worker",
        help="(started by Blender; not for direct use)",
        description="The process that computes for the Blender extension. The extension starts it and exchanges binary "
        "messages over stdin and stdout. It is not for direct use.",
    )
    options.add_device(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if sys.stdin is None or sys.stdin.isatty():
        raise EDTalkError("The worker is started by Blender; stdin must not be a terminal.", "Use 'render' instead.")
    from ..worker import worker

    worker.run(args.device, args.threads)
