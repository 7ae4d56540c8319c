"""Base classes of the operators: reasons for disabled buttons, error reports, and requests to the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import bpy

from ...inference.contract.errors import EDTalkError
from . import session
from .session import Chain, Task


class BaseOperator:
    """Mixin: a disabled button shows its reason as tooltip, an EDTalkError is reported."""

    if TYPE_CHECKING:  # defined by bpy.types.Operator
        poll_message_set: ClassVar[Callable[[str], None]]
        report: Callable[[set[str], str], None]

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        """Why the operator is disabled, as a sentence without a period; empty if it is enabled."""
        return ""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = cls.disabled_reason(context)
        if reason:
            cls.poll_message_set(reason)
        return not reason

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Call `run`. An error is shown in the panels and reported to the caller."""
        try:
            return self.run(context) or {"FINISHED"}
        except EDTalkError as error:
            session.report(error)
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}

    def run(self, context: bpy.types.Context) -> set[str] | None:
        """Do the work. None means FINISHED. Raises EDTalkError."""
        raise NotImplementedError


class DialogOperator(BaseOperator):
    """Mixin for operators whose button opens a dialog with their properties."""

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self)


class EngineOperator(BaseOperator):
    """Mixin for operators that use the engine: a button returns at once, a call from a script waits for the result."""

    _from_button = False

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        self._from_button = True
        return self.execute(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.dismiss()  # the problems of the previous attempt
        session.revive()
        return super().execute(context)

    def finish(self, *tasks: Task | Chain) -> None:
        """Wait for tasks or chains if called by a script. Raises the error of the first that failed."""
        if session.blocking() or not self._from_button:
            session.wait(*tasks)
        for task in tasks:
            if task.error:
                raise task.error
