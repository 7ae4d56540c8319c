"""Find the faces in a picture and choose one of them.

Points are (x, y) in pixels; pixel centres lie at whole numbers, as in OpenCV. "Right" is the person's right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from ..contract.errors import EDTalkError
from .crop import (
    EYES,
    TEMPLATE,
    Crop,
    apply_matrix,
    crop_from_box,
    crop_from_landmarks,
    inverse_matrix,
    pose_matrix,
    sample,
)
from .landmarks import NINE, SIDE, Landmarks, find_landmarks, frame_of, square_at

Which = int | str | Sequence[float] | None  # selects one of several faces, see `choose_face`
PRESENT = 0.8  # least probability, by the landmark network, that there is a face
# Largest expected error of its landmarks in eye distances, where the cascade proposes a face and elsewhere. People have
# 0.03 to 0.07 (a shout), a monkey 0.09; what was found in a dog's fur had 0.057. A cat has 0.068 to 0.08 where its eyes
# are proposed, but 0.09 from its own landmarks, so faces with more than 0.05 are looked at again from there.
CERTAIN, SWEPT_CERTAIN = 0.08, 0.05
SWEPT = 640  # pixels of the longer side of a picture that the network searches
SWEEP = (1.3, 0.95, 0.65, 0.45, 0.3)  # sides of the squares that it searches, as shares of the shorter side
SMALLEST = 40  # pixels: a narrower face has fewer than ten pixels between the eyes, too few for the network


@dataclass(frozen=True, eq=False)
class Face:
    """One face in a picture.

    box: x, y, width, height in pixels of the square from brow to chin, before it is rotated by `angle` about its
        centre.
    landmarks: (k, 2) pixels, beginning with the centres of the right and the left eye; those of the landmark network
        in a face that it confirmed. None in a mere proposal.
    score: confidence, comparable between the faces of one picture only.
    angle: clockwise roll in degrees.
    """

    box: tuple[float, float, float, float]
    landmarks: np.ndarray | None = None
    score: float = 0.0
    angle: float = 0.0

    @property
    def centre(self) -> np.ndarray:
        x, y, width, height = self.box
        return np.array([x + (width - 1) / 2, y + (height - 1) / 2])


def detect_faces(rgb: np.ndarray, *, upright_only: bool = False) -> list[Face]:
    """All human faces of a uint8 (H, W, 3) picture, from left to right.

    OpenCV's Haar cascade proposes faces, and the landmark network confirms them, so that fur and printed pages are
    none. If there is none, the network searches the picture by itself, and the cascade searches for rolled heads unless
    `upright_only`. MediaPipe's face mesh is used first if it is installed.
    """
    searches: list[Callable[[], list[Face]]] = [partial(_mesh_faces, rgb)] if _face_mesh() else []
    if _cascade_folder() is None:
        searches.append(partial(_swept, rgb))
    else:
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        # the margin is for a face that fills the picture
        sizes = ((480, 0.0), (1200, 0.0), (480, 0.25)) if max(grey.shape) > 480 else ((480, 0.0), (480, 0.25))
        searches += [partial(_found_upright, rgb, grey, *size) for size in sizes]
        searches.append(partial(_swept, rgb))
        if not upright_only:
            searches.append(partial(_found_rolled, rgb, grey))
    faces = next(filter(None, (search() for search in searches)), [])
    return sorted(faces, key=lambda face: face.centre[0])


def find_again(rgb: np.ndarray, near: Face) -> Face | None:
    """A face close to where it was in another frame, found by the landmark network alone, in a fraction of a search.

    None if the network is not certain, or if MediaPipe is installed, which `detect_faces` prefers.
    """
    if _face_mesh():
        return None
    found = _recognised(rgb, [square_at(_eyes_of(near))], SWEPT_CERTAIN, [near.score])
    return found[0] if found and np.hypot(*(found[0].centre - near.centre)) < 0.3 * near.box[2] else None


def _confirmed(rgb: np.ndarray, proposed: list[Face]) -> list[Face]:
    """The proposed faces that the landmark network recognises as human, with its landmarks."""
    squares = [square_at(_eyes_of(face)) for face in proposed]
    return _recognised(rgb, squares, CERTAIN, [face.score for face in proposed])


def _recognised(
    rgb: np.ndarray, squares: list[Crop], certain: float, scores: Sequence[float] | None = None
) -> list[Face]:
    """The faces in these squares, see `find_landmarks`. certain: largest expected error of the first nine landmarks in
    eye distances. scores: of the faces; default the network's certainty.
    """
    found = find_landmarks(rgb, squares, passes=3, lips=False)
    faces = []
    for number, points in enumerate(found.points.astype(np.float64)):
        error = _error(found, number)
        if found.present[number] < PRESENT or error > certain:
            continue
        if error > SWEPT_CERTAIN:
            again = find_landmarks(rgb, [square_at(points[:2])], passes=3, lips=False)
            if again.present[0] < PRESENT or _error(again, 0) > certain:
                continue
        faces.append(face_at(points, 1 / error if scores is None else scores[number]))
    return _without_overlaps(faces)


def _error(found: Landmarks, number: int) -> float:
    """Expected error of the first nine landmarks of a face in eye distances."""
    right, left = found.points[number, :2].astype(np.float64)
    return float(found.spread[number, : len(NINE)].mean() / max(np.hypot(*(left - right)), 1e-6))


def _swept(rgb: np.ndarray) -> list[Face]:
    """Faces that the landmark network finds by itself, in squares of several sizes all over the picture."""
    height, width = rgb.shape[:2]
    longest = max(height, width)
    scale = max(1.0, longest / SWEPT)
    small = rgb if scale == 1 else cv2.resize(rgb, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
    height, width = small.shape[:2]
    best: list[Crop] = []
    for share in SWEEP:
        side = share * min(height, width)
        if side * scale < SMALLEST:
            break
        across, down = (_starts(length, side) for length in (width, height))
        squares = [crop_from_box(x, y, side, SIDE) for y in down for x in across]
        found = find_landmarks(small, squares, passes=1, lips=False)
        best += [frame_of(found.points[k]) for k in np.argsort(-found.present)[:8] if found.present[k] >= PRESENT]
    faces = _recognised(small, best, SWEPT_CERTAIN)
    return [face_at((face.landmarks + 0.5) * scale - 0.5, face.score) for face in faces if face.landmarks is not None]


def _starts(length: int, side: float) -> np.ndarray:
    """Left or top edges of squares that cover a length, a third of a side apart."""
    count = max(1, math.ceil(max(length - side, 0) / (side / 3)) + 1)
    return np.linspace(0, length - side, count) if count > 1 else np.array([(length - side) / 2])


def face_not_found(message: str) -> EDTalkError:
    """The error for a picture or clip in which no face was found."""
    hint = "Give the square of the face, or use a clearer picture."
    return EDTalkError(message, hint, "face", "face_not_found")


def find_face(rgb: np.ndarray, *, which: Which = None, label: str = "the picture") -> Face:
    """The only face of a picture, or the chosen one; see `choose_face` for arguments and errors."""
    return choose_face(detect_faces(rgb), which=which, label=label)


def choose_face(faces: Sequence[Face], *, which: Which = None, label: str = "the picture") -> Face:
    """Select one face. Faces narrower than `SMALLEST` are ignored.

    faces: sorted from left to right. which: None for the only face; 1 for the first from the left, 2 for the next, -1
    for the first from the right; "largest"; or (x, y) in pixels for the face nearest to that point.
    label: name of the picture, for messages.
    Raises EDTalkError(kind="face") if there is no usable face, if `which` is None and there are several, or if there is
    no face with that number.
    """
    if not faces:
        raise face_not_found(f"No face was found in {label}.")
    usable = [face for face in faces if face.box[2] >= SMALLEST]
    if not usable:
        widest = max(face.box[2] for face in faces)
        message = f"The face in {label} is only {widest:.0f} pixels wide; at least {SMALLEST} are needed."
        raise EDTalkError(message, "Use a picture with more pixels.", "face")
    if which == "largest":
        return max(usable, key=lambda face: face.box[2])
    if isinstance(which, (Sequence, np.ndarray)):
        return min(usable, key=lambda face: np.hypot(*(face.centre - which)))
    if which is not None and not 1 <= abs(which) <= len(usable):
        message = f"There is no face {which} in {label}: {len(usable)} found."
        raise EDTalkError(message, f"Choose one from 1 to {len(usable)}.", "face", "no_such_face")
    if which is None and len(usable) > 1:
        places = ", ".join(f"({face.centre[0]:.0f}, {face.centre[1]:.0f})" for face in usable)
        message = f"{len(usable)} faces were found in {label}, at {places}."
        raise EDTalkError(message, "Choose one of them.", "face", "several_faces")
    which = which or 1
    return usable[which - 1 if which > 0 else which]


@lru_cache(maxsize=1)
def _face_mesh() -> Any:
    """MediaPipe's face mesh, or None. It is optional, and releases from 1.0 on do not include the model."""
    try:
        from mediapipe import solutions
    except ImportError:
        return None
    return solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=8, refine_landmarks=True)


