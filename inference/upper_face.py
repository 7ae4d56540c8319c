"""Motion of brows and eyes that goes with speech: brow accents, blinks and a gaze track. Numpy only.

Everything is a function of the sound file, the seed and the time in the file: a trimmed or split strip keeps its
motion. Each chance is drawn from a number that belongs to a moment of the file, so a change of the sound has an effect
for a few seconds only. All numbers are in the table `RULES`, with their sources.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from .contract.bank import Bank
from .contract.expression import EASE, RISE
from .prosody import FPS, Prosody

BROWS = ("browInnerUp", "browOuterUp")
ARKIT_OUTER = ("browOuterUpLeft", "browOuterUpRight")  # of banks that have a coefficient for each side
_STEP = 0.1  # seconds for which one chance is drawn


class Rule(NamedTuple):
    """A number or several, and where they are from."""

    value: Any
    source: str


_BENTIVOGLIO = "Bentivoglio et al. 1997, abstract: 26 blinks a minute in conversation, 17 at rest"
_DOUGHTY = "Doughty 2001, abstract: 95 % of talking adults blink 10.5 to 32.5 times a minute"
_KENDON = "after Kendon 1967 and Lee, Badler and Badler 2002, from recollection"
_OWN = "chosen by us"

# Times in seconds, angles in degrees.
RULES = {
    "brow_share": Rule(0.25, _OWN),  # share of the strong accents that raise the brows
    "brow_least": Rule(0.6, _OWN),  # strength of a strong accent
    "brow_size": Rule((0.2, 0.5), _OWN),
    "brow_length": Rule((0.3, 0.5), _OWN),
    "brow_apart": Rule(0.8, _OWN),  # least time between two of them
    "talking_rate": Rule(26.0, _BENTIVOGLIO),  # blinks a minute
    "resting_rate": Rule(17.0, _BENTIVOGLIO),
    "resting_after": Rule(2.0, _OWN),  # length of a pause after which a speaker is at rest
    "blink_spread": Rule(0.55, _DOUGHTY + "; deviation of the logarithm of an interval: " + _OWN),
    "blink_apart": Rule(0.6, _OWN),
    "blink_at_pause": Rule(4.0, "blinks are more likely in pauses, Bentivoglio; factor: " + _OWN),
    "blink_in_speech": Rule(0.62, "keeps the rate at that of conversation"),
    "blink_pause_part": Rule(0.5, _OWN),  # seconds of a pause, from its start, that draw blinks
    "closing": Rule((0.08, 0.04, 0.16), "as Idle Motion"),  # closing, shut, opening
    "look_away": Rule(0.5, _KENDON),  # chance at the start of speech after a pause
    "away_least_pause": Rule(0.3, _OWN),
    "away_length": Rule((0.7, 1.8), _KENDON),
    "away_size": Rule((7.0, 4.0), _KENDON),  # deviation to the side, and up or down
    "glance_every": Rule(5.0, _KENDON),  # mean time between glances within speech
    "small_every": Rule(0.9, _KENDON),  # mean time between small movements
    "small_size": Rule((1.0, 0.7), _OWN),
    "eye_speed": Rule((0.03, 0.0022), "saccades last 20 to 30 ms and 2 ms a degree: textbooks"),
}
_R = SimpleNamespace(**{name: rule.value for name, rule in RULES.items()})


def brow_accents(bank: Bank, voice: Prosody, times: np.ndarray, seed: int) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of a bank's coefficients that raise the brows, and what is added to them at `times` (T,) in seconds.

    voice: of the whole sound. A quarter of its strong accents raise the brows. ((), (T, 0)) for a bank without names.
    """
    names = tuple(name for name in (*BROWS, *ARKIT_OUTER) if name in bank.names)
    times = np.asarray(times, np.float64)
    raised = np.zeros(len(times))
    last = -np.inf
    for at, strength in voice.accents:
        chance, size, length = _numbers(seed, 1, at)
        if strength < _R.brow_least or chance > _R.brow_share or at - last < _R.brow_apart:
            continue
        last = at
        width = _between(_R.brow_length, length)
        near = np.abs(times - at) < width / 2
        raised[near] = _between(_R.brow_size, size) * np.cos(np.pi * (times[near] - at) / width) ** 2
    return names, np.tile(raised[:, None], (1, len(names))).astype(np.float32)


def speech_blinks(voice: Prosody, times: np.ndarray, seed: int) -> np.ndarray:
    """(T,) float32 how far the eyes are closed, 0 to 1, at `times` (T,) in seconds. voice: of the whole sound."""
    return _closed(blink_times(voice, seed), np.asarray(times, np.float64))


def blink_times(voice: Prosody, seed: int) -> np.ndarray:
    """(n,) seconds at which blinks begin. They are more frequent in speech than in long pauses, and most so in short
    pauses."""
    pause, resting = _since_pause(voice)
    found: list[float] = []
    last = -1.0
    for number in range(int(np.ceil(len(voice) / FPS / _STEP))):
        at = number * _STEP
        chance, place, _ = _numbers(seed, 2, at)
        row = min(round((at + _STEP / 2) * FPS), len(voice) - 1)
        mean = 60 / (_R.resting_rate if resting[row] else _R.talking_rate)
        factor = 1.0
        if not resting[row]:
            drawn = 0 <= pause[row] < _R.blink_pause_part
            factor = _R.blink_at_pause if drawn else _R.blink_in_speech
        if at - last >= _R.blink_apart and chance < 1 - np.exp(-factor * _hazard(at - last, mean) * _STEP):
            last = at + place * _STEP
            found.append(last)
    return np.array(found)


