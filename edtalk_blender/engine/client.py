"""Blender's side of the conversation with the worker: starts it, asks it, hears it, outlives it. No bpy.

A `Client` belongs to one thread, Blender's main thread, which never waits for the worker: it leaves messages in an
outbox, and `pump()`, called by a timer, takes the answers out of an inbox and hands them to whoever asked. Everything
that is decided - which jobs are unfinished, whether a worker hangs, whether it is started again - is decided in these
calls, so it needs no lock. Behind them each worker process has three threads (`_Worker`) that do nothing but move
bytes - outbox to stdin, stdout to inbox, stderr to the log - and one lock, which guards the two boxes.

    STOPPED --start, request--> STARTING --hello--> READY <--> BUSY      SILENT: no beat for a while
       ^                                              |                  RESTARTING: died once, started again
       +------------------ shutdown ------------------+--dies again--> FAILED --start--> STARTING
"""

from __future__ import annotations

import atexit
import contextlib
import enum
import itertools
import logging
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...inference.contract import protocol
from ...inference.contract.errors import EDTalkError
from ...inference.contract.protocol import Message
from .hints import hint_for
from .process import Log, Process, environment

logger = logging.getLogger(__name__)

REPEATABLE = ("render", "portrait", "lip_sync", "capture", "track")  # asked again of the next worker when one dies
_LONGEST_GAP = 1.0  # seconds: between two pumps further apart than this (a frozen Blender, sleep) nobody listened
_MOST_BYTES = 64 * 2**20  # of payload in the inbox


