"""Plans the rendering of a batch on the CPU: which parts are needed for its coefficients, and with which inputs.

On a graphics card, a decision such as whether an inset is visible would wait for all operators in the queue.
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
# Eye distances between lips up to which the networks press them once closed, and keep them closed while the jaw opens;
# and from which on they do neither.
NARROW = 0.06, 0.12
READ = 0.05  # a portrait whose jaw is read to be at this value or below counts as closed by the reading
PER_JAW = 0.6  # eye distances by which the lips part at a jaw of 1
LEAST = 0.1  # of the jaw, over which a mouth closes


@dataclass(frozen=True)
class Plan:
    """The inputs of a batch of N frames. All tensors are small and on the CPU; see `packed`.

    alpha: (N, n), coefficients of the networks. turns: (N, 2), gaze of eyes that are rendered without lids; None: no
    such eyes. lids, lid_turns: arguments of `lid_insets`, (N, 2); None: no lids are rendered. strengths:
    `Inset.strength` of mouth and eyes, None for an inset that is not needed; () without insets. closing: (N, 2), how
    far `inference.closing` closes the source's open mouth, 0..1, and the jaw's share of it, 0..1; None: not at all. It
    is not part of `packed`.
    """

    alpha: Tensor
    turns: Tensor | None
    lids: LidMotion | None
    lid_turns: Tensor | None
    strengths: tuple[Tensor | None, ...]
    closing: Tensor | None = None

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for plans that the same operators render."""
        return tuple(self.alpha.shape), *(part is None for part in (self.turns, self.lids, *self.strengths))

    def packed(self) -> Tensor:
        """All numbers of the plan (N, m), to be copied to a device at once."""
        return torch.cat([part.flatten(1) for part in self._parts()], 1)

    def unpacked(self, packed: Tensor) -> Plan:
        """The plan with its tensors as views of `packed` (N, m), on the device of `packed`."""
        parts = iter(packed.split([part.shape[1:].numel() for part in self._parts()], 1))
        alpha = next(parts)
        turns = None if self.turns is None else next(parts)
        lids, lid_turns = None, None
        if self.lids is not None:
            lids = LidMotion(next(parts), next(parts), next(parts).unflatten(1, (2, 2)))
            lid_turns = next(parts)
        strengths = (None if part is None else next(parts)[:, :, None, None] for part in self.strengths)
        return Plan(alpha, turns, lids, lid_turns, tuple(strengths), self.closing)

    def _parts(self) -> list[Tensor]:
        lids = [] if self.lids is None else [self.lids.upper, self.lids.lower, self.lids.skin, self.lid_turns]
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
        self._lid_columns = None if insets is None else LidColumns.of_bank(bank, CPU)
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
        """Plan a batch.

        rows: N rows of coefficients (n,). own: (1 or N, n), coefficients of the sources. eyes: of each source, none
        without insets. mouth_at_rest: render the mouth's inset even if all frames equal their sources, where it is
        invisible.
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
            alpha, closing = self._closers.remove(alpha, rest, eyes)
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
        """A planner whose `Plan.closing` is always None, so that the networks render closing mouths."""
        other = copy.copy(self)
        other._closers = None
        return other

    def _moved_lids(self, eyes: Sequence[TurnableEyes], alpha: Tensor, own: Tensor, turns: Tensor) -> MovedLids | None:
        """The lids of the batch; None if all stay as in the sources.

        turns: (N, 2), or (N, 0) for a bank without gaze.
        """
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
    """The coefficients of a bank that close a mouth.

    jaw: column of the jaw. units, columns, weights: ARKit unit, column and weight relative to the jaw of the others.
    """

    jaw: int
    units: tuple[str, ...]
    columns: tuple[int, ...]
    weights: tuple[float, ...]

    def remove(self, alpha: Tensor, own: Tensor, eyes: Sequence[TurnableEyes]) -> tuple[Tensor, Tensor | None]:
        """Remove from the coefficients what closes the open mouth of a source. Also returns `Plan.closing`.

        If the lips of a wide-open mouth close while the jaw opens, both are removed as far as they cancel each other.

        alpha: (N, n), coefficients of the frames. own: (1 or N, n), coefficients of the sources. eyes: of each source.
        """
        columns, change = list(self.columns), alpha - own
        jaw, closers = change[:, self.jaw], change[:, columns].clamp(min=0.0)
        closing = (closers * torch.tensor(self.weights)).sum(1)
        is_closing = (jaw < 0) | (closing > 0)
        if not is_closing.any():
            return alpha, None
        gaps = torch.tensor([one.mouth_gap for one in eyes])
        is_open = gaps > 0
        result = alpha.clone()
        # Lips that touch stay as they are, whatever is read of the jaw, and close no further than the jaw opens.
        opening = jaw.clamp(min=0.0)
        result[:, self.jaw] = own[:, self.jaw] + opening
        if CLOSE in self.units:
            column = columns[self.units.index(CLOSE)]
            result[:, column] = own[:, column] + torch.minimum(change[:, column], opening)
        # The other frames keep theirs to the last bit, so that no frame depends on those rendered with it.
        result = torch.where(((gaps >= 0) & is_closing)[:, None], result, alpha)
        if not is_open.any():
            return result, None
        own_jaw = own[:, self.jaw]
        to_closed = torch.where(own_jaw > READ, own_jaw, (gaps / PER_JAW).clamp(min=LEAST))
        share = ((closing - jaw) / to_closed).clamp(0.0, 1.0) * is_open
        by_jaw = (-jaw).clamp(min=0.0) / (closing - jaw.clamp(max=0.0)).clamp(min=1e-6)
        without_closing = alpha.clone()
        without_closing[:, self.jaw] = own[:, self.jaw] + (jaw - closing).clamp(min=0.0)
        without_closing[:, columns] -= closers
        # The networks draw closing lips as narrower: of a wide-open mouth, they would squeeze away what lies between.
        narrow = ((NARROW[1] - gaps) / (NARROW[1] - NARROW[0])).clamp(0.0, 1.0)
        if CLOSE in self.units:  # the chin goes down, the lips do not part
            which = self.units.index(CLOSE)
            kept = torch.minimum(closers[:, which], opening) * narrow
            without_closing[:, self.jaw] += kept
            without_closing[:, columns[which]] += kept
        if PRESS in self.units:  # what a mouth does not need for closing presses its lips
            which = self.units.index(PRESS)
            unused = (closing - jaw - to_closed).clamp(min=0.0) / self.weights[which]
            without_closing[:, columns[which]] += torch.minimum(closers[:, which], unused) * narrow
        result = torch.where((is_open & is_closing)[:, None], without_closing, result)
        return result, torch.stack([share, by_jaw], 1) if share.any() else None


def _closers(bank: Bank) -> Closers | None:
    """The closers of a bank; None if it has no coefficient of the jaw or none that closes the lips."""
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
    """Whether a coefficient moves only ARKit units that begin with one of these prefixes."""
    return bool(coefficient.arkit) and all(unit.startswith(units) for unit in coefficient.arkit)
