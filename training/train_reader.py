"""Train the network that reads coefficients off pictures of faces: bounded by time, resumable.

    python -m training.train_reader --data DIR DIR --heldout DIR --out R.pt --minutes 30

With `--stream` in the place of `--data DIR DIR` people are rendered meanwhile, ever new ones; R.people notes which.
Run the same command again to go on after an interruption; a line a minute goes to R.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.model.reader import Reader

from .data import HeadPairs, add_data_options, training_pairs
from .optimiser import follow, rate_at
from .units import BANKS, NAMES, SCALE, SHIFT

CHANNELS, HIDDEN = (16, 32, 64, 96, 128), 160
EVALUATE_EVERY = 60.0  # seconds


def disturbed(pictures: Tensor, coefficients: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pictures as cameras and croppers make them, and what they then show: moved, scaled, blurred, tinted, noisy.

    A face that is cut out a little to the left is one whose head is shifted to the right.
    """
    count, size = len(pictures), pictures.shape[-1]
    move = torch.from_numpy(rng.normal(0, 0.03, (count, 2)).astype(np.float32))  # picture widths, right and down
    growth = torch.from_numpy(np.exp(rng.normal(0, 0.04, count)).astype(np.float32))
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1.0 / growth
    theta[:, :, 2] = -2.0 * move / growth[:, None]
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    pictures = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    shown = coefficients.clone()
    x, y, scale = (NAMES.index(f"head{what}") for what in ("ShiftX", "ShiftY", "Scale"))
    shown[:, x] = shown[:, x] * growth + move[:, 0] / SHIFT
    shown[:, y] = shown[:, y] * growth + move[:, 1] / SHIFT
    shown[:, scale] = ((1.0 + SCALE * shown[:, scale]) * growth - 1.0) / SCALE

    if rng.random() < 0.3:
        small = F.interpolate(pictures, scale_factor=float(rng.uniform(0.4, 0.9)), mode="bilinear", antialias=True)
        pictures = F.interpolate(small, size=(size, size), mode="bilinear")
    gain = torch.from_numpy(rng.uniform(0.6, 1.3, (count, 3, 1, 1)).astype(np.float32).clip(0.5))
    gain = 0.5 * gain + 0.5 * gain.mean(1, keepdim=True)
    offset = torch.from_numpy(rng.uniform(-0.3, 0.3, (count, 1, 1, 1)).astype(np.float32))
    noise = torch.randn_like(pictures) * float(rng.uniform(0.0, 0.06))
    return (pictures * gain + offset + noise).clamp(-1.0, 1.0), shown


def correlations(reader: Reader, pairs: HeadPairs) -> Tensor:
    """(36,) correlation of what is read with the truth, over every picture of `pairs`."""
    with torch.no_grad():
        read = torch.cat([reader(pairs.pictures(rows)) for rows in torch.arange(len(pairs.frames)).split(100)])
    truth = pairs.coefficients
    read, truth = read - read.mean(0), truth - truth.mean(0)
    return (read * truth).mean(0) / (read.square().mean(0) * truth.square().mean(0)).sqrt().clamp(min=1e-9)


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    reader = Reader(CHANNELS, HIDDEN, len(NAMES))
    pairs, heldout = training_pairs(args, reader.size), HeadPairs([args.heldout], reader.size)
    reader.last.bias.data.copy_(pairs.coefficients.mean(0))
    optimiser = torch.optim.AdamW(reader.parameters(), args.rate, betas=(0.9, 0.99), weight_decay=0.02)
    step, elapsed, average, error = 0, 0.0, copy.deepcopy(reader), 1.0
    if args.out.exists():
        checkpoint = torch.load(args.out, weights_only=True)
        reader.load_state_dict(checkpoint["model"])
        average.load_state_dict(checkpoint["average"])
        optimiser.load_state_dict(checkpoint["optimiser"])
        step, elapsed, error = checkpoint["step"], checkpoint["elapsed"], checkpoint.get("error", 1.0)
        rng.bit_generator.state = json.loads(checkpoint["random"])
    budget, evaluated = args.minutes * 60.0, elapsed

    def report() -> None:
        found = correlations(average, heldout)
        line = {"minutes": round(elapsed / 60, 1), "step": step, "error": round(error, 3)}
        for (name, _), part in zip(BANKS, found.split([count for _, count in BANKS]), strict=True):
            line[name] = round(part.mean().item(), 3)
        line |= {name: round(found[NAMES.index(name)].item(), 3) for name in ("jawOpen", "headYaw", "eyeBlink")}
        with args.out.with_suffix(".jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        partial = args.out.with_suffix(".partial")
        torch.save(
            {
                "model": reader.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "elapsed": elapsed,
                "error": error,
                "random": json.dumps(rng.bit_generator.state),
            },
            partial,
        )
        partial.replace(args.out)

    while elapsed < budget:
        began = time.monotonic()
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, elapsed / budget, args.rate)
        pairs.renew()
        rows = torch.from_numpy(rng.integers(0, len(pairs.frames), args.pictures))
        pictures, truth = pairs.pictures(rows), pairs.coefficients[rows]
        if rng.random() < 0.5:
            pictures, truth = pictures.flip(-1), truth[:, pairs.mirror_order] * pairs.mirror_sign
        pictures, truth = disturbed(pictures, truth, rng)
        with torch.autocast("cpu", torch.bfloat16):
            read = reader(pictures.contiguous(memory_format=torch.channels_last))
        loss = ((read.float() - truth).square() * pairs.rarity).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        error += 0.01 * (loss.item() - error)
        follow(average, reader, step)
        elapsed += time.monotonic() - began
        if elapsed - evaluated > EVALUATE_EVERY:
            report()
            evaluated = elapsed
    report()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--heldout", type=Path, required=True, help="folder of heads never trained on")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write and to go on from")
    parser.add_argument("--minutes", type=float, default=30.0, help="training time in all, over every run")
    parser.add_argument("--pictures", type=int, default=32, help="a step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
