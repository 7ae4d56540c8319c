"""Draws the mouth of a dubbed frame from reference frames of the same clip.

The pixels of a reference are moved to the target's coefficients by the motion that the refiner predicts, then aligned
to the plate by the optical flow of nose, cheeks and eyes, and sampled once, at the plate's resolution. Two references
are mixed where the target lies between them. The result is matched to the colours of the plate around the mask and
blended in by a mask from below the nose to the lower of the two jaw lines, old and new. The network's own picture is
used only where no reference opens the mouth far enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch

from .contract.plate import Plate
from .contract.references import References, blend, likeness_weights
from .dubbing import crop_of, frames_in_any_order
from .face.crop import Crop, apply_matrix, crop_face, inverse_matrix, similarity
from .face.framing import cut_at
from .face.landmarks import OUTER_LIPS, find_landmarks, landmark_indices, square_at
from .media.picture import to_network
from .model.refiner import invert_displacement, pixel_positions

if TYPE_CHECKING:
    from .renderer import FaceRenderer

_SIZE = 256  # pixels of the crops in which faces are aligned and points are given
_DRAWN = 512  # pixels of a picture that the network draws
_JAW = "jawOpen"
# The mask, in eye distances from the centre of the mouth: above it, half its width, below it for a closed mouth, and
# how much lower the chin is when the jaw is fully open. The chin itself lies about 0.7 below the mouth.
_ABOVE, _ACROSS, _BELOW, _JAW_DROP = 0.52, 0.8, 0.95, 0.45
_ROUNDING = 2.5  # exponent of the mask's outline
# The mask also ends at the jaw line, so that neck, collar and background stay those of the plate.
_JAW_LINE = [*landmark_indices("jawRight", "chin"), *landmark_indices("jawLeft")[::-1]]
_JAW_OFF = 0.25  # eye distances: by how much the plate's own landmarks may correct it
_JAW_BLUR = 0.06  # eye distances: sigma of the mask's edge there
# The mask contains the lips of the plate, whose corner would stay beside a narrower mouth. Eye distances around their
# landmarks: twice the sigma of the edge.
_LIPS_MARGIN = 0.12
# Hair beside the mouth: darkness relative to the skin from which a pixel surely is, and from which it is none. The
# corners of lips, old and new, are dark, too, and are left out.
_HAIR = 0.4, 0.6
_BESIDE = 0.4, 0.55  # eye distances beside the mouth's centre, where hair is looked for; lips and teeth are nearer
_HAIR_REACH = 0.04  # eye distances: how far around it the plate is kept, and sigma of the edge
_IS_FACE = 0.5  # least probability of a face for its jaw line to be used
# Alignment: ellipse of the face that does not move with the mouth, in eye distances: centre below the eyes, half axes.
_STILL_BELOW, _STILL_AXES = 0.3, (0.95, 0.5)
_FLOW_STEP = 3  # every third pixel of it, in both directions
_FITS = 3  # of the alignment; each leaves out the pixels that do not follow it
_OUTLIER = 1.0  # pixels
_COLOUR_REACH = 0.6  # eye distances: sigma of the blur of colour differences
_COLOUR_CELL = 4  # picture pixels of a cell of these differences, at least
_COLOUR_OUTLIER = 24.0  # levels: larger differences are other content, such as a jaw line, rather than light
_REACHED = 0.15, 0.35  # opening beyond the references' at which the network's picture is blended in, and used alone


class Points(NamedTuple):
    """Centres of the right and left eye of the picture and of the mouth, (2,) each, in pixels of a `_SIZE` crop."""

    left: np.ndarray
    right: np.ndarray
    mouth: np.ndarray


def find_points(renderer: FaceRenderer, face: np.ndarray) -> Points:
    """Find the points in a face crop, uint8 (S, S, 3)."""
    insets = renderer.reader.networks.insets
    assert insets is not None, "the bank can read plates"
    with torch.no_grad():
        picture = torch.from_numpy(to_network(face, renderer.config.size)[None]).to(renderer.device)
        (anchors,) = insets.find_anchors(picture).cpu().numpy()
    return Points(*((anchors + 1) / 2 * _SIZE - 0.5))


class Outlines(NamedTuple):
    """Lines of a face in pixels of a `_SIZE` crop, (0, 2) each if they are not found.

    jaw: (13, 2), from ear to ear. lips: (12, 2), around the mouth.
    """

    jaw: np.ndarray
    lips: np.ndarray


def find_outlines(face: np.ndarray, points: Points) -> Outlines:
    """The lines of a face crop, uint8 (_SIZE, _SIZE, 3). points: of the same face."""
    landmarks = find_landmarks(face, [square_at(np.stack([points.left, points.right]))], lips=False)
    if landmarks.present[0] > _IS_FACE:
        return Outlines(landmarks.points[0][_JAW_LINE], landmarks.points[0][OUTER_LIPS])
    return Outlines(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32))


class MouthReference:
    """One reference frame, prepared for drawing.

    pixels: the part of its frame that shows the face, uint8 (h, w, 3).
    """

    def __init__(self, renderer: FaceRenderer, frame: np.ndarray, crop: Crop) -> None:
        """frame: uint8 (H, W, 3). crop: of `_SIZE` pixels."""
        self._renderer, self._device = renderer, renderer.device
        refiner = renderer.reader.networks.refiner
        assert refiner is not None, "the bank can read plates"
        self._refiner = refiner
        corners = apply_matrix(crop.to_picture, np.array([(x, y) for x in (0, _SIZE) for y in (0, _SIZE)], float))
        height, width = frame.shape[:2]
        left, top = np.clip(np.floor(corners.min(0)), 0, (width - 1, height - 1)).astype(int)
        right, bottom = np.clip(np.ceil(corners.max(0)) + 1, (left + 1, top + 1), (width, height)).astype(int)
        self.pixels = np.ascontiguousarray(frame[top:bottom, left:right])
        self._to_pixels = crop.to_picture - [[0, 0, left], [0, 0, top]]
        self._small = crop_face(frame, crop)
        self._detail = cut_at(frame, crop, _DRAWN)
        self.points = find_points(renderer, self._small)
        self.jaw, self.lips = find_outlines(self._small, self.points)
        with torch.no_grad():
            picture = torch.from_numpy(to_network(self._small, renderer.config.size)[None]).to(self._device)
            self._motion = self._refiner.motion_fields(picture).flatten(2)
            self._own = self._refiner.read(picture)

    def _moves(self, change: np.ndarray) -> torch.Tensor:
        """(1, 2, cells, cells): displacement of each pixel, in half widths, with the coefficients changed by (n,)."""
        with torch.no_grad():
            change = change[: self._own.shape[1]]  # without the gaze, which the refiner does not read
            target = self._own + torch.from_numpy(change[None].astype(np.float32)).to(self._device)
            weights = self._refiner.motion_weights(target) - self._refiner.motion_weights(self._own)
            cells = round((self._motion.shape[2] / 2) ** 0.5)
            return (weights[:, None] @ self._motion).view(1, 2, cells, cells)

    def jaw_after(self, change: np.ndarray) -> np.ndarray:
        """The jaw line with the coefficients changed by (n,), as `jaw`."""
        return _ahead(_in_pixels(self._moves(change)), self.jaw)

    def moved(self, change: np.ndarray) -> Moved:
        """The reference with its coefficients changed by (n,)."""
        with torch.no_grad():
            moves = self._moves(change)
            centres = pixel_positions(moves.shape[2], moves.device)
            positions, _ = invert_displacement(moves, centres - moves)
        return Moved(self, _in_pixels(positions - centres), _in_pixels(moves))

    def drawn(self, change: np.ndarray) -> np.ndarray:
        """The reference rendered by the network with its coefficients changed by (n,), uint8 (D, D, 3)."""
        renderer = self._source
        row = renderer.source_coefficients.values + change[None].astype(np.float32)
        return renderer.frame(row)

    @cached_property
    def _source(self) -> FaceRenderer:
        # It is blended with the moved reference, whose lips and jaw go all the way that they are asked to.
        renderer = self._renderer.another(closes=False)
        renderer.set_source(self._small, self._detail)
        return renderer


class Moved:
    """A reference with changed coefficients. Positions are in pixels of `_SIZE` crops."""

    def __init__(self, reference: MouthReference, shift: np.ndarray, forward: np.ndarray) -> None:
        """shift, forward: (H, H, 2), from pixels of the result to pixels of the reference, and the other way."""
        self.reference, self._shift = reference, shift
        self.points = Points(*_ahead(forward, np.stack(reference.points)))
        self.jaw, self.lips = _ahead(forward, reference.jaw), _ahead(forward, reference.lips)

    @cached_property
    def small(self) -> np.ndarray:
        """Its face crop, uint8 (_SIZE, _SIZE, 3)."""
        places = self._places(_pixels(_SIZE, _SIZE))
        return cv2.remap(self.reference._small, places, None, cv2.INTER_LINEAR, None, _EDGE)

    def sample(self, places: np.ndarray) -> np.ndarray:
        """Its pixels at places (h, w, 2), uint8 (h, w, 3), from the reference's own frame."""
        found = _transformed(self._places(places), self.reference._to_pixels)
        return cv2.remap(self.reference.pixels, found, None, cv2.INTER_CUBIC, None, _EDGE)

    def _places(self, places: np.ndarray) -> np.ndarray:
        cells = len(self._shift) / _SIZE
        at = (places + np.float32(0.5)) * np.float32(cells) - np.float32(0.5)
        return places + cv2.remap(self._shift, at, None, cv2.INTER_CUBIC, None, _EDGE)


