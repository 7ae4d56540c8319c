"""Find a face, cut it out as the network wants it, and put it back without a seam (design, section 6).

Points are (x, y) in pixels with pixel centres at whole numbers, as in OpenCV.  A face picture ("crop") is square;
the place of the eyes in it is upstream's (architecture notes, section 11).  "Right" is the person's right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from ..contract.errors import EDTalkError
from .crop import TEMPLATE, Crop, apply_matrix, crop_face, crop_from_landmarks, inverse_matrix, pose_matrix, sample

EYES = np.array([[106.3, 113.0], [165.5, 113.5]])  # centres of the right and left eye in it
Which = int | str | Sequence[float] | None  # one of several faces, see `choose_face`
SMALLEST = 40  # pixels: a narrower face has fewer than ten between the eyes, and the network would invent it


@dataclass(frozen=True, eq=False)
class Face:
    """One face in a picture.

    box: x, y, width, height of the square from brow to chin, before it is turned by `angle` about its centre.
    landmarks: (k, 2), the centres of the right and the left eye first, or None where the eyes were not found.
    score: higher is surer; only comparable between faces of one picture.  angle: clockwise roll in degrees.
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
    """All faces of a uint8 (H, W, 3) picture, from left to right; turned heads are looked for if none is upright.

    MediaPipe's face mesh is used where it is installed, OpenCV's Haar cascades otherwise.
    Raises EDTalkError(kind="face") where neither is there.
    """
    faces = _mesh_faces(rgb) if _face_mesh() else []
    if not faces and not (_face_mesh() and _cascade_folder() is None):
        faces = _haar_faces(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), upright_only)
    return sorted(faces, key=lambda face: face.centre[0])


def face_not_found(message: str) -> EDTalkError:
    """The error for a picture or clip without a face, with the usual next step."""
    hint = "Give the square of the face, or use a clearer picture."
    return EDTalkError(message, hint, "face", "face_not_found")


def find_face(rgb: np.ndarray, *, which: Which = None, label: str = "the picture") -> Face:
    """The one face of a picture, or the one chosen; see `choose_face`."""
    return choose_face(detect_faces(rgb), which=which, label=label)


def choose_face(faces: Sequence[Face], *, which: Which = None, label: str = "the picture") -> Face:
    """The only one of the faces found, from left to right; those too small to use do not count beside larger ones.

    which: the number of one from the left, from 1, or from the right, from -1; "largest"; or (x, y) in pixels for the
    one nearest to that point. Raises EDTalkError(kind="face") when there is no face or not that one, more than one and
    no choice, or only a tiny one.
    """
    if not faces:
        raise face_not_found(f"No face was found in {label}.")
    usable = [face for face in faces if face.box[2] >= SMALLEST]
    if not usable:
        widest = max(face.box[2] for face in faces)
        message = f"The face in {label} is only {widest:.0f} pixels wide; at least {SMALLEST} are needed."
        raise EDTalkError(message, "Use a larger picture.", "face")
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
def _face_mesh():
    """MediaPipe's face mesh, or None: it is optional, and releases from 1.0 on come without the model."""
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
    """Faces of a grey picture; the first way of looking that finds something ends the search."""
    for longest, margin in ((480, 0.0), (1200, 0.0), (480, 0.25)):  # the last one for a face that fills the picture
        if longest == 480 or max(grey.shape) > 480:
            faces = _look(grey, 0.0, longest, margin)
            if faces:
                return _distinct(faces)
    if upright_only:
        return []
    turned = [face for angle in range(30, 331, 30) for face in _look(grey, angle, 480, 0.1)]
    return _distinct([face for face in turned if face.landmarks is not None])  # the eyes tell which way is up


def _look(grey: np.ndarray, angle: float, longest: int, margin: float) -> list[Face]:
    """Faces whose roll is about `angle` degrees, in a copy scaled to `longest` pixels and turned upright."""
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
        # Without eyes only what many windows agree on: a few see faces in foliage and on printed pages.
        if face.landmarks is not None or votes >= 12:
            faces.append(face)
    return faces


def _eyes(grey: np.ndarray, face: Face) -> np.ndarray | None:
    """(2, 2) centres of the right and left eye inside a Haar box, or None unless both are plausible."""
    square = _square(face, 160)  # the eyes are then about 63 px apart
    patch = crop_face(grey, square)
    eyes = []
    for x0, x1, outward in ((0, 92, -1), (68, 160, 1)):  # right eye on the picture's left
        region = patch[24:100, x0:x1]
        for name in ("eye_tree_eyeglasses", "eye"):
            boxes, votes = _cascade(name).detectMultiScale2(region, 1.05, 3, 0, (22, 22), (72, 72))
            if len(boxes):
                x, y, side, _ = boxes[int(np.argmax(votes))]
                # The boxes lie outward of the lids' middle by 2 % of the eye distance and above it by 3 %,
                # measured on 23 pictures against 68-point landmarks.
                eyes.append((x0 + x + (side - 1) / 2 - 1.2 * outward, 24 + y + (side - 1) / 2 + 1.7))
                break
    if len(eyes) < 2:
        return None
    across, down = np.subtract(eyes[1], eyes[0])
    if not 40 <= across <= 88 or abs(down) > 0.5 * across:
        return None
    return apply_matrix(square.to_picture, np.array(eyes))


def _distinct(faces: list[Face]) -> list[Face]:
    """The surest of the faces that lie over each other, without what is far less sure than the best of all."""
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


@lru_cache
def _cascade(name: str) -> cv2.CascadeClassifier:
    folder = _cascade_folder()
    if folder is None:
        message = f"Faces cannot be looked for: OpenCV {cv2.__version__} comes without its face detector."
        hint = "Install opencv-python 4, or give the square of the face."
        raise EDTalkError(message, hint, "face", "no_face_detector")
    return cv2.CascadeClassifier(str(folder / f"haarcascade_{name}.xml"))


# The place of the eyes in a Haar box, as fractions of its side (medians of the same 23 pictures).
_EYES_IN_BOX = SimpleNamespace(x=0.5, y=0.403, distance=0.392)


def _square(face: Face, size: int) -> Crop:
    """The face's own box as a crop."""
    scale = face.box[2] / size
    return Crop(size, pose_matrix(*face.centre, math.log(scale), math.radians(face.angle), size))


def _face_from_eyes(points: np.ndarray, score: float = 100.0) -> Face:
    """A face with the box that Haar would give, from landmarks that begin with the eyes."""
    across = points[1] - points[0]
    side = float(np.hypot(*across)) / _EYES_IN_BOX.distance
    angle = math.atan2(across[1], across[0])
    centre = points[:2].mean(0) + (0.5 - _EYES_IN_BOX.y) * side * np.array([-math.sin(angle), math.cos(angle)])
    left, top = centre - (side - 1) / 2
    return Face((float(left), float(top), side, side), points, score, math.degrees(angle))


def crop_from_face(face: Face, size: int = TEMPLATE) -> Crop:
    """The crop with the eyes where upstream has them; without eyes they are assumed where a Haar box has them."""
    if face.landmarks is not None:
        return crop_from_landmarks(face.landmarks[:2], EYES, size)
    half = _EYES_IN_BOX.distance / 2
    eyes = [(_EYES_IN_BOX.x - half, _EYES_IN_BOX.y), (_EYES_IN_BOX.x + half, _EYES_IN_BOX.y)]
    unit = 1000  # of the box, so that fractions need no rounding rule of their own
    return crop_from_landmarks(apply_matrix(_square(face, unit).to_picture, np.array(eyes) * unit - 0.5), EYES, size)
