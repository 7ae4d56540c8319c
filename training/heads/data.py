"""Source and driving pictures of rendered heads, drawn from the data set that `training.heads.dataset` writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..units import NAMES

PORTRAIT_FRAMES = 3  # the first frames of every identity look like a portrait, the first one is at rest
REST = 0.5  # share of the portraits that are exactly at rest
MIRROR_SWAP = (("mouthLeft", "mouthRight"), ("jawLeft", "jawRight"))
MIRROR_NEGATE = ("headYaw", "headRoll", "headShiftX")
RAREST = 0.05  # deviation below which a coefficient counts no more than at this one
# Weight of the picture loss on top of 1, by point group: what an artist looks at.
GROUP_WEIGHT = {"mouth": 16.0, "eyes": 8.0, "face": 1.0}


@dataclass(frozen=True)
class Tracks:
    """Tracked points of N pairs of a source and a driving frame, in picture coordinates [-1, 1]."""

    source: Tensor  # (N, P, 2)
    driving: Tensor  # (N, P, 2)
    visible: Tensor  # (N, P) 1 where the point is seen in both pictures


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
    places: Tensor  # (P, 3) where the tracked points lie on the average head, of unit size


class HeadPairs:
    """Random batches from data set folders at `size` pixels; everything is held in memory.

    All folders have the same number of frames a person, and the same tracked points.
    """

    def __init__(self, folders: Sequence[Path], size: int) -> None:
        metas = [json.loads((folder / "meta.json").read_text()) for folder in folders]
        self.frames_per_identity = int(metas[0]["frames"])
        self.groups = {name: tuple(bounds) for name, bounds in metas[0]["points"].items()}
        if any((meta["frames"], meta["points"]) != (metas[0]["frames"], metas[0]["points"]) for meta in metas):
            raise SystemExit(f"{', '.join(map(str, folders))}: frames a person and points must agree")
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
        self.places = torch.from_numpy(np.load(folders[0] / "places.npy"))  # (P, 3) on the average head, of unit size
        self.rarity = 1.0 / self.coefficients.std(0).clamp(min=RAREST).square()  # (36,)
        self.mirror_order, self.mirror_sign = mirror_table()

    def renew(self) -> None:
        """Called once a step: takes in what is new. A fixed set has nothing new."""

    def batch(
        self,
        rng: np.random.Generator,
        sources: int,
        drivings: int,
        portraits: float,
        oftener: Mapping[str, float] | None = None,
        tinted: bool = True,
    ) -> Batch:
        """`portraits` is the share of sources that look like the picture an artist brings, most of them at rest.

        oftener: by how much oftener a frame drives that has a coefficient fully than one that has none of it. tinted:
        each person's pictures have a gain and an offset, the same for all.
        """
        identity = rng.choice(self.identities, sources, replace=False) * self.frames_per_identity
        is_portrait = rng.random(sources) < portraits
        portrait = np.where(rng.random(sources) < REST, 0, rng.integers(1, PORTRAIT_FRAMES, sources))
        frame = np.where(is_portrait, portrait, rng.integers(0, self.frames_per_identity, sources))
        if oftener is None:
            driving = rng.integers(0, self.frames_per_identity, (sources, drivings))
        else:
            frames = torch.from_numpy(identity[:, None] + np.arange(self.frames_per_identity))
            amounts = self.coefficients[frames][..., [NAMES.index(name) for name in oftener]].double()
            odds = 1.0 + amounts @ torch.tensor([*oftener.values()]).double()
            chances = (odds / odds.sum(1, keepdim=True)).numpy()
            driving = np.stack([rng.choice(self.frames_per_identity, drivings, p=row) for row in chances])
        batch = self.pick(identity + frame, (identity[:, None] + driving))
        if rng.random() < 0.5:
            batch = self._mirrored(batch)
        if not tinted:
            return batch
        tints = _tints(sources, rng)
        return replace(batch, source=_tinted(batch.source, *tints), driving=_tinted(batch.driving, *tints))

    def pick(self, source: np.ndarray, driving: np.ndarray) -> Batch:
        """source: (S,) frame numbers, driving: (S, K)."""
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
        """Points of the frames numbered `source` (N,) and `driving` (N,)."""
        before, after = self.points[source].float(), self.points[driving].float()
        inside = (before.abs().amax(-1) < 1.0) & (after.abs().amax(-1) < 1.0)
        return Tracks(before, after, (self.visible[source] & self.visible[driving] & inside).float())

    def pictures(self, rows: Tensor) -> Tensor:
        """(N, 3, R, R) in [-1, 1] by frame number."""
        return self.frames[rows].permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def _weights(self, points: Tensor, gains: Mapping[str, float]) -> Tensor:
        """(N, 1, R, R): 1, and that much more in the cells of a coarse grid that hold points of the named groups."""
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

        def coefficients(values: Tensor) -> Tensor:
            return values[:, self.mirror_order] * self.mirror_sign

        return replace(
            batch,
            source=batch.source.flip(-1),
            driving=batch.driving.flip(-1),
            source_coefficients=coefficients(batch.source_coefficients),
            driving_coefficients=coefficients(batch.driving_coefficients),
            tracks=Tracks(batch.tracks.source * flip, batch.tracks.driving * flip, batch.tracks.visible),
            still=batch.still.flip(-1),
            backdrop=batch.backdrop.flip(-1),
            weight=batch.weight.flip(-1),
            mouth=batch.mouth.flip(-1),
            places=batch.places * torch.tensor([-1.0, 1.0, 1.0]),
        )


def mirror_table() -> tuple[Tensor, Tensor]:
    order, sign = list(range(len(NAMES))), torch.ones(len(NAMES))
    for left, right in MIRROR_SWAP:
        a, b = NAMES.index(left), NAMES.index(right)
        order[a], order[b] = b, a
    for name in MIRROR_NEGATE:
        sign[NAMES.index(name)] = -1.0
    return torch.tensor(order), sign


def recoloured(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures (N, 3, R, R) with a random gain and offset each."""
    return _tinted(pictures, *_tints(len(pictures), rng))


def _tints(count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    gain = torch.from_numpy(rng.uniform(0.75, 1.2, (count, 3, 1, 1)).astype(np.float32))
    return gain, torch.from_numpy(rng.uniform(-0.15, 0.15, (count, 1, 1, 1)).astype(np.float32))


def _tinted(pictures: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """gain and offset of S identities, pictures of S * K frames."""
    repeats = len(pictures) // len(gain)
    scaled = pictures * gain.repeat_interleave(repeats, 0) + offset.repeat_interleave(repeats, 0)
    return scaled.clamp(-1.0, 1.0)


def area_mean(frames: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, S, S, C) -> uint8 (N, size, size, C), in slices so that a memory map stays on disk."""
    factor = frames.shape[1] // size
    result = np.empty((len(frames), size, size, frames.shape[3]), np.uint8)
    for start in range(0, len(frames), 500):
        part = np.asarray(frames[start : start + 500])
        if factor > 1:
            part = part.reshape(len(part), size, factor, size, factor, -1).mean((2, 4), dtype=np.float32) + 0.5
        result[start : start + len(part)] = part
    return result
