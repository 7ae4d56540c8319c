"""Refiner and insets in a fast form for inference.

It computes the same as `Refiner.forward` and `Insets.forward`, in two parts: what depends on the source alone
(`Correction.prepare`) and what depends on the frame (`Correction.correct`). The windows of insets are sampled in the
order in which their networks take the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoder import Drawn
from .fast_unet import FastUNet
from .generator import warp_grid
from .insets import CONTRAST, Inset, Insets, PlacedInset, Window, colours, logarithms
from .layout import average_pool, upsample
from .refiner import FOUND, FURTHEST, SMALL, STEPS, Refiner, pixel_positions, warped
from .teeth import Teeth, planes_of
from .tensor_trees import expanded


@dataclass(frozen=True)
class CorrectionSource:
    """Everything that depends on the source alone, for N sources. The insets' parts are empty without insets."""

    picture: Tensor  # (N, 3, S, S)
    half: Tensor  # (N, 3, H, H), the picture at half size
    coefficients: Tensor  # (N, n) coefficients
    motion: Tensor  # (N, fields, 2 H H), see `Refiner.motion_fields`; a face moves within its `face_area` only
    inset_picture: Tensor  # (N, 3, R, R), the picture at the insets' resolution
    anchors: Tensor  # (N, 3, 2), see `inference.model.insets.InsetSource`
    anchor_motion: Tensor  # (N, fields, 2, 3), the same
    insets: tuple[WindowSource, ...] = ()


@dataclass(frozen=True)
class WindowSource:
    """Everything of one inset that depends on the source alone."""

    window: tuple[Tensor, Tensor, Tensor]  # a `Window`, where the inset is at rest
    skin: Tensor  # (N, 3), see `Inset.border_skin`
    fixed: Tensor  # (N, 20, h / 2, w / 2), the source's window and the places in it
    prepared: Tensor  # see `FastUNet.prepare`


