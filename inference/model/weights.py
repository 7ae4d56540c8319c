"""A bank's tensors as the fast form wants them: on the device, equalised layers already scaled by 1 / sqrt(fan in)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..contract.config import GeneratorConfig
from ..contract.errors import EDTalkError
from .generator import ENHANCEMENT_WIDTH


class Weights:
    """Reads by upstream's names. Raises EDTalkError (kind "bank") for a tensor that is missing."""

    def __init__(self, tensors: Mapping[str, np.ndarray], device: torch.device | str = "cpu") -> None:
        self._tensors = tensors
        self.device = torch.device(device)

    def __call__(self, name: str) -> Tensor:
        """As stored, float32."""
        if name not in self._tensors:
            raise EDTalkError(f"The bank has no tensor '{name}'.", "Get the bank again.", "bank")
        return torch.from_numpy(np.array(self._tensors[name], np.float32)).to(self.device)

    def conv(self, name: str) -> Tensor:
        """(O, I, k, k) of an equalised convolution, modulated or not."""
        weight = self(f"{name}.weight")
        weight = weight[0] if weight.ndim == 5 else weight
        return weight / math.sqrt(weight[0].numel())

    def linear(self, name: str) -> tuple[Tensor, Tensor]:
        """(O, I) and (O,) of an equalised linear layer."""
        weight = self(f"{name}.weight")
        return weight / math.sqrt(weight.shape[1]), self(f"{name}.bias")

    def basis(self, config: GeneratorConfig) -> Tensor:
        """Q (style_dim, n), orthonormal columns in bank order.

        Householder QR takes columns in order, so a further bank leaves the earlier ones as they are. The signs are
        LAPACK's own, and coefficients are trained against them: always computed on the CPU.
        """
        names = ["lipnonlip", *(name for name, _ in config.banks[2:])]
        directions = torch.cat([self(f"direction_{name}.weight") for name in names], 1).cpu()
        return torch.linalg.qr(directions + 1e-8).Q.to(self.device)

    def heads(self, config: GeneratorConfig) -> tuple[Tensor, Tensor]:
        """The motion heads as one affine map from the latent: (n, style_dim) and (n,).

        Seven linear layers without an activation between them, multiplied out in float64.
        """
        shared = [f"fc.{index}" for index in range(4)]
        rows, biases = [], []
        for bank, _ in config.banks:
            matrix = torch.eye(config.style_dim, dtype=torch.float64)
            bias = torch.zeros(config.style_dim, dtype=torch.float64)
            for name in [*shared, *(f"{bank}_fc.{index}" for index in range(3))]:
                weight, offset = (part.cpu().double() for part in self.linear(name))
                matrix, bias = weight @ matrix, weight @ bias + offset
            rows.append(matrix)
            biases.append(bias)
        return torch.cat(rows).float().to(self.device), torch.cat(biases).float().to(self.device)


def dead_keys(config: GeneratorConfig) -> dict[str, tuple[int, ...]]:
    """Tensors of the published checkpoints that no way of rendering reads, with their shapes."""
    levels, coarse = len(config.resolutions), config.channels[4]
    names: dict[str, tuple[int, ...]] = {
        "dec.to_rgb1.bias": (1, 3, 1, 1),
        "dec.to_rgb1.conv.0.weight": (3, coarse, 1, 1),
        "dec.to_rgb1.conv.1.bias": (1, 3, 1, 1),
        "dec.to_rgbs.0.upsample.kernel": (4, 4),
        "dec.to_flows.0.upsample.kernel": (4, 4),
    }
    for layer in ["conv1", *(f"convs.{index}" for index in range(2 * levels))]:
        names[f"dec.{layer}.noise.weight"] = (1,)
    if config.enhances_expression:
        for level, resolution in enumerate(config.resolutions):
            block, width = f"dec.fineadainresblock.{level}", config.channels[resolution]
            names[f"{block}.conv1.weight"] = (width, width, 3, 3)
            names[f"{block}.conv1.bias"] = (width,)
            for part, rows, columns in (
                ("mlp_shared.0", ENHANCEMENT_WIDTH, config.style_dim),
                ("mlp_gamma", width, ENHANCEMENT_WIDTH),
                ("mlp_beta", width, ENHANCEMENT_WIDTH),
            ):
                names[f"{block}.norm1.{part}.weight"] = (rows, columns)
                names[f"{block}.norm1.{part}.bias"] = (rows,)
    return names
