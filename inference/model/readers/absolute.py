"""A reader of its own that a bank may carry: what a face is doing, straight from its picture.

EDTalk reads coefficients off the latent that also draws the face. A small bank's encoder has to spend what little it
has on drawing; a plain network beside it costs a tenth of its time and reads drivers far better. What a source is doing
is still read off its latent: there it matters what the decoder takes the source for, errors included, or coefficients
that should leave it as it is would move it.
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

if TYPE_CHECKING:
    from ...contract.bank import Bank

PREFIX = "reader."
_AGAIN = "Get the bank again."
LEAK = 0.2
LAST = 4  # pixels of a side of the last map


class Reader(nn.Module):
    """Pictures (N, 3, S, S) in [-1, 1] -> (N, n) coefficients.

    Convolutions of stride 2 to a map of LAST pixels, two affine layers; layer widths are `channels`, for S = LAST * 2
    ** len(channels) pixels.
    """

    def __init__(self, channels: Sequence[int], hidden: int, coefficients: int) -> None:
        super().__init__()
        widths = [3, *channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 5 if level == 0 else 3, stride=2, padding=2 if level == 0 else 1)
            for level, (inputs, outputs) in enumerate(pairwise(widths))
        )
        self.hidden = nn.Linear(widths[-1] * LAST**2, hidden)
        self.last = nn.Linear(hidden, coefficients)

    @property
    def size(self) -> int:
        """Pixels of a side of the pictures it reads."""
        return LAST << len(self.convs)

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures
        for conv in self.convs:
            x = F.leaky_relu(conv(x), LEAK)
        return self.last(F.leaky_relu(self.hidden(x.flatten(1)), LEAK))

    @staticmethod
    def from_bank(bank: Bank, device: torch.device | str = "cpu") -> Reader | None:
        """The reader that a bank carries, or None; EDTalkError (kind "bank") for one that does not fit the bank."""
        state = part_of(bank, PREFIX)
        if not state:
            return None
        try:
            count = sum(name.startswith("convs.") and name.endswith(".weight") for name in state)
            channels = [len(state[f"convs.{level}.bias"]) for level in range(count)]
            reader = Reader(channels, len(state["hidden.bias"]), len(bank.names))
            reader.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            raise EDTalkError(f"The reader in the bank '{bank.name}' does not fit: {error}.", _AGAIN, "bank") from error
        check_size(bank, "reader", reader.size)
        return reader.to(device).eval().requires_grad_(False)


def part_of(bank: Bank, prefix: str) -> dict[str, Tensor]:
    """State of a network of its own that a bank carries under `prefix`; empty if it does not. Floats are float32."""
    return {
        name.removeprefix(prefix): torch.from_numpy(np.array(tensor, np.float32 if tensor.dtype.kind == "f" else None))
        for name, tensor in bank.tensors.items()
        if name.startswith(prefix)
    }


def check_size(bank: Bank, what: str, size: int) -> None:
    """Raises EDTalkError (kind "bank") where a reader of `size` pixels is in a bank that draws others."""
    if size != bank.config.size:
        message = f"The {what} in the bank '{bank.name}' reads {size} pixels, the bank draws {bank.config.size}."
        raise EDTalkError(message, _AGAIN, "bank")
