"""Simulated recording conditions: the sound changes, the mouth does not; cropped clips start with it closed."""

import ctypes.util

import numpy as np
import pytest

from training.units import LIP
from training.voices.rooms import CODECS, OPENING_TIME, Codec, coded_by, cropped_start, silence, with_room
from training.voices.speech import CURVE_FPS, RATE, Take, take

HOP = RATE // CURVE_FPS


@pytest.fixture(scope="module")
def made() -> Take:
    if not ctypes.util.find_library("espeak-ng"):
        pytest.skip("espeak-ng is not installed")
    return take(np.random.default_rng(4), seconds=3.0)


def level(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def test_a_room_is_audible_in_pauses_and_keeps_the_mouth(made: Take) -> None:
    speaking = np.repeat((made.curves > 0).any(axis=1), HOP)
    ratios = []
    for seed in range(12):
        heard = with_room(made, np.random.default_rng(seed))
        assert heard.samples.shape == made.samples.shape
        assert heard.samples.dtype == np.float32
        assert np.abs(heard.samples).max() <= 1
        assert heard.curves is made.curves
        assert heard.phones == made.phones
        ratios.append(level(heard.samples[~speaking]) / level(heard.samples[speaking]))
    assert level(made.samples[~speaking]) / level(made.samples[speaking]) < 0.05
    assert np.median(ratios) > 0.05
    assert max(ratios) < 1.0
    again = with_room(made, np.random.default_rng(11))
    np.testing.assert_array_equal(again.samples, heard.samples)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"{codec.name}-{codec.bits}")
def test_codecs_keep_the_timing(made: Take, codec: Codec) -> None:
    heard = coded_by(codec, made.samples.astype(np.float64))
    assert heard.shape == made.samples.shape
    lags = range(-60, 61)
    match = [float(np.roll(heard, -lag)[100:-100] @ made.samples[100:-100]) for lag in lags]
    assert abs(lags[int(np.argmax(match))]) <= 8  # half a millisecond


def test_a_missing_codec_leaves_the_sound_unchanged(made: Take) -> None:
    samples = made.samples.astype(np.float64)
    assert coded_by(Codec("no-such-encoder", RATE, 8000), samples) is samples


def test_a_room_does_not_shift_the_voice(made: Take) -> None:
    """Echoes follow the sound: before the first word there is only the room."""
    first = next(phone.start for phone in made.phones if phone.symbol)
    before, after = round((first - 0.05) * RATE), round((first + 0.3) * RATE)
    louder = [
        level(heard[before:after]) / max(level(heard[:before]), 1e-9)
        for heard in (with_room(made, np.random.default_rng(seed)).samples for seed in range(12))
    ]
    assert np.median(louder) > 2


def test_the_mouth_rests_without_speech() -> None:
    levels = []
    for seed in range(30):
        room = silence(np.random.default_rng(seed), 1.0)
        assert room.samples.shape == (RATE,)
        assert room.curves.shape == (CURVE_FPS, len(LIP))
        assert not room.curves.any()
        assert not room.phones[0].symbol
        assert np.isfinite(room.samples).all()
        levels.append(level(room.samples))
    assert min(levels) == 0  # digital silence
    assert max(levels) > 0.1


def test_cropped_clips_start_with_a_closed_mouth_and_equal_the_take_afterwards(made: Take) -> None:
    lengths = set()
    for seed in range(20):
        clip = cropped_start(made, np.random.default_rng(seed))
        rows = len(clip.curves)
        lengths.add(rows)
        assert len(clip.samples) == rows * HOP
        assert len(made.curves) // 2 <= rows <= len(made.curves)
        np.testing.assert_array_equal(clip.samples, made.samples[-len(clip.samples) :])
        settled = round(OPENING_TIME * CURVE_FPS)
        np.testing.assert_array_equal(clip.curves[settled:], made.curves[-rows:][settled:])
        assert not clip.curves[0].any()
        assert (clip.curves[:settled] <= made.curves[-rows:][:settled]).all()
        assert clip.phones[0].start == 0
        assert clip.phones[-1].end == pytest.approx(rows / CURVE_FPS)
    assert len(lengths) > 10


def test_lip_opening_of_the_units_agrees_with_the_mesh() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("moderngl", reason="the mesh belongs to the rendered heads")
    from training.evaluate import voices
    from training.heads import mesh
    from training.stages.audio2lip import NAMES, OPENING, SHUT
    from training.voices.speech import VISEMES

    try:
        mesh.data_folder()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    shapes = np.array([[viseme.shape.get(name, 0.0) for name in NAMES] for viseme in VISEMES.values()], np.float32)
    gap, _ = voices.mouth(shapes)
    np.testing.assert_allclose(shapes @ OPENING.numpy(), gap, atol=SHUT)
    assert SHUT < voices.CLOSED


def test_open_lips_during_closures_cost_more_than_overly_closed_ones() -> None:
    torch = pytest.importorskip("torch")
    from training.stages.audio2lip import JAW, PRESS, loss_of

    target = torch.zeros(1, 10, len(LIP))
    target[..., PRESS], target[..., JAW] = 0.3, 0.1
    target[:, 4:7, JAW] = 0.03

    def cost(jaw: float) -> float:
        answer = target.clone()
        answer[:, 4:7, JAW] += jaw
        return loss_of(answer, target).item()

    assert cost(0.0) < cost(0.15)
    assert cost(0.15) > 1.5 * cost(-0.15)
