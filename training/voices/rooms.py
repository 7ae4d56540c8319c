"""Simulated recording conditions: breath, noise, hum, music, knocks, echoes and codecs.

Real recordings contain noise in pauses, during which the mouth must stay at rest. Only the sound is changed; the mouth
curves of a take are not, except in `cropped_start`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import av
import numpy as np
from scipy.signal import butter, istft, sosfilt, stft

from ..units import LIP
from .speech import CURVE_FPS, RATE, Phone, Take, coloured_noise, reverberate

HOP = RATE // CURVE_FPS
OPENING_TIME = 0.1  # seconds in which the mouth opens if a clip starts within a word


def with_room(made: Take, rng: np.random.Generator) -> Take:
    """The take with background sounds 5 to 40 dB below the voice; same length, timing and mouth curves."""
    count, out = len(made.samples), made.samples.astype(np.float64)
    spoken = np.repeat((made.curves > 0).any(axis=1), HOP)[:count]
    voice = np.sqrt(np.mean(np.square(out[spoken]))) if spoken.any() else 0.05

    def below(quietest: float = 40.0, loudest: float = 5.0) -> float:
        return voice * 10 ** (-rng.uniform(loudest, quietest) / 20)

    if rng.random() < 0.6:
        out += _breaths(made, rng) * below(30.0, 3.0)
    if rng.random() < 0.4:
        out = reverberate(out, rng, (0.3, 1.2), (-12.0, 0.0))
    if rng.random() < 0.8:
        out += _drifting_noise(rng, count) * below()
    if rng.random() < 0.35:
        out += _hum(rng, count) * below()
    if rng.random() < 0.3:
        out += made_music(rng, count) * below(35.0, 2.0)
    if rng.random() < 0.3:
        out += _knocks(rng, count) * below(20.0, 0.0)
    if rng.random() < 0.3:
        out = _coded(out, rng) if rng.random() < 0.6 else coded_by(CODECS[rng.integers(len(CODECS))], out)
    return replace(made, samples=_quantised(out, rng))


def silence(rng: np.random.Generator, seconds: float = 6.0) -> Take:
    """A take without speech: digital silence, noise, hum, tones or music; the mouth rests."""
    rows = round(seconds * CURVE_FPS)
    count = rows * HOP
    kinds = (_drifting_noise, _hum, made_music, _tone, _knocks)
    out = np.zeros(count)
    if rng.random() > 0.12:
        for kind in rng.choice(len(kinds), rng.integers(1, 3), replace=False, p=(0.4, 0.15, 0.2, 0.15, 0.1)):
            out += kinds[kind](rng, count) * 10 ** (-rng.uniform(6, 60) / 20)
        if rng.random() < 0.3:
            out = _coded(out, rng)
    samples = np.clip(out, -1, 1).astype(np.float32)
    return Take(samples, np.zeros((rows, len(LIP)), np.float32), (Phone("", 0.0, count / RATE),))


def cropped_start(made: Take, rng: np.random.Generator) -> Take:
    """The take without its start, cut mostly near the onset of speech; the mouth is closed in the first frame.

    At the start of a clip the network's window repeats the first mel frame. The network has to learn that this does not
    announce an open mouth.
    """
    rows = len(made.curves)
    onsets = [pause.end for pause, sound in pairwise(made.phones) if sound.symbol and not pause.symbol]
    at = rng.uniform(0, rows / CURVE_FPS)
    if onsets and rng.random() < 0.7:
        at = rng.choice(onsets) + rng.uniform(-0.15, 0.1)
    first = int(np.clip(at * CURVE_FPS, 0, rows // 2))
    opening = np.minimum(np.arange(rows - first) / (OPENING_TIME * CURVE_FPS), 1.0)[:, None] ** 2
    cut = first / CURVE_FPS
    phones = [replace(one, start=max(one.start - cut, 0.0), end=one.end - cut) for one in made.phones if one.end > cut]
    return Take(made.samples[first * HOP :], (made.curves[first:] * opening).astype(np.float32), tuple(phones))


def _quantised(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Quantised to 16 bits at a random recording level."""
    loud = samples * 10 ** (rng.uniform(-20, -0.5) / 20) / (np.abs(samples).max() or 1.0)
    return (np.round(np.clip(loud, -1, 1) * 32767) / 32768).astype(np.float32)


