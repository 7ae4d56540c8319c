"""The status at the top of both sidebars: the engine, running tasks with progress, and problems."""

from __future__ import annotations

from collections.abc import Collection

import bpy

from ..character import character
from ..engine import operators as buttons
from ..engine import session
from ..engine.client import State
from ..engine.engine import Engine
from ..engine.engine import State as Found
from ..translations.context import CONTEXT
from .character import problems
from .help import HasHelp
from .messages import CATEGORY, draw_lines, draw_problem, fitting

_STATE_ICONS = {
    State.READY: "CHECKMARK",
    State.BUSY: "CHECKMARK",
    State.STARTING: "SORTTIME",
    State.RESTARTING: "SORTTIME",
    State.SILENT: "QUESTION",
    State.FAILED: "ERROR",
    State.STOPPED: "CHECKMARK",
}


def draw_status(layout: bpy.types.UILayout, shown: Collection[str] = ()) -> None:
    """Draw engine, tasks and problems. shown: messages that another panel of the sidebar shows, with their button.

    A task is drawn in the place of a working engine's state, because the panels below must not move under the mouse.
    """
    client = session.current_client()
    is_working = client is not None and client.state in (State.READY, State.BUSY, State.STARTING, State.RESTARTING)
    if not is_working or not any(task.label for task in session.tasks):
        draw_engine(layout)
    _draw_tasks(layout)
    draw_problems(layout, shown)


def draw_engine(layout: bpy.types.UILayout) -> None:
    """Draw the state of the engine, or its problem with the button that fixes it."""
    running = buttons.installation()
    if running is not None:
        done = f" {running.done} of {running.total}{running.unit}" if running.total else ""
        row = layout.row(align=True)
        factor = running.done / running.total if running.total else 0.0
        row.progress(factor=factor, text=f"{running.phase[:1].upper()}{running.phase[1:]}{done}")
        row.operator("edtalk.cancel_installation", text="", icon="X")
        return
    found, client = session.find_engine(), session.current_client()
    if found.state is Found.UNCHECKED:
        layout.label(text="Checking the chosen Python...", text_ctxt=CONTEXT, icon="SORTTIME")
        return
    if not found.usable:
        _draw_unusable(layout, found)
        return
    state = client.state if client else State.STOPPED
    if state is State.FAILED:
        damaged = found.origin == "installed" and client.failure.kind in ("start", "version", "garbage")
        fix = ("edtalk.repair_engine", "Repair Engine") if damaged else ("edtalk.restart_engine", "Restart Engine")
        draw_problem(layout, str(client.failure), *fix)
        return
    device = f" on {client.hello.device_name}" if client and client.hello else ""
    text = "Engine ready" if state in (State.STOPPED, State.READY, State.BUSY) else f"Engine {state.value}"
    beat = client.beat if client else None
    memory = (beat.device_memory or beat.memory) if beat else None  # bytes
    row = layout.row(align=True)
    row.label(text=text + device + (f", {memory / 1e9:.1f} GB" if memory else ""), icon=_STATE_ICONS[state])
    if memory:
        row.operator("edtalk.free_memory", text="", icon="X")
    if found.reason:  # usable, but out of date
        draw_problem(layout, found.reason, "edtalk.repair_engine", "Repair Engine")


