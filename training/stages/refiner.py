"""Train the refiner, which corrects the motion of a trained generator and repaints its pictures.

    python -m training refiner --generator G.pt --data DIR DIR --heldout DIR --out F.pt --minutes 30
    python -m training refiner --generator BANK --begin BANK --data DIR DIR --heldout DIR --out F.pt

First the motion is trained on tracked points alone, then, with the motion frozen, the painter on pictures; in the last
part a critic (discriminator) adds an adversarial loss. The generator is not changed.
The refiner receives the source's true coefficients here; `python -m training reader --framed` trains the network that
estimates them.
--begin starts from the weights of a bank's refiner. With --size of twice the bank's, pictures are also compared at that
size, with the source's own texture, as shots show them.
With --stream instead of --data, new people are rendered during training and listed in F.people.
Run the same command again to resume. A log (F.jsonl) and a contact sheet (F.png) are written beside the checkpoint.
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
from torch import Tensor

from inference.contract.bank import load_bank
from inference.model.generator import Generator
from inference.model.load import REFINER, load_network, state_of
from inference.model.refiner import Refined, Refiner, RefinerConfig, pixel_positions, warped

from ..heads.data import Batch, HeadPairs
from ..heads.stream import add_data_options, training_pairs
from ..learning.critic import CRITIC_LEAD, Critic, adversarial_loss, critic_loss
from ..learning.losses import (
    edge_loss,
    flow_error,
    mask_loss,
    motion_emphasis,
    picture_loss,
    sampling_grid,
    still_loss,
    weighted_sum,
)
from ..learning.optimiser import adamw, minimise
from ..learning.trainer import Trainer, add_limit_options, add_trainer_options, limits, seeded
from ..units import NAMES, POSE_COLUMNS
from .generator import contact_sheet, loaded_generator, point_weights, psnr
from .reader import CHANNELS as READING
from .reader import HIDDEN as READING_HIDDEN

MOTION, PAINTER = (24, 48, 80, 112, 128), (24, 48, 80, 112)  # channels at half the picture's size and below
# Products of two of ROTATIONS, and of JAW with one of them, are terms of the motion as well.
ROTATIONS, JAW = ("headYaw", "headPitch", "headRoll", "headScale"), "jawOpen"
WEIGHTS = {"points": 1.0, "background": 0.5, "outline": 100.0, "picture": 1.0, "edges": 1.0, "flow": 4.0, "still": 1.0,
           "hidden": 0.1, "adversarial": 0.02, "fine": 1.0, "fine_edges": 1.0}  # fmt: skip
AROUND = 5  # cells, of 32 in a picture's width, of background around a head that may move with it
MOTION_BATCH = 2, 3  # factors of sources and driving frames per step while the motion is trained
VISIBLE_MASK = 0.95  # mask target where the source shows the pixel
EVALUATE_EVERY = 240.0  # seconds


def fresh() -> Refiner:
    """An untrained refiner."""
    rotations = [NAMES.index(name) for name in ROTATIONS]
    jaw_terms = ((NAMES.index(JAW), rotation) for rotation in rotations)
    terms = [*combinations_with_replacement(rotations, 2), *jaw_terms]
    pose = range(len(NAMES))[POSE_COLUMNS]
    return Refiner(RefinerConfig(READING, READING_HIDDEN, MOTION, PAINTER, len(NAMES), tuple(terms), tuple(pose)))


def refiner_state(bank: Path) -> dict[str, Tensor]:
    """State of a bank's refiner, without the network that reads sources."""
    known = state_of(load_bank(bank), REFINER)
    return {name: tensor for name, tensor in known.items() if not name.startswith("reading.")}


def refined(generator: Generator, refiner: Refiner, batch: Batch) -> tuple[Refined, Tensor]:
    """Render a batch with generator and refiner. Returns the refined result and the generator's pictures alone."""
    drivings = len(batch.driving) // len(batch.source)
    with torch.no_grad():
        latent, features = generator.enc(batch.source)
        *_, last = generator.levels(latent, features, batch.driving_coefficients)
        # The true source coefficients: with reading errors, the painter would learn to ignore the motion.
        known = batch.source, refiner.motion_fields(batch.source), batch.source_coefficients
        known = (part.repeat_interleave(drivings, 0) for part in known)
    return refiner(*known, last.flow, last.rgb, batch.driving_coefficients), last.rgb


def halved(batch: Batch) -> Batch:
    """The same batch with pictures of half the size."""
    smaller = {name: F.avg_pool2d(getattr(batch, name), 2) for name in ("source", "driving", "weight", "mouth")}
    return replace(batch, **smaller)


