"""The reader stage on a small data set, and the reader of a bank."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import (
    load_bank,
    save_bank,
)
from inference.contract.errors import EDTalkError
from inference.model.readers.absolute import (
    PREFIX,
    Reader,
    ReaderConfig,
)
from inference.renderer import FaceRenderer
from training.export import starter_bank
from training.heads.data import HeadPairs
from training.learning.augment import Crop
from training.stages.generator import (
    fresh,
    small_config,
)
from training.stages.pretraining import principal
from training.stages.reader import LEAST_NOISE, Learner, framed_rows, noise_floor, with_noise_floor
from training.units import (
    NAMES,
    SCALE,
    SHIFT,
)

pytestmark = pytest.mark.slow

X, Y, GROWTH = (NAMES.index(f"head{what}") for what in ("ShiftX", "ShiftY", "Scale"))


def discs(coefficients: np.ndarray, size: int = 128) -> np.ndarray:
    """(N, size, size, 3) uint8: a bright disc that moves and grows as heads do."""
    line = (np.arange(size) + 0.5) / size - 0.5
    x, y = np.meshgrid(line, line)
    shift_x, shift_y, scale = (coefficients[:, column, None, None] for column in (X, Y, GROWTH))
    inside = np.hypot(x - SHIFT * shift_x, y - SHIFT * shift_y) < 0.2 * (1 + SCALE * scale)
    return np.where(inside[..., None], 200, 40).astype(np.uint8).repeat(3, -1)


def on_discs(coefficients: np.ndarray) -> np.ndarray:
    """(N, 5, 2): the middle of each disc and four places on its edge, in [-1, 1]."""
    shift = SHIFT * coefficients[:, [X, Y]]
    around = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    return 2 * (shift[:, None] + 0.2 * (1 + SCALE * coefficients[:, GROWTH, None, None]) * around)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    coefficients = np.zeros((200, len(NAMES)), np.float32)
    coefficients[:, [X, Y, GROWTH]] = rng.uniform(-1, 1, (200, 3))
    np.save(folder / "coefficients.npy", coefficients)
    np.save(folder / "frames.npy", discs(coefficients))
    np.save(folder / "masks.npy", np.zeros((200, 128, 128), np.uint8))
    np.save(folder / "points.npy", on_discs(coefficients).astype(np.float16))
    np.save(folder / "visible.npy", np.ones((200, 5), bool))
    np.save(folder / "places.npy", np.zeros((5, 3), np.float32))
    (folder / "meta.json").write_text(json.dumps({"frames": 8, "done": 25, "points": {"mouth": [0, 5]}}))
    return folder


def test_a_crop_changes_pictures_coefficients_and_points_alike() -> None:
    """A disc drawn with the changed coefficients equals the cropped picture, and its points are where they were put."""
    rng = np.random.default_rng(0)
    coefficients = torch.zeros(16, len(NAMES))
    coefficients[:, [X, Y, GROWTH]] = torch.from_numpy(rng.uniform(-0.5, 0.5, (16, 3)).astype(np.float32))
    pictures = torch.from_numpy(discs(coefficients.numpy())).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    points = torch.from_numpy(on_discs(coefficients.numpy()))
    crop = Crop.random(16, rng)
    moved, shown, placed = crop.pictures(pictures), crop.coefficients(coefficients), crop.points(points)
    np.testing.assert_allclose(placed.numpy(), on_discs(shown.numpy()), atol=1e-5)
    drawn = torch.from_numpy(discs(shown.numpy())).permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def inside(picture: torch.Tensor) -> torch.Tensor:
        grey = picture.mean(1)
        return grey > (grey.amax((1, 2)) + grey.amin((1, 2)))[:, None, None] / 2

    assert (inside(moved) != inside(drawn)).float().mean() < 0.02
    assert (inside(moved) != inside(pictures)).float().mean() > 0.02


def test_folding_the_normalisation_does_not_change_the_output() -> None:
    torch.manual_seed(0)
    learner, pictures = Learner(4), torch.rand(8, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        for _ in range(3):
            learner(pictures)  # updates the running statistics
        wanted, _ = learner.eval()(pictures)
        assert wanted.std() > 1e-3
        torch.testing.assert_close(learner.exported()(pictures), wanted, atol=1e-4, rtol=1e-4)


def test_principal_directions_reproduce_the_points(folder: Path) -> None:
    points = HeadPairs([folder], 64).points.float()
    mean, directions = principal(points, 96)
    assert directions.shape == (10, 10)  # no more than dimensions
    torch.testing.assert_close(directions.T @ directions, torch.eye(10), atol=1e-5, rtol=0)
    mean, directions = principal(points, 3)  # across, down, larger
    rows = points.flatten(1) - mean
    torch.testing.assert_close(rows @ directions @ directions.T, rows, atol=2e-3, rtol=0)


def test_readings_of_people_at_rest_give_the_noise_floor() -> None:
    torch.manual_seed(0)
    reader, truth = Learner(4).exported(), torch.zeros(200, len(NAMES))
    truth[100:, 3] = 0.5
    read = torch.zeros_like(truth)
    read[:100, X], read[100:, Y] = torch.linspace(-0.2, 0.2, 100), 0.9
    reading = with_noise_floor(reader, noise_floor(read, truth))
    assert reading.doubt[X] == pytest.approx(0.2, abs=0.01)
    others = [column for column in range(len(NAMES)) if column != X]
    assert (reading.doubt[others] == LEAST_NOISE).all()
    pictures = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        plain = reader(pictures)
        reading.doubt.fill_(1e-6)
        torch.testing.assert_close(reading(pictures), plain)  # without a floor it is the plain reader


def test_framed_readers_see_mostly_portraits(folder: Path) -> None:
    rows = framed_rows(HeadPairs([folder], 64), 2000, np.random.default_rng(0)) % 8
    shares = [(part.sum() / 2000).item() for part in (rows == 0, (rows == 1) | (rows == 2), rows > 2)]
    np.testing.assert_allclose(shares, [0.4, 0.4, 0.2], atol=0.05)


def test_a_bank_reads_with_its_own_reader(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = small_config(64)
    tensors = {name: tensor.numpy() for name, tensor in fresh(config).state_dict().items()}
    reader = Reader(ReaderConfig((8, 8, 8, 8), 16, len(NAMES)))
    carried = {PREFIX + name: tensor.numpy() for name, tensor in reader.state_dict().items()}
    save_bank(starter_bank(config), tensors | carried, tmp_path / "reads.safetensors")
    save_bank(starter_bank(config), tensors, tmp_path / "plain.safetensors")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    planes = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.no_grad():
        wanted = reader(planes).numpy()
    face = FaceRenderer(load_bank(tmp_path / "reads.safetensors"), "cpu")
    np.testing.assert_allclose(face.encode(pictures).values[:, : len(NAMES)], wanted, atol=1e-5)
    plain = FaceRenderer(load_bank(tmp_path / "plain.safetensors"), "cpu")
    assert np.abs(plain.encode(pictures).values[:, : len(NAMES)] - wanted).max() > 1e-3
    for one in (face, plain):  # source coefficients are read from the latent, so that they reproduce the source
        one.set_source(pictures[0])
    np.testing.assert_array_equal(face.source_coefficients.values, plain.source_coefficients.values)


@pytest.mark.parametrize(("channels", "outputs"), [((8, 8, 8), 36), ((8, 8, 8, 8), 35)])
def test_a_reader_that_does_not_fit_is_refused(tmp_path: Path, channels: tuple[int, ...], outputs: int) -> None:
    config = small_config(64)
    tensors = {name: tensor.numpy() for name, tensor in fresh(config).state_dict().items()}
    foreign = Reader(ReaderConfig(channels, 16, outputs)).state_dict().items()
    tensors |= {PREFIX + name: tensor.numpy() for name, tensor in foreign}
    bank = save_bank(starter_bank(config), tensors, tmp_path / "bank.safetensors")
    with pytest.raises(EDTalkError, match="The network 'reader' in the bank 'starter'"):
        FaceRenderer(bank, "cpu")
