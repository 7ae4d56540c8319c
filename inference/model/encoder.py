"""A fast implementation of the encoder: computes the latent, the feature pyramid and the coefficients of a picture.

The result is the same as that of `inference.model.generator.Encoder`. Factors of sqrt(2) are folded into the weights (a
leaky ReLU commutes with positive factors), the skip connection is filtered at stride 2 before its 1x1 convolution, and
the motion heads are one matrix. Tensors are in channels-last format.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract.config import GeneratorConfig
from .generator import GAIN, LEAK, blur_kernel
from .layout import channels_last
from .weights import Weights
from .winograd import Scratch, convolution


class Blur:
    """Depthwise low-pass filter."""

    def __init__(self, channels: int, gain: float, padding: int, device: torch.device, dtype: torch.dtype) -> None:
        kernel = blur_kernel(gain).to(device, dtype)
        self.kernel = channels_last(kernel.repeat(channels, 1, 1, 1))
        self.padding = padding

    def __call__(self, x: Tensor, stride: int = 1) -> Tensor:
        return F.conv2d(x, self.kernel, padding=self.padding, stride=stride, groups=len(self.kernel))


class ResBlock:
    """(N, I, H, W) -> (N, O, H/2, W/2)."""

    def __init__(self, weights: Weights, name: str, resolution: int, scratch: Scratch) -> None:
        first = weights.conv(f"{name}.conv1.0")
        channels = len(first)
        self.conv = convolution(first, resolution, scratch)
        self.one = first.new_ones(1, channels, 1, 1)
        self.bias = weights(f"{name}.conv1.1.bias") * GAIN
        self.blur = Blur(channels, 1.0, 2, first.device, first.dtype)
        self.down = channels_last(weights.conv(f"{name}.conv2.1"))
        self.down_bias = weights(f"{name}.conv2.2.bias").flatten()
        self.skip_blur = Blur(channels, 1.0, 1, first.device, first.dtype)
        self.skip = weights.conv(f"{name}.skip.1") / GAIN

    def __call__(self, x: Tensor) -> Tensor:
        one = self.one.expand(len(x), -1, -1, -1)
        y = F.leaky_relu_(self.conv(x, one, one * GAIN, self.bias), LEAK)
        y = F.leaky_relu_(F.conv2d(self.blur(y), self.down, self.down_bias, stride=2), LEAK)
        return y.add_(F.conv2d(self.skip_blur(x, stride=2), self.skip))


class Encoder:
    """Pictures (N, 3, S, S) in [-1, 1] -> latent (N, style_dim), features [(N, C, 8, 8), ... (N, C, S, S)]."""

    def __init__(self, weights: Weights, config: GeneratorConfig, scratch: Scratch) -> None:
        root, resolutions = "enc.net_app.convs", config.resolutions
        self.colour = weights.conv(f"{root}.0.0") * GAIN
        self.colour_bias = weights(f"{root}.0.1.bias").flatten() * GAIN
        self.blocks = [
            ResBlock(weights, f"{root}.{index + 1}", resolution, scratch)
            for index, resolution in enumerate(reversed(resolutions))
        ]
        self.latent = weights.conv(f"{root}.{len(resolutions) + 1}")
        self.heads = weights.heads(config)

    def __call__(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.conv2d(channels_last(pictures), self.colour, self.colour_bias)
        features = [F.leaky_relu_(x, LEAK)]
        for block in self.blocks:
            features.append(block(features[-1]))
        latent = F.conv2d(features.pop(), self.latent).flatten(1)
        return latent, features[::-1]

    def coefficients(self, latent: Tensor) -> Tensor:
        """The coefficients (N, n) of encoded pictures, from their latents (N, style_dim)."""
        return F.linear(latent, *self.heads)
