"""Correction of jaw and smile by landmarks, on a drawn portrait whose points move by known coefficients."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inference import lower_face
from inference.contract.bank import Bank, load_bank
from inference.contract.demo import PORTRAIT
from inference.lower_face import ERROR, MOST, DrawnPoints, correction, drawn_points
from inference.media.picture import load_picture
from inference.renderer import FaceRenderer

FPS, FRAMES = 25.0, 50


@pytest.fixture(scope="module")
def bank() -> Bank:
    return load_bank()


@pytest.fixture(scope="module")
def drawn(bank: Bank) -> DrawnPoints:
    refiner = FaceRenderer(bank, "cpu").reader.networks.refiner
    assert refiner is not None
    return drawn_points(refiner, load_picture(PORTRAIT).rgb, bank.config.size)


def rows_of(bank: Bank, **columns: float | np.ndarray) -> np.ndarray:
    rows = np.zeros((FRAMES, len(bank.names)), np.float32)
    for name, values in columns.items():
        rows[:, bank.names.index(name)] = values
    return rows


def seen(drawn: DrawnPoints, truth: np.ndarray, probability: float = 1.0) -> np.ndarray:
    """What is measured in frames of `truth`."""
    return np.column_stack([drawn.heights(truth), np.full(len(truth), probability)])


def wave(largest: float) -> np.ndarray:
    """Slow enough not to be smoothed away."""
    return largest * (0.5 - 0.5 * np.cos(np.linspace(0, 4 * np.pi, FRAMES)))


# A frown moves the corners of the mouth least, and less of it exceeds the error.
@pytest.mark.parametrize(("name", "least"), [("jawOpen", 0.85), ("mouthSmile", 0.8), ("mouthFrown", 0.65)])
def test_large_motions_read_at_half_their_size_are_corrected(bank, drawn, name, least):
    """The slope of coefficients that were read at .5 is about 1 then; others do not move."""
    truth, read = (rows_of(bank, **{name: wave(size)}) for size in (0.9, 0.45))
    found = read + correction(read, bank.names, drawn, seen(drawn, truth), FPS)
    column = bank.names.index(name)
    assert least < np.polyfit(truth[:, column], found[:, column], 1)[0] < 1.1
    assert np.abs(np.delete(found, column, 1)).max() < 0.1


def test_differences_within_the_error_are_left_to_the_reader(bank, drawn):
    """So noise of the landmarks does not move a face that is read correctly."""
    truth = rows_of(bank, jawOpen=wave(0.6), mouthSmile=wave(0.4), headYaw=0.1)
    found = seen(drawn, truth)
    found[:, :2] += np.random.default_rng(0).uniform(-ERROR, ERROR, (FRAMES, 2))
    assert not correction(truth, bank.names, drawn, found, FPS).any()


def test_nothing_is_corrected_by_hidden_landmarks_or_in_a_turned_head(bank, drawn):
    truth, read = rows_of(bank, jawOpen=wave(0.9)), rows_of(bank)
    assert not correction(read, bank.names, drawn, seen(drawn, truth, 0.3), FPS).any()
    turned = rows_of(bank, headYaw=1.2, headPitch=0.5)
    assert not correction(turned, bank.names, drawn, seen(drawn, truth + turned), FPS).any()


def test_closed_lips_over_an_open_jaw_stay_closed(bank, drawn):
    truth, read = (rows_of(bank, jawOpen=wave(size), mouthClose=wave(size)) for size in (0.8, 0.4))
    found = read + correction(read, bank.names, drawn, seen(drawn, truth), FPS)
    jaw, closed = (found[:, bank.names.index(name)] for name in ("jawOpen", "mouthClose"))
    assert jaw.max() > 0.5
    assert np.abs(jaw - closed).max() < 0.05


def test_a_correction_is_limited(bank, drawn):
    """Wrong landmarks, such as those of another person's face, do not tear the mouth apart."""
    read, found = rows_of(bank, jawOpen=0.2), seen(drawn, rows_of(bank))
    for wrong in (-3.0, 3.0):
        found[:, :2] += wrong
        added = correction(read, bank.names, drawn, found, FPS)
        assert np.abs(added).max() <= MOST + 1e-6
        assert (read + added)[:, bank.names.index("jawOpen")].min() >= 0


def test_only_banks_with_the_coefficients_are_corrected(bank):
    assert lower_face.can_correct(bank.names)
    assert not lower_face.can_correct([name for name in bank.names if name != "mouthSmile"])
