"""The process that computes for Blender, over stdin and stdout as `inference.protocol` says.

Three threads. One reads: the end of stdin means that Blender is gone, however it went, and ends the process even in the
middle of a frame. One says every second that the process lives. The main thread computes, one job after another, but a
render and a capture make way between two frames for what else is asked. The process is known here, the work in
`inference.jobs`.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from . import __version__, protocol
from .errors import EDTalkError
from .protocol import Message, ProtocolError

if TYPE_CHECKING:  # at run time only when Blender's death would be noticed: the import of torch takes seconds
    from .jobs import Jobs

BEAT = 1.0  # seconds
NICE = 5  # Blender comes first where both want the cores: playback must not stutter for a preview
_REPORT_EVERY = 0.2  # seconds between two reports of progress
_BUG, _INPUT = 1, 2  # exit codes, those of the command line


def run(device: str = "auto", threads: int | None = None) -> NoReturn:
    """Work until stdin ends or `shutdown` comes, then end the process. device, threads: see `FaceRenderer`.

    Exit codes: 0 asked to or Blender gone, 1 the installation does not work, 2 no such device or no message on stdin.
    """
    incoming, outgoing = _private_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for Blender; stdin tells when it is over
    if hasattr(os, "nice"):
        os.nice(NICE)
    outbox, inbox = _Outbox(outgoing), _Inbox()
    threading.Thread(target=_listen, args=(incoming, inbox, outbox), daemon=True).start()
    try:
        from .jobs import Jobs, torch_version

        jobs = Jobs(device, threads)
    except EDTalkError as error:
        outbox.send_error(0, error)
        _end(_INPUT)
    except Exception as error:
        traceback.print_exc()
        message = f"The engine cannot start: {_one_line(error)}."
        outbox.send_error(0, EDTalkError(message, "Repair the engine in the extension's preferences.", "engine"))
        _end(_BUG)
    outbox.send(Message("hello", 0, {
        "protocol": protocol.VERSION,
        "engine": __version__,
        "device": str(jobs.device),
        "device_name": jobs.device_name,
        "pid": os.getpid(),
        "python": platform.python_version(),
        "torch": torch_version(),
    }))  # fmt: skip
    worker = _Worker(inbox, outbox, jobs)
    threading.Thread(target=worker.beat, daemon=True).start()
    worker.serve()
    with outbox.between_messages:
        _end(0)


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """stdin and stdout for messages alone: what anybody else prints goes to stderr, what they read is empty."""
    descriptors = os.dup(0), os.dup(1)
    if os.name == "nt":
        import msvcrt

        for descriptor in descriptors:
            msvcrt.setmode(descriptor, os.O_BINARY)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return os.fdopen(descriptors[0], "rb"), os.fdopen(descriptors[1], "wb")


def _end(code: int) -> NoReturn:
    """End the process without waiting for anything: threads may hang in reads, libraries take long to unload."""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


# --------------------------------------------------------------------------------------------------- in and out


@dataclass(eq=False)
class _Job:
    """A request that has not been answered yet."""

    message: Message
    cancelled: bool = False
    superseded: bool = False

    def waits_for(self, other: _Job) -> bool:
        """Whether it cannot be done between two frames of another; a job to be dropped can."""
        return self.message.kind in ("render", "release", other.message.kind) and not self.cancelled

    def replaces(self, other: _Job) -> bool:
        """Whether a preview makes an older one of the same face pointless."""
        mine, others = self.message, other.message
        face = ("bank", "picture", "crop")
        return mine.kind == others.kind == "preview" and all(mine.fields.get(n) == others.fields.get(n) for n in face)


class _Inbox:
    """Requests in the order in which they came; filled by the reading thread, emptied by the computing one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[_Job] = []
        self._begun: list[_Job] = []  # the job in work last, those that make way for it before it
        self.closing = False

    def put(self, message: Message) -> None:
        with self._changed:
            if message.kind == "shutdown":
                self.closing = True
            elif message.kind == "cancel":
                for job in self._waiting + self._begun:
                    job.cancelled |= job.message.job == message.job
            else:
                new = _Job(message)
                for job in self._waiting:
                    job.superseded |= new.replaces(job)
                self._waiting.append(new)
            self._changed.notify()

    def take(self) -> _Job | None:
        """The next job, waiting for it; None when the worker is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.closing)
            return None if self.closing else self._waiting.pop(0)

    def take_between_frames(self) -> list[_Job]:
        """What is waiting now and need not wait for the end of the job in work."""
        with self._changed:
            if self.closing:
                return []
            now = [job for job in self._waiting if not job.waits_for(self._begun[-1])]
            self._waiting = [job for job in self._waiting if job not in now]
            return now

    def begin(self, job: _Job) -> None:
        with self._changed:
            self._begun.append(job)

    def finish(self, job: _Job) -> None:
        with self._changed:
            self._begun.remove(job)

    @property
    def busy(self) -> int | None:
        """Id of the job in work."""
        with self._changed:
            return self._begun[-1].message.job if self._begun else None


class _Outbox:
    """Messages to Blender, from any thread; when nobody can read them any more the process ends."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.between_messages = stream, threading.Lock()

    def send(self, message: Message) -> None:
        with self.between_messages:
            try:
                protocol.write(self._stream, message)
            except OSError:
                _end(0)

    def send_error(self, job: int, error: EDTalkError) -> None:
        self.send(Message("error", job, {"kind": error.kind, "message": error.message, "hint": error.hint}))


