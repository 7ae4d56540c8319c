"""The decoder in its fast form: renders the latent `w_source + Q alpha` by warping the source's features.

It computes the same as `inference.model.generator.Decoder`, ordered by what the values depend on:

    weights     style scales as a function of alpha, demodulation energies, the first convolution's response to a style
    source      the features f, n = InstanceNorm(conv2(f)), and both projected by ToRGB to three channels
    expression  the enhanced features f + gain n + offset; a constant expression adds no cost per frame
    frame       styles, convolutions, flow and mask, warp

ToRGB's 1x1 convolution commutes with warping and masking, so colours are projected before the warp. At the last level,
whose x is not used further, only these three channels are warped. Factors of sqrt(2) are folded into gains and biases,
as a leaky ReLU commutes with positive factors. Tensors are in channels-last format, except those of three channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract.config import GeneratorConfig
from .encoder import Blur
from .generator import GAIN, LEAK, warp_grid
from .layout import channels_last, scaled
from .weights import Weights
from .winograd import Scratch, convolution


@dataclass(frozen=True)
class Source:
    """What depends on the pictures of N sources alone; lists are ordered by level, coarse to fine."""

    styles: Tensor  # (N, scales of all layers) where alpha is zero
    features: list[Tensor]  # (N, C, R, R), without the last level's
    normal: list[Tensor]  # (N, C, R, R); empty without an expression bank
    colours: list[Tensor]  # (N, 3, R, R) the features projected by ToRGB


class Drawn(NamedTuple):
    """A batch of pictures, and where in the source they were sampled.

    rgb: (N, 3, S, S), nominally in [-1, 1] but not clamped. places: (N, 2, S, S), x and y in [-1, 1]. logit:
    (N, 1, S, S), the mask before its sigmoid.
    """

    rgb: Tensor
    places: Tensor
    logit: Tensor


@dataclass(frozen=True)
class Canvas:
    """Sources with their expressions applied, ready for warping: N, or one if all are the same."""

    features: list[Tensor]  # prepared by the warp's `prepare`, without the last level's
    colours: list[Tensor]  # (N, 3, R, R)


class Modulation:
    """The style scales of all layers as an affine function of alpha."""

    def __init__(self, weights: Weights, layers: Sequence[str], basis: Tensor) -> None:
        parts = [weights.linear(f"{layer}.conv.modulation") for layer in layers]
        self.weight, self.bias = (torch.cat(part) for part in zip(*parts, strict=True))
        self.motion = (self.weight @ basis).T.contiguous()  # (n, scales): what one unit of each coefficient adds
        self.sizes = [len(bias) for _, bias in parts]

    def at_rest(self, latent: Tensor) -> Tensor:
        """Scales (N, scales) of the sources' latents (N, style_dim) where alpha is zero."""
        return F.linear(latent, self.weight, self.bias)

    def __call__(self, at_rest: Tensor, alpha: Tensor) -> list[Tensor]:
        """(1 or N, scales), (N, n) -> (N, I) for each layer."""
        return list((at_rest + alpha @ self.motion).split(self.sizes, 1))


class Enhancement:
    """The expression's gain and offset for one level's features, and the part that depends on the source alone."""

    def __init__(self, weights: Weights, name: str, resolution: int, directions: Tensor, scratch: Scratch) -> None:
        conv = weights(f"{name}.conv2.weight")
        self.conv = convolution(conv, resolution, scratch)
        self.one = conv.new_ones(1, len(conv), 1, 1)
        self.bias = weights(f"{name}.conv2.bias").view(1, -1, 1, 1)
        norm = f"{name}.norm2"
        # The expression latent is Q alpha; Q is folded into the first layer.
        self.shared = weights(f"{norm}.mlp_shared.0.weight") @ directions, weights(f"{norm}.mlp_shared.0.bias")
        self.gain = weights(f"{norm}.mlp_gamma.weight"), weights(f"{norm}.mlp_gamma.bias") + 1.0
        self.offset = weights(f"{norm}.mlp_beta.weight"), weights(f"{norm}.mlp_beta.bias")

    def normal(self, feature: Tensor) -> Tensor:
        """The part that depends on the source alone: (N, C, R, R) -> (N, C, R, R)."""
        one = self.one.expand(len(feature), -1, -1, -1)
        return channels_last(F.instance_norm(self.conv(feature, one, one, self.bias)))

    def __call__(self, expression: Tensor) -> tuple[Tensor, Tensor]:
        """(N, m) -> gain and offset, each (N, C, 1, 1)."""
        hidden = F.relu(F.linear(expression, *self.shared))
        gain, offset = (F.linear(hidden, *layer)[:, :, None, None] for layer in (self.gain, self.offset))
        return gain, offset


