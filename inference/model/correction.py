"""Refiner and insets in a fast form for inference.

It computes the same as `Refiner.forward` and `Insets.forward`, ordered by what the values depend on: on the source
alone (`Correction.prepare`) or on the frame (`Correction.__call__`). The windows of insets are sampled in the order in
which their networks take the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoder import Drawn
from .fast_unet import FastUNet
from .generator import warp_grid
from .insets import CONTRAST, Inset, Insets, PlacedInset, Window, colours, logarithms
from .joined import expanded
from .layout import enlarged, halved
from .refiner import FOUND, FURTHEST, SMALL, STEPS, Refiner, pixel_places, warped
from .teeth import Teeth, planes_of


@dataclass(frozen=True)
class CorrectionSource:
    """Everything that depends on the source alone, for N sources. The insets' parts are empty without insets."""

    picture: Tensor  # (N, 3, S, S)
    half: Tensor  # (N, 3, H, H), the picture at half size
    own: Tensor  # (N, n) coefficients
    motion: Tensor  # (N, fields, 2 H H), see `Refiner.motion_of`
    seen: Tensor  # (N, 3, R, R), the picture at the insets' resolution
    anchors: Tensor  # (N, 3, 2), see `inference.model.insets.InsetSource`
    moved: Tensor  # (N, fields, 2, 3), the same
    insets: tuple[WindowSource, ...] = ()