def _breaths(made: Take, rng: np.random.Generator) -> np.ndarray:
    """(n,) of about unit level: breathing in pauses, and lip smacks."""
    out = np.zeros(len(made.samples))
    for pause in made.phones:
        start, end = round(pause.start * RATE), min(round(pause.end * RATE), len(out))
        length = min(end - start, round(rng.uniform(0.15, 0.8) * RATE))
        if pause.symbol or length < RATE // 10 or rng.random() < 0.4:
            continue
        first = (
            end - length if rng.random() < 0.5 else rng.integers(start, end - length + 1)
        )  # or directly before speech
        low = rng.uniform(200, 1200)
        band = butter(1, (low, low * rng.uniform(2.0, 5.0)), "band", fs=RATE, output="sos")
        swell = np.sin(np.pi * np.linspace(0, 1, length) ** rng.uniform(0.5, 2.0)) ** 2
        out[first : first + length] += swell * sosfilt(band, coloured_noise(rng, length, rng.uniform(0, 1)))
        if rng.random() < 0.4:
            smack, fading = rng.integers(first, first + length), np.exp(-np.arange(160) / 30)
            out[smack : smack + 160] += (3 * fading * rng.standard_normal(160))[: len(out) - smack]
    return out


def _drifting_noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,) of unit level, white to brown, steady or slowly swelling like traffic."""
    noise = coloured_noise(rng, count, rng.uniform(0, 2.2))
    if rng.random() < 0.4:
        swell = np.sin(2 * np.pi * rng.uniform(0.05, 0.7) * _time(count) + rng.uniform(0, 6))
        noise *= 1 + rng.uniform(0.2, 0.9) * swell
    return noise


def _hum(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,) of about unit level: mains hum and its harmonics."""
    mains = rng.choice([50.0, 60.0]) * 2 * np.pi * _time(count)
    return sum(rng.random() / k * np.sin(k * mains + rng.uniform(0, 6)) for k in range(1, 1 + int(rng.integers(1, 12))))


def _tone(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,) of about unit level: a steady tone, pure or with harmonics."""
    pitch, fall = 2 * np.pi * np.exp(rng.uniform(np.log(80), np.log(3000))) * _time(count), rng.uniform(1.0, 3.0)
    return sum(np.sin(k * pitch) / k**fall for k in range(1, 1 + int(rng.choice([1, 1, 2, 4]))))


def made_music(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,) of unit level: a random selection of chords, bass, drums and a melody with vibrato, at one tempo."""
    beat = int(rng.uniform(0.3, 0.9) * RATE)
    key = 110.0 * 2 ** (rng.integers(0, 12) / 12)
    parts = [_chords, _bass, _drums, _melody]
    chosen = [part for part in parts if rng.random() < 0.5] or [parts[rng.integers(len(parts))]]
    out = np.sum([part(rng, count, beat, key) * 10 ** (-rng.uniform(0, 12) / 20) for part in chosen], axis=0)
    return out / (out.std() or 1.0)


_SCALE = (0, 2, 4, 5, 7, 9, 11, 12)  # semitones


def _chords(rng: np.random.Generator, count: int, beat: int, key: float) -> np.ndarray:
    """Chords of plucked or held notes."""
    out, held, harmonics = np.zeros(count), rng.random() < 0.5, 1 + int(rng.integers(0, 8))
    for first in range(0, count, beat):
        time = _time(min(beat, count - first))
        shape = np.minimum(time / 0.01, 1.0) * (1.0 if held else np.exp(-time * rng.uniform(2, 10)))
        for _ in range(rng.integers(1, 5)):
            out[first : first + len(time)] += shape * _note(key * 2 ** (rng.choice(_SCALE) / 12) * time, harmonics)
    return out


def _bass(rng: np.random.Generator, count: int, beat: int, key: float) -> np.ndarray:
    """Low notes of 40 to 110 Hz."""
    out = np.zeros(count)
    for first in range(0, count, beat):
        time = _time(min(beat, count - first))
        pitch = key / 2 ** rng.integers(1, 3) * 2 ** (rng.choice(_SCALE[:5]) / 12)
        out[first : first + len(time)] += np.exp(-3 * time) * _note(max(pitch, 40.0) * time, 3)
    return 2 * out


