"""Pretraining of the generator in three phases.

- Reading: the encoder learns to read coefficients, without the decoder.
- Common motion: the decoder learns the motion that all faces share. No source is needed, and the decoder's convolutions
  run once per step.
- Own motion: encoder and decoder learn each person's own motion, without the finest levels.

The main training would learn all of this too, but in hours instead of minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.model.generator import Generator, upsample

from ..heads.data import HeadPairs, recoloured
from ..learning.losses import (
    FLOW_FROM,
    WEIGHTS,
    PlaceHeads,
    flow_error,
    flow_loss,
    motion_emphasis,
    read_error,
    weighted_sum,
)
from ..learning.optimiser import minimise
from ..learning.trainer import Trainer
from ..units import ALPHA_GAIN

SPREAD = 0.3  # size of an untrained latent's components; a face unit at 1 adds 0.5
SHAPE_CODES = 24  # principal components of people's points at rest; they hold 98 % of the variance
BLIND_TO = 32  # finest resolution whose flow is trained without a source
READING_WEIGHTS = {"read": 0.2, "shape": 0.4, "place": 0.4}
READING_SCALES = {"layers": 1.0, "last": 0.1, "readers": 1.0, "shape": 0.3, "place": 0.3}  # of the learning rate


def principal(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (2 P,) and first `count` principal directions (2 P, count) of points (N, P, 2)."""
    rows = points[:: max(1, len(points) // 6000)].float().flatten(1)
    mean = rows.mean(0)
    return mean, torch.linalg.eigh((rows - mean).T @ (rows - mean)).eigenvectors[:, -count:]


@torch.no_grad()
def calibrate(model: Generator, pairs: HeadPairs, rng: np.random.Generator, *, frames: int = 3000) -> None:
    """Initialise the latent with principal components of the pictures, and the heads with a linear regression.

    The output of an untrained encoder is nearly the same for all pictures, so the heads get almost no gradient. Its
    last convolution is therefore set to the whitened principal components of its inputs, and the heads to a ridge
    regression of the true coefficients.
    """
    rows = torch.from_numpy(rng.choice(len(pairs.frames), min(frames, len(pairs.frames)), replace=False))
    layers, last = model.enc.net_app.convs[:-1], model.enc.net_app.convs[-1]
    features = torch.cat([nn.Sequential(*layers)(pairs.pictures(part)).flatten(1) for part in rows.split(100)])
    mean = features.mean(0)
    variance, axes = torch.linalg.eigh((features - mean).T @ (features - mean) / len(features))
    variance, axes = variance.flip(0)[: len(last.weight)].clamp(min=0), axes.flip(1)[:, : len(last.weight)]
    floor = variance[len(variance) // 3]  # weak components are not scaled up to full size
    rows_of_last = SPREAD * (axes / (variance + floor).sqrt()).T  # (style_dim, features)
    rows_of_last -= torch.outer(rows_of_last @ mean, mean) / mean.square().sum()  # the layer has no bias
    last.weight.copy_((rows_of_last / last.scale).view_as(last.weight))

    latent = features @ rows_of_last.T
    centred, truth = latent - latent.mean(0), pairs.coefficients[rows] * ALPHA_GAIN
    ridge = 0.1 * centred.square().mean() * len(latent) * torch.eye(latent.shape[1])
    solution = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ (truth - truth.mean(0)))  # (style_dim, 36)
    offset = truth.mean(0) - latent.mean(0) @ solution
    for name, columns in model.config.bank_slices.items():
        layer = getattr(model, f"{name}_fc")[2]
        layer.weight.copy_(solution[:, columns].T / layer.scale)
        layer.bias.copy_(offset[columns])


def reading_optimiser(model: Generator, place_heads: PlaceHeads, shape_head: nn.Linear) -> torch.optim.Adam:
    """Adam over the encoder and the heads that `learn_reading` trains."""
    *layers, last = model.enc.net_app.convs
    readers = [getattr(model, f"{name}_fc")[2] for name, _ in model.config.banks]
    modules = nn.ModuleList(layers), last, nn.ModuleList(readers), shape_head, place_heads
    groups = [
        {"params": list(module.parameters()), "scale": scale}
        for module, scale in zip(modules, READING_SCALES.values(), strict=True)
    ]
    return torch.optim.Adam(groups, betas=(0.9, 0.99))


def shape_codes(pairs: HeadPairs) -> Tensor:
    """(identities, SHAPE_CODES or fewer): principal components of each person's points at rest, of unit variance."""
    at_rest = pairs.points[:: pairs.frames_per_identity].float()
    mean, directions = principal(at_rest, SHAPE_CODES)
    codes = (at_rest.flatten(1) - mean) @ directions
    return codes / codes.std(0).clamp(min=max(1e-3 * codes.std(0).max().item(), 1e-6))


def learn_reading(
    trainer: Trainer,
    optimiser: torch.optim.Adam,
    model: Generator,
    place_heads: PlaceHeads,
    shape_head: nn.Linear,
    pairs: HeadPairs,
    *,
    rate: float = 1e-2,
    pictures: int = 16,
) -> None:
    """Train the encoder to read coefficients, the person's shape and the place of its features on the face.

    The shape is predicted by an auxiliary head, which is dropped afterwards. It makes the latent contain the shape,
    which the decoder needs to move this person's mouth instead of an average one.
    """
    codes, rng = shape_codes(pairs), trainer.rng
    for _ in trainer.steps("reading", optimiser, rate=rate, average=False):
        rows = torch.from_numpy(rng.integers(0, len(pairs.frames), pictures))
        latent, features = model.enc(recoloured(pairs.pictures(rows), rng))
        losses = {
            "read": read_error(model, latent, pairs.coefficients[rows], pairs.rarity),
            "shape": F.mse_loss(shape_head(latent), codes[rows // pairs.frames_per_identity]),
            "place": place_heads.error(features, pairs.points[rows].float(), pairs.visible[rows].float(), pairs.places),
        }
        minimise(weighted_sum(losses, READING_WEIGHTS), optimiser)
        trainer.note(losses)


@torch.no_grad()
def prepare_common_motion(model: Generator) -> None:
    """Make the decoder's convolutions independent of the style, see `learn_common_motion`."""
    for styled in (model.dec.conv1, *model.dec.convs):
        styled.conv.modulation.weight.zero_()
    for flow in model.dec.to_flows:
        flow.conv.modulation.bias.zero_()
        flow.conv.weight[:, 2].zero_()


def common_motion_optimiser(model: Generator) -> torch.optim.Adam:
    """Adam over the decoder's weights that produce flow."""
    moving = [
        weight for name, weight in model.named_parameters()
        if name.startswith("dec.") and not any(other in name for other in ("to_rgb", "fineadainresblock"))
        and not (name.startswith("dec.conv") and "modulation.weight" in name)
    ]  # fmt: skip
    return torch.optim.Adam(moving, betas=(0.9, 0.99))


def learn_common_motion(
    trainer: Trainer,
    optimiser: torch.optim.Adam,
    model: Generator,
    pairs: HeadPairs,
    weights: Tensor,
    *,
    rate: float = 5e-3,
    pairs_per_step: int = 48,
) -> None:
    """Train the decoder to produce the motion that all faces share, from tracked points and without a source.

    The convolutions do not depend on the style at first, so they run once for all pairs of a step. The style then only
    weights their channels, which makes the flow linear in the coefficients. Nine tenths of the true flow are linear.
    """
    if not trainer.started("common-motion"):
        prepare_common_motion(model)
    rng, basis = trainer.rng, model.basis().detach()
    for _ in trainer.steps("common-motion", optimiser, rate=rate, average=False):
        rest = torch.from_numpy(rng.integers(0, pairs.identities, pairs_per_step)) * pairs.frames_per_identity
        driving = rest + torch.from_numpy(rng.integers(1, pairs.frames_per_identity, pairs_per_step))
        tracks = pairs.tracks(rest, driving)
        flows = blind_flows(model, pairs.coefficients[driving] * ALPHA_GAIN @ basis.T)
        emphasis = motion_emphasis(tracks)
        errors = [flow_error(flow, tracks, weights, emphasis) for flow in flows if flow.shape[-1] >= FLOW_FROM]
        loss = torch.stack(errors).mean()
        minimise(loss, optimiser, optimiser.param_groups[0]["params"])
        trainer.note({"flow": loss})


def learn_own_motion(
    trainer: Trainer,
    optimiser: torch.optim.Adam,
    model: Generator,
    place_heads: PlaceHeads,
    pairs: HeadPairs,
    weights: Tensor,
    *,
    rate: float = 3e-3,
    sources: int = 8,
    drivings: int = 4,
) -> None:
    """Train encoder and decoder on each person's own flow, up to BLIND_TO pixels and without picture losses."""
    levels_held = sum(resolution <= BLIND_TO for resolution in model.config.resolutions)
    # The main training continues at the full rate, so only half of the schedule is used.
    for _ in trainer.steps("own-motion", optimiser, rate=rate, anneal=0.5, average=False):
        batch = pairs.batch(trainer.rng, sources, drivings, 0.9)
        latent, features = model.enc(batch.source)
        levels = list(islice(model.levels(latent, features, batch.driving_coefficients * ALPHA_GAIN), levels_held))
        losses = {
            "flow": flow_loss(levels, batch.tracks, weights),
            "read": read_error(model, latent, batch.source_coefficients, pairs.rarity),
            "place": place_heads.error(
                features, batch.tracks.source[::drivings], batch.tracks.visible[::drivings], batch.places
            ),
        }
        minimise(weighted_sum(losses, WEIGHTS), optimiser, model.parameters())
        trainer.note(losses)


def blind_flows(model: Generator, style: Tensor) -> Iterator[Tensor]:
    """Flow (N, 2, R, R) of each level up to BLIND_TO, without a source, for styles (N, style_dim).

    Requires convolutions that are independent of the style, see `prepare_common_motion`.
    """
    decoder, no_style = model.dec, style.new_zeros(1, style.shape[1])
    x, flow, logit = decoder.conv1(decoder.input.input, no_style), None, 0.0
    for level, size in enumerate(resolution for resolution in model.config.resolutions if resolution <= BLIND_TO):
        same = decoder.convs[2 * level + 1](decoder.convs[2 * level](x, no_style), no_style)
        to_flow = decoder.to_flows[level]
        filters = (to_flow.conv.weight[0, :2, :, 0, 0] * to_flow.conv.scale) * to_flow.conv.modulation(style)[:, None]
        added = (filters @ same.flatten(2)).view(len(style), 2, size, size) + to_flow.bias[:, :2]
        flow = added if flow is None else added + upsample(flow, to_flow.upsample.kernel)
        logit = logit + to_flow.bias[0, 2]
        x = same * (1.0 - torch.sigmoid(logit))
        yield flow
