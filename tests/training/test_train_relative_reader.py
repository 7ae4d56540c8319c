"""The fit of the relative reader's linear map, on pictures of one pattern that is shifted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.learning.augment import recorded_pair
from training.stages.relative_reader import fit_share, train
from training.units import NAMES, SHIFT

pytestmark = pytest.mark.slow

X, Y = NAMES.index("headShiftX"), NAMES.index("headShiftY")


def textured(shifts: np.ndarray, size: int) -> np.ndarray:
    """(N, size, size, 3) uint8 of one pattern, moved by (N, 2) picture widths right and down."""
    line = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(line, line)
    x, y = x - shifts[:, :1, None], y - shifts[:, 1:, None]
    pattern = np.sin(23 * x + 3 * y) + np.sin(19 * y - 5 * x) + np.sin(11 * (x + y) ** 2)
    return (127 + 40 * pattern).clip(0, 255).astype(np.uint8)[..., None].repeat(3, -1)


def test_both_pictures_of_a_recorded_pair_are_cropped_alike() -> None:
    two = textured(np.zeros((2, 2)), 128)
    recorded, crop = recorded_pair(two, np.random.default_rng(3))
    assert recorded.shape == two.shape
    assert 0.7 < crop.scale.item() < 1.4
    moved = np.abs(recorded[0].astype(float) - two[0]).mean()
    assert np.abs(recorded[0].astype(float) - recorded[1]).mean() < moved / 2


def test_blend_weights_minimise_the_error() -> None:
    rng = torch.Generator().manual_seed(4)
    own, plain = torch.randn(2, 200, 3, generator=rng)
    wanted = torch.tensor([[0.7, 1.0, 0.0], [0.3, 0.0, 0.5]])
    share = fit_share(own, plain, own * wanted[0] + plain * wanted[1])
    np.testing.assert_allclose(share.numpy(), wanted.numpy(), atol=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("moved"), np.random.default_rng(0)
    coefficients = np.zeros((24, len(NAMES)), np.float32)
    coefficients[:, [X, Y]] = rng.uniform(-1, 1, (24, 2))
    coefficients[::8] = 0
    points = rng.uniform(-0.9, 0.9, (1, 5, 2)) + 2 * SHIFT * coefficients[:, None, [X, Y]]
    np.save(folder / "coefficients.npy", coefficients)
    np.save(folder / "frames.npy", textured(SHIFT * coefficients[:, [X, Y]], 128))
    np.save(folder / "masks.npy", np.zeros((24, 128, 128), np.uint8))
    np.save(folder / "points.npy", points.astype(np.float16))
    np.save(folder / "visible.npy", np.ones((24, 5), bool))
    np.save(folder / "places.npy", np.zeros((5, 3), np.float32))
    (folder / "meta.json").write_text(json.dumps({"frames": 8, "done": 3, "points": {"mouth": [0, 5]}}))
    return folder


def test_the_fitted_map_reads_a_shift_from_the_flow(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "relative.pt"
    train(argparse.Namespace(data=[folder], heldout=folder, out=out, threads=1))
    (line,) = (json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines())
    assert line["pooled"] > 0.5
    state = torch.load(out, weights_only=True)["average"]
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "linear.weight": (len(NAMES), 512),
        "linear.bias": (len(NAMES),),
    }
