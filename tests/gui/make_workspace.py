"""Make `edtalk_blender/workspace/talking_face.blend`, the workspace that the extension adds. Needs a window:

    blender --factory-startup --window-geometry 0 0 1600 1000 --python tests/gui/make_workspace.py -- FILE

Afterwards `tests/blender/test_workspace.py` checks that every Blender can read the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
from artist import Stage, Steps, area, over, window

OUT = Path(sys.argv[sys.argv.index("--") + 1])


def split(of: bpy.types.Area, direction: str, share: float, kind: str) -> Steps:
    """Split an area. The lower or right part takes `share` of it and shows the editor `kind`."""
    before = {one.as_pointer() for one in window().screen.areas}
    with over(of):
        bpy.ops.screen.area_split(direction=direction, factor=share if direction == "HORIZONTAL" else 1 - share)
    yield 0.5
    (new,) = (one for one in window().screen.areas if one.as_pointer() not in before)
    last = min((of, new), key=lambda one: one.y if direction == "HORIZONTAL" else -one.x)
    last.ui_type = kind
    yield 0.5


def make() -> Steps:
    window().workspace = bpy.data.workspaces["Modeling"]
    yield 1.0
    yield from split(area("VIEW_3D"), "HORIZONTAL", 0.54, "SEQUENCE_EDITOR")
    strips = area("SEQUENCE_EDITOR")
    yield from split(strips, "HORIZONTAL", 0.38, "FCURVES")
    strips, view = area("SEQUENCE_EDITOR"), area("VIEW_3D")
    yield from split(view, "VERTICAL", 0.42, "SEQUENCE_EDITOR")
    view = area("VIEW_3D")
    result = next(one for one in window().screen.areas if one.type == "SEQUENCE_EDITOR" and one != strips)
    result.spaces.active.view_type, strips.spaces.active.view_type = "PREVIEW", "SEQUENCER"
    result.spaces.active.show_region_ui = False
    area("GRAPH_EDITOR").spaces.active.show_region_ui = False
    area("PROPERTIES").spaces.active.context = "OUTPUT"
    yield 0.5
    view.spaces.active.show_region_ui = strips.spaces.active.show_region_ui = True  # the operator opens their tabs
    view.spaces.active.show_region_toolbar = result.spaces.active.show_region_toolbar = False
    yield 0.5
    with over(view):
        bpy.ops.view3d.view_axis(type="FRONT")
    view.spaces.active.region_3d.view_distance = 4.0
    workspace = window().workspace
    workspace.name = "Talking Face"
    workspace.object_mode = "OBJECT"
    if hasattr(workspace, "sequencer_scene"):
        workspace.sequencer_scene = None
    yield 0.5
    bpy.data.libraries.write(str(OUT), {workspace}, compress=True)


Stage(OUT.with_suffix(".json")).play(make())
