"""The detail transfer of `inference.detail` for batches on a graphics card; the frames differ by rounding.

Coordinates are in pixels, x first, of pictures in the layout (N, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import grain
from ..detail import FAINT, LEAST_GRAIN, RESIDUAL, SOFT, SQUEEZED, STEPS, STRETCHED
from ..grain import HALF_WAY
from .decoder import Drawn
from .insets import PlacedInset, Window, composite_insets
from .layout import constant
from .tensor_trees import concatenated, expanded

PIXELS = 2**21  # of the frames that are computed together: about 250 MB of the card's memory


@dataclass(frozen=True)
class FastDetail:
    """The textures of N sources, see `inference.detail.Detail`.

    fine: uint8 (N, 3, 2D - 1, 2D - 1). grain: float16 (N, 1, 2D - 1, 2D - 1), levels that give it new grain. rest:
    (N, 3, S, S), levels of the sources as rendered at rest. away: (N, 2, S, S), where they were sampled, relative to
    each pixel. mask: (N, 1, S, S), how much of it was used.
    """

    fine: Tensor
    grain: Tensor
    rest: Tensor
    away: Tensor
    mask: Tensor

    @staticmethod
    def of(fine: Tensor, at_rest: Drawn, row: int, new: Tensor | None = None) -> FastDetail:
        """fine: uint8 (D, D, 3). at_rest: pictures of which `row` is the source with its own coefficients. new: see
        `grain.new_grain`; default none.
        """
        rgb, places, logit = (part[row : row + 1] for part in at_rest)
        away = _in_pixels(places) - _pixels(places.shape[-1], places.device)
        fine = _between(fine.permute(2, 0, 1)[None])
        new = fine.new_zeros(fine.shape[2:]) if new is None else new
        return FastDetail(fine, new[None, None].half(), _levels(rgb), away, torch.sigmoid(logit))

    @property
    def size(self) -> int:
        """D, the width of the frames in pixels."""
        return (self.fine.shape[-1] + 1) // 2


def with_detail(details: Sequence[FastDetail], drawn: Drawn, insets: Sequence[PlacedInset]) -> Iterator[Tensor]:
    """The frames of N pictures with the texture of their sources: some at a time, (n, 3, D, D) in [-1, 1].

    details: of the one source, or N. insets: composited over the frames, without their teeth.
    """
    start, count = 0, len(drawn.rgb)
    while start < count:
        first = details[0] if len(details) == 1 else details[start]
        stop = min(start + max(1, PIXELS // first.size**2), count)
        if len(details) > 1:
            stop = next((row for row in range(start, stop) if details[row].size != first.size), stop)
            first = concatenated(details[start:stop])
        rows = slice(start, stop)
        some = Drawn(*(part[rows] for part in drawn))
        over = [PlacedInset(Window(*(part[rows] for part in laid.window)), laid.drawn[rows]) for laid in insets]
        yield composite_insets(_with_texture(first, some), over) if over else _with_texture(first, some)
        start = stop


def _with_texture(detail: FastDetail, drawn: Drawn) -> Tensor:
    """(N, 3, D, D) in [-1, 1]. detail: of one source, or of N."""
    count, size, small = len(drawn.rgb), detail.size, drawn.rgb.shape[-1]
    detail = expanded(detail, count)
    positions = _in_pixels(drawn.places)
    place = positions - detail.away
    for _ in range(STEPS - 1):
        place = positions - _sampled(detail.away, place)
    residual = place + _sampled(detail.away, place) - positions
    stretch = _stretch(place)
    kept = _kept(detail, place, torch.sigmoid(drawn.logit), torch.hypot(residual[:, :1], residual[:, 1:]), stretch)
    kept_small = kept
    change = _levels(drawn.rgb) - _sampled(detail.rest, place, "bicubic") * kept
    shift = (place - _pixels(small, place.device)) * (2 * size / small)  # `fine` has twice the resolution
    if size != small:
        shift = F.interpolate(shift, size=(size, size), mode="bilinear", align_corners=False)
        change, kept = (
            F.interpolate(part, size=(size, size), mode="bicubic", align_corners=False) for part in (change, kept)
        )
    at = _pixels(size, place.device) * 2 + shift
    seen = _sampled(detail.fine.float(), at)
    if size >= 2 * small:
        streaky = F.interpolate(_streaky(stretch, kept_small), size=(size, size), mode="bilinear", align_corners=False)
        seen = (seen + _sampled(detail.grain.float(), at) * streaky).clamp(0, 255)
    return torch.addcmul(change, seen, kept) / 127.5 - 1


def _streaky(stretch: Stretch, kept: Tensor) -> Tensor:
    """(N, 1, S, S) weight of the new grain at each pixel, 0..1, where texture is used."""
    wide, full = grain.STRETCHED
    weight = 1 - _share((stretch.across / stretch.down.clamp(min=1e-9)).sqrt(), full, wide)
    weight = torch.where((stretch.least > 0) & (kept > 0), weight, 0.0)
    weight = _blurred(-F.max_pool2d(-weight, 3, 1, 1))  # without thin strips
    return (weight - LEAST_GRAIN).clamp(min=0) / (1 - LEAST_GRAIN)


def _kept(detail: FastDetail, place: Tensor, mask: Tensor, residual: Tensor, stretch: Stretch) -> Tensor:
    """(N, 1, S, S) weight of the sources' texture at each pixel, 0..1; 1 at rest."""
    least, most, *_ = stretch
    kept = torch.minimum(_share(least, *STRETCHED), _share(1 / most.clamp(min=1), *SQUEEZED))
    kept = kept * (mask / _sampled(detail.mask, place).clamp(min=FAINT)).clamp(max=1)
    return _blurred(kept * ((RESIDUAL[1] - residual) / (RESIDUAL[1] - RESIDUAL[0])).clamp(0, 1))


