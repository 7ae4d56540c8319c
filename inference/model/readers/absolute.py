"""Estimates the coefficients of a face from a single picture.

EDTalk reads coefficients from the latent from which the face is also rendered. In a small bank this is inaccurate; a
separate network is much more accurate for driving frames and takes a tenth of the time. The coefficients of a source
are not read with it: they must match what the decoder assumes, errors included, so that a source at rest is rendered
unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

PREFIX = "reader."
LEAK = 0.2
LAST = 4  # pixels of a side of the last feature map


@dataclass(frozen=True)
class ReaderConfig:
    """channels: width of each convolution; hidden: width of the hidden affine layer; outputs: numbers per picture."""

    channels: tuple[int, ...]
    hidden: int
    outputs: int

    @property
    def size(self) -> int:
        """Input size in pixels: every convolution halves it, down to LAST."""
        return LAST << len(self.channels)


class Reader(nn.Module):
    """Pictures (N, 3, S, S) in [-1, 1] -> (N, outputs), for S = config.size.

    Convolutions of stride 2 down to a map of LAST pixels, then two affine layers.
    """

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.convs = strided_convolutions(3, config.channels)
        self.hidden = nn.Linear(config.channels[-1] * LAST**2, config.hidden)
        self.last = nn.Linear(config.hidden, config.outputs)

    @property
    def size(self) -> int:
        return self.config.size

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures
        for conv in self.convs:
            x = F.leaky_relu(conv(x), LEAK)
        return self.last(F.leaky_relu(self.hidden(x.flatten(1)), LEAK))


def strided_convolutions(inputs: int, channels: tuple[int, ...]) -> nn.ModuleList:
    """Convolutions of stride 2: the first one 5x5, the others 3x3."""
    return nn.ModuleList(
        nn.Conv2d(before, after, 5 if level == 0 else 3, stride=2, padding=2 if level == 0 else 1)
        for level, (before, after) in enumerate(pairwise((inputs, *channels)))
    )
