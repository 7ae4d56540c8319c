"""Train the network that reads coefficients off pictures of faces: bounded by time, resumable.

    python -m training.stages.reader --data DIR DIR --heldout DIR --out R.pt --minutes 30
    python -m training.stages.reader --data DIR DIR --heldout DIR --out S.pt --minutes 30 --framed

With `--framed` it learns to read sources: mostly portraits, none of them cropped at random. How near a head is can
hardly be told from one picture, so a source's own place and size count as its rest. How much it reads of people at rest
is found out on the held-out ones, who are then not to be those by whom a bank is judged. With `--stream` in the place
of `--data DIR DIR` people are rendered meanwhile, ever new ones; R.people notes which. Run the same command again to go
on after an interruption; a line a minute goes to R.jsonl.

What a face does is a few numbers, and they say little about what a picture is to be looked at for. So while it learns
the network says as well where the tracked points are; that answer is dropped.
"""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inference.model.readers.absolute import LAST, LEAK, Reader
from inference.model.refiner import Reading

from ..heads.data import PORTRAIT_FRAMES, HeadPairs
from ..heads.stream import add_data_options, training_pairs
from ..learning.augment import PLACE, cropped, filmed
from ..learning.course import Course, add_course_options, seeded
from ..learning.optimiser import follow, rate_at, set_rate
from ..units import BANKS, NAMES, POSE_COLUMNS

CHANNELS, HIDDEN = (24, 48, 72, 104, 144), 192
COMPONENTS = 96  # of all tracked points' places
CLOSE = 0.02  # half widths: points that are this far off count as much as knowing nothing of the coefficients
EVALUATE_EVERY = 60.0  # seconds
FRAMED_SHARES = 0.4, 0.4  # of a framed reader's pictures: exactly at rest; other portraits; the rest of them act
DOUBTED, LEAST_DOUBT = 0.99, 0.02  # share of people at rest of whom a framed reader is to read nothing at all


class Learner(nn.Module):
    """A reader while it learns: with normalised layers, and with a second answer, (N, `components`)."""

    def __init__(self, components: int) -> None:
        super().__init__()
        self.reader = Reader(CHANNELS, HIDDEN, len(NAMES))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in CHANNELS)
        self.points = nn.Linear(HIDDEN, components)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x = pictures
        for conv, norm in zip(self.reader.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), LEAK)
        x = F.leaky_relu(self.reader.hidden(x.flatten(1)), LEAK)
        return self.reader.last(x), self.points(x)

    def learnt(self) -> Reader:
        """The reader alone, which says the same without normalisation."""
        reader = copy.deepcopy(self.reader).eval()
        norms = copy.deepcopy(self.norms).eval()
        reader.convs = nn.ModuleList(map(fuse_conv_bn_eval, reader.convs, norms))
        return reader


