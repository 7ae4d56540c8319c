"""A reader that looks closely at mouth and eyes, beside the same person's at rest.

Where a whole face is read at a bank's size, a mouth is thirty pixels wide, and pressed lips differ from stretched ones
by a fraction of one. This one sees windows around mouth and eyes (`inference.model.insets`) at twice that size, and
because they follow the head, what differs between the two is what the face does. It is told how the one flows into the
other: a search finds fractions of a pixel that a network is long in learning to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...contract.errors import EDTalkError
from ..insets import windows_at
from .absolute import LEAK, part_of
from .relative import grey

if TYPE_CHECKING:
    from ...contract.bank import Bank

PREFIX = "close."
WINDOWS = ("mouth", "eyes")
SIZES = (80, 80), (48, 112)  # pixels, height and width
EXTENTS = (0.75, 0.85, 0.22), (1.12, 0.485, -0.06)  # in eye distances, see `inference.model.insets.window_at`
SEEN = 11  # the rest, the frame less that, the same followed along the flow, and the flow
CELL = 8  # pixels of a side over which the flow is averaged too
FLOW_UNIT = 8.0  # pixels
_AGAIN = "Get the bank again."


class Look(nn.Module):
    """At one window: (N, SEEN, h, w), see `RestWindow` -> features (N, F). Layer widths are `channels`."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 5 if level == 0 else 3, stride=2, padding=2 if level == 0 else 1)
            for level, (inputs, outputs) in enumerate(pairwise([SEEN, *channels]))
        )

    def forward(self, seen: Tensor) -> Tensor:
        flow = F.avg_pool2d(seen[:, -2:], CELL)
        for conv in self.convs:
            seen = F.leaky_relu(conv(seen), LEAK)
        return torch.cat([seen.flatten(1), flow.flatten(1)], 1)


class CloseReader(nn.Module):
    """What is seen in the windows of frames -> (N, n), what the frames do more than the rest; nothing of the pose.

    Looks, an affine layer that only narrows what they found, one of `hidden`, and the last one.
    share: (2, n), how much that counts, and how much what is thought by then, see `read`. mirror: (n,), which
    coefficient does in a mirror what each does, and mirror_sign (n,) which way.
    """

    def __init__(self, channels: Sequence[int], narrow: int, hidden: int, coefficients: int) -> None:
        super().__init__()
        self.looks = nn.ModuleList(Look(channels) for _ in WINDOWS)
        features = sum(_features(height, width, channels) for height, width in SIZES)
        self.narrow = nn.Linear(features, narrow, bias=False)
        self.hidden = nn.Linear(narrow, hidden)
        self.last = nn.Linear(hidden, coefficients)
        self.register_buffer("share", torch.tensor([[1.0], [0.0]]).repeat(1, coefficients))
        self.register_buffer("mirror", torch.arange(coefficients, dtype=torch.int32))
        self.register_buffer("mirror_sign", torch.ones(coefficients))

    def forward(self, seen: Sequence[Tensor]) -> Tensor:
        """seen: (N, SEEN, h, w) for each of WINDOWS."""
        features = [look(window) for look, window in zip(self.looks, seen, strict=True)]
        return self.last(F.leaky_relu(self.hidden(self.narrow(torch.cat(features, 1))), LEAK))

    def read(self, seen: Sequence[Tensor], thought: Tensor) -> Tensor:
        """thought (N, n): what another reader says of the same; they err differently, as this one does in a mirror."""
        own, other = self.share
        turned = [window.flip(-1) for window in seen]
        for window in turned:
            window[:, -2].neg_()  # what flows to the left
        in_mirror = self(turned)[:, self.mirror] * self.mirror_sign
        return own * (self(seen) + in_mirror) / 2 + other * thought

    @staticmethod
    def from_bank(bank: Bank, device: torch.device | str = "cpu") -> CloseReader | None:
        """The close reader that a bank carries, or None; EDTalkError (kind "bank") for one that does not fit."""
        state = part_of(bank, PREFIX)
        if not state:
            return None
        try:
            levels = sum(name.startswith("looks.0.convs.") and name.endswith(".bias") for name in state)
            channels = [len(state[f"looks.0.convs.{level}.bias"]) for level in range(levels)]
            reader = CloseReader(channels, len(state["narrow.weight"]), len(state["hidden.bias"]), len(bank.names))
            reader.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            message = f"The close reader in the bank '{bank.name}' does not fit: {error}."
            raise EDTalkError(message, _AGAIN, "bank") from error
        return reader.to(device).eval().requires_grad_(False)


class RestWindow:
    """What one window shows of a face at rest, float32 (h, w, 3) in [-1, 1], to see others beside."""

    def __init__(self, window: np.ndarray) -> None:
        import cv2  # here: only a bank with a close reader needs it

        self._window, self._grey = window, grey(window.transpose(2, 0, 1))
        height, width = window.shape[:2]
        self._pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
        self._search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._search.setFinestScale(0)

    def beside(self, window: np.ndarray) -> np.ndarray:
        """float32 (h, w, SEEN) of what the same window shows of a frame."""
        import cv2

        flow = self._search.calc(self._grey, grey(window.transpose(2, 0, 1)), None)
        followed = cv2.remap(window, self._pixels + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        rest = self._window
        return np.concatenate([rest, window - rest, followed - rest, flow / np.float32(FLOW_UNIT)], 2)


def look_at(pictures: Sequence[np.ndarray], anchors: Tensor) -> list[list[np.ndarray]]:
    """For each of WINDOWS what it shows of each picture, (h, w, 3) of the picture's type.

    pictures: N of (R, R, 3); anchors: (N, 3, 2), see `windows_at`.
    """
    import cv2

    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    result = []
    for window, (height, width) in zip(windows_at(anchors.cpu(), EXTENTS), SIZES, strict=True):
        shown = []
        for row, picture in enumerate(pictures):
            to_pixels = window.pixels(row, height, width) * (len(picture) / 2)
            to_pixels[:, 2] += (len(picture) - 1) / 2
            shown.append(cv2.warpAffine(picture, to_pixels, (width, height), None, flags, cv2.BORDER_REPLICATE))
        result.append(shown)
    return result


def _features(height: int, width: int, channels: Sequence[int]) -> int:
    cells = 2 * (height // CELL) * (width // CELL)
    for _ in channels:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height * width * channels[-1] + cells
