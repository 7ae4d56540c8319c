"""Provides a bank's tensors to the fast encoder and decoder, with equalised layers scaled by 1 / sqrt(fan in)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..contract.config import GeneratorConfig
from ..contract.errors import EDTalkError


class Weights:
    """Looks up tensors by their names in EDTalk's checkpoints and copies them to a device.

    All methods raise EDTalkError (kind "bank") if the bank lacks the tensor.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], device: torch.device | str = "cpu") -> None:
        self._tensors = tensors
        self.device = torch.device(device)

    def __call__(self, name: str) -> Tensor:
        """The tensor as it is stored, converted to float32."""
        if name not in self._tensors:
            raise EDTalkError(f"The bank has no tensor '{name}'.", "Get the bank again.", "bank")
        return torch.from_numpy(np.array(self._tensors[name], np.float32)).to(self.device)

    def conv(self, name: str) -> Tensor:
        """The scaled weight (O, I, k, k) of an equalised convolution, modulated or not."""
        weight = self(f"{name}.weight")
        weight = weight[0] if weight.ndim == 5 else weight
        return weight / math.sqrt(weight[0].numel())

    def linear(self, name: str) -> tuple[Tensor, Tensor]:
        """The scaled weight (O, I) and the bias (O,) of an equalised linear layer."""
        weight = self(f"{name}.weight")
        return weight / math.sqrt(weight.shape[1]), self(f"{name}.bias")

    def basis(self, config: GeneratorConfig) -> Tensor:
        """Q (style_dim, n), orthonormal columns in bank order.

        Householder QR processes columns in order, so an additional bank does not change the earlier columns. It is
        always computed on the CPU, because the coefficients are trained with the signs that LAPACK chooses.
        """
        names = ["lipnonlip", *(name for name, _ in config.banks[2:])]
        directions = torch.cat([self(f"direction_{name}.weight") for name in names], 1).cpu()
        return torch.linalg.qr(directions + 1e-8).Q.to(self.device)

    def heads(self, config: GeneratorConfig) -> tuple[Tensor, Tensor]:
        """The motion heads as one affine map from the latent: weight (n, style_dim) and bias (n,).

        They are seven linear layers without activations, multiplied out in float64.
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
