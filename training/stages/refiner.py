"""Train the networks that put a trained generator's pictures right: bounded by time, resumable.

    python -m training.stages.refiner --generator G.pt --data DIR DIR --heldout DIR --out F.pt --minutes 60
    python -m training.stages.refiner --generator BANK --begin BANK --data DIR DIR --heldout DIR --out F.pt

With --begin it goes on from what a bank's refiner knows. With --size, twice the bank's, pictures are judged at that
size as well, with the source's own texture, as shots show them. With `--stream` in the place of `--data DIR DIR` people
are rendered meanwhile, ever new ones; F.people notes which. What a source is doing is told here;
`training.stages.reader --framed` learns to see it.
Run the same command again to go on after an interruption. A log line and a contact sheet appear beside the checkpoint.
The generator stays as it is. First the motion is learnt from tracked points alone, then, with the motion as it is, the
painter from pictures; in the last part of its time a critic looks for what gives the pictures away.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.contract.bank import load_bank
from inference.model.generator import Generator
from inference.model.readers.absolute import part_of
from inference.model.refiner import PREFIX, Refined, Refiner, pixel_places, refiner_from_bank, warped

from ..heads.data import Batch, HeadPairs
from ..heads.stream import add_data_options, training_pairs
from ..learning.course import Course, add_course_options, seeded
from ..learning.losses import edge_loss, flow_error, hidden_error, own_motion, picture_loss, sampling_grid, still_error
from ..learning.optimiser import follow, rate_at, set_rate
from ..units import NAMES, POSE_COLUMNS
from .generator import contact_sheet, loaded_generator, point_weights, psnr
from .reader import CHANNELS as READING
from .reader import HIDDEN as READING_HIDDEN

MOTION, PAINTER = (24, 48, 80, 112, 128), (24, 48, 80, 112)  # channels at half the picture's size and below
TURNS, WITH_TURNS = ("headYaw", "headPitch", "headRoll", "headScale"), "jawOpen"
WEIGHTS = {"moved": 1.0, "held": 0.5, "torn": 100.0, "picture": 1.0, "edges": 1.0, "flow": 4.0, "still": 1.0,
           "hidden": 0.1, "fooled": 0.02, "fine": 1.0, "fine_edges": 1.0}  # fmt: skip
AROUND = 5  # cells, of 32 in a picture's width, of background around a head that may move with it
MORE = 2, 3  # times as many sources, and driving frames of each, while the motion is learnt
OPEN = 0.95  # mask where the source shows what is seen
EVALUATE_EVERY = 240.0  # seconds


class Critic(nn.Module):
    """Pictures (N, 3, R, R) -> (N, 1, R / 8, R / 8): how true each patch looks."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.utils.parametrizations.spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)),
                       nn.LeakyReLU(0.2)]  # fmt: skip
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, padding=1))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures)


def fresh() -> Refiner:
    turns = [NAMES.index(name) for name in TURNS]
    terms = [*combinations_with_replacement(turns, 2), *((NAMES.index(WITH_TURNS), turn) for turn in turns)]
    pose = range(len(NAMES))[POSE_COLUMNS]
    return Refiner(READING, READING_HIDDEN, MOTION, PAINTER, len(NAMES), terms, pose)


def known_to(bank: Path) -> dict[str, Tensor]:
    """State of a bank's refiner, but for its reading."""
    known = part_of(load_bank(bank), PREFIX)
    return {name: tensor for name, tensor in known.items() if not name.startswith("reading.")}


def refined(generator: Generator, refiner: Refiner, batch: Batch) -> tuple[Refined, Tensor]:
    """What the two draw together, and what the generator drew alone."""
    drivings = len(batch.driving) // len(batch.source)
    with torch.no_grad():
        latent, features = generator.enc(batch.source)
        *_, last = generator.levels(latent, features, batch.driving_coefficients)
        # Told what the source is doing: a painter that has to put up with misreadings learns to mistrust the motion.
        known = batch.source, refiner.motion_of(batch.source), batch.source_coefficients
        known = (part.repeat_interleave(drivings, 0) for part in known)
    return refiner(*known, last.flow, last.rgb, batch.driving_coefficients), last.rgb


def halved(batch: Batch) -> Batch:
    """The same pictures at half their size."""
    smaller = {name: F.avg_pool2d(getattr(batch, name), 2) for name in ("source", "driving", "weight", "mouth")}
    return replace(batch, **smaller)


