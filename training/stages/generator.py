"""Train a small EDTalk generator on rendered heads.

    python -m training generator --data DIR DIR --heldout DIR --out A.pt --size 64 --minutes 60
    python -m training generator --data DIR DIR --heldout DIR --out B.pt --size 128 --minutes 60 --grow-from A.pt

Unless it grows from a smaller one, three pretraining phases come first: reading, common motion, own motion.
With --stream instead of --data, new people are rendered during training and listed in A.people.
Run the same command again to resume. A log (A.jsonl) and a contact sheet (A.png) are written beside the checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from inference.contract.bank import load_bank
from inference.contract.config import GeneratorConfig
from inference.model.generator import Generator

from ..heads.data import Batch, HeadPairs
from ..learning.losses import PlaceHeads, flow_error, generator_losses, picture_loss, weighted_sum
from ..learning.optimiser import larger_mask_steps, minimise, optimiser_for
from ..learning.trainer import Trainer, add_limit_options, add_trainer_options, limits, seeded
from ..units import ALPHA_GAIN, BANKS, in_coefficient_units
from .pretraining import (
    SHAPE_CODES,
    calibrate,
    common_motion_optimiser,
    learn_common_motion,
    learn_own_motion,
    learn_reading,
    reading_optimiser,
)

# A warp needs few channels at high resolutions. CPU convolutions work in multiples of 8 channels.
CHANNELS = {4: 96, 8: 80, 16: 56, 32: 24, 64: 16, 128: 8, 256: 8}
STYLE_DIM = 160
GROUP_GAIN = {"mouth": 4.0, "eyes": 3.0}


def small_config(size: int) -> GeneratorConfig:
    """The architecture for pictures of `size` pixels."""
    channels = {resolution: count for resolution, count in CHANNELS.items() if resolution <= size}
    return GeneratorConfig(size, STYLE_DIM, channels, BANKS)


def fresh(config: GeneratorConfig) -> Generator:
    """An untrained generator whose flow and colours are small, so that no activation saturates in the first steps."""
    model = Generator(config)
    with torch.no_grad():
        for flow in model.dec.to_flows:
            flow.conv.weight.mul_(0.05)
        # Mask logits add up from coarse to fine; at first the fine levels show mostly the warped source.
        for flow, logit in zip(model.dec.to_flows, (-1.0, 0.0, 1.0, 3.0, 0.0, 0.0), strict=False):
            flow.bias[0, 2] = logit
        for rgb in model.dec.to_rgbs:
            rgb.conv[0].weight.mul_(0.3)
        # The heads are seven affine maps in a row. Products of random matrices have tiny gradients, so the square ones
        # start as the identity.
        heads = [getattr(model, f"{name}_fc")[:2] for name, _ in config.banks]
        for layer in (*model.fc, *(layer for head in heads for layer in head)):
            layer.weight.copy_(torch.eye(config.style_dim) / layer.scale)
    return model


def grown(
    config: GeneratorConfig, smaller: Generator, pairs: HeadPairs, rng: np.random.Generator, *, fitting: int = 250
) -> Generator:
    """A generator of twice the size of `smaller`, initialised so that its pictures are nearly the same.

    The last level of the decoder is new and contributes almost nothing at first. The first layers of the encoder are
    new as well; they are fitted for `fitting` steps to reproduce the features of the smaller one's first layer.
    """
    model = fresh(config)
    old_top = smaller.config.size
    state = model.state_dict()
    for name, tensor in smaller.state_dict().items():
        prefix = "enc.net_app.convs."
        if name.startswith(prefix):
            index, rest = name.removeprefix(prefix).split(".", 1)
            if index == "0":
                continue  # replaced by the new layers
            name = f"{prefix}{int(index) + 1}.{rest}"
        state[name] = tensor
    model.load_state_dict(state)
    last = len(config.resolutions) - 1
    with torch.no_grad():
        model.dec.to_flows[last].conv.weight.mul_(0.2)
        model.dec.to_rgbs[last].conv[0].weight.mul_(0.2)
    new_layers = model.enc.net_app.convs[:2]
    optimiser = torch.optim.Adam(new_layers.parameters(), 5e-3)
    for _ in range(fitting):
        picture = pairs.batch(rng, 16, 1, 0.5).source
        with torch.no_grad():
            target = smaller.enc.net_app.convs[0](nn.functional.avg_pool2d(picture, picture.shape[-1] // old_top))
        loss = (new_layers[1](new_layers[0](picture)) - target).abs().mean()
        minimise(loss, optimiser)
    print(f"grown from {old_top} px, feature mismatch {loss.item():.3f}", flush=True)
    return model


def point_weights(pairs: HeadPairs) -> Tensor:
    """(P,) weights of the tracked points, see GROUP_GAIN."""
    weights = torch.ones(pairs.points.shape[1])
    for name, gain in GROUP_GAIN.items():
        first, last = pairs.groups[name]
        weights[first:last] = gain
    return weights


@torch.no_grad()
def figures(model: Generator, pairs: HeadPairs, weights: Tensor, *, identities: int = 64) -> tuple[dict, Batch, Tensor]:
    """Held-out figures: portrait frame 1 of every identity driven by frames 4 and 7.

    "_copy" and "_rest" are baselines: copying the source, and reading 0. Also returns the batch and the pictures.
    """
    first = np.arange(min(identities, pairs.identities)) * pairs.frames_per_identity
    batch = pairs.pick(first + 1, np.stack([first + 4, first + 7], 1))
    latent, features = model.enc(batch.source)
    *_, last = model.levels(latent, features, batch.driving_coefficients * ALPHA_GAIN)
    read = model.coefficients(model.enc(batch.driving)[0]) / ALPHA_GAIN
    copied, tracks = batch.source.repeat_interleave(2, 0), batch.tracks
    weight = tracks.visible * weights
    result = {
        "flow": flow_error(last.flow, batch.tracks, weights),
        "flow_copy": ((tracks.driving - tracks.source).abs().sum(-1) * weight).sum() / weight.sum(),
        "picture": picture_loss(last.rgb, batch.driving, batch.weight),
        "picture_copy": picture_loss(copied, batch.driving, batch.weight),
        "psnr": psnr(last.rgb.clamp(-1, 1), batch.driving),
        "psnr_copy": psnr(copied, batch.driving),
        "read": (read - batch.driving_coefficients).abs().mean(),
        "read_rest": batch.driving_coefficients.abs().mean(),
    }
    return {name: round(value.item(), 4) for name, value in result.items()}, batch, last.rgb


def psnr(picture: Tensor, truth: Tensor) -> Tensor:
    """Mean PSNR in dB of pictures with values in [-1, 1]."""
    return (10.0 * torch.log10(4.0 / (picture - truth).square().mean((1, 2, 3)))).mean()


def contact_sheet(batch: Batch, rgb: Tensor, path: Path, rows: int = 10) -> None:
    """Save a picture with one identity per row: source, then truth and result of two frames."""
    from PIL import Image

    lines = []
    for row in range(min(rows, len(batch.source))):
        tiles = [batch.source[row]]
        for k in range(2):
            tiles += [batch.driving[2 * row + k], rgb[2 * row + k]]
        lines.append(torch.cat(tiles, 2))
    sheet = ((torch.cat(lines, 1).clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(sheet).save(path)


def train(args: argparse.Namespace) -> None:
    """Train with the options of `add_options`."""
    from ..heads.stream import training_pairs

    rng = seeded(args)
    pairs, heldout = training_pairs(args, args.size), HeadPairs([args.heldout], args.size)
    weights, config = point_weights(pairs), small_config(args.size)
    model, place_heads = _initial(args, config, pairs, rng)
    average = copy.deepcopy(model)
    shape_head = nn.Linear(config.style_dim, min(SHAPE_CODES, 2 * pairs.points.shape[1]))
    optimiser = optimiser_for(model, place_heads, args.rate)
    reading = reading_optimiser(model, place_heads, shape_head)
    common, own = common_motion_optimiser(model), optimiser_for(model, place_heads, args.rate)
    pretraining = () if args.grow_from else ("reading", "common-motion", "own-motion")
    parts = {"model": model, "average": average, "place_heads": place_heads, "optimiser": optimiser}
    optimisers = {"reading_optimiser": reading, "common_motion_optimiser": common, "own_motion_optimiser": own}
    phases = {name: limits(args, name) for name in pretraining} | {"generator": limits(args)}
    trainer = Trainer(
        args, parts | (optimisers | {"shape_head": shape_head} if pretraining else {}), phases, rng,
        averaged=(model, average), longest=0.995,  # over more steps, it would lag behind weights that change fast
        extra=lambda: {"config": json.dumps(config.to_json())},
    )  # fmt: skip
    count = sum(weight.numel() for weight in model.parameters())
    print(f"{pairs.identities} identities at {args.size} px, {count:,} parameters, step {trainer.step}", flush=True)
    if pretraining:
        learn_reading(trainer, reading, model, place_heads, shape_head, pairs)
        learn_common_motion(trainer, common, model, pairs, weights)
        learn_own_motion(trainer, own, model, place_heads, pairs, weights)
    if not trainer.started("generator"):
        average.load_state_dict(model.state_dict())

    def evaluate() -> dict[str, float]:
        result, batch, rgb = figures(average, heldout, weights)
        contact_sheet(batch, rgb, args.out.with_suffix(".png"))
        return result

    for _ in trainer.steps("generator", optimiser, evaluate):
        pairs.renew()
        batch = pairs.batch(rng, args.sources, args.drivings, args.portraits)
        losses, _ = generator_losses(model, place_heads, batch, pairs.rarity, weights)
        with larger_mask_steps(model):
            minimise(weighted_sum(losses), optimiser, model.parameters())
        trainer.note(losses)


def _initial(
    args: argparse.Namespace, config: GeneratorConfig, pairs: HeadPairs, rng: np.random.Generator
) -> tuple[Generator, PlaceHeads]:
    """Generator and place heads before the first step. If a checkpoint is resumed, they are not initialised."""
    place_heads = PlaceHeads(config.channels)
    if args.out.exists():
        return Generator(config), place_heads
    if args.grow_from:
        smaller = Generator(small_config(args.size // 2))
        checkpoint = torch.load(args.grow_from, weights_only=True)
        smaller.load_state_dict(checkpoint["average"])
        place_heads.load_state_dict(checkpoint["place_heads"])
        return grown(config, smaller, pairs, rng), place_heads
    model = fresh(config)
    calibrate(model, pairs, rng)
    return model, place_heads


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    from ..heads.stream import add_data_options  # here: it needs the renderer, which the engine does not have

    add_data_options(parser)
    parser.add_argument("--heldout", type=Path, required=True, help="data set of people that are not trained on")
    add_trainer_options(parser, minutes=60.0, rate=3e-3, threads=2)
    parser.add_argument("--size", type=int, default=128, choices=(64, 128, 256), help="pixels (default 128)")
    parser.add_argument("--grow-from", type=Path, help="checkpoint of half the size to start from")
    add_limit_options(parser, "reading", minutes=12.0, what="pretraining the encoder")
    add_limit_options(parser, "common-motion", minutes=1.5, what="pretraining the motion that all faces share")
    add_limit_options(parser, "own-motion", minutes=15.0, what="pretraining each person's own motion")
    parser.add_argument("--sources", type=int, default=16, help="sources per step (default 16)")
    parser.add_argument("--drivings", type=int, default=2, help="driving frames per source (default 2)")
    parser.add_argument("--portraits", type=float, default=0.9, help="share of sources that are portraits, 0 to 1")


def loaded_generator(path: Path) -> Generator:
    """The generator of a checkpoint (.pt) or a bank (.safetensors), frozen; its alpha is the coefficient itself."""
    if path.suffix == ".safetensors":
        bank = load_bank(path)
        model = Generator(bank.config.generator)
        names = set(model.state_dict())
        model.load_state_dict({name: torch.from_numpy(bank.tensors[name]) for name in names})
        return model.requires_grad_(False)
    checkpoint = torch.load(path, weights_only=True)
    model = Generator(GeneratorConfig.from_json(json.loads(checkpoint["config"])))
    model.load_state_dict(in_coefficient_units(checkpoint["average"]))
    return model.requires_grad_(False)
