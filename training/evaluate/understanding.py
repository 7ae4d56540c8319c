"""What can be told from a picture: which coefficients it shows, who it is, and what they feel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import Pipeline, make_pipeline

from inference.face.crop import similarity
from training.units import EMOTIONS, NAMES

from . import people
from .motion import similarity_part
from .people import EYE_DISTANCE, STUDENTS, Shots

PATCH = 40  # pixels of the face that a person is known by
STUDENT_SIZE = 128  # pixels of the pictures that classifiers learn from and judge
COMPONENTS = 100
FEATURES = slice(0, None, 3)  # of the tracked points, for emotions
# Of the eye distance, as far as good landmark detectors err: taught by exact points alone, a classifier looks at
# differences that nobody sees.
POINT_NOISE = 0.04


def correlations(read: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) Pearson's r of each column of two (T, n); 0 where `read` stands still, NaN where the truth does."""
    a, b = (values.astype(np.float64) - values.mean(0) for values in (read, truth))
    size = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
    varies = b.std(0) > 1e-3
    return np.where(varies, (a * b).sum(0) / np.maximum(size, 1e-12), np.nan)


def patch(picture: np.ndarray, points: np.ndarray, visible: np.ndarray, average: np.ndarray) -> np.ndarray:
    """The face of a picture (S, S, 3) with points (F, 2) turned to where an average one (F, 2) fills a patch:
    (PATCH ** 2,) grey values without their mean and spread, which are the light's."""
    low, high = average.min(0), average.max(0)
    template = (average - (low + high) / 2) / (high - low).max() + 0.5
    picture = cv2.resize(picture, (STUDENT_SIZE,) * 2, interpolation=cv2.INTER_AREA)
    pixels = (points[visible] + 1) / 2 * STUDENT_SIZE - 0.5
    to_picture = similarity(template[visible] * PATCH, pixels)
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    values = cv2.warpAffine(grey, to_picture, (PATCH, PATCH), flags=flags, borderMode=cv2.BORDER_REPLICATE).ravel()
    return (values - values.mean()) / max(float(values.std()), 1.0)


def displacement(points: np.ndarray, at_rest: np.ndarray) -> np.ndarray:
    """How points (F, 2) differ from the same face at rest, without the head's movement: (2 F / 3,) eye distances."""
    shift = points - at_rest
    shift = shift - similarity_part(at_rest, shift, np.ones(len(shift), bool))
    return shift[FEATURES].ravel() / EYE_DISTANCE


@dataclass(frozen=True)
class Judge:
    """Classifiers that learnt from rendered truth, of people who are neither judged nor trained on.

    persons: Fisherfaces, that is a linear discriminant of a face's grey values, which keeps what differs between
    people and drops what differs between pictures of one. emotions: a linear discriminant of points' displacement.
    average: (F, 2) where the points of an average face lie in its portrait, [-1, 1].
    """

    persons: Pipeline
    emotions: LinearDiscriminantAnalysis
    average: np.ndarray

    def embedding(self, pictures: np.ndarray, points: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """(T, S, S, 3), (T, F, 2), (T, F) -> (T, d) of length 1."""
        patches = [patch(*one, self.average) for one in zip(pictures, points, visible, strict=True)]
        return normal(self.persons.transform(np.stack(patches)))

    def emotion(self, points: np.ndarray, at_rest: np.ndarray) -> np.ndarray:
        """(T, F, 2), (F, 2) -> (T,) index in EMOTIONS."""
        return self.emotions.predict(np.stack([displacement(moved, at_rest) for moved in points]))


def normal(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def train_judge(persons: int = 50, copies: int = 2) -> Judge:
    """Draw `persons` people at rest, as in a portrait and `copies` times in each emotion, and learn from the truth."""
    shots, labels = [], []
    for person in range(STUDENTS, STUDENTS + persons):
        rows, label = people.emotional(person, copies)
        rows = np.concatenate([np.zeros((1, len(NAMES)), np.float32), rows])
        shots.append(people.shoot(person, rows, STUDENT_SIZE))
        labels.append(label)
    return learn(shots, np.concatenate(labels))


def learn(shots: Sequence[Shots], labels: np.ndarray) -> Judge:
    """shots: of one person each, the first at rest, the others in the emotions `labels`, person by person."""
    average = np.mean([shot.points[0] for shot in shots], 0)
    patches = [
        patch(*one, average) for shot in shots for one in zip(shot.images, shot.points, shot.visible, strict=True)
    ]
    who = np.repeat(np.arange(len(shots)), [len(shot.images) for shot in shots])
    components = min(COMPONENTS, len(patches) - len(shots) - 1)
    persons = make_pipeline(
        PCA(components, whiten=True, random_state=0), LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1)
    )
    moved = np.stack([displacement(points, shot.points[0]) for shot in shots for points in shot.points[1:]])
    rng = np.random.default_rng(0)
    seen = np.concatenate([moved + rng.normal(0, POINT_NOISE, moved.shape) for _ in range(3)])
    emotions = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(seen, np.tile(labels, 3))
    return Judge(persons.fit(np.stack(patches), who), emotions, average)


def confusion(truth: np.ndarray, told: np.ndarray) -> np.ndarray:
    """(8, 8) share of each true emotion (row) that was told as each (column)."""
    table = np.zeros((len(EMOTIONS),) * 2)
    np.add.at(table, (truth, told), 1)
    return table / np.maximum(table.sum(1, keepdims=True), 1)


def likeness(portraits: np.ndarray, frames: np.ndarray, others: np.ndarray | None = None) -> float:
    """Distance from a person's portrait to their frames over the distance between two random people.

    portraits (I, d) and frames (I, T, d) are embeddings; others, the truth's frames, are what strangers look like.
    """
    own = (1 - np.einsum("id,itd->it", portraits, frames)).mean()
    return float(own) / strangers(portraits, frames if others is None else others)


def strangers(portraits: np.ndarray, frames: np.ndarray) -> float:
    """Mean distance from a portrait (I, d) to the frames (I, T, d) of everybody else; NaN of one person alone."""
    across = 1 - np.einsum("id,jtd->ijt", portraits, frames)
    others = across[~np.eye(len(portraits), dtype=bool)]
    return float(others.mean()) if others.size else float("nan")
