"""Train the reader of coefficient differences between a frame and a neutral frame of the same person.

    python -m training relative-reader --data DIR DIR --heldout DIR --reader R.pt --out RR.pt --minutes 35

The first stage is trained on pictures that are augmented in every step. The inputs of the second stage depend on the
first one alone, so they are computed once (a quarter of a MiB per frame, in RR.material), and a step costs little more
than its own network. With --reader, the blend weights of both readers are fitted at the end, on the held-out people.
Run the same command again to resume. A log (RR.jsonl) with a line per minute is written beside the checkpoint.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.model.readers.absolute import Reader
from inference.model.readers.relative import GRID, RelativeReader, RestFlow, Seen

from ..heads.data import PORTRAIT_FRAMES, HeadPairs
from ..learning.augment import Crop, Exposure, brightness_changes, recorded_pair, with_noise
from ..learning.optimiser import adamw, minimise
from ..learning.trainer import Trainer, add_limit_options, add_trainer_options, limits, seeded
from ..units import BANKS, NAMES, POSE_COLUMNS, mirrored
from .reader import CHANNELS as READER_CHANNELS
from .reader import HIDDEN as READER_HIDDEN
from .reader import correlations, pooled

CHANNELS, HIDDEN, CELLS = (32, 64, 96, 128, 160), 192, (GRID, 32)
EVALUATE_EVERY = 60.0  # seconds
MARGIN, STEPS = 4, 2  # pixels kept around the inputs of the second stage, and the steps in which they are shifted
PICTURES, FOUND = 100.0, 12.0  # byte levels for 1.0
OTHER_PORTRAITS = 0.35  # share of recorded pairs in which the portrait is not exactly at rest


class Material(NamedTuple):
    """Inputs of the second stage for N frames, stored as bytes, and the true differences."""

    pictures: Tensor  # int8 (N, 9, R, R), see `Seen`, with MARGIN around
    beyond: Tensor  # float16 (N, 2, R / 2, R / 2)
    found: Tensor  # int8 (N, c, R / 2, R / 2): features of its `matches`, which is not trained further
    estimate: Tensor  # float32 (N, 36): output of the first stage
    truth: Tensor  # float32 (N, 36)

    def cut(self, rows: Tensor, right: int, down: int) -> tuple[Seen, Tensor, Tensor, Tensor]:
        """Seen, found, estimate and truth of some frames, shifted by `right` and `down` pixels (0 to 2 * MARGIN)."""
        side = self.pictures.shape[-1] - 2 * MARGIN

        def part(planes: Tensor, scale: int, levels: float) -> Tensor:
            y, x, size = down // scale, right // scale, side // scale
            return planes[rows][..., y : y + size, x : x + size].float() / levels

        seen = Seen(part(self.pictures, 1, PICTURES), part(self.beyond, 2, 1.0), torch.empty(0))
        return seen, part(self.found, 2, FOUND), self.estimate[rows], self.truth[rows]


# ------------------------------------------------------------------------------------------------ closed-form fits


def rest_rows(pairs: HeadPairs) -> Tensor:
    """(N,) number of each frame's neutral frame."""
    return torch.arange(len(pairs.frames)) // pairs.frames_per_identity * pairs.frames_per_identity


def rest_flows(pairs: HeadPairs) -> Tensor:
    """float16 (N, 2, S / 2, S / 2): optical flow to each frame from its neutral frame."""
    flows = []
    for number, (row, rest) in enumerate(enumerate(rest_rows(pairs).tolist())):
        if number == 0 or rest == row:
            search = RestFlow(pairs.pictures(torch.tensor([rest]))[0].numpy())
        flows.append(torch.from_numpy(search.to(pairs.pictures(torch.tensor([row]))[0].numpy())).half())
    return torch.stack(flows)


def fit_linear(reader: RelativeReader, flows: Tensor, coefficients: Tensor) -> None:
    """Set the linear map from flow to coefficients, and the mean flow of each pose coefficient, by least squares."""
    grid = torch.cat([F.adaptive_avg_pool2d(part.float(), GRID).flatten(1) for part in flows.split(1000)])
    gram = grid.T @ grid + 0.05 * torch.eye(grid.shape[1])
    reader.linear.weight.data.copy_(torch.linalg.solve(gram, grid.T @ coefficients).T)
    reader.linear.bias.data.zero_()
    moved = torch.linalg.lstsq(coefficients, grid).solution.view(len(NAMES), 2, GRID, GRID)
    reader.stages[0].motion.zero_()[POSE_COLUMNS] = moved[POSE_COLUMNS]


