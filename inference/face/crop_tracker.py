"""Track the crop of a face through a clip, smoothed over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np

from ..contract.plate import runs
from .crop import EYES, TEMPLATE, Crop, apply_matrix, crop_face, pose_matrix
from .detect import Face, Which, choose_face, crop_from_face, detect_faces, face_at, face_not_found, find_again

STATE = 14  # numbers of `CropTracker.state`


class CropTracker:
    """Finds the crop of a face in every frame of a clip: steady if the head is still, without lag if it moves.

    Optical flow between neighbouring frames gives a precise motion, but its errors accumulate. A detection every few
    frames gives a position without drift, which varies by a pixel or two. The difference between the two is smoothed
    over some seconds and added to the path of the flow. Smoothing uses past and future frames to avoid lag, so the
    results are available after the last frame: call `add` for each frame, then `crops` and `seen`. Frames are not kept
    in memory.
    """

    def __init__(
        self,
        size: int = TEMPLATE,
        *,
        every: int = 10,
        which: Which = None,
        label: str = "the clip",
        detect: Callable[[np.ndarray], list[Face]] | None = None,
    ) -> None:
        """size: pixels of the crops. every: frames between detections. which: face to track, chosen in the first frame
        with a face, see `detect.choose_face`. label: name of the clip, for messages. detect: detector of faces.
        """
        self.size, self.every, self.which, self.label = size, every, which, label
        self._detect = detect or (lambda rgb: detect_faces(rgb, upright_only=True))
        self._finds_again = detect is None
        self._path: list[np.ndarray] = []  # per frame, by flow alone within a shot: centre x, y, log scale, angle
        self._anchors: list[tuple[int, np.ndarray]] = []  # frame number, detected pose minus path
        self._shots = [0]  # frames at which the path starts again
        self._followed: list[bool] = []  # per frame: whether the flow succeeded and the face is well inside
        self._faces = 0  # number of faces in the frame in which one was chosen
        self._detect_at, self._failed = 0, 0  # frame of the next detection; detections failed in a row
        self._before = np.zeros((0, 0, 3), np.uint8)

    def add(self, rgb: np.ndarray) -> None:
        """Add the next frame, uint8 (H, W, 3).

        Raises EDTalkError(kind="face") at the first frame with faces if `choose_face` cannot choose one.
        """
        frame = len(self._path)
        moved = self._follow(rgb) if self._anchors else None
        path = moved if moved is not None else self._path[-1] if self._path else np.zeros(4)
        if frame >= self._detect_at or (moved is None and not self._failed):
            found = self._measure(rgb, path, moved is not None)
            if found is None:  # detection is slowest in frames without a face
                self._failed += 1
                self._detect_at = frame + min(self._failed, max(1, self.every // 2))
            else:
                self._failed, self._detect_at = 0, frame + self.every
                lost = moved is None or np.hypot(*(found - path)[:2]) > 0.3 * self._side(path)
                if lost:  # a cut, or the flow lost the face: start again at the detection
                    path = found
                    if self._anchors:
                        self._shots.append(frame)
                self._anchors.append((frame, found - path))
        self._path.append(path)
        self._followed.append(moved is not None and self._is_well_inside(path, rgb.shape))
        self._before = rgb

    def state(self) -> np.ndarray:
        """(1, STATE) float64: what the last frame added, see `restore`."""
        frame = len(self._path) - 1
        anchored = bool(self._anchors) and self._anchors[-1][0] == frame
        flags = self._followed[-1], self._shots[-1] == frame, anchored
        offset = self._anchors[-1][1] if anchored else np.zeros(4)
        return np.array([[*self._path[-1], *flags, *offset, self._faces, self._detect_at, self._failed]], np.float64)

    def restore(self, states: np.ndarray, rgb: np.ndarray) -> None:
        """Continue as if frames had been added.

        states: (N, STATE), the `state` after each frame, N at least 1. rgb: the last of them, uint8 (H, W, 3).
        """
        self._path, self._followed = list(states[:, :4]), (states[:, 4] != 0).tolist()
        self._shots = [0, *(np.flatnonzero(states[1:, 5]) + 1).tolist()]
        self._anchors = [(int(frame), states[frame, 7:11]) for frame in np.flatnonzero(states[:, 6])]
        self._faces, self._detect_at, self._failed = (int(value) for value in states[-1, 11:])
        self._before = rgb

    def __len__(self) -> int:
        return len(self._path)

    @property
    def found(self) -> bool:
        """Whether a face was found in any frame so far."""
        return bool(self._anchors)

    def crops(self) -> list[Crop]:
        """One crop per frame added. Raises EDTalkError(kind="face") if no face was found."""
        if not self._anchors:
            raise face_not_found(f"No face was found in any frame of {self.label}.")
        first = self._anchors[0][0]  # earlier frames get the crop of this one
        poses = np.array([self._path[max(frame, first)] for frame in range(len(self._path))])
        for start, stop in zip(self._shots, [*self._shots[1:], len(poses)], strict=True):
            anchors = [anchor for anchor in self._anchors if start <= anchor[0] < stop]
            poses[start:stop] = _smooth(poses[start:stop]) + _drift(anchors, np.arange(start, stop))
        return [Crop(self.size, pose_matrix(pose, self.size)) for pose in poses]

    def seen(self, *, gap: int = 12, trust: int = 50) -> np.ndarray:
        """(N,) bool: whether each frame shows the face.

        A frame shows the face if one of these conditions is met: the face was detected in it; the flow follows the face
        from a detection to this frame, over at most `trust` frames or up to the next detection of the same shot; or it
        lies between two such frames that are at most `gap` frames apart.
        """
        seen, found = np.zeros(len(self._path), bool), [frame for frame, _ in self._anchors]
        for place, frame in enumerate(found):
            after = found[place + 1] if place + 1 < len(found) else len(seen)
            unbroken = frame + 1
            while unbroken < after and self._followed[unbroken] and unbroken not in self._shots:
                unbroken += 1
            meets = unbroken == after < len(seen) and after not in self._shots
            seen[frame : after if meets else min(unbroken, frame + 1 + trust)] = True
        for first, last in runs(~seen):
            if first > 0 and last + 1 < len(seen) and last - first < gap:
                seen[first : last + 1] = True
        return seen

    def _side(self, pose: np.ndarray) -> float:
        """Side of a pose's crop in pixels of the picture."""
        return self.size * math.exp(pose[2])

    def _is_well_inside(self, pose: np.ndarray, shape: Sequence[int]) -> bool:
        """Whether most of the face is in the picture. When a face leaves, the flow soon tracks the background."""
        margin = 0.2 * self._side(pose)
        x, y = pose[:2]
        return margin <= x <= shape[1] - margin and margin <= y <= shape[0] - margin

    def _measure(self, rgb: np.ndarray, near: np.ndarray, followed: bool) -> np.ndarray | None:
        """The detected pose (4,) of the tracked face, or None. near: its last pose; followed: whether by flow."""
        face = self._find_again(rgb, near) if followed and self._finds_again else None
        if face is not None:
            return self._pose_near(face, near)
        faces = self._detect(rgb)
        if not faces:
            return None
        if self._anchors:
            face = self._same_face(faces, near, followed)
        else:
            face = choose_face(faces, which=self.which, label=self.label)
            self._faces = len(faces)
        return None if face is None else self._pose_near(face, near)

    def _find_again(self, rgb: np.ndarray, near: np.ndarray) -> Face | None:
        """The tracked face near the position that the flow gives, found without a search of the whole frame."""
        pose = near + self._anchors[-1][1]
        crop = Crop(self.size, pose_matrix(pose, self.size)).at_size(TEMPLATE)
        return find_again(rgb, face_at(apply_matrix(crop.to_picture, EYES)))

    def _pose_near(self, face: Face, near: np.ndarray) -> np.ndarray:
        """The pose (4,) of a face, with the angle within half a turn of that of another pose."""
        pose = _pose(crop_from_face(face, self.size))
        pose[3] += 2 * math.pi * round((near[3] - pose[3]) / (2 * math.pi))
        return pose

    def _same_face(self, faces: list[Face], near: np.ndarray, followed: bool) -> Face | None:
        """The tracked face among detected ones, or None if it is not among them."""

        def distance(face: Face) -> float:
            return float(np.hypot(*(_pose(crop_from_face(face, self.size)) - near)[:2]))

        nearest = min(faces, key=distance)
        if self.which is None or distance(nearest) < (0.5 if followed else 1.0) * self._side(near):
            return nearest
        # Another person or a cut. After a cut, choose again only if there are as many faces as at the first choice.
        if followed or len(faces) != self._faces:
            return None
        return choose_face(faces, which=self.which, label=self.label)

    def _follow(self, rgb: np.ndarray) -> np.ndarray | None:
        """The last pose moved by the optical flow of the face; None if too few points agree."""
        crop = Crop(self.size, pose_matrix(self._path[-1], self.size)).at_size(TEMPLATE)
        before, now = (cv2.cvtColor(crop_face(frame, crop), cv2.COLOR_RGB2GRAY) for frame in (self._before, rgb))
        points = cv2.goodFeaturesToTrack(before, 150, 0.01, 5, mask=_face_area())
        if points is None:
            return None
        ahead, good, _ = cv2.calcOpticalFlowPyrLK(before, now, points, None, winSize=(21, 21), maxLevel=3)
        back, good_back, _ = cv2.calcOpticalFlowPyrLK(now, before, ahead, None, winSize=(21, 21), maxLevel=3)
        sure = (good & good_back).ravel().astype(bool) & (np.linalg.norm(back - points, axis=2).ravel() < 0.5)
        if sure.sum() < 10:
            return None
        # RANSAC leaves out the mouth and the eyelids, which move independently of the head.
        step, agree = cv2.estimateAffinePartial2D(points[sure], ahead[sure], ransacReprojThreshold=1.0)
        if step is None or agree.sum() < 8:
            return None
        moved = crop.to_picture @ np.vstack([step, (0, 0, 1)])
        pose = _pose(Crop(TEMPLATE, moved).at_size(self.size))
        pose[3] += 2 * math.pi * round((self._path[-1][3] - pose[3]) / (2 * math.pi))
        return pose


