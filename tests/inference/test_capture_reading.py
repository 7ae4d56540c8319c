"""How captured rows are read: independent of threads and batches, irises and faces that are found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference.contract.bank import load_bank
from inference.face import landmarks
from inference.face.crop import crop_from_box
from inference.face.detect import face_at, find_again
from inference.face.landmarks import find_landmarks
from inference.lanes import Lanes
from inference.lower_face import measured
from inference.media.picture import load_picture
from inference.model import gaze
from inference.model.readers.face_reader import FaceReader
from inference.renderer import FaceRenderer

PORTRAIT = Path(__file__).parents[2] / "inference" / "demo" / "portrait_1.png"


def test_captured_rows_depend_on_neither_threads_nor_neighbours():
    """Bit by bit, also where the batches of a clip begin at another frame."""
    renderer = FaceRenderer(load_bank(), "cpu", 1)
    renderer.set_source(load_picture(PORTRAIT).rgb)
    amounts = np.linspace(-0.8, 0.8, 11)
    pictures = list(renderer.render(renderer.moved({"eyeYaw": amounts, "headRoll": amounts})))
    readers = [
        FaceReader(renderer.reader.networks, renderer.bank, renderer.device, renderer.batch, Lanes(count))
        for count in (1, 3)
    ]
    for reader in readers:
        rest = reader.rest_reference(pictures[5])
        whole = reader.compare(rest, pictures)
        assert np.array_equal(whole[3:], reader.compare(rest, pictures[3:]))
        assert np.array_equal(whole, readers[0].compare(rest, pictures))
        assert np.abs(whole[5]).max() < 0.05
        with_numbers, later = (
            np.concatenate([*reader.compare_each(rest, part, measured)]) for part in (pictures, pictures[3:])
        )
        assert np.array_equal(with_numbers[:, : whole.shape[1]], whole)
        assert np.array_equal(with_numbers[3:], later)
    assert np.corrcoef(amounts, whole[:, renderer.bank.names.index("eyeYaw")])[0, 1] >= 0.9
    encoded = [reader.encode(pictures).values for reader in readers]
    assert np.array_equal(*encoded)


def test_an_iris_is_found_where_it_is_drawn():
    """Also where the lids hide a third of it, and away from the place that is expected."""
    y, x = np.mgrid[: gaze.SIZE[0], : gaze.SIZE[1]]
    opening = (np.hypot((x - 52) / 34, (y - 36) / 13) < 1).astype(np.float32)
    for at in ((52.0, 36.0), (44.5, 34.25), (60.0, 38.0)):
        grey = 210 - 150 * gaze.disc(np.array(at), 16.0, 1.5)
        own = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
        found, radius = gaze.find_iris(own, opening, np.array([51.0, 36.0]), 16.12)
        assert np.abs(found - at).max() < 1.5
        assert 13 < radius < 19


def test_a_face_is_found_again_near_its_place_and_only_there():
    rgb = load_picture(PORTRAIT).rgb
    size = len(rgb)
    found = find_landmarks(rgb, [crop_from_box(0.1 * size, 0.12 * size, 0.8 * size, landmarks.SIDE)])
    points = found.points[0].astype(np.float64)
    face = face_at(points)
    side = face.box[2]
    for shift in ((0.0, 0.0), (0.1 * side, -0.05 * side)):
        again = find_again(rgb, face_at(points + shift))
        assert again is not None
        assert np.abs(again.landmarks[:2] - face.landmarks[:2]).max() < 0.02 * side
    assert find_again(np.full_like(rgb, 130), face) is None
    away = np.full((*np.multiply(rgb.shape[:2], 3), 3), 130, np.uint8)
    away[: len(rgb), : rgb.shape[1]] = rgb
    assert find_again(away, face_at(points + 2.0 * side)) is None
