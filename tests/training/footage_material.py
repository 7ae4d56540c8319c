"""Drawn faces that turn and talk, in the file format of rendered heads but without any file of labels."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

from training.footage.heads import STANDING_IN
from training.footage.prepare import FORMAT, RATE, Take, save_take
from training.footage.takes import LEFT_CORNER, LEFT_EYE, LOWER_LIP, MOUTH, RIGHT_CORNER, RIGHT_EYE, UPPER_LIP

SIZE, FRAMES, TRACKED = 64, 6, 1024


def with_marks(nine: np.ndarray, raised: float = 0.0, closed: float = 0.0) -> np.ndarray:
    """(COUNT, 2) points of a drawn face in the frame of the eyes, from the NINE. raised, closed: 0 to 1."""
    right, left = nine[LEFT_CORNER], nine[RIGHT_CORNER]

    def between(middle: np.ndarray, count: int) -> np.ndarray:
        """Points on the arc from corner to corner through `middle`, without the corners."""
        share = (np.arange(count) + 1.0)[:, None] / (count + 1.0)
        bend = 4.0 * share * (1.0 - share)
        return right + (left - right) * share + bend * (middle - (right + left) / 2.0)

    upper, lower = between(nine[UPPER_LIP], 7), between(nine[LOWER_LIP], 7)
    inside = (between((nine[lip] + nine[MOUTH]) / 2.0, 5) for lip in (UPPER_LIP, LOWER_LIP))
    turned = np.pi * np.arange(8) / 4.0
    open_ = 0.1 * (1.0 - closed) * np.where(np.sin(turned) > 0.0, 1.0, 0.2)
    lids = [
        nine[eye] + np.stack([side * 0.18 * np.cos(turned), -open_ * np.sin(turned)], 1)
        for eye, side in ((LEFT_EYE, -1.0), (RIGHT_EYE, 1.0))
    ]
    along = np.linspace(-0.25, 0.25, 5)
    brows = [
        nine[eye] + np.stack([side * along, np.full(5, -0.35 - 0.15 * raised)], 1)
        for eye, side in ((LEFT_EYE, 1.0), (RIGHT_EYE, -1.0))
    ]
    ears = np.array([[-1.0, 0.1], [-0.98, 0.3], [1.0, 0.1], [0.98, 0.3]])
    return np.concatenate([
        nine, upper[:3], upper[:-4:-1], lower[:3], lower[:-4:-1], *inside, *lids, *brows, ears
    ])  # fmt: skip


def face(
    skin: np.ndarray, place: np.ndarray, scale: float, opening: float, size: int = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """A drawn face and its points (COUNT, 2) in [-1, 1]. skin: (3,) colour; place: (2,) middle of the eyes."""
    local = np.array([
        [-0.5, 0.0], [0.5, 0.0], [0.0, 0.55], [-0.3, 1.0], [0.3, 1.0], [0.0, 0.92 - opening / 4],
        [0.0, 1.08 + opening], [0.0, 1.0 + opening / 2], [0.0, 1.5 + opening],
    ])  # fmt: skip
    points = place + 0.5 * scale * with_marks(local)
    pixels = (points + 1.0) * (size / 2.0) - 0.5
    unit = 0.25 * scale * size
    picture = np.full((size, size, 3), 40, np.uint8)

    def oval(centre: np.ndarray, wide: float, high: float, colour: tuple[int, ...]) -> None:
        at = tuple(round(16 * float(value)) for value in centre)
        axes = tuple(max(8, round(16 * value * unit)) for value in (wide, high))
        cv2.ellipse(picture, at, axes, 0, 0, 360, colour, -1, cv2.LINE_AA, 4)

    oval((pixels[2] + pixels[7]) / 2, 0.95, 1.3 + opening / 2, tuple(int(value) for value in skin))
    for eye in pixels[:2]:
        oval(eye, 0.2, 0.13, (250, 250, 250))
        oval(eye, 0.08, 0.1, (20, 20, 20))
    oval(pixels[2], 0.1, 0.12, tuple(int(0.8 * value) for value in skin))
    oval(pixels[7], 0.32, 0.1 + opening / 2 + 0.04, (190, 60, 60))
    oval(pixels[7], 0.26, 0.02 + opening / 2, (60, 10, 10))
    return picture, points


def write_faces(folder: Path, people: int, frames: int = FRAMES, seed: int = 0) -> Path:
    """A data set of `people` drawn faces: pictures, points and `meta.json`, nothing else. Returns the folder."""
    rng = np.random.default_rng(seed)
    pictures, tracked = [], np.zeros((people * frames, TRACKED, 2), np.float16)
    for person in range(people):
        skin = rng.integers(110, 240, 3)
        for frame in range(frames):
            calm = 0.0 if frame == 0 else 1.0
            place = np.array([0.0, -0.3]) + calm * rng.uniform(-0.15, 0.15, 2)
            opening = 0.0 if frame == 0 else float(rng.uniform(0.0, 0.5))
            picture, points = face(skin, place, 0.9 + 0.1 * calm * rng.uniform(-1, 1), opening)
            row = person * frames + frame
            # The nine come last, because some marks share their tracked points.
            for group, point in reversed(list(zip(STANDING_IN, points, strict=True))):
                tracked[row, list(group)] = point
            if len(STANDING_IN[7]) > 1:  # the mouth's centre shares its vertices with the lips
                tracked[row, STANDING_IN[5]], tracked[row, STANDING_IN[7][1]] = points[5], 2 * points[7] - points[5]
            pictures.append(picture)
    np.save(folder / "frames.npy", np.array(pictures))
    np.save(folder / "points.npy", tracked)
    (folder / "meta.json").write_text(json.dumps({"frames": frames, "done": people}))
    return folder


def prepare_faces(folder: Path, seconds: float = 6.0, size: int = 32) -> list[Path]:
    """Two clips that count as prepared in FOLDER/work/footage: drawn faces that talk and turn.

    The clips themselves are a few bytes, since a clip that is done is not read again. Returns the clips.
    """
    rng, clips, state = np.random.default_rng(0), [], {}
    for number, name in enumerate(("anna.mp4", "bert.mp4")):
        clip = folder / name
        clip.write_bytes(name.encode())
        digest = hashlib.sha256(name.encode()).hexdigest()
        take, skin = Take((0.0, 0.0, float(size))), rng.integers(110, 240, 3)
        for frame in range(round(seconds * RATE / 2)):
            turn, talk = np.sin(frame / 9.0 + number), np.abs(np.sin(frame / 3.0))
            picture, points = face(skin, np.array([0.1 * turn, -0.3]), 0.9 + 0.05 * turn, 0.4 * talk, size)
            take.frames.append(picture)
            take.points.append(points)
            take.sure.append(np.ones(len(points)))
            take.times.append(frame / RATE)
            take.sharpness.append(100.0)
        place = f"{clip.stem}_{digest[:8]}/take_000"
        save_take(take, folder / "work" / "footage" / place)
        state[digest] = {
            "name": name, "person": clip.stem, "takes": [place], "frames": len(take.frames), "rejected": {},
            "seconds": seconds / 2,
        }  # fmt: skip
        clips.append(clip)
    listed = {"format": FORMAT, "size": size, "rate": RATE, "clips": state}
    (folder / "work" / "footage" / "clips.json").write_text(json.dumps(listed))
    return clips
