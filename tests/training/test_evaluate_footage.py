"""The figures of dubbing real clips, on pictures whose figures are known, and on a real clip."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from inference.contract.demo import PORTRAIT
from inference.face.framing import load_portrait
from inference.mouth import Points
from inference.renderer import FaceRenderer
from training.evaluate import footage
from training.evaluate.footage import SIZE, Driven, measure, shows_teeth

POINTS = Points(np.array([210.0, 226.0]), np.array([330.0, 226.0]), np.array([270.0, 370.0]))


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return load_portrait(PORTRAIT, SIZE)


def driven(plate: np.ndarray, result: np.ndarray, copy: np.ndarray) -> Driven:
    return Driven(plate, result, copy, [POINTS] * len(plate), 0, 0.0)


def test_equal_pictures_have_the_figures_of_the_plate(face):
    plate = np.stack([face, np.roll(face, 2, 1), np.roll(face, 3, 0)])
    figures = measure(driven(plate, plate.copy(), np.repeat(np.roll(face, 5, 1)[None], 3, 0)), np.arange(3))
    for name in ("flicker", "sharpness", "ssim"):
        assert figures[name] == pytest.approx(1, abs=1e-6), name
    for name in ("identity", "marks", "landmarks"):
        assert figures[name] == pytest.approx(0, abs=1e-3), name
    assert figures["psnr"] > figures["psnr_copy"] > 5
    assert figures["landmarks_copy"] > 0.005
    assert figures["teeth"] == figures["teeth_plate"]


def test_noise_flickers_and_blur_is_not_sharp(face):
    plate = np.repeat(face[None], 3, 0)
    plate[1] = np.roll(face, 1, 1)
    noise = np.random.default_rng(0).integers(-9, 10, plate.shape)
    noisy = np.clip(plate + noise, 0, 255).astype(np.uint8)
    assert measure(driven(plate, noisy, plate), None)["flicker"] > 1.5
    small = Image.fromarray(face).resize((64, 64)).resize((SIZE, SIZE))
    soft = np.repeat(np.asarray(small)[None], 3, 0)
    assert measure(driven(plate, soft, plate), None)["sharpness"] < 0.7


def test_teeth_are_pale_and_enclosed_by_lips():
    skin, lip, tooth = (205, 160, 135), (180, 80, 80), (225, 220, 210)
    picture = np.full((SIZE, SIZE, 3), skin, np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE] - np.array([370, 270])[:, None, None]
    picture[(x / 45) ** 2 + (y / 25) ** 2 < 1] = lip
    assert not shows_teeth(picture, POINTS)
    picture[(abs(x) < 25) & (abs(y) < 7)] = tooth
    assert shows_teeth(picture, POINTS)


@pytest.mark.slow
def test_a_real_clip_dubs_itself(media, starter_bank, tmp_path):
    """26 dB and 4 dB above an unmoved mouth; nothing changes outside the mask, and a second run reads the files."""
    arguments = {"clips": media, "out": tmp_path, "every": 12, "most": 60, "methods": ["references"]}
    args, clip = Namespace(**arguments), media / "mouth_source.mp4"
    renderer = FaceRenderer(starter_bank, "cpu")
    figures = footage._measured(args, renderer, clip, clip)
    own = figures["references, self"]
    assert own["psnr"] > max(26, own["psnr_copy"] + 4)
    assert own["landmarks"] < 0.04
    assert own["outside"] == 0
    assert footage._kept(args, starter_bank, clip) == figures
    assert "PSNR" in footage._report(starter_bank, {clip.stem: figures}, args)
