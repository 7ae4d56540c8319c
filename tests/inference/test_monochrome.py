"""Black-and-white and toned portraits keep their tone in every frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import Bank
from inference.contract.demo import PORTRAIT
from inference.media.picture import load_picture
from inference.monochrome import tone_of, toned
from inference.renderer import FaceRenderer


def portrait(kind: str) -> np.ndarray:
    """A demo portrait of 256 px: coloured, grey, or sepia."""
    rgb = cv2.resize(load_picture(PORTRAIT).opaque, (256, 256), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if kind == "coloured":
        return rgb
    gains = (1.0, 0.85, 0.65) if kind == "sepia" else (1.0, 1.0, 1.0)
    return np.stack([np.round(grey * gain) for gain in gains], -1).astype(np.uint8)


def moved(renderer: FaceRenderer) -> np.ndarray:
    """Two rows: a turned head with an open mouth, and closed eyes."""
    return renderer.moved(
        {"headYaw": np.array([0.8, 0.0]), "jawOpen": np.array([0.8, 0.1]), "eyeBlink": np.array([0.0, 1.0])}
    ).values


@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("kind", ["grey", "sepia"])
def test_every_frame_has_the_portraits_tone(starter_bank: Bank, kind: str, detail: bool) -> None:
    renderer, picture = FaceRenderer(starter_bank, "cpu"), portrait(kind)
    renderer.set_source(picture, picture if detail else None)
    rows = moved(renderer)
    for frame in [*renderer.render(rows), renderer.frame(rows[:1])]:
        tone = tone_of(frame)
        assert tone is not None, "one colour per brightness"
        red, green, blue = tone[128]
        expected = (1.0, 1.0, 1.0) if kind == "grey" else (1.0, 0.85, 0.65)
        assert np.allclose((red, green, blue), np.array(expected) * red, atol=4)
    for frame in renderer.render(rows, np.float32):
        assert np.ptp(frame) > 1.0
        assert tone_of(np.clip((frame + 1) * 127.5, 0, 255).astype(np.uint8)) is not None


def test_a_portrait_at_rest_is_unchanged(starter_bank: Bank) -> None:
    renderer, picture = FaceRenderer(starter_bank, "cpu"), portrait("grey")
    renderer.set_source(picture, picture)
    frame = next(renderer.render(renderer.source_coefficients))
    assert np.abs(frame.astype(int) - picture).max() <= 1


def test_coloured_pictures_have_no_tone() -> None:
    assert tone_of(portrait("coloured")) is None
    slight = portrait("grey").copy()
    slight[96:160, 96:160] += np.array([20, 0, 0], np.uint8)  # one coloured part, such as a flower
    assert tone_of(slight) is None


def test_a_tone_is_applied_to_levels_and_numbers_alike() -> None:
    tone = tone_of(portrait("sepia"))
    assert tone is not None
    levels = toned(portrait("coloured"), tone)
    numbers = toned(portrait("coloured").astype(np.float32) / 127.5 - 1, tone)
    assert np.abs((numbers + 1) * 127.5 - levels).max() <= 2
