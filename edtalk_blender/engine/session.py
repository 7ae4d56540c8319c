"""What is going on between this Blender and its engine: one client, the tasks that wait for it, the last problem.

    task = session.submit("portrait", {...}, label="Reading Anna's face", on_done=apply)

returns at once; `apply` is called later on Blender's main thread, by a timer, or by `wait` where no timer runs. Results
are never applied while Blender renders, saves or undoes. A callback keeps no object or strip: it finds them by id.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy

from ...inference.contract.errors import EDTalkError
from ...inference.contract.protocol import Message
from . import engine
from .client import Client, Job, State

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
PACKAGE = ".".join(__package__.split(".")[:3])  # "bl_ext.user_default.edtalk"

_BUSY, _IDLE, _HELD = 1 / 30, 0.5, 0.1  # seconds between two ticks
_REDRAW = 0.2  # seconds between two redraws for progress
_LOOK_AGAIN = 3.0  # seconds between two looks at the engine's files
_RELEASE, _LEAVE = 300.0, 1800.0  # idle seconds after which the engine gives back memory, and ends


_numbers = itertools.count(1)


class Task:
    """One thing that was asked of the engine, from its turn in the queue to its end.

    label: what the artist reads while it goes on; "" for what is not shown. number: tells it from all others.
    subject: what it is about, such as (character, strip), for `unfinished`; () where nothing asks for it.
    """

    def __init__(
        self,
        kind: str,
        label: str,
        prepare: Callable[[], tuple[Mapping[str, Any], bytes] | None],
        on_done: Callable[[Message], object] | None,
        on_event: Callable[[Message], object] | None,
        subject: tuple[str, ...] = (),
    ) -> None:
        self.kind, self.label, self.subject, self.number = kind, label, subject, next(_numbers)
        self.finished = self.cancelled = False
        self.error: EDTalkError | None = None
        self.job: Job | None = None
        self._prepare, self._on_done, self._on_event = prepare, on_done, on_event
        self._next: list[Callable[[Task], object]] = []

    @property
    def fraction(self) -> float:
        """How far it is, 0..1."""
        progress = self.job and self.job.progress
        return min(progress.done / progress.total, 1.0) if progress and progress.total else 0.0

    @property
    def status(self) -> str:
        """What it is doing, for a progress bar: "rendering 12 of 48, 3 s left"."""
        if self.job is None:
            return "waiting"
        if _client and _client.state in (State.STARTING, State.RESTARTING, State.SILENT):
            return f"engine {_client.state.value}"
        progress = self.job.progress
        text = progress.phase or "waiting"
        if progress.total and progress.total > 1:
            text += f" {progress.done} of {progress.total}"
        return text if progress.eta is None else f"{text}, {_duration(progress.eta)} left"

    def cancel(self) -> None:
        """Ask for an end; what is done is kept."""
        if self.job:
            self.job.cancel()
        elif not self.finished:
            self.cancelled = True
            self._end()

    def then(self, call: Callable[[Task], object]) -> None:
        """Have something called when it has ended, however it did; at once if it has."""
        if self.finished:
            call(self)
        else:
            self._next.append(call)

    def _begin(self) -> None:
        try:
            asked = self._prepare()
            if asked is None:
                self._end()
            else:
                self.job = client().request(self.kind, *asked, on_event=self._receive)
        except EDTalkError as error:
            self._end(error)
        except Exception as error:
            logger.exception("'%s' could not be asked for.", self.kind)
            bug = f"'{self.label or self.kind}' could not be begun ({type(error).__name__}: {error})."
            self._end(EDTalkError(bug, "This is a bug: report it with the text of Copy Report.", "bug"))

    def _receive(self, message: Message) -> None:
        if self._on_event:
            self._on_event(message)
        in_vain = message.fields.get("cancelled") or message.fields.get("superseded")
        if self._on_done and message.kind == "done" and not in_vain:
            self._on_done(message)

    def _settle(self) -> None:
        """Take notice of the end of its job."""
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
    """Things asked of the engine one after the other: a generator that yields the tasks that it waits for.

    It begins at once, and ends at the first error or cancelled task. Between two steps anything may happen to the
    scene: the generator finds objects and strips anew after each `yield`, and says `edited` where it changed something.
    error: what ended it, shown to the artist unless it happened before anything was waited for.
    """

    def __init__(self, steps: Iterator[Sequence[Task]]) -> None:
        self.finished = False
        self.error: EDTalkError | None = None
        self._steps, self._tasks = steps, list[Task]()
        self._go_on(None)

    def _go_on(self, ended: Task | None) -> None:
        if self.finished or not all(task.finished for task in self._tasks):
            return
        failed = next((task for task in self._tasks if task.error or task.cancelled), None)
        if failed:
            self.finished, self.error = True, failed.error
            return
        try:
            self._tasks = list(next(self._steps, ()))
            self.finished = not self._tasks
        except EDTalkError as error:
            self.finished, self.error = True, error
            if ended:
                report(error)
        for task in list(self._tasks):
            task.then(self._go_on)


@dataclass(frozen=True)
class Problem:
    """What the artist is told and, if there is one, the operator that mends it and the words on its button."""

    message: str
    hint: str = ""
    fix: str = ""
    label: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preferred:
    """What the preferences say, read anew each time.

    python: an interpreter or environment, "" for the usual ones. options: of the worker's command line. cache: a folder
    for frames, "" for beside the .blend. backend, mirror, torch_index: how the engine is installed, as `Installation`
    has them. yields: whether the engine gives its memory back when Blender begins to render.
    """

    python: str = ""
    options: tuple[str, ...] = ()
    cache: str = ""
    backend: str = "auto"
    mirror: str = ""
    torch_index: str = ""
    yields: bool = False


tasks: list[Task] = []  # unfinished, in the order asked
problems: deque[Problem] = deque(maxlen=3)  # the last ones, until they are dismissed
preferred: Callable[[], Preferred] = Preferred  # set by `preferences`

_client: Client | None = None
_found: tuple[float, engine.Engine | None] = 0.0, None
_held: set[str] = set()
_undo_name = ""
_redrawn = _worked = 0.0
_released = False


# --- Asking


def client() -> Client:
    """The engine's client, made when first needed; EDTalkError(kind="engine") when no engine is installed."""
    global _client
    if _client is None:
        command = find_engine().command(*preferred().options)
        _client = Client(command, cwd=ROOT, log=user_folder() / "engine.log")
    return _client