class Correction:
    """Corrects the decoder's pictures. `prepare` sources once, then `correct` each batch of frames.

    teeth: of the mouth's inset. dtype: precision of the convolutions.
    """

    def __init__(self, refiner: Refiner, insets: Insets | None, dtype: torch.dtype, teeth: Teeth | None = None) -> None:
        self.refiner, self.insets = refiner, insets
        self.painter = FastUNet(refiner.painter, refiner.paint, dtype)
        self.drawers: list[FastInset] = []
        if insets is not None:
            limits = torch.ones_like(insets.mouth.feather), insets.lids()
            pairs = zip((insets.mouth, insets.eyes), limits, strict=True)
            self.drawers = [FastInset(inset, limit, dtype) for inset, limit in pairs]
        self.teeth = None if teeth is None else FastUNet(teeth.unet, teeth.paint, dtype)

    def prepare(self, picture: Tensor, inset_picture: Tensor) -> CorrectionSource:
        """Compute everything that depends on N sources alone.

        picture: (N, 3, S, S). inset_picture: (N, 3, R, R), the same at a resolution of up to 2 S, for the insets.
        """
        coefficients, motion = self.refiner.read(picture), self.refiner.motion_fields(picture)
        anchors = coefficients[:, :0]
        if self.insets is not None:
            anchors, faces = self.insets.find_faces(picture)
            motion = torch.where(self.refiner.rigid[:, None, None, None], motion, motion * faces[:, None, None])
        source = CorrectionSource(
            picture,
            average_pool(picture),
            coefficients,
            motion.flatten(2).contiguous(),
            inset_picture,
            anchors,
            anchors,
        )
        if self.insets is None:
            return source
        inset_source = self.insets.prepare(inset_picture, motion, anchors)
        parts = zip(
            self.drawers,
            self.insets.windows(anchors),
            (inset_source.mouth, inset_source.eyes),
            (inset_source.around_mouth, inset_source.around_eyes),
            strict=True,
        )
        insets = tuple(
            WindowSource(tuple(window), skin, *drawer.prepare(window_picture, skin))
            for drawer, window, window_picture, skin in parts
        )
        return replace(source, anchor_motion=inset_source.anchor_motion, insets=insets)

    def correct(
        self,
        source: CorrectionSource,
        drawn: Drawn,
        alpha: Tensor,
        strengths: Sequence[Tensor | None] | None = None,
        teeth: bool = False,
    ) -> tuple[Drawn, list[PlacedInset]]:
        """Correct N decoded pictures. Returns the pictures and the insets to composite over them.

        source: of one source, or of N. drawn: the decoder's output. alpha: (N, n) coefficients. strengths:
        `Inset.strength` of mouth and eyes, None for one that is not needed; default: computed from alpha, which waits
        for a graphics card. teeth: predict their position, if the bank has a network for it.
        """
        count, size = len(alpha), drawn.rgb.shape[-1]
        source = expanded(source, count)
        weights = self.refiner.motion_weights(alpha) - self.refiner.motion_weights(source.coefficients)
        centres = pixel_positions(size // 2, alpha.device)
        displacement = (weights[:, None] @ source.motion).view(count, 2, size // 2, size // 2)
        start = average_pool(drawn.places)
        inverted, residual = _inverted(displacement, start, centres)
        unreliable = ((torch.hypot(residual[:, :1], residual[:, 1:]) - FOUND) / FOUND).clamp_(0.0, 1.0)
        positions = torch.lerp(inverted, start, unreliable)
        shift, logit = positions - centres, drawn.logit.clamp(-8.0, 8.0)
        inputs = torch.cat([
            warped(source.half, positions), average_pool(drawn.rgb), shift / SMALL, (start - positions) / SMALL,
            residual / SMALL, average_pool(torch.sigmoid(logit)), centres.expand(count, -1, -1, -1),
        ], 1)  # fmt: skip
        outputs = F.pixel_shuffle(self.painter(inputs.clamp_(-2.0, 2.0), alpha), 2).float()
        places = upsample(shift)
        places += pixel_positions(size, alpha.device)
        places = places.add_(outputs[:, :2], alpha=SMALL)
        logit = logit + outputs[:, 2:3]
        change = alpha - source.coefficients
        if strengths is None:
            strengths = [strength if strength.any() else None for strength in self.strengths(change)]
        windows: list[Window] = []
        if self.insets is not None:
            windows = self.insets.windows(self.anchors_at(source, alpha))
            logit += upsample(self.insets.source_mouth_logit(windows[0], change, strengths[0], inverted, residual))
        rgb = (drawn.rgb + outputs[:, 3:]).lerp_(warped(source.picture, places), torch.sigmoid(logit))
        grid = warp_grid(size, alpha.device).permute(0, 3, 1, 2)
        places = torch.minimum(torch.maximum(places, grid - FURTHEST), grid + FURTHEST)
        return Drawn(rgb, places, logit), self._insets(source, alpha, inverted, residual, windows, strengths, teeth)

    def strengths(self, change: Tensor) -> list[Tensor]:
        """`Inset.strength` of each inset. change: (N, n), coefficients minus the source's."""
        return [drawer.inset.strength(change) for drawer in self.drawers]

    def anchors_at(self, source: CorrectionSource, alpha: Tensor) -> Tensor:
        """Anchors (N, 3, 2) after the head has moved, for coefficients alpha (N, n). Only with insets."""
        assert self.insets is not None
        source, pose = expanded(source, len(alpha)), self.insets.pose
        pose_weights = self.refiner.motion_weights(alpha * pose) - self.refiner.motion_weights(
            source.coefficients * pose
        )
        return source.anchors + torch.einsum("nf,nfcp->npc", pose_weights, source.anchor_motion)

    def _insets(
        self,
        source: CorrectionSource,
        alpha: Tensor,
        positions: Tensor,
        residual: Tensor,
        windows: Sequence[Window],
        strengths: Sequence[Tensor | None],
        teeth: bool,
    ) -> list[PlacedInset]:
        if all(strength is None for strength in strengths):
            return []
        sampled = torch.cat([positions, residual / SMALL], 1)
        parts = zip(self.drawers, source.insets, strengths, windows, strict=True)
        result = []
        for drawer, window_source, strength, window in parts:
            if strength is not None:
                layer, network_values = drawer(window_source, source.inset_picture, window, sampled, alpha, strength)
                shows_teeth = teeth and self.teeth is not None and drawer is self.drawers[0]
                planes = (
                    self._teeth(network_values, window_source, alpha, drawer.alpha * strength) if shows_teeth else None
                )
                result.append(PlacedInset(window, layer, planes))
        return result

    def _teeth(
        self, network_values: tuple[Tensor, Tensor], source: WindowSource, alpha: Tensor, opacity: Tensor
    ) -> Tensor:
        """Planes (N, PLANES, h, w): those of `planes_of`, and the opacity (N, 1, h, w).

        network_values: input and output of the inset's network, see `FastInset`.
        """
        assert self.teeth is not None
        inputs, outputs = network_values
        features = torch.cat([inputs, source.fixed, outputs.clamp(-4.0, 4.0)], 1)
        planes = planes_of(self.teeth(features, torch.cat([alpha, source.skin], 1)).float(), source.skin)
        return torch.cat([planes, opacity], 1)


def _inverted(displacement: Tensor, start: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """As `inference.model.refiner.invert_displacement`. centres: `pixel_positions` of that size."""
    positions = start
    for share in STEPS:
        positions = torch.lerp(positions, centres - warped(displacement, positions), share)
    return positions, centres - positions - warped(displacement, positions)


class FastInset:
    """One `Inset` in a fast form. limit: (1, 1, h, w), factor of its alpha."""

    def __init__(self, inset: Inset, limit: Tensor, dtype: torch.dtype) -> None:
        self.inset = inset
        self.unet = FastUNet(inset.unet, inset.paint, dtype, fixed=20)  # the source's window and the places in it
        self.alpha, self.border = inset.feather * limit, inset.border.float()
        height, width = inset.feather.shape[-2:]
        y, x = (((torch.arange(count, device=limit.device) * 2 + 1) / count - 1).float() for count in (height, width))
        self.pixels = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1])  # (2, h, w), x first
        # In `pixel_unshuffle`'s order, four maps of half size below each other.
        self.x, self.y = F.pixel_unshuffle(self.pixels, 2).unflatten(0, (2, 4)).flatten(1, 2)

    def prepare(self, own: Tensor, skin: Tensor) -> tuple[Tensor, Tensor]:
        """own: (N, 3, h, w), the source's window; skin: (N, 3). See `WindowSource`."""
        tone = (logarithms(own) - skin[:, :, None, None]) / CONTRAST
        fixed = torch.cat([tone, self.pixels.expand(len(own), -1, -1, -1)], 1)
        fixed = F.pixel_unshuffle(fixed.clamp(-4.0, 4.0), 2)
        return fixed, self.unet.prepare(fixed)

    def __call__(
        self, source: WindowSource, picture: Tensor, window: Window, sampled: Tensor, alpha: Tensor, strength: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Render the inset of N pictures: (N, 4, h, w), see `PlacedInset`. Also returns the network's input and output.

        picture: (N, 3, R, R), the sources. sampled: (N, 4, H, H), sampling positions by the motion alone and their
        error in the networks' unit. alpha: (N, n). strength: (N, 1, 1, 1).
        """
        middle, along, down = (part[:, :, None, None] for part in window)
        at_pixels = warped(sampled, middle + along * self.x + down * self.y)  # (N, 4, 4 h/2, w/2)
        colour = logarithms(warped(picture, at_pixels[:, :2]))
        skin, (height, width) = source.skin[:, :, None, None], (size // 2 for size in self.pixels.shape[1:])
        at_rest = Window(*source.window).inside(at_pixels[:, :2])
        inputs = torch.cat([(colour - skin) / CONTRAST, at_pixels[:, 2:], at_rest], 1).view(
            len(alpha), -1, height, width
        )
        condition = torch.cat([alpha, source.skin], 1)
        outputs = self.unet(inputs.clamp_(-4.0, 4.0), condition, source.prepared).float()
        network_values = inputs, outputs
        outputs = F.pixel_shuffle(outputs, 2)
        colour = F.pixel_shuffle(colour.view(len(alpha), -1, height, width), 2)
        logarithm = self.inset.match_border(outputs[:, :3], colour, skin, self.border)
        opacity = torch.sigmoid(outputs[:, 3:]) * self.alpha * strength
        return torch.cat([colours(logarithm) * opacity, opacity], 1), network_values