class _UsedReferences(NamedTuple):
    """The references that are mixed for a frame, by index.

    shares: (R,) weights of all references, which sum to 1. changes: (n,) of coefficients, from the reference to the
    target. moved: with these changes. alignments: see `MouthDrawer._alignment`.
    """

    shares: np.ndarray
    changes: dict[int, np.ndarray]
    moved: dict[int, Moved]
    alignments: dict[int, tuple[np.ndarray, np.ndarray]]

    def mean_in_plate(self, points: dict[int, np.ndarray]) -> np.ndarray:
        """The weighted mean of points of the moved references, in pixels of the plate's crop."""
        return _mean(self.shares, {at: apply_matrix(self.alignments[at][1], part) for at, part in points.items()})


class MouthDrawer:
    """Draws the mouths of one dubbed shot. Not thread-safe."""

    def __init__(self, renderer: FaceRenderer, plate: Plate, references: References, feather: float) -> None:
        """feather: see `contract.shot.Shot`. Raises EDTalkError(kind="media") if the footage cannot be read."""
        self._references, self._feather = references, feather
        bank = renderer.bank
        self._weights = likeness_weights(bank)
        self._lips = np.isin(bank.names, bank.names_of("lip"))
        self._expression = np.isin(bank.names, bank.names_of("exp"))
        self._jaw = bank.names.index(_JAW) if _JAW in bank.names else None
        order = np.argsort(references.times, kind="stable")
        self._prepared: dict[int, MouthReference] = {}
        for at, frame in zip(order, frames_in_any_order(plate.media, references.times[order]), strict=True):
            crop = crop_of(references.crops[at], _SIZE)
            assert crop is not None, "a reference shows a face"
            self._prepared[int(at)] = MouthReference(renderer, frame, crop)
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def draw(self, rgb: np.ndarray, crop: Crop, number: int, row: np.ndarray) -> DrawnMouth:
        """Draw row `number` of the shot over its frame of the plate.

        rgb: uint8 (H, W, 3), not changed. crop: of the face in it. row: (n,), lip coefficients to show, and changes of
        the expression.
        """
        own, shown = self._references.own[number], float(self._references.shown[number])
        unchanged = DrawnMouth(rgb, (0, 0, 0, 0), np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.float32))
        if not shown or np.isnan(own).any():
            return unchanged
        crop = crop.at_size(_SIZE)
        target = np.where(self._expression, own + row, own)
        target = np.where(self._lips, own + shown * (row - own), target).astype(np.float32)
        plate = crop_face(rgb, crop)
        used = self._used(target, float(self._references.own_looks[number, 1]), plate)
        points = Points(*(used.mean_in_plate({at: one.points[i] for at, one in used.moved.items()}) for i in range(3)))

        outlines = find_outlines(plate, points)
        own_lips = _grown(outlines.lips, points)
        jaw_opening = 0.0 if self._jaw is None else max(float(own[self._jaw]), float(target[self._jaw]), 0.0)
        rect, mask = self._mask(rgb.shape, crop, points, jaw_opening, own_lips)
        if not mask.size:
            return unchanged
        left, top, right, bottom = rect
        to_crop = crop.to_crop.copy()
        to_crop[:, 2] += to_crop[:, :2] @ (left, top)
        positions = _transformed(_pixels(right - left, bottom - top), to_crop)
        mask = mask * _inside(self._jaws(outlines.jaw, own, used, points), points, positions)
        lips = _inside([own_lips], points, positions) if len(own_lips) else np.zeros_like(mask)
        mask = np.maximum(mask, lips)

        new_pixels = self._new_pixels(used, target, positions)
        old_pixels = rgb[top:bottom, left:right].astype(np.float32)
        eyes = float(np.linalg.norm(points.left - points.right)) * crop.scale
        new_pixels = new_pixels + _colour_difference(old_pixels, new_pixels, mask, eyes)
        if all(len(one.lips) for one in self._prepared.values()):
            new_lips = used.mean_in_plate({at: one.lips for at, one in used.moved.items()})
            lips = np.maximum(lips, _inside([_grown(new_lips, points)], points, positions))
        mask *= 1 - _hair(old_pixels, new_pixels, mask, _beside(points, positions) * (1 - lips), eyes)
        return DrawnMouth(rgb, rect, np.clip(np.rint(new_pixels), 0, 255).astype(np.uint8), mask * np.float32(shown))

    def _used(self, target: np.ndarray, look: float, plate: np.ndarray) -> _UsedReferences:
        """The references that are mixed for a target (n,). look: see `References.own_looks`. plate: its face crop."""
        shares = blend(self._weights, self._references, target, look)
        changes = {int(at): target - self._references.rows[at] for at in np.flatnonzero(shares)}
        moved = {at: self._prepared[at].moved(change) for at, change in changes.items()}
        return _UsedReferences(shares, changes, moved, {at: self._alignment(plate, one) for at, one in moved.items()})

    def _new_pixels(self, used: _UsedReferences, target: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The mouth at positions (h, w, 2) of the plate's crop: (h, w, 3) float32, levels."""
        layers = {at: one.sample(_transformed(positions, used.alignments[at][0])) for at, one in used.moved.items()}
        network_share = self._beyond(target, used.shares)
        if network_share > 0:
            layers = {
                at: self._with_drawn(layer, at, used.changes[at], positions, used.alignments[at][0], network_share)
                for at, layer in layers.items()
            }
        return _mean(used.shares, {at: layer.astype(np.float32) for at, layer in layers.items()})

    def _jaws(self, found: np.ndarray, own: np.ndarray, used: _UsedReferences, points: Points) -> list[np.ndarray]:
        """The jaw lines of the plate's mouth and of the new one, (13, 2) each; [] if a reference's jaw was not found.

        found: the plate's jaw line. own: (n,), read from the plate.
        """
        if not all(len(one.jaw) for one in self._prepared.values()):
            return []
        own_line = used.mean_in_plate(
            {at: one.reference.jaw_after(own - self._references.rows[at]) for at, one in used.moved.items()}
        )
        new_line = used.mean_in_plate({at: one.jaw for at, one in used.moved.items()})
        # The plate's landmarks follow the turn of its head; those of the references follow the motion of the jaw.
        if len(found):
            limit = _JAW_OFF * float(np.linalg.norm(points.right - points.left))
            correction = np.clip(found - own_line, -limit, limit)
            own_line, new_line = own_line + correction, new_line + correction
        return [own_line, new_line]

    def _alignment(self, plate: np.ndarray, moved: Moved) -> tuple[np.ndarray, np.ndarray]:
        """The similarity (2, 3) from the plate's crop to the moved reference's, and its inverse."""
        grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (plate, moved.small)]
        flow = self._flow.calc(*grey, None)
        points = moved.points
        across, middle = points.right - points.left, (points.left + points.right) / 2
        eyes = max(float(np.linalg.norm(across)), 1.0)
        down = (points.mouth - middle) / max(float(np.linalg.norm(points.mouth - middle)), 1.0)
        away = (_pixels(_SIZE, _SIZE)[::_FLOW_STEP, ::_FLOW_STEP] - (middle + _STILL_BELOW * eyes * down)) / eyes
        along = away @ (across / eyes).astype(np.float32) / _STILL_AXES[0]
        below = away @ down.astype(np.float32) / _STILL_AXES[1]
        still = along * along + below * below < 1
        start = _pixels(_SIZE, _SIZE)[::_FLOW_STEP, ::_FLOW_STEP][still].astype(np.float64)
        if len(start) < 16:
            return _IDENTITY, _IDENTITY
        end, kept = start + flow[::_FLOW_STEP, ::_FLOW_STEP][still], np.ones(len(start), bool)
        forward = _IDENTITY
        for _ in range(_FITS):  # without shear, which would make the mouth, outside of these pixels, flicker
            forward = similarity(start[kept], end[kept])
            error = np.linalg.norm(apply_matrix(forward, start) - end, axis=1)
            kept = error < max(_OUTLIER, 2 * float(np.median(error)))
        if not 0.5 < abs(np.linalg.det(forward[:, :2])) < 2:
            return _IDENTITY, _IDENTITY
        return forward, inverse_matrix(forward)

    def _mask(
        self, shape: Sequence[int], crop: Crop, points: Points, jaw: float, lips: np.ndarray
    ) -> tuple[tuple[int, int, int, int], np.ndarray]:
        """The mask's rectangle in the picture (left, top, right, bottom) and its values, float32 in 0..1.

        The rectangle contains the outline `lips`, (n, 2) pixels of the crop, with a soft edge.
        """
        eyes = points.right - points.left
        width = float(np.linalg.norm(eyes)) * crop.scale
        right = eyes / max(float(np.linalg.norm(eyes)), 1e-3)
        turn = crop.to_picture[:, :2] / crop.scale
        right = turn @ right
        down = np.array([-right[1], right[0]])
        middle = apply_matrix(crop.to_picture, points.mouth)
        below = _BELOW + _JAW_DROP * jaw
        middle = middle + down * width * (below - _ABOVE) / 2
        half = np.array([_ACROSS, (below + _ABOVE) / 2]) * width
        reach = np.abs(right) * half[0] + np.abs(down) * half[1]
        height, across = shape[:2]
        first, last = middle - reach, middle + reach
        if len(lips):
            shown, room = apply_matrix(crop.to_picture, lips), 3 * max(_JAW_BLUR * width, crop.scale)
            first, last = np.minimum(first, shown.min(0) - room), np.maximum(last, shown.max(0) + room)
        left, top = np.clip(np.floor(first), 0, (across, height)).astype(int)
        end, bottom = np.clip(np.ceil(last) + 1, 0, (across, height)).astype(int)
        rect = int(left), int(top), int(max(left, end)), int(max(top, bottom))
        away = (
            _pixels(rect[2] - rect[0], rect[3] - rect[1])
            + np.array([left, top], np.float32)
            - middle.astype(np.float32)
        )
        x, y = (
            np.abs(away @ axis.astype(np.float32)) / np.float32(size)
            for axis, size in zip((right, down), half, strict=True)
        )
        inside = 0.9999 - (x**_ROUNDING + y**_ROUNDING) ** (1 / _ROUNDING)
        ramp = np.clip(inside / self._feather, 0, 1)
        return rect, (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)

    def _beyond(self, target: np.ndarray, shares: np.ndarray) -> float:
        """Weight of the network's picture, 0..1: above 0 if the jaw opens further than in the references used."""
        if self._jaw is None:
            return 0.0
        gap = float(target[self._jaw] - shares @ self._references.rows[:, self._jaw])
        ramp = min(max((gap - _REACHED[0]) / (_REACHED[1] - _REACHED[0]), 0.0), 1.0)
        return ramp * ramp * (3 - 2 * ramp)

    def _with_drawn(
        self,
        layer: np.ndarray,
        index: int,
        change: np.ndarray,
        crop_positions: np.ndarray,
        alignment: np.ndarray,
        share: float,
    ) -> np.ndarray:
        rendered = self._prepared[index].drawn(change)
        scale = len(rendered) / _SIZE
        positions = (_transformed(crop_positions, alignment) + np.float32(0.5)) * np.float32(scale) - np.float32(0.5)
        picture = cv2.remap(rendered, positions, None, cv2.INTER_CUBIC, None, _EDGE)
        return cv2.addWeighted(layer, 1 - share, picture, share, 0)


