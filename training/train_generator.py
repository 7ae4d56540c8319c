"""Train a small EDTalk generator on rendered heads: bounded by time, resumable, growing.

    python -m training.train_generator --data DIR DIR --heldout DIR --out A.pt --size 128 --minutes 60
    python -m training.train_generator --data DIR DIR --heldout DIR --out B.pt --size 256 --minutes 60 --grow-from A.pt

With `--stream` in the place of `--data DIR DIR` people are rendered meanwhile, ever new ones; A.people notes which.
Run the same command again to go on after an interruption. A log line and a contact sheet appear beside the checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from inference.model.config import GeneratorConfig
from inference.model.generator import Generator

from .checkpoint import log_line, save_checkpoint
from .data import Batch, HeadPairs, add_data_options, training_pairs
from .losses import ALPHA_GAIN, PlaceHeads, flow_error, generator_losses, picture_loss, total
from .optimiser import MASK_STEP, follow, mask_rows, optimiser_for, rate_at
from .pretraining import calibrate, learn_common_motion, learn_own_motion, learn_to_see
from .units import BANKS

# A warp needs few channels where pixels are many; multiples of 8 are what the CPU's convolutions work in.
CHANNELS = {4: 96, 8: 80, 16: 56, 32: 24, 64: 16, 128: 8, 256: 8}
STYLE_DIM = 160
GROUP_GAIN = {"mouth": 4.0, "eyes": 3.0}
SAVE_EVERY, EVALUATE_EVERY = 120.0, 300.0  # seconds


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
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    pairs, heldout = training_pairs(args, args.size), HeadPairs([args.heldout], args.size)
    weights, config = point_weights(pairs), small_config(args.size)
    place_heads = PlaceHeads(config.channels)
    step, elapsed, resumed = 0, 0.0, args.out.exists()
    if resumed:
        checkpoint = torch.load(args.out, weights_only=True)
        model = Generator(config)
        model.load_state_dict(checkpoint["model"])
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
    if resumed:
        average.load_state_dict(checkpoint["average"])
        place_heads.load_state_dict(checkpoint["place_heads"])
        optimiser.load_state_dict(checkpoint["optimiser"])
        step, elapsed = checkpoint["step"], checkpoint["elapsed"]
        rng.bit_generator.state = json.loads(checkpoint["random"])
    count = sum(weight.numel() for weight in model.parameters())
    print(f"{pairs.identities} identities at {args.size} px, {count:,} parameters, step {step}, "
          f"{elapsed / 60:.1f} of {args.minutes} minutes done", flush=True)

    def save() -> None:
        save_checkpoint({
            "model": model.state_dict(), "average": average.state_dict(),
            "place_heads": place_heads.state_dict(), "optimiser": optimiser.state_dict(),
            "step": step, "elapsed": elapsed, "random": json.dumps(rng.bit_generator.state),
            "config": json.dumps(config.to_json()),
        }, args.out)

    def evaluate() -> None:
        result, batch, rgb = figures(average, heldout, weights)
        contact_sheet(batch, rgb, args.out.with_suffix(".png"))
        line = {"minutes": round(elapsed / 60, 1), "step": step, **result}
        log_line(line, args.out)

    saved = evaluated = elapsed
    save()
    budget, running = args.minutes * 60.0, {}
    while elapsed < budget:
        began = time.monotonic()
        for group in optimiser.param_groups:
            group["lr"] = group["scale"] * rate_at(step, elapsed / budget, args.rate)
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
        step += 1
        follow(average, model, step, 0.995)  # over more, it would lag behind weights that move fast
        for name, loss in losses.items():
            running[name] = 0.98 * running.get(name, loss.item()) + 0.02 * loss.item()
        elapsed += time.monotonic() - began
        if step % 50 == 0:
            text = " ".join(f"{name} {value:.4f}" for name, value in running.items())
            print(f"{elapsed / 60:6.1f} min, step {step}: {text}", flush=True)
        if elapsed - saved > SAVE_EVERY:
            save()
            saved = elapsed
        if elapsed - evaluated > EVALUATE_EVERY:
            evaluate()
            evaluated = elapsed
    save()
    evaluate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--heldout", type=Path, required=True, help="folder of heads never trained on")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write and to go on from")
    parser.add_argument("--size", type=int, default=128, choices=(64, 128, 256))
    parser.add_argument("--minutes", type=float, default=60.0, help="training time in all, over every run")
    parser.add_argument("--grow-from", type=Path, help="checkpoint of half the size to start from")
    parser.add_argument("--seeing-minutes", type=float, default=12.0, help="before these, for the encoder alone")
    parser.add_argument("--flow-minutes", type=float, default=1.5, help="and for the common motion alone")
    parser.add_argument("--own-flow-minutes", type=float, default=15.0, help="and for each person's own motion alone")
    parser.add_argument("--sources", type=int, default=16)
    parser.add_argument("--drivings", type=int, default=2)
    parser.add_argument("--portraits", type=float, default=0.9, help="share of sources that look like a portrait")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
