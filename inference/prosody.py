"""Prosody of speech: pitch, loudness, timbre, pauses and accents, 100 rows per second. Numpy only.

    voice = prosody(samples)          # 16 kHz mono
    voice.features                    # (T, 17), see FEATURES
    voice.f0, voice.accents           # Hz, and (seconds, strength) of accented syllables

Row i describes the sound around i / 100 s. All values are relative to the `Speaker`: the usual pitch, level and timbre
of the whole sound. Given the speaker of the whole sound, the rows of a part equal those of the whole, except within a
second of the cuts (the distances from pauses: two seconds).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .media.sound import RATE, is_finite
from .media.speech import Speech

FPS = 100  # rows per second
TIMBRE = 7
FEATURES = (
    "energy",  # A-weighted level above the speaker's, in units of 10 dB
    "energySlope",  # its change in 50 ms
    "pitch",  # semitones above the speaker's median, in units of 3; 0 where unvoiced
    "pitchSlope",  # its change in 50 ms
    "voicing",  # 0 to 1
    "flux",  # mean rise of the spectrum in 10 ms, in units of 10 dB
    *(f"timbre{k + 1}" for k in range(TIMBRE)),  # cepstrum less the speaker's mean
    "speech",  # 1 in speech, 0 in pauses
    "sincePause",  # seconds since the last pause, at most 2, halved; 0 in pauses
    "untilPause",  # seconds until the next one
    "accent",  # bumps of 0 to 1 at accented syllables
)
ACCENT_SPACING = 0.25  # seconds between accents, at least
LOWEST, HIGHEST = 60.0, 500.0  # Hz, range of pitch

_HOP = RATE // FPS
_CHUNK = 2048  # rows computed at once, 20 s
_SPECTRUM = 512  # samples of a spectrum's window, 32 ms
_MEL_BANDS = 32
_DEPTH = 60.0  # dB below the speaker's level: quieter bands of a spectrum count as this
_SILENCE = -90.0  # dB, lowest energy
_QUIETEST = -62.0  # dB, a quieter sound is taken for silence, whatever its own level
_GATE = 25.0  # dB below the speaker's level: quieter rows are pauses
_HANG_OVER = 0.15  # seconds: shorter gaps belong to the speech around them

_PITCH_WINDOW, _PITCH_FFT = 800, 2048  # samples: 50 ms, three periods of the lowest pitch
_LAGS = RATE / np.geomspace(HIGHEST, LOWEST, 96)
_PITCH_REACH = 2  # rows on either side over which the pitch is averaged
_PITCH_WEIGHT = 1.5  # exponent of the power by which rows count
_PITCH_LEAP = 0.4  # octaves; rows whose pitch is further apart are not averaged
_LONGEST_RUN = 3000  # rows of speech tracked at once; bounds the memory
_PITCH_CHUNK = 500  # rows of them transformed at once, 25 MB
_AROUND = np.array([-0.014, -0.007, 0.0, 0.007, 0.014])  # searched around each lag, relative to it
# Costs of the path through the candidates, after Boersma (1993), in units of correlation.
_UNVOICED, _OCTAVE, _JUMP, _SWITCH = 0.45, 0.02, 0.35, 0.14


@dataclass(frozen=True)
class Speaker:
    """What is usual in a sound. pitch: median in Hz. level, floor: loud speech and background, in dB. timbre: (7,)."""

    pitch: float
    level: float
    floor: float
    timbre: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Prosody:
    """Prosody of T rows.

    features: (T, 17) float32, see `FEATURES`. f0: (T,) Hz, 0 where unvoiced. speech: (T,) bool. accents: (n, 2) time in
    seconds and strength 0 to 1 of accented syllables. speaker: to which the features are relative.
    """

    features: np.ndarray
    f0: np.ndarray
    speech: np.ndarray
    accents: np.ndarray
    speaker: Speaker

    def __len__(self) -> int:
        return len(self.features)

    @property
    def voiced_share(self) -> float:
        """Share of the rows that are voiced; below 0.05 in silence and noise."""
        return float(np.mean(self.f0 > 0)) if len(self) else 0.0

    def column(self, name: str) -> np.ndarray:
        """(T,) view of one feature. Raises ValueError for an unknown name."""
        return self.features[:, FEATURES.index(name)]


def prosody(samples: np.ndarray | Speech, speaker: Speaker | None = None) -> Prosody:
    """The prosody of samples (n,) at 16 kHz, in T = round(n / 160) rows. NaN counts as 0.

    The samples of a `Speech` are read in blocks, which gives the same rows.

    speaker: of a longer sound that the samples are a part of; None: measured in the samples.
    """
    if not isinstance(samples, Speech):
        samples = np.asarray(samples, np.float32).reshape(-1)
        if not is_finite(samples):  # an hour of samples is not copied without need
            samples = np.nan_to_num(samples, posinf=1.0, neginf=-1.0)
    count = round(len(samples) / _HOP)
    if not count:
        none = np.zeros(0)
        kept = speaker or Speaker(120.0, _QUIETEST, _SILENCE, (0.0,) * TIMBRE)
        return Prosody(np.zeros((0, len(FEATURES)), np.float32), none, none > 0, np.zeros((0, 2)), kept)
    energy, bands = _spectra(samples, count)
    level, floor = (speaker.level, speaker.floor) if speaker else _levels(energy)
    np.maximum(bands, level - _DEPTH, out=bands)
    cepstrum, flux = _timbre(bands)
    del bands
    speech = _speech(energy, level, floor)
    f0, voicing = _pitch(samples, count, speech)
    f0 = _averaged(f0, 10 ** (_PITCH_WEIGHT * energy / 10))
    if speaker is None:
        pitch = float(np.median(f0[f0 > 0])) if (f0 > 0).any() else 120.0
        timbre = cepstrum[speech].mean(axis=0) if speech.any() else np.zeros(TIMBRE)
        speaker = Speaker(pitch, level, floor, tuple(timbre.tolist()))
    semitones = np.where(f0 > 0, 12 * np.log2(np.maximum(f0, 1.0) / speaker.pitch), 0.0)
    loud = np.clip((energy - level) / 10, -5.0, 1.5)
    accents = _accents(loud, semitones, f0 > 0, speech)
    since, until = _pause_distances(speech)
    usual = speaker.timbre

    def columns() -> Iterator[np.ndarray]:
        yield from (loud, _slope(loud), np.clip(semitones / 3, -4, 4))
        yield np.where(f0 > 0, _slope(semitones / 3), 0.0)
        yield from (voicing, flux)
        yield from (cepstrum[:, number] - usual[number] for number in range(TIMBRE))
        yield from (speech, since / 2, until / 2, _bumps(accents, count))

    features = np.empty((count, len(FEATURES)), np.float32)
    for place, column in enumerate(columns()):
        features[:, place] = column
    return Prosody(features, f0, speech, accents, speaker)


_known: OrderedDict[bytes, Prosody] = OrderedDict()
_KEPT = 8


def cached_prosody(samples: np.ndarray | Speech) -> Prosody:
    """As `prosody`. The results for the last eight sounds are kept, by the hash of their samples."""
    if isinstance(samples, Speech):
        key = samples.digest
    else:
        key = hashlib.sha256(np.ascontiguousarray(samples, np.float32).data).digest()
    if key not in _known:
        _known[key] = prosody(samples)
    _known.move_to_end(key)
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return _known[key]


# ------------------------------------------------------------------------------------------------ loudness, timbre


def _windows(samples: np.ndarray | Speech, first: int, last: int, size: int) -> np.ndarray:
    """(last - first, size) float64 samples around rows `first` to `last`.

    Beyond the ends they keep the last value, so that a constant offset of the samples makes no step.
    """
    start, stop = first * _HOP - size // 2, (last - 1) * _HOP + size // 2
    part = samples[max(start, 0) : max(stop, 0)]
    padded = np.pad(part.astype(np.float64), (max(-start, 0), max(stop - len(samples), 0)), mode="edge")
    return sliding_window_view(padded, size)[::_HOP]


def _spectra(samples: np.ndarray | Speech, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Energy (T,) and mel bands (T, 32) in dB of full scale."""
    energy, bands = np.empty(count), np.empty((count, _MEL_BANDS), np.float32)
    for first in range(0, count, _CHUNK):
        rows = slice(first, min(first + _CHUNK, count))
        power = np.abs(np.fft.rfft(_windows(samples, rows.start, rows.stop, _SPECTRUM) * np.hanning(_SPECTRUM))) ** 2
        energy[rows] = 10 * np.log10(power @ _a_weights() + 10 ** (_SILENCE / 10))
        bands[rows] = 10 * np.log10(power @ _mel_filters() / _SPECTRUM + 1e-12)
    return energy, bands


