"""Measures of head motion that are the same for synthetic voices, recorded voices and people in clips."""

from __future__ import annotations

import numpy as np
import torch

from inference.model.audio2pose import POSE_FPS, Audio2Pose, from_bands
from inference.motion import draw_bands

DRAWS = 6  # motions of every speech
NOD = 1.0  # degrees that the head must go down to count as a nod
WINDOW = 2.0  # seconds in which nods and accents are counted
PITCH = 1  # column of the motion

Motions = list[np.ndarray]  # (512, 6) each, of every speech and draw


def flow_draw(model: Audio2Pose, features: np.ndarray, seed: int) -> np.ndarray:
    """Motion (512, 6) of the flow."""
    return from_bands([torch.from_numpy(band)[None] for band in draw_bands(model, features, seed)])[0].numpy().T


def speeds(motions: Motions) -> np.ndarray:
    """Speed of the head's rotation in degrees per second."""
    return np.concatenate([np.linalg.norm(np.diff(one[:, :3], axis=0), axis=1) for one in motions]) * POSE_FPS


def nod_counts(pitch: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Number of nods between each two edges, in seconds. pitch: (T,) degrees at POSE_FPS."""
    peaks = (pitch[1:-1] > pitch[:-2]) & (pitch[1:-1] >= pitch[2:]) & (pitch[1:-1] > NOD)
    return np.histogram((np.flatnonzero(peaks) + 1) / POSE_FPS, edges)[0]
