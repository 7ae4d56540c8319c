"""What a batch of frames draws, decided on the CPU from its coefficients.

A decision on a graphics card, such as whether an inset is visible, would wait until it has computed everything before.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..contract.bank import Bank, Coefficient
from ..lanes import Lanes
from .fast_gaze import TurnableEyes
from .gaze import BANK as EYE_BANK
from .gaze import with_lids
from .insets import Insets, strength_of
from .lids import LidColumns, LidMotion, MovedLids

CPU = torch.device("cpu")
# The first letters of ARKit units that neither open nor close the lips: the mouth is warped from the source, without
# the mouth's inset. So is a smile where the source's lips are apart: the inset would hide its teeth.
WARPED = (
    "brow", "eye", "cheekSquint", "noseSneer", "mouthFrown", "mouthStretch", "mouthDimple", "mouthLeft", "mouthRight",
)  # fmt: skip
SMILES = ("mouthSmile",)
# Units that close a mouth, and how far in units of the jaw.
JAW, CLOSE = "jawOpen", "mouthClose"
PRESS = "mouthPress"
CLOSING = {CLOSE: 1.0, PRESS: 0.5}
NARROW = 0.06, 0.12  # eye distances between lips up to which they are pressed once closed, and from which they are not
READ = 0.05  # a portrait whose jaw is read to be at this value or below counts as closed by the reading
PER_JAW = 0.6  # eye distances by which the lips part at a jaw of 1
LEAST = 0.1  # of the jaw, over which a mouth closes


@dataclass(frozen=True)
class Plan:
    """A batch of N frames. Its tensors are small, and on the CPU; see `packed`.

    alpha: (N, n), with which the networks render. turns: (N, 2), turns of eyes that are drawn without their lids; None
    for none. lids, lid_turns: how eyes with their lids are drawn, (N, 2) of `drawn_lids`; None for none. strengths:
    `Inset.strength` of mouth and eyes, None for one that is not needed; () without insets. closing: (N, 2), how far the
    source's open mouth is closed, 0..1, and which part of it by the jaw; None for none. It stays on the CPU.
    """

    alpha: Tensor
    turns: Tensor | None
    lids: LidMotion | None
    lid_turns: Tensor | None
    strengths: tuple[Tensor | None, ...]
    closing: Tensor | None = None

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for two plans if the same operators draw them."""
        return tuple(self.alpha.shape), *(part is None for part in (self.turns, self.lids, *self.strengths))

    def packed(self) -> Tensor:
        """(N, m): all numbers of the plan, to be copied to a device at once."""
        return torch.cat([part.flatten(1) for part in self._parts()], 1)

    def unpacked(self, packed: Tensor) -> Plan:
        """The same plan with its numbers taken from `packed`, on whatever device that is."""
        parts = iter(packed.split([part.shape[1:].numel() for part in self._parts()], 1))
        alpha = next(parts)
        turns = None if self.turns is None else next(parts)
        lids, lid_turns = None, None
        if self.lids is not None:
            lids, lid_turns = LidMotion(next(parts), next(parts)), next(parts)
        strengths = (None if part is None else next(parts)[:, :, None, None] for part in self.strengths)
        return Plan(alpha, turns, lids, lid_turns, tuple(strengths), self.closing)

    def _parts(self) -> list[Tensor]:
        lids = [] if self.lids is None else [self.lids.upper, self.lids.lower, self.lid_turns]
        return [part for part in (self.alpha, self.turns, *lids, *self.strengths) if part is not None]


class Planner:
    """Plans the batches of one bank.

    insets: those of the bank, if it has them. lanes: find the lids of several sources at once, which takes 70 ms each.
    """

    def __init__(self, bank: Bank, insets: Insets | None, lanes: Lanes | None = None) -> None:
        self._lanes = lanes
        names, slices = bank.names, bank.config.bank_slices
        self._count = bank.config.generator.coefficient_count
        turns_eyes = EYE_BANK in bank.config.painted and insets is not None
        self._eye_columns = list(range(len(names)))[slices[EYE_BANK]] if turns_eyes else []
        self._lid_columns = None if insets is None else LidColumns.found(bank, CPU)
        self._lids = tuple(names.index(name) if name in names else None for name in ("eyeBlink", "eyeWide"))
        self._called_by: list[Tensor] = []
        if insets is not None:
            self._called_by = [inset.called_by.cpu() for inset in (insets.mouth, insets.eyes)]
            warped = [_moves_only(one, WARPED) for one in bank.coefficients[: self._count]]
            self._called_by[0] = self._called_by[0].masked_fill(torch.tensor(warped), 0.0)
        self._closers = _closers(bank) if insets is not None else None
        smiles = [float(_moves_only(one, SMILES)) for one in bank.coefficients[: self._count]]
        self._smiles = torch.tensor(smiles)

    def plan(
        self, rows: Sequence[np.ndarray], own: np.ndarray, eyes: Sequence[TurnableEyes], mouth_at_rest: bool = False
    ) -> Plan:
        """rows: N of (n,). own: (1 or N, n), coefficients of the sources. eyes: theirs, none if the bank draws none.

        mouth_at_rest: draw the mouth's inset even if all frames equal their sources; it is invisible then.
        """
        values, rest = torch.from_numpy(np.stack(rows)), torch.from_numpy(own)[:, : self._count]
        alpha, turns = values[:, : self._count], values[:, self._eye_columns]
        lids = self._moved_lids(eyes, alpha, rest, turns)
        if lids is not None:
            alpha, turns = lids.still, lids.other_turns
        if self._eye_columns:
            alpha = with_lids(alpha, turns, *self._lids)
        closing = None
        if self._closers is not None and eyes:
            alpha, closing = self._closers.removed(alpha, rest, eyes)
        change = alpha - rest
        strengths = [strength_of(change, called_by) for called_by in self._called_by]
        if strengths and eyes and (change * self._smiles).any():
            apart = torch.tensor([one.lips_apart for one in eyes]).view(-1, 1, 1, 1)
            others = strength_of(change, self._called_by[0] * (1 - self._smiles))
            strengths[0] = torch.lerp(strengths[0], others, apart)
        if closing is not None:  # lips that touch hide what the inset would draw
            strengths[0] = strengths[0] * (1 - closing[:, :1, None, None])
        needed = [bool(strength.any()) or (mouth_at_rest and not at) for at, strength in enumerate(strengths)]
        return Plan(
            alpha,
            turns if turns.any() else None,
            None if lids is None else lids.motion,
            None if lids is None else lids.turns,
            tuple(part if is_needed else None for part, is_needed in zip(strengths, needed, strict=True)),
            closing,
        )

    def without_closing(self) -> Planner:
        """The same planner, but `Plan.closing` is always None: the networks render what closes a mouth."""
        other = copy.copy(self)
        other._closers = None
        return other

    def _moved_lids(self, eyes: Sequence[TurnableEyes], alpha: Tensor, own: Tensor, turns: Tensor) -> MovedLids | None:
        """None if the lids stay as they are in the sources. turns: (N, 2), or (N, 0) for a bank without gaze."""
        if self._lid_columns is None or not eyes:
            return None
        if not turns.any() and not self._lid_columns.of(alpha - own).any():
            return None
        if self._lanes is not None:
            deque(self._lanes.map(lambda one: one.found_lids, dict.fromkeys(eyes)), maxlen=0)
        heights, clear = (torch.cat([getattr(one.found_lids, part) for one in eyes]) for part in ("heights", "clear"))
        return MovedLids(self._lid_columns, heights, clear, alpha, own, turns) if clear.any() else None


