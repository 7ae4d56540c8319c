"""Landmarks of a face by a small convolutional network, which was trained on rendered heads.

Points are (x, y) in pixels; pixel centres lie at whole numbers, as in OpenCV. "Right" is the person's right, which is
the picture's left. The first nine of the COUNT landmarks are those that other parts rely on: centres of the right and
left eye, tip of the nose, right and left corner of the mouth, top of the upper lip, bottom of the lower lip, centre of
the inner mouth, chin. `NAMES` lists all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .crop import TEMPLATE, Crop, apply_matrix, crop_face, crop_from_landmarks
from .heat_maps import HeatMapNet, block, centres, mean_places
from .lips import find_lips, window_at


def _numbered(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stem}{number}" for number in range(1, count + 1))


NINE = (
    "eyeRight", "eyeLeft", "noseTip", "mouthRight", "mouthLeft", "upperLipTop", "lowerLipBottom", "mouthCentre", "chin",
)  # fmt: skip
NAMES = (
    *NINE,
    # outer corner, three of the upper lid inwards, inner corner, three of the lower lid outwards
    *_numbered("lidRight", 8), *_numbered("lidLeft", 8), "irisRight", "irisLeft",
    *_numbered("browRight", 5), *_numbered("browLeft", 5),  # from the outside inwards
    *_numbered("upperLipRight", 3), *_numbered("upperLipLeft", 3),  # outline, from the corner inwards
    *_numbered("lowerLipRight", 3), *_numbered("lowerLipLeft", 3),
    *_numbered("innerUpper", 5), *_numbered("innerLower", 5),  # inner edges of the lips, from right to left
    "noseBridge1", "noseBridge2", "noseBase", "noseWingRight", "noseWingLeft",
    *_numbered("jawRight", 6), *_numbered("jawLeft", 6),  # from the ear to the chin
)  # fmt: skip
"""Names of the landmarks, in order."""
COUNT = len(NAMES)


def landmark_indices(*names: str) -> list[int]:
    """Indices of landmarks by name; "lidRight" stands for all of lidRight1, lidRight2, ..."""
    return [i for stem in names for i, name in enumerate(NAMES) if stem in (name, name.rstrip("0123456789"))]


RIGHT_LIDS, LEFT_LIDS = landmark_indices("lidRight"), landmark_indices("lidLeft")
INNER_LIPS = landmark_indices("innerUpper", "innerLower")
# Closed outlines, in order around.
OUTER_LIPS = [
    *landmark_indices("mouthRight", "upperLipRight", "upperLipTop"),
    *landmark_indices("upperLipLeft")[::-1],
    *landmark_indices("mouthLeft"),
    *landmark_indices("lowerLipLeft", "lowerLipBottom"),
    *landmark_indices("lowerLipRight")[::-1],
]

_NOSE, _CHIN = NAMES.index("noseTip"), NAMES.index("chin")


def _mirror() -> list[int]:
    other = {"innerUpper": 5, "innerLower": 5}
    order = []
    for name in NAMES:
        stem = name.rstrip("0123456789")
        if stem in other:
            order.append(NAMES.index(f"{stem}{other[stem] + 1 - int(name[len(stem) :])}"))
        elif "Right" in name:
            order.append(NAMES.index(name.replace("Right", "Left")))
        else:
            order.append(NAMES.index(name.replace("Left", "Right")))
    return order


MIRROR = _mirror()
"""Landmark MIRROR[k] of a picture is landmark k of the mirrored picture."""

SIDE = 112  # pixels of the network's input
CELLS = 28  # cells of a heat map's side


class Answer(NamedTuple):
    """Output of the network for N pictures.

    points: (N, COUNT, 2) input pixels. spread: (N, COUNT), logarithm of the expected error in input pixels. shown:
    (N, COUNT), logits of whether a landmark is not covered. present: (N,), logits of whether the picture shows a face.
    heat: (N, COUNT, CELLS, CELLS), logits of the heat maps.
    """

    points: Tensor
    spread: Tensor
    shown: Tensor
    present: Tensor
    heat: Tensor


class LandmarkNet(HeatMapNet):
    """Pictures (N, 3, SIDE, SIDE) in [-1, 1] to landmarks in input pixels, their expected error and two probabilities.

    Each landmark is the mean of a heat map.
    """

    cells: Tensor

    def __init__(self, width: int = 16) -> None:
        a, b = width, 2 * width
        stem = nn.Sequential(block(3, a, 2), block(a, b, 2), block(b, b))
        super().__init__(stem, (b, 4 * width, 6 * width), (32, 7 * 7), COUNT)  # features of 28, 14 and 7 px
        self.rest = nn.Linear(64, 2 * COUNT + 1)
        self.register_buffer("cells", centres(SIDE, CELLS), persistent=False)

    def forward(self, pictures: Tensor) -> Answer:
        heat, whole = self.heat_maps(pictures)
        points = mean_places(heat, self.cells, self.cells)
        spread, shown, present = self.rest(whole).split([COUNT, COUNT, 1], 1)
        return Answer(points, spread, shown, present[:, 0], heat)


# The nine landmarks of the average head in a square of width 1.
_TEMPLATE = np.array([
    [0.353, 0.370], [0.647, 0.370], [0.5, 0.555], [0.381, 0.697], [0.619, 0.697], [0.5, 0.658], [0.5, 0.758],
    [0.5, 0.697], [0.5, 0.908],
])  # fmt: skip


def frame_of(points: np.ndarray, size: int = SIDE) -> Crop:
    """The square of `size` pixels in which the network expects a face. points: (9 or more, 2) pixels."""
    return crop_from_landmarks(points[: len(NINE)], _TEMPLATE * TEMPLATE - 0.5, size)


@dataclass(frozen=True)
class Landmarks:
    """Landmarks of N faces in one picture, in the order of `NAMES`.

    points: (N, COUNT, 2) float32 pixels; a landmark that is hidden by something else lies where it is expected.
    sure: (N, COUNT) float32, probability from 0 to 1 that the landmark can be seen; low for a mouth behind a hand.
    spread: (N, COUNT) float32, expected error in pixels.
    present: (N,) float32, probability from 0 to 1 that there is a face at all.
    """

    points: np.ndarray
    sure: np.ndarray
    spread: np.ndarray
    present: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    @property
    def nine(self) -> np.ndarray:
        """(N, 9, 2) the first nine landmarks."""
        return self.points[:, : len(NINE)]


def square_at(eyes: np.ndarray) -> Crop:
    """The square in which the network expects a face with these eyes, (2, 2) pixels, right eye first."""
    return crop_from_landmarks(eyes, _TEMPLATE[:2] * TEMPLATE - 0.5, SIDE)


def eye_vector(points: np.ndarray) -> np.ndarray:
    """(2,) pixels from the right eye to the left one, as seen from the front. points: see `frame_of`."""
    return frame_of(points).to_picture[:, 0] * (SIDE * (_TEMPLATE[1, 0] - _TEMPLATE[0, 0]))


def find_landmarks(rgb: np.ndarray, squares: Sequence[Crop], *, passes: int = 2, lips: bool = True) -> Landmarks:
    """The landmarks of faces in a picture.

    rgb: uint8 (H, W, 3). squares: about where each face is: `square_at` two eyes, or `frame_of` the landmarks in the
    previous frame of a clip; the face may be 25 % larger or smaller and a quarter of the square beside its centre.
    passes: from the second on, the square is placed on the landmarks of the pass before. About 4 ms of CPU each.
    lips: find the outline and the inner edges of the lips by a closer look at the mouth, which takes as long as a pass.
    """
    squares = list(squares)
    return find_each([rgb] * len(squares), squares, passes=passes, lips=lips)


def find_each(
    pictures: Sequence[np.ndarray], squares: Sequence[Crop], *, passes: int = 2, lips: bool = True
) -> Landmarks:
    """The landmarks of one face in each of some pictures. In a batch of eight, a face takes half the time.

    pictures: uint8 (H, W, 3) each. squares, passes, lips: see `find_landmarks`. They may differ in rounding from those
    of another number of pictures.
    """
    squares = list(squares)
    if not squares:
        none = np.zeros((0, COUNT), np.float32)
        return Landmarks(np.zeros((0, COUNT, 2), np.float32), none, none, np.zeros(0, np.float32))
    for _ in range(passes - 1):
        squares = [frame_of(points) for points in _read(pictures, squares).points]
    found = _read(pictures, squares)
    return with_lips(pictures, found) if lips else found


def with_lips(pictures: Sequence[np.ndarray], found: Landmarks) -> Landmarks:
    """Landmarks of one face in each of some pictures with those of the lips read by `face.lips`."""
    return replace(found, points=with_closer_lips(pictures, found.points))


def with_closer_lips(pictures: Sequence[np.ndarray], points: np.ndarray) -> np.ndarray:
    """As `with_lips`, for landmarks (N, COUNT, 2)."""
    windows = [window_at(one[OUTER_LIPS].mean(0), eye_vector(one)) for one in points.astype(np.float64)]
    points = points.copy()
    points[:, [*OUTER_LIPS, *INNER_LIPS]] = find_lips(pictures, windows)
    points[:, NAMES.index("mouthCentre")] = points[:, INNER_LIPS].mean(1)
    return points


def _read(faces: Sequence[np.ndarray], squares: list[Crop]) -> Landmarks:
    """The network's answer for each square, in pixels of its picture."""
    cut = np.stack([crop_face(rgb, square.at_size(SIDE)) for rgb, square in zip(faces, squares, strict=True)])
    pictures = torch.from_numpy(cut).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        points, spread, shown, present, _ = network()(pictures)
    placed = [
        apply_matrix(square.to_picture, one) for square, one in zip(squares, points.double().numpy(), strict=True)
    ]
    scale = np.array([[square.scale] for square in squares])
    sure = shown.sigmoid() * present.sigmoid()[:, None]
    return Landmarks(
        np.stack(placed).astype(np.float32), sure.numpy(), (spread.exp().numpy() * scale).astype(np.float32),
        present.sigmoid().numpy(),
    )  # fmt: skip


