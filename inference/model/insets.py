"""Renders what cannot be warped from the source: teeth in an opening mouth, the skin of closing lids.

A network that renders the whole picture has little capacity for a mouth. Here one network renders a window around the
mouth and another one a window around the eyes, at more than the bank's resolution. The windows follow the head: they
are placed by the refiner's motion at three anchors (the eyes and the mouth), so that teeth are always at about the same
position in the window. An inset is composited where its network predicts that the source does not show the content.
It is not used where the coefficients equal the source's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..face.landmarks import eyes_and_mouth, find_landmarks, square_at
from ..media.picture import from_network
from .face_area import face_area
from .readers.absolute import Reader, ReaderConfig
from .refiner import FOUND, SMALL, UNet, pixel_positions, warped

PREFIX = "insets."
INPUTS = 12
DARKEST = 0.05  # added to levels in 0..1 before logarithms, so that noise in dark areas is not amplified
CONTRAST = 0.5  # unit of the logarithms, about their deviation in a face
CHANGE = 0.1  # change of a coefficient at which an inset reaches its full strength
BORDER = 0.3  # part of an oval's half axes over which an inset is blended in
# The part of the eyes' inset that is used, in eye distances around each eye: half the width, height above, depth below,
# and the part of them over which it is blended in. The networks were trained on heads whose brows are high; they
# erase brows that are closer to the eyes.
LIDS, LIDS_BORDER = (0.38, 0.22, 0.29), 0.4
# The area in which a mouth that does not move stays the source's, in half widths and half heights of the mouth's
# window, and the part of it over which this fades. It ends before the outline of the face.
LIPS, LIPS_BORDER = (0.75, 0.65), 0.3
OPEN = 6.0  # added to the mask's logit there
# Pixels of the source, between neighbouring pixels of the frame, at which this fades and is off: on the far side of a
# turned head the painter draws a smoother outline.
DENSE = 2.0, 3.0
GREY = 0.12  # difference of the skin's logarithms of red and blue below which a picture counts as black and white
CELL = 8  # pixels of a side of the cells in which the border error is averaged


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
    """Rotated rectangles in pictures, in [-1, 1], (N, 2) each: centre, and half the width and half the height."""

    middle: Tensor
    along: Tensor
    down: Tensor

    def places(self, height: int, width: int) -> Tensor:
        """(N, 2, height, width): positions of the window's pixels in the picture."""
        x, y = ((torch.arange(count, device=self.middle.device) * 2 + 1) / count - 1 for count in (width, height))
        along, down = (side[:, :, None, None] for side in (self.along, self.down))
        return self.middle[:, :, None, None] + along * x + down * y[:, None]

    def matrices(self, height: int, width: int) -> np.ndarray:
        """(N, 2, 3) float64 matrices from pixels of windows of that size to positions in their pictures, in [-1, 1].

        Only for windows on the CPU.
        """
        middle, along, down = (part.numpy().astype(np.float64) for part in self)
        along, down = along * 2 / width, down * 2 / height
        return np.stack([along, down, middle - along * (width - 1) / 2 - down * (height - 1) / 2], 2)

    def inside(self, places: Tensor) -> Tensor:
        """Positions (N, 2, H, W) relative to the window, in [-1, 1] inside it. places: positions in the picture."""
        away = places - self.middle[:, :, None, None]
        along, down = (
            (side / side.square().sum(1, keepdim=True))[:, :, None, None] for side in (self.along, self.down)
        )
        return torch.cat([(away * along).sum(1, keepdim=True), (away * down).sum(1, keepdim=True)], 1)


def window_at(eyes: Tensor, anchor: Tensor, extent: Sequence[float]) -> Window:
    """The window of a face. eyes: (N, 2), vector from the left eye of the picture to the right one; anchor: (N, 2).

    extent: half the width, half the height and the distance below the anchor, in eye distances.
    """
    across, height, below = extent
    upright = torch.stack([-eyes[:, 1], eyes[:, 0]], 1)
    return Window(anchor + below * upright, across * eyes, height * upright)


