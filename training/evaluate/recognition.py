"""Recognition in pictures: coefficients, identity and emotion."""

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
from .people import CLASSIFIER_PEOPLE, EYE_DISTANCE, PersonFrames

PATCH = 40  # side of the face patch for identity, in pixels
CLASSIFIER_SIZE = 128  # pixels of the classifiers' pictures
COMPONENTS = 100
FEATURES = slice(0, None, 3)  # of the tracked points, for emotions
# Noise of the emotion classifier's training points, in eye distances: the error of good landmark detectors. With exact
# points it would rely on invisible differences.
POINT_NOISE = 0.04


def correlations(read: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) Pearson's r of each column of two (T, n); 0 where `read` is constant, NaN where the truth is."""
    a, b = (values.astype(np.float64) - values.mean(0) for values in (read, truth))
    size = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
    varies = b.std(0) > 1e-3
    return np.where(varies, (a * b).sum(0) / np.maximum(size, 1e-12), np.nan)


def patch(picture: np.ndarray, points: np.ndarray, visible: np.ndarray, average: np.ndarray) -> np.ndarray:
    """(PATCH ** 2,) grey values of the aligned face, normalised to mean 0 and deviation 1.

    picture: (S, S, 3); points: (F, 2) in it; average: (F, 2) of an average face, to which the face is aligned.
    """
    low, high = average.min(0), average.max(0)
    template = (average - (low + high) / 2) / (high - low).max() + 0.5
    picture = cv2.resize(picture, (CLASSIFIER_SIZE,) * 2, interpolation=cv2.INTER_AREA)
    pixels = (points[visible] + 1) / 2 * CLASSIFIER_SIZE - 0.5
    to_picture = similarity(template[visible] * PATCH, pixels)
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    values = cv2.warpAffine(grey, to_picture, (PATCH, PATCH), flags=flags, borderMode=cv2.BORDER_REPLICATE).ravel()
    return (values - values.mean()) / max(float(values.std()), 1.0)


def displacement(points: np.ndarray, at_rest: np.ndarray) -> np.ndarray:
    """(2 F / 3,) displacement of points (F, 2) from the same face at rest, without head movement, in eye distances."""
    shift = points - at_rest
    shift = shift - similarity_part(at_rest, shift, np.ones(len(shift), bool))
    return shift[FEATURES].ravel() / EYE_DISTANCE


@dataclass(frozen=True)
class Classifiers:
    """Classifiers trained on rendered people that are neither test people nor used for training a bank.

    persons: Fisherfaces, a linear discriminant of grey values that separates people and ignores differences between
    pictures of one person. emotions: a linear discriminant of point displacements. average: (F, 2) points of an average
    face in its portrait, in [-1, 1].
    """

    persons: Pipeline
    emotions: LinearDiscriminantAnalysis
    average: np.ndarray

    def embedding(self, pictures: np.ndarray, points: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """Identity embeddings (T, d) of unit length. pictures: (T, S, S, 3); points: (T, F, 2); visible: (T, F)."""
        patches = [patch(*one, self.average) for one in zip(pictures, points, visible, strict=True)]
        return normal(self.persons.transform(np.stack(patches)))

    def emotion(self, points: np.ndarray, at_rest: np.ndarray) -> np.ndarray:
        """(T,) indices in EMOTIONS. points: (T, F, 2); at_rest: (F, 2)."""
        return self.emotions.predict(np.stack([displacement(moved, at_rest) for moved in points]))


def normal(rows: np.ndarray) -> np.ndarray:
    """Rows (..., d) scaled to unit length."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def train_classifiers(persons: int = 50, copies: int = 2) -> Classifiers:
    """Train the classifiers on `persons` people, each at rest and `copies` times in each emotion."""
    shots, labels = [], []
    for person in range(CLASSIFIER_PEOPLE, CLASSIFIER_PEOPLE + persons):
        rows, label = people.emotion_rows(person, copies)
        rows = np.concatenate([np.zeros((1, len(NAMES)), np.float32), rows])
        shots.append(people.render_person(person, rows, CLASSIFIER_SIZE))
        labels.append(label)
    return learn(shots, np.concatenate(labels))


def learn(shots: Sequence[PersonFrames], labels: np.ndarray) -> Classifiers:
    """Train the classifiers on rendered frames.

    shots: one element per person, the first frame at rest, the others in the emotions `labels`, for all people in turn.
    """
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
    return Classifiers(persons.fit(np.stack(patches), who), emotions, average)


def confusion(truth: np.ndarray, recognised: np.ndarray) -> np.ndarray:
    """(8, 8) share of each true emotion (row) that was recognised as each emotion (column)."""
    table = np.zeros((len(EMOTIONS),) * 2)
    np.add.at(table, (truth, recognised), 1)
    return table / np.maximum(table.sum(1, keepdims=True), 1)


def relative_distance(portraits: np.ndarray, frames: np.ndarray, others: np.ndarray | None = None) -> float:
    """Mean distance from a person's portrait to their frames, over the distance between two random people.

    portraits (I, d) and frames (I, T, d): embeddings; others: (I, T, d) frames of other people, default `frames`.
    """
    own = (1 - np.einsum("id,itd->it", portraits, frames)).mean()
    return float(own) / stranger_distance(portraits, frames if others is None else others)


def stranger_distance(portraits: np.ndarray, frames: np.ndarray) -> float:
    """Mean distance from portraits (I, d) to the frames (I, T, d) of other people; NaN for a single person."""
    across = 1 - np.einsum("id,jtd->ijt", portraits, frames)
    others = across[~np.eye(len(portraits), dtype=bool)]
    return float(others.mean()) if others.size else float("nan")
