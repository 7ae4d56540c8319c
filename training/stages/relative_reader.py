"""Train the reader that sees a frame beside the same person's picture at rest: bounded by time, resumable.

    python -m training.stages.relative_reader --data DIR DIR --heldout DIR --reader R.pt --out RR.pt --minutes 60

The first stage learns from pictures that are moved and tinted as it goes. What the second one sees depends on the first
alone, so it is computed once (a quarter of a MiB a frame, kept beside RR.pt), and training costs little more than its
own network. Run the same command again to go on after an interruption; a line a minute goes to RR.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.model.readers.absolute import Reader
from inference.model.readers.relative import GRID, RelativeReader, RestFlow, Seen

from ..heads.data import PORTRAIT_FRAMES, HeadPairs
from ..learning.augment import as_filmed, scaled
from ..learning.course import add_course_options, log_line, save_checkpoint, seeded
from ..learning.optimiser import follow, rate_at, set_rate
from ..units import BANKS, NAMES, POSE_COLUMNS
from .reader import CHANNELS as READER_CHANNELS
from .reader import HIDDEN as READER_HIDDEN
from .reader import correlations, pooled

CHANNELS, HIDDEN, CELLS = (32, 64, 96, 128, 160), 192, (GRID, 32)
EVALUATE_EVERY = 60.0  # seconds
MARGIN, STEPS = 4, 2  # pixels that are kept around what the second stage sees, and by which it is moved
PICTURES, FOUND = 100.0, 12.0  # levels of a byte for 1.0


class Material(NamedTuple):
    """What the second stage sees of N frames, in bytes, and what is true of them."""

    pictures: Tensor  # int8 (N, 9, R, R), see `Seen`, with MARGIN around
    beyond: Tensor  # float16 (N, 2, R / 2, R / 2)
    found: Tensor  # int8 (N, c, R / 2, R / 2): its `matches`, which it does not train
    estimate: Tensor  # float32 (N, 36): of the first stage
    truth: Tensor  # float32 (N, 36)

    def cut(self, rows: Tensor, right: int, down: int) -> tuple[Seen, Tensor, Tensor, Tensor]:
        """Moved by that many pixels, at most 2 * MARGIN: seen, found, estimate, truth."""
        side = self.pictures.shape[-1] - 2 * MARGIN

        def part(planes: Tensor, scale: int, levels: float) -> Tensor:
            y, x, size = down // scale, right // scale, side // scale
            return planes[rows][..., y : y + size, x : x + size].float() / levels

        seen = Seen(part(self.pictures, 1, PICTURES), part(self.beyond, 2, 1.0), torch.empty(0))
        return seen, part(self.found, 2, FOUND), self.estimate[rows], self.truth[rows]


# ------------------------------------------------------------------------------------------ what needs no training


def rest_rows(pairs: HeadPairs) -> Tensor:
    """(N,) for each frame the one of the same person at rest."""
    return torch.arange(len(pairs.frames)) // pairs.frames_per_identity * pairs.frames_per_identity


def rest_flows(pairs: HeadPairs) -> Tensor:
    """float16 (N, 2, S / 2, S / 2) from each frame's rest."""
    flows = []
    for number, (row, rest) in enumerate(enumerate(rest_rows(pairs).tolist())):
        if number == 0 or rest == row:
            search = RestFlow(pairs.pictures(torch.tensor([rest]))[0].numpy())
        flows.append(torch.from_numpy(search.to(pairs.pictures(torch.tensor([row]))[0].numpy())).half())
    return torch.stack(flows)


def fit_linear(reader: RelativeReader, flows: Tensor, coefficients: Tensor) -> None:
    """The best linear map from flow to coefficients, and the flow that each pose coefficient makes on the average."""
    grid = torch.cat([F.adaptive_avg_pool2d(part.float(), GRID).flatten(1) for part in flows.split(1000)])
    gram = grid.T @ grid + 0.05 * torch.eye(grid.shape[1])
    reader.linear.weight.data.copy_(torch.linalg.solve(gram, grid.T @ coefficients).T)
    reader.linear.bias.data.zero_()
    moved = torch.linalg.lstsq(coefficients, grid).solution.view(len(NAMES), 2, GRID, GRID)
    reader.stages[0].motion.zero_()[POSE_COLUMNS] = moved[POSE_COLUMNS]


def mean_motion(pairs: HeadPairs, cells: int) -> Tensor:
    """(36, 2, cells, cells): how far a coefficient moves what lies in each cell at rest, over everyone."""
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
        """Cells that hold no point take what is around them."""
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


# ----------------------------------------------------------------------------------------------- what is trained on


