"""What a bank may carry to draw what no warp of a source finds: teeth in a mouth that opens, skin of lids that close.

A network that draws the whole picture spends next to nothing on a mouth. Here one draws a window around the mouth and
one a window around the eyes, at more than the bank's own resolution. The windows go where the head goes, by the
refiner's motion at three anchors, so that teeth are always at much the same place in theirs, and are learnt soon. An
inset is laid over the picture where the network says that the source does not show what is there; where a face does
what its source does, it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .readers.absolute import Reader, ReaderConfig
from .refiner import SMALL, UNet, pixel_places, warped

PREFIX = "insets."
INPUTS = 12
DARKEST = 0.05  # level, of 1, that is added before logarithms: what differs below is noise
CONTRAST = 0.5  # of these logarithms: about how much a face's differ
CHANGE = 0.1  # change of a face's coefficients from which an inset counts fully
BORDER = 0.3  # share of an oval's half axes over which an inset fades in
CELL = 8  # pixels of a side of those that an inset is made to meet its border by


@dataclass(frozen=True)
class InsetConfig:
    """size: height and width of the window in pixels, multiples of 2 ** len(channels); channels: widths of its UNet."""

    size: tuple[int, int]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class InsetsConfig:
    """anchors: the reader that locates eyes and mouth, of 6 outputs; mouth, eyes: the network of each window."""

    anchors: ReaderConfig
    mouth: InsetConfig
    eyes: InsetConfig
    coefficients: int


class Window(NamedTuple):
    """A tilted rectangle in a picture, in [-1, 1]: (N, 2) each, its middle and half its width and its height."""

    middle: Tensor
    along: Tensor
    down: Tensor

    def places(self, height: int, width: int) -> Tensor:
        """(N, 2, height, width): where in the picture its pixels lie."""
        x, y = ((torch.arange(count, device=self.middle.device) * 2 + 1) / count - 1 for count in (width, height))
        along, down = (side[:, :, None, None] for side in (self.along, self.down))
        return self.middle[:, :, None, None] + along * x + down * y[:, None]

    def pixels(self, row: int, height: int, width: int) -> np.ndarray:
        """(2, 3) float64 that takes a pixel of the window, of that many, to its place in picture `row`, in [-1, 1].

        For one that lies in the CPU's memory.
        """
        middle, along, down = (part[row].numpy().astype(np.float64) for part in self)
        along, down = along * 2 / width, down * 2 / height
        return np.stack([along, down, middle - along * (width - 1) / 2 - down * (height - 1) / 2], 1)

    def inside(self, places: Tensor) -> Tensor:
        """(N, 2, H, W) places in the picture -> where in the window they are, in [-1, 1] where they are within."""
        away = places - self.middle[:, :, None, None]
        along, down = (
            (side / side.square().sum(1, keepdim=True))[:, :, None, None] for side in (self.along, self.down)
        )
        return torch.cat([(away * along).sum(1, keepdim=True), (away * down).sum(1, keepdim=True)], 1)


def window_at(eyes: Tensor, anchor: Tensor, extent: Sequence[float]) -> Window:
    """eyes (N, 2): from the left to the right one; anchor (N, 2). extent: half the window's width and height, and how
    far below the anchor it lies, in distances of the eyes."""
    across, height, below = extent
    upright = torch.stack([-eyes[:, 1], eyes[:, 0]], 1)
    return Window(anchor + below * upright, across * eyes, height * upright)


def windows_at(anchors: Tensor, extents: Sequence[Sequence[float] | Tensor]) -> list[Window]:
    """Around mouth and eyes. anchors (N, 3, 2): of the left eye, the right one and the mouth; extents: see
    `window_at`."""
    left, right, mouth = anchors.unbind(1)
    middles = mouth, (left + right) / 2
    return [window_at(right - left, middle, extent) for middle, extent in zip(middles, extents, strict=True)]


class Laid(NamedTuple):
    """What is to be laid over N pictures: (N, 4, h, w), colour in [-1, 1] times alpha, and alpha."""

    window: Window
    drawn: Tensor

    def cpu(self) -> Laid:
        return Laid(Window(*(part.cpu() for part in self.window)), self.drawn.cpu())

    def frame(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """(2, 3) that takes a pixel of the window to [-1, 1] of one picture, and (h, w, 4) float32."""
        drawn = self.drawn[row].permute(1, 2, 0).numpy()
        return self.window.pixels(row, *drawn.shape[:2]), np.ascontiguousarray(drawn)


class Inset(nn.Module):
    """What is in a window: (N, INPUTS, h, w), coefficients (N, n) and `skin_of` the source's window -> (N, 4, h, w),
    colour and alpha.

    It sees and says, in each colour, how many times as bright as the skin around it anything is, so that a photograph's
    light is no news. What it says meets the picture where it fades into it: what is amiss on the border
    is made good within, the less the further from there (Shepard's weights).
    called_by: (n,) 1 for coefficients whose change calls for it. tone: 1 where what is drawn is skin, of whatever
    colour that is; 0 where it is not, and is said against no more than how bright the skin is: mouths are red within,
    whoever's they are. extent: see `window_at`. ovals: the middle across, and half the width and height, in the
    window's [-1, 1], of each place that may be drawn over: mouth or eyes, but not the outline of the face.
    """

    def __init__(self, config: InsetConfig, coefficients: int) -> None:
        super().__init__()
        self.config = config
        height, width = config.size
        cells = -(-height // CELL) * -(-width // CELL)
        self.register_buffer("called_by", torch.ones(coefficients))
        self.register_buffer("tone", torch.tensor(1.0))
        self.register_buffer("extent", torch.ones(3))
        self.register_buffer("feather", torch.zeros(1, 1, height, width))
        self.register_buffer("reach", torch.zeros(cells, cells))
        self.unet = UNet(4 * INPUTS, config.channels, config.channels[0], condition=coefficients + 3)
        self.paint = nn.Conv2d(config.channels[0], 4 * 4, 3, padding=1)
        nn.init.zeros_(self.paint.weight)
        nn.init.zeros_(self.paint.bias)

    def placed(
        self, extent: Sequence[float], ovals: Sequence[tuple[float, float, float]], called_by: Tensor, tone: float
    ) -> Inset:
        """Set where and when it draws; a trained inset stores this among its tensors. Returns self.

        extent: see `window_at`. ovals: horizontal centre, half width and half height, in the window's [-1, 1], of each
        area that may be drawn over: mouth or eyes, but not the outline of the face. called_by (n,), tone: see `Inset`.
        """
        self.extent.copy_(torch.tensor(extent))
        self.called_by.copy_(called_by)
        self.tone.fill_(tone)
        x, y = ((torch.arange(count) * 2 + 1) / count - 1 for count in reversed(self.config.size))
        away = [torch.hypot((x - middle) / across, y[:, None] / down) for middle, across, down in ovals]
        self.feather.copy_(((1 - torch.stack(away).amin(0)) / BORDER).clamp(0.0, 1.0))
        amount = self._cells(self.border[None, None].float())[0, 0]
        cells = torch.cartesian_prod(*(torch.arange(count) for count in amount.shape)).float()
        near = 1 / (torch.cdist(cells, cells).square() + 0.5)
        self.reach.copy_(near / (near @ amount.flatten())[:, None])
        return self

    def strength(self, change: Tensor) -> Tensor:
        """change (N, n) -> (N, 1, 1, 1): how much the inset counts."""
        return ((change.abs() * self.called_by).amax(1) / CHANGE).clamp(max=1.0)[:, None, None, None]

    def skin_of(self, own: Tensor) -> Tensor:
        """A source's window (N, 3, h, w) -> (N, 3), logarithms of the skin's colour there."""
        return logarithms(own[:, :, self.border]).median(2).values  # there may be a brow, or the end of a chin

    def forward(self, seen: Tensor, coefficients: Tensor, skin: Tensor) -> Tensor:
        warped_source, places, own, pixels = seen.split((3, 4, 3, 2), 1)
        warped_source, own = logarithms(warped_source), logarithms(own)
        condition = torch.cat([coefficients, skin], 1)
        skin = skin[:, :, None, None]
        seen = torch.cat([(warped_source - skin) / CONTRAST, places, (own - skin) / CONTRAST, pixels], 1)
        with torch.autocast(seen.device.type, torch.bfloat16, enabled=self.training):
            painted = self.paint(self.unet(F.pixel_unshuffle(seen.clamp(-4.0, 4.0), 2), condition)).float()
        painted = F.pixel_shuffle(painted, 2)
        drawn = torch.lerp(skin.mean(1, keepdim=True), skin, self.tone) + CONTRAST * painted[:, :3]
        amiss = self._cells((warped_source - drawn) * self.border)
        within = (amiss.flatten(2) @ self.reach.T).unflatten(2, amiss.shape[2:])
        drawn = drawn + F.interpolate(within, size=drawn.shape[2:], mode="bilinear")
        return torch.cat([colours(drawn), torch.sigmoid(painted[:, 3:]) * self.feather], 1)

    @property
    def border(self) -> Tensor:
        """(h, w) bool: where it fades in."""
        return (self.feather[0, 0] > 0) & (self.feather[0, 0] < 1)

    def _cells(self, planes: Tensor) -> Tensor:
        height, width = planes.shape[2:]
        return F.adaptive_avg_pool2d(planes, (-(-height // CELL), -(-width // CELL)))


def logarithms(colours: Tensor) -> Tensor:
    """Of levels of 1, of colours in [-1, 1]."""
    return torch.log((colours.clamp(min=-1.0) + 1) / 2 + DARKEST)


def colours(logarithms: Tensor) -> Tensor:
    """The inverse of `logarithms`, in [-1, 1 and a little more]."""
    return (torch.exp(logarithms.clamp(max=0.2)) - DARKEST) * 2 - 1


class Known(NamedTuple):
    """Of a source (N, 3, S, S): where its eyes and its mouth are, (N, 3, 2), how each of the refiner's amounts moves
    them, (N, fields, 2, 3), what the windows of mouth and eyes show of it, (N, 3, h, w), and skin there, (N, 3)."""

    source: Tensor
    anchors: Tensor
    moved: Tensor
    mouth: Tensor
    eyes: Tensor
    around_mouth: Tensor
    around_eyes: Tensor

    def anchors_at(self, turned: Tensor) -> Tensor:
        """(N, 3, 2): where the anchors are once the head has moved by turned (N, fields), the refiner's amounts."""
        return self.anchors + torch.einsum("nf,nfcp->npc", turned, self.moved.expand(len(turned), -1, -1, -1))


class Insets(nn.Module):
    """Mouth and eyes. anchors: reads off a picture where the left eye, the right one and the mouth are in it.

    pose: (n,) 1 for coefficients that move the whole head.
    """

    def __init__(self, config: InsetsConfig) -> None:
        super().__init__()
        self.config, count = config, config.coefficients
        self.anchors = Reader(config.anchors)
        self.mouth, self.eyes = Inset(config.mouth, count), Inset(config.eyes, count)
        self.register_buffer("pose", torch.zeros(count))

    def find(self, source: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, 3, 2) anchors in [-1, 1]."""
        small = F.interpolate(source, size=(self.anchors.size,) * 2, mode="area")
        return self.anchors(small).unflatten(1, (3, 2))

    def know(self, source: Tensor, motion: Tensor, anchors: Tensor) -> Known:
        """source (N, 3, S, S) of any size; motion: the refiner's (N, fields, 2, H, H)."""
        at = F.grid_sample(motion.flatten(1, 2), anchors[:, None], padding_mode="border", align_corners=False)
        insets = self.mouth, self.eyes
        windows = zip(insets, self.windows(anchors), strict=True)
        shown = [warped(source, window.places(*inset.feather.shape[-2:])) for inset, window in windows]
        skins = (inset.skin_of(own) for inset, own in zip(insets, shown, strict=True))
        return Known(source, anchors, at[:, :, 0].unflatten(1, (-1, 2)), *shown, *skins)

    def forward(
        self, known: Known, turned: Tensor, change: Tensor, looks: Tensor, missed: Tensor, coefficients: Tensor
    ) -> list[Laid]:
        """What to lay over pictures of N coefficients.

        turned (N, fields): what of the refiner's amounts is of the pose. change (N, n) of the coefficients against
        what the source does. looks, missed: see `inference.model.refiner.Refined`.
        """
        windows = self.windows(known.anchors_at(turned))
        result = []
        for number, inset in enumerate((self.mouth, self.eyes)):
            strength, window = inset.strength(change), windows[number]
            if not strength.any():
                continue
            skin = (known.around_mouth, known.around_eyes)[number]
            drawn = inset(self.see(number, known, window, looks, missed), coefficients, skin)
            alpha = drawn[:, 3:] * strength
            result.append(Laid(window, torch.cat([drawn[:, :3] * alpha, alpha], 1)))
        return result

    def windows(self, anchors: Tensor) -> list[Window]:
        """Of both insets; anchors (N, 3, 2)."""
        return windows_at(anchors, (self.mouth.extent, self.eyes.extent))

    def see(self, number: int, known: Known, window: Window, looks: Tensor, missed: Tensor) -> Tensor:
        """What inset `number` sees, (N, INPUTS, h, w): the source as it is warped into the window, by how much that
        misses, where it looks in the source's own window, what is there, and where in the window each pixel is."""
        own = (known.mouth, known.eyes)[number]
        places = window.places(*own.shape[-2:])
        looked = warped(looks, places)
        at_rest = self.windows(known.anchors)[number]
        seen = [warped(known.source, looked), warped(missed, places) / SMALL, at_rest.inside(looked), own]
        return torch.cat([*seen, window.inside(places)], 1)


def laid_over(pictures: Tensor, insets: Sequence[Laid]) -> Tensor:
    """Pictures (N, 3, S, S) under insets."""
    places = pixel_places(pictures.shape[-1], pictures.device)
    for window, drawn in insets:
        here = window.inside(places.expand(len(pictures), -1, -1, -1)).permute(0, 2, 3, 1)
        found = F.grid_sample(drawn, here, align_corners=False)  # nothing beyond its border
        pictures = pictures * (1 - found[:, 3:]) + found[:, :3]
    return pictures
