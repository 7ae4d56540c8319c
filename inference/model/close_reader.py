"""A reader that looks closely at mouth and eyes, beside the same person's at rest.

Where a whole face is read at a bank's size, a mouth is thirty pixels wide, and pressed lips differ from stretched ones
by a fraction of one. This one sees windows around mouth and eyes (`inference.model.insets`) at twice that size, and
because they follow the head, what differs between the two is what the face does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import EDTalkError
from .insets import windows_at
from .reader import LEAK, part_of
from .refiner import warped

if TYPE_CHECKING:
    from ..bank import Bank

PREFIX = "close."
WINDOWS = ("mouth", "eyes")
SIZES = (80, 80), (48, 112)  # pixels, height and width
EXTENTS = (0.75, 0.85, 0.22), (1.12, 0.485, -0.06)  # in eye distances, see `inference.model.insets.window_at`
_AGAIN = "Get the bank again."


class Look(nn.Module):
    """At one window: the rest and the difference (N, 6, h, w) -> features (N, F). Layer widths are `channels`."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 5 if level == 0 else 3, stride=2, padding=2 if level == 0 else 1)
            for level, (inputs, outputs) in enumerate(pairwise([6, *channels]))
        )

    def forward(self, seen: Tensor) -> Tensor:
        for conv in self.convs:
            seen = F.leaky_relu(conv(seen), LEAK)
        return seen.flatten(1)


class CloseReader(nn.Module):
    """Pictures of the windows at rest and in frames -> (N, n), what the frames do more; nothing of the head's pose.

    share: (2, n), how much that counts, and how much what is thought by then, see `read`.
    """

    def __init__(self, channels: Sequence[int], hidden: int, coefficients: int) -> None:
        super().__init__()
        self.looks = nn.ModuleList(Look(channels) for _ in WINDOWS)
        cells = sum(_halved(height, len(channels)) * _halved(width, len(channels)) for height, width in SIZES)
        self.hidden = nn.Linear(cells * channels[-1], hidden)
        self.last = nn.Linear(hidden, coefficients)
        self.register_buffer("share", torch.tensor([[1.0], [0.0]]).repeat(1, coefficients))

    def forward(self, rest: Sequence[Tensor], frames: Sequence[Tensor]) -> Tensor:
        """rest, frames: (N, 3, h, w) in [-1, 1] for each of WINDOWS."""
        features = [
            look(torch.cat([still, (moved - still)], 1))
            for look, still, moved in zip(self.looks, rest, frames, strict=True)
        ]
        return self.last(F.leaky_relu(self.hidden(torch.cat(features, 1)), LEAK))

    def read(self, rest: Sequence[Tensor], frames: Sequence[Tensor], thought: Tensor) -> Tensor:
        """thought (N, n): what another reader says of the same; they err differently."""
        own, other = self.share
        return own * self(rest, frames) + other * thought

    @staticmethod
    def from_bank(bank: Bank, device: torch.device | str = "cpu") -> CloseReader | None:
        """The close reader that a bank carries, or None; EDTalkError (kind "bank") for one that does not fit."""
        state = part_of(bank, PREFIX)
        if not state:
            return None
        try:
            levels = sum(name.startswith("looks.0.convs.") and name.endswith(".bias") for name in state)
            channels = [len(state[f"looks.0.convs.{level}.bias"]) for level in range(levels)]
            reader = CloseReader(channels, len(state["hidden.bias"]), len(bank.names))
            reader.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            message = f"The close reader in the bank '{bank.name}' does not fit: {error}."
            raise EDTalkError(message, _AGAIN, "bank") from error
        return reader.to(device).eval().requires_grad_(False)


def look_at(pictures: Tensor, anchors: Tensor) -> list[Tensor]:
    """Pictures (N, 3, R, R) and anchors (N, 3, 2), see `windows_at` -> what is in each window, (N, 3, h, w)."""
    windows = windows_at(anchors, EXTENTS)
    return [warped(pictures, window.places(*size)) for window, size in zip(windows, SIZES, strict=True)]


def _halved(length: int, times: int) -> int:
    for _ in range(times):
        length = (length + 1) // 2
    return length
