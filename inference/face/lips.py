"""The outline of the lips, read by a second network in an enlarged window of the mouth.

The network of `landmarks` sees a mouth of about 25 x 10 pixels, in which the edges of closed lips are one cell of a
heat map apart. This one sees it with almost twice as many pixels a side, and its heat maps are four times as fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .crop import apply_matrix, sample
from .heat_maps import HeatMapNet, block, centres, mean_places

COUNT = 26  # landmarks: the outline, then the inner edges, as `landmarks.OUTER_LIPS` and `INNER_LIPS`
WIDTH, HEIGHT = 96, 72  # pixels of the network's input
CELL = 2  # pixels of a heat map's cell


class LipNet(HeatMapNet):
    """Pictures (N, 3, HEIGHT, WIDTH) of any range to landmarks (N, COUNT, 2) in pixels, and the logits of their heat
    maps (N, COUNT, HEIGHT / CELL, WIDTH / CELL).
    """

    columns: Tensor
    rows: Tensor

    def __init__(self) -> None:
        stem = nn.Sequential(block(3, 16, 2), block(16, 24))
        super().__init__(stem, (24, 40, 64), (16, 12 * 9), COUNT)  # features of 48 x 36, 24 x 18 and 12 x 9 px
        for name, length in (("columns", WIDTH), ("rows", HEIGHT)):
            self.register_buffer(name, centres(length, length // CELL), persistent=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        # exposure, contrast and white balance do not matter
        centred = pictures - pictures.mean((2, 3), keepdim=True)
        heat, _ = self.heat_maps(centred / (centred.std((1, 2, 3), keepdim=True) + 1e-3))
        return mean_places(heat, self.columns, self.rows), heat


def window_at(middle: np.ndarray, eye_vector: np.ndarray) -> np.ndarray:
    """(2, 3) matrix from the window's pixels to the picture's.

    middle: (2,) centre of the mouth; eye_vector: (2,) from the right eye to the left one of a face seen from the front.
    The window is 1.6 x 1.2 eye distances large.
    """
    across = np.asarray(eye_vector, np.float64) * (1.6 / WIDTH)
    turn = np.array([[across[0], -across[1]], [across[1], across[0]]])
    return np.column_stack([turn, middle - turn @ ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)])


def cut(rgb: np.ndarray, window: np.ndarray) -> np.ndarray:
    """uint8 (HEIGHT, WIDTH, 3): the window of a picture, uint8 (H, W, 3)."""
    return sample(rgb, window, (WIDTH, HEIGHT), float(np.hypot(*window[:, 0])))


def find_lips(pictures: Sequence[np.ndarray], windows: Sequence[np.ndarray]) -> np.ndarray:
    """(N, COUNT, 2) float64: the landmarks in pixels of each picture, uint8 (H, W, 3). windows: see `window_at`."""
    shown = np.stack([cut(rgb, window) for rgb, window in zip(pictures, windows, strict=True)])
    with torch.inference_mode():
        points, _ = network()(torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 127.5 - 1)
    return np.stack([apply_matrix(*pair) for pair in zip(windows, points.double().numpy(), strict=True)])


@lru_cache(maxsize=1)
def network() -> LipNet:
    """The network with the weights beside this file."""
    net = LipNet()
    net.load_state_dict({
        name: part.float() if part.is_floating_point() else part for name, part in load_file(WEIGHTS).items()
    })  # fmt: skip
    return net.eval()


WEIGHTS = Path(__file__).with_name("lips.safetensors")
