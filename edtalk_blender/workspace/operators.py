"""Add the workspace Talking Face to the file, from the sidebars and from the menus of the top bar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bpy

from .. import compat
from ..character import character, placement
from ..engine.operator_base import BaseOperator

NAME = "Talking Face"
FILE = Path(__file__).with_name("talking_face.blend")  # made by tests/gui/make_workspace.py
_TRIES, _INTERVAL = 20, 0.25  # seconds; a sidebar has no tabs before it has been drawn


class EDTALK_OT_add_workspace(BaseOperator, bpy.types.Operator):
    """Show the workspace Talking Face: viewport, preview, sequencer and Graph Editor. Adds it if the file lacks it"""

    bl_idname = "edtalk.add_workspace"
    bl_label = "Talking Face Workspace"

    @classmethod
    def disabled_reason(cls, context: bpy.types.Context) -> str:
        if context.window is None:
            return "Needs a window"
        return "The workspace is already shown" if context.workspace.name == NAME else ""

    def run(self, context: bpy.types.Context) -> set[str] | None:
        scene = compat.sequencer_scene(context)
        if workspace := bpy.data.workspaces.get(NAME):
            context.window.workspace = workspace
        else:
            bpy.ops.workspace.append_activate(idname=NAME, filepath=str(FILE))
            workspace = bpy.data.workspaces[NAME]
            _arrange_later()
        compat.set_sequencer_scene(workspace, scene)
        return None


def _arrange_later() -> None:
    """Arrange the new workspace once it has been drawn. In background mode nothing is drawn, and no timer runs."""
    global _tries
    _tries = _TRIES
    if not bpy.app.timers.is_registered(_arrange):
        bpy.app.timers.register(_arrange, first_interval=_INTERVAL)


def _arrange() -> float | None:
    """Open the extension's tab in the sidebars, and zoom to the face, the strips and the curves."""
    global _tries
    _tries -= 1
    context = bpy.context
    windows = [one for one in context.window_manager.windows if one.workspace.name == NAME]
    if not windows:
        return _INTERVAL if _tries > 0 else None
    sidebars = [
        region
        for area in windows[0].screen.areas
        if area.type == "VIEW_3D" or (area.type == "SEQUENCE_EDITOR" and area.spaces.active.view_type == "SEQUENCER")
        for region in area.regions
        if region.type == "UI"
    ]
    if not all(_open_tab(region) for region in sidebars) and _tries > 0:
        return _INTERVAL
    with context.temp_override(window=windows[0]):
        if (obj := character.active(context)) is not None:
            placement.show(context, obj)
    _view_all(windows[0], bpy.ops.sequencer.view_all, bpy.ops.graph.view_all)
    return None


def zoom_to_curves() -> None:
    """Zoom the workspace's Graph Editor to the curves, in every window that shows the workspace."""
    for window in bpy.context.window_manager.windows:
        if window.workspace.name == NAME:
            _view_all(window, bpy.ops.graph.view_all)


def _view_all(window: bpy.types.Window, *operators: Callable[[], object]) -> None:
    """Call those of Blender's View All operators that an area of a window supports."""
    for area in window.screen.areas:
        region = next(one for one in area.regions if one.type == "WINDOW")
        with bpy.context.temp_override(window=window, area=area, region=region):
            for operator in operators:
                if operator.poll():  # type: ignore[attr-defined]
                    operator()


def _open_tab(region: bpy.types.Region) -> bool:
    """Open the extension's tab of a sidebar. False if its tabs have not been drawn yet."""
    try:
        region.active_panel_category = bpy.types.EDTALK_PT_dialogue.bl_category
    except (TypeError, AttributeError):
        return False
    return True


_tries = 0


def draw_button(layout: bpy.types.UILayout) -> None:
    """Draw the button, unless the workspace is in the file, where its tab is at the top of the window."""
    if NAME not in bpy.data.workspaces:
        layout.operator("edtalk.add_workspace", icon="WORKSPACE")


def _draw_in_menu(menu: bpy.types.Menu, _context: bpy.types.Context) -> None:
    menu.layout.separator()
    menu.layout.operator("edtalk.add_workspace", icon="WORKSPACE")


CLASSES = (EDTALK_OT_add_workspace,)

register_classes, unregister_classes = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    register_classes()
    bpy.types.TOPBAR_MT_workspace_menu.append(_draw_in_menu)
    bpy.types.TOPBAR_MT_window.append(_draw_in_menu)


def unregister() -> None:
    if bpy.app.timers.is_registered(_arrange):
        bpy.app.timers.unregister(_arrange)
    bpy.types.TOPBAR_MT_window.remove(_draw_in_menu)
    bpy.types.TOPBAR_MT_workspace_menu.remove(_draw_in_menu)
    unregister_classes()
