"""What the networks of `landmarks` and `lips` share: convolutions, and points as the means of heat maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHARPNESS = 5.0  # factor of a heat map's logits, which trains faster than without


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution of 3 x 3 with batch normalisation and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def centres(length: int, cells: int) -> Tensor:
    """(cells,) float32: the middles of cells that divide `length` pixels, in pixels."""
    return (torch.arange(cells, dtype=torch.float32) + 0.5) * (length / cells) - 0.5


def mean_places(heat: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """(N, P, 2) pixels: means of heat maps, given as logits (N, P, rows, columns). columns, rows: see `centres`."""
    share = heat.flatten(2).softmax(-1).unflatten(-1, heat.shape[2:])
    return torch.stack([share.sum(2) @ columns, share.sum(3) @ rows], -1)
