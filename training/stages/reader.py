"""Train the network that reads coefficients from single pictures of faces.

    python -m training reader --data DIR DIR --heldout DIR --out R.pt --minutes 30
    python -m training reader --data DIR DIR --heldout DIR --out S.pt --minutes 30 --framed

With --framed it is trained for sources: mostly portraits, without random crops. A single picture does not determine
the position and size of the head, so the portrait's own are treated as rest. The noise floor of its readings is
measured on the held-out people; evaluate a bank on other people.
With --stream instead of --data, new people are rendered during training and listed in R.people.
Run the same command again to resume. A log (R.jsonl) with a line per minute is written beside the checkpoint.

Coefficients alone are a weak training signal, so an auxiliary output predicts the tracked points; it is dropped
afterwards.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inference.model.readers.absolute import LAST, LEAK, Reader, ReaderConfig
from inference.model.refiner import Reading

from ..heads.data import PORTRAIT_FRAMES, HeadPairs
from ..heads.stream import add_data_options, training_pairs
from ..learning.augment import PLACE, Crop, filmed
from ..learning.optimiser import adamw, minimise
from ..learning.trainer import Trainer, add_trainer_options, limits, seeded
from ..units import BANKS, NAMES, POSE_COLUMNS, mirrored
from .pretraining import principal

CHANNELS, HIDDEN = (24, 48, 72, 104, 144), 192
CONFIG = ReaderConfig(CHANNELS, HIDDEN, len(NAMES))
COMPONENTS = 96  # principal components of the tracked points
POINT_UNIT = 0.02  # half widths: a point error of this size counts as much as predicting the mean coefficients
EVALUATE_EVERY = 60.0  # seconds
FRAMED_SHARES = 0.4, 0.4  # of a framed reader's pictures: exactly at rest, other portraits; the others are any frame
NOISE_QUANTILE, LEAST_NOISE = 0.99, 0.02  # readings of people at rest that the noise floor covers, and its minimum


class Learner(nn.Module):
    """A reader during training: with batch normalisation, and with tracked points as a second output.

    components: number of principal components by which the second output (N, components) describes the points.
    """

    def __init__(self, components: int) -> None:
        super().__init__()
        self.reader = Reader(CONFIG)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in CHANNELS)
        self.points = nn.Linear(HIDDEN, components)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x = pictures
        for conv, norm in zip(self.reader.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), LEAK)
        x = F.leaky_relu(self.reader.hidden(x.flatten(1)), LEAK)
        return self.reader.last(x), self.points(x)

    def exported(self) -> Reader:
        """The reader alone, with the normalisation folded into its convolutions."""
        reader = copy.deepcopy(self.reader).eval()
        norms = copy.deepcopy(self.norms).eval()
        reader.convs = nn.ModuleList(map(fuse_conv_bn_eval, reader.convs, norms))
        return reader


def framed_rows(pairs: HeadPairs, count: int, rng: np.random.Generator) -> Tensor:
    """(count,) frame numbers, with the shares of portraits given by FRAMED_SHARES."""
    person = rng.integers(0, pairs.identities, count) * pairs.frames_per_identity
    portrait = rng.integers(1, PORTRAIT_FRAMES, count)
    acting = rng.integers(PORTRAIT_FRAMES, pairs.frames_per_identity, count)
    still, either = FRAMED_SHARES[0], sum(FRAMED_SHARES)
    kind = rng.random(count)
    return torch.from_numpy(person + np.where(kind < still, 0, np.where(kind < either, portrait, acting)))


@torch.no_grad()
def read_all(reader: Reader, pairs: HeadPairs) -> Tensor:
    """(N, 36) coefficients read from every picture of `pairs`."""
    return torch.cat([reader(pairs.pictures(rows)) for rows in torch.arange(len(pairs.frames)).split(100)])


def noise_floor(prediction: Tensor, truth: Tensor) -> Tensor:
    """(36,) NOISE_QUANTILE of the magnitude read from people at rest, at least LEAST_NOISE. read, truth: (N, 36)."""
    still = (truth == 0.0).all(1)
    if not still.any():
        return torch.full((prediction.shape[1],), LEAST_NOISE)
    return prediction[still].abs().quantile(NOISE_QUANTILE, 0).clamp(min=LEAST_NOISE)


def with_noise_floor(reader: Reader, floor: Tensor) -> Reading:
    """A copy of the reader that sets readings below the floor (36,) to zero."""
    result = Reading(CONFIG)
    result.load_state_dict(reader.state_dict(), strict=False)
    result.doubt.copy_(floor)
    return result


def correlations(prediction: Tensor, truth: Tensor) -> Tensor:
    """(36,) correlation of each column of two (N, 36)."""
    prediction, truth = prediction - prediction.mean(0), truth - truth.mean(0)
    return (prediction * truth).mean(0) / (prediction.square().mean(0) * truth.square().mean(0)).sqrt().clamp(min=1e-9)


def pooled(prediction: Tensor, truth: Tensor) -> float:
    """Correlation of all values together."""
    return correlations(prediction.reshape(-1, 1), truth.reshape(-1, 1)).item()


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    rng, size = seeded(args), LAST << len(CHANNELS)
    pairs, heldout = training_pairs(args, size), HeadPairs([args.heldout], size)
    mean, directions = principal(pairs.points, COMPONENTS)
    learner = Learner(directions.shape[1]).to(memory_format=torch.channels_last)
    learner.reader.last.bias.data.copy_(pairs.coefficients.mean(0))
    average, optimiser = copy.deepcopy(learner).eval(), adamw(learner.parameters(), args.rate)
    floor = torch.full((len(NAMES),), LEAST_NOISE)

    def exported() -> dict[str, dict[str, Tensor]]:
        reader = average.exported()
        return {"average": (with_noise_floor(reader, floor) if args.framed else reader).state_dict()}

    trainer = Trainer(
        args, {"model": learner, "followed": average, "optimiser": optimiser}, {"reader": limits(args)}, rng,
        averaged=(learner, average), extra=exported, evaluate_every=EVALUATE_EVERY,
    )  # fmt: skip

    def evaluate() -> dict[str, object]:
        prediction = read_all(average.exported(), heldout)
        floor.copy_(noise_floor(prediction, heldout.coefficients))
        return {name: round(value, 3) for name, value in trainer.running.items()} | held_out_figures(
            prediction, heldout
        )

    for _ in trainer.steps("reader", optimiser, evaluate):
        pairs.renew()
        pictures, truth, points, flipped = training_batch(pairs, args.pictures, rng, framed=args.framed)
        with torch.autocast("cpu", torch.bfloat16):
            prediction, placed = learner(pictures.contiguous(memory_format=torch.channels_last))
        error = (prediction.float() - truth) * pairs.rarity.sqrt()
        # The absolute error favours the most likely value, which for portraits is mostly 0; the square error the mean.
        loss = error.abs().mean() if args.framed else error.square().mean()
        if not flipped:  # tracked points of left and right are not mirror images of each other
            offset = placed.float() - (points.flatten(1) - mean) @ directions
            distance = (offset.square().sum(1) / points.shape[1] + 1e-6).sqrt()
            loss = loss + distance.mean() / POINT_UNIT
        minimise(loss, optimiser)
        trainer.note({"error": loss})


def training_batch(
    pairs: HeadPairs, count: int, rng: np.random.Generator, *, framed: bool
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Random pictures (N, 3, S, S), their coefficients (N, 36) and points (N, F, 2), and whether all are mirrored.

    framed: sources, which keep their framing; else frames of a video, which are cropped at random.
    """
    rows = framed_rows(pairs, count, rng) if framed else torch.from_numpy(rng.integers(0, len(pairs.frames), count))
    pictures, truth, points = pairs.pictures(rows), pairs.coefficients[rows], pairs.points[rows].float()
    flipped = rng.random() < 0.5
    if flipped:
        pictures, truth = pictures.flip(-1), mirrored(truth)
    if framed:
        truth[:, PLACE] = 0.0
    else:
        crop = Crop.random(len(rows), rng)
        pictures, truth, points = crop.pictures(pictures), crop.coefficients(truth), crop.points(points)
    return filmed(pictures, rng), truth, points, flipped


