"""Real pictures and clips. Only clips have ground truth: their own frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference.contract.errors import EDTalkError
from inference.face.framing import cut, frame_clip, frame_picture
from inference.media.clip import Clip
from inference.media.picture import load_picture
from inference.media.video import PICTURES
from training.units import EMOTIONS

from . import people
from .pictures import face_boxes, psnr, ssim
from .puppet import Puppet, resized
from .recognition import Classifiers

CLIPS = (".mp4", ".mov", ".mkv", ".webm")
EVERY, MOST = 10, 25  # frames of a clip: every tenth, at most 25


@dataclass(frozen=True)
class Photograph:
    """A real face and the results of driving it. truth: only for clips, whose first frame is the portrait."""

    name: str
    portrait: np.ndarray  # (S, S, 3)
    results: np.ndarray  # (T, S, S, 3)
    truth: np.ndarray | None
    person: np.ndarray  # (d,) embedding of the portrait
    acted: np.ndarray  # (d,) mean embedding of the results
    apart: float | None = None  # mean distance of the embeddings of results and true frames
    apart_copy: float | None = None  # the same of the portrait and true frames
    psnr: float | None = None
    psnr_copy: float | None = None
    ssim: float | None = None
    ssim_copy: float | None = None


def portraits_in(folder: Path) -> Iterator[Path]:
    """Pictures and clips of a folder, by name."""
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() in (*PICTURES, *CLIPS))


def act(puppet: Puppet, path: Path, size: int, classifiers: Classifiers) -> Photograph:
    """Drive a picture by eight emotions and some talking, or a clip's first frame by what is read from the others.

    Raises EDTalkError if there is no face or no readable picture.
    """
    acting = np.concatenate([people.evaluation_rows(0)[1:5], people.emotion_rows(0)[0][1 : len(EMOTIONS)]])
    truth = None
    if path.suffix.lower() in PICTURES:
        rgb = load_picture(path).rgb
        portrait = resized_square(cut(rgb, frame_picture(rgb, size, label=path.name)), size)
    else:
        clip = Clip.at_own_rate(path)
        crop = frame_clip(clip.frames(), clip.fps, size, label=path.name)
        frames = [
            resized_square(cut(rgb, crop), size)
            for index, rgb in enumerate(clip.frames())
            if index % EVERY == 0 and index <= EVERY * MOST
        ]
        if len(frames) < 2:
            raise EDTalkError(
                f"{path.name} has too few frames to compare; expected at least {EVERY + 1}.", kind="media"
            )
        portrait, truth = frames[0], np.stack(frames[1:])
    puppet.show(portrait)
    rows = acting if truth is None else puppet.read(truth)
    results, points = puppet.pictures(rows), classifiers.average
    moved = np.concatenate([points[None], puppet.moved(rows, points)])
    seen = np.ones(moved.shape[:2], bool)
    embedded = classifiers.embedding(np.concatenate([portrait[None], results]), moved, seen)
    person, acted = embedded[0], embedded[1:].mean(0)
    if truth is None:
        return Photograph(path.stem, portrait, results, None, person, acted)
    true = classifiers.embedding(truth, moved[1:], seen[1:])
    apart = [float(1 - (rows * true).sum(1).mean()) for rows in (embedded[1:], person)]
    boxes = face_boxes(np.broadcast_to(points, (len(truth), *points.shape)), size)
    still = np.broadcast_to(portrait, truth.shape)
    figures = [float(measure(made, truth, boxes).mean()) for measure in (psnr, ssim) for made in (results, still)]
    return Photograph(path.stem, portrait, results, truth, person, acted, *apart, *figures)


def resized_square(picture: np.ndarray, size: int) -> np.ndarray:
    """A face crop at `size` pixels; pictures that are not square are squeezed."""
    side = min(picture.shape[:2])
    if picture.shape[0] != picture.shape[1]:
        import cv2

        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return resized(picture, size)
