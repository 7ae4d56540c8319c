"""Fixtures of the training tests: the heads' renderer, and a small data set of discs instead of heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from training.units import NAMES

if TYPE_CHECKING:
    from training.heads import render

DRAWN = 64  # pixels of rendered heads
FRAMES, POINTS = 8, 40  # evaluation needs frames 4 and 7


@pytest.fixture(scope="module")
def drawer() -> render.Renderer:
    """The heads' renderer at DRAWN pixels; skips the test if OpenGL or the heads' data are missing."""
    pytest.importorskip("moderngl", reason="moderngl draws the heads")
    from training.heads import mesh, render

    try:
        mesh.data_folder()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    try:
        return render.renderer(DRAWN)
    except Exception as failure:  # moderngl raises bare exceptions where EGL is absent
        pytest.skip(f"no OpenGL through EGL: {failure}")


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of `write_discs` with 20 people."""
    return write_discs(tmp_path_factory.mktemp("discs"), 20)


def write_windows(folder: Path, people: int) -> Path:
    """Write a pool of the teeth stage with windows of `people`; returns the folder.

    The mouth is an ellipse whose height and place are in the input, with teeth in its upper and its lower third.
    """
    rng, (y, x) = np.random.default_rng(0), np.mgrid[-1:1:72j, -1:1:72j]
    count = 16 * people
    height, left = rng.uniform(0.1, 0.6, (count, 1, 1)), rng.uniform(-0.2, 0.2, (count, 1, 1))
    across, down = (x - left) / 0.6, y / height
    inside = np.hypot(across, down) < 1
    masks = np.stack([inside & (down < -1 / 3), inside & (down > 1 / 3), inside], 1)
    v = 0.5 + down / 4
    places = np.stack([across, 1 - v, across, v], 1) * masks[:, [0, 0, 1, 1]]
    seen = 0.1 * rng.standard_normal((count, 64, 36, 36))
    seen[:, :4], seen[:, 4:8] = 2 * np.hypot(across, down)[:, None, ::2, ::2] - 2, x[::2, ::2]
    condition = np.concatenate([rng.random((count, len(NAMES))), rng.uniform(-1.5, -0.5, (count, 3))], 1)
    colours = np.where(masks[:, :2].any(1), -0.3, -1.0)[:, None] * np.ones((1, 3, 1, 1))
    folder.mkdir()
    for name, values, kind in (
        ("seen", seen, np.float16), ("condition", condition, np.float32), ("masks", 255 * masks, np.uint8),
        ("places", places, np.float16), ("colours", colours, np.float16),
    ):  # fmt: skip
        (folder / f"{name}.bin").write_bytes(values.astype(kind).tobytes())
    (folder / "meta.json").write_text(json.dumps({"done": people}))
    return folder


def write_discs(folder: Path, people: int) -> Path:
    """Write a data set of `people` discs, each in a colour of its own, that move with headShiftX; returns the folder.

    The tracked points lie on the discs. The first frame of each is at rest.
    """
    rng = np.random.default_rng(0)
    count, size = people * FRAMES, 128
    coefficients = np.zeros((count, len(NAMES)), np.float32)
    shift = rng.uniform(-1, 1, count)
    shift[::FRAMES] = 0.0
    coefficients[:, NAMES.index("headShiftX")] = shift
    line = (np.arange(size) * 2 + 1) / size - 1
    x, y = np.meshgrid(line, line)
    inside = np.hypot(x - 0.3 * shift[:, None, None], y) < 0.5
    colours = rng.integers(60, 255, (people, 3)).repeat(FRAMES, 0)
    frames = np.where(inside[..., None], colours[:, None, None], 20).astype(np.uint8)
    angle, radius = rng.uniform(0, 2 * np.pi, POINTS), rng.uniform(0, 0.45, POINTS)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)[None].repeat(count, 0)
    points[..., 0] += 0.3 * shift[:, None]
    np.save(folder / "frames.npy", frames)
    np.save(folder / "masks.npy", inside.astype(np.uint8) * 255)
    np.save(folder / "points.npy", points.astype(np.float16))
    np.save(folder / "visible.npy", np.ones((count, POINTS), bool))
    np.save(folder / "coefficients.npy", coefficients)
    on_disc = points[0].astype(np.float32) / 0.45  # of the first frame, which is at rest
    np.save(folder / "places.npy", np.concatenate([on_disc, np.zeros((POINTS, 1), np.float32)], 1))
    groups = {"mouth": [0, 10], "eyes": [10, 20], "face": [20, 30], "scalp": [30, 35], "neck": [35, 40]}
    (folder / "meta.json").write_text(json.dumps({"frames": FRAMES, "done": people, "points": groups}))
    return folder