class DrawnMouth(NamedTuple):
    """A frame of the plate, uint8 (H, W, 3), and its new mouth.

    rect: left, top, right, bottom of the part that may differ. new: uint8, this part before it is blended in. mask:
    float32 in 0..1, its mask.
    """

    plate: np.ndarray
    rect: tuple[int, int, int, int]
    new: np.ndarray
    mask: np.ndarray

    @property
    def picture(self) -> np.ndarray:
        """The frame with the mouth blended in. It equals the plate where the mask is 0."""
        left, top, right, bottom = self.rect
        result, mask = self.plate.copy(), self.mask[..., None]
        part = result[top:bottom, left:right]
        mixed = np.rint(part + mask * (self.new.astype(np.float32) - part)).astype(np.uint8)
        part[...] = np.where(mask > 0, mixed, part)
        return result

    @property
    def layer(self) -> np.ndarray:
        """The mouth on a transparent frame, uint8 (H, W, 4) with straight alpha, exactly 0 where the mask is 0."""
        left, top, right, bottom = self.rect
        result = np.zeros((*self.plate.shape[:2], 4), np.uint8)
        result[top:bottom, left:right, :3] = self.new
        result[top:bottom, left:right, 3] = np.rint(self.mask * 255)
        return result

    def as_layer(self, layer: str, crop: Crop) -> np.ndarray:
        """The image of a shot's layer, see `contract.shot.Shot`. crop: of the face, at the size of "square"."""
        if layer == "pasted":
            return self.picture
        if layer == "plate":
            return self.layer
        face = crop_face(self.picture, crop)
        if layer == "square":
            return face
        seen = crop_face(np.ascontiguousarray(self.layer[..., 3]), crop)
        left, top, right, bottom = self.rect
        unblended = self.plate.copy()
        unblended[top:bottom, left:right] = self.new
        return np.dstack([crop_face(unblended, crop), seen])


