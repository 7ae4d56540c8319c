"""Banks that read the lips from a window around the mouth: what is read, and that other banks are not affected."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import Bank, load_bank, numbered_coefficients, save_bank
from inference.contract.config import GeneratorConfig
from inference.contract.errors import EDTalkError
from inference.face.detect import crop_from_face, find_face
from inference.face.framing import cut
from inference.media.picture import frames_to_network, load_picture
from inference.model.generator import Generator
from inference.model.load import networks_json
from inference.model.readers.look import PREFIX, Look, LookConfig, mouth_windows, nine_points
from inference.renderer import FaceRenderer

PORTRAIT = Path(__file__).parents[2] / "inference" / "demo" / "portrait_1.png"
SIZE, SIDE, SPREAD = 64, 1.5, 0.5
CONFIG = GeneratorConfig(SIZE, 32, {4: 16, 8: 16, 16: 16, 32: 16, 64: 8}, (("lip", 4), ("pose", 3), ("exp", 2)))


def bank_at(path: Path, outputs: int = 4, look: bool = True) -> Bank:
    """A bank of random weights, with or without a look."""
    torch.manual_seed(0)
    tensors = {name: part.numpy() for name, part in Generator(CONFIG).state_dict().items()}
    if look:
        reader = Look(LookConfig(32, outputs))
        reader.side.fill_(SIDE)
        reader.spread.fill_(SPREAD)
        tensors |= {PREFIX + name: part.numpy() for name, part in reader.state_dict().items()}
    made = Bank("tiny", CONFIG, numbered_coefficients(CONFIG.banks), networks=networks_json(tensors))
    save_bank(made, tensors, path)
    return load_bank(path)


@pytest.fixture(scope="module")
def crop() -> np.ndarray:
    portrait = load_picture(PORTRAIT).opaque
    return cut(portrait, crop_from_face(find_face(portrait, which="largest"), 128))


def test_the_lips_are_read_from_the_window_and_the_rest_from_the_face(tmp_path: Path, crop: np.ndarray) -> None:
    bank, plain = bank_at(tmp_path / "look.safetensors"), bank_at(tmp_path / "plain.safetensors", look=False)
    read, before = (FaceRenderer(one, "cpu").encode([crop]).values[0] for one in (bank, plain))
    np.testing.assert_allclose(read[4:], before[4:], atol=1e-6)
    points, seen = nine_points([crop])
    assert seen.all()
    picture = torch.from_numpy(frames_to_network(crop[None], SIZE))
    generator = Generator(CONFIG)
    generator.load_state_dict({name: torch.from_numpy(bank.tensors[name]) for name in generator.state_dict()})
    with torch.no_grad():
        latent = generator.enc(mouth_windows(picture, points, SIZE, SIDE, SPREAD))[0]
        lips = latent @ torch.from_numpy(bank.tensors["look.lips.weight"]).T
    np.testing.assert_allclose(read[:4], lips[0].numpy() + bank.tensors["look.lips.bias"], atol=1e-4)
    assert np.abs(read[:4] - before[:4]).max() > 1e-2


def test_a_picture_without_a_mouth_is_read_as_a_whole(tmp_path: Path) -> None:
    bank, plain = bank_at(tmp_path / "look.safetensors"), bank_at(tmp_path / "plain.safetensors", look=False)
    grey = np.full((SIZE, SIZE, 3), 128, np.uint8)
    read, before = (FaceRenderer(one, "cpu").encode([grey]).values for one in (bank, plain))
    np.testing.assert_allclose(read, before, atol=1e-6)


def test_the_portrait_is_read_as_the_decoder_assumes(tmp_path: Path, crop: np.ndarray) -> None:
    """Rendering a source's own coefficients gives the same picture with and without a look."""
    pictures = []
    for look in (True, False):
        renderer = FaceRenderer(bank_at(tmp_path / f"{look}.safetensors", look=look), "cpu")
        renderer.set_source(crop)
        pictures.append(next(renderer.render(renderer.source_coefficients)))
    np.testing.assert_array_equal(*pictures)


def test_the_window_follows_place_size_and_turn(crop: np.ndarray) -> None:
    picture = torch.from_numpy(frames_to_network(crop[None], 128))
    points, _ = nine_points([crop])
    turned = torch.rot90(picture, 1, (2, 3))
    moved = np.stack([points[..., 1], -points[..., 0]], -1)
    one, other = (mouth_windows(*part, 32, SIDE, SPREAD) for part in ((picture, points), (turned, moved)))
    assert (one - other).abs().max() < 1e-3
    assert 0.6 * SPREAD < one.std().item() < SPREAD
    assert one.mean().abs() < 1e-4


def test_a_look_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EDTalkError, match=r"'look' .* reads 5 lip coefficients, the bank has 4"):
        FaceRenderer(bank_at(tmp_path / "five.safetensors", outputs=5), "cpu")
    bank = bank_at(tmp_path / "look.safetensors")
    lacking = {name: part for name, part in bank.tensors.items() if name != "look.side"}
    save_bank(dataclasses.replace(bank, path=None), lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(EDTalkError, match="lacks the tensor 'side'"):
        FaceRenderer(load_bank(tmp_path / "lacking.safetensors"), "cpu")
