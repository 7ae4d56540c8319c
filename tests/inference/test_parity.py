"""The same numbers as upstream, with seeded weights, for everything that its nine ways of driving a face compute.

Tolerances are five times the difference between independent float32 implementations. The pictures come from our own
coefficients, so each mode is checked from its input pictures on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from inference.cli.bench import Upstream
from inference.contract.bank import Bank, numbered_coefficients
from inference.contract.config import GeneratorConfig
from inference.media.picture import to_network
from inference.model.generator import Generator
from inference.renderer import FaceRenderer
from tests import synthetic_inputs
from tests.seeded_weights import seeded_state_dict

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent / "data"
MODELS = ("edtalk", "lip_pose")
# mode: model, then what frame i's lip, pose and expression come from; "source_0" stays, others are numbered
MODES = {
    "edtalk_a_exp_weight": ("edtalk", "audio_lip", "pose", "exp_weight"),
    "edtalk_a_exp_image": ("edtalk", "audio_lip", "pose", "exp"),
    "edtalk_v": ("edtalk", "lip", "pose", "exp"),
    "edtalk_v_exp_weight": ("edtalk", "lip", "pose", "exp_weight"),
    "lip_pose_a": ("lip_pose", "audio_lip", "pose"),
    "lip_pose_a_fix_pose": ("lip_pose", "audio_lip", "source_0"),
    "lip_pose_v": ("lip_pose", "lip", "pose"),
    "change_video_lip": ("lip_pose", "audio_lip", "video"),
    "lip_pose_forward": ("lip_pose", "pose", "pose"),
}
PICTURES = ("source_0", *(f"{kind}_{index}" for kind in ("pose", "lip", "exp", "video") for index in range(3)))


class SeededBank(Bank):
    """Weights of the published sizes that are a function of their names."""

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        return seeded_state_dict(self.name)


class Parity(NamedTuple):
    bank: Bank
    renderer: FaceRenderer
    goldens: Mapping[str, np.ndarray]
    encoded: dict[str, np.ndarray]  # our coefficients of every picture


@pytest.fixture(scope="session")
def parity() -> dict[str, Parity]:
    found = {}
    for model in MODELS:
        with np.load(DATA / f"parity_{model}.npz") as file:
            goldens = dict(file)
        banks = GeneratorConfig().banks if model == "edtalk" else GeneratorConfig().banks[:2]
        config = GeneratorConfig(banks=banks)
        bank = SeededBank(model, config, numbered_coefficients(banks))
        renderer = FaceRenderer(bank)
        renderer.set_source(synthetic_inputs.picture("source_0"))
        rows = renderer.encode(synthetic_inputs.picture(name) for name in PICTURES).values
        found[model] = Parity(bank, renderer, goldens, dict(zip(PICTURES, rows, strict=True)))
    return found


def frames_of(mode: str) -> int:
    return 2 if mode == "lip_pose_forward" else 3


def driven(parity: Parity, mode: str) -> np.ndarray:
    """Our coefficients for the mode's frames, from its inputs."""
    slices = parity.bank.config.bank_slices
    rows = np.zeros((frames_of(mode), len(parity.bank.names)), np.float32)
    for (bank, columns), origin in zip(slices.items(), MODES[mode][1:], strict=True):
        for frame in range(len(rows)):
            if origin in ("audio_lip", "exp_weight"):
                rows[frame, columns] = parity.goldens[f"{origin}/{frame}"]
            else:
                name = origin if origin in PICTURES else f"{origin}_{frame}"
                rows[frame, columns] = parity.encoded[name][slices[bank]]
    return rows


def assert_picture(picture: np.ndarray, goldens: Mapping[str, np.ndarray], name: str) -> None:
    """picture (S, S, 3) against the whole golden, or every fourth pixel of it."""
    planes = picture.transpose(2, 0, 1)
    whole = f"{name}/picture"
    difference = planes - goldens[whole] if whole in goldens else planes[:, ::4, ::4] - goldens[f"{whole}_stride4"]
    assert np.abs(difference).max() <= 2e-4
    assert np.sqrt(np.square(difference).mean()) <= 1e-5


