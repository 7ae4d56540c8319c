"""Tests of the head-motion flow: exact inverses and densities, noise by place, and the motion's conversion."""

import numpy as np
import pytest
import torch

from inference.contract.bank import STARTER, read_bank
from inference.contract.head import head_matrix
from inference.model.audio2pose import (
    BLOCK,
    POSE,
    Audio2Pose,
    Audio2PoseConfig,
    from_bands,
    log_density,
    merge,
    to_bands,
)
from inference.motion import at_times, draw_bands, eased, noise_of, pose, pose_features
from inference.prosody import prosody
from tests.inference.test_prosody import syllables


@pytest.fixture(scope="module")
def model():
    """A small flow with random weights that are not zero."""
    torch.manual_seed(3)
    model = Audio2Pose(Audio2PoseConfig(17, 16, 8, (2, 2, 3, 4, 4, 4)))
    for name, weight in model.named_parameters():
        if name.endswith(("weight", "shift", "log_scale")):
            torch.nn.init.normal_(weight, 0, 0.15)
    model.deviation.uniform_(0.5, 2.0)
    model.slow_deviation.uniform_(0.5, 2.0)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def voice():
    return prosody(syllables())


def test_wavelet_is_exact_and_keeps_constants_in_the_slowest_band():
    x = torch.randn(2, POSE, 4 * BLOCK)
    bands = to_bands(x)
    assert [band.shape[-1] for band in bands] == [4, 4, 8, 16, 32, 64]
    torch.testing.assert_close(from_bands(bands), x, atol=1e-5, rtol=0)
    slow, *fast = to_bands(torch.ones(1, POSE, 4 * BLOCK))
    assert max(band.abs().max() for band in fast) < 1e-5
    torch.testing.assert_close(slow, torch.full_like(slow, 2**2.5))


def test_flow_inverts_itself(model):
    motion, features = torch.randn(2, POSE, 4 * BLOCK), torch.randn(2, 17, 4 * BLOCK)
    scaled = model._standardised(features)
    noise, slower = [], None
    for number, (x, band) in enumerate(zip(to_bands(motion), model.bands, strict=True)):
        noise.append(band(x / model.deviation[number], model._context(number, scaled, slower))[0])
        slower = x if slower is None else merge(slower, x)
    found = from_bands(model.sample(noise, features))
    assert (found - motion).abs().max() < 1e-4


def test_the_expected_motion_is_added_to_the_draw(model):
    torch.manual_seed(4)
    whole = Audio2Pose(Audio2PoseConfig(17, 16, 8, (2, 2, 3, 4, 4, 4), mean=5)).requires_grad_(False)
    torch.nn.init.normal_(whole.mean.layers[-1].weight, 0, 0.3)
    missing, surplus = whole.load_state_dict(model.state_dict(), strict=False)
    assert all(name.startswith("mean.") for name in missing)
    assert not surplus
    features, noise = torch.randn(1, 17, 4 * BLOCK), [torch.from_numpy(band)[None] for band in noise_of(3, 4 * BLOCK)]
    expected = whole.mean(features)
    assert expected.abs().max() > 0.1
    added = from_bands(whole.sample(noise, features)) - from_bands(model.sample(noise, features))
    torch.testing.assert_close(added, expected, atol=1e-4, rtol=0)
    motion = torch.randn(1, POSE, 4 * BLOCK)
    alone = model.log_likelihood(motion, features)
    torch.testing.assert_close(whole.log_likelihood(motion + expected, features), alone, atol=1e-3, rtol=0)
    assert whole.expected_error(expected, features) < 1e-10


@pytest.mark.parametrize("number", range(6))
def test_density_counts_the_volume(model, number):
    band = model.bands[number]
    context = torch.randn(1, band.steps[0].first.in_channels - POSE - 1, 8)
    x = torch.randn(1, POSE, 8)
    _, volume = band(x, context if context.shape[1] else None)
    size = POSE * 8

    def flat(values):
        return band(values.view(1, POSE, 8), context if context.shape[1] else None)[0].flatten()

    jacobian = torch.autograd.functional.jacobian(flat, x.flatten())
    assert jacobian.shape == (size, size)
    assert abs(torch.linalg.slogdet(jacobian)[1] - volume[0]) < 1e-3


