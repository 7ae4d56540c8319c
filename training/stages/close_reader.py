"""Train the reader that looks closely at mouth and eyes: bounded by time, resumable.

    python -m training.stages.close_reader --refiner F.pt --data DIR DIR --heldout DIR --out C.pt --minutes 90

DIRs hold heads of twice the bank's size. The refiner, a checkpoint or a bank, takes the windows along with the head.
While it learns the network says as well how far the tracked points have moved in the windows; that answer is dropped.
Cutting out windows and searching flow takes longer than learning from them, so each pair is learnt from a few times.
At the end, with --bank, it is weighed against what is read without it.
Run the same command again to go on after an interruption; a line a minute goes to C.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inference.contract.bank import load_bank
from inference.model.insets import windows_at
from inference.model.readers.absolute import LEAK
from inference.model.readers.close import CELL, EXTENTS, SEEN, SIZES, WINDOWS, CloseReader, RestWindow, look_at
from inference.model.refiner import Refiner
from inference.renderer import FaceRenderer

from ..heads.data import PORTRAIT_FRAMES, RAREST, mirror_table
from ..learning.augment import Light, as_coded
from ..learning.course import Course, add_course_options, save_checkpoint, seeded
from ..learning.optimiser import follow, rate_at, set_rate
from ..units import BANKS, NAMES, POSE_COLUMNS
from .insets import anchors_of
from .reader import correlations, pooled, principal
from .refiner import loaded_refiner
from .relative_reader import fit_share

CHANNELS, NARROW, HIDDEN = (32, 64, 96, 128), 256, 384
COMPONENTS = 64  # of the movement of all points in the windows
CLOSE = 0.02  # of a window's half sides: points that are this far off count as much as knowing nothing of coefficients
UNKNOWN = 0.02  # about the error of knowing nothing of the coefficients
UNSURE = 0.008  # half widths by which an anchor may be misread
UNSURE_POSE = 0.03  # by which a reading of the head's movement errs
REUSED = 4  # times that a pair is learnt from, in the mean
HELD = 6000  # pairs in memory, 260 kB each
EVALUATE_EVERY = 60.0  # seconds
FACE = [column for column in range(len(NAMES)) if not POSE_COLUMNS.start <= column < POSE_COLUMNS.stop]


class Heads:
    """Data sets of one size, whose pictures stay on the disk."""

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
        """uint8 (N, R, R, 3)."""
        folder = np.searchsorted(self.starts, rows, side="right") - 1
        return np.stack([self.pages[part][row - self.starts[part]] for part, row in zip(folder, rows, strict=True)])


class Learner(nn.Module):
    """A close reader while it learns, with normalised layers and a second answer: how points are moved from their mean
    (2 P,), along directions (2 P, components)."""

    def __init__(self, mean: Tensor, directions: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)
        self.reader = CloseReader(CHANNELS, NARROW, HIDDEN, len(NAMES))
        order, sign = mirror_table()
        self.reader.mirror.copy_(order)
        self.reader.mirror_sign.copy_(sign)
        # What the first layer sees is even enough.
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

    def learnt(self) -> CloseReader:
        """The reader alone, which says the same without normalisation."""
        reader, norms = copy.deepcopy(self.reader).eval(), copy.deepcopy(self.norms).eval()
        for look, of_look in zip(reader.looks, norms, strict=True):
            first, *others = look.convs
            look.convs = nn.ModuleList([first, *map(fuse_conv_bn_eval, others, of_look)])
        return reader


@torch.no_grad()
def anchor_motion(refiner: Refiner, heads: Heads) -> Tensor:
    """(people, PORTRAIT_FRAMES, fields, 2, 3) float16: how the refiner's amounts move the anchors of each portrait."""
    found = []
    for person in range(heads.people):
        rows = person * heads.per_person + np.arange(PORTRAIT_FRAMES)
        pictures = in_network_terms(heads.pictures(rows))
        with torch.autocast("cpu", torch.bfloat16):
            motion = refiner.motion_of(F.avg_pool2d(pictures, 2).contiguous(memory_format=torch.channels_last)).float()
        at = F.grid_sample(motion.flatten(1, 2), heads.anchors[rows][:, None], align_corners=False)[:, :, 0]
        found.append(at.unflatten(1, (-1, 2)).half())
    return torch.stack(found)


