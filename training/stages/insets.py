"""Train the insets, which redraw mouth and eyes at a higher resolution.

    python -m training insets --refiner F.pt --data DIR DIR --heldout DIR --out I.pt --minutes 45

The data sets need pictures of twice the bank's size. --refiner is a checkpoint or a bank; only its motion is used, and
it is not changed. First the anchors (positions of eyes and mouth) are trained, then both insets; in the last part of
their training, critics (discriminators) add an adversarial loss.
Run the same command again to resume. A log (I.jsonl) and a contact sheet (I.png) are written beside the checkpoint.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.contract.bank import load_bank
from inference.model.insets import InsetConfig, Insets, InsetsConfig
from inference.model.load import INSETS, state_of
from inference.model.readers.absolute import ReaderConfig
from inference.model.refiner import Refiner, invert_displacement, pixel_positions, warped

from ..heads.data import Batch, HeadPairs
from ..learning.augment import Crop, filmed, photographed, relit, repaint_eyes
from ..learning.critic import CRITIC_LEAD, Critic, adversarial_loss, critic_loss
from ..learning.losses import weighted_sum
from ..learning.optimiser import adamw, minimise
from ..learning.trainer import Trainer, add_limit_options, add_trainer_options, limits, seeded
from ..units import NAMES, POSE_COLUMNS
from .refiner import loaded_refiner

ANCHORS, ANCHORS_HIDDEN = (16, 32, 48, 64, 80), 96  # channels, of pictures of 128 px
# Windows: pixels (height, width), extent in eye distances, and the ellipses that are drawn, see `Inset`.
MOUTH = (72, 72), (0.75, 0.75, 0.12), [(0.0, 0.59, 0.7)]
EYES = (48, 104), (1.05, 0.485, -0.06), [(-0.476, 0.344, 0.78), (0.476, 0.344, 0.78)]
OUTSIDE_WEIGHT = 0.02  # loss weight of pixels that the inset does not draw
LIDS = ("eyeBlink", "eyeSquint")  # only these require the inset of the eyes: elsewhere the warped source is sharper
CHANNELS = (32, 48, 80)
OVERSAMPLE = {"eyeBlink": 5.0, "jawOpen": 1.0, "tongueOut": 1.0}  # see `HeadPairs.batch`
WEIGHTS = {"picture": 1.0, "edges": 1.0, "opacity": 0.01, "adversarial": 0.03}
HIDDEN, HIDDEN_GAIN = 0.12, 4.0  # colour difference, of 2, of pixels that the source hides, and their extra weight
ANCHOR_NOISE = 0.006  # half widths, deviation of the anchors that are read from sources


class Drawn(NamedTuple):
    """One inset of N driven frames.

    inset: (N, 4, h, w), its colours and opacity; network_input: (N, c, h, w); truth: (N, 3, h, w), the
    window of the true frames; feather: (1, 1, h, w), its largest opacity.
    """

    inset: Tensor
    network_input: Tensor
    truth: Tensor
    feather: Tensor

    @property
    def picture(self) -> Tensor:
        """(N, 3, h, w): the inset over the warped source."""
        alpha = self.inset[:, 3:]
        return self.network_input[:, :3] * (1 - alpha) + self.inset[:, :3] * alpha


def fresh() -> Insets:
    """Untrained insets."""
    pose = torch.zeros(len(NAMES))
    pose[POSE_COLUMNS] = 1.0
    lids = torch.zeros(len(NAMES))
    lids[[NAMES.index(name) for name in LIDS]] = 1.0
    triggers = 1.0 - pose, lids
    sizes = (InsetConfig(window[0], CHANNELS) for window in (MOUTH, EYES))
    insets = Insets(InsetsConfig(ReaderConfig(ANCHORS, ANCHORS_HIDDEN, 6), *sizes, len(NAMES)))
    insets.pose.copy_(pose)
    for inset, (_, extent, ovals), trigger, tone in zip(
        (insets.mouth, insets.eyes), (MOUTH, EYES), triggers, (0.0, 1.0), strict=True
    ):
        inset.placed(extent, ovals, trigger, tone)
    return insets


def anchors_of(points: Tensor, places: Tensor, groups: Mapping[str, tuple[int, int]]) -> Tensor:
    """(N, 3, 2): centres of the left eye, the right eye and the mouth.

    points: (N, P, 2) tracked points; places: (P, 3) on the average head, mirrored if the picture is.
    """
    eyes, mouth = (slice(*groups[name]) for name in ("eyes", "mouth"))
    left = places[eyes, 0] < 0
    parts = points[:, eyes][:, left], points[:, eyes][:, ~left], points[:, mouth]
    return torch.stack([part.mean(1) for part in parts], 1)


def anchor_loss(insets: Insets, pairs: HeadPairs, rng: np.random.Generator, count: int) -> Tensor:
    """Mean distance of the anchors, in half widths, on `count` augmented pictures."""
    rows = torch.from_numpy(rng.integers(0, len(pairs.frames), count))
    pictures = F.interpolate(pairs.pictures(rows), size=(insets.anchors.size,) * 2, mode="area")
    anchors = anchors_of(pairs.points[rows].float(), pairs.places, pairs.groups)
    if rng.random() < 0.5:
        pictures, anchors = pictures.flip(-1), (anchors * torch.tensor([-1.0, 1.0]))[:, [1, 0, 2]]
    crop = Crop.random(count, rng)
    pictures, anchors = crop.pictures(pictures), crop.points(anchors)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = insets.anchors(filmed(pictures, rng).contiguous(memory_format=torch.channels_last))
    return (prediction.float().unflatten(1, (3, 2)) - anchors).norm(dim=-1).mean()


def draw(insets: Insets, refiner: Refiner, batch: Batch, anchors: Tensor, coarse: bool) -> list[Drawn]:
    """Render the insets of mouth and eyes for a batch.

    anchors: (S, 3, 2) of the sources. coarse: whether the sources are first reduced to the bank's size, which is half.
    """
    drivings = len(batch.driving) // len(batch.source)
    half = F.avg_pool2d(batch.source, 2)
    source = F.interpolate(half, scale_factor=2.0, mode="bilinear") if coarse else batch.source
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            motion = refiner.motion_fields(half.contiguous(memory_format=torch.channels_last)).float()
        source_values = insets.prepare(source, motion, anchors)
        source_values = type(source_values)(*(part.repeat_interleave(drivings, 0) for part in source_values))
        amounts, turned = (
            refiner.motion_weights(batch.driving_coefficients * share)
            - refiner.motion_weights(batch.source_coefficients * share).repeat_interleave(drivings, 0)
            for share in (1.0, insets.pose)
        )
        moves = torch.einsum("skf,sfchw->skchw", amounts.unflatten(0, (-1, drivings)), motion).flatten(0, 1)
        positions, remaining = invert_displacement(
            moves, pixel_positions(moves.shape[-1], moves.device).expand_as(moves)
        )
        windows = insets.windows(source_values.anchors_at(turned))
    result = []
    for number, (inset, window) in enumerate(zip((insets.mouth, insets.eyes), windows, strict=True)):
        network_input = insets.network_input(number, source_values, window, positions, remaining)
        truth = warped(batch.driving, window.places(*network_input.shape[-2:]))
        network_input = network_input.contiguous(memory_format=torch.channels_last)
        skin = (source_values.around_mouth, source_values.around_eyes)[number]
        result.append(
            Drawn(inset(network_input, batch.driving_coefficients, skin), network_input, truth, inset.feather)
        )
    return result


def inset_losses(drawn: Drawn) -> dict[str, Tensor]:
    """Unweighted losses by name.

    The inset's colours are also compared without the opacity; with low opacity they would get almost no gradient.
    """
    truth = drawn.truth
    with torch.no_grad():
        hidden = ((drawn.network_input[:, :3] - truth).abs().mean(1, keepdim=True) / HIDDEN - 1).clamp(0.0, 1.0)
        weight = (1.0 + HIDDEN_GAIN * F.max_pool2d(hidden, 3, 1, 1)) * (OUTSIDE_WEIGHT + drawn.feather)
    losses = {"picture": truth.new_zeros(()), "edges": truth.new_zeros(())}
    for picture in (drawn.picture, drawn.inset[:, :3]):
        error = picture - truth
        across = (error.diff(dim=-1).abs() * weight[..., 1:]).sum() / weight.sum()
        down = (error.diff(dim=-2).abs() * weight[..., 1:, :]).sum() / weight.sum()
        losses["edges"] = losses["edges"] + (across + down) / 6
        scale = weight
        for _ in range(3):
            losses["picture"] = losses["picture"] + (error.abs() * scale).sum() / scale.sum() / 18
            error, scale = F.avg_pool2d(error, 2), F.avg_pool2d(scale, 2)
    return losses | {"opacity": (drawn.inset[:, 3:] * (1 - hidden)).mean()}


@torch.no_grad()
def figures(
    insets: Insets, refiner: Refiner, pairs: HeadPairs, people: int = 48
) -> tuple[dict[str, float], list[Drawn]]:
    """Held-out figures: people at rest driven by frames 4 and 7, with the anchors that the network predicts.

    Error of the anchors in half widths; PSNR of the windows, and of the warped source in them ("_warped").
    """
    first = np.arange(min(people, pairs.identities)) * pairs.frames_per_identity
    batch = pairs.pick(first, np.stack([first + 4, first + 7], 1))
    anchors = insets.read_anchors(batch.source)
    error = (anchors - anchors_of(pairs.points[first].float(), pairs.places, pairs.groups)).norm(dim=-1).mean()
    result, drawn = {"anchors": round(error.item(), 4)}, draw(insets, refiner, batch, anchors, coarse=False)
    for name, one in zip(("mouth", "eyes"), drawn, strict=True):
        for what, picture in (("", one.picture), ("_warped", one.network_input[:, :3])):
            error = (picture.clamp(-1, 1) - one.truth).square().mean((1, 2, 3))
            result[f"{name}{what}"] = round((10 * torch.log10(4 / error)).mean().item(), 2)
    return result, drawn


def contact_sheet(drawn: list[Drawn], path: Path, count: int = 12) -> None:
    """Save a picture with one frame per column: warped source, truth and result of the mouth, then of the eyes."""
    rows = []
    for one in drawn:
        for pictures in (one.network_input[:count, :3], one.truth[:count], one.picture[:count]):
            levels = ((pictures.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()
            tiles = [cv2.resize(tile, (192, round(192 * tile.shape[0] / tile.shape[1]))) for tile in levels]
            rows.append(np.concatenate(tiles, 1))
    cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1])


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    rng, refiner = seeded(args), loaded_refiner(args.refiner)
    pairs, heldout = HeadPairs(args.data, args.size), HeadPairs([args.heldout], args.size)
    insets = fresh().to(memory_format=torch.channels_last)
    if args.begin:
        insets.load_state_dict(state_of(load_bank(args.begin), INSETS))
    average, critics = copy.deepcopy(insets).eval(), nn.ModuleList([Critic(), Critic()])
    anchors, painters = list(insets.anchors.parameters()), [*insets.mouth.parameters(), *insets.eyes.parameters()]
    anchor_optimiser, optimiser = (adamw(part, args.rate, weight_decay=0.01) for part in (anchors, painters))
    critic_optimiser = torch.optim.Adam(critics.parameters(), 4e-4, betas=(0.5, 0.99))
    parts = {"model": insets, "average": average, "anchor_optimiser": anchor_optimiser, "optimiser": optimiser}
    trainer = Trainer(
        args, parts | {"critics": critics, "critic_optimiser": critic_optimiser},
        {"anchors": limits(args, "anchor"), "painters": limits(args)}, rng, averaged=(insets, average),
    )  # fmt: skip

    def evaluate() -> dict[str, float]:
        result, drawn = figures(average, refiner, heldout)
        contact_sheet(drawn, args.out.with_suffix(".png"))
        return result

    for _ in trainer.steps("anchors", anchor_optimiser, evaluate):
        loss = anchor_loss(insets, pairs, rng, 4 * args.sources)
        minimise(loss, anchor_optimiser, anchors)
        trainer.note({"anchors": loss})

    for progress in trainer.steps("painters", optimiser, evaluate):
        batch = pairs.batch(rng, args.sources, args.drivings, args.portraits, OVERSAMPLE, tinted=False)
        places = anchors_of(batch.tracks.source[:: args.drivings], batch.places, pairs.groups)
        source, driving = relit(repaint_eyes(batch.source, places, rng), batch.driving, places, rng)
        source, driving = photographed(source, driving, rng)
        batch = replace(batch, source=source, driving=driving)
        losses, drawn = painting_losses(insets, refiner, pairs, batch, rng)
        judged = list(zip(critics, drawn, strict=True))
        if progress >= args.critic_from:
            losses["adversarial"] = sum(adversarial_loss(critic, one.picture) for critic, one in judged)
        minimise(weighted_sum(losses, WEIGHTS), optimiser, painters)
        if progress >= args.critic_from - CRITIC_LEAD:
            losses["critic"] = sum(critic_loss(critic, one.truth, one.picture) for critic, one in judged)
            minimise(losses["critic"], critic_optimiser)
        trainer.note(losses)


def painting_losses(
    insets: Insets, refiner: Refiner, pairs: HeadPairs, batch: Batch, rng: np.random.Generator
) -> tuple[dict[str, Tensor], list[Drawn]]:
    """Losses by name, summed over both insets, and the rendered insets. The anchors are perturbed by ANCHOR_NOISE."""
    drivings = len(batch.driving) // len(batch.source)
    anchors = anchors_of(batch.tracks.source[::drivings], batch.places, pairs.groups)
    anchors = anchors + torch.from_numpy(rng.normal(0, ANCHOR_NOISE, anchors.shape).astype(np.float32))
    drawn = draw(insets, refiner, batch, anchors, coarse=rng.random() < 0.5)
    both = [inset_losses(one) for one in drawn]
    return {name: sum(losses[name] for losses in both) for name in both[0]}, drawn


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.add_argument("--refiner", type=Path, required=True, help="checkpoint of the refiner stage, or a bank")
    parser.add_argument("--begin", type=Path, help="bank whose insets to start from")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data sets to train on")
    parser.add_argument("--heldout", type=Path, required=True, help="data set of people that are not trained on")
    add_trainer_options(parser, minutes=45.0, rate=1e-3)
    parser.add_argument("--size", type=int, default=256, help="pixels of the heads, twice the bank's (default 256)")
    add_limit_options(parser, "anchor", minutes=4.0, what="training the anchors")
    parser.add_argument(
        "--critic-from", type=float, default=0.6, help="share of the insets' training before the critics are used"
    )
    parser.add_argument("--sources", type=int, default=8, help="sources per step (default 8)")
    parser.add_argument("--drivings", type=int, default=3, help="driving frames per source (default 3)")
    parser.add_argument("--portraits", type=float, default=0.5, help="share of sources that are portraits, 0 to 1")