def windows_at(anchors: Tensor, extents: Sequence[Sequence[float] | Tensor]) -> list[Window]:
    """The windows of mouth and eyes. anchors: (N, 3, 2), left eye, right eye and mouth; extents: see `window_at`."""
    left, right, mouth = anchors.unbind(1)
    middles = mouth, (left + right) / 2
    return [window_at(right - left, middle, extent) for middle, extent in zip(middles, extents, strict=True)]


class PlacedInset(NamedTuple):
    """An inset rendered for N pictures, and its place.

    drawn: (N, 4, h, w), colour in [-1, 1] premultiplied by alpha, and alpha. teeth: (N, PLANES, h, w), see
    `inference.model.teeth`; None without.
    """

    window: Window
    drawn: Tensor
    teeth: Tensor | None = None

    def cpu(self) -> PlacedInset:
        """A copy in the memory of the CPU."""
        teeth = None if self.teeth is None else self.teeth.cpu()
        return PlacedInset(Window(*(part.cpu() for part in self.window)), self.drawn.cpu(), teeth)

    def frames(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """For each picture the matrix of `Window.matrices`, the inset (4, h, w) and the teeth (h, w, PLANES), float32.

        The teeth are None where there are none. Only for insets on the CPU.
        """
        matrices, drawn = self.window.matrices(*self.drawn.shape[2:]), self.drawn.numpy()
        # A plane of teeth stays in one piece.
        teeth = [None] * len(drawn) if self.teeth is None else self.teeth.permute(0, 2, 3, 1).numpy()
        return list(zip(matrices, drawn, teeth, strict=True))


class Inset(nn.Module):
    """Renders one window: (N, INPUTS, h, w), coefficients (N, n) and `border_skin` -> (N, 4, h, w), colour and alpha.

    Input and output colours are logarithms relative to the skin around the window, so the result does not depend on the
    lighting. The colour error on the border is spread inwards with inverse-distance weights (`reach`), so that the
    inset continues the picture.

    Buffers, set by `placed`: called_by: (n,), 1 for coefficients whose change requires the inset. tone: 1 for content
    of the skin's colour, 0 for content that depends on the skin's brightness only, such as the inside of a mouth.
    extent: see `window_at`. feather: (1, 1, h, w), largest alpha of each pixel.
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
        """Set the buffers that determine where and when the inset is used. Returns self.

        extent: see `window_at`. ovals: horizontal centre, half width and half height, in the window's [-1, 1], of each
        area that the inset may cover: mouth or eyes, not the outline of the face. called_by (n,), tone: see `Inset`.
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
        """Strength (N, 1, 1, 1) of the inset, 0..1. change: (N, n), coefficients minus the source's."""
        return strength_of(change, self.called_by)

    def border_skin(self, own: Tensor) -> Tensor:
        """Logarithms (N, 3) of the median colour on the inset's border. own: (N, 3, h, w), the source's window."""
        return logarithms(own[:, :, self.border]).median(2).values  # median: a brow or the chin may be on the border

    def forward(self, inputs: Tensor, coefficients: Tensor, skin: Tensor) -> Tensor:
        warped_source, positions, own, pixels = inputs.split((3, 4, 3, 2), 1)
        warped_source, own = logarithms(warped_source), logarithms(own)
        condition = torch.cat([coefficients, skin], 1)
        skin = skin[:, :, None, None]
        inputs = torch.cat([(warped_source - skin) / CONTRAST, positions, (own - skin) / CONTRAST, pixels], 1)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.training):
            outputs = self.paint(self.unet(F.pixel_unshuffle(inputs.clamp(-4.0, 4.0), 2), condition)).float()
        outputs = F.pixel_shuffle(outputs, 2)
        logarithm = self.match_border(outputs[:, :3], warped_source, skin, self.border)
        return torch.cat([colours(logarithm), torch.sigmoid(outputs[:, 3:]) * self.feather], 1)

    def match_border(self, predicted: Tensor, around: Tensor, skin: Tensor, border: Tensor) -> Tensor:
        """Logarithms of the inset's colours (N, 3, h, w), corrected to match the picture on the inset's border.

        predicted: the network's colours; around: logarithms of the warped source's, both (N, 3, h, w). skin:
        (N, 3, 1, 1). border: (h, w), see `border`.
        """
        result = torch.lerp(skin.mean(1, keepdim=True), skin, self.tone) + CONTRAST * predicted
        colourful = ((skin.amax(1, keepdim=True) - skin.amin(1, keepdim=True)) / GREY).clamp(max=1.0)
        result = torch.lerp(result.mean(1, keepdim=True), result, colourful)
        border_error = self._cells((around - result) * border)
        correction = (border_error.flatten(2) @ self.reach.T).unflatten(2, border_error.shape[2:])
        return result + F.interpolate(correction, size=result.shape[2:], mode="bilinear")

    @property
    def border(self) -> Tensor:
        """(h, w) bool: where the inset is blended in."""
        return (self.feather[0, 0] > 0) & (self.feather[0, 0] < 1)

    def _cells(self, planes: Tensor) -> Tensor:
        height, width = planes.shape[2:]
        return F.adaptive_avg_pool2d(planes, (-(-height // CELL), -(-width // CELL)))


def strength_of(change: Tensor, called_by: Tensor) -> Tensor:
    """See `Inset.strength` and `Inset.called_by`."""
    return ((change.abs() * called_by).amax(1) / CHANGE).clamp(max=1.0)[:, None, None, None]


def logarithms(colours: Tensor) -> Tensor:
    """Logarithms of colours in [-1, 1]."""
    return torch.log((colours.clamp(min=-1.0) + 1) / 2 + DARKEST)


def colours(logarithms: Tensor) -> Tensor:
    """The inverse of `logarithms`; results are clamped slightly above 1."""
    return (torch.exp(logarithms.clamp(max=0.2)) - DARKEST) * 2 - 1


class InsetSource(NamedTuple):
    """Everything that the insets compute once per source picture.

    source: (N, 3, S, S). anchors: (N, 3, 2), left eye, right eye and mouth in [-1, 1]. anchor_motion: (N, fields, 2,
    3), the refiner's motion fields at them. mouth, eyes: (N, 3, h, w), the source's windows. around_mouth,
    around_eyes: (N, 3), see `Inset.border_skin`.
    """

    source: Tensor
    anchors: Tensor
    anchor_motion: Tensor
    mouth: Tensor
    eyes: Tensor
    around_mouth: Tensor
    around_eyes: Tensor

    def anchors_at(self, pose_weights: Tensor) -> Tensor:
        """Anchors (N, 3, 2) after the head has moved.

        pose_weights: (N, fields), the refiner's motion weights of the pose minus those of the source.
        """
        return self.anchors + torch.einsum(
            "nf,nfcp->npc", pose_weights, self.anchor_motion.expand(len(pose_weights), -1, -1, -1)
        )


class Insets(nn.Module):
    """The insets of mouth and eyes. anchors: the reader that locates left eye, right eye and mouth.

    pose: (n,), 1 for coefficients that move the whole head.
    """

    def __init__(self, config: InsetsConfig) -> None:
        super().__init__()
        self.config, count = config, config.coefficients
        self.anchors = Reader(config.anchors)
        self.mouth, self.eyes = Inset(config.mouth, count), Inset(config.eyes, count)
        self.register_buffer("pose", torch.zeros(count))

    def find_anchors(self, source: Tensor) -> Tensor:
        """Anchors (N, 3, 2) in [-1, 1]: left eye, right eye and mouth of pictures (N, 3, S, S).

        The reader gives an estimate, which the landmark network refines. Where it finds no face, the estimate is used.
        """
        return self.find_faces(source)[0]

    def find_faces(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """The anchors of pictures (N, 3, S, S), see `find_anchors`, and the areas of their faces (N, S / 2, S / 2).

        The areas are those of `face_area`, 1 everywhere in a picture in which no face is found.
        """
        estimate = self.read_anchors(source)
        pictures = zip(source.cpu(), estimate.cpu(), strict=True)  # a graphics card is waited for once
        anchors, areas = zip(*(_at_landmarks(*one) for one in pictures), strict=True)
        return torch.stack(anchors).to(estimate), torch.stack(areas).to(estimate)

    def read_anchors(self, source: Tensor) -> Tensor:
        """The estimate of the anchors (N, 3, 2) by the reader alone."""
        small = F.interpolate(source, size=(self.anchors.size,) * 2, mode="area")
        return self.anchors(small).unflatten(1, (3, 2))

    def prepare(self, source: Tensor, motion: Tensor, anchors: Tensor) -> InsetSource:
        """Compute everything that depends on the source alone.

        source: (N, 3, S, S) of any size; motion: the refiner's, (N, fields, 2, H, H); anchors: (N, 3, 2) in [-1, 1].
        """
        sampled = F.grid_sample(motion.flatten(1, 2), anchors[:, None], padding_mode="border", align_corners=False)
        insets = self.mouth, self.eyes
        windows = zip(insets, self.windows(anchors), strict=True)
        window_pictures = [warped(source, window.places(*inset.feather.shape[-2:])) for inset, window in windows]
        skins = (inset.border_skin(own) for inset, own in zip(insets, window_pictures, strict=True))
        return InsetSource(source, anchors, sampled[:, :, 0].unflatten(1, (-1, 2)), *window_pictures, *skins)

    def forward(
        self,
        source: InsetSource,
        pose_weights: Tensor,
        change: Tensor,
        positions: Tensor,
        residual: Tensor,
        coefficients: Tensor,
    ) -> list[PlacedInset]:
        """Render the insets of N pictures. The list is empty if the coefficients do not require any.

        pose_weights: (N, fields), the refiner's motion weights of the pose minus those of the source. change: (N, n),
        coefficients minus the source's. positions, residual: see `inference.model.refiner.Refined`.
        """
        windows = self.windows(source.anchors_at(pose_weights))
        result = []
        for number, inset in enumerate((self.mouth, self.eyes)):
            strength, window = inset.strength(change), windows[number]
            if not strength.any():
                continue
            skin = (source.around_mouth, source.around_eyes)[number]
            rendered = inset(self.network_input(number, source, window, positions, residual), coefficients, skin)
            alpha = rendered[:, 3:] * strength
            if inset is self.eyes:
                alpha = alpha * self.lids()
            result.append(PlacedInset(window, torch.cat([rendered[:, :3] * alpha, alpha], 1)))
        return result

    def lids(self) -> Tensor:
        """(1, 1, h, w): factor of the alpha of the eyes' inset that limits it to `LIDS`."""
        across, height, below = self.eyes.extent
        feather, (half_width, above, depth) = self.eyes.feather, LIDS
        y, x = ((torch.arange(count, device=feather.device) * 2 + 1) / count - 1 for count in feather.shape[-2:])
        x, y = x.abs() * across - 0.5, (y * height + below)[:, None]  # from the centre of the nearer eye
        away = torch.hypot(x / half_width, torch.where(y < 0, y / above, y / depth))
        limit = ((1 - away) / LIDS_BORDER).clamp(0.0, 1.0)
        return (limit / feather.clamp(min=1e-3)).clamp(max=1.0)

    def windows(self, anchors: Tensor) -> list[Window]:
        """The windows of mouth and eyes at anchors (N, 3, 2)."""
        return windows_at(anchors, (self.mouth.extent, self.eyes.extent))

    def source_mouth_logit(
        self, window: Window, change: Tensor, strength: Tensor | None, positions: Tensor, residual: Tensor
    ) -> Tensor:
        """Offset (N, 1, H, H) for the logit of the refiner's mask around a mouth that does not move itself.

        It makes the mask keep the source's lips and teeth while the head turns, where the painter would paint average
        ones. It is zero for pictures with the source's own coefficients, and where the mouth's inset is used.

        window: of the mouth. change: (N, n), coefficients minus the source's. strength: of the mouth's inset, None for
        0. positions, residual: see `inference.model.refiner.Refined`.
        """
        amount = strength_of(change, torch.ones_like(self.pose))
        if strength is not None:
            amount = amount * (1 - strength)
        in_window = window.inside(
            pixel_positions(positions.shape[-1], positions.device).expand(len(change), -1, -1, -1)
        )
        area = (1 - torch.hypot(in_window[:, :1] / LIPS[0], in_window[:, 1:] / LIPS[1])) / LIPS_BORDER
        visible = 2 - torch.hypot(residual[:, :1], residual[:, 1:]) / FOUND
        clear = (DENSE[1] - _spacing(positions)) / (DENSE[1] - DENSE[0])
        return OPEN * amount * area.clamp(0.0, 1.0) * visible.clamp(0.0, 1.0) * clear.clamp(0.0, 1.0)

    def network_input(
        self, number: int, source: InsetSource, window: Window, positions: Tensor, residual: Tensor
    ) -> Tensor:
        """Input (N, INPUTS, h, w) of an inset. number: 0 for the mouth, 1 for the eyes.

        Channels: the source warped into the window (3), the warp's error (2), the sampling position in the source's
        window (2), the source's window (3), and the position in the window (2).
        """
        own = (source.mouth, source.eyes)[number]
        in_picture = window.places(*own.shape[-2:])
        sampled = warped(positions, in_picture)
        at_rest = self.windows(source.anchors)[number]
        channels = [warped(source.source, sampled), warped(residual, in_picture) / SMALL, at_rest.inside(sampled), own]
        return torch.cat([*channels, window.inside(in_picture)], 1)


def _spacing(positions: Tensor) -> Tensor:
    """(N, 2, H, H) in [-1, 1] -> (N, 1, H, H): largest distance of neighbours, in pixels, within 3 x 3 pixels."""
    padded = F.pad(positions, (1, 1, 1, 1), mode="replicate") * (positions.shape[-1] / 4)  # over two pixels
    across, down = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2], padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    squares = torch.maximum(across.square().sum(1, keepdim=True), down.square().sum(1, keepdim=True))
    return F.max_pool2d(squares, 3, stride=1, padding=1).sqrt()


def _at_landmarks(picture: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    """The anchors (3, 2) and the face's area (S / 2, S / 2) of a picture (3, S, S) by its landmarks, on the CPU.

    estimate: (3, 2), about where the anchors are; returned if no face is found.
    """
    side = picture.shape[-1]
    rgb, half = from_network(picture.numpy()), side / 2
    eyes = (estimate[:2].double().numpy() + 1) * half - 0.5
    landmarks = find_landmarks(rgb, [square_at(eyes)], passes=3, lips=False)
    if landmarks.present[0] < 0.5:
        return estimate, torch.ones(side // 2, side // 2)
    anchors = torch.from_numpy((eyes_and_mouth(landmarks.points)[0] + 0.5) / half - 1).to(estimate)
    return anchors, torch.from_numpy(face_area(landmarks.points[0], side, side // 2))


def composite_insets(pictures: Tensor, insets: Sequence[PlacedInset]) -> Tensor:
    """Pictures (N, C, S, S), or one for all insets (1, C, S, S), with the insets composited over them.

    C is 3, or 2 for sampling positions, see `inference.model.lids.lid_position_insets`.
    """
    positions = pixel_positions(pictures.shape[-1], pictures.device)
    for number, (window, layer, _) in enumerate(insets):
        if not number:
            pictures = pictures.expand(len(layer), -1, -1, -1).clone()
        rows, columns = _touched(window, layer, pictures.shape[-1])
        background = pictures[:, :, rows, columns]
        in_window = window.inside(positions[:, :, rows, columns].expand(len(layer), -1, -1, -1)).permute(0, 2, 3, 1)
        sampled = F.grid_sample(layer, in_window, align_corners=False)  # zero outside the window
        pictures[:, :, rows, columns] = background * (1 - sampled[:, -1:]) + sampled[:, :-1]
    return pictures


def _touched(window: Window, layer: Tensor, size: int) -> tuple[slice, slice]:
    """Rows and columns of pictures of `size` pixels that contain all pixels which the insets change.

    On a graphics card all of them, because computing fewer would require to wait for it.
    """
    if layer.device.type != "cpu":
        return slice(None), slice(None)
    reach = [(1 + 1 / count) * side.abs() for count, side in zip(layer.shape[:1:-1], window[1:], strict=True)]
    ends = torch.stack([window.middle - sum(reach), window.middle + sum(reach)])
    first = ((ends[0].amin(0) + 1) * (size / 2) - 1).clamp(0, size).tolist()
    last = ((ends[1].amax(0) + 1) * (size / 2) + 2).clamp(0, size).tolist()
    (left, right), (top, bottom) = ((int(start), int(end)) for start, end in zip(first, last, strict=True))
    return slice(top, bottom), slice(left, right)
