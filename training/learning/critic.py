"""The critic (discriminator) of adversarial training, and the hinge losses of both sides."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

CRITIC_LEAD = 0.02  # share of a phase during which the critic is trained before its loss is used


class Critic(nn.Module):
    """Pictures (N, 3, H, W) -> (N, 1, H / 8, W / 8): how realistic each patch looks, higher for real ones."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.utils.parametrizations.spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)),
                       nn.LeakyReLU(0.2)]  # fmt: skip
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, padding=1))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures)


def adversarial_loss(critic: Critic, made: Tensor) -> Tensor:
    """Loss of the network that made the pictures."""
    return -critic(made).mean()


def critic_loss(critic: Critic, real: Tensor, made: Tensor) -> Tensor:
    """Loss of the critic."""
    return F.relu(1.0 - critic(real)).mean() + F.relu(1.0 + critic(made.detach())).mean()