def in_network_terms(pictures: np.ndarray) -> Tensor:
    """uint8 (N, R, R, 3) -> (N, 3, R, R) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0


class Seen(NamedTuple):
    """Of N pairs: what is seen in each window, bfloat16 (N, h, w, SEEN), what the frame does more than the portrait,
    (N, 36), and how far points are moved within windows, (N, P, 2)."""

    windows: list[Tensor]
    difference: Tensor
    points: Tensor


class Pairs:
    """Frames beside portraits of the same people."""

    def __init__(self, heads: Heads, refiner: Refiner) -> None:
        self.heads, self.refiner, self.moved = heads, refiner, anchor_motion(refiner, heads)

    def pick(
        self, rest: np.ndarray, frame: np.ndarray, rng: np.random.Generator, *, spoilt: bool, mirrored: bool = False
    ) -> Seen:
        """rest, frame: numbers of pictures. spoilt: as they are filmed and read, not as they are. mirrored: as is what
        is seen, but neither difference nor points."""
        heads = self.heads
        person, portrait = np.divmod(rest, heads.per_person)
        moved, anchors = self.moved[person, portrait].float(), heads.anchors[rest]
        acted, held = heads.coefficients[frame], heads.coefficients[rest]
        thought, at_rest = torch.zeros_like(acted), torch.zeros_like(held)
        thought[:, POSE_COLUMNS], at_rest[:, POSE_COLUMNS] = acted[:, POSE_COLUMNS], held[:, POSE_COLUMNS]
        if spoilt:
            thought[:, POSE_COLUMNS] += torch.from_numpy(rng.normal(0, UNSURE_POSE, (len(rest), 6)).astype(np.float32))
            anchors = anchors + torch.from_numpy(rng.normal(0, UNSURE, anchors.shape).astype(np.float32))
        turned = self.refiner.amounts(thought) - self.refiner.amounts(at_rest)
        then = anchors + torch.einsum("nf,nfcp->npc", turned, moved)
        shown = [look_at(heads.pictures(rows), where) for rows, where in ((rest, anchors), (frame, then))]
        lights = [Light.drawn(rng) if spoilt else Light() for _ in rest]
        windows = []
        for stills, frames in zip(*shown, strict=True):
            seen = []
            for still, moved_one, light in zip(stills, frames, lights, strict=True):
                pair = [as_coded(still, rng), as_coded(moved_one, rng)] if spoilt else [still, moved_one]
                lit = [light.on(picture, rng, later) for later, picture in enumerate(pair)]
                before, after = (np.ascontiguousarray(picture[:, ::-1]) if mirrored else picture for picture in lit)
                seen.append(torch.from_numpy(RestWindow(before).beside(after)).bfloat16())
            windows.append(torch.stack(seen))
        points = []
        placed = (windows_at(at, EXTENTS) for at in (anchors, then))
        for group, before, after in zip(WINDOWS, *placed, strict=True):
            chosen = slice(*heads.groups[group])
            places = (heads.points[rows][:, chosen].float().movedim(-1, 1)[:, :, None] for rows in (frame, rest))
            now, first = (window.inside(part) for window, part in zip((after, before), places, strict=True))
            points.append((now - first)[:, :, 0].movedim(1, -1))
        return Seen(windows, acted - held, torch.cat(points, 1))

    def some(self, count: int, rng: np.random.Generator, mirrored: bool = False) -> Seen:
        """Any frames beside portraits, most of these exactly at rest."""
        first = rng.integers(0, self.heads.people, count) * self.heads.per_person
        rest = np.where(rng.random(count) < 0.6, 0, rng.integers(1, PORTRAIT_FRAMES, count))
        frame = first + rng.integers(0, self.heads.per_person, count)
        return self.pick(first + rest, frame, rng, spoilt=True, mirrored=mirrored)


class Stock:
    """Pairs to learn from, HELD at a time, the oldest of which give way to new ones."""

    def __init__(self, pairs: Pairs, mean: Tensor, directions: Tensor, rng: np.random.Generator) -> None:
        """mean, directions: of how points are moved, see `training.stages.reader.principal`."""
        self.pairs, self.mean, self.directions, self.rng = pairs, mean, directions, rng
        self.windows = [torch.empty(HELD, *size, SEEN, dtype=torch.bfloat16) for size in SIZES]
        self.difference, self.placed = torch.empty(HELD, len(NAMES)), torch.empty(HELD, directions.shape[1])
        self.is_placed = torch.empty(HELD)
        self.order, self.sign = mirror_table()
        self.oldest = 0
        for _ in range(0, HELD, 50):
            self.renew(50)

    def renew(self, count: int) -> None:
        """The oldest, but not beyond the last place: from there on with the next call."""
        mirrored = self.rng.random() < 0.5
        count = min(count, HELD - self.oldest)
        new, rows = self.pairs.some(count, self.rng, mirrored), slice(self.oldest, self.oldest + count)
        for held, windows in zip(self.windows, new.windows, strict=True):
            held[rows] = windows
        self.difference[rows] = new.difference[:, self.order] * self.sign if mirrored else new.difference
        self.placed[rows] = (new.points.flatten(1) - self.mean) @ self.directions
        self.is_placed[rows] = not mirrored  # the left cheek's points are no mirror image of the right one's
        self.oldest = (self.oldest + count) % HELD

    def draw(self, count: int) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """Windows (N, SEEN, h, w), difference (N, 36), where points go (N, C), and (N,) whether that is known."""
        rows = torch.from_numpy(self.rng.integers(0, HELD, count))
        windows = [held[rows].permute(0, 3, 1, 2) for held in self.windows]
        return windows, self.difference[rows], self.placed[rows], self.is_placed[rows]


def read_by(renderer: FaceRenderer, heads: Heads, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 36) of every driven frame: what the close reader says, what is thought without it, and what is true.

    renderer: of a bank with all that the close reader goes by, and with this one itself.
    """
    own, thought, truth = [], [], []
    reader = renderer.close_reader
    for person in range(heads.people):
        rows = person * heads.per_person + np.arange(heads.per_person)
        pictures = [as_coded(picture, rng) for picture in heads.pictures(rows)]
        rest, driven = pictures[0], pictures[PORTRAIT_FRAMES:]
        encoded = renderer.encode([rest, *driven]).values
        for share, said in (((1.0, 0.0), own), ((0.0, 1.0), thought)):
            reader.share.copy_(torch.tensor(share)[:, None].expand_as(reader.share))
            said.append(torch.from_numpy(renderer.compare(rest, driven, encoded[1:] - encoded[0])))
        truth.append(heads.coefficients[rows[PORTRAIT_FRAMES:]] - heads.coefficients[rows[0]])
    return torch.cat(own), torch.cat(thought), torch.cat(truth)