def finely(made: Refined, small: Batch, batch: Batch) -> Tensor:
    """What was made of a batch at half the size, (N, 3, R, R) with the source's texture: what the mask lets through is
    taken from the source at its full size."""
    drivings = len(batch.driving) // len(batch.source)
    source, own = (part.source.repeat_interleave(drivings, 0) for part in (small, batch))
    looks, mask = sampling_grid(made.flow), torch.sigmoid(made.flow[:, 2:])
    drawn = made.rgb - warped(source, looks) * mask
    shift = looks - pixel_places(looks.shape[-1], looks.device)
    shift, mask, drawn = (F.interpolate(part, scale_factor=2.0, mode="bilinear") for part in (shift, mask, drawn))
    return warped(own, pixel_places(own.shape[-1], own.device) + shift) * mask + drawn


def motion_losses(refiner: Refiner, batch: Batch, point_weight: Tensor) -> dict[str, Tensor]:
    """How far from where they are seen the source's points are sent, how far background is dragged that is not near a
    head, and how suddenly what is near it is left behind."""
    drivings = len(batch.driving) // len(batch.source)
    motion = refiner.motion_of(batch.source)
    amounts = refiner.amounts(batch.driving_coefficients).unflatten(0, (-1, drivings))
    amounts = amounts - refiner.amounts(batch.source_coefficients)[:, None]
    at = F.grid_sample(
        motion.flatten(1, 2), batch.tracks.source[::drivings, None], padding_mode="border", align_corners=False
    )[:, :, 0].unflatten(1, (-1, 2))  # (S, fields, 2, P)
    sent = torch.einsum("skf,sfcp->skpc", amounts, at).flatten(0, 1)
    weight = batch.tracks.visible * point_weight * own_motion(batch.tracks)
    error = (sent - (batch.tracks.driving - batch.tracks.source)).abs().sum(-1)
    cells = F.adaptive_avg_pool2d(motion.flatten(1, 2), batch.backdrop.shape[-1]).unflatten(1, (-1, 2))
    dragged = torch.einsum("skf,sfchw->skchw", amounts, cells).flatten(0, 1)
    backdrop = batch.backdrop.repeat_interleave(drivings, 0)
    far = apart(backdrop)
    return {
        "moved": (error * weight).sum() / weight.sum().clamp(min=1.0),
        "held": (dragged.abs().sum(1, keepdim=True) * far).sum() / far.sum().clamp(min=1.0),
        "torn": unevenness(dragged, backdrop),
    }


def apart(background: Tensor) -> Tensor:
    """(N, 1, H, H) of 0 and 1: what of it is further than AROUND from anything else."""
    return 1.0 - F.max_pool2d(1.0 - background, 2 * AROUND + 1, stride=1, padding=AROUND)


def unevenness(dragged: Tensor, backdrop: Tensor) -> Tensor:
    """Mean square difference between neighbours of dragged (N, 2, H, H), where one of the two is background. What lets
    go of a head all at once leaves a ragged outline."""
    sums, count = dragged.new_zeros(()), dragged.new_zeros(())
    for axis in (-1, -2):
        one, other = (slice(None, -1), slice(1, None))
        a, b = (dragged.movedim(axis, 0)[part] for part in (one, other))
        either = torch.maximum(*(backdrop.movedim(axis, 0)[part] for part in (one, other)))
        sums, count = sums + ((a - b).square() * either).sum(), count + either.sum()
    return sums / count.clamp(min=1.0)


def refiner_losses(made: Refined, batch: Batch, point_weight: Tensor) -> dict[str, Tensor]:
    """Unweighted losses by name; point_weight: (P,)."""
    return {
        "picture": picture_loss(made.rgb, batch),
        "edges": edge_loss(made.rgb, batch),
        "flow": flow_error(made.flow, batch.tracks, point_weight, own_motion(batch.tracks)),
        "still": still_error(made.flow, replace(batch, still=apart(batch.still))),
        "hidden": hidden_error(made.flow, batch, OPEN),
    }


@torch.no_grad()
def figures(
    generator: Generator, refiner: Refiner, pairs: HeadPairs, weights: Tensor, *, identities: int = 64
) -> tuple[dict, Batch, Tensor]:
    """Held-out figures: the first frame driven by frames 4 and 7 of every identity; the generator's alone beside."""
    first = np.arange(min(identities, pairs.identities)) * pairs.frames_per_identity
    judged = pairs.pick(first, np.stack([first + 4, first + 7], 1))
    batch = judged if pairs.size == generator.config.size else halved(judged)
    made, alone = refined(generator, refiner, batch)
    shown = made.rgb
    copied = batch.source.repeat_interleave(2, 0)
    losses = refiner_losses(made, batch, weights)
    result = {"flow": flow_error(made.flow, batch.tracks, weights)} | {
        name: losses[name] for name in ("picture", "edges", "hidden")
    }
    for name, picture in (("psnr", made.rgb), ("psnr_alone", alone), ("psnr_copy", copied)):
        result[name] = psnr(picture.clamp(-1, 1), batch.driving)
    if batch is not judged:
        shown = finely(made, batch, judged)
        result |= {"psnr_fine": psnr(shown.clamp(-1, 1), judged.driving), "edges_fine": edge_loss(shown, judged)}
    return {name: round(value.item(), 4) for name, value in result.items()}, judged, shown