def _draw_unusable(layout: bpy.types.UILayout, found: Engine) -> None:
    """Draw why the engine cannot be used, with the buttons that fix it."""
    if found.chosen:
        here = bpy.context.area is not None and bpy.context.area.type == "PREFERENCES"
        fix = "" if here else "edtalk.show_preferences"
        draw_problem(layout, f"{found.reason} {found.hint}", fix, "EDTalk Preferences")
        if found.origin == "preferences":
            layout.operator("edtalk.use_installed_engine", icon="LOOP_BACK")
        return
    if found.origin != "installed":  # a checkout of the repository
        draw_problem(layout, f"{found.reason} {found.hint}", "", "")
        return
    box = layout.box().column(align=True)
    missing = found.state is Found.MISSING
    reason = "The engine, which renders the faces, is not installed." if missing else found.reason
    draw_lines(box, reason, "INFO" if missing else "ERROR")
    draw_lines(box, buttons.planned() or "Looking for a graphics card...")
    if not bpy.app.online_access:
        draw_lines(box, "The download needs online access, which is off in Blender's preferences.")
        box.operator("edtalk.allow_online_access", icon="INTERNET")
    box.operator_context = "INVOKE_DEFAULT"
    if missing:
        box.operator("edtalk.install_engine", icon="IMPORT")
    else:
        box.operator("edtalk.repair_engine", icon="FILE_REFRESH")
    box.operator("edtalk.install_engine_from_folder", icon="FILE_FOLDER")


def _draw_tasks(layout: bpy.types.UILayout) -> None:
    shown = [task for task in session.tasks if task.label]
    if not shown:
        return  # an empty column would take up a few pixels
    column = layout.column(align=True)
    for task in shown:
        row = column.row(align=True)
        row.progress(factor=task.fraction, text=fitting(*task.texts))
        row.operator("edtalk.cancel", text="", icon="X").number = task.number
    if len(shown) > 1:
        column.operator("edtalk.cancel", text="Cancel All", text_ctxt=CONTEXT).number = 0


def draw_problems(layout: bpy.types.UILayout, shown: Collection[str] = ()) -> None:
    """Draw the problems of tasks and of the installation, with the buttons that fix them. shown: see `draw_status`."""
    engine_reason = session.find_engine().reason  # `draw_engine` shows this one
    found = [problem for problem in session.problems if problem.message not in (engine_reason, *shown)]
    for problem in found:
        box = layout.box().column(align=True)
        draw_lines(box, f"{problem.message} {problem.hint}", "ERROR")
        if problem.fix:
            button = box.operator(problem.fix, text=problem.label)
            for name, value in problem.options.items():
                setattr(button, name, value)
    for text in session.notices:
        draw_lines(layout.column(align=True), f"{text}.", "CHECKMARK")
    if found or session.notices:
        layout.operator("edtalk.dismiss", icon="X")


class _Status(HasHelp):
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_label = "Status"
    help_page = "troubleshooting.html"

    def draw(self, context: bpy.types.Context) -> None:
        draw_status(self.layout)


class EDTALK_PT_status_view(_Status, bpy.types.Panel):
    """State of the engine and its tasks"""

    bl_space_type = "VIEW_3D"

    def draw(self, context: bpy.types.Context) -> None:
        obj = character.active(context) if session.problems else None
        draw_status(self.layout, [message for message, _fix, _label in problems(obj)] if obj else ())


class EDTALK_PT_status_sequencer(_Status, bpy.types.Panel):
    """State of the engine and its tasks"""

    bl_space_type = "SEQUENCE_EDITOR"


def draw_in_status_bar(header: bpy.types.Header, _context: bpy.types.Context) -> None:
    """Draw the first running task with its progress, else the latest notice while it is new."""
    shown = [task for task in session.tasks if task.label]
    if shown:
        row = header.layout.row(align=True)
        row.ui_units_x = 16
        more = f" (+{len(shown) - 1})" if len(shown) > 1 else ""
        row.progress(factor=shown[0].fraction, text=f"{shown[0].texts[0]}{more}")
        row.operator("edtalk.cancel", text="", icon="X").number = shown[0].number
    elif text := session.status_bar_notice():
        header.layout.label(text=text, icon="CHECKMARK")


CLASSES = (EDTALK_PT_status_view, EDTALK_PT_status_sequencer)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    bpy.types.STATUSBAR_HT_header.append(draw_in_status_bar)


def unregister() -> None:
    bpy.types.STATUSBAR_HT_header.remove(draw_in_status_bar)
    unregister_classes()
