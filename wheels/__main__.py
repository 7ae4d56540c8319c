"""Commands for maintainers: `python -m wheels lock` and `python -m wheels release`; each has --help."""

from __future__ import annotations

import importlib
import sys

COMMANDS = ("lock", "release")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        raise SystemExit(f"usage: python -m wheels {{{','.join(COMMANDS)}}} ...")
    importlib.import_module(f"wheels.{sys.argv[1]}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
