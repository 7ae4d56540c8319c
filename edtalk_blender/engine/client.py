"""The client of the worker process: starts it, sends requests, delivers answers, restarts it after a crash. No bpy.

A `Client` belongs to one thread, Blender's main thread, which never waits for the worker. `request` puts a message
into an outbox; `pump`, called by a timer, takes answers from an inbox and calls the callbacks. All decisions - which
jobs are unfinished, whether the worker hangs, whether to restart it - are made in these calls, so they need no lock.
Each worker process has three threads (`_Worker`) that only move bytes: outbox to stdin, stdout to inbox, stderr to the
log. One lock guards the two boxes.

    STOPPED --start, request--> STARTING --hello--> READY <--> BUSY      SILENT: no beat for some time
       ^                                              |                  RESTARTING: crashed once, started again
       +------------------ shutdown ------------------+--second crash--> FAILED --start--> STARTING
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

from ...inference.contract import answers, protocol, requests
from ...inference.contract.answers import Answer, Beat, Failure, Hello, Progress, Stopped
from ...inference.contract.checks import parse
from ...inference.contract.errors import EDTalkError
from ...inference.contract.protocol import Message, ProtocolError
from ...inference.contract.requests import Request
from .hints import hint_for
from .process import Log, Process, environment

logger = logging.getLogger(__name__)

# Requests that are sent again to the next worker after a crash.
REPEATABLE = ("render", "portrait", "lip_sync", "perform", "capture", "track", "read_plate", "encode")
_LONGEST_GAP = 1.0  # seconds; a longer gap between two pumps (Blender hangs, the computer sleeps) is no silence
_MOST_BYTES = 64 * 2**20  # of payload in the inbox


class State(enum.Enum):
    """The state of the worker, as far as this process knows."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    SILENT = "not responding"
    RESTARTING = "starting again"
    FAILED = "failed"


@dataclass(frozen=True)
class Limits:
    """Time limits in seconds, and sizes.

    start: from the start to the hello (the first import of torch is slow). silent: without a message until the state is
    SILENT; kill: until the worker is killed. cancel: for a job to end after it was cancelled. restarts: at most so many
    within `window`. messages: at most so many in the inbox. log_lines: kept in memory. log_bytes: of the log file.
    """

    start: float = 180.0
    silent: float = 10.0
    kill: float = 30.0
    cancel: float = 8.0  # on a busy computer a frame can take seconds, and a new worker longer
    restarts: int = 1
    window: float = 300.0
    messages: int = 256
    log_lines: int = 200
    log_bytes: int = 2**20


class EngineError(EDTalkError):
    """The worker ended or could not be started. `log_tail` holds the last lines that it wrote.

    kind: "start" (it could not be started), "late" (it sent no hello in time), "version", "memory", "killed", "crash",
    "hung", "garbage" or "ended"; or the kind of the error that the worker sent before it ended.
    """

    def __init__(self, message: str, hint: str, kind: str, log_tail: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint, kind)
        self.log_tail = log_tail


class Job:
    """A request and its outcome; changes only in the client's `pump`.

    result: the last answer. error: why it failed. cancelled: it was cancelled or, if a preview, superseded.
    """

    def __init__(
        self, client: Client, number: int, request: Request, on_event: Callable[[Answer], object] | None
    ) -> None:
        self.id, self.request = number, request
        self.finished = self.cancelled = False
        self.error: EDTalkError | None = None
        self.result: Answer | None = None
        self.progress = Progress()
        self._client, self._on_event = client, on_event
        self._message = request.to_message(number)
        self._begun = False
        self._deadline: float | None = None  # once cancelled: when the worker is killed

    @property
    def kind(self) -> str:
        return self.request.kind

    def cancel(self) -> None:
        """Request cancellation. The job ends in a later pump, with `cancelled` set unless it was done first."""
        self._client._cancel(self)


