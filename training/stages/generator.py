"""Train a small EDTalk generator on rendered heads: bounded by time, resumable, growing.

    python -m training.stages.generator --data DIR DIR --heldout DIR --out A.pt --size 128 --minutes 60
    python -m training.stages.generator --data DIR DIR --heldout DIR --out B.pt --size 256 --minutes 60 --grow-from A.pt

With `--stream` in the place of `--data DIR DIR` people are rendered meanwhile, ever new ones; A.people notes which.
Run the same command again to go on after an interruption. A log line and a contact sheet appear beside the checkpoint.
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
from ..heads.stream import add_data_options, training_pairs
from ..learning.course import Course, add_course_options, seeded
from ..learning.losses import PlaceHeads, flow_error, generator_losses, picture_loss, total
from ..learning.optimiser import MASK_STEP, follow, mask_rows, optimiser_for, rate_at, set_rate
from ..units import ALPHA_GAIN, BANKS, in_coefficient_units
from .pretraining import calibrate, learn_common_motion, learn_own_motion, learn_to_see

# A warp needs few channels where pixels are many; multiples of 8 are what the CPU's convolutions work in.
CHANNELS = {4: 96, 8: 80, 16: 56, 32: 24, 64: 16, 128: 8, 256: 8}
STYLE_DIM = 160
GROUP_GAIN = {"mouth": 4.0, "eyes": 3.0}


def small_config(size: int) -> GeneratorConfig:
    channels = {resolution: count for resolution, count in CHANNELS.items() if resolution <= size}
    return GeneratorConfig(size, STYLE_DIM, channels, BANKS)


def fresh(config: GeneratorConfig) -> Generator:
    """A generator that starts as a small flow and a faint picture, so that nothing saturates in the first steps."""
    model = Generator(config)
    with torch.no_grad():
        for flow in model.dec.to_flows:
            flow.conv.weight.mul_(0.05)
        # Logits add up from coarse to fine: at first the source shows through where there are pixels for it.
        for flow, logit in zip(model.dec.to_flows, (-1.0, 0.0, 1.0, 3.0, 0.0, 0.0), strict=False):
            flow.bias[0, 2] = logit
        for rgb in model.dec.to_rgbs:
            rgb.conv[0].weight.mul_(0.3)
        # The heads are seven affine maps in a row, and a product of random matrices hardly lets a gradient through:
        # start the square ones as the identity.
        heads = [getattr(model, f"{name}_fc")[:2] for name, _ in config.banks]
        for layer in (*model.fc, *(layer for head in heads for layer in head)):
            layer.weight.copy_(torch.eye(config.style_dim) / layer.scale)
    return model


def grown(
    config: GeneratorConfig, smaller: Generator, pairs: HeadPairs, rng: np.random.Generator, *, fitting: int = 250
) -> Generator:
    """A generator of twice the size that starts out doing what the smaller one does.

    The decoder gains a level that adds nothing yet; the encoder's new first layers are fitted for `fitting` steps to
    give the old encoder the features it is used to.
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
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"grown from {old_top} px, feature mismatch {loss.item():.3f}", flush=True)
    return model


def point_weights(pairs: HeadPairs) -> Tensor:
    weights = torch.ones(pairs.points.shape[1])
    for name, gain in GROUP_GAIN.items():
        first, last = pairs.groups[name]
        weights[first:last] = gain
    return weights


@torch.no_grad()
def figures(model: Generator, pairs: HeadPairs, weights: Tensor, *, identities: int = 64) -> tuple[dict, Batch, Tensor]:
    """Held-out figures: portrait frame 1 driven by frames 4 and 7 of every identity; copying the source beside them."""
    first = np.arange(min(identities, pairs.identities)) * pairs.frames_per_identity
    batch = pairs.pick(first + 1, np.stack([first + 4, first + 7], 1))
    latent, features = model.enc(batch.source)
    *_, last = model.levels(latent, features, batch.driving_coefficients * ALPHA_GAIN)
    read = model.coefficients(model.enc(batch.driving)[0]) / ALPHA_GAIN
    copied, tracks = batch.source.repeat_interleave(2, 0), batch.tracks
    seen = tracks.visible * weights
    result = {
        "flow": flow_error(last.flow, batch.tracks, weights),
        "flow_copy": ((tracks.driving - tracks.source).abs().sum(-1) * seen).sum() / seen.sum(),
        "picture": picture_loss(last.rgb, batch),
        "picture_copy": picture_loss(copied, batch),
        "psnr": psnr(last.rgb.clamp(-1, 1), batch.driving),
        "psnr_copy": psnr(copied, batch.driving),
        "read": (read - batch.driving_coefficients).abs().mean(),
        "read_rest": batch.driving_coefficients.abs().mean(),
    }
    return {name: round(value.item(), 4) for name, value in result.items()}, batch, last.rgb


