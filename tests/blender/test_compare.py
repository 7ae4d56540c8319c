"""Compare: plate and result in one frame of the sequencer."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from tests.blender.test_dubbing import HEIGHT, WIDTH, dub, place
from tests.picture_material import render


@pytest.fixture
def saved(scene, tmp_path):
    scene.render.fps, scene.frame_start, scene.frame_end = 25, 1, 100
    scene.render.resolution_x, scene.render.resolution_y = WIDTH, HEIGHT
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    return tmp_path


@pytest.fixture
def movie(package, scene, saved, film):
    """The selected movie strip, from frame 10 on."""
    return place(package, scene, film, 10)


def test_plate_and_result_are_compared_in_one_frame(package, scene, saved, movie, fake_engine):
    """The left part shows the plate and the right part the face, until the result is shown again."""
    fake_engine()
    obj, _strips = dub(package, scene)
    obj.edtalk.layer = "pasted"
    bpy.ops.edtalk.render_face()
    (strip,) = package.timeline.sequencer.faces(scene, obj)
    scene.render.use_sequencer = True
    settings, frame, path = scene.edtalk_compare, 20, saved / "compared.png"
    settings.mode = "PLATE"
    plate = render(scene, path, frame).astype(int)
    settings.mode = "RESULT"
    result = render(scene, path, frame).astype(int)
    assert np.abs(result - plate).mean() > 5
    settings.mode, settings.split = "SPLIT", 0.25
    both = render(scene, path, frame).astype(int)
    edge = WIDTH // 4
    assert np.abs(both[:, : edge - 2] - plate[:, : edge - 2]).max() <= 2
    assert np.abs(both[:, edge + 2 :] - result[:, edge + 2 :]).max() <= 2
    settings.mode = "RESULT"
    assert (strip.crop.min_x, strip.mute) == (0, False)
    assert package.plate.compare.BEFORE not in strip


def test_comparing_keeps_the_artists_crop_and_muted_strips(package, scene, saved, movie, fake_engine):
    fake_engine()
    _obj, (strip,) = dub(package, scene)
    settings = scene.edtalk_compare
    strip.crop.min_x = 400
    for mode in ("SPLIT", "PLATE", "SPLIT", "RESULT"):
        settings.mode = mode
        assert strip.crop.min_x == 400, "the split at half of the width lies in the part that is cropped"
    strip.mute = True
    for mode in ("SPLIT", "RESULT"):
        settings.mode = mode
        assert strip.mute
    assert strip.crop.min_x == 400
