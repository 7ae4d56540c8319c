"""`worker`: the process that Blender talks to."""

from __future__ import annotations

import argparse
import sys

from ..contract.errors import EDTalkError
from . import options


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "worker",
        help="(started by Blender; not for people)",
        description="The process that computes for the Blender extension, which starts it and talks to it in binary "
        "messages over stdin and stdout. People do not call it.",
    )
    options.add_device(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if sys.stdin is None or sys.stdin.isatty():
        raise EDTalkError("The worker is started by Blender and listens to it.", "For people there is 'render'.")
    from ..worker import worker

    worker.run(args.device, args.threads)