class Client:
    """One worker process at a time, started with the first request and restarted after its first crash."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        limits: Limits = Limits(),
    ) -> None:
        """env: variables to add to a clean environment. log: file for what the worker writes to stderr."""
        self.command, self.limits = tuple(command), limits
        self.hello: Hello | None = None  # of the running worker
        self.failure: EngineError | None = None  # why it ended, until the next one sends hello or `start` is called
        self._cwd, self._env = cwd, environment(env)
        self._log = Log(log, lines=limits.log_lines, size=limits.log_bytes)
        self._worker: _Worker | None = None
        self._jobs: dict[int, Job] = {}  # unfinished, in the order requested
        self._events: deque[tuple[Job, Answer]] = deque()  # ends of jobs that the client itself decided
        self._ids = itertools.count(1)
        self._crashes: list[float] = []  # when the worker ended, within the last `limits.window`
        self._complaint: EDTalkError | None = None  # an error about no job: why the worker is about to end
        self._abandoned: set[int] = set()  # cancelled jobs whose networks the worker is still loading
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
        """The last lines that the worker and the one before it wrote to stderr."""
        return self._log.tail

    @property
    def beat(self) -> Beat | None:
        """The last beat of the running worker."""
        return self._worker.beat if self._worker else None

    # -------------------------------------------------------------------------------------------- requests

    def start(self) -> None:
        """Start the worker unless it runs. After FAILED it may be restarted again as often as `limits` say."""
        if self._worker is None:
            self.failure = None
            self._crashes.clear()
            self._launch()

    def request(self, request: Request, on_event: Callable[[Answer], object] | None = None) -> Job:
        """Send a request; `on_event` gets every answer to it.

        Starts the worker if there is none. In FAILED the job fails at once, because only the user restarts the worker.
        Previews of the same face that have not been sent are superseded by this one.
        Raises EDTalkError for a request that is too large to send.
        """
        job = Job(self, next(self._ids), request, on_event)
        try:
            protocol.encode(job._message)
        except ProtocolError as error:
            message = f"The request is too large. {error.message}"
            raise EDTalkError(message, "Split the sound into shorter parts.") from error
        if isinstance(request, requests.Preview):
            for older in list(self._jobs.values()):
                if request.shows_same_face(older.request) and self._unsent(older):
                    self._finish(older, Stopped(superseded=True))
        self._jobs[job.id] = job
        if self.failure is not None and self.state is State.FAILED:
            self._finish(job, Failure.of(self.failure))
        elif self._worker is None:
            self._launch()
        elif self.hello is not None:
            self._worker.send(job._message)
        return job

    def _cancel(self, job: Job) -> None:
        if job.id not in self._jobs or job._deadline is not None:
            return
        if self._unsent(job):
            self._finish(job, Stopped())
        elif self._worker:
            job._deadline = time.monotonic() + self.limits.cancel
            self._worker.send(requests.Cancel().to_message(job.id))

    def _unsent(self, job: Job) -> bool:
        """Whether the job has not been sent to the worker. Its message is removed from the outbox."""
        return self._worker is None or self.hello is None or self._worker.withdraw(job._message)

    # -------------------------------------------------------------------------------------------- answers

    def pump(self, budget_s: float = 0.005) -> bool:
        """Deliver waiting answers on this thread for about `budget_s` seconds, at least one if there is one.

        Returns whether jobs are unfinished, that is, whether to call again soon.
        """
        until = time.monotonic() + budget_s
        while (is_behind := self._step()) and time.monotonic() < until:
            pass
        self._watch(is_behind)
        return bool(self._events or self._jobs) or self.state in (State.STARTING, State.RESTARTING)

    def wait(self, job: Job, timeout: float | None = None) -> Answer:
        """Pump until the job is finished and return its last answer; for background mode, where no timer runs.

        Raises the job's error, or EDTalkError(kind="timeout") after `timeout` seconds; the job then continues.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not job.finished:
            if until is not None and time.monotonic() > until:
                raise EDTalkError(
                    f"The task '{job.kind}' did not finish within {timeout:g} s.", "Increase the timeout.", "timeout"
                )
            self.pump(0.05)
            if self._worker and not job.finished:
                self._worker.wait_for_message(0.02)
        if job.error:
            raise job.error
        assert job.result is not None, "a finished job has an answer"
        return job.result

    def _step(self) -> bool:
        """Handle one event; False if there is none."""
        if self._events:
            self._deliver(*self._events.popleft())
            return True
        news = self._worker.take() if self._worker else None
        if isinstance(news, Message):
            self._receive(news)
        elif isinstance(news, _End):
            self._handle_end(self._cause_of_end(news))
        return news is not None

    def _receive(self, message: Message) -> None:
        job = self._jobs.get(message.job)
        if message.kind in ("done", "error"):
            self._abandoned.discard(message.job)
        if message.kind == "error" and message.job == 0:
            self._complaint = _error(Failure.from_message(message))
        elif self.hello is None:
            self._receive_hello(message)
        elif job:
            try:
                answer = answers.read_answer(message, job.request)
            except ProtocolError as error:
                answer = Failure.of(error)
            if isinstance(answer, Failure) and job._deadline is not None:
                answer = Stopped()  # it was cancelled, so its files may have been replaced while the worker read them
            self._deliver(job, answer)

    def _receive_hello(self, message: Message) -> None:
        """Check the first message of a worker; send the waiting requests if both sides use the same protocol."""
        version = message.fields.get("protocol")
        if message.kind == "hello" and version != protocol.VERSION:
            found = f"The engine uses version {version} of the protocol, this extension version {protocol.VERSION}."
            self._handle_end(self._error(found, _UPDATE, "version"))
            return
        try:
            hello = answers.read_answer(message)
        except ProtocolError as error:
            self._handle_end(self._error(f"The engine's answer is unreadable: {error.message}", _REPAIR, "garbage"))
            return
        if not isinstance(hello, Hello):
            found = f"The engine sent '{message.kind}' instead of 'hello'."
            self._handle_end(self._error(found, _REPAIR, "garbage"))
            return
        self.hello, self.failure = hello, None
        if worker := self._worker:
            for job in self._jobs.values():
                worker.send(job._message)

    def _deliver(self, job: Job, answer: Answer) -> None:
        if isinstance(answer, answers.Accepted):
            job._begun = True
        elif isinstance(answer, Progress):
            job.progress = answer
        elif isinstance(answer, Failure):
            job.finished, job.error = True, _error(answer)
        elif answer.kind == "done":
            job.finished, job.result = True, answer
            job.cancelled = answers.was_cancelled(answer)
        if job.finished:
            self._jobs.pop(job.id, None)
        try:
            if job._on_event:
                job._on_event(answer)
        except Exception as error:
            logger.exception("The callback for '%s' of '%s' failed.", answer.kind, job.kind)
            bug = f"The result of '{job.kind}' could not be used ({type(error).__name__}: {error})."
            job.error = EDTalkError(bug, "This is a bug: report it with the text of Copy Report.", "bug")
            if not job.finished:
                self._cancel(job)
                self._jobs.pop(job.id, None)
                job.finished = True

    # ------------------------------------------------------------------------------------------- lifetime of the worker

    def shutdown(self, timeout: float = 1.0) -> None:
        """End the worker and cancel all jobs. Waits up to `timeout` seconds before it kills the worker."""
        for job in list(self._jobs.values()):
            self._finish(job, Stopped())
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
        """Forget the worker process; kills it without waiting for its end."""
        if kill and self._worker:
            self._worker.kill()
        self._worker, self.hello, self._complaint = None, None, None
        self._abandoned.clear()

    def _watch(self, is_behind: bool) -> None:
        """Check the time limits of the worker and of cancelled jobs.

        is_behind: whether answers may be unread. Such time does not count for cancelled jobs: Blender may redraw for
        seconds, and the end of the job may be among these answers.
        """
        now = time.monotonic()
        gap, self._pumped = now - self._pumped, now
        elapsed = min(gap, _LONGEST_GAP)
        for job in self._jobs.values():
            if job._deadline is not None:
                job._deadline += gap if is_behind else gap - elapsed
        worker, limits = self._worker, self.limits
        if worker is None:
            return
        self._silence = 0.0 if worker.heard != self._heard else self._silence + elapsed
        self._heard = worker.heard
        if self.hello is None and self._silence > limits.start:
            found = f"The engine did not answer within {limits.start:g} s of its start."
            self._handle_end(self._error(found, "Try again: the first start is the slowest.", "late"))
        elif self.hello is not None and self._silence > limits.kill:
            found = f"The engine did not answer for {limits.kill:g} s and was stopped."
            self._handle_end(self._error(found, _AGAIN, "hung"))
        else:
            self._enforce_cancels(now)

    def _enforce_cancels(self, now: float) -> None:
        """Kill a worker that continues a cancelled job past its deadline, not one that is busy with another job.

        A worker that is still loading the job's networks is kept: it stops the job when they are loaded, and a new one
        would have to load them again.
        """
        jobs = self._jobs.values()
        overdue = [job for job in jobs if job._deadline is not None and now > job._deadline]
        for job in [job for job in overdue if job.progress.phase == "loading"]:
            self._abandoned.add(job.id)
            overdue.remove(job)
            self._finish(job, Stopped())
        if not overdue:
            return
        if self._abandoned:  # the worker will skip these jobs
            for job in overdue:
                self._finish(job, Stopped())
        elif any(job._begun for job in overdue) or not any(job._begun for job in jobs):
            self._drop_worker()
            self._carry_over()
            if self._jobs:
                self._launch()
        else:  # the worker will skip these jobs
            for job in overdue:
                self._finish(job, Stopped())

    def _handle_end(self, failure: EngineError) -> None:
        """Restart a worker that had sent hello, at most `limits.restarts` times; otherwise fail all jobs."""
        now, had_hello = time.monotonic(), self.hello is not None
        logger.warning("%s", failure)
        self._log.note(str(failure))
        self._drop_worker()
        self.failure = failure
        self._crashes = [when for when in self._crashes if now - when < self.limits.window] + [now]
        if had_hello and len(self._crashes) <= self.limits.restarts:
            self._carry_over()
            self._launch()
        else:
            for job in list(self._jobs.values()):
                self._finish(job, Failure.of(failure) if job._deadline is None else Stopped())

    def _cause_of_end(self, end: _End) -> EngineError:
        """The error for a worker that ended by itself."""
        last_line = self._log.last_line.rstrip(".")
        detail = f": {last_line}." if last_line else "."
        cause = end.cause
        if end.obstacle:
            found = f"The engine cannot be started with {self.command[0]}: {end.obstacle}."
            hint, kind = _REPAIR, "start"
        elif any(sign in line for line in self._log.latest[-5:] for sign in _OUT_OF_MEMORY):
            found, hint, kind = (
                f"The engine ran out of memory{detail}",
                "Close other programs, then try again.",
                "memory",
            )
        elif cause in ("SIGKILL", 137):
            found = "The engine was killed by the system, probably out of memory."
            hint, kind = "Close other programs, then try again.", "killed"
        elif cause in ("SIGTERM", "SIGINT", "SIGHUP"):
            found, hint, kind = "The engine was stopped by another program.", "Try again.", "killed"
        elif cause in _CRASHES:
            found = f"The engine crashed with {_CRASHES[cause]}."
            hint, kind = "Try again; if it happens again, update the graphics driver and copy the report.", "crash"
        elif self._complaint:
            found, hint, kind = self._complaint.message, self._complaint.hint, self._complaint.kind
        elif end.garbage:
            found, hint, kind = f"The engine's answer is unreadable: {end.garbage}", _REPAIR, "garbage"
        elif cause is None:
            found, hint, kind = "The engine stopped answering and was killed.", _AGAIN, "ended"
        elif self.hello is None:
            found, hint, kind = f"The engine stopped while starting, with exit code {cause}{detail}", _REPAIR, "start"
        else:
            found, hint, kind = f"The engine stopped with exit code {cause}{detail}", _AGAIN, "ended"
        return self._error(found, hint, kind)

    def _carry_over(self) -> None:
        """End the jobs that are not sent again to the next worker."""
        for job in list(self._jobs.values()):
            job.progress, job._begun = Progress(), False
            if job._deadline is not None:
                self._finish(job, Stopped())
            elif job.kind not in REPEATABLE:
                self._finish(job, Stopped(superseded=True))

    def _finish(self, job: Job, answer: Answer) -> None:
        """End a job without the worker; the answer is delivered in the next step of the pump."""
        del self._jobs[job.id]
        self._events.append((job, answer))

    def _error(self, message: str, hint: str, kind: str) -> EngineError:
        return EngineError(message, hint, kind, self._log.tail)


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _shutdown_all() -> None:
    for client in list(_clients):
        client.shutdown()


