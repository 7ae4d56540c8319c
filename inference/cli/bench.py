"""Measures the rendering speed of this machine, relative to its matrix multiplication rate.

The work of a frame is counted as the multiplications and additions of a direct implementation. A faster algorithm
therefore counts as speed, and more than 100 % is possible. The matrix rate is measured between the frames, so that
other load affects both.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract.bank import Bank, numbered_coefficients
from ..contract.config import GeneratorConfig
from ..media.picture import to_network
from ..model.generator import Blur, ExpressionEnhancement, Generator, ModulatedConv2d, Upsample
from ..renderer import FaceRenderer

MATRIX = 1024
DETAIL = 512, 1024  # sizes in pixels of the frames with detail transfer
FLOW_GAIN = 0.04  # limits random flows to a few pixels, as after training


@dataclass(frozen=True)
class RandomBank(Bank):
    """A bank with random weights for measurements, by default of the published size."""

    seed: int = 0

    @staticmethod
    def of(config: GeneratorConfig | None = None) -> RandomBank:
        config = config or GeneratorConfig()
        return RandomBank("random weights", config, numbered_coefficients(config.banks))

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.seed)
            state = Generator(self.config).state_dict()
        flows = [name for name in state if name.startswith("dec.to_flows.") and name.endswith(".conv.weight")]
        state.update({name: state[name] * FLOW_GAIN for name in flows})
        return {name: tensor.numpy() for name, tensor in state.items()}


def run(
    bank: Bank | None = None,
    frames: int = 20,
    device: str = "auto",
    threads: int | None = None,
    compare_upstream: bool = False,
) -> dict[str, Any]:
    """Measure. Returns figures by name; times are medians. bank: default random weights of the published size.

    compare_upstream: also measure upstream's computation of a frame, on the CPU, and report the ratio.
    """
    bank = bank or RandomBank.of()
    config, random = bank.config, np.random.default_rng(0)
    image = random.integers(0, 256, (config.size, config.size, 3)).astype(np.uint8)
    started = time.perf_counter()
    _ = bank.tensors
    read = time.perf_counter()
    renderer = FaceRenderer(bank, device, threads)
    loaded = time.perf_counter()
    renderer.set_source(image)
    draw(renderer, renderer.source_coefficients.values)
    first = time.perf_counter()

    # Coefficients around the source's own; only the expression decides whether features can be kept.
    rows = renderer.source_coefficients.values + random.standard_normal((renderer.batch, len(bank.names))) * 0.5
    rows = rows.astype(np.float32)
    columns = config.bank_slices.get("exp", slice(0))
    rows[:, columns] = rows[0, columns]
    frame, overhead, rate = _frame_times(renderer, rows, columns, max(1, frames), random)
    sources = [seconds_of(partial(renderer.set_source, image)) for _ in range(3)]
    encodings = [seconds_of(partial(renderer.encode, image[None].repeat(renderer.batch, 0))) for _ in range(3)]
    detailed = _detail_times(renderer, image, rows, max(1, frames // 2), random)
    work = flops(config)
    figures: dict[str, Any] = {
        "bank": bank.name,
        "size": config.size,
        "device": str(renderer.device),
        "threads": torch.get_num_threads(),
        "batch": renderer.batch,
        "torch": torch.__version__,
        "frames": max(1, frames),
        "ms_per_frame": frame * 1e3,
        "frames_per_second": 1 / frame,
        "gflop_per_frame": work["decode"] / 1e9,
        "matrix_gflops": rate / 1e9,
        "share_of_matrix_rate": work["decode"] / frame / rate,
        "changing_expression_overhead": overhead,
        "detail_ms": detailed,
        "source_ms": median(sources) * 1e3,
        "encode_ms": median(encodings) / renderer.batch * 1e3,
        "import_s": _import_seconds(),
        "read_s": read - started,
        "load_s": loaded - read,
        "first_frame_s": first - loaded,
        "peak_memory_mib": peak_memory_mib(),
    }
    if compare_upstream:
        upstream = _upstream_time(bank, image, renderer.source_coefficients.values)
        figures["upstream_call_ms"] = upstream * 1e3
        figures["times_upstream"] = upstream / frame
        figures["source_share_of_upstream_call"] = median(sources) / upstream
        figures["upstream_gflop"] = (2 * work["encode"] + 2 * work["enhance"] + work["decode"]) / 1e9
    return figures


def _frame_times(
    renderer: FaceRenderer, rows: np.ndarray, expression: slice, turns: int, random: np.random.Generator
) -> tuple[float, float, float]:
    """Seconds of a frame, the share by which a changing expression adds to it, and operations of a matrix product per
    second, which is measured in turn with the frames."""
    matrix = torch.rand(MATRIX, MATRIX, device=renderer.device)
    products, constant, changing = [], [], []
    for _ in range(turns):
        products.append(seconds_of(partial(multiply, matrix)))
        draw(renderer, rows)
        constant.append(seconds_of(partial(draw, renderer, rows)) / renderer.batch)
        products.append(seconds_of(partial(multiply, matrix)))
        other = rows.copy()
        other[:, expression] += random.standard_normal(other[:, expression].shape)
        changing.append(seconds_of(partial(draw, renderer, other)) / renderer.batch)
    frame = median(constant)
    return frame, median(changing) / frame - 1, 2 * MATRIX**3 / median(products)


def _detail_times(
    renderer: FaceRenderer, image: np.ndarray, rows: np.ndarray, turns: int, random: np.random.Generator
) -> dict[int, float]:
    """Milliseconds of a frame with detail transfer, by size."""
    found = {}
    for size in (size for size in DETAIL if size >= renderer.config.size):
        renderer.set_source(image, random.integers(0, 256, (size, size, 3)).astype(np.uint8))
        draw(renderer, rows)
        times = [seconds_of(partial(draw, renderer, rows)) for _ in range(turns)]
        found[size] = median(times) / renderer.batch * 1e3
    return found


def _upstream_time(bank: Bank, image: np.ndarray, row: np.ndarray) -> float:
    """Seconds that a frame takes as EDTalk's own demos compute it: source and target are encoded for every frame."""
    call = Upstream(bank)
    _ = call(image, image, row)
    return median(seconds_of(partial(call, image, image, row)) for _ in range(3))