@lru_cache(maxsize=1)
def _face_area() -> np.ndarray:
    """(256, 256) uint8 mask of the skin in a crop, without hair and background, which may not move with the head."""
    return cv2.ellipse(np.zeros((TEMPLATE, TEMPLATE), np.uint8), (136, 145), (55, 70), 0, 0, 360, 255, -1)


def _pose(crop: Crop) -> np.ndarray:
    """(4,): centre x, y in pixels of the picture, natural logarithm of the scale, angle in radians."""
    x, y = apply_matrix(crop.to_picture, np.full(2, (crop.size - 1) / 2))
    (cos, _, _), (sin, _, _) = crop.to_picture
    return np.array([x, y, math.log(math.hypot(cos, sin)), math.atan2(sin, cos)])


def _smooth(path: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    """(T, 4) poses smoothed by a Gaussian of `sigma` frames.

    The ends are extended by point reflection, so that motion at the start and end does not lag.
    """
    reach = math.ceil(3 * sigma)
    if len(path) <= reach:
        return path
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(path, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    return np.stack([np.convolve(column, kernel / kernel.sum(), "valid") for column in padded.T], axis=1)


def _drift(anchors: list[tuple[int, np.ndarray]], frames: np.ndarray, sigma: float = 50.0) -> np.ndarray:
    """(T, 4): for every frame, the mean of the anchors' differences, weighted by a Gaussian of `sigma` frames."""
    times, offsets = np.array([time for time, _ in anchors]), np.array([offset for _, offset in anchors])
    parts = []
    for block in np.array_split(frames, -(-len(frames) // 1000)):  # all at once would take a gigabyte for half an hour
        distance = (block[:, None] - times) ** 2
        weight = np.exp(
            -0.5 * (distance - distance.min(1, keepdims=True)) / sigma**2
        )  # the nearest anchor has weight 1, which avoids 0 / 0
        parts.append(weight @ offsets / weight.sum(1, keepdims=True))
    return np.concatenate(parts)
