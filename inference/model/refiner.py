"""Corrects the pictures of a small bank: the positions at which the source is sampled, and content that it hides.

EDTalk's decoder generates a picture from a constant, and needs long training to locate a particular person's features.
Three convolutional networks correct a bank that was trained for a short time:

- *reading* estimates the source's coefficients, once per source.
- *motion* predicts, for each pixel of the source, its displacement per unit of each coefficient. The motion of a frame
  is their weighted sum, as in EDTalk's banks, but of displacement fields instead of directions in a latent space.
  Without a change of coefficients the displacement is zero. The fields fade out around the head, which stretches the
  background but keeps the head's outline intact.
- *painter* receives the warped source and the decoder's picture, and predicts for each frame the remaining
  displacement and the colours that the source does not show, such as teeth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .generator import warp_grid
from .readers.absolute import Reader, ReaderConfig

PREFIX = "refiner."
LEAK = 0.2
MOTION_WIDTH, PAINTER_WIDTH = 64, 32  # input channels of the last layers
SMOOTH = 1.3  # sigma in pixels of the motion's resolution
SMALL = 0.1  # half widths: unit of the displacements that the painter receives and returns
# Step sizes for inverting a motion; full steps overshoot where the far side of a turning head is stretched.
STEPS = (0.6,) * 3 + (0.4,) * 3 + (0.25,) * 8
FOUND = 0.05  # half widths: with this error a pixel counts as visible in the source, with twice of it as hidden
FURTHEST = 0.999  # largest value before the inverse of tanh


@dataclass(frozen=True)
class RefinerConfig:
    """reading, motion, painter: widths of each network's layers; hidden: width of reading's affine layer.

    terms: pairs of column numbers whose products move pixels too, such as two rotations of a head. pose: column numbers
    of the coefficients that move the whole head.
    """

    reading: tuple[int, ...]
    hidden: int
    motion: tuple[int, ...]
    painter: tuple[int, ...]
    coefficients: int
    terms: tuple[tuple[int, int], ...]
    pose: tuple[int, ...]


class Refined(NamedTuple):
    """A batch of corrected pictures.

    flow: (N, 3, S, S), displacement and mask before tanh and sigmoid, as the decoder's. rgb: (N, 3, S, S), nominally in
    [-1, 1]. positions, residual: sampling positions by the motion alone and their error, see `invert_displacement`.
    """

    flow: Tensor
    rgb: Tensor
    positions: Tensor
    residual: Tensor


class Conv(nn.Module):
    """3x3 convolution and leaky ReLU; `condition` inputs, if any, scale and shift the channels in between."""

    def __init__(self, inputs: int, outputs: int, condition: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.condition = nn.Linear(condition, 2 * outputs) if condition else None

    def forward(self, x: Tensor, coefficients: Tensor | None) -> Tensor:
        x = self.conv(x)
        if self.condition is not None:
            gain, offset = self.condition(coefficients)[:, :, None, None].chunk(2, 1)
            x = torch.addcmul(offset, x, 1.0 + gain)
        return F.leaky_relu(x, LEAK, inplace=True)


class UNet(nn.Module):
    """UNet: (N, inputs, H, H) -> (N, width, H, H). channels: widths from the finest level to the coarsest."""

    def __init__(self, inputs: int, channels: Sequence[int], width: int, condition: int = 0) -> None:
        super().__init__()
        self.first = Conv(inputs, channels[0], condition)
        self.down = nn.ModuleList(Conv(a, b, condition, stride=2) for a, b in pairwise(channels))
        self.same = nn.ModuleList(Conv(b, b, condition) for b in channels[1:])
        self.up = nn.ModuleList(Conv(a + b, a, condition) for a, b in pairwise(channels))
        self.last = Conv(channels[0], width, condition)

    def forward(self, x: Tensor, coefficients: Tensor | None = None) -> Tensor:
        x = self.first(x, coefficients)
        skipped = []
        for down, same in zip(self.down, self.same, strict=True):
            skipped.append(x)
            x = same(down(x, coefficients), coefficients)
        for up, skip in zip(reversed(self.up), reversed(skipped), strict=True):
            x = up(torch.cat([skip, F.interpolate(x, scale_factor=2.0, mode="nearest")], 1), coefficients)
        return self.last(x, coefficients)


class Reading(Reader):
    """A reader that sets readings below the noise floor to zero.

    doubt: (n,), noise floor of each coefficient, from readings of neutral faces. If no reading of a picture exceeds its
    floor, all are set to zero; if one exceeds twice its floor, all are returned unchanged; in between they are scaled.
    """

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config)
        self.register_buffer("doubt", torch.full((config.outputs,), 1e-6))

    def forward(self, pictures: Tensor) -> Tensor:
        estimate = super().forward(pictures)
        return estimate * ((estimate.abs() / self.doubt).amax(1, keepdim=True) - 1.0).clamp(0.0, 1.0)


class Refiner(nn.Module):
    """The three networks; motion and painter run at half the picture's resolution, H = S / 2.

    terms: (2, T), column numbers of the products, see `RefinerConfig`. rigid: (fields,), whether a field moves the
    whole head.
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config, terms = config, config.terms
        self.register_buffer("terms", torch.tensor(terms, dtype=torch.int32).reshape(-1, 2).T.contiguous())
        self.fields = config.coefficients + len(terms)
        pose = [column in config.pose for column in range(config.coefficients)]
        self.register_buffer("rigid", torch.tensor([*pose, *(pose[a] and pose[b] for a, b in terms)]))
        self.reading = Reading(ReaderConfig(config.reading, config.hidden, config.coefficients))
        self.motion = UNet(5, config.motion, MOTION_WIDTH)
        self.maps = nn.Conv2d(MOTION_WIDTH, 2 * self.fields, 1)
        self.painter = UNet(15, config.painter, PAINTER_WIDTH, condition=config.coefficients)
        self.paint = nn.Conv2d(PAINTER_WIDTH, 4 * 6, 3, padding=1)
        if not self.maps.weight.is_meta:  # on the meta device, normal_ imports torch's compiler, which takes a second
            nn.init.normal_(self.maps.weight, std=0.005)
        for still in (self.maps.bias, self.paint.weight, self.paint.bias):
            nn.init.zeros_(still)

    def motion_fields(self, source: Tensor) -> Tensor:
        """Predict how the pixels of a source move.

        source: (N, 3, S, S). Returns (N, fields, 2, H, H), the displacement of each pixel per unit of each of
        `motion_weights`, in half widths.
        """
        half = F.avg_pool2d(source, 2)
        positions = pixel_positions(half.shape[-1], source.device).expand(len(half), -1, -1, -1)
        with torch.autocast(source.device.type, torch.bfloat16, enabled=self.training):
            features = self.motion(torch.cat([half, positions], 1))
        fields = self.maps(features.float()).unflatten(1, (self.fields, 2))
        # A head is rigid; unevenness in its motion would show as tears where its far side is stretched.
        return torch.where(self.rigid[:, None, None, None], smoothed(fields), fields)

    def read(self, source: Tensor) -> Tensor:
        """Estimate the coefficients (N, n) of source pictures (N, 3, S, S)."""
        return self.reading(F.interpolate(source, size=(self.reading.size,) * 2, mode="area"))

    def motion_weights(self, coefficients: Tensor) -> Tensor:
        """Weights (N, fields) of the motion fields: coefficients (N, n) and the products of `terms`."""
        first, second = coefficients[:, self.terms[0]], coefficients[:, self.terms[1]]
        return torch.cat([coefficients, first * second], 1)

    def forward(
        self,
        source: Tensor,
        motion: Tensor,
        source_coefficients: Tensor,
        flow: Tensor,
        rgb: Tensor,
        coefficients: Tensor,
    ) -> Refined:
        """Correct the decoder's pictures for `coefficients` (N, n).

        source: (N, 3, S, S). motion: see `motion_fields`. source_coefficients: (N, n). flow, rgb: the decoder's output,
        (N, 3, S, S).
        """
        grid = warp_grid(source.shape[-1], source.device).permute(0, 3, 1, 2)
        decoder_positions = F.avg_pool2d(grid + torch.tanh(flow[:, :2]), 2)  # where the decoder samples
        centres, size = (
            pixel_positions(decoder_positions.shape[-1], decoder_positions.device),
            decoder_positions.shape[-1] * 2,
        )
        weights = self.motion_weights(coefficients) - self.motion_weights(source_coefficients)
        displacement = (weights[:, None] @ motion.flatten(2)).view_as(
            decoder_positions
        )  # as one product; einsum would copy the motion
        inverted, residual = invert_displacement(displacement, decoder_positions)
        distance = torch.hypot(*residual.split(1, 1))
        unreliable = ((distance - FOUND) / FOUND).clamp(0.0, 1.0)  # for example in an opening mouth
        positions = inverted + unreliable * (decoder_positions - inverted)
        logit = flow[:, 2:].clamp(-8.0, 8.0)
        inputs = torch.cat([
            warped(F.avg_pool2d(source, 2), positions), F.avg_pool2d(rgb, 2), (positions - centres) / SMALL,
            (decoder_positions - positions) / SMALL, residual / SMALL, F.avg_pool2d(torch.sigmoid(logit), 2),
            centres.expand(len(rgb), -1, -1, -1),
        ], 1)  # fmt: skip
        with torch.autocast(source.device.type, torch.bfloat16, enabled=self.training):
            outputs = F.pixel_shuffle(self.paint(self.painter(inputs.clamp(-2.0, 2.0), coefficients)), 2).float()
        shift = F.interpolate(positions - centres, scale_factor=2.0, mode="bilinear", align_corners=False)
        positions = pixel_positions(size, shift.device) + shift + outputs[:, :2] * SMALL
        logit = logit + outputs[:, 2:3]
        mask = torch.sigmoid(logit)
        refined = warped(source, positions) * mask + (rgb + outputs[:, 3:]) * (1.0 - mask)
        offset = (positions - grid).clamp(-FURTHEST, FURTHEST)
        return Refined(torch.cat([torch.atanh(offset), logit], 1), refined, inverted, residual)


