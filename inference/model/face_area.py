"""The area that the expression of a face moves: the neck and what is beside the face stay.

The refiner predicts smooth motion, which an opening jaw would continue into the neck and a collar.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..face.landmarks import eye_vector, landmark_indices

MARGIN, FADING = 0.03, 0.2  # eye distances beyond the landmarks: moved in full up to there, and fading over the next
ABOVE = 4.0  # eye distances by which the area reaches above the ends of the jaw line: past the hair
FINER = 4  # times, for drawing the area
_ENDS = landmark_indices("jawRight1", "jawLeft1")
_BITS = 4  # of fractions of pixels in OpenCV's drawing


def face_area(points: np.ndarray, picture: int, size: int) -> np.ndarray:
    """(size, size) float32: 1 in the face and above it, falling to 0 below the jaw and beside the face.

    points: (COUNT, 2), the landmarks of `inference.face.landmarks`, in pixels of a square picture of `picture` pixels.
    The area is convex, because in a turned head the far end of the jaw line lies inside the outline of the face.
    """
    along = eye_vector(points)
    up = ABOVE * np.array([along[1], -along[0]])
    outline = cv2.convexHull(np.concatenate([points, points[_ENDS] + up]).astype(np.float32))
    scale = size * FINER / picture
    outline = ((outline + 0.5) * scale - 0.5) * (1 << _BITS)
    outside = np.ones((size * FINER, size * FINER), np.uint8)
    cv2.fillConvexPoly(outside, np.round(outline).astype(np.int32), 0, shift=_BITS)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, 5) / np.float32(np.hypot(*along) * scale)
    weight = np.clip(1 - (distance - MARGIN) / FADING, 0, 1).astype(np.float32)
    return cv2.resize(weight, (size, size), interpolation=cv2.INTER_AREA)