def test_noise_has_the_density_of_the_flow_and_depends_on_the_place_only():
    long, short = noise_of(7, 64 * BLOCK), noise_of(7, 4 * BLOCK)
    for one, other in zip(long, short, strict=True):
        np.testing.assert_array_equal(one[:, : other.shape[1]], other)
    values = torch.from_numpy(np.concatenate([band.ravel() for band in noise_of(1, 512 * BLOCK)]))
    entropy = -log_density(values.double()).mean()
    grid = torch.linspace(-40, 40, 200_001, dtype=torch.float64)
    density = log_density(grid).exp()
    expected = -(density * log_density(grid)).sum() * 80 / 200_000
    assert abs(entropy - expected) < 0.02
    assert not np.array_equal(noise_of(8, BLOCK)[0], noise_of(7, BLOCK)[0])


def test_gains_scale_slow_and_fast_motion_apart(model, voice):
    whole, slow, fast = (pose(model, voice, 5, *gains) for gains in ((1, 1), (1, 0), (0, 1)))
    np.testing.assert_allclose(slow + fast, whole, atol=1e-4)
    np.testing.assert_allclose(pose(model, voice, 5, 0.5, 2.0), 0.5 * slow + 2 * fast, atol=1e-4)


def test_motion_of_a_seed_is_the_same_every_time(model, voice):
    features = pose_features(voice, 4 * BLOCK)
    first = draw_bands(model, features, 11)
    draw_bands(model, features, 12)
    for one, other in zip(first, draw_bands(model, features, 11), strict=True):
        np.testing.assert_array_equal(one, other)


def test_later_sound_does_not_change_earlier_motion(model):
    sound = syllables(24.0)
    changed = sound.copy()
    changed[16 * 16_000 :] *= 0
    voice = prosody(sound)
    one, other = pose(model, voice, 2), pose(model, prosody(changed, voice.speaker), 2)
    assert np.abs(one - other)[: 8 * 12].max() < 0.05 * np.abs(one).max()
    assert np.abs(one - other)[17 * 13 :].max() > 0


def test_features_lie_around_their_times(voice):
    rows = pose_features(voice, BLOCK * 4)
    np.testing.assert_allclose(rows[:, 50], voice.features[396:404].mean(axis=0), atol=1e-5)
    assert rows.shape == (17, BLOCK * 4)


def test_interpolation_passes_through_the_rows_and_is_smooth():
    motion = np.random.default_rng(0).normal(size=(40, POSE))
    np.testing.assert_allclose(at_times(motion, np.arange(40) / 12.5), motion, atol=1e-9)
    straight = np.arange(40.0)[:, None] * np.ones(POSE)
    np.testing.assert_allclose(at_times(straight, np.array([1.0, 1.337]))[:, 0], [12.5, 1.337 * 12.5], atol=1e-9)
    np.testing.assert_allclose(at_times(motion, np.array([-5.0, 99.0])), motion[[0, -1]], atol=1e-9)


def test_ease_begins_and_ends_at_rest():
    times = np.arange(100) / 25
    rows = eased(np.ones((2, 100, 3)), times, 4.0)
    assert rows[:, 0].max() == 0
    assert rows[:, -1].max() < 0.05
    assert (rows[:, 15:85] == 1).all()


def test_head_matrix_has_the_units_of_the_starter_bank():
    names, matrix = head_matrix(read_bank(STARTER))
    assert names == ("headYaw", "headPitch", "headRoll", "headShiftX", "headShiftY", "headScale")
    np.testing.assert_allclose(matrix @ [30, 20, 20, 0.08, 0.08, 0.12], 1.0)
    assert (matrix == np.diag(np.diag(matrix))).all()
