"""Tasks for the engine: submit, wait, cancel, apply results and push undo steps. Also the problems shown to the artist.

    task = session.submit(requests.Portrait(bank, picture, "auto"), label="Read the face of Anna", on_done=apply)

returns at once. `apply` is called later with the result, on Blender's main thread, by a timer, or by `wait` in
background mode. Results are never applied while Blender renders, saves or undoes. A callback keeps no reference to an
object or strip: it finds them by id.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy

from ...inference.contract import answers, requests
from ...inference.contract.answers import Answer, Progress
from ...inference.contract.errors import EDTalkError
from ...inference.contract.requests import Request
from . import engine
from .check import Checks
from .client import Client, Job, State

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
PACKAGE = ".".join(__package__.split(".")[:3])  # "bl_ext.user_default.edtalk"

_BUSY, _IDLE, _HELD = 1 / 30, 0.5, 0.1  # seconds between two ticks
STEP = 0.005  # seconds of work on Blender's main thread in one tick, and between two ticks with work
_SHARE, _LONGEST_STEP = 0.1, 0.1  # of the time by which a tick is late; seconds
SAMPLING = "sampling"  # a reason for `hold`
_REDRAW = 0.2  # seconds between two redraws for progress
_NOTICE = 15.0  # seconds for which the status bar shows a notice
_FIND_AGAIN = 3.0  # seconds for which the result of `engine.find` is cached
_CHECK_AGAIN = 0.5  # seconds after which it is looked up again while a chosen Python is being checked
_RELEASE_AFTER, _END_AFTER = 300.0, 1800.0  # idle seconds until the engine frees its memory, and until it is ended

_numbers = itertools.count(1)


class Task:
    """A request to the engine, from its turn in the queue to its end.

    label: shown to the artist with the progress, "" if it is not shown. number: identifies the task. subject: what it
    is about, such as (character, strip), for `unfinished`. in_steps, undo: see `work.begin`.
    """

    in_steps, undo = False, ""

    def __init__(
        self,
        label: str,
        prepare: Callable[[], Request | None],
        on_done: Callable[[Any], object] | None,
        on_event: Callable[[Answer], object] | None,
        subject: tuple[str, ...] = (),
        finished: Callable[[Any], str] | None = None,
    ) -> None:
        self.label, self.subject, self.number = label, subject, next(_numbers)
        self.finished = self.cancelled = False
        self.error: EDTalkError | None = None
        self.job: Job | None = None
        self._prepare, self._on_done, self._on_event, self._notice = prepare, on_done, on_event, finished
        self._next: list[Callable[[Task], object]] = []

    @property
    def progress(self) -> Progress | None:
        """None before it begins."""
        return self.job.progress if self.job else None

    @property
    def fraction(self) -> float:
        """Progress, 0 to 1."""
        progress = self.progress
        return min(progress.done / progress.total, 1.0) if progress and progress.total else 0.0

    @property
    def status(self) -> str:
        """Text for a progress bar, such as "rendering 12 of 48, 3 s left"."""
        client, progress = _state.client, self.progress
        if progress is None:
            return "waiting"
        if self.job and client and client.state in (State.STARTING, State.RESTARTING, State.SILENT):
            return f"engine {client.state.value}"
        text = progress.phase or "waiting"
        if progress.total and progress.total > 1:
            text += f" {progress.done} of {progress.total}"
        return text if progress.eta is None else f"{text}, {duration(progress.eta)} left"

    @property
    def texts(self) -> tuple[str, str]:
        """Label and progress for a progress bar, and a shorter text such as "Render 'Anna': 12 of 48"."""
        status, progress = self.status, self.progress
        counts = f" {progress.done} of {progress.total}" if progress else ""
        short = counts.strip() if counts and counts in status else status
        return f"{self.label}: {status}", f"{self.label}: {short}"

    def cancel(self) -> None:
        """Request cancellation; completed work is kept."""
        if self.job:
            self.job.cancel()
        elif not self.finished:
            self.cancelled = True
            self._end()

    def then(self, call: Callable[[Task], object]) -> None:
        """Call a function when the task has ended, whatever the outcome; at once if it has ended."""
        if self.finished:
            call(self)
        else:
            self._next.append(call)

    def _advance(self, _budget: float) -> None:
        """Send the request."""
        with self._reporting():
            request = self._prepare()
            if request is None:
                self._end()
            else:
                self.job = client().request(request, on_event=self._receive)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """End the task with an error that is raised in this block."""
        try:
            yield
        except EDTalkError as error:
            self._end(error)
        except Exception as error:
            logger.exception("The task '%s' could not be started.", self.label or "Preview")
            bug = f"The task '{self.label or 'Preview'}' could not be started ({type(error).__name__}: {error})."
            self._end(EDTalkError(bug, "This is a bug: report it with the text of Copy Report.", "bug"))

    def _receive(self, answer: Answer) -> None:
        if self._on_event:
            self._on_event(answer)
        if answer.kind == "done" and not answers.was_cancelled(answer):
            if self._on_done:
                self._on_done(answer)
            if self._notice:
                notify(self._notice(answer))

    def _settle(self) -> None:
        """End the task if its job has ended."""
        if self.job and self.job.finished and not self.finished:
            self.cancelled = self.job.cancelled
            self._end(self.job.error)

    def _end(self, error: EDTalkError | None = None) -> None:
        self.finished, self.error = True, error
        if error:
            report(error)
        for call in self._next:
            call(self)
        if self.label and not blocking():
            redraw()


class Chain:
    """Tasks that depend on each other: a generator that yields lists of tasks, and continues when they have ended.

    It starts at once, and ends at the first task that fails or is cancelled. The scene may change between two steps:
    the generator looks up objects and strips again after each `yield`, and calls `edited` after it changed something.
    error: what ended it; also reported to the artist, unless it happened before the first `yield`.
    """

    def __init__(self, steps: Iterator[Sequence[Task]]) -> None:
        self.finished = False
        self.error: EDTalkError | None = None
        self._steps, self._tasks = steps, list[Task]()
        self._continue(None)

    def _continue(self, ended: Task | None) -> None:
        if self.finished or not all(task.finished for task in self._tasks):
            return
        failed = next((task for task in self._tasks if task.error or task.cancelled), None)
        if failed:
            self.finished, self.error = True, failed.error
            self._steps = iter(())  # closes a generator
            return
        try:
            self._tasks = list(next(self._steps, ()))
            self.finished = not self._tasks
        except EDTalkError as error:
            self.finished, self.error = True, error
            if ended:
                report(error)
        for task in list(self._tasks):
            task.then(self._continue)


@dataclass(frozen=True)
class Problem:
    """A message for the artist and, if there is one, the operator that fixes it and the label of its button."""

    message: str
    hint: str = ""
    fix: str = ""
    label: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preferred:
    """The extension's preferences.

    python: an interpreter or environment, "" for the installed one. options: of the worker's command line. cache: a
    folder for frames, "" for the folder of the .blend. cache_limit: its size in GB, see `render.cache_limit`; 0: none.
    backend, mirror, torch_index: see `Installation`. yields: whether the engine frees its memory when Blender starts to
    render.
    """

    python: str = ""
    options: tuple[str, ...] = ()
    cache: str = ""
    cache_limit: int = 0
    backend: str = "auto"
    mirror: str = ""
    torch_index: str = ""
    yields: bool = False


@dataclass
class _State:
    """The state of the session.

    client: made with the first request. found: when the engine was looked up, and the result. checks: of Pythons that
    the user chose. held: reasons for which no results are applied. undo_name: of the undo step to push. redrawn,
    worked: when panels were last redrawn for progress, and the engine last had work. due: when the next tick should
    come. released: whether an idle engine has freed its memory. notified: when the last notice came.
    """

    client: Client | None = None
    found: tuple[float, engine.Engine | None] = (0.0, None)
    checks: Checks = field(default_factory=Checks)
    held: set[str] = field(default_factory=set)
    undo_name: str = ""
    redrawn: float = 0.0
    worked: float = 0.0
    due: float = float("inf")
    released: bool = False
    notified: float = float("-inf")


tasks: list[Task] = []  # unfinished, in the order submitted
problems: deque[Problem] = deque(maxlen=10)  # the latest ones, until they are dismissed
notices: deque[str] = deque(maxlen=3)  # what finished last, until dismissed; more would push the panels off the screen
preferred: Callable[[], Preferred] = Preferred  # set by `preferences`
_state = _State()


# --- Requests


def client() -> Client:
    """The engine's client, made when first needed. Raises EDTalkError(kind="engine") if no engine is installed."""
    if _state.client is None:
        command = find_engine().command(*preferred().options)
        _state.client = Client(command, cwd=ROOT, log=user_folder() / "engine.log")
    return _state.client