def smoothed(fields: Tensor) -> Tensor:
    """Blur fields (N, F, 2, H, H) by a Gaussian of SMOOTH pixels, with replicated borders."""
    reach, size = round(3 * SMOOTH), fields.shape[-1]
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=fields.device) / SMOOTH) ** 2)
    single = F.pad(torch.eye(size, device=fields.device)[:, None], (reach, reach), mode="replicate")
    blur = F.conv1d(single, kernel.view(1, 1, -1) / kernel.sum())[:, 0]
    return blur.T @ (fields @ blur)  # matrix products are much faster than a convolution here


def invert_displacement(displacement: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Invert a forward displacement by fixed-point iteration.

    displacement: (N, 2, H, H), of each pixel of the source. start: (N, 2, H, H), first guess. Returns the sampling
    position of each pixel of the result and the remaining error, both (N, 2, H, H) in half widths.
    """
    centres, positions = pixel_positions(displacement.shape[-1], displacement.device), start
    for share in STEPS:
        positions = positions + share * (centres - positions - warped(displacement, positions))
    return positions, centres - positions - warped(displacement, positions)


def pixel_positions(size: int, device: torch.device) -> Tensor:
    """(1, 2, size, size): x and y of pixel centres in [-1, 1]."""
    line = (torch.arange(size, device=device) * 2 + 1) / size - 1.0
    return torch.stack(torch.meshgrid(line, line, indexing="xy"))[None]


def warped(source: Tensor, places: Tensor) -> Tensor:
    """Sample source (N, C, R, R) at places (N, 2, S, S), in [-1, 1], with replicated borders -> (N, C, S, S)."""
    return F.grid_sample(source, places.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
