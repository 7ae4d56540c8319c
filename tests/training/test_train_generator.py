"""The generator stage on a small data set: units, mirroring, losses, pretraining, growing."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.model import gaze
from inference.model.generator import Generator
from training.export import starter_bank
from training.heads.data import (
    HeadPairs,
    Tracks,
)
from training.learning.losses import MOST, PlaceHeads, flow_error, motion_emphasis, sampling_grid
from training.learning.optimiser import optimiser_for
from training.learning.trainer import Limits, Trainer
from training.stages.generator import fresh, grown, point_weights, small_config
from training.stages.pretraining import (
    SHAPE_CODES,
    blind_flows,
    calibrate,
    common_motion_optimiser,
    learn_common_motion,
    learn_own_motion,
    learn_reading,
    reading_optimiser,
)
from training.units import (
    ALPHA_GAIN,
    NAMES,
    in_coefficient_units,
)

from .conftest import POINTS

pytestmark = pytest.mark.slow


@pytest.fixture
def pairs(discs: Path) -> HeadPairs:
    return HeadPairs([discs], 64)


def trainer_of(tmp_path: Path, phase: str, steps: int) -> Trainer:
    """A trainer with a single phase."""
    args, unused = argparse.Namespace(out=tmp_path / "model.pt", rate=1e-3), torch.nn.Linear(1, 1)
    return Trainer(args, {}, {phase: Limits(steps=steps)}, np.random.default_rng(0), averaged=(unused, unused))


def test_coefficient_units_change_nothing_but_the_scale() -> None:
    torch.manual_seed(0)
    model = fresh(small_config(64))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.add_(0.1 * torch.randn_like(weight))
    scaled = Generator(model.config)
    scaled.load_state_dict(in_coefficient_units(model.state_dict()))
    source, coefficients = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 36)
    with torch.no_grad():
        torch.testing.assert_close(
            scaled(source, coefficients), model(source, coefficients * ALPHA_GAIN), atol=2e-4, rtol=0
        )
        read, wanted = (m.coefficients(m.enc(source)[0]) for m in (scaled, model))
        torch.testing.assert_close(read, wanted / ALPHA_GAIN, atol=1e-5, rtol=0)


def test_starter_bank_names_every_column() -> None:
    bank = starter_bank(small_config(64))
    assert bank.names == (*NAMES, *gaze.COEFFICIENTS)
    assert set(bank.presets) >= {"neutral", "happy", "sad", "angry", "surprised", "fear", "disgusted", "contempt"}
    assert not bank.presets["neutral"].any()


def test_mirroring_twice_changes_nothing(pairs: HeadPairs) -> None:
    batch = pairs.pick(np.array([0, 9]), np.array([[1, 2], [10, 11]]))
    twice = pairs._mirrored(pairs._mirrored(batch))
    for name, value in vars(batch).items():
        if name != "tracks":
            torch.testing.assert_close(getattr(twice, name), value)
    for name, value in vars(batch.tracks).items():
        torch.testing.assert_close(getattr(twice.tracks, name), value)
    once = pairs._mirrored(batch)
    assert torch.equal(once.places[:, 0], -batch.places[:, 0])
    column = NAMES.index("headShiftX")
    assert torch.equal(once.driving_coefficients[:, column], -batch.driving_coefficients[:, column])


def test_oversampled_frames_drive_more_often(pairs: HeadPairs) -> None:
    rng, column = np.random.default_rng(0), NAMES.index("headShiftX")

    def mean(oversample: dict[str, float] | None) -> float:
        batches = [pairs.batch(rng, 8, 2, 0.9, oversample, tinted=False) for _ in range(40)]
        return float(torch.cat([batch.driving_coefficients[:, column] for batch in batches]).abs().mean())

    pairs.coefficients[:, column] = (torch.arange(len(pairs.coefficients)) % 4 == 3).float()
    assert mean(None) == pytest.approx(0.25, abs=0.05)
    assert mean({"headShiftX": 3.0}) == pytest.approx(0.57, abs=0.05)  # four times as often as each of three others


def test_every_identity_keeps_its_own_colours(pairs: HeadPairs) -> None:
    batch = pairs.batch(np.random.default_rng(1), 4, 2, 0.5)
    centre = batch.driving[:, :, 32, 32].view(4, 2, 3)
    torch.testing.assert_close(centre[:, 0], centre[:, 1])
    torch.testing.assert_close(centre[:, 0], batch.source[:, :, 32, 32])


def test_flow_loss_vanishes_on_the_true_flow(pairs: HeadPairs) -> None:
    """A level whose flow is the true shift of the disc has no error at the tracked points."""
    batch = pairs.pick(np.array([0]), np.array([[1]]))
    column = NAMES.index("headShiftX")
    shift = 0.3 * (batch.source_coefficients - batch.driving_coefficients)[0, column]

    line = (torch.arange(64) * 2 + 1) / 64 - 1
    base = torch.linspace(-1, 1, 64)  # sampling adds it to tanh(flow)
    flow = torch.zeros(1, 3, 64, 64)
    flow[:, 0] = torch.atanh(shift + (line - base)[None, None])
    flow[:, 1] = torch.atanh((line - base)[None, :, None].expand(1, 64, 64))
    assert sampling_grid(flow).shape == (1, 2, 64, 64)
    assert flow_error(flow, batch.tracks, torch.ones(POINTS)).item() < 2e-3
    blind = flow_error(torch.zeros_like(flow), batch.tracks, torch.ones(POINTS))
    assert blind.item() == pytest.approx(abs(shift.item()), abs=0.05)


def test_the_common_motion_needs_no_source(pairs: HeadPairs, tmp_path: Path) -> None:
    """And the decoder, given an empty source, then produces the same flow."""
    torch.manual_seed(0)
    model, weights = fresh(small_config(64)), point_weights(pairs)
    frames = torch.arange(1, 160, 8)
    tracks, alpha = pairs.tracks(frames // 8 * 8, frames), pairs.coefficients[frames] * ALPHA_GAIN
    trainer = trainer_of(tmp_path, "common-motion", 40)
    learn_common_motion(trainer, common_motion_optimiser(model), model, pairs, weights)
    with torch.no_grad():
        style = alpha @ model.basis().T
        *_, flow = blind_flows(model, style)
        sizes = [size for size in model.config.resolutions if size <= 32]
        empty = [torch.zeros(len(alpha), model.config.channels[size], size, size) for size in sizes]
        *_, level = model.dec.levels(empty, style, None)
    still = flow_error(torch.zeros_like(flow), tracks, weights)
    assert flow_error(flow, tracks, weights) < 0.5 * still
    torch.testing.assert_close(level.flow[:, :2], flow, atol=5e-3, rtol=0)  # the mask fades at the very border


def test_the_encoder_learns_to_read(pairs: HeadPairs, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, places = fresh(small_config(64)), PlaceHeads(small_config(64).channels)
    calibrate(model, pairs, np.random.default_rng(0), frames=100)
    shape, column = torch.nn.Linear(model.config.style_dim, SHAPE_CODES), NAMES.index("headShiftX")
    pictures, truth = pairs.pictures(torch.arange(160)), pairs.coefficients[:, column]

    @torch.no_grad()
    def figures() -> tuple[float, float]:
        latent, features = model.enc(pictures)
        read = model.coefficients(latent)[:, column]
        place = places.error(features, pairs.points.float(), pairs.visible.float(), pairs.places)
        return torch.corrcoef(torch.stack([read, truth]))[0, 1].item(), place.item()

    (before, far), optimiser = figures(), reading_optimiser(model, places, shape)
    learn_reading(trainer_of(tmp_path, "reading", 20), optimiser, model, places, shape, pairs, pictures=8)
    after, near = figures()
    assert after > max(before, 0.9)
    assert near < 0.9 * far


def test_each_persons_own_motion_is_learnt_from_the_source(pairs: HeadPairs, tmp_path: Path) -> None:
    """Where the portrait itself is shifted, the distance to go depends on the source."""
    torch.manual_seed(0)
    model, places, weights = fresh(small_config(64)), PlaceHeads(small_config(64).channels), point_weights(pairs)
    calibrate(model, pairs, np.random.default_rng(0), frames=100)
    batch = pairs.batch(np.random.default_rng(3), 16, 2, 0.0)

    def error() -> float:
        with torch.no_grad():
            levels = list(model.levels(*model.enc(batch.source), batch.driving_coefficients * ALPHA_GAIN))
        return flow_error(levels[2].flow, batch.tracks, weights).item()  # 32 px, the finest level that is trained

    before = error()
    trainer, optimiser = trainer_of(tmp_path, "own-motion", 24), optimiser_for(model, places, 1e-2)
    learn_own_motion(trainer, optimiser, model, places, pairs, weights, rate=1e-2, sources=6, drivings=3)
    assert error() < 0.9 * before


def test_place_heads_use_the_features_at_the_points() -> None:
    """Features that equal their picture coordinates predict the places of points at these coordinates."""
    heads, sizes = PlaceHeads({8: 2, 16: 2, 32: 2}), (8, 16, 32)
    with torch.no_grad():
        for head in heads.heads:
            head.weight.copy_(torch.eye(3, 2))
            head.bias.zero_()
    lines = [(torch.arange(size) * 2 + 1) / size - 1 for size in sizes]
    features = [torch.stack(torch.meshgrid(line, line, indexing="xy"))[None] for line in lines]
    points = torch.rand(1, 50, 2, generator=torch.manual_seed(0)) * 1.6 - 0.8
    places, seen = torch.nn.functional.pad(points[0], (0, 1)), torch.ones(1, 50)

    def error() -> float:
        return heads.error(features, points, seen, places).item()

    assert error() < 1e-6
    places[25:] += 0.1
    assert error() == pytest.approx(0.005, abs=1e-4)
    seen[:, 25:] = 0.0  # hidden points do not count
    assert error() < 1e-6


def test_points_that_move_by_themselves_have_a_higher_weight() -> None:
    rng = np.random.default_rng(0)
    source = torch.from_numpy(rng.uniform(-0.5, 0.5, (1, 200, 2)).astype(np.float32))
    turn = torch.tensor([[0.9, 0.1], [-0.1, 0.9]])
    driving = source @ turn + 0.1
    seen = torch.ones(1, 200)
    torch.testing.assert_close(motion_emphasis(Tracks(source, driving, seen)), seen, atol=1e-2, rtol=0)
    driving[0, :5, 1] += 0.2  # a lid that closes
    weight = motion_emphasis(Tracks(source, driving, seen))[0]
    assert (weight[:5] == MOST).all()
    assert weight[5:].max() < 0.5 * MOST


def test_growing_keeps_what_was_learnt(discs: Path) -> None:
    torch.manual_seed(0)
    smaller = fresh(small_config(64))
    pairs = HeadPairs([discs], 128)
    larger = grown(small_config(128), smaller, pairs, np.random.default_rng(0), fitting=25)
    for name, tensor in smaller.state_dict().items():
        if name.startswith("dec."):
            assert torch.equal(larger.state_dict()[name], tensor), name
    picture = pairs.batch(np.random.default_rng(1), 4, 1, 0.5).source
    with torch.no_grad():
        grown_latent, _ = larger.enc(picture)
        latent, _ = smaller.enc(torch.nn.functional.avg_pool2d(picture, 2))
    assert (grown_latent - latent).norm() < 0.6 * latent.norm()