def current_client() -> Client | None:
    """The client if there has been need of one; starts nothing."""
    return _client


def find_engine() -> engine.Engine:
    """Where the engine's Python is, and whether it can be used; looked up every few seconds, for panels ask often."""
    global _found
    when, found = _found
    if found is None or time.monotonic() - when > _LOOK_AGAIN:
        found = engine.find(ROOT, user_folder(), preferred().python)
        _found = time.monotonic(), found
    return found


def forget_engine() -> None:
    """Look the engine up anew: it was installed, removed or chosen."""
    global _found
    _found = 0.0, None
    redraw()


def user_folder() -> Path:
    """The extension's own folder, which Blender deletes when the extension is removed."""
    return Path(bpy.utils.extension_path_user(PACKAGE, create=True))


def submit(
    kind: str,
    fields: Mapping[str, Any] | None = None,
    payload: bytes = b"",
    *,
    label: str = "",
    prepare: Callable[[], tuple[Mapping[str, Any], bytes] | None] | None = None,
    on_done: Callable[[Message], object] | None = None,
    on_event: Callable[[Message], object] | None = None,
    subject: tuple[str, ...] = (),
) -> Task:
    """Ask the engine for something and return at once; errors end the task and are shown to the artist.

    prepare: gives fields and payload when the task's turn comes, None if there is nothing to ask after all; for what
    takes a moment to gather. on_done: gets the result. on_event: gets every message. subject: see `unfinished`.
    """
    task = Task(kind, label, prepare or (lambda: (fields or {}, payload)), on_done, on_event, subject)
    tasks.append(task)
    if prepare is None:
        task._begin()
        _sweep()
    keep_ticking()
    return task


def unfinished(subject: tuple[str, ...]) -> list[Task]:
    """The unfinished tasks that were submitted with this subject."""
    return [task for task in tasks if task.subject == subject and not task.finished]


def wait(*awaited: Task | Chain, timeout: float | None = None) -> None:
    """Pump until the tasks or chains have ended; for background mode and scripts, where no timer runs.

    Raises the first one's error, or EDTalkError(kind="timeout").
    """
    until = None if timeout is None else time.monotonic() + timeout
    while not all(task.finished for task in awaited):
        if until is not None and time.monotonic() > until:
            raise EDTalkError(f"The engine is not done after {timeout:g} s.", "Allow it more time.", "timeout")
        pump(0.05)
        time.sleep(0.005)
    for task in awaited:
        if task.error:
            raise task.error


def blocking() -> bool:
    """Whether operators have to wait for their tasks, because no timer would finish them."""
    return bpy.app.background


# --- Hearing