def current_client() -> Client | None:
    """The client, None before the first request; starts nothing."""
    return _state.client


def revive() -> None:
    """Start an engine that has failed, because the artist tries again. Does nothing otherwise."""
    if _state.client and _state.client.state is State.FAILED:
        _state.client.start()


def find_engine() -> engine.Engine:
    """Where the engine's Python is and whether it can be used. Cached for a few seconds: panels call it often."""
    when, found = _state.found
    if found is None or time.monotonic() - when > _FIND_AGAIN:
        found = engine.find(ROOT, user_folder(), preferred().python)
        if found.chosen and found.usable and found.python and not blocking():  # a script sees the worker's own error
            found = engine.checked(found, _state.checks.of(found.python))
            if found.state is engine.State.UNCHECKED and not bpy.app.timers.is_registered(forget_engine):
                bpy.app.timers.register(forget_engine, first_interval=_CHECK_AGAIN)
        _state.found = time.monotonic(), found
    return found


def forget_engine() -> None:
    """Look up the engine again: it was installed, removed or chosen."""
    _state.found = 0.0, None
    redraw()


def check_engine() -> None:
    """Look up the engine and check its packages again: the user chose or changed it."""
    _state.checks.forget()
    forget_engine()


def user_folder() -> Path:
    """The extension's own folder, which Blender deletes when the extension is removed."""
    return Path(bpy.utils.extension_path_user(PACKAGE, create=True))