def principal(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Points (N, P, 2) -> their mean place (2 P,) and the `count` directions (2 P, count) in which they differ most."""
    rows = points[:: max(1, len(points) // 6000)].float().flatten(1)
    mean = rows.mean(0)
    return mean, torch.linalg.eigh((rows - mean).T @ (rows - mean)).eigenvectors[:, -count:]


def framed_rows(pairs: HeadPairs, count: int, rng: np.random.Generator) -> Tensor:
    """Numbers of `count` frames, many of them portraits, see FRAMED_SHARES."""
    person = rng.integers(0, pairs.identities, count) * pairs.frames_per_identity
    portrait = rng.integers(1, PORTRAIT_FRAMES, count)
    acting = rng.integers(PORTRAIT_FRAMES, pairs.frames_per_identity, count)
    still, either = FRAMED_SHARES[0], sum(FRAMED_SHARES)
    drawn = rng.random(count)
    return torch.from_numpy(person + np.where(drawn < still, 0, np.where(drawn < either, portrait, acting)))


@torch.no_grad()
def read_all(reader: Reader, pairs: HeadPairs) -> Tensor:
    """(N, 36) off every picture of `pairs`."""
    return torch.cat([reader(pairs.pictures(rows)) for rows in torch.arange(len(pairs.frames)).split(100)])


def doubting(reader: Reader, read: Tensor, truth: Tensor) -> Reading:
    """The same that knows what it reads of people at rest; read, truth (N, 36)."""
    result = Reading(CHANNELS, HIDDEN, len(NAMES))
    result.load_state_dict(reader.state_dict(), strict=False)
    still = (truth == 0.0).all(1)
    if still.any():
        result.doubt.copy_(read[still].abs().quantile(DOUBTED, 0).clamp(min=LEAST_DOUBT))
    return result


def correlations(read: Tensor, truth: Tensor) -> Tensor:
    """(36,) of each column."""
    read, truth = read - read.mean(0), truth - truth.mean(0)
    return (read * truth).mean(0) / (read.square().mean(0) * truth.square().mean(0)).sqrt().clamp(min=1e-9)


def pooled(read: Tensor, truth: Tensor) -> float:
    """The correlation of all numbers together."""
    return correlations(read.reshape(-1, 1), truth.reshape(-1, 1)).item()


def train(args: argparse.Namespace) -> None:
    rng, size = seeded(args), LAST << len(CHANNELS)
    pairs, heldout = training_pairs(args, size), HeadPairs([args.heldout], size)
    mean, directions = principal(pairs.points, COMPONENTS)
    learner = Learner(directions.shape[1]).to(memory_format=torch.channels_last)
    learner.reader.last.bias.data.copy_(pairs.coefficients.mean(0))
    optimiser = torch.optim.AdamW(learner.parameters(), args.rate, betas=(0.9, 0.99), weight_decay=0.02)
    average = copy.deepcopy(learner).eval()
    learnt: dict[str, Tensor] = {}
    parts = {"model": learner, "followed": average, "optimiser": optimiser}
    course = Course(args.out, parts, rng, lambda: {"average": learnt})

    def evaluate() -> dict[str, object]:
        reader = average.learnt()
        read = read_all(reader, heldout)
        learnt.update((doubting(reader, read, heldout.coefficients) if args.framed else reader).state_dict())
        found, wrong = correlations(read, heldout.coefficients), (read - heldout.coefficients)[:, POSE_COLUMNS].abs()
        portraits = torch.arange(len(read)) % heldout.frames_per_identity
        portraits = (portraits > 0) & (portraits < PORTRAIT_FRAMES)
        line = {name: round(value, 3) for name, value in course.running.items()}
        line["portraits"] = [round(value, 3) for value in wrong[portraits].mean(0).tolist()]  # yaw to scale
        line["place"] = [round(value, 3) for value in read[:, PLACE].abs().mean(0).tolist()]
        for (name, _), part in zip(BANKS, found.split([count for _, count in BANKS]), strict=True):
            line[name] = round(part.mean().item(), 3)
        return line | {name: round(found[NAMES.index(name)].item(), 3) for name in ("jawOpen", "headYaw", "eyeBlink")}

    for share in course.steps(args.minutes, evaluate, save_every=math.inf, evaluate_every=EVALUATE_EVERY):
        set_rate(optimiser, rate_at(course.step, share, args.rate))
        pairs.renew()
        if args.framed:
            rows = framed_rows(pairs, args.pictures, rng)
        else:
            rows = torch.from_numpy(rng.integers(0, len(pairs.frames), args.pictures))
        pictures, truth, points = pairs.pictures(rows), pairs.coefficients[rows], pairs.points[rows].float()
        mirrored = rng.random() < 0.5
        if mirrored:
            pictures, truth = pictures.flip(-1), truth[:, pairs.mirror_order] * pairs.mirror_sign
        if args.framed:
            truth[:, PLACE] = 0.0
        else:
            pictures, truth, points = cropped(pictures, truth, points, rng)
        pictures = filmed(pictures, rng)
        with torch.autocast("cpu", torch.bfloat16):
            read, placed = learner(pictures.contiguous(memory_format=torch.channels_last))
        wrong = (read.float() - truth) * pairs.rarity.sqrt()
        # Of a portrait, what is likeliest: mostly that it does nothing at all. Of a frame of a film, the mean.
        loss = wrong.abs().mean() if args.framed else wrong.square().mean()
        if not mirrored:  # the left cheek's points are no mirror image of the right one's
            missed = placed.float() - (points.flatten(1) - mean) @ directions
            distance = (missed.square().sum(1) / points.shape[1] + 1e-6).sqrt()
            loss = loss + distance.mean() / CLOSE
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        follow(average, learner, course.step + 1)
        course.note({"error": loss})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--heldout", type=Path, required=True, help="folder of heads never trained on")
    add_course_options(parser, minutes=30.0, rate=2e-3)
    parser.add_argument("--framed", action="store_true", help="learn to read sources, not films")
    parser.add_argument("--pictures", type=int, default=32, help="a step")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