def live_batch(pairs: HeadPairs, flows: Tensor, count: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
    """rest, frames, flow and truth: both pictures moved, scaled and tinted alike, the frame a little brighter."""
    chosen = torch.from_numpy(rng.integers(0, len(pairs.frames), count))
    base = chosen // pairs.frames_per_identity * pairs.frames_per_identity
    rest, frames, flow = pairs.pictures(base), pairs.pictures(chosen), flows[chosen].float()
    truth = pairs.coefficients[chosen] - pairs.coefficients[base]
    if rng.random() < 0.5:
        rest, frames, flow = rest.flip(-1), frames.flip(-1), flow.flip(-1) * torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
        truth = truth[:, pairs.mirror_order] * pairs.mirror_sign
    if rng.random() < 0.6:
        move = torch.from_numpy(rng.normal(0, 0.03, (count, 2)).astype(np.float32))
        growth = torch.from_numpy(np.exp(rng.normal(0, 0.04, count)).astype(np.float32))
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1.0 / growth
        theta[:, :, 2] = -2.0 * move / growth[:, None]

        def taken(planes: Tensor) -> Tensor:
            grid = F.affine_grid(theta, list(planes.shape), align_corners=False)
            return F.grid_sample(planes, grid, padding_mode="border", align_corners=False)

        rest, frames = taken(torch.cat([rest, frames], 1)).split(3, 1)
        flow = taken(flow) * growth.view(-1, 1, 1, 1)
        truth = scaled(truth, growth[:, None])
    gain = torch.from_numpy(rng.uniform(0.6, 1.3, (count, 3, 1, 1)).astype(np.float32))
    gain = 0.5 * gain + 0.5 * gain.mean(1, keepdim=True)
    offset = torch.from_numpy(rng.uniform(-0.3, 0.3, (count, 1, 1, 1)).astype(np.float32))
    brighter = torch.from_numpy(np.exp(rng.normal(0, 0.04, (count, 1, 1, 1))).astype(np.float32))
    noise = float(rng.uniform(0, 0.05))
    rest = rest * gain + offset + torch.randn_like(rest) * noise
    return rest, frames * gain * brighter + offset + torch.randn_like(frames) * noise, flow, truth


@torch.no_grad()
def material(reader: RelativeReader, pairs: HeadPairs, flows: Tensor, rng: np.random.Generator | None) -> Material:
    """Of every frame of `pairs`; half of them mirrored, half as filmed and some of these beside another portrait.

    Without `rng` as they are.
    """
    first, second = reader.stages
    order, sign = pairs.mirror_order.numpy(), pairs.mirror_sign.numpy()
    parts: list[tuple[Tensor, ...]] = []
    for rows in torch.arange(len(pairs.frames)).split(pairs.frames_per_identity):
        base = int(rows[0])
        frames = pairs.frames[rows].numpy().copy()
        rest, flow = np.repeat(frames[:1], len(rows), 0), flows[rows].float()
        known = pairs.coefficients[rows].numpy()
        truth = known - known[:1]
        for k in range(len(rows)) if rng else ():
            mirrored, filmed = rng.random() < 0.5, rng.random() < 0.5
            still = int(rng.integers(1, PORTRAIT_FRAMES)) if filmed and rng.random() < 0.35 else 0
            two, growth = np.stack([pairs.frames[base + still].numpy(), frames[k]]), 1.0
            truth[k] = known[k] - known[still]
            if mirrored:
                two, truth[k] = two[:, :, ::-1], truth[k][order] * sign
            if filmed:
                two, growth = as_filmed(two, rng)
            rest[k], frames[k] = two
            truth[k] = scaled(torch.from_numpy(truth[k : k + 1]), torch.tensor(growth))[0].numpy()
            if filmed or mirrored:
                planes = (two.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
                flow[k] = torch.from_numpy(RestFlow(planes[0]).to(planes[1]))
        still, shown = (torch.from_numpy(part).permute(0, 3, 1, 2).float() / 127.5 - 1 for part in (rest, frames))
        estimate = reader.linear(F.adaptive_avg_pool2d(flow, GRID).flatten(1))
        estimate = estimate + first(estimate, still, shown, flow)
        seen = second.see(estimate, still, shown, flow, MARGIN)
        found = second.matches(seen.misfit)
        bytes_of = [(seen.pictures, PICTURES), (found, FOUND)]
        pictures, found = ((part * levels).round().clamp(-127, 127).to(torch.int8) for part, levels in bytes_of)
        parts.append((pictures, seen.beyond.half(), found, estimate, torch.from_numpy(truth)))
    return Material(*(torch.cat(part) for part in zip(*parts, strict=True)))


# ------------------------------------------------------------------------------------------------------- training


def fit_share(own: Tensor, plain: Tensor, truth: Tensor) -> Tensor:
    """(2, n): how much of each of two readings (N, n) comes nearest to the truth, for each coefficient."""
    gram = torch.stack([own, plain], 1).movedim(-1, 0)  # (n, N, 2)
    both = gram.mT @ gram + 1e-4 * len(own) * torch.eye(2)
    return torch.linalg.solve(both, gram.mT @ truth.T[..., None])[..., 0].T.contiguous()


class Trainer:
    """Both stages, one after the other; `state` is what is written."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.rng = args, seeded(args)
        self.reader = RelativeReader(CHANNELS, HIDDEN, len(NAMES), CELLS)
        size = self.reader.size
        self.pairs, self.heldout = HeadPairs(args.data, size), HeadPairs([args.heldout], size)
        self.flows, self.heldout_flows = rest_flows(self.pairs), rest_flows(self.heldout)
        fit_linear(self.reader, self.flows, self.pairs.coefficients)
        self.reader.stages[1].motion.copy_(mean_motion(self.pairs, CELLS[1]))
        for stage in self.reader.stages:
            stage.last.weight.data.mul_(0.1)
            stage.last.bias.data.zero_()
        self.reader.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.reader).eval()
        self.elapsed, self.steps = [0.0, 0.0], [0, 0]
        self.optimisers = [self._optimiser(stage) for stage in (0, 1)]
        self._error = 0.02
        if args.out.exists():
            checkpoint = torch.load(args.out, weights_only=True)
            self.reader.load_state_dict(checkpoint["model"])
            self.average.load_state_dict(checkpoint["average"])
            for optimiser, state in zip(self.optimisers, checkpoint["optimisers"], strict=True):
                optimiser.load_state_dict(state)
            self.elapsed, self.steps = checkpoint["elapsed"], checkpoint["steps"]
            self.rng.bit_generator.state = json.loads(checkpoint["random"])

    def _optimiser(self, number: int) -> torch.optim.AdamW:
        stage = self.reader.stages[number]
        trained = list(stage.parameters()) + (list(self.reader.linear.parameters()) if number == 0 else [])
        if number == 1:
            trained = [value for name, value in stage.named_parameters() if not name.startswith("matches")]
        return torch.optim.AdamW(trained, self.args.rate, betas=(0.9, 0.99), weight_decay=0.02)

    def first(self) -> None:
        """The linear map, and a stage that knows the pose from it."""
        linear, stage = self.reader.linear, self.reader.stages[0].train()

        def loss() -> Tensor:
            rest, frames, flow, truth = live_batch(self.pairs, self.flows, self.args.pictures, self.rng)
            estimate = linear(F.adaptive_avg_pool2d(flow, GRID).flatten(1))
            with torch.no_grad():
                seen = stage.see(estimate, rest, frames, flow)
            with torch.autocast("cpu", torch.bfloat16):
                read = estimate + stage.compare(estimate.detach(), seen, stage.matches(seen.misfit)).float()
            return self._weighted(read, truth, power=1.0)

        self._run(0, self.args.first_minutes, loss, self._read_live)
        if self.steps[1] == 0:
            self.reader.load_state_dict(self.average.state_dict())

    def second(self) -> None:
        """A stage that begins as the first one, and sees what that one leaves."""
        stage, before = self.reader.stages[1], self.average.stages[0]
        if self.steps[1] == 0:
            known = {name: value for name, value in before.state_dict().items() if name != "motion"}
            stage.load_state_dict(known | {"motion": stage.motion})
            stage.last.weight.data.mul_(0.05)
            stage.last.bias.data.zero_()
            self.average.stages[1].load_state_dict(stage.state_dict())
        cache = self.args.out.with_suffix(".material")
        if not cache.exists():
            self.reader.eval()
            seen = material(self.reader, self.pairs, self.flows, self.rng)
            torch.save(list(seen), cache)
        seen = Material(*torch.load(cache, weights_only=True, mmap=True))
        unseen = material(self.average, self.heldout, self.heldout_flows, None)
        stage.train()

        def loss() -> Tensor:
            rows = torch.from_numpy(self.rng.integers(0, len(seen.truth), self.args.pictures))
            right, down = (int(steps) * STEPS for steps in self.rng.integers(0, 2 * MARGIN // STEPS + 1, 2))
            shown, found, estimate, truth = seen.cut(rows, right, down)
            gain = torch.from_numpy(self.rng.uniform(0.6, 1.3, (len(rows), 1, 1, 1)).astype(np.float32))
            offset = torch.from_numpy(self.rng.uniform(-0.3, 0.3, (len(rows), 3, 1, 1)).astype(np.float32))
            pictures = shown.pictures * gain
            pictures[:, :3] += offset
            with torch.autocast("cpu", torch.bfloat16):
                added = stage.compare(estimate, shown._replace(pictures=pictures), found)
            return self._weighted(estimate + added.float(), truth, power=0.7)

        def read() -> Tensor:
            parts = [unseen.cut(rows, MARGIN, MARGIN) for rows in torch.arange(len(unseen.truth)).split(50)]
            return torch.cat([each[2] + self.average.stages[1].compare(each[2], each[0], each[1]) for each in parts])

        self._run(1, self.args.minutes, loss, read)
        if self.args.reader:
            self._share(read)

    @torch.no_grad()
    def _share(self, read: Callable[[], Tensor]) -> None:
        """By the held-out people: those that both readers were trained on would make either look better than it is."""
        plain = Reader(READER_CHANNELS, READER_HIDDEN, len(NAMES)).eval()
        plain.load_state_dict(torch.load(self.args.reader, weights_only=True)["average"])
        pictures = torch.arange(len(self.heldout.frames)).split(50)
        said = torch.cat([plain(self.heldout.pictures(rows)) for rows in pictures])
        base = rest_rows(self.heldout)
        truth = self.heldout.coefficients - self.heldout.coefficients[base]
        share = fit_share(read(), said - said[base], truth)
        self.reader.share.copy_(share)
        self.average.share.copy_(share)
        self._save()

    def _weighted(self, read: Tensor, truth: Tensor, power: float) -> Tensor:
        """power: 0 counts coefficients as they are, 2 by their deviation."""
        weight = self.pairs.rarity ** (power / 2)
        return ((read - truth).square() * (weight / weight.mean())).mean()

    def _read_live(self) -> Tensor:
        base, read = rest_rows(self.heldout), []
        stage = self.average.stages[0]
        for rows in torch.arange(len(base)).split(50):
            rest, frames = self.heldout.pictures(base[rows]), self.heldout.pictures(rows)
            flow = self.heldout_flows[rows].float()
            estimate = self.average.linear(F.adaptive_avg_pool2d(flow, GRID).flatten(1))
            read.append(estimate + stage(estimate, rest, frames, flow))
        return torch.cat(read)

    def _run(self, number: int, minutes: float, loss_of: Callable[[], Tensor], read: Callable[[], Tensor]) -> None:
        budget, evaluated, optimiser = minutes * 60.0, self.elapsed[number], self.optimisers[number]
        while self.elapsed[number] < budget:
            began = time.monotonic()
            set_rate(optimiser, rate_at(self.steps[number], self.elapsed[number] / budget, self.args.rate))
            loss = loss_of()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            self.steps[number] += 1
            self._error += 0.01 * (loss.item() - self._error)
            follow(self.average, self.reader, self.steps[number])
            self.elapsed[number] += time.monotonic() - began
            if self.elapsed[number] - evaluated > EVALUATE_EVERY or self.elapsed[number] >= budget:
                evaluated = self.elapsed[number]
                self._report(number, read)

    @torch.no_grad()
    def _report(self, number: int, read: Callable[[], Tensor]) -> None:
        driven = torch.arange(len(self.heldout.frames)) % self.heldout.frames_per_identity >= PORTRAIT_FRAMES
        truth = self.heldout.coefficients - self.heldout.coefficients[rest_rows(self.heldout)]
        said, truth = read()[driven], truth[driven]
        found = correlations(said, truth)
        line = {"stage": number + 1, "minutes": round(self.elapsed[number] / 60, 1), "step": self.steps[number]}
        line |= {"error": round(self._error, 4), "pooled": round(pooled(said, truth), 3)}
        for (name, _), part in zip(BANKS, found.split([count for _, count in BANKS]), strict=True):
            line[name] = round(part.mean().item(), 3)
        log_line(line, self.args.out)
        self._save()

    def _save(self) -> None:
        save_checkpoint(
            {
                "model": self.reader.state_dict(),
                "average": self.average.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
                "elapsed": self.elapsed,
                "steps": self.steps,
                "random": json.dumps(self.rng.bit_generator.state),
            },
            self.args.out,
        )


def train(args: argparse.Namespace) -> None:
    trainer = Trainer(args)
    trainer.first()
    trainer.second()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training heads")
    parser.add_argument("--heldout", type=Path, required=True, help="folder of heads never trained on")
    add_course_options(parser, minutes=35.0, rate=2e-3, minutes_of="the second stage's training")
    parser.add_argument("--reader", type=Path, help="checkpoint of training.stages.reader: then it has its share too")
    parser.add_argument("--first-minutes", type=float, default=4.0, help="training time of the first stage")
    parser.add_argument("--pictures", type=int, default=32, help="a step")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
