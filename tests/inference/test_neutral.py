"""Choosing the neutral frame of a clip."""

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from inference.contract.bank import load_bank
from inference.contract.coefficients import Coefficients
from inference.face.crop import EYES, TEMPLATE
from inference.face.framing import cut, frame_clip
from inference.face.landmarks import COUNT, find_each, square_at
from inference.media.clip import Clip
from inference.media.picture import load_picture
from inference.neutral import MOST, NeutralFrame, distance_from_rest, nearest_to_rest
from inference.renderer import FaceRenderer

ROOT = Path(__file__).parents[2]
CLIP = ROOT.parent / "shared" / "media" / "clips" / "lp_d3.mp4"
# A face at rest, and the same with one or more sliders moved.
MOTIONS = [{}, {"jawOpen": 0.5}, {"eyeBlink": 1.0}, {"headYaw": 0.7}, {"headPitch": -0.7}, {"mouthSmile": 0.9}]


@pytest.fixture(scope="module")
def renderer() -> FaceRenderer:
    return FaceRenderer(load_bank(), "cpu", 1)


@pytest.fixture(scope="module")
def pictures(renderer: FaceRenderer) -> list[np.ndarray]:
    """Rendered frames of the demo's portrait: at rest three times, and with each of the motions."""
    portrait = load_picture(ROOT / "inference" / "demo" / "portrait_1.png").rgb
    renderer.set_source(cv2.resize(portrait, (128, 128), interpolation=cv2.INTER_AREA))
    frames = [next(renderer.render(renderer.moved(motion))) for motion in MOTIONS]
    return [frames[1], frames[0], *frames[2:], frames[0], frames[0]]


def rows(energies: list[float]) -> Coefficients:
    return Coefficients(np.array(energies, np.float32)[:, None], ("one",))


def test_a_face_at_rest_is_nearest_to_rest(pictures: list[np.ndarray]) -> None:
    square = square_at((EYES + 0.5) * 128 / TEMPLATE - 0.5)
    away = distance_from_rest(find_each(pictures, [square] * len(pictures)).points)
    still, moved = away[[1, -2, -1]], np.delete(away, [1, len(away) - 2, len(away) - 1])
    assert still.max() < moved.min()


def test_distance_does_not_depend_on_place_and_size() -> None:
    points = np.random.default_rng(0).normal(size=(5, COUNT, 2)) * 30 + 100
    turn = np.array([[1.2, -0.5], [0.5, 1.2]])
    np.testing.assert_allclose(distance_from_rest(points @ turn.T + 40), distance_from_rest(points))


def test_an_open_mouth_is_not_neutral_even_if_its_coefficients_are_small(pictures: list[np.ndarray]) -> None:
    chosen = NeutralFrame()
    for number, picture in enumerate(pictures):
        chosen.add(number, picture)
    energies = [0.0] * len(pictures)
    for still in (1, len(pictures) - 2, len(pictures) - 1):
        energies[still] = 0.5
    seen = np.ones(len(pictures), bool)
    assert nearest_to_rest(rows(energies), seen) == 0
    assert chosen.choose(rows(energies), seen) in (1, len(pictures) - 2, len(pictures) - 1)
    seen[[1, -2, -1]] = False
    assert seen[chosen.choose(rows(energies), seen)]


def test_without_a_face_the_smallest_coefficients_are_chosen() -> None:
    chosen, blank = NeutralFrame(), np.full((64, 64, 3), 128, np.uint8)
    for number in range(4):
        chosen.add(number, blank)
    energies = rows([0.5, 0.0, 0.1, 0.5])
    assert chosen.choose(energies, np.ones(4, bool)) == 1
    assert chosen.choose(energies, np.array([True, False, True, True])) == 2
    assert chosen.choose(energies, np.zeros(4, bool)) == 1


def test_memory_is_bounded_and_a_clip_is_covered_evenly() -> None:
    chosen, blank = NeutralFrame(), np.zeros((1, 1, 3), np.uint8)
    for number in range(1000):
        chosen.add(number, blank)
        assert len(chosen.kept) <= MOST
    numbers = [number for number, _ in chosen.kept]
    assert len(set(np.diff(numbers))) == 1
    assert numbers[0] == 0
    assert numbers[-1] > 980


@pytest.mark.skipif(not CLIP.exists(), reason="the test media are not available")
def test_the_neutral_frame_of_a_real_clip_is_frontal(renderer: FaceRenderer) -> None:
    """The head of this clip turns widely; its smallest coefficients are those of a turned one."""
    clip = Clip.at_own_rate(CLIP)
    crop = frame_clip(islice(clip.frames(), 1), clip.fps, 128, "auto", label=CLIP.name)
    pictures, chosen = [cut(rgb, crop) for rgb in islice(clip.frames(), 0, None, 5)], NeutralFrame()
    for number, picture in enumerate(pictures):
        chosen.add(number, picture)
    number = chosen.choose(renderer.reader.encode(pictures, gaze=False), np.ones(len(pictures), bool))
    square = square_at((EYES + 0.5) * 128 / TEMPLATE - 0.5)
    points = find_each([pictures[number]], [square], passes=3).points[0] @ (1, 1j)
    nose = (points[2] - (points[0] + points[1]) / 2) / (points[1] - points[0])
    assert abs(nose.real) < 0.12
