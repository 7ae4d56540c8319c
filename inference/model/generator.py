"""The EDTalk generator in readable form: `w = w_source + Q alpha`, decoded by warping the source's features.

Modules and tensors are named as in the published checkpoints. This reference form is used for training and for parity
tests; `inference.model.encoder` and `inference.model.decoder` are the faster rewrite that renders. Layout is
(N, C, H, W), pictures are RGB in [-1, 1]. Section numbers in comments refer to the paper, arXiv 2404.01647.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contract.config import GeneratorConfig

LEAK = 0.2
GAIN = math.sqrt(2.0)
ENHANCEMENT_WIDTH = 128
TAPS = (1.0, 3.0, 3.0, 1.0)


def blur_kernel(gain: float) -> Tensor:
    """(4, 4) low-pass kernel outer([1 3 3 1]) * gain / 64."""
    taps = torch.tensor(TAPS)
    return torch.outer(taps, taps) * (gain / 64.0)


def fir(x: Tensor, kernel: Tensor, pad: tuple[int, int], stride: int = 1) -> Tensor:
    """Filter each channel with the (4, 4) kernel after zero-padding both axes by `pad` (before, after)."""
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, 4, 4)
    if pad[0] == pad[1]:
        return F.conv2d(x, weight, padding=pad[0], stride=stride, groups=channels)
    return F.conv2d(F.pad(x, (*pad, *pad)), weight, stride=stride, groups=channels)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 2H, 2W): insert zeros, then low-pass filter. `kernel` includes the factor 4."""
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, 4, 4)
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=channels)


class EqualConv2d(nn.Module):
    """Convolution whose weight is scaled by 1 / sqrt(fan in) when used."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale = 1.0 / math.sqrt(inputs * kernel**2)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)


class EqualLinear(nn.Module):
    """Affine map whose weight is scaled by 1 / sqrt(fan in) when used; the motion heads have no activation."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.scale = 1.0 / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


