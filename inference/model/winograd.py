"""3x3 convolution with a quarter of the multiplications: Winograd's F(4x4, 3x3) on the CPU, in float32.

It is used where it is faster than the library's convolution. At the official size of 256 px a frame takes 18 % less
CPU time with it (305 ms instead of 374 ms on one core, medians of 12 alternating frames), a new source 21 % less.

An output tile of 4 x 4 pixels depends on an input window of 6 x 6. In one dimension, the product of polynomials of
degree 3 and 2 is determined by its values at six points, so four outputs of a three-tap filter need six multiplications
instead of twelve; in two dimensions 36 instead of 144. Windows and filters are evaluated at 6 x 6 points and multiplied
point by point, which, summed over input channels, is one matrix product per point. The result is interpolated back.

The transforms between pixels and points are matrix products too: one axis after the other for the input, both at once
for the output. Their cost does not depend on the values, so the points are chosen for the smallest rounding error.
"""

from __future__ import annotations

import math
import threading

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import scaled

TILE, TAPS = 4, 3
POINTS = TILE + TAPS - 1
# The sixth point is infinity. The usual points 0, 1, -1, 2, -2 need additions only, but their rounding error is five
# times larger. With these the result is as accurate as a plain convolution.
FINITE_POINTS = (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0))
FEWEST_CHANNELS, LEAST_WORK = 128, 1e8  # from here on it is faster; work of the plain convolution, in FLOPs
BLOCK = 65536  # tiles x channels worked on at once: 36 float32 values of each are held twice, 19 MB


def _polynomial(roots: Tensor) -> Tensor:
    """Coefficients, constant first, of the product of (x - root)."""
    result = torch.ones(1, dtype=roots.dtype)
    for root in roots:
        result = F.pad(result, (1, 0)) - root * F.pad(result, (0, 1))
    return result


def toom_cook() -> tuple[Tensor, Tensor, Tensor]:
    """W (6, 6), K (6, 3), P (4, 6) in float64, such that P ((W window) * (K filter)) is the filtered window."""
    points = torch.tensor(FINITE_POINTS, dtype=torch.float64)
    window, kernel = torch.zeros(POINTS, POINTS).double(), torch.zeros(POINTS, TAPS).double()
    pixels = torch.zeros(TILE, POINTS).double()
    for row, point in enumerate(points):
        others = torch.cat([points[:row], points[row + 1 :]])
        window[row, :-1] = _polynomial(others)
        kernel[row] = point ** torch.arange(TAPS) / (point - others).prod()
        pixels[:, row] = point ** torch.arange(TILE)
    window[-1] = _polynomial(points)
    kernel[-1, -1] = pixels[-1, -1] = 1.0
    return window, kernel, pixels


