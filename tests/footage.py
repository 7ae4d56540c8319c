"""Footage with a face at a known position in every frame: the demo portrait over a pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np

from inference.contract.demo import PORTRAIT
from inference.face.crop import Crop
from inference.face.detect import crop_from_face, find_face
from inference.media.picture import load_picture
from tests.synthetic_inputs import picture

SIDE = 256  # pixels of the portrait in a frame
HEIGHT, WIDTH = 360, 640
TICK = Fraction(1, 90000)  # seconds
Place = tuple[float, float] | None  # x, y of the portrait's centre in pixels; None: not in the picture


@cache
def portrait() -> tuple[np.ndarray, np.ndarray]:
    """The face, uint8 (SIDE, SIDE, 3), and its matte, float32 (SIDE, SIDE) in [0, 1]."""
    face = cv2.resize(load_picture(PORTRAIT).rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    down, across = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) / SIDE
    return face, np.clip((1 - np.hypot(across / 0.42, down / 0.49)) * 8, 0, 1).astype(np.float32)


@cache
def crop_of_portrait() -> Crop:
    """The crop that is detected in the portrait."""
    return crop_from_face(find_face(portrait()[0]))


@cache
def background(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return picture("rushes", height, width)


def frame(*places: Place, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame, uint8 (height, width, 3), with the centre of a portrait at each of the places."""
    out = background(height, width).astype(np.float32)
    face, matte = portrait()
    for x, y in filter(None, places):
        shift = np.float32([[1, 0, x - (SIDE - 1) / 2], [0, 1, y - (SIDE - 1) / 2]])
        alpha = cv2.warpAffine(matte, shift, (width, height))[..., None]
        out += alpha * (cv2.warpAffine(face, shift, (width, height)).astype(np.float32) - out)
    return np.rint(out).astype(np.uint8)


def frames(places: Iterable[Place]) -> list[np.ndarray]:
    return [frame(place) for place in places]


def true_middle(place: Sequence[float]) -> np.ndarray:
    """(2,): the true centre of the crop for a portrait with its centre at `place`."""
    x, y, side, _ = crop_of_portrait().box
    return np.array([x, y]) + side / 2 - SIDE / 2 + place


def write_clip(path: Path, pictures: Sequence[np.ndarray], times: Sequence[float], pix_fmt: str = "yuv420p",
               rotation: int = 0, gop: int = 12) -> Path:  # fmt: skip
    """Write a clip whose frame i starts at times[i] seconds. rotation: degrees of the display rotation in the file."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30, options={"crf": "8", "preset": "veryfast"})
        stored = [np.ascontiguousarray(np.rot90(rgb, -rotation // 90)) for rgb in pictures]
        stream.height, stream.width = stored[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base, stream.codec_context.gop_size = TICK, gop
        if rotation:
            stream.set_display_rotation(rotation)
        for pixels, time in zip(stored, times, strict=True):
            shown = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            shown.pts, shown.time_base = round(time * 90000), stream.codec_context.time_base
            file.mux(stream.encode(shown))
        file.mux(stream.encode(None))
    return path
