"""Progress output (a bar, text lines or JSON lines), and stopping on Ctrl-C after the current frame."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from types import FrameType
from typing import TextIO

from ..pipe import PipeWriter

STYLES = ("auto", "bar", "lines", "json", "openjd", "none")
_WIDTH = 30
_EVERY = {"bar": 0.1, "lines": 5.0, "json": 0.5, "openjd": 0.5}  # seconds between reports
_MOST_UNREAD = 2**16  # bytes of reports that wait for a reader; further progress is left out
_PATIENCE = 10.0  # seconds that the end of a command waits for a process that does not read its last lines

_writers: dict[int, PipeWriter] = {}  # by descriptor


def note(text: str) -> None:
    """Print one line of information to stderr; stdout is for results."""
    report(f"edtalk: {text}", sys.stderr, keep=True)


def report(text: str, stream: TextIO | None = None, end: str = "\n", keep: bool = False) -> None:
    """Print, by default to stdout, without waiting for a process that does not read it.

    A pipe that nobody reads becomes full after some frames. Printing would then stop the render, which would not even
    react to SIGTERM. keep: not progress, which is left out when nobody reads it, but a line that `finish_reports` waits
    for.
    """
    stream = sys.stdout if stream is None else stream
    writer = _writer(stream)
    if writer is None:
        print(text, end=end, file=stream, flush=True)
        return
    line = (text + end).encode(stream.encoding or "utf-8", "backslashreplace")
    if keep:
        writer.put(line, wait=False)
    else:
        writer.offer(line)


def finish_reports() -> None:
    """Wait until all reports are written, but not for ever for a process that reads nothing."""
    for writer in _writers.values():
        writer.drain(_PATIENCE)


def _writer(stream: TextIO) -> PipeWriter | None:
    """What writes to a pipe; None for a file, a terminal, and a stream that is no file."""
    try:
        descriptor = stream.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):
        return None
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return None
    if descriptor not in _writers:

        def write(piece: bytes) -> None:  # not to the stream: Python closes it at the end, which would wait for this
            while piece:
                piece = piece[os.write(descriptor, piece) :]

        _writers[descriptor] = PipeWriter(write, lambda error: None, _MOST_UNREAD)
    return _writers[descriptor]


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
            report("", sys.stderr, keep=True)

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
