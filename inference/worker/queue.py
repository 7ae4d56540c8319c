"""The worker's queue: requests in, answers out, cancelling and pre-emption."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from ..contract import protocol
from ..contract.errors import EDTalkError
from ..contract.protocol import Message, ProtocolError

if TYPE_CHECKING:  # at run time only when Blender's death would be noticed: the import of torch takes seconds
    pass
if TYPE_CHECKING:
    from .worker import _Worker

BUG, INPUT = 1, 2  # exit codes, those of the command line

NICE = 5  # Blender comes first where both want the cores: playback must not stutter for a preview
_REPORT_EVERY = 0.2  # seconds between two reports of progress


# --------------------------------------------------------------------------------------------------- in and out


@dataclass(eq=False)
class QueuedJob:
    """A request that has not been answered yet."""

    message: Message
    cancelled: bool = False
    superseded: bool = False

    def waits_for(self, other: QueuedJob) -> bool:
        """Whether it cannot be done between two frames of another; a job to be dropped can."""
        return self.message.kind in ("render", "release", other.message.kind) and not self.cancelled

    def replaces(self, other: QueuedJob) -> bool:
        """Whether a preview makes an older one of the same face pointless."""
        mine, others = self.message, other.message
        face = ("bank", "picture", "crop")
        return mine.kind == others.kind == "preview" and all(mine.fields.get(n) == others.fields.get(n) for n in face)


class Inbox:
    """Requests in the order in which they came; filled by the reading thread, emptied by the computing one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[QueuedJob] = []
        self._begun: list[QueuedJob] = []  # the job in work last, those that make way for it before it
        self.closing = False

    def put(self, message: Message) -> None:
        with self._changed:
            if message.kind == "shutdown":
                self.closing = True
            elif message.kind == "cancel":
                for job in self._waiting + self._begun:
                    job.cancelled |= job.message.job == message.job
            else:
                new = QueuedJob(message)
                for job in self._waiting:
                    job.superseded |= new.replaces(job)
                self._waiting.append(new)
            self._changed.notify()

    def take(self) -> QueuedJob | None:
        """The next job, waiting for it; None when the worker is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.closing)
            return None if self.closing else self._waiting.pop(0)

    def take_between_frames(self) -> list[QueuedJob]:
        """What is waiting now and need not wait for the end of the job in work."""
        with self._changed:
            if self.closing:
                return []
            now = [job for job in self._waiting if not job.waits_for(self._begun[-1])]
            self._waiting = [job for job in self._waiting if job not in now]
            return now

    def begin(self, job: QueuedJob) -> None:
        with self._changed:
            self._begun.append(job)

    def finish(self, job: QueuedJob) -> None:
        with self._changed:
            self._begun.remove(job)

    @property
    def busy(self) -> int | None:
        """Id of the job in work."""
        with self._changed:
            return self._begun[-1].message.job if self._begun else None


class Outbox:
    """Messages to Blender, from any thread; when nobody can read them any more the process ends."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.between_messages = stream, threading.Lock()

    def send(self, message: Message) -> None:
        with self.between_messages:
            try:
                protocol.write(self._stream, message)
            except OSError:
                end_process(0)

    def send_error(self, job: int, error: EDTalkError) -> None:
        fields = {"kind": error.kind, "message": error.message, "hint": error.hint, "code": error.code}
        self.send(Message("error", job, fields))


def listen(stream: BinaryIO, inbox: Inbox, outbox: Outbox) -> NoReturn:
    """The reading thread. It writes nothing that the process outlives: a full stdout must not keep it from reading."""
    try:
        while (message := protocol.read(stream)) is not None:
            inbox.put(message)
    except ProtocolError as error:
        print(f"edtalk: {error}", file=sys.stderr)
        outbox.send_error(0, EDTalkError(str(error), "Start the worker again.", "protocol"))
        end_process(INPUT)
    except OSError:
        pass  # as good as the end
    end_process(0)


# --------------------------------------------------------------------------------------------------- the work


class CancelledError(Exception):
    """Raised by `Request.check`, through the job's code to whoever began it."""


class Request:
    """A job as its code in `worker.jobs` sees it: what is asked, how to report, and where it may be interrupted."""

    def __init__(self, job: QueuedJob, worker: _Worker) -> None:
        self._job, self._worker = job, worker
        self._phase, self._began, self._reported = "", 0.0, 0.0
        self.payload = job.message.payload

    def __getitem__(self, name: str) -> Any:
        """A field of the message; ProtocolError when Blender left it out."""
        return self._job.message[name]

    def get(self, name: str) -> Any:
        """A field that Blender may leave out; None then."""
        return self._job.message.fields.get(name)

    @property
    def kind(self) -> str:
        return self._job.message.kind

    def tell(self, kind: str, **fields: Any) -> None:
        self._worker.outbox.send(Message(kind, self._job.message.job, fields))

    def progress(self, phase: str, done: int, total: int) -> None:
        """Tell how far a phase is, at a bearable rate: at once, then a few times a second, and at its end."""
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._began = phase, now
        elif done < total and now - self._reported < _REPORT_EVERY:
            return
        self._reported = now
        eta = round((now - self._began) / done * (total - done), 2) if done else None
        self.tell("progress", phase=phase, done=done, total=total, eta=eta)

    @property
    def cancelled(self) -> bool:
        return self._job.cancelled or self._worker.inbox.closing

    def check(self) -> None:
        """Raise CancelledError if Blender no longer wants the result."""
        if self.cancelled:
            raise CancelledError

    def make_way(self) -> None:
        """Do what else has been asked meanwhile; for renders and captures, between two frames."""
        for job in self._worker.inbox.take_between_frames():
            self._worker.do(job)


def end_process(code: int) -> NoReturn:
    """End the process without waiting for anything: threads may hang in reads, libraries take long to unload."""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)
