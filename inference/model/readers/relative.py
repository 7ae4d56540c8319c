"""A reader that sees a driver's picture at rest beside the frame: what the face does more than in that picture.

One picture tells a person's own shapes from what they do only by guesswork; two of one person tell what moved. A dense
flow between them is nearly linear in how a head turns, so a linear map of it reads the pose. A stage then takes the
frame back to where the rest's face is, as far as is known by then, and a network compares the two place by place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...contract.errors import EDTalkError
from .absolute import check_size, part_of

if TYPE_CHECKING:
    from ...contract.bank import Bank

PREFIX = "relative."
_AGAIN = "Get the bank again."
LEAK = 0.2
GRID = 16  # cells of a side of the flow that the linear map sees
FACE = (0.125, 0.25, 0.75)  # left, top and side of the square that is compared, in picture sides
NEAR, FAR = 7, 9  # places of a side that a place of the rest is compared with, a pixel and two pixels apart
LAST = 3  # pixels of a side of the last map
FLOW_UNIT = 8.0  # networks see a flow as multiples of a picture's half divided by this


class Seen(NamedTuple):
    """What a stage compares, of a square of R pixels."""

    pictures: Tensor  # (N, 9, R, R) the rest, and how the frame differs, taken back by the estimate, and by the flow
    beyond: Tensor  # (N, 2, R / 2, R / 2) what of the flow the estimate does not explain
    misfit: Tensor  # (N, NEAR**2 + FAR**2, R / 2, R / 2), see `misfits`


class Stage(nn.Module):
    """From what is thought that the frame does more than the rest, (N, n), to what is to be added to that, (N, n).

    motion: the flow that each coefficient makes on an average face. Convolutions of stride 2 to a map of LAST pixels,
    two affine layers; layer widths are `channels`.
    """

    def __init__(self, channels: Sequence[int], hidden: int, coefficients: int, cells: int) -> None:
        super().__init__()
        self.register_buffer("motion", torch.zeros(coefficients, 2, cells, cells))
        self.first = nn.Conv2d(9, channels[0], 4, stride=2, padding=1)
        self.matches = nn.Conv2d(NEAR**2 + FAR**2, channels[0], 1)
        widths = [2 * channels[0] + 2, *channels[1:]]
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1) for inputs, outputs in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (2 * channels[0], *channels[1:]))
        for conv in (self.first, self.matches, *self.convs):
            nn.init.kaiming_normal_(conv.weight, LEAK)
            nn.init.zeros_(conv.bias)
        self.hidden = nn.Linear(channels[-1] * LAST**2 + coefficients, hidden)
        self.last = nn.Linear(hidden, coefficients)

    def forward(self, estimate: Tensor, rest: Tensor, frames: Tensor, flow: Tensor) -> Tensor:
        seen = self.see(estimate, rest, frames, flow)
        return self.compare(estimate, seen, self.matches(seen.misfit))

    def see(self, estimate: Tensor, rest: Tensor, frames: Tensor, flow: Tensor, margin: int = 0) -> Seen:
        """Of FACE, and `margin` pixels around it."""
        size = rest.shape[-1]
        left, top, side = (value + margin * way / size for value, way in zip(FACE, (-1, -1, 2), strict=True))
        theta = torch.tensor([[side, 0.0, 2 * left + side - 1], [0.0, side, 2 * top + side - 1]], device=rest.device)
        pixels = round(size * side)
        places = F.affine_grid(theta[None], [1, 3, pixels, pixels], align_corners=False).expand(len(rest), -1, -1, -1)

        def sampled(planes: Tensor, where: Tensor) -> Tensor:
            return F.grid_sample(planes, where, padding_mode="border", align_corners=False)

        thought = sampled(torch.einsum("nk,kchw->nchw", estimate, self.motion), places)
        moved = sampled(flow, places)
        still = sampled(rest, places)
        back = sampled(frames, places + thought.movedim(1, -1))
        followed = sampled(frames, places + moved.movedim(1, -1))
        beyond = F.avg_pool2d(moved - thought, 2) * FLOW_UNIT
        pictures = torch.cat([still, back - still, followed - still], 1)
        return Seen(pictures, beyond, misfits(still.mean(1, keepdim=True), back.mean(1, keepdim=True)))

    def compare(self, estimate: Tensor, seen: Seen, found: Tensor) -> Tensor:
        """found: `matches` of the misfit."""
        x = self.first(seen.pictures.contiguous(memory_format=torch.channels_last))
        x = F.leaky_relu(self.norms[0](torch.cat([x, found.to(x.dtype)], 1)), LEAK)
        x = torch.cat([x, seen.beyond.to(x.dtype)], 1)
        for conv, norm in zip(self.convs, self.norms[1:], strict=True):
            x = F.leaky_relu(norm(conv(x)), LEAK)
        x = torch.cat([x.flatten(1), estimate.to(x.dtype)], 1)
        return self.last(F.leaky_relu(self.hidden(x), LEAK))


def misfits(still: Tensor, moved: Tensor) -> Tensor:
    """Grey (N, 1, R, R) twice -> (N, NEAR**2 + FAR**2, R / 2, R / 2): how ill each place fits those around it.

    1 is as ill as the places tried do in the mean.
    """
    pooled = []
    for places in (NEAR, FAR):
        if places == FAR:
            still, moved = F.avg_pool2d(still, 2), F.avg_pool2d(moved, 2)
        reach, (height, width) = places // 2, still.shape[-2:]
        wide = F.pad(moved, (reach,) * 4, mode="replicate")
        shifted = [wide[..., y : y + height, x : x + width] for y in range(places) for x in range(places)]
        misfit = (torch.cat(shifted, 1) - still).square_().contiguous(memory_format=torch.channels_last)  # pools faster
        misfit = F.avg_pool2d(misfit, 4, 2, 1) if places == NEAR else F.avg_pool2d(misfit, 3, 1, 1)
        pooled.append(misfit / (misfit.mean(1, keepdim=True) + 1e-3))
    return torch.cat(pooled, 1)


class RelativeReader(nn.Module):
    """Pictures at rest and frames (N, 3, S, S) in [-1, 1], flow (N, 2, S / 2, S / 2) -> (N, n) coefficients.

    flow: where in the frame each place of the rest is found, see `RestFlow`. The answer is what the frame does more
    than the rest does. S is LAST * 4 / 3 * 2 ** len(channels). cells: of each stage's `motion`. share: (2, n), how much
    that counts, and how much the difference of what a plain reader says of the two; they err differently.
    """

    def __init__(self, channels: Sequence[int], hidden: int, coefficients: int, cells: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * GRID**2, coefficients)
        self.register_buffer("share", torch.tensor([[1.0], [0.0]]).repeat(1, coefficients))
        self.stages = nn.ModuleList(Stage(channels, hidden, coefficients, count) for count in cells)

    @property
    def size(self) -> int:
        """Pixels of a side of the pictures it reads."""
        return (LAST << (len(self.stages[0].convs) + 1)) * 4 // 3

    def forward(self, rest: Tensor, frames: Tensor, flow: Tensor) -> Tensor:
        estimate = self.linear(F.adaptive_avg_pool2d(flow, GRID).flatten(1))
        for stage in self.stages:
            estimate = estimate + stage(estimate, rest, frames, flow)
        return estimate

    @staticmethod
    def from_bank(bank: Bank, device: torch.device | str = "cpu") -> RelativeReader | None:
        """The relative reader that a bank carries, or None; EDTalkError (kind "bank") for one that does not fit."""
        state = part_of(bank, PREFIX)
        if not state:
            return None
        try:
            count = sum(name.startswith("stages.0.convs.") and name.endswith(".bias") for name in state)
            layers = ["first", *(f"convs.{level}" for level in range(count))]
            channels = [len(state[f"stages.0.{layer}.bias"]) for layer in layers]
            stages = sum(name.endswith(".motion") for name in state)
            cells = [state[f"stages.{number}.motion"].shape[-1] for number in range(stages)]
            reader = RelativeReader(channels, len(state["stages.0.hidden.bias"]), len(bank.names), cells)
            reader.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            message = f"The relative reader in the bank '{bank.name}' does not fit: {error}."
            raise EDTalkError(message, _AGAIN, "bank") from error
        check_size(bank, "relative reader", reader.size)
        return reader.to(device).eval().requires_grad_(False)


class RestFlow:
    """Where in other pictures each place of a person's picture at rest is found.

    Pictures are float32 (3, S, S) in [-1, 1].
    """

    def __init__(self, rest: np.ndarray) -> None:
        import cv2  # here: only a bank with a relative reader needs it

        self._rest = grey(rest)
        self._search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._search.setFinestScale(0)

    def to(self, picture: np.ndarray) -> np.ndarray:
        """float32 (2, S / 2, S / 2): how far to the right and down, in half picture sides."""
        flow, size = self._search.calc(self._rest, grey(picture), None), len(self._rest)
        cells = flow.reshape(size // 2, 2, size // 2, 2, 2).mean((1, 3))
        return np.ascontiguousarray(cells.transpose(2, 0, 1)) * np.float32(2 / size)


def grey(picture: np.ndarray) -> np.ndarray:
    """(3, H, W) in [-1, 1] -> uint8 (H, W), what flow is searched in."""
    import cv2

    levels = np.rint((np.clip(picture, -1, 1) + 1) * 127.5).astype(np.uint8)
    return cv2.cvtColor(np.ascontiguousarray(levels.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)
