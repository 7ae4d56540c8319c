"""Work that Blender's main thread does a few milliseconds at a time, so that Blender stays responsive.

    work.begin(steps(), label="Prepare 'Anna'")

`steps` is a generator that does a part of the work until each `yield`. The task is shown with its progress and can be
cancelled like a request to the engine. `complete` does the same work at once, for scripts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, TypeVar

import bpy

from ...inference.contract.answers import Progress
from ...inference.contract.errors import EDTalkError
from . import session
from .session import Task

Result = TypeVar("Result")
Steps = Generator[Progress | None, None, Result]  # None: it waits for a thread


class Work(Task):
    """A task that Blender's main thread does itself, a few milliseconds at a time; see `begin`."""

    def __init__(self, label: str, steps: Steps[Any], subject: tuple[str, ...], undo: str) -> None:
        super().__init__(label, lambda: None, None, None, subject)
        self.undo, self.in_steps = undo, True
        self._steps, self._progress = steps, Progress()

    @property
    def progress(self) -> Progress:
        return self._progress

    def _advance(self, budget: float) -> None:
        """Do steps for `budget` seconds."""
        until = time.monotonic() + budget
        with self._reporting():
            for progress in self._steps:
                self._progress = progress or self._progress
                if self.finished or progress is None or time.monotonic() > until:
                    return
            self._end()

    def _end(self, error: EDTalkError | None = None) -> None:
        with suppress(ValueError):  # it is running, so this is called from one of its steps
            self._steps.close()
        super()._end(error)


def begin(steps: Steps[Any], *, label: str, subject: tuple[str, ...] = (), undo: str = "") -> Work:
    """Do work on Blender's main thread in steps of a timer, with progress, and return at once.

    steps: does one step until each `yield`. Between two steps anything may change: it looks up objects and strips
    again, and keeps nothing of them. It does not change the scene; that is done after it, in a `session.Chain`. It is
    closed if the task is cancelled. Errors end the task and are shown to the artist. undo: name of the undo step that
    follows; works of the same name, begun together, have one undo step, see `session.edited`.
    """
    task = Work(label, steps, subject, undo)
    session.tasks.append(task)
    session.keep_ticking()
    return task


def in_thread(call: Callable[[], Result]) -> Steps[Result]:
    """Steps of a work that wait for a function, which a thread runs. It must not use bpy. Raises its exception."""
    result: list[Result] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="edtalk work", daemon=True)
    thread.start()
    while thread.is_alive():
        yield None
    if raised:
        raise raised[0]
    return result[0]


def complete(steps: Steps[Result]) -> Result:
    """Do all steps of a work now. Returns its result."""
    while True:
        try:
            if next(steps) is None:
                time.sleep(0.001)
        except StopIteration as end:
            return end.value


class Idle:
    """Work that a timer does in steps once nothing has changed for a while, and from the start after each change."""

    def __init__(self, make: Callable[[], Steps[Any]], delay: float, is_busy: Callable[[], bool]) -> None:
        """make: gives the steps. delay: seconds without a change before it begins. is_busy: whether it has to wait."""
        self._make, self._delay, self._is_busy = make, delay, is_busy
        self._changed = 0.0
        self._steps: Steps[Any] | None = None
        self._timer = self._tick  # one object: Blender tells timers apart by it

    @property
    def is_waiting(self) -> bool:
        """Whether it has not ended yet."""
        return bpy.app.timers.is_registered(self._timer)

    def schedule(self) -> None:
        """Do the work soon, from the start. Does nothing in background mode."""
        self._changed, self._steps = time.monotonic(), None
        if not session.blocking() and not self.is_waiting:
            bpy.app.timers.register(self._timer, first_interval=self._delay, persistent=True)

    def stop(self) -> None:
        if self.is_waiting:
            bpy.app.timers.unregister(self._timer)

    def _tick(self) -> float | None:
        """Do a part of the work. Returns the seconds until the next call."""
        is_busy = not session.may_apply() or session.is_playing() or self._is_busy()
        if is_busy or time.monotonic() - self._changed < self._delay:
            return self._delay
        self._steps = self._steps or self._make()
        until = time.monotonic() + session.STEP
        for progress in self._steps:
            if progress is None or time.monotonic() > until:
                return session.STEP
        return None