def psnr(picture: Tensor, truth: Tensor) -> Tensor:
    """Mean over pictures, for values in [-1, 1]."""
    return (10.0 * torch.log10(4.0 / (picture - truth).square().mean((1, 2, 3)))).mean()


def contact_sheet(batch: Batch, rgb: Tensor, path: Path, rows: int = 10) -> None:
    """Source, then truth and result in pairs, one identity a row."""
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
    rng = seeded(args)
    pairs, heldout = training_pairs(args, args.size), HeadPairs([args.heldout], args.size)
    weights, config = point_weights(pairs), small_config(args.size)
    place_heads, resumed = PlaceHeads(config.channels), args.out.exists()
    if resumed:
        model = Generator(config)
    elif args.grow_from:
        smaller = Generator(small_config(args.size // 2))
        grown_from = torch.load(args.grow_from, weights_only=True)
        smaller.load_state_dict(grown_from["average"])
        place_heads.load_state_dict(grown_from["place_heads"])
        model = grown(config, smaller, pairs, rng)
    else:
        model = fresh(config)
        calibrate(model, pairs, rng)
        learn_to_see(model, place_heads, pairs, rng, args.seeing_minutes * 60.0)
        learn_common_motion(model, pairs, rng, weights, args.flow_minutes * 60.0)
        learn_own_motion(model, place_heads, pairs, rng, weights, args.own_flow_minutes * 60.0)
    average = copy.deepcopy(model)
    optimiser = optimiser_for(model, place_heads, args.rate)
    parts = {"model": model, "average": average, "place_heads": place_heads, "optimiser": optimiser}
    course = Course(args.out, parts, rng, lambda: {"config": json.dumps(config.to_json())})
    count = sum(weight.numel() for weight in model.parameters())
    print(
        f"{pairs.identities} identities at {args.size} px, {count:,} parameters, step {course.step}, "
        f"{course.elapsed / 60:.1f} of {args.minutes} minutes done",
        flush=True,
    )

    def evaluate() -> dict[str, float]:
        result, batch, rgb = figures(average, heldout, weights)
        contact_sheet(batch, rgb, args.out.with_suffix(".png"))
        return result

    course.save()  # what was learnt before it took long
    for share in course.steps(args.minutes, evaluate):
        set_rate(optimiser, rate_at(course.step, share, args.rate))
        pairs.renew()
        batch = pairs.batch(rng, args.sources, args.drivings, args.portraits)
        losses, _ = generator_losses(model, place_heads, batch, pairs.rarity, weights)
        optimiser.zero_grad()
        total(losses).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before = [row.clone() for row in mask_rows(model)]
        optimiser.step()
        with torch.no_grad():
            for row, old in zip(mask_rows(model), before, strict=True):
                row.lerp_(old, 1.0 - MASK_STEP)
        follow(average, model, course.step + 1, 0.995)  # over more, it would lag behind weights that move fast
        course.note(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--heldout", type=Path, required=True, help="folder of heads never trained on")
    add_course_options(parser, minutes=60.0, rate=3e-3, threads=2)
    parser.add_argument("--size", type=int, default=128, choices=(64, 128, 256))
    parser.add_argument("--grow-from", type=Path, help="checkpoint of half the size to start from")
    parser.add_argument("--seeing-minutes", type=float, default=12.0, help="before these, for the encoder alone")
    parser.add_argument("--flow-minutes", type=float, default=1.5, help="and for the common motion alone")
    parser.add_argument("--own-flow-minutes", type=float, default=15.0, help="and for each person's own motion alone")
    parser.add_argument("--sources", type=int, default=16)
    parser.add_argument("--drivings", type=int, default=2)
    parser.add_argument("--portraits", type=float, default=0.9, help="share of sources that look like a portrait")
    train(parser.parse_args())


if __name__ == "__main__":
    main()


def loaded_generator(path: Path) -> Generator:
    """Of a checkpoint or a bank; alpha is the coefficient itself."""
    if path.suffix == ".safetensors":
        bank = load_bank(path)
        model = Generator(bank.config)
        names = set(model.state_dict())
        model.load_state_dict({name: torch.from_numpy(bank.tensors[name]) for name in names})
        return model.requires_grad_(False)
    checkpoint = torch.load(path, weights_only=True)
    model = Generator(GeneratorConfig.from_json(json.loads(checkpoint["config"])))
    model.load_state_dict(in_coefficient_units(checkpoint["average"]))
    return model.requires_grad_(False)
