"""The engine's buttons: install, repair, remove, restart, report; cancelling what it does; dismissing what it said."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path

import bpy
from bpy.props import BoolProperty, IntProperty, StringProperty

from ...inference.contract.errors import EDTalkError
from . import engine, gpu, lock, session
from .asking import Explained
from .client import EngineError, State
from .installation import REPLACING, Installation, space

_LOOK = 0.25  # seconds between two looks at a running installation

_installation: Installation | None = None
_suited: Future[tuple[str, str]] | None = None
_failed: Installation | None = None  # the last one, if it failed: for the report


def installation() -> Installation | None:
    """The installation that is running."""
    return _installation


def _watch() -> float | None:
    """The timer: have the progress drawn, end the old engine when the new one is to replace it, notice the end."""
    global _installation, _failed
    session.redraw()
    if _installation is None:
        return None
    if not _installation.finished:
        if _installation.phase == REPLACING and not _installation.let_go.is_set():
            session.restart()
            session.forget_engine()
            _installation.let_go.set()
        return _LOOK
    ended, _installation = _installation, None
    session.forget_engine()
    _failed = ended if ended.error else None
    if ended.error:
        _tell(ended.error)
    return None


def _tell(error: EDTalkError) -> None:
    """With the way out where the index has no torch for the processor: the one for CUDA does without a card too."""
    if error.kind == "torch" and "cuda" in lock.offered(session.ROOT):
        session.report(error, fix="edtalk.install_engine", label="Install for CUDA", options={"backend": "cuda"})
    else:
        session.report(error)


def suited() -> tuple[str, str] | None:
    """The backend that suits this computer, and why; None while the graphics card is still being asked.

    The first call begins to ask, and has what is drawn drawn anew when the answer is there.
    """
    global _suited
    if _suited is None:
        _suited = answer = Future()

        def ask() -> None:
            answer.set_result(gpu.backend(lock.offered(session.ROOT), gpu.probe()))

        threading.Thread(target=ask, name="edtalk graphics card", daemon=True).start()
        bpy.app.timers.register(_asked, first_interval=_LOOK)
    return _suited.result() if _suited.done() else None


def _asked() -> float | None:
    if _suited is not None and not _suited.done():
        return _LOOK
    session.redraw()
    return None


def planned(backend: str = "") -> str:
    """What Install would do, as a sentence; "" while that is being found out, or what stands in its way.

    backend: "" for what the preferences say.
    """
    backend = backend or session.preferred().backend
    if backend == "auto":
        found = suited()
        if found is None:
            return ""
        backend = found[0]
    try:
        chosen = lock.read(session.ROOT, backend)
    except EDTalkError as error:
        return str(error)
    size, room = f"{chosen.size / 1e9:.1f} GB", f"{space(chosen) / 1e9:.0f} GB of disk"
    more = " and torch (of its size only its index knows)" if chosen.unlocked else ""
    return f"For {lock.BACKENDS[backend]}, {size}{more} are downloaded and up to {room} used."


# --- Installing


class EDTALK_OT_install_engine(Explained, bpy.types.Operator):
    """Download and install what draws the faces: a Python environment of its own, apart from Blender's"""

    bl_idname = "edtalk.install_engine"
    bl_label = "Install Engine"

    directory: StringProperty(name="Folder", subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})
    filepath: StringProperty(name="File", subtype="FILE_PATH", options={"HIDDEN", "SKIP_SAVE"})
    backend: StringProperty(name="Backend", options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        if _installation is not None:
            return "The engine is being installed"
        if not bpy.app.online_access:
            return "Blender may not use the network: allow it in Preferences > System, or install from a folder"
        if not session.blocking() and not planned():
            return "Looking for a graphics card, to know what to install"
        return ""

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(
            self,
            event,
            title=self.bl_label,
            message=f"{planned(self.backend)} Blender stays usable meanwhile.",
            confirm_text="Download",
            icon="QUESTION",
        )

    def run(self, context: bpy.types.Context) -> set[str] | None:
        global _installation, _failed
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
            _failed = made if made.error else None
            if made.error:
                raise made.error
            return None
        _installation = made
        bpy.app.timers.register(_watch, first_interval=_LOOK, persistent=True)
        return None

    def _wheels(self) -> Path | None:
        """The folder or archive to install from, if one was given."""
        if self.filepath.lower().endswith(".zip"):
            return Path(bpy.path.abspath(self.filepath))
        return Path(bpy.path.abspath(self.directory)) if self.directory else None


class EDTALK_OT_install_engine_from_folder(EDTALK_OT_install_engine):
    """Install the engine without the network, from a folder or a .zip of Python packages (.whl files): the Downloads \
of another computer, for example"""

    bl_idname = "edtalk.install_engine_from_folder"
    bl_label = "Install from Folder"

    filter_folder: BoolProperty(default=True, options={"HIDDEN"})
    filter_glob: StringProperty(default="*.zip;*.whl", options={"HIDDEN"})

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


class EDTALK_OT_remove_downloads(Explained, bpy.types.Operator):
    """Remove the packages that the engine was installed from. The engine works without; a repair fetches them anew"""

    bl_idname = "edtalk.remove_downloads"
    bl_label = "Remove Downloads"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        return "The engine is being installed" if _installation is not None else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        engine.remove_downloads(session.user_folder())
        return None


class EDTALK_OT_uninstall_engine(Explained, bpy.types.Operator):
    """Remove the installed engine and its downloads from this computer. Characters, banks and rendered frames are not \
touched"""

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


class EDTALK_OT_free_memory(Explained, bpy.types.Operator):
    """Have the engine give back its memory, the graphics card's above all. The next preview takes a little longer"""

    bl_idname = "edtalk.free_memory"
    bl_label = "Free Memory"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        client = session.current_client()
        if client is None or client.state is State.STOPPED:
            return "The engine is not running"
        return "The engine is at work" if session.tasks or client.state is not State.READY else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        session.free_memory()
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
        facts |= {"state": client.state.value} | (vars(client.hello) if client.hello else {})
        failure, log = client.failure, client.log_tail
    if _failed is not None:
        failure, log = _failed.error, (*log, *_failed.log.tail)
    if failure is None and session.problems:
        last = session.problems[-1]
        failure = EngineError(last.message, last.hint, "shown")
    return engine.report(session.find_engine(), facts, failure, log)


CLASSES = (
    EDTALK_OT_install_engine,
    EDTALK_OT_install_engine_from_folder,
    EDTALK_OT_repair_engine,
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
    global _installation, _suited
    for timer in (_watch, _asked):
        if bpy.app.timers.is_registered(timer):
            bpy.app.timers.unregister(timer)
    _suited = None
    if _installation is not None:
        _installation.cancel()
        _installation = None
    unregister_classes()
