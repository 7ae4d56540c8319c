"""Tests of face detection, crops, pasting and the crop tracker."""

import functools
from pathlib import Path

import cv2
import numpy as np
import pytest

from inference.contract.errors import EDTalkError
from inference.face import detect
from inference.face.crop import Crop, crop_face, crop_from_box, crop_from_landmarks, similarity, whole
from inference.face.crop_tracker import CropTracker
from inference.face.detect import EYES, Face, choose_face, crop_from_face, detect_faces, find_face
from inference.face.landmarks import COUNT
from inference.face.paste import PasteBack
from inference.media.picture import load_picture
from tests import synthetic_inputs

picture = functools.cache(synthetic_inputs.picture)  # a large one takes a second
ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
MEDIA = ROOT.parent / "shared" / "media"
needs_media = pytest.mark.skipif(not MEDIA.is_dir(), reason="the test media are not available")
PORTRAITS = {  # eye centres from 68-point landmarks
    "identity_source.jpg": [(89.7, 107.2), (152.5, 104.8)],
    "uncrop_face.jpg": [(277.0, 421.3), (452.0, 409.8)],
}


def apply(matrix, points):
    return np.asarray(points) @ matrix[:, :2].T + matrix[:, 2]


def turned(scale, degrees, x, y):
    cos, sin = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[cos, -sin, x], [sin, cos, y]])


# ---- similarity and crops


def test_similarity_recovers_the_transform():
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = rng.normal(0, 50, (rng.integers(2, 9), 2))
        matrix = turned(rng.uniform(0.1, 5), rng.uniform(-180, 180), *rng.uniform(-500, 500, 2))
        np.testing.assert_allclose(similarity(points, apply(matrix, points)), matrix, atol=1e-9)


def test_similarity_never_mirrors_and_needs_two_points():
    points = np.random.default_rng(1).normal(0, 50, (6, 2))
    assert np.linalg.det(similarity(points, points * (-1, 1))[:, :2]) >= 0
    for too_few in (points[:1], np.repeat(points[:1], 4, axis=0)):
        with pytest.raises(EDTalkError) as caught:
            similarity(too_few, too_few)
        assert caught.value.kind == "face"


@pytest.mark.parametrize("index", [0, 1])
def test_landmark_crop_matches_upstream(index):
    with np.load(DATA / "crop.npz") as golden:
        template = golden["template_first47"]
        landmarks = golden[f"similarity/{index}/landmarks"][: len(template)]
        crop = crop_from_landmarks(landmarks, template)
        expected = golden[f"similarity/{index}/matrix_template_to_image"][:2]
        np.testing.assert_allclose(crop.to_picture[:, :2], expected[:, :2], atol=1e-5)
        np.testing.assert_allclose(crop.to_picture[:, 2], expected[:, 2], atol=1e-3)


def test_crop_inverse_and_other_sizes():
    rng = np.random.default_rng(2)
    points = rng.uniform(0, 255, (5, 2))
    for _ in range(20):
        crop = Crop(256, turned(rng.uniform(0.1, 5), rng.uniform(-180, 180), *rng.uniform(-500, 500, 2)))
        np.testing.assert_allclose(apply(crop.to_crop, apply(crop.to_picture, points)), points, atol=1e-8)
        large = crop.at_size(512)
        assert large.scale == pytest.approx(crop.scale / 2)
        # Corners of the square, half a pixel outside the outermost centres, stay where they are.
        np.testing.assert_allclose(
            apply(large.to_picture, [(-0.5, -0.5), (511.5, 511.5)]),
            apply(crop.to_picture, [(-0.5, -0.5), (255.5, 255.5)]),
        )


def test_crop_puts_the_eyes_at_upstreams_positions():
    landmarks = np.array([(300.0, 200.0), (380.0, 230.0), (330.0, 260.0)])
    for size in (256, 512):
        crop = crop_from_face(Face((250, 150, 200, 200), landmarks), size)
        eyes = (EYES + 0.5) * size / 256 - 0.5
        np.testing.assert_allclose(apply(crop.to_crop, landmarks[:2]).mean(0), eyes.mean(0), atol=1e-6)
        np.testing.assert_allclose(apply(crop.to_crop, landmarks[:2]), eyes, atol=1e-6)