def fit(path: Path, bank: Path, folder: Path, rng: np.random.Generator) -> None:
    """How much a checkpoint's reader counts beside what is read without it by a bank, on people held out.

    Those that either was trained on would make it look better than it is.
    """
    checkpoint, renderer = torch.load(path, weights_only=True), FaceRenderer(load_bank(bank), "cpu")
    renderer.close_reader = CloseReader(CHANNELS, NARROW, HIDDEN, len(NAMES)).eval()
    renderer.close_reader.load_state_dict(checkpoint["average"])
    own, thought, truth = read_by(renderer, Heads([folder]), rng)
    share = fit_share(own, thought, truth)
    share[:, POSE_COLUMNS] = torch.tensor([[0.0], [1.0]])
    before, after = (pooled(read, truth) for read in (thought, share[0] * own + share[1] * thought))
    print(f"pooled r {before:.3f} -> {after:.3f}")
    checkpoint["average"]["share"] = share
    save_checkpoint(checkpoint, path)


def train(args: argparse.Namespace) -> None:
    rng, refiner = seeded(args), loaded_refiner(args.refiner)
    pairs, unseen = Pairs(Heads(args.data), refiner), Heads([args.heldout])
    driven = np.flatnonzero(np.arange(unseen.people * unseen.per_person) % unseen.per_person >= PORTRAIT_FRAMES)
    rest = driven // unseen.per_person * unseen.per_person
    seen, truth, _ = Pairs(unseen, refiner).pick(rest, driven, rng, spoilt=False)
    weight = 1.0 / pairs.heads.coefficients.std(0).clamp(min=RAREST)
    weight = (weight / weight[FACE].mean())[FACE]
    learner = Learner(*principal(pairs.some(2000, rng).points, COMPONENTS)).to(memory_format=torch.channels_last)
    average = copy.deepcopy(learner).eval()
    optimiser = torch.optim.AdamW(learner.parameters(), args.rate, betas=(0.9, 0.99), weight_decay=0.02)
    parts = {"model": learner, "followed": average, "optimiser": optimiser}
    course = Course(args.out, parts, rng, lambda: {"average": average.learnt().state_dict()})
    stock = Stock(pairs, learner.mean, learner.directions, rng)

    def evaluate() -> dict[str, float]:
        reader = average.learnt()
        with torch.no_grad():
            read = [
                reader([held[rows].float().permute(0, 3, 1, 2) for held in seen])
                for rows in torch.arange(len(truth)).split(50)
            ]
        said, true = torch.cat(read)[:, FACE], truth[:, FACE]
        found = correlations(said, true)
        line = {name: round(value, 4) for name, value in course.running.items()}
        line |= {"face": round(pooled(said, true), 3), "lip": round(found[: BANKS[0][1]].mean().item(), 3)}
        return line | {"exp": round(found[BANKS[0][1] :].mean().item(), 3)}

    for share in course.steps(args.minutes, evaluate, save_every=math.inf, evaluate_every=EVALUATE_EVERY):
        set_rate(optimiser, rate_at(course.step, share, args.rate))
        stock.renew(args.pictures // REUSED)
        windows, difference, points, is_known = stock.draw(args.pictures)
        with torch.autocast("cpu", torch.bfloat16):
            read, placed = learner(windows)
        error = ((read.float()[:, FACE] - difference[:, FACE]).square() * weight).mean() / UNKNOWN
        square = (placed.float() - points).square().sum(1) / (len(learner.mean) / 2)
        distance = ((square + 1e-7).sqrt() * is_known).sum() / is_known.sum().clamp(min=1.0)
        loss = error + distance / CLOSE
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        follow(average, learner, course.step + 1)
        course.note({"error": error, "points": distance})
    if args.bank:
        fit(args.out, args.bank, args.heldout, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refiner", type=Path, required=True, help="training.stages.refiner's checkpoint, or a bank")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training heads")
    parser.add_argument("--heldout", type=Path, required=True, help="folder of heads never trained on")
    add_course_options(parser, minutes=90.0, rate=2e-3)
    parser.add_argument("--bank", type=Path, help="bank with all but this reader: then it has its share too")
    parser.add_argument("--pictures", type=int, default=64, help="a step")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
