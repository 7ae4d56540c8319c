"""Tell speech and singing from music without a voice, by the prosody. Numpy only.

Every 4 s of a sound get a chance of speech by a logistic regression of seven numbers: a voice changes its spectrum and
its level faster than instruments do, glides in pitch, and has voiceless sounds with another spectrum than its vowels. A
sound is speech if any 4 s of it are. The weights are those of `python -m training speech-or-music`.
"""

from __future__ import annotations

import numpy as np

from .prosody import FPS, Prosody

LEAST_VOICED = 0.05  # share of voiced sound; with less there is neither speech nor a melody
LEAST_CHANCE = 0.25  # of speech, in the 4 s that are most like it
WINDOW, HOP = 4 * FPS, 2 * FPS  # rows
NUMBERS = (
    "timbre",  # mean change of the timbre in 50 ms
    "tilt",  # deviation of the spectral tilt
    "glides",  # share of 100 ms in which the pitch changes by 0.3 to 3 semitones
    "run",  # mean seconds that a voiced stretch lasts
    "level",  # mean change of the level in 50 ms, in units of 10 dB
    "voiceless",  # spectral tilt of what is not voiced, less that of what is
    "flux",  # mean rise of the spectrum in 10 ms
)
# Of the numbers: mean, deviation and weight. OFFSET is added.
WEIGHTS = np.array([
    [0.2866, 0.8017, 0.3595, 0.4355, 0.4598, -0.7952, 0.1279],
    [0.1144, 0.4045, 0.2579, 0.5155, 0.36, 0.9952, 0.05371],
    [1.847, -0.8375, 1.272, -0.2456, 2.839, -1.718, -2.798],
])  # fmt: skip
OFFSET = -0.3818


def has_speech(voice: Prosody) -> bool:
    """Whether there is speech or singing in a sound."""
    return voice.voiced_share >= LEAST_VOICED and chance_of_speech(voice) >= LEAST_CHANCE


def chance_of_speech(voice: Prosody) -> float:
    """The chance, 0 to 1, that there is a voice in the 4 s of a sound that are most like speech."""
    rows = numbers(voice)
    if not len(rows):
        return 0.0
    mean, deviation, weight = WEIGHTS
    return float((1 / (1 + np.exp(-((rows - mean) / deviation @ weight + OFFSET)))).max())


def numbers(voice: Prosody) -> np.ndarray:
    """(n, 7) NUMBERS of windows of 4 s, one every 2 s, without those that have too few voiced frames."""
    starts = range(0, max(len(voice) - WINDOW, 0) + 1, HOP)
    parts = [slice(start, start + WINDOW) for start in starts]
    rows = [_row(voice, part) for part in parts if _mean(voice.f0[part] > 0) >= LEAST_VOICED]
    return np.array(rows).reshape(-1, len(NUMBERS))


def _row(voice: Prosody, part: slice) -> list[float]:
    speech, voiced = voice.speech[part], (voice.f0[part] > 0) & voice.speech[part]
    timbre = np.stack([voice.column(f"timbre{number}")[part] for number in range(1, 8)], axis=1)
    tilt, level = timbre[:, 0], voice.column("energy")[part]
    soon = speech[5:] & speech[:-5]
    later = voiced[10:] & voiced[:-10]
    semitones = 12 * np.log2(np.maximum(voice.f0[part], 1.0))
    rise = np.abs(semitones[10:] - semitones[:-10])[later]
    edges = np.flatnonzero(np.diff(np.r_[0, voiced.astype(np.int8), 0])).reshape(-1, 2)
    breaks = speech & ~voiced
    both = breaks.sum() > 5 and voiced.sum() > 5
    return [
        _mean(np.abs(timbre[5:] - timbre[:-5])[soon]),
        float(tilt[speech].std()) if speech.any() else 0.0,
        _mean((rise > 0.3) & (rise < 3)),
        _mean(np.diff(edges, axis=1)) / FPS,
        _mean(np.abs(level[5:] - level[:-5])[soon]),
        _mean(tilt[breaks]) - _mean(tilt[voiced]) if both else 0.0,
        _mean(voice.column("flux")[part][speech]),
    ]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
