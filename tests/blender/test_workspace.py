"""The workspace Talking Face: its file is readable in every Blender, and the operator adds it once."""

import bpy
import pytest

from tests.panel_layout import draw


@pytest.fixture
def workspaces(package):
    """The names of the workspaces in the file; those that a test adds are removed afterwards."""
    before = set(bpy.data.workspaces)
    yield lambda: [workspace.name for workspace in bpy.data.workspaces]
    bpy.data.batch_remove(set(bpy.data.workspaces) - before)


def test_the_workspace_has_its_editors_and_brings_nothing_else(package, workspaces, scene):
    counts = {name: len(getattr(bpy.data, name)) for name in ("scenes", "objects", "images", "texts")}
    assert bpy.ops.edtalk.add_workspace() == {"FINISHED"}
    workspace = bpy.data.workspaces["Talking Face"]
    areas = list(workspace.screens[0].areas)
    editors = sorted(area.ui_type for area in areas)
    assert editors == ["FCURVES", "OUTLINER", "PROPERTIES", "SEQUENCE_EDITOR", "SEQUENCE_EDITOR", "VIEW_3D"]
    views = {area.spaces.active.view_type for area in areas if area.type == "SEQUENCE_EDITOR"}
    assert views == {"SEQUENCER", "PREVIEW"}
    (view,) = (area for area in areas if area.type == "VIEW_3D")
    assert view.spaces.active.show_region_ui
    assert {name: len(getattr(bpy.data, name)) for name in counts} == counts
    assert package.compat.sequencer_scene(bpy.context) == scene
    if hasattr(workspace, "sequencer_scene"):
        assert workspace.sequencer_scene == scene


def test_the_workspace_is_added_once(package, workspaces):
    bpy.ops.edtalk.add_workspace()
    with bpy.context.temp_override(workspace=bpy.data.workspaces["Talking Face"]):
        assert not bpy.ops.edtalk.add_workspace.poll()
    bpy.ops.edtalk.add_workspace()
    assert [name for name in workspaces() if name.startswith("Talking Face")] == ["Talking Face"]


def test_the_sidebars_offer_the_workspace_until_it_is_in_the_file(package, workspaces):
    panels = package.panels.character.EDTALK_PT_character, package.panels.sequencer.EDTALK_PT_dialogue
    assert all("edtalk.add_workspace" in draw(panel).texts("operator") for panel in panels)
    bpy.ops.edtalk.add_workspace()
    assert not any("edtalk.add_workspace" in draw(panel).texts("operator") for panel in panels)
