"""Training batches of source and driving pictures from the data sets written by `python -m training heads`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..learning.augment import Exposure
from ..units import NAMES, mirrored

PORTRAIT_FRAMES = 3  # the first frames of every person are portraits; the first of them is exactly at rest
REST = 0.5  # share of portrait sources that are exactly at rest
RAREST = 0.05  # lower limit of a coefficient's deviation, in the weights that are derived from it
# Exposure of a person's pictures, see `Exposure.random`.
TINT: dict[str, Any] = {"gain": (0.75, 1.2), "offset": 0.15, "shared": 0.0}
# Weight of the picture loss, added to 1, by point group.
GROUP_WEIGHT = {"mouth": 16.0, "eyes": 8.0, "face": 1.0}


@dataclass(frozen=True)
class Tracks:
    """Tracked points of N pairs of source and driving frame, in picture coordinates [-1, 1]."""

    source: Tensor  # (N, P, 2)
    driving: Tensor  # (N, P, 2)
    visible: Tensor  # (N, P) 1 where the point is visible in both pictures


@dataclass(frozen=True)
class Batch:
    """S sources with K driving frames each; pictures in [-1, 1]."""

    source: Tensor  # (S, 3, R, R)
    driving: Tensor  # (S * K, 3, R, R)
    source_coefficients: Tensor  # (S, 36)
    driving_coefficients: Tensor  # (S * K, 36)
    tracks: Tracks  # S * K pairs
    still: Tensor  # (S * K, 1, 32, 32) 1 where both pictures show background
    backdrop: Tensor  # (S, 1, 32, 32) 1 where the source shows background
    weight: Tensor  # (S * K, 1, R, R) of the picture loss
    mouth: Tensor  # (S * K, 1, R, R) 1 around the driving mouth, 0 elsewhere
    places: Tensor  # (P, 3) positions of the tracked points on the average head, of unit deviation


class HeadPairs:
    """Draws random batches from data set folders. Everything is held in memory.

    folders: written by `python -m training heads`. size: pixels of the pictures; the size of the data sets must be a
    multiple of it. Raises SystemExit if the folders differ in frames per person or in tracked points.

    Attributes: rarity, (36,) inverse variance of each coefficient; places, groups: see `Batch` and `mesh.POINT_GROUPS`.
    """

    def __init__(self, folders: Sequence[Path], size: int) -> None:
        metas = [json.loads((folder / "meta.json").read_text()) for folder in folders]
        self.frames_per_identity = int(metas[0]["frames"])
        self.groups = {name: tuple(bounds) for name, bounds in metas[0]["points"].items()}
        if any((meta["frames"], meta["points"]) != (metas[0]["frames"], metas[0]["points"]) for meta in metas):
            raise SystemExit(
                f"{', '.join(map(str, folders))} have different numbers of frames or tracked points per person. "
                "Use data sets that were rendered with the same --frames."
            )
        self.identities = sum(int(meta["done"]) for meta in metas)
        self.size = size

        def joined(name: str, convert: Callable[[np.ndarray], np.ndarray] = np.array) -> Tensor:
            parts = []
            for folder, meta in zip(folders, metas, strict=True):
                rows = np.load(folder / f"{name}.npy", mmap_mode="r")[: int(meta["done"]) * self.frames_per_identity]
                parts.append(torch.from_numpy(convert(rows)))
            return torch.cat(parts)

        self.frames = joined("frames", lambda rows: area_mean(rows, size))
        self.masks = joined("masks", lambda rows: area_mean(rows[..., None], 32)[..., 0])
        self.points = joined("points")
        self.visible = joined("visible")
        self.coefficients = joined("coefficients")
        self.places = torch.from_numpy(np.load(folders[0] / "places.npy"))
        self.rarity = 1.0 / self.coefficients.std(0).clamp(min=RAREST).square()  # (36,)

    def renew(self) -> None:
        """Replace people by newly rendered ones, once per step. Does nothing for a fixed data set."""

    def batch(
        self,
        rng: np.random.Generator,
        sources: int,
        drivings: int,
        portraits: float,
        oversample: Mapping[str, float] | None = None,
        tinted: bool = True,
    ) -> Batch:
        """Random people, each with one source and several driving frames.

        portraits: share of sources that are portraits, half of them exactly at rest; the others are any frame.
        oversample: by coefficient name, sampling weight of driving frames where it is 1, added to 1 where it is 0.
        tinted: apply one random exposure per person.
        """
        identity = rng.choice(self.identities, sources, replace=False) * self.frames_per_identity
        is_portrait = rng.random(sources) < portraits
        portrait = np.where(rng.random(sources) < REST, 0, rng.integers(1, PORTRAIT_FRAMES, sources))
        frame = np.where(is_portrait, portrait, rng.integers(0, self.frames_per_identity, sources))
        if oversample is None:
            driving = rng.integers(0, self.frames_per_identity, (sources, drivings))
        else:
            frames = torch.from_numpy(identity[:, None] + np.arange(self.frames_per_identity))
            amounts = self.coefficients[frames][..., [NAMES.index(name) for name in oversample]].double()
            odds = 1.0 + amounts @ torch.tensor([*oversample.values()]).double()
            chances = (odds / odds.sum(1, keepdim=True)).numpy()
            driving = np.stack([rng.choice(self.frames_per_identity, drivings, p=row) for row in chances])
        batch = self.pick(identity + frame, identity[:, None] + driving)
        if rng.random() < 0.5:
            batch = self._mirrored(batch)
        if not tinted:
            return batch
        exposure = Exposure.random(sources, rng, **TINT)
        source, driven = (exposure.apply(part).clamp(-1.0, 1.0) for part in (batch.source, batch.driving))
        return replace(batch, source=source, driving=driven)

    def pick(self, source: np.ndarray, driving: np.ndarray) -> Batch:
        """The batch of given frame numbers, source (S,) and driving (S, K), without augmentation."""
        repeated = torch.from_numpy(np.repeat(source, driving.shape[1]))
        source_rows, rows = torch.from_numpy(source), torch.from_numpy(driving.reshape(-1))
        tracks = self.tracks(repeated, rows)
        still = (self.masks[repeated] < 8) & (self.masks[rows] < 8)
        return Batch(
            source=self.pictures(source_rows),
            driving=self.pictures(rows),
            source_coefficients=self.coefficients[source_rows],
            driving_coefficients=self.coefficients[rows],
            tracks=tracks,
            still=still[:, None].float(),
            backdrop=(self.masks[source_rows] < 8)[:, None].float(),
            weight=self._weights(tracks.driving, GROUP_WEIGHT),
            mouth=self._weights(tracks.driving, {"mouth": 1.0}) - 1.0,
            places=self.places,
        )

    def tracks(self, source: Tensor, driving: Tensor) -> Tracks:
        """Tracked points of the frame numbers `source` (N,) and `driving` (N,)."""
        before, after = self.points[source].float(), self.points[driving].float()
        inside = (before.abs().amax(-1) < 1.0) & (after.abs().amax(-1) < 1.0)
        return Tracks(before, after, (self.visible[source] & self.visible[driving] & inside).float())

    def pictures(self, rows: Tensor) -> Tensor:
        """(N, 3, R, R) in [-1, 1] of the given frame numbers."""
        return self.frames[rows].permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def _weights(self, points: Tensor, gains: Mapping[str, float]) -> Tensor:
        """(N, 1, R, R) weights: 1, plus a group's gain in those cells of a coarse grid that contain its points."""
        cells = 16
        index = ((points.clamp(-1.0, 0.999) + 1.0) * (cells / 2)).long()
        flat = index[..., 1] * cells + index[..., 0]
        grid = torch.ones(len(points), cells * cells)
        for name, gain in gains.items():
            first, last = self.groups[name]
            hit = torch.zeros_like(grid).scatter_(1, flat[:, first:last], 1.0)
            grid = torch.maximum(grid, 1.0 + gain * hit)
        return F.interpolate(grid.view(-1, 1, cells, cells), size=self.size, mode="bilinear", align_corners=False)

    def _mirrored(self, batch: Batch) -> Batch:
        flip = torch.tensor([-1.0, 1.0])
        return replace(
            batch,
            source=batch.source.flip(-1),
            driving=batch.driving.flip(-1),
            source_coefficients=mirrored(batch.source_coefficients),
            driving_coefficients=mirrored(batch.driving_coefficients),
            tracks=Tracks(batch.tracks.source * flip, batch.tracks.driving * flip, batch.tracks.visible),
            still=batch.still.flip(-1),
            backdrop=batch.backdrop.flip(-1),
            weight=batch.weight.flip(-1),
            mouth=batch.mouth.flip(-1),
            places=batch.places * torch.tensor([-1.0, 1.0, 1.0]),
        )


def recoloured(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures (N, 3, R, R) with a random exposure each, see TINT."""
    return Exposure.random(len(pictures), rng, **TINT).apply(pictures).clamp(-1.0, 1.0)


def area_mean(frames: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, S, S, C) -> (N, size, size, C), averaged in slices, so that a memory map stays on disk."""
    factor = frames.shape[1] // size
    result = np.empty((len(frames), size, size, frames.shape[3]), np.uint8)
    for start in range(0, len(frames), 500):
        part = np.asarray(frames[start : start + 500])
        if factor > 1:
            part = part.reshape(len(part), size, factor, size, factor, -1).mean((2, 4), dtype=np.float32) + 0.5
        result[start : start + len(part)] = part
    return result
