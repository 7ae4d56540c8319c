"""The close-reader stage on a small data set: pairs of windows, mirroring, the buffer of pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.model.readers.relative import SIZES, WINDOW_CHANNELS
from training.stages.close_reader import (
    HeadFrames,
    Learner,
    PairBuffer,
    Pairs,
)
from training.stages.refiner import fresh as fresh_refiner
from training.stages.refiner import loaded_refiner
from training.units import NAMES

pytestmark = pytest.mark.slow

SIZE, SHIFT_X = 128, NAMES.index("headShiftX")


@pytest.fixture(scope="module")
def refiner_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A refiner with the true motion of the discs: everything moves with headShiftX."""
    torch.manual_seed(0)
    refiner, path = fresh_refiner().requires_grad_(False), tmp_path_factory.mktemp("refiner") / "F.pt"
    refiner.maps.weight.zero_()
    refiner.maps.bias.view(-1, 2)[SHIFT_X, 0] = 0.3
    torch.save({"average": refiner.state_dict()}, path)
    return path


def test_windows_follow_the_head(refiner_file: Path, discs: Path) -> None:
    """A disc that is only shifted looks the same in the windows, and its points do not move there."""
    heads = HeadFrames([discs])
    rest, frame = np.array([0, 8, 8]), np.array([1, 10, 15])
    pairs = Pairs(heads, loaded_refiner(refiner_file))
    windows, difference, points = pairs.pick(rest, frame, np.random.default_rng(0), augmented=False)
    for seen, size in zip(windows, SIZES, strict=True):
        assert seen.shape == (3, *size, WINDOW_CHANNELS)
        assert seen[..., 3:6].abs().mean() < 0.05 * seen[..., :3].std()
    torch.testing.assert_close(difference, heads.coefficients[frame] - heads.coefficients[rest])
    assert points.abs().max() < 0.02
    assert difference[:, SHIFT_X].abs().min() > 0.02


def test_several_folders_are_joined(discs: Path) -> None:
    one, two = HeadFrames([discs]), HeadFrames([discs, discs])
    assert two.people == 2 * one.people
    count = one.people * one.per_person
    np.testing.assert_array_equal(two.pictures(np.array([3, count + 3])), one.pictures(np.array([3, 3])))


def test_a_stock_replaces_its_oldest_batch(refiner_file: Path, discs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.stages.close_reader.HELD", 30)
    pairs = Pairs(HeadFrames([discs]), loaded_refiner(refiner_file))
    points = pairs.random(20, np.random.default_rng(0)).points.flatten(1)
    mean, directions = points.mean(0), torch.eye(points.shape[1])[:, :4]
    buffer = PairBuffer(pairs, mean, directions, seed=1, count=10, renewed=0)
    before = [held.clone() for held in buffer.windows]
    buffer.renew()
    for held, once in zip(buffer.windows, before, strict=True):
        assert (held == once).flatten(1).all(1).tolist() == [False] * 10 + [True] * 20
    resumed = PairBuffer(pairs, mean, directions, seed=1, count=10, renewed=1)
    assert all(torch.equal(held, other) for held, other in zip(buffer.windows, resumed.windows, strict=True))
    windows, difference, placed, known = buffer.draw(7, np.random.default_rng(2))
    assert [part.shape for part in windows] == [(7, WINDOW_CHANNELS, *size) for size in SIZES]
    assert (difference.shape, placed.shape, known.shape) == ((7, 36), (7, 4), (7,))


def test_a_flipped_pair_is_mirrored(refiner_file: Path, discs: Path) -> None:
    pairs, rows = Pairs(HeadFrames([discs]), loaded_refiner(refiner_file)), (np.array([0, 8]), np.array([3, 12]))
    one, other = (
        pairs.pick(*rows, np.random.default_rng(0), augmented=False, flipped=flipped) for flipped in (False, True)
    )
    for straight, turned in zip(one.windows, other.windows, strict=True):
        assert torch.equal(straight[..., :6].flip(2), turned[..., :6])  # the flow is computed anew


def test_folding_the_normalisation_does_not_change_the_output() -> None:
    torch.manual_seed(0)
    learner = Learner(torch.zeros(10), torch.zeros(10, 4))
    seen = [torch.rand(8, WINDOW_CHANNELS, *size) for size in SIZES]
    with torch.no_grad():
        for _ in range(3):
            learner(seen)
        wanted, _ = learner.eval()(seen)
        torch.testing.assert_close(learner.exported()(seen), wanted, atol=1e-4, rtol=1e-4)
