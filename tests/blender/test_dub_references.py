"""Dub Movie with reference frames: what is read and stored, the artist's choices, and a preview of one frame."""

import bpy
import numpy as np
import pytest

from tests.blender.test_dubbing import FPS, dub, ends, jaw, place, shot_of

pytestmark = pytest.mark.slow


@pytest.fixture
def movie(package, scene, film, tmp_path):
    """The movie strip, starting at frame 10 and selected."""
    scene.render.fps, scene.frame_start, scene.frame_end = FPS, 1, 100
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    return place(package, scene, film, 10)


def test_the_mouth_comes_from_frames_of_the_movie(package, addon, scene, movie, fake_engine):
    """The movie is read once, and its references do not depend on the range."""
    fake_engine()
    obj, (face,) = dub(package, scene)
    references = shot_of(addon, face).references
    assert 2 <= len(references) <= 12
    assert (references.shown == 1).all()
    np.testing.assert_allclose(references.own[:5, 0], [1, 0.8, 0.6, 0.4, 0.2], atol=1e-6)
    folder = package.folders.character_folder(obj) / package.folders.TRACKS
    read = {path: path.stat().st_mtime_ns for path in folder.glob("*_*.npy")}
    assert len(read) == 1
    jaw(package, obj, 0.7, 20)
    dub(package, scene)
    again = shot_of(addon, face).references
    np.testing.assert_array_equal(again.times, references.times)
    assert read == {path: path.stat().st_mtime_ns for path in folder.glob("*_*.npy")}


def test_lips_at_rest_are_a_closed_mouth(package, addon, scene, movie, fake_engine):
    """Rest is read from the portrait; a slider that leaves it gains its value continuously."""
    fake_engine()
    obj, _faces = dub(package, scene)
    rest = package.character.sliders.rest_values(obj)["jawOpen"]
    jaw(package, obj, rest, 10)
    jaw(package, obj, rest + 0.5, 35)
    _obj, (face,) = dub(package, scene)
    names = list(package.character.files.bank_of(obj).names)
    column = shot_of(addon, face).coefficients.values[:26, names.index("jawOpen")]
    assert column[0] == 0
    assert column[25] == pytest.approx(rest + 0.5, abs=1e-5)
    assert np.abs(np.diff(column)).max() < 0.2


def test_chosen_reference_frames(package, addon, scene, movie, fake_engine):
    fake_engine()
    obj, (face,) = dub(package, scene)
    obj.edtalk.dub_references, obj.edtalk.dub_frames = "chosen", "15, 12"
    dub(package, scene)
    np.testing.assert_allclose(shot_of(addon, face).references.times, [5 / FPS, 2 / FPS])
    for wrong in ("", "soon", "9", "15, 60"):
        obj.edtalk.dub_frames = wrong
        with pytest.raises(RuntimeError, match="must be frames of 'walk', 10 to 59"):
            bpy.ops.edtalk.dub_movie()


@pytest.mark.parametrize("change", ["face", "none"])
def test_without_references(package, addon, scene, movie, fake_engine, change):
    fake_engine()
    obj, (face,) = dub(package, scene)
    if change == "face":
        obj.edtalk.mask = "face"
    else:
        obj.edtalk.dub_references = "none"
    dub(package, scene)
    assert shot_of(addon, face).references is None


def test_pauses_keep_the_mouth_of_the_movie(package, addon, scene, movie, fake_engine):
    """Whether a frame is in a pause does not depend on the rendered range."""
    fake_engine()
    obj, (face,) = dub(package, scene)
    rest = package.character.sliders.rest_values(obj)["jawOpen"]
    for frame, value in ((29, rest), (30, rest + 0.5), (40, rest + 0.5), (41, rest)):
        jaw(package, obj, value, frame)
    obj.edtalk.dub_keep_pauses = True
    dub(package, scene)
    whole = shot_of(addon, face).references.shown
    assert not whole[:10].any()
    assert (whole[20:31] == 1).all()
    assert not whole[40:].any()
    read = package.character.snapshot.read(obj, with_portrait=False)
    part = package.render.face_shot.shot_of(scene, obj, read, (27, 43), movie)
    np.testing.assert_array_equal(part.references.shown, whole[17:33])


def test_one_frame_can_be_previewed(package, addon, scene, movie, fake_engine):
    """The frame is the same as in the whole movie, so that it is not rendered again."""
    fake_engine()
    scene.frame_set(20)
    assert bpy.ops.edtalk.dub_movie(current_frame=True) == {"FINISHED"}
    (obj,) = package.character.character.characters(scene)
    (face,) = package.timeline.sequencer.faces(scene, obj)
    assert ends(package, face) == (20, 21)
    (name,) = [element.filename for element in face.elements]
    dub(package, scene)
    assert ends(package, face) == (10, 60)
    assert face.elements[10].filename == name
    scene.frame_set(80)
    with pytest.raises(RuntimeError, match="playhead is outside"):
        bpy.ops.edtalk.dub_movie(current_frame=True)