class Scratch(threading.local):
    """Memory shared by all convolutions of one renderer, so that frames do not allocate it. Each thread has its own."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}
        self._padded: dict[tuple[int, ...], Tensor] = {}

    def flat(self, name: str, *shape: int) -> Tensor:
        """Uninitialised floats of the given shape, valid until the next call with this name."""
        count = math.prod(shape)
        if name not in self._flat or self._flat[name].numel() < count:
            self._flat[name] = torch.empty(count)
        return self._flat[name][:count].view(shape)

    def padded(self, *shape: int) -> Tensor:
        """(height, width, channels) with a border of zeros around it: (height + 2, width + 2, channels)."""
        if shape not in self._padded:
            height, width, channels = shape
            self._padded[shape] = torch.zeros(height + 2, width + 2, channels)
        return self._padded[shape]


class Winograd:
    """`gain * conv3x3(scale * x) + bias` with padding 1; sides are multiples of four.

    weight: (O, I, 3, 3). Pictures are processed one by one, so that a result does not depend on the rest of the batch.
    """

    def __init__(self, weight: Tensor, scratch: Scratch) -> None:
        window, kernel, pixels = toom_cook()
        weight = torch.einsum("ay,bx,oiyx->baio", kernel, kernel, weight.double())
        self.weight = weight.flatten(0, 1).float().contiguous()  # (36, I, O), the horizontal point in front
        self.window = window.float()
        self.to_pixels = torch.kron(pixels, pixels).float()
        self.scratch = scratch

    def __call__(self, x: Tensor, scale: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        """x (N, I, H, W), scale (N, I, 1, 1), gain (N, O, 1, 1), bias (1, O, 1, 1) -> (N, O, H, W), channels last."""
        count, _, height, width = x.shape
        outputs = self.weight.shape[2]
        out = torch.empty((count, outputs, height, width), memory_format=torch.channels_last)
        for one, by, to, plus, target in zip(x, scale, gain, bias.expand_as(gain), out, strict=True):
            self._one(one.permute(1, 2, 0), by.flatten(), to.flatten(), plus.flatten(), target.permute(1, 2, 0))
        return out

    def _one(self, x: Tensor, scale: Tensor, gain: Tensor, bias: Tensor, out: Tensor) -> None:
        height, width, inputs = x.shape
        outputs = out.shape[2]
        padded = self.scratch.padded(height, width, inputs)
        torch.mul(x, scale, out=padded[1:-1, 1:-1])
        line = padded.stride(0)
        down, across = height // TILE, width // TILE
        step = min(down, max(1, BLOCK // (across * max(inputs, outputs))))
        for top in range(0, down, step):
            rows = min(step, down - top)
            tiles = rows * across
            # Windows of six lines, every four lines: a view.
            windows = padded.as_strided((rows, POINTS, line), (TILE * line, line, 1), TILE * top * line)
            lines = self.scratch.flat("even", rows, POINTS, line)
            torch.bmm(self.window.expand(rows, -1, -1), windows, out=lines)
            # Windows of six pixels, every four pixels: these are copied.
            windows = lines.as_strided(
                (POINTS, POINTS, rows, across, inputs), (inputs, line, POINTS * line, TILE * inputs, 1)
            )
            gathered = self.scratch.flat("odd", POINTS, POINTS, rows, across, inputs).copy_(windows)
            points = self.scratch.flat("even", POINTS**2, tiles, inputs)
            torch.mm(self.window, gathered.view(POINTS, -1), out=points.view(POINTS, -1))
            products = self.scratch.flat("odd", POINTS**2, tiles, outputs)
            torch.bmm(points, self.weight, out=products)
            pixels = self.scratch.flat("even", TILE**2, tiles * outputs)
            torch.mm(self.to_pixels, products.view(POINTS**2, -1), out=pixels)
            pixels = pixels.view(TILE, TILE, rows, across, outputs).permute(2, 1, 3, 0, 4)
            band = out[TILE * top : TILE * (top + rows)].view(rows, TILE, across, TILE, outputs)
            torch.addcmul(bias, pixels, gain, out=band)


def convolution(
    weight: Tensor, resolution: int, scratch: Scratch, dtype: torch.dtype = torch.float32
) -> Winograd | Direct:
    """The faster implementation of a 3x3 convolution for this size, device and type.

    weight: (O, I, 3, 3); resolution: pixels of a side of the input. Winograd's algorithm is used on the CPU in float32
    if the saved multiplications cost more than its transforms.
    """
    outputs, inputs, *_ = weight.shape
    work = 2 * weight.numel() * resolution**2
    on_cpu = weight.device.type == "cpu" and dtype == torch.float32
    if on_cpu and min(inputs, outputs) >= FEWEST_CHANNELS and work >= LEAST_WORK:
        return Winograd(weight, scratch)
    return Direct(weight.to(dtype))


class Direct:
    """`gain * conv3x3(scale * x) + bias` with PyTorch's convolution; arguments as for `Winograd`."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Tensor, scale: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        return scaled(F.conv2d(scaled(x, scale), self.weight, padding=1), gain, bias)
