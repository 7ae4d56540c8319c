"""Fit the first estimate of the relative reader: a linear map from the face's optical flow to coefficients.

    python -m training relative-reader --data DIR DIR --heldout DIR --out RR.pt

The flow leads from a person's neutral frame to another frame. The map is the least-squares solution over all frames of
the data sets and their mirror images, so there is nothing to resume. The close-reader stage trains the network that
refines the estimate.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.model.readers.relative import GRID, RestFlow

from ..heads.data import PORTRAIT_FRAMES, HeadPairs
from ..learning.trainer import log_line, save_checkpoint
from ..units import BANKS, mirrored
from .reader import correlations, pooled

SIZE = 128  # pixels of the pictures that are compared
RIDGE = 0.05  # added to the diagonal of the normal equations
AT_ONCE = 1000  # frames


def rest_rows(pairs: HeadPairs) -> Tensor:
    """(N,) number of each frame's neutral frame."""
    return torch.arange(len(pairs.frames)) // pairs.frames_per_identity * pairs.frames_per_identity


def rest_flows(pairs: HeadPairs) -> Tensor:
    """(N, 2, GRID, GRID): mean optical flow of each cell, from the neutral frame to each frame."""
    flows = []
    for row, rest in enumerate(rest_rows(pairs).tolist()):
        if rest == row:
            search = RestFlow(pairs.pictures(torch.tensor([rest]))[0].numpy())
        flow = torch.from_numpy(search.to(pairs.pictures(torch.tensor([row]))[0].numpy()))
        flows.append(F.adaptive_avg_pool2d(flow, GRID))
    return torch.stack(flows)


def fit_linear(pairs: HeadPairs, flows: Tensor) -> torch.nn.Linear:
    """The least-squares map from flow (N, 2, GRID, GRID), flattened, to coefficient differences."""
    truth = pairs.coefficients - pairs.coefficients[rest_rows(pairs)]
    flipped = flows.flip(-1) * torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    count, columns = flows[0].numel(), truth.shape[1]
    gram, product = RIDGE * torch.eye(count), torch.zeros(count, columns)
    for grid, wanted in ((flows, truth), (flipped, mirrored(truth))):
        for rows in torch.arange(len(grid)).split(AT_ONCE):
            some = grid[rows].flatten(1)
            gram += some.T @ some
            product += some.T @ wanted[rows]
    linear = torch.nn.Linear(count, columns)
    with torch.no_grad():
        linear.weight.copy_(torch.linalg.solve(gram, product).T)
        linear.bias.zero_()
    return linear


def fit_share(own: Tensor, other: Tensor, truth: Tensor) -> Tensor:
    """(2, n): for each coefficient, the least-squares blend weights of the two readings `own` and `other` (N, n)."""
    gram = torch.stack([own, other], 1).movedim(-1, 0)  # (n, N, 2)
    both = gram.mT @ gram + 1e-4 * len(own) * torch.eye(2)
    return torch.linalg.solve(both, gram.mT @ truth.T[..., None])[..., 0].T.contiguous()


@torch.no_grad()
def train(args: argparse.Namespace) -> None:
    """Fit with the options of `add_options`."""
    torch.set_num_threads(args.threads)
    pairs, heldout = HeadPairs(args.data, SIZE), HeadPairs([args.heldout], SIZE)
    linear = fit_linear(pairs, rest_flows(pairs))
    driven = torch.arange(len(heldout.frames)) % heldout.frames_per_identity >= PORTRAIT_FRAMES
    truth = (heldout.coefficients - heldout.coefficients[rest_rows(heldout)])[driven]
    read = linear(rest_flows(heldout).flatten(1))[driven]
    line = {"pooled": round(pooled(read, truth), 3)}
    found = correlations(read, truth).split([count for _, count in BANKS])
    line |= {name: round(part.mean().item(), 3) for (name, _), part in zip(BANKS, found, strict=True)}
    log_line(line, args.out)
    state = {f"linear.{name}": part for name, part in linear.state_dict().items()}
    save_checkpoint({"average": state}, args.out)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data sets to fit to")
    parser.add_argument("--heldout", type=Path, required=True, help="data set of people that are not fitted to")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint (.pt) to write")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
