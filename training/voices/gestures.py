"""How a head moves while its owner speaks: a stochastic model of posture, nods and coupling to the pitch.

It teaches `stages.audio2pose`. Every number is in the table `RULES`, with its source. No recordings of heads are
involved: the sources are published descriptions, and what they leave open is chosen so that the motion's size and speed
lie in the range of two clips that were measured for this purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, lfilter, sosfilt, sosfiltfilt

from inference.model.audio2pose import POSE_FPS
from inference.prosody import FPS as PROSODY_FPS
from inference.prosody import Prosody, prosody

from .rooms import with_room
from .speech import CURVE_FPS, RATE, VARIANTS, Take, augment, invented_words, joined, random_voice, sentences, speak

FPS = 25  # rows per second at which motion is made


class Rule(NamedTuple):
    """A number or several, and where they are from."""

    value: Any
    source: str


_HADAR = "Hadar et al. 1984, abstract (PubMed 6209950): wide motion at onsets, medium at ends, sharp at stress"
_ISHI = "Ishi et al. 2014, abstract: nods at strong phrase ends; shakes and tilts are rare"
_PAGGIO = "Paggio 2016, abstract: the head begins slightly before the words, with a large spread"
_JASA = "JASA 156, 2024, abstract: nods align with peaks of F0; speakers differ"
_MUNHALL = "Munhall et al. 2004, abstract: head motion correlates with F0 and amplitude; no number"
_MEASURED = "size and speed between those of two measured clips"
_OWN = "chosen by us"

# Angles in degrees (yaw, pitch, roll), times in seconds. Pitch is positive downwards.
RULES = {
    "posture": Rule((3.6, 2.4, 2.0), _HADAR + "; deviation: " + _MEASURED),
    "posture_kept": Rule(0.3, _OWN),  # share of the old posture in the new one
    "pause": Rule(0.35, _HADAR),  # a longer pause may change the posture
    "shift_chance": Rule(0.7, _HADAR),
    "shift_start": Rule((-0.3, 0.2), _PAGGIO),  # relative to the onset of speech
    "shift_length": Rule((0.6, 1.2), _HADAR),
    "relax_chance": Rule(0.4, _HADAR),  # at a phrase's end the head turns back
    "relax_share": Rule(0.5, _OWN),
    "reposture": Rule(6.0, _OWN),  # mean time between changes of posture within long phrases
    "wandering": Rule((1.1, 0.8, 0.8), _MEASURED),
    "wandering_time": Rule((2.0, 2.5), _OWN),
    "unrest": Rule((0.7, 0.55, 0.5), _MEASURED),  # fast motion while speaking
    "unrest_band": Rule((0.4, 2.0), "Hz, " + _MEASURED),
    "unrest_in_pauses": Rule(0.35, _HADAR),
    "beat_chance": Rule((0.6, 0.15), _JASA),  # mean and deviation over speakers, for an accent of strength 1
    "beat_down": Rule((0.85, 0.1), _HADAR),
    "beat_rivals": Rule(0.6, _HADAR + ", so accents beside stronger ones count less: " + _OWN),  # seconds
    "beat_size": Rule((3.6, 0.45), _HADAR + "; size: " + _MEASURED),  # median, and deviation of the logarithm
    "beat_width": Rule((0.4, 0.7), _HADAR + "; 0.3 to 0.5 s made faster motion than was measured"),
    "beat_apex": Rule((0.0, 0.06), _JASA),  # relative to the accent
    "beat_aside": Rule(0.3, _HADAR),  # share of a beat in roll and yaw
    "end_chance": Rule(0.5, _ISHI),
    "end_size": Rule((1.0, 2.5), _ISHI),
    "pitch_coupling": Rule((0.15, 0.2), _MUNHALL + "; degrees down per semitone: " + _OWN + ", as nods align with F0"),
    "pitch_band": Rule((0.3, 2.0), "Hz, " + _MUNHALL),
    "speakers": Rule(0.3, "deviation of the logarithm of the size: " + _JASA),
    "shift_per_degree": Rule((0.002, 0.0015), "picture widths: " + _OWN),  # of yaw, of pitch
    "shift_wandering": Rule((0.005, 0.005), "picture widths: " + _OWN),
    "scale_wandering": Rule(0.01, "share of the head's size: " + _OWN),
}
_R = SimpleNamespace(**{name: rule.value for name, rule in RULES.items()})


@dataclass(frozen=True, eq=False)
class Speech:
    """What the model needs to know of a sound.

    heard: prosody of the sound as recorded, which the network receives. accents: (n, 2) seconds and strength, from the
    sound without noise. phrases: (m, 2) seconds between pauses. semitones: (T,) pitch within `pitch_band`, 25 rows per
    second. speaking: (T,) 0 to 1.
    """

    heard: Prosody
    accents: np.ndarray
    phrases: np.ndarray
    semitones: np.ndarray
    speaking: np.ndarray


def spoken(rng: np.random.Generator, seconds: float, variants: tuple[str, ...] = VARIANTS) -> Speech:
    """A random speech of one voice of `seconds`, half of them recorded in a room."""
    clean = _talk(rng, seconds, variants)
    made = with_room(clean, rng) if rng.random() < 0.5 else clean
    samples = augment(made.samples, rng) if rng.random() < 0.5 else made.samples
    count = round(seconds * RATE)
    return known_speech(prosody(clean.samples[:count]), prosody(samples[:count]))


def known_speech(clean: Prosody, heard: Prosody | None = None) -> Speech:
    """What the model needs of a sound. heard: default that of the clean sound."""
    step, voiced = PROSODY_FPS // FPS, clean.f0 > 0
    semitones = np.zeros(len(clean))
    if voiced.any():
        index = np.arange(len(clean))
        semitones = np.interp(index, index[voiced], 12 * np.log2(clean.f0[voiced] / clean.speaker.pitch))
        semitones = sosfiltfilt(butter(1, _R.pitch_band, "band", fs=PROSODY_FPS, output="sos"), semitones)
    edges = np.flatnonzero(np.diff(np.r_[0, _closed(clean.speech).astype(np.int8), 0])).reshape(-1, 2)
    speaking = gaussian_filter1d(clean.speech.astype(np.float64), 12.0)
    return Speech(heard or clean, clean.accents, edges / PROSODY_FPS, semitones[::step], speaking[::step])


def _closed(speech: np.ndarray) -> np.ndarray:
    """The rows of speech, with pauses that do not change the posture counted as speech."""
    result, limit = speech.copy(), round(_R.pause * PROSODY_FPS)
    edges = np.flatnonzero(np.diff(np.r_[0, (~speech).astype(np.int8), 0])).reshape(-1, 2)
    for first, last in edges:
        if last - first < limit:
            result[first:last] = True
    return result


def performance(speech: Speech, rng: np.random.Generator) -> np.ndarray:
    """One performance of a speech: (T, 6) float32, 12.5 rows per second, its median 0.

    Columns: yaw, pitch and roll in degrees, shift right and down in picture widths, scale as a share of the head's
    size.
    """
    count = len(speech.speaking)
    size = np.exp(rng.normal(0, _R.speakers))
    angles = _posture(speech, rng, count) + _wandering(rng, count, _R.wandering)
    angles += _unrest(speech, rng, count) + _beats(speech, rng, count)
    angles[:, 1] += rng.normal(*_R.pitch_coupling) * speech.semitones
    angles *= size
    rest = _wandering(rng, count, (*_R.shift_wandering, _R.scale_wandering))
    rest[:, :2] += angles[:, :2] * _R.shift_per_degree
    motion = np.concatenate([angles, rest], axis=1)
    padded = np.pad(motion, ((1, 1), (0, 0)), mode="edge")
    motion = (0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:])[:: round(FPS / POSE_FPS)]
    return (motion - np.median(motion, axis=0)).astype(np.float32)


def _posture(speech: Speech, rng: np.random.Generator, count: int) -> np.ndarray:
    """(T, 3) degrees: a posture that changes around onsets of speech, and within long phrases."""
    deviation = np.array(_R.posture)
    posture = rng.normal(0, deviation)
    changes: list[tuple[float, np.ndarray]] = []

    def change(at: float, to: np.ndarray) -> None:
        nonlocal posture
        changes.append((at, to - posture))
        posture = to

    curve = np.tile(posture, (count, 1))
    for start, end in speech.phrases:
        if rng.random() < _R.shift_chance:
            change(start + rng.uniform(*_R.shift_start), _R.posture_kept * posture + rng.normal(0, deviation))
        at = start + 2.0 + rng.exponential(_R.reposture)
        while at < end - 1.0:
            change(at, _R.posture_kept * posture + rng.normal(0, deviation))
            at += 2.0 + rng.exponential(_R.reposture)
        if rng.random() < _R.relax_chance:
            change(end, _R.relax_share * posture)
    time = np.arange(count) / FPS
    for at, by in changes:
        part = np.clip((time - at) / rng.uniform(*_R.shift_length), 0, 1)[:, None]
        curve += by * part**3 * (10 - 15 * part + 6 * part**2)
    return curve


def _wandering(rng: np.random.Generator, count: int, deviation: tuple[float, ...]) -> np.ndarray:
    """(T, n) slow random motion: white noise through a critically damped filter."""
    warm = 10 * FPS
    decay = np.exp(-1 / (FPS * rng.uniform(*_R.wandering_time) / 2))
    noise = rng.standard_normal((warm + count, len(deviation)))
    slow = lfilter([1], [1, -2 * decay, decay * decay], noise, axis=0)[warm:]
    return slow * (1 - decay * decay) ** 1.5 / np.sqrt(1 + decay * decay) * deviation


def _unrest(speech: Speech, rng: np.random.Generator, count: int) -> np.ndarray:
    """(T, 3) fast small motion, which is larger while speaking."""
    band = butter(1, _R.unrest_band, "band", fs=FPS, output="sos")
    noise = sosfilt(band, rng.standard_normal((count + 50, 3)), axis=0)[50:]
    share = np.diff(_R.unrest_band)[0] / (FPS / 2)  # of the noise's power that passes
    amount = _R.unrest_in_pauses + (1 - _R.unrest_in_pauses) * speech.speaking[:, None]
    return noise / np.sqrt(share * np.pi / 2) * _R.unrest * amount


def _beats(speech: Speech, rng: np.random.Generator, count: int) -> np.ndarray:
    """(T, 3) nods at accents and at the ends of phrases."""
    chance = np.clip(rng.normal(*_R.beat_chance), 0.1, 0.95)
    down = np.clip(rng.normal(*_R.beat_down), 0.4, 1.0)
    moves: list[tuple[float, float, float, np.ndarray]] = []
    for (at, strength), major in zip(speech.accents, _major(speech.accents), strict=True):
        if rng.random() < chance * major:
            size = _R.beat_size[0] * np.exp(rng.normal(0, _R.beat_size[1])) * strength
            sign = 1.0 if rng.random() < down else -1.0
            aside = _R.beat_aside * rng.choice([-1.0, 1.0], 2)
            moves.append((at + rng.normal(*_R.beat_apex), size, sign, aside))
    for _, end in speech.phrases:
        if rng.random() < _R.end_chance * chance / _R.beat_chance[0]:
            moves.append((end - 0.1, rng.uniform(*_R.end_size), 1.0, np.zeros(2)))
    result = np.zeros((count, 3))
    for at, size, sign, aside in moves:
        width = rng.uniform(*_R.beat_width) / 4  # the whole nod is four deviations wide
        first = max(int((at - 4 * width) * FPS), 0)
        rows = np.arange(first, min(int((at + 4 * width) * FPS) + 2, count))
        bump = size * np.exp(-0.5 * ((rows / FPS - at) / width) ** 2)
        result[rows] += bump[:, None] * (aside[0], sign, aside[1])
    return result


def _major(accents: np.ndarray) -> np.ndarray:
    """(n,) 0 to 1.5: how much accents stand out from those around them, by their prominence (logit of the strength)."""
    prominence = np.log(accents[:, 1] / np.maximum(1 - accents[:, 1], 1e-6))
    near = np.abs(np.subtract.outer(accents[:, 0], accents[:, 0])) < _R.beat_rivals
    rival = np.where(near & ~np.eye(len(accents), dtype=bool), prominence, -np.inf).max(axis=1, initial=-1.0)
    return 1.5 * accents[:, 1] / (1 + np.exp(-1.5 * (prominence - rival - 0.2)))


# ------------------------------------------------------------------------------------------------------------ talk


def _talk(rng: np.random.Generator, seconds: float, variants: tuple[str, ...]) -> Take:
    """At least `seconds` of one voice, with pauses of 0.1 to 5 s, and vowels of uneven loudness."""
    language, _ = sentences()[rng.integers(len(sentences()))]
    voice, tract = random_voice(rng, language, variants), float(rng.uniform(0.84, 1.2))
    own = [text for known, text in sentences() if known == language]
    parts, length = [_silence(rng.uniform(0.1, 1.5))], 0.0
    while length < seconds:
        text = invented_words(rng, int(rng.integers(2, 8))) if rng.random() < 0.2 else str(rng.choice(own))
        pause = min(np.exp(rng.normal(-0.5, 0.8)), 5.0)
        parts += [_emphasised(speak(text, voice, tract), rng), _silence(max(pause, 0.1))]
        length = sum(len(part.samples) for part in parts) / RATE
    return joined(parts)


def _silence(seconds: float) -> Take:
    rows = round(seconds * CURVE_FPS)
    return Take(np.zeros(rows * RATE // CURVE_FPS, np.float32), np.zeros((rows, 20), np.float32))


def _emphasised(made: Take, rng: np.random.Generator) -> Take:
    """The take with random emphasis: vowels up to several dB louder or softer, and a random level."""
    decibel = np.zeros(len(made.curves))
    for phone in made.phones:
        if phone.symbol[:1] and phone.symbol[0] in "aɑɐæʌɜəɛeiɨɪœøɒɔoɤuʊyʏɯ":
            decibel[round(phone.start * CURVE_FPS) : round(phone.end * CURVE_FPS)] = rng.normal(0, 3.5)
    decibel = gaussian_filter1d(decibel, 6.0) + rng.uniform(-4, 2)
    gain = np.repeat(10 ** (decibel / 20), RATE // CURVE_FPS)[: len(made.samples)]
    return Take((made.samples * gain).astype(np.float32), made.curves, made.phones)


def pauses(speech: Speech) -> np.ndarray:
    """(m, 2) seconds of the pauses between the phrases."""
    return np.array([(one[1], other[0]) for one, other in pairwise(speech.phrases)]).reshape(-1, 2)