def upsampled_render(made: Refined, small: Batch, batch: Batch) -> Tensor:
    """(N, 3, R, R): the pictures of `made` at twice their size, with the texture of the full-size sources.

    made: the result for `small`, which is `batch` at half its size. The warped part of each picture is sampled from the
    full-size source; the repainted part is enlarged.
    """
    drivings = len(batch.driving) // len(batch.source)
    source, own = (part.source.repeat_interleave(drivings, 0) for part in (small, batch))
    source_places, mask = sampling_grid(made.flow), torch.sigmoid(made.flow[:, 2:])
    drawn = made.rgb - warped(source, source_places) * mask
    shift = source_places - pixel_positions(source_places.shape[-1], source_places.device)
    shift, mask, drawn = (F.interpolate(part, scale_factor=2.0, mode="bilinear") for part in (shift, mask, drawn))
    return warped(own, pixel_positions(own.shape[-1], own.device) + shift) * mask + drawn


def motion_losses(refiner: Refiner, batch: Batch, point_weight: Tensor) -> dict[str, Tensor]:
    """Unweighted losses by name. point_weight: (P,).

    points: distance of moved source points from their true positions; background: displacement of background far from
    heads; outline: differences of displacement between neighbours at the outline of a head. All in half widths.
    """
    drivings = len(batch.driving) // len(batch.source)
    motion = refiner.motion_fields(batch.source)
    amounts = refiner.motion_weights(batch.driving_coefficients).unflatten(0, (-1, drivings))
    amounts = amounts - refiner.motion_weights(batch.source_coefficients)[:, None]
    at = F.grid_sample(
        motion.flatten(1, 2), batch.tracks.source[::drivings, None], padding_mode="border", align_corners=False
    )[:, :, 0].unflatten(1, (-1, 2))  # (S, fields, 2, P)
    predicted = torch.einsum("skf,sfcp->skpc", amounts, at).flatten(0, 1)
    weight = batch.tracks.visible * point_weight * motion_emphasis(batch.tracks)
    error = (predicted - (batch.tracks.driving - batch.tracks.source)).abs().sum(-1)
    cells = F.adaptive_avg_pool2d(motion.flatten(1, 2), batch.backdrop.shape[-1]).unflatten(1, (-1, 2))
    displacement = torch.einsum("skf,sfchw->skchw", amounts, cells).flatten(0, 1)
    backdrop = batch.backdrop.repeat_interleave(drivings, 0)
    far = far_background(backdrop)
    return {
        "points": (error * weight).sum() / weight.sum().clamp(min=1.0),
        "background": (displacement.abs().sum(1, keepdim=True) * far).sum() / far.sum().clamp(min=1.0),
        "outline": unevenness(displacement, backdrop),
    }


def far_background(background: Tensor) -> Tensor:
    """(N, 1, H, H) of 0 and 1: background that is further than AROUND from anything else."""
    return 1.0 - F.max_pool2d(1.0 - background, 2 * AROUND + 1, stride=1, padding=AROUND)


def unevenness(displacement: Tensor, backdrop: Tensor) -> Tensor:
    """Mean square difference between neighbours of displacement (N, 2, H, H) where one of the two is background.

    A displacement that ends abruptly at the head leaves a ragged outline.
    """
    sums, count = displacement.new_zeros(()), displacement.new_zeros(())
    for axis in (-1, -2):
        one, other = (slice(None, -1), slice(1, None))
        a, b = (displacement.movedim(axis, 0)[part] for part in (one, other))
        either = torch.maximum(*(backdrop.movedim(axis, 0)[part] for part in (one, other)))
        sums, count = sums + ((a - b).square() * either).sum(), count + either.sum()
    return sums / count.clamp(min=1.0)


