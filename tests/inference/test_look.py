"""Banks that read lips or expression from a window of the face: what is read, and that other banks are not affected."""

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
from inference.model.load import bank_tensors, networks_json
from inference.model.readers.look import LOOKS, Look, LookConfig, Window, look_at, nine_points
from inference.renderer import FaceRenderer

PORTRAIT = Path(__file__).parents[2] / "inference" / "demo" / "portrait_1.png"
SIZE = 64
WINDOWS = {"lip": Window(1.5, 0.5), "exp": Window(1.75, 0.25, (0.0, -0.25))}
CONFIG = GeneratorConfig(SIZE, 32, {4: 16, 8: 16, 16: 16, 32: 16, 64: 8}, (("lip", 4), ("pose", 3), ("exp", 2)))


def bank_at(path: Path, *looks: str, more: int = 0) -> Bank:
    """A bank of random weights that reads some banks of coefficients from their windows. more: outputs that these have
    beyond the bank's.
    """
    torch.manual_seed(0)
    tensors = {name: part.numpy() for name, part in Generator(CONFIG).state_dict().items()}
    for bank in looks:
        window = WINDOWS[bank]
        reader = Look(LookConfig(32, dict(CONFIG.banks)[bank] + more, int(window.centre is not None)))
        reader.side.fill_(window.side)
        reader.spread.fill_(window.spread)
        if window.centre is not None:
            reader.centre.copy_(torch.tensor(window.centre))
        tensors |= bank_tensors(LOOKS[bank], reader.requires_grad_(False))
    made = Bank("tiny", CONFIG, numbered_coefficients(CONFIG.banks), networks=networks_json(tensors))
    save_bank(made, tensors, path)
    return load_bank(path)


@pytest.fixture(scope="module")
def crop() -> np.ndarray:
    portrait = load_picture(PORTRAIT).opaque
    return cut(portrait, crop_from_face(find_face(portrait, which="largest"), 128))


@pytest.mark.parametrize("looks", [("lip",), ("exp",), ("lip", "exp")])
def test_looks_are_read_from_their_windows_and_the_rest_from_the_face(
    tmp_path: Path, crop: np.ndarray, looks: tuple[str, ...]
) -> None:
    bank, plain = bank_at(tmp_path / "look.safetensors", *looks), bank_at(tmp_path / "plain.safetensors")
    read, before = (FaceRenderer(one, "cpu").encode([crop]).values[0] for one in (bank, plain))
    points, seen = nine_points([crop])
    assert seen.all()
    picture = torch.from_numpy(frames_to_network(crop[None], SIZE))
    generator = Generator(CONFIG)
    generator.load_state_dict({name: torch.from_numpy(bank.tensors[name]) for name in generator.state_dict()})
    for name, columns in CONFIG.bank_slices.items():
        if name not in looks:
            np.testing.assert_allclose(read[columns], before[columns], atol=1e-6)
            continue
        stored = {"lip": "look.lips", "exp": "expression_look.read"}[name]
        with torch.no_grad():
            latent = generator.enc(look_at(picture, points, SIZE, WINDOWS[name]))[0]
            wanted = latent @ torch.from_numpy(bank.tensors[f"{stored}.weight"]).T
        np.testing.assert_allclose(read[columns], wanted[0].numpy() + bank.tensors[f"{stored}.bias"], atol=1e-4)
        assert np.abs(read[columns] - before[columns]).max() > 1e-2


def test_a_bank_of_the_time_before_the_expressions_look_opens(tmp_path: Path, crop: np.ndarray) -> None:
    """Its file has these names, and says nothing of where the window's centre is: at the mouth."""
    bank = bank_at(tmp_path / "look.safetensors", "lip")
    names = {name: part for name, part in bank.tensors.items() if name.startswith("look.")}
    assert set(names) == {"look.lips.weight", "look.lips.bias", "look.side", "look.spread"}
    before = dataclasses.replace(bank, path=None, networks={"look": {"latent": 32, "outputs": 4}})
    save_bank(before, bank.tensors, tmp_path / "before.safetensors")
    one, other = (FaceRenderer(part, "cpu") for part in (load_bank(tmp_path / "before.safetensors"), bank))
    np.testing.assert_array_equal(*(part.encode([crop]).values for part in (one, other)))


def test_a_picture_without_a_face_is_read_as_a_whole(tmp_path: Path) -> None:
    bank, plain = bank_at(tmp_path / "look.safetensors", *WINDOWS), bank_at(tmp_path / "plain.safetensors")
    grey = np.full((SIZE, SIZE, 3), 128, np.uint8)
    read, before = (FaceRenderer(one, "cpu").encode([grey]).values for one in (bank, plain))
    np.testing.assert_allclose(read, before, atol=1e-6)


def test_the_portrait_is_read_as_the_decoder_assumes(tmp_path: Path, crop: np.ndarray) -> None:
    """Rendering a source's own coefficients gives the same picture with and without looks."""
    pictures = []
    for looks in (WINDOWS, ()):
        renderer = FaceRenderer(bank_at(tmp_path / f"{len(looks)}.safetensors", *looks), "cpu")
        renderer.set_source(crop)
        pictures.append(next(renderer.render(renderer.source_coefficients)))
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("window", WINDOWS.values())
def test_a_window_follows_place_size_and_turn(crop: np.ndarray, window: Window) -> None:
    picture = torch.from_numpy(frames_to_network(crop[None], 128))
    points, _ = nine_points([crop])
    turned = torch.rot90(picture, 1, (2, 3))
    moved = np.stack([points[..., 1], -points[..., 0]], -1)
    one, other = (look_at(*part, 32, window) for part in ((picture, points), (turned, moved)))
    assert (one - other).abs().max() < 1e-3
    assert 0.6 * window.spread < one.std().item() < window.spread
    assert one.mean().abs() < 1e-4


def test_a_window_is_centred_where_it_says() -> None:
    """A spot at the mouth, and one a quarter of the eye distance above the middle of the eyes."""
    points = np.zeros((1, 9, 2))
    points[0, [0, 1, 7]] = (-0.3, -0.1), (0.3, -0.1), (0.05, 0.5)
    line = (np.arange(128) * 2 + 1) / 128 - 1.0
    for place, window in (((0.05, 0.5), WINDOWS["lip"]), ((0.0, -0.25), WINDOWS["exp"])):
        squared = np.square(line[None] - place[0]) + np.square(line[:, None] - place[1])
        spot = torch.from_numpy(np.exp(-squared / 0.01)).float().expand(1, 3, 128, 128)
        shown = look_at(spot, points, 33, window)[0, 0]
        assert divmod(int(shown.argmax()), 33) == (16, 16)


def test_a_look_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EDTalkError, match=r"'look' .* reads 5 lip coefficients, the bank has 4"):
        FaceRenderer(bank_at(tmp_path / "five.safetensors", "lip", more=1), "cpu")
    with pytest.raises(EDTalkError, match=r"'expression_look' .* reads 3 exp coefficients, the bank has 2"):
        FaceRenderer(bank_at(tmp_path / "three.safetensors", "exp", more=1), "cpu")
    bank = bank_at(tmp_path / "look.safetensors", "lip")
    lacking = {name: part for name, part in bank.tensors.items() if name != "look.side"}
    save_bank(dataclasses.replace(bank, path=None), lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(EDTalkError, match="lacks the tensor 'side'"):
        FaceRenderer(load_bank(tmp_path / "lacking.safetensors"), "cpu")
