"""Tests of the image layers of a shot: changed pixels, unchanged pixels and alpha."""

from __future__ import annotations

import numpy as np
import pytest

from inference.contract.shot import LAYERS, MASKS
from inference.face.crop import Crop, crop_face, crop_from_box
from inference.face.paste import Layering, PasteBack
from inference.media.picture import Picture
from tests.synthetic_inputs import picture

CROP = crop_from_box(60, 40, 200, 128, angle=7)


@pytest.fixture(scope="module")
def scene() -> Picture:
    return Picture(picture("scene", 300, 400))


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return picture("face", 128, 128)


def over(layer: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Composite straight alpha over an opaque picture."""
    alpha = layer[..., 3:] / 255
    return layer[..., :3] * alpha + below * (1 - alpha)


# ------------------------------------------------------------------------------------------------ what changes


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("feather", [0.05, 0.25, 1.0])
def test_face_is_inside_the_mask_and_nothing_changes_outside(scene, face, mask, feather):
    plate, pasted = (Layering(layer, mask, feather).compose(face, scene, CROP) for layer in ("plate", "pasted"))
    paste = PasteBack(scene.rgb.shape, CROP, feather=feather, area=mask)
    left, top, right, bottom = paste.rect
    inside = np.zeros(scene.rgb.shape[:2], bool)
    inside[top:bottom, left:right] = paste.mask > 0
    assert 0 < inside.sum() < inside.size
    assert np.array_equal(pasted[~inside], scene.rgb[~inside])
    assert (plate[~inside, 3] == 0).all()
    assert (plate[..., 3] == 255).any() or feather == 1
    np.testing.assert_allclose(over(plate, scene.rgb), pasted, atol=1.5)


@pytest.mark.parametrize("mask", MASKS)
def test_mask_is_smooth_and_softer_with_more_feather(mask):
    steps, areas = [], []
    for feather in (0.1, 0.3, 0.9):
        whole = PasteBack((256, 256), Crop(256, np.eye(2, 3)), feather=feather, area=mask)
        alpha = np.pad(whole.mask, 1)
        steps.append(max(np.abs(np.diff(alpha, axis=axis)).max() for axis in (0, 1)))
        areas.append(alpha.sum())
        assert alpha.max() <= 1
        border = np.concatenate([whole.mask[0], whole.mask[-1], whole.mask[:, 0], whole.mask[:, -1]])
        assert border.max() < 0.02, "the rectangle contains the whole mask"
    assert steps[0] > steps[1] > steps[2]
    assert areas[0] > areas[1] > areas[2]


def test_mouth_mask_covers_mouth_and_chin_but_not_the_eyes():
    """Positions in a crop of 256 pixels as "auto" makes it."""
    paste = PasteBack((256, 256), Crop(256, np.eye(2, 3)), area="mouth")
    left, top, right, bottom = paste.rect
    mask = np.zeros((256, 256), np.float32)
    mask[top:bottom, left:right] = paste.mask
    assert mask[175:200, 105:167].min() == 1, "the mouth"
    assert mask[225, 136] > 0.5, "the chin"
    assert mask[:125].max() == 0, "the eyes"
    assert not np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("brighter", [-40, 40])
def test_no_seam_around_a_face_of_another_brightness(scene, mask, brighter):
    """The gradient across the mask's border differs by at most a tenth from that of the picture."""
    face = np.clip(crop_face(scene.rgb, CROP).astype(int) + brighter, 0, 255).astype(np.uint8)
    pasted, plate = (Layering(layer, mask).compose(face, scene, CROP) for layer in ("pasted", "plate"))
    changes = plate[..., 3] > 0
    for axis in (0, 1):
        border = np.diff(changes.astype(int), axis=axis) != 0
        own, after = (np.abs(np.diff(rgb.astype(int), axis=axis)).mean(2)[border] for rgb in (scene.rgb, pasted))
        assert len(own) > 50
        assert after.mean() == pytest.approx(own.mean(), rel=0.1)
        assert np.abs(after - own).max() < 3, "no visible step"


def test_matte_is_the_square_with_the_mask_as_alpha(face):
    matte = Layering("matte").compose(face, None, CROP)
    assert np.array_equal(matte[..., :3], face), "straight alpha"
    paste = PasteBack(face.shape, Crop(128, np.eye(2, 3)))
    assert np.array_equal(matte[..., 3], np.rint(paste.mask * 255))
    edge = np.concatenate([matte[0, :, 3], matte[-1, :, 3], matte[:, 0, 3], matte[:, -1, 3]])
    assert not edge.any()
    assert matte[64, 64, 3] == 255


@pytest.mark.parametrize("layer", LAYERS)
def test_faces_of_any_size_give_the_same_layer(scene, layer):
    """A face of one colour must give the same image at each size."""
    small, large = (
        Layering(layer).compose(np.full((side, side, 3), 90, np.uint8), scene, CROP).astype(int) for side in (128, 512)
    )
    if layer in ("plate", "pasted"):
        assert np.abs(small - large).max() < 10, "the mask ends in the centre of the face's outermost pixels"
    assert (len(small), len(large)) == ((128, 512) if layer in ("square", "matte") else (300, 300))


def test_alpha_of_the_portrait_is_kept(face):
    alpha = np.zeros((300, 400), np.uint8)
    alpha[:, 150:] = 255
    cutout = Picture(picture("scene", 300, 400), alpha)
    pasted = Layering("pasted").compose(face, cutout, CROP)
    assert np.array_equal(pasted[..., 3], alpha)
    plate = Layering("plate").compose(face, cutout, CROP)
    opaque = Layering("plate").compose(face, Picture(cutout.rgb), CROP)
    assert np.array_equal(plate[:, 150:], opaque[:, 150:])
    assert not plate[:, :150, 3].any()
    matte = Layering("matte").compose(face, cutout, CROP)[..., 3].astype(int)
    assert matte[64, 10] == 0
    assert matte[64, 80] == 255


@pytest.mark.parametrize("layer", LAYERS)
def test_frame_without_a_face(scene, layer):
    made = Layering(layer).without_face(scene.rgb, 64)
    usual = Layering(layer).compose(np.zeros((64, 64, 3), np.uint8), scene, CROP.at_size(64))
    assert (made.shape, made.dtype) == (usual.shape, usual.dtype), "all frames of a shot have the same format"
    assert np.array_equal(made, scene.rgb) if layer == "pasted" else not made.any()


def test_mask_is_computed_once_per_crop(scene, face, monkeypatch):
    made = []
    monkeypatch.setattr("inference.face.paste.PasteBack", lambda *a, **k: made.append(1) or PasteBack(*a, **k))
    layering = Layering("pasted")
    for _ in range(3):
        layering.compose(face, scene, CROP)
    layering.compose(face, scene, crop_from_box(61, 40, 200, 128, angle=7))
    layering.compose(face, scene, crop_from_box(61, 40, 200, 128, angle=7))
    assert len(made) == 2