class FirstConv:
    """The input of conv1 is constant, so its output is linear in the style scales: one matrix product."""

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        constant, weight = weights("dec.input.input"), weights.conv("dec.conv1.conv")
        patches = F.unfold(constant, 3, padding=1).view(weight.shape[1], 9, 16)
        self.answer = torch.einsum("oik,ikp->poi", weight.flatten(2), patches).flatten(0, 1).contiguous()
        self.finish = Finish(weights, "dec.conv1", dtype)

    def __call__(self, scale: Tensor) -> Tensor:
        """(N, I) -> (N, O, 4, 4)."""
        x = F.linear(scale, self.answer).view(len(scale), 4, 4, -1).permute(0, 3, 1, 2).to(self.finish.bias.dtype)
        return F.leaky_relu_(torch.addcmul(self.finish.bias, x, self.finish.gain(scale)), LEAK)


class Finish:
    """The steps after a styled convolution: demodulation, bias and leaky ReLU, with sqrt(2) in the first two."""

    def __init__(self, weights: Weights, name: str, dtype: torch.dtype) -> None:
        self.energy = weights.conv(f"{name}.conv").square().sum((2, 3))  # (O, I)
        self.bias = (weights(f"{name}.activate.bias") * GAIN).to(dtype)

    def gain(self, scale: Tensor) -> Tensor:
        """(N, I) -> (N, O, 1, 1)."""
        gain = GAIN * torch.rsqrt(F.linear(scale.square(), self.energy) + 1e-8)
        return gain[:, :, None, None].to(self.bias.dtype)


class SameConv:
    """Styled 3x3 convolution, (N, I, R, R) -> (N, O, R, R)."""

    def __init__(self, weights: Weights, name: str, resolution: int, dtype: torch.dtype, scratch: Scratch) -> None:
        self.conv = convolution(weights.conv(f"{name}.conv"), resolution, scratch, dtype)
        self.finish = Finish(weights, name, dtype)

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        scales = scale[:, :, None, None].to(x.dtype)
        return F.leaky_relu_(self.conv(x, scales, self.finish.gain(scale), self.finish.bias), LEAK)


class UpConv:
    """Styled transposed 3x3 convolution and low-pass filter, (N, I, R, R) -> (N, O, 2R, 2R)."""

    def __init__(self, weights: Weights, name: str, dtype: torch.dtype) -> None:
        weight = weights.conv(f"{name}.conv")
        self.weight = channels_last(weight.transpose(0, 1).to(dtype))
        self.blur = Blur(len(weight), 4.0, 1, weight.device, dtype)
        self.finish = Finish(weights, name, dtype)

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        x = F.conv_transpose2d(scaled(x, scale[:, :, None, None].to(x.dtype)), self.weight, stride=2)
        return F.leaky_relu_(scaled(self.blur(x), self.finish.gain(scale), self.finish.bias), LEAK)


class GridWarp:
    """Samples a feature bilinearly at the grid, zero outside, times the mask; uses `grid_sample`."""

    @staticmethod
    def prepare(feature: Tensor) -> Tensor:
        return feature

    @staticmethod
    def __call__(feature: Tensor, grid: Tensor, mask: Tensor) -> Tensor:
        """(1 or N, C, R, R), (N, R, R, 2), (N, 1, R, R) -> (N, C, R, R)."""
        feature = feature.expand(len(grid), -1, -1, -1)
        return F.grid_sample(feature, grid, align_corners=False) * mask


