"""Fit the map that corrects the close reader's coefficients of brows and lids.

    python -m training calibration --bank BANK --data DIR DIR --out K.pt

The close reader was trained on drawn heads. On lifelike ones, and more so on real people, it reads small motions of
brows and lids too weakly. Their coefficients are solved again by ridge regression, from its reading of pose and
expression and from the optical flow in the window of the eyes, on people that none of the bank's readers was trained
on. Regression makes noisy curves smaller, so each coefficient is then scaled to the deviation of the truth, on people
that are left out of the fit. All other coefficients stay as they are.

The fit takes seconds after the frames have been read, so there is nothing to resume.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.contract.bank import load_bank
from inference.renderer import FaceRenderer

from ..heads.data import PORTRAIT_FRAMES
from ..learning.augment import Exposure, array_noise, brightness_changes, compressed, downscaled
from ..learning.trainer import log_line, save_checkpoint, seeded
from ..units import EXPRESSION, NAMES, POSE_COLUMNS
from .close_reader import HeadFrames
from .reader import correlations

CORRECTED = ("browDown", "browInnerUp", "browOuterUp", "eyeBlink", "eyeWide", "eyeSquint")
OUTPUTS = [NAMES.index(name) for name in CORRECTED]
INPUTS = list(range(POSE_COLUMNS.start, POSE_COLUMNS.stop + len(EXPRESSION)))  # coefficients from which
RIDGE = 0.05  # of the normal equations of features of unit deviation
FOLDS = 6
MOST_GAIN = 2.0  # of this scaling, which scales the noise as well
AT_REST = 0.6  # share of people that are compared with the portrait that is exactly at rest
MOST_NOISE = 0.03  # deviation of pixel noise, in [-1, 1], at most
BRIGHTNESS = 0.02  # deviation of the logarithm of a frame's brightness
AT_ONCE = 8  # frames


@torch.inference_mode()
def read_frames(
    renderer: FaceRenderer, heads: HeadFrames, rng: np.random.Generator
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Features (N, F) of all frames beside a portrait of the same person, true differences (N, 36), and people (N,).

    See `WindowReader.features`. The pictures are filmed: exposure and noise of a person, codec artefacts of a frame.
    """
    face, features, truth = renderer.reader, [], []
    for person in range(heads.people):
        rows = person * heads.per_person + np.arange(heads.per_person)
        exposure, noise = Exposure.random(1, rng), float(rng.uniform(0.0, MOST_NOISE))
        pictures = []
        for picture in heads.pictures(rows):
            (brightness,) = brightness_changes(1, rng, BRIGHTNESS)
            lit = exposure.apply_to_array(compressed(downscaled(picture, rng), rng), 0, brightness)
            lit = lit + noise * array_noise(lit.shape, rng)
            pictures.append(((lit.clip(-1.0, 1.0) + 1.0) * 127.5).round().astype(np.uint8))
        portrait = 0 if rng.random() < AT_REST else int(rng.integers(1, PORTRAIT_FRAMES))
        rest, shown = face.rest_reference(pictures.pop(portrait)), np.delete(rows, portrait)
        for at in range(0, len(pictures), AT_ONCE):
            windows, estimate = face.compared_windows(rest, pictures[at : at + AT_ONCE])
            features.append(face.networks.relative_reader.windows.features(windows, estimate))
        truth.append(heads.coefficients[shown] - heads.coefficients[rows[portrait]])
    return torch.cat(features), torch.cat(truth), np.arange(heads.people).repeat(heads.per_person - 1)


def ridge(features: Tensor, truth: Tensor) -> Tensor:
    """(F, n): the map of features (N, F) to truth (N, n)."""
    scale = features.std(0).clamp(min=1e-6)
    even = (features / scale).double()
    gram = even.T @ even + RIDGE * len(even) * torch.eye(even.shape[1], dtype=torch.double)
    return (torch.linalg.solve(gram, even.T @ truth.double()) / scale[:, None]).float()


def slopes(read: Tensor, truth: Tensor) -> Tensor:
    """(n,) slope of each column of `read` (N, n) against that of `truth`; 0 where the truth does not vary."""
    read, truth = read - read.mean(0), truth - truth.mean(0)
    return (read * truth).sum(0) / truth.square().sum(0).clamp(min=1e-9)


def fit(features: Tensor, truth: Tensor, people: np.ndarray) -> tuple[Tensor, Tensor]:
    """The weight (36, F) of `WindowReader.calibration`, and what it reads in people who are left out (N, outputs).

    features (N, F), truth (N, 36), people (N,): see `read_frames`.
    """
    used = torch.tensor([*INPUTS, *range(len(NAMES), features.shape[1])])
    seen, wanted = features[:, used], truth[:, OUTPUTS]
    read = torch.zeros_like(wanted)
    for fold in range(FOLDS):
        left_out = torch.from_numpy(people % FOLDS == fold)
        read[left_out] = seen[left_out] @ ridge(seen[~left_out], wanted[~left_out])
    gain = (wanted.std(0) / read.std(0).clamp(min=1e-6)).clamp(max=MOST_GAIN)
    weight = torch.eye(len(NAMES), features.shape[1])
    weight[OUTPUTS] = 0.0
    weight[torch.tensor(OUTPUTS)[:, None], used] = (ridge(seen, wanted) * gain).T
    return weight, read * gain


def train(args: argparse.Namespace) -> None:
    """Fit with the options of `add_options`."""
    renderer, rng = FaceRenderer(load_bank(args.bank), "cpu"), seeded(args)
    if not renderer.reader.can_compare:
        raise SystemExit(f"{args.bank} has no relative reader. Export one with --close-reader.")
    parts = [read_frames(renderer, HeadFrames([folder]), rng) for folder in args.data]
    features, truth = (torch.cat([part[k] for part in parts]) for k in (0, 1))
    first = np.cumsum([0, *(part[2][-1] + 1 for part in parts)])
    weight, read = fit(features, truth, np.concatenate([part[2] + at for part, at in zip(parts, first, strict=False)]))
    for name, found in (("before", features[:, OUTPUTS]), ("after", read)):
        figures = zip(slopes(found, truth[:, OUTPUTS]), correlations(found, truth[:, OUTPUTS]), strict=True)
        both = [[round(slope.item(), 3), round(r.item(), 3)] for slope, r in figures]
        log_line({"slope and r": name} | dict(zip(CORRECTED, both, strict=True)), args.out)
    save_checkpoint({"average": {"weight": weight}}, args.out)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.add_argument("--bank", type=Path, required=True, help="bank with a relative reader, to correct")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data sets of people its readers never saw")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint (.pt) to write")
    parser.add_argument("--seed", type=int, default=0, help="of the artefacts of the pictures (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
