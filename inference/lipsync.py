"""Compute lip coefficients from sound: mel spectrogram, Audio2Lip at any frame times, smoothing.

Upstream supports 25 frames per second only. Here, frames are given as times in seconds. At times i / 25 the results
equal upstream's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from .contract.errors import EDTalkError
from .contract.requests import SHORTEST_SOUND
from .media.sound import RATE, SMOOTH_SPACING, UPSTREAM_FPS, to_16k
from .model.audio2lip import MEL_BANDS, WINDOW, Audio2Lip
from .model.load import AUDIO2LIP, NetworkBank, load_network

FRAME_SAMPLES = RATE // UPSTREAM_FPS  # 640: sounds are trimmed to a multiple of it
MEL_FPS = 80
# Smoothing over time: a Gaussian with a sigma of one upstream frame, three taps: 0.274, 0.452, 0.274.
SMOOTH_TAPS = np.exp([-0.5, 0.0, -0.5]) / (1 + 2 * math.exp(-0.5))

_FFT = 800
_HOP = RATE // MEL_FPS
_PRE_EMPHASIS = 0.97
_LOWEST, _HIGHEST = 55.0, 7600.0  # Hz, of the mel filters
_INAUDIBLE = 1e-8  # mean power of a block: -80 dB
_BASS = 300.0  # Hz, below which music and hum are often louder than a voice
_VOICE_BASS = 4.0  # dB that a voice has below that, at most; in 24 takes of six voices 2.2 on average, deviation 1.3
_LEVEL_CHUNK = 4096  # blocks transformed at once: 164 s of sound, 105 MB
_RUMBLE = 150.0  # Hz, below which loudness says little about the mouth
_EFFORT = 0.5  # exponent of the loudness, relative to its mean, by which the mouth opens wider
_LEAST_EFFORT, _LARGEST_EFFORT = 0.3, 1.3
_PRESSED = (0.2, 0.35)  # unsmoothed mouthPress from which on lips are taken for closed: partly, fully
_LARGEST_GAIN = 30.0  # dB; the noise of a recording without speech must not become as loud as a voice
_MEL_CHUNK = 4096  # mel frames transformed at once: 51 s of sound, 26 MB of complex spectrum


def frame_times(duration: float, fps: float) -> np.ndarray:
    """Start times (T,) in seconds of the T = int(duration * fps) whole frames in `duration` seconds."""
    return np.arange(int(duration * fps + 1e-9)) / fps


def mel_spectrogram(samples_16k: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """The mel spectrogram (80, n) float32 in [-4, 4] of `gain` times samples (m,) at 16 kHz, 80 frames per second.

    As in upstream, the samples are trimmed to T whole frames of 640 samples: n = 1 + 640 T // 200.
    Raises EDTalkError(kind="media") for less than one such frame.
    """
    length = len(samples_16k) // FRAME_SAMPLES * FRAME_SAMPLES
    if not length:
        found = f"The sound lasts {len(samples_16k) / RATE * 1000:.0f} ms"
        message = f"{found}; lip-sync needs at least {SHORTEST_SOUND * 1000:.0f} ms."
        raise EDTalkError(message, "Choose a longer sound.", "media")
    mel = np.empty((MEL_BANDS, 1 + length // _HOP), np.float32)
    for start in range(0, mel.shape[1], _MEL_CHUNK):
        stop = min(start + _MEL_CHUNK, mel.shape[1])
        signal = _emphasised(samples_16k[:length], start * _HOP - _FFT // 2, (stop - 1) * _HOP + _FFT // 2)
        segments = sliding_window_view(signal, _FFT)[::_HOP]  # (chunk, 800), no copy
        magnitude = np.abs(np.fft.rfft(segments * (gain * _hann())))  # (chunk, 401)
        decibel = 20 * np.log10(np.maximum(1e-5, _mel_basis() @ magnitude.T)) - 20
        mel[:, start:stop] = np.clip(8 * (decibel + 100) / 100 - 4, -4, 4)
    return mel


def _emphasised(samples: np.ndarray, first: int, last: int) -> np.ndarray:
    """Samples `first` to `last` with pre-emphasis, float64; beyond both ends the sound is mirrored."""
    left, right = max(-first, 0), max(last - len(samples), 0)  # samples beyond the ends
    begin, end = max(first - right - 1, 0), last + left + 1  # with as many to mirror, and one for the pre-emphasis
    signal = np.array(samples[begin:end], np.float64)
    signal[1:] -= _PRE_EMPHASIS * signal[:-1]
    padded = np.pad(signal, (left, right), mode="reflect")
    origin = begin - left
    return padded[first - origin : last - origin]


def speech_level(samples_16k: np.ndarray, above: float = 0.0) -> float:
    """Level in dB of the speech in samples (n,) at 16 kHz, 0 at a root mean square of 1; at least -100.

    above: Hz, only frequencies above it count.

    The mean power of blocks of 40 ms, of which those that are 10 dB quieter than the mean of all audible ones are left
    out. Pauses therefore do not count. (ITU-R BS.1770 gates loudness in the same way.)
    """
    whole = samples_16k[: len(samples_16k) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    if above:
        window = np.hanning(FRAME_SAMPLES + 2)[1:-1]
        chunks = [whole[start : start + _LEVEL_CHUNK] for start in range(0, len(whole), _LEVEL_CHUNK)]
        power = np.concatenate([np.zeros(0), *(_power_above(chunk, window, above) for chunk in chunks)])
    else:
        power = np.einsum("ij,ij->i", whole, whole, dtype=np.float64) / FRAME_SAMPLES
    audible = power[power > _INAUDIBLE]
    if not len(audible):
        return -100.0
    return float(10 * np.log10(audible[audible >= audible.mean() / 10].mean()))


def _power_above(blocks: np.ndarray, window: np.ndarray, frequency: float) -> np.ndarray:
    """(n,) mean square of blocks (n, m) of the sound, weighted by `window` (m,), above `frequency` in Hz only."""
    spectrum = np.fft.rfft(blocks * window)[:, math.ceil(frequency * len(window) / RATE) :]
    return 2 * np.square(np.abs(spectrum)).sum(axis=1) / np.square(window).sum() / len(window)


def gain_to(level: float | None, samples_16k: np.ndarray) -> float:
    """The factor, at most 30 dB, that brings the speech in samples (n,) at 16 kHz to `level` in dB; 1 for None.

    Where bass dominates, the level of the speech is estimated from the frequencies above it.
    """
    if level is None:
        return 1.0
    found = min(speech_level(samples_16k), speech_level(samples_16k, _BASS) + _VOICE_BASS)
    return float(10 ** (min(level - found, _LARGEST_GAIN) / 20))


@cache
def _hann() -> np.ndarray:
    """Periodic Hann window, (800,) float64."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FFT) / _FFT)


