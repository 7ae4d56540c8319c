"""Test people that no bank was trained on, rendered on demand with ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.heads import mesh, render, sampling
from training.heads.identity import EYE_SPAN
from training.units import EMOTIONS, NAMES, POSE, POSE_COLUMNS, emotion_vector

FIRST = 100_000  # first test person; people below this number may be trained on
CLASSIFIER_PEOPLE = 900_000  # first of the people on whom classifiers are trained
SWAY = 0.25  # deviation of a driven frame's pose coefficients
DRIVEN = 6  # frames of talking and acting per person
SWEEP = 0.8  # value of the single pose coefficient in the two sweep frames
EMOTION = slice(len(NAMES) - len(emotion_vector("neutral")), len(NAMES))

STARTS = np.cumsum([0, *(count for _, count in mesh.POINT_GROUPS)])
GROUPS = {name: slice(*STARTS[k : k + 2]) for k, (name, _) in enumerate(mesh.POINT_GROUPS)}
FACE = slice(0, GROUPS["face"].stop)  # mouth, eyes and the rest of the face
EYE_DISTANCE = 2 * EYE_SPAN  # in the points' unit, half a picture's width, as every portrait is framed


@dataclass(frozen=True)
class PersonFrames:
    """T pictures of one person with ground truth; F = 830 tracked points of the face."""

    images: np.ndarray  # (T, S, S, 3) uint8
    masks: np.ndarray  # (T, S, S) uint8 coverage by the person
    points: np.ndarray  # (T, F, 2) float32, x right and y down, -1 .. 1 from edge to edge
    visible: np.ndarray  # (T, F) bool
    coefficients: np.ndarray  # (T, 36) float32

    def __getitem__(self, rows: slice) -> PersonFrames:
        return PersonFrames(*(values[rows] for values in vars(self).values()))


def render_person(person: int, rows: np.ndarray, size: int) -> PersonFrames:
    """Render a person with coefficients (T, 36) at `size` pixels."""
    drawer = render.renderer(size)
    with drawer.context:
        drawer.show(render.person(person))
        frames = [drawer.render(row) for row in rows]
    return PersonFrames(
        np.stack([frame.image for frame in frames]),
        np.stack([frame.mask for frame in frames]),
        np.stack([frame.points[FACE] for frame in frames]).astype(np.float32),
        np.stack([frame.visible[FACE] for frame in frames]),
        np.asarray(rows, np.float32),
    )


def space_points(person: int) -> np.ndarray:
    """(F, 3) tracked points of the face at rest, in picture widths."""
    return render.person(person).rest[mesh.load().points[FACE]]


def evaluation_rows(person: int, sway: float = SWAY) -> np.ndarray:
    """(9, 36): a portrait that is not quite at rest, six frames of talking and acting, and two pose sweeps."""
    rows = sampling.coefficients(person, sampling.PORTRAITS + DRIVEN, sway=sway)
    sweeps = np.zeros((2, len(NAMES)), np.float32)
    for row in range(2):
        unit, sign = divmod(2 * person + row, 2)
        sweeps[row, sampling.INDEX[POSE[unit % len(POSE)].name]] = SWEEP * (1 - 2 * sign)
    return np.concatenate([rows[1:2], rows[sampling.PORTRAITS :], sweeps])


def emotion_rows(person: int, copies: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(8 * copies, 36) frames of each emotion, with a strength of 0.7 to 1, and (8 * copies,) labels.

    In half of the frames the person talks; the head moves a little.
    """
    rng = np.random.default_rng([person, 2])
    rows, labels = [], []
    for label, emotion in [*enumerate(EMOTIONS)] * copies:
        row = np.zeros(len(NAMES), np.float32)
        if rng.random() < 0.5:
            row = sampling.driven(rng)
        row[POSE_COLUMNS] = np.clip(rng.normal(0, 0.15, len(POSE)), -1, 1)
        row[EMOTION] = rng.uniform(0.7, 1.0) * np.array(emotion_vector(emotion))
        rows.append(sampling.limited(row))
        labels.append(label)
    return np.stack(rows), np.array(labels)


def single_unit_rows(amount: float = 0.7) -> tuple[np.ndarray, list[str]]:
    """(n, 36) rows with a single coefficient each, those of the pose with both signs, and their n names."""
    rows, names = [], []
    for column, name in enumerate(NAMES):
        for sign in (1, -1) if any(unit.name == name for unit in POSE) else (1,):
            row = np.zeros(len(NAMES), np.float32)
            row[column] = sign * amount
            rows.append(row)
            names.append(name)
    return np.stack(rows), names
