"""The interface through which a renderer is evaluated: it animates a portrait and moves its tracked points."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.contract.bank import Bank
from inference.renderer import FaceRenderer

COARSE = 32  # side of the grid on which points are searched first
STEPS = 6  # Newton steps
AT_ONCE = 8  # frames per batch


class Puppet(Protocol):
    """A portrait that can be animated by coefficients. T frames of S pixels, points in [-1, 1]."""

    def show(self, portrait: np.ndarray) -> None:
        """Choose the portrait, (H, W, 3) uint8."""

    def own(self) -> np.ndarray:
        """(36,) coefficients read from the portrait."""

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        """Coefficients (T, 36) -> frames (T, S, S, 3) uint8."""

    def moved(self, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Coefficients (T, 36) and points (P, 2) of the portrait -> their positions in the frames, (T, P, 2)."""

    def read(self, pictures: np.ndarray) -> np.ndarray:
        """Frames (T, S, S, 3) of the same person -> coefficients (T, 36)."""


class BankPuppet:
    """A bank rendered by `FaceRenderer`, with frames resized to `size` pixels.

    detail: use detail transfer instead of resizing. Raises EDTalkError if `size` is then smaller than the bank's.
    """

    def __init__(self, bank: Bank, size: int, *, detail: bool = False) -> None:
        self.size, self.config, self.detail = size, bank.config, detail
        self.renderer, self.portrait = FaceRenderer(bank, "cpu"), np.zeros((size, size, 3), np.uint8)

    def show(self, portrait: np.ndarray) -> None:
        self.portrait = portrait
        self.renderer.set_source(portrait, resized(portrait, self.size) if self.detail else None)

    def own(self) -> np.ndarray:
        return self._drawn(self.renderer.source_coefficients.values)[0]

    def _drawn(self, rows: np.ndarray) -> np.ndarray:
        """The columns (T, m) that the heads have a truth for: without painted banks."""
        return rows[:, : self.config.generator.coefficient_count]

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([resized(picture, self.size) for picture in self.renderer.render(rows)])

    @torch.no_grad()
    def moved(self, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        targets, positions = torch.from_numpy(np.asarray(points, np.float32)), []
        for part in np.array_split(rows, -(-len(rows) // AT_ONCE)):
            places = torch.from_numpy(self.renderer.places(part))
            positions.append(appearing_at(places, targets.expand(len(part), -1, -1)))
        return torch.cat(positions).numpy()

    def read(self, pictures: np.ndarray) -> np.ndarray:
        """Read as capture does: relative to the portrait if the bank has a relative reader, else frame by frame."""
        reader = self.renderer.reader
        if not reader.can_compare:
            return self._drawn(reader.encode(pictures).values)
        return self.own() + self._drawn(reader.compare(reader.rest_reference(self.portrait), pictures))


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """A square uint8 picture at `size` pixels."""
    if len(picture) == size:
        return picture
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if size < len(picture) else cv2.INTER_CUBIC)


def appearing_at(grid: Tensor, points: Tensor) -> Tensor:
    """Positions (N, P, 2) at which points (N, P, 2) of the source appear, by inverting the flow; all in [-1, 1].

    grid: (N, 2, R, R) source position of each pixel. Starts at the nearest pixel of a coarse grid, takes Newton steps,
    and returns the position of all steps whose source position is nearest to the point.
    """
    size = grid.shape[-1]
    step = max(1, size // COARSE)
    coarse = grid[:, :, step // 2 :: step, step // 2 :: step].flatten(2).transpose(1, 2)
    line = (torch.arange(size)[step // 2 :: step] * 2 + 1) / size - 1.0
    places = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).view(-1, 2)
    at = places[torch.cdist(points, coarse).argmin(-1)]  # (N, P, 2)

    pixel = 2.0 / size
    around = torch.tensor([[0, 0], [pixel, 0], [-pixel, 0], [0, pixel], [0, -pixel]])
    best, nearest = at, torch.full(at.shape[:2], torch.inf)
    for _ in range(STEPS + 1):
        sampled = F.grid_sample(grid, at[:, :, None] + around, padding_mode="border", align_corners=False)
        centre, right, left, below, above = sampled.permute(3, 0, 2, 1)  # (N, P, 2) each
        missing = points - centre
        distance = missing.norm(dim=-1)
        closer = distance < nearest
        best, nearest = torch.where(closer[..., None], at, best), torch.where(closer, distance, nearest)
        slope = torch.stack([right - left, below - above], -1) / (2 * pixel)  # d source position / d place
        square = slope.transpose(-1, -2) @ slope + 1e-3 * torch.eye(2)  # regularised where the flow is constant
        move = torch.linalg.solve(square, slope.transpose(-1, -2) @ missing[..., None])[..., 0]
        far = (move.norm(dim=-1, keepdim=True) / (4 * step * pixel)).clamp(min=1.0)
        at = (at + move / far).clamp(-1.0, 1.0)
    return best
