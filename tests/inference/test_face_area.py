"""The area that a face moves: all of the face, but neither the neck nor what is beside it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference import FaceRenderer, load_bank
from inference.contract.bank import STARTER
from inference.face.framing import load_portrait
from inference.face.landmarks import NAMES, eye_vector, find_landmarks, landmark_indices, square_at
from inference.model.face_area import FADING, MARGIN, face_area

PORTRAIT = STARTER.parents[1] / "demo" / "portrait_1.png"
JAW = landmark_indices("jawRight", "jawLeft", "chin")


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return load_portrait(PORTRAIT)


@pytest.fixture(scope="module")
def renderer(portrait: np.ndarray) -> FaceRenderer:
    renderer = FaceRenderer(load_bank(STARTER), "cpu")
    renderer.set_source(portrait)
    return renderer


@pytest.fixture(scope="module")
def points(renderer: FaceRenderer, portrait: np.ndarray) -> np.ndarray:
    """The landmarks of the portrait, in its pixels."""
    assert renderer._source is not None
    assert renderer._source.corrected is not None
    eyes = (renderer._source.corrected.anchors[0, :2].double().numpy() + 1) * (len(portrait) / 2) - 0.5
    return find_landmarks(portrait, [square_at(eyes)], passes=3).points[0]


def at(area: np.ndarray, places: np.ndarray, picture: int) -> np.ndarray:
    x, y = np.round((places + 0.5) * len(area) / picture - 0.5).astype(int).T
    return area[y, x]


def test_the_area_has_all_of_a_face_and_no_neck(points: np.ndarray, portrait: np.ndarray) -> None:
    area, unit = face_area(points, len(portrait), 64), float(np.hypot(*eye_vector(points)))
    assert at(area, points, len(portrait)).min() > 0.7
    assert at(area, np.delete(points, JAW, 0), len(portrait)).min() > 0.99
    below = points[NAMES.index("chin")] + (0, (MARGIN + FADING + 0.1) * unit)
    assert at(area, below[None], len(portrait)) == 0


def test_a_face_that_overlaps_the_jaw_line_is_within_the_area(points: np.ndarray, portrait: np.ndarray) -> None:
    """The far end of the jaw line of a turned head lies inside the outline of the face."""
    turned = points.copy()
    nose = points[NAMES.index("noseTip"), 0]
    turned[landmark_indices("jawLeft"), 0] = nose
    assert at(face_area(turned, len(portrait), 64), np.delete(points, JAW, 0), len(portrait)).min() > 0.7


def test_an_opening_jaw_leaves_the_neck_where_it_is(
    renderer: FaceRenderer, points: np.ndarray, portrait: np.ndarray
) -> None:
    still, opened = renderer.places(renderer.moved({"jawOpen": np.array([0.0, 0.7])}))
    size = still.shape[-1]
    unit = float(np.hypot(*eye_vector(points))) * size / len(portrait)  # pixels
    moved = np.hypot(*(opened - still)) * (size / 2) / unit
    area = face_area(points, len(portrait), size)
    chin = points[NAMES.index("chin")]
    rows = np.arange(size)[:, None] > chin[1] * size / len(portrait)
    assert moved[rows & (area == 0)].mean() < 0.006
    assert at(moved, chin[None] - (0, 0.15 * unit), len(portrait)) > 0.08