def gaze(points: np.ndarray) -> np.ndarray:
    """(N, 2) radians by which eyes are turned away from the camera, to the picture's right and down.

    points: (N, COUNT, 2) landmarks. A linear reading of where the irises are between the lids and how the head is
    turned. Its error is about 4 degrees.
    """
    return gaze_features(points) @ _weights()[GAZE].float().numpy()


def gaze_features(points: np.ndarray) -> np.ndarray:
    """(N, F) float64, of which `gaze` is a linear function."""
    points = np.asarray(points, np.float64)
    right, left = points[:, 0], points[:, 1]
    across = (left - right) @ (1, 1j)  # (N,) complex: the eye line is the real axis, the eye distance the unit
    place = (points @ (1, 1j) - ((left + right) / 2 @ (1, 1j))[:, None]) / across[:, None]
    nose, mouth = place[:, NAMES.index("noseTip")], place[:, NAMES.index("mouthCentre")]
    eyes = []
    for iris, lids in (("irisRight", RIGHT_LIDS), ("irisLeft", LEFT_LIDS)):
        corners = place[:, [lids[0], lids[4]]]
        width = abs(corners[:, 1] - corners[:, 0])
        moved = (place[:, NAMES.index(iris)] - corners.mean(1)) * (width / np.maximum(width, 0.05))
        opening = (place[:, lids[5:]].imag - place[:, lids[1:4]].imag).mean(1)
        eyes.append((moved, opening))
    moved, opening = (eyes[0][0] + eyes[1][0]) / 2, (eyes[0][1] + eyes[1][1]) / 2
    columns = [
        np.ones(len(points)), *(part for eye, _ in eyes for part in (eye.real, eye.imag)), eyes[0][1], eyes[1][1],
        nose.real, nose.imag, mouth.real, mouth.imag, nose.real**2, nose.imag**2, nose.real * nose.imag,
        moved.real * nose.real, moved.real * nose.imag, moved.imag * nose.real, moved.imag * nose.imag,
        moved.real * opening, moved.imag * opening,
    ]  # fmt: skip
    return np.stack(columns, 1)


