"""Train the reader that compares high-resolution windows of mouth and eyes with a neutral frame.

    python -m training close-reader --refiner F.pt --data DIR DIR --heldout DIR --out C.pt --minutes 90

The data sets need pictures of twice the bank's size. The refiner, a checkpoint or a bank, moves the windows with the
head. An auxiliary output predicts how the tracked points move in the windows; it is dropped afterwards.
Cutting out windows and computing their optical flow takes longer than a step, so each pair is used several times.
With --bank, the blend weights of this reader and of the bank's others are fitted at the end, on the held-out people.
Run the same command again to resume. A log (C.jsonl) with a line per minute is written beside the checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inference.contract.bank import load_bank
from inference.model.insets import windows_at
from inference.model.load import RELATIVE_READER, state_of
from inference.model.readers.absolute import LEAK
from inference.model.readers.relative import (
    CELL,
    EXTENTS,
    SIZES,
    WINDOW_CHANNELS,
    WINDOWS,
    RelativeReader,
    RelativeReaderConfig,
    RestWindow,
    WindowReader,
    cut_windows,
)
from inference.model.refiner import Refiner
from inference.renderer import FaceRenderer

from ..heads.data import PORTRAIT_FRAMES, RAREST
from ..learning.augment import Exposure, array_noise, brightness_changes, compressed, downscaled
from ..learning.optimiser import adamw, minimise
from ..learning.trainer import Trainer, add_trainer_options, limits, save_checkpoint, seeded
from ..units import BANKS, NAMES, POSE_COLUMNS, mirror_table, mirrored
from .insets import anchors_of
from .pretraining import principal
from .reader import correlations, pooled
from .refiner import loaded_refiner
from .relative_reader import fit_share

CHANNELS, NARROW, HIDDEN = (32, 64, 96, 128), 256, 384
CONFIG = RelativeReaderConfig(CHANNELS, NARROW, HIDDEN, len(NAMES))
COMPONENTS = 64  # principal components of the movement of points in the windows
POINT_UNIT = 0.02  # half sides of a window: a point error of this size counts as much as predicting the mean
ERROR_UNIT = 0.02  # loss of predicting the mean coefficients, about
ANCHOR_NOISE = 0.008  # half widths, deviation of the anchors that are read from portraits
POSE_NOISE = 0.03  # deviation of the pose coefficients that are read from frames
MOST_NOISE = 0.04  # deviation of pixel noise, in [-1, 1], at most
REUSED = 4  # mean number of steps that use a pair
HELD = 6000  # pairs in memory, 260 kB each
FIT_PAIRS = 2000  # pairs from which the principal components are computed
EVALUATE_EVERY = 60.0  # seconds
FACE = [column for column in range(len(NAMES)) if not POSE_COLUMNS.start <= column < POSE_COLUMNS.stop]


class HeadFrames:
    """All frames of some data sets of one size. The pictures stay on disk.

    per_person: frames per person; people: number of people; points, coefficients and anchors: of all frames.
    """

    def __init__(self, folders: list[Path]) -> None:
        metas = [json.loads((folder / "meta.json").read_text()) for folder in folders]
        self.per_person = int(metas[0]["frames"])
        self.groups = {name: tuple(bounds) for name, bounds in metas[0]["points"].items()}
        counts = [int(meta["done"]) * self.per_person for meta in metas]
        self.starts = np.cumsum([0, *counts])
        self.people = self.starts[-1] // self.per_person
        self.pages = [np.load(folder / "frames.npy", mmap_mode="r") for folder in folders]

        pages = list(zip(folders, counts, strict=True))

        def joined(name: str) -> Tensor:
            parts = [np.load(folder / f"{name}.npy", mmap_mode="r")[:count] for folder, count in pages]
            return torch.from_numpy(np.concatenate(parts))

        self.points, self.coefficients = joined("points"), joined("coefficients")
        self.places = torch.from_numpy(np.load(folders[0] / "places.npy"))
        self.anchors = anchors_of(self.points.float(), self.places, self.groups)

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        """uint8 (N, R, R, 3) of the frame numbers `rows`."""
        folder = np.searchsorted(self.starts, rows, side="right") - 1
        return np.stack([self.pages[part][row - self.starts[part]] for part, row in zip(folder, rows, strict=True)])


class Learner(nn.Module):
    """A close reader during training: with batch normalisation, and with the movement of points as a second output.

    mean: (2 P,), the mean movement of the points. directions: (2 P, components), the principal directions along which
    the second output (N, components) describes the movement.
    """

    def __init__(self, mean: Tensor, directions: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)
        self.reader = WindowReader(CONFIG)
        order, sign = mirror_table()
        self.reader.mirror.copy_(order)
        self.reader.mirror_sign.copy_(sign)
        # The input of the first layer is normalised already.
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(width) for width in CHANNELS[1:]) for _ in WINDOWS)
        self.points = nn.Linear(HIDDEN, directions.shape[1])

    def forward(self, seen: list[Tensor]) -> tuple[Tensor, Tensor]:
        features = []
        for look, norms, x in zip(self.reader.looks, self.norms, seen, strict=True):
            flow = F.avg_pool2d(x[:, -2:], CELL).flatten(1)
            x = F.leaky_relu(look.convs[0](x), LEAK)
            for conv, norm in zip(look.convs[1:], norms, strict=True):
                x = F.leaky_relu(norm(conv(x)), LEAK)
            features += [x.flatten(1), flow.to(x.dtype)]
        x = F.leaky_relu(self.reader.hidden(self.reader.narrow(torch.cat(features, 1))), LEAK)
        return self.reader.last(x), self.points(x)

    def exported(self) -> WindowReader:
        """The reader alone, with the normalisation folded into its convolutions."""
        reader, norms = copy.deepcopy(self.reader).eval(), copy.deepcopy(self.norms).eval()
        for look, of_look in zip(reader.looks, norms, strict=True):
            first, *others = look.convs
            look.convs = nn.ModuleList([first, *map(fuse_conv_bn_eval, others, of_look)])
        return reader


@torch.no_grad()
def anchor_motion(refiner: Refiner, heads: HeadFrames) -> Tensor:
    """(people, PORTRAIT_FRAMES, fields, 2, 3) float16: the refiner's motion at the anchors of each portrait."""
    parts = []
    for person in range(heads.people):
        rows = person * heads.per_person + np.arange(PORTRAIT_FRAMES)
        pictures = to_network_range(heads.pictures(rows))
        with torch.autocast("cpu", torch.bfloat16):
            motion = refiner.motion_fields(
                F.avg_pool2d(pictures, 2).contiguous(memory_format=torch.channels_last)
            ).float()
        at = F.grid_sample(motion.flatten(1, 2), heads.anchors[rows][:, None], align_corners=False)[:, :, 0]
        parts.append(at.unflatten(1, (-1, 2)).half())
    return torch.stack(parts)