def format_text(figures: dict[str, Any]) -> str:
    """The figures of `run` as a readable table."""
    value = dict(figures)
    lines = [
        f"{value['bank']}, {value['size']} px, on {value['device']} with {value['threads']} threads, "
        f"batch {value['batch']}, torch {value['torch']}",
        f"frame             {value['ms_per_frame']:9.1f} ms   {value['frames_per_second']:.1f} frames/s, "
        f"median of {value['frames']}",
        f"work              {value['gflop_per_frame']:9.2f} GFLOP per frame, direct implementation",
        f"matrix product    {value['matrix_gflops']:9.1f} GFLOP/s in the same run; rendering reaches "
        f"{value['share_of_matrix_rate']:.0%} of it",
        *(f"at {size:4} px        {took:9.1f} ms   with detail transfer" for size, took in value["detail_ms"].items()),
        f"changing emotion  {value['changing_expression_overhead']:+9.1%} per frame",
        f"new source        {value['source_ms']:9.1f} ms once",
        f"capture           {value['encode_ms']:9.1f} ms per image",
        f"start-up          {value['import_s'] + value['read_s'] + value['load_s'] + value['first_frame_s']:9.2f} s: "
        f"import {value['import_s']:.2f}, read {value['read_s']:.2f}, load {value['load_s']:.2f}, "
        f"source and first frame {value['first_frame_s']:.2f}",
    ]
    if value["peak_memory_mib"] is not None:
        lines.append(f"peak memory       {value['peak_memory_mib']:9.0f} MiB")
    if "upstream_call_ms" in value:
        lines.append(
            f"upstream's call   {value['upstream_call_ms']:9.1f} ms for {value['upstream_gflop']:.1f} GFLOP: "
            f"{value['times_upstream']:.1f} times a frame; a new source takes "
            f"{value['source_share_of_upstream_call']:.2f} of it"
        )
    return "\n".join(lines)