def pump(budget: float = 0.005) -> bool:
    """Begin what waits, deliver what came, settle what ended. Returns whether anything is going on.

    Does nothing while Blender renders, saves or undoes.
    """
    global _worked
    if not may_apply():
        return bool(tasks)
    for task in tasks:
        if task.job is None:
            task._begin()  # one a tick: gathering sound takes a moment
            break
    going_on = _client.pump(budget) if _client else False
    _sweep()
    push_undo()
    if tasks or (_client and _client.state in (State.STARTING, State.RESTARTING)):
        _worked = time.monotonic()
    return bool(tasks) or going_on


def _sweep() -> None:
    for task in list(tasks):
        task._settle()  # which may ask for the next thing, and come back here
    tasks[:] = [task for task in tasks if not task.finished]


def edited(name: str) -> None:
    """Say that a result changed the scene: one undo step of this name follows. For edits outside of an operator."""
    global _undo_name
    _undo_name = name
    keep_ticking()


def push_undo() -> None:
    """Push the undo step that `edited` announced, if it did."""
    global _undo_name
    name, _undo_name = _undo_name, ""
    windows = bpy.context.window_manager.windows
    if name and not blocking() and windows:
        with bpy.context.temp_override(window=windows[0]):
            bpy.ops.ed.undo_push(message=name)


def _tick() -> float | None:
    """The timer: quick while something is going on, slow while the engine idles, gone when there is none."""
    if not may_apply():
        return _HELD
    busy = pump()
    _redraw_for_progress()
    _save_power()
    if busy:
        return _BUSY
    return _IDLE if _client and _client.state not in (State.STOPPED, State.FAILED) else None


def keep_ticking() -> None:
    """See to it that the timer runs, where there is one."""
    if not blocking() and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=_BUSY, persistent=True)


def free_memory() -> None:
    """Have an engine that has nothing to do give back its memory and the device's; the next request takes longer."""
    if _client is not None and not tasks and _client.state is State.READY:
        _client.request("release")


def _save_power() -> None:
    """Have an engine that nobody needs give back the device's memory, and later end."""
    global _released, _worked
    idle = time.monotonic() - _worked
    if idle < _RELEASE or tasks or _client is None:
        _released = False
    elif idle > _LEAVE:
        _client.shutdown(0.0)
    elif not _released:
        _client.request("release")
        _released = True


def _redraw_for_progress() -> None:
    global _redrawn
    if any(task.label for task in tasks) and time.monotonic() - _redrawn > _REDRAW:
        redraw()
        _redrawn = time.monotonic()


def redraw(kinds: Collection[str] = ("SEQUENCE_EDITOR", "VIEW_3D", "PREFERENCES")) -> None:
    """Have areas drawn again, by default those that show what is going on."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in kinds:
                area.tag_redraw()


# --- Holding back


def may_apply() -> bool:
    """Whether results may change the scene now."""
    return not _held and not bpy.app.is_job_running("RENDER")


def hold(reason: str) -> None:
    """Apply nothing until `release` is called with the same reason: "render", "save", "undo"."""
    _held.add(reason)


def release(reason: str) -> None:
    _held.discard(reason)


def release_all() -> None:
    """Apply results again, whatever held them back: an end that Blender did not tell of, for one."""
    _held.clear()


# --- Telling


_FIXES = {
    "engine": ("edtalk.install_engine", "Install Engine"),
    "version": ("edtalk.repair_engine", "Repair Engine"),
    "start": ("edtalk.repair_engine", "Repair Engine"),
    "garbage": ("edtalk.repair_engine", "Repair Engine"),
    **dict.fromkeys(("memory", "killed", "crash", "hung", "ended"), ("edtalk.restart_engine", "Restart Engine")),
    "bug": ("edtalk.copy_report", "Copy Report"),
}


def report(error: EDTalkError, *, fix: str = "", label: str = "", options: Mapping[str, Any] | None = None) -> Problem:
    """Show an error in the panels, with a button for the operator that mends it where there is one.

    fix: the operator, by default that of the error's kind; label: what its button says; options: its properties.
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
    """Forget the problems."""
    problems.clear()


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min {seconds % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# --- Beginning and end


def cancel_all() -> None:
    """Cancel every task and forget its targets; the engine stays warm. For another file being loaded."""
    for task in list(tasks):
        task._on_done = task._on_event = None
        task._next.clear()
        task.cancel()
    tasks.clear()


def restart() -> None:
    """End the engine, and start it anew when it is next needed, with the preferences as they are then."""
    global _client
    cancel_all()
    dismiss()
    if _client:
        _client.shutdown(0.5)
        _client = None


def unregister() -> None:
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    restart()
    _held.clear()