def test_crop_from_a_box_without_eyes():
    crop = crop_from_face(Face((100, 50, 200, 200)))
    np.testing.assert_allclose(apply(crop.to_crop, [(160.8, 130.6), (239.2, 130.6)]), EYES, atol=1.0)
    upside_down = crop_from_face(Face((100, 50, 200, 200), angle=180))
    np.testing.assert_allclose(apply(upside_down.to_crop, [(238.2, 168.4), (159.8, 168.4)]), EYES, atol=1.0)


def test_manual_and_whole_crops_copy_pixels_at_their_own_size():
    scene = picture("scene", 300, 400)
    assert np.array_equal(crop_face(scene, crop_from_box(70, 20, 256)), scene[20:276, 70:326])
    assert np.array_equal(crop_face(scene, whole(scene[:256, :256])), scene[:256, :256])
    squeezed = crop_face(scene, whole(scene, 128))
    np.testing.assert_allclose(squeezed, cv2.resize(scene, (128, 128), interpolation=cv2.INTER_AREA), atol=25)
    with pytest.raises(EDTalkError):
        crop_from_box(0, 0, 0)


def test_shrinking_averages_and_edge_pixels_are_repeated():
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, ::2] = 255
    small = crop_face(stripes, crop_from_box(0, 0, 800, 100))
    assert abs(small[:, 2:-2].astype(int) - 127).max() <= 2

    large = crop_face(stripes, crop_from_box(-30_000, -30_000, 60_800, 100))  # 9 gigabytes if sampled at full density
    assert large.shape == (100, 100, 3)

    white = np.full((50, 50, 3), 255, np.uint8)
    outside = crop_from_box(-20, -20, 90, 90)
    assert (crop_face(white, outside) == 255).all()


# ---- paste back


def test_pasting_an_unchanged_face_restores_the_picture():
    scene = np.random.default_rng(3).integers(0, 256, (300, 400, 3), np.uint8)
    crop = crop_from_box(70, 20, 256)
    pasted = PasteBack(scene.shape, crop).paste(scene, crop_face(scene, crop))
    assert abs(pasted.astype(int) - scene).max() <= 1


@pytest.mark.parametrize(
    ("scale", "degrees", "bound"), [(1.0, 0, 1), (0.7, 12, 2), (1.3, -35, 3), (0.35, 0, 2), (2.2, 170, 6)]
)
def test_pasting_an_unchanged_face_stays_close_under_rotation_and_scale(scale, degrees, bound):
    scene = picture("crop_scene", 700, 900)
    crop = Crop(256, turned(scale, degrees, 0, 0))
    middle = np.array([450.3, 350.6]) - apply(crop.to_picture, (127.5, 127.5))
    crop = Crop(256, crop.to_picture + np.column_stack([np.zeros((2, 2)), middle]))
    pasted = PasteBack(scene.shape, crop).paste(scene, crop_face(scene, crop))
    assert abs(pasted.astype(int) - scene).max() <= bound


def test_nothing_changes_outside_the_mask():
    rng = np.random.default_rng(4)
    for _ in range(25):
        height, width = rng.integers(60, 300, 2)
        scene = rng.integers(0, 256, (height, width, 3), np.uint8)
        crop = Crop(64, turned(rng.uniform(0.2, 4), rng.uniform(-180, 180), *rng.uniform(-100, 300, 2)))
        paste = PasteBack(scene.shape, crop, feather=rng.uniform(0.05, 1))
        result = paste.paste(scene, rng.integers(0, 256, (64, 64, 3), np.uint8))
        left, top, right, bottom = paste.rect
        inside = np.zeros((height, width), bool)
        inside[top:bottom, left:right] = paste.mask > 0
        assert np.array_equal(result[~inside], scene[~inside])
        # No pixel outside the crop is used: the mask is 0 from the crop's outermost pixel centres on.
        ys, xs = np.nonzero(inside)
        assert (abs(apply(crop.to_crop, np.stack([xs, ys], 1)) - 31.5) < 31.5 + 1e-3).all()


