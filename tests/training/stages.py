"""Runs every stage for a few steps on small data, for the tests that all stages share."""

from __future__ import annotations

import argparse
import importlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from inference.contract.bank import STARTER
from inference.prosody import prosody
from inference.sentiment import shipped
from tests.inference.test_prosody import syllables
from training.__main__ import COMMANDS
from training.units import LIP
from training.voices.emotional import Line, Scene
from training.voices.gestures import Speech, known_speech
from training.voices.speech import CURVE_FPS, RATE, Phone, Take

from .conftest import write_windows

STEPS = 3  # of each phase
# Options of each stage beside --out and the limits. DISCS is the data set, WINDOWS the pool of the teeth, STARTER the
# starter bank; other capitals are earlier checkpoints.
OPTIONS = {
    "generator": "--data DISCS --heldout DISCS --size 128 --sources 4 --threads 1",
    "reader": "--data DISCS --heldout DISCS --pictures 8",
    "reading": "--data DISCS --heldout DISCS --pictures 8 --framed",
    "refiner": "--generator GENERATOR --data DISCS --heldout DISCS --sources 2 --critic-from 0.3",
    "insets": "--refiner REFINER --data DISCS --heldout DISCS --size 128 --sources 2 --drivings 2 --critic-from 0.3",
    "teeth": "--bank STARTER --pool WINDOWS --people 2 --batch 2",
    "close-reader": "--refiner REFINER --data DISCS --heldout DISCS --pictures 8",
    "audio2lip": "",
    "audio2pose": "",
    "audio2expression": "--glove unread.txt --first 4 --held-out 2",
}
PHASES = {
    "generator": ("reading", "common-motion", "own-motion"),
    "refiner": ("motion",),
    "insets": ("anchor",),
    "audio2pose": ("expected",),
}  # beside the main one
FITS = {  # solved at once, without steps
    "relative-reader": "--data DISCS --heldout DISCS",
    "calibration": "--bank STARTER --data DISCS",
}
COMMAND = {"reading": "reader"}  # where it is not the stage's name


class Stages:
    """Trains stages into a folder; what a stage depends on is trained first, once."""

    def __init__(self, folder: Path, discs: Path) -> None:
        self.folder = folder
        self.given = {"DISCS": discs, "WINDOWS": write_windows(folder / "windows", 2), "STARTER": STARTER}

    def trained(self, name: str) -> Path:
        """Checkpoint of a stage after STEPS steps of each phase, without interruption."""
        out = self.folder / f"{name}.pt"
        if not out.exists():
            self.run(name, out)
        return out

    def run(self, name: str, out: Path, steps: int = STEPS, *more: str) -> None:
        """Train a stage into `out`, as the command line does."""
        words = []
        for word in (OPTIONS | FITS)[name].split():
            words.append(str(self.given.get(word) or (self.trained(word.lower()) if word.isupper() else word)))
        for prefix in ("", *(f"{phase}-" for phase in PHASES.get(name, ()))) if name in OPTIONS else ():
            words += [f"--{prefix}steps", str(steps), f"--{prefix}minutes", "inf"]
        module, function, _ = COMMANDS[COMMAND.get(name, name)]
        stage, parser = importlib.import_module(f"training.{module}"), argparse.ArgumentParser()
        stage.add_options(parser)
        getattr(stage, function)(parser.parse_args([*words, "--out", str(out), *more]))


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Let stages prepare only as much data as a few steps need, and speak without espeak-ng."""
    patch.setattr("training.stages.close_reader.HELD", 16)
    patch.setattr("training.stages.close_reader.FIT_PAIRS", 20)
    patch.setattr("training.stages.audio2lip.POOL", 4)
    patch.setattr("training.stages.audio2pose.FIRST", 2)
    patch.setattr("training.stages.audio2pose.HELD_OUT", 2)
    patch.setattr("training.stages.audio2pose.spoken", speech)
    patch.setattr("training.stages.audio2expression.scene", scene)
    patch.setattr("training.stages.audio2expression.teacher_without", lambda vectors: lambda line: shipped())
    patch.setattr("training.voices.recorded.installed", lambda voices: ())
    for name in ("recording", "take"):
        patch.setattr(f"training.stages.audio2lip.{name}", spoken)


def spoken(rng: np.random.Generator, variants: object = None) -> Take:
    """Two seconds of noise between pauses, with random mouth curves."""
    rows = 2 * CURVE_FPS
    curves = rng.random((rows, len(LIP))).astype(np.float32)
    curves[: rows // 4] = curves[-rows // 4 :] = 0.0
    curves[rows // 2 : rows // 2 + 20] = 0.0
    curves[rows // 2 : rows // 2 + 20, [unit.name == "mouthPress" for unit in LIP]] = 0.3
    samples = 0.1 * rng.standard_normal(2 * RATE).astype(np.float32)
    samples *= np.repeat(curves.any(1), RATE // CURVE_FPS)
    return Take(samples, curves, (Phone("", 0.0, 0.5), Phone("a", 0.5, 1.5), Phone("", 1.5, 2.0)))


def speech(rng: np.random.Generator, seconds: float, variants: object = None) -> Speech:
    """Speech-like sound, one of two."""
    return known(seconds, int(rng.integers(2)))


@cache
def known(seconds: float, number: int) -> Speech:
    accents = np.arange(1.0 + 0.3 * number, seconds - 1, 1.5 - 0.2 * number)
    return known_speech(prosody(syllables(seconds, tuple(accents))))


def scene(rng: np.random.Generator, chosen: list[Line], **options: object) -> Scene:
    """Speech-like sound of 1.5 s for each line, with pauses of 0.5 s, spoken as it says."""
    parts = [syllables(1.5, (0.3, 0.7, 1.1)) * rng.uniform(0.3, 1.0) for _ in chosen]
    pause = np.zeros(RATE // 2, np.float32)
    starts = 0.5 + 2.0 * np.arange(len(chosen))
    samples = np.concatenate([pause, *(one for part in parts for one in (part, pause))]).astype(np.float32)
    return Scene(samples, starts, starts + 1.5, tuple(chosen), tuple((line.kind, line.strength) for line in chosen))
