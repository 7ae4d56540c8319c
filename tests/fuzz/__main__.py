"""A long run by hand: python -m tests.fuzz --inputs 100000 [--parser NAME] [--seed N].

For each parser it prints the number of inputs, exceptions of another type than the parser's own, inputs that took more
than two seconds of the processor, and the peak memory of its process.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from types import FrameType, ModuleType

ROOT = Path(__file__).parents[2]
HANG = 2.0  # seconds of the processor, which do not depend on other programs
WAITING = 60.0  # seconds on the clock, for an input that waits for something
_BLOCK = 1000  # inputs that are made at a time


class Hang(BaseException):
    """One input took longer than HANG or WAITING."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="per parser (default 100000)")
    parser.add_argument("--parser", help="one parser (default: all, each in its own process)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    sys.modules["edtalk"] = ModuleType("edtalk")  # as in tests/conftest.py
    sys.modules["edtalk"].__path__ = [str(ROOT)]
    from .parsers import PARSERS

    if args.parser:
        return _run(args.parser, args.inputs, args.seed)
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", str(args.inputs), "--seed", str(args.seed)]
    return max(subprocess.run([*command, "--parser", name], cwd=ROOT, check=False).returncode for name in PARSERS)


def _run(name: str, count: int, seed: int) -> int:
    import resource  # POSIX only, as are the timers

    from edtalk.inference.contract.errors import EDTalkError

    from .parsers import PARSERS

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    warnings.simplefilter("ignore")
    timers = {signal.ITIMER_PROF: HANG, signal.ITIMER_REAL: WAITING}
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, stop)
    parser, hangs, done = PARSERS[name], 0, 0
    wrong: dict[str, tuple[int, bytes]] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        while done < count:
            for content in parser.inputs(seed + done, min(_BLOCK, count - done)):
                done += 1
                try:
                    for timer, seconds in timers.items():
                        signal.setitimer(timer, seconds)
                    try:
                        parser.parse(content, Path(folder))
                    finally:
                        for timer in timers:
                            signal.setitimer(timer, 0)
                except EDTalkError:
                    pass
                except Hang:
                    hangs += 1
                    print(f"  hang: {content[:200]!r}", flush=True)
                except Exception as error:
                    place = traceback.extract_tb(error.__traceback__)[-1]
                    key = f"{type(error).__name__}: {str(error)[:100]} ({Path(place.filename).name}:{place.lineno})"
                    wrong[key] = wrong.get(key, (0, content))[0] + 1, content
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = sum(number for number, _ in wrong.values())
    print(
        f"{name:18} {done:8} inputs  {total:6} wrong exceptions  {hangs:4} hangs  "
        f"{peak / 1024:6.0f} MB peak ({before / 1024:.0f} MB before)",
        flush=True,
    )
    for key, (number, content) in sorted(wrong.items(), key=lambda entry: -entry[1][0])[:10]:
        print(f"  {number} x {key}\n    {content[:300]!r}", flush=True)
    return 1 if total or hangs else 0


if __name__ == "__main__":
    raise SystemExit(main())