def _timbre(bands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cepstrum (T, 7) and flux (T,) of mel bands (T, 32) in dB."""
    cepstrum, flux = np.empty((len(bands), TIMBRE)), np.zeros(len(bands))
    for first in range(0, len(bands), _CHUNK):
        cepstrum[first : first + _CHUNK] = bands[first : first + _CHUNK] @ _cosines()
        rise = np.diff(bands[max(first - 1, 0) : first + _CHUNK], axis=0)
        flux[max(first, 1) : first + _CHUNK] = np.maximum(rise, 0, out=rise).mean(axis=1) / 10
    return cepstrum, flux


@cache
def _a_weights() -> np.ndarray:
    """(257,) weights of a power spectrum whose sum is 1 (0 dB) for a full-scale sine at 1 kHz."""
    f2 = np.fft.rfftfreq(_SPECTRUM, 1 / RATE) ** 2
    gain = 12194**2 * f2**2 / ((f2 + 20.6**2) * np.sqrt((f2 + 107.7**2) * (f2 + 737.9**2)) * (f2 + 12194**2))
    return (gain * 10**0.1) ** 2 * 4 / (np.hanning(_SPECTRUM) ** 2).sum() / _SPECTRUM


@cache
def _mel_filters() -> np.ndarray:
    """(257, 32) triangular filters, equally spaced on the mel scale from 60 to 7600 Hz."""
    edges = 700 * (np.exp(np.linspace(np.log1p(60 / 700), np.log1p(7600 / 700), _MEL_BANDS + 2)) - 1)
    frequency = np.fft.rfftfreq(_SPECTRUM, 1 / RATE)[:, None]
    rising = (frequency - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - frequency) / np.diff(edges)[1:]
    filters = np.maximum(np.minimum(rising, falling), 0)
    return filters / np.maximum(filters.sum(axis=0), 1e-3)


@cache
def _cosines() -> np.ndarray:
    """(32, 7): from bands in dB to the cepstral coefficients 1 to 7, in units of about 10 dB."""
    k, band = np.arange(1, TIMBRE + 1), np.arange(_MEL_BANDS)[:, None] + 0.5
    return np.cos(np.pi * k * band / _MEL_BANDS) * np.sqrt(2) / _MEL_BANDS / 5


def _levels(energy: np.ndarray) -> tuple[float, float]:
    """Level of loud speech and of the background in dB. Long pauses do not lower the level of the speech."""
    loud = energy[energy > energy.max() - 40]
    return max(float(np.percentile(loud, 90)), _QUIETEST), float(np.percentile(energy, 5))


def _speech(energy: np.ndarray, level: float, floor: float) -> np.ndarray:
    """(T,) bool: rows above the gate, and gaps between them that are shorter than the hang-over.

    The gate lies 25 dB below the level, or higher where the background is louder.
    """
    above = energy > max(level - _GATE, floor + 0.35 * (level - floor))
    index = np.arange(len(above))
    last = np.maximum.accumulate(np.where(above, index, -len(above)))
    following = np.minimum.accumulate(np.where(above, index, 2 * len(above))[::-1])[::-1]
    return above | (following - last <= _HANG_OVER * FPS)


def _pause_distances(speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) seconds since the last pause and until the next one, at most 2. The ends of the sound are no pauses."""
    index = np.arange(len(speech))
    last = np.maximum.accumulate(np.where(speech, -len(speech) - 2 * FPS, index))
    following = np.minimum.accumulate(np.where(speech, 2 * len(speech) + 2 * FPS, index)[::-1])[::-1]
    return np.minimum(index - last, 2 * FPS) / FPS, np.minimum(following - index, 2 * FPS) / FPS


# ----------------------------------------------------------------------------------------------------------- pitch


def _pitch(samples: np.ndarray | Speech, count: int, speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F0 (T,) in Hz, 0 where unvoiced, and voicing (T,) 0 to 1. Every stretch of speech is tracked on its own."""
    f0, voicing = np.zeros(count), np.zeros(count)
    for start, end in _runs(speech):
        for first in range(start, end, _LONGEST_RUN):
            rows = slice(first, min(first + _LONGEST_RUN, end))
            parts = [slice(at, min(at + _PITCH_CHUNK, rows.stop)) for at in range(rows.start, rows.stop, _PITCH_CHUNK)]
            windows = (_windows(samples, part.start, part.stop, _PITCH_WINDOW) for part in parts)
            f0[rows], voicing[rows] = _tracked(np.concatenate([_autocorrelation(some) for some in windows]))
    return f0, voicing


def _averaged(f0: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """F0 (T,) in Hz, averaged over 5 rows by their importance (T,).

    The pitch of weak consonants, which is off for a moment, thus becomes that of the louder vowels beside them, as in
    pyin, whose window is longer and flat.
    """
    log = np.log2(np.maximum(f0, 1.0))
    total, weights = np.zeros(len(f0)), np.full(len(f0), 1e-12)
    for step in range(-_PITCH_REACH, _PITCH_REACH + 1):
        there = np.clip(np.arange(len(f0)) + step, 0, len(f0) - 1)
        weight = importance[there] * ((f0[there] > 0) & (np.abs(log[there] - log) < _PITCH_LEAP))
        total, weights = total + weight * log[there], weights + weight
    return np.where(f0 > 0, 2 ** (total / weights), 0.0)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First index, and index after the last, of every run of true values."""
    edges = np.flatnonzero(np.diff(np.r_[0, flags.astype(np.int8), 0]))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _tracked(correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F0 (T,) in Hz and voicing (T,) of the best path through correlations (T, lags)."""
    lags = np.rint(_LAGS[:, None] * (1 + _AROUND)).astype(np.int64)
    strength = np.minimum(correlation[:, lags].max(axis=2), 1.0)
    chosen = _best_path(strength - _OCTAVE * np.log2(_LAGS / _LAGS[0]))
    voiced, state = chosen < len(_LAGS), np.minimum(chosen, len(_LAGS) - 1)
    f0 = np.where(voiced, RATE / _peak(correlation, _LAGS[state]), 0.0)
    heard = np.where(voiced, strength[np.arange(len(state)), state], 0.5 * strength.max(axis=1))
    return f0, np.clip(heard, 0, 1)


def _peak(correlation: np.ndarray, near: np.ndarray) -> np.ndarray:
    """(T,) lag in samples, with fractions, of the highest correlation within 6 % of the lags `near` (T,)."""
    rows = np.arange(len(correlation))
    spread = np.rint(near[:, None] * np.linspace(0.94, 1.06, 33)).astype(np.int64)
    best = spread[rows, np.take_along_axis(correlation, spread, axis=1).argmax(axis=1)]
    best = np.clip(best, 1, correlation.shape[1] - 2)
    left, middle, right = (correlation[rows, best + step].astype(np.float64) for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend < -1e-9)
    return best + np.clip(shift, -0.5, 0.5)


def _autocorrelation(windows: np.ndarray) -> np.ndarray:
    """(T, lags) autocorrelation of windows (T, 800), 1 at lag 0, divided by that of the window function."""
    shape = np.hanning(_PITCH_WINDOW)
    windows = (windows - windows.mean(axis=1, keepdims=True)) * shape
    longest = int(_LAGS[-1] * 1.07) + 2
    power = np.abs(np.fft.rfft(windows, _PITCH_FFT)) ** 2
    correlation = np.fft.irfft(power, _PITCH_FFT)[:, :longest]
    window = np.fft.irfft(np.abs(np.fft.rfft(shape, _PITCH_FFT)) ** 2, _PITCH_FFT)[:longest]
    return correlation / (correlation[:, :1] + 1e-9) / (window / window[0])


def _best_path(strength: np.ndarray) -> np.ndarray:
    """(T,) index of the candidate of every row, or their number where unvoiced, of the path with the highest sum."""
    count, states = strength.shape
    jump = -_JUMP * np.abs(np.subtract.outer(np.log2(_LAGS), np.log2(_LAGS)))
    came = np.empty((count, states + 1), np.int16)
    score, unvoiced = strength[0].copy(), _UNVOICED
    came[0] = states
    index = np.arange(states)
    for row in range(1, count):
        total = jump + score
        came[row, :states] = total.argmax(axis=1)
        kept = total[index, came[row, :states]]
        begins = unvoiced - _SWITCH > kept
        came[row, :states][begins] = states
        loudest = int(score.argmax())
        ends = score[loudest] - _SWITCH > unvoiced
        came[row, states] = loudest if ends else states
        score, unvoiced = (
            np.maximum(kept, unvoiced - _SWITCH) + strength[row],
            max(unvoiced, score[loudest] - _SWITCH) + _UNVOICED,
        )
    path = np.empty(count, np.int64)
    path[-1] = states if unvoiced >= score.max() else score.argmax()
    for row in range(count - 1, 0, -1):
        path[row - 1] = came[row, path[row]]
    return path


# --------------------------------------------------------------------------------------------------------- accents


def _accents(loud: np.ndarray, semitones: np.ndarray, voiced: np.ndarray, speech: np.ndarray) -> np.ndarray:
    """(n, 2) seconds and strength of accented syllables: loud, high and long compared with the speaker's others."""
    if not voiced.any():
        return np.zeros((0, 2))
    index = np.arange(len(loud))
    level = _smooth(loud, 4.0)
    high = _smooth(np.interp(index, index[voiced], semitones[voiced]), 4.0)
    length = np.zeros(len(loud))
    for first, last in _runs(voiced & (level > -1.2)):
        length[first:last] = (last - first) / FPS
    prominence = (level + 0.8) / 0.6 + high / 3 + np.clip((_smooth(length, 4.0) - 0.15) / 0.1, -1.5, 1.5)
    inner = level + 0.15 * high / 3  # the syllable's centre is where it is loudest
    peaks = np.flatnonzero((inner[1:-1] > inner[:-2]) & (inner[1:-1] >= inner[2:])) + 1
    peaks = peaks[voiced[peaks] & speech[peaks] & (prominence[peaks] > -1.0)]
    near = round(ACCENT_SPACING * FPS) - 1
    taken, blocked = np.zeros(len(loud), bool), np.zeros(len(loud), bool)
    for peak in peaks[np.argsort(-prominence[peaks], kind="stable")].tolist():
        if not blocked[peak]:
            taken[peak] = True
            blocked[max(peak - near, 0) : peak + near + 1] = True
    chosen = np.flatnonzero(taken)
    return np.stack([chosen / FPS, 1 / (1 + np.exp(-prominence[chosen]))], axis=1)


def _bumps(accents: np.ndarray, count: int) -> np.ndarray:
    """(T,) a bump of 0.1 s width at every accent, as high as it is strong."""
    curve, time = np.zeros(count), np.arange(-15, 16) / FPS
    for at, strength in accents:
        rows = round(at * FPS) + np.arange(-15, 16)
        inside = (rows >= 0) & (rows < count)
        curve[rows[inside]] += strength * np.exp(-0.5 * (time[inside] / 0.04) ** 2)
    return np.minimum(curve, 1.0)


def _slope(values: np.ndarray) -> np.ndarray:
    """(T,) change in 50 ms, by a straight line through 5 rows."""
    padded = np.pad(values, 2, mode="edge")
    return 5 * (2 * (padded[4:] - padded[:-4]) + padded[3:-1] - padded[1:-3]) / 10


def _smooth(values: np.ndarray, width: float) -> np.ndarray:
    reach = int(3 * width)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), weights / weights.sum(), "valid")
