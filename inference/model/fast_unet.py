"""The UNets of refiner and insets in a fast form for inference; the result is the same up to rounding.

Three things differ from `inference.model.refiner.UNet`. The gains and offsets of all layers are one matrix product. A
3x3 convolution of an enlarged map is a transposed 4x4 convolution of the small one, with 4 instead of 9 multiplications
for each value. Input that depends on the source alone is convolved once per source.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layout import channels_last, scaled
from .refiner import LEAK, UNet


def painting_type(device: torch.device) -> torch.dtype:
    """The precision of the convolutions of refiner and insets: bfloat16 where the device multiplies it directly.

    The networks are trained with it. Graphics cards do from compute capability 8.0 on. Elsewhere float32.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    if device.type != "cpu":
        return torch.float32
    found = (
        getattr(torch.cpu, name, lambda: False) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return torch.bfloat16 if any(has() for has in found) else torch.float32


class FastUNet:
    """A `UNet` and the convolution after it: (N, inputs, H, W) float32 -> (N, outputs, H, W) in `dtype`.

    unet, last: their weights are copied. dtype: of the convolutions. fixed: number of channels, the last of the input,
    that depend on the source alone; they are passed to `prepare` instead.
    """

    def __init__(self, unet: UNet, last: nn.Conv2d, dtype: torch.dtype, fixed: int = 0) -> None:
        halves = [pair for level in zip(unet.down, unet.same, strict=True) for pair in level]
        layers: list[Any] = [unet.first, *halves, *reversed(unet.up), unet.last]  # of `Conv`
        conditions = [layer.condition for layer in layers]
        self.dtype, self.sizes = dtype, [len(condition.bias) for condition in conditions]
        self.condition = torch.cat([condition.weight for condition in conditions])
        first_gains = torch.cat([torch.arange(size) < size // 2 for size in self.sizes]).to(self.condition)
        self.condition_bias = torch.cat([condition.bias for condition in conditions]) + first_gains

        weight = unet.first.conv.weight
        varying = weight.shape[1] - fixed
        self.first = self._stored(weight[:, :varying]), self._biased(unet.first.conv)
        self.fixed = self._stored(weight[:, varying:]) if fixed else None
        self.down = [
            (self._both(down.conv), self._both(same.conv)) for down, same in zip(unet.down, unet.same, strict=True)
        ]
        self.up = []
        pairs: Any = zip(reversed(unet.up), reversed(unet.down), strict=True)
        for up, below in pairs:
            weight, skipped = up.conv.weight, up.conv.in_channels - below.conv.out_channels
            self.up.append(
                (self._stored(weight[:, :skipped]), self._biased(up.conv), self._enlarged(weight[:, skipped:]))
            )
        self.last, self.paint = self._both(unet.last.conv), self._both(last)

    def prepare(self, fixed: Tensor) -> Tensor:
        """(N, fixed, H, W) -> (N, C, H, W), the part of the first convolution that depends on the source alone."""
        assert self.fixed is not None
        return F.conv2d(channels_last(fixed.to(self.dtype)), self.fixed, padding=1)

    def __call__(self, x: Tensor, condition: Tensor, prepared: Tensor | None = None) -> Tensor:
        """condition: (N, n), float32. prepared: as from `prepare`, for N sources or one."""
        changes = iter(self._changes(condition))
        x = F.conv2d(channels_last(x.to(self.dtype)), *self.first, padding=1)
        if prepared is not None:
            x += prepared
        x = _activated(x, next(changes))
        skipped = []
        for down, same in self.down:
            skipped.append(x)
            x = _activated(F.conv2d(x, *down, stride=2, padding=1), next(changes))
            x = _activated(F.conv2d(x, *same, padding=1), next(changes))
        for (weight, bias, enlarged), skip in zip(self.up, reversed(skipped), strict=True):
            beside = F.conv2d(skip, weight, bias, padding=1)
            x = _activated(beside.add_(F.conv_transpose2d(x, enlarged, stride=2, padding=1)), next(changes))
        x = _activated(F.conv2d(x, *self.last, padding=1), next(changes))
        return F.conv2d(x, *self.paint, padding=1)

    def _changes(self, condition: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Gain and offset of each layer, (N, C, 1, 1) each."""
        both = F.linear(condition, self.condition, self.condition_bias).to(self.dtype)[:, :, None, None]
        return [part.chunk(2, 1) for part in both.split(self.sizes, 1)]

    def _both(self, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
        return self._stored(conv.weight), self._biased(conv)

    def _biased(self, conv: nn.Conv2d) -> Tensor:
        return conv.bias.detach().to(self.dtype)

    def _stored(self, weight: Tensor) -> Tensor:
        return channels_last(weight.detach().to(self.dtype))

    def _enlarged(self, weight: Tensor) -> Tensor:
        """(O, I, 3, 3) -> (I, O, 4, 4), for a transposed convolution of stride 2 in place of an enlarged map."""
        taps = weight.detach().flip(2, 3).reshape(-1, 1, 3, 3)
        wide = F.conv2d(taps, taps.new_ones(1, 1, 2, 2), padding=1)
        return self._stored(wide.view(*weight.shape[:2], 4, 4).transpose(0, 1))


def _activated(x: Tensor, change: tuple[Tensor, Tensor]) -> Tensor:
    return F.leaky_relu_(scaled(x, *change), LEAK)
