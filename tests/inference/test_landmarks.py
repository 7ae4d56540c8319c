"""Tests of the landmark network on the demo's rendered portraits and, if present, on real clips."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

from inference.contract.bank import load_bank
from inference.face import landmarks, lips
from inference.face.crop import EYES, apply_matrix, crop_face, crop_from_box, crop_from_landmarks
from inference.face.landmarks import COUNT, INNER_LIPS, MIRROR, NAMES, NINE, OUTER_LIPS, find_landmarks, frame_of
from inference.media.picture import load_picture, to_network
from inference.renderer import FaceRenderer

ROOT = Path(__file__).parents[2]
PORTRAITS = sorted((ROOT / "inference" / "demo").glob("portrait_*.png"))
MEDIA = ROOT.parent / "shared" / "media" / "clips"
needs_media = pytest.mark.skipif(not MEDIA.is_dir(), reason="the test media are not available")
# Left, top, right and bottom of the lips, marked by hand in enlarged frames, to about 3 % of the distance of the eyes.
# `square` is about where the face is.
MARKED = json.loads((Path(__file__).parent / "data" / "mouths.json").read_text())


def whole(rgb):
    """The square in which the face of a portrait is expected."""
    size = len(rgb)
    return crop_from_box(0.1 * size, 0.12 * size, 0.8 * size, landmarks.SIDE)


@pytest.fixture(scope="module", params=PORTRAITS, ids=lambda path: path.stem)
def portrait(request):
    rgb = load_picture(request.param).rgb
    return rgb, find_landmarks(rgb, [whole(rgb)])


def eye_distance(points):
    return float(np.hypot(*(points[1] - points[0])))


def test_names_and_mirror():
    assert len(set(NAMES)) == COUNT == len(MIRROR)
    assert NAMES[:9] == NINE
    assert [MIRROR[k] for k in MIRROR] == list(range(COUNT))
    assert all(("Right" in name) == ("Left" in NAMES[k]) for name, k in zip(NAMES, MIRROR, strict=True))
    assert len(set(OUTER_LIPS)) == 16


@pytest.mark.parametrize("weights", [landmarks.WEIGHTS, lips.WEIGHTS], ids=lambda path: path.stem)
def test_weights_are_small_and_say_where_they_come_from(weights):
    assert weights.stat().st_size < 1_000_000
    with safe_open(weights, "numpy") as file:
        assert file.metadata()["licence"] == "CC0-1.0"
        assert "rendered heads only" in file.metadata()["origin"]


def test_landmarks_of_a_portrait_are_in_anatomical_order(portrait):
    found = portrait[1]
    assert (found.points.shape, found.sure.shape, found.present.shape) == ((1, COUNT, 2), (1, COUNT), (1,))
    assert found.present[0] > 0.9
    assert found.sure[0, :9].min() > 0.6
    right, left, nose, mouth_right, mouth_left, upper, lower, mouth, chin = found.nine[0]
    assert right[0] < nose[0] < left[0]
    assert mouth_right[0] < mouth[0] < mouth_left[0]
    assert right[1] < nose[1] < upper[1] < mouth[1] < lower[1] < chin[1]
    inner = found.points[0, INNER_LIPS]
    outline = found.points[0, OUTER_LIPS].reshape(-1, 1, 2)
    inside = [cv2.pointPolygonTest(outline, tuple(map(float, point)), True) for point in inner]
    assert min(inside) > -0.06 * eye_distance(found.points[0])
    assert found.spread[0, :9].mean() < 0.1 * eye_distance(found.points[0])


def test_mirrored_shifted_and_enlarged_pictures_give_the_same_landmarks(portrait):
    rgb, found = portrait
    size, points = len(rgb), found.points[0]
    allowed = 0.05 * eye_distance(points)
    mirrored = np.ascontiguousarray(rgb[:, ::-1])
    back = (find_landmarks(mirrored, [whole(rgb)]).points[0] * (-1, 1) + (size - 1, 0))[MIRROR]
    assert np.median(np.hypot(*(back - points).T)) < allowed
    large = cv2.resize(rgb, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    again = find_landmarks(large, [crop_from_box(0.25 * size, 0.3 * size, 1.5 * size, landmarks.SIDE)])
    assert np.median(np.hypot(*((again.points[0] - 0.5) / 2 - points).T)) < allowed


def test_several_faces_at_once_and_none(portrait):
    rgb, found = portrait
    both = find_landmarks(rgb, [whole(rgb), frame_of(found.points[0])])
    assert len(both) == 2
    np.testing.assert_allclose(both.points[0], found.points[0], atol=0.05)
    none = find_landmarks(rgb, [])
    assert (len(none), none.nine.shape) == (0, (0, 9, 2))


@pytest.mark.parametrize("kind", ["noise", "flat", "stripes"])
def test_no_face_is_present(kind):
    rng = np.random.default_rng(0)
    shapes = {
        "noise": rng.integers(0, 256, (128, 128, 3)),
        "flat": np.full((128, 128, 3), 130),
        "stripes": np.broadcast_to(np.arange(128)[:, None, None] // 6 % 2 * 200, (128, 128, 3)),
    }
    rgb = shapes[kind].astype(np.uint8)
    assert find_landmarks(rgb, [whole(rgb)], passes=1).present[0] < 0.5


def overlap(first, second):
    """Intersection over union of two boxes: left, top, right, bottom."""
    left, top = np.maximum(first[:2], second[:2])
    right, bottom = np.minimum(first[2:], second[2:])
    common = max(right - left, 0) * max(bottom - top, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return common / (sum(areas) - common)


def overlaps(entries):
    """Of the boxes around the lips that are found, with those that are marked."""
    found = []
    for entry in entries:
        clip = cv2.VideoCapture(str(MEDIA / entry["clip"]))
        clip.set(cv2.CAP_PROP_POS_FRAMES, entry["frame"])
        rgb = np.ascontiguousarray(clip.read()[1][..., ::-1])
        outline = find_landmarks(rgb, [crop_from_box(*entry["square"], landmarks.SIDE)]).points[0, OUTER_LIPS]
        found.append(overlap((*outline.min(0), *outline.max(0)), entry["lips"]))
    return np.array(found)


@needs_media
def test_mouths_of_real_faces():
    """Every fourth of the marked frames."""
    found = overlaps(MARKED[::4])
    assert np.median(found) >= 0.8
    assert np.mean(found >= 0.6) >= 0.9


@pytest.mark.slow
@needs_media
def test_mouths_of_a_hundred_frames():
    """What `inference/face/landmarks.md` states, with a margin."""
    found = overlaps(MARKED)
    assert len(found) == 100
    assert np.median(found) >= 0.83
    assert np.mean(found >= 0.75) >= 0.9


def test_a_closer_look_moves_the_lips_only(portrait):
    rgb, found = portrait
    plain = find_landmarks(rgb, [whole(rgb)], lips=False)
    others = np.setdiff1d(np.arange(COUNT), [*OUTER_LIPS, *INNER_LIPS, NAMES.index("mouthCentre")])
    np.testing.assert_array_equal(plain.points[0, others], found.points[0, others])
    moved = np.hypot(*(plain.points - found.points)[0, OUTER_LIPS].T) / eye_distance(found.points[0])
    assert 0 < moved.max() < 0.15


def test_anchors_follow_the_face():
    """They move, turn and grow with the landmarks."""
    points = np.random.default_rng(0).normal(size=(2, COUNT, 2)) * 40 + 200
    turn = np.array([[0.9, -0.3], [0.3, 0.9]])
    moved = landmarks.eyes_and_mouth(points @ turn.T + (7, -3))
    np.testing.assert_allclose(moved, landmarks.eyes_and_mouth(points) @ turn.T + (7, -3), atol=1e-6)


@needs_media
def test_the_mouth_is_drawn_where_the_lips_of_real_faces_are():
    bank = load_bank()
    insets = FaceRenderer(bank, "cpu", 1).reader.networks.insets
    missed = []
    for entry in MARKED:
        clip = cv2.VideoCapture(str(MEDIA / entry["clip"]))
        clip.set(cv2.CAP_PROP_POS_FRAMES, entry["frame"])
        rgb = np.ascontiguousarray(clip.read()[1][..., ::-1])
        crop = crop_from_landmarks(
            find_landmarks(rgb, [crop_from_box(*entry["square"], landmarks.SIDE)]).nine[0, [0, 1]], EYES, 128
        )
        picture = torch.from_numpy(to_network(crop_face(rgb, crop), 128)[None])
        with torch.inference_mode():
            mouth = (insets.find_anchors(picture)[0, 2].double().numpy() + 1) * 64 - 0.5
        x, y = apply_matrix(crop.to_picture, mouth[None])[0]
        left, top, right, bottom = entry["lips"]
        margin = 0.15 * (right - left)
        if not (left < x < right and top - margin < y < bottom + margin):
            missed.append((entry["clip"], entry["frame"]))
    assert not missed