class RowWarp:
    """The same result as `GridWarp`, computed as embedding bags on the CPU, which takes a tenth of the time.

    A pixel is the weighted sum of four neighbouring pixels; the weights include the mask. In channels-last format the
    channels of a pixel are contiguous. A margin of zeros represents everything outside.
    """

    @staticmethod
    def prepare(feature: Tensor) -> Tensor:
        return channels_last(F.pad(feature, (1, 2, 1, 2)))

    @staticmethod
    def __call__(feature: Tensor, grid: Tensor, mask: Tensor) -> Tensor:
        count, size = grid.shape[:2]
        stride = size + 3
        position = ((grid.permute(0, 3, 1, 2) + 1.0) * (size / 2) - 0.5).clamp_(-1.0, size)
        corner = position.floor()
        far = position - corner
        (left, right), (above, below) = ((1.0 - part, part) for part in far.unbind(1))  # each (N, R, R)
        mask = mask.squeeze(1)
        share = torch.stack([side * line for line in (above * mask, below * mask) for side in (left, right)], -1)
        first = (corner[:, 1] * stride + corner[:, 0]).to(torch.int32) + (stride + 1)
        if len(feature) > 1:
            first += torch.arange(count, dtype=torch.int32)[:, None, None] * stride**2
        rows = torch.stack([first, first + 1, first + stride, first + (stride + 1)], -1)
        warped = F.embedding_bag(
            rows.view(-1, 4),
            feature.permute(0, 2, 3, 1).reshape(len(feature) * stride**2, -1),
            mode="sum",
            per_sample_weights=share.view(-1, 4),
        )
        return warped.view(count, size, size, -1).permute(0, 3, 1, 2)


class Level:
    """One resolution's layers."""

    def __init__(self, weights: Weights, index: int, resolution: int, dtype: torch.dtype, scratch: Scratch) -> None:
        self.up = UpConv(weights, f"dec.convs.{2 * index}", dtype)
        self.same = SameConv(weights, f"dec.convs.{2 * index + 1}", resolution, dtype, scratch)
        self.flow = weights.conv(f"dec.to_flows.{index}.conv").flatten(1)  # (3, C)
        self.flow_bias = weights(f"dec.to_flows.{index}.bias")
        self.grid = warp_grid(resolution, weights.device).permute(0, 3, 1, 2).contiguous()  # (1, 2, R, R)
        self.colour = weights.conv(f"dec.to_rgbs.{index}.conv.0").flatten(1) * GAIN
        self.colour_bias = weights(f"dec.to_rgbs.{index}.conv.1.bias") * GAIN
        self.last_bias = weights(f"dec.to_rgbs.{index}.bias")

    def flow_of(self, x: Tensor, scale: Tensor) -> Tensor:
        """(N, C, R, R), (N, C) -> (N, 3, R, R): this level's contribution to the flow and the mask's logit."""
        return mix_each(x, (self.flow * scale[:, None, :]).to(x.dtype)).float() + self.flow_bias


def mix_channels(x: Tensor, matrix: Tensor) -> Tensor:
    """(N, C, R, R), (3, C) -> (N, 3, R, R), not channels last: a 1x1 convolution as one matrix product."""
    count, channels, *size = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
    return F.linear(rows, matrix).view(count, *size, -1).permute(0, 3, 1, 2).contiguous()


def mix_each(x: Tensor, matrices: Tensor) -> Tensor:
    """As `mix_channels`, with a matrix for each picture: (N, C, R, R), (N, 3, C) -> (N, 3, R, R)."""
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.bmm(matrices, pixels.mT).view(len(x), -1, *x.shape[2:])


def upsample(x: Tensor) -> Tensor:
    """(N, C, R, R) -> (N, C, 2R, 2R): insert zeros, then apply the low-pass filter.

    The filter's phases are (1, 3) / 4 and (3, 1) / 4, which is bilinear interpolation with zeros outside the border.
    """
    return F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")[..., 2:-2, 2:-2]


