"""The worker process: answers Blender's requests over stdin and stdout, see `docs/protocol.md`.

It has four threads. One reads stdin; its end means that Blender has ended, and ends the process even during a frame.
One writes stdout, so that no other waits for Blender. One sends a beat every second. The main thread does one job after
another; a long job lets short ones run between two of its frames. This module manages the process,
`inference.worker.jobs` does the work.
"""

from __future__ import annotations

import gc
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from .. import __version__
from ..contract import protocol
from ..contract.answers import Answer, Beat, Failure, Hello, Stopped
from ..contract.errors import EDTalkError
from ..contract.protocol import ProtocolError
from .queue import BUG, INPUT, NICE, CancelledError, Inbox, Outbox, QueuedJob, RunningJob, listen

if TYPE_CHECKING:  # imports torch, which takes seconds; `run` imports it when the reading thread runs
    from .jobs import Jobs

BEAT = 1.0  # seconds


def run(device: str = "auto", threads: int | None = None) -> NoReturn:
    """Answer requests until stdin ends or `shutdown` arrives, then end the process.

    device, threads: see `ShotRenderer`.

    Exit codes: 0 shutdown or end of stdin, 1 the installation does not work, 2 unknown device or unreadable stdin.
    """
    incoming, outgoing = _private_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in Blender's terminal ends Blender, and then stdin
    if hasattr(os, "nice"):
        os.nice(NICE)
    outbox, inbox = Outbox(outgoing), Inbox()
    threading.Thread(target=listen, args=(incoming, inbox, outbox), daemon=True).start()
    try:
        with collection_paused():
            from .jobs import Jobs, torch_version

        jobs = Jobs(device, threads)
    except EDTalkError as error:
        outbox.send(Failure.of(error))
        outbox.end_process(INPUT)
    except Exception as error:
        traceback.print_exc()
        message = f"The engine cannot start: {_one_line(error)}."
        outbox.send(Failure("engine", message, "Repair the engine in the extension's preferences."))
        outbox.end_process(BUG)
    outbox.send(
        Hello(
            protocol.VERSION,
            __version__,
            str(jobs.device),
            jobs.device_name,
            os.getpid(),
            platform.python_version(),
            torch_version(),
        )
    )
    worker = Worker(inbox, outbox, jobs)
    threading.Thread(target=worker.beat, daemon=True).start()
    worker.serve()
    outbox.end_process(0)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Import modules without garbage collection, and exclude their objects from it afterwards.

    Imports create several hundred thousand objects that live as long as the process. Searching them again and again
    takes a tenth of the time of the import.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """stdin and stdout for messages only: for all other code stdout is stderr and stdin is empty."""
    descriptors = os.dup(0), os.dup(1)
    if sys.platform == "win32":
        import msvcrt

        for descriptor in descriptors:
            msvcrt.setmode(descriptor, os.O_BINARY)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return os.fdopen(descriptors[0], "rb"), os.fdopen(descriptors[1], "wb")


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class Worker:
    """Does the jobs of the inbox, one at a time."""

    def __init__(self, inbox: Inbox, outbox: Outbox, jobs: Jobs) -> None:
        self.inbox, self.outbox, self._jobs = inbox, outbox, jobs

    def serve(self) -> None:
        """Do all jobs until the worker is shut down."""
        while (job := self.inbox.take()) is not None:
            self.do(job)

    def beat(self) -> NoReturn:
        """Send a `Beat` every second. Runs in a thread of its own."""
        while True:
            time.sleep(BEAT)
            self.outbox.send(Beat(self.inbox.busy, _memory(), self._jobs.device_memory()))

    def do(self, job: QueuedJob) -> None:
        """Do one job and send its result, or the error."""
        if job.superseded or job.cancelled:
            self.outbox.send(Stopped(job.superseded), job.id)
            return
        self.inbox.begin(job)
        try:
            self.outbox.send(self._result(job), job.id)
        except CancelledError:
            self.outbox.send(Stopped(), job.id)
        except Exception as error:
            self.outbox.send(Failure.of(self._explained(error)), job.id)
        finally:
            self.inbox.finish(job)

    def _result(self, job: QueuedJob) -> Answer:
        if isinstance(job.request, ProtocolError):
            raise job.request
        return self._jobs.do(job.request, RunningJob(job, self.inbox, self.outbox, self.do))

    def _explained(self, error: Exception) -> EDTalkError:
        """The error to show to the user for any exception."""
        if isinstance(error, EDTalkError):
            return error
        traceback.print_exception(error)
        if self._jobs.is_out_of_memory(error):
            error.__traceback__ = None  # it refers to all tensors of the failed job
            self._jobs.release()
            if self._jobs.device.type == "cpu":
                message, hint = "The computer has too little free memory.", "Close other programs and try again."
            else:
                message = f"The graphics card {self._jobs.device_name} has too little free memory for a single frame."
                hint = "Close other programs, render smaller frames, or choose the CPU as device."
            return EDTalkError(message, hint, "memory")
        return EDTalkError(
            f"Internal error ({_one_line(error)}). This is a bug in EDTalk, not in your scene.",
            "Report it with the worker's log.",
            "bug",
        )


def _memory() -> int | None:
    """Bytes of memory that the process uses, None if the system does not report it."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None
