"""The renderer on small random banks: same pictures as the readable form, however the work is cut."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from inference.cli import bench
from inference.cli.bench import RandomBank
from inference.contract.coefficients import Coefficients
from inference.contract.config import GeneratorConfig
from inference.contract.errors import EDTalkError
from inference.media.picture import from_network, to_network
from inference.model.decoder import GridWarp, RowWarp, upsample
from inference.model.generator import Generator, blur_kernel, warp_grid
from inference.model.generator import upsample as reference_upsample
from inference.model.weights import Weights
from inference.model.winograd import Direct, Scratch, Winograd
from inference.renderer import FaceRenderer

ROOT = Path(__file__).parents[2]
CHANNELS = {4: 24, 8: 24, 16: 16, 32: 8, 64: 8}
BANKS = (("lip", 5), ("pose", 3), ("exp", 4))
SMALL = GeneratorConfig(64, 32, CHANNELS, BANKS)
CONFIGS = {
    "expression": SMALL,
    "lip and pose": GeneratorConfig(32, 24, {4: 16, 8: 16, 16: 8, 32: 8}, BANKS[:2]),
    "further bank": GeneratorConfig(16, 24, {4: 8, 8: 16, 16: 24}, (*BANKS, ("eye", 2))),
    "one level": GeneratorConfig(8, 16, {4: 8, 8: 8}, BANKS),
}


def portrait(seed: int = 0, height: int = 64, width: int = 64) -> np.ndarray:
    """A smooth random picture: bicubic from five by five colours."""
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True).clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()


def motion(frames: int, config: GeneratorConfig = SMALL, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((frames, config.coefficient_count)).astype(np.float32)


def floats(renderer: FaceRenderer, rows: np.ndarray) -> np.ndarray:
    return np.stack(list(renderer.render(rows, np.float32)))


@pytest.fixture(scope="module")
def bank() -> RandomBank:
    return RandomBank.of(SMALL)


@pytest.fixture(scope="module")
def renderer(bank: RandomBank) -> FaceRenderer:
    renderer = FaceRenderer(bank, "cpu")
    renderer.set_source(portrait())
    return renderer


@pytest.fixture
def threads_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_agrees_with_the_readable_form(config: GeneratorConfig) -> None:
    bank = RandomBank.of(config)
    reference = Generator(config).eval()
    reference.load_state_dict({name: torch.from_numpy(array) for name, array in bank.tensors.items()})
    renderer, rows = FaceRenderer(bank, "cpu"), motion(3, config)
    renderer.set_source(portrait())
    source = torch.from_numpy(to_network(portrait(), config.size)[None])
    expected = reference(source.expand(3, -1, -1, -1), torch.from_numpy(rows)).permute(0, 2, 3, 1).numpy()
    assert np.abs(floats(renderer, rows) - expected).max() <= 2e-4
    latent, _ = reference.enc(source)
    assert np.abs(renderer.source_coefficients.values - reference.coefficients(latent).numpy()).max() <= 1e-4


def test_source_coefficients_equal_the_encoded_source(renderer: FaceRenderer) -> None:
    rest = renderer.source_coefficients
    assert rest.names == renderer.bank.names
    assert len(rest) == 1
    assert np.array_equal(renderer.encode(portrait()[None]).values, rest.values)


@pytest.mark.parametrize("batch", [1, 4])
def test_frames_are_bit_identical_however_the_clip_is_cut(bank: RandomBank, batch: int) -> None:
    renderer, rows = FaceRenderer(bank, "cpu", batch=batch), motion(11)
    renderer.set_source(portrait())
    whole = floats(renderer, rows)
    for cuts in ((0, 1, 11), (0, 5, 6, 11), (0, 4, 8, 11), range(12)):
        parts = [floats(renderer, rows[start:end]) for start, end in pairwise(cuts)]
        assert np.array_equal(np.concatenate(parts), whole)
    order = np.random.default_rng(1).permutation(11)
    assert np.array_equal(floats(renderer, rows[order]), whole[order])
    again = FaceRenderer(bank, "cpu", batch=batch)
    again.set_source(portrait())
    assert np.array_equal(floats(again, rows), whole)


@pytest.mark.parametrize("batch", [1, 3])
def test_encodings_do_not_depend_on_the_batch(bank: RandomBank, batch: int) -> None:
    renderer = FaceRenderer(bank, "cpu", batch=batch)
    pictures = np.stack([portrait(seed) for seed in range(4)])
    together = renderer.encode(pictures).values
    alone = np.concatenate([renderer.encode(picture[None]).values for picture in pictures])
    assert np.array_equal(together, alone)


def test_batches_of_other_sizes_agree_within_rounding(bank: RandomBank, renderer: FaceRenderer) -> None:
    batched = FaceRenderer(bank, "cpu", batch=4)
    batched.set_source(portrait())
    assert np.abs(floats(batched, motion(6)) - floats(renderer, motion(6))).max() <= 2e-4


def test_a_frame_alone_agrees_within_rounding(renderer: FaceRenderer) -> None:
    for row, frame in zip(motion(2), renderer.render(motion(2)), strict=True):
        assert np.abs(renderer.frame(row[None]).astype(int) - frame).max() <= 1


def test_cached_features_give_bit_identical_frames(bank: RandomBank) -> None:
    columns, rows = SMALL.bank_slices["exp"], motion(6)
    rows[:, columns] = rows[0, columns]
    kept, fresh = FaceRenderer(bank, "cpu"), FaceRenderer(bank, "cpu")
    kept.set_source(portrait())
    for frame, row in zip(kept.render(rows, np.float32), rows, strict=True):
        fresh.set_source(portrait())
        (alone,) = fresh.render(row[None], np.float32)
        assert np.array_equal(frame, alone)


def test_a_constant_expression_is_applied_once(bank: RandomBank, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer, columns = FaceRenderer(bank, "cpu"), SMALL.bank_slices["exp"]
    renderer.set_source(portrait())
    renderer.batch = 2
    made, canvas = [], renderer._decoder.canvas

    def count(*args: Any, **options: Any) -> Any:
        made.append(canvas(*args, **options))
        return made[-1]

    monkeypatch.setattr(renderer._decoder, "canvas", count)
    rows = motion(6)
    rows[:4, columns] = rows[0, columns]
    list(renderer.render(rows))
    assert [len(canvas.colours[0]) for canvas in made] == [1, 2]


def test_an_expression_does_not_depend_on_its_neighbours(bank: RandomBank) -> None:
    renderer, columns = FaceRenderer(bank, "cpu", batch=4), SMALL.bank_slices["exp"]
    renderer.set_source(portrait())
    rows = motion(4)
    same = rows.copy()
    same[:, columns] = rows[1, columns]
    assert np.array_equal(floats(renderer, rows)[1], floats(renderer, same)[1])


def test_a_new_source_replaces_the_old_one(bank: RandomBank) -> None:
    renderer, rows = FaceRenderer(bank, "cpu"), motion(1)
    renderer.set_source(portrait(0))
    first = floats(renderer, rows)
    renderer.set_source(portrait(1))
    second = floats(renderer, rows)
    renderer.set_source(portrait(0))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, floats(renderer, rows))


def test_a_source_for_every_frame(bank: RandomBank, renderer: FaceRenderer) -> None:
    rows, images = motion(3), [portrait(seed) for seed in range(3)]
    frames = list(renderer.render_frames(iter(images), rows, np.float32))
    other = FaceRenderer(bank, "cpu")
    for frame, image, row in zip(frames, images, rows, strict=True):
        other.set_source(image)  # as large as the network: resized by neither rule
        assert np.array_equal(frame, next(other.render(row[None], np.float32)))
    assert np.array_equal(frames[0], next(renderer.render(rows[:1], np.float32)))  # the source set stays


@pytest.mark.parametrize("count", [2, 4])
def test_pictures_and_rows_must_be_equal_in_number(renderer: FaceRenderer, count: int) -> None:
    with pytest.raises(EDTalkError, match="picture"):
        list(renderer.render_frames([portrait()] * count, motion(3)))


def test_bytes_are_the_floats_clamped_and_rounded(renderer: FaceRenderer) -> None:
    rows = motion(2) * 3
    values = floats(renderer, rows)
    pictures = np.stack(list(renderer.render(rows)))
    assert (pictures.dtype, pictures.shape) == (np.uint8, (2, 64, 64, 3))
    assert np.array_equal(pictures, from_network(values.transpose(0, 3, 1, 2)))
    expected = np.rint((np.clip(values, -1, 1) + 1) * 127.5)
    assert np.array_equal(pictures, expected.astype(np.uint8))
    assert np.abs(values).max() > 1  # what was clamped


def test_pictures_of_any_shape_are_accepted(renderer: FaceRenderer) -> None:
    wide = portrait(3, 90, 120)
    assert len(renderer.encode([portrait(), wide])) == 2
    other = FaceRenderer(renderer.bank, "cpu")
    other.set_source(wide)
    assert next(other.render(motion(1))).shape == (64, 64, 3)


def test_no_rows_give_no_frames(renderer: FaceRenderer) -> None:
    assert list(renderer.render(motion(0))) == []
    assert renderer.encode([]).values.shape == (0, SMALL.coefficient_count)


def test_misuse_raises_at_once(bank: RandomBank, renderer: FaceRenderer) -> None:
    fresh = FaceRenderer(bank, "cpu")
    with pytest.raises(EDTalkError, match="No source picture"):
        fresh.render(motion(1))
    with pytest.raises(EDTalkError, match="No source picture"):
        _ = fresh.source_coefficients
    with pytest.raises(EDTalkError, match=r"shape \(T, 12\)"):
        renderer.render(motion(2)[:, 1:])
    with pytest.raises(EDTalkError, match="finite"):
        renderer.render(np.full((1, 12), np.nan))
    foreign = Coefficients(motion(1), tuple(f"other_{index}" for index in range(12)))
    with pytest.raises(EDTalkError, match="do not match the bank"):
        renderer.render(foreign)
    with pytest.raises(EDTalkError, match="uint8 or float32"):
        renderer.render(motion(1), np.int16)
    for wrong in (portrait().astype(np.float32), portrait()[..., :2], portrait()[..., 0], portrait()[:0]):
        with pytest.raises(EDTalkError, match="uint8"):
            fresh.set_source(wrong)
    assert len(list(renderer.render(Coefficients(motion(1), bank.names)))) == 1


def test_unavailable_devices_and_types_are_refused(bank: RandomBank) -> None:
    for name in ("nonsense", "meta:0:0", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(EDTalkError) as caught:
            FaceRenderer(bank, name)
        assert caught.value.kind == "device"
    with pytest.raises(EDTalkError, match="float32, float16"):
        FaceRenderer(bank, "cpu", dtype="int8")
    assert FaceRenderer(bank).device.type in ("cpu", "cuda", "mps")


def test_a_bank_without_a_tensor_is_refused(bank: RandomBank) -> None:
    maimed = RandomBank.of(SMALL)
    del maimed.tensors["dec.convs.3.conv.weight"]
    with pytest.raises(EDTalkError, match=r"dec\.convs\.3\.conv\.weight") as caught:
        FaceRenderer(maimed, "cpu")
    assert caught.value.kind == "bank"


@pytest.mark.usefixtures("threads_restored")
def test_one_thread_renders_the_same(bank: RandomBank, renderer: FaceRenderer) -> None:
    one = FaceRenderer(bank, "cpu", threads=1)
    assert torch.get_num_threads() == 1
    one.set_source(portrait())
    assert np.abs(floats(one, motion(2)) - floats(renderer, motion(2))).max() <= 2e-4


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 0.03), ("float16", 0.004)])
def test_half_precision_is_close(bank: RandomBank, renderer: FaceRenderer, dtype: str, limit: float) -> None:
    """Half the bits in the convolutions: root mean square difference on a scale of -1 to 1."""
    coarse = FaceRenderer(bank, "cpu", dtype=dtype)
    coarse.set_source(portrait())
    rows = motion(3)
    try:
        found = floats(coarse, rows)
    except RuntimeError as error:
        pytest.skip(f"this processor does not convolve in {dtype}: {error}")
    difference = found - floats(renderer, rows)
    assert 0 < np.sqrt(np.square(difference).mean()) <= limit


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("cl") is None, reason="torch.compile needs a compiler")
def test_the_compiled_decoder_renders_the_same() -> None:
    config = CONFIGS["one level"]  # compiling takes the compiler seconds for every layer
    plain, compiled = (FaceRenderer(RandomBank.of(config), "cpu", compile=compile) for compile in (False, True))
    for renderer in (plain, compiled):
        renderer.set_source(portrait())
    assert np.abs(floats(compiled, motion(2, config)) - floats(plain, motion(2, config))).max() <= 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-4), ("float16", 0.004), ("bfloat16", 0.03)])
def test_cuda_frames_are_close_to_the_cpus_and_independent_of_the_batch(
    bank: RandomBank, renderer: FaceRenderer, dtype: str, limit: float
) -> None:
    gpu, rows = FaceRenderer(bank, "cuda", dtype=dtype), motion(11)
    gpu.set_source(portrait())
    whole = floats(gpu, rows)
    assert np.sqrt(np.square(whole - floats(renderer, rows)).mean()) <= limit
    assert np.array_equal(np.concatenate([floats(gpu, rows[:3]), floats(gpu, rows[3:])]), whole)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip() -> None:
    pytest.importorskip("resource", reason="this system does not tell a process's peak memory")
    script = """