def sample(tensor: torch.Tensor) -> np.ndarray:
    """The excerpt that the goldens keep of a (1, C, H, W) tensor."""
    _, channels, height, width = tensor.shape
    return tensor[0, :: max(1, channels // 16), :: max(1, height // 8), :: max(1, width // 8)].numpy()


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_every_mode(parity: dict[str, Parity], mode: str) -> None:
    case = parity[MODES[mode][0]]
    rows = driven(case, mode)
    for frame, row in enumerate(rows):
        assert np.abs(row - case.goldens[f"{mode}/{frame}/alpha"]).max() <= 1e-4
    if mode == "change_video_lip":
        videos = (synthetic_inputs.picture(f"video_{frame}") for frame in range(len(rows)))
        pictures = case.renderer.render_frames(videos, rows, np.float32)
    else:
        pictures = case.renderer.render(rows, np.float32)
    for frame, picture in enumerate(pictures):
        assert_picture(picture, case.goldens, f"{mode}/{frame}")


@pytest.mark.parametrize("model", MODELS)
def test_coefficients_of_every_picture(parity: dict[str, Parity], model: str) -> None:
    case = parity[model]
    for name, row in case.encoded.items():
        expected = [case.goldens[f"encoder/{name}/{bank}"].ravel() for bank, _ in case.bank.config.banks]
        assert np.abs(row - np.concatenate(expected)).max() <= 1e-4


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_the_readable_generator_equals_the_goldens(parity: dict[str, Parity], model: str) -> None:
    """Encoder, heads, basis and every decoder level of the reference form."""
    case = parity[model]
    goldens, generator = case.goldens, Generator(case.bank.config).eval()
    names = generator.state_dict().keys()
    generator.load_state_dict({name: torch.from_numpy(case.bank.tensors[name]) for name in names})
    assert np.abs(generator.basis().numpy() - goldens["Q"]).max() <= 2e-6

    source = torch.from_numpy(to_network(synthetic_inputs.picture("source_0"))[None])
    latent, features = generator.enc(source)
    assert np.abs(latent[0].numpy() - goldens["encoder/source_0/wa"]).max() <= 3e-5
    for index, feature in enumerate(features):
        assert np.abs(sample(feature) - goldens[f"encoder/source_0/feat/{index}/sample"]).max() <= 5e-5
    heads = generator.coefficients(latent)[0].numpy()
    for bank, columns in case.bank.config.bank_slices.items():
        assert np.abs(heads[columns] - goldens[f"encoder/source_0/{bank}"].ravel()).max() <= 1e-4

    mode = "edtalk_a_exp_weight" if model == "edtalk" else "lip_pose_a"
    alpha = torch.from_numpy(goldens[f"{mode}/0/alpha"].reshape(1, -1))
    moved = latent + alpha @ generator.basis().T
    assert np.abs(moved[0].numpy() - goldens[f"{mode}/0/latent"].ravel()).max() <= 3e-5
    for index, level in enumerate(generator.levels(latent, features, alpha)):
        limit = 5e-5 if index < 4 else 1e-3
        for part, tensor in level._asdict().items():
            key = {"flow": "flow_raw", "feature": "eem"}.get(part, part)
            name = f"{mode}/0/level/{index}/{key}/sample"
            if name in goldens:
                assert np.abs(sample(tensor) - goldens[name]).max() <= limit, name
    assert_picture(level.rgb[0].permute(1, 2, 0).numpy(), goldens, f"{mode}/0")


def test_full_size_frames_do_not_depend_on_the_split(parity: dict[str, Parity]) -> None:
    """At this size, unlike the small ones of test_renderer, the convolutions are Winograd's."""
    case = parity["edtalk"]
    rows = driven(case, "edtalk_v")
    whole = list(case.renderer.render(rows, np.float32))
    assert np.array_equal(whole[1:], list(case.renderer.render(rows[1:], np.float32)))
    assert np.array_equal(whole[:1], list(case.renderer.render(rows[:1], np.float32)))


def test_the_call_that_the_benchmark_compares_with_is_upstreams(parity: dict[str, Parity]) -> None:
    case = parity["edtalk"]
    source, pose = (synthetic_inputs.picture(name) for name in ("source_0", "pose_0"))
    planes = Upstream(case.bank)(source, pose, case.goldens["edtalk_a_exp_weight/0/alpha"].reshape(1, -1))
    assert_picture(planes.transpose(1, 2, 0), case.goldens, "edtalk_a_exp_weight/0")