def _mesh_faces(rgb: np.ndarray) -> list[Face]:
    found = _face_mesh().process(np.ascontiguousarray(rgb)).multi_face_landmarks or []
    size = np.array([rgb.shape[1], rgb.shape[0]])
    faces = []
    for mesh in found:
        points = np.array([(point.x, point.y) for point in mesh.landmark]) * size - 0.5
        right, left = points[[33, 160, 158, 133, 153, 144]].mean(0), points[[362, 385, 387, 263, 373, 380]].mean(0)
        faces.append(face_at(np.stack([right, left, points[1], points[61], points[291]])))
    return faces


def _found_upright(rgb: np.ndarray, grey: np.ndarray, longest: int, margin: float) -> list[Face]:
    return _confirmed(rgb, _faces_at_angle(grey, 0.0, longest, margin))


def _found_rolled(rgb: np.ndarray, grey: np.ndarray) -> list[Face]:
    turned = [face for angle in range(30, 331, 30) for face in _faces_at_angle(grey, angle, 480, 0.1)]
    return _confirmed(rgb, turned)


def _faces_at_angle(grey: np.ndarray, angle: float, longest: int, margin: float) -> list[Face]:
    """Faces whose roll is about `angle` degrees.

    They are detected in a copy with a longer side of `longest` pixels, rotated upright, with a border of `margin` times
    its size.
    """
    height, width = grey.shape
    scale = min(1.0, longest / max(grey.shape))
    cos, sin = math.cos(math.radians(angle)) * scale, math.sin(math.radians(angle)) * scale
    columns = round((abs(cos) * width + abs(sin) * height) * (1 + 2 * margin))
    rows = round((abs(sin) * width + abs(cos) * height) * (1 + 2 * margin))
    turn = np.array([[cos, sin], [-sin, cos]])  # picture -> upright copy
    shift = np.array([columns - 1, rows - 1]) / 2 - turn @ (np.array([width - 1, height - 1]) / 2)
    upright = sample(grey, inverse_matrix(np.column_stack([turn, shift])), (columns, rows), 1 / scale)

    boxes, neighbours = _cascade().detectMultiScale2(cv2.equalizeHist(upright), 1.1, 3, 0, (24, 24))
    faces = []
    for (x, y, side, _), votes in zip(boxes, np.ravel(neighbours), strict=True):
        centre = np.linalg.solve(turn, np.array([x, y]) + (side - 1) / 2 - shift)
        left, top = centre - (side / scale - 1) / 2
        faces.append(Face((float(left), float(top), side / scale, side / scale), None, float(votes), angle))
    return faces