def test_mask_falls_smoothly_from_one_to_zero():
    paste = PasteBack((400, 400), crop_from_box(50, 60, 256), feather=0.3)
    mask = paste.mask
    middle = mask.shape[0] // 2
    assert mask[middle, middle] == 1
    assert mask[[0, -1]].max() == mask[:, [0, -1]].max() == 0
    for ray in (mask[middle, middle:], mask[middle:, middle], np.diag(mask)[middle:], np.diag(mask[:, ::-1])[middle:]):
        assert (np.diff(ray) <= 0).all()
        assert abs(np.diff(ray)).max() < 0.07
    assert mask.dtype == np.float32
    with pytest.raises(EDTalkError, match="feather"):
        PasteBack((400, 400), crop_from_box(50, 60, 256), feather=0)


def test_paste_in_place_into_a_buffer_and_as_a_layer():
    scene, face = picture("crop_scene", 300, 400).copy(), np.full((128, 128, 3), 200, np.uint8)
    paste = PasteBack(scene.shape, crop_from_box(-20, 40, 200, 128))
    expected = paste.paste(scene, face)
    buffer, untouched = np.empty_like(scene), scene.copy()
    assert paste.paste(scene, face, out=buffer) is buffer
    assert np.array_equal(buffer, expected)
    assert np.array_equal(scene, untouched)
    assert paste.paste(scene, face, out=scene) is scene
    assert np.array_equal(scene, expected)

    layer = paste.layer(face)
    alpha = layer[..., 3:] / 255
    over = layer[..., :3] * alpha + untouched * (1 - alpha)
    np.testing.assert_allclose(over, expected, atol=1.5)

    far = PasteBack(scene.shape, crop_from_box(1000, 1000, 200, 128))
    assert np.array_equal(far.paste(untouched, face), untouched)
    for wrong in (face[:64], face[..., 0]):
        with pytest.raises(EDTalkError, match="needs faces"):
            paste.paste(scene, wrong)
    with pytest.raises(EDTalkError, match="needs pictures"):
        paste.paste(scene[:-1], face)


# ---- choosing and finding


def test_choose_face():
    one, two, tiny = Face((10, 10, 90, 90)), Face((200, 10, 90, 90)), Face((300, 10, 20, 20))
    assert choose_face([one]) is one
    assert choose_face([one, tiny]) is one
    assert choose_face([one, two], which=2) is two
    for faces, which, words in [
        ([], None, "No face was found in p.png"),
        ([one, two], None, r"2 faces .* p.png"),
        ([one, two], 3, "no face 3 in p.png"),
        ([one, two], 0, "no face 0"),
        ([tiny], None, "only 20 pixels wide"),
    ]:
        with pytest.raises(EDTalkError, match=words) as caught:
            choose_face(faces, which=which, label="p.png")
        assert caught.value.kind == "face"
        assert caught.value.hint


def test_the_network_finds_faces_without_a_cascade(monkeypatch):
    monkeypatch.setattr(detect, "_face_mesh", lambda: None)
    monkeypatch.setattr(detect, "_cascade_folder", lambda: None)
    assert detect_faces(picture("scene", 64, 64)) == []
    rgb = load_picture(ROOT / "inference" / "demo" / "portrait_1.png").rgb
    (face,) = detect_faces(np.pad(rgb, ((0, 0), (60, 300), (0, 0)), mode="edge"))
    assert face.landmarks.shape == (COUNT, 2)
    assert 60 < face.landmarks[0, 0] < face.landmarks[1, 0] < 60 + len(rgb)


def test_no_face_in_a_pattern():
    with pytest.raises(EDTalkError, match=r"No face was found in pattern\.png"):
        find_face(picture("crop_scene", 120, 160), label="pattern.png")


