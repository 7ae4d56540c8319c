"""A .blend that an earlier version saved opens with its character, strips, keys and compositor nodes.

The file was saved by commit 8e81f54 in Blender 4.5: the character Anna with a packed portrait, an emotion of its own,
keys, one lip-synced sound strip, its face strip of 12 frames and the compositor nodes for it. The pictures lay beside
the file and are not in it.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import bpy
import numpy as np
import pytest

SAVED = Path(__file__).parent / "data" / "saved_by_8e81f54.blend"
FRAMES = 12
WEIGHTS = "f6fb7a120b68241b5614b7d0d1328ffce1aabebbbacd62bf67dd5a4b202dd6e5"  # of the starter bank at that time


@pytest.fixture
def opened(package, tmp_path):
    """The scene of the saved file, opened from a writable copy."""
    path = shutil.copy(SAVED, tmp_path / "anna.blend")
    bpy.ops.wm.open_mainfile(filepath=str(path))
    return bpy.context.scene


@pytest.fixture
def anna(opened):
    return opened.objects["Anna"]


def test_the_character_and_its_values(package, opened, anna):
    character, group = package.character, anna.edtalk
    assert character.character.characters(opened) == [anna]
    assert (group.crop_mode, group.layer, group.size) == ("none", "matte", "0")
    assert group.feather == pytest.approx(0.3)
    assert character.sliders.bank_state(anna, "pose").strength == 0.5
    assert list(character.sliders.own_presets(anna)) == ["wry"]
    rows = package.animation.sampling.sample(opened, anna, range(1, FRAMES + 1))
    expected = np.array(json.loads(opened["expected_rows"]))  # of a bank without gaze, which is at rest
    np.testing.assert_allclose(rows[:, : expected.shape[1]], expected, atol=1e-5)
    assert not rows[:, expected.shape[1] :].any()


def test_its_portrait_is_measured_again_only_for_other_weights(package, anna, monkeypatch):
    files, rest_pose = package.character.files, package.character.rest_pose
    bank = dataclasses.replace(files.bank_of(anna), sha256=WEIGHTS)
    monkeypatch.setattr(files, "bank_of", lambda _obj: bank)
    assert rest_pose.is_known(anna)
    bank = dataclasses.replace(bank, sha256="0" * 64)
    assert not rest_pose.is_known(anna)


def test_the_strips_of_a_saved_file_keep_character_and_face(package, opened, anna):
    sequencer = package.timeline.sequencer
    (line,), (face,) = sequencer.dialogue(opened, anna), sequencer.faces(opened, anna)
    assert (line.name, face.name) == ("line", "Anna face")
    assert sequencer.identity(face) == anna.edtalk.face_strip
    for strip in (line, face):
        assert sequencer.remembered_time(strip).same_as(sequencer.time_map(opened, strip))
    package.compat.set_strip_value(line, "content_start", 11)
    assert package.follow.follow(opened) == 1
    assert package.compat.left_handle(face) == 11


def test_its_face_is_rendered_into_the_same_strip(package, opened, anna, fake_engine):
    fake_engine()
    (before,) = (strip.name for strip in package.timeline.sequencer.faces(opened, anna))
    assert bpy.ops.edtalk.render_face(frames="SCENE") == {"FINISHED"}
    (face,) = package.timeline.sequencer.faces(opened, anna)
    assert (face.name, len(face.elements)) == (before, FRAMES)
    assert package.render.face_strip.waiting_frames(face) == 0
    assert all((package.render.face_strip.folder_of(face) / one.filename).is_file() for one in face.elements)


def test_its_compositor_nodes_are_found_again(package, opened, anna, fake_engine):
    fake_engine()
    bpy.ops.edtalk.render_face(frames="SCENE")
    (face,) = package.timeline.sequencer.faces(opened, anna)
    tree = package.compat.compositor(opened)
    nodes = {node.name for node in tree.nodes}
    assert not package.plate.compositing.is_new(opened, face)
    package.plate.compositing.build(opened, anna, face)
    added = [node.bl_idname for node in tree.nodes if node.name not in nodes]
    assert added in ([], ["CompositorNodeViewer"])  # the version that saved the file had no Viewer node
    count = len(tree.nodes)
    package.plate.compositing.build(opened, anna, face)
    assert len(tree.nodes) == count