def eyes_and_mouth(points: np.ndarray) -> np.ndarray:
    """(N, 3, 2) pixels: centres of the right eye, the left eye and the mouth, by which insets are placed.

    points: (N, COUNT, 2) landmarks. They differ from the means of these landmarks by the thickness of lids and lips,
    and by how the head is turned: this is a linear reading of both.
    """
    origin, across, features = anchor_features(points)
    found = (features @ _weights()[ANCHORS].double().numpy()).reshape(-1, 3, 2) @ (1, 1j)
    found = origin[:, None] + found * across[:, None]
    return np.stack([found.real, found.imag], -1)


def anchor_features(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The frame of faces, and what `eyes_and_mouth` is a linear function of in it.

    Returns complex (N,), the point between the eyes; complex (N,), the vector from the right eye to the left one; and
    (N, F) float64, positions of nose, lips and chin relative to them.
    """
    places = np.asarray(points, np.float64) @ (1, 1j)
    right, left = places[:, RIGHT_LIDS].mean(1), places[:, LEFT_LIDS].mean(1)
    origin, across = (right + left) / 2, left - right
    lips = places[:, [*OUTER_LIPS, *INNER_LIPS]].mean(1)
    found = [(part - origin) / across for part in (places[:, _NOSE], lips, places[:, _CHIN])]
    return origin, across, np.stack([np.ones(len(points)), *(part for at in found for part in (at.real, at.imag))], 1)


@lru_cache(maxsize=1)
def _weights() -> dict[str, Tensor]:
    return load_file(WEIGHTS)


@lru_cache(maxsize=1)
def network() -> LandmarkNet:
    """The network with the weights beside this file."""
    net = LandmarkNet()
    net.load_state_dict({
        name: part.float() if part.is_floating_point() else part
        for name, part in _weights().items() if name not in (GAZE, ANCHORS)
    })  # fmt: skip
    return net.eval()


GAZE = "gaze.weight"  # (F, 2), see `gaze_features`
ANCHORS = "anchors.weight"  # (F, 6), see `anchor_features`
WEIGHTS = Path(__file__).with_name("landmarks.safetensors")