@needs_media
@pytest.mark.parametrize("name", PORTRAITS)
def test_portraits_have_one_face_with_eyes_in_place(name):
    rgb = load_picture(MEDIA / name).rgb
    assert len(detect_faces(rgb)) == 1
    crop = crop_from_face(find_face(rgb, label=name))
    assert np.linalg.norm(apply(crop.to_crop, PORTRAITS[name]) - EYES, axis=1).max() < 5
    by_box = crop_from_face(Face(find_face(rgb).box))
    assert np.linalg.norm(apply(by_box.to_crop, PORTRAITS[name]) - EYES, axis=1).max() < 8


@needs_media
@pytest.mark.parametrize("degrees", [20, -90, 165])
def test_rolled_heads_are_found_and_rotated_upright(degrees):
    rgb = load_picture(MEDIA / "identity_source.jpg").rgb
    turn = turned(1, degrees, 0, 0)
    turn[:, 2] = 180 - apply(turn, (127.5, 127.5))
    scene = cv2.warpAffine(rgb, turn, (360, 360), borderValue=(128, 128, 128))
    crop = crop_from_face(find_face(scene))
    eyes = apply(turn, PORTRAITS["identity_source.jpg"])
    assert np.linalg.norm(apply(crop.to_crop, eyes) - EYES, axis=1).max() < 5


