"""Progress output (a bar, text lines or JSON lines), and stopping on Ctrl-C after the current frame."""

from __future__ import annotations

import json
import select
import signal
import sys
import time
from types import FrameType
from typing import TextIO

STYLES = ("auto", "bar", "lines", "json", "openjd", "none")
_WIDTH = 30
_EVERY = {"bar": 0.1, "lines": 5.0, "json": 0.5, "openjd": 0.5}  # seconds between reports


def note(text: str) -> None:
    """Print one line of information to stderr; stdout is for results."""
    print(f"edtalk: {text}", file=sys.stderr, flush=True)


def report(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print progress, by default to stdout, if this is possible without waiting.

    A pipe that nobody reads becomes full after some frames. Printing would then stop the render, which would not even
    react to SIGTERM.
    """
    stream = sys.stdout if stream is None else stream
    if _has_room(stream):
        print(text, end=end, file=stream, flush=True)


def _has_room(stream: TextIO) -> bool:
    if not hasattr(select, "poll"):  # Windows cannot tell
        return True
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # replaced by an object without a file
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


class Progress:
    """Counts the frames of one task and reports them at a limited rate.

    label: name of the task. total: number of frames, None if unknown. style: one of STYLES. "bar" and "lines" are
    printed to stderr; "auto" is a bar on a terminal and lines elsewhere. "json" and "openjd" (for render farms that
    use Open Job Description) are printed to stdout.
    """

    def __init__(self, label: str, total: int | None, style: str = "auto") -> None:
        self.style = ("bar" if sys.stderr.isatty() else "lines") if style == "auto" else style
        self.label, self.total, self.done = label, total, 0
        self.started = self.reported = time.monotonic()
        self.shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown or self.style in ("json", "openjd"):
            self._report()
        if self.shown and self.style == "bar":
            print(file=sys.stderr)

    def step(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.reported >= _EVERY.get(self.style, float("inf")):
            self.reported = now
            self.shown = True
            self._report()

    @property
    def eta(self) -> float | None:
        """Estimated remaining seconds; None before the first frame or without a total."""
        if not self.total or not self.done:
            return None
        return (time.monotonic() - self.started) / self.done * max(self.total - self.done, 0)

    def _report(self) -> None:
        eta = self.eta
        if self.style == "json":
            event = {"event": "progress", "task": self.label, "done": self.done, "total": self.total}
            report(json.dumps(event | {"eta": None if eta is None else round(eta, 1)}))
            return
        if self.style == "openjd":
            if self.total is not None:
                share = min(self.done / self.total, 1.0) if self.total else 1.0
                report(f"openjd_progress: {100 * share:.1f}")
            return
        of = f"/{self.total}" if self.total else ""
        rest = "" if eta is None else f", {_clock(eta)} left"
        if self.style == "bar":
            filled = round(_WIDTH * min(self.done / self.total, 1.0)) if self.total else 0
            bar = f"|{'#' * filled}{'-' * (_WIDTH - filled)}|" if self.total else ""
            report(f"\r{self.label} {bar} {self.done}{of}{rest}\x1b[K", sys.stderr, end="")
        elif self.style == "lines":
            report(f"edtalk: {self.label} {self.done}{of}{rest}", sys.stderr)


class Stop:
    """In its `with` block the first Ctrl-C or SIGTERM only sets `asked` to the signal, so that the frame is finished.

    A second one raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.asked: int | None = None

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
