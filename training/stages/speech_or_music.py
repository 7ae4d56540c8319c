"""Fit the weights that tell speech from music (`inference/speech_detection.py`).

    python -m training speech-or-music --music FOLDER

Voices are those of espeak-ng, flite and festival, half of the latter in rooms and some slow and flat, as in singing,
with or without music. Music is made (`voices.rooms`) and read from FOLDER: instrumental pieces in any format, of which
three parts of 12 s are taken. The numbers are printed; write them into the module. The weights in use were fitted with
13 pieces of two free games, extremetuxracer and frozen-bubble of Debian.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from inference.contract.errors import EDTalkError
from inference.media.sound import RATE, load_speech
from inference.prosody import prosody
from inference.speech_detection import LEAST_CHANCE, NUMBERS, numbers

from ..voices import recorded
from ..voices.rooms import made_music, with_room
from ..voices.speech import VARIANTS, recording

EACH = 40  # sounds of every kind
PARTS, SECONDS = 3, 12  # of a piece of music
PIECES = 2.0  # weight of a piece beside other sounds
SUNG = recorded.Manner(2.4, 1.2, 0.08)  # slow, with hardly any change of pitch


def voices() -> Iterator[np.ndarray]:
    """Speech, and singing with and without music."""
    there = recorded.installed((*recorded.TRAINING, *recorded.HELD_OUT))
    for number in range(EACH):
        yield recording(np.random.default_rng((7, number)), VARIANTS).samples
    for number in range(EACH if there else 0):
        rng = np.random.default_rng((8, number))
        try:
            made = recorded.take(rng, there)
        except ValueError:  # the voice cannot say a line
            continue
        yield (with_room(made, rng) if number % 2 else made).samples
    for number in range(EACH // 2 if there else 0):
        rng = np.random.default_rng((9, number))
        voice = there[rng.integers(len(there))]
        own = [text for language, text in recorded.sentences() if language[:2] == voice.language[:2]]
        try:
            sung = recorded.speak(str(rng.choice(own)), voice, SUNG).samples
        except ValueError:
            continue
        music = made_music(rng, len(sung)) * sung.std() * 10 ** (-rng.uniform(3, 15) / 20)
        yield sung + music if number % 2 else sung


def instruments() -> Iterator[np.ndarray]:
    """Music without voices."""
    for number in range(2 * EACH):
        rng = np.random.default_rng((5, number))
        yield made_music(rng, int(rng.uniform(4, 12) * RATE)) * 10 ** (-rng.uniform(10, 35) / 20)


def pieces(folder: Path) -> Iterator[np.ndarray]:
    """Excerpts of the music files in a folder, as samples (n,) at 16 kHz. Files that cannot be read are left out."""
    for path in sorted(folder.rglob("*.*")):
        try:
            samples = load_speech(path)[0]
        except EDTalkError:
            continue
        for start in len(samples) * (np.arange(PARTS) + 0.5) / (PARTS + 0.5):
            yield samples[int(start) : int(start) + SECONDS * RATE]


def run(args: argparse.Namespace) -> None:
    """Fit with the options of `add_options`, and print the weights."""
    groups = [(voices(), 1, 1.0), (instruments(), 0, 1.0), *([(pieces(args.music), 0, PIECES)] if args.music else [])]
    sounds = [
        (rows, kind, weight) for group, kind, weight in groups for rows in (numbers(prosody(one)) for one in group)
        if len(rows)
    ]  # fmt: skip
    table = np.concatenate([rows for rows, _, _ in sounds])
    kinds = np.concatenate([np.full(len(rows), kind) for rows, kind, _ in sounds])
    weights = np.concatenate([np.full(len(rows), weight / len(rows)) for rows, _, weight in sounds])
    mean, deviation = table.mean(axis=0), table.std(axis=0)
    model = LogisticRegression(max_iter=500)
    model.fit((table - mean) / deviation, kinds, sample_weight=weights * len(weights) / weights.sum())
    for name, row in (("mean", mean), ("deviation", deviation), ("weight", model.coef_[0])):
        print(f"{name}: {', '.join(f'{value:.4g}' for value in row)}  # {', '.join(NUMBERS)}")
    print(f"offset: {model.intercept_[0]:.4g}")
    for kind, what in ((1, "voices"), (0, "music")):
        chances = [
            model.predict_proba((rows - mean) / deviation)[:, 1].max() for rows, found, _ in sounds if found == kind
        ]
        print(f"{what}: {np.mean(np.array(chances) >= LEAST_CHANCE):.0%} of {len(chances)} count as speech")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("--music", type=Path, help="folder of instrumental music")