def speech_gaze(voice: Prosody, times: np.ndarray, seed: int) -> np.ndarray:
    """(T, 2) float32: where the eyes look at `times` (T,), in degrees to the picture's right and down.

    The eyes rest near 0, look away at half of the starts of speech, and return before its end.
    """
    moves = [(0.0, np.zeros(2)), *_gaze_moves(voice, seed)]
    began, places = np.array([at for at, _ in moves]), np.array([target for _, target in moves])
    steps = np.diff(places, axis=0, prepend=places[:1])
    length = _R.eye_speed[0] + _R.eye_speed[1] * np.linalg.norm(steps, axis=1)
    last = np.maximum(np.searchsorted(began, times, "right") - 1, 0)  # each ends before the next begins
    left = 1 - np.clip((times - began[last]) / length[last], 0, 1)[:, None]
    return (places[last] - steps[last] * left * left * (3 - 2 * left)).astype(np.float32)


def phrase_envelope(times: np.ndarray, start: float, end: float) -> np.ndarray:
    """(T,) 0 to 1: rises from 0.25 s before `start`, holds, and falls within 0.5 s after `end`."""
    rising = np.clip((np.asarray(times) - start) / RISE + 1, 0, 1)
    falling = np.clip((np.asarray(times) - end) / EASE, 0, 1)
    return rising * rising * (3 - 2 * rising) * (1 - falling * falling * (3 - 2 * falling))


def _gaze_moves(voice: Prosody, seed: int) -> list[tuple[float, np.ndarray]]:
    """Time and direction of each movement of the eyes, in order."""
    pause, _ = _since_pause(voice)
    until = voice.column("untilPause") * 2
    moves: list[tuple[float, np.ndarray]] = []
    away_until, centre = 0.0, np.zeros(2)
    for number in range(int(np.ceil(len(voice) / FPS / _STEP))):
        at = number * _STEP
        row = min(round(at * FPS), len(voice) - 1)
        chance, side, height = _numbers(seed, 3, at)
        small_chance, small_side, small_height = _numbers(seed, 4, at)
        later = min(row + round(_STEP * FPS), len(voice) - 1)
        starts = pause[row] >= _R.away_least_pause and pause[later] < 0
        glances = pause[row] < 0 and until[row] > 1.0 and chance < _STEP / _R.glance_every
        if at >= away_until and ((starts and chance < _R.look_away) or glances):
            centre = np.array([_normal(side), _normal(height)]) * _R.away_size
            away_until = at + _between(_R.away_length, small_side)
            moves.append((at, centre))
        elif away_until and at >= away_until:
            away_until, centre = 0.0, np.zeros(2)
            moves.append((at, centre))
        elif small_chance < _STEP / _R.small_every:
            moves.append((at, centre + np.array([_normal(small_side), _normal(small_height)]) * _R.small_size))
    return moves


def _since_pause(voice: Prosody) -> tuple[np.ndarray, np.ndarray]:
    """(T,) seconds since the current pause began, -1 in speech; and (T,) bool: whether that pause is a long one."""
    index = np.arange(len(voice))
    began = np.maximum.accumulate(np.where(voice.speech, index, -1))
    ends = np.minimum.accumulate(np.where(voice.speech, index, len(voice))[::-1])[::-1]
    since = np.where(voice.speech, -1.0, (index - began) / FPS)
    return since, ~voice.speech & (ends - began > _R.resting_after * FPS)


def _hazard(since: float, mean: float) -> float:
    """Chance per second of an event whose intervals are log-normal with the mean `mean`, `since` seconds after one."""
    spread = _R.blink_spread
    z = (np.log(max(since, 1e-3) / mean) + spread**2 / 2) / spread
    left = max(0.5 * math.erfc(z / math.sqrt(2)), 1e-6)
    return float(np.exp(-0.5 * z * z) / (spread * max(since, 1e-3) * np.sqrt(2 * np.pi)) / left)


def _closed(starts: np.ndarray, times: np.ndarray) -> np.ndarray:
    closing, shut, opening = _R.closing
    if not len(starts):
        return np.zeros(len(times), np.float32)
    last = np.searchsorted(starts, times, "right") - 1  # each ends before the next begins
    since = np.where(last >= 0, times - starts[last], 0.0)
    falling = np.clip(since / closing, 0, 1)
    rising = np.clip((since - closing - shut) / opening, 0, 1)
    return (falling * falling * (3 - 2 * falling) - rising * rising * (3 - 2 * rising)).astype(np.float32)


def _numbers(seed: int, kind: int, at: float) -> np.ndarray:
    """Three uniform numbers that belong to a moment, a seed and a kind of motion."""
    key = np.array([seed, kind], np.uint64)
    return np.random.Generator(np.random.Philox(counter=round(at * 1000) + 1, key=key)).random(3)


def _normal(uniform: float) -> float:
    """A number of about a normal distribution, within 2.2 deviations, from a uniform one."""
    clipped = min(max(uniform, 0.012), 0.988)
    return float(np.log(clipped / (1 - clipped)) / 1.702)


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * share
