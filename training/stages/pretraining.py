"""What a generator learns before it paints: to see a face, the motion that all faces share, and each person's own.

All are learnt beside the picture's losses too, but there they take hours: alone they take minutes, because the
encoder's part needs no decoder, the decoder's part neither source nor more than one run of its convolutions a step, and
no flow its finest levels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.model.generator import Generator, upsample

from ..heads.data import HeadPairs, Tracks, recoloured
from ..learning.losses import FLOW_FROM, WEIGHTS, PlaceHeads, flow_error, held_flow_error, own_motion, read_error
from ..learning.optimiser import optimiser_for, rate_at
from ..units import ALPHA_GAIN

SPREAD = 0.3  # size of an untrained latent's components, against 0.5 that a face unit at 1 brings
SHAPE_CODES = 24  # principal components of people's points at rest: 98 % of what makes them differ
BLIND_TO = 32  # finest resolution whose flow is learnt without a source


@torch.no_grad()
def calibrate(model: Generator, pairs: HeadPairs, rng: np.random.Generator, *, frames: int = 3000) -> None:
    """Make the latent tell pictures apart from the start, and let the heads read off it what they already can.

    An untrained encoder's output is nearly the same for every picture: what little differs is brightness, and no
    gradient worth the name comes back through the heads. So its last convolution is set to the whitened principal
    components of what it sees, and the heads to a ridge regression of the true coefficients.
    """
    rows = torch.from_numpy(rng.choice(len(pairs.frames), min(frames, len(pairs.frames)), replace=False))
    layers, last = model.enc.net_app.convs[:-1], model.enc.net_app.convs[-1]
    seen = torch.cat([nn.Sequential(*layers)(pairs.pictures(part)).flatten(1) for part in rows.split(100)])
    mean = seen.mean(0)
    variance, axes = torch.linalg.eigh((seen - mean).T @ (seen - mean) / len(seen))
    variance, axes = variance.flip(0)[: len(last.weight)].clamp(min=0), axes.flip(1)[:, : len(last.weight)]
    floor = variance[len(variance) // 3]  # the faint components are not blown up to full size
    rows_of_last = SPREAD * (axes / (variance + floor).sqrt()).T  # (style_dim, features)
    rows_of_last -= torch.outer(rows_of_last @ mean, mean) / mean.square().sum()  # there is no bias to take it out
    last.weight.copy_((rows_of_last / last.scale).view_as(last.weight))

    latent = seen @ rows_of_last.T
    centred, truth = latent - latent.mean(0), pairs.coefficients[rows] * ALPHA_GAIN
    ridge = 0.1 * centred.square().mean() * len(latent) * torch.eye(latent.shape[1])
    solution = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ (truth - truth.mean(0)))  # (style_dim, 36)
    offset = truth.mean(0) - latent.mean(0) @ solution
    for name, columns in model.config.bank_slices.items():
        layer = getattr(model, f"{name}_fc")[2]
        layer.weight.copy_(solution[:, columns].T / layer.scale)
        layer.bias.copy_(offset[columns])


def learn_to_see(
    model: Generator,
    place_heads: PlaceHeads,
    pairs: HeadPairs,
    rng: np.random.Generator,
    seconds: float,
    *,
    rate: float = 1e-2,
    pictures: int = 16,
) -> None:
    """Teach the encoder what a face is doing, whose face it is, and its features where on a face they lie.

    The heads read the first off the latent. The second, where that person's points lie at rest, has a head of its own
    that is dropped afterwards: the decoder needs it in the latent, to move this person's mouth and not an average one.
    """
    at_rest = pairs.points[:: pairs.frames_per_identity].float().flatten(1)
    _, sizes, axes = torch.pca_lowrank(at_rest, min(SHAPE_CODES, *at_rest.shape), niter=4)
    sizes = sizes.clamp(min=max(1e-3 * sizes[0].item(), 1e-6))
    codes = (at_rest - at_rest.mean(0)) @ axes * (len(at_rest) ** 0.5) / sizes  # (identities, codes), of unit size
    shape_head = nn.Linear(model.config.style_dim, codes.shape[1])
    *layers, last = model.enc.net_app.convs
    readers = [getattr(model, f"{name}_fc")[2] for name, _ in model.config.banks]
    groups = [
        (nn.ModuleList(layers), 1.0), (last, 0.1), (nn.ModuleList(readers), 1.0), (shape_head, 0.3), (place_heads, 0.3)
    ]  # fmt: skip
    optimiser = torch.optim.Adam(
        [{"params": list(module.parameters()), "scale": scale} for module, scale in groups], betas=(0.9, 0.99)
    )
    began, step, means = time.monotonic(), 0, torch.ones(3)
    while (elapsed := time.monotonic() - began) < seconds:
        for group in optimiser.param_groups:
            group["lr"] = group["scale"] * rate_at(step, elapsed / seconds, rate)
        rows = torch.from_numpy(rng.integers(0, len(pairs.frames), pictures))
        latent, features = model.enc(recoloured(pairs.pictures(rows), rng))
        errors = torch.stack([
            read_error(model, latent, pairs.coefficients[rows], pairs.rarity),
            F.mse_loss(shape_head(latent), codes[rows // pairs.frames_per_identity]),
            place_heads.error(features, pairs.points[rows].float(), pairs.visible[rows].float(), pairs.places),
        ])  # fmt: skip
        optimiser.zero_grad()
        (errors @ errors.new_tensor([0.2, 0.4, 0.4])).backward()
        optimiser.step()
        step += 1
        means.lerp_(errors.detach(), max(0.01, 1.0 / step))
        if step % 500 == 0:
            read, shape, place = means.tolist()
            print(f"seeing: step {step}, coefficients {read:.3f}, shape {shape:.3f}, place {place:.3f}", flush=True)


def learn_own_motion(
    model: Generator,
    place_heads: PlaceHeads,
    pairs: HeadPairs,
    rng: np.random.Generator,
    weights: Tensor,
    seconds: float,
    *,
    rate: float = 3e-3,
    sources: int = 8,
    drivings: int = 4,
) -> None:
    """Teach encoder and decoder together each person's own motion: the flow alone, and no finer than BLIND_TO, where
    it is decided but costs a third of a picture."""
    optimiser = optimiser_for(model, place_heads, rate)
    levels_held = sum(resolution <= BLIND_TO for resolution in model.config.resolutions)
    began, step, means = time.monotonic(), 0, torch.ones(3)
    while (elapsed := time.monotonic() - began) < seconds:
        for group in optimiser.param_groups:
            group["lr"] = group["scale"] * rate_at(step, 0.5 * elapsed / seconds, rate)  # goes on at full rate after
        batch = pairs.batch(rng, sources, drivings, 0.9)
        latent, features = model.enc(batch.source)
        levels = list(islice(model.levels(latent, features, batch.driving_coefficients * ALPHA_GAIN), levels_held))
        errors = torch.stack([
            held_flow_error(levels, batch.tracks, weights),
            read_error(model, latent, batch.source_coefficients, pairs.rarity),
            place_heads.error(
                features, batch.tracks.source[::drivings], batch.tracks.visible[::drivings], batch.places
            ),
        ])  # fmt: skip
        optimiser.zero_grad()
        (errors @ errors.new_tensor([WEIGHTS["flow"], WEIGHTS["read"], WEIGHTS["place"]])).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        means.lerp_(errors.detach(), max(0.01, 1.0 / step))
        if step % 200 == 0:
            flow, read, place = means.tolist()
            print(f"own motion: step {step}, flow {flow:.4f}, coefficients {read:.3f}, place {place:.3f}", flush=True)


def learn_common_motion(
    model: Generator, pairs: HeadPairs, rng: np.random.Generator, weights: Tensor, seconds: float, *, rate=5e-3
) -> None:
    """Teach the decoder the motion that all faces share, from tracked points alone and without a source.

    Its convolutions start out deaf to the style, so one run of them serves every pair: the style then only weighs
    their channels into flow, which makes the flow linear in the coefficients, as nine tenths of it are.
    """
    decoder, pairs_a_step = model.dec, 48
    with torch.no_grad():
        for styled in (decoder.conv1, *decoder.convs):
            styled.conv.modulation.weight.zero_()
        for flow in decoder.to_flows:
            flow.conv.modulation.bias.zero_()
            flow.conv.weight[:, 2].zero_()
    moving = [
        weight for name, weight in model.named_parameters()
        if name.startswith("dec.") and not any(other in name for other in ("to_rgb", "fineadainresblock"))
        and not (name.startswith("dec.conv") and "modulation.weight" in name)
    ]  # fmt: skip
    optimiser, basis = torch.optim.Adam(moving, rate, betas=(0.9, 0.99)), model.basis().detach()
    began, step, error = time.monotonic(), 0, float("nan")
    while (elapsed := time.monotonic() - began) < seconds:
        optimiser.param_groups[0]["lr"] = rate_at(step, elapsed / seconds, rate)
        rest = torch.from_numpy(rng.integers(0, pairs.identities, pairs_a_step)) * pairs.frames_per_identity
        driving = rest + torch.from_numpy(rng.integers(1, pairs.frames_per_identity, pairs_a_step))
        tracks: Tracks = pairs.tracks(rest, driving)
        flows = blind_flows(model, pairs.coefficients[driving] * ALPHA_GAIN @ basis.T)
        emphasis = own_motion(tracks)
        held = [flow_error(flow, tracks, weights, emphasis) for flow in flows if flow.shape[-1] >= FLOW_FROM]
        loss = torch.stack(held).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(moving, 1.0)
        optimiser.step()
        step += 1
        error = loss.item() if step == 1 else 0.99 * error + 0.01 * loss.item()
    print(f"common motion: {step} steps, error {error:.4f} half widths", flush=True)


def blind_flows(model: Generator, style: Tensor) -> Iterator[Tensor]:
    """style (N, style_dim) -> flow (N, 2, R, R) of each level up to BLIND_TO, with no source and a deaf trunk."""
    decoder, silence = model.dec, style.new_zeros(1, style.shape[1])
    x, flow, logit = decoder.conv1(decoder.input.input, silence), None, 0.0
    for level, size in enumerate(resolution for resolution in model.config.resolutions if resolution <= BLIND_TO):
        same = decoder.convs[2 * level + 1](decoder.convs[2 * level](x, silence), silence)
        to_flow = decoder.to_flows[level]
        filters = (to_flow.conv.weight[0, :2, :, 0, 0] * to_flow.conv.scale) * to_flow.conv.modulation(style)[:, None]
        added = (filters @ same.flatten(2)).view(len(style), 2, size, size) + to_flow.bias[:, :2]
        flow = added if flow is None else added + upsample(flow, to_flow.upsample.kernel)
        logit = logit + to_flow.bias[0, 2]
        x = same * (1.0 - torch.sigmoid(logit))
        yield flow