def to_network_range(pictures: np.ndarray) -> Tensor:
    """uint8 (N, R, R, 3) -> (N, 3, R, R) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0


class WindowPairs(NamedTuple):
    """Compared windows of N pairs of portrait and frame, and what the reader has to predict for them."""

    windows: list[Tensor]  # bfloat16 (N, h, w, WINDOW_CHANNELS) each
    difference: Tensor  # (N, 36) coefficients of the frame minus those of the portrait
    points: Tensor  # (N, P, 2) movement of tracked points within the windows


class Pairs:
    """Pairs of a portrait and a frame of the same person, seen through windows that follow the head."""

    def __init__(self, heads: HeadFrames, refiner: Refiner) -> None:
        self.heads, self.refiner, self.moved = heads, refiner, anchor_motion(refiner, heads)

    def pick(
        self, rest: np.ndarray, frame: np.ndarray, rng: np.random.Generator, *, augmented: bool, flipped: bool = False
    ) -> WindowPairs:
        """The pairs of frame numbers rest (N,) and frame (N,).

        augmented: with codec artefacts, exposure, noise and reading errors. flipped: with mirrored windows; difference
        and points stay those of the original.
        """
        heads = self.heads
        person, portrait = np.divmod(rest, heads.per_person)
        motion_at_anchors, anchors = self.moved[person, portrait].float(), heads.anchors[rest]
        frame_coefficients, rest_coefficients = heads.coefficients[frame], heads.coefficients[rest]
        pose, rest_pose = torch.zeros_like(frame_coefficients), torch.zeros_like(rest_coefficients)
        pose[:, POSE_COLUMNS] = frame_coefficients[:, POSE_COLUMNS]
        rest_pose[:, POSE_COLUMNS] = rest_coefficients[:, POSE_COLUMNS]
        if augmented:
            pose[:, POSE_COLUMNS] += torch.from_numpy(rng.normal(0, POSE_NOISE, (len(rest), 6)).astype(np.float32))
            anchors = anchors + torch.from_numpy(rng.normal(0, ANCHOR_NOISE, anchors.shape).astype(np.float32))
        pose_change = self.refiner.motion_weights(pose) - self.refiner.motion_weights(rest_pose)
        frame_anchors = anchors + torch.einsum("nf,nfcp->npc", pose_change, motion_at_anchors)
        windows_of_pairs = [
            cut_windows(heads.pictures(rows), where) for rows, where in ((rest, anchors), (frame, frame_anchors))
        ]
        filters = CameraEffects(len(rest), rng) if augmented else None
        windows = []
        for rests, frames in zip(*windows_of_pairs, strict=True):
            compared = []
            for row, pair in enumerate(zip(rests, frames, strict=True)):
                before, after = filters.apply(pair, row) if filters else (part / 127.5 - 1.0 for part in pair)
                if flipped:
                    before, after = (np.ascontiguousarray(picture[:, ::-1]) for picture in (before, after))
                window = RestWindow(before.astype(np.float32)).compare(after.astype(np.float32))
                compared.append(torch.from_numpy(window).bfloat16())
            windows.append(torch.stack(compared))
        points = []
        placed = (windows_at(at, EXTENTS) for at in (anchors, frame_anchors))
        for group, before, after in zip(WINDOWS, *placed, strict=True):
            chosen = slice(*heads.groups[group])
            places = (heads.points[rows][:, chosen].float().movedim(-1, 1)[:, :, None] for rows in (frame, rest))
            after_in_window, first = (window.inside(part) for window, part in zip((after, before), places, strict=True))
            points.append((after_in_window - first)[:, :, 0].movedim(1, -1))
        return WindowPairs(windows, frame_coefficients - rest_coefficients, torch.cat(points, 1))

    def random(self, count: int, rng: np.random.Generator, flipped: bool = False) -> WindowPairs:
        """`count` augmented pairs of random frames and portraits; 60 % of the portraits are exactly at rest."""
        first = rng.integers(0, self.heads.people, count) * self.heads.per_person
        rest = np.where(rng.random(count) < 0.6, 0, rng.integers(1, PORTRAIT_FRAMES, count))
        frame = first + rng.integers(0, self.heads.per_person, count)
        return self.pick(first + rest, frame, rng, augmented=True, flipped=flipped)


class CameraEffects:
    """Random codec artefacts, exposure and noise for `count` pairs."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.rng, self.exposure = rng, Exposure.random(count, rng)
        self.brightness = brightness_changes(count, rng)
        self.noise = rng.uniform(0, MOST_NOISE, count).astype(np.float32)

    def apply(self, pair: Sequence[np.ndarray], row: int) -> list[np.ndarray]:
        """Portrait and frame of pair `row`, uint8 (h, w, 3) each -> float32, nominally in [-1, 1]."""
        processed = []
        for picture, brightness in zip(pair, (1.0, self.brightness[row]), strict=True):
            coded = compressed(downscaled(picture, self.rng), self.rng)
            lit = self.exposure.apply_to_array(coded, row, brightness)
            processed.append(lit + array_noise(lit.shape, self.rng) * self.noise[row])
        return processed


