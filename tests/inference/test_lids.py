"""Moving the lids of a portrait: what closes, what stays, and which portraits keep the lids of the insets."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from inference.contract.bank import load_bank
from inference.face.crop import EYES, TEMPLATE
from inference.face.eyelids import find_eyelids, into_window
from inference.face.landmarks import COUNT, LEFT_LIDS, NAMES, RIGHT_LIDS, find_landmarks, square_at
from inference.media.picture import load_picture
from inference.model.gaze import SIZE
from inference.model.insets import DARKEST
from inference.model.lid_parts import UNFOLDED, _closed_lid_skin, _lash_chart, _lash_tips, lid_parts
from inference.model.lids import LidColumns, MovedLids, lid_insets, lid_motion
from inference.renderer import FaceRenderer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bank():
    return load_bank()


@pytest.fixture(scope="module")
def portrait():
    return load_picture(ROOT / "inference" / "demo" / "portrait_1.png").rgb


@pytest.fixture(scope="module")
def landmarks(portrait):
    eyes = (EYES + 0.5) * len(portrait) / TEMPLATE - 0.5
    return find_landmarks(portrait, [square_at(eyes)], passes=3)


@pytest.fixture(scope="module")
def parts(portrait, landmarks):
    return lid_parts(portrait, landmarks.points[0], landmarks.spread[0])


@pytest.fixture(scope="module")
def renderer(bank, portrait):
    renderer = FaceRenderer(bank, "cpu", 1)
    renderer.set_source(portrait, portrait)
    return renderer


@pytest.fixture(scope="module")
def openings(portrait, landmarks):
    """(512, 512) bool: between the lids of the source."""
    y, x = np.mgrid[: len(portrait), : len(portrait)]
    result = np.zeros(y.shape, bool)
    for eye in find_eyelids(portrait, landmarks.points[0]):
        place = into_window(eye.to_picture, np.stack([x, y], -1))
        upper, lower = eye.curves_at(place[..., 0])
        result |= (place[..., 1] > upper + 2) & (place[..., 1] < lower - 1)
    return result


def drawn_eyes(skin, iris, highlight):
    """Two eyes with long lashes and a highlight: picture, landmarks as the network reads them, and (512, 512) bool."""
    fine, random = 4, np.random.default_rng(0)
    y, x = (np.mgrid[: 512 * fine, : 512 * fine] + 0.5) / fine - 0.5
    picture, opening = np.full((*x.shape, 3), skin, np.float32), np.zeros(x.shape, bool)
    points = np.zeros((COUNT, 2), np.float32)
    eyes = (169.0, -1, RIGHT_LIDS, "irisRight"), (342.0, 1, LEFT_LIDS, "irisLeft")
    for number, (middle, outer, lids, name) in enumerate(eyes):
        along = np.clip((x - middle) / 35, -1, 1)
        upper, lower = 256 - 16 * (1 - np.abs(along) ** 2.3), 256 + 12 * (1 - along**2)
        inside = (y > upper) & (y < lower)
        opening |= inside
        for _ in range(160):
            place, above = random.uniform(-1, 1), random.random() < 0.6
            length = 12 * random.uniform(0.5, 1) * (1 if above else -0.6)
            edge = 256 - 16 * (1 - abs(place) ** 2.3) if above else 256 + 12 * (1 - place**2)
            ends = ((middle + 35 * place, edge), (middle + 35 * place + 0.8 * place * abs(length), edge - length))
            ends = [tuple(int(value * fine) for value in end) for end in ends]
            cv2.line(picture, *ends, [0.45 * level for level in skin], fine, cv2.LINE_AA)
        away = np.hypot(x - middle, y - 253)
        picture[inside] = 205, 200, 196
        picture[inside & (away < 15)] = iris
        picture[inside & (away < 5)] = 15
        picture[inside & (np.hypot(x - middle - highlight[0], y - 253 - highlight[1]) < 5)] = 255
        points[number] = points[NAMES.index(name)] = middle, 256
        points[lids[0]], points[lids[4]] = (middle + 29 * outer, 260), (middle - 29 * outer, 260)
    picture = cv2.resize(picture, (512, 512), interpolation=cv2.INTER_AREA) + random.normal(size=(512, 512, 3)) * 2
    opening = cv2.resize(opening.astype(np.float32), (512, 512), interpolation=cv2.INTER_AREA) > 0.5
    return np.clip(picture, 0, 255).astype(np.uint8), points, opening


def drawn(renderer, **motion):
    (picture,) = renderer.render(renderer.moved(motion))
    return picture.astype(int)


def whites(picture, openings):
    """Share of the openings that shows the white of the eyes: lighter than the rest, hardly coloured."""
    colours = picture[openings]
    return ((colours.min(1) > 150) & (np.ptp(colours, axis=1) < 60)).mean()


def test_lids_that_do_not_move_change_nothing(renderer):
    rest = drawn(renderer)
    np.testing.assert_array_equal(drawn(renderer, eyeBlink=0.0, eyeSquint=0.0, eyeWide=0.0), rest)
    moved = renderer.moved({"eyeBlink": np.array([0.0, 0.7, 0.0]), "jawOpen": np.array([0.0, 0.3, 0.0])})
    np.testing.assert_array_equal(list(renderer.render(moved))[2], rest)


def test_a_closed_eye_covers_the_opening_and_shows_lashes(renderer, openings):
    shares = [whites(drawn(renderer, eyeBlink=amount), openings) for amount in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert shares[0] > 0.2
    assert shares[-1] == 0
    assert (np.diff(shares) <= 0.01).all(), "a lid that closes uncovers nothing"
    closed = drawn(renderer, eyeBlink=1.0)
    skin = np.median(closed[openings].mean(1))
    assert 0.02 < (closed[openings].mean(1) < 0.6 * skin).mean() < 0.4, "a lash line, and skin above it"


def test_a_soft_lash_line_is_as_dark_as_the_portraits_own():
    """An eye with a lash line of known darkness and a pupil, sharp and blurred."""
    height, width = SIZE
    rows, along = np.arange(height)[:, None], np.linspace(-1.2, 1.2, width)
    upper, base = np.full(width, 30.0), np.full((height, width), np.log(0.6 + DARKEST), np.float32)
    for darkness in (0.6, 1.2):
        for blur in (0.5, 2.0, 3.0):
            line = darkness * np.exp(-(((rows - 31) / 1.5) ** 2)) + 0 * along
            line[45:60, 40:65] = 1.8
            line = cv2.GaussianBlur(line, (0, 0), blur)
            own = np.repeat((255 * (np.exp(base - line) - DARKEST))[..., None], 3, 2).astype(np.float32)
            drawn = _lash_chart(own, base, upper, along, 1).max(0)[np.abs(along) < 0.7]
            assert 0.9 < np.median(drawn) / line[25:36].max() < 1.2


def test_tips_of_lashes_above_a_closed_lid_are_removed():
    height, width = SIZE
    skin = np.full((height, width, 3), 170, np.float32)
    own = skin.copy()
    own[30:32, 20:80] = 90
    above = np.arange(height)[:, None] - 34 + np.zeros(width)
    share, clean = _lash_tips(own, above)
    assert np.abs(own + (clean - own) * share[..., None] - skin)[:, 24:76].max() < 12
    assert not _lash_tips(skin, above)[0].any(), "plain skin stays"
    assert not _lash_tips(own, above - 30)[0].any(), "brows stay"


def test_the_skin_of_a_closed_lid_has_no_light_line_along_the_crease():
    height, width = SIZE
    edge = np.arange(height)[:, None] - 36.0 + np.zeros(width)
    own = np.full((height, width, 3), 150, np.float32)
    own[20:23] = 185
    skin = _closed_lid_skin(own, edge, np.full(SIZE, 24.0))[0]
    lines = [np.ptp(picture[10:36, 52].mean(1)) for picture in (own, skin)]
    assert lines[1] < lines[0] / 3


def test_nothing_beside_the_eyes_changes(renderer, parts):
    rest, near = drawn(renderer), np.zeros((512, 512), bool)
    for middle, along, down in parts.windows[0].numpy():
        x, y = (middle + 1) * 256
        across, height = 256 * abs(along[0]) + 2, 256 * abs(down[1]) + 2
        near[int(y - height) : int(y + height) + 1, int(x - across) : int(x + across) + 1] = True
    skin = [
        cv2.dilate((parts.skin[0, :, unit] != 0).any(0).any(0).numpy().view(np.uint8), np.ones((9, 9)))
        for unit in (0, 1)
    ]
    wide, squint = (near | (cv2.resize(field, (512, 512)) > 0) for field in skin)
    motions = {"eyeBlink": near, "eyePitch": near, "eyeWide": wide, "eyeSquint": squint}
    for name, area in motions.items():
        change = abs(drawn(renderer, **{name: 1.0}) - rest).max(2)
        assert change[area].max() > 20, name
        assert change[~area].max() == 0, name


def test_a_squint_raises_the_cheek_and_wide_eyes_the_upper_lid(renderer, parts, landmarks):
    points = landmarks.points[0]
    eyes, distance = points[:2], np.linalg.norm(points[1] - points[0])

    def shift(below, **motion):
        """Eye distances by which skin below the middle of each eye is moved down."""
        rest, moved = (renderer.places(renderer.moved(one))[0] for one in ({}, motion))
        x, y = (((eyes + np.array([0, below * distance])) / 4).round().astype(int)).T
        return (rest - moved)[1, y, x] * 256 / distance

    assert (shift(0.2, eyeSquint=1.0) < -0.03).all()
    assert (shift(0.5, eyeSquint=1.0) < -0.01).all()
    assert (shift(-0.3, eyeSquint=1.0) == 0).all()
    np.testing.assert_allclose(shift(0.2, eyeSquint=0.5), shift(0.2, eyeSquint=1.0) / 2, atol=0.01)
    assert (shift(-0.15, eyeWide=1.0) < -0.03).all()
    assert (shift(0.2, eyeWide=1.0) == 0).all()


def test_the_skin_of_a_frame_does_not_depend_on_those_rendered_with_it(renderer):
    amounts = {"eyeSquint": np.array([0.0, 1.0, 0.0]), "eyeBlink": np.array([0.3, 0.3, 0.0])}
    together = list(renderer.render(renderer.moved(amounts)))
    for row in (0, 2):
        alone = renderer.moved({name: values[row] for name, values in amounts.items()})
        np.testing.assert_array_equal(next(iter(renderer.render(alone))), together[row])


def test_wide_eyes_show_more_and_a_look_down_less(renderer, openings):
    rest = whites(drawn(renderer), openings)
    assert whites(drawn(renderer, eyeSquint=1.0), openings) < rest
    parts = renderer._source.eyes.lids
    columns = LidColumns.of_bank(renderer.bank, CPU)
    own, turns = torch.zeros(1, 36), torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, 0.0]])
    alpha = own.repeat(3, 1)
    alpha[2, renderer.bank.names.index("eyeWide")] = 1.0
    motion = lid_motion(columns, alpha, own, turns, parts.heights)
    assert (motion.upper[0] > 0.15).all()
    assert (motion.skin[1:, :, 0] > 0.25).all()
    assert not motion.skin[:, :, 1].any()


def test_a_blink_closes_eyes_that_were_read_as_nearly_closed(bank):
    columns, at = LidColumns.of_bank(bank, CPU), bank.names.index("eyeBlink")
    for read in (-0.2, 0.0, 0.4, 0.63, 0.75, 0.9):
        own = torch.zeros(1, 36)
        own[0, at] = read
        alpha = own.repeat(3, 1)
        alpha[1:, at] = torch.tensor([(read + 1) / 2, 1.0])
        motion = lid_motion(columns, alpha, own, torch.zeros(3, 2), torch.full((1, 2), 28.0))
        assert not motion.upper[0].any(), "at rest nothing moves"
        assert (motion.upper[1] > 0.3).all()
        torch.testing.assert_close(motion.upper[2], torch.ones(2))


def test_narrow_eyes_are_closed_by_a_smaller_blink(bank):
    alpha = torch.zeros(3, 36)
    alpha[1:, bank.names.index("eyeBlink")] = torch.tensor([0.35, 0.85])
    own, heights = torch.zeros(1, 36), torch.tensor([[16.0, 28.0]])
    upper = lid_motion(LidColumns.of_bank(bank, CPU), alpha, own, torch.zeros(3, 2), heights).upper
    assert upper[1, 0] > 0.65
    assert 0.35 < upper[1, 1] < 0.5
    torch.testing.assert_close(upper[2], torch.ones(2))


def test_each_eye_has_its_own_units(bank):
    entries = list(bank.coefficients)
    at = bank.names.index("eyeBlink")
    entries[at] = replace(entries[at], name="left", arkit={"eyeBlinkLeft": 0.5})
    entries[at + 1] = replace(entries[at + 1], name="mixed", arkit={"eyeWideLeft": 0.5, "browInnerUp": 0.5})
    columns = LidColumns.of_bank(replace(bank, coefficients=tuple(entries)), CPU)
    assert at in columns.columns
    assert at + 1 not in columns.columns, "a slider that moves more than lids is left to the networks"
    alpha = torch.zeros(1, len(entries))
    alpha[0, at] = 0.5
    motion = lid_motion(columns, alpha, torch.zeros_like(alpha), torch.zeros(1, 2), torch.full((1, 2), 28.0))
    torch.testing.assert_close(motion.upper, torch.tensor([[0.0, 1.0]]))


def test_eyes_without_clear_lids_keep_the_insets(bank):
    blank = np.full((512, 512, 3), 128, np.uint8)
    found = find_landmarks(blank, [square_at((EYES + 0.5) * 2 - 0.5)])
    parts = lid_parts(blank, found.points[0], found.spread[0])
    assert parts.clear.item() == 0
    columns, own = LidColumns.of_bank(bank, CPU), torch.zeros(1, len(bank.names))
    alpha = own + 0.5
    moved = MovedLids(columns, parts.heights, parts.clear, alpha, own, torch.ones(1, 2))
    torch.testing.assert_close(moved.still, alpha)
    torch.testing.assert_close(moved.other_turns, torch.ones(1, 2))
    motion = lid_motion(columns, alpha, own, torch.ones(1, 2), parts.heights)
    assert not any(laid.drawn[:, 3].any() for laid in lid_insets(parts, motion, torch.ones(1, 2)))


def test_the_outline_does_not_depend_on_exact_landmarks(portrait, landmarks):
    points = landmarks.points[0]
    shifted = points + np.array([4.0, -4.0], np.float32)
    for eye, other in zip(find_eyelids(portrait, points), find_eyelids(portrait, shifted), strict=True):
        ends, others = (each.ends @ each.to_picture[:, :2].T + each.to_picture[:, 2] for each in (eye, other))
        np.testing.assert_allclose(ends, others, atol=7)
        assert eye.fit > 0.8


@pytest.mark.parametrize("skin", [(160, 130, 105), (100, 66, 48)])
@pytest.mark.parametrize("iris", [(150, 115, 60), (120, 160, 190)])
@pytest.mark.parametrize("highlight", [(-5, -2), (7, -1)])
def test_nothing_of_a_light_eye_with_long_lashes_lies_outside_its_lids(skin, iris, highlight):
    """A lid that closes covers what is up to four pixels above and two below its outline; the rest would stay open."""
    picture, points, opening = drawn_eyes(skin, iris, highlight)
    y, x = np.mgrid[:512, :512]
    for eye, side in zip(find_eyelids(picture, points), (x < 256, x >= 256), strict=True):
        place = into_window(eye.to_picture, np.stack([x, y], -1))
        upper, lower = eye.curves_at(place[..., 0])
        outside = (place[..., 1] < upper - 4) | (place[..., 1] > lower + 2)
        assert outside[opening & side].mean() < 0.05


def test_lids_follow_the_head(renderer):
    still, turned = (drawn(renderer, headYaw=0.5, eyeBlink=amount) for amount in (0.0, 1.0))
    columns = np.flatnonzero(abs(turned - still).max(2).any(0))
    eyes = (renderer._source.corrected.anchors[0, :2, 0] + 1) * 256
    assert columns.min() > eyes[0] - 40, "the right eye has moved to the right"


def test_sampling_positions_follow_the_lids(renderer, parts):
    """The edge of the upper lid is sampled higher where the lid closes, and lower where it opens."""
    amounts = {"eyeBlink": 0.4, "eyeWide": 1.0}
    rest, closing, opening = (
        renderer.places(renderer.moved(motion))[0]
        for motion in ({}, *({name: amount} for name, amount in amounts.items()))
    )
    size, near = rest.shape[-1], np.zeros(rest.shape[1:], bool)
    for middle, along, down in parts.windows[0].numpy() * size / 2:
        middle, x, y = middle + size / 2, abs(along[0]) + 1, abs(down[1]) + 1
        near[int(middle[1] - y) : int(middle[1] + y) + 1, int(middle[0] - x) : int(middle[0] + x) + 1] = True
    field = (parts.skin[0, :, 0] != 0).any(0).any(0).numpy().view(np.uint8)
    wide = near | (cv2.dilate(field, np.ones((3, 3))) > 0)  # it is interpolated between pixels
    for moved, sign, area in ((closing, -1, near), (opening, 1, wide)):
        shift = (moved - rest) * size / 2
        assert sign * shift[1][near].sum() > 0
        assert 0.5 < abs(shift[1][near]).max() < 6, "pixels; the opening is about five high"
        np.testing.assert_array_equal(shift[:, ~area], 0)


def test_the_edge_of_a_closed_lid_is_that_of_the_open_one(renderer, parts):
    """Its sampling position is higher by almost all of the opening, which is about five pixels high."""
    rest, closed = (renderer.places(renderer.moved(motion))[0] for motion in ({}, {"eyeBlink": 1.0}))
    shift = (closed - rest)[1] * rest.shape[-1] / 2
    assert -8 < shift.min() < -3
    assert shift.max() < 1.5, "the lower lid rises less"
    for middle, _, down in parts.windows[0].numpy() * rest.shape[-1] / 2:
        column = shift[:, round(float(middle[0] + rest.shape[-1] / 2 - 0.5))]
        moved = column < -0.5
        assert moved.sum() * SIZE[0] / 2 / down[1] > parts.heights.min() + UNFOLDED[0], "skin above the edge moves too"
