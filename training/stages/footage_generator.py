"""The generator of a training from footage: its configuration, its heads, and decoding with anchored latents.

The heads are solved in closed form: `pose_fc` from the latent of the face, those of LOOKS from the latent of a window
that is aligned by the points. The shared encoder encodes faces and windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from inference.contract.config import GeneratorConfig
from inference.model.generator import Generator, Level
from inference.model.readers.look import Window, look_at

from ..footage.motion import LipExchanges
from ..footage.swap import random_partner, swap_mouths
from ..footage.takes import Footage
from ..learning.optimiser import step_scale
from .footage_losses import DRIVING, LIPS, ReenactmentBatch
from .generator import CHANNELS, STYLE_DIM
from .mouth import CODES, GAIN, POSES
from .pretraining import SPREAD

LOOKS = {"lip": Window(1.6, 0.6), "exp": Window(1.6, 0.6, (0.0, -0.15))}  # window of the encoder, by bank
RIDGE = 0.01  # of the mean diagonal
RIDGE_FRAMES = 6.0  # the heads' ridge is this number divided by that of the frames, but at most RIDGE
SOLVED_FRAMES = 6000  # most frames that the heads are solved from


def footage_config(
    size: int, banks: tuple[tuple[str, int], ...] = (("lip", CODES), ("pose", POSES))
) -> GeneratorConfig:
    """The small architecture with the banks of stage 1."""
    return GeneratorConfig(size, STYLE_DIM, {side: count for side, count in CHANNELS.items() if side <= size}, banks)


# --- encoder and heads ---


def reader_windows(pictures: Tensor, points: np.ndarray, config: GeneratorConfig) -> dict[str, Tensor]:
    """Windows (N, 3, R, R) of faces, by the bank that is read from each.

    pictures: (N, 3, S, S) in [-1, 1]. points: (N, COUNT, 2) in [-1, 1].
    """
    return {
        bank: look_at(pictures, points, config.size, window)
        for bank, window in LOOKS.items()
        if bank in config.bank_slices
    }


def predict_alpha(model: Generator, faces: Tensor, windows: Mapping[str, Tensor]) -> Tensor:
    """Alpha (N, n) by the heads, from faces (N, 3, R, R) and the windows of `reader_windows`."""
    face, *others = model.fc(model.enc(torch.cat([faces, *windows.values()]))[0]).chunk(1 + len(windows))
    shared = dict(zip(windows, others, strict=True))
    return torch.cat([getattr(model, f"{bank}_fc")(shared.get(bank, face)) for bank, _ in model.config.banks], 1)


@torch.no_grad()
def latents(model: Generator, footage: Footage, rows: np.ndarray, bank: str | None = None) -> Tensor:
    """Latents (n, style_dim) of the faces of frames, or of the windows of a bank of LOOKS."""
    return torch.cat([model.enc(inputs)[0] for inputs in encoder_inputs(footage, rows, model.config.size, bank)])


def encoder_inputs(footage: Footage, rows: np.ndarray, size: int, bank: str | None) -> Iterator[Tensor]:
    """Pictures (about 100, 3, size, size) for `latents`."""
    for part in np.array_split(rows, max(1, len(rows) // 100)):
        if bank is None:
            yield footage.pictures(part, size)
        else:
            yield look_at(footage.pictures(part), footage.points[part], size, LOOKS[bank])


def solve_ridge(rows: Tensor, targets: Tensor, strength: float = RIDGE) -> Tensor:
    """Ridge regression (D, n) from centred rows (N, D) to centred targets (N, n). strength: of the mean diagonal."""
    square = rows.T @ rows
    return torch.linalg.solve(square + strength * square.diagonal().mean() * torch.eye(len(square)), rows.T @ targets)


def centred_by_take(values: Tensor, footage: Footage, rows: np.ndarray) -> Tensor:
    """Values (N, n) of the frames `rows` minus the mean of their take."""
    _, inverse = np.unique(footage.take_ids[rows], return_inverse=True)
    index = torch.from_numpy(inverse)
    count = torch.bincount(index).clamp(min=1)[:, None]
    means = torch.zeros(len(count), values.shape[1]).index_add_(0, index, values) / count
    return values - means[index]


@dataclass(frozen=True)
class SwappedFrames:
    """N frames with the mouths of other frames, see `footage.swap.swap_mouths`."""

    footage: Footage
    base: np.ndarray  # (N,) frame numbers
    donor: np.ndarray  # (N,) frame numbers of the mouths

    @staticmethod
    def random(footage: Footage, base: np.ndarray, rng: np.random.Generator) -> SwappedFrames:
        """Base frames (N,) with the mouths of random partners."""
        usable = np.concatenate(footage.takes)
        donor = np.array([random_partner(footage, row, usable, rng) for row in base])
        return SwappedFrames(swap_mouths(footage, base, donor, rng), base, donor)

    def rows_of(self, bank: str) -> np.ndarray:
        """(N,) numbers of the frames whose codes of a bank the pictures show."""
        return self.donor if bank == "lip" else self.base


@torch.no_grad()
def solve_heads(
    model: Generator, footage: Footage, codes: np.ndarray, rng: np.random.Generator, *, swapped_count: int = 0
) -> dict[str, float]:
    """Set the heads' last layers to ridge solutions of alpha; returns the explained variance (R^2) of each bank.

    codes: (N, n) of all frames, of the generator's banks. swapped_count: number of additional frames with the mouths
    of others, so that the heads also read swapped pictures.
    """
    explained = {}
    targets = torch.from_numpy(codes) * GAIN
    rows = rng.choice(len(footage), min(SOLVED_FRAMES, len(footage)), replace=False)
    swapped = None
    if swapped_count:
        swapped = SwappedFrames.random(footage, rng.choice(len(footage), swapped_count), rng)
    for name, columns in model.config.bank_slices.items():
        layers, bank = getattr(model, f"{name}_fc"), name if name in LOOKS else None
        shared, alpha = layers[:2](model.fc(latents(model, footage, rows, bank))), targets[rows][:, columns]
        inputs, target = centred_by_take(shared, footage, rows), centred_by_take(alpha, footage, rows)
        strength = min(RIDGE, RIDGE_FRAMES / len(rows))
        if swapped is None:
            solution = solve_ridge(inputs, target, strength)
        else:
            code_rows, all_rows = swapped.rows_of(name), np.arange(swapped_count)
            swapped_shared = layers[:2](model.fc(latents(model, swapped.footage, all_rows, bank)))
            solution = solve_ridge(
                torch.cat([inputs, centred_by_take(swapped_shared, footage, code_rows)]),
                torch.cat([target, centred_by_take(targets[code_rows][:, columns], footage, code_rows)]),
                strength,
            )
        layers[2].weight.copy_(solution.T / layers[2].scale)
        layers[2].bias.copy_(alpha.mean(0) - shared.mean(0) @ solution)
        residual = target - inputs @ solution
        explained[name] = round((1.0 - residual.square().sum() / target.square().sum()).item(), 3)
    return explained


@torch.no_grad()
def calibrate(
    model: Generator, footage: Footage, codes: np.ndarray, rng: np.random.Generator, count: int = 3000
) -> None:
    """Initialise the encoder's last layer with principal components of faces and windows, and with the source's motion.

    The latent is meant to be free of motion before the codes are added, so its part along the directions starts as
    minus the codes, as far as a regression can read them from the whole face. codes: (N, n).
    """
    rows = rng.choice(len(footage), min(count, len(footage)), replace=False)
    *layers, last = model.enc.net_app.convs
    body, size = nn.Sequential(*layers), model.config.size
    features = [
        torch.cat([body(inputs).flatten(1) for inputs in encoder_inputs(footage, rows, size, bank)])
        for bank in (None, *LOOKS)
    ]
    mean, style_dim = torch.cat(features).mean(0), len(last.weight)
    centred = torch.cat([part - part.mean(0) for part in features])
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    variance, axes = variance.flip(0)[:style_dim].clamp(min=0), axes.flip(1)[:, :style_dim]
    to_latent = SPREAD * (axes / (variance + variance[len(variance) // 3]).sqrt()).T  # (style_dim, features)
    basis = model.basis()
    faces = features[0] - features[0].mean(0)
    alpha = torch.from_numpy(codes[rows]) * GAIN
    solution = solve_ridge(faces, alpha - alpha.mean(0))  # (features, n)
    to_latent = to_latent - basis @ (basis.T @ to_latent) - basis @ solution.T
    to_latent -= torch.outer(to_latent @ mean, mean) / mean.square().sum()  # the layer has no bias
    last.weight.copy_((to_latent / last.scale).view_as(last.weight))


def stage_optimiser(model: Generator) -> torch.optim.Adam:
    """Adam in parameter groups with a `scale`; encoder at 0.4 and heads at 0.1 of their usual rate."""
    last = f"enc.net_app.convs.{len(model.enc.net_app.convs) - 1}."
    groups: dict[float, list[Tensor]] = {}
    for name, weight in model.named_parameters():
        scale = step_scale(name, last)
        if name.startswith("enc.") or name.split(".")[0].endswith("fc"):
            scale *= 0.1 if name.split(".")[0].endswith("fc") else 0.4
        groups.setdefault(scale, []).append(weight)
    described = [{"params": weights, "scale": scale} for scale, weights in groups.items() if scale]
    return torch.optim.Adam(described, 3e-3, betas=(0.9, 0.99))


# --- decoding ---


def anchored_latent(model: Generator, latent: Tensor, alpha: Tensor) -> Tensor:
    """Latents (S, style_dim) whose part along the banks' directions is minus the source's known alpha (S, n).

    Decoding then starts exactly at the source's pose and mouth. `source_code_error` trains the encoder to predict this
    part, so that a portrait needs no codes at inference.
    """
    basis = model.basis()[:, : alpha.shape[1]]
    return latent - (latent @ basis + alpha) @ basis.T


def source_code_error(model: Generator, latent: Tensor, alpha: Tensor) -> Tensor:
    """Mean square error, in codes, of the source's motion in the latent (S, style_dim) from its alpha (S, n)."""
    return (latent @ model.basis()[:, : alpha.shape[1]] + alpha).square().mean() / GAIN**2


