"""Closing an open mouth with the portrait's own lips, and keeping its own upper teeth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.closing import UPPER, Mouth, with_closed_mouth
from inference.contract.bank import load_bank
from inference.face.framing import load_portrait
from inference.face.landmarks import (
    COUNT,
    INNER_LIPS,
    LEFT_LIDS,
    NAMES,
    RIGHT_LIDS,
    find_landmarks,
    landmark_indices,
    square_at,
)
from inference.face.lip_edges import COUNT as LINE
from inference.face.lip_edges import find_lips, seen_opening
from inference.model.fast_gaze import TurnableEyes
from inference.model.insets import Insets
from inference.model.load import INSETS, load_network
from inference.model.plan import CLOSING, JAW, Planner
from inference.renderer import FaceRenderer
from inference.source_teeth import find_upper_teeth

ROOT = Path(__file__).parents[2]
MEDIA = ROOT.parent / "shared" / "media" / "stills"
needs_media = pytest.mark.skipif(not MEDIA.is_dir(), reason="the test media are not available")
SIZE, EYES = 512, 150.0
LIP, SKIN, DARK, TOOTH = (190, 80, 90), (220, 180, 160), (40, 10, 10), (235, 230, 215)
THICK, GAP = 16, 40  # pixels of a lip and of the opening in the middle
MIDDLE = np.array([256.0, 340.0])


def place(x: float, y: float) -> np.ndarray:
    """Relative to the middle of the mouth."""
    return MIDDLE + np.array([x, y])


def curve(height: float, x: np.ndarray) -> np.ndarray:
    return height * (1 - x**2)


def drawn_face(teeth: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A picture of an open mouth, and the landmarks of its face. teeth: height of the upper teeth in pixels."""
    picture = np.full((SIZE, SIZE, 3), SKIN, np.uint8)
    x = np.linspace(-1, 1, 81)
    across = MIDDLE[0] + 60 * x

    def filled(upper: np.ndarray, lower: np.ndarray, colour: tuple[int, int, int]) -> None:
        outline = np.concatenate([np.stack([across, upper], 1), np.stack([across, lower], 1)[::-1]])
        cv2.fillPoly(picture, [np.rint(outline * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)

    top, bottom = MIDDLE[1] - curve(GAP * 0.4, x), MIDDLE[1] + curve(GAP * 0.6, x)
    filled(top - curve(THICK, x), bottom + curve(THICK, x), LIP)
    filled(top, bottom, DARK)
    if teeth:
        filled(top, np.minimum(top + teeth, bottom), TOOTH)
    points = np.zeros((COUNT, 2))
    points[0], points[1] = (MIDDLE[0] - EYES / 2, 180), (MIDDLE[0] + EYES / 2, 180)
    points[landmark_indices("noseTip", "noseBase", "noseWingRight", "noseWingLeft")] = place(0, -60)
    points[NAMES.index("chin")] = place(0, 110)
    for side, sign in (("Right", -1), ("Left", 1)):
        points[landmark_indices(f"jaw{side}")] = [place(sign * (105 - 13 * step), -90 + 33 * step) for step in range(6)]
        points[landmark_indices(f"mouth{side}")] = place(sign * 60, 0)
        at = np.array([-0.75, -0.5, -0.25])
        for name, line in (("upperLip", -curve(GAP * 0.4 + THICK, at)), ("lowerLip", curve(GAP * 0.6 + THICK, at))):
            points[landmark_indices(f"{name}{side}")] = MIDDLE + np.stack([-sign * 60 * at, line], 1)
    at = np.linspace(-0.8, 0.8, 5)
    points[landmark_indices("innerUpper")] = MIDDLE + np.stack([60 * at, -curve(GAP * 0.4, at)], 1)
    points[landmark_indices("innerLower")] = MIDDLE + np.stack([60 * at, curve(GAP * 0.6, at)], 1)
    points[landmark_indices("upperLipTop")] = place(0, -GAP * 0.4 - THICK)
    points[landmark_indices("lowerLipBottom")] = place(0, GAP * 0.6 + THICK)
    return picture, points


def mouth_of(picture: np.ndarray, points: np.ndarray) -> Mouth:
    return Mouth(find_lips(picture, points) @ (1, 1j), points @ (1, 1j))


def rows_like(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(20,) number of rows of that colour in the columns in the middle."""
    columns = picture[:, 246:266].astype(int)
    return (np.abs(columns - colour).max(2) < 40).sum(0)


def test_lips_are_found_where_their_colour_ends() -> None:
    """Also if the landmarks of the inner edges are off by a third of the opening."""
    picture, points = drawn_face()
    for off in (0.0, GAP / 6):
        shifted = points.copy()
        shifted[landmark_indices("innerUpper")[1:4], 1] += off
        shifted[landmark_indices("innerLower")[1:4], 1] -= off
        outer_upper, upper, lower, outer_lower = find_lips(picture, shifted)
        assert abs(upper[12, 1] - (MIDDLE[1] - GAP * 0.4)) < 3
        assert abs(lower[12, 1] - (MIDDLE[1] + GAP * 0.6)) < 3
        for line in (outer_upper, upper, lower, outer_lower):
            assert np.allclose(line[[0, -1]], [place(-60, 0), place(60, 0)])


def test_closed_lips_meet_and_keep_their_thickness() -> None:
    picture, points = drawn_face()
    mouth = mouth_of(picture, points)
    assert abs(mouth.gap - GAP / EYES) < 0.04
    open_lips = rows_like(picture, LIP)
    for closed in (0.5, 1.0):
        result = with_closed_mouth(picture, mouth, closed, 0.8)
        assert (rows_like(result, LIP) >= 0.8 * open_lips).all()
        dark = rows_like(result, DARK)
        assert (dark <= 3).all() if closed == 1 else (np.abs(dark - GAP / 2) < 6).all()


def test_round_lips_close_without_a_wedge() -> None:
    """A mouth that is open as an O becomes one whose lower lip is as thick, and not only in its middle."""
    _, points = drawn_face()
    turn = np.linspace(np.pi, 0, LINE)
    around = np.cos(turn), np.sin(turn)
    heights = -35 - THICK, -35, 65, 65 + THICK
    lines = np.stack([MIDDLE + np.stack([50 * around[0], height * around[1]], 1) for height in heights])
    picture = np.full((SIZE, SIZE, 3), SKIN, np.uint8)
    for first, last, colour in ((0, 3, LIP), (1, 2, DARK)):
        outline = np.concatenate([lines[first], lines[last][::-1]])
        cv2.fillPoly(picture, [np.rint(outline * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)
    points[NAMES.index("chin")] = place(0, 150)
    result = with_closed_mouth(picture, Mouth(lines @ (1, 1j), points @ (1, 1j)), 1.0, 0.65).astype(int)
    seam = int(MIDDLE[1] - 35 + UPPER * 100)
    lower = (np.abs(result[seam:] - LIP).max(2) < 40).sum(0)
    middle = int(MIDDLE[0])
    assert lower[middle - 10 : middle + 10].min() > 0.75 * THICK
    for side in (-30, 30):
        assert lower[middle + side - 3 : middle + side + 3].min() > 0.5 * THICK
    assert not (np.abs(result[seam + 3 * THICK :] - LIP).max(2) < 40).any(), "nothing hangs down"


def test_nothing_but_the_lower_face_moves() -> None:
    picture, points = drawn_face()
    picture = cv2.add(picture, np.random.default_rng(0).integers(0, 20, picture.shape, np.uint8))
    mouth = mouth_of(picture, points)
    result = with_closed_mouth(picture, mouth, 1.0, 0.8)
    assert np.array_equal(result[:250], picture[:250]), "eyes and nose"
    assert np.array_equal(result[:, :90], picture[:, :90])
    assert np.array_equal(result[:, -90:], picture[:, -90:])
    assert np.abs(with_closed_mouth(picture, mouth, 0.0, 0.8).astype(int) - picture).max() <= 1
    assert np.abs(result[:-2].astype(int) - result[2:]).max(2).max(1)[-120:].max() < 60, "no edge in chin and neck"


def test_a_floating_point_picture_closes_alike() -> None:
    picture, points = drawn_face()
    mouth = mouth_of(picture, points)
    whole = with_closed_mouth(picture, mouth, 1.0, 0.8)
    levels = with_closed_mouth(picture.astype(np.float32), mouth, 1.0, 0.8)
    assert np.abs(np.clip(levels, 0, 255) - whole).max() < 4


@pytest.mark.parametrize("teeth", [0, 12])
def test_upper_teeth_are_cut_out_of_the_portrait(teeth: int) -> None:
    picture, points = drawn_face(teeth)
    scale = 150 / 120
    to_pixel = np.array([[scale, 0, MIDDLE[0] - 60 * scale], [0, scale, MIDDLE[1] - 36 * scale]])
    found = find_upper_teeth(picture, to_pixel, (72, 120), mouth_of(picture, points))
    if not teeth:
        assert found is None
        return
    assert found is not None
    placed = found.in_picture(to_pixel, (SIZE, SIZE))
    seen = placed[..., 3] > 0.5
    expected = np.abs(picture.astype(int) - TOOTH).max(2) < 30
    assert (seen & expected).sum() > 0.7 * (seen | expected).sum()
    colours = placed[seen][:, :3] / placed[seen][:, 3:4]
    assert np.abs(colours - TOOTH).max(1).mean() < 15
    below = placed[int(MIDDLE[1]) + 10, 256]
    assert below[3] < 0.05, "what lies below the teeth is not theirs"
    assert below[4] > 0.95, "and shows no others"


@pytest.fixture(scope="module")
def planner() -> tuple[Planner, tuple[str, ...]]:
    bank = load_bank()
    insets = load_network(bank, INSETS)
    assert isinstance(insets, Insets)
    return Planner(bank, insets), bank.names


def planned(planner: tuple[Planner, tuple[str, ...]], gap: float, own: dict[str, float], now: dict[str, float]):
    plans, names = planner
    rows = np.zeros((2, len(names)), np.float32)
    for row, values in zip(rows, (own, own | now), strict=True):
        for name, value in values.items():
            row[names.index(name)] = value
    eyes = TurnableEyes(np.zeros((64, 64, 3), np.uint8), torch.zeros(1, 3, 2))
    eyes.__dict__ |= {"mouth_gap": gap, "lips_apart": float(gap > 0)}  # as found in a picture
    plan = plans.plan([rows[1]], rows[:1], [eyes])
    return plan, {name: float(value) for name, value in zip(names, plan.alpha[0], strict=False)}


def test_a_mouth_closes_as_its_jaw_goes_to_zero(planner) -> None:
    closed = []
    for jaw in (0.4, 0.3, 0.2, 0.1, 0.0, -0.2):
        plan, alpha = planned(planner, 0.3, {JAW: 0.4}, {JAW: jaw})
        closed.append(0.0 if plan.closing is None else float(plan.closing[0, 0]))
        assert alpha[JAW] == pytest.approx(0.4), "the networks draw the mouth as it is in the portrait"
        assert plan.strengths[0] is None
    assert closed == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])


def test_units_that_close_a_mouth_close_it(planner) -> None:
    for unit in CLOSING:
        plan, alpha = planned(planner, 0.2, {JAW: 0.3}, {unit: 0.9})
        assert float(plan.closing[0, 0]) == 1
        assert alpha[unit] == 0
        assert float(plan.closing[0, 1]) == 0, "the jaw stays"
    plan, alpha = planned(planner, 0.2, {JAW: 0.3}, {JAW: 0.8, "mouthClose": 0.2})
    assert plan.closing is None or not plan.closing[0, 0]
    assert alpha[JAW] == pytest.approx(0.6)
    assert alpha["mouthClose"] == 0


def test_the_chin_goes_down_while_lips_that_are_hardly_apart_are_kept_closed(planner) -> None:
    for gap, kept in ((0.05, 0.6), (0.09, 0.3), (0.2, 0.0)):
        plan, alpha = planned(planner, gap, {}, {JAW: 0.6, "mouthClose": 0.8})
        assert (alpha[JAW], alpha["mouthClose"]) == pytest.approx((kept, kept))
        assert float(plan.closing[0, 0]) == pytest.approx(min(0.2 / max(gap / 0.6, 0.1), 1))


def test_lips_that_are_hardly_apart_close_first_and_are_pressed_then(planner) -> None:
    found = [planned(planner, 0.06, {}, {"mouthPress": press}) for press in (0.1, 0.2, 0.7)]
    assert [float(plan.closing[0, 0]) for plan, _ in found] == pytest.approx([0.5, 1, 1])
    assert [alpha["mouthPress"] for _, alpha in found] == pytest.approx([0, 0, 0.5], abs=1e-6)
    plan, alpha = planned(planner, 0.06, {}, {JAW: -0.4, "mouthPress": 0.7})
    assert float(plan.closing[0, 0]) == 1
    assert alpha["mouthPress"] == pytest.approx(0.7), "the jaw closes the mouth"
    _, between = planned(planner, 0.09, {}, {"mouthPress": 1.0})
    assert 0 < between["mouthPress"] < 0.5, "the wider a mouth is open, the less it is pressed"


def eyes_of(picture: np.ndarray, points: np.ndarray) -> TurnableEyes:
    points = points.copy()
    points[[*RIGHT_LIDS]], points[[*LEFT_LIDS]] = points[0], points[1]
    eyes = TurnableEyes(picture, torch.zeros(1, 3, 2))
    eyes.__dict__ |= {"_found": (picture, points, np.zeros(COUNT)), "_points": points}
    return eyes


def test_lips_touch_if_the_picture_or_its_landmarks_say_so() -> None:
    picture, points = drawn_face()
    mouth = mouth_of(picture, points)
    assert eyes_of(picture, points).mouth_gap == pytest.approx(mouth.gap)
    upper, lower = mouth.outlines[1:3]
    shut = Mouth(np.stack([mouth.outlines[0], upper, upper + (lower - upper) / 8, mouth.outlines[3]]), mouth.landmarks)
    eyes = eyes_of(picture, points)
    eyes.__dict__["mouth"] = shut
    assert eyes.mouth_gap == 0


def drawn_closed(shade: float, shine: int) -> np.ndarray:
    """The drawn face with its lips filled up, and where its inside would be: a shade, a line and a light spot."""
    picture, _ = drawn_face()
    dark = np.abs(picture.astype(int) - DARK).max(2) < 90
    picture[dark] = np.array(LIP) * (1 - shade)
    line = int(MIDDLE[1] - 2)
    picture[line : line + 3, 216:297] = DARK
    if shine:
        cv2.circle(picture, (int(MIDDLE[0]) - 25, int(MIDDLE[1]) + 12), shine, (240, 190, 190), -1)
    return picture


@pytest.mark.parametrize(("shade", "shine"), [(0.0, 0), (0.15, 0), (0.0, 9)])
def test_closed_lips_count_as_such_where_the_landmarks_are_apart(shade: float, shine: int) -> None:
    _, points = drawn_face()
    middle = [*landmark_indices("innerUpper"), *landmark_indices("innerLower")]
    points[middle] = MIDDLE + (points[middle] - MIDDLE) * (1, 0.4)
    picture = drawn_closed(shade, shine)
    assert seen_opening(picture, points, find_lips(picture, points)) < 0.04
    assert eyes_of(picture, points).mouth_gap == 0


@pytest.mark.parametrize("teeth", [0, 12, 40])
def test_teeth_or_the_dark_are_seen_between_open_lips(teeth: int) -> None:
    picture, points = drawn_face(teeth)
    assert abs(seen_opening(picture, points, find_lips(picture, points)) - 0.9 * GAP / EYES) < 0.05
    assert eyes_of(picture, points).mouth_gap > 0.2


@needs_media
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "is_open"),
    [("lp_d8.jpg", 0), ("lp_s12.jpg", 0), ("st_art_11.png", 0), ("st_happy1.png", 1), ("lp_s10.jpg", 1)],
)
def test_photographs_are_known_to_be_open_or_closed(name: str, is_open: int) -> None:
    portrait, renderer = load_portrait(MEDIA / name, which="largest"), FaceRenderer(load_bank(), "cpu", 1)
    renderer.set_source(portrait, portrait)
    assert (renderer._source.eyes.mouth_gap > 0) == is_open


def test_closing_can_be_left_to_the_networks(planner) -> None:
    plans, names = planner
    plan, alpha = planned((plans.without_closing(), names), 0.2, {JAW: 0.3}, {JAW: 0.8, "mouthClose": 0.2})
    assert plan.closing is None
    assert (alpha[JAW], alpha["mouthClose"]) == pytest.approx((0.8, 0.2))
    assert planned(planner, 0.2, {JAW: 0.3}, {JAW: 0.0})[0].closing is not None, "the planner itself is as before"


def test_a_mouth_that_the_reading_takes_for_closed_closes_by_its_opening(planner) -> None:
    found = [planned(planner, gap, {}, {JAW: -0.1})[0].closing for gap in (0.06, 0.12, 0.3)]
    first, second, third = (float(closing[0, 0]) for closing in found)
    assert first == 1
    assert first > second > third > 0


def test_lips_that_touch_do_not_move_into_each_other(planner) -> None:
    plan, alpha = planned(planner, 0.0, {JAW: 0.2}, {JAW: 0.0, "mouthClose": 0.5})
    assert plan.closing is None
    assert alpha[JAW] == pytest.approx(0.2)
    assert alpha["mouthClose"] == 0
    plan, alpha = planned(planner, 0.0, {}, {JAW: 0.5, "mouthClose": 0.4})
    assert (alpha[JAW], alpha["mouthClose"]) == pytest.approx((0.5, 0.4)), "closed against the jaw"
    plan, alpha = planned(planner, -1.0, {JAW: 0.2}, {JAW: 0.0, "mouthClose": 0.5})
    assert (alpha[JAW], alpha["mouthClose"]) == (0.0, 0.5), "without lips in the picture, the network does it"


@pytest.mark.parametrize("gap", [-1.0, 0.0, 0.2])
def test_a_frame_does_not_depend_on_those_rendered_with_it(planner, gap: float) -> None:
    """Not even in the last bit of a coefficient, which could change a rounded level."""
    plans, names = planner
    own = np.zeros((1, len(names)), np.float32)
    rows = np.zeros((40, len(names)), np.float32)
    own[0, names.index(JAW)] = -0.1
    rows[:, names.index(JAW)] = np.linspace(-0.2, 0.9, 40)
    rows[::5, names.index("mouthPress")] = 0.3
    eyes = TurnableEyes(np.zeros((64, 64, 3), np.uint8), torch.zeros(1, 3, 2))
    eyes.__dict__ |= {"mouth_gap": gap, "lips_apart": float(gap > 0)}
    together = plans.plan(list(rows), own, [eyes])
    for number, row in enumerate(rows):
        alone = plans.plan([row], own, [eyes])
        assert torch.equal(alone.alpha[0], together.alpha[number])
        closing = [torch.zeros(1) if plan.closing is None else plan.closing[:, 0] for plan in (alone, together)]
        assert closing[0][0] == closing[1][number if len(closing[1]) > 1 else 0]


def lips_of(frame: np.ndarray, points: np.ndarray) -> tuple[float, float, float]:
    """Thickness of the upper lip, the opening, and thickness of the lower lip in the middle, in eye distances."""
    found = find_landmarks(frame, [square_at(points[:2])], passes=3).points[0]
    at = (found @ (1, 1j)) / complex(*(found[1] - found[0]))
    (top, bottom), inner = at[landmark_indices("upperLipTop", "lowerLipBottom")].imag, at[INNER_LIPS].imag
    return inner[2] - top, inner[7] - inner[2], bottom - inner[7]


def closed_frame(portrait: np.ndarray, renderer: FaceRenderer) -> tuple[np.ndarray, np.ndarray]:
    renderer.set_source(portrait, portrait)
    own = float(renderer.source_coefficients.column("jawOpen")[0])
    (frame,) = renderer.render(renderer.moved({"jawOpen": -max(own, 0.5)}, 1))
    return frame, renderer._source.eyes._found[1]


@pytest.mark.slow
def test_an_open_mouth_of_the_demo_closes_with_its_lips() -> None:
    renderer = FaceRenderer(load_bank(), "cpu", 1)
    portrait = load_portrait(ROOT / "inference" / "demo" / "portrait_1.png")
    renderer.set_source(portrait, portrait)
    (opened,) = renderer.render(renderer.moved({"jawOpen": 0.5}, 1))
    frame, points = closed_frame(opened, renderer)
    before, after = lips_of(opened, points), lips_of(frame, points)
    assert before[1] > 0.15
    assert after[1] < 0.06
    assert after[0] > 0.7 * before[0]
    assert after[2] > 0.7 * before[2]
    rows = renderer.moved({"jawOpen": np.linspace(-0.6, 0, 9)})
    for alone, together in zip(
        (next(renderer.render(row[None])) for row in rows.values), renderer.render(rows), strict=True
    ):
        assert np.array_equal(alone, together)
    places_of = renderer.places(rows.values[:1])
    assert np.abs(places_of - renderer.places(rows.values[-1:])).max() > 0.1, "the sampling positions follow"


def area_of_lower_lip(portrait: np.ndarray, frame: np.ndarray, mouth: Mouth) -> float:
    """Area of the lower lip of a closed frame, by its colour, relative to the portrait. mouth: in the portrait."""

    def filled(*lines: np.ndarray) -> np.ndarray:
        area = np.zeros(portrait.shape[:2], np.uint8)
        outline = np.concatenate([lines[0], lines[1][::-1]])
        return cv2.fillPoly(area, [np.rint(np.stack([outline.real, outline.imag], 1)).astype(np.int32)], 1)

    outer_upper, upper, lower, outer_lower = mouth.outlines
    lip, below = (filled(line, outer_lower) > 0 for line in (lower, upper + UPPER * (lower - upper)))
    lips = cv2.dilate(filled(outer_upper, outer_lower), np.ones((9, 9)))
    around = cv2.dilate(lips, np.ones((25, 25))) > lips
    soft = (cv2.GaussianBlur(picture, (0, 0), 1.2).astype(np.float32) / 255 for picture in (portrait, frame))
    before, after = (cv2.cvtColor(picture, cv2.COLOR_RGB2LAB) for picture in soft)
    red, skin = np.median(before[lip], 0), np.median(before[around], 0)
    way = (red - skin) / np.linalg.norm(red - skin)

    def likeness(lab: np.ndarray) -> np.ndarray:
        along = (lab - skin) @ way / np.linalg.norm(red - skin)
        other = np.linalg.norm((lab - red) - ((lab - red) @ way)[..., None] * way, axis=-1)
        return np.clip(along, 0, 1) * (other < 14)

    return float(likeness(after)[below].sum() / likeness(before)[lip].sum())


@needs_media
@pytest.mark.slow
@pytest.mark.parametrize("name", ["lp_d19.jpg", "st_happy1.png", "lp_s10.jpg"])
def test_an_open_mouth_of_a_photograph_closes_with_its_lips(name: str) -> None:
    portrait, renderer = load_portrait(MEDIA / name, which="largest"), FaceRenderer(load_bank(), "cpu", 1)
    frame, points = closed_frame(portrait, renderer)
    before, after = lips_of(portrait, points), lips_of(frame, points)
    assert after[1] < 0.5 * before[1]
    mouth = renderer._source.lips.open_mouth(len(frame))
    assert area_of_lower_lip(portrait, frame, mouth) > 0.7
    assert after[2] > 0.7 * before[2]