def flops(config: GeneratorConfig) -> dict[str, float]:
    """Multiplications and additions of a direct implementation for one image: "encode", "decode", "enhance".

    "enhance" is the half of the expression enhancement that affects the result. Convolutions and low-pass filters are
    counted, pointwise operations are not.
    """
    channels, fir = config.channels, 32
    encode = 2 * 3 * channels[config.size] * config.size**2 + 2 * 16 * channels[4] * config.style_dim
    decode = 2 * 9 * 16 * channels[4] ** 2
    enhance = 0
    for size in config.resolutions:
        wide, narrow = channels[size // 2], channels[size]
        here, below = size**2, (size // 2) ** 2
        encode += 18 * here * narrow**2 + (18 + 2) * below * narrow * wide + 2 * fir * here * narrow
        decode += 18 * below * wide * narrow + 18 * here * narrow**2 + (fir + 2 * 6) * here * narrow
        enhance += 18 * here * narrow**2
    return {"encode": encode, "decode": decode, "enhance": enhance if config.enhances_expression else 0}


def peak_memory_mib() -> float | None:
    """Peak memory of this process, or None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class Upstream:
    """Upstream's computation of a frame at its full cost: encodings of source and pose image, both halves of the
    expression enhancement, filters built for each sample, low-pass filters as batches of one channel.

    Same result as ours; only for measurements on the CPU.
    """

    def __init__(self, bank: Bank) -> None:
        self.generator = generator = Generator(bank.config).eval().requires_grad_(False)
        state = {name: torch.from_numpy(bank.tensors[name]) for name in generator.state_dict() if name in bank.tensors}
        generator.load_state_dict(state, strict=False)  # starter banks may omit constant filters
        slow: dict[type, Callable[..., Tensor]] = {
            ModulatedConv2d: _grouped, Blur: _blur, Upsample: _upsample, ExpressionEnhancement: _both_halves
        }  # fmt: skip
        for module in generator.modules():
            if type(module) in slow:
                module.forward = partial(slow[type(module)], module)

    @torch.no_grad()
    def __call__(self, source: np.ndarray, pose: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Images uint8, alpha (1, n) -> float32 (3, S, S). The pose image is encoded but not used, as in upstream."""
        size = self.generator.config.size
        from_, to = (torch.from_numpy(to_network(picture, size)[None]) for picture in (source, pose))
        latent, _ = self.generator.enc(to)
        self.generator.coefficients(latent)
        self.generator.basis()  # once here and once below
        return self.generator(from_, torch.from_numpy(alpha))[0].numpy()


def _grouped(conv: ModulatedConv2d, x: Tensor, style: Tensor) -> Tensor:
    count, inputs, height, width = x.shape
    weight = conv.scale * conv.weight * conv.modulation(style)[:, None, :, None, None]
    if conv.demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    outputs, kernel = weight.shape[1], weight.shape[3]
    x = x.reshape(1, count * inputs, height, width)
    if conv.up:
        weight = weight.transpose(1, 2).reshape(count * inputs, outputs, kernel, kernel)
        x = F.conv_transpose2d(x, weight, stride=2, groups=count)
        return conv.blur(x.view(count, outputs, *x.shape[2:]))
    weight = weight.reshape(count * outputs, inputs, kernel, kernel)
    return F.conv2d(x, weight, padding=conv.padding, groups=count).view(count, outputs, height, width)


def _blur(blur: Blur, x: Tensor) -> Tensor:
    x = F.pad(x, (*blur.pad, *blur.pad))
    flat = F.conv2d(x.reshape(-1, 1, *x.shape[2:]), blur.kernel[None, None])
    return flat.view(*x.shape[:2], *flat.shape[2:])[..., :: blur.stride, :: blur.stride]  # upstream computes all of it


def _upsample(up: Upsample, x: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    spread = x.new_zeros(count * channels, 1, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = x.reshape(-1, 1, height, width)
    return F.conv2d(F.pad(spread, (2, 1, 2, 1)), up.kernel[None, None]).view(count, channels, 2 * height, 2 * width)


def _both_halves(block: ExpressionEnhancement, feature: Tensor, expression: Tensor) -> Tensor:
    gain, offset = block.norm2(expression)
    F.leaky_relu(block.normalised(feature) * gain + offset, 0.01)  # costs as much as the part that upstream overwrites
    gain, offset = block.norm2(expression)
    return feature + block.normalised(feature) * gain + offset


def draw(renderer: FaceRenderer, rows: np.ndarray) -> None:
    """Render rows (T, n) of the current source."""
    for _ in renderer.render(rows):
        pass


def multiply(matrix: Tensor) -> None:
    """Multiply a matrix by itself, and wait for the device."""
    torch.mm(matrix, matrix)
    if matrix.is_cuda:
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object]) -> float:
    """The time that a function takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _import_seconds() -> float:
    """Start-up time of a new process until a bank can be loaded."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", "import inference.renderer"]
    return seconds_of(partial(subprocess.run, command, cwd=root, check=False, capture_output=True))
