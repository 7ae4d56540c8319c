"""Train the networks that draw mouths and eyes over the picture: bounded by time, resumable.

    python -m training.stages.insets --refiner F.pt --data DIR DIR --heldout DIR --out I.pt --minutes 50

The refiner, a checkpoint or a bank, stays as it is; of it only the motion is used. DIRs hold heads of twice the bank's
size. First the anchors are learnt, then both insets, in the last part of their time under critics. Run the same command
again to go on after an interruption. A log line and a contact sheet appear beside the checkpoint.
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

from inference.model.insets import Inset, Insets
from inference.model.readers.absolute import Reader
from inference.model.refiner import Refiner, inverted, pixel_places, warped

from ..heads.data import Batch, HeadPairs
from ..learning.augment import cropped, filmed, in_other_light
from ..learning.course import Course, add_course_options, seeded
from ..learning.optimiser import follow, rate_at, set_rate
from ..units import NAMES, POSE_COLUMNS
from .refiner import Critic, loaded_refiner

ANCHORS, ANCHORS_HIDDEN = (16, 32, 48, 64, 80), 96  # channels, of pictures of 128 px
# Pixels of the windows, height and width; how large in eye distances, and which parts of them are drawn, see `Inset`.
MOUTH = (72, 72), (0.75, 0.75, 0.12), [(0.0, 0.59, 0.7)]
EYES = (48, 104), (1.05, 0.485, -0.06), [(-0.476, 0.344, 0.78), (0.476, 0.344, 0.78)]
BESIDE = 0.02  # what a pixel counts that is not drawn over
LIDS = ("eyeBlink", "eyeSquint")  # what calls for the eyes' inset: for all else their own texture is sharper, and there
CHANNELS = (32, 48, 80)
OFTENER = {"eyeBlink": 5.0, "jawOpen": 1.0, "tongueOut": 1.0}  # how much oftener a frame is drawn
WEIGHTS = {"picture": 1.0, "edges": 1.0, "laid": 0.01, "fooled": 0.03}
HIDDEN, HIDDEN_GAIN = 0.12, 4.0  # difference of colour, of 2, that counts as not shown by the source, and how much more
UNSURE = 0.006  # half widths by which an anchor may be misread


class Drawn(NamedTuple):
    """A window of N driven frames: what the inset drew (N, 4, h, w), what it saw, the truth (N, 3, h, w), and where it
    may draw (1, 1, h, w)."""

    inset: Tensor
    seen: Tensor
    truth: Tensor
    feather: Tensor

    @property
    def picture(self) -> Tensor:
        """The inset laid over the warped source."""
        alpha = self.inset[:, 3:]
        return self.seen[:, :3] * (1 - alpha) + self.inset[:, :3] * alpha


def fresh() -> Insets:
    pose = torch.zeros(len(NAMES))
    pose[POSE_COLUMNS] = 1.0
    lids = torch.zeros(len(NAMES))
    lids[[NAMES.index(name) for name in LIDS]] = 1.0
    calling = 1.0 - pose, lids
    parts = (
        Inset(*window, CHANNELS, called_by, tone)
        for window, called_by, tone in zip((MOUTH, EYES), calling, (0.0, 1.0), strict=True)
    )
    return Insets(Reader(ANCHORS, ANCHORS_HIDDEN, 6), *parts, pose)


def anchors_of(points: Tensor, places: Tensor, groups: Mapping[str, tuple[int, int]]) -> Tensor:
    """Tracked points (N, P, 2), which lie at places (P, 3) on a head -> (N, 3, 2): the middles of the left eye's, of
    the right one's and of the mouth's. Of a mirrored picture both are mirrored."""
    eyes, mouth = (slice(*groups[name]) for name in ("eyes", "mouth"))
    left = places[eyes, 0] < 0
    parts = points[:, eyes][:, left], points[:, eyes][:, ~left], points[:, mouth]
    return torch.stack([part.mean(1) for part in parts], 1)


def anchor_loss(insets: Insets, pairs: HeadPairs, rng: np.random.Generator, count: int) -> Tensor:
    """Mean distance, in half widths, in pictures that are moved, tinted and mirrored."""
    rows = torch.from_numpy(rng.integers(0, len(pairs.frames), count))
    pictures = F.interpolate(pairs.pictures(rows), size=(insets.anchors.size,) * 2, mode="area")
    anchors = anchors_of(pairs.points[rows].float(), pairs.places, pairs.groups)
    if rng.random() < 0.5:
        pictures, anchors = pictures.flip(-1), (anchors * torch.tensor([-1.0, 1.0]))[:, [1, 0, 2]]
    pictures, _, anchors = cropped(pictures, pairs.coefficients[rows], anchors, rng)
    with torch.autocast("cpu", torch.bfloat16):
        found = insets.anchors(filmed(pictures, rng).contiguous(memory_format=torch.channels_last))
    return (found.float().unflatten(1, (3, 2)) - anchors).norm(dim=-1).mean()


def made_up(source: Tensor, anchors: Tensor, rng: np.random.Generator) -> Tensor:
    """Sources (S, 3, R, R), half of them with dark lashes and shadows around the eyes, as no rendered heads have them:
    none of these tell what colour lids are once they close. anchors: (S, 3, 2)."""
    places, result = pixel_places(source.shape[-1], source.device)[0], []
    for picture, (left, right, _) in zip(source, anchors, strict=True):
        if rng.random() < 0.5:
            result.append(picture)
            continue
        apart = (right - left).norm()
        across = (right - left) / apart
        width, height, up = rng.uniform(0.15, 0.32), rng.uniform(0.06, 0.16), rng.uniform(-0.02, 0.06)
        thickness, dark, shadow = rng.uniform(0.1, 0.5), rng.uniform(0.0, 0.9), rng.uniform(0.0, 0.6)
        above = rng.uniform(-0.5, 0.5)
        cover = torch.zeros_like(places[:1])
        for eye in (left, right):
            away = places - eye[:, None, None]
            x = (away[0] * across[0] + away[1] * across[1]) / apart / width
            y = ((away[1] * across[0] - away[0] * across[1]) / apart + up) / height
            far = torch.hypot(x, y)
            line = dark * torch.exp(-(((far - 1) / thickness) ** 2)) * torch.sigmoid(4 * (above - y))
            cover = torch.maximum(cover, torch.maximum(line, shadow * torch.exp(-((far / 1.5) ** 4)))[None])
        paint = torch.from_numpy(rng.uniform(-1.0, -0.4, (3, 1, 1)).astype(np.float32))
        result.append(picture + cover * (torch.minimum(paint, picture) - picture))
    return torch.stack(result)


def draw(insets: Insets, refiner: Refiner, batch: Batch, anchors: Tensor, coarse: bool) -> list[Drawn]:
    """Mouth and eyes of a batch. anchors: (S, 3, 2) of the sources; coarse: these at half the size, as a bank."""
    drivings = len(batch.driving) // len(batch.source)
    half = F.avg_pool2d(batch.source, 2)
    source = F.interpolate(half, scale_factor=2.0, mode="bilinear") if coarse else batch.source
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            motion = refiner.motion_of(half.contiguous(memory_format=torch.channels_last)).float()
        known = insets.know(source, motion, anchors)
        known = type(known)(*(part.repeat_interleave(drivings, 0) for part in known))
        amounts, turned = (
            refiner.amounts(batch.driving_coefficients * share)
            - refiner.amounts(batch.source_coefficients * share).repeat_interleave(drivings, 0)
            for share in (1.0, insets.pose)
        )
        moves = torch.einsum("skf,sfchw->skchw", amounts.unflatten(0, (-1, drivings)), motion).flatten(0, 1)
        looks, missed = inverted(moves, pixel_places(moves.shape[-1], moves.device).expand_as(moves))
        windows = insets.windows(known.anchors_at(turned))
    result = []
    for number, (inset, window) in enumerate(zip((insets.mouth, insets.eyes), windows, strict=True)):
        seen = insets.see(number, known, window, looks, missed)
        truth = warped(batch.driving, window.places(*seen.shape[-2:]))
        seen = seen.contiguous(memory_format=torch.channels_last)
        skin = (known.around_mouth, known.around_eyes)[number]
        result.append(Drawn(inset(seen, batch.driving_coefficients, skin), seen, truth, inset.feather))
    return result


def inset_losses(drawn: Drawn) -> dict[str, Tensor]:
    """Unweighted losses by name. What is drawn counts by itself as well: laid over little, it would hardly be told."""
    truth = drawn.truth
    with torch.no_grad():
        hidden = ((drawn.seen[:, :3] - truth).abs().mean(1, keepdim=True) / HIDDEN - 1).clamp(0.0, 1.0)
        weight = (1.0 + HIDDEN_GAIN * F.max_pool2d(hidden, 3, 1, 1)) * (BESIDE + drawn.feather)
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
    return losses | {"laid": (drawn.inset[:, 3:] * (1 - hidden)).mean()}


@torch.no_grad()
def figures(
    insets: Insets, refiner: Refiner, pairs: HeadPairs, people: int = 48
) -> tuple[dict[str, float], list[Drawn]]:
    """Held-out people at rest, driven by frames 4 and 7, with the anchors that are found."""
    first = np.arange(min(people, pairs.identities)) * pairs.frames_per_identity
    batch = pairs.pick(first, np.stack([first + 4, first + 7], 1))
    found = insets.find(batch.source)
    missed = (found - anchors_of(pairs.points[first].float(), pairs.places, pairs.groups)).norm(dim=-1).mean()
    result, drawn = {"anchors": round(missed.item(), 4)}, draw(insets, refiner, batch, found, coarse=False)
    for name, one in zip(("mouth", "eyes"), drawn, strict=True):
        for what, picture in (("", one.picture), ("_warped", one.seen[:, :3])):
            error = (picture.clamp(-1, 1) - one.truth).square().mean((1, 2, 3))
            result[f"{name}{what}"] = round((10 * torch.log10(4 / error)).mean().item(), 2)
    return result, drawn


def contact_sheet(drawn: list[Drawn], path: Path, count: int = 12) -> None:
    """Columns of a frame each: warped source, truth, result; the mouths above the eyes."""
    rows = []
    for one in drawn:
        for pictures in (one.seen[:count, :3], one.truth[:count], one.picture[:count]):
            levels = ((pictures.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()
            tiles = [cv2.resize(tile, (192, round(192 * tile.shape[0] / tile.shape[1]))) for tile in levels]
            rows.append(np.concatenate(tiles, 1))
    cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1])


def train(args: argparse.Namespace) -> None:
    rng, refiner = seeded(args), loaded_refiner(args.refiner)
    pairs, heldout = HeadPairs(args.data, args.size), HeadPairs([args.heldout], args.size)
    insets = fresh().to(memory_format=torch.channels_last)
    average, critics = copy.deepcopy(insets).eval(), nn.ModuleList([Critic(), Critic()])
    finding = torch.optim.AdamW(insets.anchors.parameters(), args.rate, betas=(0.9, 0.99), weight_decay=0.01)
    painting = [*insets.mouth.parameters(), *insets.eyes.parameters()]
    optimiser = torch.optim.AdamW(painting, args.rate, betas=(0.9, 0.99), weight_decay=0.01)
    suspicion = torch.optim.Adam(critics.parameters(), 4e-4, betas=(0.5, 0.99))
    parts = {"model": insets, "average": average, "finding": finding, "optimiser": optimiser, "critics": critics,
             "suspicion": suspicion}  # fmt: skip
    course = Course(args.out, parts, rng)

    def evaluate() -> dict[str, float]:
        result, drawn = figures(average, refiner, heldout)
        contact_sheet(drawn, args.out.with_suffix(".png"))
        return result

    anchoring = args.anchor_minutes / args.minutes
    for share in course.steps(args.minutes, evaluate):
        painted = share >= anchoring
        share = (share - anchoring) / (1 - anchoring) if painted else share / anchoring
        chosen = optimiser if painted else finding
        set_rate(chosen, rate_at(course.step, share, args.rate))
        if painted:
            batch = pairs.batch(rng, args.sources, args.drivings, args.portraits, OFTENER, tinted=False)
            anchors = anchors_of(batch.tracks.source[:: args.drivings], batch.places, pairs.groups)
            batch = in_other_light(replace(batch, source=made_up(batch.source, anchors, rng)), anchors, rng)
            losses, drawn = one_step(insets, refiner, pairs, batch, rng)
            if share >= args.critic_from:
                losses["fooled"] = sum(-critic(one.picture).mean() for critic, one in zip(critics, drawn, strict=True))
            loss = torch.stack([WEIGHTS[name] * value for name, value in losses.items()]).sum()
        else:
            losses = {"anchors": anchor_loss(insets, pairs, rng, 4 * args.sources)}
            loss = losses["anchors"]
        chosen.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(painting if painted else insets.anchors.parameters(), 1.0)
        chosen.step()
        if painted and share >= args.critic_from - 0.02:  # they have to know something before they are asked
            told = [
                F.relu(1.0 - critic(one.truth)).mean() + F.relu(1.0 + critic(one.picture.detach())).mean()
                for critic, one in zip(critics, drawn, strict=True)
            ]
            losses["told"] = torch.stack(told).sum()
            suspicion.zero_grad()
            losses["told"].backward()
            suspicion.step()
        follow(average, insets, course.step + 1)
        course.note(losses)


def one_step(
    insets: Insets, refiner: Refiner, pairs: HeadPairs, batch: Batch, rng: np.random.Generator
) -> tuple[dict[str, Tensor], list[Drawn]]:
    """Losses of both insets together, and what they drew; anchors as unsure as they are found."""
    drivings = len(batch.driving) // len(batch.source)
    anchors = anchors_of(batch.tracks.source[::drivings], batch.places, pairs.groups)
    anchors = anchors + torch.from_numpy(rng.normal(0, UNSURE, anchors.shape).astype(np.float32))
    drawn = draw(insets, refiner, batch, anchors, coarse=rng.random() < 0.5)
    both = [inset_losses(one) for one in drawn]
    return {name: sum(losses[name] for losses in both) for name in both[0]}, drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refiner", type=Path, required=True, help="training.stages.refiner's checkpoint, or a bank")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training heads")
    parser.add_argument("--heldout", type=Path, required=True, help="folder of heads never trained on")
    add_course_options(parser, minutes=50.0, rate=1e-3)
    parser.add_argument("--size", type=int, default=256, help="pixels of the heads: twice the bank's")
    parser.add_argument("--anchor-minutes", type=float, default=4.0, help="of these, for the anchors")
    parser.add_argument("--critic-from", type=float, default=0.6, help="share of the insets' time")
    parser.add_argument("--sources", type=int, default=8)
    parser.add_argument("--drivings", type=int, default=3)
    parser.add_argument("--portraits", type=float, default=0.5, help="share of sources that look like a portrait")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
