"""What all operators share: a greyed-out one says why, an error is one sentence, long work waits only for scripts."""

from __future__ import annotations

import bpy

from ...inference.contract.errors import EDTalkError
from . import session
from .session import Chain, Task


class Explained:
    """Mixin: `disabled_reason` greys the button and is its tooltip, so the two cannot contradict each other."""

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        """Why it cannot be used now, as a sentence without its period; empty when it can."""
        return ""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = cls.disabled_reason(context)
        if reason:
            cls.poll_message_set(reason)
        return not reason

    def execute(self, context: bpy.types.Context) -> set[str]:
        """`run`, with what goes wrong said in the panel and to whoever called."""
        try:
            return self.run(context) or {"FINISHED"}
        except EDTalkError as error:
            session.report(error)
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}

    def run(self, context: bpy.types.Context) -> set[str] | None:
        """The work; None stands for FINISHED. Raises EDTalkError."""
        raise NotImplementedError


class Asking(Explained):
    """Mixin for operators that ask the engine: a button returns at once, a script gets the result when it returns."""

    _from_button = False

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        self._from_button = True
        return self.execute(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.dismiss()  # what went wrong before is being tried again
        return super().execute(context)

    def finish(self, *tasks: Task | Chain) -> None:
        """Wait for tasks or chains where nobody else would; raises the first one's error."""
        if session.blocking() or not self._from_button:
            session.wait(*tasks)
        for task in tasks:
            if task.error:
                raise task.error