def train(args: argparse.Namespace) -> None:
    rng, generator = seeded(args), loaded_generator(args.generator)
    size = args.size or generator.config.size
    if size not in (generator.config.size, 2 * generator.config.size):
        raise SystemExit(f"--size is {generator.config.size}, the generator's, or twice that, found {size}")
    pairs, heldout = training_pairs(args, size), HeadPairs([args.heldout], size)
    weights = point_weights(pairs)
    refiner, critic = fresh().to(memory_format=torch.channels_last), Critic()
    refiner.reading.requires_grad_(False)
    if args.begin:
        refiner.load_state_dict(known_to(args.begin), strict=False)
    average = copy.deepcopy(refiner).eval()
    learning = [value for value in refiner.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(learning, args.rate, betas=(0.9, 0.99), weight_decay=0.01)
    suspicion = torch.optim.Adam(critic.parameters(), 4e-4, betas=(0.5, 0.99))
    parts = {"model": refiner, "average": average, "optimiser": optimiser, "critic": critic, "suspicion": suspicion}
    course = Course(args.out, parts, rng)

    def evaluate() -> dict[str, float]:
        result, batch, rgb = figures(generator, average, heldout, weights)
        contact_sheet(batch, rgb, args.out.with_suffix(".png"))
        return result

    moving = args.motion_minutes / args.minutes
    for share in course.steps(args.minutes, evaluate, evaluate_every=EVALUATE_EVERY):
        painting = share >= moving
        share = (share - moving) / (1 - moving) if painting else share / moving
        set_rate(optimiser, rate_at(course.step, share, args.rate))
        pairs.renew()
        # Motion is a source's alone, and has but to be weighed anew for another driving frame.
        more = (1, 1) if painting else MORE
        batch = pairs.batch(rng, more[0] * args.sources, more[1] * args.drivings, args.portraits)
        if painting:
            small = batch if size == generator.config.size else halved(batch)
            made, _ = refined(generator, refiner, small)
            losses, shown = refiner_losses(made, small, weights), made.rgb
            if small is not batch:
                shown = finely(made, small, batch)
                losses |= {"fine": picture_loss(shown, batch), "fine_edges": edge_loss(shown, batch)}
            if share >= args.critic_from:
                losses["fooled"] = -critic(shown).mean()
        else:
            losses = motion_losses(refiner, batch, weights)
        optimiser.zero_grad()
        torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        if painting and share >= args.critic_from - 0.02:  # it has to know something before it is asked
            losses["told"] = F.relu(1.0 - critic(batch.driving)).mean() + F.relu(1.0 + critic(shown.detach())).mean()
            suspicion.zero_grad()
            losses["told"].backward()
            suspicion.step()
        follow(average, refiner, course.step + 1)
        course.note(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--generator", type=Path, required=True, help="checkpoint of training.stages.generator, or a bank"
    )
    parser.add_argument("--begin", type=Path, help="bank whose refiner to begin with")
    add_data_options(parser)
    parser.add_argument("--heldout", type=Path, required=True, help="folder of heads never trained on")
    add_course_options(parser, minutes=60.0, rate=2e-3)
    parser.add_argument("--size", type=int, help="of the pictures that are judged (default: the generator's)")
    parser.add_argument("--motion-minutes", type=float, default=30.0, help="of these, for the motion")
    parser.add_argument("--critic-from", type=float, default=0.7, help="share of the painter's time")
    parser.add_argument("--sources", type=int, default=6)
    parser.add_argument("--drivings", type=int, default=2)
    parser.add_argument("--portraits", type=float, default=0.9, help="share of sources that look like a portrait")
    train(parser.parse_args())


if __name__ == "__main__":
    main()


def loaded_refiner(path: Path) -> Refiner:
    """Of a checkpoint or a bank."""
    if path.suffix == ".safetensors":
        refiner = refiner_from_bank(load_bank(path))
        if refiner is None:
            raise SystemExit(f"{path} has no refiner")
        return refiner
    refiner = fresh().to(memory_format=torch.channels_last)
    refiner.load_state_dict(torch.load(path, weights_only=True)["average"])
    return refiner.eval().requires_grad_(False)
