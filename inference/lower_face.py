"""Corrects the jaw and the smile of captured coefficients by the landmarks of the lower face.

The relative reader follows real mouths in time, but reads large motions of them at about half their size. How the
refiner moves points of a face is a known function of the coefficients. Where the points of the drawn face would lie
elsewhere than the landmarks of the filmed one, the coefficients of the jaw and the smile are changed until they meet.
Differences within the error of the landmarks are left to the reader, which measures small motions more precisely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from .face.landmarks import LEFT_LIDS, RIGHT_LIDS, Landmarks, landmark_indices, with_lips
from .media.picture import frames_to_network
from .model.gaze import faces_in
from .model.refiner import Refiner, warped

JAW, SMILE, FROWN, CLOSED = "jawOpen", "mouthSmile", "mouthFrown", "mouthClose"
ANGLES = ("headYaw", "headPitch", "headRoll")
NEEDED = (JAW, SMILE, FROWN, CLOSED, *ANGLES)
# Error of the landmarks in eye distances: in a frontal face, and what it grows by with the sum of the angles, each in
# units of its coefficient. The frames of rendered heads are hardly corrected with it, see docs/training.md.
ERROR, TURNED = 0.02, 0.06
FURTHEST = 1.0, 1.5  # sum of the angles from which a correction fades, and from which there is none
MOST = 0.7  # largest correction of a coefficient
STIFF = 0.05  # eye distances per unit of a coefficient below which the drawn motion is too small to correct with
SURE = 0.5  # least probability that a landmark is seen
SMOOTH, REACH = 0.03, 3  # seconds: deviation of a Gaussian over time that reduces noise; frames that it reaches
STEP = 0.5  # change of a coefficient by which the drawn motion per unit is measured
MEASURED = 3  # numbers of a frame that a correction needs

_NOSE = landmark_indices("noseBase", "noseWingRight", "noseWingLeft")
_PARTS = (landmark_indices("chin", "lowerLipBottom"), landmark_indices("mouthRight", "mouthLeft"))
_USED = [*_NOSE, *_PARTS[0], *_PARTS[1]]


class DrawnPoints(NamedTuple):
    """Landmarks of a face at rest, (COUNT, 2) pixels, and their displacement (fields, COUNT, 2) per motion weight."""

    refiner: Refiner
    rest: np.ndarray
    fields: np.ndarray

    def heights(self, rows: np.ndarray) -> np.ndarray:
        """(T, 2): the `heights` of what is drawn with coefficients (T, n) less those at rest."""
        coefficients = torch.from_numpy(rows[:, : self.refiner.config.coefficients].astype(np.float32))
        weights = self.refiner.motion_weights(coefficients.to(self.refiner.maps.weight.device)).cpu().numpy()
        return heights(self.rest + np.einsum("tf,fkd->tkd", weights.astype(np.float64), self.fields))


@torch.no_grad()
def drawn_points(refiner: Refiner, picture: np.ndarray, size: int) -> DrawnPoints:
    """How the landmarks of a face at rest are drawn. picture: uint8 (S, S, 3). size: of the bank's pictures."""
    points = with_lips([picture], faces_in([picture])).points[0].astype(np.float64)
    device, half = refiner.maps.weight.device, len(picture) / 2
    fields = refiner.motion_fields(torch.from_numpy(frames_to_network(picture[None], size)).to(device))[0]
    places = torch.from_numpy(((points + 0.5) / half - 1).T.astype(np.float32))[None, :, None].to(device)
    at = warped(fields.flatten(0, 1)[None], places)[0, :, 0].unflatten(0, (-1, 2))
    return DrawnPoints(refiner, points, at.mT.cpu().numpy().astype(np.float64) * half)


def can_correct(names: Sequence[str]) -> bool:
    """Whether a bank with these coefficients has those that are corrected."""
    return set(NEEDED) <= set(names)


def measured(faces: Landmarks) -> np.ndarray:
    """(T, MEASURED): the `heights` of T faces, and the least probability that the landmarks for them can be seen."""
    seen = np.minimum(faces.present, faces.sure[:, _USED].min(1))
    return np.column_stack([heights(faces.points), seen])


def correction(rows: np.ndarray, names: Sequence[str], drawn: DrawnPoints, found: np.ndarray, fps: float) -> np.ndarray:
    """What to add to captured coefficients, (T, n) float32; zero but for JAW, SMILE, FROWN and CLOSED.

    rows: (T, n), coefficients of the frames less those of the neutral one, `names` their names. drawn: of the neutral
    frame. found: (T, MEASURED), see `measured`. fps: frames per second.

    The jaw is corrected first, because opening it lowers the corners of the mouth, then the smile. No coefficient is
    lowered below zero: corners that lie lower than without a smile are a frown. Lips that are closed over an open jaw
    stay so.
    """
    added, columns = np.zeros(rows.shape, np.float64), {name: names.index(name) for name in NEEDED}
    turned = np.abs(rows[:, [columns[name] for name in ANGLES]]).sum(1)
    trusted = (found[:, -1] > SURE) * np.clip((FURTHEST[1] - turned) / (FURTHEST[1] - FURTHEST[0]), 0.0, 1.0)
    for name, part in ((JAW, 0), (SMILE, 1), (FROWN, 1)):
        column = columns[name]
        missing = _smoothed((found[:, part] - drawn.heights(rows + added)[:, part]) * trusted, fps)
        missing *= np.maximum(0.0, 1.0 - np.square((ERROR + TURNED * turned) / np.maximum(np.abs(missing), 1e-9)))
        unit = np.zeros((2, rows.shape[1]))
        unit[1, column] = STEP
        response = np.diff(drawn.heights(unit)[:, part])[0] / STEP
        change = np.clip(missing * response / (response**2 + STIFF**2), -MOST, MOST)
        added[:, column] = np.maximum(change, -np.maximum(rows[:, column], 0.0))
    jaw = np.maximum(rows[:, columns[JAW]], STIFF)
    added[:, columns[CLOSED]] = added[:, columns[JAW]] * np.clip(rows[:, columns[CLOSED]] / jaw, 0.0, 1.0)
    return added.astype(np.float32)


def _smoothed(values: np.ndarray, fps: float) -> np.ndarray:
    """Values (T,) smoothed over time by SMOOTH."""
    kernel = np.exp(-0.5 * np.square(np.arange(-REACH, REACH + 1) / (SMOOTH * fps)))
    return np.convolve(np.pad(values, REACH, mode="edge"), kernel / kernel.sum(), mode="valid")


def heights(points: np.ndarray) -> np.ndarray:
    """(T, 2): depth of chin and lower lip, and height of the mouth's corners, in eye distances.

    points: (T, COUNT, 2) landmarks. Both are measured from the nose's base, in the frame of the eyes' corners.
    """
    at = np.asarray(points, np.float64) @ (1, 1j)
    right, left = (at[:, [lids[0], lids[4]]].mean(1) for lids in (RIGHT_LIDS, LEFT_LIDS))
    below = (at / (left - right)[:, None]).imag
    nose, jaw, corners = (below[:, part].mean(1) for part in (_NOSE, *_PARTS))
    return np.stack([jaw - nose, nose - corners], 1)
