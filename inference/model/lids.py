"""Closes, opens and turns the eyes of a portrait, without a network: the portrait's own lids move.

A frame samples the parts of the eyes (`inference.model.lid_parts`) at the positions that the frame's motion gives:

- wide and squinting eyes move lids and the skin around them by fields of displacements (`inference.model.lid_skin`);
- the edge of a closing upper lid moves over the eye with its own lashes; above it lies the skin of the lid;
- lashes that point down appear as the lid closes, as dark as the edge of the lid is in the source;
- in a blink, the edge of the lower lid rises a little with its own skin;
- between the lids, the iris moves as in `inference.model.gaze`; the upper lid follows it up and down.

The networks render the frame with the lids as they are in the source. The frame is warped where the skin moves, and
both eyes are composited over it. A source whose lids were not found keeps the lids of the insets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract.bank import Bank
from .decoder import Drawn
from .fast_gaze import inside_windows, moved_windows
from .gaze import FIRST as FIRST_TURN
from .gaze import PITCH, SIZE, YAW, shifts
from .insets import DARKEST, PlacedInset, Window
from .layout import constant
from .lid_parts import CHART_ABOVE, CHART_BELOW, EDGE, STILL_CHANNELS, UNFOLDED, LidParts
from .lid_skin import combined
from .refiner import pixel_positions, warped
from .tensor_trees import expanded

RAISED = 0.12  # part of the opening by which the lower lid rises in a blink
# Parts of the opening at a coefficient of 1, as in the face units of the heads that the bank is trained on.
BLINK = 1.4  # by which a source's own blink has lowered its upper lid
# Pixels by which a blink lowers the upper lid, a constant and part of the opening, and limits of that way: narrow eyes
# are closed by a smaller coefficient.
CLOSING, CLOSED = (28.0, 0.21), (1.2, 2.2)
WIDE = 0.43  # by which wide eyes raise the upper lid
LOWER = -0.2, 0.6  # limits of the lower lid's motion, see `LidMotion`
WIDEST, SQUINTED = 1.3, (-0.5, 1.5)  # limits of `LidMotion.skin`
FOLLOWED = 0.75, 0.3  # parts of the way of an iris that turns up or down that the upper and the lower lid go with it
# Pixels below the source's upper lid that are stretched over what wide eyes uncover, and pixels of it at a coefficient
# of 1. What is below them stays as it is.
STRETCHED, UNCOVERED = 6.0, 10.0
FINEST = 2  # larger steps draw the means of pixels that are so many pixels of the window apart: else edges are jagged
FIRST = 0.05  # part of the opening over which the drawing fades in
# Pixels above the fitted lower edge that a squint raises with the lid, and the coefficient over which they are added.
MARGIN, MARGIN_FIRST = 3.0, 0.15
STRIP = 4.0, 9.0  # pixels above the upper edge that move rigidly with it, and up to which this fades
SOFT = 1.4  # pixels over which an edge is blended
UNITS = "eyeBlink", "eyeWide", "eyeSquint"  # ARKit units of one eye, without the side


@dataclass(frozen=True)
class LidColumns:
    """The columns of a bank that move lids only. weights: (m, 3, 2), by `UNITS`, for the right and the left eye."""

    columns: tuple[int, ...]
    weights: Tensor

    @staticmethod
    def of_bank(bank: Bank, device: torch.device) -> LidColumns:
        """Columns that move one of `UNITS` and nothing else. Weight: 1 / the coefficient's value for the whole unit."""
        columns, weights = [], []
        for column, entry in enumerate(bank.coefficients[: bank.config.generator.coefficient_count]):
            for number, unit in enumerate(UNITS):
                sides = [entry.arkit.get(unit + side, 0.0) for side in ("Right", "Left")]
                if max(sides) > 0 and not entry.arkit.keys() - {unit + "Right", unit + "Left"}:
                    weight = torch.zeros(len(UNITS), 2)
                    weight[number] = torch.tensor(sides) / (max(sides) * sum(sides))
                    columns.append(column)
                    weights.append(weight)
        stacked = torch.stack(weights) if weights else torch.zeros(0, len(UNITS), 2)
        return LidColumns(tuple(columns), stacked.to(device))

    def of(self, rows: Tensor) -> Tensor:
        """The columns of coefficients (N, n): (N, m)."""
        return rows[:, list(self.columns)]