def submit(
    request: Request | Callable[[], Request | None],
    *,
    label: str = "",
    on_done: Callable[[Any], object] | None = None,
    on_event: Callable[[Answer], object] | None = None,
    subject: tuple[str, ...] = (),
    finished: Callable[[Any], str] | None = None,
) -> Task:
    """Send a request to the engine and return at once. Errors end the task and are shown to the artist.

    request: also a function that makes the request when the task's turn comes, for one that takes a moment to prepare;
    it returns None if there is nothing to request. on_done: called with the result, see `answers.RESULTS`; not called
    if the request fails or is cancelled. on_event: called with every answer. subject: see `unfinished`.
    finished: gives the notice for the result, see `notify`.
    """
    task = Task(label, request if callable(request) else lambda: request, on_done, on_event, subject, finished)
    tasks.append(task)
    if not callable(request):
        task._advance(0.0)
        _sweep()
    keep_ticking()
    return task


def unfinished(subject: tuple[str, ...]) -> list[Task]:
    """The unfinished tasks that were submitted with this subject."""
    return [task for task in tasks if task.subject == subject and not task.finished]


def wait(*awaited: Task | Chain, timeout: float | None = None) -> None:
    """Pump until tasks or chains have ended; for background mode and scripts, where no timer runs.

    Raises the error of the first that failed, or EDTalkError(kind="timeout") after `timeout` seconds.
    """
    until = None if timeout is None else time.monotonic() + timeout
    while not all(task.finished for task in awaited):
        if until is not None and time.monotonic() > until:
            raise EDTalkError(f"The engine did not finish within {timeout:g} s.", "Increase the timeout.", "timeout")
        pump(0.05)
        time.sleep(0.005)
    _sweep()  # `pump` leaves a work in steps that has ended to its next call
    for task in awaited:
        if task.error:
            raise task.error


def is_playing() -> bool:
    """Whether a window plays the animation."""
    return any(window.screen.is_animation_playing for window in bpy.context.window_manager.windows)


def blocking() -> bool:
    """Whether operators must wait for their tasks because timers do not run (background mode)."""
    return bpy.app.background


