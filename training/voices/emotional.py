"""Lines of dialogue with emotions, spoken by espeak-ng and by voices built from recordings with emotional prosody.

It teaches `stages.audio2expression`. How a voice changes with an emotion is in the table `RULES`, with its sources.
Synthetic speech teaches how much a voice is excited, and hardly whether it is pleased. In calm scenes, nobody is
excited, whatever is said: so speak most people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from scipy.signal import butter, sosfilt

from inference.contract.emotion import NEUTRAL
from inference.contract.expression import EMOTIONS

from . import recorded
from .rooms import with_room
from .speech import RATE, VARIANTS, Take, Voice, augment, coloured_noise, random_voice, speak

# Files of lines, see lines/README.md.
LINES, HELD_OUT_LINES, HELD_OUT_LINES_2, HELD_OUT_LINES_3 = (
    Path(__file__).with_name("lines") / f"{name}.txt" for name in ("lines", "held_out", "held_out_2", "held_out_3")
)
WRITERS = tuple(LINES.with_name(f"{name}.txt") for name in "abcdefghijklmnopq")
TRAINING_FILES = (LINES, *WRITERS)
KINDS = (*EMOTIONS, NEUTRAL)


@dataclass(frozen=True)
class Line:
    """kind: one of KINDS. strength: 0 to 1."""

    kind: str
    strength: float
    text: str


class Prosody(NamedTuple):
    """How a voice differs from neutral at strength 1.

    pitch, pitch_range: added to espeak-ng's, which are from 0 to 100. speed: factor. level: dB. tilt: dB above 1.5 kHz.
    breath: level of breath noise beside the voice. tremor: share by which the level varies 7 times a second.
    """

    pitch: float
    pitch_range: float
    speed: float
    level: float
    tilt: float
    breath: float
    tremor: float
    source: str


_HIGH = "fast, loud and high in anger, fear and joy; slow, low and soft in sadness: Scherer 2003, from recollection"
_KAMILOGLU = "Kamiloglu et al. 2020, abstract: loud, high and variable pitch in happiness"
_OWN = "chosen by us"

RULES = {
    "angry": Prosody(12, 22, 1.18, 6.0, 5.0, 0.0, 0.0, _HIGH + "; tilt by vocal effort"),
    "contempt": Prosody(-6, -15, 0.9, -1.0, -1.0, 0.0, 0.0, _OWN),
    "disgusted": Prosody(-8, -4, 0.88, 0.0, 0.0, 0.1, 0.0, "low pitch in disgust: encyclopedias; rest " + _OWN),
    "fear": Prosody(20, 6, 1.25, 2.0, 1.0, 0.25, 0.25, _HIGH + "; tremor " + _OWN),
    "happy": Prosody(15, 28, 1.1, 4.0, 2.0, 0.0, 0.0, _KAMILOGLU),
    "sad": Prosody(-10, -28, 0.76, -6.0, -4.0, 0.2, 0.05, _HIGH),
    "surprised": Prosody(18, 40, 1.02, 4.0, 2.0, 0.05, 0.0, "high and wide pitch: encyclopedias; rest " + _OWN),
    "neutral": Prosody(0, 0, 1.0, 0.0, 0.0, 0.0, 0.0, _OWN),
}
# How excited a voice is in each emotion: 1 high, 0 medium, -1 low. By the same sources.
ACTIVATION = {
    "angry": 1, "contempt": 0, "disgusted": 0, "fear": 1, "happy": 1, "sad": -1, "surprised": 1, "neutral": 0,
}  # fmt: skip
CALM_VARIATION = 0.5  # changes of prosody between the phrases of a calm speaker, as a share of the random ones
SPREAD = 0.25  # deviation of each change, as a share of it; speakers differ
SEMITONES = 1 / 6  # of a unit of espeak-ng's pitch, about
_EFFORT = butter(1, 1500, "high", fs=RATE, output="sos")
_BREATH = butter(1, (800, 5000), "band", fs=RATE, output="sos")


@cache
def lines(path: Path = LINES) -> tuple[Line, ...]:
    """The lines of a file: kind, strength and text, separated by tabs. Raises ValueError for an unknown kind."""
    found = []
    for row in path.read_text(encoding="utf-8").splitlines():
        if row and not row.startswith("#"):
            kind, strength, text = row.split("\t")
            if kind not in KINDS:
                raise ValueError(f"{path}: '{kind}' is not one of {', '.join(KINDS)}.")
            found.append(Line(kind, float(strength), text))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Scene:
    """Several lines of one speaker.

    samples: (n,) 16 kHz. starts, ends: seconds of each line. lines: what is said. voiced: as which kind and strength
    each is spoken; None for a random prosody.
    """

    samples: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    lines: tuple[Line, ...]
    voiced: tuple[tuple[str, float] | None, ...]


Say = Callable[[str, Prosody, float], Take]  # a text with a share of a change of prosody


def scene(
    rng: np.random.Generator,
    chosen: list[Line],
    *,
    variants: tuple[str, ...] = VARIANTS,
    voices: tuple[recorded.RecordedVoice, ...] = (),
    contradiction: float = 0.25,
    random: float = 0.25,
    calm: bool = False,
    clean: bool = False,
) -> Scene:
    """One speaker says the lines, with pauses between them.

    variants: of espeak-ng. voices: built from recordings; one of them speaks instead, if there are any.
    contradiction: share of lines that are spoken as another emotion. random: share spoken with random prosody.
    calm: all lines are spoken as neutral, with the usual variation of a speaker. clean: leaves out room, microphone and
    noise.
    """
    say = _recorded_speaker(rng, voices) if voices else _espeak_speaker(rng, variants)
    parts, starts, ends, voiced, length = [np.zeros(round(RATE * 0.3), np.float32)], [], [], [], round(RATE * 0.3)
    for line in chosen:
        as_kind: tuple[str, float] | None = (line.kind, float(np.clip(line.strength + rng.normal(0, 0.12), 0, 1)))
        draw = rng.random()
        if calm:
            as_kind = NEUTRAL, 0.0
        elif draw < contradiction:
            as_kind = str(rng.choice(KINDS)), float(rng.uniform(0.4, 1.0))
        elif draw < contradiction + random:
            as_kind = None
        samples = _performed(line.text, say, as_kind, calm, rng)
        starts.append(length / RATE)
        ends.append((length + len(samples)) / RATE)
        pause = np.zeros(round(RATE * rng.uniform(0.3, 1.2)), np.float32)
        parts += [samples, pause]
        length += len(samples) + len(pause)
        voiced.append(as_kind)
    samples = np.concatenate(parts)
    if not clean:
        samples = _with_microphone(samples, rng)
    return Scene(samples, np.array(starts), np.array(ends), tuple(chosen), tuple(voiced))


def _espeak_speaker(rng: np.random.Generator, variants: tuple[str, ...]) -> Say:
    usual = replace(random_voice(rng, "en-us", variants), speed=int(rng.integers(140, 190)), word_gap=0)
    usual = replace(usual, pitch=int(rng.integers(25, 65)), pitch_range=int(rng.integers(35, 65)))
    return partial(_by_espeak, usual, float(rng.uniform(0.88, 1.16)))


def _by_espeak(usual: Voice, tract: float, text: str, change: Prosody, strength: float) -> Take:
    voice = replace(
        usual,
        speed=int(np.clip(usual.speed * change.speed**strength, 80, 320)),
        pitch=int(np.clip(usual.pitch + strength * change.pitch, 0, 99)),
        pitch_range=int(np.clip(usual.pitch_range + strength * change.pitch_range, 0, 99)),
    )
    return speak(text, voice, tract)


def _recorded_speaker(rng: np.random.Generator, voices: tuple[recorded.RecordedVoice, ...]) -> Say:
    voice = voices[int(rng.integers(len(voices)))]
    usual = recorded.Manner(rng.uniform(0.85, 1.25), 2 ** rng.uniform(-0.3, 0.4), rng.uniform(0.5, 2.0))
    return partial(_by_recorded, voice, usual, float(rng.uniform(0.88, 1.16)))


def _by_recorded(
    voice: recorded.RecordedVoice, usual: recorded.Manner, tract: float, text: str, change: Prosody, strength: float
) -> Take:
    manner = recorded.Manner(
        float(np.clip(usual.stretch / change.speed**strength, 0.5, 2.5)),
        usual.pitch * 2 ** (strength * change.pitch * SEMITONES / 12),
        float(np.clip(usual.range * (1 + strength * change.pitch_range / 50), 0.2, 4.0)),
    )
    return recorded.speak(text, voice, manner, tract)


def _performed(text: str, say: Say, kind: tuple[str, float] | None, calm: bool, rng: np.random.Generator) -> np.ndarray:
    """A text as it is said with an emotion (kind, strength), or with random prosody for None."""
    if calm or kind is None:
        size = CALM_VARIATION if calm else 1.0
        change = RULES[NEUTRAL]._replace(
            pitch=rng.normal(0, 10 * size), pitch_range=rng.normal(0, 15 * size),
            speed=np.exp(rng.normal(0, 0.12 * size)), level=rng.normal(0, 3 * size), tilt=rng.normal(0, 2 * size),
        )  # fmt: skip
        strength = 1.0
    else:
        name, strength = kind
        rule = RULES[name]
        own = np.exp(rng.normal(0, SPREAD, 5))
        change = rule._replace(
            pitch=rule.pitch * own[0], pitch_range=rule.pitch_range * own[1], speed=rule.speed ** own[2],
            level=rule.level * own[3], tilt=rule.tilt * own[4],
        )  # fmt: skip
    made = say(text, change, strength)
    samples = made.samples.astype(np.float64)
    samples += (10 ** (strength * change.tilt / 20) - 1) * sosfilt(_EFFORT, samples)
    if change.breath:
        envelope = uniform_filter1d(np.abs(samples), 320)
        noise = sosfilt(_BREATH, coloured_noise(rng, len(samples), 0.0))
        samples += strength * change.breath * envelope * noise
    if change.tremor:
        time = np.arange(len(samples)) / RATE
        samples *= 1 + strength * change.tremor * np.sin(2 * np.pi * 7 * time + rng.uniform(0, 6))
    samples *= 10 ** ((strength * change.level + _emphasis(len(samples), rng)) / 20)
    return samples.astype(np.float32)


def _emphasis(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) dB: random rises and falls of the level over about a syllable."""
    rows = rng.normal(0, 2.5, count // 800 + 2)
    return np.interp(np.arange(count) / 800, np.arange(len(rows)), gaussian_filter1d(rows, 1.5))


def _with_microphone(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The samples in a room, by a microphone, or as they are."""
    draw = rng.random()
    if draw < 0.3:
        return with_room(Take(samples, np.zeros((len(samples) * 200 // RATE, 20), np.float32)), rng).samples
    return augment(samples, rng) if draw < 0.8 else samples