def _without_overlaps(faces: list[Face]) -> list[Face]:
    """The most confident of overlapping faces, without those far less confident than the best of all."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        far = all(np.linalg.norm(face.centre - other.centre) > 0.75 * max(face.box[2], other.box[2]) for other in kept)
        if far and face.score >= 0.15 * max(other.score for other in faces):
            kept.append(face)
    return kept


def _cascade_folder() -> Path | None:
    folder = Path(getattr(getattr(cv2, "data", None), "haarcascades", ""))
    usable = hasattr(cv2, "CascadeClassifier") and (folder / "haarcascade_frontalface_alt2.xml").exists()
    return folder if usable else None


@lru_cache(maxsize=1)
def _cascade() -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(f"{_cascade_folder()}/haarcascade_frontalface_alt2.xml")


# Position of the eyes in a Haar box, as fractions of its side (medians of 23 pictures).
_EYES_IN_BOX = SimpleNamespace(x=0.5, y=0.403, distance=0.392)


def _square(face: Face, size: int) -> Crop:
    """The face's box as a crop."""
    scale = face.box[2] / size
    return Crop(size, pose_matrix((*face.centre, math.log(scale), math.radians(face.angle)), size))


def face_at(points: np.ndarray, score: float = 100.0) -> Face:
    """A face from landmarks that begin with the eyes, with the box that the Haar detector would give."""
    across = points[1] - points[0]
    side = float(np.hypot(*across)) / _EYES_IN_BOX.distance
    angle = math.atan2(across[1], across[0])
    centre = points[:2].mean(0) + (0.5 - _EYES_IN_BOX.y) * side * np.array([-math.sin(angle), math.cos(angle)])
    left, top = centre - (side - 1) / 2
    return Face((float(left), float(top), side, side), points, score, math.degrees(angle))


def _eyes_of(face: Face) -> np.ndarray:
    """(2, 2) centres of the right and the left eye. Without landmarks, their usual place in the box is used."""
    if face.landmarks is not None:
        return face.landmarks[:2]
    half = _EYES_IN_BOX.distance / 2
    eyes = [(_EYES_IN_BOX.x - half, _EYES_IN_BOX.y), (_EYES_IN_BOX.x + half, _EYES_IN_BOX.y)]
    unit = 1000  # pixels of the box, so that rounding does not matter
    return apply_matrix(_square(face, unit).to_picture, np.array(eyes) * unit - 0.5)


def crop_from_face(face: Face, size: int = TEMPLATE) -> Crop:
    """The crop that maps the eyes to `EYES`. Without landmarks, their usual place in the box is used."""
    return crop_from_landmarks(_eyes_of(face), EYES, size)
