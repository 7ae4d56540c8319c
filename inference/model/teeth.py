"""Finds where teeth are in the mouth's window, and their coordinates in a texture of two rows of teeth.

What a mouth shows that the source hides cannot be foreseen to the pixel: the mean of all possible teeth is a pale band.
The network therefore predicts smooth quantities only: what is inside the lips, the texture coordinates of both rows,
and the light. The texture is sampled at the output's resolution, see `inference.teeth`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .insets import CONTRAST, GREY
from .refiner import UNet

PREFIX = "teeth."
ROWS = 2  # upper and lower teeth
STRIP = 48, 256  # pixels of the texture of one row
MASKS = 3  # logits: upper teeth, lower teeth, everything inside the lips
SMOOTH = 10  # u and v of each row, colours of teeth, colours of the rest
PLANES = MASKS + SMOOTH + 1  # and the opacity
SEEN = 64  # channels at half the window's size: those of the mouth's inset, and its result
REACH = 1.4, 0.8  # of u and v over half the window: the first guess


@dataclass(frozen=True)
class TeethConfig:
    """channels: widths of the UNet."""

    channels: tuple[int, ...]
    coefficients: int


class Teeth(nn.Module):
    """(N, SEEN, h / 2, w / 2), condition (N, n + 3) as of `Inset` -> (N, PLANES - 1, h, w), see `planes_of`.

    texture: buffer (ROWS, 4, *STRIP), logarithms of the colours of teeth and gums relative to the front teeth's, and
    their opacity. u runs over its width from -1 to 1, v over its height from 0 to 1.
    """

    def __init__(self, config: TeethConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("texture", torch.zeros(ROWS, 4, *STRIP))
        self.unet = UNet(SEEN, config.channels, config.channels[0], condition=config.coefficients + 3)
        self.paint = nn.Conv2d(config.channels[0], 4 * MASKS + SMOOTH, 3, padding=1)
        nn.init.zeros_(self.paint.weight)
        nn.init.zeros_(self.paint.bias)

    def forward(self, seen: Tensor, condition: Tensor, skin: Tensor) -> Tensor:
        with torch.autocast(seen.device.type, torch.bfloat16, enabled=self.training):
            painted = self.paint(self.unet(seen, condition)).float()
        return planes_of(painted, skin)


def planes_of(painted: Tensor, skin: Tensor) -> Tensor:
    """The last layer's output (N, 4 MASKS + SMOOTH, h / 2, w / 2), skin (N, 3) -> (N, MASKS + SMOOTH, h, w).

    Logits of the masks; u and v of the upper and of the lower row; logarithms of the colour of the front teeth in the
    light of each pixel, and of the colour of the rest of the mouth. All but the masks are smooth: they are computed at
    a quarter of the size.
    """
    masks = F.pixel_shuffle(painted[:, : 4 * MASKS], 2)
    smooth = F.avg_pool2d(painted[:, 4 * MASKS :], 2)
    height, width = smooth.shape[2:]
    y, x = ((torch.arange(count, device=smooth.device) * 2 + 1) / count - 1 for count in (height, width))
    across, down = (x * REACH[0]).expand(height, width), (y[:, None] * REACH[1]).expand(height, width)
    guess = torch.stack([across, 0.5 + down, across, 0.5 - down])
    level = skin.mean(1)[:, None, None, None]
    colours = level + CONTRAST * smooth[:, 4:]
    colourful = ((skin.amax(1) - skin.amin(1)) / GREY).clamp(max=1.0)[:, None, None, None]
    grey = colours.unflatten(1, (2, 3)).mean(2, keepdim=True).expand(-1, -1, 3, -1, -1).flatten(1, 2)
    smooth = torch.cat([smooth[:, :4] + guess, torch.lerp(grey, colours, colourful)], 1)
    down, across = (_enlarging(count, smooth.device) for count in (height, width))
    return torch.cat([masks, down @ (smooth @ across.T)], 1)


def _enlarging(count: int, device: torch.device) -> Tensor:
    """(4 count, count): bicubic interpolation of a column as a matrix.

    Two products take far less time than `F.interpolate` for a picture of many channels.
    """
    unit = torch.eye(count, device=device)[None, None]
    return F.interpolate(unit, scale_factor=(4.0, 1.0), mode="bicubic", align_corners=False)[0, 0]
