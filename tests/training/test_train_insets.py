"""The insets stage on a small data set: anchors, windows, losses."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import load_bank
from inference.model.load import INSETS, state_of
from training.heads.data import HeadPairs
from training.learning.augment import photographed, relit, repaint_eyes
from training.stages.insets import Drawn, add_options, anchors_of, draw, fresh, inset_losses, train
from training.stages.refiner import fresh as fresh_refiner
from training.stages.refiner import loaded_refiner
from training.units import NAMES

pytestmark = pytest.mark.slow

SIZE = 128
STARTER = Path(__file__).parents[2] / "inference" / "banks" / "starter.safetensors"


@pytest.fixture(scope="module")
def refiner_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A refiner with the true motion of the discs: everything moves with headShiftX."""
    torch.manual_seed(0)
    refiner, path = fresh_refiner().requires_grad_(False), tmp_path_factory.mktemp("refiner") / "F.pt"
    refiner.maps.weight.zero_()
    refiner.maps.bias.view(-1, 2)[NAMES.index("headShiftX"), 0] = 0.3
    torch.save({"average": refiner.state_dict()}, path)
    return path


def test_windows_follow_the_motion(refiner_file: Path, discs: Path) -> None:
    """With the true motion, the warped source in a window is the driven frame in it."""
    pairs = HeadPairs([discs], SIZE)
    batch = pairs.pick(np.array([0, 8]), np.array([[1, 2], [9, 10]]))
    anchors = anchors_of(batch.tracks.source[::2], batch.places, pairs.groups)
    for drawn in draw(fresh().eval().requires_grad_(False), loaded_refiner(refiner_file), batch, anchors, coarse=False):
        assert drawn.truth.std() > 0.1  # it contains the edge of the disc
        assert (drawn.network_input[:, :3] - drawn.truth).abs().mean() < 0.02


def test_training_begins_with_the_weights_of_a_bank(discs: Path, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = f"--refiner {STARTER} --begin {STARTER} --data {discs} --heldout {discs} --size 128 --sources 2 --rate 0"
    out = tmp_path / "I.pt"
    train(parser.parse_args([*options.split(), "--anchor-steps", "0", "--steps", "1", "--out", str(out)]))
    trained = torch.load(out, weights_only=True)["average"]
    for name, weights in state_of(load_bank(STARTER), INSETS).items():
        torch.testing.assert_close(trained[name], weights.to(trained[name].dtype))


def test_photographed_pictures_of_a_person_are_alike() -> None:
    rng, plain = np.random.default_rng(0), torch.linspace(-1, 1, 32).square().expand(90, 3, 32, 32).clone()
    before = plain.clone()
    source, driving = photographed(plain[:30], plain[30:], rng)
    changed = (source != plain[:30]).flatten(1).any(1)
    assert 10 < changed.sum() < 26
    assert (source - plain[:30]).abs().max() < 0.2
    assert torch.equal(driving[::2], source)
    assert torch.equal(driving[1::2], source)
    assert torch.equal(plain, before)


def test_mirroring_exchanges_the_eyes(discs: Path) -> None:
    pairs, flip = HeadPairs([discs], SIZE), torch.tensor([-1.0, 1.0])
    points = pairs.points[:4].float()
    before = anchors_of(points, pairs.places, pairs.groups)
    after = anchors_of(points * flip, pairs.places * torch.tensor([-1.0, 1.0, 1.0]), pairs.groups)
    torch.testing.assert_close(after, (before * flip)[:, [1, 0, 2]])
    assert (before[:, 0, 0] < before[:, 1, 0]).all()


def test_repainted_eyes_are_darker_around_the_eyes_only() -> None:
    rng, anchors = np.random.default_rng(0), torch.tensor([[[-0.3, -0.2], [0.3, -0.2], [0.0, 0.4]]]).expand(40, -1, -1)
    plain = torch.full((40, 3, 64, 64), 0.5)
    made = repaint_eyes(plain, anchors, rng)
    changed = (made != plain).flatten(1).any(1)
    assert 10 < changed.sum() < 30
    assert (made <= plain + 1e-6).all()
    assert made.min() < 0.0
    darker = (plain - made).mean((0, 1))
    assert darker[:40].mean() > 20 * darker[50:].mean()  # the mouth is at row 44
    torch.testing.assert_close(darker, darker.flip(-1), atol=1e-5, rtol=0)


def test_relighting_keeps_black_and_is_the_same_for_all_pictures_of_a_person(discs: Path) -> None:
    pairs = HeadPairs([discs], SIZE)
    batch = pairs.pick(np.array([0, 8]), np.array([[0, 0], [8, 8]]))
    black = replace(batch, source=batch.source.clone(), driving=batch.driving.clone())
    black.source[:, :, :4], black.driving[:, :, :4] = -1.0, -1.0
    anchors = anchors_of(black.tracks.source[::2], black.places, pairs.groups)
    source, driving = relit(black.source, black.driving, anchors, np.random.default_rng(1))
    assert source[:, :, :4].max() < -0.9
    torch.testing.assert_close(driving[::2], source)
    torch.testing.assert_close(driving[1::2], source)
    assert (source - black.source).abs().mean() > 0.01


def test_colours_get_a_gradient_where_the_opacity_is_zero() -> None:
    seen, truth = torch.zeros(1, 12, 16, 16), torch.full((1, 3, 16, 16), 0.5)
    inset, whole = torch.zeros(1, 4, 16, 16, requires_grad=True), torch.ones(1, 1, 16, 16)
    losses = inset_losses(Drawn(inset, seen, truth, whole))
    (losses["picture"] + losses["edges"]).backward()
    assert (inset.grad[:, :3].mean((0, 2, 3)) < 0).all()  # towards the truth
    assert inset_losses(Drawn(torch.cat([truth, whole], 1), seen, truth, whole))["picture"] == 0