def _blurred(plane: Tensor) -> Tensor:
    reach = round(4 * SOFT)
    taps = [math.exp(-((tap / SOFT) ** 2) / 2) for tap in range(-reach, reach + 1)]
    blur = constant(plane.device, *(tap / sum(taps) for tap in taps)).view(1, 1, 1, -1)
    plane = F.conv2d(F.pad(plane, (reach,) * 4, mode="replicate"), blur)
    return F.conv2d(plane, blur.mT)


def _share(value: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high` on."""
    return ((value - low) / (high - low)).clamp(0, 1)


class Stretch(NamedTuple):
    """See `inference.detail.Stretch`; (N, 1, S, S) each."""

    least: Tensor
    most: Tensor
    across: Tensor
    down: Tensor


def _stretch(place: Tensor) -> Stretch:
    across, down = torch.empty_like(place), torch.empty_like(place)
    across[..., 1:-1] = (place[..., 2:] - place[..., :-2]) / 2
    down[..., 1:-1, :] = (place[..., 2:, :] - place[..., :-2, :]) / 2
    for edge, before, after in ((0, 0, 1), (-1, -2, -1)):
        across[..., edge] = place[..., after] - place[..., before]
        down[..., edge, :] = place[..., after, :] - place[..., before, :]
    (x_across, y_across), (x_down, y_down) = across.split(1, 1), down.split(1, 1)
    area = x_across * y_down - y_across * x_down
    x, y = (line.square().sum(1, keepdim=True) for line in (across, down))
    half = (x + y) / 2
    spread = (half.square() - area.square()).clamp(min=0).sqrt()
    least = (half - spread).clamp(min=0).sqrt()
    return Stretch(torch.where(area > 0, least, 0.0), (half + spread).sqrt(), x, y)


def _sampled(pictures: Tensor, at: Tensor, mode: str = "bilinear") -> Tensor:
    """Pictures (N, C, R, R) at `at` (N, 2, H, W), with replicated borders."""
    grid = ((at * 2 + 1) / pictures.shape[-1] - 1).permute(0, 2, 3, 1)
    return F.grid_sample(pictures, grid, mode=mode, padding_mode="border", align_corners=False)


def _in_pixels(places: Tensor) -> Tensor:
    """(N, 2, S, S) in [-1, 1] -> pixels."""
    return ((places + 1) * places.shape[-1] - 1) / 2


def _pixels(size: int, device: torch.device) -> Tensor:
    """(1, 2, size, size): the place of each pixel."""
    line = torch.arange(size, device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"))[None]


def _levels(rgb: Tensor) -> Tensor:
    """[-1, 1], clamped -> 0 .. 255."""
    return (rgb.clamp(-1, 1) + 1) * 127.5


def _between(fine: Tensor) -> Tensor:
    """uint8 (N, 3, D, D) -> (N, 3, 2D - 1, 2D - 1): one pixel is inserted between any two, see `inference.detail`."""
    for across in (True, False):
        lines = fine.float() if across else fine.float().mT
        count, channels, height, width = lines.shape
        taps = constant(fine.device, *HALF_WAY.tolist()).view(1, 1, 1, -1)
        padded = F.pad(lines, (2, 3, 0, 0), mode="replicate").view(count * channels, 1, height, -1)
        after = F.conv2d(padded, taps).view_as(lines)[..., :-1].round().clamp(0, 255)
        result = lines.new_empty(count, channels, height, 2 * width - 1)
        result[..., ::2], result[..., 1::2] = lines, after
        fine = (result if across else result.mT).to(torch.uint8)
    return fine.contiguous()