def _inside(lines: Sequence[np.ndarray], points: Sequence[np.ndarray], at: np.ndarray) -> np.ndarray:
    """(h, w) float32, 0 to 1: the areas within any of some jaw lines, with a soft edge. 1 everywhere without lines.

    lines, points, at (h, w, 2): pixels of a `_SIZE` crop; points: the two eyes and the mouth.
    """
    if not lines:
        return np.ones(at.shape[:2], np.float32)
    area = np.zeros((_SIZE, _SIZE), np.uint8)
    eyes = float(np.linalg.norm(points[1] - points[0]))
    for line in lines:
        cv2.fillPoly(area, [np.rint(line * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(area.astype(np.float32) / 255, (0, 0), max(_JAW_BLUR * eyes, 1.0))
    return cv2.remap(soft, at, None, cv2.INTER_LINEAR, None, cv2.BORDER_CONSTANT)


def _grown(outline: np.ndarray, points: Sequence[np.ndarray]) -> np.ndarray:
    """An outline (n, 2), moved away from its centre by `_LIPS_MARGIN`. points: as for `_inside`."""
    if not len(outline):
        return outline
    away = outline - outline.mean(0)
    margin = _LIPS_MARGIN * float(np.linalg.norm(points[1] - points[0]))
    return outline + away * (margin / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1.0))


def _beside(points: Sequence[np.ndarray], at: np.ndarray) -> np.ndarray:
    """(h, w) float32, 0 to 1: how far places are beside the mouth, by `_BESIDE`. Arguments as for `_inside`."""
    across = points[1] - points[0]
    away = np.abs((at - points[2].astype(np.float32)) @ (across / max(across @ across, 1.0)).astype(np.float32))
    return np.clip((away - _BESIDE[0]) / (_BESIDE[1] - _BESIDE[0]), 0, 1)


def _hair(old: np.ndarray, new: np.ndarray, mask: np.ndarray, beside: np.ndarray, eyes: float) -> np.ndarray:
    """(h, w) float32, 0 to 1: where the plate is kept, because hair covers the skin in the old or the new pixels.

    old, new: (h, w, 3). mask, beside: (h, w). eyes: distance of the eyes in pixels.
    """
    light = [cv2.transform(picture, np.full((1, 3), 1 / 3, np.float32)) for picture in (old, new)]
    skin = light[0][mask > 0.9]
    if not skin.size:
        return np.zeros_like(mask)
    dark = np.minimum(*light) / max(float(np.median(skin)), 1.0)
    hair = np.clip((_HAIR[1] - dark) / (_HAIR[1] - _HAIR[0]), 0, 1) * beside
    reach = 2 * round(_HAIR_REACH * eyes) + 1
    hair = cv2.dilate(hair, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    return cv2.GaussianBlur(hair, (0, 0), max(_HAIR_REACH * eyes, 1.0))


def _in_pixels(moves: torch.Tensor) -> np.ndarray:
    """(1, 2, h, w) half widths -> (h, w, 2) pixels of a `_SIZE` crop."""
    return np.ascontiguousarray((moves[0].permute(1, 2, 0) * (_SIZE / 2)).cpu().numpy())


def _ahead(forward: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 2) moved by the displacements `forward`, (cells, cells, 2), at their positions."""
    if not len(points):
        return points
    at = ((points + 0.5) * (len(forward) / _SIZE) - 0.5).astype(np.float32)
    return points + cv2.remap(forward, at[:, None], None, cv2.INTER_LINEAR, None, _EDGE)[:, 0]


_EDGE = cv2.BORDER_REPLICATE
_IDENTITY = np.eye(2, 3)


def _mean(shares: np.ndarray, values: dict[int, np.ndarray]) -> np.ndarray:
    return sum(value * value.dtype.type(shares[at]) for at, value in values.items())


def _transformed(places: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """places (h, w, 2) transformed by a (2, 3) matrix, float32."""
    return cv2.transform(places, matrix.astype(np.float32))


@lru_cache(maxsize=8)
def _pixels(width: int, height: int) -> np.ndarray:
    """(height, width, 2) float32: x and y of each pixel."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return np.stack(np.meshgrid(x, y), -1)


def _colour_difference(old: np.ndarray, new: np.ndarray, mask: np.ndarray, eyes: float) -> np.ndarray:
    """Correction (h, w, 3) of the new pixels that makes them match the old ones at the mask's border.

    The colour differences at the border, without outliers, are interpolated over the mask. eyes: eye distance in
    pixels.
    """
    height, width = mask.shape
    cell = max(_COLOUR_CELL, round(eyes / 20))
    size = max(1, width // cell), max(1, height // cell)
    away = cv2.resize(old - new, size, interpolation=cv2.INTER_AREA)
    border = cv2.resize(4 * mask * (1 - mask), size, interpolation=cv2.INTER_AREA)
    weight = border * np.exp(-np.square(np.abs(away).max(2) / _COLOUR_OUTLIER)) + 1e-4
    sigma = max(_COLOUR_REACH * eyes * size[0] / width, 1.0)
    total = cv2.GaussianBlur(weight, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    spread = cv2.GaussianBlur(away * weight[..., None], (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    spread /= np.maximum(total, 1e-6)[..., None]
    return cv2.resize(spread, (width, height), interpolation=cv2.INTER_LINEAR)