@cache
def _mel_basis() -> np.ndarray:
    """Mel filters (80, 401): Slaney's scale and area normalisation, 55 to 7600 Hz, rounded to float32.

    The same as `librosa.filters.mel`, which takes more than a second to import.
    """
    lowest, highest = _hz_to_mel(np.array([_LOWEST, _HIGHEST]))
    edges = _mel_to_hz(np.linspace(lowest, highest, MEL_BANDS + 2))
    rise = (np.fft.rfftfreq(_FFT, 1 / RATE) - edges[:, None]) / np.diff(edges, append=np.inf)[:, None]
    triangles = np.maximum(0, np.minimum(rise[:-2], 1 - rise[1:-1])).astype(np.float32)
    area = (2 / (edges[2:] - edges[:-2]))[:, None]
    return (triangles * area).astype(np.float32).astype(np.float64)


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear below 1000 Hz, logarithmic above."""
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4))


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def windows_at(mel: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Audio2Lip's input (T, 1, 80, 16) for times (T,) in seconds: the mel (80, n) from t - 0.08 s to t + 0.12 s.

    Outside the sound, its first and last mel frames are repeated.
    """
    return _cut(mel, _window_starts(times, mel.shape[1]))


def _window_starts(times: np.ndarray, mel_frames: int) -> np.ndarray:
    """First mel index (T,) of the window at each time: trunc(80 (t - 2/25)).

    The product is rounded first, so that times i / 25 are exact however they were computed. Starts are clipped to where
    the window lies completely outside the sound, because all windows beyond that are equal.
    """
    starts = np.trunc(np.round(MEL_FPS * np.asarray(times, np.float64) - 6.4, 6))
    return np.clip(starts, 1 - WINDOW, mel_frames - 1).astype(np.int64)


