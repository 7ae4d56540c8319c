"""The reader's trainer on a made-up data set, and the reader that a bank carries."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.bank import load_bank, save_bank  # noqa: E402
from inference.errors import EDTalkError  # noqa: E402
from inference.model.reader import PREFIX, Reader  # noqa: E402
from inference.renderer import FaceRenderer  # noqa: E402
from training.export_bank import starter_bank  # noqa: E402
from training.train_generator import fresh, small_config  # noqa: E402
from training.train_reader import disturbed, train  # noqa: E402
from training.units import NAMES, SCALE, SHIFT  # noqa: E402

X, Y, GROWTH = (NAMES.index(f"head{what}") for what in ("ShiftX", "ShiftY", "Scale"))


def discs(coefficients: np.ndarray, size: int = 128) -> np.ndarray:
    """(N, size, size, 3) uint8: a bright disc that moves and grows as heads do."""
    line = (np.arange(size) + 0.5) / size - 0.5
    x, y = np.meshgrid(line, line)
    shift_x, shift_y, scale = (coefficients[:, column, None, None] for column in (X, Y, GROWTH))
    inside = np.hypot(x - SHIFT * shift_x, y - SHIFT * shift_y) < 0.2 * (1 + SCALE * scale)
    return np.where(inside[..., None], 200, 40).astype(np.uint8).repeat(3, -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    coefficients = np.zeros((200, len(NAMES)), np.float32)
    coefficients[:, [X, Y, GROWTH]] = rng.uniform(-1, 1, (200, 3))
    np.save(folder / "coefficients.npy", coefficients)
    np.save(folder / "frames.npy", discs(coefficients))
    np.save(folder / "masks.npy", np.zeros((200, 128, 128), np.uint8))
    np.save(folder / "points.npy", np.zeros((200, 5, 2), np.float16))
    np.save(folder / "visible.npy", np.ones((200, 5), bool))
    np.save(folder / "places.npy", np.zeros((5, 3), np.float32))
    (folder / "meta.json").write_text(json.dumps({"frames": 8, "done": 25, "points": {"mouth": [0, 5]}}))
    return folder


def options(folder: Path, out: Path, minutes: float) -> argparse.Namespace:
    named = {"data": [folder], "heldout": folder, "out": out, "minutes": minutes}
    return argparse.Namespace(**named, pictures=16, rate=2e-3, threads=1, seed=0)


def test_it_learns_and_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "reader.pt"
    train(options(folder, out, 0.1))
    first = torch.load(out, weights_only=True)
    train(options(folder, out, 0.1))  # its time is used up
    assert torch.load(out, weights_only=True)["step"] == first["step"]
    train(options(folder, out, first["elapsed"] / 60 + 0.1))
    assert torch.load(out, weights_only=True)["step"] > first["step"]
    start, *_, end = (json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines())
    assert end["error"] < start["error"]
    assert end["pose"] > 0.4  # of the 0.5 that there is to know: three of six move


def test_a_crop_beside_the_face_is_a_face_that_moved() -> None:
    """What `disturbed` says of a picture is what the disc in it does."""
    rng = np.random.default_rng(0)
    coefficients = torch.zeros(16, len(NAMES))
    coefficients[:, [X, Y, GROWTH]] = torch.from_numpy(rng.uniform(-0.5, 0.5, (16, 3)).astype(np.float32))
    pictures = torch.from_numpy(discs(coefficients.numpy())).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    moved, shown = disturbed(pictures, coefficients, rng)
    drawn = torch.from_numpy(discs(shown.numpy())).permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def inside(picture: torch.Tensor) -> torch.Tensor:
        grey = picture.mean(1)
        return grey > (grey.amax((1, 2)) + grey.amin((1, 2)))[:, None, None] / 2

    assert (inside(moved) != inside(drawn)).float().mean() < 0.02
    assert (inside(moved) != inside(pictures)).float().mean() > 0.02


def test_a_bank_reads_with_the_reader_it_carries(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = small_config(64)
    tensors = {name: tensor.numpy() for name, tensor in fresh(config).state_dict().items()}
    reader = Reader((8, 8, 8, 8), 16, len(NAMES))
    carried = {PREFIX + name: tensor.numpy() for name, tensor in reader.state_dict().items()}
    save_bank(starter_bank(config), tensors | carried, tmp_path / "reads.safetensors")
    save_bank(starter_bank(config), tensors, tmp_path / "plain.safetensors")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    planes = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.no_grad():
        wanted = reader(planes).numpy()
    face = FaceRenderer(load_bank(tmp_path / "reads.safetensors"), "cpu")
    np.testing.assert_allclose(face.encode(pictures).values, wanted, atol=1e-5)
    plain = FaceRenderer(load_bank(tmp_path / "plain.safetensors"), "cpu")
    assert np.abs(plain.encode(pictures).values - wanted).max() > 1e-3
    for one in (face, plain):  # a source is taken to do what its latent says, or at rest it would not be itself
        one.set_source(pictures[0])
    np.testing.assert_array_equal(face.source_coefficients.values, plain.source_coefficients.values)


@pytest.mark.parametrize(("channels", "outputs"), [((8, 8, 8), 36), ((8, 8, 8, 8), 35)])
def test_a_reader_that_does_not_fit_is_refused(tmp_path: Path, channels: tuple[int, ...], outputs: int) -> None:
    config = small_config(64)
    tensors = {name: tensor.numpy() for name, tensor in fresh(config).state_dict().items()}
    foreign = Reader(channels, 16, outputs).state_dict().items()
    tensors |= {PREFIX + name: tensor.numpy() for name, tensor in foreign}
    bank = save_bank(starter_bank(config), tensors, tmp_path / "bank.safetensors")
    with pytest.raises(EDTalkError, match="The reader in the bank 'starter'"):
        FaceRenderer(bank, "cpu")
