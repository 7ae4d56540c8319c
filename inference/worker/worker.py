"""The process that computes for Blender, over stdin and stdout as `inference.contract.protocol` says.

Three threads. One reads: the end of stdin means that Blender is gone, however it went, and ends the process even in the
middle of a frame. One says every second that the process lives. The main thread computes, one job after another, but a
render and a capture make way between two frames for what else is asked. The process is known here, the work in
`inference.worker.jobs`.
"""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from .. import __version__
from ..contract import protocol
from ..contract.errors import EDTalkError
from ..contract.protocol import Message, ProtocolError

if TYPE_CHECKING:  # at run time only when Blender's death would be noticed: the import of torch takes seconds
    from .jobs import Jobs
from .queue import BUG, INPUT, NICE, CancelledError, Inbox, Outbox, QueuedJob, Request, end_process, listen

BEAT = 1.0  # seconds


def run(device: str = "auto", threads: int | None = None) -> NoReturn:
    """Work until stdin ends or `shutdown` comes, then end the process. device, threads: see `FaceRenderer`.

    Exit codes: 0 asked to or Blender gone, 1 the installation does not work, 2 no such device or no message on stdin.
    """
    incoming, outgoing = _private_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for Blender; stdin tells when it is over
    if hasattr(os, "nice"):
        os.nice(NICE)
    outbox, inbox = Outbox(outgoing), Inbox()
    threading.Thread(target=listen, args=(incoming, inbox, outbox), daemon=True).start()
    try:
        from .jobs import Jobs, torch_version

        jobs = Jobs(device, threads)
    except EDTalkError as error:
        outbox.send_error(0, error)
        end_process(INPUT)
    except Exception as error:
        traceback.print_exc()
        message = f"The engine cannot start: {_one_line(error)}."
        outbox.send_error(0, EDTalkError(message, "Repair the engine in the extension's preferences.", "engine"))
        end_process(BUG)
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
        end_process(0)


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


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _Worker:
    def __init__(self, inbox: Inbox, outbox: Outbox, jobs: Jobs) -> None:
        self.inbox, self.outbox, self._jobs = inbox, outbox, jobs

    def serve(self) -> None:
        while (job := self.inbox.take()) is not None:
            self.do(job)

    def beat(self) -> NoReturn:
        while True:
            time.sleep(BEAT)
            memory = {"memory": _memory(), "device_memory": self._jobs.device_memory()}
            self.outbox.send(Message("beat", 0, {"busy": self.inbox.busy, **memory}))

    def do(self, job: QueuedJob) -> None:
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

    def _answer(self, job: QueuedJob) -> tuple[dict[str, Any], bytes]:
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