def _cut(mel: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Windows (T, 1, 80, 16) that begin at `starts` (T,); indices are clipped to the sound."""
    indices = np.clip(starts[:, None] + np.arange(WINDOW), 0, mel.shape[1] - 1)
    return mel.T[indices].swapaxes(1, 2)[:, None]


def lip_sync(
    samples: np.ndarray,
    sample_rate: int,
    times: np.ndarray,
    bank: NetworkBank,
    *,
    smooth: bool = True,
    upstream_edges: bool = False,
    device: str | torch.device = "cpu",
    batch: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Lip coefficients (T, lip_dim) float32 at `times` (T,).

    samples: (n,) mono in [-1, 1], first brought to the bank's `speech_level` if it has one. sample_rate: Hz. times:
        seconds from the first sample, in any order; times outside the sound use its first or last window.
    smooth: average the network's output at t - 40 ms, t and t + 40 ms, whatever the frame rate. For a bank with
        `speech_level`, closed lips are smoothed less, and the mouth opens wider on louder syllables.
    upstream_edges: at the ends of the sound, treat the missing neighbour as zero, as upstream does, which reduces the
        motion there. By default the output at the end is repeated.
    batch: windows per evaluation. Each distinct window is evaluated once, so at most 80 per second.
    progress: called with the number of windows done and the total before each batch and at the end; may raise to stop.
    Raises EDTalkError with kind "media" for a sound below 40 ms, "bank" for a bank without audio network, "input" for
    times that are not finite.
    """
    times = np.asarray(times, np.float64).reshape(-1)
    if not np.isfinite(times).all():
        raise EDTalkError("Frame times must be finite numbers of seconds, found NaN or infinity.")
    model = load_network(bank, AUDIO2LIP, device)
    if not isinstance(model, Audio2Lip):
        raise EDTalkError(
            f"The bank '{bank.name}' has no lip-sync network (Audio2Lip).", "Choose a bank with lip-sync.", "bank"
        )
    model.fuse()
    sound = to_16k(samples, sample_rate)
    mel = mel_spectrogram(sound, gain_to(bank.speech_level, sound))
    if not smooth:
        return _evaluate(model, mel, times, batch, progress)
    last = (len(sound) // FRAME_SAMPLES - 1) / UPSTREAM_FPS  # time of upstream's last frame
    wanted = times[:, None] + np.array([-SMOOTH_SPACING, 0.0, SMOOTH_SPACING])  # (T, 3)
    inside = np.clip(wanted, np.minimum(times, 0)[:, None], np.maximum(times, last)[:, None])
    taps = np.broadcast_to(SMOOTH_TAPS, wanted.shape)
    if upstream_edges:
        taps = np.where(np.abs(inside - wanted) < 1e-6, taps, 0)
    raw = _evaluate(model, mel, inside.ravel(), batch, progress).reshape(*wanted.shape, model.config.lip_dim)
    mouth = np.einsum("tk,tkd->td", taps.astype(np.float32), raw)
    if bank.speech_level is None:
        return mouth
    mouth = _kept_closed(mouth, raw[:, 1], bank.names)
    wider = mouth * _effort(sound, times)
    return np.minimum(wider, np.maximum(mouth, 1.0))  # 1 is fully on; loudness does not open the mouth beyond


def _kept_closed(mouth: np.ndarray, raw: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The smoothed mouth (T, d), but unsmoothed (T, d) where the lips are pressed: /p b m/ last a frame or two."""
    if "mouthPress" not in names[: mouth.shape[1]]:
        return mouth
    least, full = _PRESSED
    share = np.clip((raw[:, names.index("mouthPress"), None] - least) / (full - least), 0, 1)
    return mouth + share * (raw - mouth)


def _effort(samples: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(T, 1) factor of the mouth's opening at `times` by the loudness of 0.1 s, 1 at its mean without pauses."""
    window = np.hanning(RATE // 10 + 2)[1:-1]
    padded = np.pad(samples, (len(window) // 2, len(window)))
    windows = sliding_window_view(padded, len(window))[: len(samples) + 1 : FRAME_SAMPLES]
    power = np.empty(len(windows))
    for start in range(0, len(windows), _LEVEL_CHUNK):
        rows = slice(start, start + _LEVEL_CHUNK)
        power[rows] = _power_above(windows[rows], window, _RUMBLE)
    loud = power[power > 0.01 * power.max()]
    if not len(loud):
        return np.ones((len(times), 1), np.float32)
    loudness = np.interp(times, np.arange(len(power)) / UPSTREAM_FPS, np.sqrt(power / loud.mean()))
    return np.clip(loudness**_EFFORT, _LEAST_EFFORT, _LARGEST_EFFORT)[:, None].astype(np.float32)


@torch.inference_mode()
def _evaluate(
    model: Audio2Lip, mel: np.ndarray, times: np.ndarray, batch: int, progress: Callable[[int, int], None] | None
) -> np.ndarray:
    """The network's output (T, lip_dim) float32 at `times` (T,), unsmoothed; evaluates each distinct window once."""
    starts, inverse = np.unique(_window_starts(times, mel.shape[1]), return_inverse=True)
    device = model.mapping.weight.device
    answers = np.empty((len(starts), model.config.lip_dim), np.float32)
    for first in range(0, len(starts), batch):
        if progress:
            progress(first, len(starts))
        some = slice(first, first + batch)
        answers[some] = model(torch.from_numpy(_cut(mel, starts[some])).to(device)).cpu().numpy()
    if progress:
        progress(len(starts), len(starts))
    return answers[inverse]
