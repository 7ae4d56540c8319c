"""Operators for the engine: install, repair, remove, restart, report, cancel tasks, dismiss messages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import bpy
from bpy.props import BoolProperty, IntProperty, StringProperty

from ...inference.contract.errors import EDTalkError
from . import engine, gpu, lock, session
from .client import EngineError, State
from .installation import REPLACING, Installation, space
from .operator_base import BaseOperator

_INTERVAL = 0.25  # seconds between two checks of a running installation


@dataclass
class _State:
    """installation: the one that is running. failed: the last one, if it failed. backend: the result of the probe."""

    installation: Installation | None = None
    failed: Installation | None = None
    backend: Future[tuple[str, str]] | None = None


_state = _State()
# Functions that say why the engine may not be replaced or removed, as a sentence without a period; "" if it may be.
users: list[Callable[[], str]] = []


def _in_use() -> str:
    return next((reason for user in users if (reason := user())), "")


def installation() -> Installation | None:
    """The installation that is running."""
    return _state.installation


def _watch() -> float | None:
    """The timer: redraw the progress, end the old engine before it is replaced, handle the end of the installation."""
    session.redraw()
    running = _state.installation
    if running is None:
        return None
    if not running.finished:
        if running.phase == REPLACING and not running.may_replace.is_set():
            session.restart()
            session.forget_engine()
            running.may_replace.set()
        return _INTERVAL
    _state.installation = None
    session.forget_engine()
    _state.failed = running if running.error else None
    if running.error:
        _report(running.error)
    return None


def _report(error: EDTalkError) -> None:
    """Show an error. If the index has no CPU build of torch, offer the CUDA build, which runs on the CPU too."""
    if error.kind == "torch" and "cuda" in lock.offered(session.ROOT):
        size = lock.read(session.ROOT, "cuda").size
        message = "The package index has no PyTorch for the CPU alone. The build for NVIDIA cards also runs on the CPU."
        hint = "Install that one, or set PyTorch Index in the extension's preferences."
        error = EDTalkError(message, hint, "torch")
        label = f"Install for CUDA ({size / 1e9:.1f} GB)"
        session.report(error, fix="edtalk.install_engine", label=label, options={"backend": "cuda"})
    else:
        session.report(error)


def suitable_backend() -> tuple[str, str] | None:
    """The backend for this computer and a sentence that gives the reason; None while the graphics card is probed.

    The first call starts the probe; panels are redrawn when it has ended.
    """
    if _state.backend is None:
        _state.backend = result = Future[tuple[str, str]]()

        def probe() -> None:
            result.set_result(gpu.backend(lock.offered(session.ROOT), gpu.probe()))

        threading.Thread(target=probe, name="edtalk graphics card", daemon=True).start()
        bpy.app.timers.register(_redraw_after_probe, first_interval=_INTERVAL)
    return _state.backend.result() if _state.backend.done() else None


def _redraw_after_probe() -> float | None:
    if _state.backend is not None and not _state.backend.done():
        return _INTERVAL
    session.redraw()
    return None


def planned(backend: str = "") -> str:
    """A sentence that says what Install will do, or why it cannot; "" while the graphics card is probed.

    backend: "" for the one of the preferences.
    """
    backend = backend or session.preferred().backend
    if backend == "auto":
        found = suitable_backend()
        if found is None:
            return ""
        backend = found[0]
    try:
        chosen = lock.read(session.ROOT, backend)
    except EDTalkError as error:
        return str(error)
    size, room = f"{chosen.size / 1e9:.1f} GB", f"{space(chosen) / 1e9:.0f} GB of disk space"
    more = " and torch (size unknown)" if chosen.unlocked else ""
    return f"For {lock.BACKENDS[backend]}: downloads {size}{more}, needs up to {room}."


# --- Installing


class _Installer(BaseOperator):
    """Mixin of the operators that install. Blender loses an operator's class when another one is derived from it."""

    if TYPE_CHECKING:
        bl_label: ClassVar[str]

    directory: StringProperty(name="Folder", subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})
    filepath: StringProperty(name="File", subtype="FILE_PATH", options={"HIDDEN", "SKIP_SAVE"})
    backend: StringProperty(name="Backend", options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        if _state.installation is not None:
            return "The engine is being installed"
        if reason := _in_use():
            return reason
        if not bpy.app.online_access:
            return "Online access is off: press Allow Online Access, or install from a folder"
        if not session.blocking() and not planned():
            return "Detecting the graphics card"
        return ""

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(
            self,
            event,
            title=self.bl_label,
            message=f"{planned(self.backend)} Blender remains usable during the installation.",
            confirm_text="Download",
            icon="QUESTION",
        )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        preferred = session.preferred()
        made = Installation(
            session.ROOT,
            session.user_folder(),
            online=bpy.app.online_access,
            wheels=self._wheels(),
            backend=self.backend or preferred.backend,
            mirror=preferred.mirror,
            torch_index=preferred.torch_index,
            hold=not session.blocking(),
        )
        if session.blocking():
            session.restart()
        made.start()
        session.dismiss()
        if session.blocking():
            made.wait()
            session.forget_engine()
            _state.failed = made if made.error else None
            if made.error:
                raise made.error
            return None
        _state.installation = made
        bpy.app.timers.register(_watch, first_interval=_INTERVAL, persistent=True)
        return None

    def _wheels(self) -> Path | None:
        """The folder or archive to install from, if any."""
        if self.filepath.lower().endswith(".zip"):
            return Path(bpy.path.abspath(self.filepath))
        return Path(bpy.path.abspath(self.directory)) if self.directory else None


class EDTALK_OT_install_engine(_Installer, bpy.types.Operator):
    """Download and install the engine, which renders the faces, in a Python environment separate from Blender's"""

    bl_idname = "edtalk.install_engine"
    bl_label = "Install Engine"


class EDTALK_OT_install_engine_from_folder(_Installer, bpy.types.Operator):
    """Install the engine without network access from a folder or .zip of Python packages (.whl files), for example \
the downloads of another computer"""

    bl_idname = "edtalk.install_engine_from_folder"
    bl_label = "Install from Folder"

    filter_folder: BoolProperty(default=True, options={"HIDDEN"})
    filter_glob: StringProperty(default="*.zip;*.whl", options={"HIDDEN"})

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "The engine is being installed" if _state.installation is not None else _in_use()

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}


