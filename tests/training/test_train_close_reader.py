"""The close reader's trainer on a tiny made-up data set: pairs of windows, learning, resuming."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.model.readers.close import (
    SEEN,
    SIZES,
)
from training.learning.augment import Light, as_coded
from training.stages.close_reader import (
    Heads,
    Learner,
    Pairs,
    Stock,
    train,
)
from training.stages.refiner import fresh as fresh_refiner
from training.stages.refiner import loaded_refiner
from training.units import NAMES

SIZE, SHIFT_X = 128, NAMES.index("headShiftX")


@pytest.fixture(scope="module")
def refiner_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its motion is the discs' own: everything moves with headShiftX."""
    torch.manual_seed(0)
    refiner, path = fresh_refiner().requires_grad_(False), tmp_path_factory.mktemp("refiner") / "F.pt"
    refiner.maps.weight.zero_()
    refiner.maps.bias.view(-1, 2)[SHIFT_X, 0] = 0.3
    torch.save({"average": refiner.state_dict()}, path)
    return path


def test_windows_follow_the_head(refiner_file: Path, discs: Path) -> None:
    """So that a disc which only goes to and fro looks the same in all of them, and its points do not move there."""
    heads = Heads([discs])
    rest, frame = np.array([0, 8, 8]), np.array([1, 10, 15])
    pairs = Pairs(heads, loaded_refiner(refiner_file))
    windows, difference, points = pairs.pick(rest, frame, np.random.default_rng(0), spoilt=False)
    for seen, size in zip(windows, SIZES, strict=True):
        assert seen.shape == (3, *size, SEEN)
        assert seen[..., 3:6].abs().mean() < 0.05 * seen[..., :3].std()
    torch.testing.assert_close(difference, heads.coefficients[frame] - heads.coefficients[rest])
    assert points.abs().max() < 0.02
    assert difference[:, SHIFT_X].abs().min() > 0.02


def test_pictures_of_several_folders_are_those_of_each(discs: Path) -> None:
    one, two = Heads([discs]), Heads([discs, discs])
    assert two.people == 2 * one.people
    count = one.people * one.per_person
    np.testing.assert_array_equal(two.pictures(np.array([3, count + 3])), one.pictures(np.array([3, 3])))


def test_films_are_coded_in_several_ways() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
    made = [as_coded(picture, rng) for _ in range(30)]
    assert all(one.shape == picture.shape and one.dtype == np.uint8 for one in made)
    assert 5 < sum(np.array_equal(one, picture) for one in made) < 25


def test_both_pictures_of_a_pair_are_in_the_same_light() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (20, 20, 3), np.uint8)
    np.testing.assert_allclose(Light().on(picture, rng, 0), picture / 127.5 - 1, atol=1e-6)
    light = Light(np.float32([0.5, 1.0, 1.0]), 0.1, 1.2, 0.02)
    before, after = (light.on(picture, rng, later) for later in (0, 1))
    np.testing.assert_allclose((after - 0.1).mean((0, 1)), 1.2 * (before - 0.1).mean((0, 1)), atol=0.01)
    assert 0.01 < np.std(before - light.on(picture, rng, 0)) < 0.05


def test_a_stock_is_renewed_from_its_oldest(refiner_file: Path, discs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.stages.close_reader.HELD", 30)
    pairs = Pairs(Heads([discs]), loaded_refiner(refiner_file))
    points = pairs.some(20, np.random.default_rng(0)).points.flatten(1)
    stock = Stock(pairs, points.mean(0), torch.eye(points.shape[1])[:, :4], np.random.default_rng(1))
    before = [held.clone() for held in stock.windows]
    assert stock.oldest == 0
    stock.renew(20)
    for held, once in zip(stock.windows, before, strict=True):
        same = (held == once).flatten(1).all(1)
        assert same.tolist() == [False] * 20 + [True] * 10
    stock.renew(20)  # ten of them: no pair is renewed before all are
    assert stock.oldest == 0
    for held, once in zip(stock.windows, before, strict=True):
        assert not (held == once).flatten(1).all(1).any()
    windows, difference, placed, known = stock.draw(7)
    assert [part.shape for part in windows] == [(7, SEEN, *size) for size in SIZES]
    assert (difference.shape, placed.shape, known.shape) == ((7, 36), (7, 4), (7,))


def test_a_mirrored_pair_is_the_pair_in_a_mirror(refiner_file: Path, discs: Path) -> None:
    pairs, rows = Pairs(Heads([discs]), loaded_refiner(refiner_file)), (np.array([0, 8]), np.array([3, 12]))
    one, other = (
        pairs.pick(*rows, np.random.default_rng(0), spoilt=False, mirrored=mirrored) for mirrored in (False, True)
    )
    for straight, turned in zip(one.windows, other.windows, strict=True):
        assert torch.equal(straight[..., :6].flip(2), turned[..., :6])  # the flow is searched in the mirror


def test_what_is_learnt_says_the_same_without_normalisation() -> None:
    torch.manual_seed(0)
    learner = Learner(torch.zeros(10), torch.zeros(10, 4))
    seen = [torch.rand(8, SEEN, *size) for size in SIZES]
    with torch.no_grad():
        for _ in range(3):
            learner(seen)
        wanted, _ = learner.eval()(seen)
        torch.testing.assert_close(learner.learnt()(seen), wanted, atol=1e-4, rtol=1e-4)


def test_it_trains_and_goes_on_where_it_stopped(
    refiner_file: Path, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.stages.close_reader.HELD", 50)
    out = tmp_path / "close.pt"
    named = {"refiner": refiner_file, "data": [discs], "heldout": discs, "out": out, "bank": None}
    options = argparse.Namespace(**named, minutes=0.1, pictures=8, rate=2e-3, threads=1, seed=0)
    train(options)
    first = torch.load(out, weights_only=True)
    train(options)  # its time is used up
    assert torch.load(out, weights_only=True)["step"] == first["step"]
    options.minutes = first["elapsed"] / 60 + 0.1
    train(options)
    last = torch.load(out, weights_only=True)
    assert last["step"] > first["step"] >= 2
    start, *_, end = (json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines())
    assert end["error"] + end["points"] < start["error"] + start["points"]
