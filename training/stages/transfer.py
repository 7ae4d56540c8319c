"""Start a training from footage from a bank: its encoder and decoder, with directions for the codes of the footage.

A bank's decoder moves a face when the latent moves within the bank's directions. A regression tells how it moves there
with the codes of the clips. The latent is then changed linearly, in the decoder's modulations and in the encoder's last
layer, so that one unit of a code moves it by one along a direction of its own. Pictures are drawn as by the bank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from inference.contract.bank import Bank
from inference.model.generator import Generator, ModulatedConv2d
from inference.renderer import FaceRenderer

from ..footage.takes import Footage
from .footage_generator import centred_by_take, latents, solve_ridge
from .mouth import GAIN

MOST, MOST_READ = 3000, 500  # frames that are looked at, and that the bank's reader reads, which takes 10 ms each
MOVED_BY = {"lip": ("lip", "exp"), "pose": ("pose",)}  # banks of the start file whose directions a bank may use


def generator_of(bank: Bank) -> Generator:
    """The generator of a bank with its weights, in the form that is trained."""
    model = Generator(bank.config.generator)
    names = set(model.state_dict())
    model.load_state_dict({name: torch.from_numpy(np.asarray(bank.tensors[name], np.float32)) for name in names})
    return model


@dataclass(frozen=True)
class StartBank:
    """A bank whose encoder and decoder a training starts from."""

    bank: Bank
    model: Generator

    def coefficients(self, footage: Footage, rows: np.ndarray) -> Tensor:
        """(n, m) of the bank's generator in the frames `rows`: by its reader, or from the encoder's latent.

        The latent holds the source's own motion with the opposite sign, but little of the mouth's.
        """
        if "reader" in (self.bank.networks or {}):
            values = FaceRenderer(self.bank, "cpu").encode(footage.frames[row] for row in rows).values
            return torch.from_numpy(values[:, : self.model.config.coefficient_count].copy())
        return -latents(self.model, footage, rows) @ self.model.basis()


@torch.no_grad()
def transfer(model: Generator, start: StartBank, footage: Footage, codes: np.ndarray, rng: np.random.Generator) -> None:
    """Set encoder, decoder and directions of `model` from a start of the same architecture. codes: (N, 26)."""
    weights = {name: part for name, part in start.model.state_dict().items() if name.startswith(("enc.", "dec."))}
    parameters = model.state_dict()
    model.load_state_dict({name: part for name, part in weights.items() if name in parameters}, strict=False)
    rows = rng.choice(len(footage), min(MOST, len(footage)), replace=False)
    latent, alpha = latents(model, footage, rows), torch.from_numpy(codes[rows]) * GAIN
    measured = np.sort(rows)[:: max(1, len(rows) // MOST_READ)]
    directions = code_directions(model, start, footage, measured, torch.from_numpy(codes[measured]) * GAIN)
    model.direction_lipnonlip.weight.copy_(torch.linalg.qr(directions).Q)
    basis = model.basis()
    rest = torch.eye(len(basis)) - basis @ basis.T
    offset = (latent - latent @ rest + alpha @ directions.T).mean(0)
    for layer in model.dec.modules():
        if isinstance(layer, ModulatedConv2d):
            modulation = layer.modulation
            modulation.bias.add_(modulation.weight @ offset * modulation.scale)
            modulation.weight.copy_(modulation.weight @ (rest + directions @ basis.T))
    solution = solve_ridge(latent - latent.mean(0), alpha - alpha.mean(0))  # (style_dim, 26)
    *layers, last = model.enc.net_app.convs
    mean = nn.Sequential(*layers)(footage.pictures(rows[:200], model.config.size)).flatten(1).mean(0)
    weight = (rest - basis @ solution.T) @ last.weight.flatten(1) * last.scale
    offset_latent = basis @ (latent.mean(0) @ solution - alpha.mean(0))  # the layer has no bias
    weight += torch.outer(offset_latent, mean) / mean.square().sum()
    last.weight.copy_((weight / last.scale).view_as(last.weight))


def code_directions(model: Generator, start: StartBank, footage: Footage, rows: np.ndarray, alpha: Tensor) -> Tensor:
    """(style_dim, 26) by which a unit of each code moves the latent that the start's decoder draws.

    alpha: (n, 26) of the frames `rows`.
    """
    regression = solve_ridge(
        centred_by_take(alpha, footage, rows), centred_by_take(start.coefficients(footage, rows), footage, rows)
    )  # (26, coefficients of the start)
    allowed = torch.zeros_like(regression)
    for bank, columns in model.config.bank_slices.items():
        for other in MOVED_BY[bank]:
            allowed[columns, start.model.config.bank_slices.get(other, slice(0))] = 1.0
    return start.model.basis() @ (regression * allowed).T