class EDTALK_OT_repair_engine(_Installer, bpy.types.Operator):
    """Remove the installed engine and install it again. Characters, banks and rendered frames are kept"""

    bl_idname = "edtalk.repair_engine"
    bl_label = "Repair Engine"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        origin = session.find_engine().origin
        if origin != "installed":
            return f"The engine in use was not installed by this extension ({origin})"
        return super().disabled_reason(context)


class EDTALK_OT_allow_online_access(BaseOperator, bpy.types.Operator):
    """Turn on Allow Online Access in Blender's preferences, so that the engine can be downloaded"""

    bl_idname = "edtalk.allow_online_access"
    bl_label = "Allow Online Access"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        if bpy.app.online_access:
            return "Online access is on"
        return "Blender was started with --offline-mode" if bpy.app.online_access_override else ""

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(
            self,
            event,
            title=self.bl_label,
            message="Blender and all its extensions may then use the network. "
            "You can turn it off in Preferences > System > Network.",
            confirm_text="Allow",
            icon="QUESTION",
        )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        context.preferences.system.use_online_access = True
        session.dismiss()
        session.redraw()
        return None


class EDTALK_OT_use_installed_engine(BaseOperator, bpy.types.Operator):
    """Clear Python in the extension's preferences, so that the installed engine is used"""

    bl_idname = "edtalk.use_installed_engine"
    bl_label = "Use Installed Engine"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if session.preferred().python else "No other Python is set in the preferences"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        context.preferences.addons[session.PACKAGE].preferences.python = ""
        return None


class EDTALK_OT_show_preferences(BaseOperator, bpy.types.Operator):
    """Show the extension's preferences"""

    bl_idname = "edtalk.show_preferences"
    bl_label = "EDTalk Preferences"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "Blender runs without a window" if bpy.app.background else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        bpy.ops.preferences.addon_show(module=session.PACKAGE)
        return None


class EDTALK_OT_cancel_installation(BaseOperator, bpy.types.Operator):
    """Stop installing the engine"""

    bl_idname = "edtalk.cancel_installation"
    bl_label = "Cancel"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if _state.installation is not None else "No installation is running"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        if _state.installation is not None:
            _state.installation.cancel()
        return None


class EDTALK_OT_remove_downloads(BaseOperator, bpy.types.Operator):
    """Remove the downloaded packages. The installed engine does not need them; a repair downloads them again"""

    bl_idname = "edtalk.remove_downloads"
    bl_label = "Remove Downloads"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "The engine is being installed" if _state.installation is not None else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        engine.remove_downloads(session.user_folder())
        return None