import numpy as np
from inference.cli.bench import RandomBank, peak_memory_mib
from inference.contract.config import GeneratorConfig
from inference.renderer import FaceRenderer
config = GeneratorConfig(32, 16, {4: 8, 8: 8, 16: 8, 32: 8}, (("lip", 2), ("pose", 2), ("exp", 2)))
renderer = FaceRenderer(RandomBank.of(config), "cpu", threads=1)
image = np.zeros((512, 512, 3), np.uint8)
renderer.set_source(image)
def clip(frames):
    rows = np.random.default_rng(0).standard_normal((frames, 6)).astype(np.float32)
    for _ in renderer.render(rows): pass
    renderer.encode(image for _ in range(frames // 4))
    return peak_memory_mib()
print(clip(250), clip(1500))
"""
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    short, long = map(float, result.stdout.split())
    assert long <= 1.1 * short


@pytest.mark.parametrize(("inputs", "outputs", "height", "width"), [(5, 7, 8, 8), (64, 64, 32, 16), (3, 70, 4, 12)])
def test_winograd_equals_the_plain_convolution(inputs: int, outputs: int, height: int, width: int) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, inputs, height, width, generator=random)
    weight = torch.randn(outputs, inputs, 3, 3, generator=random) / (3 * inputs**0.5)
    scale, gain, bias = (torch.randn(2, count, 1, 1, generator=random) for count in (inputs, outputs, outputs))
    scratch = Scratch()
    for _ in range(2):  # the second time in used memory
        found = Winograd(weight, scratch)(x, scale, gain, bias[:1])
        expected = F.conv2d((x * scale).double(), weight.double(), padding=1) * gain + bias[:1]
        assert torch.allclose(found.double(), expected, atol=3e-5)
        assert torch.allclose(Direct(weight)(x, scale, gain, bias[:1]).double(), expected, atol=3e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_winograd_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(1, 8, 32, 16), torch.randn(8, 8, 3, 3)
    one = torch.ones(1, 8, 1, 1)
    whole = Winograd(weight, Scratch())(x, one, one, one)
    monkeypatch.setattr("inference.model.winograd.BLOCK", 3 * 4 * 8)
    assert torch.allclose(Winograd(weight, Scratch())(x, one, one, one), whole, atol=1e-4)


def test_both_warps_are_equal() -> None:
    feature = torch.randn(2, 6, 16, 16)
    grid = warp_grid(16) + torch.randn(2, 16, 16, 2)  # far outside, too
    mask = torch.rand(2, 1, 16, 16)
    rows = RowWarp()(RowWarp.prepare(feature), grid, mask)
    assert torch.allclose(rows, GridWarp()(GridWarp.prepare(feature), grid, mask), atol=1e-5)


def test_interpolation_equals_the_reference_upsampling() -> None:
    x = torch.randn(2, 6, 8, 8)
    assert torch.allclose(upsample(x), reference_upsample(x, blur_kernel(4.0)), atol=1e-6)


def test_multiplied_heads_equal_the_heads() -> None:
    bank = RandomBank.of(SMALL)
    generator = Generator(SMALL).requires_grad_(False)
    generator.load_state_dict({name: torch.from_numpy(array) for name, array in bank.tensors.items()})
    latent = torch.randn(4, SMALL.style_dim)
    weight, bias = Weights(bank.tensors).heads(SMALL)
    assert torch.allclose(F.linear(latent, weight, bias), generator.coefficients(latent), atol=1e-5)
    assert torch.allclose(Weights(bank.tensors).basis(SMALL), generator.basis(), atol=1e-6)


def test_benchmark_reports() -> None:
    figures = bench.run(RandomBank.of(SMALL), frames=2, device="cpu", compare_upstream=True)
    assert min(figures[name] for name in ("ms_per_frame", "matrix_gflops", "times_upstream")) > 0
    text = bench.format_text(figures)
    assert "matrix product" in text
    assert "upstream's call" in text


def test_counted_work_equals_the_reference_run() -> None:
    work = bench.flops(GeneratorConfig())
    assert [round(work[part] / 1e9, 1) for part in ("encode", "decode", "enhance")] == [31.2, 30.1, 20.8]
    assert bench.flops(CONFIGS["lip and pose"])["enhance"] == 0