def _listen(stream: BinaryIO, inbox: _Inbox, outbox: _Outbox) -> NoReturn:
    """The reading thread. It writes nothing that the process outlives: a full stdout must not keep it from reading."""
    try:
        while (message := protocol.read(stream)) is not None:
            inbox.put(message)
    except ProtocolError as error:
        print(f"edtalk: {error}", file=sys.stderr)
        outbox.send_error(0, EDTalkError(str(error), "Start the worker again.", "protocol"))
        _end(_INPUT)
    except OSError:
        pass  # as good as the end
    _end(0)


# --------------------------------------------------------------------------------------------------- the work


class CancelledError(Exception):
    """Raised by `Request.check`, through the job's code to whoever began it."""


class Request:
    """A job as its code in `inference.jobs` sees it: what is asked, how to report, and where it may be interrupted."""

    def __init__(self, job: _Job, worker: _Worker) -> None:
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


class _Worker:
    def __init__(self, inbox: _Inbox, outbox: _Outbox, jobs: Jobs) -> None:
        self.inbox, self.outbox, self._jobs = inbox, outbox, jobs

    def serve(self) -> None:
        while (job := self.inbox.take()) is not None:
            self.do(job)

    def beat(self) -> NoReturn:
        while True:
            time.sleep(BEAT)
            memory = {"memory": _memory(), "device_memory": self._jobs.device_memory()}
            self.outbox.send(Message("beat", 0, {"busy": self.inbox.busy, **memory}))

    def do(self, job: _Job) -> None:
        """Answer one job; whatever goes wrong is told, and the worker lives on."""
        message = job.message
        if job.superseded or job.cancelled:
            why = {"superseded": True} if job.superseded else {"cancelled": True}
            self.outbox.send(Message("done", message.job, why))
            return
        self.inbox.begin(job)
        try:
            fields, payload = self._answer(job)
            self.outbox.send(Message("done", message.job, fields, payload))
        except CancelledError:
            self.outbox.send(Message("done", message.job, {"cancelled": True}))
        except Exception as error:
            self.outbox.send_error(message.job, self._explained(error))
        finally:
            self.inbox.finish(job)

    def _answer(self, job: _Job) -> tuple[dict[str, Any], bytes]:
        kind = job.message.kind
        if kind == "ping":
            return {}, b""
        if kind == "release":
            self._jobs.release()
            return {}, b""
        jobs = self._jobs
        work = {"portrait": jobs.portrait, "lip_sync": jobs.lip_sync, "capture": jobs.capture, "track": jobs.track,
                "render": jobs.render, "preview": jobs.preview, "explore": jobs.explore}.get(kind)  # fmt: skip
        if work is None:
            raise ProtocolError(f"The worker does not know the request '{kind}'.")
        request = Request(job, self)
        request.tell("accepted")
        return work(request)

    def _explained(self, error: Exception) -> EDTalkError:
        if isinstance(error, EDTalkError):
            return error
        if isinstance(error, ProtocolError):
            return EDTalkError(str(error), "Update the extension and its engine to the same version.", "protocol")
        traceback.print_exception(error)
        if self._jobs.is_out_of_memory(error):
            error.__traceback__ = None  # it holds every tensor that was being worked on
            self._jobs.release()
            where = "The computer" if self._jobs.device.type == "cpu" else f"The device {self._jobs.device_name}"
            return EDTalkError(f"{where} has too little free memory.", "Close other programs and try again.", "memory")
        return EDTalkError(
            f"Internal error ({_one_line(error)}). This is a bug in EDTalk, not in your scene.",
            "Report it with the worker's log.",
            "bug",
        )


def _memory() -> int | None:
    """Bytes of memory that the process holds, where the system says so."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None