class ScaledLeakyReLU(nn.Module):
    """sqrt(2) * leaky_relu(x + bias, 0.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias, LEAK) * GAIN


class Blur(nn.Module):
    kernel: Tensor

    def __init__(self, pad: tuple[int, int], gain: float = 1.0, stride: int = 1) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel(gain))
        self.pad, self.stride = pad, stride

    def forward(self, x: Tensor) -> Tensor:
        return fir(x, self.kernel, self.pad, self.stride)


class ResBlock(nn.Module):
    """Halve the resolution, (N, I, H, W) -> (N, O, H/2, W/2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(EqualConv2d(inputs, inputs, 3, padding=1), ScaledLeakyReLU(inputs))
        self.conv2 = nn.Sequential(Blur((2, 2)), EqualConv2d(inputs, outputs, 3, stride=2), ScaledLeakyReLU(outputs))
        # The published 1x1 convolution has stride 2; here the filter has it, so that skipped pixels are not filtered.
        self.skip = nn.Sequential(Blur((1, 1), stride=2), EqualConv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / GAIN


class Appearance(nn.Module):
    """Picture -> latent and feature pyramid."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        channels = config.channels
        layers: list[nn.Module] = [
            nn.Sequential(EqualConv2d(3, channels[config.size], 1), ScaledLeakyReLU(channels[config.size]))
        ]
        for resolution in reversed(config.resolutions):
            layers.append(ResBlock(channels[resolution], channels[resolution // 2]))
        layers.append(EqualConv2d(channels[4], config.style_dim, 4))
        self.convs = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for layer in self.convs:
            x = layer(x)
            features.append(x)
        return x.flatten(1), features[-3::-1]  # without the 4x4 map, coarse to fine


class Encoder(nn.Module):
    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.net_app = Appearance(config)

    def forward(self, picture: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(N, 3, S, S) -> latent (N, style_dim), features [(N, C, 8, 8), ... (N, C, S, S)]."""
        return self.net_app(picture)


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels are scaled by an affine function of the style, optionally demodulated.

    Scaling the input and the output of one shared convolution equals a convolution with per-sample weights.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style_dim: int, *, up: bool, demodulate: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.modulation = EqualLinear(style_dim, inputs, bias=1.0)
        self.scale = 1.0 / math.sqrt(inputs * kernel**2)
        self.padding, self.up, self.demodulate = kernel // 2, up, demodulate
        if up:
            self.blur = Blur((1, 1), gain=4.0)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scales = self.modulation(style)  # (N, I)
        weight = self.weight[0] * self.scale
        x = x * scales[:, :, None, None]
        if self.up:
            x = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        else:
            x = F.conv2d(x, weight, padding=self.padding)
        if self.demodulate:
            energy = weight.square().sum((2, 3))  # (O, I)
            x = x * torch.rsqrt(F.linear(scales.square(), energy) + 1e-8)[:, :, None, None]
        return x


class StyledConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, style_dim: int, *, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, 3, style_dim, up=up, demodulate=True)
        self.activate = ScaledLeakyReLU(outputs)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return self.activate(self.conv(x, style))


class Upsample(nn.Module):
    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return upsample(x, self.kernel)


class ToFlow(nn.Module):
    """Two rows of warp field and one of blend logit, added to the coarser level's."""

    def __init__(self, channels: int, style_dim: int, *, first: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(channels, 3, 1, style_dim, up=False, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        if not first:
            self.upsample = Upsample()

    def forward(self, x: Tensor, style: Tensor, coarser: Tensor | None) -> Tensor:
        flow = self.conv(x, style) + self.bias
        return flow if coarser is None else flow + self.upsample(coarser)


class ToRGB(nn.Module):
    """Colour of the warped feature, added to the coarser level's; activated, then biased once more."""

    def __init__(self, channels: int, *, first: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(EqualConv2d(channels, 3, 1), ScaledLeakyReLU(3))
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        if not first:
            self.upsample = Upsample()

    def forward(self, warped: Tensor, coarser: Tensor | None) -> Tensor:
        colour = self.conv(warped) + self.bias
        return colour if coarser is None else colour + self.upsample(coarser)


class AdaptiveNorm(nn.Module):
    """Gain and offset of an instance normalisation, predicted from the expression latent (3.3)."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Linear(style_dim, ENHANCEMENT_WIDTH), nn.ReLU())
        self.mlp_gamma = nn.Linear(ENHANCEMENT_WIDTH, channels)
        self.mlp_beta = nn.Linear(ENHANCEMENT_WIDTH, channels)

    def forward(self, expression: Tensor) -> tuple[Tensor, Tensor]:
        """(N, style_dim) -> gain and offset, each (N, C, 1, 1)."""
        hidden = self.mlp_shared(expression)
        return 1.0 + self.mlp_gamma(hidden)[:, :, None, None], self.mlp_beta(hidden)[:, :, None, None]


class ExpressionEnhancement(nn.Module):
    """Enhances a source feature for an expression. Upstream overwrites its first branch, so it is not built here."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = AdaptiveNorm(channels, style_dim)

    def normalised(self, feature: Tensor) -> Tensor:
        """The part that depends on the source alone, (S, C, R, R)."""
        return F.instance_norm(self.conv2(feature))

    def forward(self, feature: Tensor, expression: Tensor) -> Tensor:
        """Enhanced features, one per row of `expression`; see `per_frame` for how sources and rows pair up."""
        gain, offset = self.norm2(expression)
        normalised = per_frame(self.normalised(feature), len(expression))
        return per_frame(feature, len(expression)) + normalised * gain + offset


class ConstantInput(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


def warp_grid(size: int, device: torch.device | str = "cpu") -> Tensor:
    """(1, size, size, 2) sampling positions of a zero flow, x first.

    The end points are included although `grid_sample` runs with align_corners=False, so it is not quite the identity;
    the published weights were trained with it.
    """
    line = torch.linspace(-1.0, 1.0, size, device=device)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)[None]


def per_frame(x: Tensor, frames: int) -> Tensor:
    """(S, ...) -> (frames, ...): every source repeated for its frames / S consecutive frames."""
    return x if len(x) == frames else x.repeat_interleave(frames // len(x), 0)


class Level(NamedTuple):
    """Outputs of one decoder level, for training losses and parity tests. `flow` is before tanh and sigmoid."""

    up: Tensor  # (N, C, R, R)
    same: Tensor  # (N, C, R, R)
    feature: Tensor  # (N, C, R, R) source feature, enhanced
    flow: Tensor  # (N, 3, R, R)
    warp: Tensor  # (N, C, R, R) masked
    mix: Tensor  # (N, C, R, R)
    rgb: Tensor  # (N, 3, R, R)


class Decoder(nn.Module):
    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        style_dim, channels = config.style_dim, config.channels
        self.input = ConstantInput(channels[4])
        self.conv1 = StyledConv(channels[4], channels[4], style_dim)
        self.convs = nn.ModuleList()
        for resolution in config.resolutions:
            self.convs.append(StyledConv(channels[resolution // 2], channels[resolution], style_dim, up=True))
            self.convs.append(StyledConv(channels[resolution], channels[resolution], style_dim))
        widths = [channels[resolution] for resolution in config.resolutions]
        self.to_rgbs = nn.ModuleList(ToRGB(width, first=level == 0) for level, width in enumerate(widths))
        self.to_flows = nn.ModuleList(ToFlow(width, style_dim, first=level == 0) for level, width in enumerate(widths))
        if config.enhances_expression:
            self.fineadainresblock = nn.ModuleList(ExpressionEnhancement(width, style_dim) for width in widths)

    def levels(self, features: Sequence[Tensor], style: Tensor, expression: Tensor | None) -> Iterator[Level]:
        x = self.conv1(self.input.input.expand(len(style), -1, -1, -1), style)
        flow = rgb = None
        for level, feature in enumerate(features):
            up = self.convs[2 * level](x, style)
            same = self.convs[2 * level + 1](up, style)
            if expression is None:
                feature = per_frame(feature, len(style))
            else:
                feature = self.fineadainresblock[level](feature, expression)
            flow = self.to_flows[level](same, style, flow)
            grid = warp_grid(flow.shape[-1], flow.device) + torch.tanh(flow[:, :2]).permute(0, 2, 3, 1)
            mask = torch.sigmoid(flow[:, 2:])
            warp = F.grid_sample(feature, grid, align_corners=False) * mask
            x = warp + same * (1.0 - mask)
            rgb = self.to_rgbs[level](warp, rgb)
            yield Level(up, same, feature, flow, warp, x, rgb)


class Generator(nn.Module):
    """EDTalk's generator: with an expression bank `EDTalk.pt`, without one `EDTalk_lip_pose.pt`."""

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GeneratorConfig()
        dim = config.style_dim
        self.enc = Encoder(config)
        self.dec = Decoder(config)
        self.fc = nn.Sequential(*(EqualLinear(dim, dim) for _ in range(4)))
        for name, count in config.banks:
            head = nn.Sequential(EqualLinear(dim, dim), EqualLinear(dim, dim), EqualLinear(dim, count))
            self.add_module(f"{name}_fc", head)
        (_, lips), (_, poses), *others = config.banks
        self.direction_lipnonlip = Direction(dim, lips + poses)
        for name, count in others:
            self.add_module(f"direction_{name}", Direction(dim, count))

    def basis(self) -> Tensor:
        """Q (style_dim, n), orthonormal columns in bank order (3.1).

        Householder QR processes columns in order, so an additional bank does not change the earlier columns. The
        coefficients are trained with the signs that LAPACK chooses.
        """
        names = ["lipnonlip", *(name for name, _ in self.config.banks[2:])]
        directions = torch.cat([getattr(self, f"direction_{name}").weight for name in names], 1)
        return torch.linalg.qr(directions + 1e-8).Q

    def coefficients(self, latent: Tensor) -> Tensor:
        """The coefficients alpha (N, n) of encoded pictures, from their latents (N, style_dim)."""
        shared = self.fc(latent)
        return torch.cat([getattr(self, f"{name}_fc")(shared) for name, _ in self.config.banks], 1)

    def levels(self, latent: Tensor, features: Sequence[Tensor], alpha: Tensor) -> Iterator[Level]:
        """Decode `latent + Q alpha` over the source's features, coarse to fine; the last level's rgb is the picture.

        latent (S, style_dim) and features of S sources, alpha (S * K, n): K consecutive frames a source.
        """
        basis = self.basis()
        expression = None
        if self.config.enhances_expression:
            columns = self.config.bank_slices["exp"]
            expression = alpha[:, columns] @ basis[:, columns].T
        return self.dec.levels(features, per_frame(latent, len(alpha)) + alpha @ basis.T, expression)

    def forward(self, source: Tensor, alpha: Tensor) -> Tensor:
        """Render coefficients alpha (N, n) with source pictures (N, 3, S, S).

        Returns pictures (N, 3, S, S), nominally in [-1, 1] but not clamped.
        """
        latent, features = self.enc(source)
        *_, last = self.levels(latent, features, alpha)
        return last.rgb


class Direction(nn.Module):
    def __init__(self, style_dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(style_dim, count))
