"""The correction of what the close reader says about brows and lids."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.model.readers.relative import EYE_FLOWS
from training.stages.calibration import INPUTS, OUTPUTS, fit, slopes
from training.stages.reader import correlations
from training.units import NAMES


def test_motion_that_is_read_too_weakly_gets_its_true_size() -> None:
    """Also from noisy readings, of which least squares alone would make too little; flow adds what they miss."""
    generator, count = torch.Generator().manual_seed(3), 2400
    truth = torch.randn(count, len(NAMES), generator=generator)
    features = torch.zeros(count, len(NAMES) + EYE_FLOWS)
    features[:, : len(NAMES)] = 0.5 * truth + 0.3 * torch.randn(count, len(NAMES), generator=generator)
    shown = truth[:, OUTPUTS] @ torch.randn(len(OUTPUTS), EYE_FLOWS, generator=generator)
    features[:, len(NAMES) :] = shown + 5.0 * torch.randn(count, EYE_FLOWS, generator=generator)
    weight, read = fit(features, truth, np.arange(count) // 10)
    assert slopes(features[:, OUTPUTS], truth[:, OUTPUTS]).max() < 0.6
    torch.testing.assert_close(read.std(0), truth[:, OUTPUTS].std(0))
    assert slopes(read, truth[:, OUTPUTS]).min() > 0.8
    alone = correlations(features[:, OUTPUTS], truth[:, OUTPUTS])
    assert (correlations(read, truth[:, OUTPUTS]) > alone).all()
    assert weight.shape == (len(NAMES), features.shape[1])


def test_mouth_and_pose_stay_as_they_are_bit_by_bit() -> None:
    generator = torch.Generator().manual_seed(4)
    features, truth = torch.randn(120, len(NAMES) + EYE_FLOWS, generator=generator), torch.randn(120, len(NAMES))
    weight, _ = fit(features, truth, np.arange(120) // 10)
    others = [column for column in range(len(NAMES)) if column not in OUTPUTS]
    assert torch.equal((features @ weight.T)[:, others], features[:, others])
    unused = [column for column in range(len(NAMES)) if column not in INPUTS]
    assert not weight[OUTPUTS][:, unused].any()