@dataclass(frozen=True)
class LidMotion:
    """How lids move, the right eye first.

    upper, lower: (N, 2), by how much the upper lid closes, 0..1, and by how much the lower lid rises, below 0 if it is
    lowered; in parts of the opening. skin: (N, 2, 2), coefficients of wide and of squinting eyes, by which lids and the
    skin around them move, see `inference.model.lid_skin`.
    """

    upper: Tensor
    lower: Tensor
    skin: Tensor


class MovedLids:
    """How the eyes of N pictures are drawn without a network.

    columns: those that move lids. heights, clear: of the eyes of one source, or of N, see `LidParts`. alpha: (N, n).
    own: (1 or N, n), of the sources. turns: (N, 2) change of the coefficients of `inference.model.gaze.COEFFICIENTS`,
    or (N, 0). All tensors are on one device.

    Attributes: still, (N, n), alpha with the lids as they are in the sources whose lids were found, with which the
    networks render; other_turns, turns of the other sources; motion, turns: for `lid_insets`.
    """

    def __init__(
        self, columns: LidColumns, heights: Tensor, clear: Tensor, alpha: Tensor, own: Tensor, turns: Tensor
    ) -> None:
        self.still = alpha.clone()
        self.still[:, list(columns.columns)] = torch.where(clear.bool(), columns.of(own), columns.of(alpha))
        self.other_turns = turns * (1 - clear)
        self.turns = turns if turns.shape[1] else turns.new_zeros(len(turns), 2)
        self.motion = lid_motion(columns, alpha, own, self.turns, heights)


def lid_motion(columns: LidColumns, alpha: Tensor, own: Tensor, turns: Tensor, heights: Tensor) -> LidMotion:
    """Motion of the lids from their coefficients and from the gaze that they follow.

    alpha: (N, n), coefficients of the frames. own: (1 or N, n), those of their sources. turns: (N, 2), change of the
    coefficients of `inference.model.gaze.COEFFICIENTS`. heights: pixels, see `LidParts`.
    """
    now, was = (torch.einsum("nm,mus->uns", columns.of(rows), columns.weights) for rows in (alpha, own))
    _, wide, squint = now - was
    now_closed, was_closed = BLINK * now[0], BLINK * was[0]
    way = (1 - was_closed).clamp(0.3, 1.0)
    opens = (now_closed.clamp(max=1.0) - was_closed.clamp(max=1.0)).clamp(max=0.0) / way
    # Open eyes may be read as nearly closed; a blink of 1 closes them all the same.
    path = ((CLOSING[0] + CLOSING[1] * heights) / heights.clamp(min=1.0)).clamp(*CLOSED)
    closes = (now[0] - was[0]).clamp(min=0.0) * torch.maximum(path, 1 / (1 - was[0]).clamp(min=0.05))
    blink = opens + closes.clamp(max=1.0)
    follow = shifts(turns)[:, 1:] * (SIZE[0] / 2) / heights.clamp(min=8.0)
    closed = blink.clamp(min=0.0)
    upper = blink + (1 - closed) * (FOLLOWED[0] * follow - WIDE * wide)
    lower = RAISED * closed * (1 - squint.clamp(0.0, 1.0)) - (1 - closed) * FOLLOWED[1] * follow
    skin = torch.stack([(-upper / WIDE).clamp(0.0, WIDEST), squint.clamp(*SQUINTED)], 2)
    return LidMotion(upper.clamp(0.0, 1.0), lower.clamp(*LOWER), skin)


def with_moved_skin(parts: LidParts, motion: LidMotion, drawn: Drawn, anchors: Tensor, moved: Tensor) -> Drawn:
    """Pictures drawn by the networks, with the skin around the eyes moved. The eyes are to be composited over them.

    anchors, moved: as for `fast_gaze.turned_eyes`.
    """
    if _stays(motion.skin):
        return drawn
    was, now = anchors[:, 1] - anchors[:, 0], moved[:, 1] - moved[:, 0]
    square = was.square().sum(1)
    cos = ((now * was).sum(1) / square)[:, None, None]
    sin = ((now[:, 1] * was[:, 0] - now[:, 0] * was[:, 1]) / square)[:, None, None]
    x, y = warped(combined(parts.skin, motion.skin), drawn.places).unbind(1)
    shift = torch.stack([cos * x - sin * y, sin * x + cos * y], 1)
    still = torch.cat(drawn, 1)
    result = warped(still, pixel_positions(still.shape[-1], still.device) + shift)
    result = torch.where((shift != 0).any(1, keepdim=True), result, still)  # the rest stays to the last bit
    return Drawn(*result.split([part.shape[1] for part in drawn], 1))