@dataclass(frozen=True)
class WindowSource:
    """The same for one inset."""

    window: tuple[Tensor, Tensor, Tensor]  # a `Window`, where the inset is at rest
    skin: Tensor  # (N, 3), see `Inset.skin_of`
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

    def prepare(self, picture: Tensor, seen: Tensor) -> CorrectionSource:
        """picture: (N, 3, S, S); seen: (N, 3, R, R), the same at a resolution of up to 2 S, for the insets."""
        own, motion = self.refiner.read(picture), self.refiner.motion_of(picture)
        known = CorrectionSource(
            picture, halved(picture), own, motion.flatten(2).contiguous(), seen, own[:, :0], own[:, :0]
        )
        if self.insets is None:
            return known
        anchors = self.insets.find_anchors(picture)
        found = self.insets.prepare(seen, motion, anchors)
        parts = zip(
            self.drawers,
            self.insets.windows(anchors),
            (found.mouth, found.eyes),
            (found.around_mouth, found.around_eyes),
            strict=True,
        )
        insets = tuple(
            WindowSource(tuple(window), skin, *drawer.prepare(shown, skin)) for drawer, window, shown, skin in parts
        )
        return CorrectionSource(picture, known.half, own, known.motion, seen, anchors, found.moved, insets)

    def correct(
        self,
        known: CorrectionSource,
        drawn: Drawn,
        alpha: Tensor,
        strengths: Sequence[Tensor | None] | None = None,
        teeth: bool = False,
    ) -> tuple[Drawn, list[PlacedInset]]:
        """Correct N pictures with coefficients alpha (N, n). known: of one source, or of N.

        strengths: `Inset.strength` of mouth and eyes, None for one that is not needed; default: computed from alpha,
        for which a graphics card is waited for. teeth: find them, if there is a network for it.
        Returns the pictures and the insets to composite over them.
        """
        count, size = len(alpha), drawn.rgb.shape[-1]
        known = expanded(known, count)
        moved = self.refiner.amounts(alpha) - self.refiner.amounts(known.own)
        centres = pixel_places(size // 2, alpha.device)
        moves = (moved[:, None] @ known.motion).view(count, 2, size // 2, size // 2)
        start = halved(drawn.places)
        found, residual = _inverted(moves, start, centres)
        nowhere = ((torch.hypot(residual[:, :1], residual[:, 1:]) - FOUND) / FOUND).clamp_(0.0, 1.0)
        positions = torch.lerp(found, start, nowhere)
        shift, logit = positions - centres, drawn.logit.clamp(-8.0, 8.0)
        seen = torch.cat([
            warped(known.half, positions), halved(drawn.rgb), shift / SMALL, (start - positions) / SMALL,
            residual / SMALL, halved(torch.sigmoid(logit)), centres.expand(count, -1, -1, -1),
        ], 1)  # fmt: skip
        painted = F.pixel_shuffle(self.painter(seen.clamp_(-2.0, 2.0), alpha), 2).float()
        places = enlarged(shift)
        places += pixel_places(size, alpha.device)
        places = places.add_(painted[:, :2], alpha=SMALL)
        logit = logit + painted[:, 2:3]
        change = alpha - known.own
        if strengths is None:
            strengths = [strength if strength.any() else None for strength in self.strengths(change)]
        windows: list[Window] = []
        if self.insets is not None:
            windows = self.insets.windows(self.anchors_at(known, alpha))
            logit += enlarged(self.insets.own_mouth(windows[0], change, strengths[0], found, residual))
        rgb = (drawn.rgb + painted[:, 3:]).lerp_(warped(known.picture, places), torch.sigmoid(logit))
        grid = warp_grid(size, alpha.device).permute(0, 3, 1, 2)
        places = torch.minimum(torch.maximum(places, grid - FURTHEST), grid + FURTHEST)
        return Drawn(rgb, places, logit), self._insets(known, alpha, found, residual, windows, strengths, teeth)

    def strengths(self, change: Tensor) -> list[Tensor]:
        """`Inset.strength` of each inset. change: (N, n), coefficients minus the source's."""
        return [drawer.inset.strength(change) for drawer in self.drawers]

    def anchors_at(self, known: CorrectionSource, alpha: Tensor) -> Tensor:
        """(N, 3, 2): the anchors after the head has moved. Only with insets."""
        assert self.insets is not None
        known, pose = expanded(known, len(alpha)), self.insets.pose
        turned = self.refiner.amounts(alpha * pose) - self.refiner.amounts(known.own * pose)
        return known.anchors + torch.einsum("nf,nfcp->npc", turned, known.moved)

    def _insets(
        self,
        known: CorrectionSource,
        alpha: Tensor,
        found: Tensor,
        residual: Tensor,
        windows: Sequence[Window],
        strengths: Sequence[Tensor | None],
        teeth: bool,
    ) -> list[PlacedInset]:
        if all(strength is None for strength in strengths):
            return []
        sampled = torch.cat([found, residual / SMALL], 1)
        parts = zip(self.drawers, known.insets, strengths, windows, strict=True)
        result = []
        for drawer, part, strength, window in parts:
            if strength is not None:
                drawn, made_of = drawer(part, known.seen, window, sampled, alpha, strength)
                shows_teeth = teeth and self.teeth is not None and drawer is self.drawers[0]
                planes = self._teeth(made_of, part, alpha, drawer.alpha * strength) if shows_teeth else None
                result.append(PlacedInset(window, drawn, planes))
        return result

    def _teeth(self, made_of: tuple[Tensor, Tensor], known: WindowSource, alpha: Tensor, opacity: Tensor) -> Tensor:
        """(N, PLANES, h, w): see `planes_of`, and the opacity (N, 1, h, w). made_of: from `FastInset`."""
        assert self.teeth is not None
        taken, painted = made_of
        seen = torch.cat([taken, known.fixed, painted.clamp(-4.0, 4.0)], 1)
        planes = planes_of(self.teeth(seen, torch.cat([alpha, known.skin], 1)).float(), known.skin)
        return torch.cat([planes, opacity], 1)


def _inverted(moves: Tensor, start: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """As `inference.model.refiner.inverted`. centres: `pixel_places` of that size."""
    positions = start
    for share in STEPS:
        positions = torch.lerp(positions, centres - warped(moves, positions), share)
    return positions, centres - positions - warped(moves, positions)


class FastInset:
    """One `Inset`. limit: (1, 1, h, w), factor of its alpha."""

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
        self, known: WindowSource, seen: Tensor, window: Window, sampled: Tensor, alpha: Tensor, strength: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Draw the inset of N pictures: (N, 4, h, w), see `PlacedInset`. Also the network's input and output.

        seen: (N, 3, R, R), the sources. sampled: (N, 4, H, H), sampling positions by the motion alone and their error
        in the networks' unit. alpha: (N, n). strength: (N, 1, 1, 1).
        """
        middle, along, down = (part[:, :, None, None] for part in window)
        there = warped(sampled, middle + along * self.x + down * self.y)  # (N, 4, 4 h/2, w/2)
        colour = logarithms(warped(seen, there[:, :2]))
        skin, (height, width) = known.skin[:, :, None, None], (size // 2 for size in self.pixels.shape[1:])
        at_rest = Window(*known.window).inside(there[:, :2])
        taken = torch.cat([(colour - skin) / CONTRAST, there[:, 2:], at_rest], 1).view(len(alpha), -1, height, width)
        condition = torch.cat([alpha, known.skin], 1)
        painted = self.unet(taken.clamp_(-4.0, 4.0), condition, known.prepared).float()
        made_of = taken, painted
        painted = F.pixel_shuffle(painted, 2)
        colour = F.pixel_shuffle(colour.view(len(alpha), -1, height, width), 2)
        drawn = self.inset.continued(painted[:, :3], colour, skin, self.border)
        opacity = torch.sigmoid(painted[:, 3:]) * self.alpha * strength
        return torch.cat([colours(drawn) * opacity, opacity], 1), made_of