def mean_motion(pairs: HeadPairs, cells: int) -> Tensor:
    """(36, 2, cells, cells): mean displacement by each coefficient of points that lie in a cell at rest."""
    count, columns = pairs.frames_per_identity, len(NAMES)
    gram, moved = np.zeros((cells**2, columns, columns)), np.zeros((cells**2, columns, 2))
    for start in range(0, len(pairs.frames), count):
        points = pairs.points[start : start + count].float().numpy()
        rows = pairs.coefficients[start : start + count].double().numpy()
        column, line = ((points[0].clip(-1, 0.999) + 1) * (cells / 2)).astype(int).T
        cell = line * cells + column
        gram += np.bincount(cell, minlength=cells**2)[:, None, None] * (rows.T @ rows)
        each = rows.T @ (points - points[:1]).reshape(count, -1)
        np.add.at(moved, cell, each.reshape(columns, -1, 2).transpose(1, 0, 2))

    def spread(sums: np.ndarray) -> np.ndarray:
        """Fill cells without points from their neighbours."""
        planes = sums.reshape(cells, cells, -1)
        result = planes + 1e-7 * planes.mean((0, 1))
        for share, sigma in ((0.02, 1), (1e-4, 4)):
            blurred = [cv2.GaussianBlur(plane, (0, 0), sigma, borderType=0) for plane in planes.transpose(2, 0, 1)]
            result = result + share * np.stack(blurred, -1)
        return result.reshape(sums.shape)

    gram, moved = spread(gram), spread(moved)
    ridge = 1e-3 * np.trace(gram, axis1=1, axis2=2)[:, None, None] / columns * np.eye(columns)
    solved = np.linalg.solve(gram + ridge + 1e-12 * np.eye(columns), moved)
    return torch.from_numpy(solved.transpose(1, 2, 0).reshape(columns, 2, cells, cells).astype(np.float32))


# ------------------------------------------------------------------------------------------------- training pairs