def lid_insets(
    parts: LidParts,
    motion: LidMotion,
    turns: Tensor,
    step: int = 1,
    positions: Tensor | None = None,
    anchors: Tensor | None = None,
    moved: Tensor | None = None,
) -> list[PlacedInset]:
    """The eyes of N pictures, to be composited over them.

    parts: of one source, or of N. turns: (N, 2), see `lid_motion`. Other arguments as for `fast_gaze.turned_eyes`.
    """
    eyes = _PlacedEyes.locate(parts, motion, turns, min(step, FINEST), positions, anchors, moved)
    at, under, beneath, strip, rows = eyes.at, eyes.under, eyes.beneath, eyes.strip, eyes.rows
    shift = eyes.by_eye(shifts(turns)[:, None]).mT[..., None, None]
    angle = torch.linalg.vector_norm(turns * constant(turns.device, YAW, PITCH), dim=1)
    turned = eyes.by_eye((angle / FIRST_TURN).clamp(max=1.0)[:, None])[:, None, :, None, None]

    down = torch.cat([torch.zeros_like(rows), rows * (2 / SIZE[0])], 1)
    still = parts.still.flatten(0, 1)
    white, own = _sampled(still[:, :6], eyes.at_eye + down).split(3, 1)
    follows = own if eyes.at_eye is at else _sampled(still[:, 3:6], at + down)
    iris, now = _sampled(parts.iris.flatten(0, 1), eyes.at_iris - shift).split((3, 1), 1)
    # An iris that wide eyes uncover is completed; one that turns is drawn as a whole.
    eye = torch.lerp(own, iris, now * eyes.uncovered).lerp_(torch.lerp(white, iris, now), turned)
    shadow = (eyes.down.abs() / 6).clamp_(max=1.0).mul_(0.35) * (under.clamp(min=0.0) / -4).exp_()
    eye.lerp_(constant(turns.device, -1.0), shadow)
    eye.lerp_(follows, (beneath / SOFT).add_(0.5).clamp_(0.0, 1.0))

    covered, unfolded = ((eyes.upper / whole).clamp(0.0, 1.0) for whole in (0.1, 0.5))
    covered = torch.maximum(eyes.covered * covered, eyes.unfolds * unfolded)
    lid = torch.lerp(eyes.own, eyes.skin, covered).lerp_(follows, strip)
    colour = eye.lerp_(lid, eyes.over)
    lashes_at = torch.cat([at[:, :1], (under + CHART_ABOVE) * (2 / (CHART_ABOVE + CHART_BELOW)) - 1], 1)
    dark = _sampled(parts.lashes.flatten(0, 1), lashes_at) * ((eyes.upper - 0.35) / 0.5).clamp(0.0, 1.0)
    darkest = constant(turns.device, -1 - 2 * DARKEST)
    colour = colour.lerp_(darkest, 1 - (-dark).exp_()).clamp_(min=-1.0)

    # What is as in the source is not drawn over the frame.
    opened = (1 - eyes.over) * (0.5 - beneath / SOFT).clamp_(0.0, 1.0) * (eyes.opening / 3).clamp_(max=1.0)
    changed = torch.maximum(eyes.shift.abs(), torch.maximum(covered, 4 * dark))
    changed = torch.maximum(torch.maximum(changed, opened).clamp_(max=1.0).mul_(eyes.moves), opened * turned)
    alpha = eyes.area * changed
    drawn = torch.cat([colour.mul_(alpha), alpha], 1)
    if step > FINEST:
        drawn = F.avg_pool3d(drawn, (1, step // FINEST, step // FINEST))
    return eyes.insets(drawn)


def lid_position_insets(
    parts: LidParts, motion: LidMotion, turns: Tensor, positions: Tensor, anchors: Tensor, moved: Tensor
) -> list[PlacedInset]:
    """Insets of sampling positions: x and y in the source, and alpha, instead of the colours of `lid_insets`.

    Where a closing lid shows skin that the source does not have, positions are those of the strip above the upper edge
    (UNFOLDED), as if it were stretched: the edge of a closed lid is the edge of the open one.
    """
    eyes = _PlacedEyes.locate(parts, motion, turns, 1, positions, anchors, moved)
    shift = torch.lerp(eyes.rows, eyes.stretched, eyes.over)
    at = eyes.at + torch.cat([torch.zeros_like(shift), shift * (2 / SIZE[0])], 1)
    middle, along, down = parts.windows.flatten(0, 1)[..., None, None, None].unbind(1)
    sampled_at = middle + along * at[:, :1] + down * at[:, 1:]
    alpha = eyes.area * (shift.abs().clamp(max=1.0) * eyes.moves)
    return eyes.insets(torch.cat([sampled_at * alpha, alpha], 1))


@dataclass(frozen=True)
class _PlacedEyes:
    """Where the parts of both eyes lie in the windows of N pictures.

    Tensors are (E, C, F, h, w): E eyes of the sources, F frames of each. windows: (N, 2, 3, 2), in the pictures. at,
    at_eye, at_iris: x and y of positions in the source's window, for skin that has moved by `LidMotion.skin`, for the
    eye, which is stretched where lids uncover more of it, and for its iris. own, skin, opening, covered, unfolds, area:
    see `LidParts.still`, at the positions of the skin. upper: see `LidMotion`. down: pixels by which the upper edge has
    moved. under, beneath: pixels below the moved upper and lower edge. rows: pixels below the own position at which
    skin that moves along is sampled. strip: share of it above the upper edge. over: 1 above the upper edge. uncovered:
    0..1, 1 above the source's upper edge in wide eyes. moves: 0..1, share of the drawing.
    """

    sources: int
    windows: Tensor
    at: Tensor
    at_eye: Tensor
    at_iris: Tensor
    own: Tensor
    skin: Tensor
    opening: Tensor
    covered: Tensor
    unfolds: Tensor
    area: Tensor
    upper: Tensor
    down: Tensor
    under: Tensor
    beneath: Tensor
    rows: Tensor
    strip: Tensor
    over: Tensor
    uncovered: Tensor
    moves: Tensor

    @staticmethod
    def locate(
        parts: LidParts,
        motion: LidMotion,
        turns: Tensor,
        step: int,
        positions: Tensor | None,
        anchors: Tensor | None,
        moved: Tensor | None,
    ) -> _PlacedEyes:
        """Arguments as for `lid_insets`."""
        count, sources, height, width = len(turns), len(parts.still), SIZE[0] // step, SIZE[1] // step
        device = turns.device
        y, x = ((torch.arange(size, device=device) * 2 + 1) / size - 1 for size in (height, width))
        pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"))[None, :, None]  # (1, 2, 1, h, w)
        windows = own_windows = expanded(parts.windows, count)
        in_source = _in_picture(windows, pixels)
        if positions is not None and anchors is not None and moved is not None:
            windows = moved_windows(windows, anchors, moved)
            in_source = warped(positions, _in_picture(windows, pixels).flatten(2, 3)).view(count, 2, 2, height, width)
        # The eye stays where a squint covers it, and is stretched where lids uncover more of it: only a strip, because
        # pupils would be oval otherwise.
        wide, squint = motion.skin.unbind(2)

        def in_window(places: Tensor) -> Tensor:
            inside = inside_windows(own_windows, places).transpose(1, 2)
            return _by_eye(inside, sources).transpose(1, 2).contiguous()

        at = at_eye = at_iris = in_window(in_source)
        uncovered = torch.zeros_like(at[:, :1])
        if not _stays(motion.skin):
            flat = in_source.flatten(2, 3)
            lowered = torch.stack([torch.zeros_like(wide), squint.clamp(max=0.0)], 2)
            fields = (combined(parts.skin, skin) for skin in (motion.skin, lowered))
            at, at_eye = (in_window(in_source + warped(field, flat).view_as(in_source)) for field in fields)
            away = (STRETCHED - _sampled(parts.still.flatten(0, 1)[:, EDGE], at_eye)).clamp_(min=0.0)
            raised = UNCOVERED * _by_eye(wide, sources)[:, None, :, None, None]
            rows = away * (raised / (STRETCHED + raised))
            at_eye = at_eye + torch.cat([torch.zeros_like(rows), rows * (2 / SIZE[0])], 1)
            uncovered = (away / STRETCHED).clamp_(max=1.0) * (raised / 2).clamp_(max=1.0)
        upper, lower = (_by_eye(part, sources)[:, None, :, None, None] for part in (motion.upper, motion.lower))
        still = parts.still.flatten(0, 1)
        own, skin, edge, opening, covered, unfolds, area = _sampled(still[:, STILL_CHANNELS[0] :], at).split(
            STILL_CHANNELS[1:], 1
        )
        area *= _by_eye(expanded(parts.clear, count), sources)[:, None, :, None, None]

        raised = lower * opening
        down = upper * (opening - raised)
        under = edge - down
        beneath = edge - opening + raised
        wide, squint = (_by_eye(part, sources)[:, None, :, None, None] for part in (wide, squint))
        beneath += MARGIN * (squint / MARGIN_FIRST).clamp(0.0, 1.0)
        # An edge moves rigidly. An eye whose lower lid is lowered is stretched.
        depth = (under / (under - beneath).clamp_(min=1.0)).clamp_(0.0, 1.0)
        between = raised.clamp(max=0.0) * depth
        below = raised * (1 - beneath / 22).clamp_(0.0, 1.0)
        rows = torch.where(under < 0, -down, torch.where(beneath > 0, below, between))
        strip = ((STRIP[1] + under) / (STRIP[1] - STRIP[0])).clamp_(0.0, 1.0) * ((0.7 - upper) / 0.4).clamp(0.0, 1.0)
        over = (0.5 - under / SOFT).clamp_(0.0, 1.0)
        moves = (torch.maximum(torch.maximum(upper, lower.abs()), torch.maximum(squint.abs(), wide)) / FIRST).clamp(
            max=1.0
        )
        return _PlacedEyes(
            sources,
            windows,
            at,
            at_eye,
            at_iris,
            own,
            skin,
            opening,
            covered,
            unfolds,
            area,
            upper,
            down,
            under,
            beneath,
            rows,
            strip,
            over,
            uncovered,
            moves,
        )

    @property
    def shift(self) -> Tensor:
        """Pixels below the own position that are shown: `rows`, above the upper edge by `strip`."""
        return torch.lerp(self.rows, self.rows * self.strip, self.over)

    @property
    def stretched(self) -> Tensor:
        """The same of skin that a closing lid unfolds: UNFOLDED[0] pixels go with its edge, UNFOLDED[1] pixels above it
        the skin stays.
        """
        share = (self.under + self.down + UNFOLDED[1]) / (self.down.clamp(min=0.0) + UNFOLDED[1] - UNFOLDED[0])
        return -self.down * share.clamp(0.0, 1.0)

    def by_eye(self, frames: Tensor) -> Tensor:
        """See `_by_eye`."""
        return _by_eye(frames, self.sources)

    def insets(self, drawn: Tensor) -> list[PlacedInset]:
        """drawn: (E, C, F, h, w), the last channel is alpha -> an inset for each eye, with all N frames."""
        of_frames = drawn.unflatten(0, (self.sources, 2)).permute(1, 0, 3, 2, 4, 5).flatten(1, 2)
        middle, along, down = self.windows.unbind(2)
        return [PlacedInset(Window(middle[:, eye], along[:, eye], down[:, eye]), of_frames[eye]) for eye in (0, 1)]


def _in_picture(windows: Tensor, pixels: Tensor) -> Tensor:
    """Places (N, 2, 2, h, w), x and y of both eyes, of positions `pixels` (1, 2, 1, h, w) in windows (N, 2, 3, 2)."""
    middle, along, down = windows.permute(2, 0, 3, 1)[..., None, None]
    return torch.addcmul(torch.addcmul(middle, along, pixels[:, :1]), down, pixels[:, 1:])


def _stays(skin: Tensor) -> bool:
    """Whether no skin moves, see `LidMotion.skin`. On a graphics card False, because it would have to be waited for."""
    return skin.device.type == "cpu" and not bool(skin.any())


def _by_eye(frames: Tensor, sources: int) -> Tensor:
    """(N, 2, ...) -> (eyes of sources, frames of each, ...), in which one eye is sampled for all its frames."""
    frames = frames.expand(frames.shape[0], 2, *frames.shape[2:]).unflatten(0, (sources, -1))
    return frames.transpose(1, 2).flatten(0, 1)


def _sampled(pictures: Tensor, at: Tensor) -> Tensor:
    """(eyes, C, h, w) pictures at (eyes, 2, frames, h, w) -> (eyes, C, frames, h, w)."""
    return warped(pictures, at.flatten(2, 3)).unflatten(2, at.shape[2:4])
