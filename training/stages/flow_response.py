"""The response of a decoder's flow to new directions of the latent, solved in closed form.

The style weights the channels from which every level's flow is made. Along directions that the latent does not use so
far, the flow is therefore nearly linear in these weights, and a least-squares problem gives those that move a drawing
as it is wanted. Gradient descent hardly finds them: the wanted motion is a tenth of the other errors of the flow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.model.generator import Generator, Level, upsample

RIDGE = 0.02  # of the mean diagonal


@torch.no_grad()
def ignore_directions(model: Generator, directions: Tensor) -> None:
    """Make the decoder ignore directions (style_dim, n). Without a part along them a picture stays the same."""
    for layer in (model.dec.conv1, *model.dec.convs, *model.dec.to_flows):
        weight = layer.conv.modulation.weight
        weight -= weight @ directions @ directions.T


@torch.no_grad()
def channel_fields(model: Generator, levels: list[Level], positions: Tensor) -> Tensor:
    """Change (N, P, 2, C) of the last level's flow, before tanh, by every channel of all levels.

    positions: (N, P, 2) in [-1, 1] where the flow is compared.
    """
    shifts = []
    for number, level in enumerate(levels):
        conv = model.dec.to_flows[number].conv
        weight = conv.weight[0, :2, :, 0, 0] * conv.scale  # (2, C)
        count, channels, size = level.same.shape[:3]
        parts = level.same.view(count * channels, 1, size, size)
        for finer in model.dec.to_flows[number + 1 :]:
            parts = upsample(parts, finer.upsample.kernel)
        parts = parts.view(count, channels, *parts.shape[2:])
        sampled = F.grid_sample(parts, positions[:, None], padding_mode="border", align_corners=False)[
            :, :, 0
        ]  # (N, C, P)
        shifts.append(sampled.transpose(1, 2)[:, :, None] * weight)
    return torch.cat(shifts, 3)


@dataclass
class ResponseFit:
    """Normal equations of the response (C, n) of all channels to n directions, accumulated over drawings."""

    square: Tensor | None = None  # (C, n, C, n)
    right: Tensor | None = None  # (C, n)

    def add(self, fields: Tensor, target: Tensor, weight: Tensor, change: Tensor) -> None:
        """fields: (N, P, 2, C) of `channel_fields`; target: (N, P, 2) shift of the flow; weight: (N, P); change: (N, n)
        of the coefficients.
        """
        count, directions = fields.shape[3], change.shape[1]
        if self.square is None or self.right is None:
            self.square = torch.zeros(count, directions, count, directions, dtype=torch.float64)
            self.right = torch.zeros(count, directions, dtype=torch.float64)
        weighted = fields * weight[..., None, None]
        inner = torch.einsum("npdc,npdk->nck", weighted, fields).double()
        outer = (change[:, :, None] * change[:, None]).double()
        self.square += torch.einsum("nck,nij->cikj", inner, outer)
        self.right += torch.einsum("npdc,npd,ni->ci", weighted, target, change).double()

    def solution(self) -> Tensor:
        """(C, n) response by ridge regression."""
        assert self.square is not None
        assert self.right is not None
        size = self.right.numel()
        square = self.square.reshape(size, size)
        ridge = RIDGE * square.diagonal().mean() * torch.eye(size, dtype=square.dtype)
        return torch.linalg.solve(square + ridge, self.right.reshape(size)).view_as(self.right).float()


@torch.no_grad()
def add_response(model: Generator, directions: Tensor, response: Tensor) -> None:
    """Add a response (C, n) of all levels' channels to directions (style_dim, n) to the decoder."""
    first = 0
    for to_flow in model.dec.to_flows:
        modulation = to_flow.conv.modulation
        rows = response[first : first + len(modulation.weight)]
        modulation.weight += rows @ directions.T / modulation.scale
        first += len(rows)
