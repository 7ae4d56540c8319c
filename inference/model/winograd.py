"""3x3 convolution at a quarter of the multiplications: Winograd's F(4x4, 3x3) on the processor, in float32.

Four by four output pixels need a six by six window of input. In one dimension a product of polynomials of degree 3 and
2 is known from its values at six points, so four outputs of a three-tap filter cost six multiplications, not twelve; in
two dimensions 36 instead of 144. Windows and filters are evaluated at 6 x 6 points, multiplied point by point - which,
summed over input channels, is one matrix product per point - and the result is interpolated back.

The maps between pixels and points are applied as matrix products too, one axis after the other on the way in, both at
once on the way out. The numbers in them cost the same whatever they are, so the points can be those that round least.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TILE, TAPS = 4, 3
POINTS = TILE + TAPS - 1
# Infinity is the sixth. The usual 0, 1, -1, 2, -2 can be applied by additions alone, but round five times worse: with
# these the result is as exact as a plain convolution's.
FINITE_POINTS = (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0))
FEWEST_CHANNELS, LEAST_WORK = 128, 1e8  # where it starts to pay; work is the plain convolution's, in FLOPs
BLOCK = 65536  # tiles x channels worked on at once: 36 float32 values of each are held twice, 19 MB


def _polynomial(roots: Tensor) -> Tensor:
    """Coefficients, constant first, of the product of (x - root)."""
    result = torch.ones(1, dtype=roots.dtype)
    for root in roots:
        result = F.pad(result, (1, 0)) - root * F.pad(result, (0, 1))
    return result


def toom_cook() -> tuple[Tensor, Tensor, Tensor]:
    """W (6, 6), K (6, 3), P (4, 6) in float64, such that P ((W window) * (K filter)) is the window filtered."""
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


class Scratch:
    """Memory that all convolutions of one renderer take turns in, so that frames do not allocate it."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}
        self._padded: dict[tuple[int, ...], Tensor] = {}

    def flat(self, name: str, *shape: int) -> Tensor:
        """Uninitialised floats in the given shape; the next call with this name overwrites them."""
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

    weight: (O, I, 3, 3). Pictures are worked on one by one, so a result does not depend on its neighbours in the batch.
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
            # Windows six lines high, four lines apart: read in place.
            windows = padded.as_strided((rows, POINTS, line), (TILE * line, line, 1), TILE * top * line)
            lines = self.scratch.flat("even", rows, POINTS, line)
            torch.bmm(self.window.expand(rows, -1, -1), windows, out=lines)
            # Now six pixels wide, four pixels apart: these have to be gathered.
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
    """Whichever is faster: the way to the points and back has to be paid by the multiplications saved."""
    outputs, inputs, *_ = weight.shape
    work = 2 * weight.numel() * resolution**2
    on_cpu = weight.device.type == "cpu" and dtype == torch.float32
    if on_cpu and min(inputs, outputs) >= FEWEST_CHANNELS and work >= LEAST_WORK:
        return Winograd(weight, scratch)
    return Direct(weight.to(dtype))


class Direct:
    """The same by the library's own convolution."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Tensor, scale: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        return torch.addcmul(bias, F.conv2d(x * scale, self.weight, padding=1), gain)
