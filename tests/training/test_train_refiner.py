"""The refiner stage on a small data set: motion, painter, figures."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import save_bank
from inference.model.refiner import (
    PREFIX,
    Refined,
    pixel_positions,
    warped,
)
from training.export import starter_bank
from training.heads.data import (
    Batch,
    HeadPairs,
    recoloured,
)
from training.stages.generator import fresh as fresh_generator
from training.stages.generator import (
    loaded_generator,
    point_weights,
    small_config,
)
from training.stages.refiner import (
    far_background,
    figures,
    fresh,
    halved,
    motion_losses,
    refined,
    refiner_losses,
    refiner_state,
    train,
    unevenness,
    upsampled_render,
)
from training.units import NAMES

pytestmark = pytest.mark.slow


@pytest.fixture
def pairs(discs: Path) -> HeadPairs:
    return HeadPairs([discs], 64)


@pytest.fixture(scope="module")
def generator_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model, path = fresh_generator(small_config(64)), tmp_path_factory.mktemp("generator") / "G.pt"
    torch.save({"average": model.state_dict(), "config": json.dumps(model.config.to_json())}, path)
    return path


def test_the_motion_of_a_person_is_learnt_from_points(pairs: HeadPairs) -> None:
    """Trained on some people with random exposures, it generalises to others."""
    torch.manual_seed(0)
    refiner, rng, weights = fresh(), np.random.default_rng(0), point_weights(pairs)
    optimiser = torch.optim.Adam(refiner.parameters(), 2e-3)

    def sitting(people: np.ndarray) -> Batch:
        rest = people * pairs.frames_per_identity
        return pairs.pick(rest, rest[:, None] + np.arange(1, pairs.frames_per_identity))

    def lit(batch: Batch) -> Batch:
        return replace(batch, source=recoloured(batch.source, rng))

    others = sitting(np.arange(14, 20))
    with torch.no_grad():
        before = motion_losses(refiner, others, weights)["points"].item()
    for _ in range(25):
        losses = motion_losses(refiner, lit(sitting(rng.integers(0, 14, 3))), weights)
        optimiser.zero_grad()
        losses["points"].backward()
        optimiser.step()
    with torch.no_grad():
        assert motion_losses(refiner, others, weights)["points"].item() < 0.6 * before


def test_the_true_motion_has_no_error(pairs: HeadPairs) -> None:
    """Everything moves like the disc: no error at the points, but far background is displaced."""
    refiner, weights = fresh().requires_grad_(False), point_weights(pairs)
    refiner.maps.weight.zero_()
    refiner.maps.bias.view(-1, 2)[NAMES.index("headShiftX"), 0] = 0.3
    batch = pairs.pick(np.array([0, 8]), np.array([[1, 2], [9, 10]]))
    losses = motion_losses(refiner, batch, weights)
    assert losses["points"].item() < 2e-3
    assert losses["background"].item() > 1e-2
    assert losses["outline"].item() < 1e-9  # the displacement is uniform


def test_background_may_move_with_a_head_that_is_near() -> None:
    background = torch.ones(1, 1, 32, 32)
    background[..., 14:18, 14:18] = 0  # a head
    far = far_background(background)
    assert far[0, 0, 8].all()
    assert far[0, 0, :, 23].all()
    assert not far[..., 9:23, 9:23].any()


def test_an_abrupt_end_of_the_motion_is_uneven() -> None:
    background = torch.ones(1, 1, 32, 32)
    background[..., :16] = 0
    line = torch.arange(32.0)
    sudden, slow = ((line < 16).float(), ((24 - line) / 9).clamp(0, 1))
    at_once, gently = (unevenness(0.2 * row.expand(1, 2, 32, 32), background) for row in (sudden, slow))
    assert gently < 0.2 * at_once
    inside = 0.2 * (line < 8).float().expand(1, 2, 32, 32)
    assert unevenness(inside, background) == 0  # differences inside the head do not count


def test_an_untrained_painter_keeps_the_motion(pairs: HeadPairs) -> None:
    """With the true motion, the resulting flow has almost no error."""
    torch.manual_seed(0)
    generator, refiner = fresh_generator(small_config(64)), fresh().eval().requires_grad_(False)
    refiner.maps.weight.zero_()
    refiner.maps.bias.view(-1, 2)[NAMES.index("headShiftX"), 0] = 0.3
    batch = pairs.pick(np.array([0]), np.array([[1, 2]]))
    made, alone = refined(generator, refiner, batch)
    assert made.rgb.shape == alone.shape == batch.driving.shape
    assert refiner_losses(made, batch, point_weights(pairs))["flow"].item() < 2e-3


@pytest.mark.parametrize("mask", [8.0, -30.0])
def test_a_source_at_its_full_size_shows_through_the_mask(pairs: HeadPairs, mask: float) -> None:
    """It is moved by the flow; where the mask is 0, the painted picture remains."""
    torch.manual_seed(0)
    small = halved(batch := pairs.pick(np.array([0]), np.array([[1]])))
    assert small.source.shape[-1] == small.weight.shape[-1] == 32
    line = torch.linspace(-1, 1, 32)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"))[None]
    positions = pixel_positions(32, "cpu") + 0.125  # four pixels of 64
    flow = torch.cat([torch.atanh(positions - grid), torch.full((1, 1, 32, 32), mask)], 1)
    drawn = torch.full_like(small.source, 0.3)
    share = torch.sigmoid(flow[:, 2:])
    made = Refined(flow, warped(small.source, positions) * share + drawn * (1 - share), positions, positions)
    found = upsampled_render(made, small, batch)[..., :58, :58]
    wanted = batch.source[..., 4:62, 4:62] if mask > 0 else torch.full_like(found, 0.3)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)


def test_figures_at_twice_the_size(discs: Path) -> None:
    torch.manual_seed(0)
    generator, large = fresh_generator(small_config(64)).requires_grad_(False), HeadPairs([discs], 128)
    result, batch, rgb = figures(generator, fresh().eval(), large, point_weights(large), identities=4)
    assert rgb.shape == batch.driving.shape == (8, 3, 128, 128)
    assert result["psnr_fine"] == pytest.approx(result["psnr"], abs=3)


def test_sizes_other_than_one_and_two_are_refused(generator_file: Path, discs: Path, tmp_path: Path) -> None:
    args = argparse.Namespace(generator=generator_file, size=256, threads=1, seed=0)
    with pytest.raises(SystemExit, match="must be 64, the size of the generator, or twice that; found 256"):
        train(args)


def test_it_starts_from_the_refiner_of_a_bank(generator_file: Path, tmp_path: Path) -> None:
    generator, refiner = loaded_generator(generator_file), fresh()
    tensors = {name: tensor.numpy() for name, tensor in generator.state_dict().items()}
    tensors |= {PREFIX + name: tensor.numpy() for name, tensor in refiner.state_dict().items()}
    bank = tmp_path / "bank.safetensors"
    save_bank(starter_bank(generator.config), tensors, bank)
    again = loaded_generator(bank).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in generator.state_dict().items())
    known, own = refiner_state(bank), refiner.state_dict()
    assert {name for name in own if not name.startswith("reading.")} == set(known)
    assert all(torch.equal(own[name].float(), tensor.float()) for name, tensor in known.items())


def test_copying_is_the_baseline(pairs: HeadPairs) -> None:
    torch.manual_seed(0)
    generator = fresh_generator(small_config(64)).requires_grad_(False)
    result, batch, rgb = figures(generator, fresh().eval(), pairs, point_weights(pairs), identities=4)
    still = (batch.source.repeat_interleave(2, 0) - batch.driving).square().mean((1, 2, 3))
    assert result["psnr_copy"] == pytest.approx((10 * torch.log10(4 / still)).mean().item(), abs=1e-3)
    assert rgb.shape == batch.driving.shape
