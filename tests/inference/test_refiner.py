"""The refiner: motion, painter and reading, and how a bank stores them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import (
    load_bank,
    save_bank,
)
from inference.contract.errors import EDTalkError
from inference.model.generator import Generator
from inference.model.load import REFINER, load_network
from inference.model.readers.absolute import ReaderConfig
from inference.model.refiner import (
    PREFIX,
    Reading,
    Refiner,
    RefinerConfig,
)
from inference.renderer import FaceRenderer
from training.export import starter_bank
from training.stages.generator import (
    fresh,
    small_config,
)

SIZE, COUNT = 64, 36
SHIFT = 0.125  # half widths: four pixels of 64
REST = torch.zeros(1, COUNT)
CONFIG = RefinerConfig((8, 8, 8), 16, (8, 8), (8, 16), COUNT, ((0, 0), (0, 1)), (0, 2))


@pytest.fixture
def refiner() -> Refiner:
    """Of random weights."""
    torch.manual_seed(0)
    made = Refiner(CONFIG).eval().requires_grad_(False)
    made.paint.weight.normal_(0, 0.1)
    return made


@pytest.fixture
def unpainted(refiner: Refiner) -> Refiner:
    """A refiner whose painter returns zero."""
    refiner.paint.weight.zero_()
    return refiner


def pictures(count: int = 1) -> torch.Tensor:
    """Smooth pictures, in which shifts of fractions of a pixel are measurable."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.manual_seed(1)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").clamp(-1, 1)


