"""Which square of a picture or a clip the command line takes for the face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.cli.framing import Framing
from inference.contract.errors import EDTalkError
from inference.face.crop import whole
from inference.face.framing import cut
from inference.media.clip import Clip
from inference.media.picture import load_picture
from inference.media.video_writer import VideoWriter

PORTRAIT = Path(__file__).parents[2] / "inference" / "demo" / "portrait_1.png"
SIZE = 128
LEFT, TOP, SIDE = 200, 40, 256  # of the portrait in the scene


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    if not PORTRAIT.exists():
        pytest.skip("needs inference/demo/portrait_1.png")
    return np.asarray(Image.fromarray(load_picture(PORTRAIT).rgb).resize((SIDE, SIDE)))


@pytest.fixture(scope="module")
def scene(portrait) -> np.ndarray:
    """The portrait in a wide picture."""
    wide = np.full((340, 640, 3), 130, np.uint8)
    wide[TOP : TOP + SIDE, LEFT : LEFT + SIDE] = portrait
    return wide


def place(crop) -> tuple[float, float, float]:
    """Left, top and side of an upright crop in its picture."""
    side = crop.scale * crop.size
    x, y = crop.to_picture @ ((crop.size - 1) / 2, (crop.size - 1) / 2, 1)
    return x - side / 2 + 0.5, y - side / 2 + 0.5, side


def test_face_crop_is_used_whole(portrait, capsys):
    crop = Framing().of_picture(portrait, SIZE, "portrait.png")
    np.testing.assert_allclose(crop.to_picture, whole(portrait, SIZE).to_picture)
    assert "portrait.png is a face crop already and is used as a whole." in capsys.readouterr().err
    assert cut(portrait, crop) is portrait


def test_face_in_a_scene_is_found_and_its_crop_option_is_printed(scene, capsys):
    crop = Framing().of_picture(scene, SIZE, "scene.png")
    left, top, side = place(crop)
    assert abs(left - LEFT) < 30
    assert abs(top - TOP) < 30
    assert abs(side - SIDE) < 40
    assert "found a face in scene.png: --crop" in capsys.readouterr().err
    assert cut(scene, crop).shape == (SIZE, SIZE, 3)


def test_none_and_a_manual_square(scene):
    np.testing.assert_array_equal(Framing("none").of_picture(scene, SIZE, "").to_picture, whole(scene, SIZE).to_picture)
    crop = Framing.parse("200,40,256").of_picture(scene, SIZE, "")
    np.testing.assert_allclose(place(crop), (LEFT, TOP, SIDE))


def test_hints_name_the_options_of_the_input(portrait, capsys):
    pair = np.hstack([portrait, portrait])
    framing = Framing().choosing(None, ("--driver-crop", "--driver-face"))
    with pytest.raises(EDTalkError, match="2 faces") as caught:
        framing.of_picture(pair, SIZE, "pair.png")
    assert "--driver-face" in caught.value.hint
    second = Framing().choosing(2).of_picture(pair, SIZE, "pair.png")
    assert place(second)[0] > SIDE / 2
    with pytest.raises(EDTalkError, match="No face") as caught:
        framing.of_picture(np.zeros((80, 120, 3), np.uint8), SIZE, "black.png")
    assert "--driver-crop none" in caught.value.hint
    with pytest.raises(EDTalkError, match="requires face detection"):
        Framing("none").choosing(1)


def test_driving_clip_has_one_square_and_dubbed_clip_is_tracked(scene, tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 25, (640, 340)) as writer:
        for step in range(15):
            writer.write(np.roll(scene, 2 * step, axis=1))
    clip = Clip(path, 25)
    crop = Framing().of_clip(clip.frames(), 25, SIZE, "clip.mp4")
    assert crop.to_picture[0, 1] == crop.to_picture[1, 0] == 0
    assert abs(place(crop)[0] - LEFT - 14) < 40
    track = Framing().of_footage(path, 0.6)
    assert len(track) == 15
    moved = track.crops[-1, :2] - track.crops[0, :2]
    np.testing.assert_allclose(moved, (28, 0), atol=4)
