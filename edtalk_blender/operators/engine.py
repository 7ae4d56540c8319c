"""The engine's buttons: install, repair, remove, restart, report; cancelling what it does; dismissing what it said."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import IntProperty, StringProperty

from ...inference.errors import EDTalkError
from .. import session
from ..core import engine
from ..core.client import EngineError
from ..core.engine import Installation
from .base import Explained

_LOOK = 0.25  # seconds between two looks at a running installation

_installation: Installation | None = None


def installation() -> Installation | None:
    """The installation that is running."""
    return _installation


def _watch() -> float | None:
    """The timer: have the progress drawn, and take notice of the end."""
    global _installation
    session.redraw()
    if _installation is None or not _installation.finished:
        return _LOOK if _installation else None
    ended, _installation = _installation, None
    session.forget_engine()
    if ended.error:
        session.report(ended.error)
    return None


# --- Installing


class EDTALK_OT_install_engine(Explained, bpy.types.Operator):
    """Download and install what draws the faces: a Python environment of its own, about 2 GB, apart from Blender's"""

    bl_idname = "edtalk.install_engine"
    bl_label = "Install Engine"

    directory: StringProperty(name="Folder", subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        if _installation is not None:
            return "The engine is being installed"
        if not bpy.app.online_access:
            return "Blender may not use the network: allow it in Preferences > System, or install from a folder"
        return ""

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(
            self,
            event,
            title=self.bl_label,
            message="About 2 GB are downloaded from the Python Package Index. Blender stays usable meanwhile.",
            confirm_text="Download",
            icon="QUESTION",
        )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        global _installation
        session.restart()
        wheels = Path(self.directory) if self.directory else None
        made = Installation(session.ROOT, session.user_folder(), online=bpy.app.online_access, wheels=wheels)
        made.start()
        session.dismiss()
        if session.blocking():
            made.wait()
            session.forget_engine()
            if made.error:
                raise made.error
            return None
        _installation = made
        bpy.app.timers.register(_watch, first_interval=_LOOK, persistent=True)
        return None


class EDTALK_OT_install_engine_from_folder(EDTALK_OT_install_engine):
    """Install the engine without the network, from a folder of Python packages (.whl files) copied from elsewhere"""

    bl_idname = "edtalk.install_engine_from_folder"
    bl_label = "Install from Folder"

    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN"})

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "The engine is being installed" if _installation is not None else ""

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}


class EDTALK_OT_repair_engine(EDTALK_OT_install_engine):
    """Remove the installed engine and install it anew. Characters, banks and rendered frames are not touched"""

    bl_idname = "edtalk.repair_engine"
    bl_label = "Repair Engine"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        origin = session.find_engine().origin
        if origin != "installed":
            return f"The engine in use was not installed here ({origin}): repair it where it is"
        return super().disabled_reason(context)


class EDTALK_OT_cancel_installation(Explained, bpy.types.Operator):
    """Stop installing the engine"""

    bl_idname = "edtalk.cancel_installation"
    bl_label = "Cancel"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if _installation is not None else "Nothing is being installed"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        _installation.cancel()
        return None


class EDTALK_OT_uninstall_engine(Explained, bpy.types.Operator):
    """Remove the installed engine from this computer. Characters, banks and rendered frames are not touched"""

    bl_idname = "edtalk.uninstall_engine"
    bl_label = "Remove Engine"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        if _installation is not None:
            return "The engine is being installed"
        found = session.find_engine()
        if found.origin != "installed" or found.state is engine.State.MISSING:
            return "No engine is installed here"
        return ""

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(self, event)

    def run(self, context: bpy.types.Context) -> set[str] | None:
        session.restart()
        engine.uninstall(session.user_folder())
        session.forget_engine()
        return None


# --- Running


class EDTALK_OT_restart_engine(Explained, bpy.types.Operator):
    """End the engine and start it anew; what it was doing is cancelled, rendered frames are kept"""

    bl_idname = "edtalk.restart_engine"
    bl_label = "Restart Engine"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        session.restart()
        session.client().start()
        session.keep_ticking()
        return None


class EDTALK_OT_cancel(Explained, bpy.types.Operator):
    """Stop this; what is done is kept"""

    bl_idname = "edtalk.cancel"
    bl_label = "Cancel"

    number: IntProperty(name="Task", description="Its number; 0 for all", default=0, options={"SKIP_SAVE"})

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if session.tasks else "Nothing is going on"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        for task in list(session.tasks):
            if self.number in (0, task.number):
                task.cancel()
        return None


class EDTALK_OT_dismiss(Explained, bpy.types.Operator):
    """Hide this message"""

    bl_idname = "edtalk.dismiss"
    bl_label = "Dismiss"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        session.dismiss()
        return None


class EDTALK_OT_copy_report(Explained, bpy.types.Operator):
    """Copy what a bug report needs: versions, device, the last error and the end of the engine's log"""

    bl_idname = "edtalk.copy_report"
    bl_label = "Copy Report"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        context.window_manager.clipboard = report_text()
        self.report({"INFO"}, "Copied")
        return None


def report_text() -> str:
    """What a bug report needs."""
    client = session.current_client()
    facts: dict[str, object] = {"Blender": bpy.app.version_string}
    log: tuple[str, ...] = ()
    failure: EDTalkError | None = None
    if client is not None:
        facts |= {"state": client.state.value} | (client.hello or {})
        failure, log = client.failure, client.log_tail
    if failure is None and session.problems:
        last = session.problems[-1]
        failure = EngineError(last.message, last.hint, "shown")
    return engine.report(session.find_engine(), facts, failure, log)


CLASSES = (
    EDTALK_OT_install_engine,
    EDTALK_OT_install_engine_from_folder,
    EDTALK_OT_repair_engine,
    EDTALK_OT_cancel_installation,
    EDTALK_OT_uninstall_engine,
    EDTALK_OT_restart_engine,
    EDTALK_OT_cancel,
    EDTALK_OT_dismiss,
    EDTALK_OT_copy_report,
)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()


def unregister() -> None:
    global _installation
    if bpy.app.timers.is_registered(_watch):
        bpy.app.timers.unregister(_watch)
    if _installation is not None:
        _installation.cancel()
        _installation = None
    unregister_classes()
