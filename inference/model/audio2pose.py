"""Audio2Pose: a normalizing flow that draws head motion from noise and the prosody of speech.

A convolutional network predicts the expected motion; the flow draws how a performance differs from it. This difference
(T, 6) is split into six bands by a wavelet transform over time, from slow to fast. Each band has its own flow,
conditioned on the slower bands and, for the four faster ones, on the prosody. All bands are convolutional: a row
depends only on a few seconds around it, so nothing drifts, and a change of the sound changes the motion only near it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PREFIX = "audio2pose."
POSE_FPS = 12.5  # rows of motion and of prosody per second
POSE = 6  # yaw, pitch, roll in degrees, shift right and down in picture widths, scale
LEVELS = 5  # of the wavelet transform; T is a multiple of BLOCK
BLOCK = 2**LEVELS
FREEDOM = 30.0  # degrees of freedom of the noise, a Student-t distribution
_SUB_STEPS = 8  # rows of prosody, at most, that a place of a band receives
_STRONGEST = 1.5  # largest logarithm of a coupling's scale


@dataclass(frozen=True)
class Audio2PoseConfig:
    """features: columns of the prosody. width: channels of the coupling networks. audio: channels of the prosody in
    them. steps: number of flow steps of each band, from slow to fast. mean: channels of the network of the expected
    motion; 0 if there is none, as in banks of earlier versions. late: 1 if that motion has a delay of its own. own: 1
    if the motion is not in physical units, but in those of the first six pose coefficients of the bank.
    """

    features: int = 17
    width: int = 96
    audio: int = 24
    steps: tuple[int, ...] = (4, 4, 4, 6, 6, 4)
    mean: int = field(default=0, metadata={"optional": True})
    late: int = field(default=0, metadata={"optional": True})
    own: int = field(default=0, metadata={"optional": True})


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """One level of the LeGall 5/3 wavelet: (B, C, n) with even n to its slow and fast half, (B, C, n / 2) each."""
    even, odd = x[..., ::2], x[..., 1::2]
    fast = odd - 0.5 * (even + torch.cat([even[..., 1:], even[..., -1:]], dim=-1))
    slow = even + 0.25 * (torch.cat([fast[..., :1], fast[..., :-1]], dim=-1) + fast)
    return slow * math.sqrt(2), fast / math.sqrt(2)


def merge(slow: Tensor, fast: Tensor) -> Tensor:
    """The inverse of `split`."""
    slow, fast = slow / math.sqrt(2), fast * math.sqrt(2)
    even = slow - 0.25 * (torch.cat([fast[..., :1], fast[..., :-1]], dim=-1) + fast)
    odd = fast + 0.5 * (even + torch.cat([even[..., 1:], even[..., -1:]], dim=-1))
    return torch.stack([even, odd], dim=-1).flatten(-2)


def to_bands(x: Tensor) -> list[Tensor]:
    """Motion (B, 6, T) to six bands from slow to fast: (B, 6, T / 32) twice, then T / 16 to T / 2."""
    bands: list[Tensor] = []
    for _ in range(LEVELS):
        x, fast = split(x)
        bands.append(fast)
    return [x, *reversed(bands)]


def from_bands(bands: list[Tensor]) -> Tensor:
    """The inverse of `to_bands`."""
    x = bands[0]
    for fast in bands[1:]:
        x = merge(x, fast)
    return x


class Step(nn.Module):
    """One step of a flow on (B, 6, n): scale and shift, mix the channels, and an affine coupling.

    kind: what the coupling keeps, by its number modulo 4: the first channels, even places, the last channels, odd
    places.
    """

    def __init__(self, context: int, width: int, kind: int) -> None:
        super().__init__()
        self.kind = kind % 4
        self.log_scale = nn.Parameter(torch.zeros(POSE, 1))
        self.shift = nn.Parameter(torch.zeros(POSE, 1))
        mix = torch.empty(POSE, POSE)
        if not mix.is_meta:  # on the meta device, random numbers import torch's compiler, which takes a second
            mix = torch.linalg.qr(torch.randn(POSE, POSE))[0]
        self.mix = nn.Parameter(mix)
        self.first = nn.Conv1d(POSE + 1 + context, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 1)
        self.last = nn.Conv1d(width, 2 * POSE, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The step's output, and the logarithm of its determinant (B,)."""
        x = self.mix @ ((x + self.shift) * self.log_scale.exp())
        kept = self._kept(x)
        log_scale, shift = self._coupling(x * kept, kept, context)
        x = x * kept + (1 - kept) * (x * log_scale.exp() + shift)
        volume = x.shape[-1] * (self.log_scale.sum() + torch.linalg.slogdet(self.mix)[1])
        return x, volume + (log_scale * (1 - kept)).sum(dim=(1, 2))

    def inverse(self, y: Tensor, context: Tensor | None) -> Tensor:
        kept = self._kept(y)
        log_scale, shift = self._coupling(y * kept, kept, context)
        y = y * kept + (1 - kept) * (y - shift) * (-log_scale).exp()
        return (torch.linalg.inv(self.mix) @ y) * (-self.log_scale).exp() - self.shift

    def _kept(self, x: Tensor) -> Tensor:
        """(1, 6, n) mask of what the coupling keeps."""
        kept = torch.zeros(1, POSE, x.shape[-1], device=x.device)
        if self.kind == 0:
            kept[:, : POSE // 2] = 1
        elif self.kind == 2:
            kept[:, POSE // 2 :] = 1
        else:
            kept[..., self.kind // 2 :: 2] = 1
        return kept

    def _coupling(self, x: Tensor, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        parts = [x, kept[:, :1].expand(len(x), -1, -1)]
        hidden = F.silu(self.first(torch.cat(parts if context is None else [*parts, context], dim=1)))
        log_scale, shift = self.last(F.silu(self.second(hidden))).chunk(2, dim=1)
        return _STRONGEST * torch.tanh(log_scale / _STRONGEST), shift


class Band(nn.Module):
    """The flow of one band.

    level: of the wavelet transform. with_audio: whether it depends on the prosody. slower: whether it depends on slower
    bands.
    """

    def __init__(self, config: Audio2PoseConfig, level: int, steps: int, with_audio: bool, slower: bool) -> None:
        super().__init__()
        self.level = level
        self.sub_steps = min(_SUB_STEPS, 2**level)
        self.audio: nn.Sequential | None = None
        if with_audio:
            self.audio = nn.Sequential(
                nn.Conv1d(config.features * self.sub_steps, 64, 1), nn.SiLU(), nn.Conv1d(64, config.audio, 1)
            )
        context = (config.audio if with_audio else 0) + (POSE if slower else 0)
        self.steps = nn.ModuleList(Step(context, config.width, kind) for kind in range(steps))

    def context(self, features: Tensor, slower: Tensor | None) -> Tensor | None:
        """(B, c, n) what the flow depends on. features: (B, 17, T). slower: (B, 6, n) or None."""
        parts = [] if slower is None else [slower]
        if self.audio is not None:
            rows = F.avg_pool1d(features, 2**self.level // self.sub_steps)
            places = rows.unflatten(-1, (-1, self.sub_steps)).transpose(2, 3).flatten(1, 2)
            parts.append(self.audio(places))
        return torch.cat(parts, dim=1) if parts else None

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise (B, 6, n), and the logarithm of the determinant (B,)."""
        volume = torch.zeros(len(x), device=x.device)
        for step in self.steps:
            x, change = step(x, context)
            volume = volume + change
        return x, volume

    def inverse(self, z: Tensor, context: Tensor | None) -> Tensor:
        for step in reversed(self.steps):
            z = step.inverse(z, context)
        return z


def delayed(x: Tensor, rows: float) -> Tensor:
    """x (B, C, n) later by a number of rows, which may be negative; its ends are kept."""
    place = (torch.arange(x.shape[-1], device=x.device) - rows).clamp(0, x.shape[-1] - 1)
    before = place.floor().long()
    after = (before + 1).clamp(max=x.shape[-1] - 1)
    return torch.lerp(x[..., before], x[..., after], (place - before).to(x.dtype))


class ExpectedMotion(nn.Module):
    """The mean (B, 6, T) of all motions for a prosody (B, 17, T), standardised. A row depends on 0.9 s around it.

    Maximum likelihood alone teaches the flow how motion answers to accents slowly, because a single performance
    contains much chance; this network is trained with the mean of many.
    """

    lag: Tensor | None

    def __init__(self, features: int, width: int, late: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(features, width, 7, padding=3), nn.SiLU(),
            nn.Conv1d(width, width, 7, padding=3), nn.SiLU(),
            nn.Conv1d(width, width, 7, padding=3), nn.SiLU(),
            nn.Conv1d(width, POSE, 5, padding=2),
        )  # fmt: skip
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)
        self.register_buffer("gain", torch.ones(LEVELS + 1, POSE, 1))  # of each band: from standardised to units
        self.register_buffer("lag", torch.zeros(1) if late else None)  # seconds; positive: the head moves later

    def forward(self, features: Tensor) -> Tensor:
        motion = self.layers(features)
        return motion if self.lag is None else delayed(motion, self.lag.item() * POSE_FPS)

    def bands(self, features: Tensor) -> list[Tensor]:
        """The bands of the expected motion, in its units."""
        return [gain * band for gain, band in zip(self.gain, to_bands(self(features)), strict=True)]


class Audio2Pose(nn.Module):
    """Head motion (B, 6, T) in the units of `POSE`, given prosody (B, 17, T) at 12.5 rows per second."""

    def __init__(self, config: Audio2PoseConfig | None = None) -> None:
        super().__init__()
        self.config = config or Audio2PoseConfig()
        levels = [LEVELS, *range(LEVELS, 0, -1)]
        self.bands = nn.ModuleList(
            Band(self.config, level, steps, with_audio=index >= 2, slower=index >= 1)
            for index, (level, steps) in enumerate(zip(levels, self.config.steps, strict=True))
        )
        mean, late = self.config.mean, bool(self.config.late)
        self.mean = ExpectedMotion(self.config.features, mean, late) if mean else None
        if self.config.own:
            self.register_buffer("own", torch.ones(1))  # marks the units in a file
        self.register_buffer("feature_mean", torch.zeros(self.config.features, 1))
        self.register_buffer("feature_scale", torch.ones(self.config.features, 1))
        self.register_buffer("deviation", torch.ones(len(levels), POSE, 1))  # of each band of the motion
        self.register_buffer("slow_deviation", torch.ones(LEVELS, POSE, 1))  # of all slower bands, for bands 1 to 5

    def log_likelihood(self, motion: Tensor, features: Tensor, noise: float = 0.0) -> Tensor:
        """(6, B) logarithm of the density of each band, in nats per number.

        motion: (B, 6, T), T a multiple of 32. noise: deviation of normal noise added to the bands, in their deviations.
        """
        features = self._standardised(features)
        likelihoods, slower = [], None
        expected = self._expected(features)
        for number, (x, band) in enumerate(zip(to_bands(motion), self.bands, strict=True)):
            if expected:
                x = x - expected[number].detach()
            scaled = x / self.deviation[number]
            if noise:
                scaled = scaled + noise * torch.randn_like(scaled)
            z, volume = band(scaled, self._context(number, features, slower))
            likelihoods.append((log_density(z).sum(dim=(1, 2)) + volume) / (POSE * x.shape[-1]))
            slower = x if slower is None else merge(slower, x)
        return torch.stack(likelihoods)

    def expected_error(self, motion: Tensor, features: Tensor) -> Tensor:
        """Mean square error of the expected motion, standardised. motion: mean of many (B, 6, T), or a single one."""
        assert self.mean is not None
        return (self.mean(self._standardised(features)) - motion / self.mean.gain[0]).square().mean()

    def sample(self, noise: list[Tensor], features: Tensor) -> list[Tensor]:
        """The bands of a motion, in its units; see `from_bands`. noise: of each band, (B, 6, n)."""
        features = self._standardised(features)
        bands: list[Tensor] = []
        slower: Tensor | None = None
        for number, (z, band) in enumerate(zip(noise, self.bands, strict=True)):
            x = band.inverse(z, self._context(number, features, slower)) * self.deviation[number]
            slower = x if slower is None else merge(slower, x)
            bands.append(x)
        expected = self._expected(features)
        return [x + mean for x, mean in zip(bands, expected, strict=True)] if expected else bands

    def expected_bands(self, features: Tensor) -> list[Tensor]:
        """The bands of the expected motion for prosody (B, 17, T); empty without a network for it."""
        return self._expected(self._standardised(features))

    def _expected(self, features: Tensor) -> list[Tensor]:
        return self.mean.bands(features) if self.mean is not None else []

    def _context(self, number: int, features: Tensor, slower: Tensor | None) -> Tensor | None:
        band = self.bands[number]
        return band.context(features, None if slower is None else slower / self.slow_deviation[number - 1])

    def _standardised(self, features: Tensor) -> Tensor:
        return (features - self.feature_mean) / self.feature_scale


def log_density(z: Tensor) -> Tensor:
    """The logarithm of the density of each number under Student's t distribution."""
    constant = math.lgamma((FREEDOM + 1) / 2) - math.lgamma(FREEDOM / 2) - 0.5 * math.log(FREEDOM * math.pi)
    return constant - 0.5 * (FREEDOM + 1) * torch.log1p(z * z / FREEDOM)
