"""The readable generator: its parts, its names and shapes, and what its mathematics promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from inference.cli.bench import RandomBank
from inference.contract.config import GeneratorConfig
from inference.model.generator import ExpressionEnhancement, Generator, blur_kernel, fir, upsample, warp_grid

DATA = Path(__file__).parents[1] / "data"
SMALL = GeneratorConfig(32, 24, {4: 16, 8: 16, 16: 8, 32: 8}, (("lip", 4), ("pose", 2), ("exp", 3)))


def published(model: str) -> dict[str, dict]:
    tensors = json.loads((DATA / f"state_dict_{model}.json").read_text())["tensors"]
    return {tensor["key"]: tensor for tensor in tensors}


@pytest.fixture(scope="module")
def generator() -> Generator:
    generator = Generator(SMALL).eval().requires_grad_(False)
    generator.load_state_dict({name: torch.from_numpy(array) for name, array in RandomBank.of(SMALL).tensors.items()})
    return generator


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def alphas(count: int) -> torch.Tensor:
    return torch.randn(count, SMALL.coefficient_count, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("model", ["edtalk", "lip_pose"])
def test_names_and_shapes_are_the_checkpoints(model: str) -> None:
    tensors = published(model)
    config = GeneratorConfig.from_shapes({name: tuple(tensor["shape"]) for name, tensor in tensors.items()})
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in Generator(config).state_dict().items()}
    used = {name: tuple(tensor["shape"]) for name, tensor in tensors.items() if tensor["used_at_inference"]}
    assert ours == used


def test_the_basis_is_orthonormal_with_lapacks_signs(generator: Generator) -> None:
    basis = generator.basis()
    assert torch.allclose(basis.T @ basis, torch.eye(SMALL.coefficient_count), atol=1e-5)
    weight = torch.cat([generator.direction_lipnonlip.weight, generator.direction_exp.weight], 1) + 1e-8
    assert np.allclose(np.linalg.qr(weight.numpy()).Q, basis.numpy(), atol=1e-5)


def test_an_additional_bank_does_not_change_earlier_columns(generator: Generator) -> None:
    config = GeneratorConfig(32, 24, SMALL.channels, (*SMALL.banks, ("eye", 2)))
    larger = Generator(config)
    larger.load_state_dict(generator.state_dict(), strict=False)
    assert torch.allclose(larger.basis()[:, : SMALL.coefficient_count], generator.basis(), atol=1e-6)


def test_zero_enhancement_only_adds_the_normalised_feature() -> None:
    block = ExpressionEnhancement(8, 24).requires_grad_(False)
    for layer in (block.norm2.mlp_gamma, block.norm2.mlp_beta):
        layer.weight.zero_()
        layer.bias.zero_()
    block.norm2.mlp_gamma.bias.fill_(-1.0)  # the gain is 1 + gamma
    feature = torch.randn(2, 8, 16, 16)
    assert torch.equal(block(feature, torch.randn(2, 24)), feature)


def test_levels_end_in_the_picture(generator: Generator, picture: torch.Tensor) -> None:
    alpha = alphas(2)
    latent, features = generator.enc(picture.expand(2, -1, -1, -1))
    levels = list(generator.levels(latent, features, alpha))
    assert [level.rgb.shape[-1] for level in levels] == list(SMALL.resolutions)
    assert torch.equal(levels[-1].rgb, generator(picture.expand(2, -1, -1, -1), alpha))


def test_samples_of_a_batch_do_not_mix(generator: Generator, picture: torch.Tensor) -> None:
    alpha = alphas(3)
    together = generator(picture.expand(3, -1, -1, -1), alpha)
    for index in range(3):
        assert torch.allclose(together[index : index + 1], generator(picture, alpha[index : index + 1]), atol=1e-4)


def test_upsampling_inserts_zeros_and_filters() -> None:
    x, kernel = torch.randn(2, 3, 8, 8), blur_kernel(4.0)
    spread = torch.zeros(2, 3, 16, 16)
    spread[..., ::2, ::2] = x
    assert torch.allclose(upsample(x, kernel), fir(spread, kernel, (2, 1)), atol=1e-6)


def test_the_grid_of_no_flow_shrinks_the_picture() -> None:
    size = 16
    ramp = torch.arange(size, dtype=torch.float32).expand(1, 1, size, size)
    read = F.grid_sample(ramp, warp_grid(size), align_corners=False)[0, 0, size // 2, 1:-1]
    assert torch.allclose(read, torch.arange(1, size - 1) * size / (size - 1) - 0.5, atol=1e-4)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"size": 48}, "power of two"),
        ({"channels": {4: 8}}, "no entry for resolution 8"),
        ({"banks": (("pose", 6), ("lip", 20))}, "start with lip and pose"),
    ],
)
def test_impossible_configurations_are_refused(fault: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneratorConfig(**fault)


def test_configuration_survives_json_and_shapes(generator: Generator) -> None:
    assert GeneratorConfig.from_json(json.loads(json.dumps(SMALL.to_json()))) == SMALL
    assert GeneratorConfig.from_shapes({k: tuple(v.shape) for k, v in generator.state_dict().items()}) == SMALL
