"""The eyes of `inference.model.gaze` in a fast form: both eyes of all frames of a batch in one pass.

It computes the same as `gaze.turned_eyes` up to interpolation, with three differences. The parts of a source's two eyes
lie one below the other in one picture, so that one call samples both. The eye without iris is computed once per source.
Only the area that the opening of the lids can cover is drawn, with half the pixels per side where they are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..closing import Mouth
from ..face.landmarks import INNER_LIPS, LEFT_LIDS, OUTER_LIPS, RIGHT_LIDS, find_landmarks, square_at, with_closer_lips
from ..face.lip_edges import find_lips, seen_opening
from .gaze import FIRST, PITCH, SIZE, YAW, EyeParts, eye_parts, shifts
from .insets import PlacedInset, Window
from .layout import constant
from .lid_parts import LidParts, lid_parts
from .tensor_trees import expanded

HEIGHT, WIDTH = 56, 96  # pixels of the middle of an eye's window that are drawn; an opening takes at most 40 x 86
GAP = 2  # rows of zeros between the two eyes of a sheet
ROWS = 2 * SIZE[0] + GAP
TOUCHING, APART = 0.03, 0.05  # gap between the lips, in eye distances, up to which and from which they count as such
# Gap from which on a mouth is closed with its own lips, by the landmarks and by the edges fitted to the picture. Either
# may find touching lips as far apart, and both take shaded or shiny lips for the inside of a mouth. Therefore something
# else than lips must be seen between them by at least `SEEN`, unless both are further apart than `WIDE`.
OPEN, SEEN, WIDE = 0.045, 0.055, 0.12
UNCLEAR = 0.12  # expected error of the lips' landmarks, in eye distances, from which on they are not used


@dataclass(frozen=True)
class EyeSheet:
    """The two eyes of N sources; one that cannot be turned has an empty opening.

    windows: (N, 2, 3, 2), for each eye the middle, along and down of its `Window`. still: (N, 5, ROWS, SIZE[1]), the
    eyes without iris 3, alpha of the iris at its place, the opening. iris: (N, 4, ROWS, SIZE[1]), colour and alpha.
    """

    windows: Tensor
    still: Tensor
    iris: Tensor


class TurnableEyes:
    """The eyes and lips of one source picture, located when they are first needed.

    fine: uint8 (H, W, 3), the source at any size. anchors: (1, 3, 2), see `inference.model.insets.InsetSource`.
    """

    def __init__(self, fine: np.ndarray, anchors: Tensor) -> None:
        self._fine, self._anchors = fine, anchors

    @cached_property
    def sheet(self) -> EyeSheet:
        """See `eye_sheet`; on the device of the anchors."""
        return eye_sheet(self.parts, self._anchors.device)

    @cached_property
    def found_lids(self) -> LidParts:
        """See `inference.model.lid_parts`; on the CPU."""
        return lid_parts(*self._found)

    @cached_property
    def lids(self) -> LidParts:
        """The same on the device of the anchors."""
        parts = self.found_lids
        return LidParts(*(getattr(parts, field.name).to(self._anchors.device) for field in fields(parts)))

    @cached_property
    def parts(self) -> list[EyeParts]:
        """See `inference.model.gaze.eye_parts`; on the device of the anchors."""
        device = self._anchors.device
        return [
            EyeParts(Window(*(part.to(device) for part in eye.window)), *(part.to(device) for part in eye[1:]))
            for eye in eye_parts(*self._found)
        ]

    @cached_property
    def lips_apart(self) -> float:
        """How far the lips of the source are apart: 0 if they touch, 1 if the inside of the mouth is visible."""
        return float(np.clip((self._gap - TOUCHING) / (APART - TOUCHING), 0, 1))

    @cached_property
    def mouth_gap(self) -> float:
        """Largest gap between the source's lips in eye distances; 0 if they may touch, -1 if they were not found."""
        _, points, spread = self._found
        if spread[[*INNER_LIPS, *OUTER_LIPS]].mean() > UNCLEAR * np.hypot(*(points[1] - points[0])):
            return -1.0
        return self.mouth.gap if self._is_open else 0.0

    @property
    def _is_open(self) -> bool:
        gap = min(self._gap, self.mouth.gap)
        return gap >= WIDE or (gap >= OPEN and seen_opening(self._found[0], self._points, self._outlines) >= SEEN)

    @cached_property
    def _outlines(self) -> np.ndarray:
        """(4, COUNT, 2) pixels, see `inference.face.lip_edges.find_lips`."""
        fine, points, _ = self._found  # the closer look takes some tongues and teeth for lips
        mixed = self._points.copy()
        mixed[INNER_LIPS] = points[INNER_LIPS]
        return find_lips(fine, self._points, mixed)

    @cached_property
    def _points(self) -> np.ndarray:
        """(COUNT, 2) landmarks in pixels, with those of the lips by a closer look, and a second one centred by it."""
        fine, points, _ = self._found
        return with_closer_lips([fine], with_closer_lips([fine], points[None]))[0]

    @property
    def _gap(self) -> float:
        """Largest distance of the lips' inner edges by the landmarks alone, in eye distances."""
        at = self._points @ (1, 1j)
        upper, lower = np.split((at[INNER_LIPS] / (at[LEFT_LIDS].mean() - at[RIGHT_LIDS].mean())).imag, 2)
        return float((lower - upper).max())

    @cached_property
    def mouth(self) -> Mouth:
        """The mouth of the source, in half widths of the picture."""
        half = len(self._found[0]) / 2
        outlines, marks = (((part + 0.5) / half - 1) @ (1, 1j) for part in (self._outlines, self._points))
        return Mouth(outlines, marks)

    @cached_property
    def _found(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The picture as a square, and the landmarks of its face with their expected error."""
        size = max(self._fine.shape[:2])
        fine = self._fine if self._fine.shape[0] == self._fine.shape[1] else cv2.resize(self._fine, (size, size))
        eyes = (self._anchors[0, :2].cpu().double().numpy() + 1) * size / 2 - 0.5
        found = find_landmarks(fine, [square_at(eyes)], passes=3, lips=False)
        return fine, found.points[0], found.spread[0]


def eye_sheet(eyes: Sequence[EyeParts], device: torch.device) -> EyeSheet:
    """The sheet of one source with up to two eyes, see `inference.model.gaze.eye_parts`."""
    windows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], device=device).repeat(1, 2, 1, 1)
    still, iris = (torch.zeros(1, channels, ROWS, SIZE[1], device=device) for channels in (5, 4))
    for number, eye in enumerate(eyes):
        rows = slice(number * (SIZE[0] + GAP), number * (SIZE[0] + GAP) + SIZE[0])
        was = eye.iris[:, 3:]
        windows[:, number] = torch.stack(list(eye.window), 1)
        still[:, :, rows] = torch.cat([torch.lerp(eye.own, eye.bare, was), was, eye.opening], 1)
        iris[:, :, rows] = eye.iris
    return EyeSheet(windows, still, iris)


def turned_eyes(
    sheet: EyeSheet,
    turns: Tensor,
    step: int = 1,
    positions: Tensor | None = None,
    anchors: Tensor | None = None,
    moved: Tensor | None = None,
) -> list[PlacedInset]:
    """The turned eyes of N pictures, to be composited over them.

    sheet: of one source, or of N. turns: (N, 2) change of the coefficients of `gaze.COEFFICIENTS`. step: pixels of an
    eye's window per pixel that is drawn, 1 or 2. positions: (N, 2, S, S), sampling position in the source of each
    pixel; anchors, moved: (1 or N, 3, 2) and (N, 3, 2), the sources' anchors before and after the head's motion.
    Default: the pictures are the sources themselves.
    """
    count, height, width = len(turns), HEIGHT // step, WIDTH // step
    sheet, pixels = expanded(sheet, count), _pixels(step, turns.device)
    windows, inside = sheet.windows, pixels.expand(count, 2, -1, -1, -1)
    if positions is not None and anchors is not None and moved is not None:
        windows = moved_windows(windows, anchors, moved)
        middle, along, down = windows[:, :, :, None, None].unbind(2)  # (N, 2, 1, 1, 2)
        places = torch.addcmul(torch.addcmul(middle, along, pixels[..., :1]), down, pixels[..., 1:])
        found = F.grid_sample(positions, places.flatten(1, 2), padding_mode="border", align_corners=False)
        inside = inside_windows(sheet.windows, found.view(count, 2, 2, height, width)).permute(0, 2, 3, 4, 1)
    scale, offset = _sheet_places(turns.device)
    edge = 1 + 1 / SIZE[0]
    grids = [
        torch.addcmul(offset, torch.clamp(each, -edge, edge), scale).flatten(1, 2)
        for each in (inside, inside - shifts(turns)[:, None, None, None])
    ]
    without, was, opening = F.grid_sample(sheet.still, grids[0], align_corners=False).split((3, 1, 1), 1)
    iris, now = F.grid_sample(sheet.iris, grids[1], align_corners=False).split((3, 1), 1)
    angle = torch.linalg.vector_norm(turns * constant(turns.device, YAW, PITCH), dim=1)
    strength = (angle / FIRST).clamp(max=1.0)[:, None, None, None]
    alpha = opening * torch.maximum(was, now) * strength
    drawn = torch.cat([torch.lerp(without, iris, now) * alpha, alpha], 1).view(count, 4, 2, height, width)
    middle, along, down = windows.unbind(2)
    along, down = along * (WIDTH / SIZE[1]), down * (HEIGHT / SIZE[0])
    return [PlacedInset(Window(middle[:, eye], along[:, eye], down[:, eye]), drawn[:, :, eye]) for eye in (0, 1)]


def inside_windows(windows: Tensor, places: Tensor) -> Tensor:
    """As `Window.inside`, for windows (N, 2, 3, 2) and places (N, 2, 2, h, w): x and y of both eyes."""
    middle, *sides = windows.permute(2, 0, 3, 1)[..., None, None]
    to_window = torch.stack([side / side.square().sum(1, keepdim=True) for side in sides], 2)
    away = places - middle
    return torch.addcmul(away[:, :1] * to_window[:, 0], away[:, 1:], to_window[:, 1])


def moved_windows(windows: Tensor, before: Tensor, now: Tensor) -> Tensor:
    """Windows (N, 2, 3, 2) of the sources where the heads have moved them. before, now: (1 or N, 3, 2) anchors."""
    was, across = before[:, 1] - before[:, 0], now[:, 1] - now[:, 0]
    square = was.square().sum(1)
    cos = (across * was).sum(1) / square
    sin = (across[:, 1] * was[:, 0] - across[:, 0] * was[:, 1]) / square
    turn = torch.stack([cos, sin, -sin, cos], 1)[:, None, None]
    middle = constant(now.device, 1.0, 0.0, 0.0)[:, None]  # sides of a window have no place
    first, left = (middle * at[:, None, None, 0] for at in (before, now))  # (N, 1, 3, 2)
    away = windows - first
    return torch.addcmul(torch.addcmul(left, away[..., :1], turn[..., :2]), away[..., 1:], turn[..., 2:])


@lru_cache(maxsize=4)
def _pixels(step: int, device: torch.device) -> Tensor:
    """(1, 1, h, w, 2): positions of the drawn pixels in an eye's window, x first."""
    sides = [
        ((torch.arange(drawn // step, device=device) * 2 + 1) * step / drawn - 1) * (drawn / whole)
        for drawn, whole in ((WIDTH, SIZE[1]), (HEIGHT, SIZE[0]))
    ]
    return torch.stack(torch.meshgrid(*sides, indexing="xy"), -1)[None, None]


@lru_cache(maxsize=4)
def _sheet_places(device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale (2,) and offset (2, 1, 1, 2) that map positions in an eye's window to positions in the sheet."""
    share, between = SIZE[0] / ROWS, (SIZE[0] + GAP) / ROWS
    offset = torch.tensor([[0.0, -between], [0.0, between]], device=device)
    return torch.tensor([1.0, share], device=device), offset[:, None, None]