def still(count: int = 1, open_mask: float = 8.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A decoder's output without motion, in black."""
    flow = torch.zeros(count, 3, SIZE, SIZE)
    flow[:, 2] = open_mask
    return flow, torch.full((count, 3, SIZE, SIZE), -1.0)


def test_a_motion_shifts_the_picture(unpainted: Refiner) -> None:
    """One coefficient that moves everything to the right, at half strength and at full."""
    source, (flow, rgb) = pictures(), still()
    motion = torch.zeros(1, unpainted.fields, 2, SIZE // 2, SIZE // 2)
    motion[:, 7, 0] = SHIFT
    for strength, pixels in ((0.0, 0), (0.5, 2), (1.0, 4)):
        coefficients = torch.zeros(1, COUNT)
        coefficients[0, 7] = strength
        made = unpainted(source, motion, REST, flow, rgb, coefficients).rgb
        inner = slice(8, -8)
        wanted = source.roll(pixels, -1)
        torch.testing.assert_close(made[..., inner, inner], wanted[..., inner, inner], atol=2e-3, rtol=0)


def test_an_uneven_motion_is_inverted(unpainted: Refiner) -> None:
    """The motion at each sampling position leads back to the pixel."""
    half = SIZE // 2
    line = (torch.arange(half) * 2 + 1) / half - 1
    motion = torch.zeros(1, unpainted.fields, 2, half, half)
    motion[:, 0, 1] = 0.2 * torch.sin(2 * line)[:, None]  # y, by the first coefficient
    coefficients = torch.zeros(1, COUNT)
    coefficients[0, 0] = 1.0
    made = unpainted(pictures(), motion, REST, *still(), coefficients)
    positions = torch.tanh(made.flow[0, 1]) + torch.linspace(-1, 1, SIZE)[:, None]
    sent = positions + 0.2 * torch.sin(2 * positions)
    at = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    assert (sent - at[:, None])[8:-8].abs().max() < 2e-3


def test_the_motion_of_a_head_is_smooth(refiner: Refiner) -> None:
    """The fields of pose coefficients and their products are smoothed, the others are not."""
    source = torch.rand(1, 3, SIZE, SIZE, generator=torch.manual_seed(0)) * 2 - 1
    rigid = [0, 2, COUNT]  # (0, 0) is a product of two of them, (0, 1) is not
    assert refiner.rigid.nonzero().flatten().tolist() == rigid
    even = refiner.motion_fields(source)
    refiner.rigid.zero_()
    uneven = refiner.motion_fields(source)
    others = [field for field in range(refiner.fields) if field not in rigid]
    torch.testing.assert_close(even[:, others], uneven[:, others])
    before, after = (motion[:, rigid].diff(dim=-1).square().mean((0, 2, 3, 4)) for motion in (uneven, even))
    assert (after < 0.3 * before).all()


def test_amounts_include_products(refiner: Refiner) -> None:
    coefficients = torch.rand(3, COUNT)
    amounts = refiner.motion_weights(coefficients)
    assert amounts.shape == (3, refiner.fields)
    torch.testing.assert_close(amounts[:, :-2], coefficients)
    torch.testing.assert_close(amounts[:, -2:], coefficients[:, :1] * coefficients[:, :2])


def test_a_closed_mask_shows_the_decoders_picture(unpainted: Refiner) -> None:
    source, (flow, rgb) = pictures(), still(open_mask=-8.0)
    motion = unpainted.motion_fields(source)
    made = unpainted(source, motion, REST, flow, rgb, torch.ones(1, COUNT))
    torch.testing.assert_close(made.rgb, rgb, atol=2e-3, rtol=0)


def test_the_sources_own_coefficients_leave_it_unchanged(unpainted: Refiner) -> None:
    source, (flow, rgb), own = pictures(), still(), torch.rand(1, COUNT)
    made = unpainted(source, unpainted.motion_fields(source), own, flow, rgb, own)
    torch.testing.assert_close(made.rgb, source, atol=2e-3, rtol=0)


def test_readings_below_the_noise_floor_are_zero() -> None:
    reading = Reading(ReaderConfig((4, 4), 4, 3)).eval().requires_grad_(False)
    reading.last.weight.zero_()
    reading.doubt.copy_(torch.tensor([0.1, 0.05, 0.02]))
    for read, share in (
        ([0.1, -0.05, 0.02], 0.0), ([0.0, -0.075, 0.0], 0.5), ([0.01, 0.0, -0.04], 1.0), ([0.5, 0.04, 0.0], 1.0),
    ):  # fmt: skip
        reading.last.bias.copy_(torch.tensor(read))
        torch.testing.assert_close(reading(torch.zeros(2, 3, 16, 16)), share * torch.tensor([read] * 2))


def test_a_batch_is_its_rows(refiner: Refiner) -> None:
    source, (flow, rgb), coefficients = pictures(3), still(3), torch.rand(3, COUNT)
    motion, own = refiner.motion_fields(source), 0.1 * torch.rand(3, COUNT)
    together = refiner(source, motion, own, flow, rgb, coefficients)
    for row in range(3):
        one = slice(row, row + 1)
        known = source[one], refiner.motion_fields(source[one]), own[one]
        alone = refiner(*known, flow[one], rgb[one], coefficients[one])
        torch.testing.assert_close(alone.rgb, together.rgb[one], atol=1e-4, rtol=0)
        torch.testing.assert_close(alone.flow, together.flow[one], atol=1e-3, rtol=0)


# ------------------------------------------------------------------------------------------------ in a bank


def write_bank(path: Path, refiner: Refiner | None) -> Path:
    torch.manual_seed(2)
    model = fresh(small_config(SIZE))
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if refiner is not None:
        tensors |= {PREFIX + name: tensor.numpy() for name, tensor in refiner.state_dict().items()}
    save_bank(starter_bank(model.config), tensors, path)
    return path


def test_a_refiner_survives_a_bank(refiner: Refiner, tmp_path: Path) -> None:
    found = load_network(load_bank(write_bank(tmp_path / "bank.safetensors", refiner)), REFINER)
    assert found is not None
    for name, tensor in refiner.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert load_network(load_bank(write_bank(tmp_path / "plain.safetensors", None)), REFINER) is None


def test_a_refiner_for_other_coefficients_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = write_bank(
        tmp_path / "bank.safetensors", Refiner(RefinerConfig((8, 8, 8), 16, (8, 8), (8, 16), 5, ((0, 0),), (0,)))
    )
    with pytest.raises(EDTalkError, match="The network 'refiner' in the bank 'starter' is not usable") as caught:
        FaceRenderer(load_bank(path), "cpu")
    assert caught.value.kind == "bank"


def test_the_renderer_shows_the_refiners_pictures(refiner: Refiner, tmp_path: Path) -> None:
    """Also in batches; `places` returns the sampling positions."""
    bank = load_bank(write_bank(tmp_path / "bank.safetensors", refiner))
    renderer, rng = FaceRenderer(bank, "cpu", dtype="float32"), np.random.default_rng(0)
    image = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    rows = rng.normal(0, 0.3, (3, COUNT)).astype(np.float32)
    renderer.set_source(image)
    frames = np.stack(list(renderer.render(rows, np.float32)))
    assert all(np.array_equal(next(renderer.render(row[None], np.float32)), frame)
               for row, frame in zip(rows, frames, strict=True))  # fmt: skip

    model = Generator(bank.config.generator)
    model.load_state_dict({name: torch.from_numpy(np.array(bank.tensors[name])) for name in model.state_dict()})
    source = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        latent, features = model.enc(source)
        *_, last = model.levels(latent, features, torch.from_numpy(rows))
        known = source, refiner.motion_fields(source), refiner.read(source)
        known = (part.expand(3, *part.shape[1:]) for part in known)
        made = refiner(*known, last.flow, last.rgb, torch.from_numpy(rows))
    np.testing.assert_allclose(frames, made.rgb.permute(0, 2, 3, 1), atol=2e-3)
    positions = torch.linspace(-1, 1, SIZE)[None, None] + torch.tanh(made.flow[:, 0])
    np.testing.assert_allclose(renderer.places(rows)[:, 0], positions, atol=1e-3)