class State(enum.Enum):
    """What the worker is doing, as far as this side knows."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    SILENT = "not responding"
    RESTARTING = "starting again"
    FAILED = "failed"


@dataclass(frozen=True)
class Limits:
    """How long is waited, in seconds, and how much is kept.

    start: for the hello (importing torch for the first time is slow).  silent: without a beat, to say so; kill: to end
    it.  cancel: for a job to end when asked.  restarts: within `window`.  messages: that wait to be pumped.
    """

    start: float = 60.0
    silent: float = 10.0
    kill: float = 30.0
    cancel: float = 2.0
    restarts: int = 1
    window: float = 300.0
    messages: int = 256
    log_lines: int = 200
    log_bytes: int = 2**20


class EngineError(EDTalkError):
    """The worker died or could not be started; `log_tail` holds the last lines that it wrote.

    kind: "start" (could not be started, or never said hello), "version", "memory", "killed", "crash", "hung",
    "garbage" or "ended"; or that of the error which the worker itself gave as the reason.
    """

    def __init__(self, message: str, hint: str, kind: str, log_tail: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint, kind)
        self.log_tail = log_tail


@dataclass(frozen=True)
class Progress:
    """phase: what is being done, "" before it has begun.  total, eta (seconds): None where not known."""

    phase: str = ""
    done: int = 0
    total: int | None = None
    eta: float | None = None


class Job:
    """One request and what became of it; changes only within the client's `pump`.

    result: the `done` message.  error: why it failed.  cancelled: it ended because it was asked to, or, a preview,
    because a newer one took its place.
    """

    def __init__(self, client: Client, message: Message, on_event: Callable[[Message], object] | None) -> None:
        self.id, self.kind = message.job, message.kind
        self.finished = self.cancelled = False
        self.error: EDTalkError | None = None
        self.result: Message | None = None
        self.progress = Progress()
        self._client, self._message, self._on_event = client, message, on_event
        self._begun = False
        self._deadline: float | None = None  # once cancelled: when patience ends

    def cancel(self) -> None:
        """Ask for an end; it comes in a later pump, with `cancelled` set unless the job was done first."""
        self._client._cancel(self)


class Client:
    """One worker process at a time, started when first needed and again after its first death."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        limits: Limits = Limits(),
    ) -> None:
        """env: variables on top of a clean environment.  log: file for what the worker writes to stderr."""
        self.command, self.limits = tuple(command), limits
        self.hello: dict[str, Any] | None = None  # what the running worker said of itself
        self.failure: EngineError | None = None  # why it died, until the next one says hello or `start` is called
        self._cwd, self._env = cwd, environment(env)
        self._log = Log(log, lines=limits.log_lines, size=limits.log_bytes)
        self._worker: _Worker | None = None
        self._jobs: dict[int, Job] = {}  # unfinished, in the order asked
        self._events: deque[tuple[Job, Message]] = deque()  # ends of jobs that no worker tells of
        self._ids = itertools.count(1)
        self._deaths: list[float] = []  # when, within the last `limits.window`
        self._complaint: Message | None = None  # an `error` about no job: why the worker is about to end
        self._silence, self._heard, self._pumped = 0.0, 0, 0.0
        _clients.add(self)

    @property
    def state(self) -> State:
        if self._worker is None:
            return State.FAILED if self.failure else State.STOPPED
        if self.hello is None:
            return State.RESTARTING if self.failure else State.STARTING
        if self._silence > self.limits.silent:
            return State.SILENT
        return State.BUSY if self._jobs else State.READY

    @property
    def log_tail(self) -> tuple[str, ...]:
        """The last lines that the worker, and the one before it, wrote to stderr."""
        return self._log.tail

    @property
    def beat(self) -> Mapping[str, Any]:
        """The worker's last sign of life: busy (id of the job, or None), memory and device_memory (bytes)."""
        return self._worker.beat if self._worker else {}

    # -------------------------------------------------------------------------------------------- asking

    def start(self) -> None:
        """Start the worker unless it runs. After FAILED this is a new beginning, with a restart to spare."""
        if self._worker is None:
            self.failure = None
            self._deaths.clear()
            self._launch()

    def request(
        self,
        kind: str,
        fields: Mapping[str, Any] | None = None,
        payload: bytes = b"",
        on_event: Callable[[Message], object] | None = None,
    ) -> Job:
        """Ask for something; `on_event` gets every message about it, the last one `done` or `error`.

        Starts the worker if there is none; in FAILED the job fails at once, for `start` is the person's to call. Of
        previews of one face that have not left yet only the newest is sent, the others are `done` with `superseded`.
        Raises EDTalkError for a request too large to send.
        """
        message = Message(kind, next(self._ids), dict(fields or {}), payload)
        try:
            protocol.encode(message)
        except protocol.ProtocolError as error:
            raise EDTalkError(f"This is too much for one request: {error}", "Split a long sound.") from error
        if kind == "preview":
            for older in list(self._jobs.values()):
                if older.kind == kind and older._message.fields == message.fields and self._unsent(older):
                    self._finish(older, _superseded(older))
        job = self._jobs[message.job] = Job(self, message, on_event)
        if self.state is State.FAILED:
            self._finish(job, _failed(job, self.failure))
        elif self._worker is None:
            self._launch()
        elif self.hello is not None:
            self._worker.send(message)
        return job

    def _cancel(self, job: Job) -> None:
        if job.id not in self._jobs or job._deadline is not None:
            return
        if self._unsent(job):
            self._finish(job, _cancelled(job))
        else:
            job._deadline = time.monotonic() + self.limits.cancel
            self._worker.send(Message("cancel", job.id))

    def _unsent(self, job: Job) -> bool:
        """Whether the worker has not been given this job; what waits in the outbox is taken back."""
        return self._worker is None or self.hello is None or self._worker.withdraw(job._message)

    # -------------------------------------------------------------------------------------------- hearing

    def pump(self, budget_s: float = 0.005) -> bool:
        """Deliver waiting messages on this thread, for about `budget_s` seconds; at least one, if there is one.

        Returns whether anything is still going on, that is, whether to call again soon.
        """
        until = time.monotonic() + budget_s
        while self._step() and time.monotonic() < until:
            pass
        self._watch()
        return bool(self._events or self._jobs) or self.state in (State.STARTING, State.RESTARTING)

    def wait(self, job: Job, timeout: float | None = None) -> Message:
        """Pump until the job is finished and return its `done` message; for background mode, where no timer runs.

        Raises the job's error, or EDTalkError(kind="timeout") after `timeout` seconds: the job then goes on.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not job.finished:
            if until is not None and time.monotonic() > until:
                raise EDTalkError(f"'{job.kind}' is not done after {timeout:g} s.", "Allow it more time.", "timeout")
            self.pump(0.05)
            if self._worker and not job.finished:
                self._worker.wait_for_message(0.02)
        if job.error:
            raise job.error
        return job.result

    def _step(self) -> bool:
        """Handle one thing that has happened; False if nothing has."""
        if self._events:
            self._deliver(*self._events.popleft())
            return True
        news = self._worker.take() if self._worker else None
        if isinstance(news, Message):
            self._receive(news)
        elif isinstance(news, _End):
            self._died(self._post_mortem(news))
        return news is not None

    def _receive(self, message: Message) -> None:
        job = self._jobs.get(message.job)
        if message.kind == "error" and message.job == 0:
            self._complaint = message
        elif self.hello is None:
            self._greet(message)
        elif job:
            self._deliver(job, message)

    def _greet(self, message: Message) -> None:
        """The first message of a worker says which protocol it speaks; only then is it asked for anything."""
        if message.kind != "hello":
            found = f"The engine began with '{message.kind}' instead of a greeting."
            self._died(self._error(found, _REPAIR, "garbage"))
        elif (version := message.fields.get("protocol")) != protocol.VERSION:
            found = f"The engine speaks version {version} of the protocol, this extension version {protocol.VERSION}."
            self._died(self._error(found, _UPDATE, "version"))
        else:
            self.hello, self.failure = message.fields, None
            for job in self._jobs.values():
                self._worker.send(job._message)

    def _deliver(self, job: Job, message: Message) -> None:
        fields = message.fields
        if message.kind == "accepted":
            job._begun = True
        elif message.kind == "progress":
            job.progress = Progress(*(fields.get(name) for name in ("phase", "done", "total", "eta")))
        elif message.kind == "done":
            job.finished, job.result = True, message
            job.cancelled = bool(fields.get("cancelled") or fields.get("superseded"))
        elif message.kind == "error":
            job.finished = True
            job.error = EDTalkError(*_said(message), str(fields.get("code", "")))
        if job.finished:
            self._jobs.pop(job.id, None)
        try:
            if job._on_event:
                job._on_event(message)
        except Exception as error:
            logger.exception("What was to be done with '%s' of '%s' failed.", message.kind, job.kind)
            bug = f"The result of '{job.kind}' could not be used ({type(error).__name__}: {error})."
            job.error = EDTalkError(bug, "This is a bug: report it with the text of Copy Report.", "bug")
            if not job.finished:
                self._cancel(job)
                self._jobs.pop(job.id, None)
                job.finished = True

    # -------------------------------------------------------------------------------------------- life and death

    def shutdown(self, timeout: float = 1.0) -> None:
        """End the worker, politely for `timeout` seconds, which this alone of all calls waits. Jobs are cancelled."""
        for job in list(self._jobs.values()):
            self._finish(job, _cancelled(job))
        if worker := self._worker:
            self._drop_worker(kill=False)
            worker.close()
            if not worker.wait_for_end(timeout):
                worker.kill()
                worker.wait_for_end(1.0)
        self.failure = None

    def _launch(self) -> None:
        self._worker = _Worker(self.command, self._cwd, self._env, self._log, self.limits.messages)
        self._silence, self._heard, self._pumped = 0.0, 0, time.monotonic()

    def _drop_worker(self, kill: bool = True) -> None:
        """Hear no more of this one; kills without waiting for the death."""
        if kill:
            self._worker.kill()
        self._worker, self.hello, self._complaint = None, None, None

    def _watch(self) -> None:
        """Look at the clock: a worker that says nothing, a job that does not end."""
        now = time.monotonic()
        listened, self._pumped = min(now - self._pumped, _LONGEST_GAP), now
        worker, limits = self._worker, self.limits
        if worker is None:
            return
        self._silence = 0.0 if worker.heard != self._heard else self._silence + listened
        self._heard = worker.heard
        if self.hello is None and self._silence > limits.start:
            found = f"The engine has not answered within {limits.start:g} s of being started."
            self._died(self._error(found, "Try again: the first start after installing is the slowest.", "start"))
        elif self.hello is not None and self._silence > limits.kill:
            found = f"The engine has not answered for {limits.kill:g} s and was stopped."
            self._died(self._error(found, _AGAIN, "hung"))
        else:
            self._enforce_cancels(now)

    def _enforce_cancels(self, now: float) -> None:
        """Kill a worker that goes on with what it was asked to stop; not one that is busy with something else."""
        jobs = self._jobs.values()
        overdue = [job for job in jobs if job._deadline is not None and now > job._deadline]
        if not overdue:
            return
        if any(job._begun for job in overdue) or not any(job._begun for job in jobs):
            self._drop_worker()
            self._carry_over()
            if self._jobs:
                self._launch()
        else:  # it will pass over these when it comes to them
            for job in overdue:
                self._finish(job, _cancelled(job))

    def _died(self, failure: EngineError) -> None:
        """Once in a while a worker that had worked is started again; else every job hears why there is none."""
        now, greeted = time.monotonic(), self.hello is not None
        logger.warning("%s", failure)
        self._log.note(str(failure))
        self._drop_worker()
        self.failure = failure
        self._deaths = [when for when in self._deaths if now - when < self.limits.window] + [now]
        if greeted and len(self._deaths) <= self.limits.restarts:
            self._carry_over()
            self._launch()
        else:
            for job in list(self._jobs.values()):
                self._finish(job, _failed(job, failure) if job._deadline is None else _cancelled(job))

    def _post_mortem(self, end: _End) -> EngineError:
        """One sentence and the next step for a worker that ended by itself."""
        words = self._log.last_words.rstrip(".")
        said = f": {words}." if words else "."
        cause = end.cause
        if end.obstacle:
            found = f"The engine cannot be started with {self.command[0]}: {end.obstacle}."
            hint, kind = _REPAIR, "start"
        elif any(sign in line for line in self._log.latest[-5:] for sign in _OUT_OF_MEMORY):
            found, hint, kind = f"The engine ran out of memory{said}", "Close other programs, then try again.", "memory"
        elif cause in ("SIGKILL", 137):
            found = "The engine was killed from outside, as a system does that runs out of memory."
            hint, kind = "Close other programs, then try again.", "killed"
        elif cause in ("SIGTERM", "SIGINT", "SIGHUP"):
            found, hint, kind = "The engine was ended by another program.", "Try again.", "killed"
        elif cause in _CRASHES:
            found = f"The engine crashed with {_CRASHES[cause]}."
            hint, kind = "Try again; if it happens again, update the graphics driver and copy the report.", "crash"
        elif self._complaint:
            found, hint, kind = _said(self._complaint)
        elif end.garbage:
            found, hint, kind = f"The engine's answer cannot be understood: {end.garbage}", _REPAIR, "garbage"
        elif cause is None:
            found, hint, kind = "The engine stopped answering and was ended.", _AGAIN, "ended"
        elif self.hello is None:
            found, hint, kind = f"The engine stopped while starting, with exit code {cause}{said}", _REPAIR, "start"
        else:
            found, hint, kind = f"The engine stopped with exit code {cause}{said}", _AGAIN, "ended"
        return self._error(found, hint, kind)

    def _carry_over(self) -> None:
        """Settle the jobs that the next worker is not to be asked for again."""
        for job in list(self._jobs.values()):
            job.progress, job._begun = Progress(), False
            if job._deadline is not None:
                self._finish(job, _cancelled(job))
            elif job.kind not in REPEATABLE:
                self._finish(job, _superseded(job))

    def _finish(self, job: Job, message: Message) -> None:
        """End a job from this side; it is told in the next step of the pump."""
        del self._jobs[job.id]
        self._events.append((job, message))

    def _error(self, message: str, hint: str, kind: str) -> EngineError:
        return EngineError(message, hint, kind, self._log.tail)


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _shutdown_all() -> None:
    for client in list(_clients):
        client.shutdown()


# ------------------------------------------------------------------------------------------------ ends of jobs


def _cancelled(job: Job) -> Message:
    return Message("done", job.id, {"cancelled": True})


def _superseded(job: Job) -> Message:
    return Message("done", job.id, {"superseded": True})


def _failed(job: Job, error: EDTalkError) -> Message:
    fields = {"kind": error.kind, "message": error.message, "hint": error.hint, "code": error.code}
    return Message("error", job.id, fields)


def _said(error: Message) -> tuple[str, str, str]:
    """Message, hint and kind, as EDTalkError takes them. A hint for the error's code replaces the worker's."""
    message, hint, kind, code = (str(error.fields.get(name, "")) for name in ("message", "hint", "kind", "code"))
    return message, hint_for(code, hint), kind


# ------------------------------------------------------------------------------------------------ causes of death

_REPAIR = "Repair the engine in the extension's preferences."
_UPDATE = "Update the engine in the extension's preferences, then restart Blender."
_AGAIN = "Try again; if it happens again, copy the report."
_OUT_OF_MEMORY = ("OutOfMemoryError", "CUDA out of memory", "MemoryError", "bad_alloc", "DefaultCPUAllocator")
_CRASHES = {
    "SIGILL": "an instruction that this processor does not have",
    "SIGABRT": "an internal check of a library",
    "SIGBUS": "a bus error",
    "SIGFPE": "an arithmetic error",
    "SIGSEGV": "a segmentation fault",
    0xC0000005: "an access violation",  # and Windows' statuses
    0xC000001D: "an instruction that this processor does not have",
    0xC0000374: "a damaged heap",
    0xC0000409: "an internal check of a library",
}


@dataclass(frozen=True)
class _End:
    """How a worker ended.

    code: its exit code, None if it had to be killed.  garbage: what was no message.  obstacle: to starting it.
    """

    code: int | None = None
    garbage: str = ""
    obstacle: str = ""

    @property
    def cause(self) -> int | str | None:
        """The name of the signal that ended it, else its exit code."""
        if self.code is not None and self.code < 0:
            with contextlib.suppress(ValueError):
                return signal.Signals(-self.code).name
        return self.code


# ------------------------------------------------------------------------------------------------ the process


class _Worker:
    """A process, the threads that move its messages, and the one lock that they share with the caller."""

    _GRACE = 0.5  # seconds that a process may take to end after it has closed its stdout or sent garbage

    def __init__(
        self, command: Sequence[str], cwd: Path | None, env: Mapping[str, str], log: Log, most_messages: int
    ) -> None:
        self.heard = 0  # messages so far, beats among them: signs of life
        self.beat: dict[str, Any] = {}  # the last one
        self._command, self._cwd, self._env, self._log, self._most = command, cwd, env, log, most_messages
        self._changed = threading.Condition()  # guards all below
        self._inbox: deque[Message] = deque()
        self._outbox: deque[Message] = deque()
        self._process: Process | None = None
        self._end: _End | None = None
        self._closing = self._killed = False
        self._in_thread(self._run)

    # what the caller's thread does; none of it waits unless it says so

    def send(self, message: Message) -> None:
        with self._changed:
            self._outbox.append(message)
            self._changed.notify_all()

    def withdraw(self, message: Message) -> bool:
        """Take a message back; False if it is on its way."""
        with self._changed:
            if message in self._outbox:
                self._outbox.remove(message)
                return True
            return False

    def take(self) -> Message | _End | None:
        """The next message, after the last one how it ended, or None: nothing new."""
        with self._changed:
            if not self._inbox:
                return self._end
            self._changed.notify_all()
            return self._inbox.popleft()

    def close(self) -> None:
        """Ask it to end; its stdin is closed after what is still to be sent."""
        with self._changed:
            self._outbox.append(Message("shutdown"))
            self._closing = True
            self._inbox.clear()
            self._changed.notify_all()

    def kill(self) -> None:
        with self._changed:
            self._closing = self._killed = True
            self._outbox.clear()
            self._inbox.clear()
            process = self._process
            self._changed.notify_all()
        if process:
            process.kill()

    def wait_for_message(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or self._end, seconds)

    def wait_for_end(self, seconds: float) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._end, seconds))

    # what its threads do

    def _in_thread(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, name=f"edtalk{work.__name__}", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        """Start the process and read its stdout to the end; then find out how it ended."""
        try:
            process = Process(self._command, cwd=self._cwd, env=self._env, stdin=subprocess.PIPE)
        except (OSError, ValueError) as error:
            end = _End(obstacle=getattr(error, "strerror", None) or str(error))
        else:
            with self._changed:
                self._process = process
            if self._killed:  # while it was being started
                process.kill()
            self._log.note(f"engine started, process {process.pid}")
            self._in_thread(self._write, process)
            logging_ = self._in_thread(self._log.follow, process.stderr)
            garbage = self._read(process)
            code = process.wait(self._GRACE)
            process.kill()
            process.wait()
            logging_.join(self._GRACE)  # what it started may hold its stderr open
            end = _End(code, garbage)
        with self._changed:
            self._end, self._closing = end, True
            self._outbox.clear()
            self._changed.notify_all()

    def _read(self, process: Process) -> str:
        """stdout to inbox, waiting while that is full; returns what was no message, or ""."""
        try:
            with process.stdout as stdout:
                while (message := protocol.read(stdout)) is not None:
                    self.heard += 1
                    if message.kind == "beat":
                        self.beat = message.fields
                    else:
                        self._put(message)
        except protocol.ProtocolError as error:
            return str(error)
        except (OSError, ValueError):
            pass
        return ""

    def _put(self, message: Message) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or not self._full())
            if not self._closing:
                self._inbox.append(message)
                self._changed.notify_all()

    def _full(self) -> bool:
        return len(self._inbox) >= self._most or sum(len(message.payload) for message in self._inbox) >= _MOST_BYTES

    def _write(self, process: Process) -> None:
        """outbox to stdin, for as long as the process takes it."""
        if hasattr(signal, "pthread_sigmask"):  # a write to a dead process must not end a Blender that minds SIGPIPE
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        with contextlib.suppress(OSError, ValueError), process.stdin as stdin:
            while message := self._next_to_send():
                protocol.write(stdin, message)

    def _next_to_send(self) -> Message | None:
        with self._changed:
            self._changed.wait_for(lambda: self._outbox or self._closing)
            return self._outbox.popleft() if self._outbox else None