@dataclass(frozen=True)
class Closers:
    """The columns of a bank that close a mouth, with their units and weights, and the column of the jaw."""

    jaw: int
    units: tuple[str, ...]
    columns: tuple[int, ...]
    weights: tuple[float, ...]

    def removed(self, alpha: Tensor, own: Tensor, eyes: Sequence[TurnableEyes]) -> tuple[Tensor, Tensor | None]:
        """Coefficients without what closes an open mouth of a source, and `Plan.closing`.

        alpha, own: (N, n) and (1 or N, n), coefficients of the frames and of their sources. eyes: of each source.
        Where lips are closed while the jaw opens, both are removed as far as they cancel.
        """
        columns, change = list(self.columns), alpha - own
        jaw, closers = change[:, self.jaw], change[:, columns].clamp(min=0.0)
        closed = (closers * torch.tensor(self.weights)).sum(1)
        closes = (jaw < 0) | (closed > 0)
        if not closes.any():
            return alpha, None
        gaps = torch.tensor([one.mouth_gap for one in eyes])
        apart = gaps > 0
        still = alpha.clone()
        # Lips that touch stay as they are, whatever is read of the jaw, and close no further than the jaw opens.
        opens = jaw.clamp(min=0.0)
        still[:, self.jaw] = own[:, self.jaw] + opens
        if CLOSE in self.units:
            column = columns[self.units.index(CLOSE)]
            still[:, column] = own[:, column] + torch.minimum(change[:, column], opens)
        # The other frames keep theirs to the last bit, so that no frame depends on those rendered with it.
        still = torch.where(((gaps >= 0) & closes)[:, None], still, alpha)
        if not apart.any():
            return still, None
        read = own[:, self.jaw]
        until = torch.where(read > READ, read, (gaps / PER_JAW).clamp(min=LEAST))
        share = ((closed - jaw) / until).clamp(0.0, 1.0) * apart
        by_jaw = (-jaw).clamp(min=0.0) / (closed - jaw.clamp(max=0.0)).clamp(min=1e-6)
        opened = alpha.clone()
        opened[:, self.jaw] = own[:, self.jaw] + (jaw - closed).clamp(min=0.0)
        opened[:, columns] -= closers
        if PRESS in self.units:
            # What a mouth does not need for closing presses its lips, unless it is wide open: the networks draw pressed
            # lips as narrower, and would squeeze away what lies between them.
            which = self.units.index(PRESS)
            narrow = ((NARROW[1] - gaps) / (NARROW[1] - NARROW[0])).clamp(0.0, 1.0)
            unused = (closed - jaw - until).clamp(min=0.0) / self.weights[which]
            opened[:, columns[which]] += torch.minimum(closers[:, which], unused) * narrow
        still = torch.where((apart & closes)[:, None], opened, still)
        return still, torch.stack([share, by_jaw], 1) if share.any() else None


def _closers(bank: Bank) -> Closers | None:
    """None if the bank has no coefficient of the jaw."""
    coefficients = bank.coefficients[: bank.config.generator.coefficient_count]
    jaw = [at for at, one in enumerate(coefficients) if _moves_only(one, (JAW,))]
    found = [
        (unit, at, weight)
        for unit, weight in CLOSING.items()
        for at, one in enumerate(coefficients)
        if _moves_only(one, (unit,))
    ]
    return Closers(jaw[0], *(tuple(part) for part in zip(*found, strict=True))) if jaw and found else None


def _moves_only(coefficient: Coefficient, units: tuple[str, ...]) -> bool:
    """Whether a coefficient moves nothing but these ARKit units, given by their first letters."""
    return bool(coefficient.arkit) and all(unit.startswith(units) for unit in coefficient.arkit)