class Decoder:
    """Renders pictures of a source with given coefficients.

    Call `source` once per portrait, `canvas` once per expression, and the decoder itself for each batch of frames.
    """

    def __init__(self, weights: Weights, config: GeneratorConfig, scratch: Scratch, dtype: torch.dtype) -> None:
        count = len(config.resolutions)
        styled = ["dec.conv1", *(f"dec.convs.{index}" for index in range(2 * count))]
        basis = weights.basis(config)
        self.modulation = Modulation(weights, [*styled, *(f"dec.to_flows.{index}" for index in range(count))], basis)
        self.first = FirstConv(weights, dtype)
        self.levels = [
            Level(weights, index, resolution, dtype, scratch) for index, resolution in enumerate(config.resolutions)
        ]
        self.enhancements: list[Enhancement] = []
        if config.enhances_expression:
            directions = basis[:, config.bank_slices["exp"]]
            self.enhancements = [
                Enhancement(weights, f"dec.fineadainresblock.{index}", resolution, directions, scratch)
                for index, resolution in enumerate(config.resolutions)
            ]
        self.warp = RowWarp() if weights.device.type == "cpu" else GridWarp()
        self.dtype = dtype

    def source(self, latent: Tensor, features: Sequence[Tensor]) -> Source:
        """Compute everything that depends on N sources alone.

        latent: (N, style_dim); features: list of (N, C, R, R), both as the encoder returns them.
        """
        normal = [block.normal(feature) for block, feature in zip(self.enhancements, features, strict=False)]
        colours = [mix_channels(feature, level.colour) for level, feature in zip(self.levels, features, strict=True)]
        return Source(self.modulation.at_rest(latent), list(features[:-1]), normal, colours)

    def canvas(self, source: Source, expression: Tensor, same: bool = False) -> Canvas:
        """Apply expressions to one source, or to N: (N, m), coefficients of the expression bank, if there is one.

        same: all are equal, and there is one source. They are applied once then; the result is the same bit by bit.
        """
        if not self.enhancements:
            return Canvas([self.warp.prepare(feature) for feature in source.features], source.colours)
        features, colours = [], []
        for index, (level, enhance) in enumerate(zip(self.levels, self.enhancements, strict=True)):
            gain, offset = enhance(expression)
            tint = mix_channels(offset, level.colour)  # of all rows, as a product of fewer may differ in rounding
            if same:
                gain, offset, tint = gain[:1], offset[:1], tint[:1]
            normal = source.normal[index].expand(len(gain), -1, -1, -1)
            if index < len(source.features):
                enhanced = torch.addcmul(source.features[index], normal, gain).add_(offset)
                features.append(self.warp.prepare(enhanced))
            added = mix_each(normal, level.colour * gain.flatten(1)[:, None, :])
            colours.append((source.colours[index] + added).add_(tint))
        return Canvas(features, colours)

    def __call__(self, source: Source, canvas: Canvas, alpha: Tensor) -> Drawn:
        """Render coefficients alpha (N, n) of one source, or of N."""
        scales = self.modulation(source.styles, alpha)
        styles, flow_styles = iter(scales[: -len(self.levels)]), iter(scales[-len(self.levels) :])
        x = self.first(next(styles))
        carried = None  # (N, 6, R, R): flow, mask logit, colour
        for index, level in enumerate(self.levels):
            x = level.same(level.up(x, next(styles)), next(styles))
            flow = level.flow_of(x, next(flow_styles))
            if carried is not None:
                carried = upsample(carried)
                flow += carried[:, :3]
            places = level.grid + torch.tanh(flow[:, :2])
            grid = places.permute(0, 2, 3, 1)
            mask = torch.sigmoid(flow[:, 2:])
            seen = F.grid_sample(canvas.colours[index].expand(len(grid), -1, -1, -1), grid, align_corners=False)
            colour = F.leaky_relu_(torch.addcmul(level.colour_bias, seen, mask), LEAK) + level.last_bias
            if carried is not None:
                colour += carried[:, 3:]
            if index < len(canvas.features):
                warped = self.warp(canvas.features[index], grid, mask)
                x = torch.addcmul(warped, x, 1.0 - mask).to(self.dtype)
                carried = torch.cat((flow, colour), 1)
        return Drawn(colour, places, flow[:, 2:])
