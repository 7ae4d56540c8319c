"""Turning the eyes of a portrait: what moves, how far, and what stays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.contract.bank import load_bank
from inference.contract.coefficients import Coefficients
from inference.contract.config import GeneratorConfig
from inference.contract.eyes import gaze_offsets
from inference.contract.idle import add_idle_motion, glances
from inference.face.crop import EYES, TEMPLATE
from inference.face.landmarks import LEFT_LIDS, NAMES, RIGHT_LIDS, find_landmarks, square_at
from inference.media.picture import load_picture
from inference.model import fast_gaze, gaze
from inference.model.gaze import BALL, PITCH, YAW, estimate_gaze, refine_irises, shifts, with_lids
from inference.model.insets import composite_insets
from inference.model.tensor_trees import concatenated
from inference.renderer import FaceRenderer

ROOT = Path(__file__).parents[2]
SIZE = 512
EYE_AT = EYES * SIZE / TEMPLATE


@pytest.fixture(scope="module")
def bank():
    return load_bank()


@pytest.fixture(scope="module")
def renderer(bank):
    renderer = FaceRenderer(bank, "cpu", 1)
    portrait = load_picture(ROOT / "inference" / "demo" / "portrait_1.png").rgb
    renderer.set_source(portrait, portrait)
    return renderer


def irises(picture):
    """(2,) mean place of the irises relative to the corners of the lids, in eye distances."""
    points = find_landmarks(picture, [square_at(EYE_AT)]).points[0].astype(np.float64)
    found = refine_irises(picture, points)
    distance = np.hypot(*(points[1] - points[0]))
    places = [
        found[NAMES.index(name)] - points[[lids[0], lids[4]]].mean(0)
        for name, lids in (("irisRight", RIGHT_LIDS), ("irisLeft", LEFT_LIDS))
    ]
    return np.mean(places, axis=0) / distance


def drawn(renderer, **motion):
    (picture,) = renderer.render(renderer.moved(motion))
    return picture


def test_the_bank_has_a_fourth_part_that_the_generator_does_not_draw(bank):
    assert bank.config.banks[-1] == ("eye", 2)
    assert bank.names_of("eye") == ("eyeYaw", "eyePitch")
    assert "eye" not in dict(bank.config.generator.banks)
    assert GeneratorConfig.from_json(bank.config.to_json()) == bank.config
    assert "painted" not in bank.config.generator.to_json()
    with pytest.raises(ValueError, match="painted"):
        replace(bank.config, painted=("pose",))
    turned = gaze_offsets(bank, np.array([[25.0, 0.0], [0.0, -20.0]]))
    np.testing.assert_allclose(turned, [[1.0, 0.0], [0.0, -1.0]], atol=1e-6)


def test_no_turn_changes_nothing(renderer):
    rest = drawn(renderer)
    np.testing.assert_array_equal(drawn(renderer, eyeYaw=0.0, eyePitch=0.0), rest)
    rows = renderer.source_coefficients.values
    count = renderer.config.generator.coefficient_count
    (older,) = renderer.render(Coefficients(rows[:, :count], renderer.bank.names[:count]))
    np.testing.assert_array_equal(older, rest)
    (older,) = renderer.render(rows[:, :count])
    np.testing.assert_array_equal(older, rest)


def test_irises_follow_the_slider_and_the_rest_of_the_face_stays(renderer):
    rest, amounts = drawn(renderer), np.linspace(-1, 1, 7)
    pictures = [drawn(renderer, eyeYaw=float(amount)) for amount in amounts]
    across = np.array([irises(picture) for picture in pictures])
    assert np.corrcoef(amounts, across[:, 0])[0, 1] >= 0.95
    assert across[-1, 0] - across[0, 0] == pytest.approx(2 * BALL * np.sin(YAW), rel=0.35)
    near = np.zeros(rest.shape[:2], bool)
    for x, y in EYE_AT:
        near[int(y) - 40 : int(y) + 40, int(x) - 56 : int(x) + 56] = True
    change = np.abs(pictures[-1].astype(int) - rest).mean(2)
    assert change[near].mean() >= 5 * max(change[~near].mean(), 1e-9)
    assert change[~near].max() == 0


def test_lids_follow_a_look_down(renderer):
    rest, down, up = drawn(renderer), drawn(renderer, eyePitch=1.0), drawn(renderer, eyePitch=-1.0)
    assert irises(up)[1] < irises(rest)[1]
    assert np.abs(down.astype(int) - rest).mean() > 0
    rows = torch.zeros(3, 4)
    rows[2, 1] = 1.0  # closed already
    moved = with_lids(rows, torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, 1.0]]), 1, 2)
    assert moved[0, 1] > 0.1
    assert moved[1, 2] > 0.1
    assert moved[0, 2] == moved[1, 1] == 0
    torch.testing.assert_close(moved[2], rows[2])


def test_yaw_shifts_the_iris_sideways_and_pitch_down():
    found = shifts(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    assert (found[0, 0] > 0, found[0, 1] == 0, found[1, 1] > 0) == (True, True, True)
    assert not found[2].any()


@pytest.fixture(scope="module")
def eyes(renderer):
    """Those of the portrait, and its anchors."""
    source = renderer._source
    return source.eyes, source.corrected.anchors


def moved_picture(count, size=128):
    """Sampling positions (N, 2, size, size) of heads that turn and grow, the positions of the eyes and mouth too."""
    line = (torch.arange(size) * 2 + 1) / size - 1
    places = torch.stack(torch.meshgrid(line, line, indexing="xy"))[None]
    angles, sizes = torch.linspace(-0.2, 0.2, count), torch.linspace(0.9, 1.1, count)
    cos, sin = sizes * torch.cos(angles), sizes * torch.sin(angles)
    matrix = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    return torch.einsum("nij,ojhw->nihw", torch.linalg.inv(matrix), places), matrix


def test_the_fast_form_draws_the_same_eyes(eyes):
    """Moved and not; and with a source for each frame, also one of a single eye."""
    known, anchors = eyes
    turns = torch.tensor([[0.7, 0.3], [-1.0, 0.5], [0.0, 0.0], [0.02, -0.01]])
    positions, matrix = moved_picture(len(turns))
    moved = torch.einsum("nij,opj->npi", matrix, anchors)
    one = fast_gaze.eye_sheet(known.parts[1:], torch.device("cpu"))
    several = [known.parts, known.parts[1:], known.parts, known.parts]
    for parts, sheet in (
        ([known.parts], known.sheet),
        (several, concatenated([known.sheet, one, known.sheet, known.sheet])),
    ):
        for place in ((), (positions, anchors, moved)):
            for step, size, most, mean in ((1, 512, 0.02, 0.002), (2, 128, 0.4, 0.015)):
                under = torch.linspace(-1, 1, size).expand(1, 3, size, -1)
                want = composite_insets(under, gaze.turned_eyes(parts, turns, *place))
                found = composite_insets(under, fast_gaze.turned_eyes(sheet, turns, step, *place))
                error = (found - want).abs().amax(1)
                assert error.max() < most
                assert error.square().mean().sqrt() < mean
                assert not error[2].any()


def test_turned_eyes_do_not_depend_on_their_batch(eyes):
    known, anchors = eyes
    torch.manual_seed(0)
    turns = torch.rand(8, 2) * 2 - 1
    positions, matrix = moved_picture(len(turns))
    moved = torch.einsum("nij,opj->npi", matrix, anchors)
    order = torch.randperm(len(turns))
    under = torch.rand(1, 3, 128, 128)
    here, other = (
        composite_insets(
            under, fast_gaze.turned_eyes(known.sheet, turns[rows], 2, positions[rows], anchors, moved[rows])
        )
        for rows in (slice(None), order)
    )
    assert torch.equal(here[order], other)


def test_gaze_is_read_from_drawn_eyes(renderer):
    amounts = np.linspace(-1, 1, 7)
    read = np.array([estimate_gaze(drawn(renderer, eyeYaw=float(amount))) for amount in amounts])
    assert read.shape == (7, 2)
    assert np.corrcoef(amounts, read[:, 0])[0, 1] >= 0.9
    encoded = renderer.encode([drawn(renderer, eyeYaw=0.8), drawn(renderer, eyeYaw=-0.8)])
    assert encoded.names == renderer.bank.names
    assert encoded.column("eyeYaw")[0] > encoded.column("eyeYaw")[1]


def test_idle_motion_glances(bank):
    times = np.arange(0, 20, 0.04)
    looks = glances(times, 3)
    assert not looks[0].any()
    assert 0.3 < looks.std() < 1.5
    still = np.abs(np.diff(looks, axis=0)).max(1) < 1e-9
    assert still.mean() > 0.85, "eyes jump, then rest"
    np.testing.assert_allclose(glances(times[::5], 3), looks[::5], atol=1e-12)
    rest = np.zeros((len(times), len(bank.names)), np.float32)
    moved = add_idle_motion(rest, bank.names, times, 1.0, 3)
    assert moved[:, bank.names.index("eyeYaw")].std() > 0.03
    assert np.degrees(PITCH) == pytest.approx(20)
