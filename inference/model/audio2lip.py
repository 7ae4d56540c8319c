"""Audio2Lip: 0.2 s of mel spectrogram to the lip coefficients of one frame.

Tensors have upstream's names and shapes, so `Audio2Lip.pt` loads unchanged; the starter bank has a narrower network.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

MEL_BANDS = 80
WINDOW = 16  # mel frames, 0.2 s


@dataclass(frozen=True)
class Audio2LipConfig:
    """channels: widths at the five resolutions; lip_dim: number of lip coefficients."""

    channels: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    lip_dim: int = 20


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, optional residual connection, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int | tuple[int, int] = 1,
        padding: int = 1,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_block(x)
        return F.relu_(y + x if self.residual else y)

    def fuse(self) -> None:
        """Fold the batch normalisation into the convolution; the block must be in eval mode."""
        if len(self.conv_block) == 2:
            self.conv_block = nn.Sequential(fuse_conv_bn_eval(*self.conv_block))


class Audio2Lip(nn.Module):
    """Mel windows (T, 1, 80, 16) to lip coefficients (T, lip_dim); every window is independent of the others."""

    def __init__(self, config: Audio2LipConfig | None = None) -> None:
        super().__init__()
        self.config = config or Audio2LipConfig()
        a, b, c, d, e = self.config.channels
        self.audio_encoder = nn.Sequential(  # (T, 1, 80, 16): height is the mel band, width is time
            ConvBlock(1, a),
            ConvBlock(a, a, residual=True),
            ConvBlock(a, a, residual=True),  # (T, a, 80, 16)
            ConvBlock(a, b, stride=(3, 1)),
            ConvBlock(b, b, residual=True),
            ConvBlock(b, b, residual=True),  # (T, b, 27, 16)
            ConvBlock(b, c, stride=3),
            ConvBlock(c, c, residual=True),
            ConvBlock(c, c, residual=True),  # (T, c, 9, 6)
            ConvBlock(c, d, stride=(3, 2)),
            ConvBlock(d, d, residual=True),  # (T, d, 3, 3)
            ConvBlock(d, e, padding=0),
            ConvBlock(e, e, kernel=1, padding=0),  # (T, e, 1, 1)
        )
        self.mapping = nn.Linear(e, self.config.lip_dim)

    def forward(self, windows: Tensor) -> Tensor:
        return self.mapping(self.audio_encoder(windows).flatten(1))

    def fuse(self) -> Audio2Lip:
        """Switch to eval mode and fold the batch normalisations into the convolutions, in place. Returns self.

        The state dict then lacks the batch normalisations: do not save a fused network.
        """
        self.eval()
        for block in self.audio_encoder:
            block.fuse()
        return self
