"""The worker's queue: reads requests, sends answers, cancels jobs, and runs short requests during long ones."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from ..contract import answers, protocol, requests
from ..contract.answers import Answer
from ..contract.protocol import Message, ProtocolError
from ..contract.requests import Request
from ..pipe import PipeWriter

BUG, INPUT = 1, 2  # exit codes, those of the command line

NICE = 5  # lower priority than Blender, so that playback does not stutter during a preview
_REPORT_EVERY = 0.2  # seconds between two progress messages
_MOST_UNREAD = 64 * 2**20  # bytes of answers that Blender has not read
_LAST_WORDS = 2.0  # seconds for which the end of the process waits for a Blender that does not read


# --------------------------------------------------------------------------------------------------- in and out


@dataclass(eq=False)
class QueuedJob:
    """A request that has not been answered yet, or the error for one that is malformed."""

    id: int
    request: Request | ProtocolError
    cancelled: bool = False
    superseded: bool = False

    @staticmethod
    def of(message: Message) -> QueuedJob:
        try:
            return QueuedJob(message.job, requests.read_request(message))
        except ProtocolError as error:
            return QueuedJob(message.job, error)

    def can_interrupt(self, running: QueuedJob) -> bool:
        """Whether the job may run between two frames of another one. A cancelled job may: it is only answered."""
        long = (requests.Render, requests.Release, type(running.request))
        return self.cancelled or not isinstance(self.request, long)

    def supersedes(self, other: QueuedJob) -> bool:
        """Whether this is a newer preview of the same face."""
        return (
            isinstance(self.request, requests.Preview)
            and other.request is not None
            and self.request.shows_same_face(other.request)
        )


class Inbox:
    """Requests in the order in which they arrived. Filled by the reading thread, emptied by the working thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[QueuedJob] = []
        self._running: list[QueuedJob] = []  # the current job last, after those that it interrupts
        self.closing = False

    def put(self, message: Message) -> None:
        """Add a request, or apply a `cancel` or `shutdown`. Called by the reading thread."""
        with self._changed:
            if message.kind == requests.Shutdown.kind:
                self.closing = True
            elif message.kind == requests.Cancel.kind:
                for job in self._waiting + self._running:
                    job.cancelled |= job.id == message.job
            else:
                new = QueuedJob.of(message)
                for job in self._waiting:
                    job.superseded |= new.supersedes(job)
                self._waiting.append(new)
            self._changed.notify()

    def take(self) -> QueuedJob | None:
        """Wait for the next job; None when the worker has to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.closing)
            return None if self.closing else self._waiting.pop(0)

    def take_between_frames(self) -> list[QueuedJob]:
        """The waiting jobs that may interrupt the current one."""
        with self._changed:
            if self.closing:
                return []
            now = [job for job in self._waiting if job.can_interrupt(self._running[-1])]
            self._waiting = [job for job in self._waiting if job not in now]
            return now

    def begin(self, job: QueuedJob) -> None:
        with self._changed:
            self._running.append(job)

    def finish(self, job: QueuedJob) -> None:
        with self._changed:
            self._running.remove(job)

    @property
    def busy(self) -> int | None:
        """Number of the current job."""
        with self._changed:
            return self._running[-1].id if self._running else None


class Outbox:
    """Sends answers to Blender, from any thread. Ends the process when Blender has closed the stream."""

    def __init__(self, stream: BinaryIO) -> None:
        def write(piece: bytes) -> None:
            stream.write(piece)
            stream.flush()

        self._writer = PipeWriter(write, lambda error: end_process(0), _MOST_UNREAD)

    def send(self, answer: Answer, job: int = 0) -> None:
        """Send one answer. job: number of the request, 0 for none. Waits only while very much is unread."""
        message = answer.to_message(job)
        self._writer.put(protocol.encode(message), *([message.payload] if message.payload else []))

    def close(self) -> None:
        """No longer wait for Blender in `send`."""
        self._writer.close()

    def end_process(self, code: int) -> NoReturn:
        """End the process when Blender has read all answers, or does not read."""
        self._writer.drain(_LAST_WORDS)
        end_process(code)


def listen(stream: BinaryIO, inbox: Inbox, outbox: Outbox) -> NoReturn:
    """The reading thread. It sends nothing while the process lives: a full stdout must not stop it from reading."""
    try:
        while (message := protocol.read(stream)) is not None:
            inbox.put(message)
            if inbox.closing:
                outbox.close()
    except ProtocolError as error:
        print(f"edtalk: {error}", file=sys.stderr)
        outbox.close()
        outbox.send(answers.Failure.of(error))
        outbox.end_process(INPUT)
    except OSError:
        pass  # the same as the end of the stream
    end_process(0)


# --------------------------------------------------------------------------------------------------- the work


class CancelledError(Exception):
    """Raised by `RunningJob.check_cancelled`."""


class RunningJob:
    """The interface of a job for `worker.jobs` and `drawing`: sends progress and checks for cancellation.

    do: does another job, see `run_previews`.
    """

    def __init__(self, job: QueuedJob, inbox: Inbox, outbox: Outbox, do: Callable[[QueuedJob], None]) -> None:
        self._job, self._inbox, self._outbox, self._do = job, inbox, outbox, do
        self._phase, self._began, self._reported = "", 0.0, 0.0

    def send(self, answer: Answer) -> None:
        self._outbox.send(answer, self._job.id)

    def frame_file(self, index: int, file: str, reused: bool) -> None:
        self.send(answers.FrameFile(index, file, reused))

    def progress(self, phase: str, done: int, total: int) -> None:
        """Report progress: at the start and end of a phase, and a few times per second in between.

        total: 0 if unknown, as for a stream that was cut off; then without an estimate of the remaining time.
        """
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._began = phase, now
        elif (done < total or not total) and now - self._reported < _REPORT_EVERY:
            return
        self._reported = now
        eta = round((now - self._began) / done * (total - done), 2) if 0 < done <= total else None
        self.send(answers.Progress(phase, done, total, eta))

    @property
    def cancelled(self) -> bool:
        return self._job.cancelled or self._inbox.closing

    def check_cancelled(self) -> None:
        """Raise CancelledError if the job was cancelled."""
        if self.cancelled:
            raise CancelledError

    def run_previews(self) -> None:
        """Do the short requests that arrived meanwhile. Called between two frames of a long job."""
        for job in self._inbox.take_between_frames():
            self._do(job)

    def steps_of(self, phase: str) -> Callable[[int, int], None]:
        """A function of (done, total) to call between two frames. It raises CancelledError if the job was cancelled."""

        def step(done: int, total: int) -> None:
            self.run_previews()
            self.check_cancelled()
            self.progress(phase, done, max(done, total) if total else 0)

        return step


def end_process(code: int) -> NoReturn:
    """End the process at once: threads may hang in reads, and libraries take long to unload."""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)
