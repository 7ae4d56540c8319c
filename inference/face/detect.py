"""Find the faces in a picture and choose one of them.

Points are (x, y) in pixels; pixel centres lie at whole numbers, as in OpenCV. "Right" is the person's right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from ..contract.errors import EDTalkError
from .crop import TEMPLATE, Crop, apply_matrix, crop_face, crop_from_landmarks, inverse_matrix, pose_matrix, sample

EYES = np.array(
    [[106.3, 113.0], [165.5, 113.5]]
)  # (2, 2) centres of the right and left eye in a 256 px crop, as upstream has them
Which = int | str | Sequence[float] | None  # selects one of several faces, see `choose_face`
SMALLEST = 40  # pixels: a narrower face has fewer than ten pixels between the eyes, too few for the network


@dataclass(frozen=True, eq=False)
class Face:
    """One face in a picture.

    box: x, y, width, height in pixels of the square from brow to chin, before it is rotated by `angle` about its
        centre.
    landmarks: (k, 2) pixels, beginning with the centres of the right and the left eye; None if no eyes were found.
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
    """All faces of a uint8 (H, W, 3) picture, from left to right.

    Rolled heads are searched for if no upright face is found, unless `upright_only`. Uses MediaPipe's face mesh if it
    is installed, OpenCV's Haar cascades otherwise. Raises EDTalkError(kind="face") if neither is available.
    """
    faces = _mesh_faces(rgb) if _face_mesh() else []
    if not faces and not (_face_mesh() and _cascade_folder() is None):
        faces = _haar_faces(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), upright_only)
    return sorted(faces, key=lambda face: face.centre[0])


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
        faces.append(_face_from_eyes(np.stack([right, left, points[1], points[61], points[291]])))
    return faces


def _haar_faces(grey: np.ndarray, upright_only: bool) -> list[Face]:
    """Faces of a grey picture. The search tries several resolutions and angles, and ends at the first success."""
    for longest, margin in ((480, 0.0), (1200, 0.0), (480, 0.25)):  # the margin is for a face that fills the picture
        if longest == 480 or max(grey.shape) > 480:
            faces = _faces_at_angle(grey, 0.0, longest, margin)
            if faces:
                return _without_overlaps(faces)
    if upright_only:
        return []
    turned = [face for angle in range(30, 331, 30) for face in _faces_at_angle(grey, angle, 480, 0.1)]
    # Only the eyes show which way is up. Few windows also agree, with eyes, on fur and on printed pages, where the
    # box is small. Rolled heads of that size get more windows: at least 10, also between two of the angles.
    large = 0.3 * min(grey.shape)
    sure = [face for face in turned if face.score >= 8 or face.box[2] >= large]
    return _without_overlaps([face for face in sure if face.landmarks is not None])


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

    boxes, neighbours = _cascade("frontalface_alt2").detectMultiScale2(cv2.equalizeHist(upright), 1.1, 3, 0, (24, 24))
    faces = []
    for (x, y, side, _), votes in zip(boxes, np.ravel(neighbours), strict=True):
        centre = np.linalg.solve(turn, np.array([x, y]) + (side - 1) / 2 - shift)
        left, top = centre - (side / scale - 1) / 2
        face = Face((float(left), float(top), side / scale, side / scale), None, float(votes), angle)
        face = replace(face, landmarks=_eyes(grey, face))
        # Without eyes, require many agreeing windows: a few also agree on foliage and printed pages.
        if face.landmarks is not None or votes >= 12:
            faces.append(face)
    return faces


def _eyes(grey: np.ndarray, face: Face) -> np.ndarray | None:
    """(2, 2) centres of the right and left eye inside a Haar box; None if either is missing or implausible."""
    square = _square(face, 160)  # the eyes are then about 63 px apart
    patch = crop_face(grey, square)
    eyes = []
    for x0, x1, outward in ((0, 92, -1), (68, 160, 1)):  # right eye on the picture's left
        region = patch[24:100, x0:x1]
        for name in ("eye_tree_eyeglasses", "eye"):
            boxes, votes = _cascade(name).detectMultiScale2(region, 1.05, 3, 0, (22, 22), (72, 72))
            if len(boxes):
                x, y, side, _ = boxes[int(np.argmax(votes))]
                # The centres of the boxes lie 2 % of the eye distance too far outward and 3 % too high, measured on
                # 23 pictures against 68-point landmarks.
                eyes.append((x0 + x + (side - 1) / 2 - 1.2 * outward, 24 + y + (side - 1) / 2 + 1.7))
                break
    if len(eyes) < 2:
        return None
    across, down = np.subtract(eyes[1], eyes[0])
    if not 40 <= across <= 88 or abs(down) > 0.5 * across:
        return None
    return apply_matrix(square.to_picture, np.array(eyes))


def _without_overlaps(faces: list[Face]) -> list[Face]:
    """The most confident of overlapping faces, without those far less confident than the best of all."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        far = all(np.linalg.norm(face.centre - other.centre) > 0.5 * max(face.box[2], other.box[2]) for other in kept)
        if far and face.score >= 0.15 * max(other.score for other in faces):
            kept.append(face)
    return kept


def _cascade_folder() -> Path | None:
    folder = Path(getattr(getattr(cv2, "data", None), "haarcascades", ""))
    usable = hasattr(cv2, "CascadeClassifier") and (folder / "haarcascade_eye.xml").exists()
    return folder if usable else None


@lru_cache(maxsize=4)
def _cascade(name: str) -> cv2.CascadeClassifier:
    folder = _cascade_folder()
    if folder is None:
        message = f"Faces cannot be detected: OpenCV {cv2.__version__} comes without its face detector."
        hint = "Install opencv-python 4, or give the square of the face."
        raise EDTalkError(message, hint, "face", "no_face_detector")
    return cv2.CascadeClassifier(str(folder / f"haarcascade_{name}.xml"))


# Position of the eyes in a Haar box, as fractions of its side (medians of the same 23 pictures).
_EYES_IN_BOX = SimpleNamespace(x=0.5, y=0.403, distance=0.392)


def _square(face: Face, size: int) -> Crop:
    """The face's box as a crop."""
    scale = face.box[2] / size
    return Crop(size, pose_matrix((*face.centre, math.log(scale), math.radians(face.angle)), size))


def _face_from_eyes(points: np.ndarray, score: float = 100.0) -> Face:
    """A face from landmarks that begin with the eyes, with the box that the Haar detector would give."""
    across = points[1] - points[0]
    side = float(np.hypot(*across)) / _EYES_IN_BOX.distance
    angle = math.atan2(across[1], across[0])
    centre = points[:2].mean(0) + (0.5 - _EYES_IN_BOX.y) * side * np.array([-math.sin(angle), math.cos(angle)])
    left, top = centre - (side - 1) / 2
    return Face((float(left), float(top), side, side), points, score, math.degrees(angle))


def crop_from_face(face: Face, size: int = TEMPLATE) -> Crop:
    """The crop that maps the eyes to `EYES`. Without landmarks, their usual place in the box is used."""
    if face.landmarks is not None:
        return crop_from_landmarks(face.landmarks[:2], EYES, size)
    half = _EYES_IN_BOX.distance / 2
    eyes = [(_EYES_IN_BOX.x - half, _EYES_IN_BOX.y), (_EYES_IN_BOX.x + half, _EYES_IN_BOX.y)]
    unit = 1000  # pixels of the box, so that rounding does not matter
    return crop_from_landmarks(apply_matrix(_square(face, unit).to_picture, np.array(eyes) * unit - 0.5), EYES, size)
