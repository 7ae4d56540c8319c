"""Locates the lips of a source in a frame, and closes its open mouth with `inference.closing`."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..closing import Mouth, with_closed_mouth
from .fast_gaze import TurnableEyes
from .refiner import Refiner

# Share of the lower lip's motion that the chin follows if the jaw closes the mouth: for touching lips, its increase per
# eye distance of the gap, and its maximum; and the share if the lips close without the jaw.
CHIN, CHIN_PER_GAP, CHIN_MOST, CHIN_STILL = 0.3, 1.2, 0.65, 0.25


class SourceLips:
    """The lips of one source.

    eyes: of the source. motion: (1, fields, 2 H H), the refiner's, see `inference.model.correction.CorrectionSource`.
    own: (n,), the source's coefficients.
    """

    def __init__(self, eyes: TurnableEyes, motion: Tensor, refiner: Refiner, own: Tensor) -> None:
        self._eyes, self._motion, self._refiner, self._own = eyes, motion, refiner, own

    def close_mouth(self, picture: np.ndarray, alpha: Tensor, closing: Tensor, shade: bool = True) -> np.ndarray:
        """Close the mouth in a frame. picture, shade: see `inference.closing.with_closed_mouth`.

        alpha: (n,), coefficients of the frame, on the CPU. closing: (2,), see `inference.model.plan.Plan`.
        """
        closed, by_jaw = closing.tolist()
        if not closed:
            return picture
        chin = min(CHIN + CHIN_PER_GAP * self._eyes.mouth_gap, CHIN_MOST)
        return with_closed_mouth(
            picture, self.mouth_in_frame(alpha, len(picture)), closed, CHIN_STILL + (chin - CHIN_STILL) * by_jaw, shade
        )

    def open_mouth(self, size: int) -> Mouth | None:
        """The mouth in the source at `size` pixels; None if its lips touch or were not found."""
        return self.mouth_in_frame(self._own, size) if self._eyes.mouth_gap > 0 else None

    def mouth_in_frame(self, alpha: Tensor, size: int) -> Mouth:
        """The mouth in a frame of `size` pixels with the coefficients alpha (n,)."""
        first, second = self._terms
        before, after = (torch.cat([row, row[first] * row[second]]) for row in (self._own, alpha))
        positions = self._places + (after - before).numpy().astype(np.float64) @ self._moves
        pixels = (positions + 1 + 1j) * (size / 2) - 0.5 - 0.5j
        outlines = self._eyes.mouth.outlines
        return Mouth(pixels[: outlines.size].reshape(outlines.shape), pixels[outlines.size :])

    @cached_property
    def _places(self) -> np.ndarray:
        """Complex positions (P,) of outlines and landmarks in the source, in half widths."""
        mouth = self._eyes.mouth
        return np.concatenate([mouth.outlines.ravel(), mouth.landmarks])

    @cached_property
    def _moves(self) -> np.ndarray:
        """Complex displacements (fields, P) of these positions by each of the refiner's motion fields."""
        fields = self._motion.shape[1]
        points = np.stack([self._places.real, self._places.imag], 1).astype(np.float32)
        size = round((self._motion.shape[2] / 2) ** 0.5)
        motion = self._motion.reshape(1, 2 * fields, size, size).float()
        places = torch.from_numpy(points)[None, None].to(motion.device)
        sampled = F.grid_sample(motion, places, padding_mode="border", align_corners=False)[0, :, 0]
        x, y = sampled.cpu().double().numpy().reshape(fields, 2, -1).transpose(1, 0, 2)
        return x + 1j * y

    @cached_property
    def _terms(self) -> tuple[Tensor, Tensor]:
        first, second = self._refiner.get_buffer("terms").cpu().long()
        return first, second
