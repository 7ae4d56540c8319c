"""Reads a bank's coefficients from a further look of the encoder: at a window of the face that landmarks align.

A bank whose encoder was trained without labels reads mouth, brows and lids from the whole face poorly, because the head
moves more of the picture than they do. In an aligned window they are all that moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...face.crop import EYES, TEMPLATE
from ...face.landmarks import find_landmarks, square_at

# Network name, by the bank of coefficients that it reads, and prefixes of the tensors of each, with those that replace
# them in the state dict. Files have had the name `lips` since there was only that look.
LOOKS = {"lip": "look", "exp": "expression_look"}
PREFIXES = {"look": {"look.lips.": "read.", "look.": ""}, "expression_look": {"expression_look.": ""}}
RIGHT_EYE, LEFT_EYE, MOUTH = 0, 1, 7  # of the nine landmarks
SURE = 0.5  # least probability that a landmark is seen


@dataclass(frozen=True)
class LookConfig:
    """latent: width of the encoder's latent. outputs: number of coefficients. centred: 1 if the window's centre is
    measured from the eyes, 0 if it is the mouth.
    """

    latent: int
    outputs: int
    centred: int = field(default=0, metadata={"optional": True})


@dataclass(frozen=True)
class Window:
    """A square window of a face, x along the eyes.

    side: in eye distances. spread: deviation of its values, whose mean is 0. centre: right and down from the middle of
    the eyes, in eye distances; None: the mouth.
    """

    side: float
    spread: float
    centre: tuple[float, float] | None = None


class Look(nn.Module):
    """Latents (N, latent) of windows -> coefficients (N, outputs). The buffers are those of `Window`."""

    side: Tensor
    spread: Tensor
    centre: Tensor

    def __init__(self, config: LookConfig) -> None:
        super().__init__()
        self.config = config
        self.read = nn.Linear(config.latent, config.outputs)
        self.register_buffer("side", torch.ones(()))
        self.register_buffer("spread", torch.ones(()))
        if config.centred:
            self.register_buffer("centre", torch.zeros(2))

    @property
    def window(self) -> Window:
        """The window that it reads."""
        right, down = self.centre.tolist() if self.config.centred else (0.0, 0.0)
        return Window(self.side.item(), self.spread.item(), (right, down) if self.config.centred else None)

    @property
    def landmarks(self) -> list[int]:
        """Those of the nine that place the window."""
        return [RIGHT_EYE, LEFT_EYE] if self.config.centred else [RIGHT_EYE, LEFT_EYE, MOUTH]

    def forward(self, latent: Tensor) -> Tensor:
        return self.read(latent)


def look_at(pictures: Tensor, points: np.ndarray, size: int, window: Window) -> Tensor:
    """(N, 3, size, size) windows of faces, of mean 0 and the window's deviation per picture.

    pictures: (N, 3, S, S) in [-1, 1]. points: (N, 9, 2), the nine landmarks in picture coordinates [-1, 1].
    """
    across = points[:, LEFT_EYE] - points[:, RIGHT_EYE]
    down = np.stack([-across[:, 1], across[:, 0]], 1)
    if window.centre is None:
        middle = points[:, MOUTH]
    else:
        middle = (points[:, RIGHT_EYE] + points[:, LEFT_EYE]) / 2.0
        middle = middle + window.centre[0] * across + window.centre[1] * down
    line = window.side * ((np.arange(size) + 0.5) / size - 0.5)
    grid = (
        middle[:, None, None]
        + line[None, None, :, None] * across[:, None, None]
        + line[None, :, None, None] * down[:, None, None]
    )
    at = torch.from_numpy(grid.astype(np.float32)).to(pictures.device)
    shown = F.grid_sample(pictures, at, padding_mode="border", align_corners=False)
    shown = shown - shown.mean((2, 3), keepdim=True)
    return window.spread * shown / (shown.std((1, 2, 3), keepdim=True) + 0.05)


def nine_points(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The nine landmarks (N, 9, 2) of face crops in picture coordinates [-1, 1], and whether each is seen (N, 9).

    images: uint8 (S, S, 3) each, with the face where `face.crop` puts it.
    """
    points, seen = np.zeros((len(images), 9, 2)), np.zeros((len(images), 9), bool)
    for row, image in enumerate(images):
        eyes = (EYES + 0.5) * (len(image) / TEMPLATE) - 0.5
        found = find_landmarks(image, [square_at(eyes)], passes=3)
        points[row] = (found.nine[0] + 0.5) * (2.0 / len(image)) - 1.0
        seen[row] = found.sure[0, : len(found.nine[0])] >= SURE
    return points, seen
