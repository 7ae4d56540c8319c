"""Tests of lip-sync: parity with upstream at 25 fps, other frame rates, the network, and reading of sound files."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from inference import lipsync
from inference.contract.bank import AUDIO_PREFIX as PREFIX
from inference.contract.errors import EDTalkError
from inference.lipsync import (
    SMOOTH_TAPS,
    frame_times,
    gain_to,
    lip_sync,
    mel_spectrogram,
    speech_level,
    windows_at,
)
from inference.media.sound import RATE, load_sound, resampled, to_16k
from inference.model.audio2lip import Audio2Lip, Audio2LipConfig
from inference.model.load import AUDIO2LIP, load_network
from tests.seeded_weights import seeded_state_dict

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "inference" / "banks" / "starter.safetensors"
SHORT = (640, 1000, 1279, 1280, 1919, 3200)
MEL_LIMIT, LIP_LIMIT = 2e-6, 5e-5


@pytest.fixture(scope="module")
def goldens():
    with np.load(Path(__file__).parent / "data" / "audio.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def sound(goldens):
    """(36800,) float32 at 16 kHz: upstream's test sound."""
    return goldens["wav_int16"].astype(np.float32) / 32768


@pytest.fixture(scope="module")
def full_bank():
    return audio_bank(seeded_state_dict("audio2lip"))


@pytest.fixture(scope="module")
def bank():
    """A small network with random weights, for tests of consistency."""
    torch.manual_seed(0)
    return bank_of(Audio2Lip(Audio2LipConfig((4, 6, 8, 10, 12), lip_dim=5)))


def bank_of(model):
    return audio_bank({name: value.numpy() for name, value in model.state_dict().items()})


def audio_bank(state):
    tensors = {PREFIX + name: value for name, value in state.items()}
    return SimpleNamespace(name="test", names=(), networks=None, speech_level=None, tensors=tensors)


def largest_difference(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected).max()


# ------------------------------------------------------------------------------------------------ parity


def test_state_dict_has_upstreams_names_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in Audio2Lip().state_dict().items()}
    assert shapes == {name: value.shape for name, value in seeded_state_dict("audio2lip").items()}


def test_mel_equals_upstream(sound, goldens):
    assert largest_difference(mel_spectrogram(sound), goldens["mel"]) <= MEL_LIMIT


def test_windows_equal_upstream(sound, goldens):
    found = windows_at(mel_spectrogram(sound), goldens["window_frames"] / 25)
    assert largest_difference(found, goldens["windows"]) <= MEL_LIMIT


def test_layers_equal_upstream(full_bank, goldens):
    model = load_network(full_bank, AUDIO2LIP)
    x = torch.from_numpy(goldens["windows"][:1])
    with torch.inference_mode():
        for index, block in enumerate(model.audio_encoder):
            x = block(x)
            assert largest_difference(x[0, ::8, ::2, ::2].numpy(), goldens[f"layer/{index}/sample"]) <= LIP_LIMIT


def test_lips_equal_upstream(sound, goldens, full_bank):
    times = frame_times(len(sound) / RATE, 25)
    raw = lip_sync(sound, RATE, times, full_bank, smooth=False)
    assert largest_difference(raw, goldens["lip_raw"]) <= LIP_LIMIT
    parity = lip_sync(sound, RATE, times, full_bank, upstream_edges=True)
    assert largest_difference(parity, goldens["lip_smooth"]) <= LIP_LIMIT
    ours = lip_sync(sound, RATE, times, full_bank)
    assert largest_difference(ours[1:-1], goldens["lip_smooth"][1:-1]) <= LIP_LIMIT
    edge = SMOOTH_TAPS @ goldens["lip_raw"][[0, 0, 1]]
    assert largest_difference(ours[0], edge) <= LIP_LIMIT


@pytest.mark.parametrize("length", SHORT)
def test_short_sounds_equal_upstream(sound, goldens, full_bank, length):
    short = sound[:length]
    mel = mel_spectrogram(short)
    times = frame_times(length / RATE, 25)
    assert largest_difference(mel, goldens[f"short/{length}/mel"]) <= MEL_LIMIT
    assert largest_difference(windows_at(mel, times), goldens[f"short/{length}/windows"]) <= MEL_LIMIT
    for name, options in (("lip_raw", {"smooth": False}), ("lip_smooth", {"upstream_edges": True})):
        found = lip_sync(short, RATE, times, full_bank, **options)
        assert largest_difference(found, goldens[f"short/{length}/{name}"]) <= LIP_LIMIT


# ---------------------------------------------------------------------------------------------------- any frame rate