# --- Results


def pump(budget: float = STEP) -> bool:
    """Start or continue the next task, deliver results, remove ended tasks. Returns whether tasks are unfinished.

    budget: seconds for delivering results, and for work in steps. Does nothing while Blender renders, saves or undoes.
    An undo step is pushed in a call of its own, because Blender takes some milliseconds to store a long strip.
    """
    if not may_apply():
        return bool(tasks)
    if push_undo():
        return True
    for task in tasks:
        if task.job is None and not task.finished:
            task._advance(budget)  # one per tick: reading sound takes a moment
            if task.in_steps and task.finished:
                return True  # what it prepared is applied in the next tick
            break
    has_work = _state.client.pump(budget) if _state.client else False
    _sweep()
    if tasks or (_state.client and _state.client.state in (State.STARTING, State.RESTARTING)):
        _state.worked = time.monotonic()
    return bool(tasks) or has_work or bool(_state.undo_name)


def _sweep() -> None:
    for task in list(tasks):
        task._settle()  # which may submit the next task and call this function
    tasks[:] = [task for task in tasks if not task.finished]


def edited(name: str) -> None:
    """Push an undo step of this name after a result changed the scene; for changes made outside of an operator."""
    _state.undo_name = name
    keep_ticking()


def forget_undo() -> None:
    """Push no undo step for a change that Blender undoes before."""
    _state.undo_name = ""


def push_undo() -> bool:
    """Push the undo step requested by `edited`, if any, after the last work in steps that belongs to it.

    Returns whether one was pushed.
    """
    if not _state.undo_name or any(task.in_steps and task.undo == _state.undo_name for task in tasks):
        return False
    name, _state.undo_name = _state.undo_name, ""
    windows = bpy.context.window_manager.windows
    if blocking() or not windows:
        return False
    with bpy.context.temp_override(window=windows[0]):
        bpy.ops.ed.undo_push(message=name)
    return True


def _tick() -> float | None:
    """The timer. Returns the seconds until the next tick, None to end."""
    budget = _budget(time.monotonic() - _state.due)
    interval = _work(budget)
    _state.due = time.monotonic() + (float("inf") if interval is None else interval)
    return interval


def _budget(late: float) -> float:
    """Seconds of work in a tick that comes `late` seconds after it was due.

    Where Blender takes seconds to redraw, ticks are rare. With `STEP` alone the engine's results would wait: the
    progress would lag behind, and the inbox would fill until the engine has to wait.
    """
    return min(max(STEP, _SHARE * late), _LONGEST_STEP)


def _work(budget: float) -> float | None:
    """The work of a tick: often while tasks are unfinished, rarely while the engine is idle, ended without an engine.

    budget: see `pump`. Returns as `_tick`.
    """
    if not may_apply():
        return _HELD
    busy = pump(budget)
    _redraw_for_progress()
    _release_when_idle()
    if busy:
        is_urgent = bool(_state.undo_name) or any(task.in_steps for task in tasks)
        return STEP if is_urgent and not is_playing() else _BUSY
    return _IDLE if _state.client and _state.client.state not in (State.STOPPED, State.FAILED) else None


def keep_ticking() -> None:
    """Start the timer unless it runs or Blender is in background mode."""
    if not blocking() and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=_BUSY, persistent=True)


def free_memory() -> None:
    """Free the memory of an idle engine and its device. The next request takes longer."""
    if _state.client is not None and not tasks and _state.client.state is State.READY:
        _state.client.request(requests.Release())


def _release_when_idle() -> None:
    """Free the memory of an engine that has been idle for some time, and end it later."""
    idle = time.monotonic() - _state.worked
    if idle < _RELEASE_AFTER or tasks or _state.client is None:
        _state.released = False
    elif idle > _END_AFTER:
        _state.client.shutdown(0.0)
    elif not _state.released:
        _state.client.request(requests.Release())
        _state.released = True


def _redraw_for_progress() -> None:
    if any(task.label for task in tasks) and time.monotonic() - _state.redrawn > _REDRAW:
        redraw()
        _state.redrawn = time.monotonic()


