"""Reads the mouth from the encoder's second look: at a window around the mouth that is aligned by landmarks.

A bank whose encoder was trained without labels reads the mouth from the whole face poorly, because the head moves more
of the picture than the mouth does. In an aligned window the mouth is all that moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...face.crop import EYES, TEMPLATE
from ...face.landmarks import find_landmarks, square_at

PREFIX = "look."
RIGHT_EYE, LEFT_EYE, MOUTH = 0, 1, 7  # of the nine landmarks
SURE = 0.5  # least probability that a landmark is seen


@dataclass(frozen=True)
class LookConfig:
    """latent: width of the encoder's latent. outputs: number of lip coefficients."""

    latent: int
    outputs: int


class Look(nn.Module):
    """Latents (N, latent) of mouth windows -> lip coefficients (N, outputs).

    side: side of the square window in eye distances. spread: deviation of its values, whose mean is 0.
    """

    side: Tensor
    spread: Tensor

    def __init__(self, config: LookConfig) -> None:
        super().__init__()
        self.config = config
        self.lips = nn.Linear(config.latent, config.outputs)
        self.register_buffer("side", torch.ones(()))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, latent: Tensor) -> Tensor:
        return self.lips(latent)


def mouth_windows(pictures: Tensor, points: np.ndarray, size: int, side: float, spread: float) -> Tensor:
    """(N, 3, size, size) windows around the mouth, x along the eyes, of mean 0 and deviation `spread` per picture.

    pictures: (N, 3, S, S) in [-1, 1]. points: (N, 9, 2), the nine landmarks in picture coordinates [-1, 1].
    side: of the window in eye distances.
    """
    across = points[:, LEFT_EYE] - points[:, RIGHT_EYE]
    right = across * side
    down = np.stack([-right[:, 1], right[:, 0]], 1)
    line = (np.arange(size) + 0.5) / size - 0.5
    grid = (
        points[:, MOUTH, None, None]
        + line[None, None, :, None] * right[:, None, None]
        + line[None, :, None, None] * down[:, None, None]
    )
    at = torch.from_numpy(grid.astype(np.float32)).to(pictures.device)
    window = F.grid_sample(pictures, at, padding_mode="border", align_corners=False)
    window = window - window.mean((2, 3), keepdim=True)
    return spread * window / (window.std((1, 2, 3), keepdim=True) + 0.05)


def nine_points(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The nine landmarks (N, 9, 2) of face crops in picture coordinates [-1, 1], and whether the mouth is seen (N,).

    images: uint8 (S, S, 3) each, with the face where `face.crop` puts it.
    """
    points, seen = np.zeros((len(images), 9, 2)), np.zeros(len(images), bool)
    for row, image in enumerate(images):
        eyes = (EYES + 0.5) * (len(image) / TEMPLATE) - 0.5
        found = find_landmarks(image, [square_at(eyes)], passes=3)
        points[row] = (found.nine[0] + 0.5) * (2.0 / len(image)) - 1.0
        seen[row] = found.sure[0, [RIGHT_EYE, LEFT_EYE, MOUTH]].min() >= SURE
    return points, seen