def _drums(rng: np.random.Generator, count: int, beat: int, key: float) -> np.ndarray:
    """Kick, snare and hi-hat."""
    out, length = np.zeros(count), RATE // 4
    time = _time(length)
    kick = 3 * np.exp(-18 * time) * np.sin(2 * np.pi * (50 * time + 8 * (1 - np.exp(-30 * time))))
    snare = np.exp(-22 * time) * coloured_noise(rng, length, 0.5)
    hat = 0.4 * np.exp(-60 * time) * coloured_noise(rng, length, -0.5)
    for step, first in enumerate(range(0, count, max(beat // 2, 1))):
        sounds = [hat] if rng.random() < 0.8 else []
        if step % 2 == 0:
            sounds.append(kick if step % 4 == 0 else snare)
        for sound in sounds:
            out[first : first + length] += sound[: count - first]
    return out


def _melody(rng: np.random.Generator, count: int, beat: int, key: float) -> np.ndarray:
    """One instrument: held notes with vibrato."""
    out, place, harmonics = np.zeros(count), 0, 2 + int(rng.integers(0, 10))
    while place < count:
        time = _time(min(int(beat * rng.choice([0.5, 1, 1, 2])), count - place))
        vibrato = rng.uniform(0, 0.4) * np.sin(2 * np.pi * rng.uniform(4, 7) * time)
        pitch = 2 * key * 2 ** (rng.choice(_SCALE) / 12)
        shape = np.minimum(time / 0.04, 1.0) * np.minimum((time[-1] - time) / 0.05 + 0.02, 1.0)
        if rng.random() < 0.85:
            out[place : place + len(time)] += shape * _note(pitch * (time + 0.01 * vibrato), harmonics)
        place += len(time)
    return out


def _note(turns: np.ndarray, harmonics: int) -> np.ndarray:
    """A tone with harmonics that fall off. turns: (n,) periods of the fundamental so far."""
    return sum(np.sin(2 * np.pi * k * turns) / k**1.3 for k in range(1, 1 + harmonics))


def _knocks(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,) up to about 5: a few clicks, knocks and rustles."""
    out = np.zeros(count)
    for first in rng.integers(0, count, rng.integers(1, 10)):
        length = min(int(RATE * np.exp(rng.uniform(np.log(0.001), np.log(0.08)))), count - first)
        fading = np.exp(-5 * np.arange(length) / length)
        out[first : first + length] += 3 * fading * coloured_noise(rng, 2048, rng.uniform(0, 2))[:length]
    return out


def _coded(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Codec artefacts: no high frequencies, and no components far below the loudest one of the moment."""
    frequency, _, spectrum = stft(samples, RATE, nperseg=512)
    level = np.abs(spectrum)
    kept = level > level.max(axis=0) * 10 ** (-rng.uniform(25, 60) / 20)
    kept &= (frequency < rng.uniform(3400, 7600))[:, None]
    return istft(spectrum * kept, RATE, nperseg=512)[1][: len(samples)]


@dataclass(frozen=True)
class Codec:
    """An encoder of FFmpeg, with sample rate in Hz, bits per second, and the samples at 16 kHz by which it is late."""

    name: str
    rate: int
    bits: int
    late: int = 0


CODECS = (  # messengers, video calls, podcasts, phones
    Codec("libopus", 16_000, 9_000),
    Codec("libopus", 16_000, 20_000),
    Codec("libmp3lame", 16_000, 16_000),
    Codec("libmp3lame", 32_000, 48_000),
    Codec("libopencore_amrnb", 8_000, 7_400, 79),
    Codec("pcm_mulaw", 8_000, 64_000),
)


def coded_by(codec: Codec, samples: np.ndarray) -> np.ndarray:
    """Samples (n,) at 16 kHz, encoded and decoded; unchanged if this build of FFmpeg lacks the encoder."""
    if codec.name not in av.codecs_available:
        return samples
    encoder = _context(codec.name, "w")
    encoder.rate, encoder.layout, encoder.bit_rate = codec.rate, "mono", codec.bits
    formats = encoder.codec.audio_formats
    assert formats, "an audio encoder states its sample formats"
    encoder.format = formats[0]
    encoder.open()
    decoder = _context(encoder.codec.canonical_name, "r")
    decoder.rate, decoder.layout, decoder.extradata = codec.rate, "mono", encoder.extradata
    peak = max(np.abs(samples).max(), 1e-3)
    frame = av.AudioFrame.from_ndarray((0.5 / peak * samples).astype(np.float32)[None], format="fltp", layout="mono")
    frame.rate = RATE
    fit = av.AudioResampler(encoder.format.name, "mono", codec.rate, frame_size=encoder.frame_size or 0)
    packets = [packet for part in (*fit.resample(frame), *fit.resample(None)) for packet in encoder.encode(part)]
    packets += encoder.encode(None)
    heard = [part for packet in packets for part in decoder.decode(packet)] + list(decoder.decode(None))
    back = av.AudioResampler("fltp", "mono", RATE)
    decoded = [part.to_ndarray()[0] for one in (*heard, None) for part in back.resample(one)]
    out = np.concatenate(decoded)[codec.late :][: len(samples)]
    return np.pad(out, (0, len(samples) - len(out))).astype(np.float64) * (2 * peak)


def _context(name: str, mode: Literal["r", "w"]) -> av.AudioCodecContext:
    context = av.CodecContext.create(name, mode)
    assert isinstance(context, av.AudioCodecContext)
    return context


def _time(count: int) -> np.ndarray:
    return np.arange(count) / RATE