def test_what_the_network_does_not_recognise_is_no_face(monkeypatch):
    """Fur and printed pages look like faces to the cascade."""
    rng = np.random.default_rng(3)
    page = np.repeat((rng.random((720, 720, 1)) > 0.5) * np.uint8(200), 3, axis=2)
    page[np.arange(720) // 12 % 2 == 0] = 230
    proposed = Face((300.0, 300.0, 120.0, 120.0), None, 30.0, 0.0)
    monkeypatch.setattr(detect, "_faces_at_angle", lambda grey, angle, *_: [proposed])
    assert detect_faces(page) == []


@needs_media
@pytest.mark.parametrize("name", ["lp_d8.jpg", "lp_d19.jpg", "lp_s10.jpg", "lp_s2.jpg", "st_art_3.png"])
def test_one_face_in_each_still(name):
    """Glasses and a pout, a shout, a half profile, grey, a drawing."""
    assert len(detect_faces(load_picture(MEDIA / "stills" / name).rgb)) == 1


@needs_media
@pytest.mark.parametrize("name", ["lp_s22.jpg", "lp_s25.jpg", "lp_s31.jpg", "lp_s36.jpg", "lp_s40.jpg"])
def test_animals_have_no_human_face(name):
    assert detect_faces(load_picture(MEDIA / "stills" / name).rgb, upright_only=True) == []


@needs_media
@pytest.mark.parametrize("scale", [0.7, 0.85, 1.2])
def test_a_cat_is_no_face_at_any_size_but_a_shout_is(scale):
    for name, count in (("lp_s40.jpg", 0), ("lp_d19.jpg", 1)):
        rgb = cv2.resize(load_picture(MEDIA / "stills" / name).opaque, None, fx=scale, fy=scale)
        assert len(detect_faces(rgb, upright_only=True)) == count


@needs_media
def test_faces_are_counted_from_the_left():
    rgb = load_picture(MEDIA / "identity_source.jpg").rgb
    pair = np.concatenate([rgb, cv2.resize(rgb, (256, 256))[:, ::-1]], axis=1)
    with pytest.raises(EDTalkError, match="2 faces"):
        find_face(pair)
    assert find_face(pair, which=1).centre[0] < 256 < find_face(pair, which=2).centre[0]


@needs_media
def test_mediapipe_agrees_with_landmarks():
    pytest.importorskip("mediapipe", reason="MediaPipe is optional and not installed")
    if detect._face_mesh() is None:
        pytest.skip("this MediaPipe comes without its face mesh")
    for name, eyes in PORTRAITS.items():
        (face,) = detect._mesh_faces(load_picture(MEDIA / name).rgb)
        assert np.linalg.norm(apply(crop_from_face(face).to_crop, eyes) - EYES, axis=1).max() < 4


# ---- faces over time


def test_crop_of_a_noisy_still_face_is_steady():
    rng = np.random.default_rng(5)
    scene = picture("crop_scene", 360, 480)

    def detector(rgb):  # the measured standard deviation of eye positions in noisy stills
        eyes = np.array([(200.0, 160.0), (270.0, 165.0)]) + rng.normal(0, 0.5, (2, 2))
        return [Face((150, 100, 160, 160), eyes)]

    tracker = CropTracker(detect=detector)
    for _ in range(50):
        tracker.add(np.clip(scene + rng.normal(0, 5, scene.shape), 0, 255).astype(np.uint8))
    crops = tracker.crops()
    assert len(crops) == 50
    places = np.array([apply(crop.to_picture, [(40, 40), (127, 127), (220, 220)]) for crop in crops])
    assert places.std(axis=0).max() < 0.3


def moving_scene(count, missing=()):
    """Frames of a picture that moves, rotates and grows, a detector for the face in it, and the true crops."""
    scene = cv2.resize(picture("crop_scene", 360, 480), (960, 720), interpolation=cv2.INTER_CUBIC)
    start = crop_from_box(300, 200, 250)
    frames, truth = [], []
    for i in range(count):
        motion = turned(1 + 0.002 * i, 4 * np.sin(i / 8), 0, 0)
        motion[:, 2] = np.array([440 + 1.5 * i, 330 + 6 * np.sin(i / 6)]) - apply(motion, (425, 325))
        frames.append(cv2.warpAffine(scene, motion, (960, 720), borderMode=cv2.BORDER_REFLECT))
        truth.append(Crop(256, motion @ np.vstack([start.to_picture, (0, 0, 1)])))
    clock = {id(frame): i for i, frame in enumerate(frames)}

    def detector(rgb):
        i = clock[id(rgb)]
        return [] if i in missing else [Face((0, 0, 99, 99), apply(truth[i].to_picture, EYES))]

    return frames, detector, truth


def test_moving_face_is_tracked_without_lag():
    frames, detector, truth = moving_scene(45, missing=range(10, 31))
    tracker = CropTracker(detect=detector, every=5)
    for frame in frames:
        tracker.add(frame)
    centres = [[apply(crop.to_picture, (127.5, 127.5)) for crop in crops] for crops in (tracker.crops(), truth)]
    error = np.linalg.norm(np.subtract(*centres), axis=1)
    assert error.max() < 3
    assert error.mean() < 1
    scales = [[crop.scale for crop in crops] for crops in (tracker.crops(), truth)]
    np.testing.assert_allclose(*scales, rtol=0.02)


def test_cuts_and_late_or_absent_faces():
    left, right = picture("pose_0", 300, 600), picture("pose_1", 300, 600)[:, ::-1].copy()
    blank = np.zeros_like(left)
    places = {id(left): 150.0, id(right): 420.0}

    def detector(rgb):
        x = places.get(id(rgb))
        return [] if x is None else [Face((0, 0, 99, 99), np.array([(x - 30, 130.0), (x + 30, 130.0)]))]

    tracker = CropTracker(detect=detector)
    for frame in [blank, blank, *[left] * 8, *[right] * 8, blank]:
        tracker.add(frame)
    eyes = [apply(crop.to_picture, EYES.mean(0))[0] for crop in tracker.crops()]
    assert np.allclose(eyes[:10], 150, atol=0.5)
    assert np.allclose(eyes[10:], 420, atol=0.5)

    faceless = CropTracker(detect=detector, label="clip.mp4")
    faceless.add(blank)
    with pytest.raises(EDTalkError, match=r"any frame of clip\.mp4"):
        faceless.crops()


@needs_media
def test_eyes_of_a_real_head_stay_in_place():
    from inference.media.video import read_frames

    tracker = CropTracker()
    frames = [frame for frame, _ in zip(read_frames(MEDIA / "pose_source1.mp4"), range(31), strict=False)]
    for frame in frames:
        tracker.add(frame)
    crops = tracker.crops()
    shake = np.diff([apply(crop.to_picture, (127.5, 127.5)) for crop in crops], n=2, axis=0)
    assert abs(shake).max() < 3
    for i in (0, 15, 30):
        (face,) = detect_faces(frames[i])
        assert np.linalg.norm(apply(crops[i].to_crop, face.landmarks[:2]) - EYES, axis=1).max() < 6