def _error(failure: Failure) -> EDTalkError:
    """The worker's error, with a hint that names Blender's controls where there is one for its code."""
    return EDTalkError(failure.message, hint_for(failure.code, failure.hint), failure.error_kind, failure.code)


# -------------------------------------------------------------------------------- reasons for the end of a worker

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

    code: its exit code, None if it had to be killed. garbage: what it wrote instead of a message. obstacle: why it
    could not be started.
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
    """A process, the threads that move its messages, and the lock that they share with the caller."""

    _GRACE = 0.5  # seconds that a process may take to end after it has closed its stdout or written garbage

    def __init__(
        self, command: Sequence[str], cwd: Path | None, env: Mapping[str, str], log: Log, most_messages: int
    ) -> None:
        self.heard = 0  # number of messages, including beats
        self.beat: Beat | None = None  # the last one
        self._command, self._cwd, self._env, self._log, self._most = command, cwd, env, log, most_messages
        self._changed = threading.Condition()  # guards all below
        self._inbox: deque[Message] = deque()
        self._outbox: deque[Message] = deque()
        self._process: Process | None = None
        self._end: _End | None = None
        self._closing = self._killed = False
        self._in_thread(self._run)

    # called by the caller's thread; only the functions named wait_... wait

    def send(self, message: Message) -> None:
        with self._changed:
            self._outbox.append(message)
            self._changed.notify_all()

    def withdraw(self, message: Message) -> bool:
        """Remove a message from the outbox; False if it has been sent."""
        with self._changed:
            if message in self._outbox:
                self._outbox.remove(message)
                return True
            return False

    def take(self) -> Message | _End | None:
        """The next message; after the last one, how the process ended; None if there is nothing new."""
        with self._changed:
            if not self._inbox:
                return self._end
            self._changed.notify_all()
            return self._inbox.popleft()

    def close(self) -> None:
        """Request the end of the process. Its stdin is closed after the messages in the outbox were sent."""
        with self._changed:
            self._outbox.append(requests.Shutdown().to_message(0))
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

    # run by its threads

    def _in_thread(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, name=f"edtalk{work.__name__}", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        """Start the process, read its stdout to the end, then record how it ended."""
        try:
            process = Process(self._command, cwd=self._cwd, env=self._env, stdin=subprocess.PIPE)
        except (OSError, ValueError) as error:
            end = _End(obstacle=getattr(error, "strerror", None) or str(error))
        else:
            with self._changed:
                self._process = process
            if self._killed:  # by the caller, during the start
                process.kill()
            self._log.note(f"engine started, process {process.pid}")
            self._in_thread(self._write, process)
            logging_ = self._in_thread(self._log.follow, process.stderr)
            garbage = self._read(process)
            code = process.wait(self._GRACE)
            process.kill()
            process.wait()
            logging_.join(self._GRACE)  # its child processes may keep stderr open
            end = _End(code, garbage)
        with self._changed:
            self._end, self._closing = end, True
            self._outbox.clear()
            self._changed.notify_all()

    def _read(self, process: Process) -> str:
        """Move messages from stdout to the inbox, waiting while that is full. Returns what is unreadable, or ""."""
        try:
            with process.stdout as stdout:
                while (message := protocol.read(stdout)) is not None:
                    self.heard += 1
                    if message.kind == "beat":
                        self.beat = parse(Beat, message)
                    else:
                        self._put(message)
        except ProtocolError as error:
            return error.message
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
        """Move messages from the outbox to stdin until the process ends."""
        if hasattr(signal, "pthread_sigmask"):  # a write to an ended process must not end Blender with SIGPIPE
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        with contextlib.suppress(OSError, ValueError), process.stdin as stdin:
            while message := self._next_to_send():
                protocol.write(stdin, message)

    def _next_to_send(self) -> Message | None:
        with self._changed:
            self._changed.wait_for(lambda: self._outbox or self._closing)
            return self._outbox.popleft() if self._outbox else None