def redraw(kinds: Collection[str] = ("SEQUENCE_EDITOR", "VIEW_3D", "PREFERENCES")) -> None:
    """Redraw areas, by default those that show tasks and problems."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in kinds:
                area.tag_redraw()
    _redraw_status_bar()


def _redraw_status_bar() -> None:
    """Redraw the status bars, which are not among the areas of a screen: clearing their text does it."""
    for window in bpy.context.window_manager.windows:
        with bpy.context.temp_override(window=window):
            window.workspace.status_text_set(None)


# --- Holding back


def may_apply() -> bool:
    """Whether results may change the scene now."""
    return not _state.held and not bpy.app.is_job_running("RENDER")


def hold(reason: str) -> None:
    """Apply no results until `release` is called with the same reason: "render", "save", "undo" or SAMPLING."""
    _state.held.add(reason)


def is_sampling() -> bool:
    """Whether the add-on itself evaluates animation, so that changes of the dependency graph are no edits."""
    return SAMPLING in _state.held


def release(reason: str) -> None:
    """Undo `hold` for one reason."""
    _state.held.discard(reason)


def release_all() -> None:
    """Undo `hold` for all reasons, because Blender does not report the end of every render, save or undo."""
    _state.held.clear()


# --- Problems


_FIXES = {
    "engine": ("edtalk.install_engine", "Install Engine"),
    "offline": ("edtalk.allow_online_access", "Allow Online Access"),
    "version": ("edtalk.repair_engine", "Repair Engine"),
    "start": ("edtalk.repair_engine", "Repair Engine"),
    "garbage": ("edtalk.repair_engine", "Repair Engine"),
    **dict.fromkeys(
        ("late", "memory", "killed", "crash", "hung", "ended"), ("edtalk.restart_engine", "Restart Engine")
    ),
    "bug": ("edtalk.copy_report", "Copy Report"),
}


def report(error: EDTalkError, *, fix: str = "", label: str = "", options: Mapping[str, Any] | None = None) -> Problem:
    """Show an error in the panels, with a button for the operator that fixes it, if there is one.

    fix: the operator, by default that of the error's kind; label: of its button; options: its properties.
    """
    if not fix:
        fix, label = _FIXES.get(error.kind, ("", ""))
    found = Problem(error.message, error.hint, fix, label, options or {})
    if found not in problems:
        problems.append(found)
    if not blocking():
        redraw()
    return found


def dismiss() -> None:
    """Remove all problems from the panels."""
    problems.clear()


def notify(text: str) -> None:
    """Show in the panels and the status bar that something has finished. text: a sentence without a period."""
    if text in notices:  # show it once, as the latest
        notices.remove(text)
    notices.append(text)
    _state.notified = time.monotonic()
    if not blocking():
        redraw()
        if not bpy.app.timers.is_registered(_hide_notice):
            bpy.app.timers.register(_hide_notice, first_interval=_NOTICE, persistent=True)


def _hide_notice() -> float | None:
    """Timer: redraw the status bar once the latest notice is no longer new."""
    if status_bar_notice():
        return 1.0
    _redraw_status_bar()
    return None


def status_bar_notice() -> str:
    """The latest notice while it is new, else ""."""
    is_new = time.monotonic() - _state.notified < _NOTICE
    return notices[-1] if notices and is_new else ""


def duration(seconds: float) -> str:
    """A time for the artist, such as "3 min 20 s"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min {seconds % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# --- End


def cancel_all() -> None:
    """Cancel all tasks without calling their callbacks; the engine keeps running. For the load of another file."""
    for task in list(tasks):
        task._on_done = task._on_event = task._notice = None
        task._next.clear()
        task.cancel()
    tasks.clear()
    _state.undo_name = ""


def restart() -> None:
    """End the engine. The next request starts it with the preferences as they are then."""
    cancel_all()
    dismiss()
    if _state.client:
        _state.client.shutdown(0.5)
        _state.client = None


def unregister() -> None:
    for timer in (_tick, forget_engine, _hide_notice):
        if bpy.app.timers.is_registered(timer):
            bpy.app.timers.unregister(timer)
    restart()
    _state.held.clear()
