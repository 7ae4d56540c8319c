"""Head motion from footage: what is fitted to the motion of a person, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import STARTER, load_bank
from inference.contract.errors import EDTalkError
from inference.contract.head import head_matrix
from inference.model.audio2pose import BLOCK, POSE_FPS, delayed, from_bands
from inference.motion import draw_bands, flow_of
from tests.inference.test_prosody import syllables
from training.__main__ import main
from training.stages.person_motion import (
    Footage,
    check_length,
    delay_of,
    expected_of,
    fit_moments,
    longest_seen,
    model_for,
    spread,
    take_of,
    to_bands,
    write,
)

ROWS = 12 * BLOCK


@pytest.fixture(scope="module")
def bank():
    return load_bank(STARTER)


def takes_of(model, late=0.0, size=1.0):
    """Takes of a person who moves like the model, `late` seconds later and `size` times as far."""
    takes = []
    for number in range(3):
        features = np.random.default_rng(number).normal(size=(17, ROWS)).astype(np.float32)
        features = features * model.feature_scale.numpy() + model.feature_mean.numpy()
        bands = [torch.from_numpy(band)[None] for band in draw_bands(model, features, 50 + number)]
        motion = delayed(from_bands(bands), late * POSE_FPS)[0].numpy().T * size
        expected = expected_of(model, take_of(motion, features, np.zeros(0)))
        peaks = np.flatnonzero((expected[1:-1] > expected[:-2]) & (expected[1:-1] > expected[2:])) + 1
        takes.append(take_of(motion, features, peaks[::3] / POSE_FPS + late))
    return takes


def model_that_nods(bank):
    model = model_for(bank, own=False).eval().requires_grad_(False)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.mean.layers[-1].weight, 0, 0.3)
    return model


def test_a_person_who_moves_twice_as_far_has_twice_the_gains(bank):
    model = model_that_nods(bank)
    takes = takes_of(model, size=2.0)
    fit_moments(model, takes)
    made = [[torch.from_numpy(band)[None] for band in draw_bands(model, take.features, 3)] for take in takes]
    true = [to_bands(torch.from_numpy(take.motion.T)[None]) for take in takes]
    ratio = (spread(made) / spread(true))[2:, :3].flatten()
    assert ratio.min() > 0.6
    assert ratio.max() < 1.6
    assert ratio.mean() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("late", [-0.2, 0.0, 0.16])
def test_the_delay_of_a_person_is_found(bank, late):
    model = model_that_nods(bank)
    assert delay_of(model, takes_of(model, late=late)) == pytest.approx(late, abs=0.04)
    assert delay_of(model, [take_of(np.random.default_rng(5).normal(size=(ROWS, 6)), take.features, take.accents)
                            for take in takes_of(model)]) == 0.0  # fmt: skip


def test_delayed_motion_is_later_and_keeps_its_ends():
    x = torch.arange(10.0)[None, None]
    torch.testing.assert_close(delayed(x, 2.0)[0, 0], torch.tensor([0.0, 0, 0, 1, 2, 3, 4, 5, 6, 7]))
    torch.testing.assert_close(delayed(x, -0.5)[0, 0], torch.tensor([0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9]))


def test_a_fitted_bank_loads_with_its_delay_and_gains(bank, tmp_path):
    model = model_that_nods(bank)
    model.mean.lag += 0.25
    write(bank, model, tmp_path / "B.safetensors")
    again = load_bank(tmp_path / "B.safetensors")
    found = flow_of(again)
    assert found.mean.lag.item() == pytest.approx(0.25, abs=1e-3)
    assert head_matrix(again)[0] == head_matrix(bank)[0]
    take = takes_of(model)[0]
    np.testing.assert_allclose(expected_of(found, take), expected_of(model, take), atol=0.05)


def test_a_bank_in_own_units_moves_its_first_pose_coefficients(bank, tmp_path):
    write(bank, model_for(bank, own=True), tmp_path / "B.safetensors")
    again = load_bank(tmp_path / "B.safetensors")
    names, matrix = head_matrix(again)
    first = again.config.bank_slices["pose"].start
    assert names == again.names[first : first + 6]
    np.testing.assert_array_equal(matrix, np.eye(6))
    assert flow_of(again).config.own == 1


def test_windows_are_drawn_from_the_first_part_of_each_clip():
    rng = np.random.default_rng(0)
    take = take_of(np.arange(600.0)[:, None] * np.ones(6), np.zeros((17, 600)), np.zeros(0))
    source = Footage([take], mirrored=False)
    motion, features, expected = source.draw(rng, 64)
    held = source.held_out()[0]
    assert motion.shape == (64, 6, 128)
    assert features.shape == (64, 17, 128)
    assert motion.max() < take.motion[int(0.86 * len(take.motion)), 0]
    assert held[0, 0, -1] == take.motion[-1, 0]
    assert torch.equal(motion, expected)


def test_the_longest_stretch_with_a_face_is_used():
    assert longest_seen(100, []) == (0, 100)
    assert longest_seen(100, [(0, 9), (40, 41)]) == (42, 100)
    assert longest_seen(100, [(60, 99)]) == (0, 60)


def test_too_little_footage_is_refused_with_its_length(tmp_path):
    with pytest.raises(EDTalkError, match=r"at least 60 s .* found 31 s"):
        check_length(31.2, own=False)
    with pytest.raises(EDTalkError, match="at least 600 s"):
        check_length(100.0, own=True)
    check_length(100.0, own=False)
    sound = tmp_path / "voice.wav"
    import soundfile

    soundfile.write(sound, syllables(), 16_000)
    with pytest.raises(SystemExit, match="found 0 s"):
        main(["audio2pose", str(sound), "--bank", str(STARTER), "--out", str(tmp_path / "B.safetensors")])
    assert not Path(tmp_path / "B.safetensors").exists()
