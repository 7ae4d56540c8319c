"""What the networks of `landmarks` and `lips` share: their layers, and points as the means of heat maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHARPNESS = 5.0  # factor of a heat map's logits, which trains faster than without


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution of 3 x 3 with batch normalisation and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def centres(length: int, cells: int) -> Tensor:
    """(cells,) float32: the middles of cells that divide `length` pixels, in pixels."""
    return (torch.arange(cells, dtype=torch.float32) + 0.5) * (length / cells) - 0.5


class HeatMapNet(nn.Module):
    """Base class of the networks: features at three sizes, and heat maps at the largest of them.

    stem: from pictures to the largest features. widths: channels of the features, the largest first. narrow: channels
    and places of the smallest ones from which numbers of the whole picture are computed. landmarks: their count.
    """

    def __init__(self, stem: nn.Module, widths: tuple[int, int, int], narrow: tuple[int, int], landmarks: int) -> None:
        super().__init__()
        b, c, d = widths
        channels, places = narrow
        self.stem = stem
        self.middle = nn.Sequential(block(b, c, 2), block(c, c))
        self.deep = nn.Sequential(block(c, d, 2), block(d, d))
        self.narrow = nn.Conv2d(d, channels, 1)
        self.whole = nn.Linear(channels * places, 64)
        self.shape = nn.Linear(64, d)  # of the whole picture, added at every place
        self.up = nn.ModuleList([nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1)])
        self.join = nn.ModuleList([block(c, c), block(b, b)])
        self.heat = nn.Conv2d(b, landmarks, 1)

    def heat_maps(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the heat maps (N, landmarks, rows, columns), and numbers of the whole picture (N, 64)."""
        fine = self.stem(pictures)
        middle = self.middle(fine)
        deep = self.deep(middle)
        whole = F.relu(self.whole(F.relu(self.narrow(deep)).flatten(1)))
        deep = deep + self.shape(whole)[:, :, None, None]
        joined = self.join[0](middle + F.interpolate(self.up[0](deep), scale_factor=2.0))
        joined = self.join[1](fine + F.interpolate(self.up[1](joined), scale_factor=2.0))
        return SHARPNESS * self.heat(joined), whole


def mean_places(heat: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """(N, P, 2) pixels: means of heat maps, given as logits (N, P, rows, columns). columns, rows: see `centres`."""
    share = heat.flatten(2).softmax(-1).unflatten(-1, heat.shape[2:])
    return torch.stack([share.sum(2) @ columns, share.sum(3) @ rows], -1)
