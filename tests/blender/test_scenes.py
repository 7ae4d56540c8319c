"""Scenes: the Sequencer of Blender 5 has a scene of its own, and characters may be in another one."""

from __future__ import annotations

import bpy
import pytest

from tests.panel_layout import draw
from tests.strip_material import noise, sequencer_context, write_sound


@pytest.fixture
def empty(obj):
    """A new scene without characters, shown in the window."""
    made = bpy.data.scenes.new("Cut")
    bpy.context.window.scene = made
    return made


def test_characters_of_other_scenes_are_listed(package, empty, obj):
    assert package.timeline.sequencer.characters(bpy.context, empty) == [obj]
    assert "edtalk.add_character" not in draw(package.panels.sequencer.EDTALK_PT_dialogue).texts("operator")
    assert draw(package.panels.sequencer.EDTALK_MT_speakers).texts("operator")[0] == "edtalk.assign_strip"


def test_characters_of_the_edited_scene_come_first(package, empty, obj, demo):
    ben = package.character.character.create(empty, str(demo / "portrait_2.png"), name="Ben")
    assert package.timeline.sequencer.characters(bpy.context, empty) == [ben]


def test_the_viewport_offers_the_scene_of_the_characters(package, scene, empty, obj):
    layout = draw(package.panels.character.EDTALK_PT_character)
    assert {"edtalk.add_character", "edtalk.use_scene"} <= set(layout.texts("operator"))
    bpy.ops.edtalk.use_scene(scene=scene.name)
    assert bpy.context.window.scene == scene
    assert "edtalk.use_scene" not in draw(package.panels.character.EDTALK_PT_character).texts("operator")


def test_an_unknown_scene_is_an_error(package, scene):
    with pytest.raises(RuntimeError, match="Nowhere"):
        bpy.ops.edtalk.use_scene(scene="Nowhere")


@pytest.mark.skipif(bpy.app.version < (5, 0), reason="the Sequencer edits the scene of the window")
def test_a_sequencer_without_a_scene_gets_the_scene_of_the_window(package, scene, obj):
    dialogue = package.panels.sequencer.EDTALK_PT_dialogue
    workspace = bpy.context.workspace
    workspace.sequencer_scene = None
    buttons = draw(dialogue).texts("operator")
    assert "edtalk.use_scene" in buttons
    assert "edtalk.lip_sync" not in buttons
    area = bpy.context.window.screen.areas[0]
    area.type = "SEQUENCE_EDITOR"
    with bpy.context.temp_override(area=area):
        bpy.ops.edtalk.use_scene()
    assert workspace.sequencer_scene == scene
    assert "edtalk.lip_sync" in draw(dialogue).texts("operator")


@pytest.mark.skipif(bpy.app.version < (5, 0), reason="the Sequencer edits the scene of the window")
def test_window_and_sequencer_change_their_scene_together_if_they_showed_the_same(scene, empty):
    workspace, window, area = bpy.context.workspace, bpy.context.window, bpy.context.window.screen.areas[0]
    workspace.sequencer_scene = empty
    area.type = "SEQUENCE_EDITOR"
    with bpy.context.temp_override(area=area):
        bpy.ops.edtalk.use_scene(scene=scene.name)
    assert (workspace.sequencer_scene, window.scene) == (scene, scene)
    window.scene = empty
    with bpy.context.temp_override(area=area):
        bpy.ops.edtalk.use_scene(scene=scene.name)
    assert window.scene == empty


def test_a_face_is_rendered_into_another_scene(package, scene, empty, obj, fake_engine, tmp_path):
    """The strips are in one scene, and the character with its keys is in another."""
    fake_engine()
    strip = package.compat.new_sound(empty, "line", write_sound(tmp_path / "line.wav", noise(0.5)), 1, 1)
    strip.select = True
    with sequencer_context(bpy.context, empty):
        assert bpy.ops.edtalk.lip_sync(which="SELECTED") == {"FINISHED"}
        assert bpy.ops.edtalk.render_face() == {"FINISHED"}
    (face,) = package.timeline.sequencer.faces(empty, obj)
    assert package.render.face_strip.waiting_frames(face) == 0
    assert obj.animation_data.action is not None
    assert package.compat.strips(scene) == []
