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
NEEDED = (JAW, SMILE, FROWN, CLOSED, *ANGLES)  # a bank must have them

# How far the head is turned is the sum of the absolute values of ANGLES, in units of the coefficients. "Motion" is that
# of chin and lower lip or of the corners, in eye distances, see `heights`.

# Error of the landmarks in eye distances, below which the reading is kept: in a frontal face, and what a unit of turn
# adds. With these values, frames of rendered heads are hardly corrected, see docs/training.md.
ERROR, ERROR_PER_TURN = 0.02, 0.06
TURN_FADE = 1.0, 1.5  # turn from which the correction fades, and from which there is none
MOST = 0.7  # largest correction of a coefficient, up or down
# Motion per unit of a coefficient below which the correction is damped. Dividing by a small motion would give a large
# and uncertain correction.
LEAST_RESPONSE = 0.05
LEAST_JAW = 0.05  # smallest value of JAW by which CLOSED is divided, to find the share of the opening that is closed
SEEN = 0.5  # least probability that the landmarks can be seen
SMOOTH = 0.03  # seconds: standard deviation of a Gaussian over time, which reduces noise
SMOOTH_FRAMES = 3  # frames before and after one that the Gaussian reaches
RESPONSE_STEP = 0.5  # value of a coefficient at which the drawn motion per unit is measured
MEASURED = 3  # numbers of a frame that a correction needs, see `measured`

_NOSE = landmark_indices("noseBase", "noseWingRight", "noseWingLeft")
_CHIN = landmark_indices("chin", "lowerLipBottom")
_CORNERS = landmark_indices("mouthRight", "mouthLeft")
_USED = [*_NOSE, *_CHIN, *_CORNERS]


class DrawnPoints(NamedTuple):
    """Where the landmarks of a face are drawn.

    rest: (COUNT, 2) float64 pixels, in the picture at rest. fields: (fields, COUNT, 2), their displacement in pixels
    per unit of each of the refiner's motion weights.
    """

    refiner: Refiner
    rest: np.ndarray
    fields: np.ndarray

    def heights(self, rows: np.ndarray) -> np.ndarray:
        """(T, 2): the `heights` of what is drawn with `rows`, coefficients (T, n) less those at rest."""
        coefficients = torch.from_numpy(rows[:, : self.refiner.config.coefficients].astype(np.float32))
        weights = self.refiner.motion_weights(coefficients.to(self.refiner.maps.weight.device)).cpu().numpy()
        return heights(self.rest + np.einsum("tf,fkd->tkd", weights.astype(np.float64), self.fields))


@torch.no_grad()
def drawn_points(refiner: Refiner, picture: np.ndarray, size: int) -> DrawnPoints:
    """How the landmarks of a face at rest are drawn.

    picture: uint8 (S, S, 3). size: width of the bank's pictures in pixels.
    """
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
    """(T, MEASURED) of T faces: the two `heights`, and the probability 0..1 that the landmarks for them can be seen."""
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
    reliable = (found[:, -1] > SEEN) * np.clip((TURN_FADE[1] - turned) / (TURN_FADE[1] - TURN_FADE[0]), 0.0, 1.0)
    error = ERROR + ERROR_PER_TURN * turned
    for name, part in ((JAW, 0), (SMILE, 1), (FROWN, 1)):
        column = columns[name]
        # What the drawn motion lacks, without the part that the landmarks' error may explain.
        missing = _smoothed((found[:, part] - drawn.heights(rows + added)[:, part]) * reliable, fps)
        missing *= np.maximum(0.0, 1.0 - np.square(error / np.maximum(np.abs(missing), 1e-9)))
        # How far the coefficient must change for that.
        unit = np.zeros((2, rows.shape[1]))
        unit[1, column] = RESPONSE_STEP
        response = np.diff(drawn.heights(unit)[:, part])[0] / RESPONSE_STEP
        change = np.clip(missing * response / (response**2 + LEAST_RESPONSE**2), -MOST, MOST)
        added[:, column] = np.maximum(change, -np.maximum(rows[:, column], 0.0))
    jaw = np.maximum(rows[:, columns[JAW]], LEAST_JAW)
    added[:, columns[CLOSED]] = added[:, columns[JAW]] * np.clip(rows[:, columns[CLOSED]] / jaw, 0.0, 1.0)
    return added.astype(np.float32)


def _smoothed(values: np.ndarray, fps: float) -> np.ndarray:
    """Values (T,), one a frame, smoothed over time by SMOOTH."""
    kernel = np.exp(-0.5 * np.square(np.arange(-SMOOTH_FRAMES, SMOOTH_FRAMES + 1) / (SMOOTH * fps)))
    return np.convolve(np.pad(values, SMOOTH_FRAMES, mode="edge"), kernel / kernel.sum(), mode="valid")


def heights(points: np.ndarray) -> np.ndarray:
    """(T, 2) in eye distances: how far chin and lower lip lie below the nose's base, and the mouth's corners above it.

    points: (T, COUNT, 2) landmarks. Up and down are at right angles to the line between the eyes. Corners of a mouth
    lie below the nose, so their height is negative.
    """
    at = np.asarray(points, np.float64) @ (1, 1j)
    right, left = (at[:, [lids[0], lids[4]]].mean(1) for lids in (RIGHT_LIDS, LEFT_LIDS))
    below = (at / (left - right)[:, None]).imag
    nose, jaw, corners = (below[:, part].mean(1) for part in (_NOSE, _CHIN, _CORNERS))
    return np.stack([jaw - nose, nose - corners], 1)