class PairBuffer:
    """Pairs in memory, in batches of `count`. `renew` replaces the oldest batch.

    Batch k depends only on the seed and on k, so a resumed training uses the same pairs as an uninterrupted one.
    """

    def __init__(self, pairs: Pairs, mean: Tensor, directions: Tensor, seed: int, count: int, renewed: int) -> None:
        """mean, directions: of the points' movement, see `principal`. renewed: number of batches that earlier runs
        have replaced.
        """
        self.pairs, self.mean, self.directions, self.seed, self.count = pairs, mean, directions, seed, count
        self.batches = max(1, HELD // count)
        self.size = self.batches * count
        self.windows = [torch.empty(self.size, *size, WINDOW_CHANNELS, dtype=torch.bfloat16) for size in SIZES]
        self.difference, self.placed = torch.empty(self.size, len(NAMES)), torch.empty(self.size, directions.shape[1])
        self.is_placed = torch.empty(self.size)
        self.next = renewed
        for _ in range(self.batches):
            self.renew()

    def renew(self) -> None:
        """Replace the oldest batch."""
        rng = np.random.default_rng((self.seed, 1, self.next))
        flipped = rng.random() < 0.5
        first = self.next % self.batches * self.count
        new, rows = self.pairs.random(self.count, rng, flipped), slice(first, first + self.count)
        for old, windows in zip(self.windows, new.windows, strict=True):
            old[rows] = windows
        self.difference[rows] = mirrored(new.difference) if flipped else new.difference
        self.placed[rows] = (new.points.flatten(1) - self.mean) @ self.directions
        self.is_placed[rows] = not flipped  # tracked points of left and right are not mirror images of each other
        self.next += 1

    def draw(self, count: int, rng: np.random.Generator) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """`count` random pairs.

        Returns the windows (N, WINDOW_CHANNELS, h, w) of mouth and eyes, the differences of coefficients (N, 36), the
        movement of the points (N, components), and (N,) 1 for the pairs whose movement of points is known, else 0.
        """
        rows = torch.from_numpy(rng.integers(0, self.size, count))
        windows = [window[rows].permute(0, 3, 1, 2) for window in self.windows]
        return windows, self.difference[rows], self.placed[rows], self.is_placed[rows]


def read_driven_frames(
    renderer: FaceRenderer, heads: HeadFrames, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficient differences (N, 36) of every driven frame from the person's frame at rest.

    Returns those read by the close reader alone, those read by the other readers, and the true ones.
    renderer: of a bank with the other readers, in which the close reader has been set.
    """
    own, others, truth = [], [], []
    face = renderer.reader
    windows = face.networks.relative_reader.windows
    for person in range(heads.people):
        rows = person * heads.per_person + np.arange(heads.per_person)
        pictures = [compressed(downscaled(picture, rng), rng) for picture in heads.pictures(rows)]
        rest, driven = pictures[0], pictures[PORTRAIT_FRAMES:]
        reference = face.rest_reference(rest)
        for share, read in (((1.0, 0.0), own), ((0.0, 1.0), others)):
            windows.share.copy_(torch.tensor(share)[:, None].expand_as(windows.share))
            read.append(torch.from_numpy(face.compare(reference, driven)[:, : heads.coefficients.shape[1]]))
        truth.append(heads.coefficients[rows[PORTRAIT_FRAMES:]] - heads.coefficients[rows[0]])
    return torch.cat(own), torch.cat(others), torch.cat(truth)


def fit_blend_weights(path: Path, bank: Path, folder: Path, rng: np.random.Generator) -> None:
    """Fit the blend weights of this reader and of a bank's other readers, and write them to the checkpoint.

    path: checkpoint of this reader. folder: data set of people that none of the readers was trained on.
    """
    checkpoint, renderer = torch.load(path, weights_only=True), FaceRenderer(load_bank(bank), "cpu")
    state, reader = state_of(renderer.bank, RELATIVE_READER), RelativeReader(CONFIG).eval()
    reader.face.load_state_dict({name: state[f"face.{name}"] for name in ("weight", "bias")})
    reader.windows.load_state_dict(checkpoint["average"])
    renderer.reader.networks = replace(renderer.reader.networks, relative_reader=reader)
    own, others, truth = read_driven_frames(renderer, HeadFrames([folder]), rng)
    share = fit_share(own, others, truth)
    share[:, POSE_COLUMNS] = torch.tensor([[0.0], [1.0]])
    before, after = (pooled(reading, truth) for reading in (others, share[0] * own + share[1] * others))
    print(f"pooled r {before:.3f} -> {after:.3f}")
    checkpoint["average"]["share"] = share
    save_checkpoint(checkpoint, path)


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    rng, refiner = seeded(args), loaded_refiner(args.refiner)
    pairs, heldout = Pairs(HeadFrames(args.data), refiner), HeadFrames([args.heldout])
    driven = np.flatnonzero(np.arange(heldout.people * heldout.per_person) % heldout.per_person >= PORTRAIT_FRAMES)
    rest = driven // heldout.per_person * heldout.per_person
    unseen, truth, _ = Pairs(heldout, refiner).pick(rest, driven, rng, augmented=False)
    weight = 1.0 / pairs.heads.coefficients.std(0).clamp(min=RAREST)
    weight = (weight / weight[FACE].mean())[FACE]
    learner = Learner(*principal(pairs.random(FIT_PAIRS, rng).points, COMPONENTS)).to(memory_format=torch.channels_last)
    average, optimiser = copy.deepcopy(learner).eval(), adamw(learner.parameters(), args.rate)
    trainer = Trainer(
        args, {"model": learner, "followed": average, "optimiser": optimiser}, {"close-reader": limits(args)}, rng,
        averaged=(learner, average), extra=lambda: {"average": average.exported().state_dict()},
        evaluate_every=EVALUATE_EVERY,
    )  # fmt: skip
    renewed = max(1, args.pictures // REUSED)
    buffer = PairBuffer(pairs, learner.mean, learner.directions, args.seed, renewed, trainer.step)

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        reader = average.exported()
        prediction = [
            reader([held[rows].float().permute(0, 3, 1, 2) for held in unseen])
            for rows in torch.arange(len(truth)).split(50)
        ]
        found, true = torch.cat(prediction)[:, FACE], truth[:, FACE]
        by_column = correlations(found, true)
        line = {name: round(value, 4) for name, value in trainer.running.items()}
        line |= {"face": round(pooled(found, true), 3), "lip": round(by_column[: BANKS[0][1]].mean().item(), 3)}
        return line | {"exp": round(by_column[BANKS[0][1] :].mean().item(), 3)}

    for _ in trainer.steps("close-reader", optimiser, evaluate):
        buffer.renew()
        windows, difference, points, is_known = buffer.draw(args.pictures, rng)
        with torch.autocast("cpu", torch.bfloat16):
            prediction, placed = learner(windows)
        error = ((prediction.float()[:, FACE] - difference[:, FACE]).square() * weight).mean() / ERROR_UNIT
        square = (placed.float() - points).square().sum(1) / (len(learner.mean) / 2)
        distance = ((square + 1e-7).sqrt() * is_known).sum() / is_known.sum().clamp(min=1.0)
        minimise(error + distance / POINT_UNIT, optimiser)
        trainer.note({"error": error, "points": distance})
    if args.bank:
        fit_blend_weights(args.out, args.bank, args.heldout, rng)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.add_argument("--refiner", type=Path, required=True, help="checkpoint of the refiner stage, or a bank")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data sets to train on")
    parser.add_argument("--heldout", type=Path, required=True, help="data set of people that are not trained on")
    add_trainer_options(parser, minutes=90.0, rate=2e-3)
    parser.add_argument("--bank", type=Path, help="bank with all readers but this one, to fit blend weights with")
    parser.add_argument("--pictures", type=int, default=64, help="pairs per step (default 64)")