def exchange_alpha(codes: Tensor, base: np.ndarray, donor: np.ndarray, bank: slice) -> Tensor:
    """Alpha (E, n) of the base frames (E,), with the codes of one bank taken from the donor frames (E,)."""
    alpha = codes[base].clone()
    alpha[:, bank] = codes[donor][:, bank]
    return alpha * GAIN


def decode_together(
    model: Generator,
    latent: Tensor,
    features: list[Tensor],
    alpha: Mapping[str, Tensor],
    level_count: int | None = None,
) -> dict[str, list[Level]]:
    """Levels of several sets of frames of S sources, decoded in one pass, by name.

    alpha: by name (S * K, n) of K frames of each source; K may differ between names. level_count: number of levels,
    default all.
    """
    sources = len(latent)
    rows = torch.cat([part.view(sources, -1, part.shape[1]) for part in alpha.values()], 1)
    ends = np.cumsum([0, *(len(part) // sources for part in alpha.values())])
    decoded: dict[str, list[Level]] = {name: [] for name in alpha}
    for level in islice(model.levels(latent, features, rows.flatten(0, 1)), level_count):
        for name, first, end in zip(alpha, ends, ends[1:], strict=False):
            parts = (value.view(sources, -1, *value.shape[1:])[:, first:end].flatten(0, 1) for value in level)
            decoded[name].append(Level(*parts))
    return decoded


def decode_with_lip_exchange(
    model: Generator, latent: Tensor, features: list[Tensor], batch: ReenactmentBatch, codes: Tensor,
    exchange: LipExchanges, *, level_count: int | None = None, **more: Tensor,
) -> dict[str, list[Level]]:  # fmt: skip
    """`decode_together` of the batch, as DRIVING, and of one exchange of the lips for each source, as LIPS.

    more: by name, further alpha (S * K, n).
    """
    lips = exchange_alpha(codes, exchange.base.rows, exchange.donor, model.config.bank_slices["lip"])
    alpha = {DRIVING: batch.alpha, LIPS: lips, **more}
    return decode_together(model, anchored_latent(model, latent, batch.source_alpha), features, alpha, level_count)