def test_window_starts_are_exact_despite_rounding_of_times():
    frames = np.arange(0, 90_000)  # an hour
    mel = np.arange(4 * 90_000, dtype=np.float32)[None]
    expected = [abs(16 * (i - 2)) // 5 * (1 if i >= 2 else -1) for i in frames.tolist()]
    for times in (frames / 25, frames * 0.04, np.round(frames / 25, 9), np.cumsum(np.r_[0, np.full(89_999, 0.04)])):
        found = windows_at(mel, times)[:, 0, 0, -1]  # the last column is not clipped at the start
        np.testing.assert_array_equal(found - 15, expected)


def test_lips_do_not_depend_on_the_frame_rate(sound, bank):
    seconds = len(sound) / RATE
    at_25 = lip_sync(sound, RATE, frame_times(seconds, 25), bank)
    at_50 = lip_sync(sound, RATE, frame_times(seconds, 50), bank)
    np.testing.assert_allclose(at_50[: 2 * len(at_25) : 2], at_25, atol=1e-6)
    ntsc = Fraction(30000, 1001)
    times = frame_times(seconds, float(ntsc))
    one_by_one = [lip_sync(sound, RATE, [time], bank)[0] for time in times[:5]]
    np.testing.assert_allclose(lip_sync(sound, RATE, times, bank)[:5], one_by_one, atol=1e-6)


def test_batch_size_and_order_do_not_matter(sound, bank):
    times = frame_times(0.5, 24)
    together = lip_sync(sound, RATE, times, bank)
    np.testing.assert_allclose(lip_sync(sound, RATE, times, bank, batch=1), together, atol=1e-6)
    np.testing.assert_allclose(lip_sync(sound, RATE, times[::-1], bank)[::-1], together, atol=1e-6)


@pytest.mark.parametrize(("fps", "evaluations_a_second"), [(25, 25), (50, 50), (240, 80)])
def test_each_distinct_window_is_evaluated_once(sound, bank, monkeypatch, fps, evaluations_a_second):
    seen = []
    forward = Audio2Lip.forward
    monkeypatch.setattr(Audio2Lip, "forward", lambda self, x: (seen.append(len(x)), forward(self, x))[1])
    seconds = len(sound) / RATE
    lip_sync(sound, RATE, frame_times(seconds, fps), bank)
    assert sum(seen) <= evaluations_a_second * seconds + 8  # windows that extend beyond the sound


def test_times_outside_the_sound_use_its_ends(sound, bank):
    early, earlier, late, later = lip_sync(sound, RATE, [-1.0, -1e6, 60.0, 1e12], bank)
    np.testing.assert_allclose(early, earlier, atol=1e-6)
    np.testing.assert_allclose(late, later, atol=1e-6)


def test_no_times_no_rows(sound, bank):
    assert lip_sync(sound, RATE, [], bank).shape == (0, 5)


def test_times_must_be_numbers(sound, bank):
    with pytest.raises(EDTalkError, match="finite"):
        lip_sync(sound, RATE, [0.0, float("nan")], bank)


def test_frame_times_count_whole_frames():
    assert len(frame_times(36800 / RATE, 25)) == 57
    assert len(frame_times(10 / 29.97, 29.97)) == 10  # not 9 by a rounding error
    np.testing.assert_allclose(np.diff(frame_times(3, 24)), 1 / 24)


# ------------------------------------------------------------------------------------------------------------- the net


def test_fused_equals_unfused():
    torch.manual_seed(1)
    model = Audio2Lip(Audio2LipConfig((4, 6, 8, 10, 12), 5)).train()
    model(torch.randn(64, 1, 80, 16))  # gives the batch norms non-trivial statistics
    x = torch.randn(7, 1, 80, 16)
    with torch.inference_mode():
        plain = model.eval()(x)
        torch.testing.assert_close(model.fuse()(x), plain, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model.fuse()(x), plain, atol=1e-5, rtol=1e-4)  # fusing again changes nothing


def test_config_is_read_from_the_tensors():
    config = Audio2LipConfig((4, 6, 8, 10, 12), 5)
    assert load_network(bank_of(Audio2Lip(config)), AUDIO2LIP).config == config


def test_bank_without_lip_sync_network():
    silent = SimpleNamespace(name="test", names=(), networks=None, speech_level=None, tensors={})
    with pytest.raises(EDTalkError, match="The bank 'test' has no lip-sync network") as caught:
        lip_sync(np.zeros(RATE, np.float32), RATE, [0.0], silent)
    assert caught.value.kind == "bank"


def test_bank_with_a_damaged_lip_sync_network(bank):
    for name in (f"{PREFIX}mapping.weight", f"{PREFIX}audio_encoder.4.conv_block.1.bias"):
        damaged = {key: value for key, value in bank.tensors.items() if key != name}
        with pytest.raises(
            EDTalkError, match="The network 'audio2lip' in the bank 'test' is not usable: it lacks"
        ) as caught:
            load_network(
                SimpleNamespace(name="test", names=(), networks=None, speech_level=None, tensors=damaged), AUDIO2LIP
            )
        assert caught.value.kind == "bank"


def test_a_bank_with_a_speech_level_hears_every_recording_at_that_level(sound, bank):
    times = frame_times(len(sound) / RATE, 25)
    levelled = SimpleNamespace(**(vars(bank) | {"speech_level": -20.0}))
    as_recorded = lip_sync(sound, RATE, times, levelled)
    for gain in (0.1, 3.0):
        np.testing.assert_allclose(lip_sync(gain * sound, RATE, times, levelled), as_recorded, atol=1e-4)
        assert np.abs(lip_sync(gain * sound, RATE, times, bank) - lip_sync(sound, RATE, times, bank)).max() > 1e-3
    hushed = lip_sync(1e-4 * sound, RATE, times, levelled)  # a gain of 80 dB would turn noise into speech
    assert np.abs(hushed - as_recorded).max() > 1e-3


def test_speech_level_ignores_pauses_and_scales_with_the_sound():
    voice = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    with_pauses = np.concatenate([np.zeros(2 * RATE, np.float32), voice, 1e-3 * voice])
    assert speech_level(voice) == pytest.approx(-20, abs=0.2)
    assert speech_level(with_pauses) == pytest.approx(speech_level(voice), abs=0.2)
    assert speech_level(voice / 10) == pytest.approx(speech_level(voice) - 20, abs=0.01)
    assert speech_level(np.zeros(RATE, np.float32)) == -100


def test_loud_bass_does_not_make_the_voice_quiet():
    line, rate = load_sound(ROOT / "inference" / "demo" / "line.wav")
    voice = to_16k(line, rate)
    bass = 0.5 * np.sin(2 * np.pi * 70 * np.arange(len(voice)) / RATE).astype(np.float32)
    alone = gain_to(-22.0, voice)
    assert speech_level(voice + bass) > speech_level(voice) + 8
    assert abs(20 * np.log10(gain_to(-22.0, voice + bass) / alone)) < 5
    assert gain_to(None, voice + bass) == 1.0


def test_the_mouth_opens_less_on_quiet_syllables(sound, bank):
    levelled = SimpleNamespace(**(vars(bank) | {"speech_level": -20.0}))
    quieter = sound.copy()
    quieter[len(sound) // 2 :] *= 0.5
    times = frame_times(len(sound) / RATE, 25)
    earlier, later = times < times[-1] / 2 - 0.2, times > times[-1] / 2 + 0.2
    factor = lipsync._effort(quieter, times) / lipsync._effort(sound, times)
    assert np.median(factor[later]) / np.median(factor[earlier]) == pytest.approx(0.5**0.5, abs=0.05)
    assert (lipsync._effort(np.zeros(RATE, np.float32), frame_times(1, 25)) == 1).all()
    assert np.isfinite(lip_sync(quieter, RATE, times, levelled)).all()


def test_loudness_does_not_open_the_mouth_beyond_its_range(sound, bank, monkeypatch):
    levelled = SimpleNamespace(**(vars(bank) | {"speech_level": -20.0}))
    times = frame_times(len(sound) / RATE, 25)
    found = {}
    for factor in (1.0, 1e4):
        monkeypatch.setattr(lipsync, "_effort", lambda samples, times, factor=factor: np.full((len(times), 1), factor))
        found[factor] = lip_sync(sound, RATE, times, levelled)
    assert found[1e4].max() > 0.99
    assert (found[1e4] <= np.maximum(found[1.0], 1.0) + 1e-6).all()


def test_pressed_lips_are_not_smoothed_away():
    raw = np.array([[0.5, 0.0], [0.0, 0.4], [0.5, 0.1]], np.float32)
    smoothed = np.array([[0.4, 0.1], [0.3, 0.2], [0.4, 0.1]], np.float32)
    kept = lipsync._kept_closed(smoothed, raw, ("jawOpen", "mouthPress"))
    np.testing.assert_allclose(kept, [smoothed[0], raw[1], smoothed[2]])
    np.testing.assert_array_equal(lipsync._kept_closed(smoothed, raw, ("one", "other")), smoothed)


def test_starter_bank_opens_the_mouth_for_speech_only():
    from inference.contract.bank import load_bank
    from training.units import LIP

    starter = load_bank(STARTER)
    jaw = [unit.name for unit in LIP].index("jawOpen")
    noise = 1e-4 * np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    for silence in (np.zeros(2 * RATE, np.float32), noise):
        assert np.abs(lip_sync(silence, RATE, frame_times(2, 25), starter)).max() < 0.1
    line, rate = load_sound(ROOT / "inference" / "demo" / "line.wav")
    opening = lip_sync(line, rate, frame_times(len(line) / rate, 25), starter)[:, jaw]
    assert opening.max() > 0.35
    assert opening.min() < 0.05


# ---------------------------------------------------------------------------------------------------------- sound files


def write_sound(path, samples, rate, codec, sample_format):
    """Write samples (n, channels) in [-1, 1] as a sound file."""
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, format=sample_format)
        planar = np.ascontiguousarray(samples.T, np.float32)
        frame = av.AudioFrame.from_ndarray(planar, format="fltp", layout=layout)
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or None
        convert = av.AudioResampler(format=sample_format, layout=layout, rate=rate, frame_size=size)
        for piece in [*convert.resample(frame), *convert.resample(None), None]:
            container.mux(stream.encode(piece))
    return path


def tone(seconds, rate, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def test_16k_pcm16_is_read_exactly(tmp_path, goldens):
    stored = goldens["wav_int16"]
    path = write_sound(tmp_path / "sound.wav", stored[:, None] / 32768, RATE, "pcm_s16le", "s16")
    samples, rate = load_sound(path)
    assert rate == RATE
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(to_16k(samples, rate), stored.astype(np.float32) / 32768)


@pytest.mark.parametrize(
    ("name", "codec", "sample_format", "rate"),
    [
        ("sound.mp3", "libmp3lame", "s16p", 8000),
        ("sound.flac", "flac", "s16", 44100),
        ("sound.m4a", "aac", "fltp", 48000),
        ("sound.mov", "pcm_s16le", "s16", 48000),
    ],
)
def test_stereo_files_become_16k_mono(tmp_path, name, codec, sample_format, rate):
    left = tone(1.0, rate)
    path = write_sound(tmp_path / name, np.stack([left, np.zeros_like(left)], axis=1), rate, codec, sample_format)
    samples, found_rate = load_sound(path)
    assert found_rate == rate
    sound = to_16k(samples, rate)
    assert len(sound) == pytest.approx(RATE, rel=0.2)  # MP3 and AAC pad
    middle = sound[RATE // 4 : RATE // 2]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.1)  # half the level of one channel
    spectrum = np.abs(np.fft.rfft(middle))
    assert np.argmax(spectrum) * RATE / len(middle) == pytest.approx(440, abs=4)


def test_unreadable_files_are_explained(tmp_path):
    silent_video = tmp_path / "mute.mp4"
    with av.open(str(silent_video), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(picture), *stream.encode(None)])
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not a sound at all\n" * 100)
    (tmp_path / "noise.mp3").write_bytes(b"\x00\x13\x37" * 1000)
    write_sound(tmp_path / "click.wav", tone(0.03, RATE)[:, None], RATE, "pcm_s16le", "s16")
    for name, words in (
        ("missing.wav", "does not exist"),
        ("empty.wav", "is empty"),
        ("text.wav", "cannot be read: expected sound .*, found a text file that begins 'not a sound"),
        ("noise.mp3", "cannot be read: expected sound"),
        ("mute.mp4", "has no sound: .*, found only a picture"),
        ("click.wav", r"lasts 0\.03 s; expected at least 0\.04 s"),
        (".", "is a folder"),
    ):
        with pytest.raises(EDTalkError, match=words) as caught:
            load_sound(tmp_path / name)
        assert caught.value.kind == "media"
        assert str(tmp_path / name) in caught.value.message


def test_stream_that_changes_its_rate():
    """As a recorded broadcast does."""
    blocks = [(tone(1.0, rate).astype(np.float32), rate) for rate in (16000, 44100)]
    converted = list(resampled(blocks, 16000))
    assert {rate for _, rate in converted} == {16000}
    samples = np.concatenate([block for block, _ in converted])
    assert len(samples) == pytest.approx(32000, abs=50)
    np.testing.assert_allclose(samples[17000:31000], tone(2.0, 16000)[17000:31000], atol=0.02)


def test_too_short_sound_is_refused(bank):
    with pytest.raises(EDTalkError, match="40 ms") as caught:
        lip_sync(np.zeros(639, np.float32), RATE, [0.0], bank)
    assert caught.value.kind == "media"


def test_resampling_keeps_length_and_pitch():
    sound = to_16k(tone(1.0, 44100), 44100)
    assert sound.dtype == np.float32
    assert abs(len(sound) - RATE) <= 1
    np.testing.assert_allclose(sound[1000:-1000], tone(1.0, RATE)[1000 : len(sound) - 1000], atol=1e-3)


def test_import_needs_neither_blender_nor_librosa():
    program = (
        "import sys, inference.lipsync; print(sorted({'bpy', 'aud'} & set(sys.modules)), 'librosa' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[0] == "[] False"


def test_mel_filters_equal_librosas():
    import librosa.filters

    bands = {"n_mels": 80, "fmin": 55, "fmax": 7600, "htk": False, "norm": "slaney", "dtype": np.float32}
    np.testing.assert_array_equal(lipsync._mel_basis(), librosa.filters.mel(sr=RATE, n_fft=800, **bands))
