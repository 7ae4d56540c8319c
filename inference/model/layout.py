"""Memory formats. Convolutions are fastest in channels-last format; with few channels, all else is slow in it."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=64)
def constant(device: torch.device, *values: float) -> Tensor:
    """(n,) float32: the same tensor in each call, because a copy to a graphics card waits for all that it computes."""
    with torch.inference_mode(False):
        return torch.tensor([float(value) for value in values], device=device)


def channels_last(x: Tensor) -> Tensor:
    """The tensor (N, C, H, W) in channels-last memory format."""
    return x.contiguous(memory_format=torch.channels_last)


def scaled(x: Tensor, gain: Tensor, offset: Tensor | None = None) -> Tensor:
    """`gain * x + offset`, in place of x with an offset.

    x: (N, C, H, W), channels last; gain, offset: (1 or N, C, 1, 1). The factors are repeated along a line of the
    picture: with 8 to 48 channels, operators with one factor per channel take two to four times as long on the CPU.
    """
    if x.device.type != "cpu":
        return x * gain if offset is None else torch.addcmul(offset, x, gain)
    count, channels, height, width = x.shape
    lines = x.permute(0, 2, 3, 1).flatten(2)
    gain = _along(gain, width)
    lines = lines * gain if offset is None else torch.addcmul(_along(offset, width), lines, gain, out=lines)
    return lines.view(count, height, width, channels).permute(0, 3, 1, 2)


def _along(factors: Tensor, width: int) -> Tensor:
    """(N, C, 1, 1) -> (N, 1, width * C)."""
    return factors.flatten(1)[:, None].expand(-1, width, -1).reshape(len(factors), 1, -1)


def average_pool(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H/2, W/2), means of four pixels. As `avg_pool2d`, but faster with few channels."""
    beside = x[..., ::2] + x[..., 1::2]
    return (beside[..., ::2, :] + beside[..., 1::2, :]) * 0.25


def upsample(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 2H, 2W), bilinear with replicated borders."""
    return F.interpolate(x.contiguous(), scale_factor=2.0, mode="bilinear", align_corners=False)