def refiner_losses(made: Refined, batch: Batch, point_weight: Tensor) -> dict[str, Tensor]:
    """Unweighted losses by name; point_weight: (P,)."""
    return {
        "picture": picture_loss(made.rgb, batch.driving, batch.weight),
        "edges": edge_loss(made.rgb, batch.driving, batch.weight),
        "flow": flow_error(made.flow, batch.tracks, point_weight, motion_emphasis(batch.tracks)),
        "still": still_loss(made.flow, far_background(batch.still)),
        "hidden": mask_loss(
            made.flow,
            batch.source.repeat_interleave(len(batch.driving) // len(batch.source), 0),
            batch.driving,
            batch.mouth,
            batch.weight,
            VISIBLE_MASK,
        ),
    }


@torch.no_grad()
def figures(
    generator: Generator, refiner: Refiner, pairs: HeadPairs, weights: Tensor, *, identities: int = 64
) -> tuple[dict, Batch, Tensor]:
    """Held-out figures: the first frame of every identity driven by frames 4 and 7.

    "_alone" is the generator without refiner, "_copy" copying the source, "_fine" at twice the bank's size. Also
    returns the batch and the pictures.
    """
    first = np.arange(min(identities, pairs.identities)) * pairs.frames_per_identity
    full = pairs.pick(first, np.stack([first + 4, first + 7], 1))
    batch = full if pairs.size == generator.config.size else halved(full)
    made, alone = refined(generator, refiner, batch)
    shown = made.rgb
    copied = batch.source.repeat_interleave(2, 0)
    losses = refiner_losses(made, batch, weights)
    result = {"flow": flow_error(made.flow, batch.tracks, weights)} | {
        name: losses[name] for name in ("picture", "edges", "hidden")
    }
    for name, picture in (("psnr", made.rgb), ("psnr_alone", alone), ("psnr_copy", copied)):
        result[name] = psnr(picture.clamp(-1, 1), batch.driving)
    if batch is not full:
        shown = upsampled_render(made, batch, full)
        result |= {
            "psnr_fine": psnr(shown.clamp(-1, 1), full.driving),
            "edges_fine": edge_loss(shown, full.driving, full.weight),
        }
    return {name: round(value.item(), 4) for name, value in result.items()}, full, shown


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    rng, generator = seeded(args), loaded_generator(args.generator)
    size = args.size or generator.config.size
    if size not in (generator.config.size, 2 * generator.config.size):
        raise SystemExit(
            f"--size must be {generator.config.size}, the size of the generator, or twice that; found {size}."
        )
    pairs, heldout = training_pairs(args, size), HeadPairs([args.heldout], size)
    weights = point_weights(pairs)
    refiner, critic = fresh().to(memory_format=torch.channels_last), Critic()
    refiner.reading.requires_grad_(False)
    if args.begin:
        refiner.load_state_dict(refiner_state(args.begin), strict=False)
    average = copy.deepcopy(refiner).eval()
    trained = [value for value in refiner.parameters() if value.requires_grad]
    optimiser = adamw(trained, args.rate, weight_decay=0.01)
    critic_optimiser = torch.optim.Adam(critic.parameters(), 4e-4, betas=(0.5, 0.99))
    parts = {"model": refiner, "average": average, "optimiser": optimiser}
    trainer = Trainer(
        args, parts | {"critic": critic, "critic_optimiser": critic_optimiser},
        {"motion": limits(args, "motion"), "painter": limits(args)}, rng,
        averaged=(refiner, average), evaluate_every=EVALUATE_EVERY,
    )  # fmt: skip

    def evaluate() -> dict[str, float]:
        result, batch, rgb = figures(generator, average, heldout, weights)
        contact_sheet(batch, rgb, args.out.with_suffix(".png"))
        return result

    # The motion depends on the source alone, so further driving frames cost little.
    sources, drivings = MOTION_BATCH[0] * args.sources, MOTION_BATCH[1] * args.drivings
    for _ in trainer.steps("motion", optimiser, evaluate):
        pairs.renew()
        batch = pairs.batch(rng, sources, drivings, args.portraits)
        losses = motion_losses(refiner, batch if size == generator.config.size else halved(batch), weights)
        minimise(weighted_sum(losses, WEIGHTS), optimiser, trained)
        trainer.note(losses)

    for progress in trainer.steps("painter", optimiser, evaluate):
        pairs.renew()
        batch = pairs.batch(rng, args.sources, args.drivings, args.portraits)
        small = batch if size == generator.config.size else halved(batch)
        made, _ = refined(generator, refiner, small)
        losses, shown = refiner_losses(made, small, weights), made.rgb
        if small is not batch:
            shown = upsampled_render(made, small, batch)
            losses |= {
                "fine": picture_loss(shown, batch.driving, batch.weight),
                "fine_edges": edge_loss(shown, batch.driving, batch.weight),
            }
        if progress >= args.critic_from:
            losses["adversarial"] = adversarial_loss(critic, shown)
        minimise(weighted_sum(losses, WEIGHTS), optimiser, trained)
        if progress >= args.critic_from - CRITIC_LEAD:
            losses["critic"] = critic_loss(critic, batch.driving, shown)
            minimise(losses["critic"], critic_optimiser)
        trainer.note(losses)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.add_argument("--generator", type=Path, required=True, help="checkpoint of the generator stage, or a bank")
    parser.add_argument("--begin", type=Path, help="bank whose refiner to start from")
    add_data_options(parser)
    parser.add_argument("--heldout", type=Path, required=True, help="data set of people that are not trained on")
    add_trainer_options(parser, minutes=30.0, rate=2e-3)
    parser.add_argument("--size", type=int, help="pixels at which pictures are compared (default: the generator's)")
    add_limit_options(parser, "motion", minutes=30.0, what="training the motion")
    parser.add_argument(
        "--critic-from", type=float, default=0.7, help="share of the painter's training before the critic is used"
    )
    parser.add_argument("--sources", type=int, default=6, help="sources per step (default 6)")
    parser.add_argument("--drivings", type=int, default=2, help="driving frames per source (default 2)")
    parser.add_argument("--portraits", type=float, default=0.9, help="share of sources that are portraits, 0 to 1")


def loaded_refiner(path: Path) -> Refiner:
    """The refiner of a checkpoint (.pt) or a bank (.safetensors), frozen.

    Raises SystemExit if the bank has none.
    """
    if path.suffix == ".safetensors":
        refiner = load_network(load_bank(path), REFINER)
        if refiner is None:
            raise SystemExit(f"{path} has no refiner. Choose a bank with one, or a checkpoint of the refiner stage.")
        return refiner
    refiner = fresh().to(memory_format=torch.channels_last)
    refiner.load_state_dict(torch.load(path, weights_only=True)["average"])
    return refiner.eval().requires_grad_(False)