class EDTALK_OT_uninstall_engine(BaseOperator, bpy.types.Operator):
    """Remove the installed engine and its downloads. Characters, banks and rendered frames are kept"""

    bl_idname = "edtalk.uninstall_engine"
    bl_label = "Remove Engine"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        if _state.installation is not None:
            return "The engine is being installed"
        if reason := _in_use():
            return reason
        found = session.find_engine()
        if found.origin != "installed" or found.state is engine.State.MISSING:
            return "No engine is installed"
        return ""

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(self, event)

    def run(self, context: bpy.types.Context) -> set[str] | None:
        session.restart()
        engine.uninstall(session.user_folder())
        session.forget_engine()
        return None


# --- Running


class EDTALK_OT_restart_engine(BaseOperator, bpy.types.Operator):
    """Restart the engine. Running tasks are cancelled; finished frames are kept"""

    bl_idname = "edtalk.restart_engine"
    bl_label = "Restart Engine"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        session.restart()
        session.check_engine()
        session.client().start()
        session.keep_ticking()
        return None


class EDTALK_OT_free_memory(BaseOperator, bpy.types.Operator):
    """Free the memory that the engine uses, including graphics memory. The next preview takes longer"""

    bl_idname = "edtalk.free_memory"
    bl_label = "Free Memory"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        client = session.current_client()
        if client is None or client.state is State.STOPPED:
            return "The engine is not running"
        return "The engine is busy" if session.tasks or client.state is not State.READY else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        session.free_memory()
        return None


class EDTALK_OT_cancel(BaseOperator, bpy.types.Operator):
    """Cancel this task; finished frames are kept"""

    bl_idname = "edtalk.cancel"
    bl_label = "Cancel"

    number: IntProperty(
        name="Task", description="Number of the task to cancel, 0 for all", default=0, options={"SKIP_SAVE"}
    )

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "" if session.tasks else "No task is running"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        for task in list(session.tasks):
            if self.number in (0, task.number):
                task.cancel()
        return None


class EDTALK_OT_dismiss(BaseOperator, bpy.types.Operator):
    """Hide these messages"""

    bl_idname = "edtalk.dismiss"
    bl_label = "Dismiss"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        session.dismiss()
        session.notices.clear()
        return None


class EDTALK_OT_copy_report(BaseOperator, bpy.types.Operator):
    """Copy a bug report to the clipboard: versions, device, last error and the end of the engine's log"""

    bl_idname = "edtalk.copy_report"
    bl_label = "Copy Report"

    def run(self, context: bpy.types.Context) -> set[str] | None:
        context.window_manager.clipboard = report_text()
        self.report({"INFO"}, "Report copied to the clipboard")
        return None


def report_text() -> str:
    """Text for a bug report."""
    client = session.current_client()
    facts: dict[str, object] = {"Blender": bpy.app.version_string}
    log: tuple[str, ...] = ()
    failure: EDTalkError | None = None
    if client is not None:
        facts |= {"state": client.state.value} | (vars(client.hello) if client.hello else {})
        failure, log = client.failure, client.log_tail
    if _state.failed is not None:
        failure, log = _state.failed.error, (*log, *_state.failed.log.tail)
    if failure is None and session.problems:
        last = session.problems[-1]
        failure = EngineError(last.message, last.hint, "shown")
    return engine.report(session.find_engine(), facts, failure, log)


CLASSES = (
    EDTALK_OT_install_engine,
    EDTALK_OT_install_engine_from_folder,
    EDTALK_OT_repair_engine,
    EDTALK_OT_allow_online_access,
    EDTALK_OT_use_installed_engine,
    EDTALK_OT_show_preferences,
    EDTALK_OT_cancel_installation,
    EDTALK_OT_remove_downloads,
    EDTALK_OT_uninstall_engine,
    EDTALK_OT_restart_engine,
    EDTALK_OT_free_memory,
    EDTALK_OT_cancel,
    EDTALK_OT_dismiss,
    EDTALK_OT_copy_report,
)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()


def unregister() -> None:
    for timer in (_watch, _redraw_after_probe):
        if bpy.app.timers.is_registered(timer):
            bpy.app.timers.unregister(timer)
    _state.backend = None
    if _state.installation is not None:
        _state.installation.cancel()
        _state.installation = None
    unregister_classes()