def live_batch(pairs: HeadPairs, flows: Tensor, count: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
    """Neutral pictures, frames, flow and true differences of `count` random frames.

    Both pictures of a pair get the same mirroring, crop and exposure; the frame's brightness differs a little.
    """
    chosen = torch.from_numpy(rng.integers(0, len(pairs.frames), count))
    base = chosen // pairs.frames_per_identity * pairs.frames_per_identity
    rest, frames, flow = pairs.pictures(base), pairs.pictures(chosen), flows[chosen].float()
    truth = pairs.coefficients[chosen] - pairs.coefficients[base]
    if rng.random() < 0.5:
        rest, frames, flow = rest.flip(-1), frames.flip(-1), flow.flip(-1) * torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
        truth = mirrored(truth)
    if rng.random() < 0.6:
        crop = Crop.random(count, rng)
        rest, frames = crop.pictures(torch.cat([rest, frames], 1), "border").split(3, 1)
        flow, truth = crop.flow(flow), crop.difference(truth)
    exposure, noise = Exposure.random(count, rng), float(rng.uniform(0, 0.05))
    brighter = Exposure(exposure.gain * brightness_changes(count, rng)[:, None], exposure.offset)
    return with_noise(exposure.apply(rest), noise), with_noise(brighter.apply(frames), noise), flow, truth


@torch.no_grad()
def material(reader: RelativeReader, pairs: HeadPairs, flows: Tensor, rng: np.random.Generator | None) -> Material:
    """Inputs of the second stage for every frame of `pairs`.

    Half of the frames are mirrored and half are recorded (`recorded_pair`), some of these beside a portrait that is
    not exactly at rest. Without `rng` all are used as they are.
    """
    first, second = reader.stages
    parts: list[tuple[Tensor, ...]] = []
    for rows in torch.arange(len(pairs.frames)).split(pairs.frames_per_identity):
        base = int(rows[0])
        frames = pairs.frames[rows].numpy().copy()
        rest, flow = np.repeat(frames[:1], len(rows), 0), flows[rows].float()
        known = pairs.coefficients[rows]
        truth = known - known[:1]
        for k in range(len(rows)) if rng else ():
            flipped, recorded = rng.random() < 0.5, rng.random() < 0.5
            still = int(rng.integers(1, PORTRAIT_FRAMES)) if recorded and rng.random() < OTHER_PORTRAITS else 0
            two = np.stack([pairs.frames[base + still].numpy(), frames[k]])
            difference = known[k : k + 1] - known[still : still + 1]
            if flipped:
                two, difference = two[:, :, ::-1], mirrored(difference)
            if recorded:
                two, crop = recorded_pair(two, rng)
                difference = crop.difference(difference)
            rest[k], frames[k] = two
            truth[k] = difference[0]
            if recorded or flipped:
                planes = (two.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
                flow[k] = torch.from_numpy(RestFlow(planes[0]).to(planes[1]))
        neutral, shown = (torch.from_numpy(part).permute(0, 3, 1, 2).float() / 127.5 - 1 for part in (rest, frames))
        estimate = reader.linear(F.adaptive_avg_pool2d(flow, GRID).flatten(1))
        estimate = estimate + first(estimate, neutral, shown, flow)
        seen = second.see(estimate, neutral, shown, flow, MARGIN)
        found = second.matches(seen.misfit)
        levels = [(seen.pictures, PICTURES), (found, FOUND)]
        pictures, found = ((part * level).round().clamp(-127, 127).to(torch.int8) for part, level in levels)
        parts.append((pictures, seen.beyond.half(), found, estimate, truth))
    return Material(*(torch.cat(part) for part in zip(*parts, strict=True)))


# ------------------------------------------------------------------------------------------------------- training


def fit_share(own: Tensor, plain: Tensor, truth: Tensor) -> Tensor:
    """(2, n) blend weights per coefficient of two readings (N, n), by least squares."""
    gram = torch.stack([own, plain], 1).movedim(-1, 0)  # (n, N, 2)
    both = gram.mT @ gram + 1e-4 * len(own) * torch.eye(2)
    return torch.linalg.solve(both, gram.mT @ truth.T[..., None])[..., 0].T.contiguous()


def _initialise(reader: RelativeReader, pairs: HeadPairs, flows: Tensor) -> None:
    """Fit the linear parts, and let both stages add little."""
    fit_linear(reader, flows, pairs.coefficients)
    reader.stages[1].motion.copy_(mean_motion(pairs, CELLS[1]))
    for stage in reader.stages:
        _shrink_output(stage, 0.1)


def _shrink_output(stage: nn.Module, factor: float) -> None:
    stage.last.weight.data.mul_(factor)
    stage.last.bias.data.zero_()


def _start_second(reader: RelativeReader, average: RelativeReader) -> None:
    """Continue with the averaged weights, and start the second stage as a copy of the first."""
    reader.load_state_dict(average.state_dict())
    stage = reader.stages[1]
    first = {name: value for name, value in average.stages[0].state_dict().items() if name != "motion"}
    stage.load_state_dict(first | {"motion": stage.motion})
    _shrink_output(stage, 0.05)
    average.stages[1].load_state_dict(stage.state_dict())


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    rng = seeded(args)
    reader = RelativeReader(CHANNELS, HIDDEN, len(NAMES), CELLS).to(memory_format=torch.channels_last)
    pairs, heldout = HeadPairs(args.data, reader.size), HeadPairs([args.heldout], reader.size)
    flows, heldout_flows = rest_flows(pairs), rest_flows(heldout)
    _initialise(reader, pairs, flows)
    average, (first, second) = copy.deepcopy(reader).eval(), reader.stages
    first_optimiser = adamw([*first.parameters(), *reader.linear.parameters()], args.rate)
    trained = [value for name, value in second.named_parameters() if not name.startswith("matches")]
    second_optimiser = adamw(trained, args.rate)
    optimisers = {"first_optimiser": first_optimiser, "second_optimiser": second_optimiser}
    trainer = Trainer(
        args, {"model": reader, "average": average} | optimisers,
        {"first": limits(args, "first"), "second": limits(args)}, rng,
        averaged=(reader, average), evaluate_every=EVALUATE_EVERY,
    )  # fmt: skip
    rarity = pairs.rarity

    def weighted(read: Tensor, truth: Tensor, power: float) -> Tensor:
        """Mean square error. power: 0 for plain errors, 2 for errors relative to each coefficient's deviation."""
        weight = rarity ** (power / 2)
        return ((read - truth).square() * (weight / weight.mean())).mean()

    def figures(read: Tensor) -> dict[str, float]:
        means = {name: round(value, 4) for name, value in trainer.running.items()}
        return means | differences_read(read, heldout)

    first.train()
    for _ in trainer.steps("first", first_optimiser, lambda: figures(read_first(average, heldout, heldout_flows))):
        rest, frames, flow, truth = live_batch(pairs, flows, args.pictures, rng)
        estimate = reader.linear(F.adaptive_avg_pool2d(flow, GRID).flatten(1))
        with torch.no_grad():
            seen = first.see(estimate, rest, frames, flow)
        with torch.autocast("cpu", torch.bfloat16):
            read = estimate + first.compare(estimate.detach(), seen, first.matches(seen.misfit)).float()
        loss = weighted(read, truth, power=1.0)
        minimise(loss, first_optimiser)
        trainer.note({"error": loss})

    if not trainer.started("second"):
        _start_second(reader, average)
    cache = args.out.with_suffix(".material")
    if not cache.exists():
        torch.save(list(material(reader.eval(), pairs, flows, np.random.default_rng((args.seed, 1)))), cache)
    inputs = Material(*torch.load(cache, weights_only=True, mmap=True))
    unseen = material(average, heldout, heldout_flows, None)
    second.train()
    for _ in trainer.steps("second", second_optimiser, lambda: figures(read_second(average, unseen))):
        rows = torch.from_numpy(rng.integers(0, len(inputs.truth), args.pictures))
        right, down = (int(steps) * STEPS for steps in rng.integers(0, 2 * MARGIN // STEPS + 1, 2))
        shown, found, estimate, truth = inputs.cut(rows, right, down)
        exposure = Exposure.random(len(rows), rng, shared=1.0)
        pictures = shown.pictures * torch.from_numpy(exposure.gain[:, :1, None, None])
        pictures[:, :3] += torch.from_numpy(exposure.offset[:, None, None, None])  # the others are differences
        with torch.autocast("cpu", torch.bfloat16):
            added = second.compare(estimate, shown._replace(pictures=pictures), found)
        loss = weighted(estimate + added.float(), truth, power=0.7)
        minimise(loss, second_optimiser)
        trainer.note({"error": loss})

    if args.reader:
        share = blend_weights(read_second(average, unseen), args.reader, heldout)
        reader.share.copy_(share)
        average.share.copy_(share)
        trainer.save()


@torch.no_grad()
def read_first(reader: RelativeReader, pairs: HeadPairs, flows: Tensor) -> Tensor:
    """(N, 36) differences that the linear map and the first stage read from every frame."""
    base, read = rest_rows(pairs), []
    for rows in torch.arange(len(base)).split(50):
        flow = flows[rows].float()
        estimate = reader.linear(F.adaptive_avg_pool2d(flow, GRID).flatten(1))
        read.append(estimate + reader.stages[0](estimate, pairs.pictures(base[rows]), pairs.pictures(rows), flow))
    return torch.cat(read)


@torch.no_grad()
def read_second(reader: RelativeReader, inputs: Material) -> Tensor:
    """(N, 36) differences that both stages read."""
    parts = [inputs.cut(rows, MARGIN, MARGIN) for rows in torch.arange(len(inputs.truth)).split(50)]
    return torch.cat([each[2] + reader.stages[1].compare(each[2], each[0], each[1]) for each in parts])


def differences_read(read: Tensor, pairs: HeadPairs) -> dict[str, float]:
    """Correlation of readings (N, 36) with the true differences of all driven frames: pooled, and by bank."""
    driven = torch.arange(len(pairs.frames)) % pairs.frames_per_identity >= PORTRAIT_FRAMES
    truth = pairs.coefficients - pairs.coefficients[rest_rows(pairs)]
    found = correlations(read[driven], truth[driven])
    figures = {"pooled": round(pooled(read[driven], truth[driven]), 3)}
    for (name, _), part in zip(BANKS, found.split([count for _, count in BANKS]), strict=True):
        figures[name] = round(part.mean().item(), 3)
    return figures


@torch.no_grad()
def blend_weights(read: Tensor, reader_file: Path, pairs: HeadPairs) -> Tensor:
    """(2, 36) weights of readings (N, 36) and of a plain reader's, fitted on people that neither was trained on."""
    plain = Reader(READER_CHANNELS, READER_HIDDEN, len(NAMES)).eval()
    plain.load_state_dict(torch.load(reader_file, weights_only=True)["average"])
    encoded = torch.cat([plain(pairs.pictures(rows)) for rows in torch.arange(len(pairs.frames)).split(50)])
    base = rest_rows(pairs)
    return fit_share(read, encoded - encoded[base], pairs.coefficients - pairs.coefficients[base])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data sets to train on")
    parser.add_argument("--heldout", type=Path, required=True, help="data set of people that are not trained on")
    add_trainer_options(parser, minutes=35.0, rate=2e-3)
    add_limit_options(parser, "first", minutes=4.0, what="training the first stage")
    parser.add_argument("--reader", type=Path, help="checkpoint of the reader stage, to fit blend weights with")
    parser.add_argument("--pictures", type=int, default=32, help="pairs per step (default 32)")