def held_out_figures(prediction: Tensor, heldout: HeadPairs) -> dict[str, object]:
    """Correlations by bank and of some coefficients, and errors of the pose, for the log. prediction: (N, 36)."""
    found = correlations(prediction, heldout.coefficients)
    error = (prediction - heldout.coefficients)[:, POSE_COLUMNS].abs()
    number = torch.arange(len(prediction)) % heldout.frames_per_identity
    portraits = (number > 0) & (number < PORTRAIT_FRAMES)
    line: dict[str, object] = {
        "portraits": [round(value, 3) for value in error[portraits].mean(0).tolist()],  # yaw to scale
        "place": [round(value, 3) for value in prediction[:, PLACE].abs().mean(0).tolist()],
    }
    for (name, _), part in zip(BANKS, found.split([count for _, count in BANKS]), strict=True):
        line[name] = round(part.mean().item(), 3)
    return line | {name: round(found[NAMES.index(name)].item(), 3) for name in ("jawOpen", "headYaw", "eyeBlink")}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    add_data_options(parser)
    parser.add_argument("--heldout", type=Path, required=True, help="data set of people that are not trained on")
    add_trainer_options(parser, minutes=30.0, rate=2e-3)
    parser.add_argument("--framed", action="store_true", help="train for sources instead of video frames")
    parser.add_argument("--pictures", type=int, default=32, help="pictures per step (default 32)")
